//! What changed between snapshots, as people, libnbd and QEMU are told.
//!
//! Invariant: whoever copies what is listed onto what the older one held has the newer one.

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::Value;

use crate::pair::{Pair, SOON, VOLUME, expect, number};
use crate::records::random_file;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

type Ranges = Vec<(u64, u64)>;

fn write(site: &Site, (at_kib, kib): (u64, u64), pattern: u8) -> Result<()> {
    let command = format!("write -f -P {pattern} {at_kib}k {kib}k");
    Tool::new("qemu-io").args(["-f", "raw", "-c", &command, &site.nbd(VOLUME)]).run().map(drop)
}

fn content(site: &Site, export: &str) -> Result<Vec<u8>> {
    let path = site.dir().join("content-of-it");
    Tool::new("nbdcopy").arg(site.nbd(export)).arg(&path).run()?;
    std::fs::read(&path).context("read the copy")
}

/// As the API lists them.
fn changes(site: &Site, arguments: &[&str]) -> Result<Ranges> {
    let answer = site.cli(&[&["snapshot", "changes", VOLUME][..], arguments].concat())?;
    ensure!(answer["next"].is_null(), "{answer:#}");
    let items = answer["items"].as_array().cloned().context("no items")?;
    items.iter().map(|of| Ok((number(of, "/offset")?, number(of, "/length")?))).collect()
}

/// As libnbd sees them.
fn bitmap(site: &Site, export: &str, name: &str) -> Result<Ranges> {
    let map = format!("--map=qemu:dirty-bitmap:{name}");
    let text = Tool::new("nbdinfo").args(["--json", &map, &site.nbd(export)]).run()?;
    let extents: Value = serde_json::from_str(&text).context("parse the map")?;
    let extents = extents.as_array().cloned().context("no extents")?;
    let dirty = extents.iter().filter(|of| of["type"] == 1);
    dirty.map(|of| Ok((number(of, "/offset")?, number(of, "/length")?))).collect()
}

/// As QEMU sees them: what is dirty is shown as if it were no data.
fn qemu_bitmap(site: &Site, export: &str, name: &str) -> Result<Ranges> {
    let socket = site.nbd_socket();
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},export={export},x-dirty-bitmap=qemu:dirty-bitmap:{name}",
        socket.display()
    );
    let text =
        Tool::new("qemu-img").args(["map", "--output=json", "--image-opts", &options]).run()?;
    let extents: Value = serde_json::from_str(&text).context("parse the map")?;
    let extents = extents.as_array().cloned().context("no extents")?;
    let dirty = extents.iter().filter(|of| of["data"] == false);
    dirty.map(|of| Ok((number(of, "/start")?, number(of, "/length")?))).collect()
}

fn patched(mut old: Vec<u8>, new: &[u8], ranges: &Ranges) -> Result<Vec<u8>> {
    for (offset, length) in ranges {
        let (first, end) = (usize::try_from(*offset)?, usize::try_from(offset + length)?);
        old[first..end].copy_from_slice(&new[first..end]);
    }
    Ok(old)
}

#[test]
fn changed_blocks_are_listed_between_two_snapshots_and_since_one() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let image = random_file(&east.dir().join("image"), 16 << 20, 3)?;
    Tool::new("nbdcopy").arg(&image).arg(east.nbd(VOLUME)).run()?;
    let take = |name: &str| east.cli(&["snapshot", "create", VOLUME, "--name", name]);
    take("monday")?;
    write(east, (1024, 64), 1)?;
    write(east, (10 << 10, 4), 2)?;
    take("tuesday")?;
    write(east, (20 << 10, 4), 3)?;
    let discard = "discard 2m 1m";
    Tool::new("qemu-io").args(["-f", "raw", "-c", discard, &east.nbd(VOLUME)]).run()?;

    let first = vec![(MIB, 64 * KIB), (10 * MIB, 4 * KIB)];
    let later = vec![(2 * MIB, MIB), (20 * MIB, 4 * KIB)];
    let mut all = [first.clone(), later.clone()].concat();
    all.sort_unstable();
    ensure!(changes(east, &["tuesday", "--since", "monday"])? == first);
    ensure!(changes(east, &["monday", "--since", "tuesday"])? == first);
    ensure!(changes(east, &["tuesday"])? == later);
    ensure!(changes(east, &["monday", "--volume", VOLUME])? == all);
    ensure!(changes(east, &["monday", "--since", "monday"])?.is_empty());
    expect(east, &["snapshot", "changes", VOLUME, "sunday"], 1, "GW0204")?;
    expect(east, &["snapshot", "changes", VOLUME, "monday", "--volume", "other"], 1, "GW0204")?;

    // A client that lists contexts is told of those of this export.
    let info = |export: &str| Tool::new("nbdinfo").args(["--json", &east.nbd(export)]).run();
    let known = info(VOLUME)?;
    ensure!(known.contains("qemu:dirty-bitmap:monday"), "{known}");
    ensure!(known.contains("qemu:dirty-bitmap:tuesday"), "{known}");
    let at_tuesday = info(&format!("{VOLUME}@tuesday"))?;
    ensure!(at_tuesday.contains("qemu:dirty-bitmap:monday"), "{at_tuesday}");
    ensure!(!at_tuesday.contains("qemu:dirty-bitmap:tuesday"), "{at_tuesday}");

    let tuesday = format!("{VOLUME}@tuesday");
    for see in [bitmap, qemu_bitmap] {
        ensure!(see(east, VOLUME, "monday")? == all, "{:?}", see(east, VOLUME, "monday"));
        ensure!(see(east, VOLUME, "tuesday")? == later, "{:?}", see(east, VOLUME, "tuesday"));
        ensure!(see(east, &tuesday, "monday")? == first, "{:?}", see(east, &tuesday, "monday"));
    }
    // The mirror's site says the same of what it keeps.
    wait_for("the snapshots at the mirror", SOON, || {
        west.cli(&["snapshot", "show", VOLUME, "tuesday"])
    })?;
    ensure!(changes(west, &["tuesday", "--since", "monday"])? == first);
    ensure!(bitmap(west, &tuesday, "monday")? == first);

    // An incremental backup of somebody else's making.
    let old = content(east, &format!("{VOLUME}@monday"))?;
    let new = content(east, &tuesday)?;
    ensure!(old != new && patched(old, &new, &first)? == new, "what is listed is not enough");
    // One that is gone is no context any more.
    expect(east, &["snapshot", "delete", VOLUME, "monday"], 0, "")?;
    wait_for("the deletion", SOON, || {
        let known = info(VOLUME)?;
        ensure!(!known.contains("monday"), "{known}");
        Ok(())
    })
}
