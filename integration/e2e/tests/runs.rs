//! Plans that are run with live groups, through kills of the gateway that executes them and from one
//! site to another.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use serde_json::Value;

use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, await_group, expect, serves, text};
use crate::plugins::install;

/// The plan of the repository, with attempts enough for a gateway that starts in their midst.
fn migrate_plan(dir: &std::path::Path) -> Result<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/plans/migrate.toml");
    let plan = std::fs::read_to_string(path).context("read the plan")?;
    let plan = plan.replace("retries = 3\n", "retries = 50\n").replace("\"2s\"", "\"500ms\"");
    let file = dir.join("migrate.toml");
    std::fs::write(&file, plan).context("write the plan")?;
    Ok(file.display().to_string())
}

const FAILOVER: &str = r#"
name = "failover"
kind = "failover"
groups = ["orders"]
[sites]
source = "east"
destination = "west"
[facts]
source-alive = false
[[steps]]
id = "ask"
action = "core/approve"
params = { prompt = "serve at ${site.destination}?" }
[[steps]]
id = "say"
when = "source-alive"
site = "source"
action = "core/suspend"
params = { group = "orders", to = "${site.destination}" }
[[steps]]
id = "serve"
site = "destination"
action = "core/promote"
params = { group = "orders" }
point_of_no_return = true
retries = 50
backoff = "500ms"
"#;

fn show(site: &Site, run: &str) -> Result<Value> {
    let answer = site.ask(&["run", "show", run])?;
    ensure!(answer.json.is_object(), "run show ended with {}\n{}", answer.code, answer.text);
    Ok(answer.json)
}

fn await_run(
    site: &Site,
    run: &str,
    (what, limit): (&str, Duration),
    is_it: impl Fn(&Value) -> bool,
) -> Result<Value> {
    wait_for(&format!("{what} at {}", site.name()), limit, || {
        let run = show(site, run)?;
        ensure!(is_it(&run), "the run is {run:#}");
        Ok(run)
    })
}

fn waits_here(run: &Value) -> bool {
    run["state"] == "waiting" && run["here"] == true
}

/// Whether it does nothing.
fn is_still(run: &Value) -> bool {
    run["here"] == false
}

/// The state of a step.
fn state<'a>(run: &'a Value, step: &str) -> &'a str {
    let steps = run["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let found = steps.iter().find(|of| of["id"] == step);
    found.and_then(|of| of["state"].as_str()).unwrap_or_default()
}

#[test]
fn ror_21_a_plan_that_migrates_a_live_group_goes_on_after_its_gateway_was_killed() -> Result<()> {
    let mut pair = Pair::mirrored("32MiB")?;
    let file = migrate_plan(pair.dir.path())?;
    let set = format!("group={VOLUME}");
    pair.primary.cli(&["plan", "save", &file])?;
    let run = ["plan", "run", "migrate", "--set", &set];

    let dry = expect(&pair.primary, &[&run[..], &["--dry-run"]].concat(), 0, "ready")?.json;
    ensure!(dry["steps"].as_array().map(Vec::len) == Some(6) && dry["can_run"] == true, "{dry:#}");
    expect(&pair.primary, &["plan", "run", "migrate"], 2, "parameters.group")?;
    let list = pair.primary.cli(&["snapshot", "list", VOLUME])?;
    ensure!(list["items"].as_array().is_some_and(Vec::is_empty), "it changed something: {list:#}");

    let begun = expect(&pair.primary, &[&run[..], &["--wait"]].concat(), 4, "waiting")?.json;
    let id = text(&begun, "/id")?;
    ensure!(state(&begun, "keep") == "done" && state(&begun, "go") == "asking", "{begun:#}");
    // Nobody else touches its group, here or at the other site, which has a copy of its journal.
    expect(&pair.primary, &run, 7, "GW0702")?;
    let copy = await_run(&pair.mirror, &id, ("a copy", SOON), |run| run["state"] == "waiting")?;
    ensure!(copy["here"] == false && copy["runner"] == "east", "{copy:#}");
    pair.mirror.cli(&["plan", "save", &file])?;
    expect(&pair.mirror, &run, 7, "GW0702")?;
    expect(&pair.mirror, &["run", "answer", &id, "approve"], 7, "GW0704")?;

    pair.primary.kill()?;
    pair.primary.start()?;
    await_run(&pair.primary, &id, ("the question", SYNC_LIMIT), waits_here)?;
    expect(&pair.primary, &["run", "answer", &id, "perhaps"], 7, "approve, reject")?;
    pair.primary.cli(&["run", "answer", &id, "approve"])?;
    // Killed again as soon as the other site heard that the swap is about to be made.
    await_run(&pair.mirror, &id, ("the swap", SOON), |run| {
        matches!(state(run, "move"), "running" | "done")
    })?;
    pair.primary.kill()?;
    pair.primary.start()?;
    let done =
        await_run(&pair.primary, &id, ("the end", SYNC_LIMIT), |run| run["state"] == "completed")?;
    ensure!(done["left"].as_array().is_some_and(Vec::is_empty), "{done:#}");
    await_group(&pair.mirror, "service", SOON, serves)?;
    pair.mirror.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()?;
    let metrics = pair.primary.metrics()?;
    ensure!(metrics.contains("twinspan_runbook_runs_total{"), "the run was not counted");
    Ok(())
}

const THERE_AND_BACK: &str = r#"
name = "there"
kind = "other"
groups = ["orders"]
[sites]
source = "east"
destination = "west"
[[steps]]
id = "move"
site = "source"
action = "core/migrate"
params = { group = "orders", to = "${site.destination}" }
retries = 50
backoff = "500ms"
[[steps]]
id = "quiet"
site = "destination"
action = "core/suspend"
params = { group = "orders", to = "${site.source}" }
retries = 50
backoff = "500ms"
[[steps]]
id = "ask"
action = "core/approve"
params = { prompt = "stay there?" }
on_failure = "roll-back"
"#;

#[test]
fn ror_05_a_plan_that_a_person_rejects_takes_back_the_move_and_what_it_stopped() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let file = pair.dir.path().join("there.toml");
    std::fs::write(&file, THERE_AND_BACK).context("write the plan")?;
    pair.primary.cli(&["plan", "save", &file.display().to_string()])?;
    let begun = expect(&pair.primary, &["plan", "run", "there", "--wait"], 4, "waiting")?.json;
    let id = text(&begun, "/id")?;
    let suspended = await_group(&pair.mirror, "service", SOON, serves)?;
    ensure!(text(&suspended, "/legs/0/state")? == "suspended", "{suspended:#}");
    pair.primary.cli(&["run", "answer", &id, "reject"])?;
    let done = await_run(&pair.primary, &id, ("the way back", SYNC_LIMIT), |run| {
        run["state"] == "rolled_back"
    })?;
    ensure!(state(&done, "move") == "undone" && state(&done, "quiet") == "undone", "{done:#}");
    await_group(&pair.primary, "service", SOON, serves)?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()
}

#[test]
fn ror_21_a_run_is_taken_over_at_the_other_site_and_the_first_does_not_go_on() -> Result<()> {
    let mut pair = Pair::mirrored("32MiB")?;
    let file = pair.dir.path().join("failover.toml");
    std::fs::write(&file, FAILOVER).context("write the plan")?;
    let file = file.display().to_string();
    pair.primary.cli(&["plan", "check", &file])?;
    pair.primary.cli(&["plan", "save", &file])?;
    let run = ["plan", "run", "failover", "--wait"];
    let begun = expect(&pair.primary, &run, 4, "waiting")?.json;
    let id = text(&begun, "/id")?;
    let resume = ["run", "resume", &id, "--here"];

    // While both are there, the one that executes it stands still first.
    expect(&pair.mirror, &["run", "resume", &id], 7, "GW0704")?;
    pair.mirror.cli(&resume)?;
    await_run(&pair.mirror, &id, ("the run", SOON), |run| waits_here(run) && run["term"] == 2)?;
    expect(&pair.primary, &["run", "answer", &id, "approve"], 7, "GW070")?;
    pair.primary.cli(&resume)?;
    await_run(&pair.primary, &id, ("the run", SOON), |run| waits_here(run) && run["term"] == 3)?;
    await_run(&pair.mirror, &id, ("the news", SOON), |run| run["term"] == 3)?;

    // The site that executes it is lost: a person says so, and it goes on at the other one.
    pair.primary.kill()?;
    expect(&pair.mirror, &resume, 7, "GW0705")?;
    pair.mirror.cli(&[&resume[..], &["--stopped"]].concat())?;
    pair.mirror.cli(&["run", "answer", &id, "approve"])?;
    let done =
        await_run(&pair.mirror, &id, ("the end", SYNC_LIMIT), |run| run["state"] == "completed")?;
    ensure!(done["term"] == 4 && state(&done, "say") == "skipped", "{done:#}");
    await_group(&pair.mirror, "service", SOON, serves)?;

    // It returns, hears that it was overtaken before it does anything, and lets the group go.
    pair.primary.start()?;
    let over = await_run(&pair.primary, &id, ("the end", SYNC_LIMIT), |run| {
        is_still(run) && run["state"] == "completed"
    })?;
    ensure!(over["term"] == 4 && over["here"] == false, "{over:#}");
    expect(&pair.primary, &["run", "answer", &id, "approve"], 7, "GW0703")?;
    Ok(())
}

/// A step at the other site that takes longer than one answer between gateways may, and one that dies after
/// it made something.
const FAR: &str = r#"
name = "far"
kind = "other"
groups = ["orders"]
[sites]
source = "east"
destination = "west"
[[steps]]
id = "long"
site = "destination"
action = "hostile/slow"
params = { ms = 15000 }
timeout = "2m"
retries = 0
[[steps]]
id = "dies"
site = "destination"
action = "hostile/make"
timeout = "2m"
retries = 0
"#;

#[test]
fn ror_01_a_step_at_the_other_site_has_its_own_time_and_what_it_makes_is_known_here() -> Result<()>
{
    let pair = Pair::mirrored("32MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    install(west, "hostile")?;
    west.cli(&["plugin", "grant", "hostile", "kv", "volumes"])?;
    let file = pair.dir.path().join("far.toml");
    std::fs::write(&file, FAR).context("write the plan")?;
    east.cli(&["plan", "save", &file.display().to_string()])?;
    let id = text(&east.ask(&["plan", "run", "far"])?.json, "/id")?;
    let made = |run: &Value, kind: &str| -> usize {
        let left = run["left"].as_array().map_or(&[][..], Vec::as_slice);
        left.iter().filter(|of| of["kind"] == kind).count()
    };
    // What it registers is in the journal of the run's own site, while it goes on at the other one.
    await_run(east, &id, ("what it made", SYNC_LIMIT), |run| made(run, "thing") == 1)?;
    let stopped = await_run(east, &id, ("the end", SYNC_LIMIT * 2), |run| {
        matches!(run["state"].as_str(), Some("stopped" | "completed" | "rolled_back"))
    })?;
    ensure!(stopped["state"] == "stopped", "{stopped:#}");
    ensure!(state(&stopped, "long") == "done", "it had its time: {stopped:#}");
    ensure!(stopped.to_string().contains("took 15000 ms"), "{stopped:#}");
    ensure!(state(&stopped, "dies") == "failed" && made(&stopped, "server") == 1, "{stopped:#}");
    // Taken back as far as it can be: what is left is named, here and in the copy.
    east.cli(&["run", "abort", &id])?;
    let back = await_run(east, &id, ("the way back", SYNC_LIMIT), |run| {
        matches!(run["state"].as_str(), Some("rolled_back" | "aborted"))
    })?;
    ensure!(made(&back, "server") == 1, "nobody removed it, so it is still named: {back:#}");
    await_run(west, &id, ("the news", SOON), |run| made(run, "server") == 1)?;
    Ok(())
}
