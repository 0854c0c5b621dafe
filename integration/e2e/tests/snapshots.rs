//! Snapshots of groups: taken under load, read at both sites, deleted in any order, gone back to.
//!
//! Invariant: what a snapshot holds is compared by reading it, at every site that says it keeps it.

use std::io::{Read, Seek, SeekFrom};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, wait_for};
use serde_json::Value;

use crate::chain::{Chain, Plan, read_front};
use crate::pair::{
    Pair, SOON, SYNC_LIMIT, VOLUME, await_group, compare, expect, group, number, set, single, text,
};
use crate::random::Random;
use crate::records::{Journal, Load, attach, random_file};

/// How often a rollback is killed: `TWINSPAN_KILLS`, or 4.
pub(crate) fn kills() -> u64 {
    let set = std::env::var("TWINSPAN_KILLS").ok().and_then(|text| text.parse().ok());
    set.unwrap_or(4)
}

fn take(site: &Site, name: &str) -> Result<Value> {
    site.cli(&["snapshot", "create", VOLUME, "--name", name])
}

fn delete(site: &Site, name: &str) -> Result<()> {
    expect(site, &["snapshot", "delete", VOLUME, name], 0, "").map(drop)
}

/// The snapshots at a site, oldest first.
fn list(site: &Site) -> Result<Vec<Value>> {
    let answer = site.cli(&["snapshot", "list", VOLUME])?;
    answer["items"].as_array().cloned().with_context(|| format!("no items in {answer}"))
}

fn names(site: &Site) -> Result<Vec<String>> {
    list(site)?.iter().map(|snapshot| text(snapshot, "/name")).collect()
}

/// The names of those that operators asked for, once those that are on their way out are gone.
fn await_names(site: &Site, wanted: &[&str]) -> Result<()> {
    wait_for(&format!("snapshots at {}", site.name()), SOON, || {
        let listed = list(site)?;
        let manual = listed.iter().filter(|snapshot| snapshot["origin"] == "manual");
        let manual: Vec<String> = manual.map(|of| text(of, "/name")).collect::<Result<_>>()?;
        ensure!(manual == wanted, "they are {manual:?}");
        Ok(())
    })
}

/// The sites that keep a snapshot, as this one knows it.
fn holders(site: &Site, name: &str) -> Result<Vec<String>> {
    let shown = site.cli(&["snapshot", "show", VOLUME, name])?;
    let sites = shown["held_by"].as_array().into_iter().flatten();
    sites.map(|holder| text(holder, "/site")).collect()
}

fn at(name: &str) -> String {
    format!("{VOLUME}@{name}")
}

fn qemu_io(site: &Site, command: &str) -> Result<()> {
    let uri = site.nbd(VOLUME);
    Tool::new("qemu-io").args(["-f", "raw", "-c", command, "-c", "flush", &uri]).run()?;
    Ok(())
}

/// Writes a pattern through NBD, at this many KiB, so many KiB long.
fn write(site: &Site, at_kib: u64, kib: u64, pattern: u8) -> Result<()> {
    qemu_io(site, &format!("write -P {pattern} {at_kib}k {kib}k"))
}

/// An export is all of one pattern there.
fn holds(site: &Site, export: &str, (at_kib, kib): (u64, u64), pattern: u8) -> Result<()> {
    let command = format!("read -P {pattern} {at_kib}k {kib}k");
    let uri = site.nbd(export);
    Tool::new("qemu-io").args(["-r", "-f", "raw", "-c", &command, &uri]).run().map(drop)
}

/// An export, byte for byte, in a file of the site's folder.
fn download(site: &Site, export: &str, file: &str) -> Result<std::path::PathBuf> {
    let path = site.dir().join(file);
    Tool::new("nbdcopy").arg(site.nbd(export)).arg(&path).run()?;
    Ok(path)
}

/// Plans a rollback and runs it.
fn roll_back(site: &Site, name: &str, more: &[&str]) -> Result<Value> {
    let plan = site.cli(&["snapshot", "rollback", "plan", VOLUME, name])?;
    let token = text(&plan, "/token")?;
    let run = ["snapshot", "rollback", "run", VOLUME, name, "--token", &token];
    site.cli(&[&run[..], more].concat())?;
    Ok(plan)
}

fn events(site: &Site) -> Result<String> {
    Ok(site.ask(&["events", "--since", "0"])?.text)
}

/// What the last copy to the mirror had to move, and whether it was a full one.
fn moved(site: &Site) -> Result<(u64, bool)> {
    let sessions = site.cli(&["session", "list"])?;
    let bytes = number(&sessions, "/items/0/resync_total_bytes")?;
    Ok((bytes, text(&sessions, "/items/0/resync_kind")? == "full"))
}

#[test]
fn snap_01_a_snapshot_under_load_is_the_same_at_both_sites_and_takes_no_writes() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let journal = Journal::new(1, 0, 4, 512);
    let load = Load::start(&journal, &east.nbd_socket(), VOLUME)?;
    load.await_more(200, SYNC_LIMIT)?;
    // Everything that was acknowledged before is in it; what was sent until it is there may be.
    let before = journal.snapshot();
    let taken = take(east, "before")?;
    before.permit(&journal.snapshot());
    ensure!(taken["state"] == "available" && taken["origin"] == "manual", "{taken:#}");
    ensure!(number(&taken, "/volumes/0/bytes")? == 64 << 20, "{taken:#}");
    load.await_more(200, SYNC_LIMIT)?;
    load.end()?.is_undisturbed()?;

    wait_for("the mirror's word", SOON, || {
        let holders = holders(east, "before")?;
        ensure!(holders == ["east", "west"], "{holders:?}");
        Ok(())
    })?;
    ensure!(holders(west, "before")? == ["west"]);
    for site in [east, west] {
        let found = before.is_intact(&site.nbd_socket(), &at("before"))?;
        println!("{}: {found:?}", site.name());
    }
    let copies =
        [download(east, &at("before"), "before")?, download(west, &at("before"), "before")?];
    compare(&copies[0], &copies[1])?;
    // The mirror's own volume is not served, and a snapshot takes no writes anywhere.
    ensure!(attach(&west.nbd_socket(), VOLUME).is_err(), "the mirror serves its volume");
    for site in [east, west] {
        let info = Tool::new("nbdinfo").arg(site.nbd(&at("before"))).run()?;
        ensure!(info.contains("is_read_only: true"), "{info}");
        let listed = Tool::new("nbdinfo").args(["--list", &site.nbd("")]).run().unwrap_or_default();
        ensure!(!listed.contains(&at("before")), "{listed}");
    }
    // What it takes is accounted: what was written since is its own.
    let shown = east.cli(&["snapshot", "show", VOLUME, "before"])?;
    ensure!(number(&shown, "/exclusive_bytes")? > 0, "{shown:#}");
    let metrics = east.metrics()?;
    ensure!(metrics.contains("twinspan_snapshots{group=\"orders\"} 1"), "{metrics}");
    for site in [east, west] {
        let told = events(site)?;
        ensure!(told.contains("orders@before") && told.contains("kept here"), "{told}");
    }
    ensure!(attach(&east.nbd_socket(), &at("nothing")).is_err(), "an unknown one is served");
    Ok(())
}

#[test]
fn snap_01_volumes_of_a_group_are_kept_at_one_moment_of_their_writers() -> Result<()> {
    let pair = Pair::joined()?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let volumes: Vec<String> = (0..4).map(|index| format!("book-{index}")).collect();
    for volume in &volumes {
        east.cli(&["volume", "create", volume, "--size", "16MiB"])?;
    }
    let mut arguments = vec!["group", "create", "books"];
    volumes.iter().for_each(|name| arguments.extend(["--volume", name.as_str()]));
    east.cli(&arguments)?;
    east.cli(&["session", "create", "books", "--to", "west"])?;
    east.wait_equivalent(SYNC_LIMIT)?;
    let plan = Plan { volumes: 4, writers: 4, slots: 64 };
    let chain = Chain::start(plan, &east.nbd_socket(), &volumes, &[0; 4])?;
    for name in ["one", "two", "three"] {
        std::thread::sleep(Duration::from_millis(100));
        let held = chain.acknowledged();
        let taken = east.cli(&["snapshot", "create", "books", "--name", name])?;
        ensure!(taken["volumes"].as_array().map(Vec::len) == Some(4), "{taken:#}");
        let mut newest = Vec::new();
        for site in [east, west] {
            wait_for(&format!("{name} at {}", site.name()), SOON, || {
                site.cli(&["snapshot", "show", "books", name])
            })?;
            let fronts = volumes.iter().map(|volume| {
                read_front(&site.nbd_socket(), &format!("{volume}@{name}"), plan.bytes())
            });
            newest.push(plan.check(&fronts.collect::<Result<Vec<_>>>()?)?);
        }
        ensure!(newest[0] == newest[1], "the sites differ: {newest:?}");
        let has_all = newest[0].iter().zip(&held).all(|(found, held)| found >= held);
        ensure!(has_all, "{name}: {held:?} were acknowledged before, and {newest:?} are there");
    }
    chain.end().map(drop)
}

#[test]
fn snap_02_snap_09_a_mirrored_volume_goes_back_and_its_mirror_follows_by_delta() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    write(east, 0, 16 << 10, 1)?;
    take(east, "good")?;
    let good = download(east, &at("good"), "good")?;
    // As ransomware would.
    write(east, 1024, 1024, 0xee)?;
    let bad = download(east, VOLUME, "bad")?;
    let (host, _) = attach(&east.nbd_socket(), VOLUME)?;

    let plan = expect(east, &["snapshot", "rollback", "plan", VOLUME, "good"], 0, "")?.json;
    ensure!(number(&plan, "/changed_bytes")? == 1 << 20, "{plan:#}");
    ensure!(number(&plan, "/hosts")? == 1 && plan["sessions"][0] == "west", "{plan:#}");
    let token = text(&plan, "/token")?;
    let run = ["snapshot", "rollback", "run", VOLUME, "good", "--token", &token];
    expect(east, &run, 7, "GW0462")?;
    ensure!(group(east)?["serving"] == "yes", "nothing was begun");
    let done = east.cli(&[&run[..], &["--drop-hosts"]].concat())?;
    println!("{:#}", done["steps"]);
    drop(host);
    expect(east, &run, 7, "GW0411")?;

    east.wait_equivalent(SYNC_LIMIT)?;
    let (bytes, full) = moved(east)?;
    println!("{bytes} bytes were to be moved");
    ensure!(!full && bytes <= 4 << 20, "{bytes} bytes were moved, full: {full}");
    compare(&good, &download(east, VOLUME, "again")?)?;
    pair.is_identical()?;
    for site in [east, west] {
        compare(&good, &download(site, &at("good"), "still")?)?;
    }

    // What was there before is kept, and can be returned to; only the newest of such is.
    let safety = list(east)?.into_iter().find(|of| of["origin"] == "safety");
    let first = text(&safety.context("nothing is kept")?, "/name")?;
    ensure!(first.starts_with("auto."), "{first}");
    compare(&bad, &download(east, &at(&first), "kept")?)?;
    roll_back(east, &first, &[])?;
    compare(&bad, &download(east, VOLUME, "bad-again")?)?;
    east.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()?;
    wait_for("the older one's end", SOON, || {
        let auto = names(east)?.into_iter().filter(|name| name.starts_with("auto."));
        let auto: Vec<String> = auto.collect();
        ensure!(auto.len() == 1 && auto[0] != first, "{auto:?}");
        Ok(())
    })?;
    let told = events(east)?;
    ensure!(told.contains("rollback begun") && told.contains("rolled back"), "{told}");
    // A mirror does not go back on its own.
    let blocked = expect(west, &["snapshot", "rollback", "plan", VOLUME, "good"], 7, "blocked")?;
    ensure!(blocked.json["token"].is_null(), "{}", blocked.text);
    Ok(())
}

#[test]
fn snap_02_a_session_that_was_suspended_stays_so_and_a_lost_mirror_is_no_obstacle() -> Result<()> {
    let pair = Pair::relayed("32MiB")?;
    let east = &pair.primary;
    write(east, 0, 1024, 1)?;
    take(east, "good")?;
    write(east, 0, 64, 2)?;
    east.cli(&["session", "suspend", VOLUME])?;
    roll_back(east, "good", &[])?;
    holds(east, VOLUME, (0, 1024), 1)?;
    ensure!(group(east)?["legs"][0]["state"] == "suspended", "it was resumed");
    east.cli(&["session", "resume", VOLUME, "--wait"])?;
    pair.is_identical()?;

    // The link is down: the mirror learns of it when it is back.
    write(east, 512, 64, 3)?;
    pair.cut();
    await_group(east, "the loss", SOON, |group| group["legs"][0]["state"] == "halted")?;
    write(east, 768, 64, 4)?;
    roll_back(east, "good", &[])?;
    holds(east, VOLUME, (0, 1024), 1)?;
    pair.mend();
    east.wait_equivalent(SYNC_LIMIT)?;
    ensure!(!moved(east)?.1, "a full copy");
    pair.is_identical()
}

#[test]
fn snap_04_the_eighth_is_refused_and_they_are_deleted_in_any_order() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    let all: Vec<String> = (1..=7).map(|index| format!("s{index}")).collect();
    for (index, name) in all.iter().enumerate() {
        write(east, 4 * index as u64, 128, u8::try_from(index + 1)?)?;
        take(east, name)?;
    }
    expect(east, &["snapshot", "create", VOLUME, "--name", "s8"], 7, "GW0460")?;
    ensure!(names(east)? == all, "{:?}", names(east)?);
    wait_for("all of them at the mirror", SOON, || {
        let found = names(west)?;
        ensure!(found == all, "{found:?}");
        Ok(())
    })?;
    let mut left: Vec<(usize, &String)> = all.iter().enumerate().collect();
    let mut random = Random::announced("snap_04")?;
    let whole = |site: &Site, left: &[(usize, &String)]| -> Result<()> {
        for (index, name) in left {
            holds(site, &at(name), (4 * *index as u64, 128), u8::try_from(index + 1)?)?;
        }
        Ok(())
    };
    // One at the mirror alone, the others at both.
    let (_, gone) = left.remove(random.index(left.len()));
    delete(west, gone)?;
    let still: Vec<&str> = left.iter().map(|(_, name)| name.as_str()).collect();
    await_names(west, &still)?;
    ensure!(names(east)? == all, "a mirror deletes its own only");
    delete(east, gone)?;
    while !left.is_empty() {
        whole(east, &left)?;
        whole(west, &left)?;
        let (_, gone) = left.remove(random.index(left.len()));
        println!("delete {gone}");
        delete(east, gone)?;
        let still: Vec<&str> = left.iter().map(|(_, name)| name.as_str()).collect();
        await_names(east, &still)?;
        await_names(west, &still)?;
    }
    expect(east, &["snapshot", "delete", VOLUME, "s1"], 1, "GW0204")?;
    pair.is_identical()?;
    // There is room again, and the limit is what is configured.
    take(east, "s8").map(drop)
}

#[test]
fn snap_04_the_limit_is_configured_and_what_is_being_deleted_does_not_count() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::new(dir.path(), "east")?;
    set(&site, "snapshots", "max_manual = 1")?;
    site.start()?;
    site.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    take(&site, "one")?;
    let refused = expect(&site, &["snapshot", "create", VOLUME], 7, "GW0460")?;
    ensure!(refused.text.contains("max_manual"), "{}", refused.text);
    delete(&site, "one")?;
    // No name: the time.
    let taken = site.cli(&["snapshot", "create", VOLUME])?;
    let name = text(&taken, "/name")?;
    ensure!(name.ends_with('Z') && name.contains('T'), "{name}");
    site.stop()?;
    site.start()?;
    await_names(&site, &[&name])?;
    holds(&site, &at(&name), (0, 64), 0)
}

#[test]
fn snap_05_states_are_told_and_a_deleted_snapshot_stays_for_who_reads_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = single(dir.path(), "east")?;
    site.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    write(&site, 0, 1024, 7)?;
    let taken = take(&site, "kept")?;
    ensure!(taken["state"] == "available", "{taken:#}");
    ensure!(taken["allowed_actions"][0] == "snapshot.delete", "{taken:#}");
    let by_id = site.cli(&["snapshot", "show", VOLUME, &text(&taken, "/id")?])?;
    ensure!(by_id["name"] == "kept", "{by_id:#}");
    let (mut reader, size) = attach(&site.nbd_socket(), &at("kept"))?;
    ensure!(size == 16 << 20, "{size}");
    write(&site, 0, 1024, 8)?;
    delete(&site, "kept")?;
    await_names(&site, &[])?;
    ensure!(attach(&site.nbd_socket(), &at("kept")).is_err(), "it is served anew");
    let mut content = vec![0; 1 << 20];
    reader.seek(SeekFrom::Start(0))?;
    reader.read_exact(&mut content)?;
    ensure!(content.iter().all(|byte| *byte == 7), "the reader lost it");
    let told = events(&site)?;
    ensure!(told.contains("orders@kept") && told.contains("deleted"), "{told}");
    expect(&site, &["snapshot", "show", VOLUME, "c"], 1, "GW0204").map(drop)
}

#[test]
fn snap_06_a_volume_takes_its_snapshots_along_when_it_is_deleted() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = single(dir.path(), "east")?;
    site.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    write(&site, 0, 1024, 7)?;
    take(&site, "kept")?;
    let (reader, _) = attach(&site.nbd_socket(), &at("kept"))?;
    expect(&site, &["volume", "delete", VOLUME], 7, "GW0302")?;
    drop(reader);
    wait_for("the volume's end", SOON, || expect(&site, &["volume", "delete", VOLUME], 0, ""))?;
    site.cli(&["volume", "create", VOLUME, "--size", "16MiB"])?;
    ensure!(names(&site)?.is_empty(), "the new volume has old snapshots");
    ensure!(attach(&site.nbd_socket(), &at("kept")).is_err(), "it is served");
    holds(&site, VOLUME, (0, 1024), 0)
}

#[test]
fn snap_07_reserved_and_odd_names_are_refused() -> Result<()> {
    let pair = Pair::mirrored("16MiB")?;
    let east = &pair.primary;
    let create = |name| ["snapshot", "create", VOLUME, "--name", name];
    expect(east, &create("auto.mine"), 2, "GW0461")?;
    expect(east, &create("a@b"), 2, "GW0203")?;
    expect(east, &create(".x"), 2, "GW0203")?;
    take(east, "one")?;
    expect(east, &create("one"), 7, "GW0205")?;
    expect(&pair.mirror, &create("two"), 7, "GW0405")?;
    expect(east, &["snapshot", "create", "nothing"], 1, "GW0204")?;
    ensure!(names(east)? == ["one"]);
    Ok(())
}

/// Runs a command of the product against a site, and does not wait.
pub(crate) fn begin(site: &Site, arguments: &[&str]) -> Result<Child> {
    Command::new(harness::binary()?)
        .args(arguments)
        .env("TWINSPAN_URL", format!("https://127.0.0.1:{}", site.ports().api))
        .env("TWINSPAN_TOKEN_FILE", site.data_dir().join("admin.token"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start the command line")
}

/// All of the volume's first MiB is one of two patterns; which.
fn which(site: &Site, patterns: [u8; 2]) -> Result<u8> {
    let (mut client, _) = attach(&site.nbd_socket(), VOLUME)?;
    let mut content = vec![0; 1 << 20];
    client.seek(SeekFrom::Start(0))?;
    client.read_exact(&mut content)?;
    let found = patterns.into_iter().find(|pattern| content.iter().all(|byte| byte == pattern));
    found.context("the volume is neither what it was nor what the snapshot is")
}

#[test]
fn snap_02_a_rollback_that_is_killed_is_whole_or_not_at_all_and_its_session_goes_on() -> Result<()>
{
    let mut random = Random::announced("snap_02_killed")?;
    let mut pair = Pair::mirrored("32MiB")?;
    let mut outcomes = [0, 0];
    for round in 0..kills() {
        let (good, bad) = (1, 0xee);
        write(&pair.primary, 0, 1024, good)?;
        take(&pair.primary, &format!("r{round}"))?;
        write(&pair.primary, 0, 1024, bad)?;
        let name = format!("r{round}");
        let plan = pair.primary.cli(&["snapshot", "rollback", "plan", VOLUME, &name])?;
        let token = text(&plan, "/token")?;
        let site = &pair.primary;
        let mut pause = Duration::from_millis(random.within(0..120));
        if round == 0 {
            // At least one is over: its session may not be resumed yet.
            pause = Duration::from_secs(1);
        }
        let run = ["snapshot", "rollback", "run", VOLUME, &name, "--token", &token];
        let mut call = begin(site, &run)?;
        std::thread::sleep(pause);
        pair.primary.kill()?;
        // Its gateway is gone, or it was done.
        call.wait().context("await the end of the call")?;
        pair.primary.start()?;
        pair.primary.wait_equivalent(SYNC_LIMIT)?;
        let operations = |site: &Site| -> Result<Vec<Value>> {
            let list = site.cli(&["operation", "list"])?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            ensure!(items.iter().all(|of| of["state"] != "running"), "{list:#}");
            Ok(items)
        };
        let ended = wait_for("the end of what was taken up", SOON, || operations(&pair.primary))?;
        pair.primary.wait_equivalent(SYNC_LIMIT)?;
        let found = which(&pair.primary, [good, bad])?;
        // One that changed nothing says so.
        let is_undone = |of: &Value| of["error"]["code"] == "GW0465" && found == bad;
        let is_true = |of: &Value| of["state"] == "succeeded" || is_undone(of);
        ensure!(ended.iter().all(is_true), "{ended:?}");
        outcomes[usize::from(found == good)] += 1;
        println!("{round}: killed after {pause:?}: {found:#x}");
        pair.is_identical()?;
        delete(&pair.primary, &name)?;
        await_names(&pair.primary, &[])?;
        ensure!(names(&pair.primary)?.len() <= 2, "{:?}", names(&pair.primary)?);
    }
    println!("not gone back {}, gone back {}", outcomes[0], outcomes[1]);
    ensure!(outcomes[1] > 0, "no rollback came to its end");
    Ok(())
}

#[test]
fn snap_01_a_large_snapshot_is_the_image_that_was_written() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    let east = &pair.primary;
    let image = random_file(&pair.dir.path().join("image"), 64 << 20, 1)?;
    Tool::new("nbdcopy").arg("--flush").arg(&image).arg(east.nbd(VOLUME)).run()?;
    take(east, "image")?;
    write(east, 0, 32 << 10, 9)?;
    for site in [east, &pair.mirror] {
        compare(&image, &download(site, &at("image"), "image")?)?;
    }
    Ok(())
}
