//! Groups of several volumes: one point in time over all of them, and members that come and go.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use serde_json::Value;

use crate::chain::{Chain, Plan, read_front};
use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, await_group, number, read_copy, serves, text};
use crate::random::Random;
use crate::records::{Journal, Load, random_file};

/// The group.
const GROUP: &str = "books";

/// How often the link is cut: `TWINSPAN_CUTS`, or 5.
fn cuts() -> u64 {
    let set = std::env::var("TWINSPAN_CUTS").ok().and_then(|text| text.parse().ok());
    set.unwrap_or(5)
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("book-{index:02}")).collect()
}

/// Makes volumes and a group of them.
fn make_group(site: &Site, names: &[String], size: &str) -> Result<Value> {
    for name in names {
        site.cli(&["volume", "create", name, "--size", size])?;
    }
    let mut arguments = vec!["group", "create", GROUP];
    names.iter().for_each(|name| arguments.extend(["--volume", name.as_str()]));
    site.cli(&arguments)
}

/// The group at a site.
fn shown(site: &Site, group: &str) -> Result<Value> {
    let answer = site.ask(&["group", "show", group])?;
    ensure!(answer.json.is_object(), "group show ended with {}\n{}", answer.code, answer.text);
    Ok(answer.json)
}

fn members(group: &Value) -> Vec<String> {
    let volumes = group.pointer("/volumes").and_then(Value::as_array);
    let names = volumes.into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

/// The mirror lost the primary and will get nothing more of it.
fn await_silence(mirror: &Site) -> Result<()> {
    wait_for("the end of the link", SOON, || {
        let group = shown(mirror, GROUP)?;
        let link = group.pointer("/upstream/link").and_then(Value::as_str);
        ensure!(link == Some("off"), "the link is {link:?}");
        Ok(())
    })
}

/// The copies of all volumes at a site, whatever its role, up to the end of the records.
fn copies(site: &Site, names: &[String], plan: Plan) -> Result<Vec<Vec<u8>>> {
    let read = |name: &String| -> Result<Vec<u8>> {
        let file = format!("{name}.copy");
        let path = read_copy(site, name, &file)?;
        let mut content = std::fs::read(&path).context("read the copy")?;
        std::fs::remove_file(&path).context("remove the copy")?;
        content.truncate(usize::try_from(plan.bytes())?);
        Ok(content)
    };
    names.iter().map(read).collect()
}

fn digest_of(site: &Site, volume: &str) -> Result<String> {
    text(&site.cli(&["volume", "digest", volume])?, "/digest")
}

fn are_identical(pair: &Pair, names: &[&str]) -> Result<()> {
    for name in names {
        let digests = [digest_of(&pair.primary, name)?, digest_of(&pair.mirror, name)?];
        ensure!(digests[0] == digests[1], "the copies of {name} differ: {digests:?}");
    }
    Ok(())
}

#[test]
fn group_of_sixteen_volumes_opens_at_one_point_in_write_order() -> Result<()> {
    let plan = Plan { volumes: 16, writers: 4, slots: 128 };
    let names = names(16);
    let mut pair = Pair::joined_by_relay()?;
    let made = make_group(&pair.primary, &names, "4MiB")?;
    ensure!(members(&made) == names, "the group is {made:#}");
    pair.primary.mirror(GROUP, &pair.mirror)?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let sessions = pair.primary.cli(&["session", "list"])?;
    ensure!(sessions["items"].as_array().map(Vec::len) == Some(16), "a session for each volume");

    let mut random = Random::new(16);
    let chain = Chain::start(plan, &pair.primary.nbd_socket(), &names, &[0; 4])?;
    let cuts = cuts();
    let mut apart = Vec::new();
    for cut in 1..=cuts {
        chain.await_more(random.within(50..400), SYNC_LIMIT)?;
        let before = chain.acknowledged();
        pair.cut();
        await_silence(&pair.mirror)?;
        let found = if cut < cuts {
            plan.check(&copies(&pair.mirror, &names, plan)?)
        } else {
            // The last time hosts read what an operator promoted.
            let planned = pair.mirror.wait_for(&["failover", "plan", GROUP], SOON, |plan| {
                plan.pointer("/token").is_some_and(Value::is_string)
            })?;
            let token = text(&planned, "/token")?;
            pair.mirror.cli(&["failover", "run", GROUP, "--token", &token])?;
            let socket = pair.mirror.nbd_socket();
            let fronts = names.iter().map(|name| read_front(&socket, name, plan.bytes()));
            plan.check(&fronts.collect::<Result<Vec<_>>>()?)
        };
        let found = found.with_context(|| format!("cut {cut}"))?;
        let kept = found.iter().zip(&before).all(|(found, before)| found >= before);
        ensure!(kept, "cut {cut}: {before:?} were acknowledged, {found:?} are there");
        apart.push(found);
        if cut < cuts {
            // The primary went on alone meanwhile.
            chain.await_more(20, SYNC_LIMIT)?;
            pair.mend();
            pair.primary.wait_equivalent(SYNC_LIMIT)?;
        }
    }
    let acknowledged = chain.end()?;
    println!("{cuts} cuts, records {acknowledged:?}; the mirror stopped at {apart:?}");

    // The old primary is brought back as a mirror, and everything is the same again.
    pair.mend();
    pair.swap();
    pair.primary.cli(&["reprotect", GROUP, "--discard", "--wait"])?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    are_identical(&pair, &names)
}

/// At every cut of the link the mirror is promoted: it opens at one point of the writers' order, over
/// all volumes, and the site that went on meanwhile becomes its mirror by delta.
#[test]
fn group_of_sixteen_volumes_that_follows_behind_opens_at_one_whole_cut() -> Result<()> {
    let plan = Plan { volumes: 16, writers: 4, slots: 128 };
    let names = names(16);
    let mut pair = Pair::joined_by_relay()?;
    make_group(&pair.primary, &names, "4MiB")?;
    let to = pair.mirror.name().to_owned();
    let mode = ["--mode", "consistency", "--cut-interval", "100ms", "--wait"];
    pair.primary.cli(&[&["session", "create", GROUP, "--to", &to][..], &mode].concat())?;

    let mut random = Random::new(61);
    let mut held = vec![0; 4];
    let mut moved = 0;
    for cut in 1..=cuts() {
        let chain = Chain::start(plan, &pair.primary.nbd_socket(), &names, &held)?;
        chain.await_more(random.within(500..4_000), SYNC_LIMIT)?;
        pair.cut();
        // Hosts never wait for a mirror that follows behind.
        chain.await_more(20, SYNC_LIMIT)?;
        await_silence(&pair.mirror)?;
        let acknowledged = chain.end()?;
        promote_outdated(&pair.mirror)?;
        let socket = pair.mirror.nbd_socket();
        let fronts = names.iter().map(|name| read_front(&socket, name, plan.bytes()));
        let found = plan.check(&fronts.collect::<Result<Vec<_>>>()?);
        let found = found.with_context(|| format!("cut {cut}"))?;
        let whole = found.iter().zip(&acknowledged).all(|(found, newest)| *found <= newest + 1);
        ensure!(whole, "cut {cut}: {found:?} are there, {acknowledged:?} were acknowledged");
        let went_back = found.iter().zip(&held).all(|(found, before)| found >= before);
        ensure!(went_back, "cut {cut}: {found:?} are there, {held:?} were at the last cut");
        println!("cut {cut}: {acknowledged:?} were acknowledged, {found:?} are at the mirror");
        moved += u64::from(found != held);
        held = found;

        pair.mend();
        pair.swap();
        pair.primary.cli(&["reprotect", GROUP, "--discard"])?;
        wait_for("a first cut", SYNC_LIMIT, || {
            let session = pair.primary.cli(&["session", "show", "book-00"])?;
            let phase = text(&session, "/leg/phase")?;
            ensure!(phase == "following" || phase == "equivalent", "{phase}");
            ensure!(text(&session, "/resync_kind")? == "delta", "{session:#}");
            Ok(())
        })?;
        // Many whole cuts between two of the link.
        pair.primary.cli(&["session", "set", GROUP, "--cut-interval", "100ms"])?;
    }
    ensure!(moved >= 2, "the mirror was found at {moved} different points");
    Ok(())
}

/// Promotes a copy that is known to lack the newest writes.
fn promote_outdated(site: &Site) -> Result<()> {
    let command = ["failover", "plan", GROUP, "--accept", "outdated"];
    let planned =
        site.wait_for(&command, SOON, |plan| plan.pointer("/token").is_some_and(Value::is_string))?;
    let token = text(&planned, "/token")?;
    site.cli(&["failover", "run", GROUP, "--token", &token])?;
    Ok(())
}

/// How each volume's session was brought up to date last: kind and bytes.
fn copied(site: &Site, volume: &str) -> Result<(String, u64)> {
    let session = site.cli(&["session", "show", volume])?;
    Ok((text(&session, "/resync_kind")?, number(&session, "/resync_total_bytes")?))
}

/// Waits until a site's group has these volumes.
fn await_members(site: &Site, wanted: &[&str]) -> Result<()> {
    wait_for("the members", SOON, || {
        let found = members(&shown(site, GROUP)?);
        ensure!(found == wanted, "{} has {found:?}", site.name());
        Ok(())
    })
}

#[test]
fn a_volume_joins_and_leaves_a_mirrored_group_while_hosts_write() -> Result<()> {
    let mut pair = Pair::joined()?;
    let names = names(2);
    make_group(&pair.primary, &names, "64MiB")?;
    pair.primary.mirror(GROUP, &pair.mirror)?;
    // What would show if it was copied again.
    let ballast = random_file(&pair.dir.path().join("ballast"), 24 << 20, 5)?;
    let command = format!("write -s {} 32M 24M", ballast.display());
    let uri = pair.primary.nbd_unix(&names[0]);
    harness::Tool::new("qemu-io").args(["-f", "raw", "-c", &command, "-c", "flush", &uri]).run()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;

    let journal = Journal::new(0, 0, 2, 512);
    let load = Load::start(&journal, &pair.primary.nbd_socket(), &names[0])?;
    load.await_more(100, SOON)?;

    // A new volume joins.
    let made = ["volume", "create", "ledger", "--size", "16MiB", "--group", GROUP];
    pair.primary.cli(&made)?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    await_members(&pair.mirror, &["book-00", "book-01", "ledger"])?;
    let (kind, bytes) = copied(&pair.primary, "book-00")?;
    ensure!(kind == "delta" && bytes < 8 << 20, "{kind}, {bytes} bytes of the one that was there");
    let (kind, bytes) = copied(&pair.primary, "ledger")?;
    ensure!(kind == "full" && bytes == 0, "{kind}, {bytes} bytes of the empty one");
    load.await_more(100, SOON)?;

    // One with content leaves, and is an old copy at the mirror.
    let command = "write -P 0x5a 0 1M";
    let uri = pair.primary.nbd_unix("book-01");
    harness::Tool::new("qemu-io").args(["-f", "raw", "-c", command, "-c", "flush", &uri]).run()?;
    pair.primary.cli(&["group", "remove", GROUP, "book-01"])?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    await_members(&pair.mirror, &["book-00", "ledger"])?;
    let own = shown(&pair.primary, "book-01")?;
    ensure!(serves(&own), "it is served in a group of its own: {own:#}");
    let old = shown(&pair.mirror, "book-01")?;
    ensure!(text(&old, "/quality")? == "outdated", "the copy at the mirror is kept: {old:#}");
    are_identical(&pair, &["book-01"])?;
    load.await_more(100, SOON)?;

    // It joins again, and its copy there is taken over.
    pair.primary.cli(&["group", "add", GROUP, "book-01"])?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    await_members(&pair.mirror, &["book-00", "ledger", "book-01"])?;
    let (kind, bytes) = copied(&pair.primary, "book-01")?;
    ensure!(kind == "full" && bytes == 1 << 20, "{kind}, {bytes} bytes");
    load.end()?.is_undisturbed()?;
    are_identical(&pair, &["book-00", "book-01", "ledger"])?;

    // The group is one at the other site too.
    pair.primary.cli(&["session", "reverse", GROUP])?;
    pair.swap();
    wait_for("the new primary", SOON, || {
        let group = shown(&pair.primary, GROUP)?;
        ensure!(serves(&group), "{group:#}");
        Ok(())
    })?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    journal.is_intact(&pair.primary.nbd_socket(), "book-00")?;
    are_identical(&pair, &["book-00", "book-01", "ledger"])
}

#[test]
fn members_that_changed_while_the_mirror_was_away_follow_when_it_is_back() -> Result<()> {
    let mut pair = Pair::joined()?;
    let names = names(3);
    make_group(&pair.primary, &names, "8MiB")?;
    pair.primary.mirror(GROUP, &pair.mirror)?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    pair.mirror.kill()?;
    // Right after the change the primary dies too: it was recorded, or it never was.
    pair.primary.cli(&["group", "remove", GROUP, "book-01"])?;
    pair.primary.kill()?;
    pair.primary.start()?;
    pair.primary.cli(&["session", "suspend", GROUP]).map(drop).or_else(|_| {
        // Nobody may be waited for: then there is nothing to be suspended.
        pair.primary.cli(&["session", "list"]).map(drop)
    })?;
    await_members(&pair.primary, &["book-00", "book-02"])?;
    pair.primary.cli(&["volume", "create", "ledger", "--size", "8MiB", "--group", GROUP])?;
    let uri = pair.primary.nbd_unix("ledger");
    let command = "write -P 0x11 1M 1M";
    harness::Tool::new("qemu-io").args(["-f", "raw", "-c", command, "-c", "flush", &uri]).run()?;
    pair.primary.kill()?;
    pair.primary.start()?;
    pair.mirror.start()?;
    pair.primary.cli(&["session", "resume", GROUP])?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    await_members(&pair.mirror, &["book-00", "book-02", "ledger"])?;
    are_identical(&pair, &["book-00", "book-02", "ledger"])?;
    // The old copy of the one that left is the mirror's to delete.
    pair.mirror.ask(&["volume", "delete", "book-01"])?;
    let left = pair.mirror.ask(&["volume", "show", "book-01"])?;
    ensure!(left.code != 0, "it is deleted: {}", left.text);
    Ok(())
}

#[test]
fn what_does_not_fit_a_group_is_refused_by_name() -> Result<()> {
    let pair = Pair::joined()?;
    let east = &pair.primary;
    let names = names(2);
    make_group(east, &names, "8MiB")?;
    east.cli(&["volume", "create", "alone", "--size", "8MiB"])?;
    let refused = |arguments: &[&str], code: &str| -> Result<()> {
        let answer = east.ask(arguments)?;
        let said = answer.text.contains(code);
        ensure!(answer.code != 0 && said, "{arguments:?}: {} {}", answer.code, answer.text);
        Ok(())
    };
    refused(&["group", "create", GROUP, "--volume", "alone"], "GW0205")?;
    refused(&["group", "create", "other", "--volume", "book-00"], "GW0422")?;
    refused(&["group", "create", "other", "--volume", "nobody"], "GW0204")?;
    refused(&["group", "create", "other", "--volume", "alone", "--volume", "alone"], "GW0203")?;
    refused(&["group", "remove", "alone", "alone"], "GW0423")?;
    refused(&["group", "delete", "alone"], "GW0423")?;
    refused(&["volume", "delete", "book-00"], "GW0422")?;
    east.mirror("alone", &pair.mirror)?;
    refused(&["group", "add", GROUP, "alone"], "GW0302")?;
    east.mirror(GROUP, &pair.mirror)?;
    refused(&["group", "delete", GROUP], "GW0302")?;
    refused(&["session", "delete", "book-01:west"], "GW0422")?;
    let attached = crate::records::attach(&east.nbd_socket(), "book-01")?;
    refused(&["group", "remove", GROUP, "book-01"], "GW0302")?;
    drop(attached);
    let deleted = east.ask(&["session", "delete", &format!("{GROUP}:west")])?;
    ensure!(deleted.code == 0, "{}", deleted.text);
    wait_for("the end of the host", SOON, || {
        let deleted = east.ask(&["group", "delete", GROUP])?;
        ensure!(deleted.code == 0, "{}", deleted.text);
        Ok(())
    })?;
    for name in &names {
        ensure!(members(&shown(east, name)?) == [name.clone()], "{name} has a group of its own");
    }
    Ok(())
}

#[test]
fn rec_23_what_a_group_left_behind_is_removed_at_the_mirror_and_rec_25_goes_with_its_session()
-> Result<()> {
    let pair = Pair::joined()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let names = names(2);
    make_group(east, &names, "8MiB")?;
    east.mirror(GROUP, west)?;
    east.wait_equivalent(SOON)?;
    let half = ["session", "delete", GROUP, "--half"];
    let refused = west.ask(&half)?;
    ensure!(refused.code != 0 && refused.text.contains("GW0302"), "{}", refused.text);
    let deleted = east.ask(&["session", "delete", &format!("{GROUP}:west")])?;
    ensure!(deleted.code == 0, "{}", deleted.text);
    let listed = west.cli(&["session", "list"])?;
    ensure!(listed["mirrored_here"][0]["name"] == GROUP, "{listed:#}");
    wait_for("the end of the half", SOON, || {
        let freed = west.ask(&half)?;
        ensure!(freed.code == 0, "{}", freed.text);
        Ok(())
    })?;
    let own = shown(west, GROUP)?;
    ensure!(members(&own) == names && text(&own, "/role")? == "primary", "{own:#}");

    east.cli(&["volume", "create", "alone", "--size", "8MiB"])?;
    east.mirror("alone", west)?;
    east.wait_equivalent(SOON)?;
    let deleted = east.ask(&["session", "delete", "alone:west", "--with-volume"])?;
    ensure!(deleted.code == 0, "{}", deleted.text);
    let gone = west.ask(&["volume", "show", "alone"])?;
    ensure!(gone.text.contains("GW0204"), "{}", gone.text);
    ensure!(members(&shown(east, "alone")?) == ["alone".to_owned()], "the source stays");
    Ok(())
}

/// One way of the link: longer than a few questions to the mirror take.
const ONE_WAY: Duration = Duration::from_millis(1_500);

#[test]
fn a_handover_that_is_never_answered_is_ended_by_a_word() -> Result<()> {
    let mut pair = Pair::relayed("16MiB")?;
    pair.network.iter().for_each(|relay| relay.delay(ONE_WAY));
    std::thread::scope(|scope| -> Result<()> {
        let reverse = scope.spawn(|| pair.primary.ask(&["session", "reverse", VOLUME]));
        // The mirror took over; its answer is on its way for as long as the link is long.
        await_group(&pair.mirror, "the take-over", SYNC_LIMIT, |group| {
            group.pointer("/role").and_then(Value::as_str) == Some("primary")
        })?;
        pair.cut();
        let answer = reverse.join().ok().context("the command panicked")??;
        ensure!(answer.code != 0, "nobody answered: {}", answer.text);
        Ok(())
    })?;
    let waits =
        await_group(&pair.primary, "GW0621", SOON, |group| group.to_string().contains("GW0621"))?;
    ensure!(text(&waits, "/serving")? == "handing_over", "{waits:#}");
    let blocked = pair.primary.ask(&["failover", "plan", VOLUME])?;
    ensure!(blocked.code == 7 && blocked.json["token"].is_null(), "{}", blocked.text);
    let plan = pair.primary.cli(&["failover", "plan", VOLUME, "--accept", "outdated"])?;
    ensure!(plan.to_string().contains("was asked to take over at epoch 2"), "{plan:#}");
    ensure!(plan["at_risk_bytes"].is_null(), "nobody here knows: {plan:#}");
    let token = text(&plan, "/token")?;
    pair.primary.cli(&["failover", "run", VOLUME, "--token", &token])?;
    await_group(&pair.primary, "service", SOON, |group| {
        serves(group) && group.pointer("/epoch").and_then(Value::as_u64) == Some(3)
    })?;
    let uri = pair.primary.nbd_unix(VOLUME);
    let write = ["-f", "raw", "-c", "write -P 7 0 64k", "-c", "flush", &uri];
    harness::Tool::new("qemu-io").args(write).run()?;

    // Both sites served for a while: the lower epoch ends by itself, and it is told.
    pair.network.iter().for_each(|relay| relay.delay(Duration::ZERO));
    pair.mend();
    await_group(&pair.mirror, "the fence", SYNC_LIMIT, |group| {
        group.pointer("/role").and_then(Value::as_str) != Some("primary")
    })?;
    await_group(&pair.primary, "the split brain", SYNC_LIMIT, |group| {
        group.pointer("/health").and_then(Value::as_str) == Some("split_brain")
    })?;
    pair.primary.cli(&["reprotect", VOLUME, "--discard", "--wait"])?;
    pair.is_identical()?;
    pair.primary.stop()?;
    pair.mirror.stop()
}
