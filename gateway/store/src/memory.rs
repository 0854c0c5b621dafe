//! A copy of a volume in RAM: the reference that the other stores are held against, and the store
//! of tests. Snapshots share chunks with it until one of them is written.
//!
//! Invariant: everything is answered before `submit` returns. Nothing outlives the object, so what
//! is applied and what is durable are the same here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::{
    ActivityExtent, Answer, BLOCK_BYTES, BlockRange, BlockSet, Extent, Geometry, IoError, Op,
    Recovery, Request, Run, SLOT_BYTES, Segment, Segments, Snapshot, SnapshotId, Store, Ticket,
    Usage, Volume,
};
use bytes::{Bytes, BytesMut};

use crate::crc;
use crate::runs::{self, Runs};

/// A store in RAM.
#[derive(Debug)]
pub struct MemoryStore {
    geometry: Cell<Geometry>,
    read_only: Cell<bool>,
    chunks: RefCell<Chunks>,
    /// Oldest first.
    snapshots: RefCell<Vec<(SnapshotId, Rc<Frozen>)>>,
    activity: RefCell<Vec<ActivityExtent>>,
    recovery: RefCell<Recovery>,
    clean: Cell<bool>,
}

/// Content by chunk.
type Chunks = BTreeMap<u64, Rc<Chunk>>;

/// The content of one moment. Whoever opened it holds it, so it outlives its removal.
#[derive(Debug)]
struct Frozen {
    geometry: Geometry,
    chunks: Chunks,
}

/// 64 KiB of content; a bit of `mask` says that this block was written.
#[derive(Clone, Debug)]
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
            snapshots: RefCell::default(),
            activity: RefCell::default(),
            recovery: RefCell::new(Recovery { clean: true, doubtful: false, active: Vec::new() }),
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
        *self.recovery.borrow_mut() = Recovery { clean, doubtful: false, active };
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

    fn frozen(&self, id: SnapshotId) -> Option<Rc<Frozen>> {
        let snapshots = self.snapshots.borrow();
        snapshots.iter().find(|(known, _)| *known == id).map(|(_, frozen)| Rc::clone(frozen))
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
        read(&self.chunks.borrow(), extent)
    }

    fn write(&self, extent: Extent, data: &[u8]) {
        let mut chunks = self.chunks.borrow_mut();
        let mut rest = data;
        for piece in extent.pieces(SLOT_BYTES) {
            let (now, later) = rest.split_at(size(piece.len()));
            rest = later;
            let chunk = chunks.entry(piece.offset() / SLOT_BYTES).or_default();
            let chunk = Rc::make_mut(chunk);
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
            let chunk = Rc::make_mut(chunk);
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

impl Default for Chunk {
    fn default() -> Self {
        Self { mask: 0, data: vec![0; size(SLOT_BYTES)].into_boxed_slice() }
    }
}

impl Chunk {
    fn mapped_bytes(&self) -> u64 {
        u64::from(self.mask.count_ones()) * BLOCK_BYTES
    }

    /// The blocks that differ; one that is not mapped reads as zeroes.
    fn differing(&self, other: &Self) -> u16 {
        let blocks = self.data.chunks(size(BLOCK_BYTES)).zip(other.data.chunks(size(BLOCK_BYTES)));
        blocks
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .fold(0, |mask, (block, _)| mask | 1 << block)
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
        Ok(layout(&self.chunks.borrow(), extent, limit))
    }
}

impl Volume for Frozen {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read_only(&self) -> bool {
        true
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        for request in batch.drain(..) {
            let result = match request.op {
                op if op.extent().is_some_and(|e| !self.geometry.whole().covers(e)) => {
                    Err(IoError::OutOfRange)
                }
                Op::Read(extent) => Ok(Answer::Read(read(&self.chunks, extent))),
                Op::Cache(_) | Op::Flush => Ok(Answer::Done),
                Op::Write(..) | Op::Zero { .. } | Op::Trim(_) => Err(IoError::ReadOnly),
            };
            request.ticket.answer(result);
        }
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        Ok(layout(&self.chunks, extent, limit))
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
        Usage { mapped_bytes: self.chunks.borrow().values().map(|c| c.mapped_bytes()).sum() }
    }

    fn snapshot(&self, id: SnapshotId, ticket: Ticket) {
        if self.frozen(id).is_some() {
            return ticket.fail(IoError::Invalid);
        }
        self.clean.set(false);
        let frozen = Frozen { geometry: self.geometry(), chunks: self.chunks.borrow().clone() };
        self.snapshots.borrow_mut().push((id, Rc::new(frozen)));
        ticket.done();
    }

    fn remove_snapshot(&self, id: SnapshotId, ticket: Ticket) {
        self.snapshots.borrow_mut().retain(|(known, _)| *known != id);
        ticket.done();
    }

    fn roll_back(&self, id: SnapshotId, ticket: Ticket) {
        let Some(frozen) = self.frozen(id) else { return ticket.fail(IoError::Invalid) };
        self.clean.set(false);
        self.chunks.borrow_mut().clone_from(&frozen.chunks);
        ticket.done();
    }

    fn changed_since(&self, id: SnapshotId, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        let frozen = self.frozen(id).ok_or(IoError::Invalid)?;
        Ok(changed(&self.chunks.borrow(), &frozen.chunks, from, limit))
    }

    fn changed_between(
        &self,
        (one, other): (SnapshotId, SnapshotId),
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, IoError> {
        let frozen = |id| self.frozen(id).ok_or(IoError::Invalid);
        Ok(changed(&frozen(one)?.chunks, &frozen(other)?.chunks, from, limit))
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        let describe = |(id, frozen): &(SnapshotId, Rc<Frozen>)| {
            let chunks = frozen.chunks.values();
            let (own, shared): (Vec<_>, Vec<_>) = chunks.partition(|c| Rc::strong_count(c) == 1);
            let sum = |chunks: Vec<&Rc<Chunk>>| chunks.iter().map(|c| c.mapped_bytes()).sum();
            Snapshot {
                id: *id,
                bytes: frozen.geometry.bytes(),
                exclusive_bytes: sum(own),
                shared_bytes: sum(shared),
            }
        };
        self.snapshots.borrow().iter().map(describe).collect()
    }

    fn open_snapshot(&self, id: SnapshotId) -> Result<Rc<dyn Volume>, IoError> {
        Ok(self.frozen(id).ok_or(IoError::Invalid)?)
    }

    fn close(&self, ticket: Ticket) {
        self.clean.set(true);
        ticket.done();
    }
}

/// The blocks in which the two differ.
fn changed(one: &Chunks, other: &Chunks, from: u64, limit: usize) -> BlockSet {
    let first = from / (SLOT_BYTES / BLOCK_BYTES);
    let indices: BTreeSet<u64> =
        one.range(first..).chain(other.range(first..)).map(|(index, _)| *index).collect();
    let empty = Rc::new(Chunk::default());
    let mut out = runs::Mapped::new(from, limit);
    for index in indices {
        let now = one.get(&index).unwrap_or(&empty);
        let then = other.get(&index).unwrap_or(&empty);
        if !Rc::ptr_eq(now, then) && !out.chunk(index, now.differing(then)) {
            break;
        }
    }
    out.finish()
}

fn read(chunks: &Chunks, extent: Extent) -> Segments {
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

fn layout(chunks: &Chunks, extent: Extent, limit: usize) -> Vec<Run> {
    let mut out = Runs::new(extent, limit);
    let first = extent.offset() / SLOT_BYTES;
    for (index, chunk) in chunks.range(first..extent.end().div_ceil(SLOT_BYTES)) {
        for blocks in runs::mask_runs(chunk.mask) {
            let base = index * (SLOT_BYTES / BLOCK_BYTES);
            let run = BlockRange::new(base + blocks.first(), base + blocks.end());
            if !out.data(run) {
                return out.finish();
            }
        }
    }
    out.finish()
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

    fn ask(ask: impl FnOnce(Ticket)) -> Result<Answer, IoError> {
        let queue = Completions::new();
        ask(queue.ticket(1));
        let mut out = Vec::new();
        queue.take(&mut out);
        out.pop().unwrap().result
    }

    #[test]
    fn keeps_moments_and_returns_to_them_in_any_order() {
        let store = MemoryStore::new(Geometry::new(1 << 20).unwrap());
        let [first, second, third] = [1, 2, 3].map(SnapshotId::of);
        let fill = |byte| run(&store, Op::Write(extent(0, 4096), Bytes::from(vec![byte; 4096])));
        fill(1).unwrap();
        ask(|t| store.snapshot(first, t)).unwrap();
        assert_eq!(ask(|t| store.snapshot(first, t)), Err(IoError::Invalid));
        assert_eq!(store.changed_since(first, 0, 9).unwrap(), []);
        fill(2).unwrap();
        ask(|t| store.grow(2 << 20, t)).unwrap();
        run(&store, Op::Write(extent(1 << 20, 8192), Bytes::from(vec![9; 8192]))).unwrap();
        ask(|t| store.snapshot(second, t)).unwrap();
        let changed = [BlockRange::new(0, 1), BlockRange::new(256, 258)];
        assert_eq!(store.changed_since(first, 0, 9).unwrap(), changed);
        assert_eq!(store.changed_since(first, 257, 9).unwrap(), [BlockRange::new(257, 258)]);
        assert_eq!(store.changed_since(first, 0, 1).unwrap(), changed[..1]);
        ask(|t| store.roll_back(first, t)).unwrap();
        assert_eq!(store.content(extent(0, 4096))[..], [1; 4096]);
        assert_eq!(store.content(extent(1 << 20, 4096))[..], [0; 4096]);
        let view = store.open_snapshot(second).unwrap();
        assert!(view.read_only() && view.geometry().bytes() == 2 << 20);
        assert_eq!(store.open_snapshot(first).unwrap().geometry().bytes(), 1 << 20);
        let known = store.snapshots();
        assert_eq!(
            (known[0].id, known[0].exclusive_bytes, known[0].shared_bytes),
            (first, 0, 4096)
        );
        assert_eq!(
            (known[1].id, known[1].exclusive_bytes, known[1].shared_bytes),
            (second, 12_288, 0)
        );
        ask(|t| store.remove_snapshot(second, t)).unwrap();
        ask(|t| store.remove_snapshot(third, t)).unwrap();
        assert_eq!(ask(|t| store.roll_back(second, t)), Err(IoError::Invalid));
        assert!(store.open_snapshot(second).is_err() && store.changed_since(second, 0, 1).is_err());
        assert_eq!(store.snapshots().len(), 1);
        // Whoever has it open goes on reading it.
        let queue = Completions::new();
        let ops =
            [Op::Read(extent(0, 4096)), Op::Trim(extent(0, 4096)), Op::Read(extent(2 << 20, 1))];
        let request = |(tag, op)| Request { op, fua: false, ticket: queue.ticket(tag) };
        view.submit(&mut (0..).zip(ops).map(request).collect());
        let mut out = Vec::new();
        queue.take(&mut out);
        let data = Segment::Data(Bytes::from(vec![2; 4096]));
        assert_eq!(out[0].result, Ok(Answer::Read([data].into_iter().collect())));
        assert_eq!(out[1].result, Err(IoError::ReadOnly));
        assert_eq!(out[2].result, Err(IoError::OutOfRange));
    }
}
