//! An initiator as the load generator needs one: it logs in as those in use do, sends what it has in
//! one system call and takes what is there in one.
//!
//! ```text
//!   free slots ──one writev──▶ target ──one read──▶ Data-In, R2T, responses ──▶ free slots
//!                    ▲────────── data that was asked for ──────╯
//! ```
//!
//! Invariant: it keeps to what the target agreed to, whichever target that is: lengths, bursts, and the
//! window of commands. An error in any answer fails the run.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]

pub(crate) mod bare;
mod session;

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::session::{
    Agreed, BLOCK_BYTES, HEADER_BYTES, Header, Session, data_len, number, put, put_data_len,
};
use crate::histogram::Histogram;
use crate::load::{Aligned, BUFFER_BYTES, Random, SLICES_MAX, WARM_UP, payload};
use crate::workload::Pattern;

const NO_TAG: u32 = u32::MAX;

/// Where a unit is.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// `HOST:PORT`.
    pub(crate) address: String,
    pub(crate) target: String,
    pub(crate) lun: u8,
}

/// What goes out next: headers, and parts of the payload.
#[derive(Default)]
struct Batch {
    parts: Vec<Part>,
}

enum Part {
    Header(Box<Header>),
    Payload(usize, usize),
}

impl Batch {
    fn pdu(&mut self, mut header: Header, payload: std::ops::Range<usize>) {
        put_data_len(&mut header, u32::try_from(payload.len()).unwrap_or(u32::MAX));
        self.parts.push(Part::Header(Box::new(header)));
        if !payload.is_empty() {
            // All of it is whole words.
            self.parts.push(Part::Payload(payload.start, payload.end));
        }
    }

    fn send(&mut self, stream: &mut TcpStream, payload: &[u8]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Header(header) => IoSlice::new(&header[..]),
                Part::Payload(start, end) => IoSlice::new(&payload[*start..*end]),
            })
            .collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let batch = rest.len().min(SLICES_MAX);
            let written = stream.write_vectored(&rest[..batch])?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
        }
        self.parts.clear();
        Ok(())
    }
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) pattern: Pattern,
    pub(crate) bytes: u32,
    pub(crate) depth: usize,
    /// How long to measure, or `None` to go over the whole unit once.
    pub(crate) seconds: Option<f64>,
}

/// One session under load.
pub(crate) struct Connection {
    session: Session,
    task: Task,
    size: u64,
    payload: Aligned,
    random: Random,
    position: u64,
    sent: Vec<Instant>,
    free: Vec<usize>,
    batch: Batch,
    buffer: Aligned,
    start: usize,
    end: usize,
    /// Bytes of data that have not come yet, and the slot that is done behind them.
    skip: usize,
    done_behind: Option<usize>,
    latencies: Histogram,
    ops: u64,
}

impl Connection {
    pub(crate) fn open(unit: &Unit, task: Task) -> Result<Self> {
        let mut session = Session::login(unit)?;
        let size = session.size()?;
        ensure!(size >= u64::from(task.bytes), "the unit is smaller than one request");
        Ok(Self {
            session,
            task,
            size,
            payload: payload(task.bytes as usize),
            random: Random::new(1),
            position: u64::MAX,
            sent: vec![Instant::now(); task.depth],
            free: (0..task.depth).collect(),
            batch: Batch::default(),
            buffer: Aligned::new(BUFFER_BYTES),
            start: 0,
            end: 0,
            skip: 0,
            done_behind: None,
            latencies: Histogram::new(),
            ops: 0,
        })
    }

    /// Runs it; the latencies within the measured time, and all requests.
    pub(crate) fn run(mut self) -> Result<(Histogram, u64)> {
        let parts = self.size / u64::from(self.task.bytes);
        let from = Instant::now() + WARM_UP;
        let to = match self.task.seconds {
            Some(seconds) => Some(from + Duration::try_from_secs_f64(seconds)?),
            None => None,
        };
        let mut now = Instant::now();
        loop {
            while to.map_or(self.position.wrapping_add(1) < parts, |to| now < to)
                && self.session.has_room()
                && let Some(slot) = self.free.pop()
            {
                self.begin(slot, parts)?;
            }
            self.flush()?;
            if self.free.len() == self.task.depth {
                break;
            }
            self.receive().context("receive answers")?;
            now = Instant::now();
            while let Some(slot) = self.next_done()? {
                self.ops += 1;
                self.free.push(slot);
                if from <= now && to.is_some_and(|to| now < to) {
                    let took = now.duration_since(self.sent[slot]).as_nanos();
                    self.latencies.add(u64::try_from(took).unwrap_or(u64::MAX));
                }
            }
        }
        self.log_out()?;
        Ok((self.latencies, self.ops))
    }

    fn begin(&mut self, slot: usize, parts: u64) -> Result<()> {
        let Task { pattern, bytes, .. } = self.task;
        self.position = if pattern.is_random() {
            self.random.next() % parts
        } else {
            self.position.wrapping_add(1) % parts
        };
        let lba = self.position * (u64::from(bytes) / BLOCK_BYTES);
        let count = u32::try_from(u64::from(bytes) / BLOCK_BYTES)?;
        let mut cdb = [0; 16];
        cdb[0] = if pattern.writes() { 0x8a } else { 0x88 };
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&count.to_be_bytes());
        let tag = u32::try_from(slot)?;
        self.sent[slot] = Instant::now();
        if !pattern.writes() {
            let header = self.session.command(tag, 0xc0, bytes, &cdb);
            self.batch.pdu(header, 0..0);
            return Ok(());
        }
        let Agreed { initial_r2t, immediate, first_burst, segment } = self.session.agreed;
        let first = first_burst.min(bytes);
        let here = if immediate { first.min(segment) } else { 0 };
        let goes_on = !initial_r2t && first > here;
        let flags = if goes_on { 0x20 } else { 0xa0 };
        let header = self.session.command(tag, flags, bytes, &cdb);
        self.batch.pdu(header, 0..here as usize);
        if goes_on {
            self.data_out(tag, NO_TAG, here..first);
        }
        Ok(())
    }

    /// A sequence of data, in PDUs as long as the target takes them.
    fn data_out(&mut self, tag: u32, target_tag: u32, range: std::ops::Range<u32>) {
        let (mut at, mut data_sn) = (range.start, 0);
        while at < range.end {
            let end = (at + self.session.agreed.segment).min(range.end);
            let mut header = [0; HEADER_BYTES];
            header[..2].copy_from_slice(&[0x05, if end == range.end { 0x80 } else { 0 }]);
            header[8..16].copy_from_slice(&self.session.lun);
            put(&mut header, 16, tag);
            put(&mut header, 20, target_tag);
            put(&mut header, 28, self.session.stat_sn.wrapping_add(1));
            put(&mut header, 36, data_sn);
            put(&mut header, 40, at);
            self.batch.pdu(header, at as usize..end as usize);
            (at, data_sn) = (end, data_sn + 1);
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.parts.is_empty() {
            return Ok(());
        }
        let Self { batch, session, payload, .. } = self;
        batch.send(&mut session.stream, payload.all()).context("send requests")
    }

    fn receive(&mut self) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else {
            self.buffer.all_mut().copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let count = self.session.stream.read(&mut self.buffer.all_mut()[self.end..])?;
        ensure!(count > 0, "the target closed the connection");
        self.end += count;
        Ok(())
    }

    /// The slot of the next command that is wholly answered, if its answer is here. What the target
    /// asks for meanwhile goes out with the next batch.
    fn next_done(&mut self) -> Result<Option<usize>> {
        loop {
            let here = self.skip.min(self.end - self.start);
            self.start += here;
            self.skip -= here;
            if self.skip > 0 {
                return Ok(None);
            }
            if let Some(slot) = self.done_behind.take() {
                return Ok(Some(slot));
            }
            let Some(header) = self.buffer.all()[self.start..self.end].first_chunk() else {
                return Ok(None);
            };
            let header: Header = *header;
            self.start += HEADER_BYTES;
            self.skip = data_len(&header).next_multiple_of(4) + 4 * usize::from(header[4]);
            self.session.heard(&header);
            let tag = number(&header, 16);
            match header[0] & 0x3f {
                0x25 if header[1] & 1 == 0 => {}
                0x25 | 0x21 => {
                    ensure!(header[3] == 0, "a command ended with status {:#x}", header[3]);
                    let slot = usize::try_from(tag).ok().filter(|slot| *slot < self.sent.len());
                    self.done_behind = Some(slot.context("an answer to what was not asked")?);
                }
                0x31 => {
                    let (offset, len) = (number(&header, 40), number(&header, 44));
                    ensure!(offset.checked_add(len).is_some_and(|end| end <= self.task.bytes));
                    self.data_out(tag, number(&header, 20), offset..offset + len);
                }
                0x20 if number(&header, 20) == NO_TAG => {}
                0x20 => self.pong(&header),
                other => bail!("the target sent {other:#x}"),
            }
        }
    }

    /// Answers a ping.
    fn pong(&mut self, ping: &Header) {
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&[0x40, 0x80]);
        header[8..16].copy_from_slice(&ping[8..16]);
        put(&mut header, 16, NO_TAG);
        put(&mut header, 20, number(ping, 20));
        put(&mut header, 24, self.session.cmd_sn);
        put(&mut header, 28, self.session.stat_sn.wrapping_add(1));
        self.batch.pdu(header, 0..0);
    }

    fn log_out(&mut self) -> Result<()> {
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&[0x46, 0x80]);
        self.session.send(header, &[])?;
        let (answer, _) = self.session.receive()?;
        ensure!(answer[0] == 0x26, "a logout is answered with {:#x}", answer[0]);
        Ok(())
    }
}

/// Writes the whole unit once, so that nobody reads holes.
///
/// # Errors
/// When the target fails.
pub(crate) fn fill(unit: &Unit) -> Result<u64> {
    let task = Task { pattern: Pattern::Write, bytes: 1 << 20, depth: 4, seconds: None };
    let connection = Connection::open(unit, task)?;
    let size = connection.size;
    let (_, ops) = connection.run()?;
    ensure!(ops == size >> 20, "{ops} MiB of {size} bytes were written");
    Ok(size)
}
