//! Backups: what volumes held at one moment, in an object store.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Check, Problem};

/// Where backups go, as it is configured.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupTarget {
    /// Its name.
    pub name: String,
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
    pub url: String,
    /// Whether this gateway has a key for it: what it stores there is encrypted.
    pub encrypted: bool,
    /// Bytes that a run may move in a second; absent: as many as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Most backups of a volume; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups_max: Option<u64>,
    /// Whether the last call that asked the store was answered; absent when none asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
}

/// The targets, as they are configured.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupTargetList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They.
    pub items: Vec<BackupTarget>,
}

/// What a target said when it was asked with the credentials that a backup uses.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupTargetCheck {
    /// The target.
    pub target: String,
    /// Whether there is a repository; if not, the first backup makes it.
    pub repository: bool,
    /// Backups that it holds, or `None` without a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<u64>,
    /// Milliseconds that all of it took.
    pub took_ms: u64,
}

/// Where a backup is in its life, in the words of the source systems.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum BackupStatus {
    /// It can be restored.
    Available,
    /// It is being taken, or its run was interrupted and can be resumed.
    Protecting,
    /// It is being read.
    Restoring,
    /// It was deleted; its data goes with the next collection.
    Deleting,
    /// What describes it cannot be read; `error` says why. It can only be deleted.
    Error,
}

/// Who asked for a backup.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum BackupOrigin {
    /// A person or a script: no retention deletes it.
    Manual,
    /// A policy.
    Scheduled,
}

/// What state the volumes were in.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum BackupConsistency {
    /// As after a loss of power: all volumes at one moment of their writers' order.
    Crash,
    /// The applications had written what they held and stood still.
    Application,
}

/// A volume of a backup.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupVolume {
    /// Its name then.
    pub volume: String,
    /// Its identity.
    pub volume_id: Uuid,
    /// Its size then, in bytes.
    pub bytes: u64,
    /// Bytes that this backup added to the store for it, compressed: those of zeroes are none.
    pub stored_bytes: u64,
    /// The backup that it built upon, which it does not need to be restored; absent for a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Uuid>,
}

/// A backup, or a run that is to become one.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Backup {
    /// Its identity.
    pub id: Uuid,
    /// Its name; empty when it cannot be read.
    pub name: String,
    /// The target that holds it.
    pub target: String,
    /// Where it is in its life.
    pub status: BackupStatus,
    /// The group whose volumes it holds, by its name then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<BackupOrigin>,
    /// The policy that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What state its volumes were in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<BackupConsistency>,
    /// When it was begun, RFC 3339, by the clock of the gateway that took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// The site of the gateway that took it, or takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<String>,
    /// Bytes of its volumes' sizes together.
    pub bytes: u64,
    /// Bytes that it added to the store.
    pub stored_bytes: u64,
    /// Whether it builds upon no other backup.
    pub full: bool,
    /// Nobody deletes it before, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<String>,
    /// Its volumes.
    pub volumes: Vec<BackupVolume>,
    /// Why it cannot be read, or why its run was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// What can be done to it now, here.
    pub allowed_actions: Vec<String>,
}

/// A target that could not be asked.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SilentTarget {
    /// Its name.
    pub target: String,
    /// Why.
    pub error: Problem,
}

/// Backups, oldest first, and the targets whose backups are not among them.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They.
    pub items: Vec<Backup>,
    /// Targets that could not be asked: what they hold is not listed.
    pub silent: Vec<SilentTarget>,
    /// The marker of the next page, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Takes a backup.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BackupCreate {
    /// A group, of which all volumes are backed up at one moment, or one volume.
    pub of: String,
    /// Where it goes: the name of a target.
    pub target: String,
    /// What to call it: 1 to 64 of `A-Z a-z 0-9 . _ -`; the time, in UTC, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Build upon nothing: everything is read and stored anew.
    #[serde(default)]
    pub full: bool,
    /// Nobody may delete it before, RFC 3339. It cannot be taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<String>,
}

/// Locks a backup, or moves its lock on.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BackupLock {
    /// Nobody may delete it before, RFC 3339. It cannot be taken back.
    pub until: String,
}

/// Restores a backup to the volumes that it was taken of, or to a new one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BackupRestoreRequest {
    /// Only this volume of the backup, by its name or identity in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The name of a new volume that is to be made of it; absent: the original is overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The size of the new volume, in bytes, if it is to be larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The token of the plan, for the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Hosts that are attached to the original may be dropped.
    #[serde(default)]
    pub drop_hosts: bool,
}

/// Asks what overwriting the original would mean.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BackupRestorePlanRequest {
    /// Only this volume of the backup, by its name or identity in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
}

/// What overwriting volumes by a backup would mean.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupRestorePlan {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The backup.
    pub backup: Uuid,
    /// Its name.
    pub name: String,
    /// When it was begun, RFC 3339.
    pub created_at: String,
    /// Seconds of writes that would be undone; 0 when the clock went back.
    pub seconds: u64,
    /// The group.
    pub group: String,
    /// The volumes that would be overwritten, by their names now.
    pub volumes: Vec<String>,
    /// Bytes of their sizes together.
    pub bytes: u64,
    /// Hosts that are attached to the group now.
    pub hosts: u64,
    /// The sites whose sessions would be suspended and resumed.
    pub sessions: Vec<String>,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// Hand this to the restore; absent when a check is blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Until when the token can be used, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Gives back what no backup needs.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BackupCollect {
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// Lets go what the next backup of a group or a volume to a target builds upon, without asking the
/// target.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BackupForget {
    /// The group, or the volume.
    pub of: String,
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
    /// Also if the target answers.
    #[serde(default)]
    pub force: bool,
}

/// A snapshot that is kept here for backups, and the backup that it was taken for.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupBase {
    /// The backup.
    pub backup: Uuid,
    /// Its name.
    pub name: String,
    /// When it was begun, RFC 3339.
    pub created_at: String,
    /// Its volumes, by their names now.
    pub volumes: Vec<String>,
    /// The snapshot's identity.
    pub snapshot: Uuid,
    /// Whether its run was interrupted: it is given up with it.
    pub interrupted: bool,
}

/// What was let go, or would be.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupForgotten {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group or the volume.
    pub of: String,
    /// The target.
    pub target: String,
    /// Whether the target stands in the configuration.
    pub configured: bool,
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// What goes; with it the next backup of these volumes to the target is full.
    pub items: Vec<BackupBase>,
}

/// What a policy keeps of the backups that it took: whatever any one of the rules keeps. With no rule
/// it keeps everything.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct BackupRetention {
    /// So many of the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
    /// Those that are no older than so many days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// The newest of each of the last so many days that have one.
    pub daily: u32,
    /// The newest of each of the last so many weeks that have one; they begin on Monday.
    pub weekly: u32,
    /// The newest of each of the last so many months that have one.
    pub monthly: u32,
    /// The newest of each of the last so many years that have one.
    pub yearly: u32,
}

/// Sets the policy of a group or a volume: it has one.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BackupPolicySet {
    /// Where backups go: the name of a target.
    pub target: String,
    /// When: minute, hour, day of the month, month, day of the week, as cron reads them; no more than
    /// 24 a day.
    pub schedule: String,
    /// Whose clock that is, like `Europe/Berlin`.
    #[serde(default = "utc")]
    pub zone: String,
    /// What is kept.
    #[serde(default)]
    pub retention: BackupRetention,
    /// Nobody deletes a backup that it takes before it is so many days old, whatever the rules say;
    /// 0: it is not locked. What was taken before stays as it is.
    #[serde(default)]
    pub lock_days: u32,
    /// Whether it runs.
    #[serde(default = "yes")]
    pub on: bool,
}

fn utc() -> String {
    "UTC".to_owned()
}

const fn yes() -> bool {
    true
}

/// How a policy's last run ended.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupPolicyRun {
    /// When it ended, RFC 3339.
    pub at: String,
    /// Why it failed; absent when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// A policy of backups.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupPolicy {
    /// The group or the volume.
    pub of: String,
    /// Its identity.
    pub id: Uuid,
    /// Where backups go.
    pub target: String,
    /// When.
    pub schedule: String,
    /// Whose clock that is.
    pub zone: String,
    /// What is kept.
    pub retention: BackupRetention,
    /// For how many days each backup that it takes is locked; 0: it is not.
    pub lock_days: u32,
    /// Whether it runs.
    pub on: bool,
    /// When it runs next, RFC 3339; absent while it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// How its last run ended; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<BackupPolicyRun>,
    /// Due times that were given up because a run was under way.
    pub skipped: u64,
    /// Due times at which the gateway did not run; one run makes up for all of them.
    pub missed: u64,
}

/// The policies of backups, by what they are of.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupPolicyList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They.
    pub items: Vec<BackupPolicy>,
}

/// What a policy would do with a backup now.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupFate {
    /// The backup.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// When it was begun, RFC 3339.
    pub created_at: String,
    /// Whether it would be deleted.
    pub deleted: bool,
    /// Why, each reason that holds.
    pub reasons: Vec<String>,
}

/// What a policy would do with each backup now.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct BackupFateList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They, oldest first.
    pub items: Vec<BackupFate>,
}
