//! What is given back, and what lies where: the lists of UNMAP and GET LBA STATUS.
//!
//! Invariant: a list names at most [`UNMAP_RANGES_MAX`] ranges and [`UNMAP_BLOCKS_MAX`] blocks.

use block::{Extent, Run, RunKind};

use super::cdb::Blocks;
use super::limits::{BLOCK_BYTES, UNMAP_BLOCKS_MAX, UNMAP_RANGES_MAX};
use super::sense::{self, Sense};

/// The ranges of an UNMAP parameter list (SBC-3 §5.28.2). One that breaks off before its first
/// range has none.
///
/// # Errors
/// PARAMETER LIST LENGTH ERROR for a header that breaks off, INVALID FIELD IN PARAMETER LIST for
/// more than is offered.
pub(super) fn ranges(list: &[u8]) -> Result<Vec<Blocks>, Sense> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let Some(([_, _, high, low, ..], rest)) = list.split_first_chunk::<8>() else {
        return Err(sense::LIST_LENGTH);
    };
    let named = usize::from(u16::from_be_bytes([*high, *low]));
    let ranges = rest[..named.min(rest.len())].as_chunks::<16>().0;
    if ranges.len() > UNMAP_RANGES_MAX as usize {
        return Err(sense::INVALID_IN_LIST.list(2));
    }
    let ranges: Vec<Blocks> = ranges.iter().map(range).collect();
    let blocks: u64 = ranges.iter().map(|at| at.count).sum();
    if blocks > UNMAP_BLOCKS_MAX {
        return Err(sense::INVALID_IN_LIST.list(8));
    }
    Ok(ranges)
}

fn range(bytes: &[u8; 16]) -> Blocks {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Blocks { lba: number(&bytes[..8]), count: number(&bytes[8..12]), lba_at: 8 }
}

/// The answer of GET LBA STATUS: runs of mapped and deallocated blocks from the start of `extent`.
pub(super) fn status(extent: Extent, runs: &[Run]) -> Vec<u8> {
    let block = u64::from(BLOCK_BYTES);
    let mut out = vec![0; 8];
    let mut at = extent.offset();
    for run in runs {
        let provisioning = match run.kind {
            RunKind::Data => 0,
            RunKind::Hole => 1,
        };
        let mut blocks = run.len.min(extent.end().saturating_sub(at)) / block;
        let mut lba = at / block;
        // A descriptor counts in 32 bits.
        while blocks > 0 {
            let count = u32::try_from(blocks).unwrap_or(u32::MAX);
            out.extend_from_slice(&lba.to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
            out.extend_from_slice(&[provisioning, 0, 0, 0]);
            lba += u64::from(count);
            blocks -= u64::from(count);
        }
        at += run.len;
    }
    let len = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&len.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_that_breaks_off_is_refused_or_cut() {
        assert_eq!(ranges(&[]), Ok(Vec::new()));
        assert_eq!(ranges(&[0; 7]), Err(sense::LIST_LENGTH));
        let mut list = vec![0, 0, 0, 32, 0, 0, 0, 0];
        list.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, 0]);
        list.push(1);
        assert_eq!(ranges(&list), Ok(vec![Blocks { lba: 9, count: 3, lba_at: 8 }]));
    }

    #[test]
    fn a_long_run_takes_several_descriptors() {
        let extent = Extent::new(0, 1 << 50).unwrap();
        let out = status(extent, &[Run { len: 1 << 50, kind: RunKind::Hole }]);
        assert_eq!((out.len() - 8) / 16, 513);
        assert_eq!(out[20], 1);
    }

    proptest! {
        #[test]
        fn no_list_panics(list in prop::collection::vec(any::<u8>(), 0..100)) {
            drop(ranges(&list));
        }
    }
}
