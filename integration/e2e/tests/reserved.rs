//! What initiators reserved, for hosts of NBD; what a host of a gateway in doubt sees; and volumes of
//! every size, for the tools of QEMU.

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, free_port, wait_for};
use tempfile::TempDir;

use crate::initiator::{Ended, GOOD, Initiator, WAYS_CHANGED};
use crate::iscsi::{OPEN, PREFIX, served, two_sites};
use crate::pair::{SOON, SYNC_LIMIT};

const KEY: u64 = 0xfeed;

/// What qemu-io says of one command over NBD.
fn over_nbd(site: &Site, command: &str) -> Result<String> {
    let image = site.nbd("orders");
    let tool = Tool::new("qemu-io").args(["-t", "none", "-f", "raw", "-c", command]).arg(image);
    tool.code().map(|(_, said)| said)
}

fn is_refused(site: &Site) -> Result<()> {
    let said = over_nbd(site, "write -P 2 0 64k")?;
    ensure!(said.contains("write failed: Operation not permitted"), "{said}");
    let said = over_nbd(site, "read -P 1 0 64k")?;
    ensure!(said.contains("read 65536/65536") && !said.contains("Pattern"), "{said}");
    Ok(())
}

/// A host of NBD is nobody's registrant. It reads beside a reservation that lets others read, and writes
/// when it has ended; a restart does not let it in, although no initiator has come back.
#[test]
fn a_reservation_of_an_initiator_holds_for_hosts_of_nbd() -> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = served(&dir, OPEN)?;
    let target = format!("{PREFIX}:orders");
    let said = over_nbd(&site, "write -P 1 0 64k")?;
    ensure!(said.contains("wrote 65536/65536"), "{said}");
    let mut host = Initiator::login(port, "one", &target)?;
    host.register(KEY)?;
    host.reserve(KEY)?;
    is_refused(&site)?;
    site.kill()?;
    site.start()?;
    wait_for("the site to serve", SOON, || is_refused(&site))?;
    let login = || Initiator::login(port, "one", &target);
    let mut host = wait_for("the site to let initiators in", SOON, login)?;
    ensure!(host.write()? == GOOD, "it holds the reservation");
    host.release(KEY)?;
    let said = over_nbd(&site, "write -P 3 0 64k")?;
    ensure!(said.contains("wrote 65536/65536"), "{said}");
    site.stop()
}

/// How a write ended that was told first, as every session is, that the ways to the disk are others now:
/// once when the mirror was lost, and once when it is back.
fn write_when_told(host: &mut Initiator) -> Result<Option<Ended>> {
    for _ in 0..2 {
        match host.write_beside_a_ping()? {
            Some(ended) if ended.sense == Some(WAYS_CHANGED) => {}
            ended => return Ok(ended),
        }
    }
    host.write_beside_a_ping()
}

/// A gateway that may not write says nothing of the disk: it answers pings, drops the connection after a
/// while so that the host tries its other way, and takes the write when its mirror is back.
#[test]
fn a_host_of_a_halted_gateway_is_told_of_no_fault_and_comes_back() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, port), (mut west, _)] = two_sites(&dir)?;
    east.cli(&["session", "set", "orders", "--split", "manual"])?;
    let target = format!("{PREFIX}:orders");
    let mut host = Initiator::login(port, "one", &target)?;
    ensure!(host.write()? == GOOD, "both sites take it");
    west.kill()?;
    let ended = write_when_told(&mut host)?;
    ensure!(ended.is_none(), "whether it is done was not known: {ended:x?}");
    // Nor is it the disk's end: who comes back finds it, and waits again.
    let mut host = Initiator::login(port, "one", &target)?;
    host.ready()?;
    let ended = write_when_told(&mut host)?;
    ensure!(ended.is_none(), "it may not write yet: {ended:x?}");
    west.start()?;
    wait_for("the mirror, and with it the writes", SYNC_LIMIT, || {
        let mut host = Initiator::login(port, "one", &target)?;
        host.ready()?;
        let ended = write_when_told(&mut host)?.context("the connection ended")?;
        ensure!(ended.status == GOOD, "it ended with {ended:x?}");
        Ok(())
    })?;
    east.wait_equivalent(SOON)?;
    west.stop()?;
    east.stop()
}

/// Whichever portal is asked, all are told, by the addresses that initiators can call: a listener on every
/// address is told as the configuration has it.
#[test]
fn an_initiator_logs_in_over_ipv6_and_is_told_of_the_portals_of_both_families() -> Result<()> {
    let dir = TempDir::new()?;
    let mut site = Site::new(dir.path(), "six")?;
    let (six, four) = (free_port()?, free_port()?);
    let listeners = [
        ("six", format!("address = \"[::1]:{six}\"")),
        ("four", format!("address = \"0.0.0.0:{four}\"\nadvertise = \"127.0.0.1:{four}\"")),
    ];
    let tables =
        listeners.map(|(name, keys)| format!("\n[[iscsi.listeners]]\nname = \"{name}\"\n{keys}\n"));
    site.configure(&format!("\n[iscsi]\n{OPEN}{}", tables.concat()))?;
    site.start()?;
    site.cli(&["volume", "create", "orders", "--size", "64MiB"])?;
    let portals = [format!("[::1]:{six}"), format!("127.0.0.1:{four}")];
    for asked in &portals {
        let told = Tool::new("iscsi-ls").arg(format!("iscsi://{asked}")).run()?;
        for portal in &portals {
            ensure!(told.contains(&format!("Target:{PREFIX}:orders Portal:{portal},1")), "{told}");
        }
        ensure!(told.matches("Portal:").count() == portals.len(), "and of no other: {told}");
    }
    let url = format!("iscsi://[::1]:{six}/{PREFIX}:orders/0");
    let tool = Tool::new("qemu-io").args(["-t", "none", "-f", "raw"]);
    let said = tool.args(["-c", "write -P 6 0 1M", "-c", "read -P 6 0 1M"]).arg(url).run()?;
    ensure!(!said.contains("failed") && !said.contains("Pattern"), "{said}");
    site.stop()
}

/// 64 TiB are one block more than a command of 10 bytes can name, many times over.
#[test]
fn a_volume_of_64_tib_is_read_and_written_to_its_end_and_images_are_copied_into_another()
-> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = served(&dir, OPEN)?;
    site.cli(&["volume", "create", "huge", "--size", "64TiB"])?;
    let url = |volume: &str| format!("iscsi://127.0.0.1:{port}/{PREFIX}:{volume}/0");
    let said = Tool::new("iscsi-readcapacity16").arg(url("huge")).run()?;
    ensure!(said.contains("Total size:70368744177664"), "{said}");
    let tool = Tool::new("qemu-io").args(["-t", "none", "-f", "raw"]);
    let at_the_end =
        ["write -P 7 70368743129088 1M", "read -P 7 70368743129088 1M", "read -P 0 3T 1M"];
    let tool = tool.args(at_the_end.iter().flat_map(|command| ["-c", command]));
    let said = tool.arg(url("huge")).run()?;
    ensure!(!said.contains("failed") && !said.contains("Pattern"), "{said}");
    let said = Tool::new("qemu-img").args(["info", "-f", "raw"]).arg(url("huge")).run()?;
    ensure!(said.contains("virtual size: 64 TiB (70368744177664 bytes)"), "{said}");

    let image = dir.path().join("image");
    let content: Vec<u8> = (0..64u32 << 18).flat_map(|word| (word / 3000).to_le_bytes()).collect();
    std::fs::write(&image, &content).context("write an image")?;
    let copy = Tool::new("qemu-img").args(["convert", "-n", "-f", "raw", "-O", "raw"]);
    copy.arg(&image).arg(url("orders")).run()?;
    let compare = Tool::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]);
    let said = compare.arg(&image).arg(url("orders")).run()?;
    ensure!(said.contains("Images are identical"), "{said}");
    let back = dir.path().join("back");
    let copy = Tool::new("qemu-img").args(["convert", "-f", "raw", "-O", "raw"]);
    copy.arg(url("orders")).arg(&back).run()?;
    ensure!(std::fs::read(&back)? == content, "what is copied back is what it was");
    site.stop()
}
