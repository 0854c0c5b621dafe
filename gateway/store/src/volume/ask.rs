//! Questions to the origin of a volume, and what is done with its answers.
//!
//! Invariant: a read that waits for the origin is on the list of reads, and a change that does is one
//! that others must wait for if they overlap; nobody else waits. Answers are taken in on the
//! volume's own turn, whatever thread they come from.

use block::{
    BLOCK_BYTES, BlockSet, Extent, IoError, Op, Reply, Request, SLOT_BYTES, Segment, Segments,
    Ticket,
};
use smallvec::SmallVec;

use super::Inner;
use super::lanes::Done;
use super::page::BLOCKS;
use super::read::{Cold, mask_of};

/// Ranges that the origin is asked for at once when its blocks are counted.
pub(super) const RANGES_MAX: usize = 4096;

/// Questions that belong together.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: u64,
    pub(super) what: What,
    pub(super) left: usize,
    pub(super) error: Option<IoError>,
}

#[derive(Debug)]
pub(super) enum What {
    /// A host reads.
    Read(Cold),
    /// A host changes parts of these blocks.
    Edges { request: Request, blocks: SmallVec<[(u64, Segments); 2]> },
    /// A step of the filler, which ends before this chunk.
    Step { ticket: Ticket, until: u64 },
}

/// What the origin answered.
#[derive(Debug)]
pub(super) struct Told {
    id: u64,
    part: Part,
}

#[derive(Debug)]
enum Part {
    /// For a place in the list of those who asked.
    Data(usize, Extent, Result<Segments, IoError>),
    Blocks(Result<BlockSet, IoError>),
}

// === impl Inner ===

impl Inner {
    /// Whether a read or a change of these bytes may need the origin.
    pub(super) fn reaches_origin(&mut self, extent: Extent) -> Result<bool, IoError> {
        if self.map.beneath().is_none() {
            return Ok(false);
        }
        for piece in extent.pieces(SLOT_BYTES) {
            if self.map.reaching(piece.offset() / SLOT_BYTES, mask_of(piece))? != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn question(&self, (id, place): (u64, usize), extent: Extent) {
        let sender = self.sender.clone();
        let reply = Reply::new(move |result| {
            // Nobody asks any more when the volume is gone.
            sender.send(Done::Told(Told { id, part: Part::Data(place, extent, result) })).ok();
        });
        match &self.fill.origin {
            Some(origin) => origin.read(extent, reply),
            None => reply.answer(Err(IoError::Origin)),
        }
    }

    /// Asks for what a read needs of the origin. The read is on the list of reads already.
    pub(super) fn ask_for_read(&mut self, cold: Cold) {
        let gaps: Vec<(usize, Extent)> = cold.gaps().collect();
        let id = cold.id;
        self.fill.asked.push(Asked { id, what: What::Read(cold), left: gaps.len(), error: None });
        for (place, extent) in gaps {
            self.question((id, place), extent);
        }
    }

    /// Lets a change of parts of blocks wait for what the origin has of them; gives it back when
    /// nothing is to be waited for.
    pub(super) fn await_edges(&mut self, request: Request, extent: Extent) -> Option<Request> {
        if self.map.beneath().is_none() || matches!(request.op, Op::Trim(_)) {
            return Some(request);
        }
        let mut edges: SmallVec<[u64; 2]> = [extent.offset(), extent.end()]
            .into_iter()
            .filter(|byte| !byte.is_multiple_of(BLOCK_BYTES))
            .map(|byte| byte / BLOCK_BYTES)
            .collect();
        edges.dedup();
        if edges.is_empty() {
            return Some(request);
        }
        if self.group.touches(extent) {
            self.flush_group();
        }
        let mut missing: SmallVec<[(u64, Segments); 2]> = SmallVec::new();
        for block in edges {
            match self.map.reaching(block / BLOCKS as u64, 1 << (block % BLOCKS as u64)) {
                Ok(0) => {}
                Ok(_) => missing.push((block, Segments::new())),
                Err(e) => {
                    request.ticket.fail(e);
                    return None;
                }
            }
        }
        if missing.is_empty() {
            return Some(request);
        }
        let id = self.begin(extent, true);
        let blocks: SmallVec<[u64; 2]> = missing.iter().map(|(block, _)| *block).collect();
        let (left, what) = (blocks.len(), What::Edges { request, blocks: missing });
        self.fill.asked.push(Asked { id, what, left, error: None });
        for (place, block) in blocks.into_iter().enumerate() {
            if let Ok(extent) = Extent::new(block * BLOCK_BYTES, BLOCK_BYTES) {
                self.question((id, place), extent);
            }
        }
        None
    }

    /// The origin answered.
    pub(super) fn told(&mut self, told: Told) {
        let Some(index) = self.fill.asked.iter().position(|asked| asked.id == told.id) else {
            return;
        };
        let mut asked = self.fill.asked.swap_remove(index);
        asked.left -= 1;
        let taken = match told.part {
            Part::Data(place, extent, result) => result
                .and_then(|data| whole(data, extent))
                .and_then(|data| self.take_in(&mut asked.what, (place, extent), data)),
            Part::Blocks(result) => result.map(|blocks| self.counted(&blocks)),
        };
        if let Err(error) = taken {
            asked.error = asked.error.or(Some(error));
        }
        if asked.left > 0 {
            self.fill.asked.push(asked);
        } else {
            self.all_told(asked);
        }
    }

    fn take_in(
        &mut self,
        what: &mut What,
        (place, extent): (usize, Extent),
        data: Segments,
    ) -> Result<(), IoError> {
        match what {
            What::Read(cold) => cold.put(place, data),
            What::Edges { blocks, .. } => {
                if let Some((_, content)) = blocks.get_mut(place) {
                    *content = data;
                }
            }
            What::Step { .. } => return self.copy_in(extent, &data, false),
        }
        Ok(())
    }

    fn all_told(&mut self, Asked { id, what, error, .. }: Asked) {
        match what {
            What::Read(mut cold) => {
                cold.error = error;
                self.start_cold(cold);
            }
            What::Edges { request, blocks } => {
                let filled = error.map_or(Ok(()), Err).and_then(|()| {
                    blocks.into_iter().try_for_each(|(block, data)| {
                        let extent = Extent::new(block * BLOCK_BYTES, BLOCK_BYTES);
                        self.copy_in(extent.map_err(|_e| IoError::Invalid)?, &data, true)
                    })
                });
                match filled {
                    // Before all that came behind it.
                    Ok(()) => self.held.push_front(request),
                    Err(e) => request.ticket.fail(e),
                }
                self.end(id);
            }
            What::Step { ticket, until } => match error {
                Some(error) => ticket.fail(error),
                None => {
                    self.filled_to(until);
                    ticket.done();
                }
            },
        }
    }

    /// Asks which blocks the origin has.
    pub(super) fn ask_for_blocks(&mut self, from: u64, ticket: Ticket) {
        self.next_id += 1;
        let id = self.next_id;
        let what = What::Step { ticket, until: 0 };
        self.fill.asked.push(Asked { id, what, left: 1, error: None });
        let sender = self.sender.clone();
        let reply = Reply::new(move |result| {
            // Nobody asks any more when the volume is gone.
            sender.send(Done::Told(Told { id, part: Part::Blocks(result) })).ok();
        });
        match &self.fill.origin {
            Some(origin) => origin.mapped(from, RANGES_MAX, reply),
            None => reply.answer(Err(IoError::Origin)),
        }
    }
}

/// An answer that is not as long as the question is none.
fn whole(data: Segments, extent: Extent) -> Result<Segments, IoError> {
    let len: u64 = data.iter().map(Segment::len).sum();
    if len == extent.len() { Ok(data) } else { Err(IoError::Origin) }
}
