//! Blocks whose data a commit does not cover yet: recovery reads them before it believes their records.
//!
//! ```text
//!   recorded ─▶ newer ── a sync begins, another block of the slot is recorded ──▶ older ─▶ committed
//!                 ▲                                                                 │
//!                 ╰───────────────────── recorded again ────────────────────────────╯
//! ```
//!
//! Until it is committed each overwrite of such a block is recorded again, which costs more than one in
//! place. So a slot keeps apart what was recorded since the last sync began: a commit covers the rest
//! of it, however often hosts write to the slot meanwhile.
//!
//! Invariant: what was recorded since the last commit is at least as much as what a crash makes
//! recovery read, so a bound of the one bounds the other. Of a slot, no number of a record of the older
//! blocks is above one of the newer.

use super::map::NumberMap;

/// What is known of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    older: Recorded,
    newer: Recorded,
}

/// Blocks, and the number of the last record that names one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Recorded {
    blocks: u16,
    last: u64,
}

/// By slot.
#[derive(Debug, Default)]
pub(super) struct Uncommitted {
    slots: NumberMap<u64, Known>,
    recorded: u64,
    /// The first record that the last sync that began does not cover.
    begun: u64,
}

// === impl Known ===

impl Known {
    /// Blocks that no commit covers.
    pub(super) fn blocks(self) -> u16 {
        self.older.blocks | self.newer.blocks
    }
}

// === impl Uncommitted ===

impl Uncommitted {
    /// How many blocks were recorded since the last commit, each as often as it was.
    pub(super) fn recorded(&self) -> u64 {
        self.recorded
    }

    /// What is known of a slot that has such blocks.
    pub(super) fn of(&self, slot: u64) -> Option<Known> {
        self.slots.get(&slot).copied()
    }

    /// Whether anything is known of a slot.
    pub(super) fn has(&self, slot: u64) -> bool {
        self.slots.contains_key(&slot)
    }

    /// A record names these blocks of a slot.
    pub(super) fn add(&mut self, slot: u64, blocks: u16, record: u64) {
        self.recorded += u64::from(blocks.count_ones());
        let known = self.slots.entry(slot).or_default();
        if known.newer.last < self.begun {
            known.older = Recorded { blocks: known.blocks(), last: known.newer.last };
            known.newer.blocks = 0;
        }
        known.older.blocks &= !blocks;
        known.newer = Recorded { blocks: known.newer.blocks | blocks, last: record };
    }

    /// A record was not written: this is known of its slot again.
    pub(super) fn take_back(&mut self, slot: u64, before: Option<Known>) {
        match before {
            Some(before) => self.slots.insert(slot, before),
            None => self.slots.remove(&slot),
        };
    }

    /// The last record of a slot got its number.
    pub(super) fn number(&mut self, slot: u64, record: u64) {
        if let Some(known) = self.slots.get_mut(&slot) {
            known.newer.last = record;
        }
    }

    /// These blocks of a slot hold nothing any more.
    pub(super) fn drop_blocks(&mut self, slot: u64, blocks: u16) {
        if let Some(known) = self.slots.get_mut(&slot) {
            known.older.blocks &= !blocks;
            known.newer.blocks &= !blocks;
        }
    }

    /// A slot holds nothing any more.
    pub(super) fn remove(&mut self, slot: u64) {
        self.slots.remove(&slot);
    }

    /// A sync begins that covers the records before this number.
    pub(super) fn begin(&mut self, upto: u64) {
        self.begun = self.begun.max(upto);
    }

    /// Whether a commit of the records before this number covers any.
    pub(super) fn any_before(&self, upto: u64) -> bool {
        let before = |known: &Known| {
            known.newer.last < upto || known.older.blocks != 0 && known.older.last < upto
        };
        self.slots.values().any(before)
    }

    /// The records before this number are committed.
    pub(super) fn committed(&mut self, upto: u64) {
        let mut left = 0;
        self.slots.retain(|_, known| {
            if known.older.last < upto {
                known.older.blocks = 0;
            }
            let stays = known.newer.last >= upto;
            if stays {
                left += u64::from(known.blocks().count_ones());
            }
            stays
        });
        self.recorded = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Uncommitted {
        fn blocks_of(&self, slot: u64) -> u16 {
            self.of(slot).map_or(0, Known::blocks)
        }
    }

    #[test]
    fn what_was_recorded_bounds_what_is_uncommitted() {
        let mut known = Uncommitted::default();
        known.add(7, 0b11, 2);
        known.add(8, 0b1, 3);
        known.add(7, 0b110, u64::MAX);
        assert_eq!((known.recorded(), known.blocks_of(7)), (5, 0b111));
        known.drop_blocks(7, 0b101);
        known.drop_blocks(9, 0b1);
        assert_eq!(known.blocks_of(7), 0b10);
        assert!(known.any_before(4) && !known.any_before(3));
        known.number(7, 5);
        known.committed(5);
        assert_eq!((known.recorded(), known.has(7), known.has(8)), (1, true, false));
        let before = known.of(7);
        known.add(9, 0b1, 6);
        known.add(7, 0b100, u64::MAX);
        known.take_back(9, None);
        known.take_back(7, before);
        assert_eq!((known.has(9), known.of(7)), (false, before));
        known.remove(7);
        known.committed(9);
        assert_eq!((known.recorded(), known.has(7)), (0, false));
    }

    /// Hosts write to all slots all the time: a commit that covered whole slots alone would end none.
    #[test]
    fn a_commit_covers_what_was_not_recorded_again_since_its_sync_began() {
        let mut known = Uncommitted::default();
        known.add(7, 0b1111, 1);
        known.begin(2);
        known.add(7, 0b0011, 2);
        known.add(7, 0b1_0000, 3);
        assert!(known.any_before(2));
        known.committed(2);
        assert_eq!((known.blocks_of(7), known.recorded()), (0b1_0011, 3));
        // One that began and failed covers nothing, nor is anything forgotten.
        known.begin(4);
        known.add(7, 0b0001, 4);
        known.begin(5);
        known.add(7, 0b1_0000, 5);
        assert_eq!(known.blocks_of(7), 0b1_0011);
        known.committed(4);
        assert_eq!(known.blocks_of(7), 0b1_0011);
        known.committed(5);
        assert_eq!(known.blocks_of(7), 0b1_0000);
        known.committed(6);
        assert!(!known.has(7));
    }
}
