//! What an operator waits for: a mirror that catches up, and a failover.
//!
//! ```text
//!   round:  fill ─ plain copy, over the old ─ fill ─ plain copy, beside the old ─ fill ─ delta resync
//!           ─ kill the primary, promote, first write
//! ```
//!
//! Invariant: the plain copies move as many bytes over the same loopback, from file to file on the
//! same disk, in pieces of 256 KiB, in the same round, and end when they are on the disk, as a resync
//! does; so they say what the machine could do then. Each begins when a fill of the volume has just
//! been put on the disk: disks that are lent by the second are slower after it.
//!
//! One writes over the blocks of the last copy, which is the least work there is, and leaves nothing
//! whole when it is cut short. The other keeps the old file until the new one is whole, as a resync
//! does: both take new blocks from the file system, new memory from the kernel, and give the old ones
//! back afterwards.

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
use crate::goal::{Goal, Judged};
use crate::load::{fill, write_once};
use crate::report::median;
use crate::rounds::{Work, write_out};

const VOLUME: &str = "bench";
/// Bytes that the copier moves at a time.
const PIECE_BYTES: usize = 256 << 10;
/// The state of a leg, one line for each that there is, and 1 behind the one that it is in.
const LEG_STATE: &str = "twinspan_leg_session_state{";
const IN_SYNC: &str = "state=\"active\"";
/// Between two looks at whether a resync is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For a busy machine; what takes longer is a fault.
const LIMIT: Duration = Duration::from_secs(120);

/// What one round measured.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    plain_mib_per_second: f64,
    beside_mib_per_second: f64,
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
    /// The same over the plain copy that keeps the old file.
    resync_over_beside: f64,
    goals: [Judged; 2],
}

/// Measures and prints.
///
/// # Errors
/// When a site cannot be started, or does not come to where it should be.
pub(crate) fn run(options: &Options, work: &Work) -> Result<()> {
    let dir = work.disk.as_path();
    let mut pair = Pair::start(options, dir)?;
    // The first one makes its files; a resync finds its blocks there, too.
    plain_copy(dir, options.size_mib, Target::Over)?;
    let mut rounds = Vec::new();
    for repeat in 1..=options.repeats {
        eprintln!("recovery: round {repeat}");
        pair.suspend()?;
        pair.spoil()?;
        let plain_mib_per_second = plain_copy(dir, options.size_mib, Target::Over)?;
        pair.spoil()?;
        let beside_mib_per_second = plain_copy(dir, options.size_mib, Target::Beside)?;
        pair.spoil()?;
        let resync_mib_per_second = pair.resync(options.size_mib)?;
        let (promote_ms, first_write_ms) = pair.fail_over()?;
        rounds.push(Round {
            plain_mib_per_second,
            beside_mib_per_second,
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

    /// From the command until the primary counts on the mirror again.
    fn resync(&self, mib: u64) -> Result<f64> {
        let watch = Deadline::after(LIMIT);
        self.primary.cli(&["session", "resume", VOLUME])?;
        while !is_in_sync(&self.primary.metrics()?) {
            ensure!(watch.elapsed() < LIMIT, "the mirror is not in sync after {LIMIT:?}");
            std::thread::sleep(LOOK_EVERY);
        }
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

/// Whether the one mirror has everything, by the text of `/metrics`.
fn is_in_sync(metrics: &str) -> bool {
    let states = metrics.lines().filter(|line| line.starts_with(LEG_STATE));
    states.filter(|line| line.contains(IN_SYNC)).any(|line| line.ends_with(" 1"))
}

fn address(site: &Site) -> Address {
    Address::Unix(site.nbd_socket())
}

/// Where a plain copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Over the blocks of the last copy.
    Over,
    /// Into a new file, which replaces the old one when it is whole.
    Beside,
}

/// From file to file through a socket, as a program without checksums, maps and encryption would.
fn plain_copy(dir: &Path, mib: u64, target: Target) -> Result<f64> {
    let (from, last) = (dir.join("plain-from"), dir.join("plain-to"));
    let to = if target == Target::Over { last.clone() } else { dir.join("plain-new") };
    let new = to.clone();
    if !from.exists() {
        let mut file = File::create(&from).context("make the file to copy")?;
        let piece: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[n as usize % 3]).collect();
        for _ in 0..mib {
            file.write_all(&piece)?;
        }
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen for the copy")?;
    let address = listener.local_addr()?;
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
    let mut stream = TcpStream::connect(address).context("connect for the copy")?;
    let (mut file, mut buffer) = (File::open(&from)?, vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => stream.write_all(&buffer[..count])?,
        }
    }
    drop(stream);
    let Ok(received) = receiver.join() else { bail!("the receiver of the copy panicked") };
    let took = watch.elapsed();
    ensure!(received? == mib << 20, "the copy is not whole");
    if target == Target::Beside {
        std::fs::rename(&new, &last).context("replace the old copy")?;
    }
    Ok(mib as f64 / took.as_secs_f64())
}

// === impl Report ===

impl Report {
    fn of(mib: u64, rounds: Vec<Round>) -> Self {
        let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of));
        let medians = Round {
            plain_mib_per_second: middle(&|r| r.plain_mib_per_second),
            beside_mib_per_second: middle(&|r| r.beside_mib_per_second),
            resync_mib_per_second: middle(&|r| r.resync_mib_per_second),
            promote_ms: middle(&|r| r.promote_ms),
            first_write_ms: middle(&|r| r.first_write_ms),
        };
        let resync_over_plain = middle(&|r| r.resync_mib_per_second / r.plain_mib_per_second);
        let resync_over_beside = middle(&|r| r.resync_mib_per_second / r.beside_mib_per_second);
        // The copy that is as safe as a resync is what a resync is held against.
        let goals = [
            Goal::AtLeast(0.9).judge("resync_over_beside", resync_over_beside),
            Goal::Under(1000.0).judge("first_write_ms", medians.first_write_ms),
        ];
        Self { mib, rounds, medians, resync_over_plain, resync_over_beside, goals }
    }

    fn table(&self) -> String {
        let Round {
            plain_mib_per_second,
            beside_mib_per_second,
            resync_mib_per_second,
            promote_ms,
            first_write_ms,
        } = self.medians;
        let [resync, first_write] = self.goals.each_ref().map(Judged::text);
        format!(
            "medians of {} rounds, {} MiB each\n\
             plain TCP copy, over the old   {plain_mib_per_second:8.0} MiB/s\n\
             plain TCP copy, beside the old {beside_mib_per_second:8.0} MiB/s\n\
             delta resync, TLS, checksums   {resync_mib_per_second:8.0} MiB/s   {:.2} of the copy \
             over the old, {:.2} of the one beside it   {resync}\n\
             kill to promoted               {promote_ms:8.0} ms\n\
             kill to first write            {first_write_ms:8.0} ms   {first_write}",
            self.rounds.len(),
            self.mib,
            self.resync_over_plain,
            self.resync_over_beside,
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
            beside_mib_per_second: plain / 2.0,
            resync_mib_per_second: resync,
            promote_ms: 5.0,
            first_write_ms: 6.0,
        };
        let report = Report::of(1, vec![round(100.0, 90.0), round(10.0, 9.0), round(400.0, 100.0)]);
        assert!((report.medians.plain_mib_per_second - 100.0).abs() < 0.01);
        assert!((report.resync_over_plain - 0.9).abs() < 0.01, "{report:?}");
        assert!((report.resync_over_beside - 1.8).abs() < 0.01, "{report:?}");
        assert!(report.table().contains("0.90 of the copy over"), "{}", report.table());
        assert_eq!(report.goals.each_ref().map(|judged| judged.is_met), [true; 2]);
        let slow = Report::of(1, vec![Round { first_write_ms: 1000.0, ..round(100.0, 44.0) }]);
        assert_eq!(slow.goals.each_ref().map(|judged| judged.is_met), [false; 2]);
        assert_eq!(slow.table().matches("NOT MET").count(), 2, "{}", slow.table());
    }

    #[test]
    fn finds_out_when_the_mirror_is_in_sync() {
        let text = |active| {
            format!(
                "{LEG_STATE}leg=\"west\",state=\"syncing\"}} 1\n{LEG_STATE}leg=\"west\",{IN_SYNC}}} {active}\n"
            )
        };
        assert!(is_in_sync(&text(1)) && !is_in_sync(&text(0)) && !is_in_sync(""));
    }

    #[test]
    fn the_plain_copy_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        for target in [Target::Over, Target::Beside, Target::Over] {
            assert!(plain_copy(dir.path(), 3, target).unwrap() > 0.0);
            let read = |name| std::fs::read(dir.path().join(name)).unwrap();
            assert_eq!(read("plain-from"), read("plain-to"));
            assert!(!dir.path().join("plain-new").exists());
        }
    }
}
