//! The ways to a volume over iSCSI: where initiators reach it at each site, and which way is best.
//!
//! ```text
//!   portals of this gateway ──────────┐
//!   what other gateways told of theirs ┼─ status of the group ─▶ port groups, portals
//! ```
//!
//! Invariant: of another gateway's ports nothing is said that is not known here. A host believes the
//! gateway that it asked last: one that serves nobody and hears nobody would talk it out of the only
//! way that works. Where a gateway is reached stays known when it is lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock};

use block::GatewayId;
use iscsi::Portal;
use iscsi::scsi::{PortGroup, PortState};
use mirror::{GroupStatus, LinkState, Serving};
use serde::{Deserialize, Serialize};

/// Portals of one gateway, as many as its configuration takes.
const PORTALS_MAX: usize = 255;
/// `HOST:PORT`: the longest name of a host, and its port.
const ADDRESS_BYTES_MAX: usize = 261;

/// Where initiators reach one gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Side {
    /// The number of its portal group, another at each site.
    pub(crate) group: u16,
    /// Its portals, `HOST:PORT`, as initiators are told.
    pub(crate) portals: Vec<String>,
}

/// Whether initiators may be told this: `HOST:PORT`, and no address that stands for every one, which each
/// would take for its own.
#[must_use]
pub(crate) fn is_portal(text: &str) -> bool {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let is_every = text.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    port.is_some()
        && !is_every
        && text.len() <= ADDRESS_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// What is known of all gateways.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    own: Side,
    others: RwLock<HashMap<GatewayId, Side>>,
}

/// The ways to the volumes of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    /// This gateway's own ports.
    pub(crate) own: PortState,
    /// Every port group that something is known of.
    pub(crate) groups: Vec<PortGroup>,
    /// Every portal, the best way first.
    pub(crate) portals: Vec<Portal>,
}

// === impl Side ===

impl Side {
    /// The relative number of the target port that its portals are (RFC 7143, §4.4.2): unique over all
    /// sites, as its group is. It is one number for all of them, as a session that is logged in at one
    /// portal takes the place of the one before it at another: what it registered is its own there too.
    #[must_use]
    pub(crate) const fn port(group: u16) -> u16 {
        // Groups have 8 bits. Earlier releases numbered the portals below them, from 1.
        group << 8 | 1
    }

    /// Whether another gateway may say this of itself.
    #[must_use]
    pub(crate) fn is_sound(&self) -> bool {
        (1..=255).contains(&self.group)
            && self.portals.len() <= PORTALS_MAX
            && self.portals.iter().all(|portal| is_portal(portal))
    }

    fn port_group(&self, state: PortState) -> PortGroup {
        let ports = if self.portals.is_empty() { vec![] } else { vec![Self::port(self.group)] };
        PortGroup { group: self.group, state, ports }
    }

    fn told(&self) -> impl Iterator<Item = Portal> {
        self.portals.iter().map(|address| Portal { address: address.clone(), tag: self.group })
    }
}

// === impl Ways ===

impl Ways {
    /// Those of this gateway alone.
    #[must_use]
    pub(crate) fn new(own: Side) -> Self {
        Self { own, others: RwLock::default() }
    }

    /// This gateway's own.
    #[must_use]
    pub(crate) fn own(&self) -> &Side {
        &self.own
    }

    /// Another gateway is reached there.
    pub(crate) fn learn(&self, gateway: GatewayId, side: Side) {
        self.others.write().unwrap_or_else(PoisonError::into_inner).insert(gateway, side);
    }

    /// Whether initiators could not tell that gateway's ports from those here.
    #[must_use]
    pub(crate) fn collides(&self, side: &Side) -> bool {
        side.group == self.own.group && !side.portals.is_empty() && !self.own.portals.is_empty()
    }

    /// The ways to a copy that is open here on its own: there is no other of that content.
    #[must_use]
    pub(crate) fn apart(&self) -> Paths {
        let own = PortState::Optimized;
        Paths { own, groups: vec![self.own.port_group(own)], portals: self.own.told().collect() }
    }

    /// The ways to a group's volumes.
    #[must_use]
    pub(crate) fn of(&self, status: &GroupStatus) -> Paths {
        let own = own_state(status);
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let mut known: Vec<(&Side, Option<PortState>)> = holders(status)
            .into_iter()
            .filter_map(|(gateway, state)| Some((others.get(&gateway)?, state)))
            .filter(|(side, _)| !side.portals.is_empty() && !self.collides(side))
            .collect();
        known.sort_by_key(|(_, state)| rank(*state));
        // Of two that share a number the better one is told: initiators could not tell them apart.
        let mut numbers = Vec::new();
        known.retain(|(side, _)| {
            let is_new = !numbers.contains(&side.group);
            numbers.push(side.group);
            is_new
        });
        let mut groups = vec![self.own.port_group(own)];
        groups.extend(known.iter().filter_map(|(side, state)| Some(side.port_group((*state)?))));
        // A way that is known to be open goes before one that is not.
        let (better, rest): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|(_, state)| rank(*state) < rank(Some(own)));
        let sides = better.iter().map(|(side, _)| *side).chain([&self.own]);
        let portals = sides.chain(rest.iter().map(|(side, _)| *side)).flat_map(Side::told);
        Paths { own, groups, portals: portals.collect() }
    }
}

/// What this gateway's ports are good for. A primary in doubt is no way that is best, and no way that
/// is closed either: a host that has no other waits there.
fn own_state(status: &GroupStatus) -> PortState {
    match &status.serving {
        Serving::Yes => PortState::Optimized,
        Serving::HandingOver if status.handover.is_none_or(|swap| !swap.unanswered) => {
            PortState::Transitioning
        }
        Serving::HandingOver
        | Serving::Halted
        | Serving::NoWitness
        | Serving::NoCompanion
        | Serving::WaitingForMirror
        | Serving::WaitingForWitness
        | Serving::WaitingForCompanion
        | Serving::Latched => PortState::NonOptimized,
        // A copy that is open on its own is another disk.
        Serving::NotPrimary | Serving::Fenced { .. } | Serving::Detached => PortState::Standby,
        Serving::Excluded | Serving::RollingBack => PortState::Unavailable,
    }
}

/// The other gateways that hold the group's volumes, and what their ports are good for as far as that
/// is known here.
fn holders(status: &GroupStatus) -> Vec<(GatewayId, Option<PortState>)> {
    let mut all = Vec::new();
    if let Some(upstream) = &status.upstream {
        let serves = upstream.link == LinkState::Connected;
        all.push((upstream.gateway, serves.then_some(PortState::Optimized)));
    }
    let leads = own_state(status) == PortState::Optimized;
    for leg in &status.legs {
        if all.iter().any(|(gateway, _)| *gateway == leg.gateway) {
            continue;
        }
        let state = match leg.link {
            LinkState::Connected => Some(PortState::Standby),
            // Whoever serves for certain may say that a host has nothing to look for there.
            LinkState::Off | LinkState::Connecting => leads.then_some(PortState::Unavailable),
        };
        all.push((leg.gateway, state));
    }
    all
}

/// Better ways first; those of which nothing is known behind the ones that carry I/O.
fn rank(state: Option<PortState>) -> u8 {
    match state {
        Some(PortState::Optimized) => 0,
        Some(PortState::NonOptimized | PortState::Transitioning) => 1,
        Some(PortState::Standby) => 2,
        None => 3,
        Some(PortState::Unavailable) => 4,
    }
}

#[cfg(test)]
mod tests;
