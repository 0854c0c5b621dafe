//! Volumes that are used before they are filled: how far each is, for every thread, and where the
//! content of their origins is read.
//!
//! Invariant: an entry is posted by the thread that fills the volume; when all is there it is told
//! once, and what was kept for the volume elsewhere is let go after that (`gateway/clones.rs`).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use api::Code;
use backup::Watch;
use block::{BlockSet, Extent, GroupId, IoError, Origin, Reply, Segments, SnapshotId, VolumeId};
use store::OriginRecord;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::backups::origin::{BackupOrigin, Source};
use crate::gateway::Gateway;
use crate::moments::Laid;
use crate::moments::origin::LaidOrigin;
use crate::refusal::io_code;
use crate::shard::Shard;

/// How long a read waits for a group that is not open, as while a gateway starts.
pub(crate) const OPEN_TRIES_MAX: u32 = 50;
pub(crate) const OPEN_PAUSE: Duration = Duration::from_millis(200);

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
    /// How often this was told since the volume was opened.
    pub(crate) steps: u64,
}

/// All volumes of a gateway that are filled.
#[derive(Debug)]
pub(crate) struct Fillings {
    known: Mutex<HashMap<VolumeId, Progress>>,
    /// Of those that are filled from a backup.
    read: Mutex<HashMap<VolumeId, Read>>,
    told: mpsc::UnboundedSender<Told>,
    gateway: OnceLock<(Weak<Gateway>, Handle)>,
}

/// How the backup is read that a volume is filled from.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// Follows it.
    pub(crate) watch: Arc<Watch>,
    /// Why the last question to the store that failed did.
    pub(crate) reason: Option<(Code, String)>,
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
        let (known, read, gateway) = (Mutex::default(), Mutex::default(), OnceLock::new());
        (Arc::new(Self { known, read, told, gateway }), inbox)
    }

    /// Says which gateway finds the groups of origins, on its control thread. Shards are started
    /// before it is whole.
    pub(crate) fn set_gateway(&self, gateway: &Arc<Gateway>) {
        // A second gateway in one process would be a fault of ours; the first one stays.
        let _second = self.gateway.set((Arc::downgrade(gateway), Handle::current()));
    }

    /// The gateway, and the threads on which it speaks to object stores.
    #[must_use]
    pub(crate) fn control(&self) -> Option<(Arc<Gateway>, Handle)> {
        let (gateway, control) = self.gateway.get()?;
        Some((gateway.upgrade()?, control.clone()))
    }

    /// How the backup is read that a volume is filled from.
    #[must_use]
    pub(crate) fn read(&self, volume: VolumeId) -> Option<Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).get(&volume).cloned()
    }

    pub(crate) fn watch(&self, volume: VolumeId, watch: Arc<Watch>) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(volume, Read { watch, reason: None });
    }

    /// Why a question to the store failed.
    pub(crate) fn note_reason(&self, volume: VolumeId, reason: (Code, String)) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = read.get_mut(&volume) {
            read.reason = Some(reason);
        }
    }

    /// What stands in the way of a volume that could not be read or written: a code and words.
    #[must_use]
    pub(crate) fn reason(&self, volume: VolumeId, error: IoError) -> (Code, String) {
        let of_store = self.read(volume).and_then(|read| read.reason);
        let is_of_origin = matches!(error, IoError::Origin | IoError::Checksum);
        let reason = of_store.filter(|_| is_of_origin);
        reason.unwrap_or_else(|| (io_code(error), error.to_string()))
    }

    /// How far a volume is, if it is filled.
    #[must_use]
    pub(crate) fn get(&self, volume: VolumeId) -> Option<Progress> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&volume).copied()
    }

    /// Tells how far a volume is.
    pub(crate) fn post(&self, volume: VolumeId, left_bytes: Option<u64>, standing: Standing) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before =
            known.get(&volume).map_or((Standing::Copying, 0), |of| (of.standing, of.steps));
        known.insert(volume, Progress { left_bytes, standing, steps: before.1 + 1 });
        if before.0 != standing {
            self.tell(Told::Stands(volume, standing));
        }
    }

    /// The volume was closed, or all of it is there.
    pub(crate) fn remove(&self, volume: VolumeId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&volume);
        self.read.lock().unwrap_or_else(PoisonError::into_inner).remove(&volume);
    }

    pub(crate) fn tell(&self, told: Told) {
        // Nobody listens any more when the gateway stops; it is told again at the next start.
        let _stopping = self.told.send(told);
    }

    /// Where an origin is read, on the thread of the volume that it fills.
    pub(crate) fn open(
        self: &Arc<Self>,
        filled: VolumeId,
        record: &OriginRecord,
        tasks: &TaskTracker,
    ) -> Rc<dyn Origin> {
        let base = |volume: &VolumeId, snapshot: &SnapshotId, bytes: &u64| SnapshotOrigin {
            fillings: Arc::clone(self),
            volume: *volume,
            snapshot: *snapshot,
            bytes: *bytes,
            tasks: tasks.clone(),
        };
        match record {
            OriginRecord::Snapshot { volume, snapshot, bytes } => {
                Rc::new(base(volume, snapshot, bytes))
            }
            OriginRecord::Laid { volume, snapshot, description, bytes } => {
                let below = Rc::new(base(volume, snapshot, bytes));
                let Some(laid) = Laid::decode(description) else {
                    return Rc::new(Nowhere { bytes: *bytes });
                };
                let (fillings, tasks) = (Arc::clone(self), tasks.clone());
                Rc::new(LaidOrigin::new(below, fillings, (filled, *volume), laid, tasks))
            }
            OriginRecord::Other { description, bytes } => match Source::decode(description) {
                Some(source) => Rc::new(BackupOrigin::new(self, filled, source, *bytes)),
                None => Rc::new(Nowhere { bytes: *bytes }),
            },
        }
    }

    /// What may be copied from an origin in a second, by where it lies; `None`: as much as there is.
    #[must_use]
    pub(crate) fn limit(&self, record: &OriginRecord) -> Option<u64> {
        let OriginRecord::Other { description, .. } = record else { return None };
        let (gateway, _) = self.control()?;
        let target = gateway.targets.get(&Source::decode(description)?.target).ok()?;
        target.config.bytes_per_second
    }

    /// Where a volume's snapshot is kept; `None` when nobody knows the volume now.
    fn place(&self, volume: VolumeId, snapshot: SnapshotId) -> Option<Place> {
        let (gateway, _) = self.control()?;
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
