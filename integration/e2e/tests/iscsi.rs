//! Other people's initiators against whole gateways: what they write is there, over NBD and at the
//! other site too, and who may not come in does not.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, free_port};
use tempfile::TempDir;

use crate::initiator::{GOOD, Initiator, RESERVATION_CONFLICT};
use crate::pair::SOON;

const PREFIX: &str = "iqn.2026-01.io.twinspan";
const SECRET: &str = "secretsecret12";
/// A login that takes longer than 10 s is dropped.
const LOGIN_MAX: Duration = Duration::from_secs(15);

/// A gateway that serves a volume over both protocols, and its iSCSI port.
fn served(dir: &TempDir, more: &str) -> Result<(Site, u16)> {
    let mut site = Site::new(dir.path(), "iscsi")?;
    let port = free_port()?;
    let listener = format!("[[iscsi.listeners]]\nname = \"tcp\"\naddress = \"127.0.0.1:{port}\"\n");
    site.configure(&format!("\n[iscsi]\n{more}\n{listener}"))?;
    site.start()?;
    site.cli(&["volume", "create", "orders", "--size", "64MiB"])?;
    Ok((site, port))
}

fn chap(dir: &TempDir) -> Result<String> {
    let file = dir.path().join("secret");
    std::fs::write(&file, SECRET).context("write the secret")?;
    Ok(format!(
        "auth = \"chap\"\nusers = [{{ name = \"joe\", secret_file = \"{}\" }}]",
        file.display()
    ))
}

fn url(port: u16, user: &str, volume: &str) -> String {
    format!("iscsi://{user}127.0.0.1:{port}/{PREFIX}:{volume}/0")
}

fn qemu_io(image: &[&str], commands: &[&str]) -> Result<String> {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let said = Tool::new("qemu-io").args(["-t", "none"]).args(commands).args(image).run()?;
    for bad in ["failed", "error", "Pattern"] {
        ensure!(!said.contains(bad), "qemu-io: {said}");
    }
    Ok(said)
}

#[test]
fn initiators_find_and_use_a_volume_that_hosts_of_nbd_use_too() -> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = served(&dir, &chap(&dir)?)?;
    let user = format!("joe%{SECRET}@");
    let listed = Tool::new("iscsi-ls").arg(format!("iscsi://{user}127.0.0.1:{port}")).run()?;
    ensure!(listed.contains(&format!("Target:{PREFIX}:orders")), "{listed}");
    let disk = url(port, &user, "orders");
    let size = Tool::new("iscsi-readcapacity16").arg(&disk).run()?;
    ensure!(size.contains("Total size:67108864"), "{size}");
    let shown = site.cli(&["volume", "show", "orders"])?.to_string();
    ensure!(shown.contains(&url(port, "", "orders")), "{shown}");
    let image = ["-f", "raw", disk.as_str()];
    qemu_io(
        &image,
        &[
            "write -P 0xa5 0 8M",
            "write -P 0x5a 1M 64k",
            "write -P 0x11 8704 512",
            "write -f -P 0x22 16384 4096",
            "discard 4M 1M",
            "write -z 6M 1M",
            "read -P 0xa5 2M 2M",
            "flush",
        ],
    )?;
    let over_nbd = site.nbd("orders");
    let nbd = ["-f", "raw", over_nbd.as_str()];
    qemu_io(
        &nbd,
        &[
            "read -P 0x5a 1M 64k",
            "read -P 0x11 8704 512",
            "read -P 0x22 16384 4096",
            "read -P 0 6M 1M",
            "write -P 0x77 10M 3M",
            "flush",
        ],
    )?;
    qemu_io(&image, &["read -P 0x77 10M 3M", "read -P 0xa5 7M 1M"])?;
    // With digests of headers, which libiscsi can.
    let target = format!("file.portal=127.0.0.1:{port},file.target={PREFIX}:orders,file.lun=0");
    let with_digests = format!(
        "driver=raw,file.driver=iscsi,file.transport=tcp,{target},file.user=joe,\
         file.password-secret=s,file.header-digest=crc32c"
    );
    let secret = format!("secret,id=s,data={SECRET}");
    let image = ["--object", secret.as_str(), "--image-opts", with_digests.as_str()];
    qemu_io(&image, &["write -P 0x33 20M 5M", "read -P 0x33 20M 5M"])?;
    let metrics = site.metrics()?;
    let counted = metrics.lines().any(|line| {
        line.starts_with("twinspan_frontend_bytes_total{proto=\"iscsi\"")
            && line.contains("op=\"write\"")
            && !line.ends_with(" 0")
    });
    ensure!(counted, "no writes over iSCSI are counted");
    site.stop()
}

#[test]
fn who_may_not_log_in_does_not() -> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = served(&dir, &chap(&dir)?)?;
    let refused = |url: String, why: &str| -> Result<()> {
        let (code, said) = Tool::new("iscsi-inq").arg(url).code()?;
        ensure!(code != 0 && said.contains(why), "{code}: {said}");
        Ok(())
    };
    let user = format!("joe%{SECRET}@");
    refused(url(port, "joe%anothersecret1@", "orders"), "Authentication failure")?;
    refused(url(port, &format!("eve%{SECRET}@"), "orders"), "Authentication failure")?;
    refused(url(port, "", "orders"), "Authentication failure")?;
    refused(url(port, &user, "nothing"), "Target not found")?;
    let host = "iqn.2026-01.com.example:host1";
    site.cli(&["volume", "create", "ledger", "--size", "16MiB", "--allow", host])?;
    refused(url(port, &user, "ledger"), "Target not found")?;
    let inquiry = Tool::new("iscsi-inq").args(["-i", host]);
    let (code, said) = inquiry.arg(url(port, &user, "ledger")).code()?;
    ensure!(code == 0, "{said}");
    // No secret is told to anybody.
    let log = std::fs::read_to_string(site.process()?.log())?;
    ensure!(!log.contains(SECRET), "a secret stands in the log");
    site.stop()
}

#[test]
fn initiators_that_send_garbage_or_nothing_are_dropped_and_harm_nobody() -> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = served(&dir, "")?;
    let disk = url(port, "", "orders");
    let image = ["-f", "raw", disk.as_str()];
    qemu_io(&image, &["write -P 1 0 1M"])?;
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
        stream.set_read_timeout(Some(LOGIN_MAX))?;
        Ok(stream)
    };
    let mut idle = (0..100).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let mut garbage = (0..50).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for (number, stream) in garbage.iter_mut().enumerate() {
        let byte = u8::try_from(number * 5 % 256)?;
        // It may hang up in the middle of it.
        let _sent = stream.write_all(&[byte; 10_000]);
    }
    qemu_io(&image, &["read -P 1 0 1M", "write -P 2 1M 1M", "read -P 2 1M 1M"])?;
    for stream in idle.iter_mut().chain(&mut garbage) {
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error).context("it was not dropped"),
        }
    }
    qemu_io(&image, &["read -P 2 1M 1M"])?;
    site.process()?.check()?;
    site.stop()
}

/// Two sites that serve over iSCSI, and their ports; the volume `orders` is mirrored.
fn two_sites(dir: &TempDir) -> Result<[(Site, u16); 2]> {
    let make = |(name, group): (&str, u16)| -> Result<(Site, u16)> {
        let mut site = Site::new(dir.path(), name)?;
        let port = free_port()?;
        site.configure(&format!(
            "\n[iscsi]\nportal_group = {group}\n[[iscsi.listeners]]\nname = \"tcp\"\n\
             address = \"127.0.0.1:{port}\"\n"
        ))?;
        site.start()?;
        Ok((site, port))
    };
    let (east, west) = (make(("east", 1))?, make(("west", 2))?);
    east.0.cli(&["volume", "create", "orders", "--size", "32MiB"])?;
    east.0.join(&west.0)?;
    east.0.mirror("orders", &west.0)?;
    east.0.wait_equivalent(SOON)?;
    Ok([east, west])
}

fn fail_over(to: &Site) -> Result<()> {
    let plan =
        to.wait_for(&["failover", "plan", "orders"], SOON, |plan| plan["token"].is_string())?;
    let token = plan["token"].as_str().context("the plan has a token")?.to_owned();
    to.cli(&["failover", "run", "orders", "--token", &token]).map(drop)
}

#[test]
fn a_volume_that_is_not_served_here_is_not_told_as_gone() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    let here = url(east_port, "", "orders");
    qemu_io(&["-f", "raw", &here], &["write -P 0x42 0 4M", "flush"])?;
    let inquired = Tool::new("iscsi-inq").args(["-e", "1", "-c", "131"]).arg(&here).run()?;
    let named = |said: &str| -> Vec<String> {
        let of_unit = said.lines().skip_while(|line| !line.contains("LOGICAL_UNIT"));
        of_unit.filter(|line| line.starts_with("Designator:")).map(str::to_owned).collect()
    };
    let there = url(west_port, "", "orders");
    let (code, said) = Tool::new("iscsi-inq").arg(&there).code()?;
    ensure!(code != 0 && !said.contains("not found"), "{said}");
    ensure!(said.contains("769") || said.contains("unavailable"), "{said}");
    east.kill()?;
    fail_over(&west)?;
    qemu_io(&["-f", "raw", &there], &["read -P 0x42 0 4M", "write -P 0x43 0 1M"])?;
    let again = Tool::new("iscsi-inq").args(["-e", "1", "-c", "131"]).arg(&there).run()?;
    ensure!(named(&inquired) == named(&again), "{inquired}\n{again}");
    west.stop()
}

/// A node that is fenced by a reservation stays fenced when its site is lost.
#[test]
fn rule_1_a_reservation_that_was_answered_holds_at_the_other_site() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    let target = format!("{PREFIX}:orders");
    let mut one = Initiator::login(east_port, "one", &target)?;
    let mut other = Initiator::login(east_port, "other", &target)?;
    ensure!(other.write()? == GOOD, "nothing is reserved yet");
    one.register(0xfeed)?;
    one.reserve(0xfeed)?;
    ensure!(other.write()? == RESERVATION_CONFLICT, "it is not registered");
    ensure!(one.write()? == GOOD, "it holds the reservation");
    east.kill()?;
    fail_over(&west)?;
    let mut other = Initiator::login(west_port, "other", &target)?;
    ensure!(other.keys()? == [0xfeed], "what was answered is known here: {:x?}", other.keys());
    ensure!(other.write()? == RESERVATION_CONFLICT, "it is fenced here too");
    other.register(0xcafe)?;
    ensure!(other.write()? == GOOD, "whoever is registered writes");
    // And back: what was registered meanwhile is known where it began.
    east.start()?;
    west.cli(&["reprotect", "orders", "--wait"])?;
    west.kill()?;
    fail_over(&east)?;
    let mut third = Initiator::login(east_port, "third", &target)?;
    let mut keys = third.keys()?;
    keys.sort_unstable();
    ensure!(keys == [0xcafe, 0xfeed], "{keys:x?}");
    ensure!(third.write()? == RESERVATION_CONFLICT, "it is no registrant");
    east.stop()
}
