//! Policies of backups as people handle them: set, looked at, run by schedule and by hand, missed while
//! nobody was there, kept to by what is deleted, turned off and deleted.
//!
//! Invariant: due times come every few seconds for more than a minute, and only numbers that grow are
//! waited for.

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use serde_json::Value;

use crate::backup_runs::{available, filled, list, site};
use crate::pair::{SOON, SYNC_LIMIT, VOLUME, expect, number, text};

/// Between two due times.
const STEP_SECONDS: i64 = 5;

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Due every five seconds for the next minute at least, and 24 times a day in all; in which zone.
fn soon() -> (String, &'static str) {
    // Of two clocks that are half an hour apart, one does not come to the end of its hour.
    let clocks = [("UTC", now()), ("Asia/Kolkata", now() + 330 * 60)];
    let has_time = |(_, local): &(&str, i64)| local / 60 % 60 < 58;
    let (zone, local) = clocks.into_iter().find(has_time).unwrap_or(clocks[0]);
    let (minute, hour) = (local / 60 % 60, local / 3600 % 24);
    (format!("*/{STEP_SECONDS} {minute},{} {hour} * * *", minute + 1), zone)
}

fn policy(site: &Site, arguments: &[&str]) -> Result<Value> {
    site.cli(&[&["backup", "policy"], arguments].concat())
}

fn shown(site: &Site) -> Result<Value> {
    policy(site, &["show", VOLUME])
}

fn set<'a>(schedule: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let set = ["set", VOLUME, "--target", "disk", "--schedule", schedule];
    [&set[..], more].concat()
}

/// Nothing is set that cannot be kept to.
fn refuses(east: &Site) -> Result<()> {
    let refused = |arguments: &[&str], code: i32, word: &str| {
        expect(east, &[&["backup", "policy"], arguments].concat(), code, word).map(drop)
    };
    refused(&["show", VOLUME], 1, "GW0517")?;
    refused(&["run", VOLUME], 1, "GW0517")?;
    refused(&set("*/5 * * * *", &[]), 2, "GW0516")?;
    refused(&set("0 2 * * *", &["--zone", "Europe/Atlantis"]), 2, "GW0516")?;
    refused(&["set", VOLUME, "--target", "tape", "--schedule", "0 2 * * *"], 7, "GW0500")?;
    let none = policy(east, &["list"])?;
    ensure!(none["items"].as_array().is_some_and(Vec::is_empty), "{none:#}");
    Ok(())
}

/// How many due times a scrape says were missed.
fn missed(site: &Site) -> Result<f64> {
    let told = site.metrics()?;
    let is_it = |line: &&str| {
        line.starts_with("twinspan_backup_slots_lost_total{")
            && line.contains("policy=\"orders\"")
            && line.contains("reason=\"missed\"")
    };
    let line = told.lines().find(is_it).with_context(|| format!("it is not in {told}"))?;
    let value = line.rsplit(' ').next().context("no value")?;
    value.parse::<f64>().with_context(|| line.to_owned())
}

fn await_idle(site: &Site) -> Result<()> {
    wait_for("the end of all runs", SYNC_LIMIT, || {
        let all = site.cli(&["operation", "list"])?;
        let all = all["items"].as_array().cloned().unwrap_or_default();
        ensure!(all.iter().all(|of| of["state"] != "running"), "{all:#?}");
        Ok(())
    })
}

#[test]
fn bak_05_bak_06_a_policy_runs_when_due_tells_what_it_missed_and_deletes_by_its_rules() -> Result<()>
{
    let dir = tempfile::tempdir()?;
    let mut east = site(dir.path(), "east", "")?;
    filled(&east, dir.path(), VOLUME, 8, 51)?;
    refuses(&east)?;
    east.cli(&["backup", "create", VOLUME, "--target", "disk", "--name", "by-hand"])?;
    let (schedule, zone) = soon();
    let made = policy(&east, &set(&schedule, &["--zone", zone]))?;
    ensure!(made["on"] == true && made["next_at"].is_string(), "{made:#}");
    ensure!(made["of"] == VOLUME && made["target"] == "disk" && made["zone"] == zone, "{made:#}");

    // Nobody is there for two due times at least: one run makes up for them.
    east.kill()?;
    let killed = now();
    wait_for("two due times", SOON, || {
        ensure!(now() / STEP_SECONDS >= killed / STEP_SECONDS + 2, "not yet");
        Ok(())
    })?;
    east.start()?;
    let count = wait_for("what was missed", SOON, || {
        let count = missed(&east)?;
        ensure!(count >= 1.0, "{count}");
        Ok(count)
    })?;
    println!("{count} due times were missed");
    ensure!(number(&shown(&east)?, "/missed")? >= 1, "{:#}", shown(&east)?);
    let told = east.ask(&["events", "--since", "0"])?.text;
    ensure!(told.contains("due times were missed; one run makes up for them"), "{told}");
    // More come by themselves.
    wait_for("two runs that nobody asked for", SYNC_LIMIT, || {
        let names = available(&east)?;
        ensure!(names.len() >= 3, "{names:?}");
        Ok(())
    })?;
    let off = policy(&east, &["off", VOLUME])?;
    ensure!(off["on"] == false && off["next_at"].is_null(), "{off:#}");
    await_idle(&east)?;
    let all = list(&east)?;
    let begun: jiff::Timestamp = text(&all[all.len() - 1], "/created_at")?.parse()?;
    wait_for("the end of the last run", SOON, || {
        let run = &shown(&east)?["last_run"];
        let ended: jiff::Timestamp = text(run, "/at")?.parse()?;
        ensure!(ended >= begun && run["error"].is_null(), "{run:#}");
        Ok(())
    })?;
    let of_policy = |of: &&Value| of["origin"] == "scheduled" && of["policy"] == VOLUME;
    ensure!(all.iter().filter(of_policy).count() == all.len() - 1, "{all:#?}");
    ensure!(all[0]["origin"] == "manual", "{all:#?}");
    keeps_to_its_rules(&east)
}

/// Those that can be restored: two that were taken in one second have one name.
fn identities(site: &Site) -> Result<Vec<String>> {
    let all = list(site)?;
    let all = all.iter().filter(|backup| backup["status"] == "available");
    all.map(|backup| text(backup, "/id")).collect()
}

/// Rules are looked at before they are followed, and a run by hand follows them.
fn keeps_to_its_rules(east: &Site) -> Result<()> {
    let before = identities(east)?;
    let stricter = policy(east, &set("0 2 * * *", &["--keep-last", "1", "--off"]))?;
    ensure!(stricter["on"] == false && number(&stricter, "/missed")? >= 1, "{stricter:#}");
    let fates = policy(east, &["retention", VOLUME])?;
    let fates = fates["items"].as_array().context("a plan has items")?;
    let gone: Vec<&Value> = fates.iter().filter(|fate| fate["deleted"] == true).collect();
    ensure!(fates.len() == before.len() && gone.len() == before.len() - 2, "{fates:#?}");
    for fate in gone {
        ensure!(text(fate, "/reasons/0")? == "no rule keeps it", "{fate:#}");
    }
    ensure!(text(&fates[0], "/reasons/0")?.contains("manual"), "{fates:#?}");
    ensure!(identities(east)? == before, "it was only said");

    policy(east, &["run", VOLUME])?;
    let left = wait_for("what no rule keeps to go", SOON, || {
        let left = identities(east)?;
        let is_it = left.len() == 2 && left[0] == before[0] && !before.contains(&left[1]);
        ensure!(is_it, "{left:?} of {before:?}: {:#}", shown(east)?["last_run"]);
        Ok(left)
    })?;
    // Their room is given back before it is told.
    wait_for("word of it", SOON, || {
        let told = east.ask(&["events", "--since", "0"])?.text;
        ensure!(told.contains("that no rule keeps were deleted"), "{told}");
        Ok(())
    })?;

    let on = policy(east, &["on", VOLUME])?;
    ensure!(on["on"] == true && on["next_at"].is_string(), "{on:#}");
    let listed = policy(east, &["list"])?;
    ensure!(listed["items"].as_array().map(Vec::len) == Some(1), "{listed:#}");
    expect(east, &["backup", "policy", "delete", VOLUME], 0, "")?;
    expect(east, &["backup", "policy", "show", VOLUME], 1, "GW0517")?;
    ensure!(identities(east)? == left, "what it took stays");
    Ok(())
}
