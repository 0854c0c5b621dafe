//! A store and a ledger that die at a given step, and that can hold what is asked of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use block::{
    ActivityExtent, BlockSet, Extent, Geometry, IoError, Ledger, Recovery, Request, Run, Snapshot,
    SnapshotId, Store, Ticket, Usage, Volume,
};
use bytes::Bytes;
use store::memory::MemoryStore;

use crate::parts::MemoryLedger;

/// The life of one process, shared by everything that it owns.
#[derive(Default)]
pub(crate) struct Life {
    steps: Cell<u64>,
    dies_at: Cell<Option<u64>>,
    /// Tickets that nobody will answer.
    graves: RefCell<Vec<Ticket>>,
    requests: RefCell<Vec<Request>>,
    holding: Cell<bool>,
    pub(crate) snapshots_fail: Cell<Option<IoError>>,
    pub(crate) growth_fails: Cell<Option<IoError>>,
    /// No store has room to go back, until a snapshot is removed.
    pub(crate) is_full: Cell<bool>,
}

impl Life {
    /// Records and snapshots from now on until it dies.
    pub(crate) fn die_after(&self, steps: u64) {
        self.dies_at.set(Some(self.steps.get() + steps));
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dies_at.get().is_some_and(|at| self.steps.get() >= at)
    }

    /// One step is taken, if it still lives.
    fn step(&self) -> bool {
        if self.is_dead() {
            return false;
        }
        self.steps.set(self.steps.get() + 1);
        !self.is_dead()
    }

    fn bury(&self, ticket: Ticket) {
        self.graves.borrow_mut().push(ticket);
    }
}

pub(crate) struct MortalLedger(pub(crate) Rc<MemoryLedger>, pub(crate) Rc<Life>);

impl Ledger for MortalLedger {
    fn get(&self, key: &str) -> Result<Option<Bytes>, IoError> {
        self.0.get(key)
    }

    fn put(&self, records: Vec<(String, Option<Bytes>)>, ticket: Ticket) {
        if self.1.step() {
            self.0.put(records, ticket);
        } else {
            self.1.bury(ticket);
        }
    }
}

pub(crate) struct MortalStore {
    inner: Rc<MemoryStore>,
    life: Rc<Life>,
    held: RefCell<Vec<Request>>,
}

impl MortalStore {
    pub(crate) fn new(inner: Rc<MemoryStore>, life: Rc<Life>) -> Rc<Self> {
        Rc::new(Self { inner, life, held: RefCell::default() })
    }

    /// Keeps changes and flushes back, or lets them through.
    pub(crate) fn hold(&self, hold: bool) {
        self.life.holding.set(hold);
        if !hold {
            let mut held = std::mem::take(&mut *self.held.borrow_mut());
            self.inner.submit(&mut held);
        }
    }
}

impl Volume for MortalStore {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        if self.life.is_dead() {
            self.life.requests.borrow_mut().append(batch);
        } else if self.life.holding.get() {
            self.held.borrow_mut().append(batch);
        } else {
            self.inner.submit(batch);
        }
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.inner.layout(extent, limit)
    }
}

impl Store for MortalStore {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        if self.life.is_dead() {
            self.life.bury(ticket);
        } else {
            self.inner.record_activity(active, ticket);
        }
    }

    fn recovery(&self) -> Recovery {
        self.inner.recovery()
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        self.inner.mapped(from, limit)
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        self.inner.checksums(extent)
    }

    fn grow(&self, bytes: u64, ticket: Ticket) {
        match self.life.growth_fails.get() {
            Some(error) => ticket.fail(error),
            None => self.inner.grow(bytes, ticket),
        }
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn snapshot(&self, id: SnapshotId, ticket: Ticket) {
        match self.life.snapshots_fail.get() {
            Some(error) => ticket.fail(error),
            None if self.life.step() => self.inner.snapshot(id, ticket),
            None => self.life.bury(ticket),
        }
    }

    fn remove_snapshot(&self, id: SnapshotId, ticket: Ticket) {
        if self.life.step() {
            self.life.is_full.set(false);
            self.inner.remove_snapshot(id, ticket);
        } else {
            self.life.bury(ticket);
        }
    }

    fn roll_back(&self, id: SnapshotId, ticket: Ticket) {
        if self.life.is_full.get() {
            ticket.fail(IoError::NoSpace);
        } else if self.life.step() {
            self.inner.roll_back(id, ticket);
        } else {
            self.life.bury(ticket);
        }
    }

    fn changed_since(&self, id: SnapshotId, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        self.inner.changed_since(id, from, limit)
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.inner.snapshots()
    }

    fn open_snapshot(&self, id: SnapshotId) -> Result<Rc<dyn Volume>, IoError> {
        self.inner.open_snapshot(id)
    }

    fn close(&self, ticket: Ticket) {
        self.inner.close(ticket);
    }
}
