//! Arguments of `twinspan session`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Wait, duration, size};

/// Policies of a session.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Policy {
    /// How it copies: `sync` before it acknowledges, `consistency` behind in whole cuts, `stack` only
    /// by transfers.
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<String>,
    /// When the mirror is lost: `automatic` goes on alone, `manual` refuses writes.
    #[arg(long, value_name = "POLICY")]
    pub(crate) split: Option<String>,
    /// When it returns: `automatic` resynchronises, `manual` waits.
    #[arg(long, value_name = "POLICY")]
    pub(crate) recovery: Option<String>,
    /// When it is too slow: `error` stops the session, `block` holds the hosts, `degrade` follows
    /// behind until it keeps up again.
    #[arg(long, value_name = "POLICY")]
    pub(crate) on_slow: Option<String>,
    /// When the primary is lost: `manual`, or `automatic` if there is a witness.
    #[arg(long, value_name = "POLICY")]
    pub(crate) failover: Option<String>,
    /// How long it may take to acknowledge.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) ack_deadline: Option<Duration>,
    /// From one cut to the next in mode `consistency`.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) cut_interval: Option<Duration>,
    /// From one transfer to the next in mode `stack`; 0s: only by `session transfer`.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) transfer_every: Option<Duration>,
    /// What resync and initial copy may send: 50MiB/s, `unlimited` or `paused`.
    #[arg(long, value_name = "RATE")]
    pub(crate) bandwidth: Option<String>,
    /// When another limit holds, as "mon-fri 08:00-18:00 Europe/Berlin=10MiB/s"; days and zone (UTC)
    /// may be left out. May be given several times, and replaces all that there were.
    #[arg(long, value_name = "WINDOW")]
    pub(crate) bandwidth_window: Vec<String>,
    /// Remove all bandwidth windows.
    #[arg(long, conflicts_with = "bandwidth_window")]
    pub(crate) no_bandwidth_windows: bool,
    /// How its copying stands to that of others that copy at once: `low`, `normal` or `high`.
    #[arg(long, value_name = "PRIORITY")]
    pub(crate) priority: Option<String>,
}

/// `twinspan session`. A session is an id, `NAME:SITE`, or `NAME` if it has only one; a name is that
/// of a group or of a volume. What is done to a session is done to its whole group.
#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// Mirror a group to another site
    Create {
        /// The group, or a volume of it.
        #[arg(value_name = "GROUP|VOLUME")]
        volume: String,
        /// The other site.
        #[arg(long, value_name = "SITE")]
        to: String,
        /// The other site holds the content already, restored or shipped there, or left by a session that
        /// was deleted: compare its volume by checksums, and send only the blocks that differ.
        #[arg(long)]
        skip_initial_copy: bool,
        /// The volume there, if it is not called as this one is.
        #[arg(long, value_name = "VOLUME", requires = "skip_initial_copy")]
        destination: Option<String>,
        #[command(flatten)]
        policy: Policy,
        #[command(flatten)]
        wait: Wait,
    },
    /// List sessions
    List,
    /// Show a session
    Show {
        /// Which.
        session: String,
    },
    /// Stop mirroring and remember changes, once the mirror has everything; also: go on without a mirror
    /// that is lost
    Suspend {
        /// Which.
        session: String,
        /// Suspend it as it is, at once: a mirror that follows behind keeps its last whole cut.
        #[arg(long)]
        force: bool,
        /// How long a connected mirror may take to have everything; then the session goes on as before.
        #[arg(long, default_value = "1m", value_parser = duration, value_name = "TIME")]
        timeout: Duration,
    },
    /// Mirror again; only the difference is copied
    Resume {
        /// Which.
        session: String,
        /// Agree that what only the mirror has is overwritten.
        #[arg(long)]
        discard: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Compare every mapped block of the mirror with its source; hosts go on
    Verify {
        /// Which.
        session: String,
        /// Bytes that are compared in a second at most, as 64MiB; else what is configured.
        #[arg(long, value_parser = size, value_name = "SIZE")]
        rate: Option<u64>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Swap roles with the mirror, losing nothing
    Reverse {
        /// Which.
        session: String,
    },
    /// Bring a group back to its original site, with what was written to the copy at this one: the
    /// copy becomes the source, the original site follows, roles are swapped. Run it again if it was
    /// cut short
    Restore {
        /// The group; asked of the site whose copy is brought back.
        group: String,
        /// The original site, if it is not clear which one it is.
        #[arg(long, value_name = "SITE")]
        to: Option<String>,
        /// Agree that what only the original site has is overwritten; a snapshot of it is kept.
        #[arg(long)]
        discard: bool,
        /// Only say what it would do. Exit code 7: it cannot be run so.
        #[arg(long)]
        dry_run: bool,
        /// Forget that it was begun; the group stays as it is.
        #[arg(long, conflicts_with_all = ["to", "discard", "dry_run"])]
        give_up: bool,
        /// How long to wait for it; it goes on when that is over.
        #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
        timeout: Duration,
    },
    /// Bring a mirror of mode `stack` to one later point
    Transfer {
        /// Which.
        session: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Change the mode or policies while hosts go on
    Set {
        /// Which.
        session: String,
        #[command(flatten)]
        policy: Policy,
    },
    /// Delete a session; the mirror keeps its copy, as an old one. What differs from then on is known to
    /// nobody: made anew, the session copies everything, or with --skip-initial-copy compares it
    Delete {
        /// Which; with --half the group or the volume here.
        session: String,
        /// At the mirror's site: delete the half of a session that its source has forgotten. The copy
        /// becomes a group of its own.
        #[arg(long)]
        half: bool,
        /// Delete the mirror's volumes too.
        #[arg(long)]
        with_volume: bool,
        /// With --half or --with-volume: also where the other site cannot be asked. What it has stays
        /// there.
        #[arg(long)]
        force: bool,
    },
}
