//! A gateway without listeners: what it makes, refuses, remembers, and what it says when one of
//! its threads does not answer.

mod deaths;
mod reprotects;

use std::path::Path;
use std::time::Duration;

use api::{Code, Health, Verdict, VolumeCreate, VolumeSettings};
use block::{BootId, GatewayId, PoolId};
use store::{Executor, PoolIdentity, PoolOptions};
use testkit::SimDisk;
use uuid::Uuid;

use super::*;
use crate::shard::state::{ShardParts, ShardState};
use crate::shard::{Shard, ShardThread};

const IDENTITY: PoolIdentity = PoolIdentity { pool: PoolId::of(1), gateway: GatewayId::of(2) };

/// A running gateway and its threads.
pub(crate) struct Rig {
    /// The gateway.
    pub(crate) gateway: Arc<Gateway>,
    threads: Vec<ShardThread>,
}

/// Opens the pool in this directory, making it if it is new.
fn pool_in(path: &Path, capacity_bytes: Option<u64>) -> Arc<store::Pool> {
    if !path.exists() {
        store::Pool::create_path(path, IDENTITY).unwrap();
    }
    let options = PoolOptions { capacity_bytes, ..PoolOptions::default() };
    store::Pool::open_path(path, options).unwrap()
}

/// The same on a disk that a test controls; what the pool does is done before it returns.
fn pool_on(disk: &Arc<SimDisk>, capacity_bytes: Option<u64>) -> Arc<store::Pool> {
    let open = || {
        let options = PoolOptions { capacity_bytes, ..PoolOptions::default() };
        store::Pool::open(disk.root(), Executor::Inline, options)
    };
    open().unwrap_or_else(|_new| {
        store::Pool::create(&disk.root(), IDENTITY).unwrap();
        open().unwrap()
    })
}

impl Rig {
    /// Makes the volume `orders`, in a group of its own.
    pub(crate) async fn make_orders(&self) {
        let wanted = VolumeCreate {
            part_of: None,
            name: "orders".to_owned(),
            bytes: Some(1 << 20),
            from: None,
            group: None,
            settings: VolumeSettings::default(),
        };
        self.gateway.create_volume(wanted).await.unwrap();
    }

    /// Records a site `west` that nobody reaches.
    pub(crate) async fn know_west(&self) {
        let peer = crate::book::PeerEntry {
            gateway: Uuid::from_u128(77),
            site: "west".to_owned(),
            certificate: "00".to_owned(),
            addresses: vec!["127.0.0.1:1".to_owned()],
            portals: None,
            place: None,
        };
        let recorded = self.gateway.book.change(Vec::new(), |pages| {
            pages.peers.push(peer);
            Ok::<(), Refused>(())
        });
        recorded.await.unwrap();
    }

    /// Opens the gateway in this directory, making it if it is new.
    pub(crate) async fn open(dir: &Path) -> Self {
        Self::open_with(dir, |_| {}).await
    }

    pub(crate) async fn open_with(dir: &Path, configure: impl FnOnce(&mut Config)) -> Self {
        Self::open_at(dir, Clock::start(), configure).await
    }

    /// The same by these clocks.
    pub(crate) async fn open_at(
        dir: &Path,
        clock: Clock,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let pool = |config: &Config| pool_in(&dir.join("pool"), config.pool_capacity);
        Self::open_in((dir, clock), configure, pool).await
    }

    /// Opens the gateway whose pool is on this disk, making it if it is new.
    pub(crate) async fn open_on(
        disk: &Arc<SimDisk>,
        dir: &Path,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        Self::open_in((dir, Clock::start()), configure, |config| {
            pool_on(disk, config.pool_capacity)
        })
        .await
    }

    async fn open_in(
        (dir, clock): (&Path, Clock),
        configure: impl FnOnce(&mut Config),
        pool: impl FnOnce(&Config) -> Arc<store::Pool>,
    ) -> Self {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let mut config = crate::config::load(None).unwrap();
        config.api.shard_deadline = Duration::from_millis(200);
        configure(&mut config);
        let pool = pool(&config);
        let board = Arc::new(Board::default());
        let events = Arc::new(Events::new(clock));
        let identity = Identity {
            gateway: pool.identity().gateway,
            boot: BootId::from_uuid(Uuid::now_v7()),
            site: "east".to_owned(),
        };
        let credentials = link::Credentials::ephemeral().unwrap();
        let links =
            link::LinkContext::new(identity.clone(), &credentials, link::Trusted::default())
                .unwrap();
        let (fillings, of_fillings) = Fillings::new();
        let ways = Arc::<Ways>::default();
        let threads: Vec<ShardThread> = (0..2)
            .map(|index| {
                let parts = ShardParts {
                    identity: identity.clone(),
                    pool: Arc::clone(&pool),
                    fillings: Arc::clone(&fillings),
                    fill_rate: None,
                    clock,
                    ways: Arc::clone(&ways),
                    board: Arc::clone(&board),
                    events: Arc::clone(&events),
                    links: links.clone(),
                    heartbeat: config.mirror.heartbeat,
                    witnessing: crate::witnessing::Witnessing::default(),
                    journal: config.mirror.journal,
                    journal_dir: dir.join("pool/journal"),
                    copiers: mirror::Copiers::default(),
                };
                let deadline = config.api.shard_deadline;
                ShardThread::start(index, deadline, move || ShardState::new(parts)).unwrap()
            })
            .collect();
        let shards: Vec<Shard> = threads.iter().map(|thread| thread.shard.clone()).collect();
        let book = Arc::new(Book::open(shards[0].clone()).await.unwrap());
        let parts = GatewayParts {
            plugins: None,
            config,
            clock,
            identity,
            shards,
            board,
            book,
            events,
            pool,
            fillings,
            links,
            nbd_uris: vec!["nbd://127.0.0.1:1/".to_owned()],
            iscsi_uris: Vec::new(),
            ways,
        };
        let gateway = Gateway::new(parts);
        gateway.begin_fillings(of_fillings);
        gateway.open_groups().await;
        gateway.set_ready();
        Self { gateway, threads }
    }

    /// Closes it in good order.
    pub(crate) async fn close(self) {
        crate::shutdown::stop(&self.gateway, self.threads).await.unwrap();
    }
}

pub(super) fn wanted(name: &str, bytes: u64) -> VolumeCreate {
    VolumeCreate {
        part_of: None,
        name: name.to_owned(),
        bytes: Some(bytes),
        from: None,
        group: None,
        settings: VolumeSettings::default(),
    }
}

#[tokio::test]
async fn a_volume_is_made_once_and_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    let made = rig.gateway.create_volume(wanted("orders", 1 << 20)).await.unwrap();
    assert_eq!((made.bytes, made.copy), (1 << 20, api::Copy::Serving));
    assert_eq!(made.exports, ["nbd://127.0.0.1:1/orders"]);
    for (bad, code) in [
        (wanted("orders", 1 << 20), Code::Exists),
        (wanted("a b", 1 << 20), Code::Invalid),
        (wanted("odd", 4097), Code::BadSize),
        (wanted("huge", 1 << 51), Code::BadSize),
    ] {
        let refused = rig.gateway.create_volume(bad).await.unwrap_err();
        assert_eq!(refused.0.code, code.as_str());
    }
    let grown = rig.gateway.grow_volume("orders", 2 << 20).await.unwrap();
    assert_eq!(grown.bytes, 2 << 20);
    rig.close().await;

    let rig = Rig::open(dir.path()).await;
    let found = rig.gateway.volume("orders").await.unwrap();
    assert_eq!((found.id, found.bytes, found.copy), (made.id, 2 << 20, api::Copy::Serving));
    rig.gateway.delete_volume("orders").await.unwrap();
    assert_eq!(rig.gateway.volume("orders").await.unwrap_err().0.code, Code::NotFound.as_str());
    assert!(rig.gateway.pool.volumes().is_empty());
    rig.gateway.create_volume(wanted("orders", 1 << 20)).await.unwrap();
    rig.close().await;
}

#[tokio::test]
async fn a_copy_is_read_and_digested_whatever_its_role() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    for name in ["one", "two"] {
        rig.gateway.create_volume(wanted(name, 1 << 20)).await.unwrap();
    }
    let content = rig.gateway.read_volume("one", 4096, 8192).await.unwrap();
    assert_eq!(content, vec![0; 8192]);
    let refused = rig.gateway.read_volume("one", 1 << 20, 4096).await.unwrap_err();
    assert_eq!(refused.0.code, Code::Invalid.as_str());
    let (one, two) = (
        rig.gateway.digest_volume("one").await.unwrap(),
        rig.gateway.digest_volume("two").await.unwrap(),
    );
    assert_eq!((one.bytes, one.digest), (two.bytes, two.digest));
    rig.close().await;
}

#[tokio::test]
async fn a_thread_that_hangs_is_unknown_and_hangs_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    rig.gateway.create_volume(wanted("orders", 1 << 20)).await.unwrap();
    let before = rig.gateway.show_status().await;
    assert_eq!(before.verdict, Verdict::Unprotected);
    let group = rig.gateway.find_group("orders").unwrap().group();
    let shard = rig.gateway.shard_of(group).clone();
    let (release, held) = std::sync::mpsc::channel::<()>();
    shard
        .post(move |_state| {
            let _released = held.recv();
        })
        .unwrap();

    let during = tokio::time::timeout(Duration::from_secs(2), rig.gateway.show_status());
    let during = during.await.expect("a hung thread must not hang the status");
    assert_eq!((during.verdict, during.unknown), (Verdict::Unknown, 1));
    let shown = &during.groups[0];
    assert_eq!((shown.health, shown.role), (Health::Unknown, Some(api::Role::Primary)));
    assert_eq!(shown.explanations[0].code, Code::StateUnknown.as_str());
    let refused = rig.gateway.plan_failover("orders", None).await.unwrap_err();
    assert_eq!(refused.0.code, Code::ShardSilent.as_str());
    let volume = rig.gateway.volume("orders").await.unwrap();
    assert_eq!((volume.copy, volume.mapped_bytes), (api::Copy::Unknown, None));

    drop(release);
    let after = rig.gateway.show_status().await;
    assert_eq!(after.verdict, Verdict::Unprotected);
    rig.close().await;
}

#[tokio::test]
async fn evs_28_a_quota_is_kept_by_whatever_makes_or_grows_a_volume() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open_with(dir.path(), |config| {
        config.quota = crate::config::Quota {
            volumes: Some(2),
            bytes: Some(3 << 20),
            ..crate::config::Quota::default()
        };
    })
    .await;
    let make = |name: &str, bytes: u64| {
        rig.gateway.create_volume(VolumeCreate {
            part_of: None,
            name: name.to_owned(),
            bytes: Some(bytes),
            from: None,
            group: None,
            settings: VolumeSettings::default(),
        })
    };
    make("a", 1 << 20).await.unwrap();
    let Refused(refused) = make("b", (2 << 20) + 4096).await.unwrap_err();
    assert_eq!(refused.code, Code::QuotaReached.as_str());
    assert!(refused.detail.contains("quota.bytes is 3145728: 1048576 are used"), "{refused:?}");
    make("b", 1 << 20).await.unwrap();
    let Refused(refused) = make("c", 4096).await.unwrap_err();
    assert!(refused.detail.contains("quota.volumes is 2: 2 are used"), "{refused:?}");
    let Refused(refused) = rig.gateway.grow_volume("b", (2 << 20) + 4096).await.unwrap_err();
    assert_eq!(refused.code, Code::QuotaReached.as_str());
    rig.gateway.grow_volume("b", 2 << 20).await.unwrap();
    assert_eq!(rig.gateway.quota_used(), (2, 3 << 20));
    rig.gateway.delete_volume("a").await.unwrap();
    make("c", 1 << 20).await.unwrap();
    rig.close().await;
}

#[tokio::test]
async fn a_session_needs_a_site_that_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    rig.gateway.create_volume(wanted("orders", 1 << 20)).await.unwrap();
    let create = |to: &str, split: Option<&str>| api::SessionCreate {
        volume: "orders".to_owned(),
        to: to.to_owned(),
        policy: api::PolicyPatch { split: split.map(str::to_owned), ..api::PolicyPatch::default() },
        skip_initial_copy: false,
        destination: None,
    };
    let refused = rig.gateway.create_session(create("nowhere", None)).await.unwrap_err();
    assert_eq!(refused.0.code, Code::PeerUnknown.as_str());
    rig.know_west().await;
    let refused = rig.gateway.create_session(create("west", Some("sometimes"))).await.unwrap_err();
    assert_eq!(refused.0.code, Code::Invalid.as_str());
    let session = rig.gateway.create_session(create("west", Some("manual"))).await.unwrap();
    assert_eq!(session.leg.policy.split, "manual");
    // It cannot be reached: that is told, and the volume is in use.
    let deleted = rig.gateway.delete_volume("orders").await.unwrap_err();
    assert_eq!(deleted.0.code, Code::VolumeInUse.as_str());
    let again = rig.gateway.create_session(create("west", None)).await.unwrap_err();
    assert_eq!(again.0.code, Code::AlreadyMirrored.as_str());
    rig.close().await;
}

#[tokio::test]
async fn what_a_creation_that_was_cut_short_left_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    let left = store::VolumeRecord {
        id: block::VolumeId::of(99),
        name: "orders".to_owned(),
        bytes: 1 << 20,
        created: 0,
        origin: None,
    };
    rig.gateway.pool.create_volume(left).unwrap();
    rig.gateway.create_volume(wanted("orders", 2 << 20)).await.unwrap();
    let volumes = rig.gateway.pool.volumes();
    assert_eq!((volumes.len(), volumes[0].bytes), (1, 2 << 20));
    rig.close().await;
}

#[tokio::test]
async fn of_those_who_ask_at_once_only_as_many_get_a_snapshot_as_may() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open_with(dir.path(), |config| config.snapshots_max_manual = 3).await;
    rig.gateway.create_volume(wanted("orders", 1 << 20)).await.unwrap();
    let asks = (0..8).map(|index| rig.gateway.take_snapshot("orders", Some(format!("s{index}"))));
    let answers = futures_util::future::join_all(asks).await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (3, 5));
    for refused in refused {
        let Refused(problem) = refused.unwrap_err();
        assert_eq!(problem.code, Code::SnapshotLimit.as_str());
        assert!(problem.detail.contains("may have 3"), "{problem:?}");
    }
    let shown = rig.gateway.show_snapshots("orders").await.unwrap();
    assert_eq!(shown.len(), 3);
    assert_eq!(shown[0].volumes[0].bytes, Some(1 << 20));
    let export = format!("nbd://127.0.0.1:1/orders@{}", shown[0].name);
    assert_eq!(shown[0].volumes[0].exports, [export]);
    rig.close().await;
}

#[tokio::test]
async fn snap_01_what_is_said_of_a_snapshot_is_told_after_a_restart_and_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open_with(dir.path(), |config| config.snapshots_max_manual = 1).await;
    rig.make_orders().await;
    let said = |name: &str| api::SnapshotCreate {
        name: Some(name.to_owned()),
        description: Some("before the upgrade to 12.4".to_owned()),
        metadata: [("owner".to_owned(), "db-team".to_owned())].into(),
    };
    let taken = rig.gateway.create_snapshot("orders", said("early")).await.unwrap();
    let is_told = |of: &api::Snapshot| {
        assert_eq!(of.description.as_deref(), Some("before the upgrade to 12.4"));
        assert_eq!(of.metadata.get("owner").map(String::as_str), Some("db-team"));
    };
    is_told(&taken);
    // What is refused leaves no word.
    let refused = rig.gateway.create_snapshot("orders", said("late")).await.unwrap_err();
    assert_eq!(refused.0.code, Code::SnapshotLimit.as_str());
    let odd = api::SnapshotCreate { description: Some("\t".to_owned()), ..said("odd") };
    let refused = rig.gateway.create_snapshot("orders", odd).await.unwrap_err();
    assert_eq!(refused.0.code, Code::Invalid.as_str());
    assert_eq!(rig.gateway.book.read().snapshot_notes.len(), 1);
    rig.close().await;

    let rig = Rig::open(dir.path()).await;
    is_told(&rig.gateway.show_snapshots("orders").await.unwrap()[0]);
    let plain = rig.gateway.take_snapshot("orders", Some("plain".to_owned())).await.unwrap();
    assert!(plain.description.is_none() && plain.metadata.is_empty(), "{plain:?}");
    rig.gateway.delete_snapshot("orders", "early").await.unwrap();
    assert_eq!(rig.gateway.book.read().snapshot_notes, []);
    rig.close().await;
}

#[tokio::test]
async fn snap_05_each_state_is_told_by_its_word_and_with_what_can_be_done_then() {
    use mirror::SnapshotState::{Available, Deleting, Error, RollingBack};

    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    rig.make_orders().await;
    rig.gateway.take_snapshot("orders", Some("one".to_owned())).await.unwrap();
    let entry = rig.gateway.find_group("orders").unwrap();
    let (status, room) = rig.gateway.look_at_snapshots(&entry).await.unwrap();
    for (state, word, actions, is_readable) in [
        (Available, "available", vec!["snapshot.delete", "snapshot.rollback"], true),
        (RollingBack, "rollbacking", Vec::new(), true),
        (Deleting, "deleting", Vec::new(), false),
        (Error, "error", vec!["snapshot.delete"], false),
    ] {
        let snapshot = mirror::SnapshotStatus { state, ..status.snapshots[0].clone() };
        let shown = rig.gateway.show_snapshot(&entry, &status, &snapshot, &room);
        assert_eq!(serde_json::to_value(shown.state).unwrap(), word);
        assert_eq!(shown.allowed_actions, actions, "{word}");
        assert_eq!(shown.volumes[0].exports.is_empty(), !is_readable, "{word}");
        // What is not there is kept by nobody here.
        assert_eq!(shown.held_by.is_empty(), state == Error, "{word}");
    }
    rig.close().await;
}

#[tokio::test]
async fn a_volume_whose_record_of_snapshots_cannot_be_read_may_have_locked_ones_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    rig.make_orders().await;
    let (group, volume) = rig.gateway.find_volume("orders").unwrap();
    let key = mirror::Group::snapshots_key(block::VolumeId::from_uuid(volume.id));
    let put = |bytes: Option<&'static [u8]>| {
        let records = vec![(key.clone(), bytes.map(bytes::Bytes::from_static))];
        let shard = rig.gateway.shard_of(group.group());
        async move { shard.run(move |state| async move { state.put(records).await }).await }
    };
    put(Some(b"what a later release wrote")).await.unwrap().unwrap();
    let refused = rig.gateway.delete_volume("orders").await.unwrap_err();
    assert_eq!(refused.0.code, Code::SnapshotLocked.as_str());
    assert!(refused.0.detail.contains("cannot be read"), "{refused:?}");
    put(None).await.unwrap().unwrap();
    rig.gateway.delete_volume("orders").await.unwrap();
    rig.close().await;
}

const EARLY: rollbacks::Wanted<'_> = rollbacks::Wanted::Snapshot("early");

#[tokio::test]
async fn what_stands_in_the_way_of_a_rollback_is_named_and_gives_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    let gateway = &rig.gateway;
    gateway.create_volume(wanted("orders", 1 << 20)).await.unwrap();
    gateway.take_snapshot("orders", Some("early".to_owned())).await.unwrap();
    let plan = gateway.plan_rollback("orders", EARLY, false).await.unwrap();
    assert_eq!((plan.changed_bytes, plan.hosts), (Some(0), 0));
    let token = plan.token.unwrap();

    // A volume that joined later is in no snapshot from before.
    let mut later = wanted("later", 1 << 20);
    later.group = Some("orders".to_owned());
    gateway.create_volume(later).await.unwrap();
    let plan = gateway.plan_rollback("orders", EARLY, false).await.unwrap();
    assert_eq!(plan.token, None);
    let blocked = plan.checks.iter().find(|check| check.state == api::CheckState::Blocked).unwrap();
    assert!(blocked.detail.contains("twinspan group remove orders later"), "{blocked:?}");
    // The token from before leads to nothing: it is looked at again.
    let request = |token: &str| api::RollbackRequest { token: token.to_owned(), drop_hosts: false };
    let begun = gateway.roll_back(("orders", Some("early")), &request(&token)).await.unwrap();
    let failed = ended(gateway, begun.id).await;
    let problem = failed.error.unwrap();
    assert_eq!(problem.code, Code::RollbackUndone.as_str());
    assert!(problem.detail.contains("later joined later"), "{problem:?}");
    assert_eq!(gateway.book.read().rollbacks, []);

    gateway.leave_group("orders", "later").await.unwrap();
    let plan = gateway.plan_rollback("orders", EARLY, false).await.unwrap();
    let token = plan.token.unwrap();
    gateway.take_snapshot("orders", Some("other".to_owned())).await.unwrap();
    let refused = gateway.roll_back(("orders", Some("other")), &request(&token)).await.unwrap_err();
    assert_eq!(refused.0.code, Code::PlanToken.as_str());
    assert!(refused.0.detail.contains("another snapshot"), "{refused:?}");
    let begun = gateway.roll_back(("orders", Some("early")), &request(&token)).await.unwrap();
    let done = ended(gateway, begun.id).await;
    assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
    let refused = gateway.roll_back(("orders", Some("early")), &request(&token)).await.unwrap_err();
    assert_eq!(refused.0.code, Code::PlanToken.as_str());
    assert_eq!(gateway.book.read().rollbacks, []);
    let kept = gateway.show_snapshots("orders").await.unwrap();
    let safety = kept.iter().filter(|of| of.origin == api::SnapshotOrigin::Safety);
    assert_eq!(safety.count(), 1);
    rig.close().await;
}

/// An operation when it has ended.
pub(super) async fn ended(gateway: &Gateway, id: Uuid) -> api::Operation {
    loop {
        let operation = gateway.operations.get(id).unwrap();
        if operation.state != api::OperationState::Running {
            return operation;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
