//! What follows from a record when it is durable.
//!
//! Invariant: nothing that a record decides happens before it is durable.

use block::{LegId, Seq, SnapshotId};

/// What the record that is being written decides when it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing but the record.
    Nothing,
    /// The command that asked for it is done.
    Command,
    /// This leg is out of the in-sync set: what waited for it may be acknowledged.
    LegLeft(LegId),
    /// This leg is in the in-sync set.
    LegJoined(LegId),
    /// The group is arbitrated by a witness.
    Arbitrated,
    /// The dirty maps are durable: extents may leave the activity log.
    DirtyKept,
    /// This mirror follows the primary that opened it.
    Followed(u64),
    /// This mirror's copy is now recorded as what it is; held messages may be applied.
    QualityKept,
    /// A point that this mirror can go back to is recorded: the stream of this link goes on.
    PointKept { link: u64, cut: Option<Seq> },
    /// A snapshot that was asked for is recorded; by the link to the primary that asked, or 0.
    SnapshotNamed { id: SnapshotId, link: u64 },
    /// The primary is recorded as what a named snapshot holds.
    RolledBack,
    /// A snapshot is given up, so that the way back to another has room: whoever asked is answered.
    RoomMade(u64),
    /// This mirror recorded that it goes back to its kept point.
    RollbackIntended,
    /// This mirror is recorded as in sync.
    Promoted,
    /// This mirror is the primary: by handover, or by an operator.
    TookOver { handover: bool },
    /// The primary recorded that it is handing over.
    Yielded,
    /// The primary took the handover back.
    Unyielded,
    /// The old primary recorded that it is a mirror.
    Demoted,
    /// The fence is recorded.
    Fenced,
    /// This copy is recorded as open to hosts on its own.
    Detached,
    /// Who belongs to the group is recorded.
    MembersKept,
    /// What the gateway that this mirror relays to may lack is recorded.
    RelayKept { leg: LegId, number: u64 },
}
