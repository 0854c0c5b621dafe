//! Moments: the state of a group at any second that a mirror's write journal knows.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Volume, VolumeSettings};

/// How much the mirrors of a group write down of what they apply.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PointJournal {
    /// For how long back any second can be opened: 10 seconds to 3 days.
    pub window_seconds: u64,
    /// Bytes that the journal may take at each mirror, 64 MiB to 256 GiB. When they are used up the
    /// window is shorter; nobody waits.
    pub bytes: u64,
}

/// What a write journal does.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum PointJournalStatus {
    /// None is kept.
    Off,
    /// This site is the primary: its mirrors keep one. What it kept as a mirror can still be opened.
    Primary,
    /// What an earlier start left is being looked through: nothing is known yet.
    Reading,
    /// It waits for a moment at which the copy here is whole, to begin with a snapshot of it.
    Waiting,
    /// Every change is written down.
    Writing,
}

/// Seconds that can be opened, one after the other.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct MomentRange {
    /// The first, RFC 3339, by the clock of who was the primary then.
    pub from: String,
    /// The last.
    pub to: String,
}

/// The write journal of a group at one gateway.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PointJournalState {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group.
    pub group: String,
    /// What was asked for; absent when it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<PointJournal>,
    /// What it does here.
    pub state: PointJournalStatus,
    /// The oldest second that can be opened here; absent when there is none or it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    /// The newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// All of them, oldest first: between two ranges nothing is known.
    pub ranges: Vec<MomentRange>,
    /// Bytes that it takes here; absent when that is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Up to when it would outlive a loss of power; absent when nothing would or it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable_to: Option<String>,
    /// Why less can be opened than was asked for, if less can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shorter_because: Option<String>,
    /// Holes since this gateway started.
    pub gaps: u64,
}

/// Opens a group as of a second, as new volumes.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct MomentOpen {
    /// The name of the new group, and of its volume if there is one; if there are several, each has
    /// this name, a dash and the name of the volume that it comes from.
    pub name: String,
    /// The second, RFC 3339, or how long ago: `-90s`.
    pub at: String,
    /// Who may attach them.
    #[serde(default)]
    pub settings: VolumeSettings,
}

/// A group as of a second.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct Moment {
    /// The group that it is of.
    pub of: String,
    /// The new group.
    pub group: String,
    /// The moment that it holds, RFC 3339, by the clock of the primary: all that was begun before it,
    /// and nothing else. It is not later than what was asked for.
    pub at: String,
    /// Its volumes, which hosts may attach at once.
    pub volumes: Vec<Volume>,
}

/// Asks what going back to a second, in place, would mean.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct MomentRollbackAsk {
    /// The second, RFC 3339, or how long ago: `-90s`.
    pub at: String,
    /// At a mirror: the site that serves the group hands it over to this one first, and serves it
    /// again afterwards.
    #[serde(default)]
    pub swap: bool,
}
