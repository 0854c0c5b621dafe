//! The one status screen.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Group, Peer, SiteInfo};

/// The worst health, as one word for a whole gateway.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// There is nothing to protect yet.
    Empty,
    /// All protected.
    Ready,
    /// Some volumes are not mirrored; all that are, are protected.
    Unprotected,
    /// Something is on its way to protection.
    Degraded,
    /// Something is not known.
    Unknown,
    /// The next failure loses data or service somewhere.
    AtRisk,
    /// Two histories exist somewhere.
    SplitBrain,
}

impl Verdict {
    /// The exit code of `twinspan status`.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Empty | Self::Ready => 0,
            Self::Unprotected | Self::Degraded => 3,
            Self::Unknown | Self::AtRisk => 4,
            Self::SplitBrain => 5,
        }
    }
}

/// Everything an operator sees first.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct Status {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// One word.
    pub verdict: Verdict,
    /// Who answers.
    pub site: SiteInfo,
    /// The other sites.
    pub peers: Vec<Peer>,
    /// The groups, worst first.
    pub groups: Vec<Group>,
    /// Groups that are protected.
    pub protected: usize,
    /// Groups that are at risk, split or on their way.
    pub at_risk: usize,
    /// Groups that are not known.
    pub unknown: usize,
    /// Groups that nobody mirrors.
    pub unprotected: usize,
}
