//! Which slots are free.
//!
//! Invariant: a slot that was given up is not handed out again before the record that gave it up
//! is durable: until then a crash would bring its old owner back.

use std::collections::VecDeque;
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

/// Slots (1 MiB) that are given room at once by a volume whose small writes begin to take some.
const READY_MIN: usize = 16;
/// The same (16 MiB) for one whose writes found none ready: the most that a volume holds unused.
const READY_MAX: usize = 256;
/// Small writes that take a slot before a medium that had no room to spare is asked again.
const UNREADY_TAKES: usize = 1024;

/// The slots of one volume.
#[derive(Debug)]
pub(crate) struct Slots {
    budget: Arc<Budget>,
    pub(crate) next: u64,
    pub(crate) free: RoaringTreemap,
    ready: Ready,
    /// Taken, and being written by a worker: no record names them yet.
    flying: Vec<u64>,
    /// Given up, but perhaps read from.
    parked: Vec<Parked>,
    /// Given up, but needed if a record is not believed. They may be as many as a fold copied before
    /// the next commit, so nothing but a commit looks at them.
    copied: Vec<Parked>,
    /// The records before this number are committed.
    committed: u64,
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

/// Slots that have their room before anything is written to them. A write to where a file has no
/// blocks yet costs the shard about twice as much as one to where it has: room that a worker takes
/// ahead, many slots in one call, keeps the first write after a snapshot as cheap as any other.
/// Nothing names them: for the budget and for a checkpoint they are free.
#[derive(Debug)]
struct Ready {
    slots: VecDeque<u64>,
    /// A worker gives them room.
    coming: Vec<u64>,
    /// How many are given room the next time.
    batch: usize,
    /// Takes until the next attempt.
    pause: usize,
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
        let ready =
            Ready { slots: VecDeque::new(), coming: Vec::new(), batch: READY_MIN, pause: 0 };
        let slots = Self {
            budget,
            next,
            free,
            ready,
            flying: Vec::new(),
            parked: Vec::new(),
            copied: Vec::new(),
            committed: 0,
            freed,
            freeing: Vec::new(),
        };
        slots.budget.charge(slots.used());
        slots
    }

    /// Slots that hold data or wait to be given back.
    pub(crate) fn used(&self) -> u64 {
        let ready = self.ready.slots.len() + self.ready.coming.len();
        self.next - self.free.len() - ready as u64
    }

    /// Slots that wait for a sync.
    pub(crate) fn freed(&self) -> usize {
        self.freed.len()
    }

    pub(crate) fn take(&mut self) -> Result<u64, IoError> {
        if !self.budget.take() {
            return Err(IoError::NoSpace);
        }
        Ok(self.first_free())
    }

    fn first_free(&mut self) -> u64 {
        if let Some(slot) = self.free.min() {
            self.free.remove(slot);
            return slot;
        }
        self.next += 1;
        self.next - 1
    }

    /// Takes a slot that has its room already; `None` when none is ready, or none may be taken.
    pub(crate) fn take_ready(&mut self) -> Option<u64> {
        let ready = &mut self.ready;
        if ready.slots.is_empty() {
            ready.pause = ready.pause.saturating_sub(1);
            ready.batch = (ready.batch * 2).min(READY_MAX);
            return None;
        }
        if !self.budget.take() {
            return None;
        }
        ready.slots.pop_front()
    }

    /// The slots that should be given room now, in order; the answer goes to [`Self::readied`].
    pub(crate) fn begin_ready(&mut self) -> Option<Vec<u64>> {
        let ready = &self.ready;
        let enough = ready.slots.len() > ready.batch / 2;
        if enough || ready.pause > 0 || !ready.coming.is_empty() {
            return None;
        }
        // Those that are free come first and in order, those that never were used follow them.
        self.ready.coming = (0..self.ready.batch).map(|_| self.first_free()).collect();
        Some(self.ready.coming.clone())
    }

    /// A worker gives room to some.
    pub(crate) fn is_readying(&self) -> bool {
        !self.ready.coming.is_empty()
    }

    /// They have room; or the medium has none to spare, and nothing was taken of it; or it failed
    /// somewhere in between, and what it gave is given back.
    pub(crate) fn readied(&mut self, result: Result<bool, ()>) {
        let ready = &mut self.ready;
        if result == Ok(true) {
            return ready.slots.extend(ready.coming.drain(..));
        }
        ready.pause = UNREADY_TAKES;
        ready.batch = READY_MIN;
        if result.is_ok() {
            return self.free.extend(ready.coming.drain(..));
        }
        self.budget.charge(ready.coming.len() as u64);
        self.freed.append(&mut ready.coming);
    }

    /// Nothing will be written for a while: the room goes back with the next sync.
    pub(crate) fn give_up_ready(&mut self) {
        self.ready.batch = READY_MIN;
        self.budget.charge(self.ready.slots.len() as u64);
        self.freed.extend(self.ready.slots.drain(..));
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
        let waits = record != 0 && record >= self.committed;
        let list = if waits { &mut self.copied } else { &mut self.parked };
        list.push(Parked { slot, reader, record });
    }

    /// All reads before `reader` have ended, all records before `record` are committed.
    pub(crate) fn unpark(&mut self, reader: u64, record: u64) {
        if record > self.committed {
            self.committed = record;
            let committed = self.copied.extract_if(.., |copied| copied.record < record);
            self.parked.extend(committed);
        }
        let unread = self.parked.extract_if(.., |parked| parked.reader < reader);
        self.freed.extend(unread.map(|parked| parked.slot));
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.len() + self.copied.len()
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
        let parked = self.parked.iter().chain(&self.copied).map(|p| &p.slot);
        let waiting: RoaringTreemap = self
            .freed
            .iter()
            .chain(&self.freeing)
            .chain(&self.flying)
            .chain(&self.ready.slots)
            .chain(&self.ready.coming)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(capacity_bytes: Option<u64>) -> Slots {
        let budget = Arc::new(Budget::new(capacity_bytes));
        Slots::new(budget, 0, RoaringTreemap::new(), &RoaringTreemap::new())
    }

    #[test]
    fn what_is_ready_is_free_until_it_is_taken() {
        let mut slots = slots(Some(20 * SLOT_BYTES));
        assert_eq!(slots.take_ready(), None);
        let coming = slots.begin_ready().unwrap();
        assert_eq!(coming, (0..2 * READY_MIN as u64).collect::<Vec<_>>(), "one found none");
        assert_eq!(slots.begin_ready(), None, "one attempt at a time");
        // Whoever wants a whole slot meanwhile takes another one.
        assert_eq!(slots.take(), Ok(coming.len() as u64));
        slots.readied(Ok(true));
        assert_eq!((slots.used(), slots.budget.used_bytes()), (1, SLOT_BYTES));
        assert_eq!(slots.take_ready(), Some(0));
        assert_eq!((slots.used(), slots.budget.used_bytes()), (2, 2 * SLOT_BYTES));
        // A crash finds what is ready free, and gives its room back.
        let (free, unpunched) = slots.for_checkpoint();
        assert_eq!(free, (1..32).collect());
        assert_eq!(unpunched, free);
        // The budget is no wider for it.
        let taken = std::iter::from_fn(|| slots.take_ready()).count();
        assert_eq!(taken, 18);
        assert_eq!(slots.take(), Err(IoError::NoSpace));
        // A close gives it back with the sync that it waits for.
        slots.give_up_ready();
        assert_eq!(slots.begin_sync().len(), 13);
        slots.end_sync();
        assert_eq!((slots.used(), slots.budget.used_bytes()), (20, 20 * SLOT_BYTES));
    }

    /// Each batch of requests looked at all that a fold had copied since the last commit.
    #[test]
    fn what_waits_for_a_commit_is_looked_at_when_there_is_one() {
        let mut slots = slots(None);
        let [read, early, late, both] = [(); 4].map(|()| slots.take().unwrap());
        slots.give_up_after(read, 3, 0);
        slots.give_up_after(early, 3, 5);
        slots.give_up_after(late, 3, 9);
        slots.give_up_after(both, 9, 9);
        assert_eq!((slots.parked.len(), slots.copied.len(), slots.parked()), (1, 3, 4));
        slots.unpark(3, 6);
        assert_eq!((slots.parked.len(), slots.copied.len(), slots.freed()), (2, 2, 0));
        slots.unpark(4, 6);
        assert_eq!((slots.parked.len(), slots.copied.len(), slots.freed()), (0, 2, 2));
        let (free, unpunched) = slots.for_checkpoint();
        assert_eq!((free.len(), unpunched.len()), (4, 4));
        slots.unpark(4, 10);
        assert_eq!((slots.parked.len(), slots.copied.len(), slots.freed()), (1, 0, 3));
        // What is committed already waits for reads alone.
        let again = slots.take().unwrap();
        slots.give_up_after(again, 9, 9);
        slots.unpark(u64::MAX, 10);
        assert_eq!((slots.parked(), slots.freed()), (0, 5));
    }

    #[test]
    fn a_medium_without_room_to_spare_is_left_alone_for_a_while() {
        let mut slots = slots(None);
        slots.take_ready();
        let coming = slots.begin_ready().unwrap();
        slots.readied(Ok(false));
        assert_eq!(slots.free, coming.iter().copied().collect());
        assert_eq!(slots.freed(), 0, "nothing was taken of it");
        for _ in 1..UNREADY_TAKES {
            assert_eq!((slots.take_ready(), slots.begin_ready()), (None, None));
        }
        slots.take_ready();
        slots.begin_ready().unwrap();
        // It failed half way: what it gave goes back.
        slots.readied(Err(()));
        assert_eq!(slots.used(), slots.begin_sync().len() as u64);
        slots.end_sync();
        assert_eq!((slots.used(), slots.budget.used_bytes()), (0, 0));
    }
}
