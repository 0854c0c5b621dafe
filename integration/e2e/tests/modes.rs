//! A mirror that follows behind, with real processes, pools and kills.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::wait_for;
use serde_json::Value;

use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, await_group, group, text};
use crate::records::{Journal, Load};

/// Writers, and blocks of each.
const WRITERS: u32 = 2;
const BLOCKS: u64 = 512;

fn session(pair: &Pair) -> Result<Value> {
    Ok(pair.primary.ask(&["session", "show", VOLUME])?.json)
}

/// The primary's site is lost under load: the mirror opens at a whole cut, the plan says what that
/// costs, and the old primary comes back by delta, with consent.
#[test]
fn consistency_fails_over_to_a_whole_cut() -> Result<()> {
    let mut pair = Pair::joined()?;
    pair.primary.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    let to = pair.mirror.name().to_owned();
    pair.primary.cli(&[
        "session",
        "create",
        VOLUME,
        "--to",
        &to,
        "--mode",
        "consistency",
        "--cut-interval",
        "200ms",
        "--wait",
    ])?;
    let shown = session(&pair)?;
    ensure!(text(&shown, "/leg/policy/mode")? == "consistency", "{shown:#}");
    let journal = Journal::new(0, 0, WRITERS, BLOCKS);
    let load = Load::start(&journal, &pair.primary.nbd_socket(), VOLUME)?;
    load.await_more(400, SOON)?;
    // It is told with a heartbeat, and a fast machine is here before the first.
    await_group(&pair.mirror, "word of how far it is behind", SOON, |group| {
        group.pointer("/rpo_seconds").is_some_and(Value::is_number)
    })?;
    pair.primary.kill()?;
    load.await_end(SOON)?;
    await_group(&pair.mirror, "the silence", SOON, |group| {
        group.pointer("/upstream/link").and_then(Value::as_str) != Some("connected")
    })?;
    let blocked = pair.mirror.ask(&["failover", "plan", VOLUME])?.json;
    ensure!(blocked.pointer("/token").is_none(), "it needs a word: {blocked:#}");
    let plan = pair.mirror.wait_for(
        &["failover", "plan", VOLUME, "--accept", "outdated"],
        SOON,
        |plan| plan.pointer("/token").is_some_and(Value::is_string),
    )?;
    let seconds = plan.pointer("/at_risk_seconds").and_then(Value::as_f64);
    ensure!(seconds.is_some_and(|s| s < 60.0), "the plan says what is lost: {plan:#}");
    let token = text(&plan, "/token")?;
    pair.mirror.cli(&["failover", "run", VOLUME, "--token", &token])?;
    pair.swap();
    // What is there is whole: nothing torn, nothing that was never written.
    let found = journal.verify(&pair.primary.nbd_socket(), VOLUME)?;
    ensure!(found.torn == 0 && found.invented == 0, "{found:?}");
    pair.mirror.start()?;
    wait_for("the old primary as a mirror", SYNC_LIMIT, || {
        pair.primary.cli(&["reprotect", VOLUME, "--discard"]).map(drop)
    })?;
    wait_for("a first cut", SYNC_LIMIT, || {
        let shown = session(&pair)?;
        let phase = text(&shown, "/leg/phase")?;
        ensure!(phase == "following" || phase == "equivalent", "{phase}");
        ensure!(text(&shown, "/resync_kind")? == "delta", "{shown:#}");
        Ok(())
    })?;
    let discarded = group(&pair.mirror)?;
    let kept = discarded.pointer("/discarded").and_then(Value::as_array).map(Vec::len);
    ensure!(kept <= Some(1), "at most what was given up is kept: {discarded:#}");
    Ok(())
}

/// The mode changes while hosts write, and both copies are the same at the end.
#[test]
fn modes_change_under_load_and_a_transfer_brings_the_rest() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let journal = Journal::new(0, 0, WRITERS, BLOCKS);
    let load = Load::start(&journal, &pair.primary.nbd_socket(), VOLUME)?;
    for mode in ["consistency", "stack", "consistency", "sync", "stack"] {
        load.await_more(50, SOON)?;
        // In the moment in which a mirror joins, it says that it is busy.
        wait_for("the mode", SOON, || {
            pair.primary.cli(&["session", "set", VOLUME, "--mode", mode]).map(drop)
        })?;
    }
    load.await_more(50, SOON)?;
    load.end()?.is_undisturbed()?;
    wait_for("the first transfer", SYNC_LIMIT, || {
        let phase = text(&session(&pair)?, "/leg/phase")?;
        ensure!(phase == "tracking", "{phase}");
        Ok(())
    })?;
    pair.primary.cli(&["session", "transfer", VOLUME, "--wait"])?;
    pair.primary.cli(&["session", "set", VOLUME, "--mode", "sync"])?;
    pair.primary.wait_equivalent(SYNC_LIMIT + Duration::from_secs(10))?;
    pair.is_identical()?;
    journal.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
    Ok(())
}
