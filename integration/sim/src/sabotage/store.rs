//! Stores and ledgers that forget, and stores that do not go back.
//!
//! Invariant: what is not forgotten is passed on as it is.

use std::rc::Rc;

use block::{
    ActivityExtent, BlockSet, Extent, Geometry, IoError, Ledger, Recovery, Request, Run, Snapshot,
    SnapshotId, Store, Ticket, Usage, Volume,
};
use bytes::Bytes;

/// What a store does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Omits {
    /// It does not know what was in flight.
    Activity,
    /// It does not go back to a snapshot.
    WayBack,
}

/// A store that leaves something out.
pub(super) struct Forgetful(pub(super) Rc<dyn Store>, pub(super) Omits);

impl Volume for Forgetful {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn read_only(&self) -> bool {
        self.0.read_only()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        self.0.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.0.layout(extent, limit)
    }
}

impl Store for Forgetful {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        self.0.record_activity(active, ticket);
    }

    fn recovery(&self) -> Recovery {
        let recovery = self.0.recovery();
        match self.1 {
            Omits::Activity => Recovery { active: Vec::new(), ..recovery },
            Omits::WayBack => recovery,
        }
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        self.0.mapped(from, limit)
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        self.0.checksums(extent)
    }

    fn grow(&self, bytes: u64, ticket: Ticket) {
        self.0.grow(bytes, ticket);
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }

    fn snapshot(&self, id: SnapshotId, ticket: Ticket) {
        self.0.snapshot(id, ticket);
    }

    fn remove_snapshot(&self, id: SnapshotId, ticket: Ticket) {
        self.0.remove_snapshot(id, ticket);
    }

    fn roll_back(&self, id: SnapshotId, ticket: Ticket) {
        match self.1 {
            Omits::Activity => self.0.roll_back(id, ticket),
            Omits::WayBack => ticket.done(),
        }
    }

    fn changed_since(&self, id: SnapshotId, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        self.0.changed_since(id, from, limit)
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.0.snapshots()
    }

    fn open_snapshot(&self, id: SnapshotId) -> Result<Rc<dyn Volume>, IoError> {
        self.0.open_snapshot(id)
    }

    fn close(&self, ticket: Ticket) {
        self.0.close(ticket);
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
