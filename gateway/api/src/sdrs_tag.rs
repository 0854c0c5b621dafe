//! The types of the SDRS dialect's tags: put on protected instances, taken off, and what is found by them.
//!
//! Invariant: names are the dialect's, flat or wrapped as its own calls are.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sdrs_instance::{SdrsInstance, SdrsTag};

/// Puts a tag on an instance.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsTagAdd {
    /// It; one of the same key gives way.
    pub tag: SdrsTag,
}

/// Puts tags on an instance, or takes them off.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsTagBatch {
    /// `create` or `delete`.
    pub action: String,
    /// They.
    pub tags: Vec<SdrsTagNamed>,
}

/// A tag of a batch.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsTagNamed {
    /// Its key.
    pub key: String,
    /// Its value; of no account where it is taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The tags of an instance.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsTagList {
    /// They.
    pub tags: Vec<SdrsTag>,
}

/// The tags of all instances.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsTagsOfAll {
    /// Each key once.
    pub tags: Vec<SdrsTagValues>,
}

/// A key, and values.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsTagValues {
    /// The key.
    pub key: String,
    /// Its values; where instances are looked for, any of them, and none means whatever it is.
    pub values: Vec<String>,
}

/// Looks for instances by their tags.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsTagQuery {
    /// `filter` or `count`.
    pub action: String,
    /// 1 to 1000; only with `filter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<SdrsNumber>,
    /// How many are left out first; only with `filter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<SdrsNumber>,
    /// All of these.
    #[serde(default)]
    pub tags: Vec<SdrsTagValues>,
    /// One of these at least.
    #[serde(default)]
    pub tags_any: Vec<SdrsTagValues>,
    /// Not all of these.
    #[serde(default)]
    pub not_tags: Vec<SdrsTagValues>,
    /// None of these.
    #[serde(default)]
    pub not_tags_any: Vec<SdrsTagValues>,
    /// And of this name.
    #[serde(default)]
    pub matches: Vec<SdrsTagMatch>,
}

/// A number, as a text or as one.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(untagged)]
pub enum SdrsNumber {
    /// As a text.
    Text(String),
    /// As a number.
    Number(u64),
}

/// Something else that is looked for.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SdrsTagMatch {
    /// `resource_name`.
    pub key: String,
    /// A part of it, in letters of either case.
    pub value: String,
}

/// What was found.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsTagFound {
    /// The instances, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<SdrsTagResource>>,
    /// How many there are, whatever the limit.
    pub total_count: usize,
}

/// An instance that was found.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SdrsTagResource {
    /// Its identity.
    pub resource_id: String,
    /// Its name.
    pub resource_name: String,
    /// All of it.
    pub resource_detail: SdrsInstance,
    /// Its tags.
    pub tags: Vec<SdrsTag>,
}
