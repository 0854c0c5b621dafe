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
    BLOCK_BYTES, BlockSet, Extent, IoError, Op, Origin, Reply, Request, SLOT_BYTES, Segment,
    Segments, Ticket,
};
use bytes::{Bytes, BytesMut};
use roaring::RoaringTreemap;
use smallvec::SmallVec;

use crate::crc::{BLOCK_SIZE, crc32c};
use crate::runs::mask_runs;

use super::Inner;
use super::beneath::chunks_of;
use super::data::Place;
use super::lanes::Done;
use super::map::page_of;
use super::page::{BLOCKS, CHUNKS, Entry, NO_SLOT};
use super::read::{Cold, mask_of};
use super::record::Record;

/// Bytes that the filler asks for at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces of a step that are under way at once, which bounds the memory.
const PIECES_MAX: usize = 8;
/// Pages that a step looks at.
const PAGES_PER_STEP: usize = 64;
/// Ranges that the origin is asked for at once when its blocks are counted.
const RANGES_MAX: usize = 4096;

/// What was asked of the origin, and how far filling is.
#[derive(Debug, Default)]
pub(super) struct Fill {
    origin: Option<Rc<dyn Origin>>,
    asked: Vec<Asked>,
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

/// Questions that belong together.
#[derive(Debug)]
struct Asked {
    id: u64,
    what: What,
    left: usize,
    error: Option<IoError>,
}

#[derive(Debug)]
enum What {
    /// A host reads.
    Read(Cold),
    /// A host changes parts of these blocks.
    Edges { request: Request, blocks: SmallVec<[(u64, Segments); 2]> },
    /// A step of the filler, which ends before this chunk.
    Step { ticket: Ticket, until: u64 },
}

/// What the origin answered.
#[derive(Debug)]
pub(super) struct Told {
    id: u64,
    part: Part,
}

#[derive(Debug)]
enum Part {
    /// For a place in the list of those who asked.
    Data(usize, Extent, Result<Segments, IoError>),
    Blocks(Result<BlockSet, IoError>),
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

// === impl Inner ===

impl Inner {
    /// Whether a read or a change of these bytes may need the origin.
    pub(super) fn reaches_origin(&mut self, extent: Extent) -> Result<bool, IoError> {
        if self.map.beneath().is_none() {
            return Ok(false);
        }
        for piece in extent.pieces(SLOT_BYTES) {
            if self.map.reaching(piece.offset() / SLOT_BYTES, mask_of(piece))? != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn question(&self, (id, place): (u64, usize), extent: Extent) {
        let sender = self.sender.clone();
        let reply = Reply::new(move |result| {
            // Nobody asks any more when the volume is gone.
            sender.send(Done::Told(Told { id, part: Part::Data(place, extent, result) })).ok();
        });
        match &self.fill.origin {
            Some(origin) => origin.read(extent, reply),
            None => reply.answer(Err(IoError::Origin)),
        }
    }

    /// Asks for what a read needs of the origin. The read is on the list of reads already.
    pub(super) fn ask_for_read(&mut self, cold: Cold) {
        let gaps: Vec<(usize, Extent)> = cold.gaps().collect();
        let id = cold.id;
        self.fill.asked.push(Asked { id, what: What::Read(cold), left: gaps.len(), error: None });
        for (place, extent) in gaps {
            self.question((id, place), extent);
        }
    }

    /// Lets a change of parts of blocks wait for what the origin has of them; gives it back when
    /// nothing is to be waited for.
    pub(super) fn await_edges(&mut self, request: Request, extent: Extent) -> Option<Request> {
        if self.map.beneath().is_none() || matches!(request.op, Op::Trim(_)) {
            return Some(request);
        }
        let mut edges: SmallVec<[u64; 2]> = [extent.offset(), extent.end()]
            .into_iter()
            .filter(|byte| !byte.is_multiple_of(BLOCK_BYTES))
            .map(|byte| byte / BLOCK_BYTES)
            .collect();
        edges.dedup();
        if edges.is_empty() {
            return Some(request);
        }
        if self.group.touches(extent) {
            self.flush_group();
        }
        let mut missing: SmallVec<[(u64, Segments); 2]> = SmallVec::new();
        for block in edges {
            match self.map.reaching(block / BLOCKS as u64, 1 << (block % BLOCKS as u64)) {
                Ok(0) => {}
                Ok(_) => missing.push((block, Segments::new())),
                Err(e) => {
                    request.ticket.fail(e);
                    return None;
                }
            }
        }
        if missing.is_empty() {
            return Some(request);
        }
        let id = self.begin(extent, true);
        let blocks: SmallVec<[u64; 2]> = missing.iter().map(|(block, _)| *block).collect();
        let (left, what) = (blocks.len(), What::Edges { request, blocks: missing });
        self.fill.asked.push(Asked { id, what, left, error: None });
        for (place, block) in blocks.into_iter().enumerate() {
            if let Ok(extent) = Extent::new(block * BLOCK_BYTES, BLOCK_BYTES) {
                self.question((id, place), extent);
            }
        }
        None
    }

    /// The origin answered.
    pub(super) fn told(&mut self, told: Told) {
        let Some(index) = self.fill.asked.iter().position(|asked| asked.id == told.id) else {
            return;
        };
        let mut asked = self.fill.asked.swap_remove(index);
        asked.left -= 1;
        let taken = match told.part {
            Part::Data(place, extent, result) => result
                .and_then(|data| whole(data, extent))
                .and_then(|data| self.take_in(&mut asked.what, (place, extent), data)),
            Part::Blocks(result) => result.map(|blocks| self.counted(&blocks)),
        };
        if let Err(error) = taken {
            asked.error = asked.error.or(Some(error));
        }
        if asked.left > 0 {
            self.fill.asked.push(asked);
        } else {
            self.all_told(asked);
        }
    }

    fn take_in(
        &mut self,
        what: &mut What,
        (place, extent): (usize, Extent),
        data: Segments,
    ) -> Result<(), IoError> {
        match what {
            What::Read(cold) => cold.put(place, data),
            What::Edges { blocks, .. } => {
                if let Some((_, content)) = blocks.get_mut(place) {
                    *content = data;
                }
            }
            What::Step { .. } => return self.copy_in(extent, &data, false),
        }
        Ok(())
    }

    fn all_told(&mut self, Asked { id, what, error, .. }: Asked) {
        match what {
            What::Read(mut cold) => {
                cold.error = error;
                self.start_cold(cold);
            }
            What::Edges { request, blocks } => {
                let filled = error.map_or(Ok(()), Err).and_then(|()| {
                    blocks.into_iter().try_for_each(|(block, data)| {
                        let extent = Extent::new(block * BLOCK_BYTES, BLOCK_BYTES);
                        self.copy_in(extent.map_err(|_e| IoError::Invalid)?, &data, true)
                    })
                });
                match filled {
                    // Before all that came behind it.
                    Ok(()) => self.held.push_front(request),
                    Err(e) => request.ticket.fail(e),
                }
                self.end(id);
            }
            What::Step { ticket, until } => match error {
                Some(error) => ticket.fail(error),
                None => {
                    self.filled_to(until);
                    ticket.done();
                }
            },
        }
    }

    /// Puts content of the origin where the lowest layer has none. Zeroes need no room where the
    /// whole page will be filled, but for one block that must be there at once.
    fn copy_in(&mut self, extent: Extent, data: &Segments, zeroes: bool) -> Result<(), IoError> {
        if self.latched {
            return Err(IoError::Latched);
        }
        if !zeroes && data.iter().all(|segment| matches!(segment, Segment::Zero(_))) {
            return Ok(());
        }
        self.flush_group();
        let content = flat(data);
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
            let known = self.uncommitted.get(&entry.slot).map_or(0, |(blocks, _)| *blocks);
            let blocks = known | entry.valid & !before.valid;
            self.uncommitted.insert(entry.slot, (blocks, number));
            self.map.set(lowest, chunk, entry)?;
        }
        self.accounts.tree_changed();
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
        let mut sums = Box::new([0; BLOCKS]);
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

    fn ask_for_blocks(&mut self, from: u64, ticket: Ticket) {
        self.next_id += 1;
        let id = self.next_id;
        let what = What::Step { ticket, until: 0 };
        self.fill.asked.push(Asked { id, what, left: 1, error: None });
        let sender = self.sender.clone();
        let reply = Reply::new(move |result| {
            // Nobody asks any more when the volume is gone.
            sender.send(Done::Told(Told { id, part: Part::Blocks(result) })).ok();
        });
        match &self.fill.origin {
            Some(origin) => origin.mapped(from, RANGES_MAX, reply),
            None => reply.answer(Err(IoError::Origin)),
        }
    }

    fn counted(&mut self, blocks: &BlockSet) {
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
    fn filled_to(&mut self, until: u64) {
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

/// An answer that is not as long as the question is none.
fn whole(data: Segments, extent: Extent) -> Result<Segments, IoError> {
    let len: u64 = data.iter().map(Segment::len).sum();
    if len == extent.len() { Ok(data) } else { Err(IoError::Origin) }
}

fn flat(data: &Segments) -> Bytes {
    if let [Segment::Data(only)] = data.as_slice() {
        return only.clone();
    }
    let mut out = BytesMut::new();
    for segment in data {
        match segment {
            Segment::Data(data) => out.extend_from_slice(data),
            Segment::Zero(len) => out.resize(out.len() + size(*len), 0),
        }
    }
    out.freeze()
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a piece is smaller than the address space")
}
