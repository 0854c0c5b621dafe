//! What a group looks like from one gateway at one moment: plain data, free to leave the thread.
//!
//! Invariant: what is not known is `None`, never zero. Times are milliseconds of the gateway's
//! own clock ([`crate::Clock`]); ages are computed by whoever shows them.

mod named;

use block::{
    Epoch, GatewayId, Generation, GroupId, LegId, PartState, Quality, Seq, SessionId, SnapshotId,
    VolumeId,
};

pub use self::named::{Marks, SnapshotOrigin, SnapshotState, SnapshotStatus};
use crate::machine::Spell;
use crate::policy::Policy;

/// Which part a gateway plays in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It serves hosts; its content is the group's.
    Primary,
    /// It holds a copy.
    Secondary,
    /// It was the primary and learned of a higher epoch: it serves nobody.
    Fenced,
}

/// Whether hosts are served, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Reads and writes.
    Yes,
    /// This gateway is not the primary.
    NotPrimary,
    /// A higher epoch exists.
    Fenced {
        /// That epoch.
        by: Epoch,
    },
    /// Started after a crash; an in-sync mirror has not been heard yet and could have been
    /// promoted meanwhile.
    WaitingForMirror,
    /// Reads only: a mirror is missing and `split = manual`.
    Halted,
    /// A mirror is missing, and the witness cannot be asked whether to go on without it: writes
    /// are refused.
    NoWitness,
    /// Started, and the witness has not yet confirmed that nobody was promoted meanwhile.
    WaitingForWitness,
    /// A companion was not heard since this gateway started, or serves nobody itself: nobody is
    /// served before all parts are.
    WaitingForCompanion,
    /// A mirror is missing, and a companion has not said that it stopped at the same cut: writes are
    /// refused.
    NoCompanion,
    /// An operator excluded this gateway from the group.
    Excluded,
    /// In the middle of a planned swap of roles; requests are held.
    HandingOver,
    /// The local copy failed a sync and must be reopened.
    Latched,
    /// The group goes back to a snapshot; its hosts were dropped.
    RollingBack,
    /// A mirror's copy, open to hosts on its own while its session is suspended.
    Detached,
}

impl Serving {
    /// The epoch that fences this gateway, if one does.
    #[must_use]
    pub const fn fenced_by(&self) -> Option<Epoch> {
        match self {
            Self::Fenced { by } => Some(*by),
            Self::Yes
            | Self::NotPrimary
            | Self::WaitingForMirror
            | Self::Halted
            | Self::NoWitness
            | Self::WaitingForWitness
            | Self::WaitingForCompanion
            | Self::NoCompanion
            | Self::Excluded
            | Self::HandingOver
            | Self::Latched
            | Self::RollingBack
            | Self::Detached => None,
        }
    }
}

/// A session's status, in the words of the REC documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// Copying or mirroring.
    Active,
    /// Stopped by an operator.
    Suspended,
    /// Stopped by the loss of the link or of the mirror; changes are tracked.
    Halted,
    /// Stopped by a fault that needs an operator.
    Error,
}

/// A session's phase, in the words of the REC documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Never copied.
    NoPair,
    /// Blocks are being copied.
    Copying,
    /// Both copies are identical.
    Equivalent,
    /// The mirror goes from one whole cut to the next.
    Following,
    /// Differences are tracked, nothing is copied.
    Tracking,
}

/// The connection to a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// Not wanted: suspended, or waiting for an operator.
    Off,
    /// Being dialled.
    Connecting,
    /// Open.
    Connected,
}

/// Why a leg is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The link ended; the text says how.
    LinkLost(String),
    /// The mirror could not be reached; the text says how.
    Unreachable(String),
    /// The mirror's copy failed with this error.
    MirrorFailed(block::IoError),
    /// The mirror did not acknowledge within the session's deadline.
    TooSlow,
    /// Its send journal was full: it was slower than the hosts for too long.
    JournalFull,
    /// The mirror's gateway is of a release that does not know what this session needs.
    PeerTooOld {
        /// The protocol version that it speaks.
        version: u16,
        /// The oldest that will do.
        needs: u16,
    },
    /// Both sides have writes that the other lacks.
    SplitBrain {
        /// Bytes that the mirror holds and this primary does not.
        theirs_bytes: u64,
    },
    /// The mirror refused; the text says why.
    Refused(String),
    /// An operator suspended it.
    Operator,
    /// The group is changed; it is opened again by itself.
    Regrouped,
    /// The mirror of another part is lost: the sessions of all stop at one cut. It is opened again by
    /// itself.
    StretchEnded {
        /// The companion that was past the stretch first; nobody if it was this part.
        by: Option<GatewayId>,
    },
    /// The mirror took over, or must be told to follow: `reprotect`.
    AwaitingReprotect,
}

/// One volume of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Its identity.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes that take room in the pool.
    pub mapped_bytes: u64,
}

/// One session of a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// The session.
    pub session: SessionId,
    /// Its volume.
    pub volume: VolumeId,
    /// Bytes in which the mirror may differ.
    pub out_of_sync_bytes: u64,
    /// Bytes that the running or last copy had to move when it began.
    pub resync_total_bytes: u64,
    /// Bytes of it that are moved.
    pub resync_copied_bytes: u64,
    /// Whether the running or last copy was a full one.
    pub full: bool,
    /// Bytes that verifications found to differ since this gateway started.
    pub mismatched_bytes: u64,
}

/// What a verification found: every mapped block of every volume of the group, read on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// When it ended, in Unix milliseconds; 0 until the driver has said so.
    pub at_ms: u64,
    /// The epoch at which it ran.
    pub epoch: Epoch,
    /// The history that was compared.
    pub generation: Generation,
    /// Blocks that were compared.
    pub blocks: u64,
    /// Of these, blocks that differed; they were copied again.
    pub mismatched: u64,
    /// Of these, blocks that could not be read at the source; they were left alone.
    pub unreadable: u64,
}

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verifying {
    /// Blocks that there are to compare; what is listed so far while the lists come in.
    pub total: u64,
    /// Of these, blocks that were compared.
    pub done: u64,
    /// Of these, blocks that differed.
    pub mismatched: u64,
}

/// One leg: the group's sessions to one mirror, seen from the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegStatus {
    /// Which.
    pub leg: LegId,
    /// The mirror's gateway.
    pub gateway: GatewayId,
    /// The mirror's site.
    pub site: String,
    /// Status of its sessions.
    pub state: SessionState,
    /// Phase of its sessions.
    pub phase: Phase,
    /// Whether an acknowledgement waits for it: it holds every acknowledged write.
    pub in_sync: bool,
    /// The connection.
    pub link: LinkState,
    /// Why it is not Active and Equivalent, if it is not on its way there.
    pub cause: Option<Cause>,
    /// The volume whose copy there failed, if that is the cause and it is known.
    pub failed: Option<VolumeId>,
    /// Its policies, its mode among them.
    pub policy: Policy,
    /// Bytes a second that its copier may send now; `None`: as many as go; 0: nothing.
    pub bytes_per_second_max: Option<u64>,
    /// It holds the content or most of it, because an operator says so or the two have a history in
    /// common, and not everything was compared yet.
    pub comparing: bool,
    /// Whether it follows behind because it was too slow, as in mode `consistency`.
    pub degraded: bool,
    /// Whether it is brought to the present, so that its session can be suspended whole.
    pub draining: bool,
    /// Of a suspended session: whether the mirror had every acknowledged write when it was suspended.
    /// `None` when that was before this gateway was started.
    pub left_whole: Option<bool>,
    /// Bytes that this gateway gave up of a history that the mirror followed, by going back to a kept
    /// point of it: the mirror may still have them. `None` when it gave up nothing of it.
    pub given_up_bytes: Option<u64>,
    /// Whether its source is this gateway as a mirror.
    pub relay: bool,
    /// How old the oldest acknowledged write is that the mirror may lack, in milliseconds, as far
    /// as it is known here; of a relay, the oldest that the copy here has and the one there lacks.
    pub lag_ms: Option<u64>,
    /// When the newest cut that the mirror keeps was cut.
    pub cut_ms: Option<u64>,
    /// Bytes of changes in the send journal, not yet on their way.
    pub journal_bytes: u64,
    /// Of these, the ones on disk.
    pub spilled_bytes: u64,
    /// Bytes that the send journal may hold.
    pub journal_bytes_max: u64,
    /// The times in which a mirror of mode `sync` did not have everything, oldest first; the last
    /// 32 since the group was opened.
    pub spells: Vec<Spell>,
    /// Its sessions.
    pub sessions: Vec<SessionStatus>,
    /// When the running or last copy began.
    pub resync_started_ms: Option<u64>,
    /// Bytes a second of the running copy, over the last seconds.
    pub resync_rate: Option<u64>,
    /// The verification under way.
    pub verifying: Option<Verifying>,
    /// The last one that came to its end; `None` when never.
    pub verified: Option<Verified>,
    /// Smoothed round trip of heartbeats, in microseconds.
    pub rtt_us: Option<u64>,
    /// When anything was last heard from it.
    pub last_heard_ms: Option<u64>,
    /// How the mirror sees the session, as of `last_heard_ms`.
    pub theirs: Option<block::MirrorState>,
    /// Changes sent and not acknowledged.
    pub inflight_writes: u64,
    /// The same in bytes.
    pub inflight_bytes: u64,
    /// Bytes waiting for the socket.
    pub send_queue_bytes: u64,
}

/// The primary, seen from a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// The primary's gateway.
    pub gateway: GatewayId,
    /// The primary's site.
    pub site: String,
    /// The sessions that this copy belongs to, in the order of the group's volumes.
    pub sessions: Vec<SessionId>,
    /// The connection.
    pub link: LinkState,
    /// When anything was last heard from it.
    pub last_heard_ms: Option<u64>,
    /// Whether it said goodbye before it went: nothing was acknowledged after that.
    pub orderly: bool,
    /// How the primary sees the session, as of `last_heard_ms`.
    pub theirs: Option<block::MirrorState>,
    /// The newest change applied here.
    pub seq: Seq,
    /// What it said last of the session's mode; `sync` when it never did.
    pub mode: block::Mode,
    /// What it said last of how old the oldest acknowledged write is that this copy may lack.
    pub lag_ms: Option<u64>,
}

/// A point in time that a mirror keeps in snapshots, one a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointStatus {
    /// By volume.
    pub snapshots: Vec<(VolumeId, SnapshotId)>,
    /// What the copy was worth at that point.
    pub quality: Quality,
    /// When it was taken.
    pub unix_ms: u64,
}

/// What a mirror had on its own before it was told to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscardedStatus {
    /// By volume.
    pub snapshots: Vec<(VolumeId, SnapshotId)>,
    /// Bytes that were overwritten, at most.
    pub bytes: u64,
    /// When it was taken.
    pub unix_ms: u64,
}

/// A planned swap of roles, at the primary that hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoverStatus {
    /// The leg whose mirror is to take over.
    pub leg: LegId,
    /// The epoch that it is offered.
    pub epoch: Epoch,
    /// Everything that was acknowledged is durable at both sides: the mirror is being asked.
    pub drained: bool,
    /// It was asked, its link is gone, and nobody but it knows whether it took over: hosts wait.
    pub unanswered: bool,
}

/// Counters that only grow while the group is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounters {
    /// Writes acknowledged with fewer copies than there are sessions.
    pub unprotected_writes: u64,
    /// The same in bytes.
    pub unprotected_bytes: u64,
    /// Changes of a lower epoch that were refused.
    pub fenced_writes: u64,
    /// Milliseconds for which host writes were held to keep RPO 0.
    pub blocked_ms: u64,
}

/// The witness, as a group sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WitnessStatus {
    /// Whether it answered when it was last asked.
    pub reachable: Option<bool>,
    /// Whether the group is under it.
    pub arbitrated: bool,
    /// Whom it names as primary.
    pub primary: Option<GatewayId>,
    /// At which epoch.
    pub epoch: Option<Epoch>,
    /// Whether it names this gateway, as the primary or in the in-sync set.
    pub is_named: Option<bool>,
    /// Whether this gateway may promote itself when its primary is lost.
    pub is_automatic: bool,
    /// Whether the lease of that primary runs.
    pub primary_alive: Option<bool>,
    /// Whether it knew the group once and does not any more.
    pub forgotten: bool,
    /// Whether a mirror waits to be taken out of the set or into it.
    pub asking: bool,
}

/// A companion as this part knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompanionStatus {
    /// Who.
    pub gateway: GatewayId,
    /// An operator excluded it here.
    pub excluded: bool,
    /// It answered since this gateway started.
    pub heard: bool,
    /// Whether it answered when it was last asked; `None` before that.
    pub reachable: Option<bool>,
    /// What it said last.
    pub said: Option<PartState>,
}

/// A part of a group that lies at several gateways of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartsStatus {
    /// Where this part is, as companions know it.
    pub state: PartState,
    /// The companion without which this part serves nobody, if there is one.
    pub waits_for: Option<GatewayId>,
    /// The companions that have not said that they stopped at the cut at which this part stopped.
    pub stops: Vec<GatewayId>,
    /// The companion at which an operator excluded this gateway.
    pub excluded_by: Option<GatewayId>,
    /// All of them.
    pub companions: Vec<CompanionStatus>,
}

/// A group as one gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which.
    pub group: GroupId,
    /// Its name.
    pub name: String,
    /// The part this gateway plays.
    pub role: Role,
    /// Its fencing number.
    pub epoch: Epoch,
    /// The history that the content here belongs to; `None` when it is blank.
    pub generation: Option<Generation>,
    /// Whether hosts are served here.
    pub serving: Serving,
    /// What the copy here is worth.
    pub quality: Quality,
    /// Its volumes.
    pub volumes: Vec<VolumeStatus>,
    /// Its legs; only a primary has running ones.
    pub legs: Vec<LegStatus>,
    /// The primary, if this gateway is a mirror.
    pub upstream: Option<UpstreamStatus>,
    /// The point that a promotion of a copy goes back to that is no point in time itself.
    pub kept: Option<PointStatus>,
    /// Whether a store here is known to keep no snapshots, so that there never is such a point.
    pub keeps_no_points: bool,
    /// What this mirror had on its own before it was told to follow, until an operator removes the
    /// snapshots.
    pub discarded: Vec<DiscardedStatus>,
    /// The snapshots that have names, oldest first.
    pub snapshots: Vec<SnapshotStatus>,
    /// What the primary was told of the group's recovery points, in the words of who told it.
    pub point_policy: Option<bytes::Bytes>,
    /// Whether this copy has content of its own that belongs to no history, and that nobody changed
    /// since it was taken for a mirror's.
    pub is_foreign: bool,
    /// Seconds of acknowledged writes that this copy may lack; `None` when it cannot be known.
    /// Only a mirror answers this.
    pub rpo_ms: Option<u64>,
    /// Whether both sides have writes that the other lacks.
    pub split_brain: bool,
    /// What the witness says, if there is one.
    pub witness: Option<WitnessStatus>,
    /// The other parts of the group at this site, if it has some.
    pub parts: Option<PartsStatus>,
    /// The planned swap of roles that is under way, if one is.
    pub handover: Option<HandoverStatus>,
    /// Counters.
    pub counters: GroupCounters,
}
