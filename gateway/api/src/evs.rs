//! The types of the EVS dialect: replication pairs and consistency groups in the words of the volume
//! service's API, for scripts that were written for it.
//!
//! Invariant: names are the dialect's. What its calls do not have and this product needs a word for is a
//! field of its own, absent by default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Makes a pair of two disks of different zones.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EvsPairCreate {
    /// The pair.
    pub replication: EvsNewPair,
}

/// A pair that is to be made.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EvsNewPair {
    /// At most 255 bytes.
    #[serde(default)]
    pub name: String,
    /// At most 255 bytes.
    #[serde(default)]
    pub description: String,
    /// The two disks.
    pub volume_ids: Vec<String>,
    /// The zone of the production disk.
    pub priority_station: String,
    /// `hypermetro`.
    pub replication_model: String,
    /// Consent that what the other disk holds is lost.
    #[serde(default)]
    pub overwrite_destination: bool,
}

/// A pair.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct EvsPairShown {
    /// The pair.
    pub replication: EvsPair,
}

/// Pairs.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct EvsPairList {
    /// The pairs.
    pub replications: Vec<EvsPair>,
}

/// A pair as it is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct EvsPair {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// `creating`, `available`, `error`, `deleting` or `error_deleting`.
    pub status: String,
    /// The group that it is in.
    pub replication_consistency_group_id: Option<String>,
    /// The two disks, with a comma between them.
    pub volume_ids: String,
    /// The zone of the production disk.
    pub priority_station: String,
    /// `hypermetro`.
    pub replication_model: String,
    /// `active`, `active-stopped`, `copying`, `inactive` or `error`.
    pub replication_status: String,
    /// In per cent; null before the first synchronisation.
    pub progress: Option<String>,
    /// Why its status is `error`: a number.
    pub failure_detail: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// `0`, `2` or `5`.
    pub fault_level: String,
    /// JSON: type, sharing and size in GB of the disks.
    pub record_metadata: String,
    /// When it was made.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
}

/// Makes a group of pairs.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EvsGroupCreate {
    /// The group.
    pub replication_consistency_group: EvsNewGroup,
}

/// A group that is to be made.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EvsNewGroup {
    /// At most 255 bytes.
    #[serde(default)]
    pub name: String,
    /// At most 255 bytes.
    #[serde(default)]
    pub description: String,
    /// At least one pair.
    pub replication_ids: Vec<String>,
    /// The zone of the production disks.
    pub priority_station: String,
    /// `hypermetro`.
    pub replication_model: String,
}

/// Changes a group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EvsGroupUpdate {
    /// What is changed.
    pub replication_consistency_group: EvsGroupChange,
}

/// What is changed of a group.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct EvsGroupChange {
    /// A new name.
    pub name: Option<String>,
    /// A new description.
    pub description: Option<String>,
    /// `hypermetro`.
    pub replication_model: Option<String>,
    /// Pairs that join.
    pub add_replication_ids: Vec<String>,
    /// Pairs that leave.
    pub remove_replication_ids: Vec<String>,
}

/// A group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct EvsGroupShown {
    /// The group.
    pub replication_consistency_group: EvsGroup,
}

/// Groups.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct EvsGroupList {
    /// The groups.
    pub replication_consistency_groups: Vec<EvsGroup>,
}

/// A group as it is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct EvsGroup {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// `creating`, `available`, `updating`, `reversing`, `failovering`, `failovered`, `deleting`, or an
    /// error of one.
    pub status: String,
    /// The zone of the production disks.
    pub priority_station: String,
    /// `hypermetro`.
    pub replication_model: String,
    /// `active`, `active-stopped`, `copying`, `inactive` or `error`: the worst of its pairs.
    pub replication_status: String,
    /// Its pairs.
    pub replication_ids: Vec<String>,
    /// Why the last call came to nothing: a number.
    pub failure_detail: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// `0`, `2` or `5`.
    pub fault_level: String,
    /// What the group is called by the gateway's other calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_group: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
}

/// What is done to a group: one key, which names it.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct EvsGroupAction(pub BTreeMap<String, Value>);

/// An error, in the shape of both dialects.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct EvsError {
    /// The error.
    pub error: EvsErrorBody,
}

/// What an error says.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct EvsErrorBody {
    /// The dialect's code, or this product's where it has none.
    pub code: String,
    /// What, and why.
    pub message: String,
    /// This product's code, `GWnnnn`.
    pub internal_code: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
