//! Snapshots: what all volumes of a group held at one moment.

use std::time::Duration;

use clap::Subcommand;

use super::duration;
use super::runs::pair;

/// `twinspan snapshot`
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Take a snapshot of all volumes of a group at one moment, here and at its mirrors; hosts go on
    Create {
        /// The group.
        group: String,
        /// What to call it; the time, in UTC, if absent.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// What it is for, in one line; told where it was taken.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// What else is to be known of it, for programs; may be repeated.
        #[arg(long, value_parser = pair, value_name = "KEY=VALUE")]
        metadata: Vec<(String, String)>,
    },
    /// List the snapshots of a group that a site keeps, oldest first
    List {
        /// The group.
        group: String,
    },
    /// Show a snapshot: its volumes, what they take, how they are read
    Show {
        /// The group.
        group: String,
        /// The snapshot, by name or id.
        snapshot: String,
    },
    /// Delete a snapshot, and at a primary also at its mirrors that are connected
    Delete {
        /// The group.
        group: String,
        /// The snapshot, by name or id.
        snapshot: String,
    },
    /// List what may differ between two snapshots of a volume, or since one
    Changes {
        /// The group.
        group: String,
        /// The snapshot, by name or id.
        snapshot: String,
        /// Another snapshot: what differs between that one and this one. If absent: what changed
        /// since this one.
        #[arg(long, value_name = "SNAPSHOT")]
        since: Option<String>,
        /// Which volume, when the snapshot has several.
        #[arg(long, value_name = "VOLUME")]
        volume: Option<String>,
    },
    /// Make all volumes of a group what they were at a snapshot: plan, then run
    #[command(subcommand)]
    Rollback(Rollback),
}

/// `twinspan snapshot rollback`
#[derive(Debug, Subcommand)]
pub(crate) enum Rollback {
    /// Say what would be undone, and who would be dropped. Exit code 7: it cannot be run
    Plan {
        /// The group.
        group: String,
        /// The snapshot, by name or id.
        snapshot: String,
        /// At a mirror: the site that serves the group hands it over first, and serves it again
        /// afterwards.
        #[arg(long)]
        swap: bool,
    },
    /// Run a plan: sessions are suspended, the volumes go back, the mirrors follow by delta
    Run {
        /// The group.
        group: String,
        /// The snapshot, by name or id.
        snapshot: String,
        /// The plan's token.
        #[arg(long, value_name = "TOKEN")]
        token: String,
        /// Agree that hosts that are attached are dropped.
        #[arg(long)]
        drop_hosts: bool,
        /// How long to wait for it.
        #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME")]
        timeout: Duration,
    },
}
