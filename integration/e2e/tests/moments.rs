//! Any second of a group, opened at its mirror: each holds a prefix of what was acknowledged, over all
//! volumes, whatever was killed.
//!
//! Invariant: what a second must hold is known from outside: what was acknowledged before a gateway said
//! what time it is, and what was acknowledged after.

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use serde_json::Value;

use crate::chain::{Chain, Plan, read_front};
use crate::pair::{Pair, SOON, SYNC_LIMIT, expect, number, text};

pub(crate) const GROUP: &str = "books";
pub(crate) const PLAN: Plan = Plan { volumes: 3, writers: 2, slots: 256 };

/// A second, and what was acknowledged right after it was told.
pub(crate) struct Sample {
    pub(crate) at: String,
    pub(crate) acknowledged: Vec<u64>,
}

pub(crate) fn names() -> Vec<String> {
    ["data", "log", "index"].map(str::to_owned).to_vec()
}

/// Two sites with a mirrored group of three volumes and a write journal that writes.
pub(crate) fn journaled() -> Result<Pair> {
    let pair = Pair::joined()?;
    let names = names();
    for name in &names {
        pair.primary.cli(&["volume", "create", name, "--size", "8MiB"])?;
    }
    let mut arguments = vec!["group", "create", GROUP];
    names.iter().for_each(|name| arguments.extend(["--volume", name.as_str()]));
    pair.primary.cli(&arguments)?;
    pair.primary.mirror(GROUP, &pair.mirror)?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    // Off until somebody asks for it.
    let off = shown(&pair.mirror)?;
    ensure!(off["state"] == "off" && off["journal"].is_null(), "{off:#}");
    let set = ["point", "journal", "set", GROUP, "--window", "60s", "--bytes", "4GiB"];
    let at_primary = pair.primary.cli(&set)?;
    ensure!(at_primary["state"] == "primary", "{at_primary:#}");
    await_writing(&pair.mirror)?;
    Ok(pair)
}

pub(crate) fn shown(site: &Site) -> Result<Value> {
    site.cli(&["point", "journal", "show", GROUP])
}

pub(crate) fn await_writing(site: &Site) -> Result<Value> {
    site.wait_for(&["point", "journal", "show", GROUP], SYNC_LIMIT, |state| {
        state["state"] == "writing" && state["newest"].is_string()
    })
}

/// What a site's clock says.
fn time(site: &Site) -> Result<String> {
    text(&shown(site)?, "/as_of")
}

/// Samples of so many different seconds while the chain goes on.
pub(crate) fn sample(chain: &Chain, site: &Site, count: usize) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    while samples.len() < count {
        let at = wait_for("another second", SOON, || {
            let at = time(site)?;
            let is_new = samples.last().is_none_or(|last| last.at[..19] != at[..19]);
            ensure!(is_new, "it is still {at}");
            Ok(at)
        })?;
        samples.push(Sample { at, acknowledged: chain.acknowledged() });
        chain.await_more(5, SOON)?;
    }
    Ok(samples)
}

/// Opens a second at a site as `name`, reads all of it, and says up to which record it goes. The mirror
/// hears of a second when it is over.
fn open(site: &Site, name: &str, at: &str) -> Result<Vec<u64>> {
    let create = ["volume", "create", name, "--from-group", GROUP, "--at", at];
    let moment = wait_for(&format!("the second {at}"), SOON, || {
        let answer = site.ask(&create)?;
        ensure!(answer.code == 0, "{}\n{:#}", answer.text, shown(site)?);
        Ok(answer.json)
    })?;
    let volumes = moment["volumes"].as_array().context("it has volumes")?;
    ensure!(volumes.len() == 3, "{moment:#}");
    let socket = site.nbd_socket();
    let read = |of: &String| read_front(&socket, &format!("{name}-{of}"), PLAN.bytes());
    let copies = names().iter().map(read).collect::<Result<Vec<_>>>()?;
    PLAN.check(&copies).with_context(|| format!("as of {at}: {moment:#}"))
}

/// Opens seconds, each of which must lie between what was acknowledged two seconds before and right
/// after it.
fn check(site: &Site, prefix: &str, samples: &[Sample]) -> Result<()> {
    for index in 3..samples.len() {
        let name = format!("{prefix}-{index}");
        let found = open(site, &name, &samples[index].at)?;
        // What was acknowledged before the second sample back was, is more than a second old.
        let least = &samples[index - 3].acknowledged;
        let most = &samples[index].acknowledged;
        println!("{name} at {}: {found:?} of {least:?} to {most:?}", samples[index].at);
        ensure!(found.iter().zip(least).all(|(found, least)| found >= least), "{name}: too old");
        // Each writer has one on its way.
        ensure!(found.iter().zip(most).all(|(found, most)| *found <= most + 1), "{name}: too new");
    }
    Ok(())
}

#[test]
fn rule_16_any_second_holds_a_prefix_of_what_was_acknowledged() -> Result<()> {
    let mut pair = journaled()?;
    let socket = pair.primary.nbd_socket();
    let chain = Chain::start(PLAN, &socket, &names(), &[0; 2])?;
    let first = sample(&chain, &pair.primary, 7)?;
    // While it goes on, and nothing about the mirror changes.
    check(&pair.mirror, "early", &first)?;
    let status = pair.primary.cli(&["session", "list"])?;
    ensure!(status["items"].as_array().map(Vec::len) == Some(3), "{status:#}");
    pair.primary.wait_equivalent(SOON)?;

    // A mirror that is killed has a hole where nobody wrote anything down, and says so.
    pair.mirror.kill()?;
    chain.await_more(50, SYNC_LIMIT)?;
    let in_the_hole = time(&pair.primary)?;
    chain.await_more(50, SYNC_LIMIT)?;
    pair.mirror.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let show = ["point", "journal", "show", GROUP];
    let state = pair.mirror.wait_for(&show, SYNC_LIMIT, |state| {
        state["ranges"].as_array().is_some_and(|ranges| ranges.len() == 2)
    })?;
    let why = text(&state, "/shorter_because")?;
    ensure!(why.contains("began anew"), "{why}");
    let second = sample(&chain, &pair.primary, 5)?;
    let acknowledged = chain.end()?;
    println!("acknowledged {acknowledged:?}");
    check(&pair.mirror, "late", &second)?;
    // What was written before the kill can still be opened; in the hole nothing can.
    check(&pair.mirror, "again", &first[..5])?;
    let create = ["volume", "create", "hole", "--from-group", GROUP, "--at", &in_the_hole];
    expect(&pair.mirror, &create, 7, "GW0475")?;
    let future =
        ["volume", "create", "never", "--from-group", GROUP, "--at", "2100-01-01T00:00:00Z"];
    expect(&pair.mirror, &future, 7, "GW0475")?;
    expect(
        &pair.primary,
        &["volume", "create", "here", "--from-group", GROUP, "--at", "-2s"],
        7,
        "GW0476",
    )?;
    let metrics = pair.mirror.metrics()?;
    ensure!(metrics.contains("twinspan_point_journal_writing{group=\"books\"} 1"), "{metrics}");
    let opened = open(&pair.mirror, "ago", "-2s")?;
    ensure!(opened.iter().zip(&acknowledged).all(|(opened, all)| opened <= all), "{opened:?}");
    Ok(())
}

#[test]
fn what_was_opened_outlives_the_journal_and_a_failover() -> Result<()> {
    let mut pair = journaled()?;
    let socket = pair.primary.nbd_socket();
    let chain = Chain::start(PLAN, &socket, &names(), &[0; 2])?;
    let samples = sample(&chain, &pair.primary, 5)?;
    let acknowledged = chain.end()?;
    let found = open(&pair.mirror, "kept", &samples[4].at)?;
    // Killed while it is filled, with the journal off: what it is filled from stays until it has all.
    pair.primary.cli(&["point", "journal", "show", GROUP])?;
    expect(&pair.primary, &["point", "journal", "off", GROUP], 0, "")?;
    wait_for("the end of the journal", SOON, || {
        let state = shown(&pair.mirror)?;
        ensure!(state["state"] == "off" && state["ranges"] == serde_json::json!([]), "{state:#}");
        let left = pair.mirror.cli(&["snapshot", "list", GROUP])?;
        ensure!(left["items"] == serde_json::json!([]), "bases stay: {left:#}");
        Ok(())
    })?;
    pair.mirror.kill()?;
    pair.mirror.start()?;
    let socket = pair.mirror.nbd_socket();
    let read = |of: &String| read_front(&socket, &format!("kept-{of}"), PLAN.bytes());
    let copies = names().iter().map(read).collect::<Result<Vec<_>>>()?;
    ensure!(PLAN.check(&copies)? == found, "it changed when the gateway was killed");
    for name in names() {
        let name = format!("kept-{name}");
        wait_for("filling", SYNC_LIMIT, || {
            let volume = pair.mirror.cli(&["volume", "show", &name])?;
            ensure!(volume["filling"].is_null(), "{:#}", volume["filling"]);
            Ok(())
        })?;
    }
    let copies = names().iter().map(read).collect::<Result<Vec<_>>>()?;
    ensure!(PLAN.check(&copies)? == found, "it changed when it was filled");
    let bytes: u64 = number(&shown(&pair.mirror)?, "/bytes")?;
    ensure!(bytes == 0, "{bytes} bytes of segments stay");

    // A journal of a mirror that takes over can still be opened.
    let set = ["point", "journal", "set", GROUP, "--window", "1h"];
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    pair.primary.cli(&set)?;
    await_writing(&pair.mirror)?;
    let newest = text(&shown(&pair.mirror)?, "/newest")?;
    pair.primary.kill()?;
    let plan = pair.mirror.wait_for(&["failover", "plan", GROUP], SOON, |plan| {
        plan.pointer("/token").is_some_and(Value::is_string)
    })?;
    let token = text(&plan, "/token")?;
    pair.mirror.cli(&["failover", "run", GROUP, "--token", &token])?;
    ensure!(shown(&pair.mirror)?["state"] == "primary");
    ensure!(open(&pair.mirror, "after", &newest)? == acknowledged, "all was acknowledged by then");
    Ok(())
}

#[test]
fn a_journal_that_makes_no_sense_is_refused() -> Result<()> {
    let pair = Pair::mirrored("8MiB")?;
    let set = |more: &[&'static str]| [&["point", "journal", "set", "orders"], more].concat();
    expect(&pair.primary, &set(&["--window", "5s"]), 2, "GW0471")?;
    expect(&pair.primary, &set(&["--window", "1h", "--bytes", "1MiB"]), 2, "GW0471")?;
    pair.primary.cli(&["session", "set", "orders", "--mode", "stack"])?;
    expect(&pair.primary, &set(&["--window", "1h"]), 2, "GW0471")?;
    let at = ["volume", "create", "x", "--from-group", "orders", "--at", "yesterday"];
    expect(&pair.mirror, &at, 2, "")?;
    Ok(())
}
