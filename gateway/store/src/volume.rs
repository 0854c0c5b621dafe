//! A thin volume of a pool.
//!
//! ```text
//!   submit ─▶ admit ─▶ write  plan (map, slots, sums) ─▶ commit: new blocks ▸ log ▸ overwrites
//!                 └──▶ read   page cache, or a cold read on a worker
//!                 └──▶ change trim and zero, page by page
//!                 └──▶ lanes  sync ▸ checkpoint ▸ activity ▸ close, one of each under way
//! ```
//!
//! Invariant: what is answered is in the page cache and its records are in the log, so the death
//! of the process loses nothing. A record whose data may be missing after a loss of power is
//! believed only when the data matches the record's checksums (see [`recover`]).

mod account;
pub(crate) mod activity;
mod ask;
mod beneath;
mod bulk;
mod change;
mod chores;
mod data;
mod fill;
mod fold;
#[cfg(test)]
mod fuzz;
mod lanes;
mod layers;
mod log;
mod map;
mod page;
mod read;
mod ready;
mod record;
mod recover;
mod scrub;
mod slots;
mod snapshot;
mod state;
mod touch;
mod uncommitted;
mod view;
mod visit;
mod write;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use block::{
    ActivityExtent, Answer, BlockSet, Extent, Geometry, IoError, Op, Recovery, Request, Run,
    Snapshot, SnapshotId, Store, Ticket, Usage, Volume, VolumeId,
};
use redb::Database;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::error::StoreError;
use crate::executor::Executor;
use crate::medium::Directory;
use crate::metrics::Metrics;
use crate::runs::{self, Runs};

use self::account::Accounts;
use self::activity::ActivityFile;
use self::change::Long;
use self::chores::Chores;
use self::data::DataFiles;
use self::fill::Fill;
use self::lanes::{Done, Lanes};
use self::log::Log;
use self::map::{Map, NumberMap};
use self::slots::Slots;
use self::uncommitted::Uncommitted;
use self::write::Group;

pub use self::scrub::{Repaired, Scrubbed};
pub(crate) use self::slots::Budget;

/// What a volume needs from its pool.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) id: VolumeId,
    pub(crate) dir: Arc<dyn Directory>,
    pub(crate) executor: Executor,
    pub(crate) budget: Arc<Budget>,
    pub(crate) pages_max: usize,
    /// Snapshots that other volumes are filled from, and which those are.
    pub(crate) kept: Vec<(SnapshotId, VolumeId)>,
    pub(crate) host: Box<dyn Host>,
}

/// What a volume tells its pool. Dropping it closes the volume there.
pub(crate) trait Host: std::fmt::Debug + Send + Sync {
    /// The volume has this size now, durably.
    fn resized(&self, bytes: u64) -> Result<(), StoreError>;
}

/// A thin volume of a pool. It lives on the thread that opened it; its [`PoolVolume::pump`] must
/// run there too, unless everything is done inline.
#[derive(Debug)]
pub struct PoolVolume {
    id: VolumeId,
    recovery: Recovery,
    inner: Rc<RefCell<Inner>>,
    done: Rc<RefCell<UnboundedReceiver<Done>>>,
}

/// Everything that changes.
#[derive(Debug)]
struct Inner {
    dir: Arc<dyn Directory>,
    executor: Executor,
    database: Arc<Database>,
    geometry: Geometry,
    latched: bool,
    map: Map,
    slots: Slots,
    log: Log,
    data: DataFiles,
    activity: Arc<Mutex<ActivityFile>>,
    /// What is recorded on disk, as far as changes may rely on it.
    recorded: NumberMap<u64, ()>,
    /// How many extents the store recorded by itself.
    own: usize,
    last_miss: u64,
    /// Slots that may be taken before the medium is asked again how full it is.
    takes_unasked: u64,
    /// Blocks whose records no [`record::Record::Commit`] covers.
    uncommitted: Uncommitted,
    group: Group,
    /// What is being submitted need not stay in memory.
    aside: bool,
    lanes: Lanes,
    busy: Vec<Busy>,
    held: VecDeque<Request>,
    long: VecDeque<Long>,
    chores: Chores,
    fill: Fill,
    accounts: Accounts,
    next_id: u64,
    sender: UnboundedSender<Done>,
    metrics: Metrics,
    /// The last to go: with it the volume counts as closed, and then no file may be in use. Jobs
    /// hold it too.
    host: Arc<dyn Host>,
}

/// A request that is under way and that overlapping ones must wait for.
#[derive(Debug)]
struct Busy {
    id: u64,
    extent: Extent,
    change: bool,
}

// === impl PoolVolume ===

impl PoolVolume {
    /// Which volume this is.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// Delivers what the workers have done, for as long as the volume is there. The shard runs it;
    /// it ends by itself after the volume was dropped.
    ///
    /// # Cancellation
    /// Safe; but while nobody runs it, cold reads and flushes are answered only when something
    /// else is submitted.
    pub fn pump(self: &Rc<Self>) -> impl Future<Output = ()> + 'static + use<> {
        let done = Rc::clone(&self.done);
        let volume = Rc::downgrade(self);
        async move {
            while let Some(event) = poll_fn(|cx| done.borrow_mut().poll_recv(cx)).await {
                let long = matches!(event, Done::Continue | Done::Chore);
                {
                    let Some(volume) = volume.upgrade() else { return };
                    let mut inner = volume.inner.borrow_mut();
                    inner.finish(event);
                    volume.drive(&mut inner);
                }
                if long {
                    // Others have their turn between two steps.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Reads and verifies the mapped blocks from block `from` on, about `budget_bytes` of them.
    ///
    /// # Errors
    /// [`IoError::Media`] or [`IoError::Checksum`] when the map cannot be read; damaged or
    /// unreadable data is in the answer.
    pub fn scrub(&self, from: u64, budget_bytes: u64) -> Result<Scrubbed, IoError> {
        self.inner.borrow_mut().scrub(from, budget_bytes)
    }

    /// Puts the content of a bad block back, from another copy of the volume. Only content that
    /// matches the checksum of what was stored here is taken, and a good block is left alone.
    ///
    /// # Errors
    /// [`IoError::Invalid`] unless `content` is one block long; [`IoError::Media`] when what was
    /// written does not read back; [`IoError::Latched`].
    pub fn repair(&self, block: u64, content: &[u8]) -> Result<Repaired, IoError> {
        self.inner.borrow_mut().repair(block, content)
    }

    fn drive(&self, inner: &mut Inner) {
        inner.drive(&mut self.done.borrow_mut());
    }
}

impl Volume for PoolVolume {
    fn geometry(&self) -> Geometry {
        self.inner.borrow().geometry
    }

    fn read_only(&self) -> bool {
        false
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        let mut inner = self.inner.borrow_mut();
        inner.record_batch(batch);
        for request in batch.drain(..) {
            inner.admit(request);
        }
        inner.flush_group();
        self.drive(&mut inner);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        let mut inner = self.inner.borrow_mut();
        let mut out = Runs::new(extent, limit);
        let blocks = extent.blocks();
        inner
            .visit(blocks.first(), true, |range| range.first() < blocks.end() && out.data(range))?;
        Ok(out.finish())
    }
}

impl Store for PoolVolume {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        inner.want_activity(active.to_vec(), ticket);
        self.drive(&mut inner);
    }

    fn recovery(&self) -> Recovery {
        self.recovery.clone()
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        let mut out = runs::Mapped::new(from, limit);
        self.inner
            .borrow_mut()
            .visit(from, true, |range| out.blocks(range.first(), range.end()))?;
        Ok(out.finish())
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        self.inner.borrow_mut().checksums(extent)
    }

    fn submit_aside(&self, batch: &mut Vec<Request>) {
        self.inner.borrow_mut().aside = true;
        self.submit(batch);
        self.inner.borrow_mut().aside = false;
    }

    fn grow(&self, bytes: u64, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        inner.grow(bytes, ticket);
        self.drive(&mut inner);
    }

    fn usage(&self) -> Usage {
        Usage { mapped_bytes: self.inner.borrow().map.mapped_bytes() }
    }

    fn snapshot(&self, id: SnapshotId, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        inner.snapshot(id, ticket);
        self.drive(&mut inner);
    }

    fn remove_snapshot(&self, id: SnapshotId, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        inner.remove_snapshot(id, ticket);
        self.drive(&mut inner);
    }

    fn roll_back(&self, id: SnapshotId, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        inner.roll_back(id, ticket);
        self.drive(&mut inner);
    }

    fn changed_since(&self, id: SnapshotId, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        self.inner.borrow_mut().changed_since(id, from, limit)
    }

    fn changed_between(
        &self,
        snapshots: (SnapshotId, SnapshotId),
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, IoError> {
        self.inner.borrow_mut().changed_between(snapshots, from, limit)
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.inner.borrow_mut().snapshots()
    }

    fn count_snapshots(&self) -> Option<Vec<Snapshot>> {
        self.inner.borrow_mut().count_snapshots()
    }

    fn snapshot_ids(&self) -> Vec<SnapshotId> {
        self.inner.borrow().snapshot_ids()
    }

    fn open_snapshot(&self, id: SnapshotId) -> Result<Rc<dyn Volume>, IoError> {
        view::open(&self.inner, &self.done, id)
    }

    fn close(&self, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        inner.want_close(ticket);
        self.drive(&mut inner);
    }
}

// === impl Inner ===

impl Inner {
    /// Does what is ready to be done and starts what follows from it.
    fn drive(&mut self, done: &mut UnboundedReceiver<Done>) {
        loop {
            self.settle();
            let Ok(event) = done.try_recv() else { return };
            if matches!(event, Done::Continue | Done::Chore)
                && !matches!(self.executor, Executor::Inline)
            {
                // The pump goes on with what is long, so that this call ends.
                self.go_on(event);
                return;
            }
            self.finish(event);
        }
    }

    /// Takes one request: answers it, or lets it wait for what it overlaps.
    fn admit(&mut self, request: Request) {
        if self.latched {
            return request.ticket.fail(IoError::Latched);
        }
        let Some(extent) = request.op.extent() else {
            return self.want_sync(request.ticket);
        };
        if !self.geometry.whole().covers(extent) {
            return request.ticket.fail(IoError::OutOfRange);
        }
        if self.must_wait(&request.op, extent) {
            return self.held.push_back(request);
        }
        let Some(request) = self.await_edges(request, extent) else { return };
        let Request { op, fua, ticket } = request;
        match op {
            Op::Read(extent) => {
                if self.group.touches(extent) {
                    self.flush_group();
                }
                self.read(extent, ticket);
            }
            Op::Write(extent, data) => {
                if self.is_bulk(extent, &data) {
                    self.write_bulk(extent, data, fua, ticket);
                } else if data.len() as u64 == extent.len() {
                    self.plan(extent, data, fua, Some(ticket));
                } else {
                    ticket.fail(IoError::Invalid);
                }
            }
            Op::Zero { extent, may_trim } => {
                self.flush_group();
                self.zero(extent, may_trim, fua, ticket);
            }
            Op::Trim(extent) => {
                self.flush_group();
                self.trim(extent, fua, ticket);
            }
            // The kernel reads ahead by itself, and better.
            Op::Cache(_) => ticket.done(),
            Op::Flush => {}
        }
    }

    /// Whether a request overlaps one before it that is still under way.
    fn must_wait(&self, op: &Op, extent: Extent) -> bool {
        if self.busy.is_empty() && self.held.is_empty() {
            return false;
        }
        let change = op.is_change();
        self.busy.iter().any(|b| (b.change || change) && b.extent.overlaps(extent))
            || self.held.iter().any(|h| {
                (h.op.is_change() || change) && h.op.extent().is_some_and(|e| e.overlaps(extent))
            })
    }

    fn begin(&mut self, extent: Extent, change: bool) -> u64 {
        self.next_id += 1;
        self.busy.push(Busy { id: self.next_id, extent, change });
        self.next_id
    }

    /// A request has ended: those that waited for it are taken again, in order.
    fn end(&mut self, id: u64) {
        self.busy.retain(|b| b.id != id);
        if !self.held.is_empty() {
            for request in std::mem::take(&mut self.held) {
                if request.op.is_change()
                    && let Some(extent) = request.op.extent()
                {
                    self.record_change(&request.op, extent);
                }
                self.admit(request);
            }
            self.flush_group();
        }
    }

    /// After a failed sync nothing is known of what lies on the medium: everything is refused
    /// until the volume is opened again.
    fn latch(&mut self) {
        self.latched = true;
        self.metrics.errors_sync.increment(1);
        for request in self.held.drain(..) {
            request.ticket.fail(IoError::Latched);
        }
        for long in self.long.drain(..) {
            long.ticket.fail(IoError::Latched);
        }
        for (_, ticket) in self.lanes.bulks.drain(..) {
            ticket.fail(IoError::Latched);
        }
        for ticket in self.lanes.drain().into_iter().chain(self.chores.drain()) {
            ticket.fail(IoError::Latched);
        }
    }

    fn grow(&mut self, bytes: u64, ticket: Ticket) {
        let geometry = match Geometry::new(bytes) {
            Ok(geometry) if bytes >= self.geometry.bytes() => geometry,
            _ => return ticket.fail(IoError::Invalid),
        };
        if self.latched {
            return ticket.fail(IoError::Latched);
        }
        let recorded =
            self.ensure_open().and_then(|()| self.append(&[record::Record::Resize { bytes }]));
        match recorded {
            Ok(()) => {
                self.geometry = geometry;
                self.lanes.resized = Some(bytes);
                self.want_sync(ticket);
            }
            Err(e) => ticket.fail(e),
        }
    }

    /// Appends records; on an error nothing was appended.
    fn append(&mut self, records: &[record::Record]) -> Result<(), IoError> {
        match self.log.append(records) {
            Ok(bytes) => {
                self.metrics.written_journal.increment(bytes as u64);
                Ok(())
            }
            Err(e) => {
                self.metrics.errors_write.increment(1);
                tracing::warn!(error = %e, "append to the map's log");
                if self.log.is_torn() {
                    self.give_out("take back what was written of records in part", &e);
                }
                Err(crate::error::of_io(&e))
            }
        }
    }
}

/// The answer to a change, once it is applied.
fn outcome(result: Result<(), IoError>) -> Result<Answer, IoError> {
    result.map(|()| Answer::Done)
}
