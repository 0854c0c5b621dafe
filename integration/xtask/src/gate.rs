//! What must pass: format, lints, tests.
//!
//! Invariant: everything is compiled in one profile, once for the lints and once to run.

use anyhow::Result;

use crate::run::{cargo, is_installed, run};
use crate::{packages, plugins};

/// What to test, and how much.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArguments {
    /// Histories that the simulator runs in the end, with a word on its progress and the seeds that
    /// failed; without it, as many as its tests say.
    #[arg(long, value_name = "N")]
    sim_seeds: Option<u64>,
    /// How often each kind of kill is tried end to end; without it, as often as the tests say.
    #[arg(long, value_name = "N")]
    kills: Option<u64>,
    /// How often the link under a group of sixteen volumes is cut; without it, as often as the tests say.
    #[arg(long, value_name = "N")]
    cuts: Option<u64>,
    /// Only tests with this in their name, and no format and lint checks.
    filter: Option<String>,
}

/// Installs, checks, tests.
///
/// # Errors
/// At the first of these that fails.
pub(crate) fn test(arguments: &TestArguments) -> Result<()> {
    packages::for_tests()?;
    if arguments.filter.is_none() {
        packages::for_lints()?;
        format_check()?;
        lint()?;
    }
    plugins::build()?;
    // Programs and tests in one go: the end-to-end tests start the former, and cargo would not
    // build them for the latter.
    run(&mut cargo(&["build", "--workspace", "--all-targets"]))?;
    if arguments.filter.is_none() {
        plugins::test()?;
        run(&mut cargo(&["test", "--workspace", "--doc"]))?;
    }
    let mut tests = runner();
    if let Some(filter) = &arguments.filter {
        tests.arg(filter);
    }
    if let Some(kills) = arguments.kills {
        tests.env("TWINSPAN_KILLS", kills.to_string());
    }
    if let Some(cuts) = arguments.cuts {
        tests.env("TWINSPAN_CUTS", cuts.to_string());
    }
    let tested = run(&mut tests);
    if let Some(seeds) = arguments.sim_seeds {
        // Also when a test failed: whoever asks for so many wants to know of each of them.
        run(&mut cargo(&["run", "--package", "twinspan-sim", "--", "seeds", &seeds.to_string()]))?;
    }
    tested
}

/// Runs the conformance suite of iSCSI against this product and against tgt.
///
/// # Errors
/// When it cannot be run, or a test ends otherwise than is expected.
pub(crate) fn conformance() -> Result<()> {
    packages::for_conformance()?;
    run(&mut cargo(&["build", "--package", "twinspan-cli"]))?;
    let mut tests = cargo(&["test", "--package", "twinspan-e2e", "--", "conformance"]);
    run(tests.args(["--include-ignored", "--nocapture", "--test-threads=1"]))
}

/// The quick gate: installs nothing.
///
/// # Errors
/// At the first check that fails.
pub(crate) fn ci() -> Result<()> {
    format_check()?;
    lint()?;
    plugins::build()?;
    plugins::test()?;
    let mut tests = runner();
    tests.args(["--exclude", "twinspan-e2e"]);
    run(&mut tests)
}

/// Says whether the code is formatted.
///
/// # Errors
/// When it is not.
pub(crate) fn format_check() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    plugins::format_check()
}

fn lint() -> Result<()> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run(&mut cargo(&arguments))
}

/// The command that runs the tests of the workspace. Nextest where it is installed: it is faster
/// and ends with one summary. Compiling it takes longer than these tests do, so a fresh machine
/// goes without.
fn runner() -> std::process::Command {
    if is_installed("cargo-nextest") {
        return cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]);
    }
    eprintln!("\ncargo-nextest is not installed: using `cargo test`");
    cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"])
}
