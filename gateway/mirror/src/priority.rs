//! Who copies how much at a time, when several mirrors of a gateway are copied to at once.
//!
//! Invariant: what a leg may have in flight is a function of its own priority and of the highest one
//! that copies. So the shares of any two legs are as their weights, whatever else copies, and nobody's
//! share is ever nothing. What hosts write is no part of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How a session's copying stands to that of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A quarter of what is usual.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Four times what is usual.
    High,
}

/// What a leg may have in flight to its mirror for copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Copies.
    pub(crate) copies: usize,
    /// The bytes of all of them.
    pub(crate) bytes: u64,
}

/// Legs that copy now, by priority: of one group, or of a whole gateway.
pub(crate) type Crowd = [u32; 3];

/// The legs of all groups of a gateway that copy now. Groups run on threads of their own; each says
/// what it does at every tick, and looks who else does.
#[derive(Clone, Debug, Default)]
pub struct Copiers(Arc<[AtomicU32; 3]>);

/// What one group said, taken back when the group is gone.
#[derive(Debug)]
pub(crate) struct Place {
    copiers: Copiers,
    said: Crowd,
}

// === impl Priority ===

impl Priority {
    const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Low => 0,
            Self::Normal => 1,
            Self::High => 2,
        }
    }

    /// Four to one from each to the next: enough to be felt, and the low one still moves.
    const fn weight(self) -> u64 {
        match self {
            Self::Low => 1,
            Self::Normal => 4,
            Self::High => 16,
        }
    }

    /// The share of a leg while `highest` is the highest priority that copies; `most` is what a leg
    /// has that copies alone.
    pub(crate) fn share(self, highest: Self, most: Share) -> Share {
        // One that was not told of itself yet is no less than itself.
        let highest = highest.max(self);
        let of = |amount: u64| amount * self.weight() / highest.weight();
        let copies = usize::try_from(of(most.copies as u64)).unwrap_or(most.copies);
        Share { copies: copies.max(1), bytes: of(most.bytes) }
    }

    pub(crate) fn highest(crowd: Crowd) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|priority| crowd[priority.index()] > 0)
    }
}

// === impl Place ===

impl Place {
    pub(crate) fn new(copiers: Copiers) -> Self {
        Self { copiers, said: [0; 3] }
    }

    /// Says who copies in this group; returns the highest priority that copies in any.
    pub(crate) fn say(&mut self, now: Crowd) -> Option<Priority> {
        let mut all = [0; 3];
        for (index, counter) in self.copiers.0.iter().enumerate() {
            let change = now[index].wrapping_sub(self.said[index]);
            all[index] = counter.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        }
        self.said = now;
        Priority::highest(all)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.say([0; 3]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MOST: Share = Share { copies: 8, bytes: 2 << 20 };

    fn priority() -> impl Strategy<Value = Priority> {
        proptest::sample::select(&Priority::ALL[..])
    }

    proptest! {
        /// A link that carries one block after the other, in the order in which they were given to it,
        /// and legs that keep as much in flight as they may: what each moves is as its weight.
        #[test]
        fn what_each_moves_is_as_its_weight(legs in vec(priority(), 1..9)) {
            const BLOCK: u64 = 4096;
            let mut crowd = [0; 3];
            legs.iter().for_each(|priority| crowd[priority.index()] += 1);
            let highest = Priority::highest(crowd).unwrap();
            let mut queue: VecDeque<usize> = VecDeque::new();
            for (leg, priority) in legs.iter().enumerate() {
                let share = priority.share(highest, MOST);
                prop_assert!(share.copies >= 1 && share.bytes >= 16 * BLOCK);
                queue.extend((0..share.bytes / BLOCK).map(|_| leg));
            }
            let mut moved = vec![0u64; legs.len()];
            for _ in 0..queue.len() * 4 {
                let leg = queue.pop_front().unwrap();
                moved[leg] += 1;
                queue.push_back(leg);
            }
            for (a, at) in legs.iter().zip(&moved) {
                for (b, bt) in legs.iter().zip(&moved) {
                    prop_assert_eq!(at * b.weight(), bt * a.weight());
                }
            }
        }
    }

    #[test]
    fn one_that_copies_alone_has_everything() {
        for priority in Priority::ALL {
            assert_eq!(priority.share(priority, MOST), MOST);
            assert_eq!(Priority::High.share(priority, MOST), MOST);
        }
        let low = Priority::Low.share(Priority::High, MOST);
        assert_eq!(low, Share { copies: 1, bytes: 128 << 10 });
        let normal = Priority::Normal.share(Priority::High, MOST);
        assert_eq!(normal, Share { copies: 2, bytes: 512 << 10 });
    }

    #[test]
    fn a_group_that_is_gone_copies_no_more() {
        let copiers = Copiers::default();
        let mut first = Place::new(copiers.clone());
        let mut second = Place::new(copiers);
        assert_eq!(first.say([1, 0, 0]), Some(Priority::Low));
        assert_eq!(second.say([0, 2, 1]), Some(Priority::High));
        assert_eq!(first.say([1, 0, 0]), Some(Priority::High));
        assert_eq!(second.say([0, 2, 0]), Some(Priority::Normal));
        drop(second);
        assert_eq!(first.say([1, 0, 0]), Some(Priority::Low));
        assert_eq!(first.say([0; 3]), None);
    }
}
