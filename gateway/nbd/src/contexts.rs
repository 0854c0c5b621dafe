//! The metadata contexts that a client can choose of an export: what lies where, and what differs
//! from a snapshot of the volume.
//!
//! Invariant: a context of an export can be listed, chosen and queried; one that it does not have is
//! refused at each of the three. A namespace stands for all in it where contexts are listed, and
//! for nothing where they are chosen.

use block::{RunKind, SnapshotId};
use smallvec::SmallVec;

use crate::export::ExportInfo;

/// One kind of information about the blocks of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// `base:allocation`: which blocks are holes.
    Allocation,
    /// `qemu:dirty-bitmap:NAME`: which blocks may differ from a snapshot.
    Dirty {
        /// What its extents are labelled with.
        id: u32,
        /// The snapshot, as its store calls it.
        since: SnapshotId,
    },
}

const ALLOCATION: &str = "base:allocation";
const DIRTY: &str = "qemu:dirty-bitmap:";
const ALLOCATION_ID: u32 = 1;

/// Those that one connection chose.
pub type Contexts = SmallVec<[Context; 2]>;

impl Context {
    /// Every context of an export, with its name on the wire.
    pub(crate) fn all_of(export: &ExportInfo) -> Vec<(Self, String)> {
        let dirty = (ALLOCATION_ID + 1..).zip(&export.bitmaps).map(|(id, bitmap)| {
            (Self::Dirty { id, since: bitmap.since }, format!("{DIRTY}{}", bitmap.name))
        });
        std::iter::once((Self::Allocation, ALLOCATION.to_owned())).chain(dirty).collect()
    }

    /// What its extents are labelled with.
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::Allocation => ALLOCATION_ID,
            Self::Dirty { id, .. } => id,
        }
    }

    /// The flags of a run; what differs from a snapshot is data.
    pub(crate) const fn flags(self, kind: RunKind) -> u32 {
        match (self, kind) {
            // Not allocated, and reads as zero.
            (Self::Allocation, RunKind::Hole) => 0b11,
            (Self::Dirty { .. }, RunKind::Data) => 1,
            (Self::Allocation, RunKind::Data) | (Self::Dirty { .. }, RunKind::Hole) => 0,
        }
    }
}

/// Whether a query of a list means the context of this name: the name itself, or a namespace that it
/// is in (`qemu:`, `qemu:dirty-bitmap:`).
pub(crate) fn is_listed_by(name: &str, query: &str) -> bool {
    query == name || (query.ends_with(':') && name.starts_with(query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_lists_and_a_prefix_does_not() {
        for (query, listed) in [
            ("base:", true),
            ("base:allocation", true),
            ("base:alloc", false),
            ("base", false),
            ("qemu:", false),
        ] {
            assert_eq!(is_listed_by(ALLOCATION, query), listed, "{query}");
        }
        let name = "qemu:dirty-bitmap:monday";
        for (query, listed) in [
            ("qemu:", true),
            ("qemu:dirty-bitmap:", true),
            ("qemu:dirty-bitmap:mon", false),
            ("base:", false),
        ] {
            assert_eq!(is_listed_by(name, query), listed, "{query}");
        }
    }
}
