//! Where the content of a backup comes from and where a restore puts it.
//!
//! Both are ports: a gateway connects them to snapshots of its pool and to volumes, tests connect
//! them to memory.
//!
//! Invariant: a source's point does not change while it is read.

use block::{BlockSet, Extent, SnapshotId, VolumeId};
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::VolumeError;

/// A snapshot of a volume, as it is read for a backup.
pub trait Source: Send + Sync {
    /// The volume.
    fn volume(&self) -> VolumeId;

    /// Its name, for people.
    fn name(&self) -> String;

    /// Its size in bytes at that moment: a multiple of 4096.
    fn bytes(&self) -> u64;

    /// The snapshot that is read.
    fn point(&self) -> SnapshotId;

    /// Whether what changed between that earlier snapshot and this one is known.
    fn knows(&self, earlier: SnapshotId) -> bool;

    /// The blocks from block `from` on that hold data, in order, at most `limit` ranges: fewer only
    /// when there are no more. All others read as zeroes.
    ///
    /// # Errors
    /// When the map cannot be read. A call may be dropped at any time.
    fn mapped(&self, from: u64, limit: usize) -> BoxFuture<'_, Result<BlockSet, VolumeError>>;

    /// The blocks from block `from` on in which this snapshot may differ from the earlier one, in
    /// order, at most `limit` ranges: fewer only when there are no more.
    ///
    /// # Errors
    /// When the map cannot be read, or the earlier snapshot went away. A call may be dropped at any
    /// time.
    fn changed_since(
        &self,
        earlier: SnapshotId,
        from: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<BlockSet, VolumeError>>;

    /// The bytes of a block-aligned range of at most 256 KiB.
    ///
    /// # Errors
    /// When they cannot be read. A call may be dropped at any time.
    fn read(&self, extent: Extent) -> BoxFuture<'_, Result<Bytes, VolumeError>>;
}

/// A volume that a backup is restored to. Its content does not matter before.
pub trait Sink: Send + Sync {
    /// Its size in bytes: at least that of what is restored.
    fn bytes(&self) -> u64;

    /// Whether it reads as zeroes wherever it was not written, so that zeroes need not be.
    fn is_blank(&self) -> bool;

    /// Writes a block-aligned range.
    ///
    /// # Errors
    /// When it cannot be written. A call that is dropped may be done or not.
    fn write(&self, offset: u64, data: Bytes) -> BoxFuture<'_, Result<(), VolumeError>>;

    /// Makes a block-aligned range read as zeroes.
    ///
    /// # Errors
    /// When it cannot be written. A call that is dropped may be done or not.
    fn zero(&self, extent: Extent) -> BoxFuture<'_, Result<(), VolumeError>>;

    /// Makes everything durable that was written.
    ///
    /// # Errors
    /// When it is not.
    fn flush(&self) -> BoxFuture<'_, Result<(), VolumeError>>;
}
