//! The iSCSI listeners: opened from the configuration, with the secrets that it names.
//!
//! Invariant: a listener whose secrets cannot be read, or serve both ways, is not opened, rather than
//! opened to everyone.

use std::sync::Arc;

use iscsi::{
    Auth, Capacity, ChapUser, ListenError, Listener, ListenerConfig, Secret, Sessions,
    SharedSecret, WeakSecret,
};

use crate::config::{IscsiConfig, IscsiListener, IscsiUser, SecretPlace};
use crate::ways::Side;

/// Why iSCSI cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortalError {
    /// The address is taken, or the kernel refuses it.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A secret cannot be read.
    #[error("secret of {user}: {place}: {why}")]
    Unread {
        /// Whose.
        user: String,
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
    /// A secret is no good.
    #[error("secret of {user}: {why}")]
    Weak {
        /// Whose.
        user: String,
        /// Why.
        why: WeakSecret,
    },
    /// A secret serves both ways.
    #[error(transparent)]
    Shared(#[from] SharedSecret),
}

/// What is open.
#[derive(Debug, Default)]
pub(crate) struct Portals {
    /// The listeners.
    pub(crate) listeners: Vec<Listener>,
    /// What initiators are told of them.
    pub(crate) side: Side,
    /// Where they log in, as URIs without a volume.
    pub(crate) uris: Vec<String>,
}

/// Opens the listeners.
///
/// # Errors
/// [`PortalError`].
pub(crate) fn bind(config: &IscsiConfig) -> Result<Portals, PortalError> {
    let auth = Arc::new(auth(config)?);
    let capacity = Arc::new(Capacity::new(config.connections_max, config.inflight_bytes_max));
    let sessions = Arc::new(Sessions::default());
    let mut open = Portals::default();
    open.side.group = config.portal_group;
    for wanted in &config.listeners {
        warn_if_open(wanted, &auth);
        let mut listener = ListenerConfig::new(&wanted.name, wanted.address);
        listener.auth = Arc::clone(&auth);
        listener.tag = config.portal_group;
        listener.target_port = Side::port(config.portal_group);
        listener.busy_poll = config.busy_poll;
        let listener = Listener::bind(listener, (Arc::clone(&capacity), Arc::clone(&sessions)))?;
        let address = wanted.advertise.clone().unwrap_or_else(|| listener.address().to_string());
        open.uris.push(format!("iscsi://{address}/{}:", config.prefix));
        open.side.portals.push(address);
        open.listeners.push(listener);
    }
    Ok(open)
}

fn auth(config: &IscsiConfig) -> Result<Auth, PortalError> {
    match &config.users {
        None => Ok(Auth::None),
        Some(users) => Ok(Auth::chap(users.iter().map(user).collect::<Result<_, _>>()?)?),
    }
}

fn user(user: &IscsiUser) -> Result<ChapUser, PortalError> {
    let weak = |why| PortalError::Weak { user: user.name.clone(), why };
    let secret = Secret::new(read(&user.name, &user.secret)?).map_err(weak)?;
    let ours = match &user.gateway {
        None => None,
        Some((name, place)) => {
            let secret = Secret::new(read(&user.name, place)?).map_err(weak)?;
            Some((name.clone(), secret))
        }
    };
    let known = ChapUser::new(user.name.clone(), secret, ours).map_err(weak)?;
    Ok(known.known_as(&user.initiators))
}

fn read(user: &str, place: &SecretPlace) -> Result<Vec<u8>, PortalError> {
    let failed =
        |place: String, why: String| PortalError::Unread { user: user.to_owned(), place, why };
    match place {
        SecretPlace::File(path) => {
            let read = std::fs::read(path);
            let mut bytes =
                read.map_err(|error| failed(path.display().to_string(), error.to_string()))?;
            // An editor ends the line.
            while bytes.last().is_some_and(|last| b"\r\n".contains(last)) {
                bytes.pop();
            }
            Ok(bytes)
        }
        SecretPlace::Variable(name) => match std::env::var(name) {
            Ok(text) => Ok(text.into_bytes()),
            Err(error) => Err(failed(format!("environment {name}"), error.to_string())),
        },
    }
}

fn warn_if_open(wanted: &IscsiListener, auth: &Auth) {
    if !wanted.address.ip().is_loopback() && auth.is_open() {
        tracing::warn!(
            listener = wanted.name,
            address = %wanted.address,
            "iSCSI without CHAP beyond this machine: whoever reaches it can read and write"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_two_users_that_serves_both_ways_is_refused_by_name_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str, secret: &str| {
            let file = directory.path().join(name);
            std::fs::write(&file, secret).unwrap();
            SecretPlace::File(file)
        };
        let (joe, eve) = ("aaaaaaaaaaaaaa\n", "bbbbbbbbbbbbbb");
        let user = |name: &str, secret, gateway: Option<&str>| IscsiUser {
            name: name.to_owned(),
            initiators: Vec::new(),
            secret: place(name, secret),
            gateway: gateway.map(|ours| ("gateway".to_owned(), place("gateway", ours))),
        };
        let config = |users| IscsiConfig {
            prefix: "iqn.2026-01.io.twinspan".to_owned(),
            portal_group: 1,
            users: Some(users),
            connections_max: 1,
            inflight_bytes_max: 1,
            busy_poll: std::time::Duration::ZERO,
            listeners: Vec::new(),
        };
        let apart = config(vec![user("joe", joe, None), user("eve", eve, Some("cccccccccccccc"))]);
        assert!(auth(&apart).is_ok());
        let shared = config(vec![user("joe", joe, None), user("eve", eve, Some(joe))]);
        let text = auth(&shared).unwrap_err().to_string();
        assert!(text.contains("joe") && text.contains("eve"), "{text}");
        assert!(!text.contains(joe.trim()), "{text}");
    }
}
