//! A simulated distance: bytes arrive a fixed time later than they did.
//!
//! Invariant: nothing is lost, reordered or made slower than the line below; only later. The
//! runtime's timer has a grain of 1 ms and rounds up, so a distance of 1 ms is felt as 1 to 2 ms.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::limits::{DISTANCE_BYTES_MAX, INBOX_BYTES};

/// One TLS record: what comes in at once.
const ROOM_BYTES: usize = 16 << 10;

/// A stream whose received bytes are held back. Both ends of a link delay what they receive, so
/// the round trip grows by the sum of their distances.
pub struct Delayed<S> {
    stream: S,
    distance: Duration,
    under_way: VecDeque<(Instant, Bytes)>,
    held_bytes: usize,
    /// How and when the stream below ended.
    end: Option<(Instant, Option<io::Error>)>,
    scratch: BytesMut,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Delayed<S> {
    /// Holds back what `stream` receives by `distance`. No distance is no delay.
    pub fn new(stream: S, distance: Duration) -> Self {
        Self {
            stream,
            distance,
            under_way: VecDeque::new(),
            held_bytes: 0,
            end: None,
            scratch: BytesMut::new(),
            timer: None,
        }
    }
}

impl<S: AsyncRead + Unpin> Delayed<S> {
    /// Takes in what came, unless too much is held already.
    fn pull(&mut self, context: &mut Context<'_>) {
        while self.end.is_none() && self.held_bytes < DISTANCE_BYTES_MAX {
            if self.scratch.capacity() - self.scratch.len() < ROOM_BYTES {
                self.scratch.reserve(INBOX_BYTES);
            }
            let read = pin!(self.stream.read_buf(&mut self.scratch)).poll(context);
            let due = Instant::now() + self.distance;
            match read {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => self.end = Some((due, None)),
                Poll::Ready(Err(error)) => self.end = Some((due, Some(error))),
                Poll::Ready(Ok(count)) => {
                    self.held_bytes += count;
                    self.under_way.push_back((due, self.scratch.split().freeze()));
                }
            }
        }
    }

    /// Ready when `due` is here.
    fn wait(&mut self, due: Instant, context: &mut Context<'_>) -> Poll<()> {
        if due <= Instant::now() {
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Delayed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.pull(context);
        if let Some((due, _)) = this.under_way.front() {
            let due = *due;
            ready!(this.wait(due, context));
        } else if let Some((due, _)) = &this.end {
            let due = *due;
            ready!(this.wait(due, context));
            return match this.end.as_mut().and_then(|(_, error)| error.take()) {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Ready(Ok(())),
            };
        }
        let Some((_, bytes)) = this.under_way.front_mut() else { return Poll::Pending };
        let now = bytes.len().min(into.remaining());
        into.put_slice(&bytes[..now]);
        bytes.advance(now);
        this.held_bytes -= now;
        if bytes.is_empty() {
            this.under_way.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Delayed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn bytes_and_the_end_arrive_later_and_in_order() {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let mut far = Delayed::new(far, Duration::from_millis(40));
        let start = Instant::now();
        near.write_all(b"first").await.unwrap();
        let mut seen = [0; 5];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"first");
        assert!(start.elapsed() >= Duration::from_millis(40));
        near.write_all(b"second").await.unwrap();
        drop(near);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"second");
        assert!(start.elapsed() >= Duration::from_millis(80));
    }
}
