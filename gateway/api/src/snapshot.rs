//! Snapshots of a group: what all its volumes held at one moment, kept under a name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Check;

/// Where a snapshot is in its life.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// It can be read, gone back to and deleted.
    Available,
    /// A backup reads it, or will when it goes on: it can be read and gone back to, and stays.
    #[serde(rename = "backing-up")]
    BackingUp,
    /// The group is going back to it.
    Rollbacking,
    /// It is being deleted; its room is given back.
    Deleting,
    /// Its content is not there. It can only be deleted.
    Error,
}

/// Who wanted a snapshot.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotOrigin {
    /// An operator. These count against `snapshots.max_manual`.
    Manual,
    /// The gateway, before it made the volumes what they once were. The newest one is kept.
    Safety,
    /// The gateway, for a backup. The newest one of each target is kept: the next backup reads only
    /// what changed since.
    Backup,
    /// The group's schedule: it is a recovery point.
    Scheduled,
    /// The write journal of a mirror, which begins with it.
    Journal,
}

/// A volume of a snapshot.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SnapshotVolume {
    /// The volume.
    pub volume: String,
    /// Its identity.
    pub volume_id: Uuid,
    /// Its size at that moment, in bytes; absent when the content is not there, or when the thread
    /// that has it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes that would be given back here if the snapshot were deleted now; absent as `bytes` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive_bytes: Option<u64>,
    /// Bytes that it reads from places which others use too; absent as `bytes` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_bytes: Option<u64>,
    /// URIs under which hosts read it here, over NBD and iSCSI; it takes no writes.
    pub exports: Vec<String>,
}

/// A gateway that keeps a snapshot.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SnapshotHolder {
    /// Its site; its identity again when its site is not known any more.
    pub site: String,
    /// Its identity.
    pub gateway: Uuid,
}

/// Another part of a group over several gateways.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SnapshotPart {
    /// The gateway that has it.
    pub gateway: Uuid,
    /// Whether it keeps the snapshot; absent when it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps: Option<bool>,
}

/// A snapshot of a group, as one gateway sees it.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identity, the same at every site.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The group.
    pub group: String,
    /// What it is for, as whoever took it said; only the gateway that took it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What else was said of it, for programs; known as `description` is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Who wanted it.
    pub origin: SnapshotOrigin,
    /// Where it is in its life, here.
    pub state: SnapshotState,
    /// When it was asked for, RFC 3339, by the clock of the gateway that was asked.
    pub created_at: String,
    /// Bytes of all volumes that would be given back here if it were deleted now; absent when one of
    /// them is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive_bytes: Option<u64>,
    /// Bytes of all volumes that it shares with others here; absent when one of them is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_bytes: Option<u64>,
    /// Its volumes, in the group's order.
    pub volumes: Vec<SnapshotVolume>,
    /// Who keeps it, as far as this gateway knows: itself, and the mirrors that told it so. Only the
    /// gateway that took it is told.
    pub held_by: Vec<SnapshotHolder>,
    /// Of a group over several gateways: whether the other parts keep it. All did when it was taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<SnapshotPart>,
    /// What can be done to it now, here.
    pub allowed_actions: Vec<String>,
}

/// The snapshots of a group, oldest first.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SnapshotList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They.
    pub items: Vec<Snapshot>,
    /// The marker of the next page, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Takes a snapshot.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// What to call it: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with `auto.`; the time, in
    /// UTC, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for, in one line: 1024 bytes at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What else is to be known of it, for programs: 32 keys at most, of 128 bytes, without `=`, and
    /// values of one line and 1024 bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What going back to a snapshot would mean.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RollbackPlan {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group.
    pub group: String,
    /// The group's identity.
    pub group_id: Uuid,
    /// The snapshot.
    pub snapshot: String,
    /// The snapshot's identity.
    pub snapshot_id: Uuid,
    /// When it was taken, RFC 3339; for a second, that.
    pub created_at: String,
    /// The second that would be gone back to, RFC 3339: that snapshot with what the write journal lays
    /// over it. Absent when it is a snapshot that is gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<String>,
    /// Whether the site that serves the group hands it over to this one first, and serves it again
    /// afterwards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub swap: bool,
    /// Seconds of writes that would be undone: the time since then; 0 when the clock went back.
    pub seconds: u64,
    /// Bytes in which the volumes may differ from the snapshot: at most so many are undone here, and
    /// copied to each mirror. Absent when a map could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_bytes: Option<u64>,
    /// Hosts that are attached now, at both sites if roles are swapped.
    pub hosts: u64,
    /// The sites whose sessions would be suspended and resumed.
    pub sessions: Vec<String>,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// Hand this to the rollback; absent when a check is blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Until when the token can be used, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Asks what going back to a snapshot would mean.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RollbackAsk {
    /// At a mirror: the site that serves the group hands it over to this one first, and serves it
    /// again afterwards. For what only this site keeps.
    #[serde(default)]
    pub swap: bool,
}

/// Goes back to a snapshot, or to a second.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The token of the plan.
    pub token: String,
    /// Hosts that are attached may be dropped.
    #[serde(default)]
    pub drop_hosts: bool,
}

/// A part of what may differ between two snapshots of a volume, or since one.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SnapshotChanges {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The volume.
    pub volume_id: Uuid,
    /// The ranges, in order. What is not in one of them is equal.
    pub items: Vec<ChangedRange>,
    /// The byte at which the next part begins, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// Bytes that may differ.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct ChangedRange {
    /// The first byte: a multiple of 4096.
    pub offset: u64,
    /// How many they are: a multiple of 4096.
    pub length: u64,
}
