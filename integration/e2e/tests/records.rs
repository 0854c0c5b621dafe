//! Writers that remember what was acknowledged, and a checker that counts what is missing.
//!
//! ```text
//!   block of 4 KiB:  magic | writer | block | number | a pattern made from these three
//! ```
//!
//! Each writer has a region and a connection of its own, and writes records of one to eight blocks
//! with growing numbers. For every block it keeps the number that was acknowledged last and the
//! one that was sent last: what is read back later must lie between them.
//!
//! Invariant: a block whose last write has an unknown fate is not written again before it was read
//! back, because that write could still be on its way.

use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Deadline, wait_for};
use nbd::client::{NbdClient, handshake};

use crate::random::Random;

const BLOCK: usize = 4096;
const MAGIC: u64 = 0x7457_496e_5350_414e;
/// The longest record, in blocks.
const RECORD_BLOCKS_MAX: usize = 8;
/// After this many records a writer flushes.
const FLUSH_EVERY: u64 = 50;
/// No answer is waited for longer: a host that hangs is a failure of its own.
const HANG: Duration = Duration::from_secs(30);

/// A connection of the old-style client.
pub(crate) type Client = NbdClient<Buffered>;

/// A stream that sends a request in one piece: the client writes it field by field.
#[derive(Debug)]
pub(crate) struct Buffered(BufWriter<UnixStream>);

impl Read for Buffered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.get_ref().read(buffer)
    }
}

impl Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Attaches a volume through a Unix socket; its size too.
pub(crate) fn attach(socket: &Path, volume: &str) -> Result<(Client, u64)> {
    let stream = UnixStream::connect(socket).context("connect")?;
    stream.set_read_timeout(Some(HANG))?;
    stream.set_write_timeout(Some(HANG))?;
    let mut stream = Buffered(BufWriter::with_capacity(1 << 20, stream));
    let export = handshake(&mut stream, volume.as_bytes()).context("shake hands")?;
    Ok((NbdClient::new(stream, &export), export.size))
}

/// What is known of a block.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acknowledged: u64,
    sent: u64,
}

/// What one writer did.
#[derive(Clone, Debug)]
struct Region {
    writer: u32,
    first_block: u64,
    blocks: Vec<Known>,
    number: u64,
}

/// What all writers did: the truth that copies are compared with.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    regions: Vec<Arc<Mutex<Region>>>,
}

fn lock(region: &Mutex<Region>) -> MutexGuard<'_, Region> {
    region.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was found when everything was read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Blocks that were ever acknowledged.
    pub(crate) acknowledged: u64,
    /// Of them, blocks that hold an older record than the acknowledged one.
    pub(crate) lost: u64,
    /// Blocks that hold no whole record of their writer.
    pub(crate) torn: u64,
    /// Blocks that hold a record that was never sent.
    pub(crate) invented: u64,
}

impl Journal {
    /// Writers with `blocks` blocks each, beginning at a block of the volume. Numbers of writers
    /// grow from `first_writer`, so that two journals do not take each other's records for theirs.
    pub(crate) fn new(first_writer: u32, first_block: u64, writers: u32, blocks: u64) -> Self {
        let region = |index: u32| Region {
            writer: first_writer + index,
            first_block: first_block + u64::from(index) * blocks,
            blocks: (0..blocks).map(|_| Known::default()).collect(),
            number: 0,
        };
        let regions = (0..writers).map(|index| Arc::new(Mutex::new(region(index))));
        Self { regions: regions.collect() }
    }

    /// The same as it is now; what is written later does not change it.
    pub(crate) fn snapshot(&self) -> Self {
        let copy = |region: &Arc<Mutex<Region>>| Arc::new(Mutex::new(lock(region).clone()));
        Self { regions: self.regions.iter().map(copy).collect() }
    }

    /// What `later` sent is permitted to be found too.
    pub(crate) fn permit(&self, later: &Self) {
        for (ours, theirs) in self.regions.iter().zip(&later.regions) {
            let theirs = lock(theirs);
            for (known, newer) in lock(ours).blocks.iter_mut().zip(&theirs.blocks) {
                known.sent = newer.sent;
            }
        }
    }

    /// Numbers that `discarded` used are not used again.
    pub(crate) fn go_on_after(&self, discarded: &Self) {
        for (ours, theirs) in self.regions.iter().zip(&discarded.regions) {
            let used = lock(theirs).number;
            let mut ours = lock(ours);
            ours.number = ours.number.max(used);
        }
    }

    /// Reads everything back from where it is served, and takes what is found as the truth from
    /// which later losses are counted.
    pub(crate) fn verify(&self, socket: &Path, volume: &str) -> Result<Found> {
        let (mut client, _) = attach(socket, volume)?;
        let mut found = Found::default();
        for region in &self.regions {
            let mut region = lock(region);
            let mut content = vec![0; region.blocks.len() * BLOCK];
            client.seek(SeekFrom::Start(region.first_block * BLOCK as u64))?;
            for piece in content.chunks_mut(1 << 20) {
                client.read_exact(piece).context("read back")?;
            }
            for (block, bytes) in content.chunks_exact(BLOCK).enumerate() {
                region.judge(block, bytes, &mut found);
            }
        }
        Ok(found)
    }

    /// Everything that was acknowledged is there, whole.
    pub(crate) fn is_intact(&self, socket: &Path, volume: &str) -> Result<Found> {
        let found = self.verify(socket, volume)?;
        let is_good = found.lost == 0 && found.torn == 0 && found.invented == 0;
        ensure!(is_good && found.acknowledged > 0, "{found:?}");
        Ok(found)
    }
}

impl Region {
    fn judge(&mut self, block: usize, bytes: &[u8], found: &mut Found) {
        let known = &mut self.blocks[block];
        found.acknowledged += u64::from(known.acknowledged > 0);
        let Some(number) = number_in(self.writer, block as u64, bytes) else {
            found.torn += 1;
            return;
        };
        found.lost += u64::from(number < known.acknowledged);
        found.invented += u64::from(number > known.sent);
        *known = Known { acknowledged: number, sent: number };
    }

    /// Where the next record goes, and its bytes; nothing if no block may be written.
    fn next(&mut self, random: &mut Random) -> Option<(usize, Vec<u8>)> {
        let count = self.blocks.len();
        let from = random.index(count);
        let start = (from..count).chain(0..from).find(|at| self.is_settled(*at))?;
        let longest = 1 + random.index(RECORD_BLOCKS_MAX);
        let end = count.min(start + longest);
        let end = (start..end).find(|at| !self.is_settled(*at)).unwrap_or(end);
        self.number += 1;
        let mut bytes = Vec::with_capacity((end - start) * BLOCK);
        for block in start..end {
            self.blocks[block].sent = self.number;
            fill(self.writer, block as u64, self.number, &mut bytes);
        }
        Some((start, bytes))
    }

    fn is_settled(&self, block: usize) -> bool {
        self.blocks[block].sent == self.blocks[block].acknowledged
    }

    fn acknowledge(&mut self, start: usize, count: usize) {
        for known in &mut self.blocks[start..start + count] {
            known.acknowledged = self.number;
        }
    }
}

/// Appends a block of a record.
fn fill(writer: u32, block: u64, number: u64, bytes: &mut Vec<u8>) {
    let end = bytes.len() + BLOCK;
    for word in [MAGIC, u64::from(writer), block, number] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let mut random = Random::new(u64::from(writer) << 48 ^ block << 24 ^ number);
    while bytes.len() < end {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
}

/// The number of the record that a block holds; 0 if it is empty, nothing if it is no whole one.
fn number_in(writer: u32, block: u64, bytes: &[u8]) -> Option<u64> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let number = u64::from_le_bytes(bytes[24..32].try_into().ok()?);
    let mut whole = Vec::with_capacity(BLOCK);
    fill(writer, block, number, &mut whole);
    (whole == bytes).then_some(number)
}

/// How a writer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As it was told to.
    Told,
    /// Its connection ended.
    Dropped,
    /// A request was answered with an error.
    Refused(String),
    /// A request was not answered at all.
    Hung,
}

/// Writers at work.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    records: Arc<AtomicU64>,
    writers: Vec<JoinHandle<(End, Duration)>>,
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Done {
    /// Records that were acknowledged.
    pub(crate) records: u64,
    /// How each writer ended.
    pub(crate) ends: Vec<End>,
    /// The longest time that a record took to be acknowledged.
    pub(crate) slowest: Duration,
}

impl Done {
    /// Every writer wrote until it was told to stop.
    pub(crate) fn is_undisturbed(&self) -> Result<()> {
        ensure!(self.ends.iter().all(|end| *end == End::Told), "hosts were disturbed: {self:?}");
        Ok(())
    }

    /// Every writer lost its connection.
    pub(crate) fn is_dropped(&self) -> Result<()> {
        ensure!(self.ends.iter().all(|end| *end == End::Dropped), "hosts were kept: {self:?}");
        Ok(())
    }
}

impl Load {
    /// Starts the writers of a journal.
    pub(crate) fn start(journal: &Journal, socket: &Path, volume: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let records = Arc::new(AtomicU64::new(0));
        let mut load = Self { stop, records, writers: Vec::new() };
        for region in &journal.regions {
            let (client, _) = attach(socket, volume)?;
            let (region, stop) = (Arc::clone(region), Arc::clone(&load.stop));
            let records = Arc::clone(&load.records);
            let work = move || write(client, &region, &stop, &records);
            load.writers.push(std::thread::spawn(work));
        }
        Ok(load)
    }

    /// Records that were acknowledged so far.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Waits until so many more were acknowledged.
    pub(crate) fn await_more(&self, records: u64, limit: Duration) -> Result<()> {
        let wanted = self.records() + records;
        wait_for("acknowledged records", limit, || {
            let (now, running) = (self.records(), self.running());
            ensure!(now >= wanted, "{now} of {wanted}, {running} writers are at work");
            Ok(())
        })
    }

    /// Waits until no writer works any more, because each was dropped.
    pub(crate) fn await_end(&self, limit: Duration) -> Result<()> {
        wait_for("the end of the writers", limit, || {
            ensure!(self.running() == 0, "{} are at work", self.running());
            Ok(())
        })
    }

    fn running(&self) -> usize {
        self.writers.iter().filter(|writer| !writer.is_finished()).count()
    }

    /// Tells the writers to stop, and waits for them.
    pub(crate) fn end(mut self) -> Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        let mut done = Done { records: 0, ends: Vec::new(), slowest: Duration::ZERO };
        for writer in std::mem::take(&mut self.writers) {
            let Ok((end, slowest)) = writer.join() else { bail!("a writer panicked") };
            done.ends.push(end);
            done.slowest = done.slowest.max(slowest);
        }
        done.records = self.records();
        ensure!(!done.ends.contains(&End::Hung), "a host hung for {HANG:?}: {done:?}");
        Ok(done)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write(
    mut client: Client,
    region: &Mutex<Region>,
    stop: &AtomicBool,
    records: &AtomicU64,
) -> (End, Duration) {
    let (first_block, seed) = {
        let region = lock(region);
        (region.first_block, u64::from(region.writer) ^ region.number << 16)
    };
    let mut random = Random::new(seed);
    let mut slowest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let Some((start, bytes)) = lock(region).next(&mut random) else { break };
        let clock = Deadline::after(Duration::ZERO);
        let written = client
            .seek(SeekFrom::Start((first_block + start as u64) * BLOCK as u64))
            .and_then(|_| client.write_all(&bytes));
        if let Err(error) = written {
            return (end_of(&error, &mut client), slowest);
        }
        slowest = slowest.max(clock.elapsed());
        lock(region).acknowledge(start, bytes.len() / BLOCK);
        let count = records.fetch_add(1, Ordering::Relaxed);
        if count.is_multiple_of(FLUSH_EVERY)
            && let Err(error) = client.flush()
        {
            return (end_of(&error, &mut client), slowest);
        }
    }
    (End::Told, slowest)
}

/// A request that fails may be the last that is answered before the connection ends.
fn end_of(error: &io::Error, client: &mut Client) -> End {
    let is_lost = |error: &io::Error| {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset)
    };
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        return End::Hung;
    }
    let next = client.seek(SeekFrom::Start(0)).and_then(|_| client.read(&mut [0; BLOCK]));
    if is_lost(error) || next.is_err_and(|next| is_lost(&next)) {
        return End::Dropped;
    }
    End::Refused(error.to_string())
}

/// A file of this many random bytes.
pub(crate) fn random_file(path: &Path, bytes: u64, seed: u64) -> Result<PathBuf> {
    let mut file = BufWriter::new(std::fs::File::create(path).context("make a file")?);
    let mut random = Random::new(seed);
    for _ in 0..bytes / 8 {
        file.write_all(&random.next().to_le_bytes())?;
    }
    file.flush()?;
    Ok(path.to_owned())
}

/// A disk image: data, holes and zeroes, as images are.
pub(crate) fn disk_image(path: &Path, bytes: u64, seed: u64) -> Result<PathBuf> {
    let mut random = Random::new(seed);
    let mut file = std::fs::File::create(path).context("make a file")?;
    file.set_len(bytes)?;
    let mut at = 0;
    while at < bytes {
        let length = random.within(1..257) * 4096;
        let length = length.min(bytes - at);
        if random.within(0..4) > 0 {
            let words = (0..length / 8).flat_map(|_| random.next().to_le_bytes());
            let content: Vec<u8> = words.collect();
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&content)?;
        }
        at += length;
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checker_counts_what_is_missing() {
        let journal = Journal::new(7, 0, 1, 8);
        let mut region = lock(&journal.regions[0]);
        let mut random = Random::new(1);
        let (start, old) = region.next(&mut random).unwrap();
        region.acknowledge(start, old.len() / BLOCK);
        let judge = |bytes: &[u8]| {
            let mut found = Found::default();
            region.clone().judge(start, bytes, &mut found);
            (found.lost, found.torn, found.invented)
        };
        assert_eq!(judge(&old[..BLOCK]), (0, 0, 0));
        assert_eq!(judge(&[0; BLOCK]), (1, 0, 0), "an acknowledged record that is gone");
        let mut torn = old[..BLOCK].to_vec();
        torn[BLOCK - 1] ^= 1;
        assert_eq!(judge(&torn), (0, 1, 0));
        let mut newer = Vec::new();
        fill(7, start as u64, 2, &mut newer);
        assert_eq!(judge(&newer), (0, 0, 1), "a record that was never sent");
        let mut foreign = Vec::new();
        fill(8, start as u64, 1, &mut foreign);
        assert_eq!(judge(&foreign), (0, 1, 0), "another writer's record");
    }
}
