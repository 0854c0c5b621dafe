//! Groups that are moved without losing anything, and what two sites wrote apart.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::Value;

use crate::pair::{
    Pair, SOON, SYNC_LIMIT, VOLUME, await_group, expect, fail_over, group, number, serves, text,
};
use crate::records::{Journal, Load, attach};

/// Writes 4 KiB of a pattern through NBD, at this many KiB.
fn write(site: &Site, at_kib: u32, pattern: u8) -> Result<()> {
    qemu_io(site, &format!("write -P {pattern} {at_kib}k 4k"))
}

/// Reads it back.
fn holds(site: &Site, at_kib: u32, pattern: u8) -> Result<()> {
    qemu_io(site, &format!("read -P {pattern} {at_kib}k 4k"))
}

fn qemu_io(site: &Site, command: &str) -> Result<()> {
    let uri = site.nbd(VOLUME);
    Tool::new("qemu-io").args(["-f", "raw", "-c", command, "-c", "flush", &uri]).run()?;
    Ok(())
}

/// What the group's copies differ in, and the exit code that says so.
fn diff(site: &Site, code: i32) -> Result<Value> {
    let answer = expect(site, &["group", "diff", VOLUME], code, "")?;
    let mirror = answer.json.pointer("/mirrors/0").cloned();
    mirror.with_context(|| format!("there is no other side: {}", answer.text))
}

/// The extents of one side, as (KiB, KiB).
fn extents(mirror: &Value, side: &str) -> Result<Vec<(u64, u64)>> {
    let list = mirror.pointer(&format!("/volumes/0/{side}/extents")).and_then(Value::as_array);
    let list = list.with_context(|| format!("no extents {side}: {mirror:#}"))?;
    list.iter().map(|e| Ok((number(e, "/offset")? >> 10, number(e, "/bytes")? >> 10))).collect()
}

/// The names of the steps of an operation.
fn steps(operation: &Value) -> Vec<String> {
    let all = operation["steps"].as_array().into_iter().flatten();
    all.filter_map(|step| step["name"].as_str().map(str::to_owned)).collect()
}

fn events(site: &Site) -> Result<String> {
    Ok(site.ask(&["events", "--since", "0"])?.text)
}

#[test]
fn what_both_sides_wrote_apart_is_shown_from_either_side_and_unknown_is_said() -> Result<()> {
    let mut pair = Pair::relayed("32MiB")?;
    write(&pair.primary, 0, 1)?;
    let same = diff(&pair.primary, 0)?;
    ensure!(same["verdict"] == "same" && same["there"]["site"] == "west", "{same:#}");
    diff(&pair.mirror, 0)?;

    pair.cut();
    write(&pair.primary, 64, 2)?;
    write(&pair.primary, 1024, 3)?;
    // The other side may have been promoted for all that is known here.
    let unknown = diff(&pair.primary, 4)?;
    ensure!(unknown["verdict"] == "unknown" && unknown["there"].is_null(), "{unknown:#}");
    ensure!(unknown["unknown"]["last_heard_ms_ago"].is_u64(), "{unknown:#}");
    ensure!(extents(&unknown, "here")? == [(64, 4), (1024, 4)], "{unknown:#}");
    ensure!(unknown["here"]["apart_since"].is_string(), "{unknown:#}");

    fail_over(&pair.mirror)?;
    write(&pair.mirror, 64, 4)?;
    write(&pair.mirror, 2048, 5)?;
    pair.mend();
    let fenced = await_group(&pair.primary, "the fence", SOON, |g| g["role"] == "fenced")?;
    ensure!(!serves(&fenced));
    // Both sides say the same, each from where it stands.
    let there = diff(&pair.mirror, 5)?;
    ensure!(there["verdict"] == "both_sides", "{there:#}");
    ensure!(extents(&there, "here")? == [(64, 4), (2048, 4)], "{there:#}");
    ensure!(extents(&there, "there")? == [(64, 4), (1024, 4)], "{there:#}");
    ensure!(number(&there, "/volumes/0/both_bytes")? == 4096, "{there:#}");
    for side in ["/here", "/there"] {
        ensure!(!text(&there, &format!("{side}/apart_since"))?.is_empty(), "{there:#}");
        ensure!(number(&there, &format!("{side}/bytes"))? == 8192, "{there:#}");
    }
    let here = diff(&pair.primary, 5)?;
    ensure!(extents(&here, "there")? == extents(&there, "here")?, "{here:#}");
    ensure!(here["here"]["role"] == "fenced" && here["there"]["role"] == "primary", "{here:#}");

    pair.swap();
    pair.primary.cli(&["reprotect", VOLUME, "--discard", "--wait"])?;
    wait_for("equal copies", SYNC_LIMIT, || diff(&pair.primary, 0))?;
    pair.is_identical()
}

#[test]
fn a_restore_after_a_failover_goes_back_home_and_discards_only_with_a_word() -> Result<()> {
    let pair = Pair::relayed("32MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    write(east, 0, 1)?;
    // Nothing was promoted: there is nothing to bring back, from either side.
    expect(east, &["session", "restore", VOLUME], 7, "migrate plan")?;
    expect(west, &["session", "restore", VOLUME], 7, "GW0420")?;
    pair.cut();
    write(east, 64, 2)?;
    fail_over(west)?;
    write(west, 128, 3)?;
    // The original site must answer before anything is begun.
    expect(west, &["session", "restore", VOLUME], 6, "GW0402")?;
    pair.mend();
    await_group(east, "the fence", SOON, |g| g["role"] == "fenced")?;
    expect(east, &["session", "restore", VOLUME], 7, "asked of the site that serves it")?;

    let plan = expect(west, &["session", "restore", VOLUME, "--dry-run"], 7, "")?.json;
    ensure!(number(&plan, "/discards_bytes")? == 4096 && plan["to"] == "east", "{plan:#}");
    ensure!(plan["begun_at"].is_null(), "{plan:#}");
    expect(west, &["session", "restore", VOLUME], 7, "GW0408")?;
    ensure!(serves(&group(west)?), "it serves as before");
    let plan = expect(west, &["session", "restore", VOLUME, "--dry-run", "--discard"], 0, "")?.json;
    ensure!(plan["steps"].as_array().map(Vec::len) == Some(3), "{plan:#}");

    let done = west.cli(&["session", "restore", VOLUME, "--discard"])?;
    println!("{:#?}", steps(&done));
    ensure!(done["state"] == "succeeded" && done["kind"] == "restore", "{done:#}");
    await_group(east, "service", SOON, serves)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    holds(east, 0, 1)?;
    holds(east, 64, 0)?;
    holds(east, 128, 3)?;
    pair.is_identical()?;
    ensure!(events(west)?.contains("restored to east"), "{}", events(west)?);
    // It is over: it is not run a second time, and not the other way either.
    expect(west, &["session", "restore", VOLUME], 7, "GW0420")?;
    expect(east, &["session", "restore", VOLUME], 7, "GW0420")?;
    expect(west, &["session", "restore", VOLUME, "--give-up"], 1, "GW0204").map(drop)
}

#[test]
fn a_restore_brings_back_what_was_written_to_a_detached_copy() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    write(east, 0, 1)?;
    east.cli(&["session", "suspend", VOLUME])?;
    await_group(west, "the suspension", SOON, |group| group["quality"] == "outdated")?;
    west.cli(&["group", "detach", VOLUME])?;
    write(west, 64, 2)?;
    // The operation volume is spoilt meanwhile.
    write(east, 0, 9)?;
    let apart = diff(west, 5)?;
    ensure!(apart["here"]["serving"] == "detached", "{apart:#}");
    expect(west, &["session", "restore", VOLUME], 7, "GW0408")?;
    ensure!(group(west)?["serving"] == "detached", "nothing was begun");
    holds(east, 0, 9)?;
    let done = west.cli(&["session", "restore", VOLUME, "--discard"])?;
    let steps = steps(&done);
    ensure!(steps.iter().any(|step| step.contains("the source")), "{steps:?}");
    await_group(east, "service", SOON, serves)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    holds(east, 0, 1)?;
    holds(east, 64, 2)?;
    pair.is_identical()?;
    // What was discarded is kept in a snapshot at the original site.
    let kept = group(east)?["discarded"].clone();
    ensure!(kept[0]["bytes"].as_u64().is_some_and(|bytes| bytes >= 4096), "{kept:#}");
    Ok(())
}

/// Policies of which none is as it is configured.
fn unusual(mode: &str) -> Vec<&str> {
    let pace = ["--cut-interval", "300ms", "--ack-deadline", "6s", "--on-slow", "degrade"];
    let copying = ["--bandwidth", "400MiB/s", "--priority", "high"];
    let window = ["--bandwidth-window", "sat 03:00-04:00 Europe/Berlin=300MiB/s"];
    [&["session", "set", VOLUME, "--mode", mode][..], &pace, &copying, &window].concat()
}

fn policy(site: &Site) -> Result<Value> {
    Ok(group(site)?["legs"][0]["policy"].clone())
}

#[test]
fn a_restore_of_a_session_that_follows_behind_goes_home_in_its_mode() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    write(east, 0, 1)?;
    east.cli(&unusual("consistency"))?;
    let policies = policy(east)?;
    ensure!(policies["mode"] == "consistency" && policies["priority"] == "high", "{policies:#}");
    await_group(west, "a cut", SOON, |g| g["quality"] == "consistent")?;
    east.cli(&["session", "suspend", VOLUME])?;
    await_group(west, "the suspension", SOON, |g| g["upstream"]["link"] == "off")?;
    write(east, 0, 9)?;
    expect(west, &["session", "restore", VOLUME, "--dry-run"], 7, "blocked")?;
    expect(west, &["session", "restore", VOLUME], 7, "GW0408")?;
    let done = west.cli(&["session", "restore", VOLUME, "--discard"])?;
    println!("{done:#}");
    await_group(east, "service", SOON, serves)?;
    ensure!(policy(east)? == policies, "{:#}", policy(east)?);
    await_group(east, "a cut", SYNC_LIMIT, |g| g["legs"][0]["phase"] == "following")?;
    holds(east, 0, 1)?;
    // It has everything again when it is asked to.
    east.cli(&["session", "set", VOLUME, "--mode", "sync"])?;
    east.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()
}

#[test]
fn the_policies_of_a_session_stay_its_own_when_it_is_migrated_and_failed_over() -> Result<()> {
    let mut pair = Pair::mirrored("32MiB")?;
    let east = &pair.primary;
    east.cli(&unusual("sync"))?;
    let policies = policy(east)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    let plan = east.cli(&["migrate", "plan", VOLUME, "--to", "west"])?;
    let token = text(&plan, "/token")?;
    east.cli(&["migrate", "run", VOLUME, "--token", &token])?;
    pair.swap();
    await_group(&pair.primary, "service", SOON, serves)?;
    ensure!(policy(&pair.primary)? == policies, "{:#}", policy(&pair.primary)?);
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    pair.primary.kill()?;
    fail_over(&pair.mirror)?;
    ensure!(policy(&pair.mirror)? == policies, "{:#}", policy(&pair.mirror)?);
    pair.primary.start()?;
    await_group(&pair.primary, "the fence", SOON, |g| g["role"] == "fenced")?;
    pair.mirror.cli(&["reprotect", VOLUME, "--wait"])?;
    ensure!(policy(&pair.mirror)? == policies, "{:#}", policy(&pair.mirror)?);
    pair.swap();
    pair.is_identical()
}

#[test]
fn a_window_of_nothing_holds_the_first_copy_until_it_is_removed() -> Result<()> {
    let pair = Pair::joined()?;
    let east = &pair.primary;
    east.cli(&["volume", "create", VOLUME, "--size", "32MiB"])?;
    write(east, 0, 1)?;
    let create = ["session", "create", VOLUME, "--to", "west"];
    // Open at any time of any day, beside one that allows more: the lowest limit holds.
    let windows = ["--bandwidth-window", "00:00-24:00=paused", "--bandwidth-window"];
    let other = ["mon-sun 00:00-24:00 Asia/Tokyo=10MiB/s", "--bandwidth", "unlimited"];
    east.cli(&[&create[..], &windows[..], &other[..]].concat())?;
    let held = await_group(east, "a copy that is held back", SOON, |g| {
        let leg = &g["legs"][0];
        leg["phase"] == "copying" && leg["bandwidth_now"] == "paused" && leg["link"] == "connected"
    })?;
    ensure!(held["legs"][0]["policy"]["bandwidth_windows"][0] == "mon-sun 00:00-24:00 UTC=paused");
    // Hosts go on, and what they write is not held back.
    write(east, 64, 2)?;
    std::thread::sleep(Duration::from_secs(1));
    let session = east.cli(&["session", "show", VOLUME])?;
    ensure!(number(&session, "/resync_copied_bytes")? == 0, "{session:#}");
    ensure!(session["leg"]["phase"] == "copying", "{session:#}");
    let odd = ["session", "set", VOLUME, "--bandwidth-window", "08:00-09:00 Europe/Atlantis=0"];
    expect(east, &odd, 2, "no time zone")?;
    east.cli(&["session", "set", VOLUME, "--no-bandwidth-windows"])?;
    east.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()
}

#[test]
fn a_restore_that_is_killed_at_any_step_is_run_again_by_the_same_word() -> Result<()> {
    let mut pair = Pair::mirrored("32MiB")?;
    for (round, millis) in (1u8..).zip([0, 15, 40, 90, 200]) {
        pair.primary.kill()?;
        fail_over(&pair.mirror)?;
        write(&pair.mirror, 64, round)?;
        pair.primary.start()?;
        await_group(&pair.primary, "the fence", SOON, |g| g["role"] == "fenced")?;
        // It may be over before its end is asked for the first time.
        let begun = pair.mirror.ask(&["session", "restore", VOLUME, "--timeout", "1ms"])?;
        ensure!(matches!(begun.code, 0 | 8), "{}", begun.text);
        std::thread::sleep(Duration::from_millis(millis));
        pair.mirror.kill()?;
        pair.mirror.start()?;
        // Wherever it was cut short, the same word brings it to its end; when nothing but the note
        // that it is over was missing, or not even that, it says so.
        let mut tried = Vec::new();
        wait_for("the end of the restore", SYNC_LIMIT, || {
            let answer = pair.mirror.ask(&["session", "restore", VOLUME])?;
            let is_home = group(&pair.primary).is_ok_and(|group| serves(&group));
            tried.push(answer.code);
            let over = answer.code == 0 || (is_home && answer.text.contains("GW0420"));
            ensure!(over, "{}", answer.text);
            Ok(())
        })?;
        println!("killed {millis} ms after it was begun: exit codes {tried:?}");
        await_group(&pair.primary, "service", SOON, serves)?;
        pair.primary.wait_equivalent(SYNC_LIMIT)?;
        holds(&pair.primary, 64, round)?;
        pair.is_identical()?;
    }
    Ok(())
}

#[test]
fn a_restore_that_stopped_is_told_and_can_be_given_up() -> Result<()> {
    let mut pair = Pair::relayed("32MiB")?;
    pair.cut();
    fail_over(&pair.mirror)?;
    write(&pair.mirror, 64, 2)?;
    pair.mend();
    await_group(&pair.primary, "the fence", SOON, |g| g["role"] == "fenced")?;
    for relay in &pair.network {
        relay.delay(Duration::from_millis(100));
    }
    expect(&pair.mirror, &["session", "restore", VOLUME, "--timeout", "1ms"], 8, "operation show")?;
    pair.cut();
    let give_up = ["session", "restore", VOLUME, "--give-up"];
    let plan = ["session", "restore", VOLUME, "--dry-run"];
    expect(&pair.mirror, &give_up, 7, "GW0409")?;
    expect(&pair.mirror, &["session", "restore", VOLUME], 7, "GW0409").or_else(|_asked_first| {
        expect(&pair.mirror, &["session", "restore", VOLUME], 6, "GW0402")
    })?;
    pair.mirror.kill()?;
    pair.mirror.start()?;
    let begun = expect(&pair.mirror, &plan, 7, "blocked")?.json;
    ensure!(begun["begun_at"].is_string() && begun["discards_bytes"].is_null(), "{begun:#}");
    expect(&pair.mirror, &give_up, 0, "")?;
    ensure!(serves(&group(&pair.mirror)?), "it is served as before");
    expect(&pair.mirror, &give_up, 1, "GW0204").map(drop)
}

#[test]
fn a_planned_migration_under_load_loses_nothing_and_its_token_is_used_once() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    let journal = Journal::new(0, 0, 4, 1024);
    let load = Load::start(&journal, &pair.primary.nbd_socket(), VOLUME)?;
    load.await_more(100, SOON)?;
    let plan = pair.primary.cli(&["migrate", "plan", VOLUME, "--to", "west"])?;
    ensure!(plan["at_risk_bytes"] == 0 && plan["to"] == "west", "{plan:#}");
    ensure!(number(&plan, "/hosts")? >= 1 && plan["expected_seconds"].is_f64(), "{plan:#}");
    let token = text(&plan, "/token")?;
    let run = ["migrate", "run", VOLUME, "--token", &token];
    let done = pair.primary.cli(&run)?;
    ensure!(done["kind"] == "migrate" && done["state"] == "succeeded", "{done:#}");
    println!("{done:#}");
    load.await_end(SOON)?;
    load.end()?.is_dropped()?;
    let told = events(&pair.primary)?;
    ensure!(
        told.contains("migration to west begun") && told.contains("migrated to west"),
        "{told}"
    );
    pair.swap();
    await_group(&pair.primary, "service", SOON, serves)?;
    let found = journal.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()?;
    println!("{found:?}");
    expect(&pair.mirror, &run, 7, "GW0411")?;
    // A plan is asked of the site that serves the group, and names a mirror.
    expect(&pair.mirror, &["migrate", "plan", VOLUME, "--to", "west"], 7, "GW0405")?;
    expect(&pair.primary, &["migrate", "plan", VOLUME, "--to", "north"], 1, "GW0204").map(drop)
}

#[test]
fn a_migration_is_refused_when_the_state_changed_and_rolled_back_when_it_cannot_drain() -> Result<()>
{
    let pair = Pair::relayed("32MiB")?;
    let east = &pair.primary;
    east.cli(&["session", "set", VOLUME, "--on-slow", "block", "--ack-deadline", "1m"])?;
    let plan = || {
        east.wait_for(&["migrate", "plan", VOLUME, "--to", "west"], SOON, |plan| {
            plan["token"].is_string()
        })
    };
    let token = text(&plan()?, "/token")?;
    east.cli(&["session", "suspend", VOLUME])?;
    expect(east, &["migrate", "run", VOLUME, "--token", &token], 7, "GW0411")?;
    let blocked = expect(east, &["migrate", "plan", VOLUME, "--to", "west"], 7, "blocked")?;
    ensure!(blocked.json["token"].is_null(), "{}", blocked.text);
    east.cli(&["session", "resume", VOLUME, "--wait"])?;

    // Writes are on their way to a mirror that is far: what is in flight does not end in time.
    let token = text(&plan()?, "/token")?;
    let (mut host, _) = attach(&east.nbd_socket(), VOLUME)?;
    for relay in &pair.network {
        relay.delay(Duration::from_millis(400));
    }
    let writer = std::thread::spawn(move || -> Result<()> {
        std::io::Write::write_all(&mut host, &[7; 4096])?;
        std::io::Write::flush(&mut host)?;
        Ok(())
    });
    let run = ["migrate", "run", VOLUME, "--token", &token, "--drain", "300ms"];
    let rolled_back = expect(east, &run, 1, "GW0450")?;
    ensure!(rolled_back.text.contains("within 300 ms"), "{}", rolled_back.text);
    let served = await_group(east, "service", SOON, serves)?;
    ensure!(served["role"] == "primary", "{served:#}");
    pair.mend();
    writer.join().ok().context("the writer panicked")??;
    await_group(east, "a mirror again", SYNC_LIMIT, |g| g["legs"][0]["in_sync"] == true)?;
    ensure!(events(east)?.contains("migration to west failed"), "{}", events(east)?);
    holds(east, 0, 7)
}
