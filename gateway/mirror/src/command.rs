//! What an operator may ask of a group, and why it is refused.

use block::{Epoch, GatewayId, IoError, LegId, Quality, SessionId, SnapshotId, VolumeId};

use crate::policy::Policy;
use crate::status::{Marks, SnapshotOrigin};

/// An operator's command. Each is durable when it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Mirror the group to another gateway: one session per volume, in the group's order.
    AddLeg {
        /// The other gateway.
        gateway: GatewayId,
        /// The name of its site.
        site: String,
        /// A session per volume.
        sessions: Vec<SessionId>,
        /// Their policies.
        policy: Policy,
        /// An operator says that the other gateway holds the content already: it is compared with
        /// what is here, and only blocks that differ are sent.
        holds_content: bool,
    },
    /// Forget a leg. The mirror keeps its copy, as an old one.
    RemoveLeg {
        /// Which.
        leg: LegId,
    },
    /// Stop mirroring and track changes; also: go on without a mirror that cannot be reached.
    Suspend {
        /// Which.
        leg: LegId,
    },
    /// Bring a mirror that does not have everything to the present, as in mode `sync`, so that its
    /// session can be suspended whole. Answered when it has begun; when the time is over, or the link
    /// is lost, the session goes on as before.
    Drain {
        /// Which.
        leg: LegId,
        /// For how long at most, in milliseconds.
        for_ms: u64,
    },
    /// The same as [`Command::Suspend`], where the mirror has every acknowledged write; refused
    /// otherwise.
    SuspendWhole {
        /// Which.
        leg: LegId,
    },
    /// Mirror again, by delta. With `discard`, what the mirror has on its own may be overwritten.
    Resume {
        /// Which.
        leg: LegId,
        /// The operator's consent to lose what only the mirror has.
        discard: bool,
    },
    /// Change a leg's policies, its mode among them. The mode changes while everything goes on, and
    /// nothing is copied that need not be.
    SetPolicy {
        /// Which.
        leg: LegId,
        /// The new ones.
        policy: Policy,
    },
    /// Bring a mirror of mode `stack` to one later point. Answered when it has begun.
    Transfer {
        /// Which.
        leg: LegId,
    },
    /// Compare every mapped block of an in-sync mirror with the copy here, by checksums of what is
    /// read on both sides; what differs is counted and copied again. Hosts go on.
    Verify {
        /// Which.
        leg: LegId,
        /// Bytes that are compared in a second at most.
        bytes_per_second: u64,
    },
    /// Swap roles with an in-sync mirror without losing anything.
    Reverse {
        /// Which.
        leg: LegId,
    },
    /// Become the primary without the old one.
    Promote {
        /// What the operator accepts.
        consent: Consent,
    },
    /// Become the primary of one part of the group, at a cut that the mirrors of all parts have.
    TakeOver {
        /// What the operator accepts.
        consent: Consent,
        /// The stretch that the copy here, or its kept point, is a point of.
        cut: u64,
        /// The mirrors have no cut in common: each takes over as it is, and `cut` is a new number
        /// that is the same for all.
        apart: bool,
    },
    /// Another part of the group begins at a gateway of this site. The group is not mirrored yet.
    Accompany {
        /// Who has it.
        gateway: GatewayId,
    },
    /// A companion is stopped, and nothing waits for it any more. It refuses to serve when it hears
    /// of that.
    Exclude {
        /// Who.
        gateway: GatewayId,
    },
    /// A companion that was excluded is there again, and belongs to the group's order again.
    Include {
        /// Who.
        gateway: GatewayId,
    },
    /// Open this mirror's copy to hosts, read-write and on its own, while its session is suspended
    /// (REC-06). What is written here is tracked, and discarded when the session is resumed.
    Detach,
    /// Keep what every volume of the group holds at one place in its stream, here and at every
    /// mirror that has all of it. Hosts go on. Answered when it is durable here (SNAP-01).
    Snapshot {
        /// What it is known by, at every copy.
        snapshot: SnapshotId,
        /// What people call it.
        name: String,
        /// Who wanted it.
        origin: SnapshotOrigin,
        /// When, in Unix milliseconds.
        unix_ms: u64,
    },
    /// Hold hosts' changes for a snapshot of all parts of the group, of which this is one: from the
    /// answer on, until [`Command::TakeHeld`], [`crate::Group::let_go`], or a few seconds have passed.
    Hold {
        /// What it is known by, at every part and every copy.
        snapshot: SnapshotId,
        /// What people call it.
        name: String,
        /// When, in Unix milliseconds.
        unix_ms: u64,
        /// The cut at which all parts became primaries, as whoever asks knows it.
        from: u64,
    },
    /// Every part holds its hosts: take the snapshot. Answered when it is durable here.
    TakeHeld {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Forget a snapshot, here and, at a primary, at every mirror that may keep it, as soon as it is
    /// connected. The room comes back a little later.
    RemoveSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Take a recovery point: as [`Command::Snapshot`], by the group's schedule.
    TakePoint {
        /// What it is known by, at every copy.
        snapshot: SnapshotId,
        /// What people call it.
        name: String,
        /// When, in Unix milliseconds.
        unix_ms: u64,
        /// What is known of it beside.
        marks: Marks,
        /// No mirror keeps it.
        here_only: bool,
    },
    /// Add marks to a snapshot, here and, at a primary, at every mirror that keeps it; one that is
    /// away hears of it when it is back.
    MarkSnapshot {
        /// Which.
        snapshot: SnapshotId,
        /// What to add. Nothing is ever taken away.
        marks: Marks,
    },
    /// Forget a snapshot here. Mirrors, and the primary of a mirror, go on keeping it.
    ForgetSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Say which recovery points the group has. Its mirrors are told, for when they are the primary.
    SetPointPolicy {
        /// In words that the mirror does not look into; none: there are no recovery points.
        policy: Option<bytes::Bytes>,
    },
    /// Make every volume of the group what it was at a snapshot, all of them or none (SNAP-02). Its
    /// sessions are suspended; resumed, the mirrors follow by delta. What is here now is kept as a
    /// snapshot before.
    RollBack {
        /// Which.
        snapshot: SnapshotId,
        /// What the snapshot of the content before that is to be known by.
        safety: SnapshotId,
        /// When, in Unix milliseconds.
        unix_ms: u64,
    },
    /// Make a volume longer, mirrors first.
    Grow {
        /// Which.
        volume: VolumeId,
        /// Its new size in bytes.
        bytes: u64,
    },
}

/// What an operator accepts when a mirror is promoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consent {
    /// Only a copy that had every acknowledged write when it last heard of the primary.
    #[default]
    InSync,
    /// Also a copy known to be old, or whose primary still answers. A copy that is no point in time
    /// goes back to the one that it keeps.
    Outdated,
    /// Also a half-copied one that keeps none: not any point in time.
    Inconsistent,
}

impl Consent {
    /// The least that has to be accepted for a copy of this quality to be promoted; `has_kept` says
    /// whether it keeps a point that it would go back to.
    #[must_use]
    pub const fn needed(quality: Quality, has_kept: bool) -> Self {
        match quality {
            Quality::InSync | Quality::Source => Self::InSync,
            Quality::Outdated | Quality::Consistent => Self::Outdated,
            Quality::Inconsistent if has_kept => Self::Outdated,
            Quality::Inconsistent | Quality::Blank => Self::Inconsistent,
        }
    }
}

/// Why a command was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such leg, session or volume here.
    #[error("there is no such session here")]
    Unknown,
    /// Only the primary can do this.
    #[error("this gateway is not the primary of the group")]
    NotPrimary,
    /// Only a mirror can do this.
    #[error("this gateway is already the primary of the group")]
    NotSecondary,
    /// A source has at most eight mirrors.
    #[error("the group already has {} mirrors", LegId::COUNT)]
    TooManyLegs,
    /// That gateway already mirrors the group.
    #[error("the group is already mirrored to that gateway")]
    AlreadyMirrored,
    /// The number of sessions does not fit the number of volumes.
    #[error("a leg needs one session for each volume of the group")]
    SessionsMismatch,
    /// The mirror must be in sync for this.
    #[error("the mirror is not in sync")]
    NotInSync,
    /// Only sessions of mode `stack` have transfers.
    #[error("only a session in mode stack has transfers")]
    NotStack,
    /// An operator or a fault stopped the session.
    #[error("the session is stopped; resume it first")]
    Stopped,
    /// The mirror must be connected for this.
    #[error("the mirror is not connected")]
    NotConnected,
    /// The copy here is not worth that without the operator's word.
    #[error("the copy here is {quality:?}; promoting it needs an explicit word")]
    QualityTooLow {
        /// What it is.
        quality: Quality,
    },
    /// The primary still answers; `reverse` loses nothing.
    #[error("the primary is connected; swap roles with reverse, or say that you mean it")]
    PrimaryAlive,
    /// The primary may still count on this copy.
    #[error(
        "the primary may still count on the copy here; suspend its session there first, or fail over"
    )]
    NotSuspended,
    /// The peer's release is too old for this.
    #[error("the other gateway speaks protocol version {theirs}; this needs {needs}: upgrade it")]
    PeerTooOld {
        /// What is spoken.
        theirs: u16,
        /// What it takes.
        needs: u16,
    },
    /// The mirror that was asked to take over may have done so.
    #[error("the mirror was asked to take over and may have; going on here needs an explicit word")]
    HandoverUnanswered,
    /// A mirror sends whole points on, and nothing else.
    #[error("a session whose source is a mirror runs in mode stack")]
    RelayMode,
    /// That gateway is where this copy comes from.
    #[error("the copy here comes from that gateway: it cannot be sent back there")]
    Loop,
    /// One place is left for the primary.
    #[error("a mirror has room for {} sessions of its own", LegId::COUNT - 1)]
    TooManyRelays,
    /// The copy here is brought up to date for the first time.
    #[error("the copy here is not whole yet: suspend this session when it is, or delete it")]
    NotWhole,
    /// A group has so many volumes at most.
    #[error("the group already has {} volumes", crate::GROUP_VOLUMES_MAX)]
    TooManyVolumes,
    /// A group has at least one volume.
    #[error("it is the only volume of the group")]
    LastVolume,
    /// Another command that excludes this one is under way.
    #[error("another change of roles is under way")]
    Busy,
    /// Volumes never shrink, and have a largest size.
    #[error("a volume only grows, in steps of 4096 bytes, up to 1 PiB")]
    BadSize,
    /// A copy could not do it.
    #[error("a copy failed: {0}")]
    Io(IoError),
    /// A higher epoch exists.
    #[error("fenced by epoch {by}")]
    Fenced {
        /// That epoch.
        by: Epoch,
    },
    /// The witness cannot be asked, and without its word this takes no effect.
    #[error("the witness cannot be reached")]
    NoWitness,
    /// The witness was asked to name this gateway the primary, and its answer did not come: what was
    /// asked may still be granted, and then it takes effect.
    #[error(
        "the witness was asked and did not answer: this gateway may still become the primary when it \
         is reached again"
    )]
    WitnessSilent,
    /// The witness does not name this gateway in the in-sync set.
    #[error("the witness does not name this gateway among those that hold every write")]
    NotNamed,
    /// The primary may still answer reads.
    #[error("the primary's lease of {lease_ms} ms runs, or ended too short a while ago")]
    LeaseRuns {
        /// How long a lease is.
        lease_ms: u64,
    },
    /// A companion did not say that it stopped.
    #[error("a companion has not stopped at the same cut; start it, or exclude it")]
    NoCompanion,
    /// The mirrors of a group over several gateways take over together.
    #[error("a group over several gateways {what}")]
    Spanning {
        /// What it does, or does not.
        what: &'static str,
    },
    /// A part is not a primary, or took over at another cut than the others.
    #[error("the parts of the group are not served together now")]
    PartsApart,
    /// Hosts are never held for long.
    #[error("hosts are not held for that snapshot any more: the other parts took too long")]
    HoldEnded,
    /// The copy here is no point of that stretch and keeps none.
    #[error("the copy here has no point of stretch {cut}; make the plan anew")]
    NoSuchCut {
        /// The stretch.
        cut: u64,
    },
    /// There is a snapshot of that name.
    #[error("the group has a snapshot of that name already")]
    SnapshotExists,
    /// There is none.
    #[error("there is no such snapshot here")]
    NoSuchSnapshot,
    /// A group has so many at most.
    #[error("the group has as many snapshots as it can have; delete one first")]
    TooManySnapshots,
    /// It holds some volumes of the group and not others.
    #[error("the snapshot has no content of volume {volume}: the group cannot go back to it")]
    SnapshotPartial {
        /// A volume that it does not hold.
        volume: String,
    },
    /// The snapshot is being removed, or its content is not there.
    #[error("the snapshot cannot be used: it is being removed, or its content was lost")]
    SnapshotUnusable,
    /// The group goes back to it, or keeps what was there before as it.
    #[error("the group is on its way back, and needs that snapshot until it is there")]
    NeededOnTheWay,
    /// Nobody removes it yet.
    #[error("the snapshot is locked, and nobody removes it before its lock ends")]
    SnapshotLocked {
        /// When that is, in Unix milliseconds of the lock clock.
        until_ms: u64,
    },
    /// Mirrors hold every acknowledged write; going back would leave them ahead.
    #[error("the group is mirrored: suspend its sessions first")]
    SessionsActive,
    /// The link ended before the answer came; the state says what became of it.
    #[error("the mirror went away before it answered")]
    Interrupted,
}
