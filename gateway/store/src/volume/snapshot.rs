//! Taking, removing, returning to and comparing with snapshots.
//!
//! Invariant: each of these is one record, so it is done whole or not at all; what takes time is
//! left to [`super::chores`].

use block::{BlockSet, IoError, SnapshotId, Ticket};

use crate::runs::Mapped;

use super::Inner;
use super::page::{BLOCKS, CHUNKS};
use super::record::Record;

/// The most snapshots of a volume: the state of a checkpoint has a set of pages for each of them, and
/// what is learned of a page for the first time asks each of them. A group gives names to half as many.
const SNAPSHOTS_MAX: usize = 1024;

// === impl Inner ===

impl Inner {
    pub(super) fn snapshot(&mut self, id: SnapshotId, ticket: Ticket) {
        match self.try_snapshot(id) {
            Ok(()) => self.want_sync(ticket),
            Err(e) => ticket.fail(e),
        }
    }

    fn try_snapshot(&mut self, id: SnapshotId) -> Result<(), IoError> {
        self.begin_tree()?;
        let layers = self.map.layers();
        if layers.named(id).is_some() {
            return Err(IoError::Invalid);
        }
        let layer = layers.next_id().ok_or(IoError::Invalid)?;
        if layers.names_len() >= SNAPSHOTS_MAX {
            return Err(IoError::TooManySnapshots);
        }
        self.ensure_open()?;
        self.allow_snapshots()?;
        self.change_tree(Record::Snapshot { layer, id })
    }

    pub(super) fn remove_snapshot(&mut self, id: SnapshotId, ticket: Ticket) {
        match self.try_remove(id) {
            Ok(true) => {
                self.chores.wait(ticket);
                self.lanes.want_reclaim();
            }
            Ok(false) => ticket.done(),
            Err(e) => ticket.fail(e),
        }
    }

    /// Whether there is something to be waited for.
    fn try_remove(&mut self, id: SnapshotId) -> Result<bool, IoError> {
        self.begin_tree()?;
        if self.chores.is_kept(id) {
            // It goes when nothing is filled from it any more.
            return Ok(false);
        }
        if self.map.layers().named(id).is_none() {
            return Ok(self.chores.is_stalled());
        }
        self.ensure_open()?;
        self.change_tree(Record::Unname { id })?;
        Ok(true)
    }

    pub(super) fn roll_back(&mut self, id: SnapshotId, ticket: Ticket) {
        match self.try_roll_back(id) {
            Ok(()) => self.want_sync(ticket),
            Err(e) => ticket.fail(e),
        }
    }

    fn try_roll_back(&mut self, id: SnapshotId) -> Result<(), IoError> {
        self.begin_tree()?;
        if !self.busy.is_empty() || self.map.layers().named(id).is_none() {
            return Err(IoError::Invalid);
        }
        let layer = self.map.layers().next_id().ok_or(IoError::Invalid)?;
        self.ensure_open()?;
        self.change_tree(Record::RollBack { layer, id })
    }

    fn begin_tree(&mut self) -> Result<(), IoError> {
        if self.latched {
            return Err(IoError::Latched);
        }
        self.flush_group();
        Ok(())
    }

    /// Waits for the disk, once in a volume's life.
    pub(super) fn allow_snapshots(&mut self) -> Result<(), IoError> {
        let mut activity = self.activity.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        activity.allow_snapshots().map_err(|e| {
            self.metrics.errors_write.increment(1);
            e.for_request()
        })
    }

    /// The blocks that some layer has which only one of the volume and the snapshot is read
    /// through.
    pub(super) fn changed_since(
        &mut self,
        id: SnapshotId,
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, IoError> {
        let layers = self.map.layers();
        let layer = layers.named(id).ok_or(IoError::Invalid)?.id;
        let chains = (layers.chain(layers.head), layers.chain(layer));
        self.changed(chains, from, limit)
    }

    /// The blocks that some layer has which only one of the two snapshots is read through.
    pub(super) fn changed_between(
        &mut self,
        (one, other): (SnapshotId, SnapshotId),
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, IoError> {
        let layers = self.map.layers();
        let layer = |id| layers.named(id).map(|layer| layer.id).ok_or(IoError::Invalid);
        let chains = (layers.chain(layer(one)?), layers.chain(layer(other)?));
        self.changed(chains, from, limit)
    }

    /// The blocks that some layer has which is in one chain only.
    fn changed(
        &mut self,
        (mut now, mut then): (Vec<u32>, Vec<u32>),
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, IoError> {
        const PER_PAGE: u64 = (CHUNKS * BLOCKS) as u64;
        while now.last().is_some_and(|id| then.last() == Some(id)) {
            now.pop();
            then.pop();
        }
        now.append(&mut then);
        let mut out = Mapped::new(from, limit);
        let mut page = u32::try_from(from / PER_PAGE).unwrap_or(u32::MAX);
        while let Some(found) = self.map.next_page_of(&now, page) {
            let chunks = u64::from(found) * CHUNKS as u64..;
            for (chunk, mask) in chunks.zip(self.map.touched(&now, found)?) {
                if chunk >= from / BLOCKS as u64 && !out.chunk(chunk, mask) {
                    return Ok(out.finish());
                }
            }
            let Some(next) = found.checked_add(1) else { break };
            page = next;
        }
        Ok(out.finish())
    }
}
