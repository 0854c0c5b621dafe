//! Volumes that are used before they are filled: how far each is, for every thread, and where the
//! content of their origins is read.
//!
//! Invariant: an entry is posted by the thread that fills the volume; when all is there it is told
//! once, and what was kept for the volume elsewhere is let go after that (`gateway/clones.rs`).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use block::{BlockSet, Extent, GroupId, IoError, Origin, Reply, Segments, SnapshotId, VolumeId};
use store::OriginRecord;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::gateway::Gateway;
use crate::shard::Shard;

/// How long a read waits for a group that is not open, as while a gateway starts.
const OPEN_TRIES_MAX: u32 = 50;
const OPEN_PAUSE: Duration = Duration::from_millis(200);

/// What stands in the way of a volume that is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    Copying,
    /// The pool is full.
    NoRoom,
    /// Something failed; it is tried again.
    Failed(IoError),
}

/// How far a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that are to be copied; `None` before they were counted.
    pub(crate) left_bytes: Option<u64>,
    /// What stands in the way.
    pub(crate) standing: Standing,
}

/// All volumes of a gateway that are filled.
#[derive(Debug)]
pub(crate) struct Fillings {
    known: Mutex<HashMap<VolumeId, Progress>>,
    told: mpsc::UnboundedSender<Told>,
    gateway: OnceLock<Weak<Gateway>>,
}

/// What the thread that fills a volume tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// All of it is here, durably.
    Filled(VolumeId),
    /// Something stands in the way now that did not before, or nothing does any more.
    Stands(VolumeId, Standing),
}

/// Which thread has a group, its volume, and what the store calls the snapshot.
type Place = (Shard, GroupId, VolumeId, SnapshotId);

// === impl Fillings ===

impl Fillings {
    /// None are known. What is told comes out of the other end.
    #[must_use]
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Told>) {
        let (told, inbox) = mpsc::unbounded_channel();
        let (known, gateway) = (Mutex::default(), OnceLock::new());
        (Arc::new(Self { known, told, gateway }), inbox)
    }

    /// Says which gateway finds the groups of origins. Shards are started before it is whole.
    pub(crate) fn set_gateway(&self, gateway: &Arc<Gateway>) {
        // A second gateway in one process would be a fault of ours; the first one stays.
        let _second = self.gateway.set(Arc::downgrade(gateway));
    }

    /// How far a volume is, if it is filled.
    #[must_use]
    pub(crate) fn get(&self, volume: VolumeId) -> Option<Progress> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&volume).copied()
    }

    pub(crate) fn post(&self, volume: VolumeId, progress: Progress) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert(volume, progress);
        if before.map_or(Standing::Copying, |before| before.standing) != progress.standing {
            self.tell(Told::Stands(volume, progress.standing));
        }
    }

    /// The volume was closed, or all of it is there.
    pub(crate) fn remove(&self, volume: VolumeId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&volume);
    }

    pub(crate) fn tell(&self, told: Told) {
        // Nobody listens any more when the gateway stops; it is told again at the next start.
        let _stopping = self.told.send(told);
    }

    /// Where an origin is read, on the thread of the volume that it fills.
    pub(crate) fn open(
        self: &Arc<Self>,
        record: &OriginRecord,
        tasks: &TaskTracker,
    ) -> Rc<dyn Origin> {
        match record {
            OriginRecord::Snapshot { volume, snapshot, bytes } => Rc::new(SnapshotOrigin {
                fillings: Arc::clone(self),
                volume: *volume,
                snapshot: *snapshot,
                bytes: *bytes,
                tasks: tasks.clone(),
            }),
            OriginRecord::Other { bytes, .. } => Rc::new(Nowhere { bytes: *bytes }),
        }
    }

    /// Where a volume's snapshot is kept; `None` when nobody knows the volume now.
    fn place(&self, volume: VolumeId, snapshot: SnapshotId) -> Option<Place> {
        let gateway = self.gateway.get()?.upgrade()?;
        let pages = gateway.book.read();
        let (group, _) = pages.volumes().find(|(_, of)| of.id == volume.uuid())?;
        let group = group.group();
        Some((gateway.shard_of(group).clone(), group, volume, snapshot))
    }
}

/// A snapshot of another volume of the pool, on whatever thread that is.
struct SnapshotOrigin {
    fillings: Arc<Fillings>,
    volume: VolumeId,
    snapshot: SnapshotId,
    bytes: u64,
    tasks: TaskTracker,
}

/// An origin of a kind that this release cannot read.
#[derive(Debug)]
struct Nowhere {
    bytes: u64,
}

// === impl SnapshotOrigin ===

impl SnapshotOrigin {
    /// Asks the thread of the other volume, and again while its group is not open.
    fn ask<T, F>(&self, reply: Reply<T>, question: impl Fn(Place) -> F + 'static)
    where
        T: 'static,
        F: Future<Output = Option<Result<T, IoError>>>,
    {
        let (fillings, volume, snapshot) = (Arc::clone(&self.fillings), self.volume, self.snapshot);
        drop(self.tasks.spawn_local(async move {
            for _ in 0..OPEN_TRIES_MAX {
                if let Some(place) = fillings.place(volume, snapshot)
                    && let Some(result) = question(place).await
                {
                    return reply.answer(result);
                }
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            reply.answer(Err(IoError::Origin));
        }));
    }
}

impl std::fmt::Debug for SnapshotOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.snapshot, self.volume)
    }
}

impl Origin for SnapshotOrigin {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn mapped(&self, from: u64, limit: usize, reply: Reply<BlockSet>) {
        self.ask(reply, move |(shard, group, volume, here)| async move {
            let answer = shard.run(move |state| async move {
                state.mapped_at((group, volume), here, (from, limit)).await
            });
            answer.await.ok().flatten()
        });
    }

    fn read(&self, extent: Extent, reply: Reply<Segments>) {
        self.ask(reply, move |(shard, group, volume, here)| async move {
            let answer = shard.run(move |state| async move {
                state.read_at((group, volume), here, extent).await
            });
            answer.await.ok().flatten()
        });
    }
}

// === impl Nowhere ===

impl Origin for Nowhere {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn mapped(&self, _from: u64, _limit: usize, reply: Reply<BlockSet>) {
        reply.answer(Err(IoError::Origin));
    }

    fn read(&self, _extent: Extent, reply: Reply<Segments>) {
        reply.answer(Err(IoError::Origin));
    }
}
