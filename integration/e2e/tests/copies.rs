//! A mirror's copy as an operator uses it: opened to hosts on its own, and compared.

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool};

use crate::pair::{Pair, SOON, VOLUME, await_group, serves};

/// Writes a pattern through NBD, at this many KiB.
fn write(site: &Site, at_kib: u32, pattern: u8) -> Result<()> {
    let command = format!("write -P {pattern} {at_kib}k 4k");
    qemu_io(site, &command)
}

/// Reads it back.
fn holds(site: &Site, at_kib: u32, pattern: u8) -> Result<()> {
    qemu_io(site, &format!("read -P {pattern} {at_kib}k 4k"))
}

fn qemu_io(site: &Site, command: &str) -> Result<()> {
    let uri = site.nbd(VOLUME);
    Tool::new("qemu-io").args(["-f", "raw", "-c", command, "-c", "flush", &uri]).run()?;
    Ok(())
}

#[test]
fn rec_06_a_suspended_destination_is_opened_by_a_word_and_taken_back_by_another() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let (east, west) = (&pair.primary, &pair.mirror);
    write(east, 0, 1)?;
    // While the session runs the copy is nobody's.
    let refused = west.ask(&["group", "detach", VOLUME])?;
    ensure!(refused.code == 7 && refused.text.contains("GW0416"), "{}", refused.text);
    ensure!(holds(west, 0, 1).is_err(), "a mirror's copy was attached");

    east.cli(&["session", "suspend", VOLUME])?;
    await_group(west, "the suspension", SOON, |group| group["quality"] == "outdated")?;
    west.cli(&["group", "detach", VOLUME])?;
    let detached = await_group(west, "an open copy", SOON, |g| g["serving"] == "detached")?;
    ensure!(detached["role"] == "secondary", "{detached:#}");
    holds(west, 0, 1)?;
    // Two independent volumes.
    write(east, 0, 2)?;
    write(west, 64, 3)?;
    holds(west, 0, 1)?;
    holds(east, 64, 0)?;

    // What only the copy has is not overwritten without a word (REC-10).
    east.cli(&["session", "resume", VOLUME])?;
    let stopped =
        await_group(east, "the refusal", SOON, |group| group["legs"][0]["state"] == "error")?;
    ensure!(stopped["explanations"].to_string().contains("4 KiB"), "{stopped:#}");
    holds(west, 64, 3)?;
    east.cli(&["session", "resume", VOLUME, "--discard", "--wait"])?;
    pair.is_identical()?;
    holds(east, 0, 2)?;
    let session = east.cli(&["session", "show", VOLUME])?;
    ensure!(session["resync_kind"] == "delta", "{session:#}");
    let moved = session["resync_total_bytes"].as_u64().context("no total")?;
    ensure!(moved <= 8 << 10, "two blocks differed, {moved} bytes were moved");
    ensure!(
        !serves(&await_group(west, "a mirror again", SOON, |g| g["serving"] == "not_primary")?)
    );
    Ok(())
}

#[test]
fn a_verification_reads_both_copies_and_leaves_a_certificate() -> Result<()> {
    let mut pair = Pair::mirrored("32MiB")?;
    write(&pair.primary, 0, 7)?;
    write(&pair.primary, 1024, 8)?;
    let session = pair.primary.cli(&["session", "verify", VOLUME, "--rate", "1GiB", "--wait"])?;
    let found = session["leg"]["verified"].clone();
    ensure!(found["blocks"] == 2 && found["mismatched"] == 0, "{session:#}");
    let metrics = pair.primary.metrics()?;
    let mismatched = "twinspan_verify_mismatched_bytes_total{pair=\"orders:west\"} 0";
    ensure!(metrics.contains(mismatched), "{metrics}");
    ensure!(
        !metrics
            .contains("twinspan_verify_last_completed_timestamp_seconds{pair=\"orders:west\"} 0\n")
    );
    // It outlives the gateway.
    pair.primary.stop()?;
    pair.primary.start()?;
    pair.primary.wait_equivalent(crate::pair::SYNC_LIMIT)?;
    let session = pair.primary.cli(&["session", "show", VOLUME])?;
    ensure!(session["leg"]["verified"] == found, "{session:#}");
    // A mirror that is gone cannot be compared.
    pair.mirror.kill()?;
    await_group(&pair.primary, "the loss", SOON, |group| group["health"] == "at_risk")?;
    let refused = pair.primary.ask(&["session", "verify", VOLUME])?;
    ensure!(refused.code == 7 && refused.text.contains("GW0407"), "{}", refused.text);
    Ok(())
}

/// The files of a copy are removed while its gateway is down: what was never expected, and happens.
#[test]
fn a_copy_whose_files_are_gone_is_named_and_made_anew() -> Result<()> {
    let mut pair = Pair::mirrored("32MiB")?;
    write(&pair.primary, 0, 1)?;
    // Another volume of that site, which has nothing to do with it.
    pair.mirror.cli(&["volume", "create", "other", "--size", "8MiB"])?;
    let id = pair.mirror.cli(&["volume", "show", VOLUME])?["id"].clone();
    pair.mirror.kill()?;
    let folder = format!("pool/volumes/{}", id.as_str().context("a volume has an id")?);
    std::fs::remove_dir_all(pair.mirror.data_dir().join(folder))?;
    pair.mirror.start()?;

    let (east, west) = (&pair.primary, &pair.mirror);
    let lost = west.ask(&["group", "show", VOLUME])?;
    ensure!(lost.text.contains("GW0616") && lost.text.contains("--lost"), "{}", lost.text);
    let volume = west.cli(&["volume", "show", VOLUME])?;
    ensure!(volume["bytes"] == 32 << 20 && volume["mapped_bytes"].is_null(), "{volume:#}");
    qemu_io(&pair.mirror, "read 0 4k").err().context("a lost copy was attached")?;
    let other = west.cli(&["volume", "show", "other"])?;
    ensure!(other["copy"] == "serving", "{other:#}");
    // The primary goes on without it and says so.
    write(east, 64, 2)?;
    await_group(east, "the loss", SOON, |group| group["health"] == "at_risk")?;

    let refused = west.ask(&["group", "delete", "other", "--lost"])?;
    ensure!(refused.code == 7 && refused.text.contains("GW0302"), "{}", refused.text);
    let given_up = west.ask(&["group", "delete", VOLUME, "--lost"])?;
    ensure!(given_up.code == 0, "{}", given_up.text);
    // Nothing of it is left there, so the primary makes it anew by itself.
    east.wait_equivalent(SOON)?;
    let session = east.cli(&["session", "show", VOLUME])?;
    ensure!(session["resync_kind"] == "full", "{session:#}");
    pair.is_identical()
}
