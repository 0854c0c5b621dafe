//! Which blocks of one volume a mirror may lack.
//!
//! Invariant (rule 9): a dirty map only forgets a block when the mirror holds it; it outlives the
//! loss of the link, a restart, a failover.

use std::collections::BTreeMap;

use block::{BLOCK_BYTES, BlockRange, BlockSet};
use bytes::Bytes;
use roaring::RoaringBitmap;

const MAGIC: [u8; 4] = *b"TwD1";

/// A set of blocks, small where it is sparse or made of runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DirtyMap {
    /// By the upper half of the block number: 16 TiB each.
    parts: BTreeMap<u32, RoaringBitmap>,
}

/// A persisted map that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("dirty map is damaged")]
pub(crate) struct DirtyMapDamaged;

impl DirtyMap {
    pub(crate) fn insert(&mut self, range: BlockRange) {
        for (part, first, last) in parts(range) {
            self.parts.entry(part).or_default().insert_range(first..=last);
        }
    }

    pub(crate) fn remove(&mut self, range: BlockRange) {
        for (part, first, last) in parts(range) {
            if let Some(map) = self.parts.get_mut(&part) {
                map.remove_range(first..=last);
                if map.is_empty() {
                    self.parts.remove(&part);
                }
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.parts.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.parts.values().map(RoaringBitmap::len).sum::<u64>() * BLOCK_BYTES
    }

    /// The first run of dirty blocks at or behind `from`, at most `limit` blocks of it.
    pub(crate) fn next_run(&self, from: u64, limit: u64) -> Option<BlockRange> {
        let (part, low) = split(from);
        for (key, map) in self.parts.range(part..) {
            let start = if *key == part { low } else { 0 };
            if let Some(run) = map.range(start..).next_range() {
                let first = join(*key, *run.start());
                let end = join(*key, *run.end()) + 1;
                return Some(BlockRange::new(first, end.min(first + limit)));
            }
        }
        None
    }

    /// All runs, in order.
    pub(crate) fn runs(&self) -> BlockSet {
        let mut runs = Vec::new();
        for (key, map) in &self.parts {
            let mut iter = map.iter();
            while let Some(run) = iter.next_range() {
                runs.push(BlockRange::new(join(*key, *run.start()), join(*key, *run.end()) + 1));
            }
        }
        runs
    }

    /// As it is kept in the ledger: magic, parts, CRC32C.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = MAGIC.to_vec();
        let count = u32::try_from(self.parts.len()).expect("1 PiB has 64 parts");
        out.extend(count.to_le_bytes());
        for (part, map) in &self.parts {
            let mut map = map.clone();
            map.optimize();
            out.extend(part.to_le_bytes());
            let len = u64::try_from(map.serialized_size()).expect("a usize fits 64 bits");
            out.extend(len.to_le_bytes());
            map.serialize_into(&mut out).expect("a vector takes every byte");
        }
        let crc = crate::record::crc32c(&out);
        out.extend(crc.to_le_bytes());
        Bytes::from(out)
    }

    /// Reads what [`Self::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DirtyMapDamaged> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(DirtyMapDamaged)?;
        if crate::record::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(DirtyMapDamaged);
        }
        let rest = body.strip_prefix(&MAGIC).ok_or(DirtyMapDamaged)?;
        let (count, mut rest) = rest.split_first_chunk::<4>().ok_or(DirtyMapDamaged)?;
        let mut parts = BTreeMap::new();
        for _ in 0..u32::from_le_bytes(*count) {
            let (part, tail) = rest.split_first_chunk::<4>().ok_or(DirtyMapDamaged)?;
            let (len, tail) = tail.split_first_chunk::<8>().ok_or(DirtyMapDamaged)?;
            let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
            let (map, tail) = tail.split_at_checked(len).ok_or(DirtyMapDamaged)?;
            let Ok(map) = RoaringBitmap::deserialize_from(map) else {
                return Err(DirtyMapDamaged);
            };
            parts.insert(u32::from_le_bytes(*part), map);
            rest = tail;
        }
        Ok(Self { parts })
    }
}

fn split(block: u64) -> (u32, u32) {
    let part = u32::try_from(block >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(block & u64::from(u32::MAX)).expect("masked to 32 bits");
    (part, low)
}

fn join(part: u32, low: u32) -> u64 {
    u64::from(part) << 32 | u64::from(low)
}

/// A range, cut where the upper half of the block number changes.
fn parts(range: BlockRange) -> impl Iterator<Item = (u32, u32, u32)> {
    let (first_part, first_low) = split(range.first());
    let (last_part, last_low) = split(range.end().saturating_sub(1));
    let any = !range.is_empty();
    (first_part..=last_part).filter(move |_| any).map(move |part| {
        let first = if part == first_part { first_low } else { 0 };
        let last = if part == last_part { last_low } else { u32::MAX };
        (part, first, last)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_do_not_end_where_a_part_ends() {
        let mut map = DirtyMap::default();
        let border = 1u64 << 32;
        map.insert(BlockRange::new(border - 2, border + 2));
        assert_eq!(map.bytes(), 4 * BLOCK_BYTES);
        assert_eq!(map.next_run(border - 1, 9), Some(BlockRange::new(border - 1, border)));
        assert_eq!(map.next_run(border, 1), Some(BlockRange::new(border, border + 1)));
        map.remove(BlockRange::new(border - 2, border + 2));
        assert!(map.is_empty());
    }

    #[test]
    fn a_damaged_map_is_refused() {
        let mut map = DirtyMap::default();
        map.insert(BlockRange::new(3, 9));
        let mut bytes = map.encode().to_vec();
        assert_eq!(DirtyMap::decode(&bytes).unwrap(), map);
        bytes[9] ^= 1;
        assert!(DirtyMap::decode(&bytes).is_err());
        assert!(DirtyMap::decode(b"").is_err());
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(ops in prop::collection::vec((any::<bool>(), 0u64..200, 0u64..30), 0..40)) {
            let (mut map, mut model) = (DirtyMap::default(), BTreeSet::new());
            for (insert, first, len) in ops {
                let range = BlockRange::new(first, first + len);
                if insert {
                    map.insert(range);
                    model.extend(first..first + len);
                } else {
                    map.remove(range);
                    model.retain(|b| !(first..first + len).contains(b));
                }
            }
            let listed: Vec<u64> = map.runs().iter().flat_map(|r| r.first()..r.end()).collect();
            prop_assert_eq!(listed, model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(DirtyMap::decode(&map.encode()).unwrap(), map);
        }
    }
}
