//! The load generator: it sends what it has in one system call and takes what is there in one.
//!
//! ```text
//!   free slots ──one writev──▶ server ──one read──▶ replies ──▶ free slots
//! ```
//!
//! Invariant: each connection has at most `depth` requests in flight, and each is timed from the
//! moment before its batch is sent to the moment after its reply was read.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]

use std::io::{self, IoSlice, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::client::{Address, Client};
use crate::histogram::Histogram;
use crate::iscsi;
use crate::wire::{self, Command, REQUEST_BYTES, Request};
use crate::workload::Pattern;

/// Before the measurement, so that caches and connections are warm.
pub(crate) const WARM_UP: Duration = Duration::from_millis(200);
/// What one read from the socket takes at most.
pub(crate) const BUFFER_BYTES: usize = (1 << 20) + (64 << 10);
/// Slices of one vectored write that the kernel takes (`IOV_MAX`).
pub(crate) const SLICES_MAX: usize = 1024;

/// A load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: Address,
    pub(crate) export: String,
    pub(crate) pattern: Pattern,
    pub(crate) bytes: u32,
    pub(crate) depth: usize,
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    pub(crate) structured: bool,
    /// With it, each connection sends `depth` requests so often and no more, and a request counts
    /// from when it was due. Without it, a slot is used again as soon as it is free.
    pub(crate) every: Option<Duration>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    /// Requests a second.
    pub(crate) ops_per_second: f64,
    /// Bytes of reads and writes a second, in MiB.
    pub(crate) mib_per_second: f64,
    /// Half of the requests took no longer, in microseconds.
    pub(crate) p50_us: f64,
    /// 99 of 100 took no longer.
    pub(crate) p99_us: f64,
    /// 999 of 1000 took no longer.
    pub(crate) p999_us: f64,
    /// Every request that was answered, also while warming up and running out.
    pub(crate) ops_in_all: u64,
}

impl Load {
    /// Random writes of 4 KiB by one connection that waits for no clock.
    pub(crate) fn rand_write(
        (address, export): (&Address, &str),
        depth: usize,
        seconds: f64,
    ) -> Self {
        Self {
            address: address.clone(),
            export: export.to_owned(),
            pattern: Pattern::RandWrite,
            bytes: 4096,
            depth,
            connections: 1,
            seconds,
            structured: false,
            every: None,
        }
    }

    /// Runs it on as many threads as it has connections.
    ///
    /// # Errors
    /// When a connection fails or a request is answered with an error.
    pub(crate) fn run(&self) -> Result<Measured> {
        ensure!(self.depth > 0 && self.connections > 0, "depth and connections begin at 1");
        let mut latencies = Histogram::new();
        let mut ops_in_all = 0;
        std::thread::scope(|scope| {
            let started: Vec<_> = (0..self.connections)
                .map(|number| scope.spawn(move || self.connect(number)))
                .collect();
            for thread in started {
                // A thread that panicked is a bug of this program.
                let (histogram, ops) = thread.join().unwrap_or_else(|_| bail!("a thread died"))?;
                latencies.merge(&histogram);
                ops_in_all += ops;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        let ops_per_second = latencies.total() as f64 / self.seconds;
        Ok(Measured {
            ops_per_second,
            mib_per_second: ops_per_second * f64::from(self.bytes) / f64::from(1 << 20),
            p50_us: latencies.quantile_us(500),
            p99_us: latencies.quantile_us(990),
            p999_us: latencies.quantile_us(999),
            ops_in_all,
        })
    }
}

impl Load {
    /// One connection, from its first byte to its last.
    fn connect(&self, number: usize) -> Result<(Histogram, u64)> {
        let Address::Iscsi(unit) = &self.address else {
            return Connection::open(self, number)?.run();
        };
        ensure!(self.connections == 1 && self.every.is_none(), "an initiator has one session");
        let (pattern, bytes, depth) = (self.pattern, self.bytes, self.depth);
        let task = iscsi::Task { pattern, bytes, depth, seconds: Some(self.seconds) };
        iscsi::Connection::open(unit, task)?.run()
    }
}

/// Writes the whole volume once, so that nobody reads holes.
///
/// # Errors
/// When the server fails.
pub(crate) fn fill(address: &Address, export: &str) -> Result<u64> {
    if let Address::Iscsi(unit) = address {
        return iscsi::fill(unit);
    }
    let mut client = Client::attach(address, export, false)?;
    let payload = payload(1 << 20);
    let mut offset = 0;
    while offset < client.size {
        let bytes = usize::try_from((client.size - offset).min(1 << 20))?;
        write(&mut client, offset, &payload.all()[..bytes])?;
        offset += bytes as u64;
    }
    client.stream.write_all(&disconnect())?;
    Ok(client.size)
}

/// Writes one block.
///
/// # Errors
/// When the server fails.
pub(crate) fn write_once(client: &mut Client) -> Result<()> {
    write(client, 0, payload(4096).all())
}

/// Writes one block at each of these places, all under way at once.
///
/// # Errors
/// When the server fails.
pub(crate) fn write_at(client: &mut Client, places: &[u64]) -> Result<()> {
    // Blocks that differ from what is there: a place is told by its number.
    let mut random = Random::new(places.first().map_or(2, |place| place / 4096 + 2));
    let mut batch = Vec::with_capacity(places.len() * (REQUEST_BYTES + 4096));
    for offset in places.iter().copied() {
        let request =
            Request { command: Command::Write, fua: false, cookie: 0, offset, bytes: 4096 };
        batch.extend(request.header());
        batch.extend((0..512).flat_map(|_| random.next().to_le_bytes()));
    }
    client.stream.write_all(&batch)?;
    for _ in places {
        let mut reply = [0; 16];
        client.stream.read_exact(&mut reply)?;
        let is_good = matches!(wire::reply(&reply), Ok(Some(reply)) if !reply.is_error);
        ensure!(is_good, "writing one of {} blocks failed", places.len());
    }
    Ok(())
}

fn write(client: &mut Client, offset: u64, data: &[u8]) -> Result<()> {
    let bytes = u32::try_from(data.len())?;
    let request = Request { command: Command::Write, fua: false, cookie: 0, offset, bytes };
    client.stream.write_all(&request.header())?;
    client.stream.write_all(data)?;
    let mut reply = [0; 16];
    client.stream.read_exact(&mut reply)?;
    let is_good = matches!(wire::reply(&reply), Ok(Some(reply)) if !reply.is_error);
    ensure!(is_good, "writing {bytes} bytes at {offset} failed");
    Ok(())
}

fn disconnect() -> [u8; REQUEST_BYTES] {
    Request { command: Command::Disconnect, fua: false, cookie: 0, offset: 0, bytes: 0 }.header()
}

/// Bytes that no server can take for zeroes or squeeze.
pub(crate) fn payload(bytes: usize) -> Aligned {
    let mut random = Random::new(1);
    let mut payload = Aligned::new(bytes);
    payload.all_mut().fill_with(|| random.next().to_le_bytes()[0]);
    payload
}

/// A buffer that begins at a page. Copies by the kernel take up to five times as long into memory
/// that begins a few bytes behind one, where an allocator puts what is large; the client should be
/// nobody's bottleneck.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    skipped: usize,
}

impl Aligned {
    const PAGE: usize = 4096;

    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; len + Self::PAGE];
        let skipped = bytes.as_ptr().addr().wrapping_neg() % Self::PAGE;
        Self { bytes, skipped }
    }

    pub(crate) fn all(&self) -> &[u8] {
        &self.bytes[self.skipped..]
    }

    pub(crate) fn all_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.skipped..]
    }
}

/// Xorshift: enough to spread requests, and cheaper than what it loads.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(0x9E37_79B9_7F4A_7C15 ^ seed.wrapping_mul(0xABCD_EF12_3456_789B))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// One request's place.
#[derive(Clone, Copy, Debug)]
struct Slot {
    sent: Instant,
    command: Command,
}

/// One connection under load.
struct Connection<'a> {
    load: &'a Load,
    client: Client,
    payload: Aligned,
    random: Random,
    /// Where the sequential patterns are, in requests.
    position: u64,
    slots: Vec<Slot>,
    free: Vec<usize>,
    inflight: usize,
    buffer: Aligned,
    /// What of the buffer was read and not yet looked at.
    start: usize,
    end: usize,
    /// Bytes of a payload that have not come yet, and the slot that is done behind them.
    skip: usize,
    done_behind: Option<usize>,
    latencies: Histogram,
    ops: u64,
}

impl<'a> Connection<'a> {
    fn open(load: &'a Load, number: usize) -> Result<Self> {
        let client = Client::attach(&load.address, &load.export, load.structured)?;
        ensure!(client.size >= u64::from(load.bytes), "the export is smaller than one request");
        let slot = Slot { sent: Instant::now(), command: Command::Flush };
        let parts = client.size / u64::from(load.bytes);
        Ok(Self {
            load,
            client,
            payload: payload(load.bytes as usize),
            random: Random::new(number as u64 + 1),
            position: parts / load.connections as u64 * number as u64,
            slots: vec![slot; load.depth],
            free: (0..load.depth).collect(),
            inflight: 0,
            buffer: Aligned::new(BUFFER_BYTES),
            start: 0,
            end: 0,
            skip: 0,
            done_behind: None,
            latencies: Histogram::new(),
            ops: 0,
        })
    }

    fn run(mut self) -> Result<(Histogram, u64)> {
        let from = Instant::now() + WARM_UP;
        let to = from + Duration::try_from_secs_f64(self.load.seconds)?;
        let mut now = from;
        let mut due = Instant::now();
        loop {
            match self.load.every {
                None if now < to => self.send(Instant::now()).context("send requests")?,
                Some(every) if now < to && self.inflight == 0 => {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    self.send(due).context("send requests")?;
                    due += every;
                }
                None | Some(_) => {}
            }
            if self.inflight == 0 {
                break;
            }
            self.receive().context("receive replies")?;
            now = Instant::now();
            while let Some(slot) = self.next_done()? {
                self.inflight -= 1;
                self.ops += 1;
                self.free.push(slot);
                if from <= now && now < to {
                    let took = now.duration_since(self.slots[slot].sent).as_nanos();
                    self.latencies.add(u64::try_from(took).unwrap_or(u64::MAX));
                }
            }
        }
        self.client.stream.write_all(&disconnect())?;
        Ok((self.latencies, self.ops))
    }

    /// The next request of a slot: its command and its place.
    fn next_request(&mut self, slot: usize) -> Request {
        let pattern = self.load.pattern;
        // A slot that wrote flushes next; slots begin as if they had flushed.
        let flushes = pattern == Pattern::RandWriteFlush;
        let command = match self.slots[slot].command {
            Command::Write if flushes => Command::Flush,
            _ if pattern.writes() => Command::Write,
            _ => Command::Read,
        };
        let cookie = slot as u64;
        if command == Command::Flush {
            return Request { command, fua: false, cookie, offset: 0, bytes: 0 };
        }
        let parts = self.client.size / u64::from(self.load.bytes);
        self.position = if pattern.is_random() {
            self.random.next() % parts
        } else {
            (self.position + 1) % parts
        };
        Request {
            command,
            fua: pattern == Pattern::RandWriteFua,
            cookie,
            offset: self.position * u64::from(self.load.bytes),
            bytes: self.load.bytes,
        }
    }

    /// Sends a request for every free slot, in as few system calls as it takes.
    fn send(&mut self, sent: Instant) -> io::Result<()> {
        let free = std::mem::take(&mut self.free);
        let mut headers = Vec::with_capacity(free.len());
        for slot in &free {
            let request = self.next_request(*slot);
            self.slots[*slot] = Slot { sent, command: request.command };
            headers.push((request.header(), request.command == Command::Write));
        }
        let mut slices = Vec::with_capacity(headers.len() * 2);
        for (header, has_payload) in &headers {
            slices.push(IoSlice::new(header));
            if *has_payload {
                slices.push(IoSlice::new(&self.payload.all()[..self.load.bytes as usize]));
            }
        }
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let batch = rest.len().min(SLICES_MAX);
            let written = self.client.stream.write_vectored(&rest[..batch])?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
        }
        self.inflight += free.len();
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else {
            self.buffer.all_mut().copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let count = self.client.stream.read(&mut self.buffer.all_mut()[self.end..])?;
        ensure!(count > 0, "the server closed the connection");
        self.end += count;
        Ok(())
    }

    /// The slot of the next request that is wholly answered, if its answer is here.
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
            let reply = match wire::reply(&self.buffer.all()[self.start..self.end]) {
                Ok(Some(reply)) => reply,
                Ok(None) => return Ok(None),
                Err(magic) => bail!("the server sent {magic:#x} where a reply begins"),
            };
            ensure!(!reply.is_error, "the server answered with an error");
            let slot = usize::try_from(reply.cookie).ok().filter(|slot| *slot < self.slots.len());
            let slot = slot.context("the server answered what was not asked")?;
            self.start += reply.header;
            let is_read = self.slots[slot].command == Command::Read;
            let simple = if is_read { self.load.bytes } else { 0 };
            self.skip = reply.payload.unwrap_or(simple) as usize;
            self.done_behind = reply.is_last.then_some(slot);
        }
    }
}
