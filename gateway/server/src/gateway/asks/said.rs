//! What questions and answers between gateways are about.
//!
//! Invariant: a field that came later may be missing, and means then what an older release meant.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Asks that a volume become the destination of a session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Take {
    /// The number of the volume, there.
    pub(crate) number: u64,
    /// The volume by name, if it is not meant by its number.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// Whether its content stays: it is compared with the source's, and what differs is overwritten.
    #[serde(default)]
    pub(crate) keep: bool,
    /// The group of the source.
    pub(crate) group: Uuid,
    /// The source.
    pub(crate) volume: Uuid,
    /// The source's size.
    pub(crate) bytes: u64,
    /// Whether content may be lost there.
    pub(crate) overwrite: bool,
}

/// How a session's other half is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Seen {
    /// Whether there is such a half.
    pub(crate) is_known: bool,
    /// Bytes that were written to it and that the asker lacks.
    pub(crate) own_bytes: u64,
    /// What its copy is worth; nothing from a gateway that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quality: Option<api::Quality>,
}

/// The policies that go with a session when its direction changes, in the API's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Carried {
    /// On loss.
    pub(crate) split: Option<String>,
    /// On return.
    pub(crate) recovery: Option<String>,
}

/// A block of a copy that was lost there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Lost {
    /// The group.
    pub(crate) group: Uuid,
    /// The volume.
    pub(crate) volume: Uuid,
    /// The block.
    pub(crate) block: u64,
    /// The snapshot of the group that it is of; the volume as it is now, if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<Uuid>,
}
