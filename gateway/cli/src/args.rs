//! The command line: every command, its arguments, and the help that is printed.

mod backups;
mod groups;
mod plugins;
mod points;
mod runs;
mod sessions;
mod snapshots;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::backups::{
    Backup, BackupPolicy, BackupRestore, BackupTarget, Catalogue, Follow,
};
pub(crate) use self::groups::{Failover, Group, Migrate, Reprotect};
pub(crate) use self::plugins::{
    Language, Plugin, PluginBuild, PluginCheck, PluginMeasure, PluginNew,
};
pub(crate) use self::points::{
    Keep, MomentRollback, Point, PointJournal, PointPolicy, RetentionRules,
};
pub(crate) use self::runs::{Plan, PlanMake, PlanRun, Run, RunWait};
pub(crate) use self::sessions::{Policy, Session};
pub(crate) use self::snapshots::{Rollback, Snapshot};

const EXIT_CODES: &str = "\
Exit codes:
   0  good                        5  split brain
   1  failed                      6  the gateway cannot be reached
   2  usage                       7  refused by a guard
   3  degraded                    8  timed out while waiting
   4  at risk, or not known      64  bad configuration

Environment: TWINSPAN_URL, TWINSPAN_TOKEN or TWINSPAN_TOKEN_FILE, TWINSPAN_CA.
Without them, a demo below ./twinspan-demo is found by itself.";

/// A storage gateway: volumes for hosts, mirrored to another site.
#[derive(Debug, Parser)]
#[command(name = "twinspan", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The gateway's API.
    #[arg(long, global = true, env = "TWINSPAN_URL", hide_env = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The file that holds the bearer token.
    #[arg(long, global = true, env = "TWINSPAN_TOKEN_FILE", hide_env = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The gateway's certificate, PEM; `api.crt` beside the token file if absent.
    #[arg(long, global = true, env = "TWINSPAN_CA", hide_env = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Ask this site of the demo, or this URL.
    #[arg(long, global = true, value_name = "SITE|URL")]
    pub(crate) from: Option<String>,
    /// Where the demo lies.
    #[arg(long, global = true, env = "TWINSPAN_DEMO_DIR", hide_env = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// For people or for programs.
    #[arg(short, long, global = true, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Waiting for what was begun.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Wait {
    /// Return when it is done.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait: `30s`, `5m`.
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    api::units::parse_millis(text).map(Duration::from_millis)
}

/// A snapshot to make a volume from.
fn source(text: &str) -> Result<api::SnapshotSource, String> {
    let (group, rest) = text.split_once('/').filter(|(group, _)| !group.is_empty()).ok_or(
        "write GROUP/SNAPSHOT or GROUP/SNAPSHOT:VOLUME, as twinspan snapshot list GROUP shows them",
    )?;
    let (snapshot, volume) = match rest.split_once(':') {
        Some((snapshot, volume)) => (snapshot, Some(volume.to_owned())),
        None => (rest, None),
    };
    if snapshot.is_empty() {
        return Err(format!("{text:?} names no snapshot: write GROUP/SNAPSHOT"));
    }
    Ok(api::SnapshotSource { group: group.to_owned(), snapshot: snapshot.to_owned(), volume })
}

fn size(text: &str) -> Result<u64, String> {
    api::units::parse_bytes(text)
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a gateway
    Serve {
        /// Its configuration.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show how everything is, the cause and the next command; the exit code says it too
    Status(Status),
    /// Volumes
    #[command(subcommand)]
    Volume(Volume),
    /// Mirror sessions
    #[command(subcommand)]
    Session(Box<Session>),
    /// Groups
    #[command(subcommand)]
    Group(Group),
    /// Snapshots of groups: take, list, read, delete, go back
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Plugins: what differs from cloud to cloud
    #[command(subcommand)]
    Plugin(Plugin),
    /// Recovery points: taken by schedule, kept by rules, locked
    #[command(subcommand)]
    Point(Box<Point>),
    /// Backups in an object store: take, list, verify, delete, restore
    #[command(subcommand)]
    Backup(Box<Backup>),
    /// Serve a group at another site, without its primary: plan, then run
    #[command(subcommand)]
    Failover(Failover),
    /// Serve a group at another site, with its primary, losing nothing: plan, then run
    #[command(subcommand)]
    Migrate(Migrate),
    /// Mirror a group again after a failover, by a plan that says what it costs; only the difference is
    /// copied
    Reprotect(Reprotect),
    /// Plans: what is done for a recovery, step by step
    #[command(subcommand)]
    Plan(Box<Plan>),
    /// Runs of plans: look, answer, retry, give up, take over
    #[command(subcommand)]
    Run(Box<Run>),
    /// Sites and the trust between them
    #[command(subcommand)]
    Site(Site),
    /// Tokens for the API
    #[command(subcommand)]
    Token(Token),
    /// What takes long
    #[command(subcommand)]
    Operation(Operation),
    /// What happens
    Events {
        /// Go on until interrupted.
        #[arg(long)]
        follow: bool,
        /// Begin after the event with this number; 0 is the oldest that is remembered.
        #[arg(long, value_name = "NUMBER")]
        since: Option<u64>,
    },
    /// Look at configuration files
    #[command(subcommand)]
    Config(Config),
    /// Two sites on this machine, to try everything
    #[command(subcommand)]
    Demo(Demo),
    /// Print a completion script
    Completions {
        /// For this shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Print the OpenAPI document
    #[command(hide = true)]
    Openapi,
}

/// `twinspan status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show it again and again.
    #[arg(long)]
    pub(crate) watch: bool,
    /// How often.
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub(crate) interval: Duration,
}

/// `twinspan volume`
#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// Make a volume, in a group of its own or in one that exists
    Create {
        /// Its name, and that of its NBD export.
        name: String,
        /// Its size, like 64MiB; with --from-snapshot it is the snapshot's if absent.
        #[arg(long, value_parser = size, value_name = "SIZE", required_unless_present_any = ["from_snapshot", "from_group"])]
        size: Option<u64>,
        /// A snapshot whose content it has; it can be used at once. VOLUME may be left out when the
        /// snapshot has one only.
        #[arg(long, value_parser = source, value_name = "GROUP/SNAPSHOT[:VOLUME]", conflicts_with_all = ["group", "part_of"])]
        from_snapshot: Option<api::SnapshotSource>,
        /// A group whose content it has as of --at, where a mirror's write journal knows that second:
        /// a new group of that name, with a volume for each of the group's.
        #[arg(long, value_name = "GROUP", requires = "at", conflicts_with_all = ["from_snapshot", "size", "group", "part_of"])]
        from_group: Option<String>,
        /// Which second: `2027-01-31T00:00:00Z`, or how long ago: `-90s`.
        #[arg(long, value_name = "TIME", requires = "from_group", allow_hyphen_values = true)]
        at: Option<String>,
        /// Its group: one that exists, which it joins, or a new one; its own name if absent.
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
        /// Another gateway of this site that has the group, by its id: a part of it begins here.
        #[arg(long, value_name = "ID", requires = "group")]
        part_of: Option<uuid::Uuid>,
        /// Hosts may only read.
        #[arg(long)]
        read_only: bool,
        /// Who may attach it: an address, a network, `cn:NAME`, `user:NAME` (CHAP), an initiator's name. May be given several times.
        #[arg(long, value_name = "RULE")]
        allow: Vec<String>,
    },
    /// List volumes
    List,
    /// Show a volume
    Show {
        /// Its name or id.
        volume: String,
    },
    /// Delete a volume that is not in use
    Delete {
        /// Its name or id.
        volume: String,
    },
    /// Make a volume longer, at each site
    Grow {
        /// Its name or id.
        volume: String,
        /// Its new size.
        #[arg(long, value_parser = size, value_name = "SIZE")]
        size: u64,
    },
    /// Say who may attach a volume
    Allow {
        /// Its name or id.
        volume: String,
        /// Addresses, networks, `cn:NAME`, `user:NAME`, initiators' names; none: everyone.
        rules: Vec<String>,
        /// Hosts may only read.
        #[arg(long)]
        read_only: bool,
    },
    /// Make a volume a disk of its group's iSCSI target, or of a target of its own
    Lun {
        /// Its name or id.
        volume: String,
        /// Its number there, which no other volume of the group has.
        #[arg(required_unless_present = "none")]
        number: Option<u8>,
        /// It is the only disk of a target of its own again; with --initiator: that one sees the number
        /// that all others see.
        #[arg(long, conflicts_with = "number")]
        none: bool,
        /// Only this initiator, by its iSCSI name, sees it under this number.
        #[arg(long, value_name = "NAME")]
        initiator: Option<String>,
    },
    /// Read every stored block of the copy at a site, and repair what is bad from another copy
    Scrub {
        /// Its name or id.
        volume: String,
        #[command(flatten)]
        follow: Follow,
    },
    /// Read every block of the copy at a site and digest it
    Digest {
        /// Its name or id.
        volume: String,
    },
    /// Write the content of the copy at a site, whatever its role, to a file
    Read {
        /// Its name or id.
        volume: String,
        /// Where to; it must not exist.
        file: PathBuf,
    },
    /// Copy from a foreign NBD server into a volume that is served here
    Import {
        /// `nbd://HOST:PORT/NAME` or `nbd+unix:///NAME?socket=PATH`.
        // Not called `from`: that is the option of every command.
        #[arg(value_name = "FROM")]
        uri: String,
        /// The volume; it must be at least as long.
        volume: String,
    },
    /// Copy a volume that is served here to a foreign NBD server
    Export {
        /// The volume.
        volume: String,
        /// `nbd://HOST:PORT/NAME` or `nbd+unix:///NAME?socket=PATH`; it must be at least as long.
        to: String,
    },
    /// Ask a foreign NBD server what it has under a name
    Probe {
        /// `nbd://HOST:PORT/NAME` or `nbd+unix:///NAME?socket=PATH`.
        uri: String,
    },
}

/// `twinspan site`
#[derive(Debug, Subcommand)]
pub(crate) enum Site {
    /// List this site and those it knows
    List,
    /// Join tokens
    #[command(subcommand)]
    Token(SiteToken),
    /// Join the site that made a token
    Join {
        /// The token.
        token: String,
    },
}

/// `twinspan site token`
#[derive(Debug, Subcommand)]
pub(crate) enum SiteToken {
    /// Make a join token, good for one use
    Create {
        /// For how long it can be used.
        #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
        ttl: Duration,
    },
}

/// `twinspan token`
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// List tokens
    List,
    /// Make a token; it is printed this once
    Create {
        /// Whose.
        name: String,
        /// `viewer`, `operator` or `admin`.
        #[arg(long, value_name = "ROLE")]
        role: String,
    },
    /// Withdraw a token
    Delete {
        /// Whose.
        name: String,
    },
}

/// `twinspan operation`
#[derive(Debug, Subcommand)]
pub(crate) enum Operation {
    /// List operations, newest first
    List,
    /// Show an operation
    Show {
        /// Its id.
        operation: String,
    },
    /// Ask an operation to give up
    Cancel {
        /// Its id.
        operation: String,
    },
}

/// `twinspan config`
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Say what is wrong with a file; silent if nothing is
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print what is in force
    Show {
        /// The file; the defaults if absent.
        file: Option<PathBuf>,
    },
}

/// `twinspan demo`
#[derive(Debug, Subcommand)]
pub(crate) enum Demo {
    /// Start two sites with one mirrored volume, or one site of them again
    Start {
        /// Only this site, which was killed or stopped.
        site: Option<String>,
        /// Return when the mirror is in sync, and leave the sites running.
        #[arg(long)]
        detach: bool,
        /// Simulated distance between the sites, there and back.
        #[arg(long, default_value = "0ms", value_parser = duration, value_name = "TIME")]
        distance: Duration,
        /// The size of the volume.
        #[arg(long, default_value = "64MiB", value_parser = size, value_name = "SIZE")]
        size: u64,
    },
    /// Stop both sites in good order
    Stop,
    /// Kill a site with SIGKILL
    Kill {
        /// Which.
        site: String,
    },
    /// Write numbered, checksummed records and log each one that was acknowledged
    Load {
        /// The volume.
        volume: String,
        /// Writers, each on a connection and a region of its own.
        #[arg(long, default_value_t = 4, value_name = "COUNT")]
        writers: usize,
        /// For how long; until interrupted or disconnected if absent.
        #[arg(long, value_name = "SECONDS")]
        seconds: Option<u64>,
    },
    /// Overwrite what a volume holds with noise, as ransomware would
    Ransom {
        /// The volume.
        volume: String,
    },
    /// Read everything back from where it is served and compare it with the log
    Verify {
        /// The volume that was loaded.
        volume: String,
        /// Read this one instead, which was made from a snapshot of it.
        #[arg(long = "in", value_name = "VOLUME")]
        place: Option<String>,
    },
    /// Show the sites
    Status,
    /// Change the simulated distance; the sites are restarted
    Distance {
        /// There and back.
        #[arg(value_parser = duration)]
        distance: Duration,
    },
}
