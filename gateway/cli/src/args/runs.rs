//! Plans and runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;

/// `twinspan plan`
#[derive(Debug, Subcommand)]
pub(crate) enum Plan {
    /// List plans
    List,
    /// Show a plan: its steps, what it can be told
    Show {
        /// Its name.
        plan: String,
    },
    /// Prove a plan in a file, TOML or JSON, without saving it
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Save a plan from a file, in place of the one that was saved under its name
    Save {
        /// The file.
        file: PathBuf,
    },
    /// Let a plugin write a plan: `plan make lserver-switchover switchover --group orders`
    Make(PlanMake),
    /// Delete a plan that was saved
    Delete {
        /// Its name.
        plan: String,
    },
    /// Run a plan. Exit code with --wait: 0 completed; 1 rolled back or aborted; 4 it waits for a person
    Run(PlanRun),
}

/// `twinspan plan make`
#[derive(Debug, Args)]
pub(crate) struct PlanMake {
    /// The plugin.
    pub(crate) plugin: String,
    /// What it is to plan; a kind that it does not know is answered with those that it does.
    pub(crate) kind: String,
    /// A group that the plan is about; may be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
    /// What else the plugin is to know; may be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) options: Vec<(String, String)>,
    /// Save it too, in place of the one that was saved under its name.
    #[arg(long)]
    pub(crate) save: bool,
}

/// `twinspan plan run`
#[derive(Debug, Args)]
pub(crate) struct PlanRun {
    /// Its name.
    pub(crate) plan: String,
    /// A parameter; may be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) parameters: Vec<(String, String)>,
    /// A fact; may be given several times.
    #[arg(long = "fact", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) facts: Vec<(String, String)>,
    /// The other way: source and destination change places.
    #[arg(long)]
    pub(crate) swap: bool,
    /// Only look: what each step would do, and how things stand for it now.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) follow: RunWait,
}

/// Waiting for a run.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct RunWait {
    /// Return when it ended, or waits for a person.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait: `30s`, `5m`.
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

/// `twinspan run`
#[derive(Debug, Subcommand)]
pub(crate) enum Run {
    /// List runs, newest first
    List,
    /// Show a run: its timeline, what it asks, what it left
    Show {
        /// Its id.
        run: String,
        #[command(flatten)]
        follow: RunWait,
    },
    /// Answer what a run asks
    Answer {
        /// Its id.
        run: String,
        /// One of the choices.
        answer: String,
        /// The step that asks, if several do.
        #[arg(long)]
        step: Option<String>,
    },
    /// Try a step that failed again
    Retry {
        /// The run's id.
        run: String,
        /// The step, if several failed.
        #[arg(long)]
        step: Option<String>,
    },
    /// Leave a step out that failed or asks; on the way back, what it did stays
    Skip {
        /// The run's id.
        run: String,
        /// The step, if several can be meant.
        #[arg(long)]
        step: Option<String>,
        /// Why; it is kept.
        #[arg(long)]
        why: Option<String>,
    },
    /// Give a run up: what it did is taken back, as far as the point of no return allows
    Abort {
        /// The run's id.
        run: String,
        /// Why; it is kept.
        #[arg(long)]
        why: Option<String>,
    },
    /// Let a run go on that is held, or take it over from another site
    Resume {
        /// The run's id.
        run: String,
        /// Here, whoever executed it; that gateway is asked to stand still first.
        #[arg(long)]
        here: bool,
        /// Your word that no other gateway goes on with it, if one cannot be asked.
        #[arg(long)]
        stopped: bool,
    },
}

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
