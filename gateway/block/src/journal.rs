//! What a mirror writes down of the changes that it applies, so that its group can be opened as of
//! any second.
//!
//! ```text
//!   Base ─ Time ─ Change ─ Change ─ Time ─ … ─ Gap       one stretch: what follows a base follows it
//! ```
//!
//! Invariant: entries come in the order of the group's stream, over all of its volumes, so that what
//! lies before any of them is a state that the group once had. A change that is not written down has
//! a gap in its place.

use std::fmt;

use crate::{Change, Extent, Seq, SnapshotId, VolumeId};

/// Why what follows in a write journal does not follow from what stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gap {
    /// The link to the primary ended.
    Link,
    /// The copier brought the copy up to date: its copies come in no order.
    Resync,
    /// The list or the size of the volumes changed.
    Volumes,
    /// The copy failed.
    Latched,
    /// No base could be taken.
    Base,
    /// The gateway stopped, or was killed.
    Restart,
    /// The disk did not keep up.
    Slow,
    /// The disk is full.
    NoSpace,
    /// The disk failed.
    Media,
    /// A part of the journal cannot be read back.
    Damaged,
    /// The clock of the primary went back.
    Clock,
}

/// One entry of a write journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalEntry {
    /// Here every volume was snapshotted, under this identity.
    Base {
        /// The snapshot of the group.
        snapshot: SnapshotId,
        /// The newest change that it holds.
        seq: Seq,
    },
    /// What stands before was begun by the primary before this moment of its clock, what follows was
    /// not.
    Time {
        /// In milliseconds since 1970.
        unix_ms: u64,
    },
    /// A change.
    Change {
        /// Its place in the group's stream.
        seq: Seq,
        /// Which volume.
        volume: VolumeId,
        /// Where.
        extent: Extent,
        /// What.
        change: Change,
    },
    /// Something is missing here.
    Gap(Gap),
}

/// Where a mirror writes down what it applies. It is written behind: nobody waits for it, and what it
/// cannot take becomes a gap.
pub trait WriteJournal: fmt::Debug {
    /// Whether a base is to be taken now.
    fn wants_base(&self) -> bool;

    /// The next entry.
    fn keep(&self, entry: JournalEntry);
}

// === impl Gap ===

impl Gap {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Link,
        Self::Resync,
        Self::Volumes,
        Self::Latched,
        Self::Base,
        Self::Restart,
        Self::Slow,
        Self::NoSpace,
        Self::Media,
        Self::Damaged,
        Self::Clock,
    ];

    /// One word for it, for metrics and events.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Resync => "resync",
            Self::Volumes => "volumes",
            Self::Latched => "latched",
            Self::Base => "base",
            Self::Restart => "restart",
            Self::Slow => "slow",
            Self::NoSpace => "no_space",
            Self::Media => "media",
            Self::Damaged => "damaged",
            Self::Clock => "clock",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "the link to the primary ended",
            Self::Resync => "the copy was brought up to date by copies, which come in no order",
            Self::Volumes => "the volumes of the group changed",
            Self::Latched => "the copy here failed",
            Self::Base => "no base snapshot could be taken",
            Self::Restart => "the gateway stopped",
            Self::Slow => "the disk of the journal did not keep up",
            Self::NoSpace => "the disk of the journal is full",
            Self::Media => "the disk of the journal failed",
            Self::Damaged => "a part of the journal cannot be read back",
            Self::Clock => "the clock of the primary went back",
        })
    }
}
