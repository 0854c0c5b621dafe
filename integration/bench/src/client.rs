//! A connection to an NBD server, up to the point where requests go.
//!
//! Invariant: an answer that the protocol does not allow ends the run with words.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::wait_for;

use crate::iscsi::Unit;
use crate::wire;

/// A server that answers nothing for this long is dead.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server may take from its last client to the next.
const RETRY_LIMIT: Duration = Duration::from_secs(3);
/// Longest data of an option's reply that a server may send.
const OPTION_REPLY_MAX: u32 = 64 << 10;

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(String),
    /// Another protocol: [`crate::iscsi`] speaks it.
    Iscsi(Unit),
}

/// The stream below.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Ok(Self::Unix(stream))
            }
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Ok(Self::Tcp(stream))
            }
            Address::Iscsi(unit) => {
                let why = format!("{} speaks no NBD", unit.address);
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(into),
            Self::Tcp(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write_vectored(bytes),
            Self::Tcp(stream) => stream.write_vectored(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that is attached to an export.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    /// Size of the export in bytes.
    pub(crate) size: u64,
}

impl Client {
    /// Connects and attaches, trying again for a while: one peer serves a client and starts anew.
    ///
    /// # Errors
    /// When nobody listens, or the server refuses.
    pub(crate) fn attach(address: &Address, export: &str, structured: bool) -> Result<Self> {
        wait_for("an attachment", RETRY_LIMIT, || Self::try_attach(address, export, structured))
    }

    fn try_attach(address: &Address, export: &str, structured: bool) -> Result<Self> {
        let stream = Stream::connect(address).with_context(|| format!("connect to {address:?}"))?;
        let mut client = Self { stream, size: 0 };
        client.negotiate(export, structured).context("handshake")?;
        Ok(client)
    }

    fn negotiate(&mut self, export: &str, structured: bool) -> Result<()> {
        let greeting: [u8; 18] = self.read()?;
        ensure!(&greeting[..16] == wire::INIT_MAGIC, "this is no newstyle NBD server");
        self.stream.write_all(&wire::CLIENT_FLAGS.to_be_bytes())?;
        if structured {
            self.stream.write_all(&wire::option(wire::OPT_STRUCTURED_REPLY, &[]))?;
            let (kind, _) = self.option_reply()?;
            ensure!(kind == wire::REP_ACK, "no structured replies ({kind:#x})");
        }
        let mut go = Vec::from(u32::try_from(export.len())?.to_be_bytes());
        go.extend(export.as_bytes());
        go.extend([0, 0]);
        self.stream.write_all(&wire::option(wire::OPT_GO, &go))?;
        loop {
            match self.option_reply()? {
                (wire::REP_ACK, _) => break,
                (wire::REP_INFO, data) => self.take_info(&data),
                (kind, data) => {
                    bail!("GO is refused ({kind:#x}): {}", String::from_utf8_lossy(&data))
                }
            }
        }
        ensure!(self.size > 0, "the export is empty");
        Ok(())
    }

    /// Of all that a server tells, only the size matters here.
    fn take_info(&mut self, data: &[u8]) {
        if let Some((&[0, 0], rest)) = data.split_first_chunk::<2>()
            && let Some((size, _)) = rest.split_first_chunk::<8>()
        {
            self.size = u64::from_be_bytes(*size);
        }
    }

    fn option_reply(&mut self) -> Result<(u32, Vec<u8>)> {
        let header: [u8; 20] = self.read()?;
        let field =
            |at: usize| header[at..at + 4].iter().fold(0, |all, b| all << 8 | u32::from(*b));
        let length = field(16);
        ensure!(length <= OPTION_REPLY_MAX, "an option is answered with {length} bytes");
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data)?;
        Ok((field(12), data))
    }

    fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
