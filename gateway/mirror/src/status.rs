//! What a group looks like from one gateway at one moment: plain data, free to leave the thread.
//!
//! Invariant: what is not known is `None`, never zero. Times are milliseconds of the gateway's
//! own clock ([`crate::Clock`]); ages are computed by whoever shows them.

use block::{Epoch, GatewayId, Generation, GroupId, LegId, Quality, Seq, SessionId, VolumeId};

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
    /// In the middle of a planned swap of roles; requests are held.
    HandingOver,
    /// The local copy failed a sync and must be reopened.
    Latched,
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
    /// Both sides have writes that the other lacks.
    SplitBrain {
        /// Bytes that the mirror holds and this primary does not.
        theirs_bytes: u64,
    },
    /// The mirror refused; the text says why.
    Refused(String),
    /// An operator suspended it.
    Operator,
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
    /// Its policies.
    pub policy: Policy,
    /// Its sessions.
    pub sessions: Vec<SessionStatus>,
    /// When the running or last copy began.
    pub resync_started_ms: Option<u64>,
    /// Bytes a second of the running copy, over the last seconds.
    pub resync_rate: Option<u64>,
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
    /// Seconds of acknowledged writes that this copy may lack; `None` when it cannot be known.
    /// Only a mirror answers this.
    pub rpo_ms: Option<u64>,
    /// Whether both sides have writes that the other lacks.
    pub split_brain: bool,
    /// What the witness says, if there is one.
    pub witness: Option<WitnessStatus>,
    /// Counters.
    pub counters: GroupCounters,
}
