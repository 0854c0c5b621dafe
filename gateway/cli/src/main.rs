//! The command `twinspan`: `serve` is the gateway, everything else asks one over REST.
//!
//! Invariant: what a program needs is on standard output and in the exit code; everything said to
//! a person about an error is on standard error: what, why, what next, and the code.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the command line")]

mod args;
mod client;
mod commands;
mod copy;
mod demo;
mod failure;
mod output;
mod place;
mod screen;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use failure::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Serve { config } => commands::serve(config.as_deref()),
        Command::Config(command) => commands::config(&command),
        Command::Completions { shell } => commands::completions(shell),
        Command::Man => commands::man(),
        Command::Openapi => commands::openapi(),
        Command::Demo(command) => demo::run(&command, &arguments.global),
        Command::Status(command) => commands::status(&command, &arguments.global),
        Command::Volume(command) => commands::volume(&command, &arguments.global),
        Command::Session(command) => commands::session(&command, &arguments.global),
        Command::Backup(command) => commands::backup(&command, &arguments.global),
        Command::Snapshot(command) => commands::snapshot(&command, &arguments.global),
        Command::Plugin(command) => commands::plugin(&command, &arguments.global),
        Command::Point(command) => commands::point(&command, &arguments.global),
        Command::Failover(command) => commands::failover(&command, &arguments.global),
        Command::Migrate(command) => commands::migrate(&command, &arguments.global),
        Command::Plan(command) => commands::plan(&command, &arguments.global),
        Command::Run(command) => commands::run(&command, &arguments.global),
        Command::Reprotect(command) => commands::reprotect(&command, &arguments.global),
        Command::Group(command) => commands::group(&command, &arguments.global),
        Command::Site(command) => commands::site(&command, &arguments.global),
        Command::Token(command) => commands::token(&command, &arguments.global),
        Command::Operation(command) => commands::operation(&command, &arguments.global),
        Command::Events { follow, since } => commands::events(follow, since, &arguments.global),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.tell(arguments.global.output);
            ExitCode::from(failure.exit)
        }
    }
}

/// What a command ends with: an exit code, or a failure that is told.
type Outcome = Result<u8, Failure>;
