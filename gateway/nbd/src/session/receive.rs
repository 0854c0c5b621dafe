//! What comes in from a client, cut into requests.
//!
//! ```text
//!   Header ──admitted, small payload──▶ Shared  (in the receive buffer, taken by reference)
//!          ──admitted, large payload──▶ Own     (read straight into a buffer of its size)
//!          ──refused──────────────────▶ Discard (the payload is consumed, then answered)
//! ```
//!
//! Invariant: memory is taken for a payload only once its request was admitted. A payload is
//! copied only as far as it arrived with the header of a large request.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::admit::{Admission, Refused};
use crate::limits::{
    OWN_BUFFER_BYTES, PAYLOAD_BYTES_PER_SECOND_MIN, PAYLOAD_GRACE, RECEIVE_BYTES,
    REFUSED_BYTES_MAX, SHORT_READ_BYTES,
};
use crate::wire::{HeaderStyle, Malformed, RequestHeader};
use host::payloads;

/// What the session decides about a header.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It goes on.
    Take(Admission),
    /// It is answered with an error once its payload is consumed.
    Refuse(Refused),
    /// Not now: too much is in flight.
    Wait,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Item {
    /// A whole request.
    Request(RequestHeader, Admission, Bytes),
    /// A refused request, whole.
    Refused(RequestHeader, Refused),
    /// Nothing until more bytes come.
    NeedBytes,
    /// A request that has to wait.
    Waiting,
}

/// Why nothing more can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("payload of a refused request is absurdly long")]
    Absurd,
}

/// The receiving side of a connection.
#[derive(Debug)]
pub(crate) struct Receiver {
    style: HeaderStyle,
    buffer: BytesMut,
    state: State,
    /// The last request had a buffer of its own, so the next one probably has too.
    short: bool,
}

#[derive(Debug)]
enum State {
    Header,
    Shared {
        header: RequestHeader,
        admission: Admission,
        len: usize,
    },
    Own {
        header: RequestHeader,
        admission: Admission,
        payload: BytesMut,
        len: usize,
        since: Instant,
    },
    Discard {
        header: RequestHeader,
        refused: Refused,
        left: u64,
    },
}

impl Receiver {
    /// Goes on behind what the handshake had received.
    pub(crate) fn new(style: HeaderStyle, received: &[u8]) -> Self {
        let mut buffer = BytesMut::with_capacity(RECEIVE_BYTES.max(received.len()));
        buffer.extend_from_slice(received);
        Self { style, buffer, state: State::Header, short: false }
    }

    /// Whether a call of [`Self::next`] could find anything.
    pub(crate) fn has_bytes(&self) -> bool {
        !self.buffer.is_empty() || !matches!(self.state, State::Header)
    }

    /// When the payload that is under way must have come, if others wait for its memory.
    pub(crate) fn payload_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Own { len, since, .. } => {
                let seconds = *len as u64 / PAYLOAD_BYTES_PER_SECOND_MIN;
                Some(*since + PAYLOAD_GRACE + std::time::Duration::from_secs(seconds))
            }
            State::Header | State::Shared { .. } | State::Discard { .. } => None,
        }
    }

    /// The next request. `gate` is asked once for each header that it lets through, and again for
    /// one that had to wait.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        mut gate: impl FnMut(&RequestHeader) -> Verdict,
    ) -> Result<Item, ReceiveError> {
        loop {
            match &mut self.state {
                State::Header => {
                    let Some(header) = RequestHeader::read(self.style, &self.buffer)? else {
                        return Ok(Item::NeedBytes);
                    };
                    match gate(&header) {
                        Verdict::Wait => return Ok(Item::Waiting),
                        Verdict::Refuse(refused) => self.refuse(header, refused)?,
                        Verdict::Take(admission) => {
                            if let Some(item) = self.take(header, admission, now) {
                                return Ok(item);
                            }
                        }
                    }
                }
                State::Shared { header, admission, len } => {
                    if self.buffer.len() < *len {
                        return Ok(Item::NeedBytes);
                    }
                    let payload = self.buffer.split_to(*len).freeze();
                    let item = Item::Request(*header, *admission, payload);
                    self.state = State::Header;
                    return Ok(item);
                }
                State::Own { header, admission, payload, len, .. } => {
                    if payload.len() < *len {
                        return Ok(Item::NeedBytes);
                    }
                    let payload = payloads::filled(std::mem::take(payload)).freeze();
                    let item = Item::Request(*header, *admission, payload);
                    self.state = State::Header;
                    return Ok(item);
                }
                State::Discard { header, refused, left } => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                    self.buffer.advance(here);
                    *left -= here as u64;
                    if *left > 0 {
                        return Ok(Item::NeedBytes);
                    }
                    let item = Item::Refused(*header, *refused);
                    self.state = State::Header;
                    return Ok(item);
                }
            }
        }
    }

    fn refuse(&mut self, header: RequestHeader, refused: Refused) -> Result<(), ReceiveError> {
        let left = header.payload_len(self.style);
        if left > REFUSED_BYTES_MAX {
            return Err(ReceiveError::Absurd);
        }
        self.buffer.advance(self.style.request_bytes());
        self.state = State::Discard { header, refused, left };
        Ok(())
    }

    fn take(&mut self, header: RequestHeader, admission: Admission, now: Instant) -> Option<Item> {
        self.buffer.advance(self.style.request_bytes());
        // What was admitted is no longer than `REQUEST_BYTES_MAX`.
        let len = usize::try_from(header.payload_len(self.style)).unwrap_or(usize::MAX);
        self.short = len >= OWN_BUFFER_BYTES;
        if len == 0 {
            return Some(Item::Request(header, admission, Bytes::new()));
        }
        if !self.short {
            self.state = State::Shared { header, admission, len };
            return None;
        }
        let mut payload = payloads::room(len);
        let here = len.min(self.buffer.len());
        payload.extend_from_slice(&self.buffer[..here]);
        self.buffer.advance(here);
        self.state = State::Own { header, admission, payload, len, since: now };
        None
    }

    /// Reads as much as there is; 0 bytes mean that the client closed its side.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        if let State::Own { payload, len, .. } = &mut self.state {
            let left = len.saturating_sub(payload.len());
            let mut target = payload.limit(left);
            return pin!(stream.read_buf(&mut target)).poll(cx);
        }
        self.make_room();
        let room = if self.short && matches!(self.state, State::Header) {
            SHORT_READ_BYTES
        } else {
            RECEIVE_BYTES
        };
        let room = room.min(self.buffer.capacity() - self.buffer.len());
        let mut target = (&mut self.buffer).limit(room);
        pin!(stream.read_buf(&mut target)).poll(cx)
    }

    /// Sees to it that the buffer can take what the request under way still needs.
    ///
    /// Payloads are parts of the buffer by reference. Once all of them are done with, its memory is
    /// used again from the start; until then what is left of it, and then another.
    fn make_room(&mut self) {
        const ROOM_MIN: usize = RECEIVE_BYTES / 8;
        let whole = match &self.state {
            State::Shared { len, .. } => *len,
            State::Header | State::Own { .. } | State::Discard { .. } => self.style.request_bytes(),
        };
        let spare = self.buffer.capacity() - self.buffer.len();
        let missing = whole.saturating_sub(self.buffer.len());
        if !self.buffer.is_empty() && spare >= missing.max(ROOM_MIN) {
            return;
        }
        let wanted = RECEIVE_BYTES.saturating_sub(self.buffer.len()).max(missing);
        if !self.buffer.try_reclaim(wanted) && spare < missing.max(ROOM_MIN) {
            let mut fresh = BytesMut::with_capacity(RECEIVE_BYTES);
            fresh.extend_from_slice(&self.buffer);
            self.buffer = fresh;
        }
    }
}

#[cfg(test)]
mod tests;
