//! Volumes that are restored from a backup and used before they are filled, whatever becomes of the
//! store meanwhile.
//!
//! Invariant: what such a volume shows is compared with what the original held when it was backed up,
//! by reading it over NBD; what cannot be read is an error, never zeroes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Deadline, Site, Tool, wait_for};
use serde_json::Value;

use crate::backup_runs::{
    await_end, begin, directory, download, filled, first_file, list, qemu_io, site, take,
};
use crate::pair::{SOON, SYNC_LIMIT, VOLUME, compare, expect, number, text};
use crate::rados::Rados;

const COPY: &str = "copy";
/// A step every four seconds, so that much can happen in between.
const SLOW: &str = "bandwidth = \"1MiB/s\"\npatience = \"3s\"";
const FAST: &str = "patience = \"3s\"";

/// Starts with these lines of configuration.
fn restart(site: &mut Site, lines: &str) -> Result<()> {
    site.stop()?;
    site.configure(lines)?;
    site.start()
}

fn filling(site: &Site) -> Result<Value> {
    Ok(site.cli(&["volume", "show", COPY])?["filling"].clone())
}

fn await_filled(site: &Site) -> Result<()> {
    wait_for("filling", SYNC_LIMIT, || {
        let filling = filling(site)?;
        ensure!(filling.is_null(), "{filling:#}");
        Ok(())
    })
}

/// Waits until its filling fails, with this in its cause.
fn await_failed(site: &Site, word: &str) -> Result<()> {
    wait_for("a step that fails", SOON * 4, || {
        let filling = filling(site)?;
        ensure!(filling["state"] == "failed", "{filling:#}");
        let cause = text(&filling, "/cause")?;
        ensure!(cause.contains(word), "{cause}");
        Ok(())
    })
}

/// Reads without leave to write, so that a clean end means that all of it was read.
fn reads(site: &Site, command: &str) -> Result<()> {
    let uri = site.nbd(COPY);
    Tool::new("qemu-io").args(["-r", "-f", "raw", "-c", command, &uri]).run().map(drop)
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn await_let_go(pins: &Path) -> Result<()> {
    wait_for("pins that are removed", SOON, || {
        ensure!(files(pins) == 0, "{} pins", files(pins));
        Ok(())
    })
}

#[test]
fn evs_05_a_restored_volume_is_used_before_it_is_filled_and_keeps_its_backup() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let repository = dir.path().join("repository");
    let mut east = site(dir.path(), "east", SLOW)?;
    restart(&mut east, &directory("disk", &repository, FAST))?;
    filled(&east, dir.path(), VOLUME, 64, 21)?;
    take(&east, VOLUME, "disk", "first")?;
    qemu_io(&east, VOLUME, "write -P 9 20M 4M")?;
    let content = download(&east, VOLUME, "content")?;
    take(&east, VOLUME, "disk", "kept")?;
    restart(&mut east, &directory("disk", &repository, SLOW))?;

    let operation = begin(&east, &["backup", "restore", "new", "kept", "--to", COPY])?;
    compare(&content, &download(&east, COPY, "at-once")?)?;
    let now = filling(&east)?;
    ensure!(text(&now, "/from")?.contains("in disk"), "{now:#}");
    // EVS-05: it is no source of a mirror, no member of a group and not backed up until it is filled.
    expect(&east, &["session", "create", COPY, "--to", "west"], 7, "GW0490")?;
    expect(&east, &["group", "create", "several", "--volume", COPY], 7, "GW0490")?;
    expect(&east, &["group", "add", VOLUME, COPY], 7, "GW0490")?;
    expect(&east, &["volume", "digest", COPY], 7, "GW0490")?;
    expect(&east, &["backup", "create", COPY, "--target", "disk"], 7, "GW0490")?;
    // The backup goes from the list, and what it holds stays for the volume.
    let pins = repository.join("pins");
    ensure!(files(&pins) == 1, "{} pins", files(&pins));
    let all = list(&east)?;
    let statuses = [&all[0]["status"], &all[1]["status"]];
    ensure!(statuses == ["available", "restoring"], "{statuses:?}");
    let id = text(&all[1], "/id")?;
    east.ask(&["backup", "delete", &id])?;
    east.cli(&["backup", "gc", "--target", "disk"])?;
    // Hosts change it meanwhile: parts of blocks too.
    qemu_io(&east, COPY, "write -P 5 1000 3000")?;
    qemu_io(&east, COPY, "write -z -u 8M 1M")?;
    let wanted = download(&east, COPY, "wanted")?;
    for round in 0..2 {
        std::thread::sleep(Duration::from_millis(700 * round));
        wait_for("the restore to be followed", SOON, || {
            let all = east.cli(&["operation", "list"])?;
            let mut all = all["items"].as_array().into_iter().flatten();
            let restore = all.find(|of| of["kind"] == "backup-restore");
            ensure!(restore.context("there is none")?["state"] == "running", "{restore:?}");
            Ok(())
        })?;
        east.kill()?;
        east.start()?;
        compare(&wanted, &download(&east, COPY, "found")?)?;
    }
    ensure!(!filling(&east)?.is_null(), "it was filled too early for this test");
    expect(&east, &["operation", "show", &operation], 1, "GW0204")?;
    ensure!(files(&pins) == 1, "{} pins", files(&pins));
    restart(&mut east, &directory("disk", &repository, FAST))?;
    let ended = await_end(&east, "backup-restore")?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    await_filled(&east)?;
    await_let_go(&pins)?;
    compare(&wanted, &download(&east, COPY, "filled")?)?;
    let gone = east.cli(&["backup", "gc", "--target", "disk"])?;
    ensure!(gone.to_string().contains("1 deleted backups"), "{gone:#}");
    // From here on it is a volume as any other: there is no such site, that is all.
    expect(&east, &["session", "create", COPY, "--to", "west"], 7, "GW0401")?;
    take(&east, COPY, "disk", "of-the-copy")?;
    east.cli(&["group", "create", "several", "--volume", COPY])?;
    // It needs nothing else.
    std::fs::remove_dir_all(&repository)?;
    compare(&wanted, &download(&east, COPY, "alone")?)
}

#[test]
fn evs_05_a_volume_whose_filling_is_given_up_or_deleted_lets_its_backup_go() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let repository = dir.path().join("repository");
    let pins = repository.join("pins");
    let mut east = site(dir.path(), "east", FAST)?;
    filled(&east, dir.path(), VOLUME, 64, 23)?;
    take(&east, VOLUME, "disk", "kept")?;
    restart(&mut east, &directory("disk", &repository, SLOW))?;
    let new = ["backup", "restore", "new", "kept", "--to", COPY];
    // While it is used it stays.
    let operation = begin(&east, &new)?;
    let host = crate::records::attach(&east.nbd_socket(), COPY)?;
    east.cli(&["operation", "cancel", &operation])?;
    let ended = await_end(&east, "backup-restore")?;
    ensure!(ended["error"]["code"] == "GW0302", "{ended:#}");
    drop(host);
    expect(&east, &new, 7, "GW0205")?;
    ensure!(!filling(&east)?.is_null(), "it was filled too early for this test");
    wait_for("its host to leave", SOON, || expect(&east, &["volume", "delete", COPY], 0, ""))?;
    await_let_go(&pins)?;
    let operation = begin(&east, &new)?;
    east.cli(&["operation", "cancel", &operation])?;
    let ended = await_end(&east, "backup-restore")?;
    ensure!(ended["error"]["code"] == "GW0511", "{ended:#}");
    expect(&east, &["volume", "show", COPY], 1, "GW0204")?;
    await_let_go(&pins)
}

#[test]
fn evs_05_what_is_damaged_or_whose_target_is_gone_is_an_error_and_never_zeroes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let repository = dir.path().join("repository");
    let mut east = site(dir.path(), "east", FAST)?;
    filled(&east, dir.path(), VOLUME, 64, 25)?;
    qemu_io(&east, VOLUME, "write -P 7 48M 1M")?;
    take(&east, VOLUME, "disk", "kept")?;
    let content = download(&east, VOLUME, "content")?;
    restart(&mut east, &directory("disk", &repository, SLOW))?;
    begin(&east, &["backup", "restore", "new", "kept", "--to", COPY])?;
    // Whoever takes the target out of the configuration is told, where it is missed.
    restart(&mut east, "")?;
    await_failed(&east, "no target \"disk\"")?;
    ensure!(reads(&east, "read 30M 4k").is_err(), "it was read from nowhere");

    restart(&mut east, &directory("disk", &repository, SLOW))?;
    reads(&east, "read -P 7 48M 1M")?;
    // The pack with the random half is cut off in its middle.
    let pack = first_file(&repository.join("packs"))?;
    let whole = std::fs::read(&pack)?;
    std::fs::write(&pack, &whole[..whole.len() / 2])?;
    let refused = (0..32).filter(|at| reads(&east, &format!("read {at}M 4k")).is_err()).count();
    println!("{refused} of 32 places cannot be read");
    ensure!(refused > 0, "nothing was missed of a pack of which half is gone");
    restart(&mut east, &directory("disk", &repository, FAST))?;
    let ended = await_end(&east, "backup-restore")?;
    ensure!(ended["error"]["code"] == "GW0506", "{ended:#}");
    await_failed(&east, "packs/")?;
    let metrics = east.metrics()?;
    ensure!(metrics.contains("twinspan_volume_fill_waits{volume=\"copy\"} 1"), "{metrics}");
    // Put back, it is filled to the end.
    std::fs::write(&pack, &whole)?;
    await_filled(&east)?;
    compare(&content, &download(&east, COPY, "filled")?)
}

#[test]
fn evs_05_from_a_real_s3_server_a_tebibyte_is_there_at_once_and_outlives_its_loss() -> Result<()> {
    // Buckets are made by a client of this process.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let mut rados = Rados::start(folder.path())?;
    let user = rados.user("east")?;
    rados.bucket(&user, "backups", false)?;
    let dir = tempfile::tempdir()?;
    let credentials = dir.path().join("credentials");
    std::fs::write(&credentials, user.credentials())?;
    let endpoint = rados.endpoint();
    let target = |more: &str| {
        format!(
            "[[backup.targets]]\nname = \"s3\"\nurl = \"s3://backups/east\"\n\
             options = [\"endpoint={endpoint}\", \"allow_http=true\", \"region=default\"]\n\
             credentials = \"{}\"\n{more}\n",
            credentials.display()
        )
    };
    let mut east = Site::new(dir.path(), "east")?;
    east.configure(&target(FAST))?;
    east.start()?;
    east.cli(&["volume", "create", VOLUME, "--size", "1TiB"])?;
    crate::backup_runs::write_random(&east, dir.path(), VOLUME, 96 << 20, 27)?;
    for at in [1_u64, 77, 512, 1023] {
        qemu_io(&east, VOLUME, &format!("write -P {} {at}G 1M", at % 251 + 1))?;
    }
    take(&east, VOLUME, "s3", "kept")?;
    restart(&mut east, &target(SLOW))?;

    let begun = Deadline::after(SYNC_LIMIT);
    begin(&east, &["backup", "restore", "new", "kept", "--to", COPY])?;
    let made = begun.elapsed();
    reads(&east, "read -P 11 512G 4k")?;
    println!("1 TiB restored from S3: made in {made:?}, first byte read in {:?}", begun.elapsed());
    let begun = Deadline::after(SYNC_LIMIT);
    reads(&east, "read -P 78 77G 64k")?;
    println!("another first touch: {:?}", begun.elapsed());
    wait_for("what is left to be counted", SOON, || number(&filling(&east)?, "/left_bytes"))?;
    qemu_io(&east, COPY, "write -P 3 700G 64k")?;

    rados.lose()?;
    await_failed(&east, "")?;
    ensure!(reads(&east, "read 1023G 4k").is_err(), "it was read without the store");
    reads(&east, "read -P 3 700G 64k")?;
    let ended = await_end(&east, "backup-restore")?;
    ensure!(ended["error"]["code"] == "GW0502", "{ended:#}");
    east.kill()?;
    east.start()?;
    reads(&east, "read -P 3 700G 64k")?;
    rados.resume()?;
    restart(&mut east, &target(FAST))?;
    let id = text(&list(&east)?[0], "/id")?;
    // It is followed already, or again by a word.
    east.ask(&["backup", "resume", &id])?;
    await_filled(&east)?;
    for at in [1_u64, 77, 512, 1023] {
        reads(&east, &format!("read -P {} {at}G 1M", at % 251 + 1))?;
    }
    reads(&east, "read -P 0 300G 1M")?;
    let dump = |volume: &str| -> Result<Vec<String>> {
        let command = ["-r", "-f", "raw", "-c", "read -v 50M 64k"];
        let shown = Tool::new("qemu-io").args(command).arg(east.nbd(volume)).run()?;
        // What follows the bytes is how long it took.
        Ok(shown.lines().take(64 << 6).map(str::to_owned).collect())
    };
    ensure!(dump(VOLUME)? == dump(COPY)?, "the copies differ");

    goes_without_the_store(&mut rados, &mut east, (&target(SLOW), &target(FAST)))
}

/// Without the store a volume goes all the same, and its pin when the store is back.
fn goes_without_the_store(
    rados: &mut Rados,
    east: &mut Site,
    (slow, fast): (&str, &str),
) -> Result<()> {
    restart(east, slow)?;
    begin(east, &["backup", "restore", "new", "kept", "--to", "other"])?;
    rados.lose()?;
    wait_for("a volume that goes", SOON, || expect(east, &["volume", "delete", "other"], 0, ""))?;
    rados.resume()?;
    restart(east, fast)?;
    wait_for("the pin to be removed", SOON, || {
        let of = east.cli(&["backup", "gc", "--target", "s3", "--dry-run"])?.to_string();
        ensure!(!of.contains("in use by"), "{of}");
        Ok(())
    })
}
