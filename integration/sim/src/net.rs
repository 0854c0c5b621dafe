//! The network between two sites: byte streams with latency and bandwidth that stall, break and
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
    path: Cell<Path>,
    /// By the site that sends: nothing arrives for the time being.
    stalled: [Cell<bool>; 2],
    /// No connection can be made.
    refusing: Cell<bool>,
    conns: RefCell<Vec<Weak<Conn>>>,
}

/// One connection: what each site sent to the other, by the sender.
#[derive(Debug)]
struct Conn {
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
    /// A network that works.
    #[must_use]
    pub(crate) fn new(path: Path) -> Rc<Self> {
        Rc::new(Self {
            path: Cell::new(path),
            stalled: [Cell::new(false), Cell::new(false)],
            refusing: Cell::new(false),
            conns: RefCell::default(),
        })
    }

    /// Changes how far and how fast, for what is sent from now on.
    pub(crate) fn set_path(&self, path: Path) {
        self.path.set(path);
    }

    /// The way as it is.
    #[must_use]
    pub(crate) fn path(&self) -> Path {
        self.path.get()
    }

    /// Holds back, or lets through, what a site sends.
    pub(crate) fn stall(&self, from: usize, stalled: bool) {
        self.stalled[from].set(stalled);
        self.for_each(|conn| conn.sent[from].borrow_mut().wake());
    }

    /// Whether anything is held back.
    #[must_use]
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.iter().any(Cell::get)
    }

    /// Breaks every connection; what was under way is lost.
    pub(crate) fn reset(&self) {
        self.for_each(|conn| conn.sent.iter().for_each(|pipe| pipe.borrow_mut().reset()));
    }

    /// Refuses new connections, or allows them.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.refusing.set(refusing);
    }

    /// Whether a connection can be made.
    #[must_use]
    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.get()
    }

    /// A new connection between the sites; the first end is that of site 0.
    #[must_use]
    pub(crate) fn connect(self: &Rc<Self>) -> (Stream, Stream) {
        let conn = Rc::new(Conn { sent: Default::default(), net: Rc::clone(self) });
        self.conns.borrow_mut().push(Rc::downgrade(&conn));
        (Stream::new(&conn, 0), Stream::new(&conn, 1))
    }

    fn for_each(&self, act: impl Fn(&Conn)) {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|conn| conn.strong_count() > 0);
        let live: Vec<_> = conns.iter().filter_map(Weak::upgrade).collect();
        drop(conns);
        live.iter().for_each(|conn| act(conn));
    }
}

/// One end of a connection. Dropping it ends the stream behind what was written.
#[derive(Debug)]
pub(crate) struct Stream {
    conn: Rc<Conn>,
    site: usize,
    sleep: Pin<Box<Sleep>>,
}

impl Stream {
    fn new(conn: &Rc<Conn>, site: usize) -> Self {
        let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { conn: Rc::clone(conn), site, sleep }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut ours = self.conn.sent[self.site].borrow_mut();
        ours.ended = true;
        ours.wake();
        drop(ours);
        let mut theirs = self.conn.sent[1 - self.site].borrow_mut();
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
        let from = 1 - self.site;
        loop {
            let mut pipe = conn.sent[from].borrow_mut();
            if pipe.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            pipe.reader = Some(context.waker().clone());
            if conn.net.stalled[from].get() {
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
        let mut pipe = self.conn.sent[self.site].borrow_mut();
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
        let path = self.conn.net.path.get();
        let now = Instant::now();
        let taken = Duration::from_micros(len as u64 * 1000 / path.speed.max(1));
        let arrival = (now + path.latency).max(pipe.last.unwrap_or(now)) + taken;
        pipe.last = Some(arrival);
        pipe.chunks.push_back((arrival, Bytes::copy_from_slice(&data[..len])));
        pipe.held += len;
        pipe.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.conn.sent[self.site].borrow_mut().ended = true;
        Poll::Ready(Ok(()))
    }
}
