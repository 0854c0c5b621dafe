//! This product as a contestant. Whatever its command line or configuration becomes, this file and
//! the harness know it, and nothing else here does.

use std::time::Duration;

use anyhow::{Result, bail};
use harness::{Site, free_port};

use crate::client::Address;
use crate::contestant::{Contestant, Medium, Place, Running, Transport};
use crate::iscsi::Unit;

/// One gateway.
pub(crate) const SINGLE: Contestant =
    Contestant { name: "twinspan", start: single, medium: Medium::Disk };
/// The same on tmpfs, where the file system costs next to nothing.
pub(crate) const IN_MEMORY: Contestant =
    Contestant { name: "twinspan-tmpfs", start: single, medium: Medium::Memory };
/// One gateway, reached by an initiator.
pub(crate) const ISCSI: Contestant =
    Contestant { name: "twinspan", start: target, medium: Medium::Disk };
/// The same on tmpfs.
pub(crate) const ISCSI_IN_MEMORY: Contestant =
    Contestant { name: "twinspan-tmpfs", start: target, medium: Medium::Memory };
/// Two gateways, the volume mirrored synchronously.
pub(crate) const MIRRORED: Contestant =
    Contestant { name: "twinspan", start: mirrored, medium: Medium::Disk };
/// The same with a write journal at the mirror: what any-second rollback costs.
pub(crate) const JOURNALED: Contestant =
    Contestant { name: "twinspan-journal", start: journaled, medium: Medium::Disk };
/// One gateway, in a suite of mirrors: what the mirror costs.
pub(crate) const UNMIRRORED: Contestant =
    Contestant { name: "twinspan-unmirrored", start: single, medium: Medium::Disk };

const VOLUME: &str = "bench";
/// An empty volume is in sync at once; this is for a busy machine.
const SYNC_LIMIT: Duration = Duration::from_secs(60);

fn single(place: &Place) -> Result<Running> {
    let mut site = Site::new(&place.dir, "one")?;
    let is_new = !site.has_data();
    site.start()?;
    if is_new {
        create_volume(&site, place)?;
    }
    Ok(running(site, place, Vec::new()))
}

fn target(place: &Place) -> Result<Running> {
    let mut site = Site::new(&place.dir, "one")?;
    let is_new = !site.has_data();
    let address = format!("127.0.0.1:{}", free_port()?);
    let listener = format!("name = \"tcp\"\naddress = \"{address}\"\n");
    site.configure(&format!("\n[iscsi]\nauth = \"none\"\n[[iscsi.listeners]]\n{listener}"))?;
    site.start()?;
    if is_new {
        create_volume(&site, place)?;
    }
    let target = format!("iqn.2026-01.io.twinspan:{VOLUME}");
    let address = Address::Iscsi(Unit { address, target, lun: 0 });
    Ok(Running { address, export: String::new(), processes: Vec::new(), sites: vec![site] })
}

fn mirrored(place: &Place) -> Result<Running> {
    let mut east = Site::new(&place.dir, "east")?;
    let mut west = Site::new(&place.dir, "west")?;
    let is_new = !east.has_data();
    east.start()?;
    west.start()?;
    if is_new {
        east.join(&west)?;
        create_volume(&east, place)?;
        east.mirror(VOLUME, &west)?;
    }
    east.wait_equivalent(SYNC_LIMIT)?;
    Ok(running(east, place, vec![west]))
}

/// Bytes that take more than a run writes, so that what is measured is writing and not removing.
const JOURNAL_BYTES: &str = "16GiB";

fn journaled(place: &Place) -> Result<Running> {
    let running = mirrored(place)?;
    let [east, west] = running.sites.as_slice() else { bail!("a mirror is two sites") };
    east.cli(&["point", "journal", "set", VOLUME, "--window", "1h", "--bytes", JOURNAL_BYTES])?;
    west.wait_for(&["point", "journal", "show", VOLUME], SYNC_LIMIT, |state| {
        state["state"] == "writing"
    })?;
    Ok(running)
}

fn create_volume(site: &Site, place: &Place) -> Result<()> {
    let size = format!("{}MiB", place.size_mib);
    site.cli(&["volume", "create", VOLUME, "--size", &size])?;
    Ok(())
}

fn running(primary: Site, place: &Place, mirrors: Vec<Site>) -> Running {
    let address = match place.transport {
        Transport::Unix => Address::Unix(primary.nbd_socket()),
        Transport::Tcp => Address::Tcp(format!("127.0.0.1:{}", primary.ports().nbd)),
    };
    let sites = std::iter::once(primary).chain(mirrors).collect();
    Running { address, export: VOLUME.into(), processes: Vec::new(), sites }
}
