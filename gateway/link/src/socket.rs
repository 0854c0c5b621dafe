//! The TCP socket below TLS: tuned, read in large pieces, and able to move to another thread.
//!
//! Invariant: bytes that were read from the kernel are kept when the socket changes its reactor.
//! While it is parked nobody may read or write it; that is an error, not a wait.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::limits::{
    KEEPALIVE_IDLE, SOCKET_BUFFER_BYTES, SOCKET_READ_BYTES, UNACKNOWLEDGED_TIME_MAX,
};

/// Where the socket is.
enum State {
    /// Registered with the reactor of the thread that uses it.
    Live(TcpStream),
    /// On its way from one thread to another.
    Parked(std::net::TcpStream),
    /// Lost: a move failed half way.
    Gone,
}

/// A TCP connection. TLS asks for 4 KiB at a time, so a buffer stands before it.
pub(crate) struct Socket {
    state: State,
    buffer: Box<[u8]>,
    /// The bytes of `buffer` that nobody has taken yet.
    start: usize,
    end: usize,
}

impl Socket {
    /// Takes a connected socket over.
    ///
    /// # Errors
    /// When the kernel refuses to send small frames at once. The other options are wishes.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        for (option, outcome) in tune(&stream) {
            if let Err(error) = outcome {
                tracing::debug!(option, %error, "socket option was not set");
            }
        }
        let buffer = vec![0; SOCKET_READ_BYTES].into_boxed_slice();
        Ok(Self { state: State::Live(stream), buffer, start: 0, end: 0 })
    }

    /// Takes the socket off its reactor. Does nothing to one that is parked.
    ///
    /// # Errors
    /// When the reactor does not let it go; it is lost then.
    pub(crate) fn park(&mut self) -> io::Result<()> {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Live(stream) => State::Parked(stream.into_std()?),
            other => other,
        };
        Ok(())
    }

    /// Registers the socket with the reactor of this thread. Must run inside a runtime.
    ///
    /// # Errors
    /// When the reactor does not take it; it is lost then.
    pub(crate) fn wake(&mut self) -> io::Result<()> {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Parked(stream) => State::Live(TcpStream::from_std(stream)?),
            other => other,
        };
        Ok(())
    }

    fn live(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.state {
            State::Live(stream) => Ok(Pin::new(stream)),
            State::Parked(_) | State::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Options that make the connection better, each with how setting it went.
fn tune(stream: &TcpStream) -> [(&'static str, rustix::io::Result<()>); 5] {
    let unacknowledged_ms = u32::try_from(UNACKNOWLEDGED_TIME_MAX.as_millis()).unwrap_or(u32::MAX);
    // A fixed size switches off the kernel's own sizing, which goes to several MiB. So it is only
    // set where the kernel grants all of it, and not where it would grant the usual 208 KiB.
    let send = granted("/proc/sys/net/core/wmem_max")
        .map_or(Ok(()), |bytes| sockopt::set_socket_send_buffer_size(stream, bytes));
    let receive = granted("/proc/sys/net/core/rmem_max")
        .map_or(Ok(()), |bytes| sockopt::set_socket_recv_buffer_size(stream, bytes));
    [
        ("SO_KEEPALIVE", sockopt::set_socket_keepalive(stream, true)),
        ("TCP_KEEPIDLE", sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)),
        ("TCP_USER_TIMEOUT", sockopt::set_tcp_user_timeout(stream, unacknowledged_ms)),
        ("SO_SNDBUF", send),
        ("SO_RCVBUF", receive),
    ]
}

/// The size that buffers should have, if the kernel's limit in this file allows it.
fn granted(path: &str) -> Option<usize> {
    let limit: usize = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (limit >= SOCKET_BUFFER_BYTES).then_some(SOCKET_BUFFER_BYTES)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start == this.end {
            let State::Live(stream) = &mut this.state else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let mut fresh = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(stream).poll_read(context, &mut fresh))?;
            (this.start, this.end) = (0, fresh.filled().len());
        }
        let here = this.buffer.get(this.start..this.end).unwrap_or_default();
        let now = here.len().min(into.remaining());
        into.put_slice(here.get(..now).unwrap_or_default());
        this.start += now;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.live()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.live()?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_shutdown(context)
    }
}
