//! `[backup]`: the object stores and directories that backups go to.
//!
//! Invariant: no secret stands in the configuration. Credentials are named by a file or found in the
//! environment, and are read when a target is connected, so that new ones need no restart.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::validate::Place;

/// What may not stand in a file that is shown: words of options that hold secrets.
const SECRETS: [&str; 6] =
    ["secret", "access_key", "token", "password", "sas", "service_account_key"];

/// `[backup]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBackup {
    /// Where backups go: `[[backup.targets]]`.
    pub targets: Vec<RawTarget>,
}

/// `[[backup.targets]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTarget {
    /// Its name.
    pub name: String,
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
    pub url: String,
    /// Options of the store's client, as `endpoint=https://s3.example` or `region=eu-central-1`.
    pub options: Vec<String>,
    /// A file of such options that are secret, one a line; empty: the environment,
    /// `TWINSPAN_TARGET_NAME_OPTION`.
    pub credentials: String,
    /// A file with 64 hexadecimal digits, the key that encrypts; empty: nothing is encrypted.
    pub key: String,
    /// What a run may move, as `50MiB/s` or `unlimited`.
    pub bandwidth: String,
    /// Most backups of a volume; 0: no limit.
    pub backups_max: u32,
    /// How long a request is tried again before a run ends as interrupted.
    pub patience: String,
}

impl Default for RawTarget {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            options: Vec::new(),
            credentials: String::new(),
            key: String::new(),
            bandwidth: "unlimited".to_owned(),
            backups_max: 0,
            patience: "3m".to_owned(),
        }
    }
}

/// Where backups go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// Its name.
    pub name: String,
    /// See [`RawTarget::url`].
    pub url: String,
    /// Names and values.
    pub options: Vec<(String, String)>,
    /// The file of more of them; `None`: the environment.
    pub credentials: Option<PathBuf>,
    /// The file of the key; `None`: nothing is encrypted.
    pub key: Option<PathBuf>,
    /// What a run may move in a second; `None`: as much as it can.
    pub bytes_per_second: Option<u64>,
    /// Most backups of a volume; `None`: no limit.
    pub backups_max: Option<usize>,
    /// How long a request is tried again.
    pub patience: Duration,
}

/// Proves every target.
///
/// # Errors
/// The first value that cannot be used.
pub(super) fn targets(at: &Place<'_>, raw: &RawBackup) -> Result<Vec<TargetConfig>, ConfigError> {
    let mut all: Vec<TargetConfig> = Vec::new();
    for raw in &raw.targets {
        let target = target(at, raw)?;
        if all.iter().any(|other| other.name == target.name) {
            let reason = format!("{:?} is the name of two targets", target.name);
            return Err(at.bad("backup.targets.name", reason));
        }
        all.push(target);
    }
    Ok(all)
}

fn target(at: &Place<'_>, raw: &RawTarget) -> Result<TargetConfig, ConfigError> {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    if !crate::names::is_name(&raw.name) {
        let reason = format!("{:?} is no name: use 1 to 64 of A-Z a-z 0-9 . _ -", raw.name);
        return Err(at.bad("backup.targets.name", reason));
    }
    let bad_url = |error: backup::BackupError| at.bad("backup.targets.url", error.to_string());
    backup::Target::new(&raw.url).check().map_err(bad_url)?;
    let bytes_per_second = api::units::parse_rate(&raw.bandwidth)
        .map_err(|why| at.bad("backup.targets.bandwidth", why))?;
    if bytes_per_second == Some(0) {
        return Err(at.bad("backup.targets.bandwidth", "a backup that is paused is none"));
    }
    Ok(TargetConfig {
        name: raw.name.clone(),
        url: raw.url.clone(),
        options: raw.options.iter().map(|text| option(at, text)).collect::<Result<_, _>>()?,
        credentials: path(&raw.credentials),
        key: path(&raw.key),
        bytes_per_second,
        backups_max: usize::try_from(raw.backups_max).ok().filter(|max| *max > 0),
        patience: Duration::from_millis(at.millis("backup.targets.patience", &raw.patience)?),
    })
}

fn option(at: &Place<'_>, text: &str) -> Result<(String, String), ConfigError> {
    let key = "backup.targets.options";
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| at.bad(key, format!("{text:?} is not like endpoint=https://s3.example")))?;
    // Only the name is repeated: what stands behind it may be what must not be shown.
    let is_secret = SECRETS.iter().any(|word| name.to_ascii_lowercase().contains(word));
    if is_secret {
        let reason = format!("{name} is secret: it goes into the file backup.targets.credentials");
        return Err(at.bad(key, reason));
    }
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
