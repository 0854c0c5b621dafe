//! Memory that frames come into: large ones where their payload begins at a page, and all of it used
//! again once nobody reads from it any more.
//!
//! Invariant: what came in already is kept, in order. What is handed out begins empty but for that,
//! with the room that was asked for.
//!
//! A payload that begins at a page is copied by the kernel in two thirds of the time; and memory that
//! an allocator gives back after each frame costs a page fault for each 4 KiB of the next one.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

use crate::limits::{SHELF_BUFFER_BYTES_MAX, SHELF_BUFFERS_MAX};
use crate::wire::HEADER_BYTES;

/// Where payloads should begin.
const PAGE: usize = 4096;

/// Buffers whose last frame was cut off.
#[derive(Debug, Default)]
pub(crate) struct Shelf(VecDeque<BytesMut>);

impl Shelf {
    /// Moves the beginning of a frame into a buffer with room for `room` bytes more, where the bytes
    /// behind its header begin at a page.
    pub(crate) fn rehouse(&mut self, begun: &mut BytesMut, room: usize) {
        let mut fresh = self.take(begun.len().saturating_add(room).saturating_add(PAGE));
        let skipped = fresh.as_ptr().addr().wrapping_add(HEADER_BYTES).wrapping_neg() % PAGE;
        fresh.resize(skipped, 0);
        fresh.advance(skipped);
        fresh.extend_from_slice(begun);
        let mut spent = std::mem::replace(begun, fresh);
        spent.clear();
        self.0.push_back(spent);
        if self.0.len() > SHELF_BUFFERS_MAX {
            self.0.pop_front();
        }
    }

    /// Whether the payload of the frame at the front of this buffer begins at a page.
    pub(crate) fn is_housed(begun: &BytesMut) -> bool {
        begun.as_ptr().addr().wrapping_add(HEADER_BYTES).is_multiple_of(PAGE)
    }

    fn take(&mut self, bytes: usize) -> BytesMut {
        if bytes <= SHELF_BUFFER_BYTES_MAX {
            let unread = self.0.iter_mut().position(|spent| spent.try_reclaim(bytes));
            if let Some(found) = unread.and_then(|at| self.0.remove(at)) {
                return found;
            }
        }
        BytesMut::with_capacity(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_memory_again_only_when_nobody_reads_from_it() {
        let mut shelf = Shelf::default();
        let mut inbox = BytesMut::new();
        let (mut read, mut seen) = (VecDeque::new(), std::collections::HashSet::new());
        for round in 0..200u8 {
            inbox.extend_from_slice(&[round; 100]);
            shelf.rehouse(&mut inbox, 100_000);
            assert!(Shelf::is_housed(&inbox) && inbox.capacity() >= 100_100);
            assert_eq!(&inbox[..], [round; 100]);
            inbox.resize(100_100, round);
            seen.insert(inbox.as_ptr().addr());
            read.push_back((round, inbox.split_to(100_100).freeze()));
            if read.len() > 4 {
                read.pop_front();
            }
            for (round, frame) in &read {
                assert!(frame.iter().all(|byte| byte == round), "{round}");
            }
        }
        assert!(seen.len() < 20, "{} buffers for four readers", seen.len());
    }
}
