//! Groups that go back in place to what only their mirror keeps: a second of its write journal, a
//! recovery point. The mirror takes over, goes back, and the site that served serves again.
//!
//! Invariant: what a second must hold is known from outside, as in `moments.rs`; and whatever is killed,
//! a group is all of what it was or all of what it goes back to, at both sites.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use serde_json::Value;

use crate::chain::{Chain, read_front};
use crate::moments::{GROUP, PLAN, Sample, await_writing, journaled, names, sample, shown};
use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, expect, text};
use crate::random::Random;
use crate::snapshots::{begin, kills};

/// A plan at the mirror for that second, and its token.
fn plan(site: &Site, at: &str) -> Result<(Value, String)> {
    let plan = site.cli(&["point", "rollback", "plan", GROUP, "--at", at, "--swap"])?;
    let token = text(&plan, "/token")?;
    Ok((plan, token))
}

/// Every volume of the group, as hosts read it, up to which record of each writer.
fn read(site: &Site) -> Result<Vec<u64>> {
    read_as(site, "")
}

fn read_as(site: &Site, suffix: &str) -> Result<Vec<u64>> {
    let socket = site.nbd_socket();
    let read = |of: &String| read_front(&socket, &format!("{of}{suffix}"), PLAN.bytes());
    PLAN.check(&names().iter().map(read).collect::<Result<Vec<_>>>()?)
}

/// Whether what is there lies between what was acknowledged more than a second before a sample, and what
/// was by then; each writer has one on its way.
fn is_second(found: &[u64], samples: &[Sample], index: usize) -> bool {
    let (least, most) = (&samples[index - 3].acknowledged, &samples[index].acknowledged);
    found.iter().zip(least).all(|(found, least)| found >= least)
        && found.iter().zip(most).all(|(found, most)| *found <= most + 1)
}

fn serves(site: &Site) -> Result<bool> {
    let group = site.cli(&["group", "show", GROUP])?;
    Ok(group["role"] == "primary" && group["serving"] == "yes")
}

fn await_serving(site: &Site) -> Result<()> {
    wait_for(&format!("service at {}", site.name()), SYNC_LIMIT, || {
        ensure!(serves(site)?, "{:#}", site.cli(&["group", "show", GROUP])?);
        Ok(())
    })
}

fn digests(site: &Site) -> Result<Vec<String>> {
    let digest = |of: &String| text(&site.cli(&["volume", "digest", of])?, "/digest");
    names().iter().map(digest).collect()
}

#[test]
fn any_second_is_gone_back_to_in_place_and_its_primary_serves_again() -> Result<()> {
    let pair = journaled()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let chain = Chain::start(PLAN, &east.nbd_socket(), &names(), &[0; 2])?;
    let samples = sample(&chain, east, 6)?;
    chain.await_more(50, SYNC_LIMIT)?;
    let at = samples[4].at.clone();
    wait_for("a second that is over", SOON, || {
        let newest = text(&shown(west)?, "/newest")?;
        ensure!(newest > at, "{newest}");
        Ok(())
    })?;
    // Where it is not kept, and without a word about roles, nothing is planned.
    expect(east, &["point", "rollback", "plan", GROUP, "--at", &at], 7, "GW0476")?;
    expect(west, &["point", "rollback", "plan", GROUP, "--at", &at], 7, "--swap")?;
    expect(
        west,
        &["point", "rollback", "plan", GROUP, "--at", "2100-01-01T00:00:00Z", "--swap"],
        7,
        "GW0475",
    )?;
    // Hosts are attached where roles are to be swapped: nothing is changed without consent.
    let (planned, token) = plan(west, &at)?;
    ensure!(planned["swap"] == true && planned["hosts"].as_u64() > Some(0), "{planned:#}");
    let run = |token: &str| {
        let run = ["point", "rollback", "run", GROUP, "--token", token];
        run.map(str::to_owned)
    };
    let refused = run(&token);
    let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
    expect(west, &refused, 7, "GW0462")?;
    chain.await_more(50, SYNC_LIMIT)?;
    ensure!(serves(east)?);
    let acknowledged = chain.end()?;

    let (_, token) = plan(west, &at)?;
    let done = run(&token);
    let done: Vec<&str> = done.iter().map(String::as_str).collect();
    let operation = west.cli(&done)?;
    ensure!(operation["state"] == "succeeded", "{operation:#}");
    await_serving(east)?;
    let found = read(east)?;
    println!("as of {at}: {found:?}, of {acknowledged:?}");
    ensure!(is_second(&found, &samples, 4), "{found:?}");
    ensure!(found != acknowledged, "there is nothing that was undone");
    east.wait_equivalent(SYNC_LIMIT)?;
    ensure!(digests(east)? == digests(west)?, "the copies differ");
    let moved = east.cli(&["session", "list"])?;
    ensure!(moved["items"][0]["resync_kind"] != "full", "{moved:#}");
    // What was there before is kept where it went back, and is all that was acknowledged.
    let kept = west.cli(&["snapshot", "list", GROUP])?;
    let safety = kept["items"].as_array().into_iter().flatten().find(|of| of["origin"] == "safety");
    let safety = text(safety.context("a snapshot of before")?, "/name")?;
    ensure!(read_as(west, &format!("@{safety}"))? == acknowledged);
    // Hosts go on, and the mirror writes down again.
    let chain = Chain::start(PLAN, &east.nbd_socket(), &names(), &found)?;
    chain.await_more(50, SYNC_LIMIT)?;
    chain.end()?;
    await_writing(west)?;
    Ok(())
}

#[test]
fn a_way_back_to_a_second_that_is_killed_is_all_of_it_or_nothing() -> Result<()> {
    let mut random = Random::announced("rewind_killed")?;
    let mut pair = journaled()?;
    let mut after = vec![0; 2];
    let mut outcomes = [0, 0];
    for round in 0..kills() + 2 {
        let chain = Chain::start(PLAN, &pair.primary.nbd_socket(), &names(), &after)?;
        let samples = sample(&chain, &pair.primary, 6)?;
        chain.await_more(50, SYNC_LIMIT)?;
        let acknowledged = chain.end()?;
        let at = &samples[4].at;
        let (_, token) = pair_plan(&pair, at)?;
        let mut pause = Duration::from_millis(random.within(0..600));
        if round == 0 {
            pause = Duration::from_secs(5);
        }
        let run = ["point", "rollback", "run", GROUP, "--token", &token];
        let known = ways(&pair.mirror)?;
        let mut call = begin(&pair.mirror, &run)?;
        std::thread::sleep(pause);
        // In turn who goes back, and who hands over and follows.
        let site = if round % 3 == 2 { &mut pair.primary } else { &mut pair.mirror };
        site.kill()?;
        site.start()?;
        call.wait().context("await the end of the call")?;
        let (east, west) = (&pair.primary, &pair.mirror);
        for site in [east, west] {
            wait_for(&format!("the end of all operations at {}", site.name()), SYNC_LIMIT, || {
                let list = site.cli(&["operation", "list"])?;
                let items = list["items"].as_array().cloned().unwrap_or_default();
                ensure!(items.iter().all(|of| of["state"] != "running"), "{list:#}");
                Ok(())
            })?;
        }
        let serving = wait_for("a site that serves", SYNC_LIMIT, || {
            let sites = [serves(east)?, serves(west)?];
            ensure!(sites[0] != sites[1], "{sites:?}");
            Ok(if sites[0] { east } else { west })
        })?;
        let found = read(serving)?;
        let is_gone = found != acknowledged;
        println!("{round}: killed after {pause:?}: {found:?} at {}", serving.name());
        ensure!(!is_gone || is_second(&found, &samples, 4), "{found:?}, {at}");
        let mut told = ways(west)?;
        told.retain(|of| known.iter().all(|known| known["id"] != of["id"]));
        let is_told = told.iter().any(|of| of["state"] == "succeeded");
        ensure!(is_gone || !is_told, "it went nowhere, and tells: {told:?}");
        outcomes[usize::from(is_gone)] += 1;
        if serving.name() == west.name() {
            go_home(&pair)?;
        }
        pair.primary.wait_equivalent(SYNC_LIMIT)?;
        ensure!(digests(&pair.primary)? == digests(&pair.mirror)?, "the copies differ");
        await_writing(&pair.mirror)?;
        after = found;
    }
    println!("not gone back {}, gone back {}", outcomes[0], outcomes[1]);
    ensure!(outcomes[1] > 0, "no way back came to its end");
    Ok(())
}

/// The ways back that a site knows of.
fn ways(site: &Site) -> Result<Vec<Value>> {
    let list = site.cli(&["operation", "list"])?;
    let mut items = list["items"].as_array().cloned().unwrap_or_default();
    items.retain(|of| of["kind"] == "rollback");
    Ok(items)
}

fn pair_plan(pair: &Pair, at: &str) -> Result<(Value, String)> {
    wait_for("a plan", SOON, || plan(&pair.mirror, at))
}

/// The mirror serves: it hands over.
fn go_home(pair: &Pair) -> Result<()> {
    let (east, west) = (&pair.primary, &pair.mirror);
    west.wait_equivalent(SYNC_LIMIT)?;
    let plan = west.wait_for(&["migrate", "plan", GROUP, "--to", east.name()], SOON, |plan| {
        plan.pointer("/token").is_some_and(Value::is_string)
    })?;
    let token = text(&plan, "/token")?;
    west.cli(&["migrate", "run", GROUP, "--token", &token])?;
    await_serving(east)
}

#[test]
fn a_point_that_only_the_mirror_keeps_is_gone_back_to_and_its_primary_serves_again() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let write = |pattern: &str| -> Result<()> {
        let command = format!("write -P {pattern} 0 1M");
        let io = harness::Tool::new("qemu-io");
        io.args(["-f", "raw", "-c", &command, "-c", "flush", &east.nbd(VOLUME)]).run().map(drop)
    };
    let holds = |pattern: &str, uri: &str| -> Result<()> {
        let command = format!("read -P {pattern} 0 1M");
        let io = harness::Tool::new("qemu-io");
        io.args(["-r", "-f", "raw", "-c", &command, uri]).run().map(drop)
    };
    write("1")?;
    east.cli(&["point", "policy", "set", VOLUME, "--schedule", "0 0 1 1 *", "--keep", "mirror"])?;
    east.cli(&["point", "take", VOLUME])?;
    write("2")?;
    let points = west.wait_for(&["point", "list", VOLUME], SOON, |list| {
        list["items"].as_array().is_some_and(|items| items.len() == 1)
    })?;
    let point = text(&points, "/items/0/name")?;
    // Its primary has none of it any more.
    wait_for("a point at the mirror only", SOON, || {
        let list = east.cli(&["snapshot", "list", VOLUME])?;
        ensure!(list["items"] == serde_json::json!([]), "{list:#}");
        Ok(())
    })?;
    expect(west, &["snapshot", "rollback", "plan", VOLUME, &point], 7, "--swap")?;
    let plan = west.cli(&["snapshot", "rollback", "plan", VOLUME, &point, "--swap"])?;
    let token = text(&plan, "/token")?;
    let done = west.cli(&["snapshot", "rollback", "run", VOLUME, &point, "--token", &token])?;
    ensure!(done["state"] == "succeeded", "{done:#}");
    crate::pair::await_group(east, "service", SYNC_LIMIT, crate::pair::serves)?;
    holds("1", &east.nbd(VOLUME))?;
    // Its primary serves, and the mirror follows it.
    write("3")?;
    east.wait_equivalent(SYNC_LIMIT)?;
    // It was the mirror that went back: what was there before is kept at it, and nowhere else.
    let safeties = |site: &Site| -> Result<Vec<String>> {
        let list = site.cli(&["snapshot", "list", VOLUME])?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        all.iter().filter(|of| of["origin"] == "safety").map(|of| text(of, "/name")).collect()
    };
    let (at_east, at_west) = (safeties(east)?, safeties(west)?);
    ensure!(at_east.is_empty() && at_west.len() == 1, "{at_east:?}, {at_west:?}");
    holds("2", &west.nbd(&format!("{VOLUME}@{}", at_west[0])))?;
    pair.is_identical()
}
