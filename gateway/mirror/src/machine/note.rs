//! What people are told of.
//!
//! Invariant: nothing hangs on a note; whoever is told of none misses nothing that is done.

use block::{GatewayId, IoError, LegId, SnapshotId};

use crate::status::{Cause, Verified};

/// Something worth telling people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A mirror holds everything again.
    MirrorInSync {
        /// Which leg.
        leg: LegId,
    },
    /// A mirror was lost or stopped.
    MirrorLost {
        /// Which leg.
        leg: LegId,
        /// Why.
        cause: Cause,
    },
    /// A mirror that follows behind keeps its first whole cut.
    MirrorFollows {
        /// Which leg.
        leg: LegId,
    },
    /// A mirror of mode `sync` is too slow: its session goes on as in mode `consistency`.
    Degraded {
        /// Which leg.
        leg: LegId,
    },
    /// A transfer of mode `stack` is done.
    Transferred {
        /// Which leg.
        leg: LegId,
    },
    /// A snapshot that was asked for is kept here.
    SnapshotTaken {
        /// Which.
        id: SnapshotId,
    },
    /// A mirror does not keep a snapshot that it was to keep.
    SnapshotMissed {
        /// Which.
        id: SnapshotId,
        /// Which leg.
        leg: LegId,
        /// Why.
        why: String,
    },
    /// Every volume is what it was at a snapshot.
    RolledBack {
        /// Which.
        id: SnapshotId,
    },
    /// This gateway became the primary.
    Promoted,
    /// This gateway became a mirror.
    Demoted,
    /// This mirror's copy is open to hosts on its own; or no longer, and hosts were dropped.
    Detached(bool),
    /// A higher epoch exists; hosts were dropped.
    Fenced,
    /// A gateway with a lower epoch was refused.
    FencedOff {
        /// Who.
        gateway: GatewayId,
    },
    /// Both sides have writes that the other lacks.
    SplitBrain {
        /// Which leg.
        leg: LegId,
    },
    /// Every part counts on its mirror.
    StretchJoined {
        /// The stretch.
        number: u64,
    },
    /// No part counts on its mirror any more.
    StretchEnded {
        /// The companion that was past it first; nobody if it was this part.
        by: Option<GatewayId>,
    },
    /// An operator excluded a companion, or took it back in.
    Excluded {
        /// Who.
        gateway: GatewayId,
        /// Whether it is out.
        excluded: bool,
    },
    /// This gateway was excluded by a companion; hosts were dropped.
    ExcludedBy {
        /// Who says so.
        gateway: GatewayId,
    },
    /// The primary is lost and so is its lease: this mirror takes over.
    TakesOver,
    /// The witness went out of reach, or is back.
    Witness {
        /// Whether it answers.
        reachable: bool,
    },
    /// A verification found blocks of a mirror that are not what they should be.
    Mismatch {
        /// Which leg.
        leg: LegId,
        /// Index of the volume.
        volume: usize,
        /// How many.
        blocks: u64,
    },
    /// A verification came to its end.
    Verified {
        /// Which leg.
        leg: LegId,
        /// What it found.
        found: Verified,
    },
    /// The local copy or ledger failed.
    Latched {
        /// How.
        error: IoError,
    },
}
