//! Recovery points: taken by schedule, kept by whom the policy says, removed by its rules, locked.
//!
//! Invariant: nothing depends on how fast they come: what is waited for is a number that only grows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use serde_json::Value;

use crate::pair::{
    Pair, SOON, SYNC_LIMIT, VOLUME, await_group, expect, fail_over, number, serves, single, text,
};

const EVERY_SECOND: &str = "* * * * * *";

fn policy(site: &Site, more: &[&str]) -> Result<Value> {
    site.cli(&[&["point", "policy", "set", VOLUME], more].concat())
}

fn state(site: &Site) -> Result<Value> {
    site.cli(&["point", "policy", "show", VOLUME])
}

/// Waits until a number of the policy's state is at least so high.
fn await_count(site: &Site, what: &str, least: u64) -> Result<Value> {
    let place = format!("/{what}");
    wait_for(&format!("{least} {what} at {}", site.name()), SOON, || {
        let state = state(site)?;
        ensure!(number(&state, &place)? >= least, "{state:#}");
        Ok(state)
    })
}

/// The recovery points that a site keeps, without `current`.
fn list(site: &Site) -> Result<Vec<Value>> {
    let answer = site.cli(&["point", "list", VOLUME])?;
    let items = answer["items"].as_array().with_context(|| format!("no items in {answer}"))?;
    Ok(items.iter().filter(|point| point["id"].is_string()).cloned().collect())
}

fn await_list(site: &Site, what: &str, is_it: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    wait_for(&format!("{what} at {}", site.name()), SOON, || {
        let points = list(site)?;
        ensure!(is_it(&points), "they are {points:#?}");
        Ok(points)
    })
}

fn show(site: &Site, name: &str) -> Result<Value> {
    site.cli(&["point", "show", VOLUME, name])
}

fn take(site: &Site) -> Result<String> {
    text(&site.cli(&["point", "take", VOLUME])?, "/name")
}

fn events(site: &Site) -> Result<String> {
    Ok(site.ask(&["events", "--since", "0"])?.text)
}

#[test]
fn hdr_08_a_mirror_keeps_points_by_schedule_and_the_primary_none() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    expect(east, &["point", "policy", "show", VOLUME], 7, "GW0470")?;
    expect(west, &["point", "policy", "set", VOLUME], 7, "GW0405")?;
    let set = policy(east, &["--schedule", EVERY_SECOND, "--count", "3"])?;
    ensure!(set["policy"]["keep"] == "mirror" && set["takes_here"] == true, "{set:#}");
    await_count(east, "taken", 6)?;
    // The newest of them, at the mirror only.
    let points = await_list(west, "three points", |points| points.len() == 3)?;
    let point = points.last().context("three have a last")?;
    ensure!(point["used"] == false && point["disabled"] == false, "{point:#}");
    ensure!(point["application_consistent"] == false && text(point, "/time")?.ends_with('Z'));
    let scraped = west.metrics()?;
    ensure!(scraped.contains("twinspan_points{group=\"orders\""), "{scraped}");
    expect(west, &["point", "policy", "show", VOLUME], 0, "\"takes_here\": false")?;
    // Off, nothing is taken and nothing removed.
    let off = east.cli(&["point", "policy", "off", VOLUME])?;
    ensure!(off["policy"]["on"] == false && off["next_at"].is_null(), "{off:#}");
    await_list(east, "no points", <[Value]>::is_empty)?;
    // It was asked for by hand, and so it is taken all the same.
    take(east)?;
    ensure!(events(east)?.contains("a point was taken"));
    Ok(())
}

#[test]
fn hdr_08_points_go_on_after_a_failover_and_what_was_missed_is_told() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    policy(&pair.primary, &["--schedule", EVERY_SECOND, "--count", "4", "--keep", "both"])?;
    await_list(&pair.mirror, "points", |points| points.len() >= 2)?;
    pair.primary.kill()?;
    // The mirror takes none by itself.
    await_group(&pair.mirror, "a lost primary", SOON, |group| {
        group.pointer("/upstream/link").and_then(Value::as_str) != Some("connected")
    })?;
    fail_over(&pair.mirror)?;
    await_group(&pair.mirror, "service", SOON, serves)?;
    let west = &pair.mirror;
    let state = await_count(west, "taken", 3)?;
    ensure!(number(&state, "/missed")? > 0 && state["takes_here"] == true, "{state:#}");
    ensure!(events(west)?.contains("due times missed; one point makes up for them"));
    // A restart goes on where it was.
    pair.swap();
    pair.primary.kill()?;
    pair.primary.start()?;
    await_count(&pair.primary, "taken", 2)?;
    Ok(())
}

#[test]
fn hdr_08_a_point_that_was_gone_back_to_is_marked_as_used() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    policy(east, &["--schedule", "0 0 1 1 *", "--keep", "both"])?;
    let name = take(east)?;
    await_list(west, "the point", |points| points.len() == 1)?;
    let plan = east.cli(&["snapshot", "rollback", "plan", VOLUME, &name])?;
    let token = text(&plan, "/token")?;
    east.cli(&["snapshot", "rollback", "run", VOLUME, &name, "--token", &token])?;
    for site in [east, west] {
        wait_for(&format!("the mark at {}", site.name()), SYNC_LIMIT, || {
            let point = show(site, &name)?;
            ensure!(point["used"] == true && point["disabled"] == false, "{point:#}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn hdr_08_a_point_that_a_volume_is_made_of_is_marked_as_used() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    policy(east, &["--schedule", "0 0 1 1 *", "--keep", "both"])?;
    let name = take(east)?;
    await_list(west, "the point", |points| points.len() == 1)?;
    let from = format!("{VOLUME}/{name}");
    west.cli(&["volume", "create", "there", "--from-snapshot", &from])?;
    ensure!(show(west, &name)?["used"] == true, "the mirror made a volume of it");
    ensure!(show(east, &name)?["used"] == false, "and its primary none");
    east.cli(&["volume", "create", "here", "--from-snapshot", &from])?;
    ensure!(show(east, &name)?["used"] == true);
    Ok(())
}

#[test]
fn hdr_08_a_point_that_lacks_a_volume_of_its_group_is_disabled_and_says_why() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = single(dir.path(), "east")?;
    site.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    policy(&site, &["--schedule", "0 0 1 1 *", "--keep", "primary"])?;
    let early = take(&site)?;
    let await_disabled = |wanted: bool| {
        wait_for("what can be used", SOON, || {
            let point = show(&site, &early)?;
            ensure!(point["disabled"] == wanted, "{point:#}");
            ensure!(point["disable_reason"].is_string() == wanted, "{point:#}");
            Ok(point)
        })
    };
    await_disabled(false)?;
    site.cli(&["volume", "create", "later", "--size", "16MiB", "--group", VOLUME])?;
    let point = await_disabled(true)?;
    ensure!(text(&point, "/disable_reason")?.contains("later"), "{point:#}");
    ensure!(list(&site)?[0]["disabled"] == true, "{:#?}", list(&site)?);
    // Nor is it gone back to; a point of both volumes is.
    expect(&site, &["snapshot", "rollback", "plan", VOLUME, &early], 7, "later")?;
    let late = take(&site)?;
    ensure!(show(&site, &late)?["disabled"] == false, "{:#}", show(&site, &late)?);
    site.cli(&["snapshot", "rollback", "plan", VOLUME, &late])?;
    expect(&site, &["group", "remove", VOLUME, "later"], 0, "")?;
    await_disabled(false)?;
    Ok(())
}

#[test]
fn hdr_09_the_point_current_is_used_once_and_refused_by_name_then() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let current = show(east, "current")?;
    ensure!(current["used"] == false && current["id"].is_null(), "{current:#}");
    let taken = east.cli(&["point", "take", VOLUME, "--current"])?;
    ensure!(taken["used"] == true, "{taken:#}");
    expect(east, &["point", "take", VOLUME, "--current"], 7, "GW0473")?;
    let current = show(east, "current")?;
    ensure!(current["used"] == true && current["disabled"] == true, "{current:#}");
    ensure!(text(&current, "/disable_reason")?.contains("once"), "{current:#}");
    // Nor when what was made of it is gone.
    expect(east, &["point", "delete", VOLUME, &text(&taken, "/name")?], 0, "")?;
    expect(east, &["point", "take", VOLUME, "--current"], 7, "GW0473")?;
    // Another primary has another one.
    let plan = east.cli(&["migrate", "plan", VOLUME, "--to", "west"])?;
    east.cli(&["migrate", "run", VOLUME, "--token", &text(&plan, "/token")?])?;
    await_group(west, "service", SOON, serves)?;
    west.cli(&["point", "take", VOLUME, "--current"])?;
    expect(west, &["point", "take", VOLUME, "--current"], 7, "GW0473")?;
    Ok(())
}

#[test]
fn bak_06_retention_says_first_what_it_would_remove_and_why() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = single(dir.path(), "east")?;
    site.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    for (bad, word) in [
        (["--schedule", "every hour"], "no cron expression"),
        (["--zone", "Europe/Atlantis"], "no time zone"),
        (["--count", "0"], "at least 1"),
        (["--hook", "nothing"], "no hook"),
    ] {
        let refused =
            expect(&site, &[&["point", "policy", "set", VOLUME], &bad[..]].concat(), 2, "GW0471")?;
        ensure!(refused.text.contains(word), "{}", refused.text);
    }
    policy(&site, &["--schedule", "0 0 1 1 *", "--keep", "primary"])?;
    site.cli(&["snapshot", "create", VOLUME, "--name", "by-hand"])?;
    let names: Vec<String> = (0..4).map(|_| take(&site)).collect::<Result<_>>()?;
    let plan = site.cli(&["point", "retention", VOLUME, "--count", "2"])?;
    let fates = plan["items"].as_array().context("a plan has items")?;
    let removed: Vec<String> = fates
        .iter()
        .filter(|fate| fate["removed"] == true)
        .map(|fate| text(fate, "/name"))
        .collect::<Result<_>>()?;
    ensure!(removed == names[..2], "{plan:#}");
    ensure!(text(&fates[0], "/reasons/0")? == "no rule keeps it", "{plan:#}");
    ensure!(text(&fates[3], "/reasons/0")?.contains("by number"), "{plan:#}");
    ensure!(list(&site)?.len() == 4, "it was only said");
    policy(&site, &["--count", "2"])?;
    let left = await_list(&site, "two points", |points| points.len() == 2)?;
    ensure!(text(&left[0], "/name")? == names[2], "{left:#?}");
    site.cli(&["snapshot", "show", VOLUME, "by-hand"])?;
    ensure!(events(&site)?.contains("removed: no rule keeps it"));
    Ok(())
}

#[test]
fn bak_10_nobody_removes_what_is_locked_or_makes_the_lock_shorter() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    east.cli(&["snapshot", "create", VOLUME, "--name", "proof"])?;
    await_group(east, "a holder", SOON, |_| {
        east.cli(&["snapshot", "show", VOLUME, "proof"])
            .is_ok_and(|shown| shown["held_by"].as_array().is_some_and(|by| by.len() == 2))
    })?;
    let lock = |how: &[&str], code: i32, word: &str| {
        expect(east, &[&["point", "lock", VOLUME, "proof"], how].concat(), code, word)
    };
    lock(&["--for", "24h"], 0, "")?;
    let far = text(&show(east, "proof")?, "/locked_until")?;
    lock(&["--for", "1h"], 7, "GW0472")?;
    lock(&["--until", "2001-01-01T00:00:00Z"], 2, "GW0203")?;
    lock(&["--until", "3001-01-01T00:00:00Z"], 2, "GW0203")?;
    lock(&["--until", "tomorrow"], 2, "GW0203")?;
    for site in [east, west] {
        wait_for(&format!("the lock at {}", site.name()), SOON, || {
            let point = show(site, "proof")?;
            ensure!(point["locked_until"] == far.as_str(), "{point:#}");
            Ok(())
        })?;
        expect(site, &["snapshot", "delete", VOLUME, "proof"], 7, "GW0472")?;
    }
    // Nor does it go with its volume, whoever serves it.
    let session = format!("{VOLUME}:west");
    east.cli(&["session", "suspend", &session])?;
    expect(east, &["session", "delete", &session], 0, "")?;
    expect(east, &["volume", "delete", VOLUME], 7, "GW0472")?;
    let refused = expect(east, &["volume", "delete", VOLUME], 7, "proof")?;
    ensure!(refused.text.contains(&far), "{}", refused.text);
    Ok(())
}

#[test]
fn bak_10_a_lock_ends_and_outlives_a_restart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = single(dir.path(), "east")?;
    site.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    for name in ["long", "short"] {
        site.cli(&["snapshot", "create", VOLUME, "--name", name])?;
    }
    site.cli(&["point", "lock", VOLUME, "long", "--for", "1h"])?;
    site.cli(&["point", "lock", VOLUME, "short", "--for", "20s"])?;
    expect(&site, &["snapshot", "delete", VOLUME, "short"], 7, "GW0472")?;
    site.kill()?;
    site.start()?;
    expect(&site, &["snapshot", "delete", VOLUME, "short"], 7, "GW0472")?;
    wait_for("the end of a lock", Duration::from_secs(120), || {
        expect(&site, &["snapshot", "delete", VOLUME, "short"], 0, "")
    })?;
    expect(&site, &["snapshot", "delete", VOLUME, "long"], 7, "GW0472")?;
    Ok(())
}

/// A script that notes what it is asked, and then does what `freeze` says when it is asked to freeze.
fn hook(site: &Site, freeze: &str, limit: &str) -> Result<PathBuf> {
    let (said, script) = (site.dir().join("hook.said"), site.dir().join("hook.sh"));
    let text = format!(
        "echo $1 $TWINSPAN_GROUP >> {}\nif [ $1 = freeze ]; then {freeze}; fi\n",
        said.display()
    );
    std::fs::write(&script, text)?;
    let script = script.display();
    site.configure(&format!(
        "[[points.hooks]]\nname = \"db\"\ncommand = [\"/bin/sh\", \"{script}\"]\n\
         timeout = \"{limit}\"\n"
    ))?;
    Ok(said)
}

fn said(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

#[test]
fn a_point_is_application_consistent_when_its_hook_froze_and_thawed() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    pair.primary.stop()?;
    let file = hook(&pair.primary, "true", "60s")?;
    pair.primary.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let (east, west) = (&pair.primary, &pair.mirror);
    policy(east, &["--schedule", "0 0 1 1 *", "--keep", "both", "--hook", "db"])?;
    let name = take(east)?;
    ensure!(said(&file) == "freeze orders\nthaw orders\n", "{}", said(&file));
    for site in [east, west] {
        wait_for(&format!("the mark at {}", site.name()), SOON, || {
            let point = show(site, &name)?;
            ensure!(point["application_consistent"] == true, "{point:#}");
            ensure!(point["why_not"].is_null(), "{point:#}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_plugin_freezes_and_thaws_what_writes_while_a_point_is_taken() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::new(dir.path(), "east")?;
    site.configure("[[points.hooks]]\nname = \"db\"\nplugin = \"hostile\"\n")?;
    site.start()?;
    site.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    policy(&site, &["--schedule", "0 0 1 1 *", "--keep", "primary", "--hook", "db"])?;
    // Without the plugin the point is taken, and says what was not done.
    let point = show(&site, &take(&site)?)?;
    ensure!(point["application_consistent"] == false, "{point:#}");
    ensure!(text(&point, "/why_not")?.contains("hostile/freeze"), "{point:#}");
    crate::plugins::install(&site, "hostile")?;
    let point = show(&site, &take(&site)?)?;
    ensure!(point["application_consistent"] == true, "{point:#}");
    let lines = site.cli(&["plugin", "logs", "hostile"])?.to_string();
    // It may be thawed before that, for the time without the plugin.
    let (froze, thawed) = (lines.find("freeze orders"), lines.rfind("thaw orders"));
    ensure!(froze.is_some() && froze < thawed, "{lines}");
    Ok(())
}

#[test]
fn a_hook_that_fails_or_hangs_is_thawed_and_the_point_says_why() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::new(dir.path(), "east")?;
    for (freeze, limit, why) in [
        ("echo locked by a dump >&2; exit 4", "60s", "locked by a dump"),
        ("exec sleep 600", "300ms", "took longer than 300ms"),
    ] {
        let file = hook(&site, freeze, limit)?;
        site.start()?;
        if site.ask(&["volume", "show", VOLUME])?.code != 0 {
            site.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
        }
        policy(&site, &["--schedule", "0 0 1 1 *", "--keep", "primary", "--hook", "db"])?;
        let point = show(&site, &take(&site)?)?;
        ensure!(point["application_consistent"] == false, "{point:#}");
        ensure!(text(&point, "/why_not")?.contains(why), "{point:#}");
        ensure!(said(&file).ends_with("freeze orders\nthaw orders\n"), "{}", said(&file));
        site.stop()?;
    }
    Ok(())
}

#[test]
fn who_could_not_be_thawed_is_thawed_as_soon_as_the_hook_can() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::new(dir.path(), "east")?;
    let file = hook(&site, "true", "60s")?;
    let (script, tried) = (site.dir().join("hook.sh"), site.dir().join("tried"));
    let tried = tried.display();
    let text = std::fs::read_to_string(&script)?;
    let fails = format!("if [ $1 = thaw ] && ! [ -e {tried} ]; then touch {tried}; exit 3; fi\n");
    std::fs::write(&script, text + &fails)?;
    site.start()?;
    site.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    policy(&site, &["--schedule", "0 0 1 1 *", "--keep", "primary", "--hook", "db"])?;
    let point = show(&site, &take(&site)?)?;
    ensure!(point["application_consistent"] == false, "{point:#}");
    wait_for("a second thaw", SOON, || {
        ensure!(said(&file) == "freeze orders\nthaw orders\nthaw orders\n", "{}", said(&file));
        let told = events(&site)?;
        ensure!(told.contains("thawed by hook db, which could not before"), "{told}");
        Ok(())
    })
}

#[test]
fn a_gateway_that_was_killed_while_somebody_was_frozen_thaws_at_its_start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::new(dir.path(), "east")?;
    let file = hook(&site, "exec sleep 3", "60s")?;
    site.start()?;
    site.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    policy(&site, &["--schedule", EVERY_SECOND, "--keep", "primary", "--hook", "db"])?;
    // The freeze takes three seconds, so due times come while it does.
    await_count(&site, "skipped", 1)?;
    wait_for("a freeze under way", SOON, || {
        ensure!(said(&file).ends_with("freeze orders\n"), "{}", said(&file));
        Ok(())
    })?;
    site.kill()?;
    let before = said(&file);
    ensure!(before.ends_with("freeze orders\n"), "it ended before the kill: {before}");
    site.start()?;
    wait_for("a thaw", SOON, || {
        let after = said(&file);
        ensure!(after[before.len()..].starts_with("thaw orders\n"), "{after}");
        Ok(())
    })?;
    ensure!(events(&site)?.contains("after a stop in the middle of a point"));
    Ok(())
}
