//! How far a restore is: what lies between a group that is served from the copy at this site and its
//! return to the original one.
//!
//! ```text
//!   Promote ─▶ Follow ─▶ Copy ─▶ Swap ─▶ Over
//!   the copy   the original        the original is the
//!   here is    site follows        source again, this
//!   the source                     site its mirror
//! ```
//!
//! Invariant: how far it is, is read from the group's own state each time, so that one that was cut
//! short anywhere is taken up where it stands. Nothing is begun that was not meant: a group that is
//! as it always was is refused by name.

use api::Code;
use block::{GatewayId, LegId, Quality};
use mirror::{Cause, Consent, GroupStatus, LegStatus, LinkState, Role, Serving, SessionState};

use crate::migration::has_everything;
use crate::refusal::Refused;

/// What the next step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// The copy here becomes the source.
    Promote(Consent),
    /// The original site is told to follow.
    Follow(LegId),
    /// It is brought up to date.
    Copy(LegId),
    /// It has everything: roles are swapped.
    Swap(LegId),
    /// It serves the group again.
    Over,
}

/// Where a group is to be brought back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aim {
    /// The gateway.
    pub(crate) gateway: GatewayId,
    /// Its site.
    pub(crate) site: String,
}

impl Aim {
    fn leg(leg: &LegStatus) -> Self {
        Self { gateway: leg.gateway, site: leg.site.clone() }
    }
}

/// What has to be accepted for the copy here to become the source; `None` for one that is of no use.
#[must_use]
pub(crate) fn consent(status: &GroupStatus) -> Option<Consent> {
    let needed = Consent::needed(status.quality, status.kept.is_some());
    (needed < Consent::Inconsistent).then_some(needed)
}

fn wrong(detail: impl Into<String>) -> Refused {
    Refused::new(Code::WrongState, detail)
}

/// Which site is meant.
///
/// # Errors
/// Why there is nothing to restore, or that it is not clear where to.
pub(crate) fn aim(
    status: &GroupStatus,
    begun: Option<GatewayId>,
    to: Option<&str>,
) -> Result<Aim, Refused> {
    match status.role {
        Role::Fenced => Err(fenced(status)),
        Role::Secondary => aim_of_copy(status, begun, to),
        Role::Primary => aim_of_source(status, begun, to),
    }
}

fn fenced(status: &GroupStatus) -> Refused {
    let sites: Vec<&str> = status.legs.iter().map(|leg| leg.site.as_str()).collect();
    let detail = format!(
        "this gateway is the one to be brought back: the group is served at {}",
        sites.join(" or ")
    );
    let next =
        format!("twinspan session restore {}, asked of the site that serves it", status.name);
    Refused::new(Code::NotPrimary, detail).next(next)
}

fn aim_of_copy(
    status: &GroupStatus,
    begun: Option<GatewayId>,
    to: Option<&str>,
) -> Result<Aim, Refused> {
    let Some(source) = &status.upstream else {
        return Err(wrong("the copy here has no source that it could be brought back to"));
    };
    if to.is_some_and(|to| to != source.site) {
        return Err(wrong(format!("the source of the copy here is {}", source.site)));
    }
    let aim = Aim { gateway: source.gateway, site: source.site.clone() };
    let (site, group) = (&source.site, &status.name);
    let is_connected = source.link == LinkState::Connected;
    if status.serving == Serving::Detached || begun == Some(source.gateway) {
        return Ok(aim);
    }
    match status.quality {
        Quality::InSync | Quality::Source if is_connected => {
            Err(wrong(format!("{site} serves the group, and the copy here is the same")))
        }
        Quality::InSync | Quality::Source => {
            let next = format!("twinspan failover plan {group}");
            Err(wrong(format!("{site} was lost, and nothing was written here since")).next(next))
        }
        _ if is_connected => {
            let next = format!("twinspan session suspend {group}, asked of {site}");
            Err(wrong(format!("the copy here follows {site}: suspend its session first"))
                .next(next))
        }
        _ => Ok(aim),
    }
}

fn aim_of_source(
    status: &GroupStatus,
    begun: Option<GatewayId>,
    to: Option<&str>,
) -> Result<Aim, Refused> {
    let legs = || status.legs.iter();
    if let Some(begun) = begun {
        let leg = legs().find(|leg| leg.gateway == begun);
        let leg = leg.filter(|leg| to.is_none_or(|to| to == leg.site));
        return leg.map(Aim::leg).ok_or_else(|| {
            let next = format!("twinspan session restore {} --give-up", status.name);
            wrong("a restore to another site was begun, or its session is gone").next(next)
        });
    }
    let awaits = |leg: &&LegStatus| leg.cause == Some(Cause::AwaitingReprotect);
    let Some(to) = to else {
        let awaiting: Vec<&LegStatus> = legs().filter(awaits).collect();
        return match awaiting.as_slice() {
            [leg] => Ok(Aim::leg(leg)),
            [] => Err(nothing(status, legs().next())),
            several => {
                let sites: Vec<&str> = several.iter().map(|leg| leg.site.as_str()).collect();
                let detail = format!("say --to {}", sites.join(" or --to "));
                Err(Refused::new(Code::Invalid, detail))
            }
        };
    };
    let leg = legs().find(|leg| leg.site == to).ok_or_else(|| {
        Refused::new(Code::NotFound, format!("the group has no session with {to:?}"))
    })?;
    if leg.state == SessionState::Active {
        return Err(nothing(status, Some(leg)));
    }
    Ok(Aim::leg(leg))
}

/// A primary whose mirrors follow is at home, or is moved by a migration.
fn nothing(status: &GroupStatus, leg: Option<&LegStatus>) -> Refused {
    let (group, site) = (&status.name, leg.map_or("SITE", |leg| &leg.site));
    let detail = "this gateway is the primary, and no site waits to be brought back: nothing was \
                  promoted here";
    let next = format!("twinspan migrate plan {group} --to {site}, to move it there");
    wrong(detail).next(next)
}

/// How far the way back to that gateway is.
///
/// # Errors
/// What stands in the way, by name.
pub(crate) fn stand(status: &GroupStatus, aim: &Aim) -> Result<Stand, Refused> {
    match status.role {
        Role::Fenced => Err(fenced(status)),
        Role::Secondary => {
            let upstream = status.upstream.as_ref().filter(|up| up.gateway == aim.gateway);
            let follows = upstream.is_some_and(|upstream| {
                // One that follows behind is no worse for being so, while it does.
                let behind = status.quality == Quality::Consistent;
                status.quality == Quality::InSync || behind && upstream.link == LinkState::Connected
            });
            if follows && status.serving != Serving::Detached {
                return Ok(Stand::Over);
            }
            let useless = || {
                let detail = "the copy here is half copied and no point in time";
                Refused::new(Code::CopyStale, detail)
                    .next("let its session become equivalent first")
            };
            consent(status).map(Stand::Promote).ok_or_else(useless)
        }
        Role::Primary => stand_of_source(status, aim),
    }
}

fn stand_of_source(status: &GroupStatus, aim: &Aim) -> Result<Stand, Refused> {
    if let Some(handover) = status.handover {
        let code = if handover.unanswered { Code::HandoverUnanswered } else { Code::Busy };
        let detail = format!("roles are being swapped with {}; it has to answer", aim.site);
        return Err(Refused::new(code, detail));
    }
    let leg = status.legs.iter().find(|leg| leg.gateway == aim.gateway);
    let Some(leg) = leg else {
        return Err(wrong(format!("the session with {} is gone", aim.site)));
    };
    Ok(if has_everything(leg) {
        Stand::Swap(leg.leg)
    } else if leg.state == SessionState::Active {
        Stand::Copy(leg.leg)
    } else {
        Stand::Follow(leg.leg)
    })
}

#[cfg(test)]
mod tests;
