//! What a write journal lays over a base: the newest change of every byte up to a moment.
//!
//! ```text
//!   base        ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒
//!   pieces         ██  ░░  ███        data in a segment, or zeroes
//! ```
//!
//! Invariant: it never changes. What is read of a segment is held against its checksum; what does not
//! match is an error and never data.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use block::{BlockRange, BlockSet, Extent, IoError, Segment, Segments, VolumeId};
use bytes::Bytes;

use super::record::{HEAD_BYTES, Kind};
use super::segment::Found;
use crate::crc::crc32c;
use crate::error::of_io;
use crate::medium::File;

/// Where the bytes of a piece stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Zero,
    Payload {
        segment: u64,
        /// The first byte of the payload.
        at: u64,
        bytes: u32,
        crc: u32,
        /// Bytes of the payload before this piece.
        skip: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    len: u64,
    source: Source,
}

/// What lies over the base of one volume.
#[derive(Debug, Default)]
pub struct View {
    /// By first byte; none overlaps another.
    pieces: BTreeMap<u64, Piece>,
    files: Arc<HashMap<u64, Arc<dyn File>>>,
}

/// The views of all volumes, while they are made.
#[derive(Debug, Default)]
pub(super) struct Views {
    volumes: HashMap<VolumeId, BTreeMap<u64, Piece>>,
}

// === impl Piece ===

impl Piece {
    /// What is behind its first bytes.
    fn behind(self, skipped: u64) -> Self {
        let source = match self.source {
            Source::Zero => Source::Zero,
            Source::Payload { segment, at, bytes, crc, skip } => {
                // A payload is shorter than 4 GiB, and so is what is skipped of it.
                let skip = skip.saturating_add(u32::try_from(skipped).unwrap_or(u32::MAX));
                Source::Payload { segment, at, bytes, crc, skip }
            }
        };
        Self { len: self.len - skipped, source }
    }
}

// === impl Views ===

impl Views {
    /// The next record of the stream.
    pub(super) fn lay(&mut self, found: &Found) {
        let head = &found.head;
        let source = match head.kind {
            Kind::Write => Source::Payload {
                segment: found.place.segment,
                at: found.place.at + HEAD_BYTES as u64,
                bytes: head.payload_bytes,
                crc: head.payload_crc,
                skip: 0,
            },
            Kind::Zero { .. } | Kind::Trim => Source::Zero,
            Kind::Base | Kind::Time | Kind::Gap | Kind::End => return,
        };
        let Ok(extent) = Extent::new(head.offset, head.len) else { return };
        let extent = if head.kind == Kind::Trim {
            // The edges of a trim keep their content.
            extent.whole_blocks().extent()
        } else {
            Some(extent)
        };
        if let Some(extent) = extent {
            let pieces = self.volumes.entry(head.volume()).or_default();
            cover(pieces, extent, source);
        }
    }

    /// All of it, by volume.
    pub(super) fn finish(self, files: HashMap<u64, Arc<dyn File>>) -> HashMap<VolumeId, View> {
        let files = Arc::new(files);
        let view = |(volume, pieces)| (volume, View { pieces, files: Arc::clone(&files) });
        self.volumes.into_iter().map(view).collect()
    }
}

/// Lays a piece over those that are there.
fn cover(pieces: &mut BTreeMap<u64, Piece>, extent: Extent, source: Source) {
    let (first, end) = (extent.offset(), extent.end());
    if let Some((at, piece)) = pieces.range(..first).next_back().map(|(at, piece)| (*at, *piece)) {
        let piece_end = at + piece.len;
        if piece_end > first {
            pieces.insert(at, Piece { len: first - at, ..piece });
            if piece_end > end {
                pieces.insert(end, piece.behind(end - at));
            }
        }
    }
    while let Some((at, piece)) = pieces.range(first..end).next().map(|(at, piece)| (*at, *piece)) {
        pieces.remove(&at);
        if at + piece.len > end {
            pieces.insert(end, piece.behind(end - at));
        }
    }
    pieces.insert(first, Piece { len: extent.len(), source });
}

// === impl View ===

impl View {
    /// Bytes that it lays over the base.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.values().map(|piece| piece.len).sum()
    }

    /// The pieces that lie in `extent`, cut to it, in order.
    fn within(&self, extent: Extent) -> impl Iterator<Item = (Extent, Source)> {
        let before = self.pieces.range(..extent.offset()).next_back();
        let behind = self.pieces.range(extent.offset()..extent.end());
        before.into_iter().chain(behind).filter_map(move |(at, piece)| {
            let whole = Extent::new(*at, piece.len).ok()?;
            let part = whole.intersection(extent)?;
            Some((part, piece.behind(part.offset() - at).source))
        })
    }

    /// Whether nothing of the base is seen in `extent`.
    #[must_use]
    pub fn hides(&self, extent: Extent) -> bool {
        self.within(extent).map(|(part, _)| part.len()).sum::<u64>() == extent.len()
    }

    /// Every block that it changes anything of, from block `from` on, as at most `limit` ranges; fewer
    /// than that go to the end.
    #[must_use]
    pub fn touched(&self, from: u64, limit: usize) -> BlockSet {
        let mut set = BlockSet::new();
        let begin = from.saturating_mul(block::BLOCK_BYTES);
        let before = self.pieces.range(..begin).next_back();
        for (at, piece) in before.into_iter().chain(self.pieces.range(begin..)) {
            let Ok(extent) = Extent::new(*at, piece.len) else { continue };
            let blocks = extent.blocks();
            let first = blocks.first().max(from);
            if blocks.end() <= first {
                continue;
            }
            let is_full = set.len() == limit;
            match set.last_mut().filter(|last| last.end() >= first) {
                Some(last) => *last = BlockRange::new(last.first(), blocks.end().max(last.end())),
                None if is_full => break,
                None => set.push(BlockRange::new(first, blocks.end())),
            }
        }
        set
    }

    /// What is in `extent`, laid over what the base has there. Waits for the disk.
    ///
    /// # Errors
    /// [`IoError::Checksum`] when what was written down cannot be read back, or what the medium says.
    pub fn read(&self, extent: Extent, base: Segments) -> Result<Segments, IoError> {
        let (mut out, mut under) = (Segments::new(), Under { rest: base.into_iter().collect() });
        let (mut at, mut last) = (extent.offset(), None);
        for (part, source) in self.within(extent) {
            under.take(part.offset() - at, &mut out);
            under.skip(part.len());
            out.push(match source {
                Source::Zero => Segment::Zero(part.len()),
                Source::Payload { skip, .. } => {
                    let payload = self.payload(source, &mut last)?;
                    let len = usize::try_from(part.len()).map_err(|_long| IoError::Media)?;
                    let skip = usize::try_from(skip).map_err(|_long| IoError::Media)?;
                    let end = skip.saturating_add(len);
                    if end > payload.len() {
                        return Err(IoError::Checksum);
                    }
                    Segment::Data(payload.slice(skip..end))
                }
            });
            at = part.end();
        }
        under.take(extent.end() - at, &mut out);
        Ok(out)
    }

    /// The whole payload that a piece is a part of, proven. The last one is at hand.
    fn payload(
        &self,
        source: Source,
        last: &mut Option<((u64, u64), Bytes)>,
    ) -> Result<Bytes, IoError> {
        let Source::Payload { segment, at, bytes, crc, .. } = source else {
            return Ok(Bytes::new());
        };
        if let Some((place, payload)) = last
            && *place == (segment, at)
        {
            return Ok(payload.clone());
        }
        let file = self.files.get(&segment).ok_or(IoError::Media)?;
        let mut payload = vec![0; usize::try_from(bytes).map_err(|_long| IoError::Media)?];
        let got = file.read_at(&mut payload, at).map_err(|error| of_io(&error))?;
        if got < payload.len() || crc32c(&payload) != crc {
            return Err(IoError::Checksum);
        }
        let payload = Bytes::from(payload);
        *last = Some(((segment, at), payload.clone()));
        Ok(payload)
    }
}

/// What the base has, from front to back.
struct Under {
    rest: std::collections::VecDeque<Segment>,
}

impl Under {
    /// Moves the next bytes.
    fn take(&mut self, mut bytes: u64, out: &mut Segments) {
        while bytes > 0 {
            let Some(next) = self.rest.pop_front() else {
                // A base that is shorter than its volume reads as zeroes behind its end.
                out.push(Segment::Zero(bytes));
                return;
            };
            let (now, later) = split(next, bytes);
            bytes -= now.len();
            out.push(now);
            if let Some(later) = later {
                self.rest.push_front(later);
            }
        }
    }

    fn skip(&mut self, bytes: u64) {
        let mut skipped = Segments::new();
        self.take(bytes, &mut skipped);
    }
}

/// The first bytes of a segment, and the rest.
fn split(segment: Segment, bytes: u64) -> (Segment, Option<Segment>) {
    if segment.len() <= bytes {
        return (segment, None);
    }
    match segment {
        Segment::Zero(len) => (Segment::Zero(bytes), Some(Segment::Zero(len - bytes))),
        Segment::Data(mut data) => match usize::try_from(bytes) {
            Ok(at) => (Segment::Data(data.split_to(at)), Some(Segment::Data(data))),
            // It was shorter than this above.
            Err(_) => (Segment::Data(data), None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(number: u64) -> Source {
        Source::Payload { segment: 0, at: number * 100, bytes: 100, crc: 0, skip: 0 }
    }

    fn laid(some: &[(u64, u64, Source)]) -> View {
        let mut pieces = BTreeMap::new();
        for (at, len, source) in some {
            cover(&mut pieces, Extent::new(*at, *len).unwrap(), *source);
        }
        View { pieces, files: Arc::default() }
    }

    #[test]
    fn a_newer_piece_cuts_the_older_one_in_two() {
        let view = laid(&[(0, 100, payload(1)), (40, 20, Source::Zero)]);
        let found: Vec<_> = view.within(Extent::new(0, 100).unwrap()).collect();
        assert_eq!(found.len(), 3);
        assert_eq!(found[1], (Extent::new(40, 20).unwrap(), Source::Zero));
        let Source::Payload { at, skip, .. } = found[2].1 else { panic!("data") };
        assert_eq!((at, skip), (100, 60));
        assert!(view.hides(Extent::new(10, 90).unwrap()));
        assert!(!view.hides(Extent::new(10, 91).unwrap()));
        assert_eq!(view.bytes(), 100);
    }

    #[test]
    fn what_is_touched_is_told_in_blocks_and_joined() {
        let view =
            laid(&[(0, 1, Source::Zero), (4096, 10, Source::Zero), (20_480, 1, Source::Zero)]);
        let (two, five) = (BlockRange::new(0, 2), BlockRange::new(5, 6));
        assert_eq!(view.touched(0, 9).as_slice(), [two, five]);
        assert_eq!(view.touched(0, 1).as_slice(), [two]);
        assert_eq!(view.touched(1, 9).as_slice(), [BlockRange::new(1, 2), five]);
        assert_eq!(view.touched(6, 9).as_slice(), []);
    }

    #[test]
    fn a_base_that_ends_early_reads_as_zeroes_behind_its_end() {
        let view = laid(&[(4, 2, Source::Zero)]);
        let base: Segments = [Segment::Data(Bytes::from_static(b"abcde"))].into_iter().collect();
        let read = view.read(Extent::new(0, 8).unwrap(), base).unwrap();
        assert_eq!(block::joined(&read).as_ref(), b"abcd\0\0\0\0");
    }
}
