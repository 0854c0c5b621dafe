//! The types of the SDRS dialect's protected instances: servers with what stands in for them.
//!
//! Invariant: names are the dialect's, flat or wrapped as its own calls are.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sdrs::SdrsName;

/// A word that its owner finds an instance by.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsTag {
    /// At most 36 of `A-Z a-z 0-9 _ -`.
    pub key: String,
    /// At most 43 of the same.
    pub value: String,
}

/// Makes a protected instance.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsInstanceCreate {
    /// The instance.
    pub protected_instance: SdrsNewInstance,
}

/// A protected instance that is to be made.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsNewInstance {
    /// The protection group.
    pub server_group_id: String,
    /// The production server, as the cloud calls it.
    pub server_id: String,
    /// 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// At most 64 bytes, without `<` and `>`.
    #[serde(default)]
    pub description: String,
    /// The network of the other server's primary interface; the production server's by default.
    #[serde(default)]
    pub primary_subnet_id: String,
    /// Its address there; only with a network.
    #[serde(default)]
    pub primary_ip_address: String,
    /// The other server's flavour; the production server's by default.
    #[serde(default, rename = "flavorRef")]
    pub flavor_ref: String,
    /// At most 10.
    #[serde(default)]
    pub tags: Vec<SdrsTag>,
}

/// Renames a protected instance.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsInstanceRename {
    /// The new name.
    pub protected_instance: SdrsName,
}

/// Deletes a protected instance; its pairs and the production server stay.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct SdrsInstanceDelete {
    /// Whether the server of the target zone is deleted too.
    pub delete_target_server: bool,
    /// And its public addresses.
    pub delete_target_eip: bool,
}

/// A protected instance.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsInstanceShown {
    /// It.
    pub protected_instance: SdrsInstance,
}

/// Protected instances.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsInstanceList {
    /// How many fit.
    pub count: usize,
    /// They.
    pub protected_instances: Vec<SdrsInstance>,
}

/// A protected instance as it is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsInstance {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// The protection group.
    pub server_group_id: String,
    /// One of the service's words.
    pub status: String,
    /// Of the synchronisation of its pairs, in per cent.
    pub progress: u64,
    /// The server of the source zone.
    pub source_server: String,
    /// The server of the target zone; empty before it is made.
    pub target_server: String,
    /// `source` or `target`: which of the two works.
    pub priority_station: String,
    /// Its pairs.
    pub attachment: Vec<SdrsAttachment>,
    /// Its interfaces by their ports, the primary one first (not theirs).
    pub nics: Vec<SdrsNic>,
    /// What its owner finds it by.
    pub tags: Vec<SdrsTag>,
    /// Nothing: nothing is frozen here.
    #[schema(value_type = Object)]
    pub metadata: serde_json::Value,
    /// Why it is in error, or whose server is gone (not theirs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
}

/// A pair of an instance.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsAttachment {
    /// The pair.
    pub replication: String,
    /// The device's name at both servers.
    pub device: String,
}

/// An interface of both servers.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsNic {
    /// The port that works.
    pub active: String,
    /// The port of the server that stands by.
    pub standby: String,
}

/// Attaches a pair to an instance.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsAttach {
    /// Which, and as what.
    #[serde(rename = "replicationAttachment")]
    pub attachment: SdrsNewAttachment,
}

/// Which pair, and as what.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsNewAttachment {
    /// The pair.
    pub replication_id: String,
    /// The device's name, as `/dev/vdb`.
    pub device: String,
}

/// Gives both servers an interface.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsNicCreate {
    /// Its network.
    pub subnet_id: String,
    /// Its security groups; the cloud's own by default.
    #[serde(default)]
    pub security_groups: Vec<SdrsSecurityGroup>,
    /// The address of the one that works; as the cloud gives it by default.
    #[serde(default)]
    pub ip_address: String,
}

/// A security group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsSecurityGroup {
    /// Its identity.
    pub id: String,
}

/// Takes an interface from both servers.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsNicDelete {
    /// The port of either.
    pub nic_id: String,
}

/// Changes flavours of stopped servers.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsResize {
    /// To what.
    pub resize: SdrsFlavors,
}

/// Flavours.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct SdrsFlavors {
    /// Of both servers; the others mean nothing beside it.
    #[serde(rename = "flavorRef", skip_serializing_if = "Option::is_none")]
    pub both: Option<String>,
    /// Of the server that works.
    #[serde(rename = "production_flavorRef", skip_serializing_if = "Option::is_none")]
    pub production: Option<String>,
    /// Of the one that stands by.
    #[serde(rename = "dr_flavorRef", skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
}
