//! Reads: from the page cache at once, from the medium by a worker.
//!
//! Invariant: what came from the medium was checked against its checksum. Changes that overlap a
//! cold read wait for it, so the worker sees what the request was meant to see.

use std::io;
use std::sync::Arc;

use block::{Answer, BLOCK_BYTES, Extent, IoError, SLOT_BYTES, Segment, Segments, Ticket};
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::arena;
use crate::crc::crc32c;
use crate::error::of_io;
use crate::executor::Lane;
use crate::medium::{File, read_padded};
use crate::runs::{self, push_zero};

use super::Inner;
use super::data::Place;
use super::lanes::Done;
use super::map::Source;
use super::page::{BLOCKS, Entry};

/// A part of a read.
#[derive(Clone, Copy, Debug)]
enum Part {
    Zero(u64),
    Data { place: Place, len: u64 },
}

type Parts = SmallVec<[Part; 4]>;

/// Runs of mapped blocks of one chunk: first block, end, slot.
type ChunkRuns = SmallVec<[(u64, u64, u64); 2]>;

/// Neighbouring blocks of one chunk in one layer, read whole by a worker.
#[derive(Debug)]
pub(super) struct ColdPart {
    file: Option<Arc<dyn File>>,
    offset: u64,
    /// Where the wanted bytes begin in what is read, and how many they are.
    skip: usize,
    len: usize,
    layer: u32,
    chunk: u64,
    first: usize,
    count: usize,
    entry: Entry,
    data: Bytes,
    sums: [u32; BLOCKS],
}

/// One piece of a read that is not answered at once.
#[derive(Debug)]
enum Piece {
    Zero(u64),
    Part(ColdPart),
    /// What the origin has of this, once it answered.
    Beneath(Extent, Segments),
}

/// A read that a worker does, behind the answers of the origin if it needs any.
#[derive(Debug)]
pub(super) struct Cold {
    pub(super) id: u64,
    /// In order.
    pieces: Vec<Piece>,
    pub(super) error: Option<IoError>,
}

/// Where neighbouring blocks of a chunk come from.
enum From {
    Source(Source, Entry),
    Origin,
}

// === impl Inner ===

impl Inner {
    pub(super) fn read(&mut self, extent: Extent, ticket: Ticket) {
        match self.try_read(extent) {
            Ok(Some(segments)) => ticket.answer(Ok(Answer::Read(segments))),
            Ok(None) => match self.cold(extent) {
                Ok(mut cold) => {
                    cold.id = self.begin(extent, false);
                    self.begin_cold(cold, ticket);
                }
                Err(e) => ticket.fail(e),
            },
            Err(e) => ticket.fail(e),
        }
    }

    /// Begins a read that has a number of its own.
    pub(super) fn begin_cold(&mut self, cold: Cold, ticket: Ticket) {
        self.lanes.reads.push((cold.id, ticket));
        if cold.gaps().next().is_some() {
            self.ask_for_read(cold);
        } else {
            self.start_cold(cold);
        }
    }

    /// Lets a worker read, when the origin has answered.
    pub(super) fn start_cold(&mut self, mut cold: Cold) {
        if cold.error.is_some() || !cold.pieces.iter().any(|p| matches!(p, Piece::Part(_))) {
            return self.finish_read(cold);
        }
        self.run_in(Lane::Read, move || {
            cold.fetch();
            Done::Read(cold)
        });
    }

    /// The content, if it is in the page cache.
    pub(super) fn try_read(&mut self, extent: Extent) -> Result<Option<Segments>, IoError> {
        if self.reaches_origin(extent)? {
            return Ok(None);
        }
        let parts = self.parts(extent)?;
        let total: u64 = parts.iter().map(Part::data_len).sum();
        if total == 0 {
            let mut out = Segments::new();
            push_zero(&mut out, extent.len());
            return Ok(Some(out));
        }
        let data = &mut self.data;
        let filled = arena::read(size(total), |buf| fill(&parts, buf, |i| data.get(i)));
        let Some(mut bytes) = filled.map_err(|e| self.read_failed(&e))? else { return Ok(None) };
        self.metrics.read_data.increment(total);
        let mut out = Segments::new();
        for part in &parts {
            match part {
                Part::Zero(len) => push_zero(&mut out, *len),
                Part::Data { len, .. } => out.push(Segment::Data(bytes.split_to(size(*len)))),
            }
        }
        Ok(Some(out))
    }

    fn parts(&mut self, extent: Extent) -> Result<Parts, IoError> {
        let mut out = Parts::new();
        for piece in extent.pieces(SLOT_BYTES) {
            let chunk = piece.offset() / SLOT_BYTES;
            let base = chunk * SLOT_BYTES;
            let mut at = piece.offset();
            for (first, end, slot) in self.chunk_runs(chunk, mask_of(piece))? {
                let from = (base + first * BLOCK_BYTES).max(piece.offset());
                let to = (base + end * BLOCK_BYTES).min(piece.end());
                push_part(&mut out, Part::Zero(from - at));
                push_part(
                    &mut out,
                    Part::Data { place: Place::of(slot, from - base), len: to - from },
                );
                at = to;
            }
            push_part(&mut out, Part::Zero(piece.end() - at));
        }
        Ok(out)
    }

    /// The runs of mapped blocks of a chunk in order, as first block, end and slot.
    fn chunk_runs(&mut self, chunk: u64, wanted: u16) -> Result<ChunkRuns, IoError> {
        let mut out = SmallVec::new();
        for (source, _) in self.map.sources(chunk, wanted)? {
            out.extend(runs::mask_runs(source.mask).map(|r| (r.first(), r.end(), source.slot)));
        }
        if out.len() > 1 {
            out.sort_unstable();
        }
        Ok(out)
    }

    pub(super) fn cold(&mut self, extent: Extent) -> Result<Cold, IoError> {
        let mut pieces = Vec::new();
        for piece in extent.pieces(SLOT_BYTES) {
            let chunk = piece.offset() / SLOT_BYTES;
            let base = chunk * SLOT_BYTES;
            let mut at = piece.offset();
            let mut found = Vec::new();
            for (source, entry) in self.map.sources(chunk, mask_of(piece))? {
                for run in runs::mask_runs(source.mask) {
                    found.push((run.first(), run.end(), From::Source(source, entry)));
                }
            }
            for run in runs::mask_runs(self.map.reaching(chunk, mask_of(piece))?) {
                found.push((run.first(), run.end(), From::Origin));
            }
            found.sort_unstable_by_key(|(first, ..)| *first);
            for (first, end, from_where) in found {
                let from = (base + first * BLOCK_BYTES).max(piece.offset());
                let to = (base + end * BLOCK_BYTES).min(piece.end());
                push_zeroes(&mut pieces, from - at);
                at = to;
                let From::Source(source, entry) = from_where else {
                    push_gap(&mut pieces, from, to);
                    continue;
                };
                let place = Place::of(source.slot, first * BLOCK_BYTES);
                let file = self.data.get(place.file).map_err(|e| self.read_failed(&e))?;
                pieces.push(Piece::Part(ColdPart {
                    file,
                    offset: place.offset,
                    skip: size(from - base - first * BLOCK_BYTES),
                    len: size(to - from),
                    layer: source.layer,
                    chunk,
                    first: size(first),
                    count: size(end - first),
                    entry,
                    data: Bytes::new(),
                    sums: [0; BLOCKS],
                }));
            }
            push_zeroes(&mut pieces, piece.end() - at);
        }
        Ok(Cold { id: 0, pieces, error: None })
    }

    /// A worker has read.
    pub(super) fn finish_read(&mut self, cold: Cold) {
        let Some(place) = self.lanes.reads.iter().position(|(id, _)| *id == cold.id) else {
            return;
        };
        let (id, ticket) = self.lanes.reads.swap_remove(place);
        if let Some(error) = cold.error {
            match error {
                // Told by who reads it.
                IoError::Origin => {}
                IoError::Checksum => self.metrics.checksum_failures.increment(1),
                _ => self.metrics.errors_read.increment(1),
            }
            tracing::error!(%error, extent = ?self.busy.iter().find(|b| b.id == id), "read");
            ticket.fail(error);
        } else {
            let mut out = Segments::new();
            let mut bytes = 0;
            for piece in cold.pieces {
                match piece {
                    Piece::Zero(len) => push_zero(&mut out, len),
                    Piece::Beneath(_, data) => out.extend(data),
                    Piece::Part(part) => {
                        bytes += part.len as u64;
                        self.learn(&part);
                        out.push(Segment::Data(part.data));
                    }
                }
            }
            self.metrics.read_data.increment(bytes);
            ticket.answer(Ok(Answer::Read(out)));
        }
        self.end(id);
    }

    /// Trusts from now on the checksums of blocks that had none, if they are still where they were.
    fn learn(&mut self, part: &ColdPart) {
        let place = self.map.entry(part.layer, part.chunk).map(|e| e.slot);
        if place != Ok(part.entry.slot) {
            return;
        }
        let read = (part.first..part.first + part.count).fold(0u16, |m, b| m | 1 << b);
        let new = read & !part.entry.summed;
        if new != 0 {
            self.map.set_sums(part.layer, part.chunk, new, &part.sums);
        }
    }

    /// Reads one block in line and checks it: the edge of a write, which is rarely cold.
    pub(super) fn read_block(&mut self, block: u64, out: &mut [u8]) -> Result<(), IoError> {
        let chunk = block / BLOCKS as u64;
        let index = size(block % BLOCKS as u64);
        let sources = self.map.sources(chunk, 1 << index)?;
        let Some((source, entry)) = sources.first() else {
            out.fill(0);
            let missing = self.map.reaching(chunk, 1 << index)? != 0;
            debug_assert!(!missing, "a change waits for what the origin has of its edges");
            return if missing { Err(IoError::Origin) } else { Ok(()) };
        };
        let place = Place::of(source.slot, index as u64 * BLOCK_BYTES);
        self.read_place(place, out)?;
        self.check(entry, index, crc32c(out))
    }

    pub(super) fn read_place(&mut self, place: Place, out: &mut [u8]) -> Result<(), IoError> {
        let read = match self.data.get(place.file) {
            Ok(Some(file)) => read_padded(file.as_ref(), out, place.offset),
            Ok(None) => {
                out.fill(0);
                Ok(())
            }
            Err(e) => Err(e),
        };
        read.map_err(|e| self.read_failed(&e))
    }

    pub(super) fn check(&self, entry: &Entry, block: usize, sum: u32) -> Result<(), IoError> {
        if entry.summed & (1 << block) != 0 && entry.sums[block] != sum {
            self.metrics.checksum_failures.increment(1);
            tracing::error!(slot = entry.slot, block, "a block does not match its checksum");
            return Err(IoError::Checksum);
        }
        Ok(())
    }

    fn read_failed(&self, error: &io::Error) -> IoError {
        self.metrics.errors_read.increment(1);
        tracing::warn!(%error, "read data");
        of_io(error)
    }
}

// === impl Part ===

impl Part {
    fn data_len(&self) -> u64 {
        match self {
            Self::Zero(_) => 0,
            Self::Data { len, .. } => *len,
        }
    }
}

// === impl Cold ===

impl Cold {
    /// What the origin must be asked for, by place.
    pub(super) fn gaps(&self) -> impl Iterator<Item = (usize, Extent)> {
        self.pieces.iter().enumerate().filter_map(|(place, piece)| match piece {
            Piece::Beneath(extent, _) => Some((place, *extent)),
            Piece::Zero(_) | Piece::Part(_) => None,
        })
    }

    /// Takes what the origin answered for a place.
    pub(super) fn put(&mut self, place: usize, data: Segments) {
        if let Some(Piece::Beneath(_, known)) = self.pieces.get_mut(place) {
            *known = data;
        }
    }

    /// Does the reading, on a worker.
    pub(super) fn fetch(&mut self) {
        for piece in &mut self.pieces {
            let Piece::Part(part) = piece else { continue };
            if let Err(e) = part.fetch() {
                self.error = Some(e);
                return;
            }
        }
    }
}

// === impl ColdPart ===

impl ColdPart {
    fn fetch(&mut self) -> Result<(), IoError> {
        let mut data = BytesMut::zeroed(self.count * size(BLOCK_BYTES));
        if let Some(file) = &self.file {
            read_padded(file.as_ref(), &mut data, self.offset).map_err(|error| {
                tracing::warn!(%error, "read data from the medium");
                of_io(&error)
            })?;
        }
        for (block, content) in (self.first..).zip(data.chunks_exact(size(BLOCK_BYTES))) {
            let sum = crc32c(content);
            if self.entry.summed & (1 << block) != 0 && self.entry.sums[block] != sum {
                return Err(IoError::Checksum);
            }
            self.sums[block] = sum;
        }
        self.data = data.freeze().slice(self.skip..self.skip + self.len);
        Ok(())
    }
}

/// Reads every part into its place in `buf`; `false` when that would mean waiting.
fn fill(
    parts: &Parts,
    buf: &mut [u8],
    mut file: impl FnMut(usize) -> io::Result<Option<Arc<dyn File>>>,
) -> io::Result<bool> {
    let mut rest = buf;
    for part in parts {
        let Part::Data { place, len } = part else { continue };
        let (now, later) = rest.split_at_mut(size(*len));
        rest = later;
        match file(place.file)? {
            Some(file) if file.try_read_at(now, place.offset)? => {}
            Some(_) | None => return Ok(false),
        }
    }
    Ok(true)
}

fn push_zeroes(pieces: &mut Vec<Piece>, len: u64) {
    if len > 0 {
        pieces.push(Piece::Zero(len));
    }
}

/// Adds what the origin is asked for, in one piece with what lies before it.
fn push_gap(pieces: &mut Vec<Piece>, from: u64, to: u64) {
    let before = pieces.pop_if(|p| matches!(p, Piece::Beneath(before, _) if before.end() == from));
    let first = match before {
        Some(Piece::Beneath(before, _)) => before.offset(),
        _ => from,
    };
    if let Ok(extent) = Extent::new(first, to - first) {
        pieces.push(Piece::Beneath(extent, Segments::new()));
    }
}

/// Appends a part, joined to the one before where the bytes lie behind one another.
fn push_part(parts: &mut Parts, part: Part) {
    match (parts.last_mut(), part) {
        (_, Part::Zero(0)) => {}
        (Some(Part::Zero(before)), Part::Zero(len)) => *before += len,
        (Some(Part::Data { place, len: before }), Part::Data { place: next, len })
            if place.file == next.file && place.offset + *before == next.offset =>
        {
            *before += len;
        }
        (_, part) => parts.push(part),
    }
}

/// The blocks that a range inside one chunk touches.
pub(super) fn mask_of(piece: Extent) -> u16 {
    let blocks = piece.blocks();
    let first = blocks.first() % BLOCKS as u64;
    (first..first + blocks.count()).fold(0, |mask, block| mask | 1 << block)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a request is smaller than the address space")
}
