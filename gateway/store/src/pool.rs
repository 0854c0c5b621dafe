//! The directory that holds a gateway's volumes and its small records.
//!
//! ```text
//!   lock super pool.redb volumes/<id>/{map.redb map.log.N activity data.NNNN} journals/<group>/seg.N
//! ```
//!
//! Invariant: one process has a pool open, one shard has a volume open. A volume exists when the
//! catalogue names it; a directory that it does not name is what a crash left, and is removed.

mod catalogue;
mod journals;
mod ledger;
mod superblock;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{GatewayId, Geometry, PoolId, SnapshotId, VolumeId};
use redb::Database;

use crate::database;
use crate::disk::DiskDirectory;
use crate::error::StoreError;
use crate::executor::Executor;
use crate::medium::{Directory, LockGuard};
use crate::metrics::PoolMetrics;
use crate::volume::{Budget, Context, Host, PoolVolume};

use self::catalogue::Entry;
use self::ledger::Group;
use self::superblock::Superblock;

pub use self::catalogue::{OriginRecord, VolumeRecord};
pub use self::ledger::PoolLedger;

const DATABASE_FILE: &str = "pool.redb";
const VOLUMES_DIR: &str = "volumes";

/// How a pool is run.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// The most bytes that the slots of all volumes may take; `None` for what the medium has.
    pub capacity_bytes: Option<u64>,
    /// Map pages (20 KiB, for 16 MiB of a volume) that each volume may keep in memory. One with many
    /// snapshots knows of a quarter as many pages (16 KiB) which layer each block is read from, and of
    /// as many for the snapshots that are read.
    pub map_pages_max: usize,
}

/// Who a new pool belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolIdentity {
    /// The pool.
    pub pool: PoolId,
    /// Its gateway.
    pub gateway: GatewayId,
}

/// A pool that is open. Any thread may list, make and remove volumes; a volume is opened on the
/// shard that it will live on.
pub struct Pool {
    identity: PoolIdentity,
    options: PoolOptions,
    executor: Executor,
    dir: Arc<dyn Directory>,
    volumes_dir: Arc<dyn Directory>,
    database: Arc<Database>,
    ledger: Arc<Group>,
    budget: Arc<Budget>,
    metrics: PoolMetrics,
    state: Mutex<State>,
    _lock: Arc<LockGuard>,
}

#[derive(Debug, Default)]
struct State {
    volumes: BTreeMap<VolumeId, Entry>,
    /// Slots that a volume was charged for while it is not open, by its directory.
    closed: BTreeMap<VolumeId, u64>,
    /// By directory.
    open: BTreeMap<VolumeId, ()>,
}

/// What an open volume holds of its pool.
struct Opened {
    pool: Arc<Pool>,
    id: VolumeId,
    home: VolumeId,
}

// === impl State ===

impl State {
    fn check_new(&self, record: &VolumeRecord) -> Result<(), StoreError> {
        let is_taken = |v: &Entry| v.record.id == record.id || v.record.name == record.name;
        // Nor may it be called like a directory that another one's content lies in.
        if self.volumes.values().any(is_taken) || self.is_home(record.id) {
            return Err(StoreError::Exists { what: format!("volume {}", record.name) });
        }
        Ok(())
    }

    /// The volumes that are filled from snapshots of this one.
    fn filled_from(&self, id: VolumeId) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values().map(|entry| &entry.record).filter(move |record| {
            let needed = record.origin.as_ref().and_then(OriginRecord::snapshot);
            needed.is_some_and(|(volume, _)| volume == id)
        })
    }

    /// The snapshots of what lies in this directory that others are filled from, and those others.
    fn kept_in(&self, home: VolumeId) -> Vec<(SnapshotId, VolumeId)> {
        let is_here =
            |volume: &VolumeId| self.volumes.get(volume).is_some_and(|entry| entry.home == home);
        let kept = |entry: &Entry| {
            let (volume, snapshot) = entry.record.origin.as_ref()?.snapshot()?;
            is_here(&volume).then_some((snapshot, entry.record.id))
        };
        self.volumes.values().filter_map(kept).collect()
    }

    fn is_home(&self, id: VolumeId) -> bool {
        self.volumes.values().any(|entry| entry.home == id)
    }
}

// === impl PoolOptions ===

impl Default for PoolOptions {
    fn default() -> Self {
        Self { capacity_bytes: None, map_pages_max: 4096 }
    }
}

// === impl Pool ===

impl Pool {
    /// Makes a pool in an existing directory that holds none, durably.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Busy`], or what the medium says.
    pub fn create(dir: &Arc<dyn Directory>, identity: PoolIdentity) -> Result<(), StoreError> {
        let _lock = lock(dir.as_ref())?;
        if Superblock::read(dir.as_ref())?.is_some() {
            return Err(StoreError::Exists { what: "pool".to_owned() });
        }
        let making = StoreError::io("make pool");
        let named = dir.list().map_err(making)?.iter().any(|n| n == VOLUMES_DIR);
        if !named {
            dir.make_dir(VOLUMES_DIR).map_err(StoreError::io("make pool"))?;
        }
        drop(database::open(dir.as_ref(), DATABASE_FILE)?);
        dir.sync().map_err(StoreError::io("sync pool directory"))?;
        // The superblock comes last: without it there is no pool.
        Superblock::new(identity).create(dir.as_ref())
    }

    /// Opens a pool. Volumes that a crash left half made or half removed are cleared away.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Busy`] when another process (or this one) has it,
    /// [`StoreError::Features`] and [`StoreError::Version`] for one of a newer release,
    /// [`StoreError::Damaged`], or what the medium says.
    pub fn open(
        dir: Arc<dyn Directory>,
        executor: Executor,
        options: PoolOptions,
    ) -> Result<Arc<Self>, StoreError> {
        let lock = Arc::new(lock(dir.as_ref())?);
        let superblock = Superblock::read(dir.as_ref())?
            .ok_or_else(|| StoreError::NotFound { what: "pool".to_owned() })?;
        let identity = superblock.identity();
        let database = Arc::new(database::open(dir.as_ref(), DATABASE_FILE)?);
        let volumes_dir =
            dir.open_dir(VOLUMES_DIR).map_err(StoreError::io("open volumes directory"))?;
        let volumes = catalogue::load(&database)?;
        let budget = Arc::new(Budget::new(options.capacity_bytes));
        let mut state = State { volumes, ..State::default() };
        clear_away(volumes_dir.as_ref(), &state.volumes)?;
        let homes: BTreeSet<VolumeId> = state.volumes.values().map(|entry| entry.home).collect();
        for home in homes {
            let charged = catalogue::slots_of(volumes_dir.as_ref(), home)?;
            budget.charge(charged);
            state.closed.insert(home, charged);
        }
        let pool = Self {
            identity,
            options,
            executor: executor.clone(),
            dir,
            volumes_dir,
            ledger: Group::new(Arc::clone(&database), executor, Arc::clone(&lock)),
            database,
            budget,
            metrics: PoolMetrics::new(&identity.pool.to_string()),
            state: Mutex::new(state),
            _lock: lock,
        };
        pool.refresh_metrics();
        Ok(Arc::new(pool))
    }

    /// Opens the pool in this directory of the host, with threads of its own.
    ///
    /// # Errors
    /// As [`Pool::open`].
    pub fn open_path(path: &Path, options: PoolOptions) -> Result<Arc<Self>, StoreError> {
        let dir = DiskDirectory::open(path).map_err(StoreError::io("open pool directory"))?;
        let executor = Executor::threads(4, 4).map_err(StoreError::io("start threads"))?;
        Self::open(dir, executor, options)
    }

    /// Makes a pool in this directory of the host.
    ///
    /// # Errors
    /// As [`Pool::create`].
    pub fn create_path(path: &Path, identity: PoolIdentity) -> Result<(), StoreError> {
        std::fs::create_dir_all(path).map_err(StoreError::io("make pool directory"))?;
        let dir = DiskDirectory::open(path).map_err(StoreError::io("open pool directory"))?;
        Self::create(&dir, identity)
    }

    /// Who the pool belongs to.
    #[must_use]
    pub fn identity(&self) -> PoolIdentity {
        self.identity
    }

    /// Every volume, by identity.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeRecord> {
        self.state().volumes.values().map(|entry| entry.record.clone()).collect()
    }

    /// One volume.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<VolumeRecord> {
        self.state().volumes.get(&id).map(|entry| entry.record.clone())
    }

    /// Makes a volume, durably. Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the identity or the name is taken, [`StoreError::Size`] for one
    /// that no volume can have or that is smaller than its origin, or what the medium says.
    pub fn create_volume(&self, record: VolumeRecord) -> Result<(), StoreError> {
        let geometry = Geometry::new(record.bytes).map_err(|_error| StoreError::Size)?;
        let mut state = self.state();
        state.check_new(&record)?;
        let origin_bytes = record.origin.as_ref().map(OriginRecord::bytes);
        if origin_bytes.is_some_and(|bytes| bytes > record.bytes) {
            return Err(StoreError::Size);
        }
        let entry = Entry { home: record.id, record };
        let (id, name) = (entry.record.id, entry.record.id.to_string());
        if self.volumes_dir.open_dir(&name).is_ok() {
            self.volumes_dir.remove_dir(&name).map_err(StoreError::io("clear volume away"))?;
        }
        let dir = self.volumes_dir.make_dir(&name).map_err(StoreError::io("make volume"))?;
        let made = PoolVolume::create(dir.as_ref(), geometry, origin_bytes)
            .and_then(|()| {
                self.volumes_dir.sync().map_err(StoreError::io("sync volumes directory"))
            })
            .and_then(|()| catalogue::put(&self.database, &entry));
        if let Err(e) = made {
            // What stays is cleared away when the pool is opened.
            drop(self.volumes_dir.remove_dir(&name));
            return Err(e);
        }
        state.closed.insert(id, 0);
        state.volumes.insert(id, entry);
        Ok(())
    }

    /// Gives the content of a volume a second identity, durably: from here on both name the same
    /// blocks, and only one of them can be open. Removing either leaves the other. Waits for the disk.
    ///
    /// # Errors
    /// As [`Pool::create_volume`]; [`StoreError::NotFound`], [`StoreError::Busy`] while it is open,
    /// [`StoreError::Needed`] while it is filled.
    pub fn share_volume(&self, of: VolumeId, record: VolumeRecord) -> Result<(), StoreError> {
        let mut state = self.state();
        state.check_new(&record)?;
        let known = state.volumes.get(&of).ok_or_else(|| StoreError::no_volume(of))?;
        if state.open.contains_key(&known.home) {
            return Err(StoreError::Busy { what: format!("volume {of}") });
        }
        if known.record.origin.is_some() {
            return Err(StoreError::needed(&known.record.name, &known.record.name));
        }
        if known.record.bytes != record.bytes {
            return Err(StoreError::Size);
        }
        let (id, entry) = (record.id, Entry { home: known.home, record });
        if self.volumes_dir.open_dir(&id.to_string()).is_ok() && !state.is_home(id) {
            // What a crash left under that name would be taken for its own.
            self.volumes_dir
                .remove_dir(&id.to_string())
                .map_err(StoreError::io("clear volume away"))?;
        }
        catalogue::put(&self.database, &entry)?;
        state.volumes.insert(id, entry);
        Ok(())
    }

    /// Removes a volume and its blocks. Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Busy`] while it is open, [`StoreError::Needed`] while
    /// others are filled from it, or what the medium says.
    pub fn delete_volume(&self, id: VolumeId) -> Result<(), StoreError> {
        let mut state = self.state();
        let home = state.volumes.get(&id).ok_or_else(|| StoreError::no_volume(id))?.home;
        if let Some(filled) = state.filled_from(id).next() {
            return Err(StoreError::needed(&format!("volume {id}"), &filled.name));
        }
        let is_shared = state.volumes.values().filter(|entry| entry.home == home).count() > 1;
        if state.open.contains_key(&home) && !is_shared {
            return Err(StoreError::Busy { what: format!("volume {id}") });
        }
        catalogue::remove(&self.database, id)?;
        state.volumes.remove(&id);
        if is_shared {
            // The other identity goes on with the content.
            return Ok(());
        }
        if let Some(charged) = state.closed.remove(&home) {
            self.budget.refund(charged);
        }
        match self.volumes_dir.remove_dir(&home.to_string()) {
            // Somebody was here before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
        .and_then(|()| self.volumes_dir.sync())
        .map_err(StoreError::io("remove volume"))
    }

    /// Opens a volume on this thread and recovers it if it was not closed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], also when its folder was removed behind the pool's back,
    /// [`StoreError::Busy`] when it is open already, [`StoreError::Damaged`] and the like, or what the medium says.
    pub fn open_volume(self: &Arc<Self>, id: VolumeId) -> Result<Rc<PoolVolume>, StoreError> {
        let mut state = self.state();
        let home = state.volumes.get(&id).ok_or_else(|| StoreError::no_volume(id))?.home;
        if state.open.contains_key(&home) {
            return Err(StoreError::Busy { what: format!("volume {id}") });
        }
        state.open.insert(home, ());
        let kept = state.kept_in(home);
        let charged = state.closed.remove(&home).unwrap_or(0);
        drop(state);
        self.budget.refund(charged);
        // From here on dropping it closes the volume.
        let host = Box::new(Opened { pool: Arc::clone(self), id, home });
        let dir = self.volumes_dir.open_dir(&home.to_string()).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                StoreError::NotFound {
                    what: format!("the folder {VOLUMES_DIR}/{home} of the pool"),
                }
            } else {
                StoreError::io("open volume directory")(error)
            }
        })?;
        let volume = PoolVolume::open(Context {
            id,
            dir,
            executor: self.executor.clone(),
            budget: Arc::clone(&self.budget),
            pages_max: self.options.map_pages_max,
            kept,
            host,
        })?;
        Ok(volume)
    }

    /// The volumes that are filled from snapshots of this one.
    #[must_use]
    pub fn filled_from(&self, id: VolumeId) -> Vec<VolumeRecord> {
        self.state().filled_from(id).cloned().collect()
    }

    /// Forgets durably what a volume was filled from: it has all of it. Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or what the medium says.
    pub fn forget_origin(&self, id: VolumeId) -> Result<(), StoreError> {
        let mut state = self.state();
        let entry = state.volumes.get_mut(&id).ok_or_else(|| StoreError::no_volume(id))?;
        let mut filled = entry.clone();
        filled.record.origin = None;
        catalogue::put(&self.database, &filled)?;
        *entry = filled;
        Ok(())
    }

    /// The small records of this gateway, for use on this thread.
    #[must_use]
    pub fn ledger(&self) -> Rc<PoolLedger> {
        PoolLedger::new(Arc::clone(&self.ledger))
    }

    /// The most bytes that the pool can hold.
    #[must_use]
    pub fn capacity_bytes(&self) -> Option<u64> {
        let medium = self.dir.room().ok().map(|room| room.total);
        self.options.capacity_bytes.into_iter().chain(medium).min()
    }

    /// Bytes of slots that volumes take. For a volume that is not open it is what its files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.budget.used_bytes()
    }

    /// Brings the gauges of capacity and use up to date; for whoever is about to be scraped.
    pub fn refresh_metrics(&self) {
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats; 2^53 bytes are exact")]
        let gauge = |bytes: u64| bytes as f64;
        if let Some(capacity) = self.capacity_bytes() {
            self.metrics.capacity.set(gauge(capacity));
        }
        self.metrics.used.set(gauge(self.used_bytes()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("identity", &self.identity).finish_non_exhaustive()
    }
}

// === impl Opened ===

impl Host for Opened {
    fn resized(&self, bytes: u64) -> Result<(), StoreError> {
        let mut state = self.pool.state();
        let Some(entry) = state.volumes.get_mut(&self.id) else { return Ok(()) };
        entry.record.bytes = bytes;
        let entry = entry.clone();
        drop(state);
        catalogue::put(&self.pool.database, &entry)
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // The volume gave its slots back to the budget; from now on its files stand for them.
        let charged =
            catalogue::slots_of(self.pool.volumes_dir.as_ref(), self.home).unwrap_or_default();
        self.pool.budget.charge(charged);
        let mut state = self.pool.state();
        state.open.remove(&self.home);
        state.closed.insert(self.home, charged);
    }
}

fn lock(dir: &dyn Directory) -> Result<LockGuard, StoreError> {
    dir.lock()
        .map_err(StoreError::io("lock pool"))?
        .ok_or_else(|| StoreError::Busy { what: "pool".to_owned() })
}

/// Removes directories that the catalogue does not name.
fn clear_away(dir: &dyn Directory, volumes: &BTreeMap<VolumeId, Entry>) -> Result<(), StoreError> {
    for name in dir.list().map_err(StoreError::io("list volumes directory"))? {
        if !volumes.values().any(|entry| entry.home.to_string() == name) {
            tracing::info!(name, "remove a volume that was half made or half removed");
            dir.remove_dir(&name).map_err(StoreError::io("clear volume away"))?;
        }
    }
    Ok(())
}
