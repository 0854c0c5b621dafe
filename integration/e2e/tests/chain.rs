//! Writers whose records depend on one another across volumes, and a checker of their order.
//!
//! ```text
//!   record n of a writer lies in volume n mod V; it is sent when record n − 1 was acknowledged
//! ```
//!
//! A copy of all volumes that is one point in time holds, of each writer, every record up to some
//! number and none behind it. Whoever holds n without n − 1 broke the order of writes.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::wait_for;

use crate::records::attach;

const BLOCK: usize = 4096;
const MAGIC: u64 = 0x7457_6368_6169_6e21;

/// Where every record of every writer lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Volumes that the writers go around.
    pub(crate) volumes: u64,
    /// Writers, each with a chain of its own.
    pub(crate) writers: u64,
    /// Records of one writer in one volume; then it begins again from the front.
    pub(crate) slots: u64,
}

impl Plan {
    /// The volume and the block of a record. Numbers begin with 1.
    fn place(self, writer: u64, number: u64) -> (u64, u64) {
        let slot = number / self.volumes % self.slots;
        (number % self.volumes, writer * self.slots + slot)
    }

    /// Bytes of each volume that the records take.
    pub(crate) fn bytes(self) -> u64 {
        self.writers * self.slots * BLOCK as u64
    }

    /// The newest record of each writer in a copy of all volumes, by volume from block 0 on.
    ///
    /// # Errors
    /// When a record is there without one that it depends on, or is no whole record.
    pub(crate) fn check(self, copies: &[Vec<u8>]) -> Result<Vec<u64>> {
        ensure!(copies.len() as u64 == self.volumes, "{} copies", copies.len());
        (0..self.writers).map(|writer| self.check_writer(writer, copies)).collect()
    }

    fn check_writer(self, writer: u64, copies: &[Vec<u8>]) -> Result<u64> {
        let at = |volume: u64, block: u64| -> Result<u64> {
            let from = usize::try_from(block)? * BLOCK;
            let bytes = copies[usize::try_from(volume)?].get(from..from + BLOCK);
            number_in(writer, bytes.context("the copy is too short")?)
        };
        let mut newest = 0;
        for volume in 0..self.volumes {
            for slot in 0..self.slots {
                newest = newest.max(at(volume, writer * self.slots + slot)?);
            }
        }
        let window = self.volumes * self.slots;
        for number in newest.saturating_sub(window - 1).max(1)..=newest {
            let (volume, block) = self.place(writer, number);
            let found = at(volume, block)?;
            ensure!(
                found == number,
                "writer {writer}: record {newest} is there, and in the place of record {number} \
                 (volume {volume}) is {found}"
            );
        }
        Ok(newest)
    }
}

fn record(writer: u64, number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    while bytes.len() < BLOCK {
        for word in [MAGIC, writer, number, bytes.len() as u64] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes
}

/// The number of the record in a block; 0 for an empty one.
fn number_in(writer: u64, bytes: &[u8]) -> Result<u64> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let number = u64::from_le_bytes(bytes[16..24].try_into()?);
    ensure!(bytes == record(writer, number), "a block of writer {writer} holds no whole record");
    Ok(number)
}

/// Writers at work.
#[derive(Debug)]
pub(crate) struct Chain {
    stop: Arc<AtomicBool>,
    acknowledged: Vec<Arc<AtomicU64>>,
    writers: Vec<JoinHandle<Result<()>>>,
}

impl Chain {
    /// Starts the writers behind the records that were acknowledged before, by writer.
    pub(crate) fn start(
        plan: Plan,
        socket: &Path,
        names: &[String],
        after: &[u64],
    ) -> Result<Self> {
        let places: Vec<_> = names.iter().map(|name| (socket, name.as_str())).collect();
        Self::start_at(plan, &places, after)
    }

    /// The same over volumes of several gateways: by volume, the socket and the name.
    pub(crate) fn start_at(plan: Plan, places: &[(&Path, &str)], after: &[u64]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut chain = Self { stop, acknowledged: Vec::new(), writers: Vec::new() };
        for (writer, after) in (0..plan.writers).zip(after) {
            let attached =
                places.iter().map(|(socket, name)| attach(socket, name).map(|(client, _)| client));
            let mut clients = attached.collect::<Result<Vec<_>>>()?;
            let acknowledged = Arc::new(AtomicU64::new(*after));
            let (counter, stop) = (Arc::clone(&acknowledged), Arc::clone(&chain.stop));
            chain.acknowledged.push(acknowledged);
            chain.writers.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = counter.load(Ordering::Relaxed) + 1;
                    let (volume, block) = plan.place(writer, number);
                    let client = &mut clients[usize::try_from(volume)?];
                    client.seek(SeekFrom::Start(block * BLOCK as u64))?;
                    client.write_all(&record(writer, number))?;
                    counter.store(number, Ordering::Release);
                }
                Ok(())
            }));
        }
        Ok(chain)
    }

    /// What is acknowledged now, by writer.
    pub(crate) fn acknowledged(&self) -> Vec<u64> {
        self.acknowledged.iter().map(|number| number.load(Ordering::Acquire)).collect()
    }

    /// Waits until each writer had so many more acknowledged.
    pub(crate) fn await_more(&self, records: u64, limit: Duration) -> Result<()> {
        let wanted: Vec<u64> = self.acknowledged().iter().map(|now| now + records).collect();
        wait_for("acknowledged records", limit, || {
            let now = self.acknowledged();
            let stopped = self.writers.iter().filter(|writer| writer.is_finished()).count();
            ensure!(stopped == 0, "{stopped} writers stopped at {now:?}");
            ensure!(now.iter().zip(&wanted).all(|(now, wanted)| now >= wanted), "{now:?}");
            Ok(())
        })
    }

    /// Stops the writers, which must have been undisturbed; what was acknowledged.
    pub(crate) fn end(mut self) -> Result<Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in std::mem::take(&mut self.writers) {
            match writer.join() {
                Ok(result) => result.context("a writer was disturbed")?,
                Err(_) => bail!("a writer panicked"),
            }
        }
        Ok(self.acknowledged())
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The front of a volume, as hosts read it.
pub(crate) fn read_front(socket: &Path, volume: &str, bytes: u64) -> Result<Vec<u8>> {
    let (mut client, _) = attach(socket, volume)?;
    let mut content = vec![0; usize::try_from(bytes)?];
    client.seek(SeekFrom::Start(0))?;
    for piece in content.chunks_mut(1 << 20) {
        client.read_exact(piece).context("read")?;
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { volumes: 3, writers: 2, slots: 4 };

    fn written(upto: [u64; 2]) -> Vec<Vec<u8>> {
        let mut copies = vec![vec![0; usize::try_from(PLAN.bytes()).unwrap()]; 3];
        for (writer, upto) in (0..).zip(upto) {
            for number in 1..=upto {
                put(&mut copies, writer, number);
            }
        }
        copies
    }

    fn put(copies: &mut [Vec<u8>], writer: u64, number: u64) {
        let (volume, block) = PLAN.place(writer, number);
        let from = usize::try_from(block).unwrap() * BLOCK;
        let copy = &mut copies[usize::try_from(volume).unwrap()];
        copy[from..from + BLOCK].copy_from_slice(&record(writer, number));
    }

    #[test]
    fn the_checker_tells_a_point_in_time_from_what_is_none() {
        for upto in [[0, 0], [1, 0], [11, 12], [13, 40]] {
            assert_eq!(PLAN.check(&written(upto)).unwrap(), upto);
        }
        let mut hole = written([5, 5]);
        put(&mut hole, 0, 7);
        assert!(PLAN.check(&hole).is_err(), "7 without 6");
        let mut lost = written([40, 5]);
        put(&mut lost, 0, 39 - 12);
        assert!(PLAN.check(&lost).is_err(), "an older record in the place of 39");
        let mut torn = written([5, 5]);
        torn[1][BLOCK - 1] ^= 1;
        assert!(PLAN.check(&torn).is_err());
    }
}
