//! Three sites in a row: a mirror is mirrored on.

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, wait_for};

use crate::pair::{Pair, SYNC_LIMIT, VOLUME, await_group, digest, fail_over, serves, text};

/// Writes 4 KiB of a pattern through NBD, at this many KiB.
fn write(site: &Site, at_kib: u32, pattern: u8) -> Result<()> {
    let command = format!("write -P {pattern} {at_kib}k 4k");
    let uri = site.nbd(VOLUME);
    Tool::new("qemu-io").args(["-f", "raw", "-c", &command, "-c", "flush", &uri]).run()?;
    Ok(())
}

/// Both copies are the same, sooner or later: every block of both is read.
fn await_same(one: &Site, other: &Site) -> Result<()> {
    wait_for("the copies to be the same", SYNC_LIMIT, || {
        let digests = [digest(one)?, digest(other)?];
        ensure!(digests[0] == digests[1], "the copies differ: {digests:?}");
        Ok(())
    })
}

fn refused(site: &Site, arguments: &[&str], code: &str) -> Result<()> {
    let answer = site.ask(arguments)?;
    let is_so = answer.code == 7 && answer.text.contains(code);
    ensure!(is_so, "{arguments:?}: {}\n{}", answer.code, answer.text);
    Ok(())
}

#[test]
fn rec_27_a_mirror_is_mirrored_on_and_goes_on_by_delta_when_the_primary_is_lost() -> Result<()> {
    let mut pair = Pair::mirrored("32MiB")?;
    let mut north = Site::new(pair.dir.path(), "north")?;
    north.start()?;
    pair.mirror.join(&north)?;
    write(&pair.primary, 64, 7)?;

    let create = |to, more: &[&'static str]| {
        let mut arguments = vec!["session", "create", VOLUME, "--to", to];
        arguments.extend(more);
        arguments
    };
    refused(&pair.mirror, &create("east", &[]), "GW0433")?;
    refused(&pair.mirror, &create("north", &["--mode", "sync"]), "GW0432")?;
    pair.mirror.cli(&create("north", &["--transfer-every", "1s"]))?;
    await_same(&pair.primary, &north)?;
    write(&pair.primary, 128, 9)?;
    await_same(&pair.primary, &north)?;
    let here = await_group(&north, "a whole point", SYNC_LIMIT, |group| {
        group.pointer("/quality").and_then(serde_json::Value::as_str) == Some("consistent")
    })?;
    ensure!(text(&here, "/upstream/site")? == "west", "its source is {here:#}");

    // The primary is gone. What the third site has goes on from where it is.
    pair.primary.kill()?;
    fail_over(&pair.mirror)?;
    await_group(&pair.mirror, "it serves", SYNC_LIMIT, serves)?;
    write(&pair.mirror, 192, 11)?;
    await_same(&pair.mirror, &north)?;
    let session = pair.mirror.cli(&["session", "show", &format!("{VOLUME}:north")])?;
    ensure!(text(&session, "/resync_kind")? == "delta", "the session is {session:#}");
    pair.primary.start().context("start the old primary")?;
    await_group(&pair.primary, "it is fenced", SYNC_LIMIT, |group| !serves(group)).map(drop)
}
