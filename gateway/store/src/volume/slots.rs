//! Which slots are free.
//!
//! Invariant: a slot that was given up is not handed out again before the record that gave it up
//! is durable: until then a crash would bring its old owner back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{IoError, SLOT_BYTES};
use roaring::RoaringTreemap;

/// What all volumes of a pool may take together.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Slots; `u64::MAX` for no limit but the medium's.
    capacity: u64,
    used: AtomicU64,
}

/// The slots of one volume.
#[derive(Debug)]
pub(crate) struct Slots {
    budget: Arc<Budget>,
    pub(crate) next: u64,
    pub(crate) free: RoaringTreemap,
    /// Taken, and being written by a worker: no record names them yet.
    flying: Vec<u64>,
    /// Given up, but perhaps read from, or needed if a record is not believed.
    parked: Vec<Parked>,
    /// Given up; the record is not durable yet.
    freed: Vec<u64>,
    /// Given up; a sync that covers the record is under way.
    freeing: Vec<u64>,
}

/// A slot that must stay what it is for a while.
#[derive(Clone, Copy, Debug)]
struct Parked {
    slot: u64,
    /// Reads up to this one may be reading from it.
    reader: u64,
    /// The record that must be committed before; 0 for none.
    record: u64,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(capacity_bytes: Option<u64>) -> Self {
        let capacity = capacity_bytes.map_or(u64::MAX, |bytes| bytes / SLOT_BYTES);
        Self { capacity, used: AtomicU64::new(0) }
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed) * SLOT_BYTES
    }

    pub(crate) fn charge(&self, slots: u64) {
        self.used.fetch_add(slots, Ordering::Relaxed);
    }

    pub(crate) fn refund(&self, slots: u64) {
        self.used.fetch_sub(slots, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < self.capacity).then_some(used + 1)
            })
            .is_ok()
    }
}

// === impl Slots ===

impl Slots {
    /// `unpunched` slots are free but may still take room: they are given up once more.
    pub(crate) fn new(
        budget: Arc<Budget>,
        next: u64,
        mut free: RoaringTreemap,
        unpunched: &RoaringTreemap,
    ) -> Self {
        free -= unpunched;
        let freed: Vec<u64> = unpunched.iter().collect();
        let (parked, freeing) = (Vec::new(), Vec::new());
        let slots = Self { budget, next, free, flying: Vec::new(), parked, freed, freeing };
        slots.budget.charge(slots.used());
        slots
    }

    /// Slots that hold data or wait to be given back.
    pub(crate) fn used(&self) -> u64 {
        self.next - self.free.len()
    }

    /// Slots that wait for a sync.
    pub(crate) fn freed(&self) -> usize {
        self.freed.len()
    }

    pub(crate) fn take(&mut self) -> Result<u64, IoError> {
        if !self.budget.take() {
            return Err(IoError::NoSpace);
        }
        if let Some(slot) = self.free.min() {
            self.free.remove(slot);
            return Ok(slot);
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Takes a slot back that no record ever named.
    pub(crate) fn put_back(&mut self, slot: u64) {
        self.free.insert(slot);
        self.budget.refund(1);
    }

    /// A worker writes into a slot that was taken.
    pub(crate) fn fly(&mut self, slot: u64) {
        self.flying.push(slot);
    }

    /// It has written.
    pub(crate) fn land(&mut self, slot: u64) {
        self.flying.retain(|other| *other != slot);
    }

    /// Gives a slot up that a record named.
    pub(crate) fn give_up(&mut self, slot: u64) {
        self.freed.push(slot);
    }

    /// Gives a slot up as soon as the reads up to `reader` have ended and record number `record`
    /// (0 for none) is committed.
    pub(crate) fn give_up_after(&mut self, slot: u64, reader: u64, record: u64) {
        self.parked.push(Parked { slot, reader, record });
    }

    /// All reads before `reader` have ended, all records before `record` are committed.
    pub(crate) fn unpark(&mut self, reader: u64, record: u64) {
        let freed = &mut self.freed;
        self.parked.retain(|parked| {
            let stays = parked.reader >= reader || (parked.record != 0 && parked.record >= record);
            if !stays {
                freed.push(parked.slot);
            }
            stays
        });
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// A sync begins; it covers the records of everything that was given up so far.
    pub(crate) fn begin_sync(&mut self) -> Vec<u64> {
        debug_assert!(self.freeing.is_empty());
        self.freeing = std::mem::take(&mut self.freed);
        self.freeing.sort_unstable();
        self.freeing.clone()
    }

    /// That sync succeeded.
    pub(crate) fn end_sync(&mut self) {
        self.budget.refund(self.freeing.len() as u64);
        self.free.extend(self.freeing.drain(..));
    }

    /// What a checkpoint that is made now should know: all that is free, and the part of it that
    /// was not given back to the medium yet.
    pub(crate) fn for_checkpoint(&self) -> (RoaringTreemap, RoaringTreemap) {
        let parked = self.parked.iter().map(|p| &p.slot);
        let waiting: RoaringTreemap = self
            .freed
            .iter()
            .chain(&self.freeing)
            .chain(&self.flying)
            .chain(parked)
            .copied()
            .collect();
        (&self.free | &waiting, waiting)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.budget.refund(self.used());
    }
}
