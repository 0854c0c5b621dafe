//! Making a volume, and opening it after anything that may have happened.
//!
//! Recovery takes the last checkpoint and replays the log. Records that a `Commit` covers are
//! believed. Of those behind it, one that maps blocks is believed block by block, where what lies
//! in the slot has a checksum that the log names for it: after a loss of power a record may be
//! there without its data, and then the slot holds what some earlier owner left.
//!
//! Invariant: a recovery ends with a checkpoint and a new log, so a record that was not believed
//! once is never read again.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use block::{ACTIVITY_BYTES, BLOCK_BYTES, Geometry, Recovery, SLOT_BYTES};
use redb::{ReadableDatabase, TableError};
use tokio::sync::mpsc;

use crate::crc::{BLOCK_SIZE, crc32c};
use crate::database;
use crate::error::StoreError;
use crate::medium::{Directory, read_padded};
use crate::metrics::Metrics;

use super::account::Accounts;
use super::activity::{ActivityFile, Image, Settling};
use super::beneath::Beneath;
use super::chores::Chores;
use super::data::{DataFiles, Place};
use super::fill::Fill;
use super::lanes::{Lanes, STATE, STATE_KEY, write_checkpoint};
use super::log::{self, Log};
use super::map::{Map, PageKey};
use super::page::{BLOCKS, Entry, NO_SLOT};
use super::record::Record;
use super::slots::Slots;
use super::state::State;
use super::uncommitted::Uncommitted;
use super::write::Group;
use super::{Context, Inner, PoolVolume};

const MAP_FILE: &str = "map.redb";
const ACTIVITY_FILE: &str = "activity";

/// The files of a volume while it is opened.
struct Opening {
    dir: Arc<dyn Directory>,
    database: Arc<redb::Database>,
    map: Map,
    data: DataFiles,
    state: State,
    geometry: Geometry,
    /// The newest log in the directory.
    newest: u64,
    /// The number that the next record would have.
    reached: u64,
}

/// The checksums that uncommitted records name, by slot and block, with the record's number. A
/// record is held against its own and later ones: an earlier one may be of a former owner.
type Named = BTreeMap<(u64, usize), Vec<(u64, u32)>>;

// === impl PoolVolume ===

impl PoolVolume {
    /// Makes the files of a new volume in its empty directory, durably; `origin_bytes` is the size of
    /// what it is filled from.
    pub(crate) fn create(
        dir: &dyn Directory,
        geometry: Geometry,
        origin_bytes: Option<u64>,
    ) -> Result<(), StoreError> {
        let mut state = State::new(geometry.bytes());
        state.beneath = origin_bytes.map(Beneath::new);
        let database = database::open(dir, MAP_FILE)?;
        write_checkpoint(&database, &[], &state)?;
        drop(database);
        let log = Log::create(dir, state.log, state.base).map_err(StoreError::io("make log"))?;
        log.file().sync().map_err(StoreError::io("sync log"))?;
        let file = dir.create(ACTIVITY_FILE).map_err(StoreError::io("make activity record"))?;
        ActivityFile::create(file)?;
        dir.sync().map_err(StoreError::io("sync volume directory"))
    }

    /// Opens a volume and recovers what is to be recovered.
    pub(crate) fn open(context: Context) -> Result<Rc<Self>, StoreError> {
        let file =
            context.dir.open(ACTIVITY_FILE).map_err(StoreError::io("open activity record"))?;
        let (mut activity, image) = ActivityFile::open(file)?;
        let mut opening = Opening::new(&context)?;
        opening.data.forget_clean = !image.clean;
        let records = opening.replay()?;
        let clean = image.clean && records == 0;
        let doubtful = opening.is_doubtful(&image);
        let log = if clean {
            opening.resume()?
        } else {
            opening.distrust(&image)?;
            let settling =
                if doubtful { Settling::Failed } else { Settling::From(opening.state.base) };
            // Before the first sync: one that fails takes with it what it should have kept, and the
            // next start finds nothing amiss.
            activity.begin_settling(settling)?;
            opening.sync_data()?;
            activity.end_settling();
            let log = opening.checkpoint();
            if log.is_err() {
                // What was left is durable all the same: this start cost nothing.
                drop(activity.record());
            }
            log?
        };
        let slots = Slots::new(
            Arc::clone(&context.budget),
            opening.state.next_slot,
            opening.state.free.clone(),
            &opening.state.unpunched,
        );
        let recovery = Recovery { clean, doubtful, active: image.active };
        let own = activity.own().len();
        let recorded = recovery.active.iter().map(|e| (e.index(), ())).collect();
        let (sender, receiver) = mpsc::unbounded_channel();
        let inner = Inner {
            host: Arc::from(context.host),
            dir: context.dir,
            executor: context.executor,
            database: opening.database,
            geometry: opening.geometry,
            latched: false,
            chores: Chores::new(opening.map.layers(), context.kept),
            fill: Fill::new(),
            map: opening.map,
            slots,
            log,
            data: opening.data,
            activity: Arc::new(Mutex::new(activity)),
            recorded,
            own,
            last_miss: u64::MAX - 1,
            takes_unasked: 0,
            uncommitted: Uncommitted::default(),
            group: Group::default(),
            aside: false,
            lanes: Lanes::new(clean),
            busy: Vec::new(),
            held: VecDeque::new(),
            long: VecDeque::new(),
            accounts: Accounts::default(),
            next_id: 0,
            sender,
            metrics: Metrics::new(&context.id.to_string()),
        };
        Ok(Rc::new(Self {
            id: context.id,
            recovery,
            inner: Rc::new(RefCell::new(inner)),
            done: Rc::new(RefCell::new(receiver)),
        }))
    }
}

// === impl Opening ===

impl Opening {
    fn new(context: &Context) -> Result<Self, StoreError> {
        let dir = Arc::clone(&context.dir);
        let database = Arc::new(database::open(dir.as_ref(), MAP_FILE)?);
        let state = load_state(&database)?;
        let geometry = Geometry::new(state.bytes).map_err(|_error| StoreError::Size)?;
        let mut map =
            Map::new(Arc::clone(&database), state.layers.clone(), state.mapped, context.pages_max);
        map.set_beneath(state.beneath.clone());
        let data = DataFiles::new(Arc::clone(&dir));
        let newest = state.log;
        let reached = state.base + 1;
        Ok(Self { dir, database, map, data, state, geometry, newest, reached })
    }

    /// Replays the logs; says how many records there were.
    fn replay(&mut self) -> Result<usize, StoreError> {
        let names = self.dir.list().map_err(StoreError::io("list volume directory"))?;
        let mut logs: Vec<u64> = names.iter().filter_map(|n| log::generation_of(n)).collect();
        logs.sort_unstable();
        self.newest = logs.last().copied().unwrap_or(0).max(self.state.log);
        let mut records = Vec::new();
        let mut next = self.state.base;
        for generation in logs.into_iter().filter(|g| *g >= self.state.log) {
            let file = self
                .dir
                .open(&log::name(generation))
                .map_err(StoreError::io("open the map's log"))?;
            let read = file
                .forget_clean()
                .and_then(|()| log::read(file.as_ref(), generation))
                .map_err(StoreError::io("read the map's log"))?;
            match read {
                // One that does not follow the last was begun after records that are lost.
                Some((base, found)) if base == next => {
                    next = base + 1 + found.len() as u64;
                    records.extend((base + 1..).zip(found));
                }
                _ if generation == self.state.log => {
                    return Err(StoreError::Damaged {
                        what: "map log",
                        why: "the log that the checkpoint names does not begin as it must",
                    });
                }
                _ => break,
            }
        }
        if next == self.state.base {
            return Err(StoreError::Damaged { what: "map log", why: "it is missing" });
        }
        self.reached = next;
        let upto = records
            .iter()
            .filter_map(|(_, r)| if let Record::Commit { upto } = r { Some(*upto) } else { None })
            .max()
            .unwrap_or(0);
        let named = named(&records, upto);
        for (index, record) in &records {
            self.apply(record, (*index >= upto).then_some((&named, *index)))?;
        }
        Ok(records.len())
    }

    /// Applies one record; with `named` only what the data bears out.
    fn apply(&mut self, record: &Record, named: Option<(&Named, u64)>) -> Result<(), StoreError> {
        match record {
            Record::Header { .. } | Record::Commit { .. } => Ok(()),
            Record::Map { layer, chunk, slot, fresh, .. } => {
                let before = self.entry(*layer, *chunk)?;
                let same = before.slot == *slot;
                let known = if same { before.valid } else { 0 };
                let mut believed = fresh & !known;
                if let Some(named) = named {
                    believed = self.verify(*slot, believed, named)?;
                }
                self.map_blocks((*layer, *chunk), *slot, believed, fresh & known)
            }
            Record::Drop { layer, chunk, mask, zero } => {
                let mut entry = self.entry(*layer, *chunk)?;
                let slot = entry.slot;
                entry.drop_blocks(*mask, *zero);
                if slot != NO_SLOT && entry.slot == NO_SLOT {
                    self.give_up(slot);
                }
                self.set(*layer, *chunk, entry)
            }
            Record::DropPage { layer, page } => {
                let key = PageKey::new(*layer, *page);
                for slot in self.map.slots_of(key).map_err(|_error| UNREADABLE)? {
                    self.give_up(slot);
                }
                self.map.clear_page(key).map_err(|_error| UNREADABLE)
            }
            Record::Resize { bytes } => {
                self.geometry = Geometry::new(*bytes).map_err(|_error| StoreError::Size)?;
                Ok(())
            }
            Record::Filled => {
                self.map.set_beneath(None);
                Ok(())
            }
            Record::Seal { .. }
            | Record::Snapshot { .. }
            | Record::Unname { .. }
            | Record::RollBack { .. }
            | Record::DropLayer { .. } => self.relayer(record),
            Record::Fold { from, into, chunk, slot, copied, .. } => {
                if let Some(named) = named
                    && self.verify(*slot, *copied, named)? != *copied
                {
                    // Both layers still have what they had.
                    return Ok(());
                }
                self.fold((*from, *into), *chunk, *copied)
            }
        }
    }

    /// Applies one change of the tree of layers.
    fn relayer(&mut self, record: &Record) -> Result<(), StoreError> {
        if !self.map.layers().takes(record) {
            return Err(StoreError::Damaged { what: "map log", why: "a layer is out of place" });
        }
        let bytes = self.geometry.bytes();
        self.map.relayer(|layers| layers.apply(record, bytes));
        Ok(())
    }

    /// Does again what a fold did with the map.
    fn fold(&mut self, pair: (u32, u32), chunk: u64, copied: u16) -> Result<(), StoreError> {
        let (from, into) = pair;
        if chunk >= block::VOLUME_BYTES_MAX / SLOT_BYTES {
            return Err(StoreError::Damaged { what: "map log", why: "a chunk is out of range" });
        }
        let planned = super::fold::plan(&mut self.map, pair, chunk).map_err(|_error| UNREADABLE)?;
        if planned.copied != copied {
            return Err(StoreError::Damaged { what: "map log", why: "a fold does not fit" });
        }
        let mut entry = planned.entry;
        // What was copied may have been overwritten since.
        entry.summed &= !copied;
        self.set(into, chunk, entry)?;
        self.set(from, chunk, Entry::EMPTY)?;
        if let Some(slot) = planned.gone {
            self.give_up(slot);
        }
        Ok(())
    }

    /// Maps the blocks in `new`; the ones in `again` were mapped before and have other content.
    fn map_blocks(
        &mut self,
        (layer, chunk): (u32, u64),
        slot: u64,
        new: u16,
        again: u16,
    ) -> Result<(), StoreError> {
        let mut entry = self.entry(layer, chunk)?;
        if new == 0 {
            if again == 0 {
                // Its data never came; something else may have.
                self.claim(slot);
                if entry.slot != slot {
                    self.give_up(slot);
                }
                return Ok(());
            }
            entry.summed &= !again;
            return self.set(layer, chunk, entry);
        }
        if entry.slot != slot {
            if entry.slot != NO_SLOT {
                self.give_up(entry.slot);
            }
            entry = Entry { slot, zero: entry.zero, ..Entry::EMPTY };
            self.claim(slot);
        }
        entry.valid |= new;
        entry.zero &= !new;
        entry.summed &= !(new | again);
        self.set(layer, chunk, entry)
    }

    /// Which of these blocks hold what the log names for them.
    fn verify(
        &mut self,
        slot: u64,
        blocks: u16,
        (named, from): (&Named, u64),
    ) -> Result<u16, StoreError> {
        let mut good = 0;
        for block in (0..BLOCKS).filter(|b| blocks & (1 << b) != 0) {
            let place = Place::of(slot, block as u64 * BLOCK_BYTES);
            let mut data = [0; BLOCK_SIZE];
            let file = self.data.get(place.file).map_err(StoreError::io("open data file"))?;
            let Some(file) = file else { continue };
            read_padded(file.as_ref(), &mut data, place.offset)
                .map_err(StoreError::io("read data"))?;
            let sum = crc32c(&data);
            let sums = named.get(&(slot, block));
            if sums.is_some_and(|sums| sums.iter().any(|(i, s)| *i >= from && *s == sum)) {
                good |= 1 << block;
            }
        }
        Ok(good)
    }

    fn entry(&mut self, layer: u32, chunk: u64) -> Result<Entry, StoreError> {
        if chunk >= block::VOLUME_BYTES_MAX / SLOT_BYTES {
            return Err(StoreError::Damaged { what: "map log", why: "a chunk is out of range" });
        }
        self.map.entry(layer, chunk).map_err(|_error| UNREADABLE)
    }

    fn set(&mut self, layer: u32, chunk: u64, entry: Entry) -> Result<(), StoreError> {
        self.map.set(layer, chunk, entry).map_err(|_error| UNREADABLE)
    }

    /// A slot holds something now.
    fn claim(&mut self, slot: u64) {
        if slot >= self.state.next_slot {
            self.state.free.insert_range(self.state.next_slot..slot);
            self.state.unpunched.insert_range(self.state.next_slot..slot);
            self.state.next_slot = slot + 1;
        }
        self.state.free.remove(slot);
        self.state.unpunched.remove(slot);
    }

    /// A slot holds nothing any more; its room is given back later.
    fn give_up(&mut self, slot: u64) {
        self.state.free.insert(slot);
        self.state.unpunched.insert(slot);
    }

    /// Whether the start before this one may have lost what it should have made durable.
    fn is_doubtful(&self, image: &Image) -> bool {
        match image.settling {
            None => false,
            Some(Settling::From(base)) => self.state.base <= base,
            Some(Settling::Failed) => true,
        }
    }

    /// Whatever was written where changes were in flight, its checksums may be older.
    fn distrust(&mut self, image: &Image) -> Result<(), StoreError> {
        let per_extent = ACTIVITY_BYTES / SLOT_BYTES;
        let end = block::VOLUME_BYTES_MAX / SLOT_BYTES;
        for extent in &image.active {
            let first = extent.index().saturating_mul(per_extent);
            if first < end {
                let chunks = first..first + per_extent;
                self.map.distrust_all(chunks).map_err(|_error| UNREADABLE)?;
            }
        }
        Ok(())
    }

    /// Goes on in the log that is there and empty.
    fn resume(&self) -> Result<Log, StoreError> {
        let file = self
            .dir
            .open(&log::name(self.state.log))
            .map_err(StoreError::io("open the map's log"))?;
        Ok(Log::resume(file, self.state.log, self.state.base))
    }

    /// Makes durable what a killed process had written.
    fn sync_data(&mut self) -> Result<(), StoreError> {
        let files =
            self.data.open_all(self.state.next_slot).map_err(StoreError::io("open data files"))?;
        files.iter().try_for_each(|file| file.sync()).map_err(StoreError::io("sync data"))
    }

    /// Makes what was recovered the new beginning.
    fn checkpoint(&mut self) -> Result<Log, StoreError> {
        let log = Log::create(self.dir.as_ref(), self.newest + 1, self.reached)
            .map_err(StoreError::io("begin a new log"))?;
        log.file().sync().map_err(StoreError::io("sync the new log"))?;
        self.dir.sync().map_err(StoreError::io("sync volume directory"))?;
        self.state.bytes = self.geometry.bytes();
        self.state.log = log.generation;
        self.state.base = self.reached;
        self.state.layers.clone_from(self.map.layers());
        self.state.mapped = self.map.mapped;
        self.state.beneath = self.map.beneath().cloned();
        let pages = self.map.begin_checkpoint();
        write_checkpoint(&self.database, &pages, &self.state)?;
        self.map.end_checkpoint();
        for name in self.dir.list().map_err(StoreError::io("list volume directory"))? {
            if log::generation_of(&name).is_some_and(|g| g < log.generation) {
                // One that stays is removed the next time.
                drop(self.dir.remove(&name));
            }
        }
        Ok(Log::resume(log.file(), log.generation, self.reached))
    }
}

const UNREADABLE: StoreError = StoreError::Damaged { what: "map", why: "a page cannot be read" };

fn load_state(database: &redb::Database) -> Result<State, StoreError> {
    let missing = StoreError::Damaged { what: "volume state", why: "it is missing" };
    let transaction =
        database.begin_read().map_err(StoreError::database("begin reading the state"))?;
    let table = match transaction.open_table(STATE) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Err(missing),
        Err(e) => return Err(StoreError::database("open the state")(e)),
    };
    let value = table.get(STATE_KEY).map_err(StoreError::database("read the state"))?;
    State::decode(value.ok_or(missing)?.value())
}

fn named(records: &[(u64, Record)], upto: u64) -> Named {
    let mut named = Named::new();
    for (index, record) in records.iter().filter(|(index, _)| *index >= upto) {
        if let Record::Map { slot, fresh, sums, .. }
        | Record::Fold { slot, copied: fresh, sums, .. } = record
        {
            for block in (0..BLOCKS).filter(|b| fresh & (1 << b) != 0) {
                named.entry((*slot, block)).or_default().push((*index, sums[block]));
            }
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use block::{BlockRange, Extent, SnapshotId, Store, Volume, VolumeId};

    use super::*;
    use crate::disk::DiskDirectory;
    use crate::executor::Executor;
    use crate::volume::Host;
    use crate::volume::map::page_of;
    use crate::volume::page::{CHUNKS, Page};
    use crate::volume::slots::Budget;

    #[derive(Debug)]
    struct Alone;

    impl Host for Alone {
        fn resized(&self, _: u64) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn open(dir: &Arc<dyn Directory>) -> Rc<PoolVolume> {
        PoolVolume::open(Context {
            id: VolumeId::of(1),
            dir: Arc::clone(dir),
            executor: Executor::Inline,
            budget: Arc::new(Budget::new(None)),
            pages_max: 64,
            kept: Vec::new(),
            host: Box::new(Alone),
        })
        .unwrap()
    }

    /// 1 TiB mapped in a volume of 1 PiB: opening must not look at the map's pages. Every 32nd of
    /// them is there, so that what is asked afterwards can be answered.
    #[test]
    fn opens_a_large_volume_at_once() {
        const PAGES: u64 = 65_536;
        const STRIDE: u64 = 64;
        let place = tempfile::tempdir().unwrap();
        let dir = DiskDirectory::open(place.path()).unwrap();
        PoolVolume::create(dir.as_ref(), Geometry::new(1 << 50).unwrap(), None).unwrap();
        let mut state = State::new(1 << 50);
        state.next_slot = PAGES * CHUNKS as u64;
        state.mapped = state.next_slot * BLOCKS as u64;
        let mut pages = Vec::new();
        for index in 0..PAGES {
            let number = page_of(index * STRIDE * CHUNKS as u64);
            state.layers.get_mut(1).unwrap().present.insert(number);
            if index % 32 == 0 || index == 1 {
                let mut page = Page::new();
                for (chunk, slot) in (0..=u8::MAX).zip(index * CHUNKS as u64..) {
                    page.set(chunk, Entry { slot, valid: u16::MAX, ..Entry::EMPTY });
                }
                pages.push((PageKey::new(1, number), Arc::new(page)));
            }
        }
        // All of it is in a snapshot, and on top of that are as many more, and one page.
        for layer in 2..=200 {
            let id = SnapshotId::of(layer.into());
            state.layers.apply(&Record::Snapshot { layer, id }, 1 << 50);
        }
        let mut page = Page::new();
        page.set(9, Entry { slot: state.next_slot, valid: 1, ..Entry::EMPTY });
        pages.push((PageKey::new(200, 3), Arc::new(page)));
        state.layers.get_mut(200).unwrap().present.insert(3);
        (state.next_slot, state.mapped) = (state.next_slot + 1, state.mapped + 1);
        let database = database::open(dir.as_ref(), MAP_FILE).unwrap();
        write_checkpoint(&database, &pages, &state).unwrap();
        drop(database);
        let start = tokio::time::Instant::now();
        let volume = open(&dir);
        let took = start.elapsed();
        assert!(took.as_millis() < 1000, "{took:?}");
        assert_eq!(volume.usage().mapped_bytes, (1 << 40) + BLOCK_BYTES);
        let first = SnapshotId::of(2);
        let changed = volume.changed_since(first, 0, 9).unwrap();
        assert_eq!(changed, [BlockRange::new(3 * 4096 + 9 * 16, 3 * 4096 + 9 * 16 + 1)]);
        let view = volume.open_snapshot(first).unwrap();
        assert_eq!(view.layout(Extent::new(0, 1 << 20).unwrap(), 9).unwrap().len(), 1);
        let mapped = volume.mapped(0, 1).unwrap();
        assert_eq!((mapped[0].first(), mapped[0].count()), (0, 4096));
        // Nothing mapped from here on: no page is looked for.
        let empty = Extent::new(1 << 49, 1 << 49).unwrap();
        let runs = volume.layout(empty, 10).unwrap();
        assert_eq!(runs.len(), 1);
    }
}
