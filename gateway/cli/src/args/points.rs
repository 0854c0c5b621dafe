//! Recovery points: what a schedule keeps of a group.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{duration, size};

/// `twinspan point`
#[derive(Debug, Subcommand)]
pub(crate) enum Point {
    /// List the recovery points of a group that a site keeps, oldest first, and `current` at its primary
    List {
        /// The group.
        group: String,
    },
    /// Show a recovery point
    Show {
        /// The group.
        group: String,
        /// The point, by name or id.
        point: String,
    },
    /// Take a recovery point now, as the policy says; hosts go on
    Take {
        /// The group.
        group: String,
        /// The point `current`: possible once for as long as the group has the same primary.
        #[arg(long)]
        current: bool,
    },
    /// Delete a recovery point, and at a primary also at its mirrors, as soon as they are connected
    Delete {
        /// The group.
        group: String,
        /// The point, by name or id.
        point: String,
    },
    /// Lock a point or snapshot: nobody deletes it before, and nobody makes the lock shorter
    Lock {
        /// The group.
        group: String,
        /// The point or snapshot, by name or id.
        point: String,
        /// Until when: `2027-01-31T00:00:00Z`.
        #[arg(long, value_name = "TIME", required_unless_present = "lasting")]
        until: Option<String>,
        /// For how long from now: `720h`.
        #[arg(long = "for", value_name = "TIME", value_parser = duration, conflicts_with = "until")]
        lasting: Option<Duration>,
    },
    /// When points are taken, who keeps them, which stay
    #[command(subcommand)]
    Policy(PointPolicy),
    /// What mirrors write down, so that the group can be opened as of any second
    #[command(subcommand)]
    Journal(PointJournal),
    /// Make all volumes of a group what they were at a second of the write journal: plan, then run
    #[command(subcommand)]
    Rollback(MomentRollback),
    /// Say what retention would remove here now, and why; nothing is changed
    Retention {
        /// The group.
        group: String,
        #[command(flatten)]
        rules: RetentionRules,
    },
}

/// `twinspan point rollback`
#[derive(Debug, Subcommand)]
pub(crate) enum MomentRollback {
    /// Say what would be undone, and who would be dropped. Exit code 7: it cannot be run
    Plan {
        /// The group.
        group: String,
        /// The second: `2027-01-31T00:00:00Z`, or how long ago: `-90s`.
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        at: String,
        /// At a mirror: the site that serves the group hands it over first, and serves it again
        /// afterwards.
        #[arg(long)]
        swap: bool,
    },
    /// Run a plan: the volumes go back to its second, the mirrors follow by delta
    Run {
        /// The group.
        group: String,
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

/// `twinspan point policy`
#[derive(Debug, Subcommand)]
pub(crate) enum PointPolicy {
    /// Show the policy, and what came of it
    Show {
        /// The group.
        group: String,
    },
    /// Set the policy, and turn it on; what is not named stays. At first: 24 points in 24 hours, at
    /// the mirrors
    Set {
        /// The group.
        group: String,
        /// When, as a cron expression: `0 * * * *`, `*/15 8-18 * * MON-FRI`.
        #[arg(long, value_name = "CRON")]
        schedule: Option<String>,
        /// In whose clock: `UTC`, `Europe/Berlin`.
        #[arg(long, value_name = "ZONE")]
        zone: Option<String>,
        /// Who keeps them.
        #[arg(long, value_name = "WHO")]
        keep: Option<Keep>,
        #[command(flatten)]
        rules: RetentionRules,
        /// Nobody removes a point before it is so many days old; 0: not locked.
        #[arg(long, value_name = "DAYS")]
        lock_days: Option<u32>,
        /// The freeze hook of the gateways' configuration; empty: none.
        #[arg(long, value_name = "NAME")]
        hook: Option<String>,
    },
    /// Turn it off: none is taken and none is removed; what is there stays
    Off {
        /// The group.
        group: String,
    },
}

/// `twinspan point journal`
#[derive(Debug, Subcommand)]
pub(crate) enum PointJournal {
    /// Show which seconds can be opened at a site, and why not more
    Show {
        /// The group.
        group: String,
    },
    /// Have the mirrors write down what they apply
    Set {
        /// The group.
        group: String,
        /// For how long back any second can be opened: `1h`.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        window: Duration,
        /// Bytes that it may take at each mirror; when they are used up the window is shorter.
        #[arg(long, value_name = "SIZE", value_parser = size, default_value = "10GiB")]
        bytes: u64,
    },
    /// Write nothing down, and remove what was; volumes that were opened stay
    Off {
        /// The group.
        group: String,
    },
}

/// Which points stay: those that any rule keeps. As soon as one is named, these are all the rules.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct RetentionRules {
    /// So many of the newest.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) count: Option<u32>,
    /// Those that are no older than so many days.
    #[arg(long, value_name = "DAYS")]
    pub(crate) days: Option<u32>,
    /// The newest of each of the last so many days.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) daily: Option<u32>,
    /// The newest of each of the last so many weeks.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) weekly: Option<u32>,
    /// The newest of each of the last so many months.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) monthly: Option<u32>,
    /// The newest of each of the last so many years.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) yearly: Option<u32>,
}

/// Who keeps recovery points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Keep {
    /// The mirrors.
    Mirror,
    /// The primary.
    Primary,
    /// Both.
    Both,
}
