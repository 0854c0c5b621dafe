//! What snapshots and backups cost.
//!
//! ```text
//!   snapshot   a volume of 1 TiB of which 10 % of the slots are mapped   beside qemu-img on qcow2,
//!                                                                        and a raw copy
//!   round:     4k random writes ─ snapshot ─ the same writes             beside qemu-nbd on qcow2
//!   backup     1 % of all blocks changed: what is moved; then a restore to the first byte
//! ```
//!
//! Invariant: the peer's image has as large a map: of 1 TiB, a tenth is allocated. A raw file has no
//! snapshot but a copy, which is made of a file of the size of the rounds' volume, not of 1 TiB. Each
//! figure that has a goal is told with it, met or not.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Deadline, Process, Site, Tool, require};
use serde::Serialize;

use crate::Options;
use crate::client::{Address, Client};
use crate::goal::{Goal, Judged};
use crate::load::{Load, fill, write_at};
use crate::report::median;
use crate::rounds::{Work, write_out};

const VOLUME: &str = "bench";
const LARGE: &str = "large";
const LARGE_GIB: u64 = 1024;
const SLOT_BYTES: u64 = 64 << 10;
/// Of ten slots one is mapped.
const STRIDE_BYTES: u64 = 10 * SLOT_BYTES;
/// For a busy machine; what takes longer is a fault.
const LIMIT: Duration = Duration::from_secs(600);
/// Writes under way at once.
const DEPTH: usize = 32;

/// Snapshots of the large volume, of which the median is told.
const SNAPSHOTS: usize = 7;

/// Writes before and after a snapshot, in operations a second.
#[derive(Clone, Copy, Debug, Serialize)]
struct Writes {
    before: f64,
    after: f64,
}

/// What one round measured.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    ours: Writes,
    qcow2: Writes,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    mib: u64,
    large_gib: u64,
    large_mapped_slots: u64,
    snapshot_ms: f64,
    qcow2_snapshot_ms: f64,
    raw_copy_ms: f64,
    rounds: Vec<Round>,
    /// Medians, and of the ratios round by round.
    after_over_before: f64,
    qcow2_after_over_before: f64,
    after_over_qcow2: f64,
    backup_moved_percent: f64,
    restore_made_ms: f64,
    first_byte_ms: f64,
}

/// The report for programs.
#[derive(Debug, Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    goals: [Judged; 5],
}

/// Measures and prints.
///
/// # Errors
/// When a site or a peer cannot be started, or answers with an error.
pub(crate) fn run(options: &Options, work: &Work) -> Result<()> {
    let dir = work.disk.as_path();
    for tool in ["qemu-img", "qemu-nbd"] {
        require(tool)?;
    }
    let mut site = Site::new(dir, "one")?;
    let repository = dir.join("repository");
    let url = repository.display();
    site.configure(&format!("[[backup.targets]]\nname = \"disk\"\nurl = \"file://{url}\"\n"))?;
    site.start()?;
    let address = Address::Unix(site.nbd_socket());
    let qcow2 = Qcow2::make(dir, options.size_mib)?;

    eprintln!("snapshots: fill");
    site.cli(&["volume", "create", VOLUME, "--size", &format!("{}MiB", options.size_mib)])?;
    fill(&address, VOLUME)?;
    qcow2.filled()?;
    write_out()?;
    let mut rounds = Vec::new();
    for repeat in 1..=options.repeats {
        eprintln!("snapshots: round {repeat}");
        let load = |export| load(&address, export, options.seconds).run();
        let before = load(VOLUME)?.ops_per_second;
        site.cli(&["snapshot", "create", VOLUME, "--name", &format!("round-{repeat}")])?;
        let ours = Writes { before, after: load(VOLUME)?.ops_per_second };
        let qcow2 = qcow2.round(options.seconds, repeat)?;
        rounds.push(Round { ours, qcow2 });
    }
    eprintln!("snapshots: backups");
    let (backup_moved_percent, restore_made_ms, first_byte_ms) = backups(&site, &address)?;
    eprintln!("snapshots: 1 TiB");
    let (large_mapped_slots, snapshot_ms) = large(&site, &address)?;
    let qcow2_snapshot_ms = large_qcow2(dir)?;
    let raw_copy_ms = raw_copy(dir, options.size_mib)?;

    let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of));
    let report = Report {
        mib: options.size_mib,
        large_gib: LARGE_GIB,
        large_mapped_slots,
        snapshot_ms,
        qcow2_snapshot_ms,
        raw_copy_ms,
        after_over_before: middle(&|round| round.ours.after / round.ours.before),
        qcow2_after_over_before: middle(&|round| round.qcow2.after / round.qcow2.before),
        after_over_qcow2: middle(&|round| round.ours.after / round.qcow2.after),
        rounds,
        backup_moved_percent,
        restore_made_ms,
        first_byte_ms,
    };
    let text = if options.output == "json" {
        let told = Told { report: &report, goals: report.goals() };
        serde_json::to_string(&told).context("print the report")?
    } else {
        report.table()
    };
    println!("{text}");
    Ok(())
}

/// How many slots of a volume of 1 TiB are mapped, and how long a snapshot of it takes, in
/// milliseconds.
fn large(site: &Site, address: &Address) -> Result<(u64, f64)> {
    let large_mapped_slots = (LARGE_GIB << 30) / STRIDE_BYTES;
    site.cli(&["volume", "create", LARGE, "--size", &format!("{LARGE_GIB}GiB")])?;
    let mut client = Client::attach(address, LARGE, false)?;
    for from in (0..large_mapped_slots).step_by(DEPTH) {
        let to = large_mapped_slots.min(from + DEPTH as u64);
        let places: Vec<u64> = (from..to).map(|slot| slot * STRIDE_BYTES).collect();
        write_at(&mut client, &places)?;
    }
    drop(client);
    write_out()?;
    let timed = |command: &[&str]| {
        let watch = Deadline::after(LIMIT);
        site.cli(command)?;
        anyhow::Ok(watch.elapsed().as_secs_f64() * 1e3)
    };
    let (mut taking, mut asking) = (Vec::new(), Vec::new());
    for number in 0..SNAPSHOTS {
        taking.push(timed(&["snapshot", "create", LARGE, "--name", &format!("now-{number}")])?);
        asking.push(timed(&["volume", "show", LARGE])?);
    }
    // What starting the command and asking costs is no part of a snapshot. What the answer says of the
    // snapshot's room is: a list of snapshots works that out, too, so it would hide it.
    Ok((large_mapped_slots, median(taking) - median(asking)))
}

fn load(address: &Address, export: &str, seconds: f64) -> Load {
    Load::rand_write((address, export), DEPTH, seconds)
}

/// What a backup of 1 % changed blocks moves, in percent of the volume; how long a restored volume
/// takes to be there, and to its first byte, in milliseconds.
fn backups(site: &Site, address: &Address) -> Result<(f64, f64, f64)> {
    let create = ["backup", "create", VOLUME, "--target", "disk"];
    site.cli(&[&create[..], &["--name", "first"]].concat())?;
    let mut client = Client::attach(address, VOLUME, false)?;
    let (blocks, bytes) = (client.size / 4096, client.size);
    // 1 % at places that have nothing to do with each other.
    let places: Vec<u64> = (0..blocks / 100).map(|n| n * 7919 % blocks * 4096).collect();
    for some in places.chunks(DEPTH) {
        write_at(&mut client, some)?;
    }
    drop(client);
    site.cli(&[&create[..], &["--name", "second"]].concat())?;
    let second = site.cli(&["backup", "show", "second"])?;
    let moved = second["stored_bytes"].as_f64().context("no bytes in the backup")?;
    let watch = Deadline::after(LIMIT);
    site.cli(&["backup", "restore", "new", "second", "--to", "restored", "--detach"])?;
    let made_ms = watch.elapsed().as_secs_f64() * 1e3;
    let uri = site.nbd("restored");
    let tool = Tool::new("qemu-io").args(["-r", "-f", "raw", "-c", "read 0 4k"]);
    tool.arg(&uri).run()?;
    Ok((moved / bytes as f64 * 100.0, made_ms, watch.elapsed().as_secs_f64() * 1e3))
}

/// The peer: an image on the same disk, served by qemu-nbd in the page cache.
struct Qcow2 {
    dir: PathBuf,
    image: PathBuf,
}

impl Qcow2 {
    fn make(dir: &Path, mib: u64) -> Result<Self> {
        let dir = dir.join("qcow2");
        std::fs::create_dir_all(&dir)?;
        let image = dir.join("image");
        create(&image, &format!("{mib}M"), "off")?;
        Ok(Self { dir, image })
    }

    fn serve(&self) -> Result<(Process, Address)> {
        let socket = self.dir.join("nbd.sock");
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let mut command = Command::new("qemu-nbd");
        command.args(["--format=qcow2", "--cache=writeback", "--persistent", "--socket"]);
        command.arg(&socket).arg(&self.image);
        let process = Process::start("qemu-nbd", &mut command, &self.dir.join("log"))?;
        Ok((process, Address::Unix(socket)))
    }

    fn filled(&self) -> Result<()> {
        let (_process, address) = self.serve()?;
        fill(&address, "").map(drop)
    }

    /// A snapshot is made while nobody serves the image: qemu-img wants it alone.
    fn round(&self, seconds: f64, repeat: usize) -> Result<Writes> {
        let writes = || -> Result<f64> {
            let (_process, address) = self.serve()?;
            Ok(load(&address, "", seconds).run()?.ops_per_second)
        };
        let before = writes()?;
        snapshot(&self.image, &format!("round-{repeat}"))?;
        Ok(Writes { before, after: writes()? })
    }
}

fn create(image: &Path, size: &str, preallocation: &str) -> Result<()> {
    let option = format!("preallocation={preallocation}");
    let tool = Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", &option]);
    tool.arg(image).arg(size).run().map(drop)
}

fn snapshot(image: &Path, name: &str) -> Result<()> {
    Tool::new("qemu-img").args(["snapshot", "-c", name]).arg(image).run().map(drop)
}

/// A snapshot of an image of 1 TiB of which a tenth is allocated, without the start of the program.
fn large_qcow2(dir: &Path) -> Result<f64> {
    let image = dir.join("large.qcow2");
    create(&image, &format!("{}G", LARGE_GIB / 10), "metadata")?;
    let grow = Tool::new("qemu-img").args(["resize", "-q"]).arg(&image);
    grow.arg(format!("{LARGE_GIB}G")).run()?;
    write_out()?;
    let watch = Deadline::after(LIMIT);
    snapshot(&image, "now")?;
    let with_program_ms = watch.elapsed().as_secs_f64() * 1e3;
    let watch = Deadline::after(LIMIT);
    Tool::new("qemu-img").args(["snapshot", "-l"]).arg(&image).run()?;
    Ok(with_program_ms - watch.elapsed().as_secs_f64() * 1e3)
}

/// Copying a file, as who has no snapshots must.
fn raw_copy(dir: &Path, mib: u64) -> Result<f64> {
    let (from, to) = (dir.join("raw"), dir.join("raw-copy"));
    let piece: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[n as usize % 3]).collect();
    let mut file = File::create(&from)?;
    for _ in 0..mib {
        file.write_all(&piece)?;
    }
    drop(file);
    write_out()?;
    let watch = Deadline::after(LIMIT);
    let (mut from, mut to) = (File::open(&from)?, File::create(&to)?);
    let (mut buffer, mut copied) = (vec![0; 1 << 20], 0);
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        to.write_all(&buffer[..count])?;
        copied += count as u64;
    }
    to.sync_all()?;
    ensure!(copied == mib << 20, "the copy is not whole");
    Ok(watch.elapsed().as_secs_f64() * 1e3)
}

// === impl Report ===

impl Report {
    /// The figures that have a goal.
    fn goals(&self) -> [Judged; 5] {
        [
            ("snapshot_ms", self.snapshot_ms, Goal::Under(10.0)),
            ("after_over_before", self.after_over_before, Goal::AtLeast(0.8)),
            ("after_over_qcow2", self.after_over_qcow2, Goal::AtLeast(2.0)),
            ("backup_moved_percent", self.backup_moved_percent, Goal::AtMost(1.2)),
            ("first_byte_ms", self.first_byte_ms, Goal::Under(1000.0)),
        ]
        .map(|(figure, value, goal)| goal.judge(figure, value))
    }

    fn table(&self) -> String {
        let [snapshot, before, qcow2, moved, first_byte] = self.goals().map(|judged| judged.text());
        format!(
            "snapshot of {} GiB, {} slots mapped       {:9.1} ms   {snapshot}\n\
             qemu-img snapshot, qcow2, as much mapped   {:9.1} ms\n\
             raw copy of {} MiB                         {:9.1} ms\n\
             4k random writes, {} rounds of {} MiB\n\
             after a snapshot, to before it             {:9.2}   {before}\n\
             the same of qcow2                          {:9.2}\n\
             ours after it, to qcow2's after it         {:9.2}   {qcow2}\n\
             backup of 1 % changed moves                {:9.2} % of the volume   {moved}\n\
             restore: the volume is there after         {:9.0} ms\n\
             restore: its first byte after              {:9.0} ms   {first_byte}",
            self.large_gib,
            self.large_mapped_slots,
            self.snapshot_ms,
            self.qcow2_snapshot_ms,
            self.mib,
            self.raw_copy_ms,
            self.rounds.len(),
            self.mib,
            self.after_over_before,
            self.qcow2_after_over_before,
            self.after_over_qcow2,
            self.backup_moved_percent,
            self.restore_made_ms,
            self.first_byte_ms,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_raw_copy_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert!(raw_copy(dir.path(), 2).unwrap() > 0.0);
        let read = |name| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read("raw"), read("raw-copy"));
    }

    fn report(snapshot_ms: f64, after_over_qcow2: f64) -> Report {
        Report {
            mib: 64,
            large_gib: LARGE_GIB,
            large_mapped_slots: 1,
            snapshot_ms,
            qcow2_snapshot_ms: 1.0,
            raw_copy_ms: 1.0,
            rounds: Vec::new(),
            after_over_before: 0.8,
            qcow2_after_over_before: 0.1,
            after_over_qcow2,
            backup_moved_percent: 1.2,
            restore_made_ms: 1.0,
            first_byte_ms: 999.0,
        }
    }

    #[test]
    fn each_figure_that_has_a_goal_is_told_with_it_met_or_not() {
        let met = |report: &Report| report.goals().map(|judged| judged.is_met);
        assert_eq!(met(&report(9.9, 2.0)), [true; 5]);
        // Faster than the call that is taken off is told as it was measured, and what is no number as
        // not met.
        assert_eq!(met(&report(-0.1, f64::NAN)), [true, true, false, true, true]);
        let missed = report(10.0, 1.9);
        assert_eq!(met(&missed), [false, true, false, true, true]);
        let table = missed.table();
        assert!(table.contains("10.0 ms   goal: under 10, NOT MET"), "{table}");
        assert!(table.contains("1.20 % of the volume   goal: at most 1.2, met"), "{table}");
        let told = Told { report: &missed, goals: missed.goals() };
        let told = serde_json::to_value(&told).unwrap();
        assert_eq!(told["snapshot_ms"], 10.0);
        assert_eq!(told["goals"][0]["is_met"], false);
    }
}
