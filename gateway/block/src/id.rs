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

/// The fencing number of a group: the highest one wins, everywhere, for ever.
///
/// It consists of a turn, which is what people see, and below it of a tag that is drawn by whoever
/// takes the turn. Two mirrors that are promoted without having heard of each other take the same
/// turn, and yet share no epoch: when they meet, one of them is fenced (rule 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    const TAG_BITS: u32 = 32;

    /// Before the first one.
    pub const ZERO: Self = Self(0);

    /// From the number on wire or disk. One below 2^32 is a turn without a tag: the first of every
    /// group.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        if number >> Self::TAG_BITS == 0 { Self(number << Self::TAG_BITS) } else { Self(number) }
    }

    /// The number for wire and disk. Numbers are in the order of their epochs only among those with
    /// a tag, so it is epochs that are compared.
    #[must_use]
    pub const fn get(self) -> u64 {
        let tag = self.0 << (u64::BITS - Self::TAG_BITS);
        if tag == 0 { self.turn() } else { self.0 }
    }

    /// The turn, for people.
    #[must_use]
    pub const fn turn(self) -> u64 {
        self.0 >> Self::TAG_BITS
    }

    /// The epoch of the next turn, taken under this tag.
    ///
    /// # Panics
    /// When 2^32 turns have been taken, which no gateway lives to see.
    #[must_use]
    pub const fn next(self, tag: u32) -> Self {
        match (self.0 >> Self::TAG_BITS << Self::TAG_BITS).checked_add(1 << Self::TAG_BITS) {
            Some(turn) => Self(turn | tag as u64),
            None => panic!("epochs exhausted"),
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.turn().fmt(f)
    }
}

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
    fn the_same_turn_under_two_tags_is_two_epochs() {
        let first = Epoch::new(1);
        let (a, b) = (first.next(7), first.next(9));
        assert!(a != b && first < a && a < b && b < a.next(1));
        assert_eq!((a.turn(), b.turn(), b.next(3).turn()), (2, 2, 3));
        for epoch in [Epoch::ZERO, first, Epoch::new(12), a, b] {
            assert_eq!(Epoch::new(epoch.get()), epoch);
        }
        assert_eq!(first.get(), 1, "as gateways without tags wrote it");
    }

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
