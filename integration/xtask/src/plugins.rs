//! `cargo xtask plugins`: builds the first-party plugins, which are for another machine than the rest.
//!
//! Invariant: what is built lies in one place, which the tests and the demo know.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{cargo, is_installed, root, run};

/// What plugins are compiled for.
const TARGET: &str = "wasm32-wasip2";

/// Builds all of them.
///
/// # Errors
/// When the target is not there and cannot be had, or a plugin does not compile.
pub(crate) fn build() -> Result<()> {
    add_target()?;
    // A target folder of their own: they are a workspace of their own.
    let mut build = cargo(&["build", "--release", "--target", TARGET]);
    build.current_dir(root().join("plugins"));
    run(build.env("CARGO_TARGET_DIR", root().join("target/plugins")))
}

/// Tests what of them is the same on this machine.
///
/// # Errors
/// When a test fails.
pub(crate) fn test() -> Result<()> {
    let mut tests = cargo(&["test", "--workspace", "--lib"]);
    tests.current_dir(root().join("plugins"));
    run(tests.env("CARGO_TARGET_DIR", root().join("target/plugins")))
}

/// Says whether their code is formatted.
///
/// # Errors
/// When it is not.
pub(crate) fn format_check() -> Result<()> {
    run(cargo(&["fmt", "--all", "--check"]).current_dir(root().join("plugins")))
}

fn add_target() -> Result<()> {
    if has_target() {
        return Ok(());
    }
    if !is_installed("rustup") {
        bail!(
            "plugins are compiled for {TARGET}, and this Rust has no standard library for it. \
             Install Rust by rustup, which fetches it, or install the library beside this compiler"
        );
    }
    run(Command::new("rustup").args(["target", "add", TARGET]))
}

/// Whether the compiler has a standard library for plugins.
fn has_target() -> bool {
    let asked =
        Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    asked.is_ok_and(|answer| {
        let folder = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        answer.status.success() && Path::new(&folder).is_dir()
    })
}
