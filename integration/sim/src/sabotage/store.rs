//! Stores and ledgers that forget, and stores that do not go back.
//!
//! Invariant: what is not forgotten is passed on as it is.

use std::cell::RefCell;
use std::rc::Rc;

use block::{
    ActivityExtent, Answer, BlockSet, Completions, Extent, Geometry, IoError, Ledger, Op, Recovery,
    Request, Run, Segment, Snapshot, SnapshotId, Store, Ticket, Usage, Volume,
};
use bytes::Bytes;

/// What a store does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Omits {
    /// It does not know what was in flight.
    Activity,
    /// It does not go back to a snapshot.
    WayBack,
    /// It takes a snapshot when it is asked for the next thing, and then with that.
    Place,
    /// It does not look whether a block is what was stored.
    Checksums,
    /// What it opens as a snapshot goes on changing.
    Point,
    /// It does not know what was changed since a snapshot.
    Since,
}

/// A store that leaves something out.
pub(super) struct Forgetful {
    inner: Rc<dyn Store>,
    omits: Omits,
    /// Snapshots that are to be taken.
    late: RefCell<Vec<(SnapshotId, Ticket)>>,
}

impl Forgetful {
    pub(super) fn new(inner: Rc<dyn Store>, omits: Omits) -> Self {
        Self { inner, omits, late: RefCell::default() }
    }

    /// Answers a request; what cannot be read is read all the same.
    fn believe(&self, request: Request) {
        let Request { op, fua, ticket } = request;
        let (queue, mut answers) = (Completions::new(), Vec::new());
        let extent = if let Op::Read(extent) = &op { Some(*extent) } else { None };
        self.inner.submit(&mut vec![Request { op, fua, ticket: queue.ticket(0) }]);
        queue.take(&mut answers);
        let answer = answers.pop().expect("the pool answers in line here").result;
        ticket.answer(match (answer, extent) {
            (Err(IoError::Checksum), Some(extent)) => {
                let spoilt = vec![0xa5; usize::try_from(extent.len()).expect("small")];
                let segments = [Segment::Data(spoilt.into())].into_iter().collect();
                Ok(Answer::Read(segments))
            }
            (answer, _) => answer,
        });
    }

    fn take_late(&self) {
        for (id, ticket) in self.late.take() {
            self.inner.snapshot(id, ticket);
        }
    }
}

impl Volume for Forgetful {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        if self.omits == Omits::Checksums {
            batch.drain(..).for_each(|request| self.believe(request));
            return;
        }
        self.inner.submit(batch);
        self.take_late();
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.inner.layout(extent, limit)
    }
}

impl Store for Forgetful {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        self.take_late();
        self.inner.record_activity(active, ticket);
    }

    fn recovery(&self) -> Recovery {
        let recovery = self.inner.recovery();
        match self.omits {
            Omits::Activity => Recovery { active: Vec::new(), ..recovery },
            Omits::WayBack | Omits::Place | Omits::Checksums | Omits::Point | Omits::Since => {
                recovery
            }
        }
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        self.inner.mapped(from, limit)
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        self.inner.checksums(extent)
    }

    fn grow(&self, bytes: u64, ticket: Ticket) {
        self.inner.grow(bytes, ticket);
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn snapshot(&self, id: SnapshotId, ticket: Ticket) {
        if self.omits == Omits::Place {
            self.late.borrow_mut().push((id, ticket));
        } else {
            self.inner.snapshot(id, ticket);
        }
    }

    fn remove_snapshot(&self, id: SnapshotId, ticket: Ticket) {
        self.inner.remove_snapshot(id, ticket);
    }

    fn roll_back(&self, id: SnapshotId, ticket: Ticket) {
        match self.omits {
            Omits::Activity | Omits::Place | Omits::Checksums | Omits::Point | Omits::Since => {
                self.inner.roll_back(id, ticket)
            }
            Omits::WayBack => ticket.done(),
        }
    }

    fn changed_between(
        &self,
        snapshots: (SnapshotId, SnapshotId),
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, IoError> {
        self.inner.changed_between(snapshots, from, limit)
    }

    fn changed_since(&self, id: SnapshotId, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        if self.omits == Omits::Since {
            return Ok(BlockSet::new());
        }
        self.inner.changed_since(id, from, limit)
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.inner.snapshots()
    }

    fn open_snapshot(&self, id: SnapshotId) -> Result<Rc<dyn Volume>, IoError> {
        let point = self.inner.open_snapshot(id)?;
        Ok(if self.omits == Omits::Point {
            Rc::clone(&self.inner) as Rc<dyn Volume>
        } else {
            point
        })
    }

    fn close(&self, ticket: Ticket) {
        self.take_late();
        self.inner.close(ticket);
    }
}

/// A ledger that does not know what mirrors may lack.
pub(super) struct Mapless(pub(super) Rc<dyn Ledger>);

impl Ledger for Mapless {
    fn get(&self, key: &str) -> Result<Option<Bytes>, IoError> {
        if key.starts_with("dirty/") { Ok(None) } else { self.0.get(key) }
    }

    fn put(&self, records: Vec<(String, Option<Bytes>)>, ticket: Ticket) {
        self.0.put(records, ticket);
    }
}
