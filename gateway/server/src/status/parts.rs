//! A group over several gateways: what its part here says, and what is wrong with it.
#![warn(clippy::wildcard_enum_match_arm)]

use api::{Code, Health};
use block::GatewayId;
use mirror::{GroupStatus, PartsStatus, Phase, Role, Serving};

use super::explain::Finding;
use super::explanation;

/// A part as an operator is told.
#[must_use]
pub(crate) fn parts(status: &PartsStatus) -> api::Parts {
    let facts = status.state.facts;
    let companion = |companion: &mirror::CompanionStatus| {
        let said = companion.said.as_ref().map(|said| said.facts);
        api::Companion {
            gateway: companion.gateway.uuid(),
            excluded: companion.excluded,
            reachable: companion.reachable,
            stretch: said.map(|facts| facts.number),
            is_ready: said.map(|facts| facts.is_ready || facts.has_joined),
            is_primary: said.map(|facts| facts.is_primary),
        }
    };
    api::Parts {
        stretch: facts.number,
        in_stretch: facts.has_joined,
        whole: facts.whole,
        from: facts.from,
        copy: facts.copy,
        kept: facts.kept,
        waits_for: status.waits_for.map(GatewayId::uuid),
        not_stopped: status.stops.iter().map(|gateway| gateway.uuid()).collect(),
        excluded_by: status.excluded_by.map(GatewayId::uuid),
        companions: status.companions.iter().map(companion).collect(),
    }
}

fn finding(code: Code, health: Health, gateway: GatewayId, cause: String) -> Finding {
    let mut explanation = explanation(code, cause);
    let id = gateway.uuid().to_string();
    explanation.next = explanation.next.replace("--gateway ID", &format!("--gateway {id}"));
    (health, explanation)
}

fn silence(status: &PartsStatus, gateway: GatewayId) -> &'static str {
    let known = status.companions.iter().find(|c| c.gateway == gateway);
    match known.and_then(|companion| companion.reachable) {
        Some(true) => "it answers",
        Some(false) => "it does not answer",
        None => "it was not asked yet",
    }
}

/// What is wrong with the parts of a group, each with how bad it is.
pub(super) fn findings(group: &GroupStatus, out: &mut Vec<Finding>) {
    let Some(status) = &group.parts else { return };
    for companion in status.companions.iter().filter(|companion| companion.excluded) {
        let gateway = companion.gateway;
        let cause = format!("companion {gateway} is excluded: its volumes are not in the order");
        out.push(finding(Code::CompanionOut, Health::AtRisk, gateway, cause));
    }
    if let Some(by) = status.excluded_by {
        let cause = format!("companion {by} goes on without this gateway, which serves nobody");
        out.push((Health::AtRisk, explanation(Code::Excluded, cause)));
    } else if let Some(gateway) = status.waits_for {
        let said = status.companions.iter().find(|c| c.gateway == gateway);
        let said = said.and_then(|companion| companion.said.as_ref());
        let why = match said.map(|said| said.facts.is_primary) {
            Some(true) => "it took over at another cut, or was not heard since the start",
            Some(false) => "it is not a primary: the parts are served together",
            None => "it was not heard since this gateway started",
        };
        let cause = format!("waits for companion {gateway}: {why}; {}", silence(status, gateway));
        out.push(finding(Code::WaitingForCompanion, Health::AtRisk, gateway, cause));
    }
    for gateway in &status.stops {
        let cause = format!(
            "companion {gateway} has not said that it stopped at the same cut; {}",
            silence(status, *gateway)
        );
        let refuses = group.serving == Serving::NoCompanion;
        let health = if refuses { Health::AtRisk } else { Health::Degraded };
        out.push(finding(Code::NoCompanion, health, *gateway, cause));
    }
    let copied = group.legs.iter().any(|leg| leg.phase != Phase::NoPair);
    if group.role == Role::Primary && !status.state.facts.has_joined && copied {
        let slow = status.companions.iter().find(|companion| {
            let ready = |said: &block::PartState| said.facts.is_ready;
            !companion.excluded && !companion.said.as_ref().is_some_and(ready)
        });
        if let (Some(slow), true) = (slow, status.state.facts.is_ready) {
            let gateway = slow.gateway;
            let cause = format!("the mirror here lacks nothing; companion {gateway} is not ready");
            out.push(finding(Code::PartsApart, Health::Degraded, gateway, cause));
        }
    }
}
