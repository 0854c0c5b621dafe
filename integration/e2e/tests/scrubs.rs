//! Blocks that a disk loses: found by a scrub, and put back from whoever has what was stored.
//!
//! Invariant: what is damaged is damaged in the files of a pool, as a disk would; what is repaired is
//! compared with what was written.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::Value;

use crate::backup_runs::{download, filled, qemu_io, site, take};
use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, compare, expect, number, text};

const BLOCK: usize = 4096;

/// The data files of a site's volumes.
fn data_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            data_files(&path, found)?;
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("data.")) {
            found.push(path);
        }
    }
    Ok(())
}

/// Changes one bit of a block where it is stored.
fn rot(site: &Site, content: &Path, block: usize) -> Result<()> {
    let content = std::fs::read(content)?;
    let wanted = &content[block * BLOCK..(block + 1) * BLOCK];
    let mut files = Vec::new();
    data_files(&site.data_dir(), &mut files)?;
    for path in files {
        let stored = std::fs::read(&path)?;
        let Some(at) = stored.chunks(BLOCK).position(|stored| stored == wanted) else { continue };
        let file = std::fs::OpenOptions::new().write(true).open(&path)?;
        let offset = at * BLOCK + 100;
        file.write_all_at(&[stored[offset] ^ 4], offset as u64)?;
        return Ok(());
    }
    anyhow::bail!("block {block} is stored nowhere at {}", site.dir().display())
}

fn last(site: &Site) -> Result<Value> {
    Ok(site.cli(&["volume", "show", VOLUME])?["scrub"].clone())
}

fn scrub(site: &Site, (bad, repaired): (u64, u64)) -> Result<()> {
    let code = if bad > repaired { 4 } else { 0 };
    let word = if bad > repaired { "GW0306" } else { "succeeded" };
    expect(site, &["volume", "scrub", VOLUME], code, word)?;
    let found = last(site)?;
    let is = (number(&found, "/bad_blocks")?, number(&found, "/repaired_blocks")?);
    ensure!(is == (bad, repaired), "{found:#}");
    ensure!(number(&found, "/read_bytes")? >= 32 << 20, "{found:#}");
    let metrics = site.metrics()?;
    let left = format!("twinspan_scrub_bad_blocks{{volume=\"{VOLUME}\"}} {}", bad - repaired);
    ensure!(metrics.contains(&left), "{left} is not in {metrics}");
    Ok(())
}

#[test]
fn scrub_repairs_either_copy_from_the_other_and_names_what_nobody_has() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    crate::backup_runs::write_random(&pair.primary, pair.dir.path(), VOLUME, 32 << 20, 31)?;
    let content = download(&pair.primary, VOLUME, "content")?;
    scrub(&pair.primary, (0, 0))?;
    rot(&pair.primary, &content, 17)?;
    rot(&pair.primary, &content, 4000)?;
    scrub(&pair.primary, (2, 2))?;
    let told = pair.primary.ask(&["events", "--since", "0"])?.text;
    ensure!(told.contains("block 4000 was bad; it is good, by west"), "{told}");
    scrub(&pair.primary, (0, 0))?;
    compare(&content, &download(&pair.primary, VOLUME, "repaired")?)?;
    // The mirror's copy from its primary.
    rot(&pair.mirror, &content, 99)?;
    scrub(&pair.mirror, (1, 1))?;
    scrub(&pair.mirror, (0, 0))?;
    pair.is_identical()?;
    // What is bad in both is good for neither.
    rot(&pair.primary, &content, 7)?;
    rot(&pair.mirror, &content, 7)?;
    scrub(&pair.primary, (1, 0))?;
    let found = last(&pair.primary)?;
    ensure!(found["left"] == serde_json::json!([7]), "{found:#}");
    let block = &std::fs::read(&content)?[7 * BLOCK..8 * BLOCK];
    let whole = pair.dir.path().join("block");
    std::fs::write(&whole, block)?;
    let copy = format!("write -s {} 28k 4k", whole.display());
    qemu_io(&pair.primary, VOLUME, &copy)?;
    for site in [&pair.primary, &pair.mirror] {
        scrub(site, (0, 0))?;
    }
    // Without a mirror nobody has it; when it is back, it has.
    pair.mirror.stop()?;
    rot(&pair.primary, &content, 1234)?;
    scrub(&pair.primary, (1, 0))?;
    ensure!(
        text(&last(&pair.primary)?, "/cause")?.contains("connected"),
        "{:#}",
        last(&pair.primary)?
    );
    pair.mirror.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    scrub(&pair.primary, (1, 1))?;
    compare(&content, &download(&pair.primary, VOLUME, "again")?)?;
    pair.is_identical()
}

/// Nobody waits for a mirror that follows behind, and what was stored long ago it has all the same.
#[test]
fn scrub_repairs_either_copy_from_one_that_follows_behind() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    crate::backup_runs::write_random(&pair.primary, pair.dir.path(), VOLUME, 32 << 20, 37)?;
    let content = download(&pair.primary, VOLUME, "content")?;
    let both = [(&pair.primary, 17), (&pair.mirror, 18)];
    // Between two transfers of mode `stack` the mirror may not have heard yet of which mode it is.
    let one = [(&pair.primary, 4000)];
    let modes = [("consistency", "following", &both[..]), ("stack", "tracking", &one[..])];
    for (mode, phase, places) in modes {
        wait_for("the mode", SOON, || {
            pair.primary.cli(&["session", "set", VOLUME, "--mode", mode]).map(drop)
        })?;
        wait_for("a first cut", SYNC_LIMIT, || {
            let shown = pair.primary.ask(&["session", "show", VOLUME])?.json;
            let is = text(&shown, "/leg/phase")?;
            ensure!(is == phase, "{is}");
            Ok(())
        })?;
        for (site, block) in places {
            rot(site, &content, *block)?;
            // What a scrub could not repair the next one finds again.
            wait_for("the repair", SOON, || scrub(site, (1, 1)))?;
            scrub(site, (0, 0))?;
        }
    }
    compare(&content, &download(&pair.primary, VOLUME, "repaired")?)
}

#[test]
fn scrub_repairs_from_a_backup_only_what_was_not_changed_since() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = site(dir.path(), "east", "")?;
    filled(&east, dir.path(), VOLUME, 64, 33)?;
    take(&east, VOLUME, "disk", "kept")?;
    let content = download(&east, VOLUME, "content")?;
    qemu_io(&east, VOLUME, "write -P 5 80k 4k")?;
    let now = download(&east, VOLUME, "now")?;
    rot(&east, &content, 21)?;
    rot(&east, &content, 5000)?;
    scrub(&east, (2, 2))?;
    compare(&now, &download(&east, VOLUME, "repaired")?)?;
    rot(&east, &now, 20)?;
    scrub(&east, (1, 0))?;
    let found = last(&east)?;
    ensure!(found["left"] == serde_json::json!([20]), "{found:#}");
    // It is an operation like any other: one at a time, and it can be given up.
    Tool::new("qemu-io").args(["-f", "raw", "-c", "write -P 5 80k 4k", &east.nbd(VOLUME)]).run()?;
    scrub(&east, (0, 0))
}

#[test]
fn scrub_repairs_what_only_a_snapshot_holds_from_the_same_snapshot() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    crate::backup_runs::write_random(&pair.primary, pair.dir.path(), VOLUME, 32 << 20, 35)?;
    pair.primary.cli(&["snapshot", "create", VOLUME, "--name", "then"])?;
    pair.primary.wait_for(&["snapshot", "show", VOLUME, "then"], SYNC_LIMIT, |snapshot| {
        snapshot["held_by"].as_array().is_some_and(|sites| sites.len() == 2)
    })?;
    let then = format!("{VOLUME}@then");
    let content = download(&pair.primary, &then, "then")?;
    // Both write block 20 elsewhere: the snapshot alone has what it was.
    qemu_io(&pair.primary, VOLUME, "write -P 5 80k 4k")?;
    rot(&pair.primary, &content, 20)?;
    rot(&pair.mirror, &content, 20)?;
    scrub(&pair.primary, (1, 0))?;
    pair.mirror.stop()?;
    pair.mirror.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let block = std::fs::read(&content)?[20 * BLOCK..21 * BLOCK].to_vec();
    heal_by_hand(&pair.mirror, &block)?;
    scrub(&pair.primary, (1, 1))?;
    scrub(&pair.primary, (0, 0))?;
    compare(&content, &download(&pair.primary, &then, "again")?)
}

#[test]
fn scrub_repairs_what_only_a_snapshot_holds_from_a_backup_that_holds_the_same() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = site(dir.path(), "east", "")?;
    filled(&east, dir.path(), VOLUME, 64, 39)?;
    take(&east, VOLUME, "disk", "kept")?;
    // The snapshot shows block 20 as the backup has it, and block 21 as it has it not.
    qemu_io(&east, VOLUME, "write -P 5 84k 4k")?;
    east.cli(&["snapshot", "create", VOLUME, "--name", "then"])?;
    let then = format!("{VOLUME}@then");
    let content = download(&east, &then, "then")?;
    qemu_io(&east, VOLUME, "write -P 6 80k 8k")?;
    let now = download(&east, VOLUME, "now")?;
    rot(&east, &content, 20)?;
    scrub(&east, (1, 1))?;
    let told = east.ask(&["events", "--since", "0"])?.text;
    ensure!(told.contains("block 20 was bad; it is good, by backup kept in disk"), "{told}");
    scrub(&east, (0, 0))?;
    compare(&content, &download(&east, &then, "repaired")?)?;
    rot(&east, &content, 21)?;
    scrub(&east, (1, 0))?;
    ensure!(last(&east)?["left"] == serde_json::json!([21]), "{:#}", last(&east)?);
    compare(&now, &download(&east, VOLUME, "untouched")?)
}

/// Puts back what [`rot`] changed: the only block that differs from this one in a single bit.
fn heal_by_hand(site: &Site, block: &[u8]) -> Result<()> {
    let mut files = Vec::new();
    data_files(&site.data_dir(), &mut files)?;
    for path in files {
        let stored = std::fs::read(&path)?;
        let is_it = |stored: &[u8]| stored.iter().zip(block).filter(|(a, b)| a != b).count() == 1;
        if let Some(at) = stored.chunks_exact(BLOCK).position(is_it) {
            let file = std::fs::OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(block, (at * BLOCK) as u64)?;
            return Ok(());
        }
    }
    anyhow::bail!("nothing of the kind is stored at {}", site.dir().display())
}
