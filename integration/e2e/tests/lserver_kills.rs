//! The seventeen steps with a gateway killed again and again: as a change is asked for at an orchestrator
//! and not made, and as it is made and not answered; the one that executes the run, and the other one.
//!
//! Invariant: whoever is killed whenever, the run ends complete, and each change is made once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::{Deadline, Moment, Orchestrator, Site};

use crate::lserver::{Rig, is_moved, say};
use crate::pair::{SOON, SYNC_LIMIT, await_group, serves, text};
use crate::snapshots::kills;

/// After so long nobody is killed any more, so that the test ends in its time however many are wanted.
const KILLING_MAX: Duration = Duration::from_secs(240);
/// From the first step to the last with all of that, with debug builds on a busy machine.
const RUN_LIMIT: Duration = Duration::from_secs(480);
/// Changes between two kills, unless so many are wanted that each change has its own.
const GAP: usize = 6;
/// From here on each change has its own.
const MANY: u64 = 30;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Who was killed last, and what is next.
struct Killing {
    left: u64,
    made: u64,
    gap: usize,
    /// Whether the gateway that executes the run is killed next, or the other one.
    of_runner: bool,
    is_armed: bool,
    /// When no more are killed.
    until: Deadline,
}

impl Killing {
    fn new() -> Self {
        let left = kills();
        let gap = if left >= MANY { 0 } else { GAP };
        let until = Deadline::after(KILLING_MAX);
        Self { left, made: 0, gap, of_runner: true, is_armed: false, until }
    }

    /// Lets the next one be killed at whichever of the two is asked first.
    fn arm(&mut self, rig: &mut Rig, runs_west: bool) -> Result<()> {
        if self.is_armed || self.left == 0 || self.until.is_over() {
            return Ok(());
        }
        let process = victim(rig, self.of_runner == runs_west).process()?.id();
        for at in [&rig.east, &rig.west] {
            at.strike_at(at.asked() + self.gap, Moment::Before, process);
        }
        self.is_armed = true;
        Ok(())
    }

    /// Starts whoever was killed. The change that was not made is asked for again: then it is made, and
    /// somebody is killed before it is answered.
    fn look(&mut self, rig: &mut Rig, runs_west: bool, again: &mut Option<bool>) -> Result<()> {
        let struck = [(false, rig.east.struck()), (true, rig.west.struck())];
        for (at_west, change) in struck {
            let Some(change) = change else { continue };
            rig.east.spare();
            rig.west.spare();
            let site = victim(rig, self.of_runner == runs_west);
            site.kill()?;
            site.start()?;
            (self.made, self.left) = (self.made + 1, self.left.saturating_sub(1));
            let is_second = again.take().is_some();
            if is_second || self.left == 0 {
                (self.is_armed, self.of_runner) = (false, !self.of_runner);
                continue;
            }
            let process = victim(rig, self.of_runner == runs_west).process()?.id();
            let at = if at_west { &rig.west } else { &rig.east };
            at.strike_at(change, Moment::After, process);
            *again = Some(at_west);
        }
        Ok(())
    }
}

fn runner(rig: &Rig, is_west: bool) -> &Site {
    if is_west { &rig.pair.mirror } else { &rig.pair.primary }
}

fn victim(rig: &mut Rig, is_west: bool) -> &mut Site {
    if is_west { &mut rig.pair.mirror } else { &mut rig.pair.primary }
}

/// No change was made twice; the lock is taken again by who has it, and a server is stopped and started.
fn is_once(at: &Orchestrator) -> Result<()> {
    let made = at.made();
    let counts = |of: &&String| !of.starts_with("POST") && !of.contains("/v1/lock");
    let changes: Vec<&String> = made.iter().filter(counts).collect();
    let once: BTreeSet<&&String> = changes.iter().collect();
    ensure!(once.len() == changes.len(), "something was changed twice: {made:#?}");
    Ok(())
}

/// Says what is to be said to a run; whether it ended so. Who is being killed says nothing.
pub(crate) fn attend(site: &Site, id: &str, (answer, end): (&str, &str)) -> Result<bool> {
    let Ok(shown) = site.ask(&["run", "show", id]) else { return Ok(false) };
    let word = match (shown.json["state"].as_str(), shown.json["here"].as_bool()) {
        (Some(state), _) if state == end => return Ok(true),
        (Some("waiting"), Some(true)) => vec!["run", "answer", id, answer],
        // Each kill of whoever does the step costs it an attempt.
        (Some("stopped"), Some(true)) => vec!["run", "retry", id],
        (Some("completed" | "rolled_back" | "aborted" | "refused"), _) => {
            bail!("it ended so: {:#}", shown.json)
        }
        _ => return Ok(false),
    };
    // It may be killed as it hears it; then it is said again.
    drop(site.ask(&word));
    Ok(false)
}

/// Everything is where a switchover lets it be, and each change was made once.
pub(crate) fn is_whole(rig: &Rig) -> Result<()> {
    is_moved(&rig.west)?;
    is_once(&rig.west)?;
    is_once(&rig.east)?;
    ensure!(rig.east.item("lservers", "web1").is_null() && rig.east.lock().is_none());
    let west = &rig.pair.mirror;
    await_group(west, "service", SOON, serves)?;
    west.wait_equivalent(SYNC_LIMIT)?;
    rig.pair.is_identical()
}

fn switch_with_kills(runs_west: bool) -> Result<()> {
    let mut rig = Rig::start()?;
    say(&rig.pair.primary, &["export"])?;
    let plan = rig.plan("switchover", runner(&rig, runs_west), &[])?;
    let begun = runner(&rig, runs_west).cli(&["plan", "run", &plan])?;
    let id = text(&begun, "/id")?;
    let (mut killing, mut again) = (Killing::new(), None);
    let end = Deadline::after(RUN_LIMIT);
    loop {
        killing.look(&mut rig, runs_west, &mut again)?;
        killing.arm(&mut rig, runs_west)?;
        if attend(runner(&rig, runs_west), &id, ("approve", "completed"))? {
            break;
        }
        if end.is_over() {
            let shown = runner(&rig, runs_west).ask(&["run", "show", &id])?.json;
            bail!("after {} kills it has not ended: {shown:#}", killing.made);
        }
        std::thread::sleep(LOOK);
    }
    rig.east.spare();
    rig.west.spare();
    // Somebody may have been killed in between.
    killing.look(&mut rig, runs_west, &mut again)?;
    rig.east.spare();
    rig.west.spare();
    let made = killing.made;
    println!("{made} kills");
    ensure!(made >= kills().min(2), "only {made} kills had a change to come with");

    ensure!(rig.west.repeated() + rig.east.repeated() > 0, "what was made was asked for again");
    is_whole(&rig)
}

#[test]
fn ror_21_a_switchover_ends_whole_whoever_is_killed_at_its_changes_and_the_new_site_runs_it()
-> Result<()> {
    switch_with_kills(true)
}

#[test]
fn ror_21_a_switchover_ends_whole_whoever_is_killed_at_its_changes_and_the_old_site_runs_it()
-> Result<()> {
    switch_with_kills(false)
}
