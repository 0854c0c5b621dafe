//! Which blocks are in flight, for hosts and for the resync copier alike.
//!
//! Invariant (rule 2): two holders never overlap, and whoever came first goes first. A change holds
//! its blocks until every leg acknowledged it; a resync copy from the read to the acknowledgement,
//! so that it can never overwrite a newer write.

use std::collections::{BTreeMap, VecDeque};

use block::{BlockRange, LegId, WriteId};

/// Who holds or wants a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// A change by a host.
    Write(WriteId),
    /// A copy by the resync copier of a leg, by its index there.
    Copy(LegId, u8),
}

#[derive(Debug)]
struct Held {
    end: u64,
    holder: Holder,
}

/// The ranges of one volume that are in flight or waiting.
#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    /// By first block; disjoint.
    held: BTreeMap<u64, Held>,
    waiting: VecDeque<(BlockRange, Holder)>,
}

impl RangeLocks {
    /// Takes the range for `holder`, or queues it behind those in its way. Says whether it has it.
    pub(crate) fn acquire(&mut self, range: BlockRange, holder: Holder) -> bool {
        let blocked = self.is_held(range)
            || (!self.waiting.is_empty()
                && self.waiting.iter().any(|(other, _)| overlap(*other, range)));
        if blocked {
            self.waiting.push_back((range, holder));
            return false;
        }
        self.hold(range, holder);
        true
    }

    /// Gives the range back; whoever has his range thereby is appended to `granted`.
    pub(crate) fn release(&mut self, range: BlockRange, holder: Holder, granted: &mut Vec<Holder>) {
        let held = self.held.remove(&range.first());
        assert!(
            held.is_some_and(|h| h.holder == holder && h.end == range.end()),
            "a range is given back by whoever holds it, whole"
        );
        self.let_through(granted);
    }

    /// Takes a waiting request back, as when its leg went away; whoever waited only behind it is
    /// appended to `granted`. Says whether it was waiting.
    pub(crate) fn withdraw(&mut self, holder: Holder, granted: &mut Vec<Holder>) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(_, other)| *other != holder);
        let waited = self.waiting.len() < before;
        if waited {
            self.let_through(granted);
        }
        waited
    }

    fn let_through(&mut self, granted: &mut Vec<Holder>) {
        if self.waiting.is_empty() {
            return;
        }
        let mut still = VecDeque::with_capacity(self.waiting.len());
        while let Some((range, holder)) = self.waiting.pop_front() {
            let behind = still.iter().any(|(other, _)| overlap(*other, range));
            if behind || self.is_held(range) {
                still.push_back((range, holder));
            } else {
                self.hold(range, holder);
                granted.push(holder);
            }
        }
        self.waiting = still;
    }

    /// Whether a host's change waits for this range, which is held, or behind somebody who does.
    pub(crate) fn is_awaited(&self, range: BlockRange) -> bool {
        let mut stuck = vec![range];
        for (wanted, holder) in &self.waiting {
            if stuck.iter().any(|range| overlap(*range, *wanted)) {
                if matches!(holder, Holder::Write(_)) {
                    return true;
                }
                stuck.push(*wanted);
            }
        }
        false
    }

    /// Whether nobody holds or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    fn hold(&mut self, range: BlockRange, holder: Holder) {
        self.held.insert(range.first(), Held { end: range.end(), holder });
    }

    fn is_held(&self, range: BlockRange) -> bool {
        // Held ranges are disjoint, so only the last that begins before our end can reach into us.
        self.held.range(..range.end()).next_back().is_some_and(|(_, held)| held.end > range.first())
    }
}

fn overlap(a: BlockRange, b: BlockRange) -> bool {
    a.first() < b.end() && b.first() < a.end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn w(n: u64) -> Holder {
        Holder::Write(WriteId::new(n))
    }

    #[test]
    fn first_come_first_served_even_past_a_free_range() {
        let mut locks = RangeLocks::default();
        assert!(locks.acquire(BlockRange::new(0, 4), w(1)));
        assert!(!locks.acquire(BlockRange::new(2, 8), w(2)));
        // 6..7 is free, but 2 came first and wants it.
        assert!(!locks.acquire(BlockRange::new(6, 7), w(3)));
        assert!(locks.acquire(BlockRange::new(8, 9), w(4)));
        let mut granted = Vec::new();
        locks.release(BlockRange::new(0, 4), w(1), &mut granted);
        assert_eq!(granted, [w(2)]);
        granted.clear();
        locks.release(BlockRange::new(2, 8), w(2), &mut granted);
        assert_eq!(granted, [w(3)]);
    }

    #[test]
    fn whoever_waited_behind_a_withdrawn_one_goes_on() {
        let mut locks = RangeLocks::default();
        assert!(locks.acquire(BlockRange::new(0, 2), w(1)));
        assert!(!locks.acquire(BlockRange::new(1, 5), w(2)));
        assert!(!locks.acquire(BlockRange::new(3, 4), w(3)));
        let mut granted = Vec::new();
        assert!(locks.withdraw(w(2), &mut granted));
        assert_eq!(granted, [w(3)]);
    }

    proptest! {
        #[test]
        fn holders_never_overlap_and_all_get_their_turn(
            wants in prop::collection::vec((0u64..32, 1u64..8), 1..60),
        ) {
            let mut locks = RangeLocks::default();
            let mut held: Vec<(BlockRange, Holder)> = Vec::new();
            let mut waiting = BTreeMap::new();
            for (n, (first, len)) in (0u64..).zip(wants.iter()) {
                let range = BlockRange::new(*first, first + len);
                if locks.acquire(range, w(n)) {
                    held.push((range, w(n)));
                } else {
                    waiting.insert(w(n), range);
                }
                if n % 3 == 0 && !held.is_empty() {
                    let (range, holder) = held.remove(0);
                    let mut granted = Vec::new();
                    locks.release(range, holder, &mut granted);
                    for holder in granted {
                        held.push((waiting.remove(&holder).unwrap(), holder));
                    }
                }
                for (i, (a, _)) in held.iter().enumerate() {
                    prop_assert!(held[i + 1..].iter().all(|(b, _)| !overlap(*a, *b)));
                }
            }
            while !held.is_empty() {
                let (range, holder) = held.remove(0);
                let mut granted = Vec::new();
                locks.release(range, holder, &mut granted);
                for holder in granted {
                    held.push((waiting.remove(&holder).unwrap(), holder));
                }
            }
            prop_assert!(waiting.is_empty() && locks.is_idle());
        }
    }
}
