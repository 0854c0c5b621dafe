//! The points that a mirror can go back to, as they are recorded.

use block::{Quality, SnapshotId, VolumeId};

use crate::lineage::Lineage;

/// One snapshot for each volume of the group: one point in time.
pub(crate) type Snapshots = Vec<(VolumeId, SnapshotId)>;

/// The point that a mirror can go back to (rule 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) snapshots: Snapshots,
    /// What the copy was worth at that point.
    pub(crate) quality: Quality,
    pub(crate) lineage: Option<Lineage>,
    /// When it was taken, for people.
    pub(crate) unix_ms: u64,
}

/// What a mirror had on its own before it was told to follow (rule 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Discarded {
    pub(crate) snapshots: Snapshots,
    /// Bytes that were overwritten, at most.
    pub(crate) bytes: u64,
    /// When it was taken, for people.
    pub(crate) unix_ms: u64,
}

/// The points that a mirror keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PointsRecord {
    pub(crate) kept: Option<Kept>,
    pub(crate) discarded: Vec<Discarded>,
    /// Snapshots that nobody needs and that may be there: the next ones, which a crash may leave
    /// behind without a record, and those that are being removed.
    pub(crate) unneeded: Snapshots,
    /// The copy is being rolled back to the kept point.
    pub(crate) rolling_back: bool,
    /// The copy has content of its own that belongs to no history and that no snapshot keeps: nothing
    /// was changed in it since it was taken.
    pub(crate) foreign: bool,
}
