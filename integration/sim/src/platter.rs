//! The simplest disk that can lose power: a copy of one volume whose page cache and medium differ.
//!
//! Invariant: the death of the process loses nothing that was applied. The loss of power keeps, of
//! what was not synced, any sectors in any combination that keeps the order of writes to one
//! sector.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{
    ActivityExtent, Answer, BLOCK_BYTES, BlockRange, BlockSet, Extent, Geometry, IoError, Op,
    Recovery, Request, Run, RunKind, Segment, Segments, Store, Ticket, Usage, Volume,
};
use bytes::Bytes;

use crate::rng::Rng;

/// What a medium writes whole or not at all.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// Content, thin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content(BTreeMap<u64, Box<[u8]>>);

/// A change that is in the page cache only.
#[derive(Clone, Debug)]
struct Unsynced {
    extent: Extent,
    /// `None`: the blocks were given back.
    data: Option<Bytes>,
}

/// A copy of one volume.
#[derive(Debug)]
pub(crate) struct Platter {
    geometry: Cell<Geometry>,
    cache: RefCell<Content>,
    medium: RefCell<Content>,
    unsynced: RefCell<Vec<Unsynced>>,
    active: RefCell<Vec<ActivityExtent>>,
    clean: Cell<bool>,
    recovery: RefCell<Recovery>,
    latched: Cell<bool>,
    full: Cell<bool>,
    sync_fails: Cell<bool>,
}

// === impl Content ===

impl Content {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let extent = Extent::new(offset, data.len() as u64).expect("a change is not empty");
        let mut rest = data;
        for piece in extent.pieces(BLOCK_BYTES) {
            let (now, later) = rest.split_at(size(piece.len()));
            rest = later;
            let block = self.0.entry(piece.offset() / BLOCK_BYTES).or_insert_with(empty);
            let at = size(piece.offset() % BLOCK_BYTES);
            block[at..at + now.len()].copy_from_slice(now);
        }
    }

    fn unmap(&mut self, extent: Extent) {
        for block in extent.blocks().first()..extent.blocks().end() {
            self.0.remove(&block);
        }
    }

    fn apply(&mut self, change: &Unsynced) {
        match &change.data {
            Some(data) => self.write(change.extent.offset(), data),
            None => self.unmap(change.extent),
        }
    }

    fn read(&self, extent: Extent) -> Segments {
        let mut out = Segments::new();
        for piece in extent.pieces(BLOCK_BYTES) {
            match self.0.get(&(piece.offset() / BLOCK_BYTES)) {
                Some(block) => {
                    let at = size(piece.offset() % BLOCK_BYTES);
                    let data = &block[at..at + size(piece.len())];
                    out.push(Segment::Data(Bytes::copy_from_slice(data)));
                }
                None => out.push(Segment::Zero(piece.len())),
            }
        }
        out
    }
}

/// The checksum of a block as it is listed.
fn listed(data: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data);
    block::crc::listed(u32::try_from(crc).expect("a CRC-32 has 32 bits"))
}

fn empty() -> Box<[u8]> {
    vec![0; size(BLOCK_BYTES)].into_boxed_slice()
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a simulated volume is small")
}

// === impl Platter ===

impl Platter {
    /// A copy that reads as zeroes.
    #[must_use]
    pub(crate) fn new(geometry: Geometry) -> Rc<Self> {
        Rc::new(Self {
            geometry: Cell::new(geometry),
            cache: RefCell::default(),
            medium: RefCell::default(),
            unsynced: RefCell::default(),
            active: RefCell::default(),
            clean: Cell::new(true),
            recovery: RefCell::new(Recovery { clean: true, doubtful: false, active: Vec::new() }),
            latched: Cell::new(false),
            full: Cell::new(false),
            sync_fails: Cell::new(false),
        })
    }

    /// A process opens it.
    pub(crate) fn reopen(&self) {
        let clean = self.clean.get();
        let active = if clean { Vec::new() } else { self.active.borrow().clone() };
        *self.recovery.borrow_mut() = Recovery { clean, doubtful: false, active };
        self.latched.set(false);
    }

    /// Power is lost: what was not synced is torn.
    pub(crate) fn lose_power(&self, rng: &Rng) {
        let keep = rng.pick(&[0, 50, 90]);
        let mut medium = self.medium.borrow_mut();
        for change in self.unsynced.borrow_mut().drain(..) {
            if change.data.is_none() {
                if rng.chance(keep) {
                    medium.apply(&change);
                }
                continue;
            }
            for piece in change.extent.pieces(SECTOR_BYTES) {
                if rng.chance(keep) {
                    let from = size(piece.offset() - change.extent.offset());
                    let data = change.data.as_ref().expect("checked above");
                    medium.write(piece.offset(), &data[from..from + size(piece.len())]);
                }
            }
        }
        *self.cache.borrow_mut() = medium.clone();
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        self.geometry.get().bytes()
    }

    /// Refuses to allocate, or has room again.
    pub(crate) fn set_full(&self, full: bool) {
        self.full.set(full);
    }

    /// The next sync fails.
    pub(crate) fn fail_sync(&self) {
        self.sync_fails.set(true);
    }

    /// No fault is pending.
    pub(crate) fn repair(&self) {
        self.full.set(false);
        self.sync_fails.set(false);
    }

    /// The whole content of the blocks that are mapped.
    #[must_use]
    pub(crate) fn blocks(&self) -> BTreeMap<u64, Box<[u8]>> {
        self.cache.borrow().0.clone()
    }

    fn change(&self, change: Unsynced) {
        self.clean.set(false);
        for extent in change.extent.activity() {
            let mut active = self.active.borrow_mut();
            if !active.contains(&extent) {
                active.push(extent);
            }
        }
        self.cache.borrow_mut().apply(&change);
        self.unsynced.borrow_mut().push(change);
    }

    fn sync(&self) -> Result<(), IoError> {
        if self.sync_fails.replace(false) {
            self.latched.set(true);
            return Err(IoError::Media);
        }
        let mut medium = self.medium.borrow_mut();
        for change in self.unsynced.borrow_mut().drain(..) {
            medium.apply(&change);
        }
        Ok(())
    }

    fn allocates(&self, extent: Extent) -> bool {
        let cache = self.cache.borrow();
        let blocks = extent.blocks();
        (blocks.first()..blocks.end()).any(|block| !cache.0.contains_key(&block))
    }

    fn perform(&self, op: Op, fua: bool) -> Result<Answer, IoError> {
        if self.latched.get() {
            return Err(IoError::Latched);
        }
        if op.extent().is_some_and(|e| !self.geometry.get().whole().covers(e)) {
            return Err(IoError::OutOfRange);
        }
        match op {
            Op::Read(extent) => return Ok(Answer::Read(self.cache.borrow().read(extent))),
            Op::Cache(_) => {}
            Op::Flush => self.sync()?,
            Op::Write(extent, data) => {
                if self.full.get() && self.allocates(extent) {
                    return Err(IoError::NoSpace);
                }
                self.change(Unsynced { extent, data: Some(data) });
            }
            Op::Zero { extent, may_trim: false } => {
                if self.full.get() && self.allocates(extent) {
                    return Err(IoError::NoSpace);
                }
                let zeroes = Bytes::from(vec![0; size(extent.len())]);
                self.change(Unsynced { extent, data: Some(zeroes) });
            }
            Op::Zero { extent, may_trim: true } => {
                self.unmap(extent);
                for edge in edges(extent) {
                    if !self.allocates(edge) {
                        let zeroes = Bytes::from(vec![0; size(edge.len())]);
                        self.change(Unsynced { extent: edge, data: Some(zeroes) });
                    }
                }
            }
            Op::Trim(extent) => self.unmap(extent),
        }
        if fua {
            self.sync()?;
        }
        Ok(Answer::Done)
    }

    fn unmap(&self, extent: Extent) {
        if let Some(extent) = extent.whole_blocks().extent() {
            self.change(Unsynced { extent, data: None });
        }
    }
}

/// The parts of a range that are not whole blocks.
fn edges(extent: Extent) -> Vec<Extent> {
    extent.pieces(BLOCK_BYTES).filter(|piece| piece.len() < BLOCK_BYTES).collect()
}

impl Volume for Platter {
    fn geometry(&self) -> Geometry {
        self.geometry.get()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        for request in batch.drain(..) {
            let result = self.perform(request.op, request.fua);
            request.ticket.answer(result);
        }
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        let cache = self.cache.borrow();
        let runs = extent.pieces(BLOCK_BYTES).take(limit).map(|piece| {
            let mapped = cache.0.contains_key(&(piece.offset() / BLOCK_BYTES));
            Run { len: piece.len(), kind: if mapped { RunKind::Data } else { RunKind::Hole } }
        });
        Ok(runs.collect())
    }
}

impl Store for Platter {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        if self.latched.get() {
            ticket.fail(IoError::Latched);
            return;
        }
        *self.active.borrow_mut() = active.to_vec();
        ticket.done();
    }

    fn recovery(&self) -> Recovery {
        self.recovery.borrow().clone()
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        let cache = self.cache.borrow();
        let mut out: BlockSet = Vec::new();
        for block in cache.0.range(from..).map(|(block, _)| *block) {
            let full = out.len() == limit;
            match out.last_mut() {
                Some(run) if run.end() == block => *run = BlockRange::new(run.first(), block + 1),
                _ if full => break,
                _ => out.push(BlockRange::new(block, block + 1)),
            }
        }
        Ok(out)
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        if !extent.is_block_aligned() {
            return Err(IoError::Invalid);
        }
        let cache = self.cache.borrow();
        let blocks = extent.blocks().first()..extent.blocks().end();
        Ok(blocks.map(|block| cache.0.get(&block).map_or(0, |data| listed(data))).collect())
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
        Usage { mapped_bytes: self.cache.borrow().0.len() as u64 * BLOCK_BYTES }
    }

    fn close(&self, ticket: Ticket) {
        match self.sync() {
            Ok(()) => {
                self.clean.set(true);
                ticket.done();
            }
            Err(error) => ticket.fail(error),
        }
    }
}
