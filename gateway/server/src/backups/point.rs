//! A volume of a snapshot, as a backup reads it: questions to the thread that has it.
//!
//! Invariant: what is read is one snapshot. When its content is not there any more a read fails; it
//! never answers with what the volume holds now.

use std::collections::HashMap;

use backup::{Source, VolumeError};
use block::{BlockSet, Extent, GroupId, SnapshotId, VolumeId};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::refusal::Refused;
use crate::shard::{Shard, Silent};

/// Where a snapshot's volume lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The group, which says which thread.
    pub(crate) group: GroupId,
    /// The volume.
    pub(crate) volume: VolumeId,
    /// What its store calls the snapshot.
    pub(crate) here: SnapshotId,
}

/// A volume of a snapshot.
#[derive(Debug)]
pub(crate) struct Point {
    /// Its thread.
    pub(crate) shard: Shard,
    /// Where it lies there.
    pub(crate) place: Place,
    /// The volume's name.
    pub(crate) name: String,
    /// Its size then.
    pub(crate) bytes: u64,
    /// The snapshot, as every site calls it.
    pub(crate) point: SnapshotId,
    /// Other snapshots that hold the volume, and what its store calls them.
    pub(crate) others: HashMap<SnapshotId, SnapshotId>,
}

/// What the thread said, in the words of backups.
fn told<T>(result: Result<Result<T, Refused>, Silent>) -> Result<T, VolumeError> {
    match result {
        Ok(said) => said.map_err(|refused| VolumeError::new(refused.0.detail.clone())),
        Err(silent) => Err(VolumeError::new(silent.to_string())),
    }
}

impl Source for Point {
    fn volume(&self) -> VolumeId {
        self.place.volume
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn point(&self) -> SnapshotId {
        self.point
    }

    fn knows(&self, earlier: SnapshotId) -> bool {
        self.others.contains_key(&earlier)
    }

    fn mapped(&self, from: u64, limit: usize) -> BoxFuture<'_, Result<BlockSet, VolumeError>> {
        let place = self.place;
        async move { told(self.shard.call(move |s| s.point_mapped(place, from, limit)).await) }
            .boxed()
    }

    fn changed_since(
        &self,
        earlier: SnapshotId,
        from: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<BlockSet, VolumeError>> {
        let place = self.place;
        let earlier = self.others.get(&earlier).copied();
        async move {
            let earlier = earlier.ok_or_else(|| VolumeError::new("that point is not kept"))?;
            let ask = self.shard.call(move |s| s.point_changed(place, earlier, from, limit));
            told(ask.await)
        }
        .boxed()
    }

    fn read(&self, extent: Extent) -> BoxFuture<'_, Result<Bytes, VolumeError>> {
        let place = self.place;
        async move {
            let read = self.shard.run(move |s| async move { s.read_point(place, extent).await });
            told(read.await)
        }
        .boxed()
    }
}
