//! The types of the SDRS dialect: protection groups, their pairs, drills and jobs in the words of the
//! disaster recovery service's API.
//!
//! Invariant: names are the dialect's; a field that means nothing here is absent or null, never made up.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A zone of an active-active domain.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsCluster {
    /// The zone.
    pub availability_zone: String,
}

/// Two zones between which groups may be protected.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsDomain {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Whether no more is sold there.
    pub sold_out: bool,
    /// The zone of this gateway.
    pub local_replication_cluster: SdrsCluster,
    /// The other zone.
    pub remote_replication_cluster: SdrsCluster,
}

/// Active-active domains.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsDomainList {
    /// They.
    pub domains: Vec<SdrsDomain>,
}

/// What was begun.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsJobBegun {
    /// The job.
    pub job_id: String,
}

/// Makes a protection group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsGroupCreate {
    /// The group.
    pub server_group: SdrsNewGroup,
}

/// A protection group that is to be made.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsNewGroup {
    /// 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// At most 64 bytes, without `<` and `>`.
    #[serde(default)]
    pub description: String,
    /// The production site.
    pub source_availability_zone: String,
    /// The other site.
    pub target_availability_zone: String,
    /// The active-active domain of the two.
    pub domain_id: String,
    /// The network of the production servers: kept, and a drill's is another.
    #[serde(default)]
    pub source_vpc_id: String,
    /// `migration`.
    #[serde(default)]
    pub dr_type: Option<String>,
}

/// Renames a protection group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsGroupRename {
    /// The new name.
    pub server_group: SdrsName,
}

/// A name.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsName {
    /// 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
}

/// A protection group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsGroupShown {
    /// It.
    pub server_group: SdrsGroup,
}

/// Protection groups.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsGroupList {
    /// How many fit.
    pub count: usize,
    /// They.
    pub server_groups: Vec<SdrsGroup>,
}

/// A protection group as it is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsGroup {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// One of the service's seventeen words.
    pub status: String,
    /// Of the first synchronisation, in per cent.
    pub progress: u64,
    /// The production site as the group was made; it never changes.
    pub source_availability_zone: String,
    /// The other one; it never changes.
    pub target_availability_zone: String,
    /// The active-active domain.
    pub domain_id: String,
    /// `source` or `target`: which is the production site now.
    pub priority_station: String,
    /// `started` or `stopped`; null before it was turned on.
    pub protected_status: Option<String>,
    /// `active`, `inactive`, `copying` or `active-stopped`; null before it was turned on.
    pub replication_status: Option<String>,
    /// `normal` or `abnormal`; null before it was turned on.
    pub health_status: Option<String>,
    /// Its protected instances.
    pub protected_instance_num: usize,
    /// Its pairs.
    pub replication_num: usize,
    /// Its drills.
    pub disaster_recovery_drill_num: usize,
    /// The network of the production servers.
    pub source_vpc_id: String,
    /// The same at the other site.
    pub target_vpc_id: String,
    /// `migration`.
    pub dr_type: String,
    /// `replication-pair`.
    pub protection_type: String,
    /// Why the last call came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// What the group is called by the gateway's other calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_group: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
}

/// Nothing: the action needs no more words.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct SdrsNothing {
    /// Consent that what only the other site has is lost, where protection is turned on again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirm_discard: bool,
}

/// Which site is to be the production site.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsReverse {
    /// `source` or `target`.
    pub priority_station: String,
}

/// That a failover is meant.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct SdrsFailover {
    /// The token of a refusal, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
}

/// What is done to a protection group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub enum SdrsGroupAction {
    /// Turn protection on, or on again after a failover.
    #[serde(rename = "start-server-group")]
    Start(SdrsNothing),
    /// Turn it off.
    #[serde(rename = "stop-server-group")]
    Stop(SdrsNothing),
    /// Swap the sites.
    #[serde(rename = "reverse-server-group")]
    Reverse(SdrsReverse),
    /// Let the other site take over.
    #[serde(rename = "failover-server-group")]
    Failover(SdrsFailover),
}

/// Makes a pair of a disk and one that is made at the other site.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsPairCreate {
    /// The pair.
    pub replication: SdrsNewPair,
}

/// A pair that is to be made.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsNewPair {
    /// The protection group.
    pub server_group_id: String,
    /// The disk, at the production site.
    pub volume_id: String,
    /// 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// At most 64 bytes, without `<` and `>`.
    #[serde(default)]
    pub description: String,
}

/// Renames a pair.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsPairRename {
    /// The new name.
    pub replication: SdrsName,
}

/// Deletes a pair.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsPairDelete {
    /// Which group's.
    pub replication: SdrsPairEnd,
}

/// What becomes of the disks.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsPairEnd {
    /// The protection group.
    pub server_group_id: String,
    /// Whether the disk at the other site is deleted too.
    #[serde(default)]
    pub delete_target_volume: bool,
}

/// What is done to a pair.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum SdrsPairAction {
    /// Both disks grow.
    ExtendReplication(SdrsExtend),
}

/// How large disks become.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SdrsExtend {
    /// In GB; a part of one is cut off.
    pub new_size: f64,
}

/// A pair.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsPairShown {
    /// It.
    pub replication: SdrsPair,
}

/// Pairs.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsPairList {
    /// How many fit.
    pub count: usize,
    /// They.
    pub replications: Vec<SdrsPair>,
}

/// A pair as it is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsPair {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// `hypermetro`.
    pub replication_model: String,
    /// One of the service's words.
    pub status: String,
    /// Of the synchronisation, in per cent.
    pub progress: u64,
    /// `active`, `inactive`, `copying` or `active-stopped`; null before protection was turned on.
    pub replication_status: Option<String>,
    /// The protection group.
    pub server_group_id: String,
    /// The disks, with a comma between them.
    pub volume_ids: String,
    /// `source` or `target`.
    pub priority_station: String,
    /// `0`, `2` or `5`.
    pub fault_level: String,
    /// Why it is in error.
    pub failure_detail: Option<String>,
    /// The protected instances that its disks are attached to.
    pub attachment: Vec<SdrsPairAttachment>,
    /// What is known of the disks.
    pub record_metadata: SdrsPairMetadata,
    /// When it was made.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
}

/// A server that has a pair's disk, and the one that stands in for it.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsPairAttachment {
    /// The protected instance.
    pub protected_instance: String,
    /// The device's name.
    pub device: String,
}

/// What is known of a pair's disks.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsPairMetadata {
    /// Whether several servers may attach one.
    pub multiattach: bool,
    /// In GB.
    pub volume_size: u64,
    /// The only one there is.
    pub volume_type: String,
}

/// Makes a drill.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsDrillCreate {
    /// The drill.
    pub disaster_recovery_drill: SdrsNewDrill,
}

/// A drill that is to be made.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsNewDrill {
    /// 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// The protection group.
    pub server_group_id: String,
    /// A network of its own.
    #[serde(default)]
    pub drill_vpc_id: String,
}

/// A drill.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsDrillShown {
    /// It.
    pub disaster_recovery_drill: SdrsDrill,
}

/// Drills.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsDrillList {
    /// How many fit.
    pub count: usize,
    /// They.
    pub disaster_recovery_drills: Vec<SdrsDrill>,
}

/// A drill as it is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsDrill {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `creating`, `available`, `deleting`, `error-deleting` or `error`.
    pub status: String,
    /// The protection group.
    pub server_group_id: String,
    /// Its network.
    pub drill_vpc_id: String,
    /// The disks that were made for it, at the site that is not the production site.
    pub drill_volumes: Vec<SdrsDrillVolume>,
    /// Why it is in error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
}

/// A disk of a drill.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsDrillVolume {
    /// The pair whose copy it was made of.
    pub replication_id: String,
    /// The volume at that site.
    pub volume: String,
}

/// A job.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsJob {
    /// Its identity.
    pub job_id: String,
    /// What it does.
    pub job_type: String,
    /// `RUNNING`, `SUCCESS` or `FAIL`.
    pub status: String,
    /// When it began.
    pub begin_time: String,
    /// When it ended.
    pub end_time: Option<String>,
    /// The code of its failure.
    pub error_code: Option<String>,
    /// The same in words.
    pub fail_reason: Option<String>,
    /// What it is about, and its parts.
    #[schema(value_type = Object)]
    pub entities: serde_json::Value,
}

/// Jobs that failed.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsFailedList {
    /// How many fit.
    pub count: usize,
    /// They.
    pub failure_jobs: Vec<SdrsFailed>,
}

/// A job that failed.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsFailed {
    /// `FAIL`.
    pub job_status: String,
    /// What it was about.
    pub resource_id: String,
    /// Its name.
    pub resource_name: String,
    /// What kind of thing.
    pub resource_type: String,
    /// `startFail`, `stopFail` and so on.
    pub failure_status: String,
    /// The job.
    pub job_id: String,
    /// What it did.
    pub job_type: String,
    /// When it began.
    pub begin_time: String,
    /// The code of its failure.
    pub error_code: Option<String>,
    /// The same in words.
    pub fail_reason: Option<String>,
}

/// How many there are, and how many there may be.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsQuotas {
    /// By kind.
    pub quotas: SdrsQuotaResources,
}

/// By kind.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsQuotaResources {
    /// `server_groups` and `replications`.
    pub resources: Vec<SdrsQuota>,
}

/// Of one kind.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsQuota {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many there are.
    pub used: usize,
    /// How many there may be.
    pub quota: usize,
    /// No fewer may be set.
    pub min: usize,
    /// No more may be set.
    pub max: usize,
}
