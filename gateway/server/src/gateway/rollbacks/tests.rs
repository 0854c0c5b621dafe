//! A group that goes back to a second by itself: what it lets nobody do half way, what a start takes up,
//! and what a damaged journal changes.

mod fills;
mod kills;
mod rot;

use std::path::Path;
use std::time::Duration;

use block::{Change, Extent, JournalEntry, Seq, VolumeId, WriteJournal};
use bytes::Bytes;
use store::journal::{Journal, JournalLimits};

use super::*;
use crate::config::Config;
use crate::gateway::tests::{Rig, ended};

const BLOCK: u64 = block::BLOCK_BYTES;
const LIMITS: JournalLimits = JournalLimits { window_ms: 1 << 40, bytes: 1 << 30 };
/// Times that the journal knows: 2001-09-09T01:46:40Z and the seconds behind it.
const FIRST_MS: u64 = 1_000_000_000_000;
const SECOND: Wanted<'_> = Wanted::Second("2001-09-09T01:46:42Z");

/// A gateway with `orders`, a base of it, and a journal of three seconds behind that.
struct Scene {
    rig: Rig,
    group: GroupId,
    volume: VolumeId,
    base: SnapshotId,
}

impl Scene {
    async fn make(dir: &Path) -> Self {
        Self::make_in(Rig::open(dir).await).await
    }

    async fn make_in(rig: Rig) -> Self {
        rig.make_orders().await;
        let (entry, volume) = rig.gateway.find_volume("orders").unwrap();
        let (group, volume) = (entry.group(), VolumeId::from_uuid(volume.id));
        let scene = Self { rig, group, volume, base: SnapshotId::of(0) };
        for number in 0..8 {
            scene.write(number, 1).await;
        }
        let taken = scene.rig.gateway.take_snapshot("orders", Some("base".to_owned())).await;
        let scene = Self { base: SnapshotId::from_uuid(taken.unwrap().id), ..scene };
        let journal = scene.journal().await;
        journal.keep(JournalEntry::Time { unix_ms: FIRST_MS });
        journal.keep(JournalEntry::Base { snapshot: scene.base, seq: Seq::ZERO });
        for second in 1..=3_u8 {
            // Parts of blocks, blocks that are written again each second, and what is given back.
            scene.tell(&journal, 100, Change::Write(Bytes::from(vec![10 + second; 6_000])));
            let place = u64::from(second) * 2 * BLOCK;
            scene.tell(&journal, place, Change::Write(Bytes::from(vec![20 + second; 4096])));
            if second == 2 {
                let extent = Extent::new(7 * BLOCK, BLOCK).unwrap();
                journal.keep(scene.entry(extent, Change::Trim));
            }
            let unix_ms = FIRST_MS + u64::from(second) * 1_000;
            journal.keep(JournalEntry::Time { unix_ms });
        }
        journal.settle();
        scene
    }

    /// As it is after a stop, or a kill.
    async fn again(self, dir: &Path) -> Self {
        self.again_with(dir, |_| {}).await
    }

    async fn again_with(self, dir: &Path, configure: impl FnOnce(&mut Config)) -> Self {
        let Self { rig, group, volume, base } = self;
        rig.close().await;
        let scene = Self { rig: Rig::open_with(dir, configure).await, group, volume, base };
        scene.journal().await.settle();
        scene
    }

    /// Opens the journal, as the gateway does when it looks at what journals need, and waits until it is
    /// read.
    async fn journal(&self) -> Journal {
        let gateway = &self.rig.gateway;
        let way = gateway.book.read().rollback_of(self.group.uuid()).and_then(|way| way.laid);
        let pins = way.map(|laid| crate::moments::pin_of_way_back(self.group, laid));
        let pins = pins.into_iter().collect();
        let journal = gateway.pool.open_journal(self.group, Some(LIMITS), pins).unwrap();
        while journal.status(|_| true).is_reading {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        gateway.moments.add(self.group, journal.clone());
        journal
    }

    fn entry(&self, extent: Extent, change: Change) -> JournalEntry {
        JournalEntry::Change { seq: Seq::ZERO, volume: self.volume, extent, change }
    }

    fn tell(&self, journal: &Journal, at: u64, change: Change) {
        let Change::Write(data) = &change else { panic!("a write") };
        let extent = Extent::new(at, data.len() as u64).unwrap();
        journal.keep(self.entry(extent, change));
    }

    async fn write(&self, number: u64, byte: u8) {
        self.try_to_write(number, byte).await.unwrap();
    }

    async fn try_to_write(&self, number: u64, byte: u8) -> Result<(), Refused> {
        let place = (self.group, self.volume);
        let data = Bytes::from(vec![byte; 4096]);
        let shard = self.rig.gateway.shard_of(self.group);
        let written =
            shard.run(move |state| async move { state.fill(place, number * BLOCK, data).await });
        written.await.unwrap()
    }

    async fn flush(&self) {
        let place = (self.group, self.volume);
        let shard = self.rig.gateway.shard_of(self.group);
        let flushed = shard.run(move |state| async move { state.fill_flush(place).await });
        flushed.await.unwrap().unwrap();
    }

    async fn give_back(&self, number: u64) {
        let place = (self.group, self.volume);
        let extent = Extent::new(number * BLOCK, BLOCK).unwrap();
        let shard = self.rig.gateway.shard_of(self.group);
        let zeroed = shard.run(move |state| async move { state.fill_zeroes(place, extent).await });
        zeroed.await.unwrap().unwrap();
    }

    async fn content(&self) -> Vec<u8> {
        let (group, volume) = (self.group, self.volume);
        let extent = Extent::new(0, 8 * BLOCK).unwrap();
        let shard = self.rig.gateway.shard_of(group);
        let read = shard.run(move |state| async move { state.read(group, volume, extent).await });
        read.await.unwrap().unwrap().to_vec()
    }

    /// Goes back to the second; what came of it.
    async fn go_back(&self) -> Operation {
        ended(&self.rig.gateway, self.begin_back().await).await
    }

    /// Begins to go back to the second.
    async fn begin_back(&self) -> Uuid {
        let gateway = &self.rig.gateway;
        let plan = gateway.plan_rollback("orders", SECOND, false).await.unwrap();
        assert_eq!(plan.moment.as_deref(), Some("2001-09-09T01:46:42Z"));
        let request = RollbackRequest { token: plan.token.unwrap(), drop_hosts: false };
        gateway.roll_back(("orders", None), &request).await.unwrap().id
    }

    fn note(&self) -> Option<RollbackEntry> {
        self.rig.gateway.book.read().rollback_of(self.group.uuid()).cloned()
    }

    /// Makes the group half way, as a kill leaves it: at the base, with `laid` of the blocks there.
    async fn stop_half_way(&self, stage: Stage) {
        let gateway = &self.rig.gateway;
        let entry = gateway.find_group("orders").unwrap();
        let status = gateway.status_of(self.group).await.unwrap();
        let (_, laid) = gateway.find_wanted((&entry, &status), SECOND).unwrap();
        let safety = SnapshotId::from_uuid(Uuid::now_v7());
        let (snapshot, group) = (self.base, self.group);
        // What it keeps is called by the second, and there is one of the last time.
        let unix_ms = FIRST_MS + gateway.clock.unix_ms() % 1_000_000 * 1_000;
        let command = Command::RollBack { snapshot, safety, unix_ms };
        gateway.command(group, command).await.unwrap();
        let note = RollbackEntry {
            group: group.uuid(),
            snapshot: snapshot.uuid(),
            safety: safety.uuid(),
            sessions: Vec::new(),
            begun_ms: 1,
            laid,
            stage,
            home: None,
            keeps: None,
        };
        gateway.note_rollback(group, Some(note)).await.unwrap();
    }

    async fn await_no_note(&self) {
        while self.note().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What the volume holds at the second.
fn as_of_second() -> Vec<u8> {
    let mut content = vec![1; usize::try_from(8 * BLOCK).unwrap()];
    content[100..6_100].fill(12);
    for (block, byte) in [(2, 21), (4, 22), (7, 0)] {
        content[block * 4096..(block + 1) * 4096].fill(byte);
    }
    content
}

#[tokio::test]
async fn a_second_is_laid_over_its_base_however_often_it_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::make(dir.path()).await;
    for number in 0..8 {
        scene.write(number, 0xee).await;
    }
    let done = scene.go_back().await;
    assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
    assert_eq!(scene.content().await, as_of_second());
    assert_eq!(scene.note(), None);
    // A kill leaves it at the base, noted or not, with any of it laid: the next start makes it whole.
    for (stage, partly) in [(Stage::Begun, false), (Stage::Back, false), (Stage::Back, true)] {
        for number in 0..8 {
            scene.write(number, 0xdd).await;
        }
        scene.stop_half_way(stage).await;
        if partly {
            scene.write(2, 21).await;
        }
        scene = scene.again(dir.path()).await;
        scene.rig.gateway.take_rollbacks_up();
        scene.await_no_note().await;
        assert_eq!(scene.content().await, as_of_second(), "{stage:?} {partly}");
    }
    // One that is noted and was not begun changes nothing.
    for number in 0..8 {
        scene.write(number, 0xcc).await;
    }
    let entry = scene.rig.gateway.find_group("orders").unwrap();
    let status = scene.rig.gateway.status_of(scene.group).await.unwrap();
    let (_, laid) = scene.rig.gateway.find_wanted((&entry, &status), SECOND).unwrap();
    let note = RollbackEntry {
        group: scene.group.uuid(),
        snapshot: scene.base.uuid(),
        safety: Uuid::now_v7(),
        sessions: Vec::new(),
        begun_ms: 1,
        laid,
        stage: Stage::Begun,
        home: None,
        keeps: None,
    };
    scene.rig.gateway.note_rollback(scene.group, Some(note)).await.unwrap();
    scene = scene.again(dir.path()).await;
    scene.rig.gateway.take_rollbacks_up();
    scene.await_no_note().await;
    assert_eq!(scene.content().await, vec![0xcc; usize::try_from(8 * BLOCK).unwrap()]);
    scene.rig.close().await;
}

#[tokio::test]
async fn a_group_that_is_half_way_to_a_second_is_no_source_and_takes_no_host() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::make(dir.path()).await;
    for number in 0..8 {
        scene.write(number, 0xee).await;
    }
    let before = scene.content().await;
    scene.stop_half_way(Stage::Back).await;
    let gateway = &scene.rig.gateway;
    let ids = (scene.group.uuid(), scene.volume.uuid());
    assert!(gateway.book.read().is_held(ids), "hosts are refused by both protocols");
    let refused = [
        gateway.take_snapshot("orders", None).await.err(),
        gateway.take_point("orders", false).await.err(),
        gateway.require_not_restoring(&[scene.volume.uuid()]).err(),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap().0.code, Code::RollingBack.as_str());
    }
    // The way back to what was there is open, and ends it; the newest of what stopped half way is no
    // reason to lose what was there before it.
    let safety = scene.note().unwrap().safety.to_string();
    let wanted = Wanted::Snapshot(&safety);
    let plan = gateway.plan_rollback("orders", wanted, false).await.unwrap();
    let request = RollbackRequest { token: plan.token.unwrap(), drop_hosts: false };
    let begun = gateway.roll_back(("orders", Some(&safety)), &request).await.unwrap();
    let done = ended(gateway, begun.id).await;
    assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
    assert_eq!(scene.content().await, before);
    assert!(!gateway.book.read().is_held(ids));
    let kept = gateway.show_snapshots("orders").await.unwrap();
    let safeties: Vec<String> = kept
        .iter()
        .filter(|of| of.origin == api::SnapshotOrigin::Safety)
        .filter(|of| of.state != api::SnapshotState::Deleting)
        .map(|of| of.id.to_string())
        .collect();
    assert_eq!(safeties, [safety]);
    scene.rig.close().await;
}

/// Half way in a full pool it waits for room, and an operator makes some within the group.
#[tokio::test]
async fn a_way_back_that_waits_for_room_lets_go_of_all_snapshots_but_those_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::make(dir.path()).await;
    // What only this snapshot holds is all the room that there will be.
    scene.write(16, 3).await;
    scene.rig.gateway.take_snapshot("orders", Some("spare".to_owned())).await.unwrap();
    scene.give_back(16).await;
    for number in 0..8 {
        scene.write(number, 0xee).await;
    }
    let scene = scene.again(dir.path()).await;
    let used = scene.rig.gateway.pool.used_bytes();
    let full = |config: &mut Config| config.pool_capacity = Some(used);
    let scene = scene.again_with(dir.path(), full).await;
    let gateway = &scene.rig.gateway;
    let begun = scene.begin_back().await;
    while scene.note().is_none_or(|note| note.stage != Stage::Back) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = scene.try_to_write(32, 4).await.unwrap_err();
    assert_eq!(refused.0.code, Code::PoolFull.as_str(), "there is no room for anything");
    let safety = scene.note().unwrap().safety.to_string();
    for needed in ["base", &safety] {
        let refused = gateway.delete_snapshot("orders", needed).await.unwrap_err();
        assert_eq!(refused.0.code, Code::RollingBack.as_str(), "{needed}");
    }
    gateway.delete_snapshot("orders", "spare").await.unwrap();
    let done = ended(gateway, begun).await;
    assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
    assert_eq!(scene.content().await, as_of_second());
    gateway.delete_snapshot("orders", "base").await.unwrap();
    scene.rig.close().await;
}

/// A scene in a pool that another volume has filled up, on its way back and waiting for room.
async fn without_room(dir: &Path) -> (Scene, Vec<u8>, Uuid) {
    // The base, what was written over it, and what the other volume has.
    let slots = 4 * block::SLOT_BYTES;
    let rig = Rig::open_with(dir, |config| config.pool_capacity = Some(slots)).await;
    let scene = Scene::make_in(rig).await;
    for number in 0..8 {
        scene.write(number, 0xee).await;
    }
    let gateway = &scene.rig.gateway;
    let ballast = api::VolumeCreate {
        part_of: None,
        name: "ballast".to_owned(),
        bytes: Some(1 << 20),
        from: None,
        group: None,
        settings: api::VolumeSettings::default(),
    };
    gateway.create_volume(ballast).await.unwrap();
    let (entry, volume) = gateway.find_volume("ballast").unwrap();
    let place = (entry.group(), VolumeId::from_uuid(volume.id));
    for number in 0.. {
        let data = Bytes::from(vec![9; 4096]);
        let shard = gateway.shard_of(place.0);
        let offset = number * block::SLOT_BYTES;
        let written = shard.run(move |state| async move { state.fill(place, offset, data).await });
        match written.await.unwrap() {
            Ok(()) => assert!(number < 3, "the pool takes more than it may"),
            Err(refused) => {
                assert_eq!(refused.0.code, Code::PoolFull.as_str());
                break;
            }
        }
    }
    let before = scene.content().await;
    let begun = scene.begin_back().await;
    loop {
        let now = gateway.operations.get(begun).unwrap();
        assert_eq!(now.state, api::OperationState::Running, "{now:?}");
        if now.steps.last().is_some_and(|step| step.detail.contains(Code::PoolFull.as_str())) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It is at the base, and nobody takes that for what it goes back to.
    assert_eq!(scene.note().unwrap().stage, Stage::Back);
    assert!(gateway.book.read().is_held((scene.group.uuid(), scene.volume.uuid())));
    assert_ne!(scene.content().await, as_of_second());
    (scene, before, begun)
}

#[tokio::test]
async fn a_second_waits_while_the_pool_is_full_and_is_there_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (scene, _, begun) = without_room(dir.path()).await;
    let gateway = &scene.rig.gateway;
    gateway.delete_volume("ballast").await.unwrap();
    let done = ended(gateway, begun).await;
    assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
    assert_eq!((scene.content().await, scene.note()), (as_of_second(), None));
    scene.rig.close().await;
}

#[tokio::test]
async fn a_second_that_waits_for_room_outlives_a_stop_or_leads_back_to_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let (scene, before, begun) = without_room(dir.path()).await;
    let gateway = &scene.rig.gateway;
    gateway.operations.cancel(begun).unwrap();
    let given_up = ended(gateway, begun).await.error.unwrap();
    assert_eq!(given_up.code, Code::RollbackUnfinished.as_str());
    let next = given_up.next.unwrap_or_default();
    assert!(next.contains("plan again") && next.contains("snapshot list"), "{next}");
    let safety = scene.note().unwrap().safety.to_string();
    let wanted = Wanted::Snapshot(&safety);
    let plan = gateway.plan_rollback("orders", wanted, false).await.unwrap();
    let request = RollbackRequest { token: plan.token.unwrap(), drop_hosts: false };
    let back = gateway.roll_back(("orders", Some(&safety)), &request).await.unwrap();
    let done = ended(gateway, back.id).await;
    assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
    assert_eq!((scene.content().await, scene.note()), (before, None));
    scene.rig.close().await;

    let dir = tempfile::tempdir().unwrap();
    let (scene, ..) = without_room(dir.path()).await;
    // The next start has more room.
    let scene = scene.again(dir.path()).await;
    assert_eq!(scene.note().unwrap().stage, Stage::Back);
    scene.rig.gateway.take_rollbacks_up();
    scene.await_no_note().await;
    assert_eq!(scene.content().await, as_of_second());
    scene.rig.close().await;
}

#[tokio::test]
async fn a_second_whose_journal_is_damaged_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::make(dir.path()).await;
    for number in 0..8 {
        scene.write(number, 0xee).await;
    }
    let before = scene.content().await;
    let gateway = &scene.rig.gateway;
    let plan = gateway.plan_rollback("orders", SECOND, false).await.unwrap();
    let journals = dir.path().join("pool/journals").join(scene.group.to_string());
    let segment = std::fs::read_dir(journals).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    // A byte of the first payload.
    let at = bytes.windows(64).position(|some| some.iter().all(|byte| *byte == 11)).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let request = RollbackRequest { token: plan.token.unwrap(), drop_hosts: false };
    let begun = gateway.roll_back(("orders", None), &request).await.unwrap();
    let failed = ended(gateway, begun.id).await;
    assert_eq!(failed.error.unwrap().code, Code::SnapshotUnusable.as_str());
    assert_eq!((scene.content().await, scene.note()), (before, None));
    let kept = gateway.show_snapshots("orders").await.unwrap();
    assert!(kept.iter().all(|of| of.origin != api::SnapshotOrigin::Safety), "nothing was begun");
    scene.rig.close().await;
}
