//! Volumes that are made from snapshots: used before they are filled, at either site, whatever
//! becomes of what they are filled from.
//!
//! Invariant: what a clone shows is compared by reading it over NBD, before, while and after it is
//! filled.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::Value;

use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, compare, expect, number, set, single, text};
use crate::random::Random;
use crate::records::random_file;
use crate::snapshots::{begin, kills};

const CLONE: &str = "trial";

/// A step every four seconds, so that much can happen in between.
const SLOW: &str = "fill_bytes_per_second = \"1MiB\"";

fn restart(site: &mut Site) -> Result<()> {
    site.stop()?;
    site.start()
}

fn slow_down(site: &mut Site) -> Result<()> {
    set(site, "pool", SLOW)?;
    restart(site)
}

fn speed_up(site: &mut Site) -> Result<()> {
    let path = site.config_file();
    let config = std::fs::read_to_string(&path).context("read the configuration")?;
    std::fs::write(&path, config.replace(SLOW, "")).context("write the configuration")?;
    restart(site)
}

fn qemu_io(site: &Site, volume: &str, command: &str) -> Result<()> {
    let uri = site.nbd(volume);
    Tool::new("qemu-io").args(["-f", "raw", "-c", command, &uri]).run().map(drop)
}

fn write(site: &Site, volume: &str, (at_kib, kib): (u64, u64), pattern: u8) -> Result<()> {
    qemu_io(site, volume, &format!("write -f -P {pattern} {at_kib}k {kib}k"))
}

fn holds(site: &Site, volume: &str, (at_kib, kib): (u64, u64), pattern: u8) -> Result<()> {
    qemu_io(site, volume, &format!("read -P {pattern} {at_kib}k {kib}k"))
}

fn download(site: &Site, export: &str, file: &str) -> Result<PathBuf> {
    let path = site.dir().join(file);
    Tool::new("nbdcopy").arg(site.nbd(export)).arg(&path).run()?;
    Ok(path)
}

fn shown(site: &Site) -> Result<Value> {
    site.cli(&["volume", "show", CLONE])
}

fn await_filled(site: &Site) -> Result<()> {
    wait_for("filling", SYNC_LIMIT, || {
        let volume = shown(site)?;
        ensure!(volume["filling"].is_null(), "{:#}", volume["filling"]);
        Ok(())
    })
}

/// What is deleted prints nothing.
fn remove(site: &Site, arguments: &[&str]) -> Result<()> {
    expect(site, arguments, 0, "").map(drop)
}

/// A site that fills a clone of its volume, slowly, and what the clone holds.
fn cloning(dir: &Path) -> Result<(Site, PathBuf)> {
    let mut east = single(dir, "east")?;
    slow_down(&mut east)?;
    east.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    let good = prepare(&east)?;
    create(&east, &[])?;
    Ok((east, good))
}

/// A volume with content and a snapshot of it, from which much was overwritten since.
fn prepare(site: &Site) -> Result<PathBuf> {
    let content = random_file(&site.dir().join("content"), 48 << 20, 7)?;
    Tool::new("nbdcopy").arg(&content).arg(site.nbd(VOLUME)).run()?;
    site.cli(&["snapshot", "create", VOLUME, "--name", "good"])?;
    write(site, VOLUME, (1024, 20 << 10), 0xee)?;
    download(site, &format!("{VOLUME}@good"), "good")
}

fn create(site: &Site, more: &[&str]) -> Result<Value> {
    let from = format!("{VOLUME}/good");
    let volume =
        site.cli(&[&["volume", "create", CLONE, "--from-snapshot", &from], more].concat())?;
    println!("{:#}", volume["filling"]);
    Ok(volume)
}

#[test]
fn snap_03_a_volume_from_a_snapshot_is_used_before_it_is_filled() -> Result<()> {
    let mut pair = Pair::joined()?;
    slow_down(&mut pair.primary)?;
    let east = &pair.primary;
    east.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    let good = prepare(east)?;
    let volume = create(east, &[])?;
    ensure!(number(&volume, "/bytes")? == 64 << 20, "{volume:#}");
    // At once, and all of it.
    compare(&good, &download(east, CLONE, "first")?)?;
    ensure!(!shown(east)?["filling"].is_null(), "it was filled before it was read");
    // It is a volume of its own: parts of blocks, zeroes and trims too.
    let before = download(east, VOLUME, "source")?;
    qemu_io(east, CLONE, "write -P 5 1000 3000")?;
    qemu_io(east, CLONE, "write -z -u 8m 1m")?;
    qemu_io(east, CLONE, "discard 16m 1m")?;
    compare(&before, &download(east, VOLUME, "source-again")?)?;
    let changed = download(east, CLONE, "changed")?;
    let (was, is) = (std::fs::read(&good)?, std::fs::read(&changed)?);
    ensure!(is[..1000] == was[..1000] && is[4000..8 << 20] == was[4000..8 << 20]);
    ensure!(is[1000..4000].iter().all(|byte| *byte == 5));
    ensure!(is[8 << 20..9 << 20].iter().chain(&is[16 << 20..17 << 20]).all(|byte| *byte == 0));
    // A snapshot of it is one like any other, and shows the same.
    east.cli(&["snapshot", "create", CLONE, "--name", "early"])?;
    write(east, CLONE, (0, 64), 9)?;
    compare(&changed, &download(east, &format!("{CLONE}@early"), "early")?)?;
    let metrics = east.metrics()?;
    ensure!(metrics.contains("twinspan_volume_fill_waits{volume=\"trial\"} 0"), "{metrics}");

    // EVS-05: it is no source of a mirror, and goes into no group, until it is filled.
    expect(east, &["session", "create", CLONE, "--to", "west"], 7, "GW0490")?;
    expect(east, &["group", "create", "several", "--volume", CLONE], 7, "GW0490")?;
    expect(east, &["volume", "digest", CLONE], 7, "GW0490")?;
    ensure!(!shown(east)?["filling"].is_null(), "it was filled too early for this test");
    speed_up(&mut pair.primary)?;
    let east = &pair.primary;
    await_filled(east)?;
    let told = east.ask(&["events", "--since", "0"])?.text;
    ensure!(told.contains("filled: it needs nothing else"), "{told}");
    compare(&changed, &download(east, &format!("{CLONE}@early"), "late")?)?;
    east.mirror(CLONE, &pair.mirror)?;
    wait_for("the clone's mirror", SYNC_LIMIT, || {
        let here = text(&east.cli(&["volume", "digest", CLONE])?, "/digest")?;
        let there = text(&pair.mirror.cli(&["volume", "digest", CLONE])?, "/digest")?;
        ensure!(here == there, "the copies differ");
        Ok(())
    })
}

#[test]
fn snap_03_smaller_is_refused_and_larger_ends_in_zeroes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = single(dir.path(), "east")?;
    east.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    prepare(&east)?;
    let from = format!("{VOLUME}/good");
    let make = |more: &[&str], code, word: &str| {
        expect(&east, &[&["volume", "create", CLONE][..], more].concat(), code, word)
    };
    make(&["--from-snapshot", &from, "--size", "32MiB"], 2, "GW0493")?;
    make(&["--from-snapshot", &format!("{VOLUME}/none")], 1, "GW0204")?;
    make(&["--from-snapshot", &format!("{from}:other")], 1, "GW0204")?;
    make(&["--from-snapshot", VOLUME], 64, "GROUP/SNAPSHOT")
        .or_else(|_| make(&["--from-snapshot", VOLUME], 2, "GROUP/SNAPSHOT"))?;
    expect(&east, &["volume", "create", VOLUME, "--from-snapshot", &from], 7, "GW0205")?;
    create(&east, &["--size", "80MiB"])?;
    holds(&east, CLONE, (64 << 10, 16 << 10), 0)?;
    write(&east, CLONE, (79 << 10, 1024), 3)?;
    await_filled(&east)?;
    holds(&east, CLONE, (64 << 10, 15 << 10), 0)?;
    holds(&east, CLONE, (79 << 10, 1024), 3)?;
    remove(&east, &["volume", "delete", CLONE])
}

#[test]
fn snap_03_a_mirrors_site_makes_one_too() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let good = prepare(east)?;
    wait_for("the snapshot at the mirror", SOON, || {
        west.cli(&["snapshot", "show", VOLUME, "good"])
    })?;
    create(west, &[])?;
    compare(&good, &download(west, CLONE, "drill")?)?;
    // The drill writes; the mirror goes on as one.
    write(west, CLONE, (0, 1024), 7)?;
    write(east, VOLUME, (30 << 10, 1024), 8)?;
    await_filled(west)?;
    west.cli(&["snapshot", "show", VOLUME, "good"])?;
    holds(west, CLONE, (0, 1024), 7)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()
}

#[test]
fn snap_03_a_kill_in_the_middle_of_filling_loses_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut east, _) = cloning(dir.path())?;
    write(&east, CLONE, (2048, 4096), 6)?;
    let wanted = download(&east, CLONE, "wanted")?;
    let mut left = u64::MAX;
    for round in 0..3 {
        // It goes on where it was.
        let counted = wait_for("a step", SOON * 4, || {
            let now = number(&shown(&east)?, "/filling/left_bytes")?;
            ensure!(now < left || round == 0, "{now} bytes are left");
            Ok(now)
        })?;
        println!("{counted} bytes are left");
        left = counted;
        std::thread::sleep(Duration::from_millis(300 * round));
        east.kill()?;
        if round == 2 {
            let config = std::fs::read_to_string(east.config_file())?;
            std::fs::write(east.config_file(), config.replace(SLOW, ""))?;
        }
        east.start()?;
        compare(&wanted, &download(&east, CLONE, "found")?)?;
    }
    await_filled(&east)?;
    compare(&wanted, &download(&east, CLONE, "filled")?)
}

#[test]
fn snap_06_a_clone_outlives_the_snapshot_and_then_the_volume() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut east, good) = cloning(dir.path())?;
    // The snapshot goes from the list at once, and its content stays for the clone, also after a
    // restart; the volume waits.
    remove(&east, &["snapshot", "delete", VOLUME, "good"])?;
    wait_for("the deletion", SOON, || {
        let list = east.cli(&["snapshot", "list", VOLUME])?;
        ensure!(list["items"].as_array().is_some_and(Vec::is_empty), "{list:#}");
        Ok(())
    })?;
    write(&east, VOLUME, (0, 48 << 10), 0xcc)?;
    compare(&good, &download(&east, CLONE, "without")?)?;
    restart(&mut east)?;
    compare(&good, &download(&east, CLONE, "restarted")?)?;
    let refused = expect(&east, &["volume", "delete", VOLUME], 7, "GW0492")?;
    ensure!(refused.text.contains(CLONE), "{}", refused.text);
    ensure!(!shown(&east)?["filling"].is_null(), "it was filled too early for this test");
    speed_up(&mut east)?;
    await_filled(&east)?;
    // What only the snapshot held is given back, and the volume can go.
    wait_for("the room of the snapshot", SOON, || {
        let volume = east.cli(&["volume", "show", VOLUME])?;
        let mapped = number(&volume, "/mapped_bytes")?;
        ensure!(mapped == 48 << 20, "{mapped} bytes are mapped");
        Ok(())
    })?;
    remove(&east, &["volume", "delete", VOLUME])?;
    compare(&good, &download(&east, CLONE, "alone")?)?;
    restart(&mut east)?;
    compare(&good, &download(&east, CLONE, "still")?)
}

#[test]
fn snap_06_two_clones_of_a_deleted_snapshot_need_nothing_of_each_other() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut east, good) = cloning(dir.path())?;
    let from = format!("{VOLUME}/good");
    for name in ["second", "third"] {
        east.cli(&["volume", "create", name, "--from-snapshot", &from])?;
    }
    remove(&east, &["snapshot", "delete", VOLUME, "good"])?;
    // One is given up while it is filled; nothing of it stays, and the others go on.
    remove(&east, &["volume", "delete", CLONE])?;
    expect(&east, &["volume", "show", CLONE], 1, "GW0204")?;
    east.cli(&["volume", "create", CLONE, "--size", "64MiB"])?;
    for name in ["second", "third"] {
        let shown = east.cli(&["volume", "show", name])?;
        ensure!(!shown["filling"].is_null(), "it was filled too early for this test");
        compare(&good, &download(&east, name, name)?)?;
    }
    speed_up(&mut east)?;
    for name in ["second", "third"] {
        wait_for("filling", SYNC_LIMIT, || {
            let shown = east.cli(&["volume", "show", name])?;
            ensure!(shown["filling"].is_null(), "{:#}", shown["filling"]);
            Ok(())
        })?;
        compare(&good, &download(&east, name, name)?)?;
    }
    wait_for("the room of the snapshot", SOON, || {
        let mapped = number(&east.cli(&["volume", "show", VOLUME])?, "/mapped_bytes")?;
        ensure!(mapped == 48 << 20, "{mapped} bytes are mapped");
        Ok(())
    })?;
    remove(&east, &["volume", "delete", VOLUME])?;
    compare(&good, &download(&east, "third", "alone")?)
}

#[test]
fn snap_06_clones_that_come_and_go_while_their_gateway_is_killed_are_whole_or_gone() -> Result<()> {
    let mut random = Random::announced("clones_killed")?;
    let dir = tempfile::tempdir()?;
    let mut east = single(dir.path(), "east")?;
    east.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    let good = prepare(&east)?;
    let from = format!("{VOLUME}/good");
    let mut found = [0, 0];
    for round in 0..kills() {
        let mut call = begin(&east, &["volume", "create", CLONE, "--from-snapshot", &from])?;
        if round % 2 == 1 {
            call.wait().context("await a clone")?;
            call = begin(&east, &["volume", "delete", CLONE])?;
        }
        let pause = Duration::from_millis(random.within(0..150));
        std::thread::sleep(pause);
        east.kill()?;
        call.wait().context("await the end of the call")?;
        east.start()?;
        let is_there = east.ask(&["volume", "show", CLONE])?.code == 0;
        println!("{round}: killed after {pause:?}: it is there: {is_there}");
        found[usize::from(is_there)] += 1;
        if is_there {
            compare(&good, &download(&east, CLONE, "found")?)?;
            wait_for("its host to leave", SOON, || remove(&east, &["volume", "delete", CLONE]))?;
        }
        expect(&east, &["volume", "show", CLONE], 1, "GW0204")?;
    }
    println!("gone {}, there {}", found[0], found[1]);
    remove(&east, &["snapshot", "delete", VOLUME, "good"])?;
    wait_for("the room of the snapshot", SOON, || {
        let mapped = number(&east.cli(&["volume", "show", VOLUME])?, "/mapped_bytes")?;
        ensure!(mapped == 48 << 20, "{mapped} bytes are mapped");
        Ok(())
    })?;
    remove(&east, &["volume", "delete", VOLUME])?;
    wait_for("an empty pool", SOON, || {
        let told = east.metrics()?;
        let used = told.lines().find(|line| line.starts_with("twinspan_store_used_bytes{"));
        let used = used.context("it is not told how much is used")?;
        ensure!(used.ends_with(" 0"), "{used}");
        Ok(())
    })
}

#[test]
fn snap_06_a_clone_that_is_deleted_ends_its_filling_and_lets_go() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (east, _) = cloning(dir.path())?;
    remove(&east, &["snapshot", "delete", VOLUME, "good"])?;
    remove(&east, &["volume", "delete", CLONE])?;
    wait_for("the room of the snapshot", SOON, || {
        let mapped = number(&east.cli(&["volume", "show", VOLUME])?, "/mapped_bytes")?;
        ensure!(mapped <= 48 << 20, "{mapped} bytes are mapped");
        Ok(())
    })?;
    remove(&east, &["volume", "delete", VOLUME])
}
