//! Memory for large payloads, used again when all who read from it have let go.
//!
//! Invariant: a thread keeps at most [`KEPT`] blocks of [`PAYLOAD_KEPT_BYTES`], however many
//! connections it serves. A block that somebody still reads from is not handed out.

use std::cell::RefCell;

use bytes::{Buf, BufMut, BytesMut};

use crate::limits::{PAYLOAD_KEPT_BYTES, PAYLOAD_KEPT_BYTES_MIN};

/// Blocks that a thread keeps: what two connections with four writes each have under way.
const KEPT: usize = 8;
/// The kernel copies with `rep movsb`, which takes twice as long into memory that begins a few bytes
/// behind a page, where an allocator puts what is large.
const LINE: usize = 64;

thread_local! {
    static BLOCKS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Room for `len` bytes that begins at a cache line.
pub fn room(len: usize) -> BytesMut {
    let kept = is_kept(len);
    let wanted = if kept { PAYLOAD_KEPT_BYTES } else { len } + LINE;
    let used = if kept { take(wanted) } else { None };
    let mut block = used.unwrap_or_else(|| BytesMut::with_capacity(wanted));
    let skipped = block.as_ptr().addr().wrapping_neg() % LINE;
    block.put_bytes(0, skipped);
    block.advance(skipped);
    block
}

/// Takes what was received out of its block, which is kept for later.
pub fn filled(mut block: BytesMut) -> BytesMut {
    let payload = block.split();
    if is_kept(payload.len()) {
        BLOCKS.with_borrow_mut(|blocks| {
            if blocks.len() < KEPT {
                blocks.push(block);
            }
        });
    }
    payload
}

/// Whether a payload of this size has a block: a smaller one would leave most of it unused.
const fn is_kept(len: usize) -> bool {
    len >= PAYLOAD_KEPT_BYTES_MIN && len <= PAYLOAD_KEPT_BYTES
}

/// The block that was put back last, of those that nobody reads from: the warmest.
fn take(wanted: usize) -> Option<BytesMut> {
    BLOCKS.with_borrow_mut(|blocks| {
        let index = (0..blocks.len()).rev().find(|index| blocks[*index].try_reclaim(wanted))?;
        Some(blocks.swap_remove(index))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(byte: u8, len: usize) -> bytes::Bytes {
        let mut block = room(len);
        assert!(block.is_empty() && block.capacity() >= len);
        assert_eq!(block.as_ptr().addr() % LINE, 0);
        block.put_bytes(byte, len);
        filled(block).freeze()
    }

    #[test]
    fn what_is_held_stays_as_it_is() {
        let lens = [64 << 10, PAYLOAD_KEPT_BYTES, PAYLOAD_KEPT_BYTES + 1, 300_001];
        let mut held = Vec::new();
        for round in 0..200u8 {
            let len = lens[usize::from(round) % lens.len()];
            held.push((round, receive(round, len)));
            if round % 13 == 12 {
                assert!(held.iter().all(|(byte, data)| data.iter().all(|b| b == byte)));
                held.clear();
            }
        }
        assert!(BLOCKS.with_borrow(Vec::len) <= KEPT);
    }

    #[test]
    fn memory_is_used_again() {
        let first = receive(1, PAYLOAD_KEPT_BYTES).as_ptr().addr();
        let held = receive(2, PAYLOAD_KEPT_BYTES);
        assert_eq!(held.as_ptr().addr(), first);
        assert_ne!(receive(3, PAYLOAD_KEPT_BYTES).as_ptr().addr(), first);
    }
}
