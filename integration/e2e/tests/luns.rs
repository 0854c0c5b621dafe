//! Volumes of a group behind one iSCSI target, each with its number.

use anyhow::{Result, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::Value;
use tempfile::TempDir;

use crate::initiator::{GOOD, Initiator, UNIT_ATTENTION, UNITS_CHANGED, WRITE_PROTECTED};
use crate::iscsi::{OPEN, PREFIX, is_sent_away, served, two_sites};
use crate::pair::{SOON, expect, fail_over};

const DB: &str = "iqn.2026-01.com.example:db";

/// What libiscsi lists for an initiator: targets and their disks.
fn listed(port: u16, initiator: &str) -> Result<String> {
    let portal = format!("iscsi://127.0.0.1:{port}");
    Tool::new("iscsi-ls").args(["-s", "-i", initiator, &portal]).run()
}

fn disk(port: u16, target: &str, lun: u8) -> String {
    format!("iscsi://127.0.0.1:{port}/{PREFIX}:{target}/{lun}")
}

/// What qemu-io says of one command at a disk, and how it ended.
fn io(command: &str, image: &str) -> Result<(i32, String)> {
    Tool::new("qemu-io").args(["-t", "none", "-f", "raw", "-c", command, image]).code()
}

fn does(command: &str, image: &str) -> Result<()> {
    let (code, said) = io(command, image)?;
    ensure!(code == 0 && !said.contains("failed") && !said.contains("Pattern"), "{image}: {said}");
    Ok(())
}

/// A disk that cannot be read, for this reason.
fn fails(why: &str, image: &str) -> Result<()> {
    let (code, said) = io("read 0 4k", image)?;
    ensure!(code != 0 && said.contains(why), "{image}: {said}");
    Ok(())
}

/// The numbers that a listing shows of one target.
fn numbers(listing: &str, target: &str) -> Vec<String> {
    let name = format!("Target:{PREFIX}:{target} ");
    let of = listing.lines().skip_while(|line| !line.starts_with(&name)).skip(1);
    of.map_while(|line| line.trim_start().strip_prefix("Lun:"))
        .map(|lun| lun.split_whitespace().next().unwrap_or_default().to_owned())
        .collect()
}

/// A second volume of the group, and both at the group's target.
fn together(site: &Site, second: &str) -> Result<()> {
    site.cli(&["volume", "create", second, "--group", "orders", "--size", "32MiB"])?;
    site.cli(&["volume", "lun", "orders", "0"])?;
    site.cli(&["volume", "lun", second, "5"])?;
    Ok(())
}

#[test]
fn volumes_of_a_group_are_disks_of_one_target_and_each_initiator_sees_its_own() -> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = served(&dir, OPEN)?;
    together(&site, "log")?;
    site.cli(&["volume", "create", "apart", "--size", "8MiB"])?;
    let shown = site.cli(&["volume", "show", "log"])?;
    ensure!(shown["lun"] == 5, "{shown:#}");
    let uri = disk(port, "orders:group", 5);
    ensure!(shown["exports"].as_array().is_some_and(|all| all.contains(&Value::from(uri.clone()))));

    // Who may use both sees both, at no other target, and they are what they are over NBD.
    let all = listed(port, DB)?;
    ensure!(numbers(&all, "orders:group") == ["0", "5"], "{all}");
    ensure!(numbers(&all, "apart") == ["0"], "{all}");
    ensure!(!all.contains(&format!("Target:{PREFIX}:orders ")), "{all}");
    ensure!(!all.contains(&format!("Target:{PREFIX}:log ")), "{all}");
    does("write -P 0x10 1M 64k", &disk(port, "orders:group", 0))?;
    does("write -P 0x15 1M 64k", &uri)?;
    does("read -P 0x10 1M 64k", &site.nbd("orders"))?;
    does("read -P 0x15 1M 64k", &site.nbd("log"))?;
    fails("Target not found", &disk(port, "orders", 0))?;
    fails("LOGICAL_UNIT_NOT_SUPPORTED", &disk(port, "orders:group", 1))?;

    // The access list of each volume says who sees it: the numbers that an initiator has.
    site.cli(&["volume", "allow", "log", DB])?;
    let other = listed(port, "iqn.2026-01.com.example:web")?;
    ensure!(numbers(&other, "orders:group") == ["0"], "{other}");
    ensure!(numbers(&listed(port, DB)?, "orders:group") == ["0", "5"], "the one that it names");
    site.cli(&["volume", "allow", "orders", DB])?;
    ensure!(!listed(port, "iqn.2026-01.com.example:web")?.contains("orders"), "it sees none");

    // A number is one volume's, and stays while it is in use.
    site.cli(&["volume", "create", "more", "--group", "orders", "--size", "8MiB"])?;
    expect(&site, &["volume", "lun", "more", "5"], 7, "LUN 5")?;
    site.cli(&["volume", "allow", "log"])?;
    let host = Initiator::login(port, "db", &format!("{PREFIX}:orders:group"))?;
    expect(&site, &["volume", "lun", "log", "--none"], 7, "GW0302")?;
    drop(host);
    wait_for("the session to end", SOON, || site.cli(&["volume", "lun", "log", "--none"]))?;
    does("read -P 0x15 1M 64k", &disk(port, "log", 0))?;
    ensure!(numbers(&listed(port, DB)?, "orders:group") == ["0"], "the other one stays");

    // One that is logged in sees what is added, and a number is no reason to log out.
    let mut host = Initiator::login(port, "db", &format!("{PREFIX}:orders:group"))?;
    ensure!(host.write()? == GOOD, "it is served");
    site.cli(&["volume", "lun", "log", "5"])?;
    wait_for("the disk to be told", SOON, || {
        let told = host.ready()?;
        ensure!(told == Some(UNITS_CHANGED), "it heard {told:x?}");
        Ok(())
    })?;
    host.lun = 5;
    ensure!(host.write()? == GOOD, "the disk that was added is served");
    expect(&site, &["volume", "lun", "log", "--none"], 7, "GW0302")?;
    drop(host);
    wait_for("the session to end", SOON, || site.cli(&["volume", "lun", "log", "--none"]))?;

    // In a group of its own it has no number; and all of this is still so after a restart.
    site.cli(&["volume", "lun", "log", "5"])?;
    site.cli(&["group", "remove", "orders", "log"])?;
    ensure!(site.cli(&["volume", "show", "log"])?["lun"].is_null(), "it left the group's target");
    site.stop()?;
    site.start()?;
    ensure!(numbers(&listed(port, DB)?, "orders:group") == ["0"], "the group's target is kept");
    does("read -P 0x15 1M 64k", &disk(port, "log", 0))?;
    site.stop()
}

/// Two hosts that expect their disks under different numbers find them so, at whichever site.
#[test]
fn an_initiator_sees_a_disk_under_a_number_of_its_own_at_both_sites() -> Result<()> {
    const WEB: &str = "iqn.2026-01.com.example:web";
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    expect(&east, &["volume", "lun", "orders", "3", "--initiator", DB], 2, "of its own")?;
    together(&east, "log")?;
    does("write -P 0x15 1M 64k", &disk(east_port, "orders:group", 5))?;
    expect(&east, &["volume", "lun", "log", "0", "--initiator", DB], 7, "LUN 0")?;
    expect(&east, &["volume", "lun", "log", "1", "--initiator", "db"], 2, "no name")?;
    // Each in the other's place; one at a time they would meet.
    east.cli(&["volume", "lun", "orders", "9", "--initiator", DB])?;
    east.cli(&["volume", "lun", "log", "0", "--initiator", DB])?;
    let shown = east.cli(&["volume", "show", "log"])?;
    ensure!(shown["lun"] == 5 && shown["initiator_luns"][DB] == 0, "{shown:#}");
    east.wait_equivalent(SOON)?;
    wait_for("the mirror to hear the numbers", SOON, || {
        for (volume, lun, own) in [("orders", 0, 9), ("log", 5, 0)] {
            let shown = west.cli(&["volume", "show", volume])?;
            ensure!(shown["lun"] == lun && shown["initiator_luns"][DB] == own, "{shown:#}");
        }
        Ok(())
    })?;
    ensure!(numbers(&listed(east_port, DB)?, "orders:group") == ["0", "9"], "those of its own");
    ensure!(numbers(&listed(east_port, WEB)?, "orders:group") == ["0", "5"], "those of all others");
    let target = format!("{PREFIX}:orders:group");
    let mut db = Initiator::login(east_port, "db", &target)?;
    let mut web = Initiator::login(east_port, "web", &target)?;
    let mut there = Initiator::login(west_port, "db", &target)?;
    let mut web_there = Initiator::login(west_port, "web", &target)?;
    (db.lun, web.lun, there.lun, web_there.lun) = (0, 5, 0, 5);
    let log = web.names()?;
    ensure!(db.names()? == log, "LUN 0 of one is LUN 5 of the other");
    ensure!(there.names()? == log && web_there.names()? == log, "and so at the other site");
    drop(web_there);
    // What an initiator uses stays; that of one that is not logged in may change.
    expect(&east, &["volume", "lun", "log", "--none", "--initiator", DB], 7, "GW0302")?;
    east.cli(&["volume", "lun", "log", "8", "--initiator", "iqn.2026-01.com.example:other"])?;
    drop((db, there));
    wait_for("the session to end", SOON, || {
        east.cli(&["volume", "lun", "log", "--none", "--initiator", DB])
    })?;
    ensure!(numbers(&listed(east_port, DB)?, "orders:group") == ["5", "9"], "it is as all others");
    ensure!(web.write()? == GOOD, "nobody else noticed");
    drop(web);
    east.stop()?;
    west.stop()
}

/// Each disk is the same one at both sites, and its target follows a failover with all of them.
#[test]
fn alua_a_target_of_two_disks_goes_on_at_the_other_site() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    together(&east, "log")?;
    east.wait_equivalent(SOON)?;
    wait_for("the mirror to hear the numbers", SOON, || {
        for (volume, lun) in [("orders", 0), ("log", 5)] {
            let shown = west.cli(&["volume", "show", volume])?;
            ensure!(shown["lun"] == lun, "{shown:#}");
        }
        Ok(())
    })?;
    expect(&west, &["volume", "lun", "log", "6"], 7, "not primary")?;
    let target = format!("{PREFIX}:orders:group");
    let mut here = Initiator::login(east_port, "one", &target)?;
    let mut there = Initiator::login(west_port, "one", &target)?;
    for lun in [0, 5] {
        (here.lun, there.lun) = (lun, lun);
        ensure!(here.names()? == there.names()?, "LUN {lun} is another disk at the other site");
        ensure!(here.write()? == GOOD, "LUN {lun} is served");
        // What it is told first, as every session is.
        while there.ready()?.is_some_and(|(key, _)| key == UNIT_ATTENTION) {}
        is_sent_away(&mut there)?;
    }
    does("write -P 0x21 2M 64k", &disk(east_port, "orders:group", 5))?;
    east.kill()?;
    fail_over(&west)?;
    for lun in [0, 5] {
        there.lun = lun;
        wait_for("the other site to serve", SOON, || {
            ensure!(there.write()? == GOOD, "LUN {lun} is not served");
            Ok(())
        })?;
    }
    does("read -P 0x21 2M 64k", &disk(west_port, "orders:group", 5))?;
    west.stop()
}

/// A volume that is made read-only stays writable for who has it, as over NBD, until it logs in anew: that
/// another logs in meanwhile is no matter of that one.
#[test]
fn who_comes_to_a_read_only_volume_reads_and_others_keep_their_rights() -> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = served(&dir, OPEN)?;
    let target = format!("{PREFIX}:orders");
    let mut before = Initiator::login(port, "before", &target)?;
    ensure!(before.write()? == GOOD, "it is written");
    site.cli(&["volume", "allow", "orders", "--read-only"])?;
    let mut reader = Initiator::login(port, "reader", &target)?;
    ensure!(reader.is_protected()?, "who comes now mounts it read-only");
    let refused = reader.write_once()?;
    ensure!(refused.sense == Some(WRITE_PROTECTED), "it takes no writes: {refused:x?}");
    ensure!(!before.is_protected()? && before.write()? == GOOD, "who has it goes on");
    site.cli(&["volume", "allow", "orders"])?;
    let mut after = Initiator::login(port, "after", &target)?;
    ensure!(after.write()? == GOOD, "who comes then writes");
    ensure!(reader.is_protected()?, "the reader is one until it logs in anew");
    site.stop()
}
