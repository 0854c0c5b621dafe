//! What comes in from an initiator, cut into PDUs.
//!
//! ```text
//!   Header ──small data──────────────▶ Shared  (in the receive buffer, taken by reference)
//!          ──data of a large command─▶ Own     (behind what came before; large pieces are read
//!          ──unwanted data───────────▶ Drop     straight to where they belong)
//! ```
//!
//! Invariant: digests are checked before anything is acted on. Memory is taken for data only once
//! the session said where it goes.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::limits::{
    AHS_WORDS_MAX, OWN_BUFFER_BYTES, RECEIVE_BYTES, RECV_SEGMENT_BYTES, SHORT_READ_BYTES,
};
use crate::wire::{Crc, HEADER_BYTES, Header, crc, padding};

/// Where the data of a PDU goes.
#[derive(Debug)]
pub(crate) enum Place {
    /// It stays where it is.
    Shared,
    /// At most so many bytes of it go behind what is in here, the rest nowhere.
    Into(BytesMut, usize),
    /// Nowhere.
    Drop,
}

/// Data that has come.
#[derive(Debug)]
pub(crate) enum Body {
    /// By reference.
    Shared(Bytes),
    /// Behind what was there.
    Own(BytesMut),
    /// It went nowhere.
    Dropped,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Item {
    /// A whole PDU.
    Pdu(Header, Body),
    /// Nothing until more bytes come.
    NeedBytes,
}

/// Why nothing more can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("header does not match its digest")]
    HeaderDigest,
    #[error("data does not match its digest")]
    DataDigest(Header),
    #[error("data of {0} bytes is more than was agreed on")]
    TooLong(usize),
    #[error("additional header of {0} words")]
    LongHeader(u8),
}

/// The receiving side of a connection.
#[derive(Debug)]
pub(crate) struct Receiver {
    header_digest: bool,
    data_digest: bool,
    buffer: BytesMut,
    state: State,
    /// The last PDU had large data, so the next one probably has too.
    short: bool,
}

#[derive(Debug)]
enum State {
    Header,
    Shared { header: Header },
    Own { header: Header, into: BytesMut, from: usize, keep: usize, sum: Option<Crc>, left: usize },
    Tail { header: Header, into: BytesMut, sum: Option<Crc> },
    Drop { header: Header, left: usize },
}

impl Receiver {
    /// Goes on behind what login had received.
    pub(crate) fn new((header_digest, data_digest): (bool, bool), received: &[u8]) -> Self {
        let mut buffer = BytesMut::with_capacity(RECEIVE_BYTES.max(received.len()));
        buffer.extend_from_slice(received);
        Self { header_digest, data_digest, buffer, state: State::Header, short: false }
    }

    /// Whether a call of [`Self::next`] could find anything.
    pub(crate) fn has_bytes(&self) -> bool {
        !self.buffer.is_empty() || !matches!(self.state, State::Header)
    }

    /// The next PDU. `gate` is asked once for each header.
    #[expect(clippy::too_many_lines, reason = "one arm for each state, each short")]
    pub(crate) fn next(
        &mut self,
        mut gate: impl FnMut(&Header) -> Place,
    ) -> Result<Item, ReceiveError> {
        loop {
            match std::mem::replace(&mut self.state, State::Header) {
                State::Header => {
                    let Some((header, bytes)) = self.header()? else {
                        return Ok(Item::NeedBytes);
                    };
                    let place = gate(&header);
                    self.buffer.advance(bytes);
                    self.short = header.data_len() >= OWN_BUFFER_BYTES;
                    self.state = self.begin(header, place);
                }
                State::Shared { header } => {
                    let (len, whole) = (header.data_len(), self.tailed(header.data_len()));
                    if self.buffer.len() < whole {
                        self.state = State::Shared { header };
                        return Ok(Item::NeedBytes);
                    }
                    let mut all = self.buffer.split_to(whole);
                    if self.data_digest && len > 0 {
                        let digest = all.split_off(whole - 4);
                        if crc(&all) != *digest {
                            return Err(ReceiveError::DataDigest(header));
                        }
                    }
                    all.truncate(len);
                    return Ok(Item::Pdu(header, Body::Shared(all.freeze())));
                }
                State::Own { header, mut into, from, keep, mut sum, mut left } => {
                    // What was read straight into place counts already; the rest is here.
                    let here = left.min(self.buffer.len());
                    let piece = &self.buffer[..here];
                    if let Some(sum) = &mut sum {
                        sum.update(piece);
                    }
                    let wanted = keep.saturating_sub(into.len() - from).min(here);
                    into.extend_from_slice(&piece[..wanted]);
                    self.buffer.advance(here);
                    left -= here;
                    if left > 0 {
                        self.state = State::Own { header, into, from, keep, sum, left };
                        return Ok(Item::NeedBytes);
                    }
                    self.state = State::Tail { header, into, sum };
                }
                State::Tail { header, into, sum } => {
                    let len = header.data_len();
                    let tail = self.tailed(len) - len;
                    if self.buffer.len() < tail {
                        self.state = State::Tail { header, into, sum };
                        return Ok(Item::NeedBytes);
                    }
                    let tail = self.buffer.split_to(tail);
                    if let Some(mut sum) = sum {
                        let (padding, digest) = tail.split_at(padding(len));
                        sum.update(padding);
                        if sum.finish() != *digest {
                            return Err(ReceiveError::DataDigest(header));
                        }
                    }
                    return Ok(Item::Pdu(header, Body::Own(into)));
                }
                State::Drop { header, mut left } => {
                    let here = left.min(self.buffer.len());
                    self.buffer.advance(here);
                    left -= here;
                    if left > 0 {
                        self.state = State::Drop { header, left };
                        return Ok(Item::NeedBytes);
                    }
                    return Ok(Item::Pdu(header, Body::Dropped));
                }
            }
        }
    }

    /// The next header, if all of it is here, with its length on the wire.
    fn header(&self) -> Result<Option<(Header, usize)>, ReceiveError> {
        let Some(header) = Header::read(&self.buffer) else { return Ok(None) };
        let words = usize::from(header.ahs_words);
        if words > AHS_WORDS_MAX {
            return Err(ReceiveError::LongHeader(header.ahs_words));
        }
        if header.data_len() > RECV_SEGMENT_BYTES as usize {
            return Err(ReceiveError::TooLong(header.data_len()));
        }
        let len = HEADER_BYTES + 4 * words;
        let whole = len + if self.header_digest { 4 } else { 0 };
        let Some(bytes) = self.buffer.get(..whole) else { return Ok(None) };
        if self.header_digest && crc(&bytes[..len]) != bytes[len..] {
            return Err(ReceiveError::HeaderDigest);
        }
        Ok(Some((header, whole)))
    }

    fn begin(&self, header: Header, place: Place) -> State {
        let len = header.data_len();
        match place {
            Place::Into(into, keep) if len > 0 => {
                let sum = self.data_digest.then(Crc::default);
                State::Own { header, from: into.len(), into, keep, sum, left: len }
            }
            Place::Drop => State::Drop { header, left: self.tailed(len) },
            Place::Into(into, _) => State::Tail { header, into, sum: None },
            Place::Shared => State::Shared { header },
        }
    }

    /// Data with its padding and digest.
    const fn tailed(&self, len: usize) -> usize {
        len + padding(len) + if self.data_digest && len > 0 { 4 } else { 0 }
    }

    /// Reads as much as there is; 0 bytes mean that the initiator closed its side.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        if let State::Own { into, from, keep, sum, left, .. } = &mut self.state {
            let room = keep.saturating_sub(into.len() - *from).min(*left);
            if room >= OWN_BUFFER_BYTES && self.buffer.is_empty() {
                let before = into.len();
                let read = {
                    let mut target = (&mut *into).limit(room);
                    pin!(stream.read_buf(&mut target)).poll(cx)
                };
                if let Poll::Ready(Ok(bytes)) = &read {
                    *left -= *bytes;
                    if let Some(sum) = sum {
                        sum.update(&into[before..]);
                    }
                }
                return read;
            }
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

    /// Sees to it that the buffer can take what the PDU under way still needs.
    ///
    /// Data is part of the buffer by reference. Once all of it is done with, its memory is used
    /// again from the start; until then what is left of it, and then another.
    fn make_room(&mut self) {
        const ROOM_MIN: usize = RECEIVE_BYTES / 8;
        let whole = match &self.state {
            State::Shared { header } => self.tailed(header.data_len()),
            State::Header => HEADER_BYTES + 4 * AHS_WORDS_MAX + 4,
            State::Own { .. } | State::Tail { .. } | State::Drop { .. } => ROOM_MIN,
        };
        let spare = self.buffer.capacity() - self.buffer.len();
        let missing = whole.saturating_sub(self.buffer.len());
        if !self.buffer.is_empty() && spare >= missing.max(ROOM_MIN) {
            return;
        }
        let wanted = RECEIVE_BYTES.saturating_sub(self.buffer.len()).max(missing);
        if !self.buffer.try_reclaim(wanted) && spare < missing.max(ROOM_MIN) {
            let mut fresh = BytesMut::with_capacity(RECEIVE_BYTES.max(whole));
            fresh.extend_from_slice(&self.buffer);
            self.buffer = fresh;
        }
    }
}

#[cfg(test)]
mod tests;
