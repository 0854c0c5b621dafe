//! Mirror sessions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Explanation, Group, Leg};

/// What a session does when something goes wrong, by name.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SessionPolicy {
    /// How it copies: `sync`, `consistency` or `stack`.
    #[serde(default = "sync")]
    pub mode: String,
    /// When the mirror is lost: `automatic` goes on alone, `manual` refuses writes.
    pub split: String,
    /// When it returns: `automatic` resynchronises, `manual` waits for `resume`.
    pub recovery: String,
    /// When it is too slow: `error` stops the session, `block` holds the hosts, `degrade` goes on as
    /// in mode `consistency`, and back by itself.
    pub on_slow: String,
    /// When the primary is lost for good: `manual` waits for an operator, `automatic` lets the mirror
    /// promote itself if the witness permits it.
    pub failover: String,
    /// How long the mirror may take to acknowledge, in milliseconds.
    pub ack_deadline_ms: u64,
    /// From one cut to the next in mode `consistency`, in milliseconds.
    #[serde(default)]
    pub cut_interval_ms: u64,
    /// From one transfer to the next in mode `stack`, in seconds; 0: only by command.
    #[serde(default)]
    pub transfer_every_s: u64,
    /// What resync and initial copy may send: `50MiB/s`, `unlimited` or `paused`. What hosts write is
    /// never held back.
    #[serde(default = "unlimited")]
    pub bandwidth: String,
    /// When another limit holds, as `mon-fri 08:00-18:00 Europe/Berlin=10MiB/s`; of several that are
    /// open the lowest holds.
    #[serde(default)]
    pub bandwidth_windows: Vec<String>,
    /// How its copying stands to that of other sessions: `low`, `normal` or `high`.
    #[serde(default = "normal")]
    pub priority: String,
    /// The session is in mode `sync` for a planned swap of roles only, and has this mode again once
    /// they are swapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode_after_swap: Option<String>,
}

fn unlimited() -> String {
    "unlimited".to_owned()
}

fn normal() -> String {
    "normal".to_owned()
}

fn sync() -> String {
    "sync".to_owned()
}

/// A change of some policies.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PolicyPatch {
    /// `sync`, `consistency` or `stack`; a running session changes while hosts go on.
    #[serde(default)]
    pub mode: Option<String>,
    /// `automatic` or `manual`.
    #[serde(default)]
    pub split: Option<String>,
    /// `automatic` or `manual`.
    #[serde(default)]
    pub recovery: Option<String>,
    /// `error`, `block` or `degrade`.
    #[serde(default)]
    pub on_slow: Option<String>,
    /// `manual` or `automatic`.
    #[serde(default)]
    pub failover: Option<String>,
    /// In milliseconds.
    #[serde(default)]
    pub ack_deadline_ms: Option<u64>,
    /// In milliseconds, at least 100.
    #[serde(default)]
    pub cut_interval_ms: Option<u64>,
    /// In seconds; 0: only by command.
    #[serde(default)]
    pub transfer_every_s: Option<u64>,
    /// What resync and initial copy may send: `50MiB/s`, `unlimited` or `paused`.
    #[serde(default)]
    pub bandwidth: Option<String>,
    /// All windows, as `mon-fri 08:00-18:00 Europe/Berlin=10MiB/s`; days (every day) and zone (UTC)
    /// may be left out. An empty list removes them.
    #[serde(default)]
    pub bandwidth_windows: Option<Vec<String>>,
    /// `low`, `normal` or `high`.
    #[serde(default)]
    pub priority: Option<String>,
}

/// Mirrors a group to another site: a session for each of its volumes, carried by one leg.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SessionCreate {
    /// The group, or a volume of it, by name or id.
    pub volume: String,
    /// The other site, by name.
    pub to: String,
    /// Policies that differ from the configured ones.
    #[serde(default)]
    pub policy: PolicyPatch,
    /// The other site holds the content already, restored or shipped there, or left by a session that
    /// was deleted: its volume is compared with this one by checksums, and only blocks that differ are
    /// sent. It counts as a mirror when everything was compared. Blocks of it that differ are
    /// overwritten.
    #[serde(default)]
    pub skip_initial_copy: bool,
    /// With `skip_initial_copy`: the volume there, by name; absent: it is called as this one is.
    #[serde(default)]
    pub destination: Option<String>,
}

/// Suspends a session.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SuspendSession {
    /// Suspend it as it is, at once: a mirror that follows behind goes back to its last whole cut.
    #[serde(default)]
    pub force: bool,
    /// For how long a connected mirror is brought to the present first, in milliseconds; absent: a
    /// minute. When that is over the session goes on as before.
    #[serde(default)]
    pub drain_ms_max: Option<u64>,
}

/// How a session is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct DeleteSession {
    /// The half that is here, at the destination of a session that its source has forgotten.
    #[serde(default)]
    pub half: bool,
    /// With the volumes of the copy.
    #[serde(default)]
    pub with_volume: bool,
    /// Also where the other gateway cannot be asked.
    #[serde(default)]
    pub force: bool,
}

/// Lets a session run again.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ResumeSession {
    /// Consent that what only the mirror has is overwritten.
    #[serde(default)]
    pub discard: bool,
}

/// Begins a verification.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct VerifySession {
    /// Bytes that are compared in a second at most; absent: what is configured.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// A session, seen from its source.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct Session {
    /// Its identity.
    pub id: Uuid,
    /// The volume.
    pub volume: String,
    /// The volume's identity.
    pub volume_id: Uuid,
    /// The group.
    pub group: String,
    /// The site of the source.
    pub from: String,
    /// The site of the mirror.
    pub to: String,
    /// Bytes in which the mirror may differ.
    pub out_of_sync_bytes: u64,
    /// Bytes that the running or last copy had to move when it began.
    pub resync_total_bytes: u64,
    /// Bytes of it that are moved; never more than the total.
    pub resync_copied_bytes: u64,
    /// `full` or `delta`.
    pub resync_kind: String,
    /// Bytes a second of the running copy; absent when none runs or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_bytes_per_second: Option<u64>,
    /// Bytes that verifications found to differ since the gateway started.
    pub mismatched_bytes: u64,
    /// Seconds until the running copy is done at this rate; absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_eta_seconds: Option<u64>,
    /// The leg that carries it: state, phase, link, both sides' view.
    pub leg: Leg,
    /// What is wrong, if anything is.
    pub explanations: Vec<Explanation>,
    /// What may be done to it now.
    pub allowed_actions: Vec<String>,
}

/// The sessions of a gateway.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct SessionList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// Those whose source is here.
    pub items: Vec<Session>,
    /// The marker of the next page, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Groups that this gateway holds a mirror of: the sessions' other ends.
    pub mirrored_here: Vec<Group>,
    /// Groups whose thread did not answer: their sessions are unknown.
    pub unknown: Vec<String>,
}
