//! Originals that are restored over while the gateway is killed or the pool fills up.
//!
//! Invariant: what the volume holds at the end is compared with what was read of it when the backup was
//! taken, or before the restore; in between no host gets at it.

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::Value;

use crate::backup_runs::{
    await_end, await_moved, begin, directory, download, filled, list, qemu_io, take, write_random,
};
use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, compare, expect, group, migrate, number, text};
use crate::records::attach;

/// A plan to restore over the originals, and its token.
fn plan(site: &Site, backup: &str) -> Result<String> {
    text(&site.cli(&["backup", "restore", "plan", backup])?, "/token")
}

fn status(site: &Site, backup: &str) -> Result<String> {
    text(&site.cli(&["backup", "show", backup])?, "/status")
}

/// Waits until nobody reads a backup any more.
fn await_available(site: &Site, backup: &str) -> Result<()> {
    wait_for("a backup that nobody reads", SOON, || {
        let now = status(site, backup)?;
        ensure!(now == "available", "it is {now}");
        Ok(())
    })
}

/// The newest of what a site keeps by itself of before a restore or a way back.
fn safety(site: &Site) -> Result<String> {
    let all = site.cli(&["snapshot", "list", VOLUME])?;
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let newest = all.iter().rfind(|of| of["origin"] == "safety").context("nothing is kept")?;
    text(newest, "/name")
}

/// All of the first so many MiB of an export is one byte.
fn holds(site: &Site, export: &str, mib: u64, byte: u8) -> Result<()> {
    let command = format!("read -P {byte} 0 {mib}M");
    let uri = site.nbd(export);
    Tool::new("qemu-io").args(["-r", "-f", "raw", "-c", &command, &uri]).run().map(drop)
}

fn is_under_way(site: &Site) -> Result<Value> {
    let all = site.cli(&["operation", "list"])?;
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let restore = all.into_iter().find(|of| of["kind"] == "backup-restore");
    let restore = restore.context("no restore is known")?;
    ensure!(restore["state"] == "running", "{restore:#}");
    Ok(restore)
}

/// Nobody gets at half a volume, and nothing is made of it.
fn is_closed(site: &Site, backup: &str) -> Result<()> {
    ensure!(attach(&site.nbd_socket(), VOLUME).is_err(), "a host attached half a volume");
    expect(site, &["backup", "create", VOLUME, "--target", "disk"], 7, "GW0514")?;
    let now = status(site, backup)?;
    ensure!(now == "restoring", "the backup is {now}");
    Ok(())
}

#[test]
fn bak_12_an_original_whose_restore_is_killed_takes_no_host_until_it_is_whole() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    let repository = pair.dir.path().join("repository");
    let (slow, fast) = ("bandwidth = \"2MiB/s\"", "");
    let configure = |site: &Site, more: &str| site.configure(&directory("disk", &repository, more));
    configure(&pair.primary, fast)?;
    pair.primary.stop()?;
    pair.primary.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    write_random(&pair.primary, pair.dir.path(), VOLUME, 32 << 20, 41)?;
    take(&pair.primary, VOLUME, "disk", "then")?;
    let then = download(&pair.primary, VOLUME, "then")?;
    qemu_io(&pair.primary, VOLUME, "write -P 66 0 48M")?;
    configure(&pair.primary, slow)?;
    pair.primary.stop()?;
    pair.primary.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;

    let token = plan(&pair.primary, "then")?;
    let run = ["backup", "restore", "run", "then", "--token", &token];
    let operation = begin(&pair.primary, &run)?;
    await_moved(&pair.primary, &operation, 6 << 20)?;
    is_closed(&pair.primary, "then")?;
    pair.primary.kill()?;
    pair.primary.start()?;
    let east = &pair.primary;
    wait_for("the restore to be taken up", SOON, || is_under_way(east))?;
    is_closed(east, "then")?;
    let leg = &group(east)?["legs"][0];
    ensure!(leg["state"] == "suspended", "a mirror follows half a volume: {leg:#}");
    is_under_way(east).context("it was restored too early for this test")?;
    pair.primary.kill()?;
    configure(&pair.primary, fast)?;
    pair.primary.start()?;

    let east = &pair.primary;
    let ended = await_end(east, "backup-restore")?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    compare(&then, &download(east, VOLUME, "after")?)?;
    holds(east, &format!("{VOLUME}@{}", safety(east)?), 48, 66)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()?;
    // What a killed restore kept of the backup is let go with it: all of it can be given back.
    await_available(east, "then")?;
    let id = text(&list(east)?[0], "/id")?;
    east.ask(&["backup", "delete", &id])?;
    let gone = east.cli(&["backup", "gc", "--target", "disk"])?.to_string();
    ensure!(gone.contains("1 deleted backups") && !gone.contains("in use by"), "{gone}");
    Ok(())
}

/// What hosts wrote at the other site stays, also when the roles are swapped back and the site that had
/// begun to restore is started anew.
#[test]
fn bak_12_a_restore_whose_group_another_site_took_over_never_goes_on() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    let repository = pair.dir.path().join("repository");
    pair.primary.configure(&directory("disk", &repository, "bandwidth = \"2MiB/s\""))?;
    pair.primary.stop()?;
    pair.primary.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    qemu_io(&pair.primary, VOLUME, "write -P 11 0 32M")?;
    write_random(&pair.primary, pair.dir.path(), VOLUME, 16 << 20, 47)?;
    take(&pair.primary, VOLUME, "disk", "then")?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let token = plan(&pair.primary, "then")?;
    let run = ["backup", "restore", "run", "then", "--token", &token];
    let operation = begin(&pair.primary, &run)?;
    await_moved(&pair.primary, &operation, 4 << 20)?;
    pair.primary.kill()?;

    let accept = ["failover", "plan", VOLUME, "--accept", "outdated"];
    let west = &pair.mirror;
    let planned = west.wait_for(&accept, SOON, |plan| plan["token"].is_string())?;
    let token = text(&planned, "/token")?;
    west.cli(&["failover", "run", VOLUME, "--token", &token])?;
    qemu_io(west, VOLUME, "write -P 77 0 48M")?;
    pair.primary.start()?;
    pair.mirror.cli(&["reprotect", VOLUME, "--discard", "--wait"])?;
    pair.mirror.wait_equivalent(SYNC_LIMIT)?;
    let (east, west) = (&pair.primary, &pair.mirror);
    await_available(east, "then")?;
    migrate(west, east)?;
    holds(east, VOLUME, 48, 77)?;
    pair.primary.stop()?;
    pair.primary.start()?;
    let east = &pair.primary;
    east.wait_equivalent(SYNC_LIMIT)?;
    let id = text(&list(east)?[0], "/id")?;
    expect(east, &["backup", "resume", &id], 1, "GW0204")?;
    holds(east, VOLUME, 48, 77)?;
    pair.is_identical()
}

/// A site whose pool has room for a restore only as long as `ballast` is not in it, and a backup called
/// `then` of what the volume held.
fn cramped(dir: &std::path::Path) -> Result<(Site, std::path::PathBuf)> {
    let mut east = Site::new(dir, "east")?;
    let target = directory("disk", &dir.join("repository"), "");
    // 16 MiB for each: the ballast, what the backup's snapshot holds, what is written over it; and
    // half of what is restored over that.
    east.configure(&format!("[pool]\ncapacity = \"56MiB\"\n{target}"))?;
    east.start()?;
    filled(&east, dir, "ballast", 32, 43)?;
    filled(&east, dir, VOLUME, 32, 45)?;
    take(&east, VOLUME, "disk", "then")?;
    let then = download(&east, VOLUME, "then")?;
    qemu_io(&east, VOLUME, "write -P 66 0 16M")?;
    Ok((east, then))
}

/// Restores, and is told what is wrong, why, and what is next.
fn runs_out_of_room(site: &Site) -> Result<String> {
    let token = plan(site, "then")?;
    expect(site, &["backup", "restore", "run", "then", "--token", &token], 1, "GW0304")?;
    let ended = await_end(site, "backup-restore")?;
    let (detail, next) = (text(&ended, "/error/detail")?, text(&ended, "/error/next")?);
    ensure!(ended["error"]["code"] == "GW0304" && detail.contains(VOLUME), "{ended:#}");
    ensure!(next.contains("backup resume") && next.contains("snapshot list"), "{next}");
    ensure!(number(&ended, "/progress/done_bytes")? > 0, "nothing was restored: {ended:#}");
    is_closed(site, "then")?;
    let kept = safety(site)?;
    holds(site, &format!("{VOLUME}@{kept}"), 16, 66)?;
    Ok(kept)
}

#[test]
fn bak_12_a_restore_over_an_original_that_finds_no_room_goes_on_when_there_is_some() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut east, then) = cramped(dir.path())?;
    runs_out_of_room(&east)?;
    let id = text(&list(&east)?[0], "/id")?;
    expect(&east, &["backup", "resume", &id], 1, "GW0304")?;
    // A kill lets nobody in either.
    east.kill()?;
    east.start()?;
    let ended = await_end(&east, "backup-restore")?;
    ensure!(ended["error"]["code"] == "GW0304", "{ended:#}");
    ensure!(attach(&east.nbd_socket(), VOLUME).is_err(), "a host attached half a volume");
    expect(&east, &["volume", "delete", "ballast"], 0, "")?;
    // Whoever deletes the backup meanwhile, it stays for what is restored from it.
    expect(&east, &["backup", "delete", &id], 0, "")?;
    let kept = east.cli(&["backup", "gc", "--target", "disk"])?.to_string();
    ensure!(kept.contains("in use by east"), "{kept}");
    east.cli(&["backup", "resume", &id])?;
    compare(&then, &download(&east, VOLUME, "after")?)?;
    wait_for("the backup to be given back", SOON, || {
        let gone = east.cli(&["backup", "gc", "--target", "disk"])?.to_string();
        ensure!(gone.contains("1 deleted backups"), "{gone}");
        Ok(())
    })
}

#[test]
fn bak_12_a_restore_over_an_original_that_finds_no_room_leads_back_to_what_was_there() -> Result<()>
{
    let dir = tempfile::tempdir()?;
    let (east, _) = cramped(dir.path())?;
    let before = download(&east, VOLUME, "before")?;
    let kept = runs_out_of_room(&east)?;
    // The pool is as full as before.
    let plan = east.cli(&["snapshot", "rollback", "plan", VOLUME, &kept])?;
    let token = text(&plan, "/token")?;
    east.cli(&["snapshot", "rollback", "run", VOLUME, &kept, "--token", &token])?;
    compare(&before, &download(&east, VOLUME, "back")?)?;
    await_available(&east, "then")?;
    let id = text(&list(&east)?[0], "/id")?;
    expect(&east, &["backup", "resume", &id], 1, "GW0204").map(drop)
}
