//! Snapshots that are deleted in any order while others read them, and the room that this gives back.
//!
//! Invariant: what a reader, a clone or a backup of a deleted snapshot sees is compared with what was
//! there when it was taken; what the snapshots are said to take is held against what was written.

use std::io::{Read, Seek, SeekFrom};

use anyhow::{Result, ensure};
use harness::{Site, wait_for};

use crate::backup_runs::{
    await_end, await_moved, begin, directory, download, kept, qemu_io, write_random,
};
use crate::pair::{SOON, VOLUME, compare, expect, number, set, single};
use crate::records::attach;

const MIB: u64 = 1 << 20;

fn create(site: &Site, name: &str) -> Result<()> {
    site.cli(&["snapshot", "create", VOLUME, "--name", name]).map(drop)
}

fn delete(site: &Site, name: &str) -> Result<()> {
    expect(site, &["snapshot", "delete", VOLUME, name], 0, "").map(drop)
}

/// MiB that the volume takes, its snapshots included.
fn mapped(site: &Site) -> Result<u64> {
    Ok(number(&site.cli(&["volume", "show", VOLUME])?, "/mapped_bytes")? / MIB)
}

/// Waits until a snapshot is said to take so many MiB by itself, and to share so many.
fn await_room(site: &Site, name: &str, wanted: (u64, u64)) -> Result<()> {
    wait_for(&format!("the room of {name}"), SOON, || {
        let shown = site.cli(&["snapshot", "show", VOLUME, name])?;
        let of = |place| Ok::<_, anyhow::Error>(number(&shown, place)? / MIB);
        let found = (of("/exclusive_bytes")?, of("/shared_bytes")?);
        ensure!(found == wanted, "{found:?} MiB, not {wanted:?}");
        Ok(())
    })
}

fn await_mapped(site: &Site, mib: u64) -> Result<()> {
    wait_for("room that is given back", SOON, || {
        let now = mapped(site)?;
        ensure!(now == mib, "{now} MiB are mapped, not {mib}");
        Ok(())
    })
}

#[test]
fn snap_04_what_snapshots_take_is_told_and_given_back_as_they_go() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = single(dir.path(), "east")?;
    east.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    // Two places of 4 MiB, of which one is written over after each snapshot.
    qemu_io(&east, VOLUME, "write -P 1 0 8M")?;
    create(&east, "one")?;
    await_room(&east, "one", (0, 8))?;
    qemu_io(&east, VOLUME, "write -P 2 0 4M")?;
    create(&east, "two")?;
    qemu_io(&east, VOLUME, "write -P 3 4M 4M")?;
    create(&east, "three")?;
    qemu_io(&east, VOLUME, "write -P 4 0 4M")?;
    await_mapped(&east, 20)?;
    await_room(&east, "one", (4, 4))?;
    await_room(&east, "two", (0, 8))?;
    await_room(&east, "three", (0, 8))?;
    // What the middle one shared with each of the others is theirs alone.
    delete(&east, "two")?;
    await_room(&east, "one", (8, 0))?;
    await_room(&east, "three", (4, 4))?;
    await_mapped(&east, 20)?;
    delete(&east, "one")?;
    await_mapped(&east, 12)?;
    await_room(&east, "three", (4, 4))?;
    delete(&east, "three")?;
    await_mapped(&east, 8)?;
    qemu_io(&east, VOLUME, "read -P 4 0 4M")?;
    qemu_io(&east, VOLUME, "read -P 3 4M 4M")
}

#[test]
fn snap_06_a_snapshot_that_is_read_cloned_or_backed_up_is_deleted_and_harms_nobody() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut east = Site::new(dir.path(), "east")?;
    let repository = dir.path().join("repository");
    east.configure(&directory("disk", &repository, "bandwidth = \"2MiB/s\""))?;
    set(&east, "pool", "fill_bytes_per_second = \"64KiB\"")?;
    east.start()?;
    east.cli(&["volume", "create", VOLUME, "--size", "64MiB"])?;
    write_random(&east, dir.path(), VOLUME, 16 << 20, 61)?;
    let first = download(&east, VOLUME, "first")?;
    create(&east, "cloned")?;
    qemu_io(&east, VOLUME, "write -P 2 0 16M")?;
    create(&east, "read")?;
    qemu_io(&east, VOLUME, "write -P 3 0 16M")?;
    create(&east, "unused")?;
    write_random(&east, dir.path(), VOLUME, 16 << 20, 63)?;
    let last = download(&east, VOLUME, "last")?;
    await_mapped(&east, 64)?;

    let from = format!("{VOLUME}/cloned");
    east.cli(&["volume", "create", "trial", "--from-snapshot", &from])?;
    let (mut reader, _) = attach(&east.nbd_socket(), &format!("{VOLUME}@read"))?;
    let backup = ["backup", "create", VOLUME, "--target", "disk", "--name", "now"];
    let operation = begin(&east, &backup)?;
    await_moved(&east, &operation, MIB)?;
    // What a backup reads is the gateway's, and is refused by name.
    let point = kept(&east, VOLUME)?;
    ensure!(point.len() == 1, "{point:?}");
    let refused = expect(&east, &["snapshot", "delete", VOLUME, &point[0]], 7, "GW0515")?;
    ensure!(refused.text.contains(&point[0]), "{}", refused.text);
    for name in ["read", "cloned", "unused"] {
        delete(&east, name)?;
        wait_for("its end", SOON, || {
            expect(&east, &["snapshot", "show", VOLUME, name], 1, "GW0204")
        })?;
    }
    let mut content = vec![0; 1 << 20];
    for at in [0, 15 << 20] {
        reader.seek(SeekFrom::Start(at))?;
        reader.read_exact(&mut content)?;
        ensure!(content.iter().all(|byte| *byte == 2), "the reader lost it");
    }
    compare(&first, &download(&east, "trial", "trial")?)?;
    let shown = east.cli(&["volume", "show", "trial"])?;
    ensure!(!shown["filling"].is_null(), "it was filled too early for this test");
    ensure!(attach(&east.nbd_socket(), &format!("{VOLUME}@read")).is_err(), "it is served anew");
    // What nobody needs is given back; the rest when the last who needs it is gone.
    await_mapped(&east, 48)?;
    drop(reader);
    await_mapped(&east, 32)?;
    wait_for("its host to leave", SOON, || expect(&east, &["volume", "delete", "trial"], 0, ""))?;
    await_mapped(&east, 16)?;
    let ended = await_end(&east, "backup")?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    east.stop()?;
    east.configure(&directory("disk", &repository, ""))?;
    east.start()?;
    east.cli(&["backup", "restore", "new", "now", "--to", "copy"])?;
    compare(&last, &download(&east, "copy", "copy")?)
}
