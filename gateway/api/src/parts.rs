//! Groups over several gateways of a site: parts, stretches, companions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A part of a group that lies at several gateways of a site, and its companions.
///
/// A *stretch* is a time in which the mirror of every part has everything; its number names the cut
/// at which it ended.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// The stretch that this part is in or works towards.
    pub stretch: u64,
    /// Whether it is in it: it counts on its mirror, as all do.
    pub in_stretch: bool,
    /// The newest stretch that every mirror recorded, as far as is known; 0: none.
    pub whole: u64,
    /// The cut at which this part became primary; 0: the group was founded here.
    pub from: u64,
    /// At a mirror: the stretch that its copy is a point of; 0: none.
    pub copy: u64,
    /// At a mirror: the stretch that its kept point is a point of; 0: none.
    pub kept: u64,
    /// The companion without which this part serves nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<Uuid>,
    /// The companions that have not said that they stopped at the cut at which this part stopped.
    pub not_stopped: Vec<Uuid>,
    /// The companion at which an operator excluded this gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded_by: Option<Uuid>,
    /// The gateways that hold the other parts at this site.
    pub companions: Vec<Companion>,
}

/// A gateway that holds another part of a group at this site.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Companion {
    /// Its gateway.
    pub gateway: Uuid,
    /// Whether an operator excluded it here.
    pub excluded: bool,
    /// Whether it answered when it was last asked; absent: it was not asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
    /// The stretch that it said it is in or works towards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stretch: Option<u64>,
    /// Whether it said that its mirror lacks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_ready: Option<bool>,
    /// Whether it said that it is a primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_primary: Option<bool>,
}

/// Excludes a companion from a group, or takes it back in.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct CompanionRequest {
    /// The gateway.
    pub gateway: Uuid,
    /// To exclude: the operator's word that it is stopped and stays so until it is taken back in.
    #[serde(default)]
    pub stopped: bool,
}
