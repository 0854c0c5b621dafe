//! In what a group's copies differ: what each side wrote since they parted.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Quality, Role, Serving};

/// How two copies stand to each other.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "snake_case")]
pub enum DiffVerdict {
    /// Neither side has anything that the other lacks.
    Same,
    /// One side has changes that the other lacks; the other has none.
    OneSide,
    /// What the other side has is not known.
    Unknown,
    /// Each side has changes that the other lacks.
    BothSides,
}

impl DiffVerdict {
    /// The exit code of `twinspan group diff`.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Same => 0,
            Self::OneSide => 3,
            Self::Unknown => 4,
            Self::BothSides => 5,
        }
    }
}

/// What a gateway wrote to its copies of a group that another gateway's copies lack.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct DiffSide {
    /// The site.
    pub site: String,
    /// When it said so, RFC 3339 by its own clock.
    pub as_of: String,
    /// The part that it plays.
    pub role: Role,
    /// Its fencing number.
    pub epoch: u64,
    /// Whether it serves hosts.
    pub serving: Serving,
    /// What its copy is worth.
    pub quality: Quality,
    /// Hosts that are attached to it.
    pub hosts: u64,
    /// Bytes that the other side may lack, over all volumes.
    pub bytes: u64,
    /// Since when it has a history of its own, RFC 3339 by the clock of the gateway that began it;
    /// absent when it has none, or its beginning is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart_since: Option<String>,
    /// Whether that is no history of its own, but what was under way when a process died: it is
    /// compared, and nothing of it is discarded.
    pub only_suspected: bool,
    /// Whether nothing else can differ. If not, the two have no history in common that this side
    /// knows of, and only a full copy makes them the same.
    pub is_whole: bool,
}

/// Why the other side's part is not known.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct DiffUnknown {
    /// Why, in words.
    pub why: String,
    /// When it was last heard, in milliseconds before `as_of`; absent when never since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_ms_ago: Option<u64>,
}

/// A range of bytes.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct DiffExtent {
    /// Its first byte.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// What one side wrote to a volume.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct DiffExtents {
    /// Bytes, exact.
    pub bytes: u64,
    /// Where they lie, in order.
    pub extents: Vec<DiffExtent>,
    /// Whether there were too many extents, so that near ones are told as one and hold blocks that
    /// do not differ.
    pub merged: bool,
}

/// What each side wrote to a volume.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct VolumeDiff {
    /// The volume.
    pub volume: String,
    /// Its identity.
    pub volume_id: Uuid,
    /// What this side wrote.
    pub here: DiffExtents,
    /// What the other side wrote; absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub there: Option<DiffExtents>,
    /// Bytes that both sides wrote, at most: exact unless extents are merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub both_bytes: Option<u64>,
}

/// In what the copies here differ from those at one other site.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct MirrorDiff {
    /// The other site.
    pub site: String,
    /// Its gateway.
    pub gateway: Uuid,
    /// How the two stand to each other.
    pub verdict: DiffVerdict,
    /// This side.
    pub here: DiffSide,
    /// The other side, asked now; absent when it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub there: Option<DiffSide>,
    /// Why it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<DiffUnknown>,
    /// The volumes to which either side wrote.
    pub volumes: Vec<VolumeDiff>,
}

/// In what the copies of a group differ, as one gateway finds.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct GroupDiff {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The group.
    pub group: String,
    /// The group's identity.
    pub group_id: Uuid,
    /// The worst of `mirrors`; `same` when there are none.
    pub verdict: DiffVerdict,
    /// By other site.
    pub mirrors: Vec<MirrorDiff>,
}
