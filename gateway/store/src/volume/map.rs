//! The map of a volume in memory: layers of pages, loaded when they are asked for.
//!
//! Invariant: a page that differs from the database, or that a checkpoint is just writing, stays
//! in memory; every other page may leave at any time.

mod newest;
mod seen;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;

use block::{BLOCK_BYTES, IoError};
use redb::{Database, ReadableDatabase, TableDefinition, TableError};
use roaring::RoaringBitmap;

use crate::error::StoreError;

use super::beneath::Beneath;
use super::layers::Layers;
use super::page::{BLOCKS, CHUNKS, Entry, NO_SLOT, Page};

use self::newest::Newest;
use self::seen::HEAD;

/// Pages by [`PageKey`].
pub(crate) const PAGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("pages");

/// A page of a layer: the layer's id above the page's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PageKey(u64);

#[derive(Debug)]
struct Cached {
    page: Arc<Page>,
    /// Asked for since the clock's hand passed.
    recent: bool,
}

/// A hash for keys that are numbers already.
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

pub(crate) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Where some blocks of a chunk come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The layer that holds them.
    pub(crate) layer: u32,
    /// Which blocks.
    pub(crate) mask: u16,
    /// Where: a slot.
    pub(crate) slot: u64,
}

/// The map of one volume.
#[derive(Debug)]
pub(crate) struct Map {
    database: Arc<Database>,
    layers: Layers,
    /// The layer that is read through: the head, but while a snapshot is read.
    top: u32,
    /// The head is folded into this layer below it: a chunk that the head has nothing of is
    /// written there.
    through: Option<u32>,
    /// What lies below the lowest layer.
    beneath: Option<Beneath>,
    pub(crate) mapped: u64,
    pages: NumberMap<PageKey, Cached>,
    /// Every cached page once, for the clock.
    ring: Vec<PageKey>,
    hand: usize,
    pages_max: usize,
    /// What is known of the head, and behind it of a few snapshots that are read.
    newest: Vec<Newest>,
    /// How many layers were asked for something: what reads cost, as a number that no clock blurs.
    asked: u64,
    dirty: BTreeSet<PageKey>,
    writing: BTreeSet<PageKey>,
}

// === impl PageKey ===

impl PageKey {
    pub(crate) fn new(layer: u32, page: u32) -> Self {
        Self(u64::from(layer) << 32 | u64::from(page))
    }

    pub(crate) fn bare(self) -> u64 {
        self.0
    }

    pub(crate) fn layer(self) -> u32 {
        u32::try_from(self.0 >> 32).expect("the upper half of 64 bits")
    }

    pub(crate) fn page(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).expect("the lower half of 64 bits")
    }
}

/// The page that a chunk is in.
pub(crate) fn page_of(chunk: u64) -> u32 {
    u32::try_from(chunk / CHUNKS as u64).expect("1 PiB has 2^26 pages")
}

/// The place of a chunk in its page.
pub(crate) fn place_of(chunk: u64) -> u8 {
    u8::try_from(chunk % CHUNKS as u64).expect("a page has 256 chunks")
}

// === impl NumberHasher ===

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing; the table uses the upper and the lower bits.
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

// === impl Map ===

impl Map {
    pub(crate) fn new(
        database: Arc<Database>,
        layers: Layers,
        mapped: u64,
        pages_max: usize,
    ) -> Self {
        let pages_max = pages_max.max(16);
        Self {
            database,
            top: layers.head,
            layers,
            through: None,
            beneath: None,
            mapped,
            pages: NumberMap::default(),
            ring: Vec::new(),
            hand: 0,
            pages_max,
            newest: vec![Newest::new(None, pages_max / 4)],
            asked: 0,
            dirty: BTreeSet::new(),
            writing: BTreeSet::new(),
        }
    }

    pub(crate) fn layers(&self) -> &Layers {
        &self.layers
    }

    /// The origin that the volume is filled from.
    pub(crate) fn beneath(&self) -> Option<&Beneath> {
        self.beneath.as_ref()
    }

    pub(crate) fn set_beneath(&mut self, beneath: Option<Beneath>) {
        self.beneath = beneath;
    }

    /// Which blocks of a chunk the origin may have.
    pub(crate) fn beneath_mask(&self, chunk: u64) -> u16 {
        self.beneath.as_ref().map_or(0, |beneath| beneath.mask(chunk))
    }

    /// The origin has nothing of pages that `keep` does not want.
    pub(crate) fn retain_unfilled(&mut self, keep: impl Fn(u32) -> bool) {
        if let Some(beneath) = &mut self.beneath {
            beneath.unfilled = beneath.unfilled.iter().filter(|page| keep(*page)).collect();
        }
    }

    /// All that the origin has of a page is in the lowest layer.
    pub(crate) fn page_done(&mut self, page: u32) {
        if let Some(beneath) = &mut self.beneath {
            beneath.done(page);
        }
    }

    /// Changes the tree of layers.
    pub(crate) fn relayer(&mut self, change: impl FnOnce(&mut Layers)) {
        let before = self.layers.head;
        change(&mut self.layers);
        let head = self.layers.get(self.layers.head);
        let is_above = head.is_some_and(|l| l.id == before || l.parent == Some(before));
        if !is_above && self.layers.get(before).is_some() {
            self.newest[HEAD].clear();
        }
        let layers = &self.layers;
        self.newest.retain(|known| known.root.is_none_or(|root| layers.get(root).is_some()));
        self.top = self.layers.head;
        self.through = None;
    }

    /// Folds the head into the layer below it from now on.
    pub(crate) fn write_through(&mut self, into: u32) {
        debug_assert!(self.lies_on(self.layers.head, into));
        self.through = Some(into);
    }

    /// Ends that.
    pub(crate) fn write_to_head(&mut self) {
        self.through = None;
    }

    /// Whether one layer lies directly on another.
    pub(crate) fn lies_on(&self, upper: u32, lower: u32) -> bool {
        self.layers.get(upper).is_some_and(|l| l.parent == Some(lower))
    }

    /// The layer in which a chunk is written.
    pub(crate) fn top(&mut self, chunk: u64) -> Result<u32, IoError> {
        let head = self.layers.head;
        let Some(into) = self.through else { return Ok(head) };
        Ok(if self.entry(head, chunk)?.is_empty() { into } else { head })
    }

    /// The layers that are written to, the lower one first.
    pub(crate) fn tops(&self) -> impl Iterator<Item = u32> + use<> {
        self.through.into_iter().chain([self.layers.head])
    }

    /// Reads through this layer from now on; returns the one that it was before.
    pub(crate) fn read_through(&mut self, top: u32) -> u32 {
        std::mem::replace(&mut self.top, top)
    }

    pub(crate) fn mapped_bytes(&self) -> u64 {
        self.mapped * BLOCK_BYTES
    }

    /// The entry of a chunk in one layer.
    pub(crate) fn entry(&mut self, layer: u32, chunk: u64) -> Result<Entry, IoError> {
        let page = self.page(PageKey::new(layer, page_of(chunk)))?;
        Ok(page.map_or(Entry::EMPTY, |page| *page.get(place_of(chunk))))
    }

    /// A page; `None` for one that is empty and not in memory.
    pub(crate) fn page(&mut self, key: PageKey) -> Result<Option<&Arc<Page>>, IoError> {
        if !self.pages.contains_key(&key) {
            let Some(page) = self.fetch(key)? else { return Ok(None) };
            self.insert(key, page);
        }
        Ok(self.pages.get_mut(&key).map(|cached| {
            cached.recent = true;
            &cached.page
        }))
    }

    /// The same for who looks at all pages once: none leaves memory for it.
    pub(crate) fn glance(&self, key: PageKey) -> Result<Option<Arc<Page>>, IoError> {
        match self.pages.get(&key) {
            Some(cached) => Ok(Some(Arc::clone(&cached.page))),
            None => Ok(self.fetch(key)?.map(Arc::new)),
        }
    }

    fn fetch(&self, key: PageKey) -> Result<Option<Page>, IoError> {
        if !self.layers.get(key.layer()).is_some_and(|l| l.present.contains(key.page())) {
            return Ok(None);
        }
        self.load(key).map(Some).map_err(|e| {
            tracing::error!(error = %format!("{e:#}"), page = key.bare(), "load map page");
            e.for_request()
        })
    }

    fn load(&self, key: PageKey) -> Result<Page, StoreError> {
        let transaction =
            self.database.begin_read().map_err(StoreError::database("begin reading the map"))?;
        let table = match transaction.open_table(PAGES) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => {
                return Err(StoreError::Damaged { what: "map", why: "it has no pages" });
            }
            Err(e) => return Err(StoreError::database("open the table of pages")(e)),
        };
        let value = table
            .get(key.bare())
            .map_err(StoreError::database("read map page"))?
            .ok_or(StoreError::Damaged { what: "map", why: "a page is missing" })?;
        Page::decode(value.value())
    }

    fn insert(&mut self, key: PageKey, page: Page) {
        self.evict();
        self.pages.insert(key, Cached { page: Arc::new(page), recent: true });
        self.ring.push(key);
    }

    /// Makes room for one page if there are too many; gives up after two rounds, when all are
    /// dirty: the next checkpoint cleans them.
    fn evict(&mut self) {
        let mut steps = self.ring.len() * 2;
        while self.ring.len() >= self.pages_max && steps > 0 {
            steps -= 1;
            self.hand %= self.ring.len();
            let key = self.ring[self.hand];
            let keep = self.dirty.contains(&key) || self.writing.contains(&key);
            let Some(cached) = self.pages.get_mut(&key) else { break };
            if keep || std::mem::take(&mut cached.recent) {
                self.hand += 1;
            } else {
                self.pages.remove(&key);
                self.ring.swap_remove(self.hand);
            }
        }
    }

    /// Changes an entry.
    pub(crate) fn set(&mut self, layer: u32, chunk: u64, entry: Entry) -> Result<(), IoError> {
        let key = PageKey::new(layer, page_of(chunk));
        if self.page(key)?.is_none() {
            self.insert(key, Page::new());
        }
        let cached = self.pages.get_mut(&key).expect("it was loaded or made above");
        let page = Arc::make_mut(&mut cached.page);
        let place = place_of(chunk);
        let old = page.get(place);
        let (valid, touched) = (old.valid.count_ones(), old.touched());
        page.set(place, entry);
        self.mapped += u64::from(entry.valid.count_ones());
        self.mapped -= u64::from(valid);
        let empty = page.is_empty();
        self.mark(key, empty);
        self.touch(layer, chunk, (touched, entry.touched()));
        Ok(())
    }

    /// Empties a whole page.
    pub(crate) fn clear_page(&mut self, key: PageKey) -> Result<(), IoError> {
        let Some(page) = self.page(key)? else { return Ok(()) };
        let blocks: u64 = page.used().map(|(_, e)| u64::from(e.valid.count_ones())).sum();
        self.mapped -= blocks;
        if let Some(cached) = self.pages.get_mut(&key) {
            cached.page = Arc::new(Page::new());
        }
        self.mark(key, true);
        for known in &mut self.newest {
            if known.knows(key.page(), key.layer()) {
                known.forget(key.page());
            }
        }
        Ok(())
    }

    fn mark(&mut self, key: PageKey, empty: bool) {
        self.dirty.insert(key);
        if let Some(layer) = self.layers.get_mut(key.layer()) {
            if empty {
                layer.present.remove(key.page());
            } else {
                layer.present.insert(key.page());
            }
        }
    }

    /// Notes the checksums of blocks that were overwritten in place.
    pub(crate) fn set_sums(&mut self, layer: u32, chunk: u64, mask: u16, sums: &[u32; BLOCKS]) {
        let key = PageKey::new(layer, page_of(chunk));
        if let Some(cached) = self.pages.get_mut(&key) {
            Arc::make_mut(&mut cached.page).set_sums(place_of(chunk), mask, sums);
            if !self.dirty.contains(&key) {
                self.dirty.insert(key);
            }
        }
    }

    /// Stops trusting checksums of neighbouring chunks of one page, in every layer that has something
    /// there.
    pub(crate) fn distrust_all(&mut self, chunks: Range<u64>) -> Result<(), IoError> {
        let page = page_of(chunks.start);
        let there = self.layers.all().iter().filter(|layer| layer.present.contains(page));
        let there: Vec<u32> = there.map(|layer| layer.id).collect();
        for layer in there {
            self.asked += 1;
            for chunk in chunks.clone() {
                self.distrust(layer, chunk, u16::MAX)?;
            }
        }
        Ok(())
    }

    /// Stops trusting checksums of a chunk, if its page is in memory or can be loaded.
    pub(crate) fn distrust(&mut self, layer: u32, chunk: u64, mask: u16) -> Result<(), IoError> {
        let key = PageKey::new(layer, page_of(chunk));
        if self.page(key)?.is_none_or(|page| page.get(place_of(chunk)).summed & mask == 0) {
            return Ok(());
        }
        if let Some(cached) = self.pages.get_mut(&key) {
            Arc::make_mut(&mut cached.page).distrust(place_of(chunk), mask);
            self.dirty.insert(key);
        }
        Ok(())
    }

    pub(crate) fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// The pages that have changes in some layer which no checkpoint has.
    pub(crate) fn unsaved_pages(&self) -> RoaringBitmap {
        self.dirty.iter().chain(&self.writing).map(|key| key.page()).collect()
    }

    /// The pages that a checkpoint must write; they stay in memory until it has ended.
    pub(crate) fn begin_checkpoint(&mut self) -> Vec<(PageKey, Arc<Page>)> {
        debug_assert!(self.writing.is_empty());
        self.writing = std::mem::take(&mut self.dirty);
        let pages = &self.pages;
        self.writing
            .iter()
            .filter_map(|key| pages.get(key).map(|c| (*key, Arc::clone(&c.page))))
            .collect()
    }

    pub(crate) fn end_checkpoint(&mut self) {
        self.writing.clear();
        if let Some(beneath) = &mut self.beneath {
            beneath.end_checkpoint();
        }
    }

    /// What a checkpoint that begins now must keep of the origin.
    pub(crate) fn checkpoint_beneath(&mut self) -> Option<Beneath> {
        self.beneath.as_mut().map(Beneath::begin_checkpoint)
    }

    /// The slots of every entry of a page.
    pub(crate) fn slots_of(&mut self, key: PageKey) -> Result<Vec<u64>, IoError> {
        let page = self.page(key)?;
        Ok(page.map_or_else(Vec::new, |page| {
            page.used().map(|(_, e)| e.slot).filter(|slot| *slot != NO_SLOT).collect()
        }))
    }
}
