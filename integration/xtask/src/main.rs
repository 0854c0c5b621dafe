//! `cargo xtask`: the project's chores, each of which does its own set-up.
//!
//! Invariant: what continuous integration does is one of these commands, so that a laptop can do
//! it too; and nothing here swallows the output of what it runs.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a command for people says what it does")]

mod bench;
mod demo;
mod gate;
mod openapi;
mod packages;
mod run;

use std::process::ExitCode;

use clap::Parser;

/// The project's chores.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Builds the product and starts two sites with a mirrored volume, ready to attach.
    Demo(demo::Arguments),
    /// Installs what the tests need, then checks and tests everything.
    Test(gate::TestArguments),
    /// Runs this product and its peers side by side and prints ratios.
    Bench(bench::Arguments),
    /// Runs the conformance suite of iSCSI against this product and against tgt, and prints both.
    Conformance,
    /// The quick gate before a push: format, lints, and all tests but the end-to-end ones.
    Ci,
    /// Writes the committed OpenAPI document anew.
    Openapi,
    /// Says whether the code is formatted.
    FmtCheck,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => gate::test(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Conformance => gate::conformance(),
        Command::Ci => gate::ci(),
        Command::Openapi => openapi::run(),
        Command::FmtCheck => gate::format_check(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}
