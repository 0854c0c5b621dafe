//! Groups: which volumes they have, which site serves them.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Wait, duration};

/// `twinspan group`
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// List groups, worst first
    List,
    /// Show a group
    Show {
        /// Its name or id.
        group: String,
    },
    /// Make a group of volumes that exist: they are mirrored and failed over at one point in time
    Create {
        /// Its name.
        name: String,
        /// A volume, by name or id; may be given several times.
        #[arg(long = "volume", required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
    },
    /// Let a volume join a group, which may be mirrored and in use
    Add {
        /// The group.
        group: String,
        /// The volume: in a group of its own, not mirrored, not attached.
        volume: String,
    },
    /// Show what each side wrote since they parted; what the other side has is asked of it now.
    /// Exit code 0: nothing; 3: one side; 4: the other side is not known; 5: both sides
    Diff {
        /// The group.
        group: String,
    },
    /// Open this site's copy of a group to hosts, on its own, while its session is suspended
    Detach {
        /// The group.
        group: String,
    },
    /// Say that another gateway of this site, which holds a part of the group, is stopped: nothing
    /// waits for it any more
    Exclude {
        /// The group.
        group: String,
        /// The gateway, by its id.
        #[arg(long, value_name = "ID")]
        gateway: uuid::Uuid,
        /// Your word that it is stopped, and stays so until it is taken back in.
        #[arg(long)]
        stopped: bool,
    },
    /// Take a gateway back in that was excluded and is there again
    Include {
        /// The group.
        group: String,
        /// The gateway, by its id.
        #[arg(long, value_name = "ID")]
        gateway: uuid::Uuid,
    },
    /// Let a volume leave a group, to a group of its own; the others go on
    Remove {
        /// The group.
        group: String,
        /// The volume; no host may be attached to it.
        volume: String,
    },
    /// Take a group apart: each of its volumes goes on in a group of its own
    Delete {
        /// The group; neither mirrored nor attached.
        group: String,
        /// The group cannot be opened and its copy here is lost: delete what this site still has
        /// of it, all its volumes.
        #[arg(long)]
        lost: bool,
    },
}

/// `twinspan failover`
#[derive(Debug, Subcommand)]
pub(crate) enum Failover {
    /// Say what a failover would do and what would be lost
    Plan {
        /// The group.
        group: String,
        /// The site that is to serve it: a site of the demo, or a URL.
        #[arg(long, value_name = "SITE|URL")]
        to: Option<String>,
        /// What may be used: `in_sync`, `outdated`, `inconsistent`.
        #[arg(long, value_name = "QUALITY")]
        accept: Option<String>,
    },
    /// Run a plan
    Run {
        /// The group.
        group: String,
        /// The site that is to serve it: a site of the demo, or a URL.
        #[arg(long, value_name = "SITE|URL")]
        to: Option<String>,
        /// The plan's token.
        #[arg(long, value_name = "TOKEN")]
        token: String,
        /// How long to wait for it.
        #[arg(long, default_value = "1m", value_parser = duration, value_name = "TIME")]
        timeout: Duration,
    },
}

/// `twinspan reprotect`
#[derive(Debug, Args)]
pub(crate) struct Reprotect {
    /// The group.
    pub(crate) group: String,
    /// The site that is to follow, if the group has several.
    #[arg(long, value_name = "SITE")]
    pub(crate) to: Option<String>,
    /// Agree that what only the other site has is overwritten; a snapshot of it is kept there.
    #[arg(long)]
    pub(crate) discard: bool,
    /// Show the plan, with what is at risk and its token, and do nothing. Exit code 7: it cannot be run
    #[arg(long, conflicts_with_all = ["token", "yes"])]
    pub(crate) dry_run: bool,
    /// Run the plan with this token, which was shown before.
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["to", "discard", "yes"])]
    pub(crate) token: Option<String>,
    /// Run the plan without asking: on a terminal it is shown and asked for, a script is not asked.
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `twinspan migrate`
#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Say what a planned migration would do, and for how long hosts would wait. Exit code 7: it
    /// cannot be run
    Plan {
        /// The group.
        group: String,
        /// The site that is to serve it, by name.
        #[arg(long, value_name = "SITE")]
        to: String,
    },
    /// Run a plan: hosts are held, what is in flight ends, the other site takes over. Exit code 1: it
    /// was rolled back, hosts go on here
    Run {
        /// The group.
        group: String,
        /// The plan's token.
        #[arg(long, value_name = "TOKEN")]
        token: String,
        /// How long hosts may be held before the other site is asked; then it is rolled back.
        #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
        drain: Duration,
        /// How long to wait for all of it.
        #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME")]
        timeout: Duration,
    },
}
