//! The metadata contexts that a client can choose: one table.
//!
//! Invariant: a context that stands in the table can be listed, chosen and queried; one that does
//! not is refused at each of the three. A new one is a variant and its row.

use smallvec::SmallVec;

/// One kind of information about the blocks of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// `base:allocation`: which blocks are holes.
    Allocation,
}

/// What stands on the wire for each.
const TABLE: [(Context, &str); 1] = [(Context::Allocation, "base:allocation")];

/// Those that one connection chose.
pub type Contexts = SmallVec<[Context; 2]>;

impl Context {
    /// Every context, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|(context, _)| *context)
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allocation => TABLE[0].1,
        }
    }

    /// What its extents are labelled with.
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::Allocation => 1,
        }
    }

    /// The context with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|(_, known)| *known == name).map(|(context, _)| *context)
    }

    /// Whether a query of a list means this one: its name, or its namespace alone.
    #[must_use]
    pub fn is_listed_by(self, query: &str) -> bool {
        let name = self.name();
        query == name || (query.ends_with(':') && name.starts_with(query))
    }
}

/// The flags of a hole in `base:allocation`: not allocated, and reads as zero.
pub(crate) const ALLOCATION_HOLE: u32 = 0b11;
/// The flags of data in `base:allocation`.
pub(crate) const ALLOCATION_DATA: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_its_own_context() {
        for context in Context::all() {
            assert_eq!(Context::named(context.name()), Some(context));
            assert!(context.is_listed_by(context.name()));
        }
        let mut ids: Vec<u32> = Context::all().map(Context::id).collect();
        ids.dedup();
        assert_eq!(ids.len(), TABLE.len());
    }

    #[test]
    fn a_namespace_lists_and_a_prefix_does_not() {
        assert!(Context::Allocation.is_listed_by("base:"));
        assert!(!Context::Allocation.is_listed_by("base:alloc"));
        assert!(!Context::Allocation.is_listed_by("base"));
        assert!(!Context::Allocation.is_listed_by("qemu:"));
    }
}
