//! What an operator allows a plugin, and what a plugin wants.
//!
//! Invariant: what is not here is denied. A plugin that wants more than before gets no more by itself.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::bindings::exports::twinspan::plugin::plugin::Want;
use crate::limits::NAME_BYTES_MAX;

/// One thing that is allowed. In text: `http:HOST[:PORT]`, `secret:NAME`, `reveal:NAME`, `kv`, `volumes`,
/// `folder:VOLUME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// HTTP to a host, a host at a port, or (`*.example.com`) to every host under a name.
    Http(String),
    /// To use a secret.
    Secret(String),
    /// To see a secret.
    Reveal(String),
    /// Keys and values of its own.
    Kv,
    /// To read volumes, groups and sites.
    Volumes,
    /// The folder on a volume.
    Folder(String),
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(host) => write!(f, "http:{host}"),
            Self::Secret(name) => write!(f, "secret:{name}"),
            Self::Reveal(name) => write!(f, "reveal:{name}"),
            Self::Kv => f.write_str("kv"),
            Self::Volumes => f.write_str("volumes"),
            Self::Folder(volume) => write!(f, "folder:{volume}"),
        }
    }
}

/// A text that is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no grant: http:HOST, http:HOST:PORT, secret:NAME, reveal:NAME, kv, volumes or folder:VOLUME"
)]
pub struct NoGrant(String);

impl FromStr for Grant {
    type Err = NoGrant;

    fn from_str(text: &str) -> Result<Self, NoGrant> {
        let no = || NoGrant(text.to_owned());
        let grant = match text.split_once(':') {
            Some(("http", host)) => Self::Http(host.to_ascii_lowercase()),
            Some(("secret", name)) => Self::Secret(name.to_owned()),
            Some(("reveal", name)) => Self::Reveal(name.to_owned()),
            Some(("folder", volume)) => Self::Folder(volume.to_owned()),
            Some(_) => return Err(no()),
            None if text == "kv" => Self::Kv,
            None if text == "volumes" => Self::Volumes,
            None => return Err(no()),
        };
        if grant.is_well_formed() { Ok(grant) } else { Err(no()) }
    }
}

impl Grant {
    /// A plugin's wish.
    ///
    /// # Errors
    /// [`NoGrant`] when it names nothing that could be granted.
    pub(crate) fn wanted(want: &Want) -> Result<Self, NoGrant> {
        let grant = match want {
            Want::HttpHost(host) => Self::Http(host.to_ascii_lowercase()),
            Want::Secret(name) => Self::Secret(name.clone()),
            Want::RevealSecret(name) => Self::Reveal(name.clone()),
            Want::Kv => Self::Kv,
            Want::Volumes => Self::Volumes,
        };
        if grant.is_well_formed() { Ok(grant) } else { Err(NoGrant(grant.to_string())) }
    }

    fn is_well_formed(&self) -> bool {
        match self {
            Self::Http(host) => is_host(host),
            Self::Secret(name) | Self::Reveal(name) | Self::Folder(name) => is_name(name, b"-_."),
            Self::Kv | Self::Volumes => true,
        }
    }
}

/// Lower case letters, digits and hyphens, as a plugin's or an action's name.
pub(crate) fn is_plain_name(name: &str) -> bool {
    is_name(name, b"-") && !name.starts_with('-') && !name.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_name(name: &str, others: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

fn is_host(text: &str) -> bool {
    let host = text.strip_prefix("*.").unwrap_or(text);
    let (host, port) = match host.rsplit_once(':') {
        // The last part of an IPv6 address in brackets is no port.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (host, None),
    };
    let is_bare = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            (1..=253).contains(&host.len())
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        }
    };
    is_bare && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// What one plugin is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(BTreeSet<Grant>);

impl Grants {
    /// All of these.
    #[must_use]
    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Self {
        Self(grants.into_iter().collect())
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter()
    }

    /// Whether exactly this is among them.
    #[must_use]
    pub fn has(&self, grant: &Grant) -> bool {
        self.0.contains(grant)
    }

    /// Whether a request to this host (lower case, brackets around IPv6) and port may go out.
    #[must_use]
    pub fn has_http(&self, host: &str, port: u16) -> bool {
        self.0.iter().any(|grant| match grant {
            Grant::Http(allowed) => {
                let allowed = match allowed.rsplit_once(':') {
                    // The last part of an IPv6 address in brackets is none.
                    Some((name, number)) if !number.ends_with(']') => {
                        if number.parse() != Ok(port) {
                            return false;
                        }
                        name
                    }
                    _ => allowed.as_str(),
                };
                match allowed.strip_prefix("*.") {
                    Some(parent) => host
                        .strip_suffix(parent)
                        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
                    None => host == allowed,
                }
            }
            Grant::Secret(_) | Grant::Reveal(_) | Grant::Kv | Grant::Volumes | Grant::Folder(_) => {
                false
            }
        })
    }

    /// Whether a secret may be used: who may see one may use it.
    #[must_use]
    pub fn has_secret(&self, name: &str) -> bool {
        self.0.iter().any(|grant| match grant {
            Grant::Secret(allowed) | Grant::Reveal(allowed) => allowed == name,
            Grant::Http(_) | Grant::Kv | Grant::Volumes | Grant::Folder(_) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> Grants {
        Grants::new(texts.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn a_grant_is_written_and_read_in_one_way() {
        for text in [
            "http:api.example.com",
            "http:[::1]:80",
            "http:*.a.b",
            "secret:x",
            "reveal:y",
            "kv",
            "volumes",
            "folder:switchover.info",
        ] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "http:",
            "http:a b",
            "http:a:0",
            "http:a:99999",
            "http:[x]",
            "files",
            "secret:",
            "all:x",
            "http:*",
            "folder:",
            "folder:a/b",
        ] {
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_hosts_that_were_named_are_called() {
        let some = grants(&[
            "http:api.example.com",
            "http:10.0.0.1:8080",
            "http:*.cloud.example",
            "http:[::1]:7",
        ]);
        for (host, port) in [
            ("api.example.com", 443),
            ("api.example.com", 80),
            ("10.0.0.1", 8080),
            ("a.cloud.example", 1),
            ("[::1]", 7),
        ] {
            assert!(some.has_http(host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("example.com", 443),
            ("api.example.com.evil", 443),
            ("evilapi.example.com", 443),
            ("10.0.0.1", 80),
            ("cloud.example", 1),
            (".cloud.example", 1),
            ("evilcloud.example", 1),
            ("[::1]", 8),
        ] {
            assert!(!some.has_http(host, port), "{host}:{port}");
        }
    }

    #[test]
    fn a_secret_is_used_by_whom_it_was_given_to() {
        let some = grants(&["secret:a", "reveal:b"]);
        assert!(some.has_secret("a") && some.has_secret("b") && !some.has_secret("c"));
        assert!(!some.has(&Grant::Reveal("a".to_owned())));
    }
}
