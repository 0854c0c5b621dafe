//! `[iscsi]`: where initiators log in, and what they must prove.
//!
//! Invariant: no secret stands in the configuration. Each is named by a file or by a variable of the
//! environment, is read at the start, and is never shown.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::validate::{BUSY_POLL_US_MAX, Place};
use crate::access::is_initiator;
use crate::ways::is_portal;

/// A relative target port has 16 bits, the upper half of which is its portal group.
const PORTAL_GROUPS_MAX: u16 = 255;
/// As many as other gateways take for the portals of one.
const LISTENERS_MAX: usize = 255;

/// `[iscsi]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawIscsi {
    /// What the name of every target begins with; a colon and the volume's name follow.
    pub prefix: String,
    /// Number of this site's portals, another at each site that holds the same volumes.
    pub portal_group: u16,
    /// `none`: whoever reaches a listener may log in; `chap`: initiators prove that they are one of the
    /// users. Needed where there is a listener.
    pub auth: String,
    /// Connections of all listeners together.
    pub connections_max: usize,
    /// Bytes in flight of all connections together.
    pub inflight_bytes_max: String,
    /// Microseconds that a session looks for its next command before its thread sleeps; 0: none.
    pub busy_poll_us: u64,
    /// Where initiators log in: `[[iscsi.listeners]]`.
    pub listeners: Vec<RawPortal>,
    /// Who may log in: `[[iscsi.users]]`.
    pub users: Vec<RawUser>,
}

impl Default for RawIscsi {
    fn default() -> Self {
        Self {
            prefix: "iqn.2026-01.io.twinspan".to_owned(),
            portal_group: 1,
            auth: String::new(),
            connections_max: 1024,
            inflight_bytes_max: "1GiB".to_owned(),
            busy_poll_us: 50,
            listeners: Vec::new(),
            users: Vec::new(),
        }
    }
}

/// `[[iscsi.listeners]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPortal {
    /// Its name.
    pub name: String,
    /// `HOST:PORT`.
    pub address: String,
    /// `HOST:PORT` as initiators are told; empty: `address`.
    pub advertise: String,
}

impl Default for RawPortal {
    fn default() -> Self {
        Self {
            name: "tcp".to_owned(),
            address: "127.0.0.1:3260".to_owned(),
            advertise: String::new(),
        }
    }
}

/// `[[iscsi.users]]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawUser {
    /// Its CHAP name.
    pub name: String,
    /// The names of initiators that it may log in under; empty: any.
    pub initiators: Vec<String>,
    /// The file of its secret.
    pub secret_file: String,
    /// Or the variable of the environment.
    pub secret_env: String,
    /// The CHAP name by which the gateway proves itself to it; empty: it cannot.
    pub gateway_name: String,
    /// The file of the gateway's secret.
    pub gateway_secret_file: String,
    /// Or the variable of the environment.
    pub gateway_secret_env: String,
}

/// iSCSI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiConfig {
    /// What the name of every target begins with.
    pub prefix: String,
    /// Number of this site's portals.
    pub portal_group: u16,
    /// Who may log in; `None`: everyone who reaches a listener.
    pub users: Option<Vec<IscsiUser>>,
    /// Connections of all listeners together.
    pub connections_max: usize,
    /// Bytes in flight of all connections together.
    pub inflight_bytes_max: u64,
    /// How long a session looks for its next command before its thread sleeps.
    pub busy_poll: Duration,
    /// Where initiators log in.
    pub listeners: Vec<IscsiListener>,
}

/// One iSCSI listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiListener {
    /// Its name, in logs.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What initiators are told; `None`: where it listens.
    pub advertise: Option<String>,
}

/// Who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiUser {
    /// Its CHAP name.
    pub name: String,
    /// The names of initiators that it may log in under; empty: any.
    pub initiators: Vec<String>,
    /// Where its secret is.
    pub secret: SecretPlace,
    /// The gateway's own CHAP name and secret for it.
    pub gateway: Option<(String, SecretPlace)>,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretPlace {
    /// In this file.
    File(PathBuf),
    /// In this variable of the environment.
    Variable(String),
}

/// Proves the section.
///
/// # Errors
/// The first value that cannot be used.
pub(super) fn iscsi(at: &Place<'_>, raw: &RawIscsi) -> Result<IscsiConfig, ConfigError> {
    check_prefix(at, &raw.prefix)?;
    if raw.portal_group == 0 || raw.portal_group > PORTAL_GROUPS_MAX {
        return Err(at.bad("iscsi.portal_group", format!("must be 1 to {PORTAL_GROUPS_MAX}")));
    }
    if raw.connections_max == 0 {
        return Err(at.bad("iscsi.connections_max", "must be at least 1"));
    }
    if raw.busy_poll_us > BUSY_POLL_US_MAX {
        return Err(at.bad("iscsi.busy_poll_us", format!("must be at most {BUSY_POLL_US_MAX}")));
    }
    if raw.listeners.len() > LISTENERS_MAX {
        return Err(at.bad("iscsi.listeners", format!("must be at most {LISTENERS_MAX}")));
    }
    let chap = match raw.auth.as_str() {
        "" if raw.listeners.is_empty() => false,
        "" => {
            let why = "must say \"chap\", or \"none\": whoever reaches a listener may log in then";
            return Err(at.bad("iscsi.auth", why));
        }
        auth => at.word("iscsi.auth", auth, &[("none", false), ("chap", true)])?,
    };
    let users: Vec<IscsiUser> =
        raw.users.iter().map(|raw| user(at, raw)).collect::<Result<_, _>>()?;
    if chap == users.is_empty() {
        let why = if chap { "\"chap\" needs iscsi.users" } else { "iscsi.users need \"chap\"" };
        return Err(at.bad("iscsi.auth", why));
    }
    let mut names = HashSet::new();
    if let Some(twice) = users.iter().find(|user| !names.insert(user.name.clone())) {
        let why = format!("{:?} is the name of two users", twice.name);
        return Err(at.bad("iscsi.users.name", why));
    }
    let mut names = HashSet::new();
    if let Some(twice) = raw.listeners.iter().find(|raw| !names.insert(raw.name.clone())) {
        let why = format!("{:?} is the name of two listeners", twice.name);
        return Err(at.bad("iscsi.listeners.name", why));
    }
    Ok(IscsiConfig {
        prefix: raw.prefix.clone(),
        portal_group: raw.portal_group,
        users: chap.then_some(users),
        connections_max: raw.connections_max,
        inflight_bytes_max: at.bytes("iscsi.inflight_bytes_max", &raw.inflight_bytes_max)?,
        busy_poll: Duration::from_micros(raw.busy_poll_us),
        listeners: raw.listeners.iter().map(|raw| listener(at, raw)).collect::<Result<_, _>>()?,
    })
}

/// As RFC 7143 §4.2.7.5 has it, and short enough for a volume's name behind it.
fn check_prefix(at: &Place<'_>, prefix: &str) -> Result<(), ConfigError> {
    const BYTES_MAX: usize = 150;
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
    let rest = prefix.strip_prefix("iqn.").unwrap_or_default();
    let dated = rest.len() > 8 && rest.as_bytes().get(4) == Some(&b'-');
    if dated && prefix.len() <= BYTES_MAX && prefix.chars().all(known) {
        return Ok(());
    }
    let why = format!("{prefix:?} is not like iqn.2026-01.com.example (a-z 0-9 - . :)");
    Err(at.bad("iscsi.prefix", why))
}

fn listener(at: &Place<'_>, raw: &RawPortal) -> Result<IscsiListener, ConfigError> {
    const ADVERTISE: &str = "iscsi.listeners.advertise";
    let address = at.address("iscsi.listeners.address", &raw.address)?;
    let advertise = (!raw.advertise.is_empty()).then(|| raw.advertise.clone());
    if let Some(text) = advertise.as_ref().filter(|text| !is_portal(text)) {
        return Err(
            at.bad(ADVERTISE, format!("{text:?} is not HOST:PORT that initiators can call"))
        );
    }
    if advertise.is_none() && address.ip().is_unspecified() {
        let why = "must say what initiators call when the address is every address";
        return Err(at.bad(ADVERTISE, why));
    }
    Ok(IscsiListener { name: raw.name.clone(), address, advertise })
}

fn user(at: &Place<'_>, raw: &RawUser) -> Result<IscsiUser, ConfigError> {
    if raw.name.is_empty() {
        return Err(at.bad("iscsi.users.name", "a user has a name"));
    }
    let secret = place(&raw.secret_file, &raw.secret_env).ok_or_else(|| {
        at.bad("iscsi.users.secret_file", "needs one of secret_file and secret_env")
    })?;
    let ours = place(&raw.gateway_secret_file, &raw.gateway_secret_env);
    let gateway = match (raw.gateway_name.as_str(), ours) {
        ("", None) if raw.gateway_secret_file.is_empty() && raw.gateway_secret_env.is_empty() => {
            None
        }
        (name, Some(place)) if !name.is_empty() => Some((name.to_owned(), place)),
        _ => {
            let why = "goes with one of gateway_secret_file and gateway_secret_env";
            return Err(at.bad("iscsi.users.gateway_name", why));
        }
    };
    let unlike = raw.initiators.iter().find(|name| !is_initiator(name));
    if let Some(name) = unlike {
        let why = format!("{name:?} is no name of an initiator (iqn., eui. or naa.)");
        return Err(at.bad("iscsi.users.initiators", why));
    }
    let (name, initiators) = (raw.name.clone(), raw.initiators.clone());
    Ok(IscsiUser { name, initiators, secret, gateway })
}

fn place(file: &str, variable: &str) -> Option<SecretPlace> {
    match (file, variable) {
        ("", "") => None,
        (file, "") => Some(SecretPlace::File(PathBuf::from(file))),
        ("", variable) => Some(SecretPlace::Variable(variable.to_owned())),
        _ => None,
    }
}
