//! COMPARE AND WRITE of an initiator, and a host that writes the same blocks over NBD meanwhile.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use tempfile::TempDir;

use crate::initiator::Initiator;
use crate::iscsi::{PREFIX, two_sites};
use crate::pair::SOON;
use crate::records::{Client, attach};

/// What is compared, written and read at once, in blocks of 512 bytes.
const BLOCKS: u8 = 16;
const BYTES: usize = 512 * BLOCKS as usize;
/// Writes of the host over NBD.
const WRITES: u64 = 1500;

/// Content that is one number all over.
fn content(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(BYTES / 8)
}

/// The number, if it is one all over.
fn number(content: &[u8]) -> Result<u64> {
    let first = *content.first_chunk::<8>().context("some bytes")?;
    let whole = content.chunks(8).all(|chunk| chunk == first);
    ensure!(whole, "two writes are mixed: {content:x?}");
    Ok(u64::from_be_bytes(first))
}

/// Numbers that nobody else writes.
fn fresh(numbers: &AtomicU64) -> u64 {
    numbers.fetch_add(1, Ordering::Relaxed)
}

/// Replaces what is there by something new as often as it can; what it put in place of what.
fn swaps(
    mut session: Initiator,
    numbers: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Result<Vec<(u64, u64)>>> {
    std::thread::spawn(move || {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let old = session.read(BLOCKS)?;
            let new = fresh(&numbers);
            if session.compare_and_write(&old, &content(new))? {
                done.push((number(&old)?, new));
            }
        }
        Ok(done)
    })
}

fn read(client: &mut Client) -> Result<u64> {
    let mut there = vec![0; BYTES];
    client.seek(SeekFrom::Start(0))?;
    client.read_exact(&mut there).context("read over NBD")?;
    number(&there)
}

fn write(client: &mut Client, what: u64) -> Result<()> {
    client.seek(SeekFrom::Start(0))?;
    client.write_all(&content(what)).context("write over NBD")
}

/// Every write over NBD is where it was acknowledged, or was compared by whoever took it away: nothing
/// of it landed between a comparison and its write. The blocks are the same at both sites in the end.
#[test]
fn no_write_over_nbd_lands_between_a_comparison_and_its_write() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, port), (mut west, _)] = two_sites(&dir)?;
    let (numbers, stop) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
    let login = |name: &str| Initiator::login(port, name, &format!("{PREFIX}:orders"));
    let swapping: Vec<_> = [login("one")?, login("two")?]
        .map(|session| swaps(session, Arc::clone(&numbers), Arc::clone(&stop)))
        .into();
    let host = || -> Result<Vec<(u64, u64)>> {
        let (mut client, _) = attach(&east.nbd_socket(), "orders")?;
        let mut seen = Vec::new();
        for _ in 0..WRITES {
            let ours = fresh(&numbers);
            write(&mut client, ours)?;
            seen.push((ours, read(&mut client)?));
        }
        Ok(seen)
    };
    let seen = host();
    stop.store(true, Ordering::Relaxed);
    let mut replaced = HashMap::new();
    let mut swapped = 0;
    for thread in swapping {
        for (old, new) in thread.join().expect("no thread panics")? {
            swapped += 1;
            ensure!(replaced.insert(new, old).is_none(), "{new} was written twice");
        }
    }
    let seen = seen?;
    let mut olds: Vec<u64> = replaced.values().copied().collect();
    olds.sort_unstable();
    let both = olds.windows(2).find(|two| two[0] == two[1] && two[0] != 0);
    ensure!(both.is_none(), "{both:?} was compared by two that both wrote over it");
    let mut taken = 0;
    for (ours, mut there) in seen {
        taken += u64::from(there != ours);
        while there != ours {
            let before = replaced.get(&there).copied();
            there = before.with_context(|| format!("{ours} was overwritten without a word"))?;
        }
    }
    println!("{swapped} swaps beside {WRITES} writes, of which {taken} were taken up at once");
    ensure!(swapped > 50 && taken > 0, "they were not at it at the same time");
    are_equal(&east, &west)?;
    west.stop()?;
    east.stop()
}

fn are_equal(east: &Site, west: &Site) -> Result<()> {
    let (mut client, _) = attach(&east.nbd_socket(), "orders")?;
    let here = read(&mut client)?;
    east.cli(&["snapshot", "create", "orders", "--name", "end"])?;
    let there = wait_for("the snapshot at the mirror", SOON, || {
        let (mut client, _) = attach(&west.nbd_socket(), "orders@end")?;
        read(&mut client)
    })?;
    ensure!(here == there, "{here} at one site, {there} at the other");
    Ok(())
}
