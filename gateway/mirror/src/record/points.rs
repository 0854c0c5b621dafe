//! The points in time that a mirror keeps, as they are recorded.
//!
//! Invariant: a kept point names one snapshot for each volume of the group, or it is none.

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
}

impl PointsRecord {
    /// What is left of the points when these are the volumes. A kept point that does not cover all
    /// of them is none; what there is of it is not needed.
    pub(crate) fn of(&self, volumes: &[VolumeId]) -> Self {
        let part = |snapshots: &Snapshots| -> Snapshots {
            let of = |volume| snapshots.iter().find(|(id, _)| id == volume).copied();
            volumes.iter().filter_map(of).collect()
        };
        let mut points = Self { unneeded: part(&self.unneeded), ..self.clone() };
        if let Some(kept) = &mut points.kept {
            kept.snapshots = part(&kept.snapshots);
        }
        let partial = |kept: &mut Kept| kept.snapshots.len() < volumes.len();
        if let Some(kept) = points.kept.take_if(partial) {
            points.unneeded.extend(kept.snapshots);
            points.rolling_back = false;
        }
        for discarded in &mut points.discarded {
            discarded.snapshots = part(&discarded.snapshots);
        }
        points.discarded.retain(|discarded| !discarded.snapshots.is_empty());
        points
    }
}
