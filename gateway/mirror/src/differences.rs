//! What a mirror may lack of one volume, for people: as few ranges as they can read.
//!
//! Invariant: every block in which the two may differ lies in a range that is listed, and the
//! number of bytes is exact, however much the ranges were merged.

use block::{BlockRange, BlockSet, Generation, VolumeId};

use crate::dirty::DirtyMap;

/// Of the largest volume.
const BLOCKS_MAX: u64 = block::VOLUME_BYTES_MAX / block::BLOCK_BYTES;

/// Where a mirror may differ from one volume here. It can leave the thread of its group, so that a
/// long list is made where no host waits.
#[derive(Clone, Debug)]
pub struct Differences {
    volume: VolumeId,
    map: DirtyMap,
    base: Option<Generation>,
}

/// The blocks of [`Differences`], in so many ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// They, in order.
    pub blocks: BlockSet,
    /// Whether blocks between two ranges that do not differ were taken in.
    pub are_merged: bool,
}

impl Differences {
    pub(crate) const fn new(volume: VolumeId, map: DirtyMap, base: Option<Generation>) -> Self {
        Self { volume, map, base }
    }

    /// Of which volume.
    #[must_use]
    pub const fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Bytes that may differ.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.map.bytes()
    }

    /// The history that the two have in common, as far as it is known here: what can differ is what
    /// was written since, and it is listed. `None`: anything may, and only a full copy helps.
    #[must_use]
    pub const fn base(&self) -> Option<Generation> {
        self.base
    }

    /// In at most `most` ranges: those with the smallest gaps between them are merged.
    #[must_use]
    pub fn ranges(&self, most: usize) -> Ranges {
        let most = most.max(1);
        // Twice as many are kept as are wanted, so that a pass over them is rare.
        let room = most.saturating_mul(2);
        let (mut blocks, mut gap, mut from) = (Vec::new(), 0, 0);
        while let Some(run) = self.map.next_run(from, BLOCKS_MAX) {
            from = run.end();
            push(&mut blocks, run, gap);
            while blocks.len() > room {
                gap = wider(&blocks, gap);
                blocks = joined(&blocks, gap);
            }
        }
        while blocks.len() > most {
            gap = wider(&blocks, gap);
            blocks = joined(&blocks, gap);
        }
        Ranges { blocks, are_merged: gap > 0 }
    }
}

/// Adds a range, to the last one if no more than `gap` blocks lie between them.
fn push(blocks: &mut BlockSet, range: BlockRange, gap: u64) {
    match blocks.last_mut() {
        Some(last) if range.first() - last.end() <= gap => {
            *last = BlockRange::new(last.first(), range.end());
        }
        Some(_) | None => blocks.push(range),
    }
}

/// The next gap to close: it doubles, and is as long as the shortest one at least, so that a pass
/// never joins nothing.
fn wider(blocks: &[BlockRange], gap: u64) -> u64 {
    let gaps = blocks.windows(2).map(|pair| pair[1].first() - pair[0].end());
    gaps.min().unwrap_or(1).max(gap.saturating_mul(2)).max(1)
}

fn joined(blocks: &[BlockRange], gap: u64) -> BlockSet {
    let mut fewer = Vec::new();
    for range in blocks {
        push(&mut fewer, *range, gap);
    }
    fewer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(ranges: &[(u64, u64)]) -> Differences {
        let mut map = DirtyMap::default();
        for (first, end) in ranges {
            map.insert(BlockRange::new(*first, *end));
        }
        Differences::new(VolumeId::of(1), map, None)
    }

    #[test]
    fn few_ranges_are_told_as_they_are() {
        let differences = of(&[(0, 2), (5, 6), (900, 901)]);
        let told = differences.ranges(3);
        assert!(!told.are_merged);
        assert_eq!(told.blocks.len(), 3);
        assert_eq!(differences.bytes(), 4 * block::BLOCK_BYTES);
        let fewer = differences.ranges(2);
        assert!(fewer.are_merged);
        assert_eq!(fewer.blocks, [BlockRange::new(0, 6), BlockRange::new(900, 901)]);
        assert_eq!(of(&[]).ranges(1).blocks, []);
    }

    proptest! {
        #[test]
        fn every_block_is_in_a_range_and_there_are_not_too_many(
            blocks in prop::collection::vec(0u64..5_000, 0..300), most in 1usize..20,
        ) {
            let ranges: Vec<_> = blocks.iter().map(|block| (*block, block + 1)).collect();
            let told = of(&ranges).ranges(most);
            prop_assert!(told.blocks.len() <= most);
            for block in blocks {
                let holds = |range: &BlockRange| range.first() <= block && block < range.end();
                prop_assert!(told.blocks.iter().any(holds));
            }
            prop_assert!(told.blocks.windows(2).all(|pair| pair[0].end() < pair[1].first()));
        }
    }
}
