//! Everything that is said and stored, for whoever looks for the cause of a failure.
//!
//! Invariant: looking changes nothing: a traced history is the same history.

use std::rc::{Rc, Weak};

use block::{
    ActivityExtent, BlockSet, Extent, Geometry, IoError, Message, Op, Recovery, Request, Run,
    Snapshot, SnapshotId, Store, Ticket, Usage, Volume,
};

use crate::tap::Tap;
use crate::world::World;

/// Logs what a link carries.
pub(crate) struct LinkLog {
    pub(crate) world: Weak<World>,
    pub(crate) name: &'static str,
}

impl LinkLog {
    fn log(&self, what: &str, message: &Message) {
        let text = match message {
            Message::Ping { .. } | Message::Pong { .. } => return,
            Message::Change { seq, volume, extent, change, resync, .. } => {
                let how = match change {
                    block::Change::Write(data) => format!("write {}", word(data)),
                    block::Change::Zero { .. } => "zero".to_owned(),
                    block::Change::Trim => "trim".to_owned(),
                };
                format!("#{seq} volume {volume} {extent:?} {how} resync={resync}")
            }
            other => format!("{other:?}"),
        };
        if let Some(world) = self.world.upgrade() {
            world.log(format_args!("  {} {what} {text}", self.name));
        }
    }
}

fn word(data: &[u8]) -> u64 {
    data.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word))
}

impl Tap for LinkLog {
    fn says(&mut self, message: &Message) {
        self.log("says", message);
    }

    fn hears(&mut self, message: &Message) {
        self.log("hears", message);
    }
}

/// A store that logs what is done to it.
pub(crate) struct TracedStore {
    pub(crate) inner: Rc<dyn Store>,
    pub(crate) world: Weak<World>,
    pub(crate) name: String,
}

impl TracedStore {
    fn log(&self, text: impl std::fmt::Display) {
        if let Some(world) = self.world.upgrade() {
            world.log(format_args!("  {}: {text}", self.name));
        }
    }
}

impl Volume for TracedStore {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        for request in batch.iter() {
            match &request.op {
                Op::Write(extent, data) => {
                    self.log(format_args!("write {extent:?} {}", word(data)))
                }
                Op::Zero { extent, may_trim } => {
                    self.log(format_args!("zero {extent:?} may_trim={may_trim}"));
                }
                Op::Trim(extent) => self.log(format_args!("trim {extent:?}")),
                Op::Read(extent) => self.log(format_args!("read {extent:?}")),
                Op::Flush => self.log("flush"),
                Op::Cache(_) => {}
            }
        }
        self.inner.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.inner.layout(extent, limit)
    }
}

impl Store for TracedStore {
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket) {
        self.log(format_args!("active {active:?}"));
        self.inner.record_activity(active, ticket);
    }

    fn recovery(&self) -> Recovery {
        let recovery = self.inner.recovery();
        self.log(format_args!("{recovery:?}"));
        recovery
    }

    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        let mapped = self.inner.mapped(from, limit);
        self.log(format_args!("mapped from {from}: {mapped:?}"));
        mapped
    }

    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError> {
        self.inner.checksums(extent)
    }

    fn grow(&self, bytes: u64, ticket: Ticket) {
        self.log(format_args!("grow to {bytes}"));
        self.inner.grow(bytes, ticket);
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn snapshot(&self, id: SnapshotId, ticket: Ticket) {
        self.log(format_args!("snapshot {id:?}"));
        self.inner.snapshot(id, ticket);
    }

    fn remove_snapshot(&self, id: SnapshotId, ticket: Ticket) {
        self.log(format_args!("remove snapshot {id:?}"));
        self.inner.remove_snapshot(id, ticket);
    }

    fn roll_back(&self, id: SnapshotId, ticket: Ticket) {
        self.log(format_args!("roll back to {id:?}"));
        self.inner.roll_back(id, ticket);
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
        let changed = self.inner.changed_since(id, from, limit);
        self.log(format_args!("changed since {id:?}, from {from}: {changed:?}"));
        changed
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.inner.snapshots()
    }

    fn open_snapshot(&self, id: SnapshotId) -> Result<Rc<dyn Volume>, IoError> {
        self.inner.open_snapshot(id)
    }

    fn close(&self, ticket: Ticket) {
        self.log("close");
        self.inner.close(ticket);
    }
}
