//! What waits to be sent: headers in one reused buffer, payloads by reference.
//!
//! Invariant: the chunks, read in order, are whole frames, but for the first one, of which a part
//! may have been sent.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// A run of bytes to send.
#[derive(Debug)]
enum Chunk {
    /// This many bytes of the buffer of headers.
    Small(usize),
    /// A payload; `resync` if the copier sent it.
    Shared { bytes: Bytes, resync: bool },
}

/// Bytes that are queued for a peer.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Chunk>,
    /// The bytes of all `Small` chunks, in order.
    small: BytesMut,
    queued: usize,
    /// Where bodies are put together before their length is known.
    pub(crate) scratch: Vec<u8>,
}

/// What left the outbox in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Bytes of payloads among them.
    pub(crate) payload: usize,
    /// Of these, bytes of the copier's.
    pub(crate) resync: usize,
}

impl Outbox {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Queues a copy of a few bytes.
    pub(crate) fn push_small(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.small.extend_from_slice(bytes);
        self.queued = self.queued.saturating_add(bytes.len());
        match self.chunks.back_mut() {
            Some(Chunk::Small(len)) => *len = len.saturating_add(bytes.len()),
            _ => self.chunks.push_back(Chunk::Small(bytes.len())),
        }
    }

    /// Queues a payload by reference.
    pub(crate) fn push_shared(&mut self, bytes: Bytes, resync: bool) {
        if bytes.is_empty() {
            return;
        }
        self.queued = self.queued.saturating_add(bytes.len());
        self.chunks.push_back(Chunk::Shared { bytes, resync });
    }

    /// Fills `slices` from the front of the queue; says how many.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut small: &[u8] = &self.small;
        let mut filled = 0;
        for (slot, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slot = IoSlice::new(match chunk {
                Chunk::Small(len) => {
                    let (these, rest) = small.split_at(*len);
                    small = rest;
                    these
                }
                Chunk::Shared { bytes, .. } => bytes,
            });
            filled += 1;
        }
        filled
    }

    /// Drops the first `count` bytes, which were sent.
    pub(crate) fn advance(&mut self, mut count: usize) -> Sent {
        let mut sent = Sent::default();
        self.queued = self.queued.saturating_sub(count);
        while count > 0 {
            let Some(front) = self.chunks.front_mut() else { break };
            let (step, left) = match front {
                Chunk::Small(len) => {
                    let step = count.min(*len);
                    self.small.advance(step);
                    *len -= step;
                    (step, *len)
                }
                Chunk::Shared { bytes, resync } => {
                    let step = count.min(bytes.len());
                    bytes.advance(step);
                    sent.payload += step;
                    if *resync {
                        sent.resync += step;
                    }
                    (step, bytes.len())
                }
            };
            count -= step;
            if left == 0 {
                self.chunks.pop_front();
            }
        }
        if self.chunks.is_empty() {
            // Starts again at the beginning of the same allocation.
            self.small.clear();
        }
        sent
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.small.clear();
        self.queued = 0;
    }

    /// All queued bytes in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut slices = vec![IoSlice::new(&[]); self.chunks.len()];
        let filled = self.slices(&mut slices);
        slices.iter().take(filled).flat_map(|slice| slice.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_in_order_through_any_short_write() {
        for step in 1..12 {
            let mut outbox = Outbox::new();
            outbox.push_small(b"abc");
            outbox.push_small(b"de");
            outbox.push_shared(Bytes::from_static(b"FGHI"), true);
            outbox.push_small(b"jk");
            outbox.push_shared(Bytes::from_static(b"LMN"), false);
            let (mut seen, mut payload, mut resync) = (Vec::new(), 0, 0);
            while !outbox.is_empty() {
                let all = outbox.to_vec();
                let now = step.min(all.len());
                seen.extend_from_slice(&all[..now]);
                let sent = outbox.advance(now);
                payload += sent.payload;
                resync += sent.resync;
            }
            assert_eq!(seen, b"abcdeFGHIjkLMN");
            assert_eq!((payload, resync), (7, 4));
        }
    }
}
