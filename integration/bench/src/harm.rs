//! What hosts notice of a plugin that does what it should not: the latency of their writes beside it, and
//! without it.
//!
//! Invariant: quiet and disturbed rounds follow each other; medians are compared. An error in any answer
//! fails the run.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use serde::Serialize;
use serde_json::Value;

use crate::client::Address;
use crate::load::{Load, fill};
use crate::report::median;

/// What it does: computes, takes memory, floods.
const KINDS: [&str; 4] = ["loop", "allocate", "flood-log", "flood-metrics"];
const VOLUME: &str = "bench";
/// A call that computes without an end is ended after ten seconds of it.
const LIMIT: Duration = Duration::from_secs(120);
const DEPTH: usize = 16;

/// The 99th percentile of writes of 4 KiB, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Beside {
    pub(crate) kind: &'static str,
    pub(crate) quiet_p99_us: f64,
    pub(crate) disturbed_p99_us: f64,
    pub(crate) ratio: f64,
}

fn write(address: &Address, seconds: f64) -> Result<f64> {
    let load = Load::rand_write((address, VOLUME), DEPTH, seconds);
    let p99_us = load.run()?.p99_us;
    ensure!(p99_us > 0.0, "no write was answered within {seconds} s: measure for longer");
    Ok(p99_us)
}

/// Begins a run that calls it; the run.
fn begin(site: &Site, dir: &Path, kind: &str) -> Result<String> {
    let file = dir.join("harm.toml");
    let plan = format!(
        "name = \"harm\"\nkind = \"other\"\n[sites]\nsource = \"one\"\ndestination = \"two\"\n\
         [[steps]]\nid = \"it\"\naction = \"hostile/{kind}\"\nretries = 0\non_failure = \"roll-back\"\n"
    );
    std::fs::write(&file, plan).context("write the plan")?;
    site.cli(&["plan", "save", &file.display().to_string()])?;
    let begun: Value = site.ask(&["plan", "run", "harm"])?.json;
    begun["id"].as_str().map(str::to_owned).context("the run has no id")
}

fn end(site: &Site, run: &str) -> Result<()> {
    site.wait_for(&["run", "show", run], LIMIT, |run| {
        !matches!(run["state"].as_str(), Some("running" | "turning_back" | "pending"))
    })?;
    // Where it rests after its faults it would disturb nobody in the next round.
    wait_for("the plugin's rest to end", LIMIT, || {
        let list = site.cli(&["plugin", "list"])?.to_string();
        ensure!(!list.contains("resting"), "it rests");
        Ok(())
    })
}

/// Measures beside each kind.
///
/// # Errors
/// When a gateway cannot be started, or answers with an error.
pub(crate) fn measure(
    dir: &Path,
    component: &Path,
    (repeats, seconds): (usize, f64),
) -> Result<Vec<Beside>> {
    let mut all = Vec::new();
    for kind in KINDS {
        // A plugin that fails again and again rests longer each time: each kind begins with another one.
        let mut site = Site::new(&dir.join(kind), "one")?;
        site.start()?;
        site.cli(&["volume", "create", VOLUME, "--size", "256MiB"])?;
        let address = Address::Unix(site.nbd_socket());
        fill(&address, VOLUME)?;
        site.cli(&["plugin", "install", &component.display().to_string()])?;
        site.cli(&["plugin", "grant", "hostile", "kv", "volumes"])?;
        let (mut quiet, mut disturbed) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            quiet.push(write(&address, seconds)?);
            let run = begin(&site, dir, kind)?;
            disturbed.push(write(&address, seconds)?);
            end(&site, &run)?;
        }
        // Each beside the quiet round before it: the machine is another one minutes later.
        let ratio = median(disturbed.iter().zip(&quiet).map(|(beside, alone)| beside / alone));
        let (quiet, disturbed) = (median(quiet), median(disturbed));
        all.push(Beside { kind, quiet_p99_us: quiet, disturbed_p99_us: disturbed, ratio });
        site.stop()?;
    }
    Ok(all)
}
