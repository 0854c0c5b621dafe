//! Where one copy of a volume lives, and where a gateway keeps what it must not forget.
//!
//! Invariant: a store that failed a sync is latched. It answers [`crate::IoError::Latched`] until
//! it is reopened, because the kernel may have thrown the unsynced pages away.

use std::rc::Rc;

use bytes::Bytes;

use crate::{ActivityExtent, BlockSet, Extent, IoError, Request, SnapshotId, Ticket, Volume};

/// What a store found when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whether it had been closed cleanly.
    pub clean: bool,
    /// Whether a start before this one began to make durable what the last process had left and did
    /// not come to its end: a sync may have failed then, and with it went whatever had not been
    /// durable, as in a loss of power. It stays so until activity is recorded or it is closed.
    pub doubtful: bool,
    /// The extents that may have had changes in flight when it was not: copies may differ there.
    pub active: Vec<ActivityExtent>,
}

/// How much room a copy takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of data that are mapped.
    pub mapped_bytes: u64,
}

/// What a store keeps of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Which.
    pub id: SnapshotId,
    /// The volume's size at that moment, in bytes.
    pub bytes: u64,
    /// Bytes of data that would be given back if it were removed now; at least so many where a
    /// volume went back to a snapshot that is gone, because what that left behind for this one
    /// alone goes with it.
    pub exclusive_bytes: u64,
    /// Bytes of data that it reads from places which others use too.
    pub shared_bytes: u64,
}

/// One copy of a volume.
///
/// Reads, changes and flushes come in through [`Volume::submit`]. A change is *applied* when it is
/// answered (it survives the death of the process) and *durable* when a flush that was submitted
/// after it has been answered (it survives the loss of power). A change with `fua` is durable when
/// it is answered. A write may begin and end at any byte.
pub trait Store: Volume {
    /// Durably replaces the set of extents that may have changes in flight, then answers. Extents
    /// that left the set have no change in flight, and the store makes what it knows of them (maps,
    /// checksums) durable first. A change outside the recorded set is legal but slow: the store
    /// then records it by itself.
    fn record_activity(&self, active: &[ActivityExtent], ticket: Ticket);

    /// What opening it found.
    fn recovery(&self) -> Recovery;

    /// Every block that is mapped, in order, from block `from` on, as at most `limit` ranges.
    ///
    /// # Errors
    /// [`IoError::Media`] or [`IoError::Checksum`] when the map cannot be read.
    fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, IoError>;

    /// CRC32C of each block of `extent` (block-aligned), in order, with 0 for one that reads as
    /// zeroes. Reads the data, so it is for comparing copies, not for the write path.
    ///
    /// # Errors
    /// As for a read.
    fn checksums(&self, extent: Extent) -> Result<Vec<u32>, IoError>;

    /// As [`Volume::submit`], for what nobody is about to read here, as a mirror's copy: the store
    /// may bring it to its medium at once and keep none of it in memory. Nothing else is promised.
    fn submit_aside(&self, batch: &mut Vec<Request>) {
        self.submit(batch);
    }

    /// Makes the volume `bytes` long, durably, then answers. Never shrinks:
    /// [`IoError::Invalid`] for a smaller size or one that no volume can have.
    fn grow(&self, bytes: u64, ticket: Ticket);

    /// How much room it takes.
    fn usage(&self) -> Usage;

    /// Keeps the content of this moment under `id`, then answers: everything that was applied
    /// before the call is in it and nothing that is submitted after it, and both are durable.
    /// Takes constant time whatever the size, but for making durable what was not.
    ///
    /// Answers [`IoError::Unsupported`] where the medium cannot keep one, [`IoError::Invalid`] when
    /// there is one with this name, [`IoError::TooManySnapshots`] when there are as many as it
    /// keeps, [`IoError::NoSpace`] and [`IoError::Media`]; then nothing changed.
    fn snapshot(&self, id: SnapshotId, ticket: Ticket) {
        let _ = id;
        ticket.fail(IoError::Unsupported);
    }

    /// Forgets a snapshot and gives back what only it held, durably, then answers. The order in
    /// which snapshots are removed does not matter. One that is not there is gone already.
    fn remove_snapshot(&self, id: SnapshotId, ticket: Ticket) {
        let _ = id;
        ticket.done();
    }

    /// Makes the volume's content what it was at the snapshot, durably, then answers. The snapshot
    /// stays, and so do all others; the size stays what it is (a part that was grown since reads
    /// as zeroes). Nothing may be in flight. Interrupted, it is done whole or not at all.
    ///
    /// Answers [`IoError::Invalid`] when there is no such snapshot.
    fn roll_back(&self, id: SnapshotId, ticket: Ticket) {
        let _ = id;
        ticket.fail(IoError::Invalid);
    }

    /// The blocks, from block `from` on, in which the volume may differ from the snapshot, as at
    /// most `limit` ranges. Reads the map, not the data.
    ///
    /// # Errors
    /// [`IoError::Invalid`] when there is no such snapshot, [`IoError::Media`] or
    /// [`IoError::Checksum`] when the map cannot be read.
    fn changed_since(&self, id: SnapshotId, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        let _ = (id, from, limit);
        Err(IoError::Invalid)
    }

    /// The blocks, from block `from` on, in which two snapshots may differ, as at most `limit`
    /// ranges; in which of them something was changed does not matter. Reads the maps, not the data.
    ///
    /// # Errors
    /// As [`changed_since`](Self::changed_since), for either of them.
    fn changed_between(
        &self,
        snapshots: (SnapshotId, SnapshotId),
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, IoError> {
        let _ = (snapshots, from, limit);
        Err(IoError::Invalid)
    }

    /// Every snapshot, oldest first, counted in one go: for who has nobody to keep waiting.
    fn snapshots(&self) -> Vec<Snapshot> {
        Vec::new()
    }

    /// The same, counted a piece at a time. `None` after about a millisecond of it: hosts have their
    /// turn, then the next call goes on. What they write meanwhile may be counted or not: each number
    /// lies between what was right at the first call and what is right at the last.
    fn count_snapshots(&self) -> Option<Vec<Snapshot>> {
        Some(self.snapshots())
    }

    /// What the snapshots are called, oldest first. Nothing is counted.
    fn snapshot_ids(&self) -> Vec<SnapshotId> {
        self.snapshots().into_iter().map(|snapshot| snapshot.id).collect()
    }

    /// A snapshot as a volume that refuses changes. While it is held it stays what it is, whatever
    /// happens to the volume. Removing the snapshot takes away its name at once, but what only it
    /// holds is given back when the last who opened it has let go (or died).
    ///
    /// # Errors
    /// [`IoError::Invalid`] when there is no such snapshot.
    fn open_snapshot(&self, id: SnapshotId) -> Result<Rc<dyn Volume>, IoError> {
        let _ = id;
        Err(IoError::Invalid)
    }

    /// Makes everything durable and marks the copy as cleanly closed, then answers. A change after
    /// that makes it unclean again.
    fn close(&self, ticket: Ticket);
}

/// Small records that a gateway must not forget: roles, epochs, who is in sync, what is dirty.
pub trait Ledger {
    /// The record under `key`, if there is one.
    ///
    /// # Errors
    /// [`IoError::Media`] or [`IoError::Checksum`] when it cannot be read.
    fn get(&self, key: &str) -> Result<Option<Bytes>, IoError>;

    /// Durably replaces (or with `None` removes) all these records at once, then answers. Calls
    /// take effect in the order they were made.
    fn put(&self, records: Vec<(String, Option<Bytes>)>, ticket: Ticket);
}
