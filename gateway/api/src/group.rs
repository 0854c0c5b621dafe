//! Groups, legs, and what their words mean.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// How well protected something is, worst last.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Each copy is identical and connected; a failover could start now.
    Ready,
    /// Not mirrored at all, as it was created.
    Unprotected,
    /// On its way: being copied, or waiting for something that comes by itself.
    Degraded,
    /// It is not known.
    Unknown,
    /// The next failure loses data or service, or hosts are not served.
    AtRisk,
    /// Two histories exist.
    SplitBrain,
}

/// What is wrong, why, and what to do about it.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Explanation {
    /// The stable code, `GWnnnn`.
    pub code: String,
    /// Why, in words.
    pub cause: String,
    /// The next command, or what to wait for.
    pub next: String,
}

/// Which part a gateway plays in a group.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It serves hosts; its content is the group's.
    Primary,
    /// It holds a copy.
    Secondary,
    /// It was the primary and learned of a higher epoch: it serves nobody.
    Fenced,
}

/// Whether hosts are served, and why not.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Serving {
    /// Reads and writes.
    Yes,
    /// This gateway is not the primary.
    NotPrimary,
    /// A higher epoch exists.
    Fenced,
    /// Started after a crash; a mirror that could have been promoted has not been heard yet.
    WaitingForMirror,
    /// Reads only: a mirror is missing and `split` is `manual`.
    Halted,
    /// A mirror is missing and the witness cannot be asked whether to go on without it.
    NoWitness,
    /// Started; the witness has not confirmed yet that nobody was promoted meanwhile.
    WaitingForWitness,
    /// A companion was not heard since this gateway started, or serves nobody itself.
    WaitingForCompanion,
    /// A mirror is missing and a companion has not stopped at the same cut: writes are refused.
    NoCompanion,
    /// An operator excluded this gateway from the group.
    Excluded,
    /// In the middle of a planned swap of roles.
    HandingOver,
    /// The local copy failed a sync.
    Latched,
    /// The group goes back to a snapshot; its hosts were dropped.
    RollingBack,
    /// A mirror's copy, open to hosts on its own while its session is suspended.
    Detached,
}

/// What a copy is worth.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Nothing was ever copied here.
    Blank,
    /// Half copied: not one point in time.
    Inconsistent,
    /// One point in time, known to be an old one.
    Outdated,
    /// Follows behind its primary; its newest whole cut is kept, and a promotion goes back to it.
    Consistent,
    /// Had every acknowledged write when it last heard of its primary.
    InSync,
    /// The copy of a primary.
    Source,
}

/// A session's status.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
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

/// A session's phase.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
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

/// The connection to another gateway.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Not wanted.
    Off,
    /// Being dialled.
    Connecting,
    /// Open.
    Connected,
}

/// The policies of a leg's sessions, see `SessionPolicy`.
pub type Policy = crate::SessionPolicy;

/// What the last verification of a mirror found: every mapped block of the group, read on both
/// sides while hosts went on.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Certificate {
    /// When it ended, RFC 3339.
    pub at: String,
    /// The epoch at which it ran.
    pub epoch: u64,
    /// The history that was compared.
    pub generation: Uuid,
    /// Blocks of 4 KiB that were compared.
    pub blocks: u64,
    /// Of these, blocks that differed; they were copied again.
    pub mismatched: u64,
    /// Of these, blocks that could not be read at the source.
    pub unreadable: u64,
}

/// How far a verification has come.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Verifying {
    /// Blocks of 4 KiB that there are to compare.
    pub total_blocks: u64,
    /// Of these, blocks that were compared.
    pub done_blocks: u64,
    /// Of these, blocks that differed.
    pub mismatched_blocks: u64,
}

/// How the other side sees the session.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct TheirView {
    /// Whether it counts the mirror as in sync.
    pub in_sync: bool,
    /// Whether blocks are being copied.
    pub copying: bool,
    /// Bytes in which the mirror may differ.
    pub out_of_sync_bytes: u64,
    /// The newest change that it assigned or applied.
    pub seq: u64,
    /// How old this is, in milliseconds before `as_of`; absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

/// The running half of a group's sessions to one mirror, seen from the primary.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct Leg {
    /// The mirror's site.
    pub site: String,
    /// The mirror's gateway.
    pub gateway: Uuid,
    /// Status of its sessions.
    pub state: SessionState,
    /// Phase of its sessions.
    pub phase: Phase,
    /// Whether an acknowledgement waits for it.
    pub in_sync: bool,
    /// The connection.
    pub link: LinkState,
    /// Its policies.
    pub policy: Policy,
    /// What resync and initial copy may send now, as `50MiB/s`, `unlimited` or `paused`.
    #[serde(default)]
    pub bandwidth_now: String,
    /// Whether it holds the content or most of it, and not everything was compared yet.
    #[serde(default)]
    pub comparing: bool,
    /// Bytes in which the mirror may differ, over all its sessions.
    pub out_of_sync_bytes: u64,
    /// When the running or last copy began, in milliseconds before `as_of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_started_ms_ago: Option<u64>,
    /// Bytes a second of the running copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_bytes_per_second: Option<u64>,
    /// Smoothed round trip in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// When anything was last heard from it, in milliseconds before `as_of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_ms_ago: Option<u64>,
    /// How the mirror sees it; absent when it never said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theirs: Option<TheirView>,
    /// Whether it follows behind because it was too slow, as in mode `consistency`.
    #[serde(default)]
    pub degraded: bool,
    /// Of a suspended session: whether the mirror had every acknowledged write when it was suspended;
    /// absent when that is not known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_whole: Option<bool>,
    /// Seconds of acknowledged writes that the mirror may lack; absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<f64>,
    /// When the newest cut that the mirror keeps was cut, in milliseconds before `as_of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_ms_ago: Option<u64>,
    /// Bytes in the send journal.
    #[serde(default)]
    pub journal_bytes: u64,
    /// Of these, the ones on disk.
    #[serde(default)]
    pub spilled_bytes: u64,
    /// Bytes that the send journal may hold.
    #[serde(default)]
    pub journal_bytes_max: u64,
    /// The times in which a mirror of mode `sync` did not have everything, oldest first: the last
    /// 32 since the gateway was started.
    #[serde(default)]
    pub spells: Vec<Spell>,
    /// Changes sent and not acknowledged.
    pub inflight_writes: u64,
    /// Bytes sent and not acknowledged.
    pub inflight_bytes: u64,
    /// Bytes waiting for the socket.
    pub send_queue_bytes: u64,
    /// The verification under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifying: Option<Verifying>,
    /// What the last verification found; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Certificate>,
}

/// A time in which a mirror of mode `sync` did not have everything.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct Spell {
    /// When it began, in milliseconds before `as_of`.
    pub began_ms_ago: u64,
    /// When it ended, in milliseconds before `as_of`; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms_ago: Option<u64>,
    /// The longest that the mirror lagged behind meanwhile.
    pub worst_rpo_seconds: f64,
    /// Bytes that were changed meanwhile.
    pub bytes: u64,
    /// Whether the session went on as in mode `consistency`; else the mirror was lost.
    pub degraded: bool,
}

/// A point in time that a copy keeps in snapshots, one a volume.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct KeptPoint {
    /// The snapshots, in the order of the group's volumes.
    pub snapshots: Vec<Uuid>,
    /// What the copy was worth at that point; absent for what was discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Bytes that were overwritten since, at most; absent for a point to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When it was taken, RFC 3339.
    pub taken_at: String,
}

/// The primary, seen from a mirror.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Upstream {
    /// The primary's site.
    pub site: String,
    /// The primary's gateway.
    pub gateway: Uuid,
    /// The connection.
    pub link: LinkState,
    /// When anything was last heard from it, in milliseconds before `as_of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_ms_ago: Option<u64>,
    /// Whether it said goodbye before it went.
    pub orderly: bool,
    /// How the primary sees the session; absent when it never said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theirs: Option<TheirView>,
    /// The newest change applied here.
    pub seq: u64,
}

/// A group as one gateway sees it. What is not known is absent, never zero.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct Group {
    /// Its identity.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// How it is.
    pub health: Health,
    /// What is wrong, worst first.
    pub explanations: Vec<Explanation>,
    /// How old this view is, in milliseconds: more than a moment only when the thread that owns
    /// the group does not answer and this is what it last said.
    pub age_ms: u64,
    /// The part this gateway plays; absent when it was never known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Its fencing number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Whether hosts are served here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
    /// What the copy here is worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Its volumes, by name.
    pub volumes: Vec<String>,
    /// Its legs; only a primary has running ones.
    pub legs: Vec<Leg>,
    /// The primary, if this gateway is a mirror.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
    /// What the witness says, if the group is under one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessView>,
    /// The other parts of the group at this site, if it lies at several gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<crate::Parts>,
    /// The point that a promotion of the copy here goes back to when it is none itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptPoint>,
    /// Whether the store here is known to keep no snapshots, so that there never is such a point.
    #[serde(default)]
    pub keeps_no_points: bool,
    /// Whether this copy was taken with content of its own, and nothing of it was changed since.
    #[serde(default)]
    pub is_foreign: bool,
    /// What this copy had on its own before it was told to follow; its snapshots are kept until
    /// somebody removes them.
    #[serde(default)]
    pub discarded: Vec<KeptPoint>,
    /// Seconds of acknowledged writes that would be lost if the primary's site were lost now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<f64>,
    /// Bytes in which some copy may differ; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_sync_bytes: Option<u64>,
    /// What stands in the way of a failover, in words; empty: nothing.
    pub failover_blockers: Vec<String>,
    /// Writes acknowledged with fewer copies than there are sessions, since the group was opened.
    pub unprotected_writes: u64,
    /// The same in bytes.
    pub unprotected_bytes: u64,
    /// Changes of a lower epoch that were refused, since the group was opened.
    pub fenced_writes: u64,
    /// What may be done to it now.
    pub allowed_actions: Vec<String>,
}

/// What the witness says of a group.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct WitnessView {
    /// Whether it answered when it was last asked; absent: it was not asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
    /// The gateway that it names as the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<Uuid>,
    /// At which epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Whether it names this gateway, as the primary or as a mirror that holds every write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_named: Option<bool>,
    /// Whether this gateway promotes itself when its primary is lost.
    pub is_automatic: bool,
}

/// Makes a group of volumes that exist.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot or dash.
    pub name: String,
    /// Its volumes, by name or id: each in a group of its own until now, not mirrored, and without
    /// attached hosts.
    pub volumes: Vec<String>,
}

/// Lets a volume join a group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct GroupJoin {
    /// The volume, by name or id: in a group of its own until now, not mirrored, and without
    /// attached hosts.
    pub volume: String,
}

/// The groups of a gateway.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct GroupList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They, worst first.
    pub items: Vec<Group>,
    /// The marker of the next page, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
