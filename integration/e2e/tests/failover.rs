//! Sites are killed and links are cut under load: what was acknowledged is counted afterwards.
//!
//! Each kind of fault is tried `TWINSPAN_KILLS` times on one pair of sites, after a random number
//! of records, so that it falls between any two of them.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Deadline, Direction, Site, Tool, wait_for};
use serde_json::Value;

use crate::pair::{
    Pair, SOON, SYNC_LIMIT, VOLUME, await_group, digest, fail_over, group, number, serves, text,
};
use crate::random::{Random, rounds};
use crate::records::{Journal, Load, attach, random_file};

/// The volume, most of which the writers do not touch: a copy in full shows.
const SIZE: &str = "128MiB";
/// What lies beside the records, and would be copied again by a copy in full.
const BALLAST_BYTES: u64 = 64 << 20;
/// Where it begins.
const BALLAST_AT: u64 = 48 << 20;
/// Writers, and blocks of each: 16 MiB, far from the ballast.
const WRITERS: u32 = 4;
const BLOCKS: u64 = 1024;
/// What a resynchronisation may copy: the writers' region, whole.
const DIFFERENCE_MAX: u64 = 16 << 20;
/// What the copies can differ by when both sites are killed at once: one record of each writer.
const UNDER_WAY_MAX: u64 = (WRITERS as u64 * 8) << 12;
/// Hosts wait no longer than this when a mirror or a link is lost: its heartbeats are missed, or
/// its deadline of 8 s passes.
const STALL_MAX: Duration = Duration::from_secs(10);

/// The records of the writers of one round of a kind.
fn journal() -> Journal {
    Journal::new(0, 0, WRITERS, BLOCKS)
}

/// Fills a part of the volume, and lets both sites forget in good order that it is recent: what was
/// touched since may differ after a crash.
fn ballast(pair: &mut Pair) -> Result<()> {
    let file = random_file(&pair.dir.path().join("ballast"), BALLAST_BYTES, 5)?;
    let copy = format!("write -s {} {BALLAST_AT} {BALLAST_BYTES}", file.display());
    let uri = pair.primary.nbd_unix(VOLUME);
    Tool::new("qemu-io").args(["-f", "raw", "-c", &copy, "-c", "flush", &uri]).run()?;
    for site in [&mut pair.primary, &mut pair.mirror] {
        site.stop()?;
        site.start()?;
    }
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    Ok(())
}

fn start(pair: &Pair, journal: &Journal) -> Result<Load> {
    Load::start(journal, &pair.primary.nbd_socket(), VOLUME)
}

/// Work that a fault interrupts.
fn work(pair: &Pair, journal: &Journal, random: &mut Random) -> Result<Load> {
    let load = start(pair, journal)?;
    load.await_more(random.within(50..800), SOON)?;
    Ok(load)
}

/// The last copy of the session at this source: how it was done, and how much it moved.
fn last_copy(source: &Site) -> Result<(String, u64)> {
    let session = source.ask(&["session", "show", VOLUME])?.json;
    let (copied, total) =
        (number(&session, "/resync_copied_bytes")?, number(&session, "/resync_total_bytes")?);
    ensure!(copied <= total, "more was copied than there was: {session:#}");
    Ok((text(&session, "/resync_kind")?, copied))
}

/// Bytes that a gateway sent to resynchronise mirrors, whatever the session says of it.
fn resync_bytes_sent(site: &Site) -> Result<u64> {
    let page = site.metrics()?;
    let series = page.lines().filter(|line| {
        line.starts_with("twinspan_leg_sent_bytes_total{") && line.contains("class=\"resync\"")
    });
    let values = series.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<u64>());
    values.sum::<Result<u64, _>>().context("a counter is no number")
}

/// Only the difference was copied, and both copies are the same; how much it was.
fn is_resynchronised(pair: &Pair) -> Result<u64> {
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let (kind, bytes) = last_copy(&pair.primary)?;
    ensure!(kind == "delta", "it was copied in full: {bytes} bytes");
    ensure!(bytes <= DIFFERENCE_MAX, "{bytes} bytes were copied, {DIFFERENCE_MAX} can differ");
    pair.is_identical()?;
    Ok(bytes)
}

/// The site says that it is fenced and by what, and nobody attaches there.
fn is_fenced(site: &Site) -> Result<()> {
    let group = await_group(site, "the fence", SOON, |group| {
        group.pointer("/role").and_then(Value::as_str) == Some("fenced")
    })?;
    let epoch = number(&group, "/epoch")?;
    let explained = group.pointer("/explanations").and_then(Value::as_array);
    let cause = explained.into_iter().flatten().find(|one| one["code"] == "GW0410");
    let cause = cause.with_context(|| format!("it does not say GW0410: {group:#}"))?;
    let cause = text(cause, "/cause")?;
    ensure!(cause.contains(&format!("epoch {epoch} is fenced by")), "the cause is {cause:?}");
    is_refused(site)
}

/// Nobody attaches the volume there.
fn is_refused(site: &Site) -> Result<()> {
    ensure!(attach(&site.nbd_socket(), VOLUME).is_err(), "{} serves hosts", site.name());
    let (code, text) = Tool::new("nbdinfo").arg(site.nbd(VOLUME)).code()?;
    ensure!(code != 0, "{} serves hosts:\n{text}", site.name());
    Ok(())
}

fn exit_code(site: &Site) -> Result<i32> {
    Ok(site.ask(&["status"])?.code)
}

#[test]
fn a_killed_primary_loses_nothing_and_its_return_costs_the_difference() -> Result<()> {
    let mut random = Random::announced("killed primary")?;
    let mut pair = Pair::mirrored(SIZE)?;
    ballast(&mut pair)?;
    let journal = journal();
    for round in 0..rounds()? {
        let load = work(&pair, &journal, &mut random)?;
        pair.primary.kill()?;
        let clock = Deadline::after(Duration::ZERO);
        load.await_end(SOON)?;
        let done = load.end()?;
        done.is_dropped()?;
        let plan = fail_over(&pair.mirror)?;
        ensure!(plan["needs_none_of"][0] == pair.primary.name(), "the plan is {plan:#}");
        let found = journal.is_intact(&pair.mirror.nbd_socket(), VOLUME)?;
        let served_after = clock.elapsed();
        ensure!(exit_code(&pair.mirror)? == 4, "one copy is at risk");

        pair.swap();
        let alone = start(&pair, &journal)?;
        alone.await_more(100, SOON)?;
        pair.mirror.start()?;
        is_fenced(&pair.mirror)?;
        let alone = alone.end()?;
        alone.is_undisturbed()?;
        is_refused(&pair.mirror)?;
        let sent_before = resync_bytes_sent(&pair.primary)?;
        pair.primary.cli(&["reprotect", VOLUME, "--wait"])?;
        let bytes = is_resynchronised(&pair)?;
        // Counted with the next heartbeat.
        let sent = wait_for("the counter", SOON, || {
            let sent = resync_bytes_sent(&pair.primary)? - sent_before;
            ensure!(sent >= bytes / 10 * 9, "{sent} of {bytes}");
            Ok(sent)
        })?;
        ensure!(sent <= bytes + bytes / 4 + (1 << 20), "{sent} bytes were sent for {bytes}");
        journal.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
        ensure!(exit_code(&pair.primary)? == 0, "both copies are there");
        println!(
            "round {round}: {} records; {found:?}; served and verified after {served_after:?}; \
             {} records alone; {bytes} bytes resynchronised, {sent} sent for it",
            done.records, alone.records
        );
    }
    Ok(())
}

#[test]
fn a_killed_mirror_does_not_stop_hosts_and_comes_back_by_itself() -> Result<()> {
    let mut random = Random::announced("killed mirror")?;
    let mut pair = Pair::mirrored(SIZE)?;
    ballast(&mut pair)?;
    let journal = journal();
    for round in 0..rounds()? {
        let load = work(&pair, &journal, &mut random)?;
        pair.mirror.kill()?;
        load.await_more(random.within(20..400), SOON)?;
        ensure!(exit_code(&pair.primary)? == 4, "one copy is at risk");
        pair.mirror.start()?;
        pair.primary.wait_equivalent(SYNC_LIMIT)?;
        load.await_more(20, SOON)?;
        let done = load.end()?;
        done.is_undisturbed()?;
        ensure!(done.slowest < STALL_MAX, "a host waited for {:?}", done.slowest);
        let bytes = is_resynchronised(&pair)?;
        let found = journal.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
        println!(
            "round {round}: {} records, the slowest {:?}; {found:?}; {bytes} bytes resynchronised",
            done.records, done.slowest
        );
    }
    Ok(())
}

/// What happens to the link.
fn damage(pair: &Pair, round: u64, random: &mut Random) -> &'static str {
    if round.is_multiple_of(2) {
        pair.cut();
        return "connections end";
    }
    let (direction, what) = if random.coin() {
        (Direction::Forth, "what is sent is swallowed")
    } else {
        (Direction::Back, "what is answered is swallowed")
    };
    for relay in &pair.network {
        relay.blackhole(direction);
    }
    what
}

#[test]
fn a_cut_link_does_not_stop_hosts_and_heals_by_itself() -> Result<()> {
    let mut random = Random::announced("cut link")?;
    let mut pair = Pair::relayed(SIZE)?;
    ballast(&mut pair)?;
    let journal = journal();
    for round in 0..rounds()? {
        let load = work(&pair, &journal, &mut random)?;
        let what = damage(&pair, round, &mut random);
        wait_for("the loss to be seen", SOON, || {
            ensure!(exit_code(&pair.primary)? == 4, "the status is not at risk");
            Ok(())
        })?;
        load.await_more(random.within(20..400), SOON)?;
        pair.mend();
        pair.primary.wait_equivalent(SYNC_LIMIT)?;
        load.await_more(20, SOON)?;
        let done = load.end()?;
        done.is_undisturbed()?;
        ensure!(done.slowest < STALL_MAX, "a host waited for {:?}", done.slowest);
        let bytes = is_resynchronised(&pair)?;
        let found = journal.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
        println!(
            "round {round}: {what}; {} records, the slowest {:?}; {found:?}; \
             {bytes} bytes resynchronised",
            done.records, done.slowest
        );
    }
    Ok(())
}

#[test]
fn a_failover_during_a_cut_fences_the_old_primary_which_lives_on() -> Result<()> {
    let mut random = Random::announced("split")?;
    let mut pair = Pair::relayed(SIZE)?;
    ballast(&mut pair)?;
    // What the sites write apart from each other lies apart, so that each can be looked at.
    let mut old = Journal::new(0, 0, WRITERS, BLOCKS / 2);
    let new = Journal::new(WRITERS, BLOCKS / 2 * u64::from(WRITERS), WRITERS, BLOCKS / 2);
    for round in 0..rounds()? {
        let before = work(&pair, &old, &mut random)?;
        // What is acknowledged until here is on both copies.
        let agreed = old.snapshot();
        pair.cut();
        // The old primary goes on alone: it cannot know what is being decided at the other site.
        before.await_more(random.within(50..300), SOON)?;
        let plan = fail_over(&pair.mirror)?;
        ensure!(plan["at_risk_bytes"].is_null(), "it cannot know what is at risk: {plan:#}");
        agreed.permit(&old);
        let found = agreed.is_intact(&pair.mirror.nbd_socket(), VOLUME)?;
        pair.swap();
        let after = start(&pair, &new)?;
        after.await_more(50, SOON)?;
        before.await_more(1, SOON)?;

        pair.mend();
        let clock = Deadline::after(Duration::ZERO);
        before.await_end(SOON)?;
        let fenced_after = clock.elapsed();
        let before = before.end()?;
        before.is_dropped()?;
        is_fenced(&pair.mirror)?;
        is_refused_without_a_word(&pair)?;
        let after = after.end()?;
        after.is_undisturbed()?;
        let plan = pair.primary.cli(&["reprotect", VOLUME, "--discard", "--dry-run"])?;
        ensure!(number(&plan, "/at_risk_bytes")? > 0, "{plan:#}");
        let token = text(&plan, "/token")?;
        pair.primary.cli(&["reprotect", VOLUME, "--token", &token, "--wait"])?;
        let bytes = is_resynchronised(&pair)?;
        agreed.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
        new.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
        println!(
            "round {round}: {} records at the old primary, {} at the new one; {found:?}; hosts of \
             the old one dropped {fenced_after:?} after the link was back; {bytes} bytes \
             resynchronised",
            before.records, after.records
        );
        agreed.go_on_after(&old);
        old = agreed;
    }
    Ok(())
}

#[test]
fn a_failover_during_a_cut_discards_nothing_if_nothing_was_written_apart() -> Result<()> {
    let mut random = Random::announced("split without writes")?;
    let mut pair = Pair::relayed(SIZE)?;
    ballast(&mut pair)?;
    let journal = journal();
    let done = work(&pair, &journal, &mut random)?.end()?;
    done.is_undisturbed()?;
    let (mut host, _) = attach(&pair.primary.nbd_socket(), VOLUME)?;
    host.flush()?;
    pair.cut();
    fail_over(&pair.mirror)?;
    journal.is_intact(&pair.mirror.nbd_socket(), VOLUME)?;
    pair.swap();
    let alone = start(&pair, &journal)?;
    alone.await_more(50, SOON)?;
    pair.mend();
    is_fenced(&pair.mirror)?;
    ensure!(host.read(&mut [0; 4096]).is_err(), "the host of the old primary was kept");
    pair.primary.cli(&["reprotect", VOLUME, "--wait"])?;
    alone.end()?.is_undisturbed()?;
    let bytes = is_resynchronised(&pair)?;
    let found = journal.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
    println!("{} records; {found:?}; {bytes} bytes resynchronised", done.records);
    Ok(())
}

/// What only the old primary has is not overwritten before somebody says so.
fn is_refused_without_a_word(pair: &Pair) -> Result<()> {
    let kept = digest(&pair.mirror)?;
    let plan = pair.primary.cli(&["reprotect", VOLUME, "--dry-run"])?;
    ensure!(number(&plan, "/only_there_bytes")? > 0, "{plan:#}");
    ensure!(number(&plan, "/at_risk_bytes")? == 0, "nothing is overwritten so: {plan:#}");
    let refused = pair.primary.ask(&["reprotect", VOLUME, "--wait", "--timeout", "10s"])?;
    ensure!(
        refused.code == 7 && refused.text.contains("GW0408"),
        "reprotect without --discard ended with {}\n{}",
        refused.code,
        refused.text
    );
    ensure!(exit_code(&pair.primary)? == 5, "the status does not say split brain");
    ensure!(digest(&pair.mirror)? == kept, "it was overwritten without a word");
    Ok(())
}

#[test]
fn both_sites_killed_at_once_lose_nothing() -> Result<()> {
    let mut random = Random::announced("both killed")?;
    let mut pair = Pair::mirrored(SIZE)?;
    ballast(&mut pair)?;
    let journal = journal();
    for round in 0..rounds()? {
        let load = work(&pair, &journal, &mut random)?;
        let mirror_first = random.coin();
        if mirror_first {
            Site::kill_both(&mut pair.mirror, &mut pair.primary)?;
        } else {
            Site::kill_both(&mut pair.primary, &mut pair.mirror)?;
        }
        load.await_end(SOON)?;
        let done = load.end()?;
        done.is_dropped()?;
        if random.coin() {
            pair.primary.start()?;
            // The mirror could have been promoted, for all that the primary knows; unless it was
            // dead so much earlier that the primary had gone on without it.
            let group = group(&pair.primary)?;
            let alone = mirror_first && group["legs"][0]["in_sync"] == false;
            ensure!(alone || !serves(&group), "it serves before it heard its mirror: {group:#}");
            pair.mirror.start()?;
        } else {
            pair.mirror.start()?;
            pair.primary.start()?;
        }
        await_group(&pair.primary, "service", SOON, serves)?;
        let found = journal.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
        let bytes = is_resynchronised(&pair)?;
        ensure!(bytes <= UNDER_WAY_MAX, "{bytes} bytes were copied, {UNDER_WAY_MAX} can differ");
        println!(
            "round {round}: {} records; {found:?}; {bytes} bytes resynchronised",
            done.records
        );
    }
    Ok(())
}

#[test]
fn a_planned_reverse_under_load_loses_nothing() -> Result<()> {
    let mut random = Random::announced("reverse")?;
    let mut pair = Pair::mirrored(SIZE)?;
    ballast(&mut pair)?;
    let journal = journal();
    for round in 0..rounds()? {
        let load = work(&pair, &journal, &mut random)?;
        let clock = Deadline::after(Duration::ZERO);
        pair.primary.cli(&["session", "reverse", VOLUME])?;
        load.await_end(SOON)?;
        let done = load.end()?;
        is_refused(&pair.primary)?;
        pair.swap();
        await_group(&pair.primary, "service", SOON, serves)?;
        let served_after = clock.elapsed();
        let found = journal.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
        let load = start(&pair, &journal)?;
        load.await_more(50, SOON)?;
        pair.primary.wait_equivalent(SYNC_LIMIT)?;
        load.end()?.is_undisturbed()?;
        pair.is_identical()?;
        ensure!(exit_code(&pair.primary)? == 0, "both copies are there");
        println!(
            "round {round}: {} records; {found:?}; served at the other site after {served_after:?}",
            done.records
        );
    }
    Ok(())
}
