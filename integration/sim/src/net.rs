//! The network between sites: byte streams with latency and bandwidth that stall, break and
//! end.
//!
//! Invariant: as TCP does, a stream delivers a prefix of what was written, in order; what was not
//! delivered when it broke is lost.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What one direction holds before its writer must wait: a socket's buffers.
const WINDOW_BYTES: usize = 256 << 10;

/// How far and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// One way.
    pub(crate) latency: Duration,
    /// Bytes a millisecond.
    pub(crate) speed: u64,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Net {
    /// By the site that sends and the one that receives.
    ways: Vec<Vec<Way>>,
    conns: RefCell<Vec<Weak<Conn>>>,
}

/// One direction between two sites.
#[derive(Debug)]
struct Way {
    path: Cell<Path>,
    /// Nothing arrives for the time being.
    stalled: Cell<bool>,
    /// No connection can be made.
    refusing: Cell<bool>,
    /// What is sent next arrives as something else.
    garbled: Cell<bool>,
}

/// One connection: what each end sent to the other, by the sender's place in `ends`.
#[derive(Debug)]
struct Conn {
    ends: [usize; 2],
    sent: [RefCell<Pipe>; 2],
    net: Rc<Net>,
}

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<(Instant, Bytes)>,
    held: usize,
    last: Option<Instant>,
    /// The writer is gone in good order: the reader sees the end behind the last chunk.
    ended: bool,
    /// The connection broke.
    reset: bool,
    /// The reader is gone: writing fails.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    fn reset(&mut self) {
        self.reset = true;
        self.chunks.clear();
        self.held = 0;
        self.wake();
    }
}

// === impl Net ===

impl Net {
    /// A network between so many sites that works.
    #[must_use]
    pub(crate) fn new(sites: usize, path: Path) -> Rc<Self> {
        let way = || Way {
            path: Cell::new(path),
            stalled: Cell::new(false),
            refusing: Cell::new(false),
            garbled: Cell::new(false),
        };
        let ways = (0..sites).map(|_| (0..sites).map(|_| way()).collect()).collect();
        Rc::new(Self { ways, conns: RefCell::default() })
    }

    /// Changes how far and how fast between two sites, for what is sent from now on.
    pub(crate) fn set_path(&self, between: [usize; 2], path: Path) {
        self.both(between).for_each(|way| way.path.set(path));
    }

    /// The way as it is.
    #[must_use]
    pub(crate) fn path(&self, from: usize, to: usize) -> Path {
        self.ways[from][to].path.get()
    }

    /// Holds back, or lets through, what a site sends to another.
    pub(crate) fn stall(&self, from: usize, to: usize, stalled: bool) {
        self.ways[from][to].stalled.set(stalled);
        self.for_each([from, to], |conn| {
            conn.sent.iter().for_each(|pipe| pipe.borrow_mut().wake());
        });
    }

    /// Whether anything between two sites is held back.
    #[must_use]
    pub(crate) fn is_stalled(&self, between: [usize; 2]) -> bool {
        self.both(between).any(|way| way.stalled.get())
    }

    /// Breaks every connection between two sites; what was under way is lost.
    pub(crate) fn reset(&self, between: [usize; 2]) {
        self.for_each(between, |conn| {
            conn.sent.iter().for_each(|pipe| pipe.borrow_mut().reset());
        });
    }

    /// Refuses new connections between two sites, or allows them.
    pub(crate) fn refuse(&self, between: [usize; 2], refusing: bool) {
        self.both(between).for_each(|way| way.refusing.set(refusing));
    }

    /// Garbles what is sent next, or nothing any more; says what was to be done before.
    pub(crate) fn garble(&self, from: usize, to: usize, garbled: bool) -> bool {
        self.ways[from][to].garbled.replace(garbled)
    }

    /// Whether a connection can be made.
    #[must_use]
    pub(crate) fn is_refusing(&self, between: [usize; 2]) -> bool {
        self.both(between).any(|way| way.refusing.get())
    }

    /// A new connection between two sites, as its two ends.
    #[must_use]
    pub(crate) fn connect(self: &Rc<Self>, ends: [usize; 2]) -> (Stream, Stream) {
        let conn = Rc::new(Conn { ends, sent: Default::default(), net: Rc::clone(self) });
        self.conns.borrow_mut().push(Rc::downgrade(&conn));
        (Stream::new(&conn, 0), Stream::new(&conn, 1))
    }

    fn both(&self, [a, b]: [usize; 2]) -> impl Iterator<Item = &Way> {
        [&self.ways[a][b], &self.ways[b][a]].into_iter()
    }

    fn for_each(&self, between: [usize; 2], act: impl Fn(&Conn)) {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|conn| conn.strong_count() > 0);
        let live: Vec<_> = conns.iter().filter_map(Weak::upgrade).collect();
        drop(conns);
        let theirs = |conn: &&Rc<Conn>| between.iter().all(|site| conn.ends.contains(site));
        live.iter().filter(theirs).for_each(|conn| act(conn));
    }
}

impl Conn {
    /// The way that what an end sends takes.
    fn way(&self, from: usize) -> &Way {
        &self.net.ways[self.ends[from]][self.ends[1 - from]]
    }
}

/// One end of a connection. Dropping it ends the stream behind what was written.
#[derive(Debug)]
pub(crate) struct Stream {
    conn: Rc<Conn>,
    /// Which end.
    end: usize,
    sleep: Pin<Box<Sleep>>,
}

impl Stream {
    fn new(conn: &Rc<Conn>, end: usize) -> Self {
        let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { conn: Rc::clone(conn), end, sleep }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut ours = self.conn.sent[self.end].borrow_mut();
        ours.ended = true;
        ours.wake();
        drop(ours);
        let mut theirs = self.conn.sent[1 - self.end].borrow_mut();
        theirs.unread = true;
        theirs.wake();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let conn = Rc::clone(&self.conn);
        let from = 1 - self.end;
        loop {
            let mut pipe = conn.sent[from].borrow_mut();
            if pipe.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            pipe.reader = Some(context.waker().clone());
            if conn.way(from).stalled.get() {
                return Poll::Pending;
            }
            let Some((at, chunk)) = pipe.chunks.front_mut() else {
                return if pipe.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            };
            if *at <= Instant::now() {
                let len = chunk.len().min(buf.remaining());
                buf.put_slice(&chunk[..len]);
                chunk.advance(len);
                if chunk.is_empty() {
                    pipe.chunks.pop_front();
                }
                pipe.held -= len;
                pipe.writer.take().into_iter().for_each(Waker::wake);
                return Poll::Ready(Ok(()));
            }
            let at = *at;
            drop(pipe);
            self.sleep.as_mut().reset(at);
            if self.sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.conn.sent[self.end].borrow_mut();
        if pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.unread {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = data.len().min(WINDOW_BYTES.saturating_sub(pipe.held));
        if len == 0 && !data.is_empty() {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let path = self.conn.way(self.end).path.get();
        let now = Instant::now();
        let taken = Duration::from_micros(len as u64 * 1000 / path.speed.max(1));
        let arrival = (now + path.latency).max(pipe.last.unwrap_or(now)) + taken;
        pipe.last = Some(arrival);
        let mut sent = data[..len].to_vec();
        if self.conn.way(self.end).garbled.replace(false) {
            sent[len / 2] ^= 0x55;
        }
        pipe.chunks.push_back((arrival, Bytes::from(sent)));
        pipe.held += len;
        pipe.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.conn.sent[self.end].borrow_mut().ended = true;
        Poll::Ready(Ok(()))
    }
}
