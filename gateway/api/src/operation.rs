//! Something long, followed by its id.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Problem;

/// How far an operation is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Ended with `error`.
    Failed,
}

/// One step of an operation.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub name: String,
    /// How far it is.
    pub state: OperationState,
    /// What came of it, in words.
    pub detail: String,
    /// How long it took, in milliseconds; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// How far an operation is that moves bytes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct OperationProgress {
    /// Bytes of volumes that there are to look at.
    pub total_bytes: u64,
    /// Bytes of volumes that were looked at.
    pub done_bytes: u64,
    /// Bytes that went to the object store or came from it.
    pub moved_bytes: u64,
    /// Bytes that an interrupted run had stored already.
    pub found_bytes: u64,
}

/// An operation. Those that ended are kept for a while, then forgotten.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Operation {
    /// Its identity.
    pub id: Uuid,
    /// What it does: `failover`, `reprotect`, `migrate`, `restore`, `rollback`, `suspend`,
    /// `backup`, `backup-restore`, `backup-verify`, `backup-gc`, or a call of the REC dialect.
    pub kind: String,
    /// The name of what it is done to.
    pub subject: String,
    /// How far it is.
    pub state: OperationState,
    /// Its steps so far.
    pub steps: Vec<Step>,
    /// How far it is, if it moves bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<OperationProgress>,
    /// Whether it can be cancelled now.
    #[serde(default)]
    pub cancellable: bool,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// The operations that are remembered, newest first.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct OperationList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They.
    pub items: Vec<Operation>,
    /// The marker of the next page, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
