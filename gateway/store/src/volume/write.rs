//! Writes: planned one by one, committed as a group.
//!
//! Invariant: a group is written in this order: blocks that are new (nobody can see them yet), the
//! log, blocks that are overwritten. So a record never stands in the log before the data of a new
//! block was written, and the new checksum of a block that only the log vouches for stands there
//! before the block changes.

use std::io::{self, IoSlice};

use block::{BLOCK_BYTES, Extent, IoError, SLOT_BYTES, Ticket};
use bytes::{Bytes, BytesMut};

use crate::crc::crc32c;
use crate::error::of_io;

use super::data::Place;
use super::page::{BLOCKS, Entry, NO_SLOT};
use super::record::Record;
use super::uncommitted::Known;
use super::{Inner, outcome};

/// Parts of one vectored write; the system takes 1024.
const PARTS_MAX: usize = 256;
/// Bytes of one vectored write. The page cache keeps what one call brought as one large folio, and
/// on ext4 every later change of 4 KiB walks all blocks of its folio: overwriting blocks that came
/// 1 MiB at a time costs several times as much as overwriting those that came 32 KiB at a time,
/// while a first write in small pieces is no slower than one in larger pieces.
const RUN_BYTES_MAX: u64 = SLOT_BYTES / 2;
/// Of what does not stay in the page cache: a disk takes one large write in less time than several.
const ASIDE_BYTES_MAX: u64 = 1 << 20;
/// Less than a slot is left in the page cache: it is likely to be changed again, or to be folded.
const ASIDE_BYTES_MIN: u64 = SLOT_BYTES;
/// Slots (4 MiB) between two looks at how full the medium is.
const TAKES_UNASKED_MAX: u64 = 64;

/// Writes that were planned and not yet written.
#[derive(Debug, Default)]
pub(super) struct Group {
    writes: Vec<Planned>,
    fresh: Vec<DataWrite>,
    over: Vec<DataWrite>,
    records: Vec<Record>,
    undo: Vec<Undo>,
}

#[derive(Debug)]
struct Planned {
    extent: Extent,
    data: Bytes,
    fua: bool,
    ticket: Option<Ticket>,
    result: Result<(), IoError>,
}

#[derive(Debug)]
struct DataWrite {
    /// Index of the write that it belongs to.
    write: usize,
    place: Place,
    data: Bytes,
    layer: u32,
    chunk: u64,
    mask: u16,
}

/// What was before one planned piece.
#[derive(Debug)]
struct Undo {
    layer: u32,
    chunk: u64,
    entry: Entry,
    slot: u64,
    /// The slot was taken for this piece.
    taken: bool,
    uncommitted: Option<Known>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    fresh: usize,
    over: usize,
    records: usize,
    undo: usize,
}

// === impl Group ===

impl Group {
    /// Whether a planned write touches a block of this range.
    pub(super) fn touches(&self, extent: Extent) -> bool {
        let blocks = extent.blocks();
        self.writes.iter().any(|w| {
            let other = w.extent.blocks();
            other.first() < blocks.end() && blocks.first() < other.end()
        })
    }

    /// Adds a write of which everything else is planned.
    pub(super) fn add(
        &mut self,
        (extent, data): (Extent, Bytes),
        fua: bool,
        ticket: Option<Ticket>,
        result: Result<(), IoError>,
    ) {
        self.writes.push(Planned { extent, data, fua, ticket, result });
    }

    /// Takes the empty list of writes that were answered for the next ones.
    fn give_back(&mut self, writes: Vec<Planned>) {
        if self.writes.capacity() < writes.capacity() && self.writes.is_empty() {
            self.writes = writes;
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            fresh: self.fresh.len(),
            over: self.over.len(),
            records: self.records.len(),
            undo: self.undo.len(),
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Plans one write into the group. A failure is kept as its result.
    pub(super) fn plan(&mut self, extent: Extent, data: Bytes, fua: bool, ticket: Option<Ticket>) {
        let result = self.try_plan(extent, &data);
        self.group.add((extent, data), fua, ticket, result);
    }

    fn try_plan(&mut self, extent: Extent, data: &Bytes) -> Result<(), IoError> {
        if self.is_unrecorded(extent) {
            self.record_extents(&[extent])?;
        }
        if extent.is_block_aligned() {
            return self.plan_blocks(extent, data.clone());
        }
        // Whole blocks are written, so that each has a checksum: the edges are read first.
        if self.group.touches(extent) {
            self.flush_group();
        }
        let (whole, data) = self.widen(extent, data)?;
        self.plan_blocks(whole, data)
    }

    /// Puts the bytes around a write that does not begin or end at a block.
    fn widen(&mut self, extent: Extent, data: &Bytes) -> Result<(Extent, Bytes), IoError> {
        let whole = extent.blocks().extent().ok_or(IoError::Invalid)?;
        let mut out = BytesMut::zeroed(size(whole.len()));
        let edge = size(BLOCK_BYTES);
        let last = out.len() - edge;
        let first_block = extent.offset() / BLOCK_BYTES;
        let last_block = whole.end() / BLOCK_BYTES - 1;
        if !extent.offset().is_multiple_of(BLOCK_BYTES) {
            self.read_block(first_block, &mut out[..edge])?;
        }
        if !extent.end().is_multiple_of(BLOCK_BYTES)
            && (last_block > first_block || extent.offset().is_multiple_of(BLOCK_BYTES))
        {
            self.read_block(last_block, &mut out[last..])?;
        }
        let skip = size(extent.offset() - whole.offset());
        out[skip..skip + data.len()].copy_from_slice(data);
        Ok((whole, out.freeze()))
    }

    fn plan_blocks(&mut self, extent: Extent, data: Bytes) -> Result<(), IoError> {
        let mark = self.group.mark();
        let mut data = data;
        for piece in extent.pieces(SLOT_BYTES) {
            let now = data.split_to(size(piece.len()));
            if let Err(e) = self.plan_piece(piece, now) {
                self.undo_to(mark);
                return Err(e);
            }
        }
        Ok(())
    }

    /// Plans the part of a write that lies in one chunk.
    pub(super) fn plan_piece(&mut self, piece: Extent, data: Bytes) -> Result<(), IoError> {
        let chunk = piece.offset() / SLOT_BYTES;
        let first = size(piece.offset() % SLOT_BYTES / BLOCK_BYTES);
        let mut sums = [0; BLOCKS];
        let mut mask = 0u16;
        for (index, block) in data.chunks_exact(size(BLOCK_BYTES)).enumerate() {
            sums[first + index] = crc32c(block);
            mask |= 1 << (first + index);
        }
        let top = self.map.top(chunk)?;
        let before = self.map.entry(top, chunk)?;
        if before.valid & mask == mask && !self.uncommitted.has(before.slot) {
            self.map.set_sums(top, chunk, mask, &sums);
            self.push_data((top, chunk, before.slot), first, data, 0);
            return Ok(());
        }
        let taken = before.slot == NO_SLOT;
        let slot = match taken {
            true if mask == u16::MAX => self.take_slot()?,
            true => self.take_slot_for_part()?,
            false => before.slot,
        };
        let fresh = self.map_piece((top, chunk, slot), before, mask, sums)?;
        self.push_data((top, chunk, slot), first, data, fresh);
        Ok(())
    }

    /// Maps blocks to a slot, in memory; says which of them were not there before.
    pub(super) fn map_piece(
        &mut self,
        (layer, chunk, slot): (u32, u64, u64),
        before: Entry,
        mask: u16,
        sums: [u32; BLOCKS],
    ) -> Result<u16, IoError> {
        let taken = before.slot == NO_SLOT;
        let fresh = mask & !before.valid;
        let known = self.uncommitted.of(slot);
        let recorded = fresh | mask & known.map_or(0, Known::blocks);
        let mut entry = before;
        entry.slot = slot;
        entry.valid |= mask;
        entry.zero &= !mask;
        entry.summed |= mask;
        for block in (0..BLOCKS).filter(|b| mask & (1 << b) != 0) {
            entry.sums[block] = sums[block];
        }
        let undo = Undo { layer, chunk, entry: before, slot, taken, uncommitted: known };
        if let Err(e) = self.map.set(layer, chunk, entry) {
            if taken {
                self.slots.put_back(slot);
            }
            return Err(e);
        }
        self.group.undo.push(undo);
        if recorded != 0 {
            self.uncommitted.add(slot, recorded, u64::MAX);
            self.group.records.push(Record::Map { layer, chunk, slot, fresh: recorded, sums });
        }
        Ok(fresh)
    }

    /// Takes a slot, unless that would eat up the room that checkpoints and recovery need.
    pub(super) fn take_slot(&mut self) -> Result<u64, IoError> {
        if self.takes_unasked == 0 {
            // A medium that cannot say what it has refuses the write itself when it is full.
            if let Ok(room) = self.dir.room() {
                let left = room.free.saturating_sub(room.reserve()) / SLOT_BYTES;
                if left == 0 {
                    if self.slots.freed() > 0 {
                        self.lanes.want_reclaim();
                    }
                    return Err(IoError::NoSpace);
                }
                self.takes_unasked = left.min(TAKES_UNASKED_MAX);
            } else {
                self.takes_unasked = TAKES_UNASKED_MAX;
            }
        }
        let taken = self.slots.take();
        if taken.is_ok() {
            self.takes_unasked -= 1;
        } else if self.slots.freed() > 0 {
            self.lanes.want_reclaim();
        }
        taken
    }

    /// Adds the data of a piece: new blocks to the first part of the group, the others to the last.
    fn push_data(
        &mut self,
        (layer, chunk, slot): (u32, u64, u64),
        first: usize,
        data: Bytes,
        fresh: u16,
    ) {
        let write = self.group.writes.len();
        let count = data.len() / size(BLOCK_BYTES);
        let mut at = 0;
        while at < count {
            let is_fresh = |index: usize| fresh & (1 << (first + index)) != 0;
            let kind = is_fresh(at);
            let most = size(RUN_BYTES_MAX / BLOCK_BYTES);
            let len = (at..count).take(most).take_while(|i| is_fresh(*i) == kind).count();
            let part = data.slice(at * size(BLOCK_BYTES)..(at + len) * size(BLOCK_BYTES));
            let mask = (first + at..first + at + len).fold(0u16, |m, b| m | 1 << b);
            let place = Place::of(slot, (first + at) as u64 * BLOCK_BYTES);
            let into = if kind { &mut self.group.fresh } else { &mut self.group.over };
            into.push(DataWrite { write, place, data: part, layer, chunk, mask });
            at += len;
        }
    }

    /// Takes back everything that was planned after `mark`.
    pub(super) fn undo_to(&mut self, mark: Mark) {
        self.group.fresh.truncate(mark.fresh);
        self.group.records.truncate(mark.records);
        for undo in self.group.undo.split_off(mark.undo).into_iter().rev() {
            self.uncommitted.take_back(undo.slot, undo.uncommitted);
            if undo.taken {
                self.slots.put_back(undo.slot);
            }
            self.map
                .set(undo.layer, undo.chunk, undo.entry)
                .expect("a page with changes that no checkpoint has stays in memory");
        }
        // Their checksums were noted already, but they will not be written.
        for part in self.group.over.split_off(mark.over) {
            self.map
                .distrust(part.layer, part.chunk, part.mask)
                .expect("a page with changes that no checkpoint has stays in memory");
        }
    }

    /// Writes the group and answers its writes.
    pub(super) fn flush_group(&mut self) {
        if self.group.writes.is_empty() {
            return;
        }
        let mut bytes = 0;
        let mut writes = self.commit();
        for planned in writes.drain(..) {
            if planned.result.is_ok() {
                bytes += planned.data.len() as u64;
            }
            let Some(ticket) = planned.ticket else { continue };
            match planned.result {
                Ok(()) if planned.fua => self.want_sync(ticket),
                result => ticket.answer(outcome(result)),
            }
        }
        self.group.give_back(writes);
        self.metrics.written_data.increment(bytes);
    }

    /// Writes bytes of the store's own making, behind everything that was planned.
    pub(super) fn write_now(&mut self, extent: Extent, data: Bytes) -> Result<(), IoError> {
        self.flush_group();
        self.plan(extent, data, false, None);
        self.commit().pop().map_or(Ok(()), |planned| planned.result)
    }

    fn commit(&mut self) -> Vec<Planned> {
        let failed = self.try_commit();
        let mut writes = std::mem::take(&mut self.group.writes);
        if let Err(e) = failed {
            if let [only] = writes.as_mut_slice() {
                only.result = only.result.and(Err(e));
            } else {
                // One write that does not fit must not take its neighbours down with it.
                for planned in writes.iter_mut().filter(|p| p.result.is_ok()) {
                    self.plan(planned.extent, planned.data.clone(), false, None);
                    let again = self.commit().pop();
                    planned.result = again.map_or(Ok(()), |p| p.result);
                }
            }
        }
        writes
    }

    /// Writes the group; on an error nothing of it is in the map, except that a failed overwrite
    /// is the result of its write.
    fn try_commit(&mut self) -> Result<(), IoError> {
        let none = Mark { fresh: 0, over: 0, records: 0, undo: 0 };
        let fresh = std::mem::take(&mut self.group.fresh);
        for run in runs(&fresh, self.run_bytes_max()) {
            if let Err(e) = self.write_run(run) {
                self.undo_to(none);
                return Err(self.failed(&e));
            }
        }
        let records = std::mem::take(&mut self.group.records);
        if !records.is_empty() {
            let first = self.log.next();
            if let Err(e) = self.append(&records) {
                self.undo_to(none);
                return Err(e);
            }
            for (index, record) in (first..).zip(&records) {
                if let Record::Map { slot, .. } = record {
                    self.uncommitted.number(*slot, index);
                }
            }
        }
        self.group.undo.clear();
        let over = std::mem::take(&mut self.group.over);
        for run in runs(&over, self.run_bytes_max()) {
            if self.write_run(run).is_err() {
                self.write_singly(run);
            }
        }
        (self.group.fresh, self.group.over, self.group.records) = (fresh, over, records);
        self.group.fresh.clear();
        self.group.over.clear();
        self.group.records.clear();
        Ok(())
    }

    fn write_singly(&mut self, run: &[DataWrite]) {
        for part in run {
            if let Err(e) = self.write_run(std::slice::from_ref(part)) {
                let error = self.failed(&e);
                // Nobody knows what the block holds now.
                if let Err(e) = self.map.distrust(part.layer, part.chunk, part.mask) {
                    tracing::warn!(error = %e, "distrust a block that could not be written");
                }
                self.group.writes[part.write].result = Err(error);
            }
        }
    }

    fn run_bytes_max(&self) -> u64 {
        if self.aside { ASIDE_BYTES_MAX } else { RUN_BYTES_MAX }
    }

    fn write_run(&mut self, run: &[DataWrite]) -> io::Result<()> {
        let Some(first) = run.first() else { return Ok(()) };
        if let [only] = run {
            return self.data.write(only.place, &mut [IoSlice::new(&only.data)]);
        }
        let mut parts: Vec<IoSlice<'_>> = run.iter().map(|w| IoSlice::new(&w.data)).collect();
        let bytes: u64 = run.iter().map(|w| w.data.len() as u64).sum();
        if self.aside && bytes >= ASIDE_BYTES_MIN {
            return self.data.write_aside(first.place, &mut parts);
        }
        self.data.write(first.place, &mut parts)
    }

    pub(super) fn failed(&self, error: &io::Error) -> IoError {
        self.metrics.errors_write.increment(1);
        tracing::warn!(%error, "write data");
        of_io(error)
    }
}

/// Cuts writes into runs that lie behind one another.
fn runs(writes: &[DataWrite], bytes_max: u64) -> impl Iterator<Item = &[DataWrite]> {
    let mut rest = writes;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut end = Place { offset: first.place.offset + first.data.len() as u64, ..first.place };
        let mut len = 1;
        let mut bytes = first.data.len() as u64;
        for next in rest.iter().skip(1).take(PARTS_MAX - 1) {
            bytes += next.data.len() as u64;
            if next.place != end || bytes > bytes_max {
                break;
            }
            end.offset += next.data.len() as u64;
            len += 1;
        }
        let (run, later) = rest.split_at(len);
        rest = later;
        Some(run)
    })
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a request is smaller than the address space")
}
