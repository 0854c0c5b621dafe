//! The requests that were handed down and not yet answered.
//!
//! Invariant: a tag names one request from its admission to its reply, and is free again after
//! that. The table grows to `INFLIGHT_REQUESTS_MAX` entries and no further, because the session
//! admits no more.

use block::{Extent, Op};
use tokio::time::Instant;

use crate::limits::{INFLIGHT_REQUESTS_MAX, PIECE_BYTES_MAX};
use crate::wire::Command;

/// What must be known of a request to answer it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    /// Bytes concerned, for a read and a write also those in memory.
    pub(crate) len: u64,
    pub(crate) command: Command,
    /// A read in one chunk.
    pub(crate) whole: bool,
    pub(crate) fua: bool,
    pub(crate) may_trim: bool,
    /// What is still to be trimmed or zeroed once the piece that is under way is done.
    pub(crate) rest: Option<Extent>,
    pub(crate) received: Instant,
}

impl Pending {
    /// Takes the next piece off the rest.
    pub(crate) fn next_piece(&mut self) -> Option<Extent> {
        let rest = self.rest?;
        let len = rest.len().min(PIECE_BYTES_MAX);
        let piece = Extent::new(rest.offset(), len).ok()?;
        self.rest = Extent::new(piece.end(), rest.len() - len).ok();
        Some(piece)
    }

    /// The piece as an operation.
    pub(crate) fn piece_op(&self, extent: Extent) -> Op {
        if self.command == Command::Trim {
            Op::Trim(extent)
        } else {
            Op::Zero { extent, may_trim: self.may_trim }
        }
    }

    /// Bytes that it keeps in memory.
    pub(crate) fn memory(&self) -> u64 {
        match self.command {
            Command::Read | Command::Write => self.len,
            Command::Disconnect
            | Command::Flush
            | Command::Trim
            | Command::Cache
            | Command::WriteZeroes
            | Command::BlockStatus => 0,
        }
    }
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    slots: Vec<Option<Pending>>,
    free: Vec<u32>,
    count: usize,
    bytes: u64,
}

impl Inflight {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Enters a request; gives its tag.
    pub(crate) fn insert(&mut self, pending: Pending) -> u64 {
        debug_assert!(self.count < INFLIGHT_REQUESTS_MAX, "the session admits no more");
        self.count += 1;
        self.bytes += pending.memory();
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(pending);
            return index.into();
        }
        self.slots.push(Some(pending));
        self.slots.len() as u64 - 1
    }

    /// The request under this tag, to go on with it.
    pub(crate) fn get_mut(&mut self, tag: u64) -> Option<&mut Pending> {
        self.slots.get_mut(usize::try_from(tag).ok()?)?.as_mut()
    }

    /// Takes out the request under this tag.
    pub(crate) fn remove(&mut self, tag: u64) -> Option<Pending> {
        let index = u32::try_from(tag).ok()?;
        let pending = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        self.count -= 1;
        self.bytes -= pending.memory();
        Some(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeroing(len: u64) -> Pending {
        Pending {
            cookie: 1,
            offset: 0,
            len,
            command: Command::WriteZeroes,
            whole: false,
            fua: false,
            may_trim: true,
            rest: Extent::new(512, len).ok(),
            received: Instant::now(),
        }
    }

    #[test]
    fn pieces_cover_a_huge_range_once() {
        let mut pending = zeroing((3 << 30) + 7);
        let mut pieces = Vec::new();
        while let Some(piece) = pending.next_piece() {
            pieces.push((piece.offset(), piece.len()));
        }
        let gib = 1 << 30;
        assert_eq!(
            pieces,
            [(512, gib), (512 + gib, gib), (512 + 2 * gib, gib), (512 + 3 * gib, 7)]
        );
    }

    #[test]
    fn a_tag_answers_once() {
        let mut table = Inflight::default();
        let (a, b) = (table.insert(zeroing(1)), table.insert(zeroing(2)));
        assert_eq!(table.remove(a).map(|p| p.len), Some(1));
        assert!(table.remove(a).is_none());
        assert_eq!(table.insert(zeroing(3)), a);
        assert_eq!(table.remove(b).map(|p| p.len), Some(2));
        assert!(table.remove(99).is_none());
        assert_eq!(table.len(), 1);
    }
}
