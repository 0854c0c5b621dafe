//! A copy of a volume in RAM: the reference that the other stores are held against, and the store
//! of tests.
//!
//! Invariant: everything is answered before `submit` returns. Nothing outlives the object, so what
//! is applied and what is durable are the same here.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{
    ActivityExtent, Answer, BLOCK_BYTES, BlockRange, BlockSet, Extent, Geometry, IoError, Op,
    Recovery, Request, Run, SLOT_BYTES, Segment, Segments, Store, Ticket, Usage, Volume,
};
use bytes::{Bytes, BytesMut};

use crate::crc;
use crate::runs::{self, Runs};

/// A store in RAM.
#[derive(Debug)]
pub struct MemoryStore {
    geometry: Cell<Geometry>,
    read_only: Cell<bool>,
    chunks: RefCell<BTreeMap<u64, Chunk>>,
    activity: RefCell<Vec<ActivityExtent>>,
    recovery: RefCell<Recovery>,
    clean: Cell<bool>,
}

/// 64 KiB of content; a bit of `mask` says that this block was written.
#[derive(Debug)]
struct Chunk {
    mask: u16,
    data: Box<[u8]>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// A store that reads as zeroes.
    #[must_use]
    pub fn new(geometry: Geometry) -> Rc<Self> {
        Rc::new(Self {
            geometry: Cell::new(geometry),
            read_only: Cell::new(false),
            chunks: RefCell::default(),
            activity: RefCell::default(),
            recovery: RefCell::new(Recovery { clean: true, active: Vec::new() }),
            clean: Cell::new(true),
        })
    }

    /// Refuses changes from now on, or takes them again.
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only.set(read_only);
    }

    /// The activity set recorded last.
    #[must_use]
    pub fn activity(&self) -> Vec<ActivityExtent> {
        self.activity.borrow().clone()
    }

    /// Acts out the death and return of the process that owned it: the content stays, and
    /// [`Store::recovery`] tells what a durable store would tell.
    pub fn reopen(&self) {
        let clean = self.clean.get();
        let active = if clean { Vec::new() } else { self.activity.borrow().clone() };
        // One that was not closed stays so, also if nothing happens before it dies again.
        *self.recovery.borrow_mut() = Recovery { clean, active };
    }

    /// The content of a range, whole.
    #[must_use]
    pub fn content(&self, extent: Extent) -> Bytes {
        let mut out = BytesMut::new();
        for segment in self.read(extent) {
            match segment {
                Segment::Data(data) => out.extend_from_slice(&data),
                Segment::Zero(len) => out.resize(out.len() + size(len), 0),
            }
        }
        out.freeze()
    }

    fn apply(&self, op: Op) -> Result<Answer, IoError> {
        if op.extent().is_some_and(|e| !self.geometry.get().whole().covers(e)) {
            return Err(IoError::OutOfRange);
        }
        if op.is_change() {
            if self.read_only.get() {
                return Err(IoError::ReadOnly);
            }
            self.clean.set(false);
        }
        match op {
            Op::Read(extent) => return Ok(Answer::Read(self.read(extent))),
            Op::Write(extent, data) => {
                if data.len() as u64 != extent.len() {
                    return Err(IoError::Invalid);
                }
                self.write(extent, &data);
            }
            Op::Zero { extent, may_trim: true } => {
                self.write_edges(extent);
                self.unmap(extent.whole_blocks());
            }
            Op::Zero { extent, may_trim: false } => self.fill_zero(extent),
            Op::Trim(extent) => self.unmap(extent.whole_blocks()),
            Op::Cache(_) | Op::Flush => {}
        }
        Ok(Answer::Done)
    }

    fn read(&self, extent: Extent) -> Segments {
        let chunks = self.chunks.borrow();
        let mut out = Segments::new();
        for piece in extent.pieces(SLOT_BYTES) {
            let Some(chunk) = chunks.get(&(piece.offset() / SLOT_BYTES)) else {
                runs::push_zero(&mut out, piece.len());
                continue;
            };
            for part in piece.pieces(BLOCK_BYTES) {
                let at = size(part.offset() % SLOT_BYTES);
                if chunk.mask & bit(part.offset()) == 0 {
                    runs::push_zero(&mut out, part.len());
                } else {
                    let data = &chunk.data[at..at + size(part.len())];
                    out.push(Segment::Data(Bytes::copy_from_slice(data)));
                }
            }
        }
        out
    }

    fn write(&self, extent: Extent, data: &[u8]) {
        let mut chunks = self.chunks.borrow_mut();
        let mut rest = data;
        for piece in extent.pieces(SLOT_BYTES) {
            let (now, later) = rest.split_at(size(piece.len()));
            rest = later;
            let chunk = chunks.entry(piece.offset() / SLOT_BYTES).or_insert_with(Chunk::empty);
            let at = size(piece.offset() % SLOT_BYTES);
            chunk.data[at..at + now.len()].copy_from_slice(now);
            for part in piece.pieces(BLOCK_BYTES) {
                chunk.mask |= bit(part.offset());
            }
        }
    }

    fn fill_zero(&self, extent: Extent) {
        for piece in extent.pieces(SLOT_BYTES) {
            self.write(piece, &vec![0; size(piece.len())]);
        }
    }

    /// Zeroes the parts of blocks at both ends of a range whose whole blocks are dropped; a block
    /// that is not mapped reads as zeroes already.
    fn write_edges(&self, extent: Extent) {
        for edge in runs::edges(extent) {
            let chunks = self.chunks.borrow();
            let mapped = chunks
                .get(&(edge.offset() / SLOT_BYTES))
                .is_some_and(|c| c.mask & bit(edge.offset()) != 0);
            drop(chunks);
            if mapped {
                self.write(edge, &vec![0; size(edge.len())]);
            }
        }
    }

    fn unmap(&self, blocks: BlockRange) {
        let Some(extent) = blocks.extent() else { return };
        let mut chunks = self.chunks.borrow_mut();
        let span = extent.offset() / SLOT_BYTES..extent.end().div_ceil(SLOT_BYTES);
        let touched: Vec<u64> = chunks.range(span).map(|(index, _)| *index).collect();
        for index in touched {
            let whole = Extent::new(index * SLOT_BYTES, SLOT_BYTES).expect("a slot is not empty");
            let Some(part) = whole.intersection(extent) else { continue };
            let Some(chunk) = chunks.get_mut(&index) else { continue };
            for block in part.pieces(BLOCK_BYTES) {
                chunk.mask &= !bit(block.offset());
                let at = size(block.offset() % SLOT_BYTES);
                chunk.data[at..at + size(BLOCK_BYTES)].fill(0);
            }
            if chunk.mask == 0 {
                chunks.remove(&index);
            }
        }
    }
}

impl Chunk {
    fn empty() -> Self {
        Self { mask: 0, data: vec![0; size(SLOT_BYTES)].into_boxed_slice() }
    }
}

impl Volume for MemoryStore {
    fn geometry(&self) -> Geometry {
        self.geometry.get()
    }

    fn read_only(&self) -> bool {
        self.read_only.get()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        for request in batch.drain(..) {
            let result = self.apply(request.op);
            request.ticket.answer(result);
        }
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        let chunks = self.chunks.borrow();
        let mut out = Runs::new(extent, limit);
        let first = extent.offset() / SLOT_BYTES;
        for (index, chunk) in chunks.range(first..extent.end().div_ceil(SLOT_BYTES)) {
            for blocks in runs::mask_runs(chunk.mask) {
                let base = index * (SLOT_BYTES / BLOCK_BYTES);
                let run = BlockRange::new(base + blocks.first(), base + blocks.end());
                if !out.data(run) {
                    return Ok(out.finish());
                }
            }
        }
        Ok(out.finish())
    }
}

impl Store for MemoryStore {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        *self.activity.borrow_mut() = active.to_vec();
        ticket.done();
    }

    fn recovery(&self) -> Recovery {
        self.recovery.borrow().clone()
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        let chunks = self.chunks.borrow();
        let mut out = runs::Mapped::new(from, limit);
        for (index, chunk) in chunks.range(from / (SLOT_BYTES / BLOCK_BYTES)..) {
            if !out.chunk(*index, chunk.mask) {
                break;
            }
        }
        Ok(out.finish())
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        if !extent.is_block_aligned() {
            return Err(IoError::Invalid);
        }
        let mut out = Vec::new();
        for segment in self.read(extent) {
            match segment {
                Segment::Data(data) => out.extend(crc::listed_blocks(&data)),
                Segment::Zero(len) => out.resize(out.len() + size(len / BLOCK_BYTES), 0),
            }
        }
        Ok(out)
    }

    fn grow(&self, bytes: u64, ticket: Ticket) {
        match Geometry::new(bytes) {
            Ok(geometry) if bytes >= self.geometry.get().bytes() => {
                self.geometry.set(geometry);
                ticket.done();
            }
            _ => ticket.fail(IoError::Invalid),
        }
    }

    fn usage(&self) -> Usage {
        let blocks: u64 =
            self.chunks.borrow().values().map(|c| u64::from(c.mask.count_ones())).sum();
        Usage { mapped_bytes: blocks * BLOCK_BYTES }
    }

    fn close(&self, ticket: Ticket) {
        self.clean.set(true);
        ticket.done();
    }
}

/// The bit of the block at this byte in its chunk's mask.
fn bit(offset: u64) -> u16 {
    1 << (offset % SLOT_BYTES / BLOCK_BYTES)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a request is smaller than the address space")
}

#[cfg(test)]
mod tests {
    use block::{Completions, RunKind};

    use super::*;

    fn run(store: &MemoryStore, op: Op) -> Result<Answer, IoError> {
        let queue = Completions::new();
        store.submit(&mut vec![Request { op, fua: false, ticket: queue.ticket(1) }]);
        let mut out = Vec::new();
        queue.take(&mut out);
        out.pop().unwrap().result
    }

    fn extent(offset: u64, len: u64) -> Extent {
        Extent::new(offset, len).unwrap()
    }

    #[test]
    fn reads_back_what_was_written_and_trims_whole_blocks_only() {
        let store = MemoryStore::new(Geometry::new(1 << 20).unwrap());
        run(&store, Op::Write(extent(65_000, 10_000), Bytes::from(vec![7; 10_000]))).unwrap();
        run(&store, Op::Trim(extent(65_000, 10_000))).unwrap();
        let content = store.content(extent(65_000, 10_000));
        assert!(content[..536].iter().all(|b| *b == 7));
        assert!(content[536..536 + 8192].iter().all(|b| *b == 0));
        assert!(content[536 + 8192..].iter().all(|b| *b == 7));
        assert_eq!(store.usage().mapped_bytes, 8192);
        assert_eq!(store.mapped(0, 9).unwrap(), [BlockRange::new(15, 16), BlockRange::new(18, 19)]);
        let runs = store.layout(extent(0, 1 << 20), 3).unwrap();
        assert_eq!(runs[0], Run { len: 61_440, kind: RunKind::Hole });
        assert_eq!(runs[1], Run { len: 4096, kind: RunKind::Data });
        assert_eq!(runs[2], Run { len: 8192, kind: RunKind::Hole });
    }

    #[test]
    fn lists_a_hole_and_stored_zeroes_alike() {
        let store = MemoryStore::new(Geometry::new(1 << 20).unwrap());
        run(&store, Op::Zero { extent: extent(0, 4096), may_trim: false }).unwrap();
        run(&store, Op::Write(extent(8192, 4096), Bytes::from(vec![1; 4096]))).unwrap();
        let sums = store.checksums(extent(0, 12_288)).unwrap();
        assert_eq!((sums[0], sums[1]), (0, 0));
        assert_ne!(sums[2], 0);
        assert_eq!(store.usage().mapped_bytes, 8192);
    }
}
