//! Time on the way to a store and to a ledger: requests wait, overtake each other, and are lost
//! with the process.
//!
//! Invariant: requests whose ranges overlap are performed in the order given; what was not
//! performed when the process died is performed afterwards, or never, but is not answered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{
    ActivityExtent, BlockSet, Extent, Geometry, IoError, Ledger, Op, Recovery, Request, Run,
    Snapshot, SnapshotId, Store, Ticket, Usage, Volume,
};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::rng::Rng;

/// How long things take, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Reads and changes, from and to.
    pub(crate) io: (u64, u64),
    /// Flushes, from and to.
    pub(crate) flush: (u64, u64),
    /// Records of the ledger and of activity, from and to.
    pub(crate) record: (u64, u64),
}

impl Pace {
    /// Everything is answered before `submit` returns.
    pub(crate) const INLINE: Self = Self { io: (0, 0), flush: (0, 0), record: (0, 0) };
}

enum Job {
    Io(Request),
    Activity(Vec<ActivityExtent>, Ticket),
    Grow(u64, Ticket),
    Snapshot(SnapshotId, Ticket),
    RollBack(SnapshotId, Ticket),
    RemoveSnapshot(SnapshotId, Ticket),
}

impl Job {
    fn into_ticket(self) -> Ticket {
        match self {
            Self::Io(request) => request.ticket,
            Self::Activity(_, ticket)
            | Self::Grow(_, ticket)
            | Self::Snapshot(_, ticket)
            | Self::RollBack(_, ticket)
            | Self::RemoveSnapshot(_, ticket) => ticket,
        }
    }

    fn is_before(&self, later: &Self) -> bool {
        let is_point = |job: &Self| matches!(job, Self::Snapshot(..) | Self::RollBack(..));
        if is_point(self) || is_point(later) {
            // What came before is in a snapshot, and what comes after it is not.
            return true;
        }
        match (self, later) {
            (Self::Io(a), Self::Io(b)) => match (a.op.extent(), b.op.extent()) {
                (Some(a), Some(b)) => a.overlaps(b),
                _ => false,
            },
            (Self::Activity(..), Self::Activity(..)) | (Self::Grow(..), Self::Grow(..)) => true,
            _ => false,
        }
    }
}

/// A store with time.
pub(crate) struct SlowStore {
    inner: Rc<dyn Store>,
    /// Somebody deleted it.
    gone: Rc<Cell<bool>>,
    pace: Rc<Cell<Pace>>,
    rng: Rc<Rng>,
    queue: RefCell<BTreeMap<(Instant, u64), Job>>,
    count: Cell<u64>,
    wake: Notify,
}

impl SlowStore {
    /// Puts time in front of `inner`. [`Self::serve`] must run.
    #[must_use]
    pub(crate) fn new(
        inner: Rc<dyn Store>,
        gone: Rc<Cell<bool>>,
        pace: Rc<Cell<Pace>>,
        rng: Rc<Rng>,
    ) -> Rc<Self> {
        Rc::new(Self {
            inner,
            gone,
            pace,
            rng,
            queue: RefCell::default(),
            count: Cell::new(0),
            wake: Notify::new(),
        })
    }

    /// Performs what is due, for ever.
    pub(crate) async fn serve(self: Rc<Self>) {
        loop {
            let next = self.queue.borrow().first_key_value().map(|((at, _), _)| *at);
            match next {
                None => self.wake.notified().await,
                Some(at) if at > Instant::now() => {
                    tokio::select! {
                        biased;
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                Some(_) => {
                    let job = self.queue.borrow_mut().pop_first();
                    if let Some((_, job)) = job {
                        self.perform(job);
                    }
                }
            }
        }
    }

    /// The process died: the kernel may still perform some of what was under way.
    pub(crate) fn abandon(&self) {
        let jobs = std::mem::take(&mut *self.queue.borrow_mut());
        for job in jobs.into_values() {
            let done_anyway = self.rng.chance(50) && !self.gone.get();
            match job {
                Job::Io(mut request) if done_anyway && request.op.is_change() => {
                    request.ticket = Ticket::ignored();
                    self.inner.submit(&mut vec![request]);
                }
                Job::Activity(set, _) if done_anyway => {
                    self.inner.record_activity(&set, Ticket::ignored());
                }
                Job::Snapshot(id, _) if done_anyway => {
                    self.inner.snapshot(id, Ticket::ignored());
                }
                Job::RollBack(id, _) if done_anyway => {
                    self.inner.roll_back(id, Ticket::ignored());
                }
                Job::RemoveSnapshot(id, _) if done_anyway => {
                    self.inner.remove_snapshot(id, Ticket::ignored());
                }
                Job::Io(_)
                | Job::Activity(..)
                | Job::Grow(..)
                | Job::Snapshot(..)
                | Job::RollBack(..)
                | Job::RemoveSnapshot(..) => {}
            }
        }
    }

    fn perform(&self, job: Job) {
        if self.gone.get() {
            job.into_ticket().fail(IoError::Media);
            return;
        }
        match job {
            Job::Io(request) => self.inner.submit(&mut vec![request]),
            Job::Activity(set, ticket) => self.inner.record_activity(&set, ticket),
            Job::Grow(bytes, ticket) => self.inner.grow(bytes, ticket),
            Job::Snapshot(id, ticket) => self.inner.snapshot(id, ticket),
            Job::RollBack(id, ticket) => self.inner.roll_back(id, ticket),
            Job::RemoveSnapshot(id, ticket) => self.inner.remove_snapshot(id, ticket),
        }
    }

    fn there(&self) -> Result<(), IoError> {
        if self.gone.get() { Err(IoError::Media) } else { Ok(()) }
    }

    fn put(&self, job: Job, (low, high): (u64, u64)) {
        let mut queue = self.queue.borrow_mut();
        if high == 0 && queue.is_empty() {
            drop(queue);
            self.perform(job);
            return;
        }
        let wanted = Instant::now() + self.rng.millis(low, high);
        let behind = queue.iter().filter(|(_, earlier)| earlier.is_before(&job));
        let at = behind.map(|((at, _), _)| *at).max().map_or(wanted, |at| at.max(wanted));
        self.count.set(self.count.get() + 1);
        queue.insert((at, self.count.get()), job);
        drop(queue);
        self.wake.notify_one();
    }
}

impl Volume for SlowStore {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        let pace = self.pace.get();
        for request in batch.drain(..) {
            let time = match &request.op {
                Op::Flush => pace.flush,
                _ if request.fua => (pace.io.0 + pace.flush.0, pace.io.1 + pace.flush.1),
                _ => pace.io,
            };
            self.put(Job::Io(request), time);
        }
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.inner.layout(extent, limit)
    }
}

impl Store for SlowStore {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        self.put(Job::Activity(active.to_vec(), ticket), self.pace.get().record);
    }

    fn recovery(&self) -> Recovery {
        self.inner.recovery()
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        self.there()?;
        self.inner.mapped(from, limit)
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        self.there()?;
        self.inner.checksums(extent)
    }

    fn grow(&self, bytes: u64, ticket: Ticket) {
        self.put(Job::Grow(bytes, ticket), self.pace.get().record);
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn snapshot(&self, id: SnapshotId, ticket: Ticket) {
        self.put(Job::Snapshot(id, ticket), self.pace.get().flush);
    }

    fn remove_snapshot(&self, id: SnapshotId, ticket: Ticket) {
        self.put(Job::RemoveSnapshot(id, ticket), self.pace.get().record);
    }

    fn roll_back(&self, id: SnapshotId, ticket: Ticket) {
        self.put(Job::RollBack(id, ticket), self.pace.get().flush);
    }

    fn changed_between(
        &self,
        snapshots: (SnapshotId, SnapshotId),
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, IoError> {
        self.there()?;
        self.inner.changed_between(snapshots, from, limit)
    }

    fn changed_since(&self, id: SnapshotId, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        self.there()?;
        self.inner.changed_since(id, from, limit)
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.inner.snapshots()
    }

    fn open_snapshot(&self, id: SnapshotId) -> Result<Rc<dyn Volume>, IoError> {
        self.inner.open_snapshot(id)
    }

    fn close(&self, ticket: Ticket) {
        if self.gone.get() {
            ticket.fail(IoError::Media);
            return;
        }
        self.inner.close(ticket);
    }
}

/// A ledger with time.
pub(crate) struct SlowLedger {
    inner: Rc<dyn Ledger>,
    waiting: RefCell<Vec<Waiting>>,
    pace: Rc<Cell<Pace>>,
    rng: Rc<Rng>,
    wake: Notify,
    /// A deliberate break (rule 1): says that a record is durable before it is.
    lies: bool,
}

struct Waiting {
    at: Instant,
    records: Vec<(String, Option<Bytes>)>,
    ticket: Ticket,
}

impl SlowLedger {
    /// Puts time in front of `inner`. [`Self::serve`] must run.
    #[must_use]
    pub(crate) fn new(
        inner: Rc<dyn Ledger>,
        pace: Rc<Cell<Pace>>,
        rng: Rc<Rng>,
        lies: bool,
    ) -> Rc<Self> {
        let (waiting, wake) = (RefCell::default(), Notify::new());
        Rc::new(Self { inner, waiting, pace, rng, wake, lies })
    }

    /// Makes records durable as their time comes, for ever.
    pub(crate) async fn serve(self: Rc<Self>) {
        loop {
            let next = self.waiting.borrow().first().map(|waiting| waiting.at);
            match next {
                None => self.wake.notified().await,
                Some(at) if at > Instant::now() => tokio::time::sleep_until(at).await,
                Some(_) => {
                    let waiting = self.waiting.borrow_mut().remove(0);
                    self.inner.put(waiting.records, waiting.ticket);
                }
            }
        }
    }

    /// The process died: a first part of what was under way became durable, or `all` of it.
    pub(crate) fn abandon(&self, all: bool) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waiting in waiting {
            if self.lies || !all && self.rng.chance(50) {
                break;
            }
            self.inner.put(waiting.records, Ticket::ignored());
        }
    }
}

impl Ledger for SlowLedger {
    fn get(&self, key: &str) -> Result<Option<Bytes>, IoError> {
        self.inner.get(key)
    }

    fn put(&self, records: Vec<(String, Option<Bytes>)>, ticket: Ticket) {
        let (low, high) = self.pace.get().record;
        let mut waiting = self.waiting.borrow_mut();
        if high == 0 && waiting.is_empty() && !self.lies {
            drop(waiting);
            self.inner.put(records, ticket);
            return;
        }
        let lag = if self.lies { Duration::from_millis(500) } else { Duration::ZERO };
        let wanted = Instant::now() + self.rng.millis(low, high) + lag;
        let at = waiting.last().map_or(wanted, |last| last.at.max(wanted));
        let ticket = if self.lies {
            ticket.done();
            Ticket::ignored()
        } else {
            ticket
        };
        waiting.push(Waiting { at, records, ticket });
        drop(waiting);
        self.wake.notify_one();
    }
}
