//! Backups: what volumes held at one moment, in an object store.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{duration, size};

/// `twinspan backup`
#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Where backups go
    #[command(subcommand)]
    Target(BackupTarget),
    /// Take a backup of a group, all its volumes at one moment, or of one volume; hosts go on
    Create {
        /// The group or the volume.
        of: String,
        /// Where it goes: a target of the configuration.
        #[arg(long, value_name = "TARGET")]
        target: String,
        /// What to call it; the time, in UTC, if absent.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Build upon no other backup: read and store everything.
        #[arg(long)]
        full: bool,
        /// Nobody may delete it before, like 2027-01-31T00:00:00Z; that cannot be taken back.
        #[arg(long, value_name = "TIME")]
        lock_until: Option<String>,
        #[command(flatten)]
        follow: Follow,
    },
    /// List backups, oldest first
    List {
        /// Only of this target.
        #[arg(long, value_name = "TARGET")]
        target: Option<String>,
        /// Only of this group.
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
    },
    /// Show a backup and its volumes
    Show {
        /// The backup, by id, or by name if only one is called so.
        backup: String,
    },
    /// Read back everything that a backup needs, or that all backups of a target need
    Verify {
        /// The backup, by id or name.
        #[arg(required_unless_present = "target", conflicts_with = "target")]
        backup: Option<String>,
        /// All backups of this target.
        #[arg(long, value_name = "TARGET")]
        target: Option<String>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Delete a backup, in any order with others, or give an interrupted run up
    Delete {
        /// The backup, by id or name.
        backup: String,
    },
    /// Let go the snapshots that are kept here for the next backups to a target that is gone for ever
    Forget {
        /// The group or the volume.
        of: String,
        /// The target; it need not stand in the configuration any more, and is not asked.
        #[arg(long, value_name = "TARGET")]
        target: String,
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
        /// Also if the target answers: the next backup there is full.
        #[arg(long)]
        force: bool,
    },
    /// Lock a backup until a date, or move its lock on; nobody can take that back
    Lock {
        /// The backup, by id or name.
        backup: String,
        /// Like 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        until: String,
    },
    /// Go on with a run, or with a restore, that was interrupted
    Resume {
        /// The backup's id.
        backup: String,
        #[command(flatten)]
        follow: Follow,
    },
    /// Restore: to a new volume, or over the originals: plan, then run
    #[command(subcommand)]
    Restore(BackupRestore),
    /// Backups by schedule, one policy for a group or a volume
    #[command(subcommand)]
    Policy(BackupPolicy),
    /// What there is, read from the target alone
    #[command(subcommand)]
    Catalogue(Catalogue),
    /// Give back what no backup of a target needs
    Gc {
        /// The target.
        #[arg(long, value_name = "TARGET")]
        target: String,
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        follow: Follow,
    },
}

/// How long to look on.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Follow {
    /// Return at once; `twinspan operation show` says how it goes.
    #[arg(long)]
    pub(crate) detach: bool,
    /// How long to look on: `30s`, `5m`.
    #[arg(long, default_value = "24h", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

/// `twinspan backup target`
#[derive(Debug, Subcommand)]
pub(crate) enum BackupTarget {
    /// List the targets of the configuration
    List,
    /// Ask a target with the credentials that backups use
    Check {
        /// Its name.
        target: String,
    },
}

/// `twinspan backup restore`
#[derive(Debug, Subcommand)]
pub(crate) enum BackupRestore {
    /// Restore a volume to a new one
    New {
        /// The backup, by id or name.
        backup: String,
        /// The name of the new volume.
        #[arg(long, value_name = "NAME")]
        to: String,
        /// Which volume, if it holds several.
        #[arg(long, value_name = "VOLUME")]
        volume: Option<String>,
        /// The size of the new volume, if it is to be larger.
        #[arg(long, value_parser = size, value_name = "SIZE")]
        size: Option<u64>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Say what overwriting the originals would mean. Exit code 7: it cannot be run
    Plan {
        /// The backup, by id or name.
        backup: String,
        /// Only this volume.
        #[arg(long, value_name = "VOLUME")]
        volume: Option<String>,
    },
    /// Run a plan: sessions are suspended, the originals overwritten, the mirrors follow by delta
    Run {
        /// The backup, by id or name.
        backup: String,
        /// Only this volume, as in the plan.
        #[arg(long, value_name = "VOLUME")]
        volume: Option<String>,
        /// The plan's token.
        #[arg(long, value_name = "TOKEN")]
        token: String,
        /// Hosts that are attached may be dropped.
        #[arg(long)]
        drop_hosts: bool,
        #[command(flatten)]
        follow: Follow,
    },
}

/// `twinspan backup catalogue`
#[derive(Debug, Subcommand)]
pub(crate) enum Catalogue {
    /// Read everything that a target says of its backups anew
    Rebuild {
        /// The target.
        #[arg(long, value_name = "TARGET")]
        target: String,
    },
}

/// `twinspan backup policy`
#[derive(Debug, Subcommand)]
pub(crate) enum BackupPolicy {
    /// Set the policy of a group or a volume
    Set {
        /// The group or the volume.
        of: String,
        /// Where backups go.
        #[arg(long, value_name = "TARGET")]
        target: String,
        /// When, as cron reads it: minute, hour, day of the month, month, day of the week.
        #[arg(long, value_name = "CRON")]
        schedule: String,
        /// Whose clock that is.
        #[arg(long, default_value = "UTC", value_name = "ZONE")]
        zone: String,
        /// Keep so many of the newest; with no rule everything is kept.
        #[arg(long, value_name = "COUNT")]
        keep_last: Option<u32>,
        /// Keep those that are no older than so many days.
        #[arg(long, value_name = "DAYS")]
        keep_days: Option<u32>,
        /// Keep the newest of each of so many days.
        #[arg(long, default_value_t = 0, value_name = "COUNT")]
        keep_daily: u32,
        /// Keep the newest of each of so many weeks.
        #[arg(long, default_value_t = 0, value_name = "COUNT")]
        keep_weekly: u32,
        /// Keep the newest of each of so many months.
        #[arg(long, default_value_t = 0, value_name = "COUNT")]
        keep_monthly: u32,
        /// Keep the newest of each of so many years.
        #[arg(long, default_value_t = 0, value_name = "COUNT")]
        keep_yearly: u32,
        /// Nobody deletes a backup that it takes before it is so many days old; 0: not locked.
        #[arg(long, default_value_t = 0, value_name = "DAYS")]
        lock_days: u32,
        /// Set it, and leave it turned off.
        #[arg(long)]
        off: bool,
    },
    /// List the policies here
    List,
    /// Show the policy of a group or a volume
    Show {
        /// The group or the volume.
        of: String,
    },
    /// Turn a policy on; what came due meanwhile is not made up for
    On {
        /// The group or the volume.
        of: String,
    },
    /// Turn a policy off
    Off {
        /// The group or the volume.
        of: String,
    },
    /// Delete a policy; what it took stays
    Delete {
        /// The group or the volume.
        of: String,
    },
    /// Run a policy now, whether it is on or off
    Run {
        /// The group or the volume.
        of: String,
        #[command(flatten)]
        follow: Follow,
    },
    /// Say what the rules would delete now, and why each backup stays or goes
    Retention {
        /// The group or the volume.
        of: String,
    },
}
