//! What the listeners ask of the gateway: which targets there are, who may see them, and where a
//! connection goes once it is logged in.
//!
//! Invariant: a target that an initiator may not see is answered exactly as one that does not
//! exist. One that is not there *now* is never answered so: initiators give up what does not exist,
//! and come back to what is not available. One that another gateway serves is there, in standby.

use std::net::SocketAddr;

use crate::session::LoggedIn;

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitiatorInfo {
    /// Where it called from.
    pub address: SocketAddr,
    /// The name that it gave.
    pub name: String,
    /// The name under which it proved itself, if it had to.
    pub user: Option<String>,
    /// The name of the listener it called.
    pub listener: String,
}

/// An address at which targets are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portal {
    /// `HOST:PORT` as initiators are told; an IPv6 address in brackets.
    pub address: String,
    /// The portal group.
    pub tag: u16,
}

/// A target, as one initiator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInfo {
    /// Its iSCSI name.
    pub name: String,
    /// Where it is reached, at every site, the best way first.
    pub portals: Vec<Portal>,
}

/// Why a target is not given to an initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none of that name that this initiator may see.
    #[error("no such target")]
    Unknown,
    /// It exists, but not for now: it is being opened, filled or brought back.
    #[error("target is not ready")]
    NotServed,
    /// The gateway is starting or draining.
    #[error("gateway is starting or shutting down")]
    NotReady,
}

/// What the listeners ask of the gateway.
pub trait Targets: Send + Sync {
    /// Whether it is known which targets there are. Until then nobody is told that there are none.
    fn is_ready(&self) -> bool {
        true
    }

    /// Every target that this initiator may see.
    fn list(&self, initiator: &InitiatorInfo) -> Vec<TargetInfo>;

    /// The target of this name.
    ///
    /// # Errors
    /// Why there is none for this initiator.
    fn find(&self, name: &str, initiator: &InitiatorInfo) -> Result<TargetInfo, Refusal>;

    /// Takes over a connection that is logged in. It is sent to the thread that owns the volumes of
    /// its target, where [`crate::serve`] runs it. Dropping it closes it.
    fn seat(&self, connection: LoggedIn);
}

/// Appends the answer to `SendTargets`.
pub(crate) fn push_target(text: &mut Vec<u8>, name: &str, portals: &[Portal]) {
    crate::wire::text::push(text, "TargetName", name);
    for portal in portals {
        let address = format!("{},{}", portal.address, portal.tag);
        crate::wire::text::push(text, "TargetAddress", &address);
    }
}
