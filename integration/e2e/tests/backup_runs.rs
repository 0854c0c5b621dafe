//! Backups as people take them: from the command line, of volumes that hosts use, to a directory and
//! to a real S3 server; verified, deleted, restored to new volumes and to the originals.
//!
//! Invariant: what a restore holds is compared with what was read of the volume when the backup was
//! taken, by reading both over NBD.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::Value;

use crate::chain::{Chain, Plan, read_front};
use crate::pair::{
    Pair, SOON, SYNC_LIMIT, VOLUME, compare, expect, number, read_copy, single, text,
};
use crate::rados::Rados;
use crate::records::{attach, random_file};

/// A target in a directory, with these lines more.
pub(crate) fn directory(name: &str, path: &Path, more: &str) -> String {
    let path = path.display();
    format!("[[backup.targets]]\nname = \"{name}\"\nurl = \"file://{path}\"\n{more}\n")
}

/// A site with one target in a directory beside it.
pub(crate) fn site(dir: &Path, name: &str, more: &str) -> Result<Site> {
    let mut site = Site::new(dir, name)?;
    site.configure(&directory("disk", &dir.join("repository"), more))?;
    site.start()?;
    Ok(site)
}

pub(crate) fn qemu_io(site: &Site, volume: &str, command: &str) -> Result<()> {
    let uri = site.nbd(volume);
    Tool::new("qemu-io").args(["-f", "raw", "-c", command, "-c", "flush", &uri]).run().map(drop)
}

/// A volume that holds bytes without a pattern in its first half.
pub(crate) fn filled(site: &Site, dir: &Path, volume: &str, mib: u64, seed: u64) -> Result<()> {
    site.cli(&["volume", "create", volume, "--size", &format!("{mib}MiB")])?;
    write_random(site, dir, volume, mib << 19, seed)
}

/// Overwrites the beginning of a volume with bytes without a pattern.
pub(crate) fn write_random(
    site: &Site,
    dir: &Path,
    volume: &str,
    bytes: u64,
    seed: u64,
) -> Result<()> {
    let file = random_file(&dir.join(format!("{volume}-{seed}.random")), bytes, seed)?;
    let uri = site.nbd(volume);
    Tool::new("nbdcopy").arg(&file).arg(&uri).run().map(drop)
}

/// An export, byte for byte, in a file of the site's folder.
pub(crate) fn download(site: &Site, export: &str, file: &str) -> Result<PathBuf> {
    let path = site.dir().join(file);
    Tool::new("nbdcopy").arg(site.nbd(export)).arg(&path).run()?;
    Ok(path)
}

/// The backups in a list, oldest first.
pub(crate) fn list(site: &Site) -> Result<Vec<Value>> {
    let answer = site.cli(&["backup", "list"])?;
    answer["items"].as_array().cloned().with_context(|| format!("no items in {answer}"))
}

/// The names of those that can be restored.
pub(crate) fn available(site: &Site) -> Result<Vec<String>> {
    let all = list(site)?;
    let all = all.iter().filter(|backup| backup["status"] == "available");
    all.map(|backup| text(backup, "/name")).collect()
}

pub(crate) fn take(site: &Site, of: &str, target: &str, name: &str) -> Result<Value> {
    site.cli(&["backup", "create", of, "--target", target, "--name", name])?;
    site.cli(&["backup", "show", name])
}

/// What the last step with this beginning says.
fn detail(operation: &Value, step: &str) -> Result<String> {
    let steps = operation["steps"].as_array().into_iter().flatten();
    let is_it = |of: &&Value| of["name"].as_str().is_some_and(|name| name.starts_with(step));
    let last =
        steps.rev().find(is_it).with_context(|| format!("no step {step} in {operation:#}"))?;
    text(last, "/detail")
}

/// Begins something and says by which operation.
pub(crate) fn begin(site: &Site, arguments: &[&str]) -> Result<String> {
    let begun = site.cli(&[arguments, &["--detach"]].concat())?;
    text(&begun, "/id")
}

/// Waits until an operation has moved so many bytes.
pub(crate) fn await_moved(site: &Site, operation: &str, bytes: u64) -> Result<()> {
    wait_for("bytes that are moved", SOON, || {
        let now = site.cli(&["operation", "show", operation])?;
        ensure!(now["state"] == "running", "it ended: {now:#}");
        let moved = number(&now, "/progress/moved_bytes")?;
        ensure!(moved >= bytes, "{moved} bytes");
        Ok(())
    })
}

/// Waits until the operation of this kind that was begun last is over.
pub(crate) fn await_end(site: &Site, kind: &str) -> Result<Value> {
    wait_for(&format!("the end of a {kind}"), SYNC_LIMIT, || {
        let all = site.cli(&["operation", "list"])?;
        let all = all["items"].as_array().cloned().unwrap_or_default();
        let last = all.into_iter().find(|of| of["kind"] == kind).context("there is none")?;
        ensure!(last["state"] != "running", "{last:#}");
        Ok(last)
    })
}

/// The snapshots of backups that a site keeps, those that are being read among them.
pub(crate) fn kept(site: &Site, group: &str) -> Result<Vec<String>> {
    let answer = site.cli(&["snapshot", "list", group])?;
    let all = answer["items"].as_array().cloned().unwrap_or_default();
    let of_backups = all.iter().filter(|of| of["origin"] == "backup" && of["state"] != "deleting");
    of_backups.map(|of| text(of, "/name")).collect()
}

#[test]
fn bak_02_first_full_then_incremental_any_is_deleted_and_any_restored() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = site(dir.path(), "east", "")?;
    expect(&east, &["backup", "create", VOLUME, "--target", "tape"], 7, "GW0500")?;
    expect(&east, &["backup", "create", VOLUME, "--target", "disk"], 1, "GW0204")?;
    filled(&east, dir.path(), VOLUME, 64, 1)?;
    let first = take(&east, VOLUME, "disk", "first")?;
    ensure!(first["full"] == true && first["status"] == "available", "{first:#}");
    // BAK-13: half of the volume was never written and takes nothing.
    let stored = number(&first, "/stored_bytes")?;
    ensure!(number(&first, "/bytes")? == 64 << 20 && stored < 33 << 20, "{first:#}");
    // 1 % of the volume, at random places.
    for block in 0..160_u64 {
        let at = block * 7919 % 8192 * 4;
        qemu_io(&east, VOLUME, &format!("write -P {} {at}k 4k", block % 250 + 1))?;
    }
    let before = download(&east, VOLUME, "before")?;
    let second = take(&east, VOLUME, "disk", "second")?;
    let moved = number(&second, "/stored_bytes")?;
    println!("1 % changed of 64 MiB: {moved} bytes stored after {stored}");
    ensure!(second["full"] == false && moved * 1000 <= (64 << 20) * 12, "{second:#}");
    let operation = await_end(&east, "backup")?;
    let read = detail(&operation, "read and store")?;
    ensure!(read.contains("640 KiB read"), "only what changed is read: {read}");
    // SNAP-07: the newest of the target is kept, and is nobody's to delete.
    let metrics = east.metrics()?;
    for wanted in [
        "twinspan_backup_last_success_timestamp_seconds{group=\"orders\",target=\"disk\"}",
        "twinspan_backup_target_up{target=\"disk\"} 1",
        "result=\"ok\"} 2",
    ] {
        ensure!(metrics.contains(wanted), "{wanted} is not in {metrics}");
    }
    let kept = kept(&east, VOLUME)?;
    ensure!(kept.len() == 1, "{kept:?}");
    expect(&east, &["snapshot", "delete", VOLUME, &kept[0]], 7, "GW0515")?;

    let id = text(&first, "/id")?;
    east.ask(&["backup", "delete", &id])?;
    expect(&east, &["backup", "restore", "new", &id, "--to", "x"], 7, "deleting")?;
    let would = await_collection(&east, &["--dry-run"])?;
    ensure!(would.contains("1 deleted backups"), "{would}");
    await_collection(&east, &[])?;
    ensure!(available(&east)? == ["second"], "{:?}", list(&east)?);
    east.cli(&["backup", "verify", "second"])?;
    // BAK-04: a new volume, of the same size or larger.
    expect(
        &east,
        &["backup", "restore", "new", "second", "--to", "x", "--size", "32MiB"],
        2,
        "GW0303",
    )?;
    east.cli(&["backup", "restore", "new", "second", "--to", "copy", "--size", "96MiB"])?;
    let copy = download(&east, "copy", "copy")?;
    ensure!(std::fs::metadata(&copy)?.len() == 96 << 20);
    let file = std::fs::OpenOptions::new().write(true).open(&copy)?;
    file.set_len(64 << 20)?;
    compare(&before, &copy)?;
    expect(&east, &["backup", "restore", "new", "second", "--to", "copy"], 7, "GW0205")?;
    expect(&east, &["backup", "list"], 0, "second").map(drop)
}

fn await_collection(site: &Site, more: &[&str]) -> Result<String> {
    let ended = site.cli(&[&["backup", "gc", "--target", "disk"], more].concat())?;
    if more.is_empty() { detail(&ended, "give back") } else { detail(&ended, "look what") }
}

#[test]
fn bak_01_a_fresh_gateway_lists_and_restores_all_of_it_with_credentials_and_key() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("key");
    std::fs::write(&key, "0f".repeat(32))?;
    let more = format!("key = \"{}\"", key.display());
    let mut east = site(dir.path(), "east", &more)?;
    filled(&east, dir.path(), VOLUME, 16, 3)?;
    let content = download(&east, VOLUME, "content")?;
    take(&east, VOLUME, "disk", "kept")?;
    east.kill()?;
    std::fs::remove_dir_all(east.data_dir())?;

    let west = site(dir.path(), "west", &more)?;
    let rebuilt = west.cli(&["backup", "catalogue", "rebuild", "--target", "disk"])?;
    ensure!(rebuilt["items"][0]["name"] == "kept", "{rebuilt:#}");
    ensure!(rebuilt["items"][0]["taken_by"] == "east", "{rebuilt:#}");
    expect(&west, &["backup", "restore", "plan", "kept"], 1, "none of its volumes")?;
    west.cli(&["backup", "restore", "new", "kept", "--to", VOLUME])?;
    compare(&content, &download(&west, VOLUME, "restored")?)?;

    // Without the key nothing of it can be read, with another neither, and it says so.
    let none = site(dir.path(), "none", "")?;
    expect(&none, &["backup", "target", "check", "disk"], 7, "GW0505")?;
    std::fs::write(&key, "0e".repeat(32))?;
    let other = site(dir.path(), "other", &more)?;
    let answer = expect(&other, &["backup", "target", "check", "disk"], 7, "GW0505")?;
    ensure!(!answer.text.contains("0e0e"), "the key is shown: {}", answer.text);
    let listed = expect(&other, &["backup", "list"], 4, "silent")?;
    ensure!(listed.json["silent"][0]["target"] == "disk", "{}", listed.text);
    Ok(())
}

#[test]
fn bak_03_bak_09_the_original_is_restored_at_its_primary_only_and_the_mirror_follows() -> Result<()>
{
    let mut pair = Pair::mirrored("64MiB")?;
    let repository = pair.dir.path().join("repository");
    for site in [&mut pair.primary, &mut pair.mirror] {
        site.configure(&directory("disk", &repository, ""))?;
        site.stop()?;
        site.start()?;
    }
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let (east, west) = (&pair.primary, &pair.mirror);
    write_random(east, pair.dir.path(), VOLUME, 32 << 20, 5)?;
    let before = download(east, VOLUME, "before")?;
    let taken = take(west, VOLUME, "disk", "at-the-mirror")?;
    ensure!(taken["taken_by"] == "west" && taken["full"] == true, "{taken:#}");
    qemu_io(east, VOLUME, "write -P 9 1M 256k")?;
    // The mirror's point is the primary's too: a backup of either builds upon the other's.
    let taken = take(east, VOLUME, "disk", "at-the-primary")?;
    ensure!(taken["full"] == false, "{taken:#}");
    let read = detail(&await_end(east, "backup")?, "read and store")?;
    ensure!(read.contains("256 KiB read"), "{read}");
    let taken = take(west, VOLUME, "disk", "at-the-mirror-again")?;
    ensure!(taken["full"] == false, "{taken:#}");

    // Protected: nothing is written to a mirror.
    let plan = expect(west, &["backup", "restore", "plan", "at-the-mirror"], 7, "it is a mirror")?;
    ensure!(plan.json["token"].is_null(), "{}", plan.text);
    let run = ["backup", "restore", "run", "at-the-mirror", "--token", "ABCDEF"];
    expect(west, &run, 7, "GW0513")?;

    qemu_io(east, VOLUME, "write -P 66 0 48M")?;
    let attached = attach(&east.nbd_socket(), VOLUME)?;
    let plan = east.cli(&["backup", "restore", "plan", "at-the-mirror"])?;
    ensure!(plan["hosts"] == 1 && plan["sessions"][0] == "west", "{plan:#}");
    let token = text(&plan, "/token")?;
    let run = ["backup", "restore", "run", "at-the-mirror", "--token", &token];
    expect(east, &run, 7, "GW0462")?;
    let ended = east.cli(&[&run[..], &["--drop-hosts"]].concat())?;
    drop(attached);
    ensure!(detail(&ended, "keep what")?.contains("auto.before-restore"), "{ended:#}");
    let after = download(east, VOLUME, "after")?;
    compare(&before, &after)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()?;
    // A plan is run once, and what was there before can be gone back to.
    expect(east, &[&run[..], &["--drop-hosts"]].concat(), 7, "GW0411")?;
    let snapshots = east.cli(&["snapshot", "list", VOLUME])?;
    let snapshots = snapshots["items"].as_array().cloned().unwrap_or_default();
    let safety = snapshots.iter().find(|of| of["origin"] == "safety").context("nothing is kept")?;
    let safety = text(safety, "/name")?;
    let back = east.cli(&["snapshot", "rollback", "plan", VOLUME, &safety])?;
    let token = text(&back, "/token")?;
    east.cli(&["snapshot", "rollback", "run", VOLUME, &safety, "--token", &token])?;
    let command = "read -P 66 0 48M";
    Tool::new("qemu-io").args(["-r", "-f", "raw", "-c", command, &east.nbd(VOLUME)]).run()?;
    Ok(())
}

/// Found in a review: the primary deleted, at both sites, what the next backup of a mirror builds upon.
#[test]
fn bak_09_a_primary_does_not_delete_what_the_backups_of_its_mirror_build_upon() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    let repository = pair.dir.path().join("repository");
    pair.mirror.configure(&directory("disk", &repository, ""))?;
    pair.mirror.stop()?;
    pair.mirror.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let (east, west) = (&pair.primary, &pair.mirror);
    write_random(east, pair.dir.path(), VOLUME, 8 << 20, 6)?;
    let first = take(west, VOLUME, "disk", "first")?;
    let point = kept(east, VOLUME)?;
    ensure!(point.len() == 1 && kept(west, VOLUME)? == point, "{point:?}");
    let delete = ["snapshot", "delete", VOLUME, &point[0]];
    let refused = expect(east, &delete, 7, "GW0515")?;
    ensure!(refused.text.contains("west"), "{}", refused.text);
    expect(west, &delete, 7, "GW0515")?;
    // What the mirror gives up by itself goes at both.
    take(west, VOLUME, "disk", "second")?;
    for site in [east, west] {
        wait_for("the older point to go", SOON, || {
            let now = kept(site, VOLUME)?;
            ensure!(now.len() == 1 && now != point, "{now:?}");
            Ok(())
        })?;
    }
    let second = text(&west.cli(&["backup", "show", "second"])?, "/id")?;
    west.ask(&["backup", "delete", &text(&first, "/id")?])?;
    west.ask(&["backup", "delete", &second])?;
    wait_for("the last point to go", SOON, || {
        let now = (kept(east, VOLUME)?, kept(west, VOLUME)?);
        ensure!(now.0.is_empty() && now.1.is_empty(), "{now:?}");
        Ok(())
    })
}

#[test]
fn bak_08_a_group_is_backed_up_at_one_moment_of_its_writers() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = site(dir.path(), "east", "")?;
    make_books(&east)?;
    let chain = write_to_books(&east)?;
    for round in ["one", "two", "three"] {
        take_books(&chain, &east, round)?;
    }
    let acknowledged = chain.end()?;
    for round in ["one", "two", "three"] {
        is_one_moment(&east, round, &acknowledged)?;
    }
    expect(&east, &["backup", "restore", "new", "one", "--to", "x"], 2, "several volumes").map(drop)
}

/// At a mirror, too: the moment is one of the hosts of its primary, which keeps the same one.
#[test]
fn bak_08_a_mirror_backs_a_group_up_at_one_moment_that_its_primary_is_asked_for() -> Result<()> {
    let mut pair = Pair::joined()?;
    let repository = pair.dir.path().join("repository");
    pair.mirror.configure(&directory("disk", &repository, ""))?;
    pair.mirror.stop()?;
    pair.mirror.start()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    make_books(east)?;
    east.mirror("books", west)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    let chain = write_to_books(east)?;
    for round in ["one", "two"] {
        let taken = take_books(&chain, west, round)?;
        ensure!(taken["taken_by"] == "west", "{taken:#}");
        let (at_east, at_west) = (kept(east, "books")?, kept(west, "books")?);
        let point = at_west.last().context("the mirror keeps no point")?;
        ensure!(at_east.contains(point), "{point} is not in {at_east:?}");
    }
    let acknowledged = chain.end()?;
    for round in ["one", "two"] {
        is_one_moment(west, round, &acknowledged)?;
    }
    Ok(())
}

/// The volumes of the group `books`, and what is written to them.
const BOOKS: [&str; 2] = ["logs", "data"];
const WRITING: Plan = Plan { volumes: 2, writers: 3, slots: 128 };

fn make_books(site: &Site) -> Result<()> {
    for name in BOOKS {
        site.cli(&["volume", "create", name, "--size", "64MiB"])?;
    }
    site.cli(&["group", "create", "books", "--volume", "logs", "--volume", "data"]).map(drop)
}

fn write_to_books(site: &Site) -> Result<Chain> {
    Chain::start(WRITING, &site.nbd_socket(), &BOOKS.map(str::to_owned), &[0, 0, 0])
}

/// Backs the group up while hosts write on.
fn take_books(chain: &Chain, at: &Site, name: &str) -> Result<Value> {
    chain.await_more(200, SYNC_LIMIT)?;
    let taken = take(at, "books", "disk", name)?;
    ensure!(taken["volumes"].as_array().map(Vec::len) == Some(2), "{taken:#}");
    ensure!(taken["consistency"] == "crash" && taken["group"] == "books", "{taken:#}");
    Ok(taken)
}

/// What a backup of the group holds is of one moment of its writers.
fn is_one_moment(site: &Site, backup: &str, acknowledged: &[u64]) -> Result<()> {
    let mut copies = Vec::new();
    for name in BOOKS {
        let to = format!("{name}-{backup}");
        site.cli(&["backup", "restore", "new", backup, "--volume", name, "--to", &to])?;
        copies.push(read_front(&site.nbd_socket(), &to, WRITING.bytes())?);
    }
    let newest = WRITING.check(&copies)?;
    println!("{backup}: {newest:?} of {acknowledged:?}");
    ensure!(newest.iter().zip(acknowledged).all(|(held, all)| held <= all));
    ensure!(newest.iter().any(|held| *held > 0), "nothing had been written");
    Ok(())
}

#[test]
fn bak_12_what_a_kill_interrupts_goes_on_and_what_is_cancelled_leaves_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let slow = "bandwidth = \"4MiB/s\"";
    let mut east = site(dir.path(), "east", slow)?;
    filled(&east, dir.path(), VOLUME, 64, 7)?;
    let content = download(&east, VOLUME, "content")?;
    let operation = begin(&east, &["backup", "create", VOLUME, "--target", "disk", "--name", "n"])?;
    await_moved(&east, &operation, 8 << 20)?;
    ensure!(list(&east)?[0]["status"] == "protecting", "{:?}", list(&east)?);
    let again = ["backup", "create", VOLUME, "--target", "disk"];
    expect(&east, &again, 7, "GW0409")?;
    // Hosts write on; the run reads its snapshot.
    qemu_io(&east, VOLUME, "write -P 5 0 16M")?;
    east.kill()?;
    east.configure(&directory("disk", &dir.path().join("repository"), ""))?;
    east.start()?;
    let ended = await_end(&east, "backup")?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    let found = number(&ended, "/progress/found_bytes")?;
    println!("taken up after a kill: {found} bytes were there");
    ensure!(found > 0, "{ended:#}");
    ensure!(available(&east)? == ["n"], "{:?}", list(&east)?);

    // A restore is killed, too: hosts use the volume, and it is filled to the end.
    east.stop()?;
    east.configure(&directory("disk", &dir.path().join("repository"), slow))?;
    east.start()?;
    let operation = begin(&east, &["backup", "restore", "new", "n", "--to", "copy"])?;
    await_moved(&east, &operation, 8 << 20)?;
    let mirror = ["session", "create", "copy", "--to", "west"];
    expect(&east, &mirror, 7, "GW0490")?;
    east.kill()?;
    east.configure(&directory("disk", &dir.path().join("repository"), ""))?;
    east.start()?;
    let ended = await_end(&east, "backup-restore")?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    compare(&content, &download(&east, "copy", "restored")?)?;

    // What an operator gives up leaves nothing.
    east.stop()?;
    east.configure(&directory("disk", &dir.path().join("repository"), slow))?;
    east.start()?;
    let full = ["backup", "create", VOLUME, "--target", "disk", "--full", "--name", "given-up"];
    let operation = begin(&east, &full)?;
    await_moved(&east, &operation, 4 << 20)?;
    east.cli(&["operation", "cancel", &operation])?;
    let ended = await_end(&east, "backup")?;
    ensure!(ended["error"]["code"] == "GW0511", "{ended:#}");
    ensure!(list(&east)?.len() == 1, "{:?}", list(&east)?);
    let operation = begin(&east, &["backup", "restore", "new", "n", "--to", "other"])?;
    await_moved(&east, &operation, 4 << 20)?;
    east.cli(&["operation", "cancel", &operation])?;
    await_end(&east, "backup-restore")?;
    expect(&east, &["volume", "show", "other"], 1, "GW0204")?;
    expect(&east, &["operation", "cancel", &operation], 7, "it has ended")?;
    wait_for("one snapshot", SOON, || {
        let kept = kept(&east, VOLUME)?;
        ensure!(kept.len() == 1, "{kept:?}");
        Ok(())
    })
}

#[test]
fn an_original_whose_restore_is_cancelled_stays_closed_until_it_goes_on_or_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = site(dir.path(), "east", "bandwidth = \"4MiB/s\"")?;
    filled(&east, dir.path(), VOLUME, 32, 17)?;
    take(&east, VOLUME, "disk", "then")?;
    let then = download(&east, VOLUME, "then")?;
    qemu_io(&east, VOLUME, "write -P 3 0 16M")?;
    let now = download(&east, VOLUME, "now")?;
    let run_and_cancel = || -> Result<()> {
        let plan = east.cli(&["backup", "restore", "plan", "then"])?;
        let token = text(&plan, "/token")?;
        let operation = begin(&east, &["backup", "restore", "run", "then", "--token", &token])?;
        await_moved(&east, &operation, 6 << 20)?;
        east.cli(&["operation", "cancel", &operation])?;
        let ended = await_end(&east, "backup-restore")?;
        ensure!(ended["error"]["code"] == "GW0511", "{ended:#}");
        ensure!(attach(&east.nbd_socket(), VOLUME).is_err(), "a host attached half a volume");
        Ok(())
    };
    run_and_cancel()?;
    expect(&east, &["backup", "create", VOLUME, "--target", "disk"], 7, "GW0514")?;
    let id = text(&list(&east)?[0], "/id")?;
    east.cli(&["backup", "resume", &id])?;
    compare(&then, &download(&east, VOLUME, "resumed")?)?;
    expect(&east, &["backup", "resume", &id], 1, "GW0204")?;

    qemu_io(&east, VOLUME, "write -P 3 0 16M")?;
    run_and_cancel()?;
    let snapshots = east.cli(&["snapshot", "list", VOLUME])?;
    let snapshots = snapshots["items"].as_array().cloned().unwrap_or_default();
    let safety = snapshots.iter().rfind(|of| of["origin"] == "safety").context("none is kept")?;
    let safety = text(safety, "/name")?;
    let plan = east.cli(&["snapshot", "rollback", "plan", VOLUME, &safety])?;
    let token = text(&plan, "/token")?;
    east.cli(&["snapshot", "rollback", "run", VOLUME, &safety, "--token", &token])?;
    compare(&now, &download(&east, VOLUME, "back")?)
}

#[test]
fn bak_07_bak_10_a_limit_and_a_lock_refuse_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = site(dir.path(), "east", "backups_max = 2")?;
    filled(&east, dir.path(), VOLUME, 4, 9)?;
    for name in ["one", "two"] {
        take(&east, VOLUME, "disk", name)?;
    }
    expect(&east, &["backup", "create", VOLUME, "--target", "disk"], 7, "GW0510")?;
    ensure!(list(&east)?.len() == 2);
    let until = "2999-01-01T00:00:00Z";
    let locked = east.cli(&["backup", "lock", "one", "--until", until])?;
    ensure!(locked["locked_until"] == until, "{locked:#}");
    expect(&east, &["backup", "delete", "one"], 7, "GW0509")?;
    expect(&east, &["backup", "lock", "one", "--until", "2998-01-01T00:00:00Z"], 7, "GW0509")?;
    expect(&east, &["backup", "lock", "one", "--until", "tomorrow"], 2, "GW0203")?;
    // Deleting the newest frees its place, and its snapshot is given back.
    east.ask(&["backup", "delete", "two"])?;
    ensure!(kept(&east, VOLUME)?.is_empty(), "{:?}", kept(&east, VOLUME)?);
    let lock = ["--lock-until", until, "--name", "three"];
    east.cli(&[&["backup", "create", VOLUME, "--target", "disk"], &lock[..]].concat())?;
    expect(&east, &["backup", "delete", "three"], 7, "GW0509").map(drop)
}

#[test]
fn damage_is_named_with_what_it_hurts_and_a_full_pool_interrupts_a_restore() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = site(dir.path(), "east", "")?;
    filled(&east, dir.path(), VOLUME, 64, 11)?;
    let taken = take(&east, VOLUME, "disk", "whole")?;
    // A pool that is too small for it.
    let mut west = Site::new(dir.path(), "west")?;
    west.configure(
        &("[pool]\ncapacity = \"8MiB\"\n".to_owned()
            + &directory("disk", &dir.path().join("repository"), "")),
    )?;
    west.start()?;
    let new = ["backup", "restore", "new", "whole", "--to", "copy"];
    expect(&west, &new, 1, "GW0304")?;
    // It is used all the same: what has no room here is read where it lies.
    compare(&download(&east, VOLUME, "first")?, &download(&west, "copy", "beyond-the-room")?)?;
    west.stop()?;
    west.configure(&directory("disk", &dir.path().join("repository"), ""))?;
    west.start()?;
    let ended = await_end(&west, "backup-restore")?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    compare(&download(&east, VOLUME, "here")?, &download(&west, "copy", "there")?)?;

    let packs = dir.path().join("repository").join("packs");
    let pack = first_file(&packs)?;
    let mut bytes = std::fs::read(&pack)?;
    let at = bytes.len() / 2;
    bytes[at] ^= 0x40;
    std::fs::write(&pack, &bytes)?;
    let verify = ["backup", "verify", "--target", "disk"];
    let answer = expect(&east, &verify, 4, "GW0506")?;
    let id = text(&taken, "/id")?;
    ensure!(answer.text.contains(&id) && answer.text.contains("blocks"), "{}", answer.text);
    bytes.truncate(at);
    std::fs::write(&pack, &bytes)?;
    expect(&east, &verify, 4, "GW0506")?;
    std::fs::remove_file(&pack)?;
    expect(&east, &verify, 4, "missing")?;
    expect(&east, &["backup", "restore", "new", "whole", "--to", "broken"], 4, "GW0506")?;
    // What builds upon nothing that was stored before is whole again.
    let full = ["backup", "create", VOLUME, "--target", "disk", "--full", "--name", "again"];
    east.cli(&full)?;
    east.cli(&["backup", "verify", "again"]).map(drop)
}

pub(crate) fn first_file(folder: &Path) -> Result<PathBuf> {
    let mut entries = std::fs::read_dir(folder).context("list a folder")?;
    let first = entries.next().with_context(|| format!("nothing in {}", folder.display()))?;
    let path = first?.path();
    if path.is_dir() { first_file(&path) } else { Ok(path) }
}

#[test]
fn bak_01_in_a_real_s3_server_lost_and_refused_in_the_middle_and_no_secret_is_told() -> Result<()> {
    // Buckets are made by a client of this process.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let mut rados = Rados::start(folder.path())?;
    let user = rados.user("east")?;
    rados.bucket(&user, "backups", false)?;
    let dir = tempfile::tempdir()?;
    let credentials = dir.path().join("credentials");
    std::fs::write(&credentials, user.credentials())?;
    let mut east = Site::new(dir.path(), "east")?;
    let endpoint = rados.endpoint();
    east.configure(&format!(
        "[[backup.targets]]\nname = \"s3\"\nurl = \"s3://backups/east\"\n\
         options = [\"endpoint={endpoint}\", \"allow_http=true\", \"region=default\"]\n\
         credentials = \"{}\"\nbandwidth = \"16MiB/s\"\npatience = \"3s\"\n",
        credentials.display()
    ))?;
    east.start()?;
    east.cli(&["backup", "target", "check", "s3"])?;
    filled(&east, dir.path(), VOLUME, 128, 13)?;
    let content = download(&east, VOLUME, "content")?;

    let create = ["backup", "create", VOLUME, "--target", "s3", "--name", "lost"];
    let operation = begin(&east, &create)?;
    await_moved(&east, &operation, 20 << 20)?;
    rados.lose()?;
    let ended = await_end(&east, "backup")?;
    ensure!(ended["error"]["code"] == "GW0502", "{ended:#}");
    let next = text(&ended, "/error/next")?;
    let id = next.rsplit(' ').next().context("no backup is named")?.to_owned();
    expect(&east, &["backup", "list"], 4, "GW0502")?;
    rados.resume()?;
    let ended = east.cli(&["backup", "resume", &id])?;
    ensure!(number(&ended, "/progress/found_bytes")? > 0, "{ended:#}");

    qemu_io(&east, VOLUME, "write -P 17 64M 32M")?;
    write_random(&east, dir.path(), VOLUME, 48 << 20, 15)?;
    let create = ["backup", "create", VOLUME, "--target", "s3", "--name", "refused"];
    let operation = begin(&east, &create)?;
    await_moved(&east, &operation, 20 << 20)?;
    rados.suspend(&user, true)?;
    let ended = await_end(&east, "backup")?;
    ensure!(ended["error"]["code"] == "GW0503", "{ended:#}");
    rados.suspend(&user, false)?;
    let next = text(&ended, "/error/next")?;
    let id = next.rsplit(' ').next().context("no backup is named")?.to_owned();
    east.cli(&["backup", "resume", &id])?;
    ensure!(available(&east)? == ["lost", "refused"], "{:?}", list(&east)?);

    // A restore loses the store, and goes on.
    let operation = begin(&east, &["backup", "restore", "new", "lost", "--to", "copy"])?;
    await_moved(&east, &operation, 16 << 20)?;
    rados.lose()?;
    let ended = await_end(&east, "backup-restore")?;
    ensure!(ended["error"]["code"] == "GW0502", "{ended:#}");
    rados.resume()?;
    let lost = text(&list(&east)?[0], "/id")?;
    east.cli(&["backup", "resume", &lost])?;
    compare(&content, &download(&east, "copy", "restored")?)?;

    let log = std::fs::read_to_string(east.dir().join("log"))?;
    let events = east.ask(&["events", "--since", "0"])?.text;
    let binary = harness::binary()?.display().to_string();
    let shown = Tool::new(&binary).args(["config", "show"]).arg(east.config_file()).run()?;
    for told in [&log, &events, &shown] {
        ensure!(!told.contains("east-secret"), "a secret is told: {told}");
    }
    Ok(())
}

#[test]
fn bak_09_a_mirror_that_cannot_ask_its_primary_says_so() -> Result<()> {
    let mut pair = Pair::mirrored("16MiB")?;
    let repository = pair.dir.path().join("repository");
    pair.mirror.configure(&directory("disk", &repository, ""))?;
    pair.mirror.stop()?;
    pair.mirror.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    pair.primary.kill()?;
    let create = ["backup", "create", VOLUME, "--target", "disk"];
    let answer = pair.mirror.ask(&create)?;
    ensure!(answer.code == 6 && answer.text.contains("GW0402"), "{}", answer.text);
    ensure!(list(&pair.mirror)?.is_empty(), "{:?}", list(&pair.mirror)?);
    pair.primary.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    take(&pair.mirror, VOLUME, "disk", "now")?;
    let copy = read_copy(&pair.primary, VOLUME, "primary")?;
    pair.mirror.cli(&["backup", "restore", "new", "now", "--to", "drill"])?;
    compare(&copy, &download(&pair.mirror, "drill", "drill")?)
}

#[test]
fn a_single_gateway_says_when_nothing_is_configured() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let east = single(dir.path(), "east")?;
    let targets = east.cli(&["backup", "target", "list"])?;
    ensure!(targets["items"].as_array().is_some_and(Vec::is_empty), "{targets:#}");
    expect(&east, &["backup", "create", "x", "--target", "disk"], 7, "GW0500").map(drop)
}

#[test]
fn a_directory_that_is_not_mounted_any_more_is_told_and_nothing_is_made_in_its_place() -> Result<()>
{
    let dir = tempfile::tempdir()?;
    let mut site = site(dir.path(), "one", "")?;
    filled(&site, dir.path(), "data", 8, 1)?;
    let create = ["backup", "create", "data", "--target", "disk"];
    site.cli(&create)?;
    let (there, away) = (dir.path().join("repository"), dir.path().join("away"));
    std::fs::rename(&there, &away).context("unmount")?;
    site.kill()?;
    site.start()?;
    expect(&site, &["backup", "list"], 0, "")?;
    ensure!(!there.exists(), "a look made a directory");
    expect(&site, &create, 6, "not mounted")?;
    // The point at which it is mounted is there, and empty.
    std::fs::create_dir_all(&there).context("make a mount point")?;
    expect(&site, &create, 6, "not mounted")?;
    ensure!(std::fs::read_dir(&there)?.next().is_none(), "something was put where it is not");
    std::fs::remove_dir_all(&there)?;
    std::fs::rename(&away, &there).context("mount")?;
    let second = site.cli(&create)?;
    ensure!(second["state"] == "succeeded", "{second:#}");
    let listed = site.cli(&["backup", "list"])?;
    ensure!(listed["items"].as_array().map(Vec::len) == Some(2), "{listed:#}");
    Ok(())
}
