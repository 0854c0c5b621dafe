//! Plans before deeds: failover and reprotect.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Asks what a failover to this gateway would mean.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// What the operator accepts of the copy: `in_sync` (default), `outdated` (an old copy, or one
    /// whose primary still answers), `inconsistent` (a half-copied one).
    #[serde(default)]
    pub accept: Option<String>,
}

/// How a check of a plan came out.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// Nothing stands in the way.
    Ok,
    /// It will work, and the operator should know this.
    Warning,
    /// It will not work.
    Blocked,
    /// It cannot be known from here.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: String,
    /// How it came out.
    pub state: CheckState,
    /// Why, in words.
    pub detail: String,
}

/// What a failover would do and what it would cost.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct FailoverPlan {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group.
    pub group: String,
    /// The group's identity.
    pub group_id: Uuid,
    /// The site that would serve it: the one that answers.
    pub to: String,
    /// The site that is its primary now, as far as this one knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The epoch that it would be raised to.
    pub epoch: u64,
    /// What was looked at, in the order of doing.
    pub checks: Vec<Check>,
    /// Bytes of acknowledged writes that would be lost; absent when it cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_risk_bytes: Option<u64>,
    /// Seconds of acknowledged writes that would be lost; absent when it cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_risk_seconds: Option<f64>,
    /// What the operator accepted.
    pub accept: String,
    /// Sites that the run does not need; it talks to none of them.
    pub needs_none_of: Vec<String>,
    /// Hand this to `run`; absent when a check is blocked. Bound to the state that was seen here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Until when the token can be used, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Runs a plan.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The token of the plan.
    pub token: String,
}

/// What it means to protect a group again, and what it costs.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct ReprotectPlan {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group.
    pub group: String,
    /// The group's identity.
    pub group_id: Uuid,
    /// The site that serves it: the one that answers.
    pub from: String,
    /// The site that is to follow.
    pub to: String,
    /// The epoch at which it is served.
    pub epoch: u64,
    /// What was looked at, in the order of doing.
    pub checks: Vec<Check>,
    /// Whether it was agreed that what only `to` has is overwritten.
    pub discard: bool,
    /// Bytes that only `to` has; absent when it cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_there_bytes: Option<u64>,
    /// Of these, bytes that the run overwrites: none without `discard`; absent when it cannot be
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_risk_bytes: Option<u64>,
    /// Seconds in which these were written, at most; absent when it cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_risk_seconds: Option<f64>,
    /// `delta` or `full`; absent when that is known only once both histories are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync_kind: Option<String>,
    /// Bytes that are copied or compared for it, at most, if nothing more is written meanwhile.
    pub resync_bytes: u64,
    /// Hand this to `run`; absent when a check is blocked. Bound to the state that was seen here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Until when the token can be used, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Asks what it means to protect a group again after a failover, towards the site that used to be its
/// primary.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ReprotectRequest {
    /// The other site; needed only when the group has several.
    #[serde(default)]
    pub to: Option<String>,
    /// Consent that what only the other side has is overwritten.
    #[serde(default)]
    pub discard: bool,
}
