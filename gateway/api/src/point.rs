//! Recovery points: snapshots of a group that a schedule takes, and what becomes of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Who keeps the recovery points of a group.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum PointKeeper {
    /// Its mirrors. The primary keeps those that no mirror could.
    #[default]
    Mirror,
    /// Its primary.
    Primary,
    /// All of them.
    Both,
}

/// Which recovery points stay: those that any of these keeps. The newest one always does; with none
/// of these all do.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PointRetention {
    /// So many of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Those that are no older than so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// The newest of each of the last so many days that have one.
    #[serde(default)]
    pub daily: u32,
    /// The newest of each of the last so many weeks that have one; they begin on Monday.
    #[serde(default)]
    pub weekly: u32,
    /// The newest of each of the last so many months that have one.
    #[serde(default)]
    pub monthly: u32,
    /// The newest of each of the last so many years that have one.
    #[serde(default)]
    pub yearly: u32,
}

/// Which recovery points a group has.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PointPolicy {
    /// Whether points are taken and retention removes any.
    pub on: bool,
    /// When, as a cron expression of five fields, or of six with the second before them.
    pub schedule: String,
    /// In whose clock its times of day are, and its days begin: `UTC`, `Europe/Berlin`.
    pub zone: String,
    /// Who keeps them.
    pub keep: PointKeeper,
    /// Which of them stay.
    pub retention: PointRetention,
    /// Nobody removes a point before it is so many days old; 0: they are not locked.
    pub lock_days: u32,
    /// The freeze hook of each gateway's configuration that brings what writes to rest; none: points
    /// are crash-consistent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
}

impl Default for PointPolicy {
    /// 24 in 24 hours, at the mirrors.
    fn default() -> Self {
        Self {
            on: true,
            schedule: "0 * * * *".to_owned(),
            zone: "UTC".to_owned(),
            keep: PointKeeper::Mirror,
            retention: PointRetention { count: Some(24), ..PointRetention::default() },
            lock_days: 0,
            hook: None,
        }
    }
}

/// Changes which recovery points a group has; what is absent stays. A group without a policy begins
/// with 24 points in 24 hours at its mirrors.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PointPolicyPatch {
    /// See [`PointPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// See [`PointPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// See [`PointPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// See [`PointPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<PointKeeper>,
    /// All rules at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<PointRetention>,
    /// See [`PointPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_days: Option<u32>,
    /// See [`PointPolicy`]; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
}

/// The policy of a group's recovery points, and what came of it here since this gateway started.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PointPolicyState {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group.
    pub group: String,
    /// The policy.
    pub policy: PointPolicy,
    /// When it was set, RFC 3339.
    pub set_at: String,
    /// Whether this gateway takes the points: it is the group's primary.
    pub takes_here: bool,
    /// Whether one is being taken now.
    pub running: bool,
    /// When the next one is due, RFC 3339; absent while none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// Points that were taken.
    pub taken: u64,
    /// Due times that were given up because a point was still being taken.
    pub skipped: u64,
    /// Due times at which nobody was there to take one.
    pub missed: u64,
    /// Points that could not be taken.
    pub failed: u64,
    /// Why the last one could not be taken, if that is the last that happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// A recovery point, as one gateway sees it.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Point {
    /// Its identity, the same at every site; absent of the point `current`, which is not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Its name; `current` is what the volumes hold now, and can be used once.
    pub name: String,
    /// The group.
    pub group: String,
    /// What moment it holds, RFC 3339, by the clock of the gateway that took it.
    pub time: String,
    /// Whether what wrote to the volumes had come to rest, by the group's hook.
    pub application_consistent: bool,
    /// Why it had not, where a hook was to see to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Whether the group went back to it, or `current` was used.
    pub used: bool,
    /// Whether it cannot be used now.
    pub disabled: bool,
    /// Why it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_reason: Option<String>,
    /// Nobody removes it before, RFC 3339, by the lock clock of each gateway that keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<String>,
    /// Bytes that would be given back here if it were deleted now; absent when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive_bytes: Option<u64>,
    /// The sites that keep it, as far as this gateway knows.
    pub kept_at: Vec<String>,
    /// NBD URIs under which hosts read its volumes here.
    pub exports: Vec<String>,
}

/// The recovery points of a group that one gateway keeps, oldest first, and `current` at its primary.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PointList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// What the lock clock here says, RFC 3339: locks end by it.
    pub lock_clock: String,
    /// They.
    pub items: Vec<Point>,
    /// The marker of the next page, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Takes a recovery point now.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PointTake {
    /// The point `current`: possible once until the group has another primary.
    #[serde(default)]
    pub current: bool,
}

/// Locks a snapshot, or makes its lock longer: one of the two.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PointLock {
    /// Until when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// For how many seconds from now, by the lock clock of the gateway that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// What retention would do with one recovery point.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PointFate {
    /// The point.
    pub name: String,
    /// Its identity.
    pub id: Uuid,
    /// What moment it holds, RFC 3339.
    pub time: String,
    /// Whether it goes.
    pub removed: bool,
    /// Every reason that holds, in words.
    pub reasons: Vec<String>,
    /// Bytes that its removal gives back here; absent when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive_bytes: Option<u64>,
}

/// What retention would do here now. Nothing is changed.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PointRetentionPlan {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group.
    pub group: String,
    /// The rules that were asked about.
    pub retention: PointRetention,
    /// Each point here, oldest first.
    pub items: Vec<PointFate>,
}
