//! `[recovery]`: plans, and what their steps may call beside the gateway itself.
//!
//! Invariant: a plan names scripts and hosts that stand here; only who runs the gateway says what is
//! executed on its machine, and where it sends requests to.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::validate::Place;

/// `[recovery]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRecovery {
    /// The folder with plans, `NAME.toml`; empty: there are only those that were saved by a call.
    pub plans: String,
    /// Hosts that steps may send requests to, as `hooks.example` or `hooks.example:8443`.
    pub hosts: Vec<String>,
    /// What steps may execute: `[[recovery.scripts]]`.
    pub scripts: Vec<RawScript>,
}

/// `[[recovery.scripts]]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawScript {
    /// Its name, as plans name it.
    pub name: String,
    /// A program and its arguments; `check`, `run` or `undo` is added.
    pub command: Vec<String>,
}

/// What steps may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryConfig {
    /// The folder with plans.
    pub plans: Option<PathBuf>,
    /// See [`RawRecovery::hosts`].
    pub hosts: Vec<String>,
    /// Names and commands.
    pub scripts: Vec<(String, Vec<String>)>,
}

pub(super) fn recovery(at: &Place<'_>, raw: &RawRecovery) -> Result<RecoveryConfig, ConfigError> {
    let mut scripts: Vec<(String, Vec<String>)> = Vec::new();
    for script in &raw.scripts {
        if !crate::names::is_name(&script.name) {
            let why = format!("{:?} is no name: use 1 to 64 of A-Z a-z 0-9 . _ -", script.name);
            return Err(at.bad("recovery.scripts.name", why));
        }
        if scripts.iter().any(|(name, _)| *name == script.name) {
            let why = format!("{:?} is the name of two scripts", script.name);
            return Err(at.bad("recovery.scripts.name", why));
        }
        if script.command.is_empty() {
            let why = format!("script {:?} names no program", script.name);
            return Err(at.bad("recovery.scripts.command", why));
        }
        scripts.push((script.name.clone(), script.command.clone()));
    }
    if let Some(bad) = raw.hosts.iter().find(|host| host.is_empty() || host.contains('/')) {
        let why = format!("{bad:?} is no host: write NAME or NAME:PORT");
        return Err(at.bad("recovery.hosts", why));
    }
    let plans = (!raw.plans.is_empty()).then(|| PathBuf::from(&raw.plans));
    Ok(RecoveryConfig { plans, hosts: raw.hosts.clone(), scripts })
}
