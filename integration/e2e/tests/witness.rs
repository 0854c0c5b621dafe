//! Sites under a real etcd: who goes on when the primary dies, stops, is cut off, or the witness is
//! gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Process, Proxy, Site, Tool, free_port, get, wait_for};
use serde_json::Value;
use tempfile::TempDir;

use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, await_group, group, set};
use crate::records::{Journal, Load};

const SIZE: &str = "64MiB";
/// Short times, so that a test takes seconds.
const WITNESS: &str = "lease = \"2s\"\nhold = \"3s\"\nfailover_after = \"3s\"\ntimeout = \"1s\"";
const MIRROR: &str = "failover = \"automatic\"\nheartbeat = \"200ms\"\nsilence = \"1s\"";

/// A real etcd.
struct Etcd {
    members: Vec<Process>,
    endpoints: Vec<SocketAddr>,
    commands: Vec<Vec<String>>,
}

impl Etcd {
    fn start(dir: &Path, count: usize) -> Result<Self> {
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut endpoints = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..count {
            endpoints.push(at(free_port()?));
            peers.push(at(free_port()?));
        }
        let named = peers.iter().enumerate().map(|(n, peer)| format!("n{n}=http://{peer}"));
        let cluster = named.collect::<Vec<_>>().join(",");
        let mut etcd = Self { members: Vec::new(), endpoints, commands: Vec::new() };
        for (n, (client, peer)) in etcd.endpoints.iter().zip(&peers).enumerate() {
            let data = dir.join(format!("etcd-{n}"));
            let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
            let flags = [
                ("--name", format!("n{n}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", cluster.clone()),
            ];
            etcd.commands.push(
                flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
            );
        }
        for n in 0..count {
            let process = etcd.member(dir, n)?;
            etcd.members.push(process);
        }
        etcd.await_health()?;
        Ok(etcd)
    }

    fn member(&self, dir: &Path, n: usize) -> Result<Process> {
        let mut command = Command::new("etcd");
        command.args(&self.commands[n]).env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        Process::start("etcd", &mut command, &dir.join(format!("etcd-{n}.log")))
    }

    fn await_health(&self) -> Result<()> {
        wait_for("a healthy etcd", SYNC_LIMIT, || {
            let (status, body) = get(self.endpoints[0], "/health")?;
            ensure!(status == 200 && body.contains("true"), "{status} {body}");
            Ok(())
        })
    }

    fn urls(&self) -> String {
        let urls: Vec<String> =
            self.endpoints.iter().map(|at| format!("\"http://{at}\"")).collect();
        urls.join(", ")
    }
}

/// Two sites under an etcd of so many members, with one volume in sync, which the witness knows.
fn witnessed(members: usize) -> Result<(Pair, Etcd)> {
    let dir: TempDir = tempfile::tempdir().context("make a folder")?;
    let etcd = Etcd::start(dir.path(), members)?;
    let primary = Site::new(dir.path(), "east")?;
    let mirror = Site::new(dir.path(), "west")?;
    let mut network = Vec::new();
    for site in [&primary, &mirror] {
        let relay = Proxy::start(site.link_address())?;
        set(site, "link", &format!("advertise = \"{}\"", relay.address()))?;
        set(site, "witness", &format!("endpoints = [{}]\n{WITNESS}", etcd.urls()))?;
        set(site, "mirror", MIRROR)?;
        network.push(relay);
    }
    let mut pair = Pair { primary, mirror, network, dir };
    pair.primary.start()?;
    pair.mirror.start()?;
    pair.primary.join(&pair.mirror)?;
    pair.primary.cli(&["volume", "create", VOLUME, "--size", SIZE])?;
    pair.primary.mirror(VOLUME, &pair.mirror)?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    await_group(&pair.mirror, "the witness to name the mirror", SOON, |group| {
        group.pointer("/quality").and_then(Value::as_str) == Some("in_sync")
    })?;
    Ok((pair, etcd))
}

fn journal() -> Journal {
    Journal::new(0, 0, 4, 1024)
}

fn is(group: &Value, place: &str, what: &str) -> bool {
    group.pointer(place).and_then(Value::as_str) == Some(what)
}

fn await_primary(site: &Site) -> Result<()> {
    await_group(site, "to take over", SYNC_LIMIT, |group| {
        is(group, "/role", "primary") && is(group, "/serving", "yes")
    })
    .map(drop)
}

fn explains(group: &Value, code: &str) -> bool {
    let explanations = group.pointer("/explanations").and_then(Value::as_array);
    explanations.into_iter().flatten().any(|one| one["code"] == code)
}

fn await_fence(site: &Site) -> Result<()> {
    await_group(site, "the fence", SYNC_LIMIT, |group| is(group, "/role", "fenced")).map(drop)
}

fn write_block(site: &Site) -> Result<(i32, String)> {
    let uri = site.nbd_unix(VOLUME);
    Tool::new("qemu-io").args(["-f", "raw", "-c", "write 60M 4k", &uri]).code()
}

#[test]
fn witness_replaces_a_killed_primary_and_nothing_is_lost() -> Result<()> {
    let (mut pair, mut etcd) = witnessed(3)?;
    let journal = journal();
    // One member fewer is a majority still.
    etcd.members[2].kill()?;
    let load = Load::start(&journal, &pair.primary.nbd_socket(), VOLUME)?;
    load.await_more(300, SOON)?;
    pair.primary.kill()?;
    let clock = harness::Deadline::after(Duration::ZERO);
    load.await_end(SOON)?;
    load.end()?.is_dropped()?;
    await_primary(&pair.mirror)?;
    println!("took over {:.1} s after the kill", clock.elapsed().as_secs_f64());
    journal.is_intact(&pair.mirror.nbd_socket(), VOLUME)?;
    pair.swap();
    pair.mirror.spawn()?;
    pair.mirror.await_ready()?;
    await_fence(&pair.mirror)?;
    Ok(())
}

#[test]
fn witness_fences_a_primary_that_was_stopped_and_goes_on() -> Result<()> {
    let (mut pair, _etcd) = witnessed(1)?;
    let journal = journal();
    let load = Load::start(&journal, &pair.primary.nbd_socket(), VOLUME)?;
    load.await_more(300, SOON)?;
    pair.primary.process()?.pause()?;
    await_primary(&pair.mirror)?;
    pair.primary.process()?.resume()?;
    load.await_end(SYNC_LIMIT)?;
    load.end()?.is_dropped()?;
    await_fence(&pair.primary)?;
    // Whatever it still answered is at the new primary.
    journal.is_intact(&pair.mirror.nbd_socket(), VOLUME)?;
    Ok(())
}

#[test]
fn witness_lets_exactly_one_go_on_when_the_link_is_cut() -> Result<()> {
    let (pair, _etcd) = witnessed(1)?;
    let journal = journal();
    let load = Load::start(&journal, &pair.primary.nbd_socket(), VOLUME)?;
    load.await_more(100, SOON)?;
    pair.cut();
    load.await_more(300, SOON)?;
    // Longer than the lease and the time after which the mirror may take over.
    std::thread::sleep(Duration::from_secs(8));
    load.await_more(100, SOON)?;
    load.end()?.is_undisturbed()?;
    ensure!(is(&group(&pair.mirror)?, "/role", "secondary"), "both go on");
    let plan = pair.mirror.ask(&["failover", "plan", VOLUME])?;
    let is_blocked = plan.json["token"].is_null() && plan.text.contains("does not name this copy");
    ensure!(is_blocked, "the mirror could be promoted: {}", plan.text);
    pair.mend();
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    pair.is_identical()
}

#[test]
fn witness_that_is_down_stops_nobody_until_a_mirror_is_lost() -> Result<()> {
    let (mut pair, mut etcd) = witnessed(1)?;
    let journal = journal();
    let load = Load::start(&journal, &pair.primary.nbd_socket(), VOLUME)?;
    etcd.members[0].kill()?;
    await_group(&pair.primary, "news of the witness", SOON, |group| explains(group, "GW0642"))?;
    let metrics = pair.primary.metrics()?;
    ensure!(metrics.contains("twinspan_witness_up{witness=\"etcd\"} 0"), "{metrics}");
    load.await_more(300, SOON)?;
    load.end()?.is_undisturbed()?;
    pair.mirror.kill()?;
    let (code, told) = write_block(&pair.primary)?;
    ensure!(code != 0, "a write was acknowledged without the mirror and the witness: {told}");
    await_group(&pair.primary, "the refusal", SOON, |group| {
        explains(group, "GW0644") && is(group, "/serving", "no_witness")
    })?;
    let revived = etcd.member(pair.dir.path(), 0)?;
    etcd.members[0] = revived;
    etcd.await_health()?;
    await_group(&pair.primary, "to go on alone", SYNC_LIMIT, |group| is(group, "/serving", "yes"))?;
    let (code, told) = write_block(&pair.primary)?;
    ensure!(code == 0, "{told}");
    journal.is_intact(&pair.primary.nbd_socket(), VOLUME).map(drop)
}
