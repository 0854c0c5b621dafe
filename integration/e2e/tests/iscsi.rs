//! Other people's initiators against whole gateways: what they write is there, over NBD and at the
//! other site too, and who may not come in does not.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, Tool, free_port, wait_for};
use tempfile::TempDir;

use crate::initiator::{
    GOOD, Initiator, NO_UNIT, OPTIMIZED, RESERVATION_CONFLICT, STANDBY, STANDING_BY, UNAVAILABLE,
    UNITS_CHANGED, WAYS_CHANGED, WRITE_PROTECTED,
};
use crate::pair::{SOON, expect, fail_over, migrate};

pub(crate) const PREFIX: &str = "iqn.2026-01.io.twinspan";
/// Whoever reaches a listener may log in.
pub(crate) const OPEN: &str = "auth = \"none\"\n";
const SECRET: &str = "secretsecret12";
const OTHER_SECRET: &str = "anothersecret99";
/// A login that takes longer than 10 s is dropped.
const LOGIN_MAX: Duration = Duration::from_secs(15);

/// A gateway that serves a volume over both protocols, and its iSCSI port.
pub(crate) fn served(dir: &TempDir, more: &str) -> Result<(Site, u16)> {
    let mut site = Site::new(dir.path(), "iscsi")?;
    let port = free_port()?;
    let listener = format!("[[iscsi.listeners]]\nname = \"tcp\"\naddress = \"127.0.0.1:{port}\"\n");
    site.configure(&format!("\n[iscsi]\n{more}\n{listener}"))?;
    site.start()?;
    site.cli(&["volume", "create", "orders", "--size", "64MiB"])?;
    Ok((site, port))
}

fn chap(dir: &TempDir) -> Result<String> {
    let write = |name: &str, secret: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, secret).context("write a secret")?;
        anyhow::Ok(file.display().to_string())
    };
    let (joe, ann) = (write("secret", SECRET)?, write("other-secret", OTHER_SECRET)?);
    Ok(format!(
        "auth = \"chap\"\nusers = [{{ name = \"joe\", secret_file = \"{joe}\" }}, {{ name = \"ann\", \
         secret_file = \"{ann}\", initiators = [\"iqn.2026-01.com.example:ann\"] }}]"
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
    let inquiry = |url: String| Tool::new("iscsi-inq").args(["-i", host]).arg(url).code();
    let (code, said) = inquiry(url(port, &user, "ledger"))?;
    ensure!(code == 0, "{said}");
    // Whoever cannot prove who it is does not learn which targets there are.
    let stranger = format!("eve%{SECRET}@");
    for volume in ["ledger", "nothing"] {
        refused(url(port, &stranger, volume), "Authentication failure")?;
    }
    // A user that is bound to another name proves itself in vain.
    let bound = format!("ann%{OTHER_SECRET}@");
    let (code, said) = inquiry(url(port, &bound, "ledger"))?;
    ensure!(code != 0 && said.contains("uthorization"), "{code}: {said}");
    site.cli(&["volume", "create", "hers", "--size", "16MiB", "--allow", "user:ann"])?;
    refused(url(port, &user, "hers"), "Target not found")?;
    let hers = Tool::new("iscsi-inq").args(["-i", "iqn.2026-01.com.example:ann"]);
    let (code, said) = hers.arg(url(port, &bound, "hers")).code()?;
    ensure!(code == 0, "{said}");
    // No secret is told to anybody.
    let log = std::fs::read_to_string(site.process()?.log())?;
    ensure!(!log.contains(SECRET), "a secret stands in the log");
    site.stop()
}

#[test]
fn initiators_that_send_garbage_or_nothing_are_dropped_and_harm_nobody() -> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = served(&dir, OPEN)?;
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

/// A running site, with its number and the port of its portal, which initiators reach at `host`.
pub(crate) fn site(dir: &Path, named: (&str, u16), host: &str) -> Result<(Site, u16)> {
    site_with(dir, named, host, (OPEN, ""))
}

/// The same with more of its configuration: keys of `[iscsi]`, and tables.
pub(crate) fn site_with(
    dir: &Path,
    (name, group): (&str, u16),
    host: &str,
    (keys, tables): (&str, &str),
) -> Result<(Site, u16)> {
    let mut site = Site::new(dir, name)?;
    let port = free_port()?;
    site.configure(&format!(
        "\n[iscsi]\nportal_group = {group}\n{keys}[[iscsi.listeners]]\nname = \"tcp\"\n\
         address = \"127.0.0.1:{port}\"\nadvertise = \"{host}:{port}\"\n{tables}"
    ))?;
    site.start()?;
    Ok((site, port))
}

/// Two sites that serve over iSCSI, and their ports; the volume `orders` is mirrored.
pub(crate) fn two_sites(dir: &TempDir) -> Result<[(Site, u16); 2]> {
    let make = |named| site(dir.path(), named, "127.0.0.1");
    let (east, west) = (make(("east", 1))?, make(("west", 2))?);
    east.0.cli(&["volume", "create", "orders", "--size", "32MiB"])?;
    east.0.join(&west.0)?;
    east.0.mirror("orders", &west.0)?;
    east.0.wait_equivalent(SOON)?;
    Ok([east, west])
}

/// Waits until a gateway tells these states of the groups of ports, its own group first, and until
/// the session was told of all changes.
fn await_ways(session: &mut Initiator, wanted: &[(u16, u8)]) -> Result<()> {
    wait_for("the ways to be told", SOON, || {
        let told = session.ways()?;
        let states: Vec<(u16, u8)> =
            told.iter().map(|(group, state, _)| (*group, *state)).collect();
        ensure!(states == wanted, "they are {states:?}, not {wanted:?}");
        for (group, _, ports) in told {
            ensure!(ports == [group << 8 | 1], "the ports of group {group} are {ports:x?}");
        }
        Ok(())
    })?;
    while session.ready()? == Some(WAYS_CHANGED) {}
    Ok(())
}

/// The first thing that a session hears after its gateway's place in the group changed.
fn is_told(session: &mut Initiator, before: Option<(u8, u16)>) -> Result<()> {
    let first = wait_for("a unit attention", SOON, || {
        let heard = session.ready()?;
        ensure!(heard != before, "it hears {heard:x?} still");
        Ok(heard)
    })?;
    ensure!(first == Some(WAYS_CHANGED), "it heard {first:x?}");
    Ok(())
}

pub(crate) fn is_sent_away(session: &mut Initiator) -> Result<()> {
    let ended = session.write_once()?;
    ensure!(ended.sense == Some(STANDBY), "a port in standby said {ended:x?}");
    Ok(())
}

/// One session at each site: they see one disk, and stay while the sites swap roles and while one of
/// them is lost. Whoever does not serve takes no write.
#[test]
fn alua_sessions_stay_while_the_sites_change_roles_and_only_who_serves_takes_writes() -> Result<()>
{
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    let target = format!("{PREFIX}:orders");
    let mut at_east = Initiator::login(east_port, "one", &target)?;
    let mut at_west = Initiator::login(west_port, "one", &target)?;
    ensure!(at_east.names()? == at_west.names()?, "both sites show one disk");
    await_ways(&mut at_east, &[(1, OPTIMIZED), (2, STANDING_BY)])?;
    await_ways(&mut at_west, &[(2, STANDING_BY), (1, OPTIMIZED)])?;
    ensure!(at_east.write()? == GOOD, "it serves");
    is_sent_away(&mut at_west)?;
    ensure!(at_west.keys()?.is_empty(), "it answers what needs no medium");

    migrate(&east, &west)?;
    is_told(&mut at_east, None)?;
    is_told(&mut at_west, Some(STANDBY))?;
    await_ways(&mut at_west, &[(2, OPTIMIZED), (1, STANDING_BY)])?;
    await_ways(&mut at_east, &[(1, STANDING_BY), (2, OPTIMIZED)])?;
    is_sent_away(&mut at_east)?;
    ensure!(at_west.write()? == GOOD, "it serves now");

    west.wait_equivalent(SOON)?;
    west.kill()?;
    fail_over(&east)?;
    await_ways(&mut at_east, &[(1, OPTIMIZED), (2, UNAVAILABLE)])?;
    ensure!(at_east.write()? == GOOD, "the session from before serves again");

    // The old primary comes back, is in doubt, and learns: whoever logs in there is let in.
    west.start()?;
    let mut at_west = Initiator::login(west_port, "one", &target)?;
    east.cli(&["reprotect", "orders", "--wait"])?;
    await_ways(&mut at_west, &[(2, STANDING_BY), (1, OPTIMIZED)])?;
    await_ways(&mut at_east, &[(1, OPTIMIZED), (2, STANDING_BY)])?;
    is_sent_away(&mut at_west)?;
    let attached = |site: &Site| site.cli(&["migrate", "plan", "orders", "--to", "west"]);
    ensure!(attached(&east)?["token"].is_string(), "a session in standby stands in nobody's way");
    west.stop()?;
    east.stop()
}

/// Whichever site is asked tells where both are reached, the one that serves first; and still does so
/// when the other one is lost, after a start of its own too.
#[test]
fn alua_discovery_tells_the_portals_of_both_sites_and_the_living_one_first() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    let target = format!("{PREFIX}:orders");
    let discover = |port| Initiator::discover(port, &target);
    let portals = [format!("127.0.0.1:{east_port},1"), format!("127.0.0.1:{west_port},2")];
    let are_told = |port: u16, first: usize| {
        let wanted = [portals[first].clone(), portals[1 - first].clone()];
        wait_for("both portals", SOON, || {
            let told = discover(port)?;
            ensure!(told == wanted, "{port} tells {told:?}, not {wanted:?}");
            Ok(())
        })
    };
    are_told(east_port, 0)?;
    are_told(west_port, 0)?;
    east.kill()?;
    are_told(west_port, 1)?;
    fail_over(&west)?;
    are_told(west_port, 1)?;
    west.kill()?;
    west.start()?;
    are_told(west_port, 1)?;
    // Who may not log in is told of nothing.
    west.cli(&["volume", "allow", "orders", "iqn.2026-01.com.example:host1"])?;
    ensure!(discover(west_port)?.is_empty(), "a volume is told to somebody who may not use it");
    west.stop()
}

/// A copy that is open on its own holds something else than the volume: no host may take the two for
/// one disk.
#[test]
fn alua_a_copy_that_is_open_on_its_own_is_another_disk() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    let target = format!("{PREFIX}:orders");
    let mut at_east = Initiator::login(east_port, "one", &target)?;
    let mut at_west = Initiator::login(west_port, "one", &target)?;
    ensure!(at_east.write()? == GOOD, "it serves");
    ensure!(at_west.write()? != GOOD, "it does not");
    east.cli(&["session", "suspend", "orders"])?;
    let group = ["group", "show", "orders"];
    west.wait_for(&group, SOON, |group| group["quality"] == "outdated")?;
    west.cli(&["group", "detach", "orders"])?;
    west.wait_for(&group, SOON, |group| group["serving"] == "detached")?;
    let mut apart = Initiator::login(west_port, "one", &format!("{target}:detached"))?;
    ensure!(apart.write()? == GOOD, "the copy is open");
    ensure!(apart.names()? != at_east.names()?, "it is another disk");
    is_sent_away(&mut at_west)?;
    west.stop()?;
    east.stop()
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

/// Without APTPL a registration ends with the power. Whoever takes over has not lost it.
#[test]
fn a_registration_without_aptpl_outlives_a_site_and_no_restart() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    let target = format!("{PREFIX}:orders");
    let mut one = Initiator::login(east_port, "one", &target)?;
    one.register_until_power_is_lost(0xfeed)?;
    one.reserve(0xfeed)?;
    let mut other = Initiator::login(west_port, "other", &target)?;
    ensure!(other.keys()? == [0xfeed], "it is shown where the mirror is: {:x?}", other.keys());
    drop(other);
    east.kill()?;
    fail_over(&west)?;
    let mut other = Initiator::login(west_port, "other", &target)?;
    ensure!(other.keys()? == [0xfeed], "it is known here: {:x?}", other.keys());
    ensure!(other.write()? == RESERVATION_CONFLICT, "and holds");
    west.kill()?;
    west.start()?;
    let login = || Initiator::login(west_port, "other", &target);
    let mut other = wait_for("the restarted site to let hosts in", SOON, login)?;
    wait_for("the restarted site to serve", SOON, || {
        let status = other.write()?;
        ensure!(status == GOOD, "the write ended with {status:#x}");
        Ok(())
    })?;
    ensure!(other.keys()?.is_empty(), "the power was lost: {:x?}", other.keys());
    west.stop()
}

/// What a volume was at a snapshot is a disk of its own: the same one at both sites, protected, and gone
/// for whoever is logged in when an operator deletes it.
#[test]
fn a_snapshot_is_a_protected_disk_of_its_own_until_it_is_deleted() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    let target = format!("{PREFIX}:orders");
    let before = format!("{target}:snapshot:before");
    let mut volume = Initiator::login(east_port, "one", &target)?;
    ensure!(Initiator::login(east_port, "one", &before).is_err(), "there is none yet");
    ensure!(volume.write()? == GOOD, "the volume is written");
    let was = volume.read(1)?;
    let shown = east.cli(&["snapshot", "create", "orders", "--name", "before"])?.to_string();
    let uri = format!("iscsi://127.0.0.1:{east_port}/{before}/0");
    ensure!(shown.contains(&uri), "{shown}");
    let swapped = volume.compare_and_write(&was, &[0x5a; 512])?;
    ensure!(swapped, "the volume goes on");

    let mut here = Initiator::login(east_port, "one", &before)?;
    // A mirror hears of it in its place in the stream.
    let login = || Initiator::login(west_port, "one", &before);
    let mut there = wait_for("the snapshot at the mirror", SOON, login)?;
    for disk in [&mut here, &mut there] {
        ensure!(disk.read(1)? == was, "it is what the volume was");
        ensure!(disk.is_protected()?, "hosts mount it read-only by themselves");
        let refused = disk.write_once()?;
        ensure!(refused.sense == Some(WRITE_PROTECTED), "it takes no writes: {refused:x?}");
        let states: Vec<u8> = disk.ways()?.into_iter().map(|(_, state, _)| state).collect();
        ensure!(states == [OPTIMIZED], "a mirror reads it as well: {states:?}");
    }
    ensure!(!volume.is_protected()?, "the volume takes writes");
    let names = here.names()?;
    ensure!(names == there.names()?, "it is one disk at both sites");
    ensure!(names != volume.names()?, "it is no path to the volume");
    ensure!(volume.read(1)? == [0x5a; 512], "the volume shows what is new");
    let told = Initiator::discover(east_port, &before)?;
    ensure!(told.is_empty(), "who discovers targets does not attach every snapshot: {told:?}");
    // Another tool's eye.
    let said = Tool::new("iscsi-readcapacity16").arg(&uri).run()?;
    ensure!(said.contains("Total size:33554432"), "{said}");

    expect(&east, &["snapshot", "delete", "orders", "before"], 0, "")?;
    for disk in [&mut here, &mut there] {
        wait_for("its end", SOON, || {
            let heard = disk.ready()?;
            ensure!(heard == Some(UNITS_CHANGED), "it heard {heard:x?}");
            Ok(())
        })?;
        ensure!(disk.ready()? == Some(NO_UNIT), "it is there no more");
        ensure!(disk.device()? == 0x7f, "nor any device in its place");
    }
    ensure!(volume.write()? == GOOD, "the volume goes on");
    let gone = Tool::new("iscsi-inq").arg(&uri).code()?;
    ensure!(gone.0 != 0 && gone.1.contains("Target not found"), "{gone:?}");
    // Of the same name, it is another disk.
    east.cli(&["snapshot", "create", "orders", "--name", "before"])?;
    let mut again = Initiator::login(east_port, "one", &before)?;
    ensure!(again.names()? != names, "a host would take it for the one that it knew");
    ensure!(east.cli(&["volume", "show", "orders"])?["name"] == "orders");
    west.stop()?;
    east.stop()
}

/// Clusters register on every path. What a host asks at the port of a mirror is decided by who serves,
/// holds at both sites when it is answered, and is refused as everything else is while nobody can be
/// asked.
#[test]
fn alua_a_host_registers_reserves_and_preempts_at_a_port_in_standby() -> Result<()> {
    let dir = TempDir::new()?;
    let [(mut east, east_port), (mut west, west_port)] = two_sites(&dir)?;
    let target = format!("{PREFIX}:orders");
    let mut at_east = Initiator::login(east_port, "one", &target)?;
    let mut at_west = Initiator::login(west_port, "one", &target)?;
    let mut other = Initiator::login(west_port, "other", &target)?;
    at_west.register(0xfeed)?;
    ensure!(at_east.keys()? == [0xfeed], "it holds where the volume is served");
    ensure!(at_west.keys()? == [0xfeed], "and is told where it was asked");
    let again = at_west.register_once(0xbeef)?;
    ensure!(again.status == RESERVATION_CONFLICT, "it is registered by another key: {again:x?}");
    at_east.register(0xfeed)?;
    ensure!(at_east.keys()? == [0xfeed, 0xfeed], "each path is registered by itself");
    other.register(0xcafe)?;
    other.reserve(0xcafe)?;
    ensure!(at_east.write()? == GOOD, "whoever is registered writes");
    let mut third = Initiator::login(east_port, "third", &target)?;
    ensure!(third.write()? == RESERVATION_CONFLICT, "whoever is not does not");
    // A node is fenced through a path that carries no I/O.
    other.preempt(0xcafe, 0xfeed)?;
    ensure!(at_east.keys()? == [0xcafe], "both paths of the other node are out");
    ensure!(at_east.write()? == RESERVATION_CONFLICT, "it is fenced");
    is_sent_away(&mut other)?;

    east.kill()?;
    // It may be told first that the ways are others now.
    wait_for("the answer of a port that can ask nobody", SOON, || {
        let refused = at_west.register_once(0xd00d)?;
        ensure!(refused.sense == Some(STANDBY), "it ended with {refused:x?}");
        Ok(())
    })?;
    fail_over(&west)?;
    wait_for("the other way", SOON, || {
        while other.ready()? == Some(WAYS_CHANGED) {}
        ensure!(other.write()? == GOOD, "it does not write yet");
        Ok(())
    })?;
    ensure!(other.keys()? == [0xcafe], "what was asked here holds here");
    while at_west.ready()? == Some(WAYS_CHANGED) {}
    ensure!(at_west.write()? == RESERVATION_CONFLICT, "and so does the fence");
    west.stop()
}
