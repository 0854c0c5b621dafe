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
    /// Given up; the record is not durable yet.
    freed: Vec<u64>,
    /// Given up; a sync that covers the record is under way.
    freeing: Vec<u64>,
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
        let slots = Self { budget, next, free, freed, freeing: Vec::new() };
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

    /// Gives a slot up that a record named.
    pub(crate) fn give_up(&mut self, slot: u64) {
        self.freed.push(slot);
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
        let waiting: RoaringTreemap = self.freed.iter().chain(&self.freeing).copied().collect();
        (&self.free | &waiting, waiting)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.budget.refund(self.used());
    }
}
