//! What a gateway's copies and records live on: the product's own pool on a simulated disk or, to
//! tell a bug of the mirror from one of the pool, platters.
//!
//! Invariant: what is looked at is what is stored. While a process has the pool open and it works,
//! that is what its volumes read; else it is what a new start would find.

mod rot;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use block::{
    Extent, GatewayId, Geometry, Ledger, PoolId, RunKind, SnapshotId, Store, Ticket, Volume,
    VolumeId,
};
use bytes::Bytes;
use store::medium::Directory;
use store::{Executor, Pool, PoolIdentity, PoolOptions, PoolVolume, StoreError, VolumeRecord};
use testkit::SimDisk;

pub(crate) use self::rot::Scrubbed;
use self::rot::{Rotten, read_result};
use crate::kept::Kept;
use crate::platter::{Platter, SECTOR_BYTES};
use crate::rng::Rng;
use crate::sabotage::{Hiding, HidingDirectory};

/// The grain of an [`Image`].
const BLOCK: u64 = block::BLOCK_BYTES;

/// What a process works on.
pub(crate) struct Opened {
    pub(crate) stores: Vec<Rc<dyn Store>>,
    pub(crate) ledger: Rc<dyn Ledger>,
}

/// A pool and its volumes while a process has them open.
type OpenPool = (Arc<Pool>, Vec<Rc<PoolVolume>>);

/// What a site's copies hold at one moment.
#[derive(Debug)]
pub(crate) struct Image {
    blocks: Vec<BTreeMap<u64, Box<[u8]>>>,
    bytes: Vec<u64>,
}

/// What a gateway's copies and records live on.
pub(crate) enum Disks {
    Pool(PoolDisk),
    Platters(Platters),
}

/// A pool on a simulated disk.
pub(crate) struct PoolDisk {
    disk: Arc<SimDisk>,
    volumes: Vec<VolumeId>,
    open: RefCell<Option<OpenPool>>,
    full: Cell<bool>,
    /// A sync was told to fail since the process started.
    failing: Cell<bool>,
    /// One failed since the process started, and another was told to.
    failed: Cell<bool>,
    /// A deliberate break (rule 11): failed syncs are hidden.
    hiding: Option<Hiding>,
    /// A block that rotted.
    rotten: RefCell<Option<Rotten>>,
}

/// A platter a volume, and records that are simply kept.
pub(crate) struct Platters {
    platters: Vec<Rc<Platter>>,
    kept: Rc<Kept>,
}

// === impl Image ===

impl Image {
    /// The first bytes of a sector.
    #[must_use]
    pub(crate) fn peek(&self, volume: usize, sector: u64) -> u64 {
        let offset = sector * SECTOR_BYTES;
        let Some(block) = self.blocks[volume].get(&(offset / BLOCK)) else { return 0 };
        let at = usize::try_from(offset % BLOCK).expect("small");
        let word = block[at..].first_chunk::<8>().expect("a sector has eight bytes");
        u64::from_le_bytes(*word)
    }

    /// The blocks that are mapped.
    #[must_use]
    pub(crate) fn blocks(&self, volume: usize) -> &BTreeMap<u64, Box<[u8]>> {
        &self.blocks[volume]
    }

    /// Whether there is anything of a volume in it.
    #[must_use]
    pub(crate) fn has(&self, volume: usize) -> bool {
        self.bytes[volume] > 0
    }

    /// The size of a volume.
    #[must_use]
    pub(crate) fn bytes(&self, volume: usize) -> u64 {
        self.bytes[volume]
    }
}

// === impl Disks ===

impl Disks {
    /// New ones, with these volumes and the record of their group.
    pub(crate) fn new(
        pool: bool,
        hiding: Option<Hiding>,
        volumes: &[(VolumeId, u64)],
        record: (String, Option<Bytes>),
    ) -> Self {
        if pool {
            return Self::Pool(PoolDisk {
                disk: template(volumes, record).fork(),
                volumes: volumes.iter().map(|(id, _)| *id).collect(),
                open: RefCell::default(),
                full: Cell::new(false),
                failing: Cell::new(false),
                failed: Cell::new(false),
                hiding,
                rotten: RefCell::default(),
            });
        }
        let kept = Kept::new();
        kept.put(vec![record], Ticket::ignored());
        let platter = |(_, bytes): &(VolumeId, u64)| {
            Platter::new(Geometry::new(*bytes).expect("a size of a volume"))
        };
        Self::Platters(Platters { platters: volumes.iter().map(platter).collect(), kept })
    }

    /// A process opens them.
    pub(crate) fn open(&self) -> Result<Opened, StoreError> {
        match self {
            Self::Pool(pool) => pool.open(),
            Self::Platters(platters) => {
                platters.platters.iter().for_each(|platter| platter.reopen());
                let stores = platters.platters.iter().map(|p| Rc::clone(p) as Rc<dyn Store>);
                let ledger = Rc::clone(&platters.kept) as Rc<dyn Ledger>;
                Ok(Opened { stores: stores.collect(), ledger })
            }
        }
    }

    /// The process died.
    pub(crate) fn kill(&self) {
        self.mend();
        if let Self::Pool(pool) = self {
            pool.open.take();
            pool.failing.set(false);
            pool.failed.set(false);
            pool.disk.kill();
        }
    }

    /// Power is about to be lost in the middle of what is under way.
    pub(crate) fn falter(&self, rng: &Rng) {
        self.mend();
        if let Self::Pool(pool) = self {
            pool.disk.stop_at_sync(pool.disk.syncs() + rng.below(4));
        }
    }

    /// Power is lost; nobody has them open.
    pub(crate) fn lose_power(&self, rng: &Rng) {
        self.mend();
        match self {
            Self::Pool(pool) => pool.disk.power_cut(rng.bits()),
            Self::Platters(platters) => platters.platters.iter().for_each(|p| p.lose_power(rng)),
        }
    }

    /// There is no room for new blocks of a volume, until [`Disks::empty`].
    pub(crate) fn fill(&self, rng: &Rng, volume: usize) {
        match self {
            Self::Pool(pool) => {
                // The pool keeps a sixteenth for its records; what a few slots take may be left.
                let room = pool.disk.allocated() / 15 * 16 + rng.below(4) * block::SLOT_BYTES;
                pool.disk.set_capacity(Some(room));
                pool.full.set(true);
            }
            Self::Platters(platters) => platters.platters[volume].set_full(true),
        }
    }

    /// There is room again.
    pub(crate) fn empty(&self) {
        match self {
            Self::Pool(pool) => {
                pool.disk.set_capacity(None);
                pool.full.set(false);
            }
            Self::Platters(platters) => platters.platters.iter().for_each(|p| p.set_full(false)),
        }
    }

    /// One of the next syncs fails.
    pub(crate) fn fail_sync(&self, rng: &Rng, volume: usize) {
        self.mend();
        match self {
            Self::Pool(pool) => {
                pool.failed.set(self.sync_failed());
                pool.failing.set(true);
                pool.disk.fail_sync(pool.disk.syncs() + rng.below(4));
            }
            Self::Platters(platters) => platters.platters[volume].fail_sync(),
        }
    }

    /// The disk is gone from one of the next syncs on; says whether that can be.
    pub(crate) fn vanish_soon(&self, rng: &Rng) -> bool {
        self.mend();
        match self {
            Self::Pool(pool) => {
                pool.disk.stop_at_sync(pool.disk.syncs() + rng.below(6));
                true
            }
            Self::Platters(_) => false,
        }
    }

    /// Whether it is gone.
    pub(crate) fn vanished(&self) -> bool {
        matches!(self, Self::Pool(pool) if pool.disk.stopped())
    }

    /// No fault is pending.
    pub(crate) fn repair(&self) {
        self.mend();
        self.empty();
        match self {
            Self::Pool(pool) => pool.disk.repair(),
            Self::Platters(platters) => platters.platters.iter().for_each(|p| p.repair()),
        }
    }

    /// Whether a sync failed since the process started: what it should have made durable may be
    /// gone with the process.
    pub(crate) fn sync_failed(&self) -> bool {
        let failed =
            |pool: &PoolDisk| pool.failed.get() || (pool.failing.get() && !pool.disk.will_fail());
        matches!(self, Self::Pool(pool) if failed(pool))
    }

    /// Whether a start may fail: there is no room, or a sync was told to fail.
    pub(crate) fn is_impaired(&self) -> bool {
        match self {
            Self::Pool(pool) => pool.full.get() || pool.disk.will_fail() || pool.disk.stopped(),
            Self::Platters(_) => false,
        }
    }

    /// What is stored.
    pub(crate) fn look(&self) -> Result<Image, String> {
        self.mend();
        match self {
            Self::Pool(pool) => pool.look(),
            Self::Platters(platters) => Ok(Image {
                blocks: platters.platters.iter().map(|platter| platter.blocks()).collect(),
                bytes: platters.platters.iter().map(|platter| platter.size()).collect(),
            }),
        }
    }
}

impl Disks {
    /// What these snapshots hold, by the volume, of those that a process has open.
    pub(crate) fn look_at(&self, snapshots: &[(usize, SnapshotId)]) -> Result<Image, String> {
        self.mend();
        let Self::Pool(pool) = self else { return Err("a platter keeps none".to_owned()) };
        let open = pool.open.borrow();
        let (_, volumes) = open.as_ref().ok_or("nobody has the pool open")?;
        let mut image =
            Image { blocks: vec![BTreeMap::new(); volumes.len()], bytes: vec![0; volumes.len()] };
        for (volume, id) in snapshots {
            let view = volumes[*volume].open_snapshot(*id).map_err(|e| format!("open: {e}"))?;
            let bytes = view.geometry().bytes();
            image.bytes[*volume] = bytes;
            let mut from = 0;
            while let Ok(rest) = Extent::new(from, bytes - from) {
                let runs = view.layout(rest, 256).map_err(|e| format!("layout: {e}"))?;
                for run in runs {
                    if let (RunKind::Data, Ok(extent)) = (run.kind, Extent::new(from, run.len)) {
                        let content = read(&*view, extent)?;
                        image.blocks[*volume].extend(blocks_in(extent, &content));
                    }
                    from += run.len;
                }
            }
        }
        Ok(image)
    }
}

// === impl PoolDisk ===

impl PoolDisk {
    fn open(&self) -> Result<Opened, StoreError> {
        let root = self.disk.root();
        let root = match self.hiding {
            Some(how) => HidingDirectory::over(root, how),
            None => root,
        };
        let opened = open(root, &self.volumes);
        let (pool, volumes) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Who cannot open its pool ends.
                self.disk.kill();
                return Err(error);
            }
        };
        let stores = volumes.iter().map(|volume| Rc::clone(volume) as Rc<dyn Store>).collect();
        let ledger = pool.ledger() as Rc<dyn Ledger>;
        *self.open.borrow_mut() = Some((pool, volumes));
        Ok(Opened { stores, ledger })
    }

    fn look(&self) -> Result<Image, String> {
        if let Some((_, volumes)) = &*self.open.borrow()
            && let Ok(image) = image(volumes)
        {
            return Ok(image);
        }
        let copy = self.disk.fork();
        let (_pool, volumes) = open(copy.root(), &self.volumes)
            .map_err(|error| format!("a new start could not open the pool: {error:#}"))?;
        image(&volumes)
    }
}

/// Opens a pool and its volumes.
fn open(root: Arc<dyn Directory>, ids: &[VolumeId]) -> Result<OpenPool, StoreError> {
    let options = PoolOptions { capacity_bytes: None, map_pages_max: 16 };
    let pool = Pool::open(root, Executor::Inline, options)?;
    let volumes = ids.iter().map(|id| pool.open_volume(*id)).collect::<Result<_, _>>()?;
    Ok((pool, volumes))
}

fn image(volumes: &[Rc<PoolVolume>]) -> Result<Image, String> {
    let blocks = volumes.iter().map(|volume| blocks_of(volume.as_ref()));
    Ok(Image {
        blocks: blocks.collect::<Result<_, _>>()?,
        bytes: volumes.iter().map(|volume| Volume::geometry(volume.as_ref()).bytes()).collect(),
    })
}

/// Every mapped block of a store that answers in line.
fn blocks_of(store: &dyn Store) -> Result<BTreeMap<u64, Box<[u8]>>, String> {
    const STEP: usize = 256;
    let mut blocks = BTreeMap::new();
    let mut from = 0;
    loop {
        let mapped = store.mapped(from, STEP).map_err(|e| format!("cannot read the map: {e}"))?;
        let Some(last) = mapped.last() else { return Ok(blocks) };
        from = last.end();
        for extent in mapped.iter().filter_map(|range| range.extent()) {
            let content = read(store, extent)?;
            blocks.extend(blocks_in(extent, &content));
        }
    }
}

/// The blocks of an extent, by their numbers.
fn blocks_in(extent: Extent, content: &[u8]) -> impl Iterator<Item = (u64, Box<[u8]>)> {
    let size = usize::try_from(BLOCK).expect("small");
    (extent.blocks().first()..).zip(content.chunks(size).map(Into::into))
}

fn read(store: &dyn Volume, extent: Extent) -> Result<Vec<u8>, String> {
    read_result(store, extent).map_err(|error| format!("cannot read {extent:?}: {error:?}"))
}

thread_local! {
    /// Pools that were just made, by what is in them: histories begin with a copy of one.
    static TEMPLATES: RefCell<BTreeMap<Template, Arc<SimDisk>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Each has a few MiB, and there are as many as there are ways to draw the sizes of volumes.
const TEMPLATES_MAX: usize = 64;

/// Volumes and the group's record.
type Template = (Vec<(VolumeId, u64)>, Bytes);

fn template(volumes: &[(VolumeId, u64)], record: (String, Option<Bytes>)) -> Arc<SimDisk> {
    let bytes = record.1.clone().unwrap_or_default();
    let key = (volumes.to_vec(), bytes);
    let kept = TEMPLATES.with_borrow(|templates| templates.get(&key).cloned());
    kept.unwrap_or_else(|| {
        let disk = make(volumes, record).expect("a disk without faults takes a pool");
        TEMPLATES.with_borrow_mut(|templates| {
            if templates.len() >= TEMPLATES_MAX {
                templates.clear();
            }
            templates.insert(key, Arc::clone(&disk));
        });
        disk
    })
}

fn make(
    volumes: &[(VolumeId, u64)],
    record: (String, Option<Bytes>),
) -> Result<Arc<SimDisk>, StoreError> {
    let disk = SimDisk::new();
    let identity = PoolIdentity { pool: PoolId::of(1), gateway: GatewayId::of(1) };
    Pool::create(&disk.root(), identity)?;
    let pool = Pool::open(disk.root(), Executor::Inline, PoolOptions::default())?;
    for (index, (id, bytes)) in volumes.iter().enumerate() {
        let name = format!("volume-{index}");
        pool.create_volume(VolumeRecord {
            id: *id,
            name,
            bytes: *bytes,
            created: 1,
            origin: None,
        })?;
    }
    pool.ledger().put(vec![record], Ticket::ignored());
    drop(pool);
    disk.kill();
    Ok(disk)
}
