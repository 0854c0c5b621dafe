//! Snapshots with names, as people are shown them.
//!
//! Invariant: nothing is decided by these.

use block::{GatewayId, SnapshotId, VolumeId};

/// Who wanted a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotOrigin {
    /// An operator.
    Manual,
    /// The gateway itself, before it made the volumes what they once were.
    Safety,
    /// The gateway itself, to read a backup from it and to know what the next one has to read.
    Backup,
}

/// Where a snapshot is in its life (SNAP-05).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotState {
    /// It can be used.
    Available,
    /// The group is going back to it.
    RollingBack,
    /// It is being removed; its room is given back.
    Deleting,
    /// Its content is not there. It can only be deleted.
    Error,
}

impl SnapshotState {
    /// Whether its content can be read here.
    #[must_use]
    pub const fn is_readable(self) -> bool {
        match self {
            Self::Available | Self::RollingBack => true,
            Self::Deleting | Self::Error => false,
        }
    }
}

/// A snapshot of the group that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// What it is known by, at every copy.
    pub id: SnapshotId,
    /// What people call it.
    pub name: String,
    /// Who wanted it.
    pub origin: SnapshotOrigin,
    /// When, in Unix milliseconds, by the clock of the gateway that was asked.
    pub unix_ms: u64,
    /// Where it is in its life here.
    pub state: SnapshotState,
    /// The volumes that it holds, and what the stores here call it.
    pub volumes: Vec<(VolumeId, SnapshotId)>,
    /// The mirrors that said that they keep it, too; only the gateway that took it knows.
    pub held_by: Vec<GatewayId>,
}
