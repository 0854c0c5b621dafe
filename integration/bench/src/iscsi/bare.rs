//! The least that anybody can do on this wire: a peer that reads commands, keeps nothing, and answers.
//!
//! ```text
//!   one read ──▶ every whole PDU that is there ──▶ one write of all answers
//! ```
//!
//! Its processor time for each request is what the kernel takes to receive one and to send its answer.
//! No target needs less, so a goal below it is nobody's to reach.
//!
//! Invariant: it is no target. It knows the commands of [`super::Connection`] and ends the connection at
//! any other.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, bail};

use super::session::{
    BLOCK_BYTES, HEADER_BYTES, Header, SEGMENT_BYTES, data_len, number, put, put_data_len,
};

/// What it takes at once: a whole command of any workload with its data.
const TAKEN_BYTES: u32 = 1 << 20;
/// Commands that may be under way.
const WINDOW: u32 = 128;

/// Answers at a port of this machine, one initiator after the other, until it is killed.
///
/// # Errors
/// When the port is taken.
pub(crate) fn serve(port: u16, size: u64) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).context("listen")?;
    loop {
        let (stream, _) = listener.accept().context("accept")?;
        stream.set_nodelay(true)?;
        // An initiator that is gone is followed by the next one.
        if let Err(e) = Bare::new(stream, size).run() {
            eprintln!("bare: {e:#}");
        }
    }
}

/// One connection.
struct Bare {
    stream: TcpStream,
    /// Bytes that it says to have.
    size: u64,
    stat_sn: u32,
    cmd_sn: u32,
    answers: Vec<u8>,
}

impl Bare {
    fn new(stream: TcpStream, size: u64) -> Self {
        Self { stream, size, stat_sn: 0, cmd_sn: 1, answers: Vec::new() }
    }

    fn run(mut self) -> Result<()> {
        let mut buffer = vec![0; 2 * (TAKEN_BYTES as usize + HEADER_BYTES)];
        let mut end = 0;
        loop {
            let count = self.stream.read(&mut buffer[end..])?;
            if count == 0 {
                return Ok(());
            }
            end += count;
            let mut start = 0;
            while let Some(header) = buffer[start..end].first_chunk::<HEADER_BYTES>() {
                let whole = HEADER_BYTES
                    + data_len(header).next_multiple_of(4)
                    + 4 * usize::from(header[4]);
                if end - start < whole {
                    break;
                }
                let header = *header;
                start += whole;
                self.answer(&header)?;
            }
            buffer.copy_within(start..end, 0);
            end -= start;
            self.stream.write_all(&self.answers)?;
            self.answers.clear();
        }
    }

    fn answer(&mut self, asked: &Header) -> Result<()> {
        if asked[0] & 0x40 == 0 {
            self.cmd_sn = number(asked, 24).wrapping_add(1);
        }
        match asked[0] & 0x3f {
            0x03 => {
                let mut header = [0; HEADER_BYTES];
                header[..2].copy_from_slice(&[0x23, 0x87]);
                header[8..14].copy_from_slice(&asked[8..14]);
                header[15] = 1;
                let text = format!(
                    "InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength={TAKEN_BYTES}\0\
                     MaxRecvDataSegmentLength={TAKEN_BYTES}\0"
                );
                self.push(asked, header, text.as_bytes());
            }
            0x01 => self.command(asked)?,
            0x06 => self.push_bare(asked, [0x26, 0x80]),
            // The answer to a ping that it never sent.
            0x00 => {}
            other => bail!("{other:#x} is nothing that it knows"),
        }
        Ok(())
    }

    fn command(&mut self, asked: &Header) -> Result<()> {
        match asked[32] {
            0x00 | 0x8a => self.push_bare(asked, [0x21, 0x80]),
            0x9e => {
                let mut capacity = [0; 32];
                capacity[..8].copy_from_slice(&(self.size / BLOCK_BYTES - 1).to_be_bytes());
                capacity[10..12].copy_from_slice(&[2, 0]);
                self.data_in(asked, &capacity);
            }
            0x88 => {
                static DATA: [u8; TAKEN_BYTES as usize] = [0; TAKEN_BYTES as usize];
                let bytes = u64::from(number(asked, 42)) * BLOCK_BYTES;
                let data = usize::try_from(bytes).ok().and_then(|bytes| DATA.get(..bytes));
                self.data_in(asked, data.context("more than any workload reads")?);
            }
            other => bail!("command {other:#x} is nothing that it knows"),
        }
        Ok(())
    }

    /// Data as long as the initiator takes it, the status in the last PDU.
    fn data_in(&mut self, asked: &Header, data: &[u8]) {
        let pieces = data.chunks(SEGMENT_BYTES as usize);
        let last = pieces.len().saturating_sub(1);
        let mut offset = 0;
        for (index, piece) in pieces.enumerate() {
            let mut header = [0; HEADER_BYTES];
            header[..2].copy_from_slice(&[0x25, if index == last { 0x81 } else { 0 }]);
            put(&mut header, 36, u32::try_from(index).unwrap_or(u32::MAX));
            put(&mut header, 40, offset);
            offset += u32::try_from(piece.len()).unwrap_or(u32::MAX);
            self.push(asked, header, piece);
        }
    }

    fn push_bare(&mut self, asked: &Header, first: [u8; 2]) {
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&first);
        self.push(asked, header, &[]);
    }

    fn push(&mut self, asked: &Header, mut header: Header, data: &[u8]) {
        header[16..20].copy_from_slice(&asked[16..20]);
        put_data_len(&mut header, u32::try_from(data.len()).unwrap_or(u32::MAX));
        put(&mut header, 24, self.stat_sn);
        put(&mut header, 28, self.cmd_sn);
        put(&mut header, 32, self.cmd_sn.wrapping_add(WINDOW - 1));
        self.stat_sn = self.stat_sn.wrapping_add(1);
        self.answers.extend_from_slice(&header);
        self.answers.extend_from_slice(data);
        self.answers.resize(self.answers.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::{Connection, Task, Unit, fill};
    use crate::workload::Pattern;

    /// Every workload's kind of request is answered, large ones too, by one connection after another.
    #[test]
    fn answers_what_the_load_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                Bare::new(stream.unwrap(), 8 << 20).run().unwrap();
            }
        });
        let unit = Unit { address, target: "iqn.2026-01.test:bare".into(), lun: 1 };
        assert_eq!(fill(&unit).unwrap(), 8 << 20);
        for (pattern, bytes, depth) in [
            (Pattern::RandRead, 4096, 1),
            (Pattern::RandWrite, 4096, 32),
            (Pattern::Read, 1 << 20, 4),
            (Pattern::Write, 1 << 20, 4),
        ] {
            let task = Task { pattern, bytes, depth, seconds: None };
            let (_, ops) = Connection::open(&unit, task).unwrap().run().unwrap();
            let all = (8 << 20) / u64::from(bytes);
            // Random places end with the last one, whenever that is drawn.
            assert!(ops == all || pattern.is_random() && ops > 0, "{pattern:?}: {ops}");
        }
    }
}
