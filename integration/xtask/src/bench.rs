//! `cargo xtask bench`: builds the product and the bench, then becomes the bench.
//!
//! Invariant: both are built for release, in one build.

use anyhow::Result;

use crate::run::{self, become_it, cargo, release};
use crate::{packages, plugins};

/// What to measure; passed on to the bench.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// `nbd` (one gateway), `iscsi` (the same for initiators), `mirror` (two), `store` (flush and FUA on
    /// the disk), `recovery` (resync and failover), `distance` (modes at 5 ms), `snapshots` (snapshots
    /// and backups) or `plugin` (calls into plugins).
    #[arg(value_parser = [
        "nbd", "iscsi", "mirror", "store", "recovery", "distance", "snapshots", "plugin",
    ])]
    what: String,
    /// How long each measurement takes.
    #[arg(long, value_name = "S")]
    seconds: Option<String>,
    /// Rounds over all contestants.
    #[arg(long, value_name = "N")]
    repeats: Option<String>,
    /// `table` or `json`.
    #[arg(long, value_name = "FORMAT")]
    output: Option<String>,
}

/// Installs the peers, builds, becomes the bench.
///
/// # Errors
/// When a peer cannot be installed, the build fails or the bench cannot be started.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::for_benchmarks()?;
    if arguments.what == "plugin" {
        plugins::build()?;
    }
    let build = ["build", "--release", "--package", "twinspan-cli", "--package", "twinspan-bench"];
    run::run(&mut cargo(&build))?;
    let mut bench = std::process::Command::new(release("twinspan-bench")?);
    bench.arg(&arguments.what).env("TWINSPAN_BIN", release("twinspan")?);
    let options = [
        ("--seconds", &arguments.seconds),
        ("--repeats", &arguments.repeats),
        ("--output", &arguments.output),
    ];
    for (flag, value) in options {
        if let Some(value) = value {
            bench.arg(flag).arg(value);
        }
    }
    become_it(&mut bench)
}
