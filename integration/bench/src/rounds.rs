//! One run: everyone is started, everyone is filled, then rounds.
//!
//! Invariant: within a round the contestants follow each other, so that what disturbs the machine
//! for a while disturbs all of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::wait_for;
use serde::Serialize;

use crate::Options;
use crate::contestant::{Contestant, Medium, Place, Running, Transport};
use crate::load::{Load, Measured, fill};
use crate::peers::{BARE, MIRRORS, SERVERS, TARGETS};
use crate::product::{IN_MEMORY, ISCSI, ISCSI_IN_MEMORY, JOURNALED, MIRRORED, SINGLE, UNMIRRORED};
use crate::report::Report;
use crate::workload::{Suite, Workload};

/// From start to the first good handshake.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Where contestants that live in memory keep their files.
const TMPFS: &str = "/dev/shm";

/// One measurement of one contestant.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) transport: &'static str,
    pub(crate) workload: &'static str,
    pub(crate) contestant: &'static str,
    pub(crate) medium: Medium,
    #[serde(flatten)]
    pub(crate) measured: Measured,
    /// Processor time of all the contestant's processes for each request, in microseconds.
    pub(crate) cpu_us_per_op: f64,
}

/// Runs a suite and prints its report.
///
/// # Errors
/// When a contestant cannot be started or answers with an error.
pub(crate) fn run(suite: Suite, options: &Options) -> Result<()> {
    ensure!(options.repeats > 0 && options.seconds > 0.0, "repeats and seconds begin above 0");
    let work = Work::new(options)?;
    let mut rounds = Vec::new();
    for name in suite.transports() {
        if options.transport.is_empty() || options.transport.iter().any(|wanted| wanted == name) {
            measure(suite, options, Transport::parse(name)?, &work, &mut rounds)?;
        }
    }
    let report = Report::of(suite, options, rounds);
    let text = if options.output == "json" { report.json()? } else { report.table() };
    println!("{text}");
    Ok(())
}

/// Runs a suite that has no contestants in a folder of its own.
///
/// # Errors
/// Those of the suite.
pub(crate) fn in_own_folder(
    options: &Options,
    suite: impl FnOnce(&Options, &Work) -> Result<()>,
) -> Result<()> {
    ensure!(options.repeats > 0, "repeats begin at 1");
    let work = Work::new(options)?;
    suite(options, &work)
}

/// Folders that are there for the run and gone after it.
pub(crate) struct Work {
    pub(crate) disk: PathBuf,
    /// On tmpfs.
    pub(crate) memory: PathBuf,
}

impl Work {
    fn new(options: &Options) -> Result<Self> {
        let own = std::env::current_exe().context("find this program")?;
        let beside = own.parent().unwrap_or(Path::new("."));
        let parent = options.dir.as_deref().unwrap_or(beside);
        let name = format!("bench-{}", std::process::id());
        let work = Self { disk: parent.join(&name), memory: Path::new(TMPFS).join(&name) };
        for folder in [&work.disk, &work.memory] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("make {}", folder.display()))?;
        }
        Ok(work)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        for folder in [&self.disk, &self.memory] {
            if let Err(e) = std::fs::remove_dir_all(folder) {
                eprintln!("left behind: {} ({e})", folder.display());
            }
        }
    }
}

/// What a fill left in the page cache is written out now; half a minute later the kernel would do it
/// by itself, in the middle of somebody's measurement.
///
/// # Errors
/// When the disk fails.
pub(crate) fn write_out() -> Result<()> {
    let synced = std::process::Command::new("sync").status().context("run sync")?;
    ensure!(synced.success(), "sync ended with {synced}");
    Ok(())
}

fn contestants(suite: Suite) -> Vec<Contestant> {
    match suite {
        Suite::Nbd => [&[SINGLE, IN_MEMORY], &SERVERS[..]].concat(),
        Suite::Iscsi => [&[ISCSI, ISCSI_IN_MEMORY], &TARGETS[..], &[BARE]].concat(),
        Suite::Mirror => [&[MIRRORED, JOURNALED, UNMIRRORED], &MIRRORS[..]].concat(),
        // On tmpfs nothing is ever on a disk.
        Suite::Store => {
            let servers = SERVERS.into_iter().filter(|server| server.medium == Medium::Disk);
            std::iter::once(SINGLE).chain(servers).collect()
        }
    }
}

fn measure(
    suite: Suite,
    options: &Options,
    transport: Transport,
    work: &Work,
    rounds: &mut Vec<Round>,
) -> Result<()> {
    let mut started = Vec::new();
    for contestant in contestants(suite) {
        let name = contestant.name;
        if !options.only.is_empty() && !options.only.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("{}: starting and filling {name}", transport.name());
        let parent = match contestant.medium {
            Medium::Memory => &work.memory,
            Medium::Disk | Medium::Nowhere => &work.disk,
        };
        let place = Place { dir: parent.join(name), size_mib: options.size_mib, transport };
        std::fs::create_dir_all(&place.dir)?;
        let mut running = (contestant.start)(&place).with_context(|| format!("start {name}"))?;
        await_and_fill(&mut running).with_context(|| format!("fill {name}"))?;
        started.push((contestant, running));
    }
    ensure!(!started.is_empty(), "nobody takes part");
    write_out()?;
    for workload in suite.workloads() {
        for repeat in 1..=options.repeats {
            eprintln!("{}: {}, round {repeat}", transport.name(), workload.name);
            for (contestant, running) in &mut started {
                let name = contestant.name;
                let (measured, cpu_us_per_op) = one(running, workload, options.seconds)
                    .with_context(|| format!("{name}, {}", workload.name))?;
                rounds.push(Round {
                    transport: transport.name(),
                    workload: workload.name,
                    contestant: name,
                    medium: contestant.medium,
                    measured,
                    cpu_us_per_op,
                });
            }
        }
    }
    Ok(())
}

fn await_and_fill(running: &mut Running) -> Result<()> {
    wait_for("its first answer", START_LIMIT, || {
        running.cpu_time()?;
        fill(&running.address, &running.export)
    })?;
    Ok(())
}

fn one(running: &mut Running, workload: &Workload, seconds: f64) -> Result<(Measured, f64)> {
    let load = Load {
        address: running.address.clone(),
        export: running.export.clone(),
        pattern: workload.pattern,
        bytes: workload.bytes,
        depth: workload.depth,
        connections: 1,
        seconds,
        structured: false,
        every: None,
    };
    let before = running.cpu_time()?;
    let measured = load.run()?;
    let used = running.cpu_time()?.since(before).total();
    let cpu_us_per_op = used.as_secs_f64() * 1e6 / (measured.ops_in_all as f64).max(1.0);
    Ok((measured, cpu_us_per_op))
}
