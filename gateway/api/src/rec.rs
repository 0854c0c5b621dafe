//! The types of the REC dialect: copy sessions, volumes and jobs in the words of the ETERNUS
//! copy-session API, for scripts that were written for it.
//!
//! Invariant: names are the dialect's, its spelling mistakes included; a field that means nothing
//! here is absent, never made up. Capacities are in MiB, as the dialect's are.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub enum RecTransferMode {
    /// When both copies have it.
    #[default]
    Synchronous,
    /// At once; what the mirror lacks is transferred without order.
    Stack,
    /// At once; what the mirror lacks is transferred in order.
    Consistency,
}

/// What a session does on loss or on return.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub enum RecChoice {
    /// By itself.
    Automatic,
    /// Waits for an operator.
    Manual,
}

/// Makes a session between two volumes of the same size.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RecCreate {
    /// The number of the source, at this gateway.
    pub source_volume_id: u64,
    /// The number of the destination, at its gateway.
    pub destination_volume_id: u64,
    /// This gateway: its box id, or its site's name.
    pub source_boxid: String,
    /// The other gateway: its box id, or its site's name.
    pub destination_boxid: String,
    /// `Synchronous` if absent.
    #[serde(default)]
    pub transfer_mode: RecTransferMode,
    /// As configured if absent.
    #[serde(default)]
    pub split_mode: Option<RecChoice>,
    /// As configured if absent.
    #[serde(default)]
    pub recovery_mode: Option<RecChoice>,
    /// That the destination holds the content already: it is compared, and only what differs is sent.
    #[serde(default)]
    pub skip_initial_copy: bool,
    /// Consent that the content of a destination that holds any is lost.
    #[serde(default)]
    pub overwrite_destination: bool,
}

/// Changes a suspended session.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RecPatch {
    /// When a write is acknowledged.
    #[serde(default)]
    pub transfer_mode: Option<RecTransferMode>,
    /// On loss; only of a session that is or becomes `Synchronous`.
    #[serde(default)]
    pub split_mode: Option<RecChoice>,
    /// On return.
    #[serde(default)]
    pub recovery_mode: Option<RecChoice>,
}

/// Whether a rule that protects data is set aside.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RecForce {
    /// It is.
    #[serde(default, alias = "is_force")]
    pub force: bool,
}

/// Suspends several sessions.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RecSuspendMany {
    /// Which.
    pub copysession_id_list: Vec<u64>,
    /// Also those that are not equivalent, whose destinations become unusable.
    #[serde(default, alias = "is_force")]
    pub force: bool,
}

/// Lets a suspended session run again.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RecResume {
    /// Consent that what was written to the destination meanwhile is lost.
    #[serde(default)]
    pub confirm_discard: bool,
}

/// Makes a volume.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RecVolumeCreate {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot or dash.
    pub name: String,
    /// Its size in MiB.
    pub capacity: u64,
    /// The pool: a gateway has one, 0.
    #[serde(default)]
    pub tpp_id: u64,
}

/// Deletes volumes: all of them, or none.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RecVolumeDelete {
    /// Which.
    pub volume_id_list: Vec<u64>,
    /// Also the sessions of which they are source or destination.
    #[serde(default)]
    pub with_copysessions: bool,
    /// Also when the other side cannot be told.
    #[serde(default, alias = "is_force")]
    pub force: bool,
}

/// What a call that takes time is answered with (202).
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecAccepted {
    /// The job.
    pub job_id: u64,
    /// Where it is followed.
    pub job_href: String,
    /// What the caller should know before the job ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warning_list: Vec<String>,
}

/// Why a call was refused.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecError {
    /// Four digits: those of the product's code.
    pub error_code: String,
    /// What the code means, and in parentheses what it was here.
    pub message: String,
    /// The product's code, `GWnnnn`, whose page says more.
    pub internal_code: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What a job could not do to one thing.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecFailedResource {
    /// The thing.
    pub resource_href: String,
    /// Why.
    #[serde(flatten)]
    pub error: RecError,
}

/// One step of a job.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecOperation {
    /// What it does, and what came of it.
    pub operation: String,
    /// `Running`, `Succeeded` or `Failed`.
    pub result: String,
}

/// A job. Those that ended are kept for a while, then forgotten; so are all when the gateway starts.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecJob {
    /// Its number.
    pub job_id: u64,
    /// Where it is followed.
    pub job_href: String,
    /// The call that made it.
    pub description: String,
    /// `Running`, `Success`, `Error` or `Partial_Error`.
    pub status: String,
    /// When it began, RFC 3339.
    pub created_time: String,
    /// When it ended, RFC 3339; while it runs, when it began.
    pub modified_time: String,
    /// What it made or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource_href_list: Vec<String>,
    /// Of several things, those that went well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub succeeded_resource_href_list: Vec<String>,
    /// Those that did not, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_resource_info_list: Vec<RecFailedResource>,
    /// Where to see how what it began goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress_href_list: Vec<String>,
    /// Its steps.
    pub operation_list: Vec<RecOperation>,
}

/// A session, seen from one of its two gateways. What is not known there is absent.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecCopySession {
    /// Its number at this gateway.
    pub copysession_id: u64,
    /// Where it is.
    pub copysession_href: String,
    /// `REC`: a session between two gateways.
    #[serde(rename = "type")]
    pub kind: String,
    /// `Active`, `Suspend`, `Error`, `Halt` or `Unknown`.
    pub status: String,
    /// `No_Pair`, `Copying`, `Equivalent` or `Tracking`.
    pub phase: String,
    /// The number of the source at its gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_volume_number: Option<u64>,
    /// Where the source is, at its gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_volume_href: Option<String>,
    /// The source's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_volume_name: Option<String>,
    /// The number of the destination at its gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_volume_number: Option<u64>,
    /// Where the destination is, at its gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_volume_href: Option<String>,
    /// The destination's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_volume_name: Option<String>,
    /// Why it is not as it should be: the last two digits of the product's code, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// When the other side was last heard before that, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_ocurrence_time: Option<String>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// `Totally`: whole volumes are copied.
    pub copy_range: String,
    /// `Success` once it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_suspend_result: Option<String>,
    /// Seconds until it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remain_time_to_finish_suspend: Option<u64>,
    /// Seconds since it was made.
    pub elapsed_time: u64,
    /// The volume's size in MiB.
    pub total_data_size: u64,
    /// MiB that are still to be copied, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncopied_data_size: Option<u64>,
    /// Per cent of the running copy that are done; 100 when equivalent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<u64>,
    /// MiB in which the two differ while nothing is copied, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracking_data_size: Option<u64>,
    /// `REST`.
    pub requestor: String,
    /// Its number at the other gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_copysession_id: Option<u64>,
    /// When a write is acknowledged. Known at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_mode: Option<RecTransferMode>,
    /// On loss. Known at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_mode: Option<RecChoice>,
    /// On return. Known at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_mode: Option<RecChoice>,
    /// The other gateway.
    pub remote_boxid: String,
    /// Whether the source is here.
    pub is_local_source_volume: bool,
    /// Whether the destination, if it is here, can be used once nobody copies to it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_destination_usable: Option<bool>,
}

/// The sessions of a gateway.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecCopySessionList {
    /// How many there are.
    pub total_count: u64,
    /// How many these are.
    pub list_count: u64,
    /// They, by number.
    pub copysession_list: Vec<RecCopySession>,
}

/// A volume.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecVolume {
    /// Its number at this gateway, for ever.
    pub volume_id: u64,
    /// The same.
    pub number: u64,
    /// Where it is.
    pub volume_href: String,
    /// Its name, and that of its NBD export.
    pub name: String,
    /// `Normal` when hosts can attach it or a session keeps them out, else `Unknown` or `Broken`.
    pub status: String,
    /// `Available`, `Copy_Destination`, `Not_Ready` or `Unknown`.
    pub detail_status: String,
    /// `TPV`: a thin volume.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its size in MiB, rounded up.
    pub capacity: u64,
    /// MiB that take room in the pool, rounded up; absent when unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_capacity: Option<u64>,
    /// `Block`.
    pub usage: String,
    /// Its identity: 32 hexadecimal digits.
    pub uid: String,
    /// Where hosts attach it; empty when they cannot.
    pub exports: Vec<String>,
}

/// The volumes of a gateway.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecVolumeList {
    /// How many there are.
    pub total_count: u64,
    /// How many these are.
    pub list_count: u64,
    /// They, by number.
    pub volume_list: Vec<RecVolume>,
}

/// Another gateway that this one is joined with.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecRemoteBox {
    /// Its box id.
    pub boxid: String,
    /// Its site's name.
    pub name: String,
    /// `Normal`, `Error`, or `Unused` when no session uses it.
    pub path_status: String,
}

/// A gateway as a storage system.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RecStorage {
    /// Its box id, for ever.
    pub boxid: String,
    /// Its site's name.
    pub name: String,
    /// Its release.
    pub version: String,
    /// Those that sessions can go to and come from.
    pub remote_box_list: Vec<RecRemoteBox>,
}
