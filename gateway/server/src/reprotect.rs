//! What it would mean that another site follows a group again, before it is told to.
//!
//! Invariant: what only that site has is overwritten only by a plan that says so and whose numbers
//! that site gave itself; what it does not tell is not agreed to. The token of a plan is bound to the
//! state that the plan was made from, and ends.

use api::units::bytes_text;
use api::{Check, CheckState, ReprotectPlan};
use block::{Epoch, GatewayId, LegId};
use mirror::{Cause, GroupStatus, LegStatus, Role, Serving, SessionState};
use uuid::Uuid;

use crate::clock::Clock;
use crate::gateway::surveys::Survey;
use crate::plans::{self, Plans, check, is_blocked};
use crate::refusal::Refused;

/// What would be overwritten that only the other site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    bytes: u64,
    /// The history that it belongs to, where that site told it.
    history: Option<Uuid>,
}

/// The part of a group's state that a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    role: Role,
    epoch: Epoch,
    state: Option<SessionState>,
    is_swapping: bool,
    volumes: usize,
    bytes: u64,
    /// Only where it was agreed to: nothing is lost otherwise, whatever is there.
    lost: Option<Lost>,
}

impl Basis {
    fn of(status: &GroupStatus, leg: Option<&LegStatus>, lost: Option<Lost>) -> Self {
        Self {
            role: status.role,
            epoch: status.epoch,
            state: leg.map(|leg| leg.state),
            is_swapping: status.handover.is_some(),
            volumes: status.volumes.len(),
            bytes: status.volumes.iter().map(|volume| volume.bytes).sum(),
            lost,
        }
    }

    /// What is not as it was.
    fn changed(self, now: Self) -> Option<&'static str> {
        if self.role != now.role || self.epoch != now.epoch || self.is_swapping != now.is_swapping {
            Some("since the plan was made roles were swapped, or are being swapped")
        } else if self.lost != now.lost {
            Some("since the plan was made what only the other site has is not what it was")
        } else if self.state != now.state {
            Some("since the plan was made the session's state has changed")
        } else if self != now {
            Some("since the plan was made the group's volumes have changed")
        } else {
            None
        }
    }
}

/// A reprotect that was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    basis: Basis,
    /// The gateway that is to follow.
    pub(crate) to: GatewayId,
    /// Its leg; none: there is no session with it yet.
    pub(crate) leg: Option<LegId>,
    /// What only it has may be overwritten.
    pub(crate) discard: bool,
}

/// What the token of a reprotect is for, without using it up.
///
/// # Errors
/// As [`Plans::look`].
pub(crate) fn look(
    plans: &Plans,
    token: &str,
    status: &GroupStatus,
    clock: &Clock,
) -> Result<Deed, Refused> {
    let made = plans.look(token, (status.group, clock)).map_err(|why| stale(why, status))?;
    of_reprotect(made).map_err(|why| stale(plans::refused(why), status))
}

/// Uses the token of a reprotect up, if all is as it was planned; `lost` is what would be overwritten
/// now.
///
/// # Errors
/// As [`Plans::redeem`].
pub(crate) fn redeem(
    plans: &Plans,
    token: &str,
    (status, lost): (&GroupStatus, Option<Lost>),
    clock: &Clock,
) -> Result<Deed, Refused> {
    let redeemed = plans.redeem(token, (status.group, clock), |deed| {
        let made = of_reprotect(deed)?;
        let leg = made.leg.and_then(|id| status.legs.iter().find(|leg| leg.leg == id));
        if leg.map(|leg| leg.gateway) != made.leg.map(|_| made.to) {
            return Err("since the plan was made the session was deleted");
        }
        if made.leg.is_none() && !status.legs.is_empty() {
            return Err("since the plan was made a session was created");
        }
        made.basis.changed(Basis::of(status, leg, lost)).map_or(Ok(made), Err)
    });
    redeemed.map_err(|why| stale(why, status))
}

fn of_reprotect(deed: plans::Deed) -> Result<Deed, &'static str> {
    match deed {
        plans::Deed::Reprotect(made) => Ok(made),
        plans::Deed::Failover(_)
        | plans::Deed::Migration(_)
        | plans::Deed::Rollback(_)
        | plans::Deed::BackupRestore(_) => Err("the plan is not one of a reprotect"),
    }
}

fn stale(refused: Refused, status: &GroupStatus) -> Refused {
    refused.next(format!("make a new plan: twinspan reprotect {} --dry-run", status.name))
}

/// What is known when a reprotect is planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook<'a> {
    /// The group, here.
    pub(crate) status: &'a GroupStatus,
    /// The gateway that is to follow, and its site.
    pub(crate) to: (GatewayId, &'a str),
    /// The leg to it, if there is one.
    pub(crate) leg: Option<&'a LegStatus>,
    /// This site.
    pub(crate) site: &'a str,
    /// It was agreed that what only the other site has is overwritten.
    pub(crate) discard: bool,
    /// What this gateway says of its part.
    pub(crate) here: &'a Survey,
    /// What the other site says of its part, or why it does not.
    pub(crate) there: Result<&'a Survey, &'a str>,
}

impl Outlook<'_> {
    /// What only the other site has; `None` when it cannot be known from here.
    pub(crate) fn only_there(&self) -> Option<Lost> {
        let Some(leg) = self.leg else { return Some(Lost { bytes: 0, history: None }) };
        let told = match leg.cause {
            Some(Cause::SplitBrain { theirs_bytes }) => Some(theirs_bytes),
            _ => None,
        };
        let Ok(there) = self.there else {
            return told.map(|bytes| Lost { bytes, history: None });
        };
        let own = there.owns_history(self.here) || there.serving == api::Serving::Detached;
        let bytes = match leg.given_up_bytes {
            // It may have all that was given up here, and what it wrote after that.
            Some(given_up) => given_up.saturating_add(there.bytes()),
            None if self.is_unrelated(there) => self.all_bytes(),
            None if own => there.bytes(),
            None => 0,
        };
        Some(Lost { bytes: told.unwrap_or(0).max(bytes), history: there.generation })
    }

    /// Whether that site has a history of its own that nobody knows a common part of: all of it may be
    /// in nothing else.
    fn is_unrelated(&self, there: &Survey) -> bool {
        let known = [self.here.generation, self.here.base];
        there.generation.is_some() && !there.is_whole && !known.contains(&there.generation)
    }

    fn all_bytes(&self) -> u64 {
        self.status.volumes.iter().map(|volume| volume.bytes).sum()
    }

    /// What the run would overwrite.
    pub(crate) fn lost(&self) -> Option<Lost> {
        self.discard.then(|| self.only_there()).flatten()
    }

    /// Whether everything is copied; `None` when only a comparison of both histories says it.
    fn is_full(&self) -> Option<bool> {
        if self.leg.is_none_or(|leg| leg.phase == mirror::Phase::NoPair) || !self.here.is_whole {
            return Some(true);
        }
        self.there.ok().map(|there| !there.is_whole)
    }

    fn resync_bytes(&self) -> u64 {
        if self.is_full() == Some(true) {
            return self.status.volumes.iter().map(|volume| volume.mapped_bytes).sum();
        }
        let there = self.there.map_or(0, Survey::bytes);
        let given_up = self.leg.and_then(|leg| leg.given_up_bytes).unwrap_or(0);
        self.here.bytes().saturating_add(there).saturating_add(given_up)
    }

    /// Seconds in which what would be lost was written, at most, by the other site's own clock.
    fn at_risk_seconds(&self) -> Option<f64> {
        if !self.discard || self.only_there().is_some_and(|lost| lost.bytes == 0) {
            return Some(0.0);
        }
        if self.leg.is_some_and(|leg| leg.given_up_bytes.is_some()) {
            return None;
        }
        let there = self.there.ok()?;
        let asked: jiff::Timestamp = there.as_of.parse().ok()?;
        let asked_ms = u64::try_from(asked.as_millisecond()).ok()?;
        let since_ms = asked_ms.saturating_sub(there.history_began_ms()?);
        Some(crate::status::millis_to_seconds(since_ms))
    }

    /// Everything that was looked at.
    #[must_use]
    pub(crate) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.is_served(), self.answers(), self.keeps(), self.copies()];
        checks.extend(self.parts());
        checks
    }

    fn is_served(&self) -> Check {
        let name = format!("serve at {}", self.site);
        let epoch = self.status.epoch;
        if self.status.handover.is_some() {
            return check(&name, CheckState::Blocked, "roles are being swapped");
        }
        match &self.status.serving {
            Serving::Yes => check(&name, CheckState::Ok, format!("primary at epoch {epoch}")),
            serving => {
                let text = format!("primary at epoch {epoch}, serving {serving:?}");
                check(&name, CheckState::Warning, text)
            }
        }
    }

    fn answers(&self) -> Check {
        let (name, ours) = (format!("ask {}", self.to.1), self.status.epoch.turn());
        let there = match self.there {
            Ok(there) => there,
            Err(why) => {
                let text = format!("{why}; it is brought up to date when it is there");
                return check(&name, CheckState::Unknown, text);
            }
        };
        let (epoch, hosts) = (there.epoch, there.hosts);
        if epoch > ours {
            let text = format!(
                "it is at epoch {epoch}, above this site's: this site will be fenced by it"
            );
            return check(&name, CheckState::Blocked, text);
        }
        if there.role == api::Role::Primary {
            let text =
                format!("it serves at epoch {epoch}: it is fenced, {hosts} hosts are dropped");
            return check(&name, CheckState::Warning, text);
        }
        if hosts > 0 {
            let text = format!("it answers, at epoch {epoch}; {hosts} hosts there are dropped");
            return check(&name, CheckState::Warning, text);
        }
        check(&name, CheckState::Ok, format!("it answers, at epoch {epoch}"))
    }

    /// What becomes of what only the other site has.
    fn keeps(&self) -> Check {
        let site = self.to.1;
        let name = format!("what only {site} has");
        let group = &self.status.name;
        let Some(lost) = self.only_there() else {
            return if self.discard {
                let text = "not known while it does not answer, so nobody can agree to lose it: plan \
                            it when it does, or without --discard";
                check(&name, CheckState::Blocked, text)
            } else {
                let text = "not known; if there is anything, it stays, and the session stops there";
                check(&name, CheckState::Unknown, text)
            };
        };
        let up_to =
            if self.there.is_ok_and(|there| self.is_unrelated(there)) { "up to " } else { "" };
        let bytes = format!("{up_to}{}", bytes_text(lost.bytes));
        let is_told =
            matches!(self.leg.map(|leg| &leg.cause), Some(Some(Cause::SplitBrain { .. })));
        match (lost.bytes, self.discard) {
            _ if is_told && !self.discard => {
                let text = format!(
                    "{bytes} that this site lacks: twinspan group diff {group} shows them. If they \
                     are to be overwritten: --discard"
                );
                check(&name, CheckState::Blocked, text)
            }
            (0, _) if self.leg.is_some() => check(&name, CheckState::Ok, "nothing"),
            (0, _) => check(&name, CheckState::Ok, "nothing of this group, as far as it is known"),
            (_, true) => {
                let text = format!(
                    "{bytes} are overwritten; a snapshot of them is kept there, which `twinspan \
                     group show {group}` there names"
                );
                check(&name, CheckState::Warning, text)
            }
            (_, false) => {
                let text = format!(
                    "{bytes} that this site lacks stay: the session stops there as a split brain \
                     until it is planned with --discard"
                );
                check(&name, CheckState::Warning, text)
            }
        }
    }

    fn copies(&self) -> Check {
        let name = format!("bring {} up to date", self.to.1);
        let bytes = bytes_text(self.resync_bytes());
        match self.is_full() {
            Some(false) => check(&name, CheckState::Ok, format!("only the difference: {bytes}")),
            Some(true) => {
                let text = format!("a full copy: {bytes}; no common history is known");
                check(&name, CheckState::Warning, text)
            }
            None => {
                let text = format!(
                    "only the difference, {bytes} as far as it is known here, unless it lost track \
                     of its own"
                );
                check(&name, CheckState::Unknown, text)
            }
        }
    }

    /// The other parts of a group over several gateways are told the same.
    fn parts(&self) -> Option<Check> {
        let name = "the same for every other part";
        self.status.parts.as_ref()?;
        Some(if self.discard {
            check(name, CheckState::Warning, "what only their mirrors have is not in these numbers")
        } else {
            check(name, CheckState::Ok, "each is told; nothing of theirs is overwritten")
        })
    }
}

/// Makes a plan.
#[must_use]
pub(crate) fn plan(outlook: &Outlook<'_>, plans: &Plans, clock: &Clock) -> ReprotectPlan {
    let (status, leg) = (outlook.status, outlook.leg);
    let bytes = |lost: Option<Lost>| lost.map(|lost| lost.bytes);
    // What the other parts' mirrors have is told by nobody here.
    let spans = status.parts.is_some() && outlook.discard;
    let at_risk = if outlook.discard { bytes(outlook.lost()) } else { Some(0) };
    let kind = outlook.is_full().map(|full| if full { "full" } else { "delta" });
    let mut plan = ReprotectPlan {
        as_of: clock.rfc3339(),
        group: status.name.clone(),
        group_id: status.group.uuid(),
        from: outlook.site.to_owned(),
        to: outlook.to.1.to_owned(),
        epoch: status.epoch.turn(),
        checks: outlook.checks(),
        discard: outlook.discard,
        only_there_bytes: bytes(outlook.only_there()),
        at_risk_bytes: at_risk.filter(|_| !spans),
        at_risk_seconds: outlook.at_risk_seconds().filter(|_| !spans),
        resync_kind: kind.map(str::to_owned),
        resync_bytes: outlook.resync_bytes(),
        token: None,
        expires_at: None,
    };
    if !is_blocked(&plan.checks) {
        let deed = Deed {
            basis: Basis::of(status, leg, outlook.lost()),
            to: outlook.to.0,
            leg: leg.map(|leg| leg.leg),
            discard: outlook.discard,
        };
        let ticket = plans.remember(status.group, plans::Deed::Reprotect(deed), clock);
        plan.token = Some(ticket.token);
        plan.expires_at = Some(ticket.expires_at);
    }
    plan
}

#[cfg(test)]
mod tests;
