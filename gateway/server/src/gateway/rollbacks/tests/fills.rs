//! Restores from a backup over their originals that stop in the middle, and ways back that end them.

use api::{BackupRestoreRequest, OperationState};

use super::*;
use crate::book::{FillEntry, FilledEntry};
use crate::gateway::backups::Asker;
use crate::gateway::backups::tests::{by_hand, target};
use crate::gateway::tests::wanted;

/// What the volume holds of the backup, of the time before the restore, and of what is neither.
pub(super) const THEN: u8 = 1;
pub(super) const NOW: u8 = 0xee;
const NEITHER: u8 = 0x77;
pub(super) const BLOCKS: u64 = 8;

pub(super) fn with_target(dir: &Path) -> impl FnOnce(&mut Config) + use<> {
    let target = target(dir, None);
    move |config| config.backup_targets = vec![target]
}

pub(super) fn all(byte: u8) -> Vec<u8> {
    vec![byte; usize::try_from(BLOCKS * BLOCK).unwrap()]
}

async fn backed_up(dir: &Path) -> Scene {
    backed_up_in(Rig::open_with(dir, with_target(dir)).await).await
}

/// A volume that is backed up as `then`, and written since.
pub(super) async fn backed_up_in(rig: Rig) -> Scene {
    let scene = Scene::make_in(rig).await;
    let gateway = &scene.rig.gateway;
    let begun = gateway.create_backup(&by_hand("then"), Asker::default()).await.unwrap();
    let taken = ended(gateway, begun.id).await;
    assert_eq!(taken.state, OperationState::Succeeded, "{taken:?}");
    for number in 0..BLOCKS {
        scene.write(number, NOW).await;
    }
    scene.flush().await;
    scene
}

/// The same with half of the backup restored; and the snapshot of what was there before.
async fn half_restored(dir: &Path) -> (Scene, SnapshotId) {
    let scene = backed_up(dir).await;
    let before = scene.stop_restore().await;
    (scene, before)
}

impl Scene {
    async fn with_target_again(self, dir: &Path) -> Self {
        self.again_with(dir, with_target(dir)).await
    }

    /// Half restored, as a full pool or a kill leaves it.
    pub(super) async fn stop_restore(&self) -> SnapshotId {
        let gateway = &self.rig.gateway;
        let before = SnapshotId::from_uuid(Uuid::now_v7());
        let unix_ms = gateway.clock.unix_ms();
        let name = format!("auto.before-restore.{unix_ms}");
        let origin = SnapshotOrigin::Safety;
        let command = Command::Snapshot { snapshot: before, name, origin, unix_ms };
        let (group, shard) = (self.group, gateway.shard_of(self.group));
        let kept = shard
            .run(move |state| async move { state.take_snapshot(group, command, usize::MAX).await });
        kept.await.unwrap().unwrap();
        for number in 0..BLOCKS / 2 {
            self.write(number, THEN).await;
        }
        self.flush().await;
        let volume = self.volume.uuid();
        let position = BLOCKS / 2 * BLOCK;
        let filled = FilledEntry { volume, from: volume, position, is_filled: false };
        let fill = FillEntry {
            backup: gateway.find_backup("then").await.unwrap().entry.id.uuid(),
            target: "disk".to_owned(),
            group: self.group.uuid(),
            volumes: vec![filled],
            sessions: Vec::new(),
            safety: Some(before.uuid()),
            pin: None,
            error: None,
        };
        let noted = gateway.book.change(Vec::new(), |pages| {
            pages.backups.fills.push(fill);
            Ok::<(), Refused>(())
        });
        noted.await.unwrap();
        before
    }

    pub(super) fn fill(&self) -> Option<FillEntry> {
        self.rig.gateway.book.read().backups.fill_in(self.group.uuid()).cloned()
    }

    pub(super) fn is_held(&self) -> bool {
        self.rig.gateway.book.read().is_held((self.group.uuid(), self.volume.uuid()))
    }

    fn way_to(&self, snapshot: SnapshotId) -> RollbackEntry {
        RollbackEntry {
            group: self.group.uuid(),
            snapshot: snapshot.uuid(),
            safety: Uuid::now_v7(),
            sessions: Vec::new(),
            begun_ms: 1,
            laid: None,
            stage: Stage::Begun,
            home: None,
            keeps: None,
        }
    }

    /// Takes up what the last stop cut short, and waits until nothing of it is left.
    pub(super) async fn take_up(&self) {
        let gateway = &self.rig.gateway;
        gateway.take_rollbacks_up();
        gateway.begin_backups();
        while self.note().is_some() || self.fill().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What became of the last way back, if there was one since the start.
    pub(super) async fn last_way(&self) -> Option<Operation> {
        let gateway = &self.rig.gateway;
        let all = gateway.operations.list();
        let last = all.into_iter().find(|of| of.kind == "rollback")?;
        Some(ended(gateway, last.id).await)
    }

    /// Begins to restore the backup over the volume.
    pub(super) async fn begin_restore(&self) -> Uuid {
        let gateway = &self.rig.gateway;
        let plan = gateway.plan_backup_restore("then", None).await.unwrap();
        let request = BackupRestoreRequest { token: plan.token, ..BackupRestoreRequest::default() };
        gateway.restore_backup("then", &request).await.unwrap().id
    }
}

/// Found in a review: the restore stayed noted, and the next start went on with it from where it had
/// stopped, in a group that had gone back meanwhile.
#[tokio::test]
async fn a_restore_that_a_way_back_ended_never_goes_on_whatever_kills_that() {
    let dir = tempfile::tempdir().unwrap();
    let (scene, before) = half_restored(dir.path()).await;
    let gateway = &scene.rig.gateway;
    let note = scene.way_to(before);
    let safety = SnapshotId::from_uuid(note.safety);
    gateway.note_rollback(scene.group, Some(note)).await.unwrap();
    let unix_ms = gateway.clock.unix_ms();
    let command = Command::RollBack { snapshot: before, safety, unix_ms };
    gateway.command(scene.group, command).await.unwrap();
    // Killed before anything of that was noted.
    let mut scene = scene.with_target_again(dir.path()).await;
    assert!(scene.is_held(), "hosts are out until it is decided");
    scene.take_up().await;
    let back = scene.last_way().await.unwrap();
    assert_eq!(back.state, OperationState::Succeeded, "{back:?}");
    for _ in 0..2 {
        assert_eq!((scene.content().await, scene.is_held()), (all(NOW), false));
        scene = scene.with_target_again(dir.path()).await;
        scene.take_up().await;
    }
    scene.rig.close().await;
}

/// A way back that is noted may have changed anything, so nothing counts of what was restored before.
#[tokio::test]
async fn a_restore_goes_on_from_its_beginning_when_the_way_back_was_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let (scene, before) = half_restored(dir.path()).await;
    let note = scene.way_to(before);
    scene.rig.gateway.note_rollback(scene.group, Some(note)).await.unwrap();
    assert_eq!(scene.fill().unwrap().volumes[0].position, 0);
    scene.write(1, NEITHER).await;
    // While it is not known what becomes of the way back nobody goes on with the restore.
    let backup = scene.fill().unwrap().backup;
    let refused = scene.rig.gateway.resume_backup(backup).await.unwrap_err();
    assert_eq!(refused.0.code, Code::RollingBack.as_str(), "{refused:?}");
    let scene = scene.with_target_again(dir.path()).await;
    scene.take_up().await;
    assert_eq!((scene.content().await, scene.is_held()), (all(THEN), false));
    let failed = scene.last_way().await.unwrap().error.unwrap();
    assert_eq!(failed.code, Code::RollbackUndone.as_str(), "{failed:?}");
    scene.rig.close().await;
}

/// Found in a review: only a way back to a snapshot ended a restore.
#[tokio::test]
async fn a_way_back_to_a_second_ends_a_restore_that_stopped_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let (mut scene, _) = half_restored(dir.path()).await;
    let done = scene.go_back().await;
    assert_eq!(done.state, OperationState::Succeeded, "{done:?}");
    assert_eq!((scene.fill(), scene.is_held()), (None, false));
    assert_eq!(scene.content().await, as_of_second());

    // Killed when that was noted: at the base, which is laid over then, and where it goes, which is
    // trusted, so that what is there stays.
    for (stage, content) in [(Stage::Back, as_of_second()), (Stage::There, all(THEN))] {
        for number in 0..BLOCKS {
            scene.write(number, NOW).await;
        }
        scene.stop_restore().await;
        scene.stop_half_way(stage).await;
        scene = scene.with_target_again(dir.path()).await;
        assert!(scene.is_held(), "{stage:?}");
        scene.take_up().await;
        assert_eq!((scene.content().await, scene.is_held()), (content, false), "{stage:?}");
    }
    scene.rig.close().await;
}

/// Found in a review: the second one kept what the first had left as what was there before, and took
/// its place, so that nobody resumed its sessions or held its other volumes.
#[tokio::test]
async fn a_restore_does_not_take_the_place_of_one_that_is_not_over() {
    let dir = tempfile::tempdir().unwrap();
    let scene = backed_up(dir.path()).await;
    let gateway = &scene.rig.gateway;
    let plan = gateway.plan_backup_restore("then", None).await.unwrap();
    let request = BackupRestoreRequest { token: plan.token, ..BackupRestoreRequest::default() };
    assert!(request.token.is_some(), "{:?}", plan.checks);
    scene.stop_restore().await;
    let first = scene.fill().unwrap();
    let refused = gateway.restore_backup("then", &request).await.unwrap_err();
    assert_eq!(refused.0.code, Code::VolumeRestoring.as_str(), "{refused:?}");
    let next = refused.0.next.unwrap_or_default();
    assert!(next.contains("backup resume") && next.contains("snapshot list"), "{next}");
    let blocked = gateway.plan_backup_restore("then", None).await.unwrap();
    assert_eq!(blocked.token, None);
    let is_told = |check: &Check| {
        check.state == CheckState::Blocked && check.detail.contains("backup resume")
    };
    assert!(blocked.checks.iter().any(is_told), "{:?}", blocked.checks);
    // Of two that begin at once, too, the second is told.
    let second = FillEntry { safety: None, ..first.clone() };
    let refused = gateway.note_begun(&second).await.unwrap_err();
    assert_eq!(refused.0.code, Code::VolumeRestoring.as_str(), "{refused:?}");
    assert_eq!(scene.fill(), Some(first.clone()), "nothing took its place");

    let begun = gateway.resume_backup(first.backup).await.unwrap();
    let done = ended(gateway, begun.id).await;
    assert_eq!(done.state, OperationState::Succeeded, "{done:?}");
    assert_eq!((scene.content().await, scene.fill()), (all(THEN), None));
    // Nor is what a way back may leave half done an original.
    let way = scene.way_to(scene.base);
    gateway.note_rollback(scene.group, Some(way)).await.unwrap();
    let blocked = gateway.plan_backup_restore("then", None).await.unwrap();
    assert_eq!(blocked.token, None, "{:?}", blocked.checks);
    gateway.note_rollback(scene.group, None).await.unwrap();
    let plan = gateway.plan_backup_restore("then", None).await.unwrap();
    assert!(plan.token.is_some(), "{:?}", plan.checks);
    scene.rig.close().await;
}

fn to_west() -> api::SessionCreate {
    api::SessionCreate {
        volume: "orders".to_owned(),
        to: "west".to_owned(),
        policy: api::PolicyPatch::default(),
        skip_initial_copy: false,
        destination: None,
    }
}

/// Found in a review: whoever asked for it had the mirror follow, and its whole copy become half of
/// something.
#[tokio::test]
async fn no_mirror_follows_an_original_that_is_half_restored() {
    let dir = tempfile::tempdir().unwrap();
    let scene = backed_up(dir.path()).await;
    let gateway = &scene.rig.gateway;
    scene.rig.know_west().await;
    let session = gateway.create_session(to_west()).await.unwrap().id;
    let name = session.to_string();
    let suspend = |leg| Command::Suspend { leg };
    gateway.session_command(&name, "suspended", suspend).await.unwrap();
    scene.stop_restore().await;
    let noted = gateway.book.change(Vec::new(), |pages| {
        let fills = pages.backups.fills.iter_mut();
        fills.for_each(|fill| fill.sessions = vec![session]);
        Ok::<(), Refused>(())
    });
    noted.await.unwrap();

    let status = gateway.status_of(scene.group).await.unwrap();
    let resume = Command::Resume { leg: status.legs[0].leg, discard: false };
    let resumed = |leg| Command::Resume { leg, discard: false };
    let request = api::ReprotectRequest::default();
    let refused = [
        gateway.command(scene.group, resume).await.err(),
        gateway.session_command(&name, "resumed", resumed).await.err(),
        gateway.reprotect("orders", &request).await.err(),
        gateway.plan_reprotect("orders", &request).await.err(),
        gateway.create_session(to_west()).await.err(),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap().0.code, Code::VolumeRestoring.as_str());
    }
    let state = || async {
        let status = gateway.status_of(scene.group).await.unwrap();
        status.legs[0].state
    };
    assert_eq!(state().await, SessionState::Suspended);
    // What ends the restore resumes it.
    let begun = gateway.resume_backup(scene.fill().unwrap().backup).await.unwrap();
    let done = ended(gateway, begun.id).await;
    assert_eq!(done.state, OperationState::Succeeded, "{done:?}");
    assert_ne!(state().await, SessionState::Suspended);
    scene.rig.close().await;
}

/// Found in a review: scheduled points of half a volume were told as usable, and pushed good ones out.
#[tokio::test]
async fn no_snapshot_and_no_point_is_taken_of_an_original_that_is_half_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (scene, _) = half_restored(dir.path()).await;
    let gateway = &scene.rig.gateway;
    let before = gateway.show_snapshots("orders").await.unwrap();
    let refused = [
        gateway.take_snapshot("orders", None).await.err(),
        gateway.take_point("orders", false).await.err(),
        gateway.take_point("orders", true).await.err(),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap().0.code, Code::VolumeRestoring.as_str());
    }
    assert_eq!(gateway.show_snapshots("orders").await.unwrap().len(), before.len());
    gateway.forget_fill(scene.group.uuid()).await.unwrap();
    gateway.take_snapshot("orders", None).await.unwrap();
    gateway.take_point("orders", false).await.unwrap();
    scene.rig.close().await;
}

/// In another group nobody would know that it is half of something.
#[tokio::test]
async fn an_original_that_is_half_restored_stays_in_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let (scene, _) = half_restored(dir.path()).await;
    let gateway = &scene.rig.gateway;
    let later = api::VolumeCreate { group: Some("orders".to_owned()), ..wanted("later", 1 << 20) };
    gateway.create_volume(later).await.unwrap();
    let leaves = [
        gateway.leave_group("orders", "orders").await.err(),
        gateway.delete_group("orders").await.err(),
    ];
    // One that is not being restored may go, and is in nobody's way then.
    gateway.leave_group("orders", "later").await.unwrap();
    let both = api::GroupCreate {
        name: "both".to_owned(),
        volumes: vec!["orders".to_owned(), "later".to_owned()],
    };
    let joins =
        [gateway.make_group(&both).await.err(), gateway.join_group("later", "orders").await.err()];
    for refused in leaves.into_iter().chain(joins) {
        assert_eq!(refused.unwrap().0.code, Code::VolumeRestoring.as_str());
    }
    assert!(scene.is_held());
    scene.rig.close().await;
}

/// Found in a review: killed between the swap of roles and the way back, it told that it was where it
/// was to go. So it did when it was undone, and killed on the way home.
#[tokio::test]
async fn a_way_back_that_was_killed_when_only_roles_were_swapped_tells_that_nothing_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::make(dir.path()).await;
    scene.rig.know_west().await;
    for number in 0..BLOCKS {
        scene.write(number, NOW).await;
    }
    let west = Some(Uuid::from_u128(77));
    let begun = RollbackEntry { home: west, ..scene.way_to(scene.base) };
    let swapped = RollbackEntry { safety: begun.snapshot, stage: Stage::There, ..begun.clone() };
    for note in [swapped, begun.undone().only_home().unwrap()] {
        scene.rig.gateway.note_rollback(scene.group, Some(note)).await.unwrap();
        scene = scene.again(dir.path()).await;
        scene.rig.gateway.take_rollbacks_up();
        scene.await_no_note().await;
        let failed = scene.last_way().await.unwrap().error.unwrap();
        assert!(failed.detail.contains("nothing was changed"), "{failed:?}");
        // West follows nobody here, so that it cannot take over again either.
        assert!(failed.detail.contains("west not again"), "{failed:?}");
        assert_eq!(scene.content().await, all(NOW));
    }
    scene.rig.close().await;
}
