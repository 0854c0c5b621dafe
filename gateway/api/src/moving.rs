//! Moves of a group that lose nothing: a planned migration, and the way back to the original site.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Check, CheckState};

/// Asks what a planned migration would mean.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct MigrationPlanRequest {
    /// The site that is to serve the group.
    pub to: String,
}

/// What a planned migration would do and how long it would take.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct MigrationPlan {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group.
    pub group: String,
    /// The group's identity.
    pub group_id: Uuid,
    /// The site that serves it now: the one that answers.
    pub from: String,
    /// The site that would serve it.
    pub to: String,
    /// The epoch that it would be raised to.
    pub epoch: u64,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// Bytes of acknowledged writes that would be lost: none.
    pub at_risk_bytes: u64,
    /// Hosts that are attached now, and would have to attach at the other site.
    pub hosts: u64,
    /// Bytes that are on their way to the other site.
    pub backlog_bytes: u64,
    /// The measured round trip in microseconds; absent when it was not measured yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// For how long hosts would wait, from the round trip and what is on its way; absent when the
    /// round trip is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_seconds: Option<f64>,
    /// Hand this to `run`; absent when a check is blocked. Bound to the state that was seen here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Until when the token can be used, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Runs a planned migration.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct MigrationRunRequest {
    /// The token of the plan.
    pub token: String,
    /// How long hosts may be held while what is in flight comes to its end, in milliseconds; then
    /// the migration is rolled back. 30 s if absent.
    #[serde(default)]
    pub drain_ms_max: Option<u64>,
}

/// Brings a group back to its original site with what was written to the copy here.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The original site; needed only when it is not clear which one it is.
    #[serde(default)]
    pub to: Option<String>,
    /// Consent that what only the original site has is overwritten.
    #[serde(default)]
    pub discard: bool,
}

/// What a restore would do.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RestorePlan {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group.
    pub group: String,
    /// The group's identity.
    pub group_id: Uuid,
    /// The site whose copy is brought back: the one that answers.
    pub from: String,
    /// The original site.
    pub to: String,
    /// When it was begun, RFC 3339; absent when it was not, or is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_at: Option<String>,
    /// What there is to do, in order; what is done already is left out.
    pub steps: Vec<Check>,
    /// Bytes that only the original site has and that would be overwritten; a snapshot of them is
    /// kept there. Absent when that site cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discards_bytes: Option<u64>,
    /// Bytes that were written here and would be copied, at least; absent for a full copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies_bytes: Option<u64>,
}

impl RestorePlan {
    /// Whether nothing stands in its way.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.steps.iter().all(|step| step.state != CheckState::Blocked)
    }
}
