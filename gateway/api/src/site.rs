//! Sites and the trust between them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::LinkState;

/// The site of the gateway that answers.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct SiteInfo {
    /// Its name.
    pub name: String,
    /// Its region, if one is configured.
    pub region: String,
    /// Its zone, if one is configured.
    pub zone: String,
    /// The gateway.
    pub gateway: Uuid,
    /// This start of its process.
    pub boot: Uuid,
    /// Its release.
    pub release: String,
}

/// Another site, as this gateway sees it.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct Peer {
    /// Its name.
    pub site: String,
    /// Its gateway.
    pub gateway: Uuid,
    /// Where its link is dialled.
    pub address: String,
    /// The best state of any connection with it; absent when no group is shared with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkState>,
    /// When anything was last heard from it, in milliseconds before `as_of`; absent when never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_ms_ago: Option<u64>,
    /// The smoothed round trip in microseconds; absent when not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}

/// This site and those it knows.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct SiteList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The site that answers.
    pub this: SiteInfo,
    /// The others.
    pub peers: Vec<Peer>,
}

/// Asks for a join token.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// For how long it can be used, in seconds; an hour if absent.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
}

/// A join token: good for one use, by one gateway.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct JoinToken {
    /// Hand this to the other site, once. It is a secret.
    pub token: String,
    /// Until when it can be used, RFC 3339.
    pub expires_at: String,
}

/// Joins the site that made the token.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token.
    pub token: String,
}
