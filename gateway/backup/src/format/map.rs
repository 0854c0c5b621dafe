//! Maps: for each run of blocks of one segment, where its content lies.
//!
//! A backup that changed little writes small maps, which lie upon those of its parent: the newest
//! map that says something about a block is right. A block that no map names is zero.
//!
//! Invariant: entries are in order, do not overlap, and a piece of a chunk lies inside the chunk.

use std::collections::HashMap;

use block::BlockRange;

use crate::codec::{Malformed, Reader, Writer};
use crate::id::{Attempt, BackupId, ChunkId, PackRef};
use crate::limits::{CHUNK_BLOCKS_MAX, MAP_ENTRIES_MAX, MAP_PACKS_MAX, PACK_BYTES_MAX};
use crate::limits::{SEGMENT_BLOCKS, VOLUME_BLOCKS_MAX};

/// Where a chunk lies and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) pack: PackRef,
    /// From the beginning of the pack, in bytes.
    pub(crate) offset: u32,
    /// As it lies there, in bytes.
    pub(crate) stored: u32,
    pub(crate) compressed: bool,
    /// Blocks of the whole chunk.
    pub(crate) blocks: u8,
    pub(crate) id: ChunkId,
}

/// What a run of blocks holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Zero,
    /// A part of a chunk, from this block of the chunk on.
    Chunk {
        place: Place,
        skip: u8,
    },
}

/// A run of blocks with one content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) span: Span,
    pub(crate) content: Content,
}

/// Blocks of a volume from `first` on, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) end: u64,
}

impl Span {
    pub(crate) const fn new(first: u64, end: u64) -> Self {
        Self { first, end }
    }

    pub(crate) const fn of(range: BlockRange) -> Self {
        Self { first: range.first(), end: range.end() }
    }

    pub(crate) const fn count(self) -> u64 {
        self.end - self.first
    }

    pub(crate) fn intersection(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), end: self.end.min(other.end) };
        (both.first < both.end).then_some(both)
    }
}

/// The blocks of a segment.
pub(crate) fn segment_span(segment: u32) -> Span {
    let first = u64::from(segment) * SEGMENT_BLOCKS;
    Span::new(first, first + SEGMENT_BLOCKS)
}

impl Entry {
    /// The part of it inside `span`, which overlaps it.
    pub(crate) fn cut(self, span: Span) -> Option<Self> {
        let both = self.span.intersection(span)?;
        let content = match self.content {
            Content::Zero => Content::Zero,
            Content::Chunk { place, skip } => {
                let further = u8::try_from(both.first - self.span.first).ok()?;
                Content::Chunk { place, skip: skip.checked_add(further)? }
            }
        };
        Some(Self { span: both, content })
    }

    /// The chunk, when this is all of it.
    pub(crate) fn whole_chunk(&self) -> Option<Place> {
        match self.content {
            Content::Chunk { place, skip: 0 } if u64::from(place.blocks) == self.span.count() => {
                Some(place)
            }
            Content::Chunk { .. } | Content::Zero => None,
        }
    }
}

/// One map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) entries: Vec<Entry>,
}

impl Map {
    /// Whether it speaks of no other segment than this.
    pub(crate) fn is_inside(&self, segment: u32) -> bool {
        let whole = segment_span(segment);
        let ends = self.entries.first().zip(self.entries.last());
        ends.is_none_or(|(first, last)| {
            first.span.first >= whole.first && last.span.end <= whole.end
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let mut numbers = HashMap::new();
        let mut packs = Vec::new();
        for entry in &self.entries {
            if let Content::Chunk { place, .. } = entry.content {
                numbers.entry(place.pack).or_insert_with(|| {
                    packs.push(place.pack);
                    packs.len() - 1
                });
            }
        }
        writer.length(packs.len());
        for pack in &packs {
            writer.uuid(pack.run.uuid());
            writer.uuid(pack.attempt.0);
            writer.raw(&pack.number.to_le_bytes());
        }
        writer.length(self.entries.len());
        let mut end = 0;
        let mut offset = 0_u32;
        for entry in &self.entries {
            writer.number(entry.span.first - end);
            end = entry.span.end;
            match entry.content {
                Content::Zero => writer.number(entry.span.count() << 1),
                Content::Chunk { place, skip } => {
                    writer.number(entry.span.count() << 1 | 1);
                    writer.length(numbers[&place.pack]);
                    writer.signed(i64::from(place.offset) - i64::from(offset));
                    offset = place.offset + place.stored;
                    writer.number(u64::from(place.stored) << 1 | u64::from(place.compressed));
                    writer.byte(place.blocks);
                    writer.byte(skip);
                    writer.raw(&place.id.0);
                }
            }
        }
        writer.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let map = Self::read(&mut reader)?;
        reader.end()?;
        Ok(map)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut packs = Vec::new();
        for _ in 0..reader.count(MAP_PACKS_MAX)? {
            let run = BackupId::from_uuid(reader.uuid()?);
            let attempt = Attempt(reader.uuid()?);
            packs.push(PackRef { run, attempt, number: u32::from_le_bytes(reader.array()?) });
        }
        let mut entries = Vec::new();
        let (mut end, mut offset) = (0_u64, 0_i64);
        for _ in 0..reader.count(MAP_ENTRIES_MAX)? {
            let first = end + reader.at_most(VOLUME_BLOCKS_MAX)?;
            let tagged = reader.at_most(VOLUME_BLOCKS_MAX << 1 | 1)?;
            let count = tagged >> 1;
            end = first + count;
            if count == 0 || end > VOLUME_BLOCKS_MAX {
                return Err(Malformed("a run of blocks is empty or too long"));
            }
            let content = if tagged & 1 == 0 {
                Content::Zero
            } else {
                read_chunk(reader, &packs, &mut offset, count)?
            };
            entries.push(Entry { span: Span { first, end }, content });
        }
        Ok(Self { entries })
    }
}

fn read_chunk(
    reader: &mut Reader<'_>,
    packs: &[PackRef],
    offset: &mut i64,
    count: u64,
) -> Result<Content, Malformed> {
    let number = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
    let pack = *packs.get(number).ok_or(Malformed("a pack is not in its table"))?;
    let at = offset.checked_add(reader.signed()?);
    let at = at.and_then(|at| u32::try_from(at).ok()).ok_or(Malformed("an offset is wrong"))?;
    let tagged = reader.at_most(PACK_BYTES_MAX as u64 * 2 + 1)?;
    let stored = u32::try_from(tagged >> 1).unwrap_or(u32::MAX);
    let end = at.checked_add(stored).filter(|end| *end as usize <= PACK_BYTES_MAX);
    *offset = end.map(i64::from).ok_or(Malformed("a chunk ends behind its pack"))?;
    let (blocks, skip) = (reader.byte()?, reader.byte()?);
    let fits = u64::from(skip) + count <= u64::from(blocks);
    if !fits || u64::from(blocks) > CHUNK_BLOCKS_MAX {
        return Err(Malformed("a piece does not lie in its chunk"));
    }
    let id = ChunkId(reader.array()?);
    let place = Place { pack, offset: at, stored, compressed: tagged & 1 != 0, blocks, id };
    Ok(Content::Chunk { place, skip })
}

/// What two maps say together: `newer` wherever it says something, else `older`.
pub(crate) fn overlay(newer: &[Entry], older: &[Entry]) -> Vec<Entry> {
    let mut merged = Vec::with_capacity(newer.len() + older.len());
    let mut older = older.iter().copied().peekable();
    // What is left of an older entry that a newer one cut.
    let mut rest: Option<Entry> = None;
    let mut from = 0;
    for entry in newer {
        fill(&mut merged, &mut older, &mut rest, Span::new(from, entry.span.first));
        merged.push(*entry);
        from = entry.span.end;
    }
    fill(&mut merged, &mut older, &mut rest, Span::new(from, u64::MAX));
    merged
}

/// Appends the parts of older entries inside `gap`, drops those before it.
fn fill(
    merged: &mut Vec<Entry>,
    older: &mut std::iter::Peekable<impl Iterator<Item = Entry>>,
    rest: &mut Option<Entry>,
    gap: Span,
) {
    loop {
        let next = rest.take().or_else(|| older.next_if(|entry| entry.span.first < gap.end));
        let Some(entry) = next else { return };
        merged.extend(entry.cut(gap));
        if entry.span.end > gap.end {
            *rest = entry.cut(Span::new(gap.end, u64::MAX));
            return;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    pub(crate) fn place(number: u32, blocks: u8) -> Place {
        let run = BackupId::from_uuid(Uuid::from_u128(9));
        let attempt = Attempt(Uuid::from_u128(u128::from(number % 3)));
        let pack = PackRef { run, attempt, number: number % 5 };
        let offset = number % 100_000;
        Place {
            pack,
            offset,
            stored: 40 + number % 60,
            compressed: number.is_multiple_of(2),
            blocks,
            id: ChunkId([3; 16]),
        }
    }

    /// Entries of a few hundred blocks, in order.
    pub(crate) fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let one = (0_u64..20, 1_u64..17, 0_u8..3, any::<u32>(), any::<bool>());
        proptest::collection::vec(one, 0..30).prop_map(|list| {
            let mut end = 0;
            let build = |(gap, count, skip, number, zero): (u64, u64, u8, u32, bool)| {
                let first = end + gap;
                end = first + count;
                let blocks = u8::try_from(count).unwrap();
                let skip = skip.min(16 - blocks);
                let content = if zero {
                    Content::Zero
                } else {
                    Content::Chunk { place: place(number, blocks + skip), skip }
                };
                Entry { span: Span { first, end }, content }
            };
            list.into_iter().map(build).collect()
        })
    }

    /// What each block holds: which block of which chunk.
    fn flat(entries: &[Entry]) -> HashMap<u64, Option<(Place, u64)>> {
        let mut blocks = HashMap::new();
        for entry in entries {
            for block in entry.span.first..entry.span.end {
                let content = match entry.content {
                    Content::Zero => None,
                    Content::Chunk { place, skip } => {
                        Some((place, block - entry.span.first + u64::from(skip)))
                    }
                };
                assert!(blocks.insert(block, content).is_none(), "block {block} twice");
            }
        }
        blocks
    }

    proptest! {
        #[test]
        fn maps_come_back(entries in entries()) {
            let map = Map { entries };
            prop_assert_eq!(Map::decode(&map.encode()), Ok(map));
        }

        #[test]
        fn the_newer_map_is_right_and_the_older_shows_through(new in entries(), old in entries()) {
            let mut expected = flat(&old);
            expected.extend(flat(&new));
            let merged = overlay(&new, &old);
            prop_assert!(merged.windows(2).all(|two| two[0].span.end <= two[1].span.first));
            prop_assert_eq!(flat(&merged), expected);
        }

        #[test]
        fn garbage_is_an_error_or_a_map_in_order(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(map) = Map::decode(&bytes) {
                flat(&map.entries);
            }
        }

        #[test]
        fn a_changed_byte_does_no_harm(entries in entries(), at: usize, flip in 1_u8..) {
            let mut bytes = Map { entries }.encode();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(map) = Map::decode(&bytes) {
                prop_assert!(map.entries.windows(2).all(|two| two[0].span.end <= two[1].span.first));
            }
        }
    }
}
