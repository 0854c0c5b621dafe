//! What a failover to this gateway would mean, before it is done.
//!
//! Invariant: a plan is made from this gateway's own state alone: nothing of it needs the site that
//! may be lost. What cannot be known from here is said to be unknown. The token of a plan is bound
//! to the state that the plan was made from, and ends.

mod witness;

use api::units::micros_text;
use api::{Check, CheckState, Code, FailoverPlan};
use block::Quality;
use mirror::{
    Consent, Cut, GroupStatus, HandoverStatus, LegStatus, LinkState, Role, UpstreamStatus,
};

use crate::clock::{Clock, text};
use crate::plans::{self, Plans, check, is_blocked};
use crate::refusal::Refused;
use crate::status::millis_to_seconds;

/// What an operator's word means.
///
/// # Errors
/// [`Code::Invalid`] for another word.
pub(crate) fn consent(word: Option<&str>) -> Result<Consent, Refused> {
    match word {
        None | Some("in_sync") => Ok(Consent::InSync),
        Some("outdated") => Ok(Consent::Outdated),
        Some("inconsistent") => Ok(Consent::Inconsistent),
        Some(other) => Err(Refused::new(
            Code::Invalid,
            format!("accept is in_sync, outdated or inconsistent, not {other:?}"),
        )),
    }
}

pub(crate) const fn consent_word(consent: Consent) -> &'static str {
    match consent {
        Consent::InSync => "in_sync",
        Consent::Outdated => "outdated",
        Consent::Inconsistent => "inconsistent",
    }
}

/// The part of a group's state that a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    role: Role,
    epoch: block::Epoch,
    generation: Option<block::Generation>,
    quality: Quality,
    connected: bool,
    handover: Option<HandoverStatus>,
}

impl Basis {
    fn of(status: &GroupStatus) -> Self {
        Self {
            role: status.role,
            epoch: status.epoch,
            generation: status.generation,
            quality: status.quality,
            connected: is_connected(status.upstream.as_ref()),
            handover: status.handover,
        }
    }
}

fn is_connected(upstream: Option<&UpstreamStatus>) -> bool {
    upstream.is_some_and(|upstream| upstream.link == LinkState::Connected)
}

/// A failover that was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    basis: Basis,
    consent: Consent,
    /// The cut at which all parts of the group take over, if it has several.
    cut: Option<Cut>,
}

/// Uses the token of a failover up; says what was accepted with it.
///
/// # Errors
/// As [`Plans::redeem`].
pub(crate) fn redeem(
    plans: &Plans,
    token: &str,
    status: &GroupStatus,
    clock: &Clock,
) -> Result<Consent, Refused> {
    redeem_with_parts(plans, token, status, clock).map(|(consent, _)| consent)
}

/// The same, with the cut at which all parts take over.
///
/// # Errors
/// As [`Plans::redeem`].
pub(crate) fn redeem_with_parts(
    plans: &Plans,
    token: &str,
    status: &GroupStatus,
    clock: &Clock,
) -> Result<(Consent, Option<Cut>), Refused> {
    plans.redeem(token, (status.group, clock), |deed| match deed {
        plans::Deed::Failover(made) if made.basis == Basis::of(status) => {
            Ok((made.consent, made.cut))
        }
        plans::Deed::Failover(_) => Err("the state has changed since the plan was made"),
        plans::Deed::Migration(_) => Err("the plan is one of a migration"),
        plans::Deed::Reprotect(_) => Err("the plan is one of a reprotect"),
        plans::Deed::Rollback(_) => Err("the plan is one of a rollback"),
        plans::Deed::BackupRestore(_) => Err("the plan is one of a restore from a backup"),
    })
}

/// Makes a plan.
#[must_use]
pub(crate) fn plan(
    status: &GroupStatus,
    (site, nbd): (&str, &[String]),
    consent: Consent,
    (plans, clock): (&Plans, &Clock),
) -> FailoverPlan {
    plan_with_parts(status, (site, nbd), (consent, None), (plans, clock))
}

/// The same for a group over several gateways: what its parts do, and at which cut.
#[must_use]
pub(crate) fn plan_with_parts(
    status: &GroupStatus,
    (site, nbd): (&str, &[String]),
    (consent, parts): (Consent, Option<(Cut, Vec<Check>)>),
    (plans, clock): (&Plans, &Clock),
) -> FailoverPlan {
    let now_ms = clock.steady_ms();
    let leave = match unanswered(status) {
        Some(asked) => check_asked(asked, status.witness.is_some(), consent, now_ms),
        None => check_primary(status, consent, now_ms),
    };
    let cut = parts.as_ref().map(|(cut, _)| *cut);
    let mut checks = match parts {
        // Each part says what it does, and a part that is done is nothing to be refused for.
        Some((_, parts)) => parts,
        None => vec![check_role(status), leave, check_copy(status, consent)],
    };
    checks.extend([check_protection(status), check_export(status, nbd)]);
    checks.splice(1..1, witness::check_witness(status, consent));
    let (at_risk_bytes, at_risk_seconds) = at_risk(status);
    let from = match unanswered(status) {
        Some((_, leg)) => Some(leg.site.clone()),
        None => status.upstream.as_ref().map(|upstream| upstream.site.clone()),
    };
    let mut plan = FailoverPlan {
        as_of: clock.rfc3339(),
        group: status.name.clone(),
        group_id: status.group.uuid(),
        to: site.to_owned(),
        needs_none_of: from.iter().cloned().collect(),
        from,
        epoch: epoch_after(status),
        checks,
        at_risk_bytes,
        at_risk_seconds,
        accept: consent_word(consent).to_owned(),
        token: None,
        expires_at: None,
    };
    if !is_blocked(&plan.checks) {
        let deed = Deed { basis: Basis::of(status), consent, cut };
        let ticket = plans.remember(status.group, plans::Deed::Failover(deed), clock);
        plan.token = Some(ticket.token);
        plan.expires_at = Some(ticket.expires_at);
    }
    plan
}

fn check_role(status: &GroupStatus) -> Check {
    let name = format!("raise the epoch to {}", epoch_after(status));
    match status.role {
        Role::Secondary => {
            check(&name, CheckState::Ok, "this gateway holds a mirror and records it by itself")
        }
        Role::Primary if unanswered(status).is_some() && status.witness.is_some() => {
            let name = format!("go on at epoch {}", status.epoch);
            check(&name, CheckState::Ok, "the witness takes back what the mirror was offered")
        }
        Role::Primary if unanswered(status).is_some() => check(
            &name,
            CheckState::Ok,
            "above the one that the mirror was offered; this gateway records it by itself",
        ),
        Role::Primary => check(&name, CheckState::Blocked, "this gateway is the primary already"),
        Role::Fenced => check(
            &name,
            CheckState::Blocked,
            "this gateway was the primary and is fenced: the group is served at another site",
        ),
    }
}

fn check_primary(status: &GroupStatus, consent: Consent, now_ms: u64) -> Check {
    let Some(upstream) = &status.upstream else {
        return check("leave the primary", CheckState::Unknown, "no primary is known here");
    };
    let name = format!("leave {}", upstream.site);
    let site = &upstream.site;
    if upstream.link == LinkState::Connected {
        return if consent == Consent::InSync {
            check(
                &name,
                CheckState::Blocked,
                format!(
                    "{site} answers; `twinspan session reverse` there loses nothing. If this is \
                     meant: --accept outdated"
                ),
            )
        } else {
            let text = format!("{site} answers and will be fenced; its hosts are dropped");
            check(&name, CheckState::Warning, text)
        };
    }
    match upstream.last_heard_ms {
        Some(_) if upstream.orderly => check(
            &name,
            CheckState::Ok,
            format!("{site} said goodbye; it is fenced by name when it returns"),
        ),
        Some(heard) => check(
            &name,
            CheckState::Warning,
            format!(
                "{site} has not been heard for {}; if it lives and serves hosts, what they write \
                 there is discarded when it returns; it is fenced by name then",
                micros_text(now_ms.saturating_sub(heard).saturating_mul(1000))
            ),
        ),
        None => check(
            &name,
            CheckState::Warning,
            format!("{site} has not been heard since this gateway started"),
        ),
    }
}

/// The swap of roles whose mirror was asked and did not answer, and its leg.
fn unanswered(status: &GroupStatus) -> Option<(HandoverStatus, &LegStatus)> {
    let handover = status.handover.filter(|handover| handover.unanswered)?;
    let leg = status.legs.iter().find(|leg| leg.leg == handover.leg)?;
    Some((handover, leg))
}

/// The turn of the epoch at which this gateway would serve.
fn epoch_after(status: &GroupStatus) -> u64 {
    match unanswered(status) {
        // The witness takes the offer back, so nothing has to be raised above it.
        Some(_) if status.witness.is_some() => status.epoch.turn(),
        Some((asked, _)) => asked.epoch.turn() + 1,
        None => status.epoch.turn() + 1,
    }
}

fn check_asked(
    (asked, leg): (HandoverStatus, &LegStatus),
    is_arbitrated: bool,
    consent: Consent,
    now_ms: u64,
) -> Check {
    let site = &leg.site;
    let name = format!("leave {site}");
    let heard = leg.last_heard_ms.map_or_else(
        || "since this gateway started".to_owned(),
        |at| format!("for {}", micros_text(now_ms.saturating_sub(at).saturating_mul(1000))),
    );
    if is_arbitrated {
        let text = format!(
            "{site} was asked to take over at epoch {} and has not been heard {heard}",
            asked.epoch
        );
        return match consent {
            Consent::InSync => check(
                &name,
                CheckState::Blocked,
                format!("{text}. If it is not waited for: --accept outdated"),
            ),
            Consent::Outdated | Consent::Inconsistent => check(&name, CheckState::Ok, text),
        };
    }
    let risk = format!(
        "{site} was asked to take over at epoch {} and has not been heard {heard}: if it did, hosts \
         may write there, and it is fenced when it returns; what they wrote is then told as a split \
         brain",
        asked.epoch
    );
    match consent {
        Consent::InSync => check(
            &name,
            CheckState::Blocked,
            format!("{risk}. If this is meant: --accept outdated"),
        ),
        Consent::Outdated | Consent::Inconsistent => check(&name, CheckState::Warning, risk),
    }
}

fn check_copy(status: &GroupStatus, consent: Consent) -> Check {
    let name = "open the copy here";
    match (status.quality, consent) {
        (Quality::InSync | Quality::Source, _) => {
            let text = "it has every write that was acknowledged while it was a member";
            check(name, CheckState::Ok, text)
        }
        (Quality::Outdated, Consent::InSync) => check(
            name,
            CheckState::Blocked,
            "it is an old one and may lack acknowledged writes; if this is meant: --accept outdated",
        ),
        (Quality::Outdated, Consent::Outdated | Consent::Inconsistent) => {
            check(name, CheckState::Warning, "it is an old one and may lack acknowledged writes")
        }
        (Quality::Consistent, _) => back_to_kept(name, status, consent),
        (Quality::Inconsistent, _) if status.kept.is_some() => back_to_kept(name, status, consent),
        (Quality::Inconsistent, Consent::Inconsistent) => check(
            name,
            CheckState::Warning,
            "it is half copied and not one point in time: file systems on it need repair",
        ),
        (Quality::Inconsistent, Consent::InSync | Consent::Outdated) => check(
            name,
            CheckState::Blocked,
            "it is half copied and not one point in time; if this is meant: --accept inconsistent",
        ),
        (Quality::Blank, _) => check(name, CheckState::Blocked, "nothing was ever copied here"),
    }
}

/// A promotion goes back to the newest point that is kept here.
fn back_to_kept(name: &str, status: &GroupStatus, consent: Consent) -> Check {
    let taken = status.kept.as_ref().map_or_else(String::new, |kept| text(kept.unix_ms));
    let age = status.rpo_ms.map_or_else(
        || "how many seconds of writes it lacks is not known here".to_owned(),
        |rpo| format!("it lacks at most {:.1} s of writes", millis_to_seconds(rpo)),
    );
    let what = format!("it goes back to the point kept at {taken}; {age}");
    if consent == Consent::InSync {
        return check(
            name,
            CheckState::Blocked,
            format!("{what}; if this is meant: --accept outdated"),
        );
    }
    check(name, CheckState::Warning, what)
}

fn check_protection(status: &GroupStatus) -> Check {
    let site = match unanswered(status) {
        Some((_, leg)) => leg.site.as_str(),
        None => status.upstream.as_ref().map_or("the other site", |upstream| &upstream.site),
    };
    check(
        "serve on one copy",
        CheckState::Warning,
        format!("writes are unprotected until {site} is back and `twinspan reprotect` was run"),
    )
}

fn check_export(status: &GroupStatus, nbd: &[String]) -> Check {
    let names: Vec<&str> = status.volumes.iter().map(|volume| volume.name.as_str()).collect();
    let names = names.join(", ");
    if nbd.is_empty() {
        return check(
            &format!("export {names}"),
            CheckState::Warning,
            "this gateway has no NBD or iSCSI listener: nobody can attach",
        );
    }
    check(&format!("export {names}"), CheckState::Ok, nbd.join(", "))
}

/// What would be lost, if it can be known from here.
fn at_risk(status: &GroupStatus) -> (Option<u64>, Option<f64>) {
    let connected = is_connected(status.upstream.as_ref());
    let said = status.upstream.as_ref().and_then(|upstream| upstream.theirs);
    match (status.quality, status.rpo_ms) {
        (Quality::InSync, Some(0)) => (Some(0), Some(0.0)),
        (Quality::InSync, rpo_ms) => (None, rpo_ms.map(millis_to_seconds)),
        (_, rpo_ms) => (
            said.filter(|_| connected).map(|theirs| theirs.out_of_sync_bytes),
            rpo_ms.map(millis_to_seconds),
        ),
    }
}

#[cfg(test)]
mod tests;
