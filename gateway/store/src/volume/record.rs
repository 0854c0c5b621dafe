//! The records of the map's log: what changed since the last checkpoint.
//!
//! Invariant: a record's checksum covers the generation of its log and its own number, so a record
//! of another log, or one that stands elsewhere, is not taken for it.

use block::SnapshotId;

use crate::crc::crc32c;

use super::page::BLOCKS;

/// Bytes of every record.
pub(crate) const RECORD_BYTES: usize = 96;
const VERSION: u8 = 1;

/// One change of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The first record of every log: the number that it has.
    Header {
        /// The number of this record among all that this volume ever wrote.
        base: u64,
    },
    /// Blocks of a chunk lie in a slot. Until a [`Record::Commit`] covers it, this holds only for
    /// blocks whose content has the checksum given here.
    Map {
        /// The layer.
        layer: u32,
        /// The chunk.
        chunk: u64,
        /// Where it lies.
        slot: u64,
        /// Which blocks.
        fresh: u16,
        /// Their checksums.
        sums: [u32; BLOCKS],
    },
    /// Blocks of a chunk are given back.
    Drop {
        /// The layer.
        layer: u32,
        /// The chunk.
        chunk: u64,
        /// Which blocks.
        mask: u16,
        /// Which of them hide what lies in layers below.
        zero: u16,
    },
    /// All blocks of a page are given back.
    DropPage {
        /// The layer.
        layer: u32,
        /// The page.
        page: u32,
    },
    /// The volume has this many bytes.
    Resize {
        /// The size.
        bytes: u64,
    },
    /// A new layer lies on top of the others.
    Seal {
        /// The new layer.
        layer: u32,
    },
    /// The top layer is called this from now on, and a new layer lies on it.
    Snapshot {
        /// The new layer.
        layer: u32,
        /// The name.
        id: SnapshotId,
    },
    /// No layer is called this any more.
    Unname {
        /// The name.
        id: SnapshotId,
    },
    /// A new layer on that of this snapshot is the top one.
    RollBack {
        /// The new layer.
        layer: u32,
        /// The snapshot.
        id: SnapshotId,
    },
    /// What a layer has of a chunk is merged into what a neighbour has of it. Blocks that were
    /// copied make it hold only where a [`Record::Commit`] covers it or all of them have the
    /// checksums given here.
    Fold {
        /// The layer that gives.
        from: u32,
        /// The layer that takes.
        into: u32,
        /// The chunk.
        chunk: u64,
        /// The slot that blocks were copied to.
        slot: u64,
        /// Which blocks were.
        copied: u16,
        /// Their checksums.
        sums: [u32; BLOCKS],
    },
    /// A layer is empty and goes; its parent takes its place.
    DropLayer {
        /// The layer.
        layer: u32,
    },
    /// All that the origin of the volume has is in the lowest layer, durably: it is not needed.
    Filled,
    /// The data of all records before this number is on stable storage.
    Commit {
        /// The first number that is not covered.
        upto: u64,
    },
}

// === impl Record ===

impl Record {
    /// Appends the record, as number `index` of log `generation`.
    pub(crate) fn encode(&self, generation: u64, index: u64, out: &mut Vec<u8>) {
        let start = out.len();
        let none = [0; BLOCKS];
        let halves = |id: &SnapshotId| id.uuid().as_u64_pair();
        let (kind, a, b, layer, x, y, sums) = match self {
            Self::Header { base } => (1u8, 0, 0u32, 0, *base, 0, &none),
            Self::Map { layer, chunk, slot, fresh, sums } => {
                (2, *fresh, 0, *layer, *chunk, *slot, sums)
            }
            Self::Drop { layer, chunk, mask, zero } => {
                (3, *mask, u32::from(*zero), *layer, *chunk, 0, &none)
            }
            Self::DropPage { layer, page } => (4, 0, 0, *layer, u64::from(*page), 0, &none),
            Self::Resize { bytes } => (5, 0, 0, 0, *bytes, 0, &none),
            Self::Seal { layer } => (6, 0, 0, *layer, 0, 0, &none),
            Self::Commit { upto } => (7, 0, 0, 0, *upto, 0, &none),
            Self::Snapshot { layer, id } => (8, 0, 0, *layer, halves(id).0, halves(id).1, &none),
            Self::Unname { id } => (9, 0, 0, 0, halves(id).0, halves(id).1, &none),
            Self::RollBack { layer, id } => (10, 0, 0, *layer, halves(id).0, halves(id).1, &none),
            Self::Fold { from, into, chunk, slot, copied, sums } => {
                (11, *copied, *into, *from, *chunk, *slot, sums)
            }
            Self::DropLayer { layer } => (12, 0, 0, *layer, 0, 0, &none),
            Self::Filled => (13, 0, 0, 0, 0, 0, &none),
        };
        out.extend_from_slice(&[kind, VERSION]);
        out.extend_from_slice(&a.to_le_bytes());
        out.extend_from_slice(&b.to_le_bytes());
        out.extend_from_slice(&layer.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&x.to_le_bytes());
        out.extend_from_slice(&y.to_le_bytes());
        for sum in sums {
            out.extend_from_slice(&sum.to_le_bytes());
        }
        let sum = checksum(generation, index, &out[start..]);
        out[start + 12..start + 16].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads record `index` of log `generation`; `None` for anything that is not exactly it.
    pub(crate) fn decode(data: &[u8], generation: u64, index: u64) -> Option<Self> {
        let mut bytes: [u8; RECORD_BYTES] = data.get(..RECORD_BYTES)?.try_into().ok()?;
        let stored = u32_at(&bytes, 12)?;
        bytes[12..16].fill(0);
        if stored != checksum(generation, index, &bytes) || bytes[1] != VERSION {
            return None;
        }
        let (a, b) = (u16_at(&bytes, 2)?, u16_at(&bytes, 4)?);
        let layer = u32_at(&bytes, 8)?;
        let (x, y) = (u64_at(&bytes, 16)?, u64_at(&bytes, 24)?);
        let id = SnapshotId::of(u128::from(x) << 64 | u128::from(y));
        Some(match bytes[0] {
            1 => Self::Header { base: x },
            2 => Self::Map { layer, chunk: x, slot: y, fresh: a, sums: sums_of(&bytes)? },
            3 => Self::Drop { layer, chunk: x, mask: a, zero: b },
            4 => Self::DropPage { layer, page: u32::try_from(x).ok()? },
            5 => Self::Resize { bytes: x },
            6 => Self::Seal { layer },
            7 => Self::Commit { upto: x },
            8 => Self::Snapshot { layer, id },
            9 => Self::Unname { id },
            10 => Self::RollBack { layer, id },
            11 => {
                let (into, sums) = (u32_at(&bytes, 4)?, sums_of(&bytes)?);
                Self::Fold { from: layer, into, chunk: x, slot: y, copied: a, sums }
            }
            12 => Self::DropLayer { layer },
            13 => Self::Filled,
            _ => return None,
        })
    }
}

fn sums_of(bytes: &[u8]) -> Option<[u32; BLOCKS]> {
    let mut sums = [0; BLOCKS];
    for (block, sum) in sums.iter_mut().enumerate() {
        *sum = u32_at(bytes, 32 + block * 4)?;
    }
    Some(sums)
}

pub(super) fn checksum(generation: u64, index: u64, record: &[u8]) -> u32 {
    let mut covered = [0; 16 + RECORD_BYTES];
    covered[..8].copy_from_slice(&generation.to_le_bytes());
    covered[8..16].copy_from_slice(&index.to_le_bytes());
    covered[16..16 + record.len()].copy_from_slice(record);
    crc32c(&covered)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Record> {
        let mut sums = [0; BLOCKS];
        sums[1] = 0xdead_beef;
        vec![
            Record::Header { base: 7 },
            Record::Map { layer: 1, chunk: 2, slot: 3, fresh: 2, sums },
            Record::Drop { layer: 1, chunk: 2, mask: 4, zero: 4 },
            Record::DropPage { layer: 1, page: 9 },
            Record::Resize { bytes: 1 << 30 },
            Record::Seal { layer: 2 },
            Record::Commit { upto: 13 },
            Record::Snapshot { layer: 3, id: SnapshotId::of(0x0102_0304_0506_0708_090a_0b0c) },
            Record::Unname { id: SnapshotId::of(u128::MAX - 1) },
            Record::RollBack { layer: 4, id: SnapshotId::of(7) },
            Record::Fold { from: 5, into: 0x1_0003, chunk: 6, slot: 8, copied: 2, sums },
            Record::DropLayer { layer: 5 },
            Record::Filled,
        ]
    }

    /// The first write to a place after a snapshot makes one.
    #[test]
    fn a_record_takes_no_memory_beside_the_list_that_it_is_in() {
        let (records, mut bytes) = (all(), Vec::new());
        let record = &records[1];
        record.encode(5, 8, &mut bytes);
        let (decoded, held) = testkit::heap::most(|| Record::decode(&bytes, 5, 8));
        assert_eq!((decoded.as_ref(), held), (Some(record), 0));
    }

    #[test]
    fn reads_the_bytes_of_version_1() {
        let mut bytes = Vec::new();
        all()[1].encode(5, 8, &mut bytes);
        assert_eq!(
            crate::hex(&bytes),
            "020102000000000001000000a80312c80200000000000000030000000000000000000000efbeadde"
                .to_owned()
                + &"00".repeat(56)
        );
    }

    /// The records that the release which brought snapshots wrote first.
    #[test]
    fn reads_the_bytes_of_snapshots() {
        let known = [
            "080100000000000003000000cb03c22904030201000000000c0b0a0908070605",
            "090100000000000000000000f3b39f39fffffffffffffffffeffffffffffffff",
            "0a0100000000000004000000c9fd80d2000000000000000007",
            "0b010200030001000500000082ebca470600000000000000080000000000000000000000efbeadde",
            "0c0100000000000005000000c86034e8",
        ];
        for (record, text) in all()[7..12].iter().zip(known) {
            let mut bytes = Vec::new();
            record.encode(5, 8, &mut bytes);
            assert_eq!(crate::hex(&bytes).trim_end_matches("00"), text, "{record:?}");
            let mut known = crate::unhex(text);
            known.resize(RECORD_BYTES, 0);
            assert_eq!(Record::decode(&known, 5, 8).as_ref(), Some(record));
        }
    }

    #[test]
    fn reads_the_bytes_of_the_end_of_filling() {
        let mut bytes = Vec::new();
        Record::Filled.encode(5, 8, &mut bytes);
        let known = "0d0100000000000000000000b0d8e937";
        assert_eq!(crate::hex(&bytes).trim_end_matches("00"), known);
        let mut known = crate::unhex(known);
        known.resize(RECORD_BYTES, 0);
        assert_eq!(Record::decode(&known, 5, 8), Some(Record::Filled));
    }

    #[test]
    fn finds_every_kind_again_and_only_where_it_was_written() {
        for record in all() {
            let mut bytes = Vec::new();
            record.encode(5, 8, &mut bytes);
            assert_eq!(bytes.len(), RECORD_BYTES);
            assert_eq!(Record::decode(&bytes, 5, 8), Some(record));
            assert_eq!(Record::decode(&bytes, 6, 8), None);
            assert_eq!(Record::decode(&bytes, 5, 9), None);
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Record::decode(&bad, 5, 8), None);
            }
        }
    }
}
