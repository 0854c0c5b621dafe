//! Large writes of what nobody is about to read: a worker does them, so that the shard goes on.
//!
//! ```text
//!   slots are taken ─▶ worker: checksums, data ─▶ log, map ─▶ answer
//! ```
//!
//! Invariant: they go only where the head has no slot yet, and into slots that no record names: until
//! the data is written and its records are in the log nobody sees any of it. What overlaps waits.

use std::io::{self, IoSlice};
use std::sync::Arc;

use block::{BLOCK_BYTES, Extent, IoError, SLOT_BYTES, Ticket};
use bytes::Bytes;

use crate::crc::{BLOCK_SIZE, crc32c};
use crate::error::of_io;
use crate::executor::Lane;
use crate::medium::File;

use super::Inner;
use super::data::Place;
use super::lanes::Done;
use super::page::{BLOCKS, NO_SLOT};
use super::read::mask_of;

/// Less is written sooner than a worker is woken.
const BULK_BYTES_MIN: u64 = 2 * SLOT_BYTES;

/// The part of a write that lies in one chunk, and goes to one new slot.
#[derive(Debug)]
struct Piece {
    extent: Extent,
    slot: u64,
    /// Of each block that is written.
    sums: [u32; BLOCKS],
}

/// Neighbouring slots of one file: where they begin, and the bytes of the write that go there.
#[derive(Debug)]
struct Stretch {
    place: Place,
    file: Arc<dyn File>,
    from: usize,
    len: usize,
}

/// A write that a worker does.
#[derive(Debug)]
pub(super) struct Bulk {
    id: u64,
    extent: Extent,
    data: Bytes,
    fua: bool,
    pieces: Vec<Piece>,
    stretches: Vec<Stretch>,
    result: io::Result<()>,
}

// === impl Inner ===

impl Inner {
    /// Whether a worker should do this write: it is large, need not stay in memory, all of it goes to
    /// new slots, and nothing of it lies in an origin.
    pub(super) fn is_bulk(&mut self, extent: Extent, data: &Bytes) -> bool {
        self.aside
            && extent.len() >= BULK_BYTES_MIN
            && extent.is_block_aligned()
            && data.len() as u64 == extent.len()
            && self.map.beneath().is_none()
            && !self.group.touches(extent)
            && extent.pieces(SLOT_BYTES).all(|piece| self.has_no_slot(piece))
    }

    /// What cannot be looked up goes the usual way, and is told there.
    fn has_no_slot(&mut self, piece: Extent) -> bool {
        let chunk = piece.offset() / SLOT_BYTES;
        let top = self.map.top(chunk);
        top.and_then(|top| self.map.entry(top, chunk)).is_ok_and(|entry| entry.slot == NO_SLOT)
    }

    pub(super) fn write_bulk(&mut self, extent: Extent, data: Bytes, fua: bool, ticket: Ticket) {
        let taken = self.take_slots(extent);
        let pieces = match taken {
            Ok(pieces) => pieces,
            Err(e) => return ticket.fail(e),
        };
        let stretches = match self.stretches(&pieces) {
            Ok(stretches) => stretches,
            Err(e) => {
                pieces.iter().for_each(|piece| self.slots.put_back(piece.slot));
                return ticket.fail(self.failed(&e));
            }
        };
        pieces.iter().for_each(|piece| self.slots.fly(piece.slot));
        let id = self.begin(extent, true);
        self.lanes.bulks.push((id, ticket));
        let mut bulk = Bulk { id, extent, data, fua, pieces, stretches, result: Ok(()) };
        self.run_in(Lane::Write, move || {
            bulk.work();
            Done::Wrote(bulk)
        });
    }

    fn take_slots(&mut self, extent: Extent) -> Result<Vec<Piece>, IoError> {
        if self.is_unrecorded(extent) {
            self.record_extents(&[extent])?;
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for extent in extent.pieces(SLOT_BYTES) {
            match self.take_slot() {
                Ok(slot) => pieces.push(Piece { extent, slot, sums: [0; BLOCKS] }),
                Err(e) => {
                    pieces.iter().for_each(|piece| self.slots.put_back(piece.slot));
                    return Err(e);
                }
            }
        }
        Ok(pieces)
    }

    fn stretches(&mut self, pieces: &[Piece]) -> io::Result<Vec<Stretch>> {
        let mut out: Vec<Stretch> = Vec::new();
        let mut from = 0;
        for piece in pieces {
            let place = Place::of(piece.slot, piece.extent.offset() % SLOT_BYTES);
            let len = size(piece.extent.len());
            match out.last_mut() {
                Some(last)
                    if last.place.file == place.file
                        && last.place.offset + last.len as u64 == place.offset =>
                {
                    last.len += len;
                }
                _ => {
                    let file = self.data.for_writing(place)?;
                    out.push(Stretch { place, file, from, len });
                }
            }
            from += len;
        }
        Ok(out)
    }

    /// A worker has written.
    pub(super) fn finish_bulk(&mut self, bulk: Bulk) {
        let Bulk { id, extent, data, fua, pieces, stretches, result } = bulk;
        pieces.iter().for_each(|piece| self.slots.land(piece.slot));
        let Some(at) = self.lanes.bulks.iter().position(|(other, _)| *other == id) else { return };
        let (_, ticket) = self.lanes.bulks.swap_remove(at);
        match result {
            Ok(()) => {
                // A sync that began meanwhile may have come too early for it.
                stretches.iter().for_each(|stretch| self.data.mark_dirty(stretch.place));
                self.plan_landed((extent, data), fua, ticket, &pieces);
                self.flush_group();
            }
            Err(e) => {
                pieces.iter().for_each(|piece| self.slots.put_back(piece.slot));
                ticket.fail(self.failed(&e));
            }
        }
        self.end(id);
    }

    /// Plans a write whose data a worker has written already.
    fn plan_landed(
        &mut self,
        (extent, data): (Extent, Bytes),
        fua: bool,
        ticket: Ticket,
        pieces: &[Piece],
    ) {
        let mark = self.group.mark();
        let mut result =
            if self.is_unrecorded(extent) { self.record_extents(&[extent]) } else { Ok(()) };
        let mut rest = data.clone();
        for piece in pieces {
            let now = rest.split_to(size(piece.extent.len()));
            match result {
                Ok(()) => result = self.land_piece(piece, now),
                Err(_) => self.slots.put_back(piece.slot),
            }
        }
        if result.is_err() {
            self.undo_to(mark);
        }
        self.group.add((extent, data), fua, Some(ticket), result);
    }

    fn land_piece(&mut self, piece: &Piece, data: Bytes) -> Result<(), IoError> {
        let chunk = piece.extent.offset() / SLOT_BYTES;
        let looked_up = self.map.top(chunk).and_then(|t| self.map.entry(t, chunk).map(|e| (t, e)));
        match looked_up {
            Ok((top, before)) if before.slot == NO_SLOT => {
                let mask = mask_of(piece.extent);
                self.map_piece((top, chunk, piece.slot), before, mask, piece.sums).map(|_fresh| ())
            }
            // A fold brought the chunk a slot meanwhile: the data goes there.
            Ok(_) => {
                self.slots.put_back(piece.slot);
                self.plan_piece(piece.extent, data)
            }
            Err(e) => {
                self.slots.put_back(piece.slot);
                Err(e)
            }
        }
    }
}

// === impl Bulk ===

impl Bulk {
    /// Does the writing, on a worker.
    fn work(&mut self) {
        let mut rest = &self.data[..];
        for piece in &mut self.pieces {
            let (now, later) = rest.split_at(size(piece.extent.len()));
            rest = later;
            let first = size(piece.extent.offset() % SLOT_BYTES / BLOCK_BYTES);
            for (sum, block) in piece.sums[first..].iter_mut().zip(now.chunks_exact(BLOCK_SIZE)) {
                *sum = crc32c(block);
            }
        }
        self.result = self.stretches.iter().try_for_each(|stretch| {
            let part = &self.data[stretch.from..stretch.from + stretch.len];
            stretch.file.write_aside_at(&mut [IoSlice::new(part)], stretch.place.offset)
        });
        if let Err(error) = &self.result {
            let error = of_io(error);
            tracing::warn!(%error, extent = ?self.extent, "write data on a worker");
        }
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a request is smaller than the address space")
}
