//! A host's byte stream: TCP or a Unix socket, with or without TLS, and able to move from one
//! runtime to another.
//!
//! ```text
//!   HostStream (registered with a runtime) ──detach──▶ DetachedStream (Send, registered nowhere)
//!              ◀──attach (on the thread that goes on with it)──
//! ```
//!
//! Invariant: no byte is lost on the move; what TLS has buffered moves along.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, rustls};

use crate::export::TlsSubject;

/// A host's connection, registered with the runtime of this thread.
#[derive(Debug)]
pub enum HostStream {
    /// Not encrypted.
    Plain(Socket),
    /// Encrypted.
    Tls(Box<TlsStream<Socket>>),
}

/// The socket below.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// Moving between two runtimes.
    Away,
}

/// A host's connection on its way to another thread.
#[derive(Debug)]
pub struct DetachedStream {
    socket: DetachedSocket,
    tls: Option<Box<TlsStream<Socket>>>,
}

#[derive(Debug)]
enum DetachedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

// === impl HostStream ===

impl HostStream {
    /// Takes the connection off this thread's runtime.
    ///
    /// # Errors
    /// When the kernel refuses; the connection is closed then.
    pub fn detach(self) -> io::Result<DetachedStream> {
        match self {
            Self::Plain(socket) => Ok(DetachedStream { socket: socket.detach()?, tls: None }),
            Self::Tls(mut tls) => {
                let socket = std::mem::replace(tls.get_mut().0, Socket::Away);
                Ok(DetachedStream { socket: socket.detach()?, tls: Some(tls) })
            }
        }
    }

    /// Answers a client's wish for TLS.
    ///
    /// # Errors
    /// When the TLS handshake fails.
    ///
    /// # Cancellation
    /// Closes the connection.
    pub async fn accept_tls(
        self,
        config: std::sync::Arc<rustls::ServerConfig>,
    ) -> io::Result<(Self, Option<TlsSubject>)> {
        let Self::Plain(socket) = self else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "TLS is on already"));
        };
        let tls = TlsAcceptor::from(config).accept(socket).await?;
        let subject = tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .map(|certificate| TlsSubject::new(certificate.clone().into_owned()));
        Ok((Self::Tls(Box::new(tls)), subject))
    }

    /// Whether it is encrypted: then what was written must be flushed.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl DetachedStream {
    /// Registers the connection with the runtime of this thread.
    ///
    /// # Errors
    /// When the kernel refuses; the connection is closed then.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn attach(self) -> io::Result<HostStream> {
        let socket = match self.socket {
            DetachedSocket::Tcp(socket) => Socket::Tcp(TcpStream::from_std(socket)?),
            DetachedSocket::Unix(socket) => Socket::Unix(UnixStream::from_std(socket)?),
        };
        Ok(match self.tls {
            None => HostStream::Plain(socket),
            Some(mut tls) => {
                *tls.get_mut().0 = socket;
                HostStream::Tls(tls)
            }
        })
    }
}

impl Socket {
    fn detach(self) -> io::Result<DetachedSocket> {
        match self {
            Self::Tcp(socket) => Ok(DetachedSocket::Tcp(socket.into_std()?)),
            Self::Unix(socket) => Ok(DetachedSocket::Unix(socket.into_std()?)),
            Self::Away => Err(away()),
        }
    }
}

fn away() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "connection is moving to another thread")
}

// === I/O ===

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Away => Poll::Ready(Err(away())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Away => Poll::Ready(Err(away())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Away => Poll::Ready(Err(away())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Unix(socket) => Pin::new(socket).poll_flush(cx),
            Self::Away => Poll::Ready(Err(away())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Away => Poll::Ready(Err(away())),
        }
    }
}

impl AsyncRead for HostStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for HostStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
