//! What the gateway remembers of ways back that are not over.
//!
//! Invariant: how far one is, is noted before the next step changes anything, so that a start after a
//! kill knows whether hosts may see what is there.

use block::SnapshotId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::moments::Laid;

/// A way back to a snapshot, or to a second of the write journal, that was begun and is not over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct RollbackEntry {
    /// The group.
    pub(crate) group: Uuid,
    /// Where it goes back to.
    pub(crate) snapshot: Uuid,
    /// The snapshot of what was there before.
    pub(crate) safety: Uuid,
    /// The sessions that were suspended for it, one of each leg.
    pub(crate) sessions: Vec<Uuid>,
    /// When it was begun, in milliseconds since 1970.
    pub(crate) begun_ms: u64,
    /// What is laid over the snapshot, when it leads to a second of the write journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) laid: Option<Laid>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Stage::is_begun")]
    pub(crate) stage: Stage,
    /// The gateway that served the group, and is to serve it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) home: Option<Uuid>,
    /// What was there before an earlier one that stopped half way: it is kept, and not what that left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keeps: Option<Uuid>,
}

/// How far a way back is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// The group is what it was, or at the snapshot: its own record says which.
    #[default]
    Begun,
    /// It is at the snapshot, and what is laid over that is missing.
    Back,
    /// It is where it goes. Sessions and roles are left.
    There,
}

// === impl Stage ===

impl Stage {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    fn is_begun(&self) -> bool {
        *self == Self::Begun
    }
}

// === impl RollbackEntry ===

impl RollbackEntry {
    /// Whether what is there may be half of what it is to become: no host may see it, and it is no
    /// source of anything.
    pub(crate) fn holds(&self) -> bool {
        self.laid.is_some() && self.stage != Stage::There
    }

    /// Whether it may still change the group, or has to say what becomes of a restore of it.
    pub(crate) fn is_open(&self) -> bool {
        self.stage != Stage::There || self.laid.is_some()
    }

    /// The same of a way back that changed nothing, and is not begun again.
    pub(crate) fn undone(&self) -> Self {
        Self { safety: self.snapshot, ..self.clone() }
    }

    /// Whether only roles are swapped: the group did not begin to go anywhere, or it was undone.
    pub(crate) fn only_swaps(&self) -> bool {
        !self.is_open() && self.snapshot == self.safety
    }

    /// Whether it needs a snapshot: where it leads to, and what was there before, until it is there.
    pub(crate) fn needs(&self, snapshot: Uuid) -> bool {
        let is_there = self.stage == Stage::There && !self.only_swaps();
        let all = [self.snapshot, self.safety, self.kept().uuid()];
        !is_there && all.contains(&snapshot)
    }

    /// The snapshot of what was there before, whatever stopped half way since.
    pub(crate) fn kept(&self) -> SnapshotId {
        SnapshotId::from_uuid(self.keeps.unwrap_or(self.safety))
    }

    /// What is left when the group is where it goes and its sessions go on: the site that is to serve
    /// it again.
    pub(crate) fn only_home(&self) -> Option<Self> {
        self.home?;
        Some(Self { stage: Stage::There, sessions: Vec::new(), laid: None, ..self.clone() })
    }
}
