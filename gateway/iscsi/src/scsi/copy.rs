//! EXTENDED COPY within one unit (SPC-4 §6.3): what its parameter list says, and what is reported
//! of it afterwards.
//!
//! Invariant: a list names nothing but this unit, by its own name, or it is refused before the
//! first block is copied.

use super::cdb::Blocks;
use super::sense::{self, Sense};

/// Target descriptors of one list.
pub(super) const TARGETS_MAX: u16 = 8;
/// Segments of one list.
pub(super) const SEGMENTS_MAX: u16 = 8;
/// Bytes of both, together.
pub(super) const DESCRIPTORS_BYTES_MAX: u32 = TARGETS_MAX as u32 * 32 + SEGMENTS_MAX as u32 * 28;
const _: () = assert!(TARGET_BYTES == 32 && SEGMENT_BYTES == 28);
/// Copies of one nexus of which the end is remembered.
pub(super) const REMEMBERED_MAX: usize = 16;

const HEADER_BYTES: usize = 16;
const TARGET_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 28;
const IDENTIFICATION: u8 = 0xe4;
const BLOCK_TO_BLOCK: u8 = 0x02;

/// What a parameter list asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Copy {
    /// The identifier of the list, if its end shall be remembered.
    pub(super) list: Option<u8>,
    /// From where to where; both of the same count.
    pub(super) segments: Vec<(Blocks, Blocks)>,
}

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) list: u8,
    pub(super) segments: u16,
    pub(super) bytes: u64,
    pub(super) well: bool,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Reads a parameter list; `name` is how the unit is called.
///
/// # Errors
/// As SPC-4 §5.16.7 tells them.
pub(super) fn parse(list: &[u8], name: &[u8; 8]) -> Result<Copy, Sense> {
    if list.is_empty() {
        return Ok(Copy::default());
    }
    let Some((head, rest)) = list.split_first_chunk::<HEADER_BYTES>() else {
        return Err(sense::LIST_LENGTH);
    };
    let targets = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let (segments, inline) = (number(&head[8..12]), number(&head[12..16]));
    let Ok(segments) = usize::try_from(segments) else {
        return Err(sense::LIST_LENGTH);
    };
    let all = targets.saturating_add(segments);
    if all > rest.len() || all > DESCRIPTORS_BYTES_MAX as usize {
        return Err(sense::LIST_LENGTH);
    }
    if inline != 0 {
        return Err(sense::TOO_MUCH_INLINE.list(12));
    }
    let (targets, rest) = rest.split_at(targets);
    let targets = check_targets(targets, name)?;
    let segments = read_segments(&rest[..segments], targets)?;
    // 3 says that nothing of it shall be remembered.
    let list = (head[1] >> 3 & 3 != 3).then_some(head[0]);
    Ok(Copy { list, segments })
}

/// How many targets there are, each of which is this unit.
fn check_targets(list: &[u8], name: &[u8; 8]) -> Result<usize, Sense> {
    let (targets, rest) = list.as_chunks::<TARGET_BYTES>();
    if targets.len() > usize::from(TARGETS_MAX) {
        return Err(sense::TOO_MANY_TARGETS.list(2));
    }
    if !rest.is_empty() {
        return Err(sense::LIST_LENGTH);
    }
    for target in targets {
        if target[0] != IDENTIFICATION {
            return Err(sense::UNSUPPORTED_TARGET.list(16));
        }
        // The type of the unit's identifier is heeded only by descriptors that have one.
        let nobody = target[1] & 0x20 != 0;
        // Our NAA name: binary, of the unit, eight bytes.
        let ours = target[4] & 0x0f == 1
            && target[5] & 0x3f == 3
            && target[7] == 8
            && target[8..16] == *name;
        if nobody || !ours {
            return Err(sense::UNREACHABLE_TARGET);
        }
    }
    Ok(targets.len())
}

fn read_segments(list: &[u8], targets: usize) -> Result<Vec<(Blocks, Blocks)>, Sense> {
    let mut out = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        if rest[0] != BLOCK_TO_BLOCK {
            return Err(sense::UNSUPPORTED_SEGMENT);
        }
        let Some((segment, behind)) = rest.split_first_chunk::<SEGMENT_BYTES>() else {
            return Err(sense::LIST_LENGTH);
        };
        if out.len() == usize::from(SEGMENTS_MAX) {
            return Err(sense::TOO_MANY_SEGMENTS.list(8));
        }
        let target = |at: usize| usize::from(u16::from_be_bytes([segment[at], segment[at + 1]]));
        if target(4) >= targets || target(6) >= targets {
            return Err(sense::UNREACHABLE_TARGET);
        }
        let count = number(&segment[10..12]);
        let blocks = |at: usize| Blocks { lba: number(&segment[at..at + 8]), count, lba_at: 0 };
        out.push((blocks(12), blocks(20)));
        rest = behind;
    }
    Ok(out)
}

/// RECEIVE COPY RESULTS, COPY STATUS.
pub(super) fn status(ended: &Ended) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 8, if ended.well { 1 } else { 2 }];
    out.extend_from_slice(&ended.segments.to_be_bytes());
    // In bytes: no list copies more than 256 MiB.
    out.push(0);
    out.extend_from_slice(&u32::try_from(ended.bytes).unwrap_or(u32::MAX).to_be_bytes());
    out
}

/// RECEIVE COPY RESULTS, OPERATING PARAMETERS.
pub(super) fn parameters() -> Vec<u8> {
    let mut out = vec![0; 44];
    out[8..10].copy_from_slice(&TARGETS_MAX.to_be_bytes());
    out[10..12].copy_from_slice(&SEGMENTS_MAX.to_be_bytes());
    out[12..16].copy_from_slice(&DESCRIPTORS_BYTES_MAX.to_be_bytes());
    // A segment counts its blocks in 16 bits.
    out[16..20].copy_from_slice(&(0xffffu32 * super::limits::BLOCK_BYTES).to_be_bytes());
    out[35] = 1; // Copies at once, of all nexuses,
    out[36] = 1; // and of one.
    out[37] = 9; // In grains of 512 bytes.
    out[43] = 2;
    out.extend_from_slice(&[BLOCK_TO_BLOCK, IDENTIFICATION]);
    out[3] = u8::try_from(out.len() - 4).unwrap_or(0);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: [u8; 8] = [0x31, 2, 3, 4, 5, 6, 7, 8];

    fn list(targets: usize, segments: usize) -> Vec<u8> {
        let mut out = vec![7, 0];
        out.extend(u16::try_from(32 * targets).unwrap().to_be_bytes());
        out.extend([0; 4]);
        out.extend(u32::try_from(28 * segments).unwrap().to_be_bytes());
        out.extend([0; 4]);
        for _ in 0..targets {
            let at = out.len();
            out.extend([IDENTIFICATION, 0, 0, 0, 1, 3, 0, 8]);
            out.extend(NAME);
            out.resize(at + 32, 0);
        }
        for _ in 0..segments {
            out.extend([BLOCK_TO_BLOCK, 0, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 5]);
            out.extend(9u64.to_be_bytes());
            out.extend(90u64.to_be_bytes());
        }
        out
    }

    #[test]
    fn a_list_names_this_unit_alone() {
        let copy = parse(&list(1, 1), &NAME).unwrap();
        assert_eq!((copy.list, copy.segments.len()), (Some(7), 1));
        assert_eq!((copy.segments[0].0.lba, copy.segments[0].1.lba), (9, 90));
        assert_eq!(parse(&list(1, 1), &[0; 8]), Err(sense::UNREACHABLE_TARGET));
        assert_eq!(parse(&list(9, 1), &NAME), Err(sense::TOO_MANY_TARGETS.list(2)));
        assert_eq!(parse(&list(1, 9), &NAME), Err(sense::TOO_MANY_SEGMENTS.list(8)));
        assert_eq!(parse(&list(9, 9), &NAME), Err(sense::LIST_LENGTH));
        assert_eq!(parse(&list(0, 1), &NAME), Err(sense::UNREACHABLE_TARGET));
        let whole = list(1, 1);
        assert_eq!(parse(&whole[..whole.len() - 1], &NAME), Err(sense::LIST_LENGTH));
    }

    proptest! {
        #[test]
        fn no_list_panics(cut in 0usize..700, flips in prop::collection::vec((0usize..700, any::<u8>()), 0..6)) {
            let mut bytes = list(8, 8);
            for (at, byte) in flips {
                let len = bytes.len();
                bytes[at % len] = byte;
            }
            bytes.truncate(cut);
            drop(parse(&bytes, &NAME));
        }
    }
}
