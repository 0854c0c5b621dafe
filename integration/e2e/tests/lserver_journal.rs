//! The seventeen steps with a gateway killed before and after the writes of the run's journal: the one that
//! executes the run, and the other one, which keeps a copy of it.
//!
//! ```text
//!   header │ record 1 │ record 2 │ …           after the write that makes it n records: 2n + 1
//!          1 2        3 4        5 6           before the write that follows:           2n + 2
//! ```
//!
//! The process stands still after each write of its journal, until one comes that it is to die after, or
//! before. So many points are left out between two kills of a run, and the runs of a whole walk begin at
//! different ones: no point is left out by all of them. A kill before the header leaves an empty file; that is
//! `a_journal_that_a_kill_left_without_its_header_holds_nobody_up`.
//!
//! Invariant: wherever it is killed, the run ends complete, and each change is made once; or, where a person
//! says no, everything is taken back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use harness::{Blow, Deadline, Process, Site, Traced, wait_for};

use crate::lserver::{Rig, is_taken_back, items_of, say};
use crate::lserver_kills::{attend, is_whole};
use crate::pair::{SOON, SYNC_LIMIT, text};
use crate::random::Random;
use crate::snapshots::kills;

/// Points from one kill of a run to the next: odd, so that kills before and after a write take turns.
const STRIDE: u64 = 29;
/// Between the first points of two runs; no divisor of the stride, so that all of them have their turn.
const SHIFT: u64 = 11;
/// A run has some 150 points, so about so many kills.
const KILLS_EACH: u64 = 5;
/// At least so many come in a run, or it is not what it was.
const KILLS_MIN: usize = 3;
/// From the first step to the last with all of that, with debug builds on a busy machine.
const RUN_LIMIT: Duration = Duration::from_secs(300);
/// Between two looks at the run.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks at whether a process stands still.
const GLANCE: Duration = Duration::from_millis(2);
/// Bytes of a journal before its first record.
const HEADER_BYTES: usize = 36;

const fn after(records: u64) -> u64 {
    2 * records + 1
}

const fn before_next(records: u64) -> u64 {
    2 * records + 2
}

/// A point in words.
fn words(point: u64) -> String {
    if point.is_multiple_of(2) {
        format!("before record {}", point / 2)
    } else {
        format!("after record {}", point / 2)
    }
}

/// Whole records of a journal: a length, its checksum, so many bytes, and their checksum.
fn records(journal: &Path) -> u64 {
    let bytes = fs::read(journal).unwrap_or_default();
    let mut rest = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let mut count = 0;
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some(next) = behind.get(length.saturating_add(8)..) else { break };
        (rest, count) = (next, count + 1);
    }
    count
}

/// The journal that was begun and has no record yet.
fn begun(runs: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(runs).context("list journals")? {
        let path = entry?.path();
        if path.extension().is_some_and(|of| of == "run") && records(&path) == 0 {
            return Ok(path);
        }
    }
    bail!("no journal is without a record in {}", runs.display())
}

/// A gateway that goes through the writes of its journal, one by one, up to a point.
struct Walker {
    traced: Traced,
    blow: Blow,
    /// Where its journals lie.
    runs: PathBuf,
    /// That of the run, once it was begun.
    journal: Option<PathBuf>,
    point: u64,
}

/// What came of a walk.
struct Walked {
    journal: Option<PathBuf>,
    /// Where it was killed, if it was.
    killed: Option<u64>,
}

impl Walker {
    /// Lets what comes next be a stop, or its end before the write that it is to die at.
    fn aim(&mut self) -> Result<()> {
        let Some(journal) = &self.journal else {
            // When their folder is synced the header is written, and the name can be seen.
            return self.traced.strike_at("fsync", &self.runs, Blow::Stop);
        };
        let is_next = self.point <= before_next(records(journal));
        self.blow = if is_next { Blow::Kill } else { Blow::Stop };
        self.traced.strike_at("write", journal, self.blow)
    }

    /// Goes on until it is killed, or to be left alone.
    fn walk(mut self, is_over: &AtomicBool) -> Result<Walked> {
        loop {
            if self.traced.is_dead()? {
                let count = self.journal.as_deref().map_or(0, records);
                ensure!(self.blow == Blow::Kill, "it died by itself at {count} records");
                self.traced.kill()?;
                return Ok(Walked { journal: self.journal, killed: Some(before_next(count)) });
            }
            if is_over.load(Ordering::Acquire) {
                self.traced.let_go()?;
                return Ok(Walked { journal: self.journal, killed: None });
            }
            if !self.traced.is_stopped()? {
                std::thread::sleep(GLANCE);
                continue;
            }
            let is_first = self.journal.is_none();
            if is_first {
                self.journal = Some(begun(&self.runs)?);
            }
            let count = self.journal.as_deref().map_or(0, records);
            if self.point <= after(count) {
                self.traced.kill()?;
                return Ok(Walked { journal: self.journal, killed: Some(after(count)) });
            }
            if is_first || self.point == before_next(count) {
                self.aim()?;
            }
            self.traced.resume()?;
        }
    }
}

/// A walk that goes on by itself, so that people can speak with who stands still.
struct Walk {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Walked>>,
}

impl Walk {
    /// Of a gateway that runs; once this returns, no write is missed.
    fn begin(site: &mut Site, journal: Option<PathBuf>, point: u64) -> Result<Self> {
        let log = site.dir().join("strace.log");
        // Its folder of data may be made this very moment.
        let runs = wait_for("a folder of journals", SOON, || {
            fs::canonicalize(site.data_dir().join("runs")).context("find the journals")
        })?;
        let traced = Traced::new(site.process()?.id(), &log)?;
        traced.hold()?;
        let mut walker = Walker { traced, blow: Blow::Stop, runs, journal, point };
        walker.aim()?;
        walker.traced.resume()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || walker.walk(&shared));
        Ok(Self { is_over, thread })
    }

    fn end(self) -> Result<Walked> {
        self.is_over.store(true, Ordering::Release);
        self.thread.join().map_err(|_panic| anyhow!("the walk panicked"))?
    }
}

/// The kills of one run.
struct Killing {
    of_runner: bool,
    /// Where the next one comes.
    point: u64,
    made: Vec<u64>,
    walk: Option<Walk>,
}

impl Killing {
    fn victim<'a>(&self, rig: &'a mut Rig) -> &'a mut Site {
        if self.of_runner { &mut rig.pair.mirror } else { &mut rig.pair.primary }
    }

    /// Starts who was killed, and lets it go on through its journal.
    fn look(&mut self, rig: &mut Rig) -> Result<()> {
        let Some(walk) = self.walk.take_if(|walk| walk.thread.is_finished()) else {
            return Ok(());
        };
        let walked = walk.end()?;
        let killed = walked.killed.context("nobody ended the walk")?;
        println!("killed {}", words(killed));
        self.made.push(killed);
        while self.point <= killed {
            self.point += STRIDE;
        }
        // One without a record is no journal of the run: another is begun.
        let journal = walked.journal.filter(|journal| records(journal) > 0);
        let site = self.victim(rig);
        site.kill()?;
        // It is not waited for: it may be killed again before it is ready.
        site.spawn()?;
        self.walk = Some(Walk::begin(site, journal, self.point)?);
        Ok(())
    }

    /// Nobody is killed any more.
    fn end(mut self, rig: &mut Rig) -> Result<Vec<u64>> {
        let walked = self.walk.take().map(Walk::end).transpose()?;
        let killed = walked.and_then(|walked| walked.killed);
        let site = self.victim(rig);
        if killed.is_some() {
            site.kill()?;
            site.spawn()?;
        }
        site.await_ready()?;
        self.made.extend(killed);
        Ok(self.made)
    }
}

/// The run that was begun, or begins one; none while nobody answers.
fn begin(site: &Site, plan: &str) -> Result<Option<String>> {
    let known = site.ask(&["run", "list"])?;
    if known.code != 0 {
        return Ok(None);
    }
    if known.json.pointer("/items/0").is_some() {
        // It was begun, and whoever wanted it was not told.
        return text(&known.json, "/items/0/id").map(Some);
    }
    let begun = site.ask(&["plan", "run", plan])?;
    if begun.code == 0 { text(&begun.json, "/id").map(Some) } else { Ok(None) }
}

/// Who is killed, what a person says before the batch, and how it ends then.
#[derive(Clone, Copy, Debug)]
struct Case {
    of_runner: bool,
    answer: &'static str,
    end: &'static str,
}

impl Case {
    const fn agreed(of_runner: bool) -> Self {
        Self { of_runner, answer: "approve", end: "completed" }
    }

    const fn rejected(of_runner: bool) -> Self {
        Self { of_runner, answer: "reject", end: "rolled_back" }
    }
}

/// One run, from an environment of its own to the end of it.
fn switch_with_kills(case: Case, first: u64) -> Result<()> {
    let mut rig = Rig::start()?;
    say(&rig.pair.primary, &["export"])?;
    let before = items_of(&rig);
    let plan = rig.plan("switchover", &rig.pair.mirror, &[])?;
    let of_runner = case.of_runner;
    let mut killing = Killing { of_runner, point: first, made: Vec::new(), walk: None };
    killing.walk = Some(Walk::begin(killing.victim(&mut rig), None, first)?);
    let end = Deadline::after(RUN_LIMIT);
    let mut id: Option<String> = None;
    loop {
        killing.look(&mut rig)?;
        match &id {
            None => id = begin(&rig.pair.mirror, &plan)?,
            Some(id) if attend(&rig.pair.mirror, id, (case.answer, case.end))? => break,
            Some(_) => {}
        }
        if end.is_over() {
            let shown = rig.pair.mirror.ask(&["run", "list"])?.text;
            bail!("killed at the points {:?}, it has not ended: {shown}", killing.made);
        }
        std::thread::sleep(LOOK);
    }
    let made = killing.end(&mut rig)?;
    println!("{case:?}: {} kills from point {first} on", made.len());
    ensure!(made.len() >= KILLS_MIN, "only the points {made:?} were there");
    if case.end == "completed" {
        is_whole(&rig)?
    } else {
        is_taken_back(&rig, &before)?
    }
    // The copy of the journal says so, too.
    let is_so = |run: &serde_json::Value| run["state"] == case.end;
    let id = id.context("a run")?;
    rig.pair.primary.wait_for(&["run", "show", &id], SYNC_LIMIT, is_so)?;
    Ok(())
}

/// As many runs as it takes for so many kills, up to every point of the journal in each of the cases.
fn walk_all(test: &str, cases: &[Case]) -> Result<()> {
    let mut random = Random::announced(test)?;
    let (start, case) = (random.within(0..STRIDE), random.index(cases.len()));
    let rounds = kills().div_ceil(KILLS_EACH).clamp(1, STRIDE * cases.len() as u64);
    // The stride has no divisor in common with the number of cases: each of them has every first point.
    let taking_turns = cases.iter().cycle().skip(case);
    for (round, case) in (0..rounds).zip(taking_turns) {
        let first = (start + round * SHIFT) % STRIDE;
        // Nothing of a journal is there before point 1.
        switch_with_kills(*case, if first == 0 { STRIDE } else { first })?;
    }
    Ok(())
}

#[test]
fn ror_21_a_switchover_ends_whole_wherever_its_gateway_is_killed_at_a_write_of_its_journal()
-> Result<()> {
    walk_all("ror_21_journal", &[Case::agreed(true)])
}

#[test]
fn ror_21_a_switchover_ends_whole_wherever_the_other_one_is_killed_at_a_write_of_its_copy()
-> Result<()> {
    walk_all("ror_21_copy", &[Case::agreed(false)])
}

#[test]
fn ror_21_a_switchover_that_is_rejected_is_taken_back_whole_wherever_a_gateway_is_killed_at_a_write()
-> Result<()> {
    walk_all("ror_21_rejected", &[Case::rejected(true), Case::rejected(false)])
}

#[test]
fn a_process_stands_still_after_a_write_and_dies_before_one() -> Result<()> {
    let dir = tempfile::tempdir().context("make a folder")?;
    let file = fs::canonicalize(dir.path())?.join("lines");
    let script = format!("while :; do echo x >> {}; sleep 0.02; done", file.display());
    let log = dir.path().join("log");
    let process = Process::start("writer", Command::new("sh").args(["-c", &script]), &log)?;
    let mut traced = Traced::new(process.id(), &log)?;
    let lines = || fs::read(&file).unwrap_or_default().len() / 2;
    let stopped = |traced: &Traced| {
        wait_for("a stop", SOON, || {
            ensure!(traced.is_stopped()?, "it goes on");
            Ok(lines())
        })
    };
    traced.hold()?;
    traced.strike_at("write", &file, Blow::Stop)?;
    traced.resume()?;
    let first = stopped(&traced)?;
    std::thread::sleep(LOOK);
    ensure!(lines() == first && first > 0, "it wrote on");
    traced.resume()?;
    ensure!(stopped(&traced)? == first + 1, "it is stopped after each");
    traced.strike_at("write", &file, Blow::Kill)?;
    traced.resume()?;
    wait_for("its end", SOON, || {
        ensure!(traced.is_dead()?, "it lives");
        Ok(())
    })?;
    ensure!(lines() == first + 1, "what it died at was written");
    traced.kill()
}
