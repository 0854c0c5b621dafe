//! What an operator waits for: a mirror that catches up, and a failover.
//!
//! ```text
//!   round:  fill ─ plain TCP copy ─ fill ─ delta resync ─ kill the primary, promote, first write
//! ```
//!
//! Invariant: the plain copy moves as many bytes over the same loopback, from file to file on the
//! same disk, in pieces as large as the copier's, in the same round, and ends when they are on the
//! disk, as a resync does; so it says what the machine could do then. Either begins when a fill of
//! the volume has just been put on the disk: disks that are lent by the second are slower after it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Deadline, Site, wait_for};
use serde::Serialize;
use serde_json::Value;

use crate::Options;
use crate::client::{Address, Client};
use crate::load::{fill, write_once};
use crate::rounds::write_out;

const VOLUME: &str = "bench";
/// Bytes that the copier moves at a time.
const PIECE_BYTES: usize = 256 << 10;
/// For a busy machine; what takes longer is a fault.
const LIMIT: Duration = Duration::from_secs(120);

/// What one round measured.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    plain_mib_per_second: f64,
    resync_mib_per_second: f64,
    promote_ms: f64,
    first_write_ms: f64,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    mib: u64,
    rounds: Vec<Round>,
    /// Medians of the rounds.
    medians: Round,
    /// Median of resync over plain, round by round.
    resync_over_plain: f64,
}

/// Measures and prints.
///
/// # Errors
/// When a site cannot be started, or does not come to where it should be.
pub(crate) fn run(options: &Options, dir: &Path) -> Result<()> {
    let mut pair = Pair::start(options, dir)?;
    // The first one makes its files; a resync finds its blocks there, too.
    plain_copy(dir, options.size_mib)?;
    let mut rounds = Vec::new();
    for repeat in 1..=options.repeats {
        eprintln!("recovery: round {repeat}");
        pair.suspend()?;
        pair.spoil()?;
        let plain_mib_per_second = plain_copy(dir, options.size_mib)?;
        pair.spoil()?;
        let resync_mib_per_second = pair.resync(options.size_mib)?;
        let (promote_ms, first_write_ms) = pair.fail_over()?;
        rounds.push(Round {
            plain_mib_per_second,
            resync_mib_per_second,
            promote_ms,
            first_write_ms,
        });
    }
    let report = Report::of(options.size_mib, rounds);
    let text = if options.output == "json" {
        serde_json::to_string(&report).context("print the report")?
    } else {
        report.table()
    };
    println!("{text}");
    Ok(())
}

/// Two sites; the first is the primary.
struct Pair {
    primary: Site,
    mirror: Site,
}

impl Pair {
    fn start(options: &Options, dir: &Path) -> Result<Self> {
        let mut primary = Site::new(dir, "east")?;
        let mut mirror = Site::new(dir, "west")?;
        primary.start()?;
        mirror.start()?;
        primary.join(&mirror)?;
        let size = format!("{}MiB", options.size_mib);
        primary.cli(&["volume", "create", VOLUME, "--size", &size])?;
        primary.mirror(VOLUME, &mirror)?;
        primary.wait_equivalent(LIMIT)?;
        fill(&address(&primary), VOLUME)?;
        Ok(Self { primary, mirror })
    }

    fn suspend(&self) -> Result<()> {
        self.primary.cli(&["session", "suspend", VOLUME])?;
        Ok(())
    }

    /// Writes every block of the volume, which the mirror lacks from then on.
    fn spoil(&self) -> Result<()> {
        fill(&address(&self.primary), VOLUME)?;
        write_out()
    }

    fn resync(&self, mib: u64) -> Result<f64> {
        let watch = Deadline::after(LIMIT);
        self.primary.cli(&["session", "resume", VOLUME, "--wait"])?;
        Ok(mib as f64 / watch.elapsed().as_secs_f64())
    }

    /// The primary is killed; the mirror is promoted and takes a write; the old primary follows.
    fn fail_over(&mut self) -> Result<(f64, f64)> {
        self.primary.kill()?;
        let watch = Deadline::after(LIMIT);
        let token = wait_for("a plan", LIMIT, || {
            let plan = self.mirror.ask(&["failover", "plan", VOLUME])?.json;
            match plan.get("token").and_then(Value::as_str) {
                Some(token) => Ok(token.to_owned()),
                None => bail!("the plan is {plan}"),
            }
        })?;
        self.mirror.cli(&["failover", "run", VOLUME, "--token", &token])?;
        let promote_ms = watch.elapsed().as_secs_f64() * 1e3;
        write_once(&mut Client::attach(&address(&self.mirror), VOLUME, false)?)?;
        let first_write_ms = watch.elapsed().as_secs_f64() * 1e3;
        std::mem::swap(&mut self.primary, &mut self.mirror);
        self.mirror.start()?;
        self.primary.cli(&["reprotect", VOLUME])?;
        self.primary.wait_equivalent(LIMIT)?;
        Ok((promote_ms, first_write_ms))
    }
}

fn address(site: &Site) -> Address {
    Address::Unix(site.nbd_socket())
}

/// From file to file through a socket, as a program without checksums, maps and encryption would.
fn plain_copy(dir: &Path, mib: u64) -> Result<f64> {
    let (from, to) = (dir.join("plain-from"), dir.join("plain-to"));
    if !from.exists() {
        let mut file = File::create(&from).context("make the file to copy")?;
        let piece: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[n as usize % 3]).collect();
        for _ in 0..mib {
            file.write_all(&piece)?;
        }
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen for the copy")?;
    let target = listener.local_addr()?;
    let watch = Deadline::after(LIMIT);
    let receiver = std::thread::spawn(move || -> Result<u64> {
        let (mut stream, _) = listener.accept()?;
        let mut file = File::options().create(true).write(true).truncate(false).open(&to)?;
        let (mut buffer, mut received) = (vec![0; PIECE_BYTES], 0);
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                count => {
                    file.write_all(&buffer[..count])?;
                    received += count as u64;
                }
            }
        }
        file.sync_all().context("put the copy on the disk")?;
        Ok(received)
    });
    let mut stream = TcpStream::connect(target).context("connect for the copy")?;
    let (mut file, mut buffer) = (File::open(&from)?, vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => stream.write_all(&buffer[..count])?,
        }
    }
    drop(stream);
    let Ok(received) = receiver.join() else { bail!("the receiver of the copy panicked") };
    ensure!(received? == mib << 20, "the copy is not whole");
    Ok(mib as f64 / watch.elapsed().as_secs_f64())
}

// === impl Report ===

impl Report {
    fn of(mib: u64, rounds: Vec<Round>) -> Self {
        let middle = |of: &dyn Fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let medians = Round {
            plain_mib_per_second: middle(&|r| r.plain_mib_per_second),
            resync_mib_per_second: middle(&|r| r.resync_mib_per_second),
            promote_ms: middle(&|r| r.promote_ms),
            first_write_ms: middle(&|r| r.first_write_ms),
        };
        let resync_over_plain = middle(&|r| r.resync_mib_per_second / r.plain_mib_per_second);
        Self { mib, rounds, medians, resync_over_plain }
    }

    fn table(&self) -> String {
        let Round { plain_mib_per_second, resync_mib_per_second, promote_ms, first_write_ms } =
            self.medians;
        format!(
            "medians of {} rounds, {} MiB each\n\
             plain TCP copy, file to file   {plain_mib_per_second:8.0} MiB/s\n\
             delta resync, TLS, checksums   {resync_mib_per_second:8.0} MiB/s   {:.2} of the copy\n\
             kill to promoted               {promote_ms:8.0} ms\n\
             kill to first write            {first_write_ms:8.0} ms",
            self.rounds.len(),
            self.mib,
            self.resync_over_plain,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_medians_and_the_ratio_round_by_round() {
        let round = |plain, resync| Round {
            plain_mib_per_second: plain,
            resync_mib_per_second: resync,
            promote_ms: 5.0,
            first_write_ms: 6.0,
        };
        let report = Report::of(1, vec![round(100.0, 90.0), round(10.0, 9.0), round(400.0, 100.0)]);
        assert!((report.medians.plain_mib_per_second - 100.0).abs() < 0.01);
        assert!((report.resync_over_plain - 0.9).abs() < 0.01, "{report:?}");
        assert!(report.table().contains("0.90 of the copy"), "{}", report.table());
    }

    #[test]
    fn the_plain_copy_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert!(plain_copy(dir.path(), 3).unwrap() > 0.0);
        let read = |name| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read("plain-from"), read("plain-to"));
    }
}
