//! What a real Prometheus makes of what gateways export.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use harness::{Process, Site, Tool, free_port, get, require, wait_for};
use serde_json::Value;

use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, await_group};
use crate::records::{Journal, Load};

/// Often enough that two samples lie in every window within seconds.
const SCRAPE_EVERY: &str = "500ms";
/// What Grafana would take for its `$__rate_interval`.
const RATE_INTERVAL: &str = "10s";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The metrics that the document describes as exported: name and type.
fn documented() -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(repository().join("gateway/docs/METRICS.md"))?;
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        let is_here = cells.get(5).is_some_and(|stage| *stage == "here");
        is_here.then(|| (name.to_owned(), cells[2].to_owned()))
    });
    Ok(rows.collect())
}

/// What a page of metrics exports: name and type.
fn exported(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let pairs = types.filter_map(|rest| rest.split_once(' '));
    pairs.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// The value of the first series with this name and these labels, in whatever order.
fn value(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let line = page.lines().filter_map(|line| line.strip_prefix(name)).find(|rest| {
        let is_whole_name = rest.starts_with(['{', ' ']);
        let has = |(key, value): &(&str, &str)| rest.contains(&format!("{key}=\"{value}\""));
        is_whole_name && labels.iter().all(has)
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

fn load(pair: &Pair, journal: &Journal) -> Result<Load> {
    let load = Load::start(journal, &pair.primary.nbd_socket(), VOLUME)?;
    load.await_more(200, SOON)?;
    Ok(load)
}

#[test]
fn a_page_is_well_formed_documented_and_without_summaries() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    let journal = Journal::new(0, 0, 2, 512);
    let load = load(&pair, &journal)?;
    let known = documented()?;
    ensure!(known.len() > 40, "the document has {} metrics", known.len());
    for site in [&pair.primary, &pair.mirror] {
        let page = site.metrics()?;
        let said = Tool::new("promtool").args(["check", "metrics"]).input(&page).run();
        said.with_context(|| format!("the page of {}", site.name()))?;
        for (name, kind) in exported(&page) {
            ensure!(kind != "summary", "{name} is a summary: quantiles cannot be added up");
            let is_process = name.starts_with("process_");
            let expected = known.get(&name);
            ensure!(
                is_process || expected == Some(&kind),
                "{name} is a {kind} at {}, and METRICS.md says {expected:?}",
                site.name()
            );
        }
    }
    let page = pair.primary.metrics()?;
    let leg = ("leg", "west");
    for (name, labels) in [
        ("twinspan_leg_ack_duration_seconds_count", vec![leg, ("kind", "write")]),
        ("twinspan_write_duration_seconds_count", vec![("group", VOLUME)]),
        ("twinspan_frontend_bytes_total", vec![("volume", VOLUME), ("op", "write")]),
        ("twinspan_frontend_requests_total", vec![("op", "flush"), ("result", "ok")]),
        ("twinspan_leg_sent_bytes_total", vec![leg, ("class", "mirror")]),
        ("twinspan_leg_rtt_seconds", vec![leg]),
        ("twinspan_leg_session_state", vec![leg, ("state", "active")]),
        ("twinspan_store_written_bytes_total", vec![("kind", "data")]),
        // Alerts tell by it what a process counted as it began.
        ("process_start_time_seconds", vec![]),
    ] {
        let found = value(&page, name, &labels);
        ensure!(found.is_some_and(|value| value > 0.0), "{name}{labels:?} is {found:?}");
    }
    load.end()?.is_undisturbed()?;

    pair.mirror.kill()?;
    await_group(&pair.primary, "the loss", SOON, |g| g["health"] == "at_risk")?;
    let page = pair.primary.metrics()?;
    let active = value(&page, "twinspan_leg_session_state", &[leg, ("state", "active")]);
    ensure!(active == Some(0.0), "a leg without a mirror is active: {active:?}");
    let rtt = value(&page, "twinspan_leg_rtt_seconds", &[leg]);
    ensure!(rtt.is_none(), "the round trip to nobody takes {rtt:?}");
    println!("{} metrics are exported, {} are documented", exported(&page).len(), known.len());
    Ok(())
}

/// A running Prometheus.
struct Prometheus {
    process: Process,
    address: SocketAddr,
}

impl Prometheus {
    fn start(dir: &Path, sites: &[&Site]) -> Result<Self> {
        require("prometheus")?;
        let rules = repository().join("dashboards/alerts.yml");
        let mut text = format!(
            "global: {{scrape_interval: {SCRAPE_EVERY}, evaluation_interval: 1s}}\n\
             rule_files: [{}]\nscrape_configs:\n  - job_name: twinspan\n    static_configs:\n",
            rules.canonicalize().context("find the rules")?.display()
        );
        for site in sites {
            text += &format!(
                "      - {{targets: [\"127.0.0.1:{}\"], labels: {{site: {}}}}}\n",
                site.ports().metrics,
                site.name()
            );
        }
        text += "    metric_relabel_configs:\n      - {regex: exported_site, action: labeldrop}\n";
        let file = dir.join("prometheus.yml");
        fs::write(&file, text)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(dir);
        let mut process = Process::start("prometheus", &mut command, &dir.join("prometheus.log"))?;
        process.wait_until("/-/ready", SOON, || match get(address, "/-/ready")? {
            (200, _) => Ok(()),
            (status, body) => bail!("{status} {body}"),
        })?;
        Ok(Self { process, address })
    }

    /// The series that a query gives now.
    fn query(&self, query: &str) -> Result<Vec<Value>> {
        let (status, body) = get(self.address, &format!("/api/v1/query?query={}", encoded(query)))?;
        let answer: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(status == 200 && answer["status"] == "success", "{query}\n{answer:#}");
        let result = answer.pointer("/data/result").and_then(Value::as_array);
        result.cloned().with_context(|| format!("{query}\n{answer:#}"))
    }

    /// The same, as soon as there are any.
    fn await_data(&mut self, query: &str) -> Result<Vec<Value>> {
        self.process.check()?;
        wait_for(query, SOON, || {
            let series = self.query(query)?;
            ensure!(!series.is_empty(), "no data");
            Ok(series)
        })
    }
}

/// A text as part of a URL.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |url, byte| {
        if byte.is_ascii_alphanumeric() {
            url + &char::from(byte).to_string()
        } else {
            url + &format!("%{byte:02X}")
        }
    })
}

/// Every query of a dashboard, its variables set to everything.
fn queries(dashboard: &Value) -> Vec<String> {
    let Some(panels) = dashboard["panels"].as_array() else { return Vec::new() };
    let nested = panels.iter().flat_map(queries);
    let own = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let own = own.filter_map(|target| target["expr"].as_str()).map(|query| {
        let query = query.replace("$__rate_interval", RATE_INTERVAL);
        ["site", "group", "leg"].iter().fold(query, |query, name| {
            query.replace(&format!("${{{name}}}"), ".*").replace(&format!("${name}"), ".*")
        })
    });
    own.chain(nested).collect()
}

/// What has nothing to show while all is well, or while nobody asked for it.
fn is_quiet_when_well(query: &str) -> bool {
    let troubles = ["failover_blocker", "resync_eta", "resync_copied_bytes_total"];
    let wishes = ["twinspan_backup_", "twinspan_point_journal_"];
    [&troubles[..], &wishes].concat().iter().any(|name| query.contains(name))
}

#[test]
fn a_prometheus_scrapes_both_sites_and_every_panel_has_data() -> Result<()> {
    let pair = Pair::mirrored("64MiB")?;
    pair.primary.cli(&["point", "policy", "set", VOLUME])?;
    pair.primary.cli(&["point", "take", VOLUME])?;
    for site in [&pair.primary, &pair.mirror] {
        crate::plugins::install(site, "hello")?;
        site.cli(&["plugin", "probe", "hello"])?;
    }
    let mut prometheus = Prometheus::start(pair.dir.path(), &[&pair.primary, &pair.mirror])?;
    let journal = Journal::new(0, 0, 2, 512);
    let load = load(&pair, &journal)?;
    wait_for("both sites", SOON, || {
        let up = prometheus.query("up{job=\"twinspan\"} == 1")?;
        ensure!(up.len() == 2, "{up:?}");
        Ok(())
    })?;
    let latency = "histogram_quantile(0.99, sum by (leg, le) \
                   (rate(twinspan_leg_ack_duration_seconds_bucket{kind=\"write\"}[10s]))) > 0";
    let found = prometheus.await_data(latency)?;
    println!("99 of 100 writes are acknowledged by the mirror within {} s", found[0]["value"][1]);

    let text = fs::read_to_string(repository().join("dashboards/operator.json"))?;
    let all = queries(&serde_json::from_str(&text)?);
    ensure!(all.len() > 30, "the dashboard has {} queries", all.len());
    let mut empty = Vec::new();
    for query in &all {
        if is_quiet_when_well(query) {
            prometheus.query(query)?;
        } else if prometheus.await_data(query).is_err() {
            // Accepted, or the error says so.
            prometheus.query(query)?;
            empty.push(query);
        }
    }
    ensure!(empty.is_empty(), "queries without data:\n{empty:#?}");
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}")?;
    ensure!(firing.is_empty(), "all is well, and {firing:#?}");
    load.end()?.is_undisturbed()?;
    println!("{} queries", all.len());
    Ok(())
}

#[test]
fn a_copy_shows_in_the_metrics_of_pairs() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    pair.mirror.kill()?;
    let journal = Journal::new(0, 0, 2, 512);
    load(&pair, &journal)?.end()?.is_undisturbed()?;
    let page = pair.primary.metrics()?;
    let orders = ("pair", "orders:west");
    let differ = value(&page, "twinspan_pair_out_of_sync_bytes", &[orders]);
    ensure!(differ.is_some_and(|bytes| bytes > 0.0), "{differ:?} bytes are out of sync");
    let group = ("group", VOLUME);
    let alone = value(&page, "twinspan_group_unprotected_acked_writes_total", &[group]);
    ensure!(alone.is_some_and(|writes| writes > 0.0), "{alone:?} writes were unprotected");
    pair.mirror.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    let page = pair.primary.metrics()?;
    let delta = [orders, ("kind", "delta")];
    let copied = value(&page, "twinspan_pair_resync_copied_bytes_total", &delta);
    ensure!(copied.is_some_and(|bytes| bytes > 0.0), "{copied:?} bytes were copied");
    let differ_now = value(&page, "twinspan_pair_out_of_sync_bytes", &[orders]);
    ensure!(differ_now == Some(0.0), "{differ_now:?} bytes are out of sync");
    println!("{differ:?} bytes differed, {copied:?} were copied");
    Ok(())
}

#[test]
fn the_rules_pass_their_own_tests() -> Result<()> {
    let dashboards = repository().join("dashboards");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts-test.yml"]] {
        Tool::new("promtool").args(arguments).current_dir(&dashboards).run()?;
    }
    Tool::new("promtool")
        .args(["check", "config", "prometheus.yml"])
        .current_dir(&dashboards)
        .run()?;
    Ok(())
}
