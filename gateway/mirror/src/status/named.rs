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
    /// The group's schedule: a recovery point.
    Scheduled,
    /// The write journal of a mirror, to begin with.
    Journal,
}

/// What is known of a snapshot beside what it holds. It only grows: marks are added up, in any order
/// and as often as they come, and each copy that keeps the snapshot comes to the same ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Nobody removes it before, in Unix milliseconds of the lock clock; 0: anybody may.
    pub locked_until_ms: u64,
    /// Somebody went back to it.
    pub used: bool,
    /// What wrote to the volumes had come to rest when it was taken.
    pub application: bool,
    /// Why it had not.
    pub why_not: Option<String>,
}

impl Marks {
    /// Adds other marks; says whether that changed anything. A lock is only ever made longer.
    pub fn add(&mut self, more: &Self) -> bool {
        let before = self.clone();
        self.locked_until_ms = self.locked_until_ms.max(more.locked_until_ms);
        self.used |= more.used;
        self.application |= more.application;
        if self.application {
            self.why_not = None;
        } else if more.why_not.is_some() {
            // Of two reasons the same one at each copy.
            self.why_not = self.why_not.take().max(more.why_not.clone());
        }
        *self != before
    }

    /// Whether nothing was marked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
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
    /// What else is known of it.
    pub marks: Marks,
    /// Where it is in its life here.
    pub state: SnapshotState,
    /// The volumes that it holds, and what the stores here call it.
    pub volumes: Vec<(VolumeId, SnapshotId)>,
    /// The mirrors that said that they keep it, too; only the gateway that took it knows.
    pub held_by: Vec<GatewayId>,
}
