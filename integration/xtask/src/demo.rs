//! `cargo xtask demo`: builds the product, then lets it start its own demo.
//!
//! Invariant: standard output is the demo's alone, so that its JSON can be piped.

use std::path::PathBuf;

use anyhow::Result;

use crate::plugins;
use crate::run::{self, become_it, cargo, release};

/// The demo's own arguments, passed on as they are.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the two sites keep their data.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Return when the mirror is in sync, and leave the sites running.
    #[arg(long)]
    detach: bool,
    /// `json` prints one line for programs.
    #[arg(long, value_name = "FORMAT")]
    output: Option<String>,
    /// Simulated distance between the sites, such as `1ms`.
    #[arg(long, value_name = "TIME")]
    distance: Option<String>,
}

/// Builds, then becomes the demo.
///
/// # Errors
/// When the build fails or the demo cannot be started.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    plugins::build()?;
    run::run(&mut cargo(&["build", "--release", "--package", "twinspan-cli"]))?;
    let mut demo = std::process::Command::new(release("twinspan")?);
    demo.args(["demo", "start"]);
    if let Some(dir) = &arguments.dir {
        demo.arg("--dir").arg(dir);
    }
    if arguments.detach {
        demo.arg("--detach");
    }
    for (flag, value) in [("--output", &arguments.output), ("--distance", &arguments.distance)] {
        if let Some(value) = value {
            demo.arg(flag).arg(value);
        }
    }
    become_it(&mut demo)
}
