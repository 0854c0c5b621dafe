//! Snapshots that are deleted in any order while others read them, and the room that this gives back;
//! sessions that are deleted while the other site is dead, and made anew.
//!
//! Invariant: what a reader, a clone or a backup of a deleted snapshot sees is compared with what was
//! there when it was taken; what the snapshots are said to take is held against what was written.
//! What a deleted session left at its destination is read there, and is what was acknowledged before.

use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};

use crate::backup_runs::{
    await_end, await_moved, begin, directory, download, kept, qemu_io, write_random,
};
use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, compare, expect, number, set, single};
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

/// Whether a site lists the volume among what is mirrored there.
fn is_half(site: &Site, name: &str) -> Result<bool> {
    let list = site.cli(&["session", "list"])?;
    ensure!(list["items"] == serde_json::json!([]), "a half is no source: {list:#}");
    let halves = list["mirrored_here"].as_array().context("no list of what is mirrored here")?;
    Ok(halves.iter().any(|half| half["name"] == name))
}

#[test]
fn rec_23_a_half_whose_gateway_was_dead_is_named_when_it_is_back_and_removed_there_by_a_word()
-> Result<()> {
    const OTHER: &str = "ledger";
    let mut pair = Pair::mirrored("16MiB")?;
    pair.primary.cli(&["volume", "create", OTHER, "--size", "16MiB"])?;
    pair.primary.mirror(OTHER, &pair.mirror)?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    for name in [VOLUME, OTHER] {
        qemu_io(&pair.primary, name, "write -P 5 0 1M")?;
    }
    pair.mirror.kill()?;
    let east = &pair.primary;
    for name in [VOLUME, OTHER] {
        east.wait_for(&["session", "show", name], SOON, |shown| shown["leg"]["state"] == "halted")?;
        // The copy there cannot be asked for: it is left by a word only.
        let with_copy = ["session", "delete", name, "--with-volume"];
        expect(east, &with_copy, 6, "--with-volume --force")?;
        expect(east, &[&with_copy[..], &["--force"]].concat(), 0, "")?;
        qemu_io(east, name, "write -P 6 0 1M")?;
    }
    let left = east.cli(&["session", "list"])?;
    ensure!(left["items"] == serde_json::json!([]), "{left:#}");

    pair.mirror.start()?;
    let west = &pair.mirror;
    for name in [VOLUME, OTHER] {
        ensure!(is_half(west, name)?, "{name} is not listed as mirrored here");
        let group = west.cli(&["group", "show", name])?;
        ensure!(group["role"] == "secondary" && group["serving"] == "not_primary", "{group:#}");
        ensure!(attach(&west.nbd_socket(), name).is_err(), "a half is open to hosts");
    }
    // Its source says that it has forgotten the session: nothing more is needed than the word.
    expect(west, &["session", "delete", VOLUME, "--half"], 0, "")?;
    wait_for("a volume of its own", SOON, || qemu_io(west, VOLUME, "read -P 5 0 1M"))?;
    ensure!(!is_half(west, VOLUME)?, "{VOLUME} is still listed as mirrored here");
    // A source that cannot be asked may still count on the half.
    pair.primary.stop()?;
    let (west, with_copy) = (&pair.mirror, ["session", "delete", OTHER, "--half", "--with-volume"]);
    expect(west, &with_copy, 6, "--force")?;
    ensure!(is_half(west, OTHER)?, "it was deleted without the word");
    expect(west, &[&with_copy[..], &["--force"]].concat(), 0, "")?;
    ensure!(!is_half(west, OTHER)?, "{OTHER} is still listed as mirrored here");
    expect(west, &["volume", "show", OTHER], 1, "GW0204")?;
    qemu_io(west, VOLUME, "read -P 5 0 1M")
}

/// What changed since is known to nobody once a session is deleted: one that is made anew copies all,
/// or compares what is there.
#[test]
fn a_session_that_is_made_anew_after_it_was_deleted_sends_only_what_differs_if_it_compares()
-> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    write_random(east, pair.dir.path(), VOLUME, 16 << 20, 71)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    expect(east, &["session", "delete", VOLUME], 0, "")?;
    qemu_io(east, VOLUME, "write -P 7 20M 64k")?;
    let create = ["session", "create", VOLUME, "--to", "west", "--wait"];
    let compares = [&create[..], &["--skip-initial-copy"]].concat();
    let made = wait_for("the session to be made", SOON, || east.cli(&compares))?;
    let sent = number(&made, "/resync_copied_bytes")?;
    ensure!(sent < MIB, "{sent} bytes were sent for 64 KiB that differ: {made:#}");
    pair.is_identical()?;

    // A half that became a volume of its own is named, with the way back.
    expect(east, &["session", "delete", VOLUME], 0, "")?;
    wait_for("the end of the half", SOON, || {
        expect(west, &["session", "delete", VOLUME, "--half"], 0, "")
    })?;
    let plain = ["session", "create", VOLUME, "--to", "west"];
    east.ask(&plain)?;
    wait_for("the refusal", SOON, || {
        expect(east, &["session", "show", VOLUME], 0, "--skip-initial-copy")
    })?;
    expect(east, &["session", "delete", VOLUME], 0, "")?;
    wait_for("the session to be made", SOON, || east.cli(&compares))?;
    pair.is_identical()
}
