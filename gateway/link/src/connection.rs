//! A [`Link`] over any ordered stream of bytes.
//!
//! Invariant: messages are delivered whole and in order; after the first error nothing more is.
//! The two directions end on their own, so that a goodbye that came in can still be read when
//! sending has failed already.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use block::{Identity, Link, LinkError, LinkTraffic, Message};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::limits::{INBOX_BYTES, LARGE_FRAME_BYTES, RECEIVE_TURN_BYTES};
use crate::shelf::Shelf;
use crate::wire::{Decoder, Frame, HEADER_BYTES, Outbox, encode};

/// Slices in one vectored write: with 4 KiB changes, as much as TLS buffers at once.
const SLICES: usize = 256;
/// A read into less room than one TLS record would be cut in two.
const ROOM_BYTES: usize = 16 << 10;

/// A connection to another gateway, over the stream `S`.
///
/// [`Link::queued_bytes`] counts what this connection holds. The stream below may hold more: TLS up
/// to [`crate::limits::TLS_BUFFER_BYTES`].
pub struct Connection<S> {
    stream: S,
    peer: Identity,
    version: u16,
    inbox: BytesMut,
    shelf: Shelf,
    outbox: Outbox,
    /// Bytes were written that the stream may still hold.
    unflushed: bool,
    receiving_ended: Option<LinkError>,
    sending_ended: Option<LinkError>,
    traffic: LinkTraffic,
}

impl<S> Connection<S> {
    /// A connection to `peer` in a protocol version that both speak. `inbox` are bytes that came
    /// in already.
    pub fn new(stream: S, peer: Identity, version: u16, inbox: BytesMut) -> Self {
        let received_bytes = inbox.len() as u64;
        Self {
            stream,
            peer,
            version,
            inbox,
            shelf: Shelf::default(),
            outbox: Outbox::new(),
            unflushed: false,
            receiving_ended: None,
            sending_ended: None,
            traffic: LinkTraffic { received_bytes, ..LinkTraffic::default() },
        }
    }

    /// The stream below.
    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The same connection over another stream, which continues this one.
    pub(crate) fn map<T>(self, change: impl FnOnce(S) -> T) -> Connection<T> {
        Connection {
            stream: change(self.stream),
            peer: self.peer,
            version: self.version,
            inbox: self.inbox,
            shelf: self.shelf,
            outbox: self.outbox,
            unflushed: self.unflushed,
            receiving_ended: self.receiving_ended,
            sending_ended: self.sending_ended,
            traffic: self.traffic,
        }
    }

    /// Takes one message of those that are here.
    fn cut(&mut self) -> Option<Message> {
        if self.receiving_ended.is_some() {
            return None;
        }
        match Decoder::messages(self.version).next(&mut self.inbox) {
            Ok(Some(Frame::Message(message))) => Some(message),
            Ok(None) => None,
            Ok(Some(Frame::Greeting(_))) => {
                self.receiving_ended = Some(LinkError::Corrupt("greeting among messages"));
                None
            }
            Err(corrupt) => {
                self.receiving_ended = Some(corrupt.into());
                None
            }
        }
    }

    /// Room for the rest of the frame that is coming in, and at least for a large read.
    fn make_room(&mut self) {
        let missing = Decoder::messages(self.version).missing(&self.inbox).unwrap_or(HEADER_BYTES);
        let room = self.inbox.capacity() - self.inbox.len();
        let large = missing + self.inbox.len() >= LARGE_FRAME_BYTES;
        // What has just begun is moved for little.
        let begins = large && self.inbox.len() <= 2 * ROOM_BYTES;
        if begins && !Shelf::is_housed(&self.inbox) {
            // Behind it a whole record has room, so that it is not moved once more near its end.
            self.shelf.rehouse(&mut self.inbox, missing + ROOM_BYTES);
        } else if room < missing.max(ROOM_BYTES) {
            self.shelf.rehouse(&mut self.inbox, missing.max(INBOX_BYTES));
        }
    }
}

impl<S: AsyncRead + Unpin> Connection<S> {
    /// Reads once; says how many bytes came, 0 when the stream ended.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        self.make_room();
        let count = match pin!(self.stream.read_buf(&mut self.inbox)).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => {
                self.receiving_ended = Some(self.ending(&error));
                return Poll::Ready(0);
            }
        };
        if count == 0 {
            self.receiving_ended = Some(self.ending(&io::ErrorKind::UnexpectedEof.into()));
        }
        self.traffic.received_bytes += count as u64;
        Poll::Ready(count)
    }

    fn ending(&self, error: &io::Error) -> LinkError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof if self.inbox.is_empty() => LinkError::Closed,
            io::ErrorKind::UnexpectedEof => LinkError::Io("connection ended in mid-frame".into()),
            _ => broken(error),
        }
    }

    /// Waits for one message; what came behind it stays.
    ///
    /// # Errors
    /// As [`Link::poll_receive`].
    ///
    /// # Cancellation
    /// Safe: a message that came in half stays buffered.
    pub async fn receive_one(&mut self) -> Result<Message, LinkError> {
        std::future::poll_fn(|context| {
            loop {
                if let Some(message) = self.cut() {
                    return Poll::Ready(Ok(message));
                }
                if let Some(error) = &self.receiving_ended {
                    return Poll::Ready(Err(error.clone()));
                }
                if self.poll_fill(context).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

/// An error of the stream, as the mirror sees it.
pub(crate) fn broken(error: &io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => LinkError::Closed,
        // Only TLS says so, of records that it cannot open.
        io::ErrorKind::InvalidData => LinkError::Corrupt("damaged TLS record"),
        io::ErrorKind::TimedOut => LinkError::Timeout,
        _ => LinkError::Io(error.to_string()),
    }
}

impl<S: AsyncWrite + Unpin> Connection<S> {
    fn poll_write_all(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let mut slices = [io::IoSlice::new(&[]); SLICES];
            let filled = self.outbox.slices(&mut slices);
            let slices = slices.get(..filled).unwrap_or_default();
            let written = match Pin::new(&mut self.stream).poll_write_vectored(context, slices) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
            };
            self.unflushed = true;
            self.traffic.sent_bytes += written as u64;
            let sent = self.outbox.advance(written);
            self.traffic.sent_payload_bytes += sent.payload as u64;
            self.traffic.sent_resync_bytes += sent.resync as u64;
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link for Connection<S> {
    fn peer(&self) -> &Identity {
        &self.peer
    }

    fn version(&self) -> u16 {
        self.version
    }

    fn push(&mut self, message: Message) {
        if self.sending_ended.is_some() {
            return;
        }
        if let Err(unsendable) = encode(self.version, message, &mut self.outbox) {
            // The stream of messages would have a hole: better none at all.
            self.outbox.clear();
            self.sending_ended = Some(unsendable.into());
        }
    }

    fn queued_bytes(&self) -> u64 {
        self.outbox.len() as u64
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if let Some(error) = &self.sending_ended {
            return Poll::Ready(Err(error.clone()));
        }
        if let Some(error @ LinkError::Corrupt(_)) = &self.receiving_ended {
            // A peer that talks nonsense gets nothing more, not even acknowledgements.
            return Poll::Ready(Err(error.clone()));
        }
        match self.poll_write_all(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => {
                let error = broken(&error);
                self.outbox.clear();
                self.sending_ended = Some(error.clone());
                Poll::Ready(Err(error))
            }
        }
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Vec<Message>,
    ) -> Poll<Result<(), LinkError>> {
        let (before, mut taken_bytes) = (into.len(), 0);
        loop {
            while let Some(message) = self.cut() {
                into.push(message);
            }
            let any = into.len() > before;
            if let Some(error) = &self.receiving_ended {
                return Poll::Ready(if any { Ok(()) } else { Err(error.clone()) });
            }
            if taken_bytes >= RECEIVE_TURN_BYTES {
                if any {
                    return Poll::Ready(Ok(()));
                }
                // In the middle of a large change: others have their turn, then it goes on.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_fill(context) {
                Poll::Pending if any => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(count) => taken_bytes += count,
            }
        }
    }

    fn traffic(&self) -> LinkTraffic {
        self.traffic
    }
}
