//! Filling a volume from its origin while hosts use it, and asking the origin for what is not there.
//!
//! ```text
//!   head ─▶ … ─▶ lowest layer ─▶ origin      a block that no layer has or hides is asked for
//!                    ▲────── fill ──┘        and copied here, where nothing newer can ever be
//!   all is there ─▶ synced ─▶ `Filled` ─▶ synced: the origin is let go
//! ```
//!
//! Invariant: the filler writes blocks that the lowest layer neither has nor hides, in the same turn
//! in which it looks; hosts' changes leave what they have or hide in some layer. So it never writes
//! over anything, whoever is first, and no lock is needed. A block counts as copied when recovery
//! would believe it; the record that ends it all comes behind a commit of every one of them.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::rc::Rc;

use block::{
    BLOCK_BYTES, BlockSet, Extent, IoError, Origin, SLOT_BYTES, Segment, Segments, SnapshotId,
    Ticket, VolumeId,
};
use bytes::Bytes;
use roaring::RoaringTreemap;

use crate::crc::{BLOCK_SIZE, crc32c};
use crate::runs::mask_runs;

use super::ask::{Asked, RANGES_MAX, What};
use super::beneath::chunks_of;
use super::data::Place;
use super::map::page_of;
use super::page::{BLOCKS, CHUNKS, Entry, NO_SLOT};
use super::record::Record;
use super::{Inner, PoolVolume};

/// Bytes that the filler asks for at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces of a step that are under way at once, which bounds the memory.
const PIECES_MAX: usize = 8;
/// Pages that a step looks at.
const PAGES_PER_STEP: usize = 64;

/// What was asked of the origin, and how far filling is.
#[derive(Debug, Default)]
pub(super) struct Fill {
    pub(super) origin: Option<Rc<dyn Origin>>,
    pub(super) asked: Vec<Asked>,
    /// Blocks that the origin has of each page that is not filled.
    need: BTreeMap<u32, u64>,
    /// The chunks that it has anything of.
    chunks: RoaringTreemap,
    /// The block up to which they were counted; `None` when all are.
    counted: Option<u64>,
    /// The next chunk to look at.
    at: u64,
    /// The number behind the last record of a copy.
    last: u64,
}

// === impl Fill ===

impl Fill {
    pub(super) fn new() -> Self {
        Self { counted: Some(0), ..Self::default() }
    }

    /// Blocks that are to be copied; `None` when they are not counted yet.
    pub(super) fn left(&self) -> Option<u64> {
        self.counted.is_none().then(|| self.need.values().sum())
    }

    pub(super) fn set_origin(&mut self, origin: Rc<dyn Origin>) {
        self.origin = Some(origin);
    }

    fn is_stepping(&self) -> bool {
        self.asked.iter().any(|asked| matches!(asked.what, What::Step { .. }))
    }

    /// Counts blocks that the origin has; `true` when those were the last.
    fn count(&mut self, blocks: &BlockSet) -> bool {
        const PER_PAGE: u64 = (CHUNKS * BLOCKS) as u64;
        for range in blocks {
            let mut first = range.first();
            while first < range.end() {
                let end = (first / PER_PAGE + 1).saturating_mul(PER_PAGE).min(range.end());
                *self.need.entry(page_of(first / BLOCKS as u64)).or_default() += end - first;
                self.chunks.insert_range(first / BLOCKS as u64..=(end - 1) / BLOCKS as u64);
                first = end;
            }
        }
        let more = blocks.len() >= RANGES_MAX;
        self.counted = blocks.last().filter(|_| more).map(|last| last.end());
        !more
    }
}

// === impl PoolVolume ===

impl PoolVolume {
    /// Whether some of its content is still at its origin only.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.inner.borrow().map.beneath().is_some()
    }

    /// Bytes that are to be copied from the origin; `None` before they were counted. Whole pages
    /// (16 MiB) are taken off.
    #[must_use]
    pub fn left_bytes(&self) -> Option<u64> {
        self.inner.borrow().fill.left().map(|blocks| blocks * BLOCK_BYTES)
    }

    /// Says where its origin is read. Until then what is not here yet cannot be read.
    pub fn set_origin(&self, origin: Rc<dyn Origin>) {
        self.inner.borrow_mut().fill.set_origin(origin);
    }

    /// Takes one step of filling, then answers: counts what the origin has, copies about
    /// `budget_bytes` of it (at most 8 MiB), or ends filling. To be called until
    /// [`PoolVolume::is_filling`] says no; the last answer says that it is durable. One at a time.
    ///
    /// Answers [`IoError::Origin`] and what else the origin says, [`IoError::NoSpace`],
    /// [`IoError::Media`] and the like; the same step can be taken again then. Hosts go on.
    pub fn fill(&self, budget_bytes: u64, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        inner.fill(budget_bytes, ticket);
        self.drive(&mut inner);
    }

    /// Keeps a snapshot although it may be removed: the volume `by` is filled from it. Whoever keeps
    /// it removes it again behind [`PoolVolume::let_go_of_snapshot`], if nobody else names or keeps it
    /// then. It lasts while the volume is open; the pool knows what is to be kept when it is opened.
    pub fn keep_snapshot(&self, id: SnapshotId, by: VolumeId) {
        self.inner.borrow_mut().chores.keep(id, by);
    }

    /// Ends the [`PoolVolume::keep_snapshot`] of this volume, and no other's.
    pub fn let_go_of_snapshot(&self, id: SnapshotId, by: VolumeId) {
        self.inner.borrow_mut().chores.let_go(id, by);
    }

    /// Whether some volume is filled from a snapshot.
    #[must_use]
    pub fn keeps_snapshot(&self, id: SnapshotId) -> bool {
        self.inner.borrow().chores.is_kept(id)
    }
}

// === impl Inner ===

impl Inner {
    /// Puts content of the origin where the lowest layer has none. Zeroes need no room where the
    /// whole page will be filled, but for one block that must be there at once.
    pub(super) fn copy_in(
        &mut self,
        extent: Extent,
        data: &Segments,
        zeroes: bool,
    ) -> Result<(), IoError> {
        if self.latched {
            return Err(IoError::Latched);
        }
        if !zeroes && data.iter().all(|segment| matches!(segment, Segment::Zero(_))) {
            return Ok(());
        }
        self.flush_group();
        let content = block::joined(data);
        let mut records = Vec::new();
        let mut changes = Vec::new();
        for piece in extent.pieces(SLOT_BYTES) {
            let at = size(piece.offset() - extent.offset());
            let content = content.slice(at..at + size(piece.len()));
            match self.copy_chunk(piece, &content, zeroes) {
                Ok(Some((chunk, before, entry, record))) => {
                    records.push(record);
                    changes.push((chunk, before, entry));
                }
                Ok(None) => {}
                Err(e) => {
                    self.put_slots_back(&changes);
                    return Err(e);
                }
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        let first = self.log.next();
        if let Err(e) = self.ensure_open().and_then(|()| self.append(&records)) {
            self.put_slots_back(&changes);
            return Err(e);
        }
        self.fill.last = self.log.next();
        let lowest = self.map.layers().lowest();
        for (number, (chunk, before, entry)) in (first..).zip(changes) {
            self.uncommitted.add(entry.slot, entry.valid & !before.valid, number);
            self.map.set(lowest, chunk, entry)?;
        }
        self.accounts.filled();
        Ok(())
    }

    /// Writes the blocks of one chunk that nobody has, where nobody looks yet.
    fn copy_chunk(
        &mut self,
        piece: Extent,
        content: &Bytes,
        zeroes: bool,
    ) -> Result<Option<(u64, Entry, Entry, Record)>, IoError> {
        let chunk = piece.offset() / SLOT_BYTES;
        let first = size(piece.offset() % SLOT_BYTES / BLOCK_BYTES);
        let lowest = self.map.layers().lowest();
        let before = self.map.entry(lowest, chunk)?;
        let mut entry = before;
        let mut fresh = 0u16;
        let mut sums = [0; BLOCKS];
        for (block, content) in (first..).zip(content.chunks_exact(BLOCK_SIZE)) {
            let is_there = (before.valid | before.zero) & (1 << block) != 0;
            if !is_there && (zeroes || content.iter().any(|byte| *byte != 0)) {
                fresh |= 1 << block;
                sums[block] = crc32c(content);
                entry.sums[block] = sums[block];
            }
        }
        if fresh == 0 {
            return Ok(None);
        }
        let taken = before.slot == NO_SLOT;
        let slot = if taken { self.take_slot()? } else { before.slot };
        for run in mask_runs(fresh) {
            let at = (size(run.first()) - first) * BLOCK_SIZE;
            let part = &content[at..at + size(run.count() * BLOCK_BYTES)];
            let place = Place::of(slot, run.first() * BLOCK_BYTES);
            if let Err(e) = self.data.write(place, &mut [IoSlice::new(part)]) {
                if taken {
                    self.slots.put_back(slot);
                }
                return Err(self.failed(&e));
            }
            self.metrics.written_data.increment(part.len() as u64);
        }
        entry.slot = slot;
        entry.valid |= fresh;
        entry.summed |= fresh;
        let record = Record::Map { layer: lowest, chunk, slot, fresh, sums };
        Ok(Some((chunk, before, entry, record)))
    }

    fn put_slots_back(&mut self, changes: &[(u64, Entry, Entry)]) {
        for (_, before, entry) in changes {
            if before.slot == NO_SLOT {
                self.slots.put_back(entry.slot);
            }
        }
    }

    // --- the filler ---

    /// Takes a step: counts, copies at most so many bytes, or ends it.
    pub(super) fn fill(&mut self, budget_bytes: u64, ticket: Ticket) {
        if self.latched {
            return ticket.fail(IoError::Latched);
        }
        if self.map.beneath().is_none() {
            return ticket.done();
        }
        if self.fill.is_stepping() || self.lanes.is_closing() {
            return ticket.fail(IoError::Invalid);
        }
        if let Some(from) = self.fill.counted {
            return self.ask_for_blocks(from, ticket);
        }
        let (pieces, until) = match self.next_pieces(budget_bytes) {
            Ok(next) => next,
            Err(e) => return ticket.fail(e),
        };
        if pieces.is_empty() {
            if self.fill.need.is_empty() {
                self.end_fill(ticket)
            } else {
                ticket.done()
            }
            return;
        }
        self.next_id += 1;
        let id = self.next_id;
        let (what, left) = (What::Step { ticket, until }, pieces.len());
        self.fill.asked.push(Asked { id, what, left, error: None });
        for (place, extent) in pieces.into_iter().enumerate() {
            self.question((id, place), extent);
        }
    }

    pub(super) fn counted(&mut self, blocks: &BlockSet) {
        if self.fill.count(blocks) {
            // Where the origin has nothing, there is nothing to wait for.
            let need = &mut self.fill.need;
            self.map.retain_unfilled(|page| need.contains_key(&page));
            // And what was copied before a restart is here.
            if let Some(beneath) = self.map.beneath() {
                need.retain(|page, _| beneath.unfilled.contains(*page));
            }
        }
    }

    /// What is to be copied next, and the chunk before which that ends. Pages of which all is there
    /// are taken off the list.
    fn next_pieces(&mut self, budget_bytes: u64) -> Result<(Vec<Extent>, u64), IoError> {
        let lowest = self.map.layers().lowest();
        for _ in 0..PAGES_PER_STEP {
            let Some(page) = self.fill.need.first_key_value().map(|(page, _)| *page) else { break };
            let (mut out, mut run, mut bytes) = (Vec::new(), None, 0);
            let chunks = chunks_of(page);
            let mut until = chunks.end;
            for chunk in self.fill.at.max(chunks.start)..chunks.end {
                if bytes >= budget_bytes || out.len() + 1 >= PIECES_MAX {
                    until = chunk;
                    break;
                }
                if !self.fill.chunks.contains(chunk) {
                    continue;
                }
                let entry = self.map.entry(lowest, chunk)?;
                let missing = self.map.beneath_mask(chunk) & !(entry.valid | entry.zero);
                for range in mask_runs(missing) {
                    let base = chunk * BLOCKS as u64;
                    bytes += range.count() * BLOCK_BYTES;
                    push_run(&mut out, &mut run, (base + range.first(), base + range.end()));
                }
            }
            out.extend(run.and_then(extent_of));
            if !out.is_empty() {
                return Ok((out, until));
            }
            self.filled_to(until);
        }
        Ok((Vec::new(), 0))
    }

    /// All that the origin has before this chunk is here.
    pub(super) fn filled_to(&mut self, until: u64) {
        self.fill.at = self.fill.at.max(until);
        let Some(page) = self.fill.need.first_key_value().map(|(page, _)| *page) else { return };
        if chunks_of(page).end <= self.fill.at {
            self.fill.need.remove(&page);
            self.map.page_done(page);
        }
    }

    /// All is there: says so when all of it is durable.
    fn end_fill(&mut self, ticket: Ticket) {
        if self.fill.last > self.chores.synced_before() {
            return self.want_sync(ticket);
        }
        match self.ensure_open().and_then(|()| self.append(&[Record::Filled])) {
            Ok(()) => {
                self.map.set_beneath(None);
                self.fill.origin = None;
                self.chores.tree_changed(self.log.next());
                self.want_sync(ticket);
            }
            Err(e) => ticket.fail(e),
        }
    }
}

/// Adds blocks to the run before them, or begins another; a run is at most a piece long.
fn push_run(out: &mut Vec<Extent>, run: &mut Option<(u64, u64)>, next: (u64, u64)) {
    const MOST: u64 = PIECE_BYTES / BLOCK_BYTES;
    match run {
        Some((first, end)) if *end == next.0 && next.1 - *first <= MOST => *end = next.1,
        _ => out.extend(run.replace(next).and_then(extent_of)),
    }
}

fn extent_of((first, end): (u64, u64)) -> Option<Extent> {
    Extent::new(first * BLOCK_BYTES, (end - first) * BLOCK_BYTES).ok()
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a piece is smaller than the address space")
}
