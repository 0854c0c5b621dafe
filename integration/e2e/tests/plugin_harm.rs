//! Each thing that a plugin should not do, done beside hosts that write: they notice nothing, and what is
//! told of it names the plugin.
//!
//! How much slower writes are meanwhile is measured by `cargo xtask bench plugin`: here nothing depends on
//! time.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use serde_json::Value;

use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, expect, text};
use crate::plugins::{component, install};
use crate::records::{Journal, Load};

/// What it does, and what is told of it.
const KINDS: [(&str, &str); 10] = [
    ("loop", "plugin hostile"),
    ("sleep", "plugin hostile"),
    ("allocate", "plugin hostile"),
    // It says so itself when it is looked at first.
    ("trap", "it would trap"),
    ("make", "plugin hostile"),
    ("flood-output", "plugin hostile"),
    ("long-token", "plugin hostile"),
    // Not granted: it is told so, and says so itself.
    ("call", "is not granted"),
    // These end well, and are cut where they go too far.
    ("flood-log", "said it all"),
    ("flood-metrics", "counted"),
];

fn plan(kind: &str) -> String {
    let params = if kind == "call" { "params = { url = \"http://127.0.0.2/\" }\n" } else { "" };
    format!(
        "name = \"harm\"\nkind = \"other\"\n[sites]\nsource = \"east\"\ndestination = \"west\"\n\
         [[steps]]\nid = \"it\"\naction = \"hostile/{kind}\"\n{params}retries = 0\n"
    )
}

fn begin(site: &Site, dir: &Path, kind: &str) -> Result<String> {
    let file = dir.join("harm.toml");
    std::fs::write(&file, plan(kind)).context("write the plan")?;
    site.cli(&["plan", "save", &file.display().to_string()])?;
    text(&site.ask(&["plan", "run", "harm"])?.json, "/id")
}

fn ended(site: &Site, run: &str) -> Result<Value> {
    site.wait_for(&["run", "show", run], SYNC_LIMIT, |run| {
        !matches!(run["state"].as_str(), Some("running" | "turning_back" | "pending"))
    })
}

/// After three faults a plugin rests; then it is called again.
fn rested(site: &Site) -> Result<()> {
    wait_for("the plugin's rest to end", SYNC_LIMIT, || {
        site.cli(&["plugin", "probe", "hostile"]).map(drop).or_else(|error| {
            // It answers that it is in no good state: that is an answer.
            let told = site.ask(&["plugin", "probe", "hostile"])?.text;
            if told.contains("resting") || told.contains("rests") { Err(error) } else { Ok(()) }
        })
    })
}

#[test]
fn whatever_a_plugin_does_hosts_write_on_and_it_is_named() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let east = &pair.primary;
    install(east, "hostile")?;
    east.cli(&["plugin", "grant", "hostile", "kv", "volumes"])?;
    let journal = Journal::new(0, 0, 2, 512);
    let load = Load::start(&journal, &east.nbd_socket(), VOLUME)?;
    load.await_more(50, SOON)?;
    for (kind, told) in KINDS {
        rested(east)?;
        let run = begin(east, pair.dir.path(), kind)?;
        // Hosts are served while it does so, and not only before and after.
        load.await_more(20, SOON).with_context(|| format!("beside {kind}"))?;
        let shown = ended(east, &run)?;
        let text = shown.to_string();
        ensure!(text.contains(told), "{kind} is told as {shown:#}");
        load.await_more(20, SOON).with_context(|| format!("after {kind}"))?;
    }
    // Replaced while a call of it runs.
    rested(east)?;
    let run = begin(east, pair.dir.path(), "loop")?;
    install(east, "hostile")?;
    load.await_more(20, SOON).context("beside a replacement")?;
    ended(east, &run)?;
    // Built for a contract that is not served.
    let newer = std::fs::read(component("hello")?).context("read a component")?;
    let newer = replaced(&newer, b"@0.1.0", b"@0.9.0");
    let file = pair.dir.path().join("newer.wasm");
    std::fs::write(&file, newer).context("write the newer one")?;
    expect(east, &["plugin", "install", &file.display().to_string()], 7, "GW0722")?;
    // Fault after fault: it rests, and its state says so by its name.
    wait_for("the plugin to rest", SYNC_LIMIT, || {
        let run = begin(east, pair.dir.path(), "make")?;
        ended(east, &run)?;
        let shown = east.cli(&["plugin", "show", "hostile"])?;
        ensure!(shown["state"] == "resting" && shown["name"] == "hostile", "{shown:#}");
        Ok(())
    })?;
    let metrics = east.metrics()?;
    ensure!(metrics.contains("twinspan_plugin_calls_total{plugin=\"hostile\""), "{metrics}");
    load.await_more(50, SOON)?;
    let done = load.end()?;
    done.is_undisturbed()?;
    let found = journal.is_intact(&east.nbd_socket(), VOLUME)?;
    println!("{} records, the slowest {:?}; {found:?}", done.records, done.slowest);
    pair.is_identical()
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut all = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = all[at..].windows(from.len()).position(|window| window == from) {
        all[at + found..at + found + to.len()].copy_from_slice(to);
        at += found + to.len();
    }
    all
}
