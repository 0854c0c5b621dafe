//! A group over two gateways a site: dependent writes go over both, and a promotion opens both at one
//! point in their order.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Proxy, Site};
use serde_json::Value;
use tempfile::TempDir;

use crate::chain::{Chain, Plan, read_front};
use crate::pair::{SOON, SYNC_LIMIT, set, text};
use crate::random::Random;

const GROUP: &str = "ledger";
const VOLUMES: [&str; 2] = ["log", "tables"];
const PLAN: Plan = Plan { volumes: 2, writers: 3, slots: 64 };

/// How often the link of a part is cut: `TWINSPAN_CUTS`, or 5.
fn cuts() -> u64 {
    let set = std::env::var("TWINSPAN_CUTS").ok().and_then(|text| text.parse().ok());
    set.unwrap_or(5)
}

/// Two gateways at each of two sites.
struct Span {
    sites: [[Site; 2]; 2],
    /// What links to the gateways of the second site go through.
    network: Vec<Proxy>,
    ids: [[String; 2]; 2],
    _dir: TempDir,
}

fn shown(site: &Site) -> Result<Value> {
    let answer = site.ask(&["group", "show", GROUP])?;
    ensure!(answer.json.is_object(), "group show ended with {}\n{}", answer.code, answer.text);
    Ok(answer.json)
}

fn id_of(site: &Site) -> Result<String> {
    text(&site.cli(&["site", "list"])?, "/this/gateway")
}

impl Span {
    /// Four gateways that trust each other; the group lies at the first site and is in one stretch.
    fn mirrored() -> Result<Self> {
        let span = Self::joined()?;
        let [[first, second], _] = &span.sites;
        first.cli(&["volume", "create", VOLUMES[0], "--size", "4MiB", "--group", GROUP])?;
        let part = ["volume", "create", VOLUMES[1], "--size", "4MiB", "--group", GROUP];
        second.cli(&[&part[..], &["--part-of", &span.ids[0][0]]].concat())?;
        span.await_serving(0)?;
        for part in 0..2 {
            let to = span.ids[1][part].clone();
            span.sites[0][part].cli(&["session", "create", GROUP, "--to", &to])?;
        }
        span.await_stretch(0)?;
        Ok(span)
    }

    fn joined() -> Result<Self> {
        let dir = tempfile::tempdir().context("make a folder")?;
        let gateway = |folder: &str, name: &str| Site::new(&dir.path().join(folder), name);
        let mut sites = [
            [gateway("a", "east")?, gateway("b", "east")?],
            [gateway("c", "west")?, gateway("d", "west")?],
        ];
        let mut network = Vec::new();
        for site in &sites[1] {
            let relay = Proxy::start(site.link_address())?;
            set(site, "link", &format!("advertise = \"{}\"", relay.address()))?;
            network.push(relay);
        }
        for site in sites.iter_mut().flatten() {
            site.spawn()?;
        }
        for site in sites.iter_mut().flatten() {
            site.await_ready()?;
        }
        let [[a, b], [c, d]] = &sites;
        for [one, other] in [[a, b], [c, d], [a, c], [b, d]] {
            one.join(other)?;
        }
        let ids = [[id_of(a)?, id_of(b)?], [id_of(c)?, id_of(d)?]];
        Ok(Self { sites, network, ids, _dir: dir })
    }

    fn await_serving(&self, site: usize) -> Result<()> {
        for gateway in &self.sites[site] {
            gateway.wait_for(&["group", "show", GROUP], SOON, |group| {
                group.pointer("/serving").and_then(Value::as_str) == Some("yes")
            })?;
        }
        Ok(())
    }

    /// Every part of the site counts on its mirror.
    fn await_stretch(&self, site: usize) -> Result<()> {
        for gateway in &self.sites[site] {
            gateway.wait_for(&["group", "show", GROUP], SYNC_LIMIT, |group| {
                group.pointer("/parts/in_stretch").and_then(Value::as_bool) == Some(true)
            })?;
        }
        Ok(())
    }

    fn stretch(&self, site: usize, part: usize) -> Result<u64> {
        let group = shown(&self.sites[site][part])?;
        group.pointer("/parts/stretch").and_then(Value::as_u64).context("there is no stretch")
    }

    fn write(&self, site: usize, after: &[u64]) -> Result<Chain> {
        let sockets: Vec<_> = self.sites[site].iter().map(Site::nbd_socket).collect();
        let places: Vec<_> =
            sockets.iter().zip(VOLUMES).map(|(socket, name)| (socket.as_path(), name)).collect();
        Chain::start_at(PLAN, &places, after)
    }

    /// What hosts read at a site, of each writer the newest record; it must be one point in time.
    fn read(&self, site: usize) -> Result<Vec<u64>> {
        let fronts = self.sites[site]
            .iter()
            .zip(VOLUMES)
            .map(|(gateway, name)| read_front(&gateway.nbd_socket(), name, PLAN.bytes()));
        PLAN.check(&fronts.collect::<Result<Vec<_>>>()?)
    }

    /// What a snapshot of all parts holds at a site, as `read` of the volumes.
    fn read_at(&self, site: usize, snapshot: &str) -> Result<Vec<u64>> {
        let fronts = self.sites[site].iter().zip(VOLUMES).map(|(gateway, name)| {
            read_front(&gateway.nbd_socket(), &format!("{name}@{snapshot}"), PLAN.bytes())
        });
        PLAN.check(&fronts.collect::<Result<Vec<_>>>()?)
    }

    /// Every gateway lists these snapshots.
    fn await_listed(&self, wanted: usize) -> Result<()> {
        for gateway in self.sites.iter().flatten() {
            gateway.wait_for(&["snapshot", "list", GROUP], SOON, |list| {
                list["items"].as_array().is_some_and(|items| items.len() == wanted)
            })?;
        }
        Ok(())
    }

    fn fail_over(&self, site: usize) -> Result<()> {
        let gateway = &self.sites[site][0];
        let plan = ["failover", "plan", GROUP, "--accept", "outdated"];
        let planned = gateway
            .wait_for(&plan, SOON, |plan| plan.pointer("/token").is_some_and(Value::is_string))?;
        let token = text(&planned, "/token")?;
        gateway.cli(&["failover", "run", GROUP, "--token", &token])?;
        self.await_serving(site)
    }
}

#[test]
fn a_group_over_two_gateways_opens_at_one_point_whichever_link_is_cut() -> Result<()> {
    let mut span = Span::mirrored()?;
    let mut random = Random::new(2);
    let chain = span.write(0, &[0; 3])?;
    for cut in 1..=cuts() {
        chain.await_more(random.within(30..300), SYNC_LIMIT)?;
        let before = [span.stretch(0, 0)?, span.stretch(0, 1)?];
        let part = usize::from(cut % 2 == 0);
        span.network[part].cut();
        // Both parts stop, and hosts go on.
        for (part, before) in before.into_iter().enumerate() {
            span.sites[0][part].wait_for(&["group", "show", GROUP], SOON, |group| {
                group.pointer("/parts/stretch").and_then(Value::as_u64) > Some(before)
            })?;
        }
        chain.await_more(random.within(10..100), SYNC_LIMIT)?;
        span.network[part].mend();
        span.await_stretch(0)?;
    }
    chain.await_more(random.within(30..300), SYNC_LIMIT)?;
    span.network[0].cut();
    std::thread::sleep(Duration::from_millis(random.within(0..700)));
    for gateway in &mut span.sites[0] {
        gateway.kill()?;
    }
    let acknowledged = chain.acknowledged();
    drop(chain);
    span.network[0].mend();
    span.fail_over(1)?;
    let found = span.read(1)?;
    println!("acknowledged {acknowledged:?}, found {found:?} at the other site");
    Ok(())
}

#[test]
fn the_parts_of_a_group_are_moved_and_brought_home_together() -> Result<()> {
    let mut span = Span::mirrored()?;
    let chain = span.write(0, &[0; 3])?;
    chain.await_more(40, SYNC_LIMIT)?;
    let written = chain.end()?;
    let planned =
        span.sites[0][0].wait_for(&["migrate", "plan", GROUP, "--to", "west"], SOON, |plan| {
            plan.pointer("/token").is_some_and(Value::is_string)
        })?;
    let token = text(&planned, "/token")?;
    span.sites[0][0].cli(&["migrate", "run", GROUP, "--token", &token])?;
    span.await_serving(1)?;
    ensure!(span.read(1)? == written, "a swap of roles loses nothing");
    span.await_stretch(1)?;
    let chain = span.write(1, &written)?;
    chain.await_more(40, SYNC_LIMIT)?;
    let written = chain.end()?;
    for gateway in &mut span.sites[1] {
        gateway.kill()?;
    }
    span.fail_over(0)?;
    ensure!(span.read(0)? == written, "every mirror was in sync");
    for gateway in &mut span.sites[1] {
        gateway.start()?;
    }
    span.sites[0][1].cli(&["reprotect", GROUP, "--wait"])?;
    span.await_stretch(0)
}

#[test]
fn a_dead_companion_is_named_and_excluded_by_a_word() -> Result<()> {
    let mut span = Span::mirrored()?;
    let other = span.ids[0][1].clone();
    span.sites[0][1].kill()?;
    span.network[0].cut();
    let named = |group: &Value| {
        let stops = group.pointer("/parts/not_stopped").and_then(Value::as_array);
        stops.is_some_and(|list| list.iter().any(|id| id.as_str() == Some(&other)))
    };
    span.sites[0][0].wait_for(&["group", "show", GROUP], SOON, named)?;
    let exclude = ["group", "exclude", GROUP, "--gateway", &other];
    let unsaid = span.sites[0][0].ask(&exclude)?;
    ensure!(unsaid.code == 7 && unsaid.text.contains("--stopped"), "{}", unsaid.text);
    span.sites[0][0].cli(&[&exclude[..], &["--stopped"]].concat())?;
    span.sites[0][0].wait_for(&["group", "show", GROUP], SOON, |group| {
        group.pointer("/serving").and_then(Value::as_str) == Some("yes")
    })?;
    span.sites[0][1].start()?;
    span.sites[0][1].wait_for(&["group", "show", GROUP], SOON, |group| {
        group.pointer("/serving").and_then(Value::as_str) == Some("excluded")
    })?;
    span.network[0].mend();
    span.sites[0][0].cli(&["group", "include", GROUP, "--gateway", &other])?;
    span.await_serving(0)?;
    span.await_stretch(0)
}

#[test]
fn rule_14_a_snapshot_of_all_parts_is_one_point_at_both_sites_while_hosts_write() -> Result<()> {
    let mut span = Span::mirrored()?;
    let mut random = Random::new(14);
    let chain = span.write(0, &[0; 3])?;
    let names: Vec<String> = (0..5).map(|number| format!("s{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        chain.await_more(random.within(20..100), SYNC_LIMIT)?;
        let before = chain.acknowledged();
        let taken =
            span.sites[0][number % 2].cli(&["snapshot", "create", GROUP, "--name", name])?;
        let parts = taken["parts"].as_array().context("which parts keep it")?;
        ensure!(parts.iter().all(|part| part["keeps"] == true) && parts.len() == 1, "{taken}");
        let found = span.read_at(0, name)?;
        let holds_all = before.iter().zip(&found).all(|(acked, found)| acked <= found);
        ensure!(holds_all, "{name} holds {found:?}, and {before:?} were acknowledged before");
    }
    span.await_listed(names.len())?;
    let written = chain.end()?;
    for name in &names {
        ensure!(span.read_at(0, name)? == span.read_at(1, name)?, "{name} differs between sites");
    }
    ensure!(span.read(0)? == written, "hosts lost nothing");
    let refused = span.sites[0][0].ask(&["snapshot", "rollback", "plan", GROUP, &names[0]])?;
    ensure!(refused.code != 0 && refused.text.contains("several gateways"), "{}", refused.text);
    let deleted = span.sites[0][1].ask(&["snapshot", "delete", GROUP, &names[0]])?;
    ensure!(deleted.code == 0, "{}", deleted.text);
    span.await_listed(names.len() - 1)?;

    // A companion that cannot be asked is named; hosts go on, and nothing is listed.
    span.sites[0][1].kill()?;
    let refused = span.sites[0][0].ask(&["snapshot", "create", GROUP, "--name", "late"])?;
    ensure!(refused.code != 0 && refused.text.contains(&span.ids[0][1]), "{}", refused.text);
    let listed = span.sites[0][0].cli(&["snapshot", "list", GROUP])?;
    let items = listed["items"].as_array().context("snapshots")?;
    ensure!(items.len() == names.len() - 1, "{listed}");
    let unknown = items.iter().all(|item| item["parts"][0].get("keeps").is_none());
    ensure!(unknown, "what a dead companion keeps is not known: {listed}");
    span.sites[0][1].start()?;
    span.await_serving(0)?;
    span.await_stretch(0)?;
    span.sites[0][1].cli(&["snapshot", "create", GROUP, "--name", "again"])?;
    span.await_listed(names.len())
}
