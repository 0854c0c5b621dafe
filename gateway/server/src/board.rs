//! What each group last said of itself, where every thread can read it.
//!
//! Invariant: an entry is written by the thread that owns the group and by no other. It carries
//! the time of writing, so whoever reads it knows how old it is.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use block::{GroupId, SnapshotId};
use mirror::GroupStatus;

/// What a group last said.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its status.
    pub(crate) status: Arc<GroupStatus>,
    /// When, by the gateway's steady clock.
    pub(crate) at_ms: u64,
    /// The sizes of its volumes at its snapshots, by what the stores here call those, in bytes.
    pub(crate) sizes: Sizes,
}

/// Sizes of what stores keep, in bytes.
pub(crate) type Sizes = Arc<HashMap<SnapshotId, u64>>;

/// The board.
#[derive(Debug, Default)]
pub(crate) struct Board {
    groups: RwLock<HashMap<GroupId, Seen>>,
}

impl Board {
    /// Replaces what a group said.
    pub(crate) fn post(&self, status: GroupStatus, sizes: Sizes, at_ms: u64) -> Seen {
        let group = status.group;
        let seen = Seen { status: Arc::new(status), at_ms, sizes };
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups.insert(group, seen.clone());
        seen
    }

    /// Forgets a group.
    pub(crate) fn remove(&self, group: GroupId) {
        self.groups.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }

    /// What a group last said.
    #[must_use]
    pub(crate) fn get(&self, group: GroupId) -> Option<Seen> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }
}
