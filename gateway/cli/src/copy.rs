//! Copies between NBD servers, as a plain old client: one request at a time, no negotiation but
//! the export's name, so that it talks to any server there is.
//!
//! Invariant: what was copied is flushed before success is told; a target that is too short is
//! refused before its first byte is written.

use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use api::units::bytes_text;
use nbd::Export;
use nbd::client::{NbdClient, handshake};

use crate::Outcome;
use crate::args::Format;
use crate::failure::{FAILED, Failure};
use crate::output::show;

/// Every server takes requests of this length.
const PIECE_BYTES: usize = 1 << 20;
/// A server that says nothing for so long is not there.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A byte stream to a server, with as few system calls as the client's habits allow.
pub(crate) struct Wire {
    reader: BufReader<Box<dyn Read + Send>>,
    writer: BufWriter<Box<dyn Write + Send>>,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.writer.flush()?;
        self.reader.read(into)
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        self.writer.write(from)
    }

    /// Sending is put off until an answer is read: a request and its data go out at once.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An open export.
pub(crate) struct Opened {
    /// What the server said of it.
    pub(crate) export: Export,
    /// The client.
    pub(crate) client: NbdClient<Wire>,
}

/// Opens the export that a URI names.
///
/// # Errors
/// In words.
pub(crate) fn open(uri: &str) -> Result<Opened, String> {
    let (mut wire, name) = connect(uri)?;
    let export = handshake(&mut wire, name.as_bytes())
        .map_err(|error| format!("{uri}: the server does not give it: {error}"))?;
    let client = NbdClient::new(wire, &export);
    Ok(Opened { export, client })
}

fn connect(uri: &str) -> Result<(Wire, String), String> {
    let failed = |error: std::io::Error| format!("{uri}: {error}");
    if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
        let (name, socket) =
            rest.split_once("?socket=").ok_or_else(|| format!("{uri}: needs ?socket=PATH"))?;
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(SILENCE_MAX)).map_err(failed)?;
        let other = stream.try_clone().map_err(failed)?;
        return Ok((wire(Box::new(other), Box::new(stream)), name.to_owned()));
    }
    let rest = uri.strip_prefix("nbd://").ok_or_else(|| {
        format!("{uri}: is neither nbd://HOST:PORT/NAME nor nbd+unix:///NAME?socket=PATH")
    })?;
    let (host, name) = rest.split_once('/').unwrap_or((rest, ""));
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { host.to_owned() } else { format!("{host}:10809") };
    let stream = TcpStream::connect(&address).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(failed)?;
    let other = stream.try_clone().map_err(failed)?;
    Ok((wire(Box::new(other), Box::new(stream)), name.to_owned()))
}

fn wire(reader: Box<dyn Read + Send>, writer: Box<dyn Write + Send>) -> Wire {
    Wire { reader: BufReader::new(reader), writer: BufWriter::new(writer) }
}

/// `twinspan volume probe`
pub(crate) fn probe(uri: &str, format: Format) -> Outcome {
    let opened = open(uri).map_err(|why| Failure::new(FAILED, why))?;
    let export = &opened.export;
    let answer = serde_json::json!({
        "uri": uri, "bytes": export.size, "read_only": export.readonly,
        "flush": export.send_flush, "trim": export.send_trim, "rotational": export.rotational,
    });
    show(format, &answer, |_| {
        let access = if export.readonly { "read only" } else { "writable" };
        format!("{uri}: {}, {access}", bytes_text(export.size))
    });
    Ok(0)
}

/// Copies all of one export over another.
///
/// # Errors
/// What failed, and how far it was.
pub(crate) fn copy(from: &str, to: &str, format: Format) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(FAILED, why);
    let mut source = open(from).map_err(failed)?;
    let mut target = open(to).map_err(failed)?;
    let bytes = source.export.size;
    if target.export.readonly {
        return Err(failed(format!("{to} may not be written")));
    }
    if target.export.size < bytes {
        return Err(failed(format!(
            "{to} is too short: {} for {}",
            bytes_text(target.export.size),
            bytes_text(bytes)
        )));
    }
    let mut buffer = vec![0; PIECE_BYTES];
    let (mut offset, mut written) = (0, 0u64);
    while offset < bytes {
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let at = |side: &str, error: std::io::Error| {
            failed(format!("{side}, at byte {offset} of {bytes}: {error}"))
        };
        let piece = buffer.get_mut(..length).unwrap_or_default();
        source.client.seek(SeekFrom::Start(offset)).map_err(|e| at(from, e))?;
        source.client.read_exact(piece).map_err(|e| at(from, e))?;
        target.client.seek(SeekFrom::Start(offset)).map_err(|e| at(to, e))?;
        // The target may hold something else where the source is zero, so zeroes are written too,
        // unless they are there already.
        let is_zero = piece.iter().all(|byte| *byte == 0);
        if !is_zero || !reads_zero(&mut target.client, length).map_err(|e| at(to, e))? {
            target.client.seek(SeekFrom::Start(offset)).map_err(|e| at(to, e))?;
            target.client.write_all(piece).map_err(|e| at(to, e))?;
            written += length as u64;
        }
        offset += length as u64;
    }
    if target.export.send_flush {
        target.client.flush().map_err(|error| failed(format!("{to}: flush: {error}")))?;
    }
    let answer = serde_json::json!({
        "from": from, "to": to, "bytes": bytes, "written_bytes": written,
    });
    show(format, &answer, |_| format!("copied {} from {from} to {to}", bytes_text(bytes)));
    Ok(())
}

fn reads_zero(client: &mut NbdClient<Wire>, length: usize) -> std::io::Result<bool> {
    let mut there = vec![0; length];
    client.read_exact(&mut there)?;
    Ok(there.iter().all(|byte| *byte == 0))
}
