//! The replies that are to be sent, and how they are: all that are ready in one vectored write.
//!
//! Invariant: headers lie in one buffer that is used again and again, data is sent from where the
//! volume left it, zeroes from one page. What waits here is bounded by the session, which takes no
//! request in while too much does.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use tokio::io::AsyncWrite;

use crate::limits::{SLICES_MAX, ZERO_PAGE_BYTES};
use crate::stream::HostStream;

static ZEROES: [u8; ZERO_PAGE_BYTES] = [0; ZERO_PAGE_BYTES];

/// The buffer for headers shrinks back to this after a burst of long ones.
const HEADS_BYTES: usize = 64 << 10;

#[derive(Debug)]
enum Piece {
    /// So many bytes of `heads`, from where the one before ended.
    Head(usize),
    Data(Bytes),
    Zeroes(u64),
}

/// The sending side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    heads: Vec<u8>,
    /// How much of `heads` was sent.
    heads_sent: usize,
    pieces: VecDeque<Piece>,
    replies: usize,
    payload_bytes: u64,
    sent_bytes: u64,
    unflushed: bool,
}

impl Outgoing {
    /// Appends what `write` appends.
    pub(crate) fn head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.heads.len();
        write(&mut self.heads);
        let added = self.heads.len() - before;
        if let Some(Piece::Head(len)) = self.pieces.back_mut() {
            *len += added;
        } else {
            self.pieces.push_back(Piece::Head(added));
        }
    }

    /// Appends data by reference.
    pub(crate) fn data(&mut self, data: Bytes) {
        self.payload_bytes += data.len() as u64;
        if !data.is_empty() {
            self.pieces.push_back(Piece::Data(data));
        }
    }

    /// Appends zeroes.
    pub(crate) fn zeroes(&mut self, len: u64) {
        self.payload_bytes += len;
        if len > 0 {
            self.pieces.push_back(Piece::Zeroes(len));
        }
    }

    /// A reply is complete.
    pub(crate) const fn reply(&mut self) {
        self.replies += 1;
    }

    /// Whether everything was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && !self.unflushed
    }

    /// Replies since the last time that everything was sent.
    pub(crate) const fn replies(&self) -> usize {
        self.replies
    }

    /// Bytes of payload that wait.
    pub(crate) const fn bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Bytes that were ever sent, to see whether any were.
    pub(crate) const fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Sends; ready when there is nothing left to send.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut HostStream,
    ) -> Poll<io::Result<()>> {
        while !self.pieces.is_empty() {
            let slices = self.slices();
            let sent = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices))?;
            drop(slices);
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = stream.is_tls();
            self.advance(sent);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.heads.clear();
        self.heads.shrink_to(HEADS_BYTES);
        self.heads_sent = 0;
        self.replies = 0;
        Poll::Ready(Ok(()))
    }

    fn slices(&self) -> SmallVec<[IoSlice<'_>; SLICES_MAX]> {
        let mut slices = SmallVec::new();
        let mut head = self.heads_sent;
        for piece in &self.pieces {
            if slices.len() == SLICES_MAX {
                break;
            }
            match piece {
                Piece::Head(len) => {
                    slices.push(IoSlice::new(&self.heads[head..head + len]));
                    head += len;
                }
                Piece::Data(data) => slices.push(IoSlice::new(data)),
                Piece::Zeroes(len) => {
                    let mut left = usize::try_from(*len).unwrap_or(usize::MAX);
                    while left > 0 && slices.len() < SLICES_MAX {
                        let here = left.min(ZEROES.len());
                        slices.push(IoSlice::new(&ZEROES[..here]));
                        left -= here;
                    }
                }
            }
        }
        slices
    }

    fn advance(&mut self, mut sent: usize) {
        self.sent_bytes += sent as u64;
        while sent > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                return;
            };
            let (here, done) = match piece {
                Piece::Head(len) => {
                    let here = sent.min(*len);
                    *len -= here;
                    self.heads_sent += here;
                    (here, *len == 0)
                }
                Piece::Data(data) => {
                    let here = sent.min(data.len());
                    data.advance(here);
                    self.payload_bytes -= here as u64;
                    (here, data.is_empty())
                }
                Piece::Zeroes(len) => {
                    let here = usize::try_from(*len).unwrap_or(usize::MAX).min(sent);
                    *len -= here as u64;
                    self.payload_bytes -= here as u64;
                    (here, *len == 0)
                }
            };
            sent -= here;
            if done {
                self.pieces.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However the kernel cuts it, the same bytes go out in the same order.
        #[test]
        fn what_is_sent_is_what_was_queued(
            parts in proptest::collection::vec((0u8..3, 0usize..200_000), 1..40),
            steps in proptest::collection::vec(1usize..70_000, 1..20),
        ) {
            let mut outgoing = Outgoing::default();
            let mut expected = Vec::new();
            for (index, (kind, len)) in parts.iter().enumerate() {
                let fill = vec![u8::try_from(index).unwrap() + 1; len % 5000];
                match kind {
                    0 => outgoing.head(|out| out.extend(&fill)),
                    1 => outgoing.data(Bytes::from(fill.clone())),
                    _ => outgoing.zeroes(*len as u64),
                }
                match kind {
                    2 => expected.resize(expected.len() + len, 0),
                    _ => expected.extend(&fill),
                }
            }
            let mut sent: Vec<u8> = Vec::new();
            let mut steps = steps.iter().cycle();
            while sent.len() < expected.len() {
                let all: Vec<u8> = outgoing.slices().iter().flat_map(|s| s.to_vec()).collect();
                prop_assert!(!all.is_empty());
                let step = all.len().min(*steps.next().unwrap());
                sent.extend(&all[..step]);
                outgoing.advance(step);
            }
            prop_assert_eq!(sent, expected);
            prop_assert_eq!(outgoing.bytes(), 0);
        }
    }
}
