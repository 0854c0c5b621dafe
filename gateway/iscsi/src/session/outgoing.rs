//! The PDUs that are to be sent, and how they are: all that are ready in one vectored write.
//!
//! Invariant: headers lie in one buffer that is used again and again, data is sent from where the
//! volume left it, zeroes from one page. What waits here is bounded by the session, which takes no
//! command in while too much does.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use block::Segment;
use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use tokio::io::AsyncWrite;
use zerocopy::IntoBytes;

use crate::limits::{SLICES_MAX, ZERO_PAGE_BYTES};
use crate::wire::{Crc, Header, crc, padding};

static ZEROES: [u8; ZERO_PAGE_BYTES] = [0; ZERO_PAGE_BYTES];

/// The buffer for headers shrinks back to this after a burst of long ones.
const HEADS_BYTES: usize = 64 << 10;

/// Data up to this size is copied behind its header; what is longer has memory of its own, which is
/// let go as soon as it is sent.
const COPIED_BYTES: usize = 256;

#[derive(Debug)]
enum Piece {
    /// So many bytes of `heads`, from where the one before ended.
    Head(usize),
    Data(Bytes),
    Zeroes(usize),
}

/// The sending side of a connection.
#[derive(Debug)]
pub(crate) struct Outgoing {
    header_digest: bool,
    data_digest: bool,
    heads: Vec<u8>,
    /// How much of `heads` was sent.
    heads_sent: usize,
    pieces: VecDeque<Piece>,
    pdus: usize,
    payload_bytes: u64,
    sent_bytes: u64,
}

impl Outgoing {
    pub(crate) const fn new(header_digest: bool, data_digest: bool) -> Self {
        Self {
            header_digest,
            data_digest,
            heads: Vec::new(),
            heads_sent: 0,
            pieces: VecDeque::new(),
            pdus: 0,
            payload_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// Appends a PDU whose data is these bytes. They are copied: what an initiator sent lies in the
    /// receive buffer, and a few bytes that wait to go back would keep all of it.
    pub(crate) fn pdu(&mut self, header: Header, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.header(header.with_data_len(len));
        if data.len() > COPIED_BYTES {
            self.data(Bytes::copy_from_slice(data));
        } else {
            self.head(data);
        }
        let digest = self.data_digest.then(|| {
            let mut sum = Crc::default();
            sum.update(data);
            sum
        });
        self.tail(data.len(), digest);
    }

    /// Appends a PDU whose data is `len` bytes off the front of these segments, at most 2²⁴ − 1.
    pub(crate) fn pdu_of(&mut self, header: Header, segments: &mut Front<'_>, len: u32) {
        self.header(header.with_data_len(len));
        let mut digest = self.data_digest.then(Crc::default);
        let mut left = len as usize;
        while left > 0
            && let Some(segment) = segments.next(left)
        {
            match segment {
                Segment::Data(data) => {
                    left -= data.len();
                    if let Some(sum) = &mut digest {
                        sum.update(&data);
                    }
                    self.data(data);
                }
                Segment::Zero(zeroes) => {
                    let zeroes = usize::try_from(zeroes).unwrap_or(left);
                    left -= zeroes;
                    self.zeroes(zeroes, digest.as_mut());
                }
            }
        }
        // A volume that answers with less than was asked for has a bug; the host gets zeroes and
        // not another command's bytes.
        self.zeroes(left, digest.as_mut());
        self.tail(len as usize, digest);
    }

    fn header(&mut self, header: Header) {
        self.pdus += 1;
        let bytes = header.as_bytes();
        self.head(bytes);
        if self.header_digest {
            self.head(&crc(bytes));
        }
    }

    /// Padding, and the digest of data.
    fn tail(&mut self, len: usize, digest: Option<Crc>) {
        let padding = &[0; 3][..padding(len)];
        self.head(padding);
        if let Some(mut sum) = digest.filter(|_| len > 0) {
            sum.update(padding);
            self.head(&sum.finish());
        }
    }

    fn head(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.heads.extend_from_slice(bytes);
        if let Some(Piece::Head(len)) = self.pieces.back_mut() {
            *len += bytes.len();
        } else {
            self.pieces.push_back(Piece::Head(bytes.len()));
        }
    }

    fn data(&mut self, data: Bytes) {
        if data.len() <= COPIED_BYTES {
            return self.head(&data);
        }
        self.payload_bytes += data.len() as u64;
        self.pieces.push_back(Piece::Data(data));
    }

    fn zeroes(&mut self, len: usize, digest: Option<&mut Crc>) {
        if let Some(sum) = digest {
            let mut left = len;
            while left > 0 {
                let here = left.min(ZEROES.len());
                sum.update(&ZEROES[..here]);
                left -= here;
            }
        }
        self.payload_bytes += len as u64;
        if len > 0 {
            self.pieces.push_back(Piece::Zeroes(len));
        }
    }

    /// Whether everything was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// PDUs since the last time that everything was sent.
    pub(crate) const fn pdus(&self) -> usize {
        self.pdus
    }

    /// Bytes that are kept until they are sent, headers and what is copied behind them too: whoever
    /// reads none of its answers is bounded by this, whatever it asked for.
    pub(crate) const fn bytes(&self) -> u64 {
        self.payload_bytes + self.heads.len() as u64
    }

    /// Bytes that were ever sent, to see whether any were.
    pub(crate) const fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Sends; ready when there is nothing left to send.
    pub(crate) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        while !self.pieces.is_empty() {
            let slices = self.slices();
            let sent = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices))?;
            drop(slices);
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(sent);
        }
        self.heads.clear();
        self.heads.shrink_to(HEADS_BYTES);
        self.heads_sent = 0;
        self.pdus = 0;
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
                    let mut left = *len;
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
                    let here = sent.min(*len);
                    *len -= here;
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

/// Segments that are taken off the front, piece by piece, without a copy.
#[derive(Debug)]
pub(crate) struct Front<'s> {
    segments: std::slice::Iter<'s, Segment>,
    rest: Option<Segment>,
}

impl<'s> Front<'s> {
    pub(crate) fn of(segments: &'s [Segment]) -> Self {
        Self { segments: segments.iter(), rest: None }
    }

    /// At most `max` bytes, in one piece.
    fn next(&mut self, max: usize) -> Option<Segment> {
        let mut segment = match self.rest.take() {
            Some(rest) => rest,
            None => self.segments.find(|segment| !segment.is_empty())?.clone(),
        };
        if segment.len() <= max as u64 {
            return Some(segment);
        }
        let first = match &mut segment {
            Segment::Data(data) => Segment::Data(data.split_to(max)),
            Segment::Zero(len) => {
                *len -= max as u64;
                Segment::Zero(max as u64)
            }
        };
        self.rest = Some(segment);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::wire::HEADER_BYTES;

    #[tokio::test]
    async fn data_is_cut_padded_and_summed() {
        let mut outgoing = Outgoing::new(true, true);
        let segments = [Segment::Data(Bytes::from(vec![7; 1000])), Segment::Zero(70_001)];
        let mut front = Front::of(&segments);
        outgoing.pdu_of(Header::default(), &mut front, 999);
        outgoing.pdu_of(Header::default(), &mut front, 70_002);
        outgoing.pdu(Header::default(), &[]);
        let mut sent = Vec::new();
        poll_fn(|cx| outgoing.poll_send(cx, &mut sent)).await.unwrap();
        assert!(outgoing.is_empty() && outgoing.bytes() == 0);
        let head = HEADER_BYTES + 4;
        let mut at = 0;
        for (len, digest) in [(999, 4), (70_002, 4), (0, 0)] {
            let header = Header::read(&sent[at..]).unwrap();
            assert_eq!(header.data_len(), len);
            assert_eq!(crc(&sent[at..at + HEADER_BYTES]), sent[at + HEADER_BYTES..at + head]);
            let padded = len + padding(len);
            let data = at + head..at + head + padded;
            if digest > 0 {
                assert_eq!(crc(&sent[data.clone()]), sent[data.end..data.end + 4]);
            }
            at = data.end + digest;
        }
        assert_eq!(at, sent.len());
        assert_eq!(sent[head + 998], 7);
        assert_eq!(sent[head + 1000 + 4 + head], 7);
        assert_eq!(sent[head + 1000 + 4 + head + 1], 0);
    }

    /// Pings of any length were copied behind their headers, where no limit saw them: whoever read no
    /// answer had the gateway keep 512 of them, of 256 KiB each.
    #[tokio::test]
    async fn what_is_sent_back_counts_until_it_is_sent_whatever_its_length() {
        let mut outgoing = Outgoing::new(true, true);
        let pings: Vec<Vec<u8>> =
            [5, COPIED_BYTES, COPIED_BYTES + 1, 200_000].map(|len| vec![7; len]).into();
        let mut least = 0;
        for ping in &pings {
            outgoing.pdu(Header::default(), ping);
            least += (HEADER_BYTES + ping.len()) as u64;
            assert!(outgoing.bytes() >= least, "{} of {least}", outgoing.bytes());
        }
        assert!(outgoing.heads.len() < 1000, "what is long is let go when it is sent");
        let mut sent = Vec::new();
        poll_fn(|cx| outgoing.poll_send(cx, &mut sent)).await.unwrap();
        assert_eq!(outgoing.bytes(), 0);
        let mut rest = &sent[..];
        for ping in &pings {
            let header = Header::read(rest).unwrap();
            assert_eq!(header.data_len(), ping.len());
            let padded = ping.len() + padding(ping.len());
            let (data, behind) = rest[HEADER_BYTES + 4..].split_at(padded);
            assert_eq!(&data[..ping.len()], &ping[..]);
            assert_eq!(crc(data), behind[..4]);
            rest = &behind[4..];
        }
        assert!(rest.is_empty());
    }
}
