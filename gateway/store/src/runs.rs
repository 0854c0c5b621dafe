//! Turning masks of blocks into runs, the same way in every store.
//!
//! Invariant: what comes out is in order, never empty, and neighbours of one kind are one run.

use block::{
    BLOCK_BYTES, BlockRange, BlockSet, Extent, Run, RunKind, SLOT_BYTES, Segment, Segments,
};

const BLOCKS_PER_CHUNK: u64 = SLOT_BYTES / BLOCK_BYTES;

/// Appends zeroes to what was read.
pub(crate) fn push_zero(out: &mut Segments, len: u64) {
    match out.last_mut() {
        Some(Segment::Zero(before)) => *before += len,
        _ => out.push(Segment::Zero(len)),
    }
}

/// The parts of a range that do not fill their block: none, one or two.
pub(crate) fn edges(extent: Extent) -> impl Iterator<Item = Extent> {
    let whole = extent.whole_blocks();
    let cuts = if whole.is_empty() {
        // Both ends may lie in different blocks although no block is covered whole.
        let middle = extent.offset().next_multiple_of(BLOCK_BYTES).min(extent.end());
        [(extent.offset(), middle), (middle, extent.end())]
    } else {
        [(extent.offset(), whole.first() * BLOCK_BYTES), (whole.end() * BLOCK_BYTES, extent.end())]
    };
    cuts.into_iter().filter_map(|(from, to)| Extent::new(from, to.saturating_sub(from)).ok())
}

/// The runs of set bits of a mask, as block numbers inside the chunk.
pub(crate) fn mask_runs(mask: u16) -> impl Iterator<Item = BlockRange> {
    let mut rest = u32::from(mask);
    let mut at = 0u32;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let skip = rest.trailing_zeros();
        let ones = (rest >> skip).trailing_ones();
        let first = at + skip;
        at = first + ones;
        rest = rest.checked_shr(skip + ones).unwrap_or(0);
        Some(BlockRange::new(u64::from(first), u64::from(at)))
    })
}

/// Collects the layout of an extent from the data runs in it.
pub(crate) struct Runs {
    extent: Extent,
    limit: usize,
    /// First byte that no run covers yet.
    at: u64,
    runs: Vec<Run>,
}

impl Runs {
    pub(crate) fn new(extent: Extent, limit: usize) -> Self {
        Self { extent, limit: limit.max(1), at: extent.offset(), runs: Vec::new() }
    }

    /// Takes the next blocks that hold data, behind all given before; `false` when no more are
    /// wanted.
    pub(crate) fn data(&mut self, blocks: BlockRange) -> bool {
        let Some(part) = blocks.extent().and_then(|e| e.intersection(self.extent)) else {
            return blocks.first() * BLOCK_BYTES < self.extent.end();
        };
        self.push(part.offset(), RunKind::Hole) && self.push(part.end(), RunKind::Data)
    }

    /// What was collected; the rest of the extent is a hole.
    pub(crate) fn finish(mut self) -> Vec<Run> {
        if self.runs.len() < self.limit {
            self.push(self.extent.end(), RunKind::Hole);
        }
        self.runs
    }

    fn push(&mut self, end: u64, kind: RunKind) -> bool {
        if end <= self.at {
            return true;
        }
        let len = end - self.at;
        let full = self.runs.len() >= self.limit;
        match self.runs.last_mut() {
            Some(last) if last.kind == kind => last.len += len,
            _ if full => return false,
            _ => self.runs.push(Run { len, kind }),
        }
        self.at = end;
        true
    }
}

/// Collects the mapped blocks from one block on.
pub(crate) struct Mapped {
    from: u64,
    limit: usize,
    set: BlockSet,
}

impl Mapped {
    pub(crate) fn new(from: u64, limit: usize) -> Self {
        Self { from, limit, set: Vec::new() }
    }

    /// Takes the next chunk; `false` when no more are wanted.
    pub(crate) fn chunk(&mut self, index: u64, mask: u16) -> bool {
        let base = index * BLOCKS_PER_CHUNK;
        mask_runs(mask).all(|run| self.blocks(base + run.first(), base + run.end()))
    }

    /// Takes the next blocks; `false` when no more are wanted.
    pub(crate) fn blocks(&mut self, first: u64, end: u64) -> bool {
        let first = first.max(self.from);
        if first >= end {
            return true;
        }
        if let Some(last) = self.set.last_mut()
            && last.end() == first
        {
            *last = BlockRange::new(last.first(), end);
            return true;
        }
        if self.set.len() >= self.limit {
            return false;
        }
        self.set.push(BlockRange::new(first, end));
        true
    }

    pub(crate) fn finish(self) -> BlockSet {
        self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_masks() {
        let runs: Vec<_> = mask_runs(0b1000_0000_0110_0001).map(|r| (r.first(), r.end())).collect();
        assert_eq!(runs, [(0, 1), (5, 7), (15, 16)]);
        assert_eq!(mask_runs(u16::MAX).count(), 1);
        assert_eq!(mask_runs(0).count(), 0);
    }

    #[test]
    fn finds_both_edges() {
        let all = |o, l| {
            edges(Extent::new(o, l).unwrap()).map(|e| (e.offset(), e.len())).collect::<Vec<_>>()
        };
        assert_eq!(all(0, 8192), []);
        assert_eq!(all(10, 20), [(10, 20)]);
        assert_eq!(all(4000, 200), [(4000, 96), (4096, 104)]);
        assert_eq!(all(4000, 8192), [(4000, 96), (8192, 4000)]);
    }
}
