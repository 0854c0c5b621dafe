//! Identities and counters, each its own type so that none can be taken for another.
//!
//! Invariant: no conversion leads from one of these to another.

use std::fmt;

use uuid::Uuid;

macro_rules! define_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps an identity that was made elsewhere.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The bare identity, for wire and disk.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// For tests and simulations: an identity made from a small number.
            #[must_use]
            pub const fn of(number: u128) -> Self {
                Self(Uuid::from_u128(number))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }
    };
}

macro_rules! define_counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Before the first one.
            pub const ZERO: Self = Self(0);

            /// Wraps a bare number from wire or disk.
            #[must_use]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The bare number, for wire, disk and people.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this.
            ///
            /// # Panics
            /// When 2^64 have been counted, which no gateway lives to see.
            #[must_use]
            pub const fn next(self) -> Self {
                match self.0.checked_add(1) {
                    Some(number) => Self(number),
                    None => panic!("counter exhausted"),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

define_id!(
    /// A volume: the same at every site that holds a copy of it.
    VolumeId, "volume-"
);
define_id!(
    /// A consistency group: the unit of order, of epoch and of failover.
    GroupId, "group-"
);
define_id!(
    /// A mirror session: one source volume copied to one destination gateway.
    SessionId, "session-"
);
define_id!(
    /// One gateway's pool. Made with it; a pool that was deleted and made anew is another.
    PoolId, "pool-"
);
define_id!(
    /// A gateway: made with its pool, kept over restarts.
    GatewayId, "gateway-"
);
define_id!(
    /// One snapshot of a volume.
    SnapshotId, "snapshot-"
);
define_id!(
    /// One start of the gateway process.
    BootId, "boot-"
);
define_id!(
    /// One history of a volume's content. A primary that goes on without a mirror starts a new one.
    Generation, "generation-"
);

define_counter!(
    /// The fencing number of a group: the highest one wins, everywhere, for ever.
    Epoch
);
define_counter!(
    /// The place of a change in the one ordered stream of its group.
    Seq
);
define_counter!(
    /// A host's change while it is under way at its primary.
    WriteId
);

/// Which of a group's legs: an index below [`LegId::COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(u8);

impl LegId {
    /// A source has at most eight mirrors, so a set of legs fits one byte.
    pub const COUNT: usize = 8;

    /// The leg with this index; `None` from the ninth on.
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        u8::try_from(index).ok().filter(|i| usize::from(*i) < Self::COUNT).map(Self)
    }

    /// Every leg that there can be.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).filter_map(Self::new)
    }

    /// The index, for arrays.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leg-{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_ninth_leg() {
        assert!(LegId::new(7).is_some());
        assert!(LegId::new(8).is_none());
    }

    #[test]
    fn prints_ids_with_their_noun() {
        assert!(format!("{:?}", VolumeId::of(7)).starts_with("volume-000"));
    }
}
