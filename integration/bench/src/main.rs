//! This product beside its peers: the same load on each in turn, medians, ratios.
//!
//! ```text
//!   for each transport: start everyone, fill everyone's volume
//!     for each workload: round 1: A B C, round 2: A B C, ...     interleaved, so that a noisy
//!                                                                moment hits all of them
//! ```
//!
//! Invariant: every contestant gets the same requests from the same client on the same machine,
//! and an error in any answer fails the run.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a report is what it is for")]

mod client;
mod contestant;
mod distance;
mod goal;
mod harm;
mod histogram;
mod iscsi;
mod load;
mod peers;
mod plugin;
mod product;
mod qmp;
mod recovery;
mod report;
mod rounds;
mod snapshots;
mod wire;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::client::Address;
use crate::load::Load;
use crate::workload::{Pattern, Suite};

/// Runs this product and its peers side by side.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// One gateway beside nbdkit, qemu-nbd and nbd-server: reads and writes.
    Nbd(Options),
    /// One gateway beside tgt: reads and writes of one initiator.
    Iscsi(Options),
    /// Two gateways beside QEMU's write-blocking mirror: synchronous writes.
    Mirror(Options),
    /// One gateway beside the same peers: writes that must be on the disk.
    Store(Options),
    /// Two gateways: delta resync beside a plain TCP copy, and from a kill to the first write.
    Recovery(Options),
    /// Two gateways at a distance: what each mode costs a host, and how far its mirror is behind.
    Distance(Options),
    /// One gateway beside qcow2: snapshots, writes after them, backups and restores.
    Snapshots(Options),
    /// A call into a plugin beside nbdkit's plugins and a function of the program itself.
    Plugin(Options),
    /// Answers an initiator of this program and keeps nothing: the least that a target can need.
    #[command(hide = true)]
    Bare(BareOptions),
    /// Puts load on any NBD server and prints what it measured as JSON.
    Load(LoadOptions),
}

/// How to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each measurement takes, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds over all contestants.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// `table` or `json`.
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
    /// Size of everyone's volume, in MiB.
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// Where volumes are kept; without it, in a new folder beside this program.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only these contestants, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these transports, separated by commas: unix, tcp.
    #[arg(long, value_delimiter = ',')]
    transport: Vec<String>,
}

/// What load to put on which server.
#[derive(Debug, clap::Args)]
struct LoadOptions {
    /// The server's Unix socket.
    #[arg(long, required_unless_present = "tcp")]
    unix: Option<PathBuf>,
    /// The server's HOST:PORT.
    #[arg(long, conflicts_with = "unix")]
    tcp: Option<String>,
    /// The export's name.
    #[arg(long, default_value = "")]
    export: String,
    /// What to do.
    #[arg(long, value_enum, default_value = "rand-read")]
    pattern: Pattern,
    /// Bytes of each request.
    #[arg(long, default_value_t = 4096)]
    bytes: u32,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Connections, each on a thread of its own.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Ask for structured replies.
    #[arg(long)]
    structured: bool,
}

/// Where to answer.
#[derive(Debug, clap::Args)]
struct BareOptions {
    /// Its TCP port.
    #[arg(long)]
    port: u16,
    /// The size that it says to have.
    #[arg(long)]
    size_mib: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Arguments::parse().command {
        Command::Nbd(options) => rounds::run(Suite::Nbd, &options),
        Command::Iscsi(options) => rounds::run(Suite::Iscsi, &options),
        Command::Mirror(options) => rounds::run(Suite::Mirror, &options),
        Command::Store(options) => rounds::run(Suite::Store, &options),
        Command::Recovery(options) => rounds::in_own_folder(&options, recovery::run),
        Command::Distance(options) => rounds::in_own_folder(&options, distance::run),
        Command::Snapshots(options) => rounds::in_own_folder(&options, snapshots::run),
        Command::Plugin(options) => rounds::in_own_folder(&options, plugin::run),
        Command::Bare(options) => iscsi::bare::serve(options.port, options.size_mib << 20),
        Command::Load(options) => load(options),
    }
}

fn load(options: LoadOptions) -> Result<()> {
    let address = match (options.unix, options.tcp) {
        (Some(path), _) => Address::Unix(path),
        (None, address) => Address::Tcp(address.unwrap_or_default()),
    };
    let load = Load {
        address,
        export: options.export,
        pattern: options.pattern,
        bytes: options.bytes,
        depth: options.depth,
        connections: options.connections,
        seconds: options.seconds,
        structured: options.structured,
        every: None,
    };
    println!("{}", serde_json::to_string(&load.run()?)?);
    Ok(())
}
