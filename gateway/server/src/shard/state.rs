//! What lives on a shard: groups, their stores, the connections of their hosts.
//!
//! Invariant: it is used on its own thread only. Whatever changes a group posts its new status on
//! the board before anybody is told that it is done.

mod backups;
mod changes;
mod copies;
mod filling;
mod hosts;
pub(crate) mod initiators;
mod journal;
mod kept;
mod members;
mod notes;
mod scrub;
pub(crate) mod snapshots;
pub(crate) mod together;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block::{
    Completions, GatewayId, Generation, Goodbye, GroupId, Identity, IoError, Ledger, Link,
    LinkError, Message, Open, Store, VolumeId,
};
use bytes::Bytes;
use mirror::{Command, Group, HeartbeatTimes, LocalFuture, Refusal};
use store::PoolVolume;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::board::{Board, Seen};
use crate::book::GroupEntry;
use crate::clock::Clock;
use crate::events::Events;
use crate::fillings::Fillings;
use crate::refusal::Refused;
use crate::ways::Ways;
use crate::witnessing::Witnessing;

/// How often a group's status is posted when nothing asks for it.
const POST_INTERVAL: Duration = Duration::from_millis(250);

/// How long a refused gateway may take to read why.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// What a shard is made of.
pub(crate) struct ShardParts {
    /// Who this gateway is.
    pub(crate) identity: Identity,
    /// Its pool, from any thread.
    pub(crate) pool: Arc<store::Pool>,
    /// Volumes that are filled, of all shards.
    pub(crate) fillings: Arc<Fillings>,
    /// Bytes that each of them copies in a second at most.
    pub(crate) fill_rate: Option<u64>,
    /// Its clocks.
    pub(crate) clock: Clock,
    /// Where initiators reach volumes.
    pub(crate) ways: Arc<Ways>,
    /// Where statuses are posted.
    pub(crate) board: Arc<Board>,
    /// Where it is told what happened.
    pub(crate) events: Arc<Events>,
    /// How other gateways are reached.
    pub(crate) links: link::LinkContext,
    /// When a silent gateway is asked, and when it is given up.
    pub(crate) heartbeat: HeartbeatTimes,
    /// Who decides when sites do not see each other.
    pub(crate) witnessing: Witnessing,
    /// How much may wait for a mirror that follows behind.
    pub(crate) journal: mirror::JournalLimits,
    /// Where what does not fit memory waits.
    pub(crate) journal_dir: std::path::PathBuf,
    /// Who copies at this gateway, over all shards.
    pub(crate) copiers: mirror::Copiers,
}

/// A shard.
pub(crate) struct ShardState {
    parts: ShardParts,
    ledger: Rc<dyn Ledger>,
    host_boot: [u8; 16],
    groups: RefCell<HashMap<GroupId, OpenGroup>>,
    /// Sessions at targets of groups.
    together: RefCell<Vec<std::rc::Weak<together::Together>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Clone)]
struct OpenGroup {
    group: Rc<Group>,
    /// The epoch that it was opened in, if this gateway was its primary then.
    reign: Option<block::Epoch>,
    volumes: Rc<RefCell<Vec<OpenVolume>>>,
    /// What is known of its snapshots beside its status.
    snapshots: Rc<snapshots::Known>,
    /// Cancelled when it is closed: those who read snapshots and those who are logged in are dropped.
    closing: CancellationToken,
    /// Whether a write journal is attached to it.
    is_written: Rc<Cell<bool>>,
}

#[derive(Clone)]
struct OpenVolume {
    id: VolumeId,
    store: Rc<PoolVolume>,
    /// How many hosts are attached to it that are dropped with the right to serve.
    hosts: Rc<Cell<usize>>,
    /// How many initiators are logged in, whether it serves or not.
    sessions: Rc<Cell<usize>>,
    /// How many hosts read snapshots of it.
    readers: Rc<Cell<usize>>,
    /// Cancelled when those that are attached are dropped; then there is a new one.
    closing: Rc<RefCell<CancellationToken>>,
    /// Whether it takes no host: it is being restored.
    is_closed: Rc<Cell<bool>>,
    /// The disk that initiators see, once one has logged in.
    disk: Rc<RefCell<Option<initiators::Disk>>>,
    /// The same in front of the copy here while it is open on its own.
    apart: Rc<RefCell<Option<initiators::Disk>>>,
    /// The disks that show what it was at snapshots, once an initiator has logged in to one.
    kept: Rc<RefCell<Vec<kept::KeptDisk>>>,
}

impl OpenVolume {
    fn new(id: VolumeId, store: Rc<PoolVolume>) -> Self {
        let (hosts, sessions, readers) = (Rc::default(), Rc::default(), Rc::default());
        let (closing, is_closed) = (Rc::default(), Rc::default());
        let (disk, apart, kept) = (Rc::default(), Rc::default(), Rc::default());
        Self { id, store, hosts, sessions, readers, closing, is_closed, disk, apart, kept }
    }
}

impl OpenGroup {
    fn volume(&self, volume: VolumeId) -> Option<OpenVolume> {
        self.volumes.borrow().iter().find(|open| open.id == volume).cloned()
    }
}

impl ShardState {
    /// A shard without groups. Must be called on its thread.
    #[must_use]
    pub(crate) fn new(parts: ShardParts) -> Self {
        let ledger = parts.pool.ledger();
        let tasks = TaskTracker::new();
        drop(tasks.spawn_local(ledger.pump()));
        Self {
            parts,
            ledger,
            host_boot: crate::clock::host_boot(),
            groups: RefCell::default(),
            together: RefCell::default(),
            tasks,
            stop: CancellationToken::new(),
        }
    }

    /// Begins to post statuses.
    pub(super) fn start(self: &Rc<Self>) {
        let state = Rc::clone(self);
        let stop = self.stop.clone();
        self.spawn(async move {
            let mut interval = tokio::time::interval(POST_INTERVAL);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let post = async {
                loop {
                    interval.tick().await;
                    // What is posted is what is answered; here nobody asked.
                    drop(state.statuses());
                }
            };
            stop.run_until_cancelled(post).await;
        });
    }

    /// Runs a future on this thread.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        drop(self.tasks.spawn_local(future));
    }

    /// The gateway's ledger.
    #[must_use]
    pub(crate) fn ledger(&self) -> &Rc<dyn Ledger> {
        &self.ledger
    }

    /// Durably replaces records of the ledger.
    ///
    /// # Errors
    /// The ledger's.
    pub(crate) async fn put(&self, records: Vec<(String, Option<Bytes>)>) -> Result<(), IoError> {
        ask(|ticket| self.ledger.put(records, ticket)).await.map(|_| ())
    }

    fn group(&self, group: GroupId) -> Option<OpenGroup> {
        self.groups.borrow().get(&group).cloned()
    }

    fn open_group(&self, group: GroupId) -> Result<OpenGroup, Refused> {
        let missing = || Refused::new(api::Code::NotOpened, "the group is not open");
        self.group(group).ok_or_else(missing)
    }

    // === Status ===

    /// What every group says, posted too.
    #[must_use]
    pub(crate) fn statuses(&self) -> Vec<Seen> {
        let groups: Vec<OpenGroup> = self.groups.borrow().values().cloned().collect();
        groups.iter().map(|open| self.post(open)).collect()
    }

    /// What one group says, posted too.
    #[must_use]
    pub(crate) fn status(&self, group: GroupId) -> Option<Seen> {
        self.group(group).map(|open| self.post(&open))
    }

    fn post(&self, open: &OpenGroup) -> Seen {
        let status = open.group.status();
        self.follow(open, &status);
        let sizes = open.sizes(&status);
        self.parts.board.post(status, sizes, self.parts.clock.steady_ms())
    }

    /// How many hosts are attached to a group.
    #[must_use]
    pub(crate) fn hosts_of(&self, group: GroupId) -> usize {
        let open = self.group(group);
        open.map_or(0, |open| open.volumes.borrow().iter().map(OpenVolume::attached).sum())
    }

    /// How many hosts have anything of a group open: its volumes, or snapshots of them.
    #[must_use]
    pub(crate) fn users_of(&self, group: GroupId) -> usize {
        self.hosts_of(group).saturating_add(self.readers_of(group))
    }

    /// Where the mirror at that gateway may differ from a group's volumes; `None` when the group has
    /// no mirror there.
    #[must_use]
    pub(crate) fn lacking(
        &self,
        group: GroupId,
        gateway: GatewayId,
    ) -> Option<Vec<mirror::Differences>> {
        self.group(group)?.group.differences(gateway)
    }

    /// Whether a group could be mirrored to that gateway now.
    ///
    /// # Errors
    /// What it would be refused with.
    pub(crate) fn may_mirror(
        &self,
        group: GroupId,
        (gateway, policy): (GatewayId, &mirror::Policy),
        holds_content: bool,
    ) -> Result<(), Refused> {
        let open = self.open_group(group)?;
        open.group.may_mirror(gateway, policy, holds_content).map_err(Refused::from)
    }

    /// A companion tells how its part of a group is; how the part here is, if it is open.
    #[must_use]
    pub(crate) fn hear_companion(
        &self,
        group: GroupId,
        companion: GatewayId,
        state: block::PartState,
    ) -> Option<block::PartState> {
        self.group(group)?.group.hear_companion(companion, state)
    }

    /// Takes a planned swap of roles back, unless its mirror was asked already.
    pub(crate) fn recall_handover(&self, group: GroupId) {
        if let Some(open) = self.group(group) {
            open.group.recall_handover();
        }
    }

    /// Lets hosts go on that are held for a snapshot of all parts of a group.
    pub(crate) fn let_go(&self, group: GroupId, snapshot: block::SnapshotId) {
        if let Some(open) = self.group(group) {
            open.group.let_go(snapshot);
        }
    }

    // === Groups ===

    /// Opens a group and its stores.
    ///
    /// # Errors
    /// Why it cannot be opened, in words.
    pub(crate) fn open(self: &Rc<Self>, entry: &GroupEntry) -> Result<(), String> {
        let group = entry.group();
        if self.group(group).is_some() {
            return Ok(());
        }
        let mut volumes = Vec::new();
        let mut open_volumes = Vec::new();
        for volume in &entry.volumes {
            let id = VolumeId::from_uuid(volume.id);
            let store =
                self.open_store(id).map_err(|why| format!("volume {}: {why}", volume.name))?;
            let of_group: Rc<dyn Store> = Rc::<PoolVolume>::clone(&store);
            volumes.push((id, volume.name.clone(), of_group));
            open_volumes.push(OpenVolume::new(id, store));
        }
        let parts = mirror::Parts {
            identity: self.parts.identity.clone(),
            group,
            volumes,
            ledger: Rc::clone(&self.ledger),
            dialer: Rc::new(Dialing { links: self.parts.links.clone() }),
            clock: Rc::new(self.parts.clock),
            generations: Rc::new(RandomGenerations),
            spawn: self.spawner(),
            notes: self.notes(entry),
            host_boot: self.host_boot,
            heartbeat: self.parts.heartbeat,
            copiers: self.parts.copiers.clone(),
            companions: Some(Rc::new(crate::companions::Asking {
                links: self.parts.links.clone(),
            })),
            journals: mirror::Journals {
                limits: self.parts.journal,
                spill: Rc::new(crate::spill::PoolSpill::new(self.parts.journal_dir.clone())),
            },
        };
        let arbitration = self.parts.witnessing.arbitration();
        let opened =
            Group::open_arbitrated(parts, arbitration).map_err(|error| error.to_string())?;
        let open = OpenGroup {
            reign: initiators::reign(&opened),
            group: opened,
            volumes: Rc::new(RefCell::new(open_volumes)),
            snapshots: Rc::default(),
            closing: CancellationToken::new(),
            is_written: Rc::default(),
        };
        self.post(&open);
        self.groups.borrow_mut().insert(group, open.clone());
        let state = Rc::clone(self);
        self.spawn(async move { state.follow_losses(&open).await });
        Ok(())
    }

    fn open_store(&self, volume: VolumeId) -> Result<Rc<PoolVolume>, String> {
        let store = self.parts.pool.open_volume(volume).map_err(|error| error.to_string())?;
        self.spawn(store.pump());
        self.begin_filling(volume, &store);
        Ok(store)
    }

    fn spawner(self: &Rc<Self>) -> mirror::Spawn {
        let tasks = self.tasks.clone();
        Rc::new(move |future| drop(tasks.spawn_local(future)))
    }

    /// A command to a group; its new status is on the board when it is answered.
    ///
    /// # Errors
    /// The group's refusal.
    pub(crate) async fn command(&self, group: GroupId, command: Command) -> Result<(), Refused> {
        let open = self.open_group(group)?;
        let mut result = open.group.command(command.clone()).await;
        if result == Err(Refusal::Busy) {
            // Another operator's command is a moment's matter; only a long one is told as busy.
            tokio::time::sleep(Duration::from_millis(100)).await;
            result = open.group.command(command).await;
        }
        self.post(&open);
        Ok(result?)
    }

    /// Takes in a connection on which another gateway opens a group.
    pub(crate) fn accept(&self, group: GroupId, open: Open, link: link::Detached) {
        let Some(target) = self.group(group) else {
            tracing::warn!(%group, "connection for a group that is not open was dropped");
            return;
        };
        match link.attach() {
            Ok(link) => target.group.accept(open, link),
            Err(error) => tracing::warn!(%group, %error, "connection was lost on its way"),
        }
    }

    /// Tells a gateway why its group is not taken, then hangs up.
    pub(crate) fn refuse(&self, link: link::Detached, why: String) {
        self.say_last(link, Message::Goodbye(Goodbye::Refused(why)));
    }

    /// Says one thing, then hangs up.
    pub(crate) fn say_last(&self, link: link::Detached, message: Message) {
        let Ok(mut link) = link.attach() else { return };
        self.spawn(async move {
            link.push(message);
            let farewell = async {
                let sent = poll_fn(|context| link.poll_send(context)).await;
                let mut ignored = Vec::new();
                // Read on until it hangs up: closing with unread bytes would reset the connection
                // and lose the words.
                while sent.is_ok()
                    && poll_fn(|context| link.poll_receive(context, &mut ignored)).await.is_ok()
                {
                    ignored.clear();
                }
            };
            drop(tokio::time::timeout(FAREWELL_MAX, farewell).await);
        });
    }

    /// Closes a group in an orderly way and forgets it.
    pub(crate) async fn shut(&self, group: GroupId) {
        let open = self.groups.borrow_mut().remove(&group);
        if let Some(open) = open {
            close_group(&open).await;
        }
    }

    /// Closes every group in an orderly way, all at once.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        let groups: Vec<OpenGroup> =
            self.groups.borrow_mut().drain().map(|(_, open)| open).collect();
        futures_util::future::join_all(groups.iter().map(close_group)).await;
    }
}

async fn close_group(open: &OpenGroup) {
    open.closing.cancel();
    let name = open.group.name();
    match open.group.close().await {
        Ok(()) => tracing::info!(group = name, "closed cleanly"),
        Err(error) => tracing::warn!(group = name, %error, "not closed cleanly"),
    }
}

/// Waits for the answer to one request.
///
/// # Errors
/// The answer's.
pub(crate) async fn ask(submit: impl FnOnce(block::Ticket)) -> Result<block::Answer, IoError> {
    let queue = Completions::new();
    submit(queue.ticket(0));
    poll_fn(|context| queue.poll_ready(context)).await;
    let mut answers = Vec::new();
    queue.take(&mut answers);
    answers.pop().map_or(Err(IoError::Dropped), |answer| answer.result)
}

struct RandomGenerations;

impl mirror::Generations for RandomGenerations {
    fn next(&self) -> Generation {
        Generation::from_uuid(Uuid::now_v7())
    }
}

/// Dials the gateways that are trusted.
struct Dialing {
    links: link::LinkContext,
}

impl mirror::Dialer for Dialing {
    fn dial(&self, gateway: GatewayId) -> LocalFuture<Result<Box<dyn Link>, LinkError>> {
        let links = self.links.clone();
        Box::pin(async move {
            let peers = links.trusted().all();
            let peer = peers.into_iter().find(|peer| peer.gateway == gateway);
            let peer = peer
                .ok_or_else(|| LinkError::Untrusted(format!("gateway {gateway} is not joined")))?;
            link::dial(&peer.addresses, gateway, &links).await?.attach()
        })
    }
}
