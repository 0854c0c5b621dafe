//! What going back to a snapshot, or to a second, would mean: the plan, its token, and what stands in
//! the way.
//!
//! Invariant: a plan changes nothing, and is made from what this gateway knows by itself; only one that
//! begins with a swap of roles asks the other site how it is.

use api::units::bytes_text;
use api::{Check, CheckState, RollbackPlan};
use block::{Epoch, Quality, SnapshotId};
use mirror::{
    GroupStatus, LegStatus, LinkState, Role, SessionState, SnapshotState, SnapshotStatus,
    UpstreamStatus,
};

use crate::clock::{Clock, text};
use crate::moments::Laid;
use crate::plans::{self, Plans, check, is_blocked};
use crate::refusal::Refused;

/// A rollback that was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    /// To which snapshot.
    pub(crate) snapshot: SnapshotId,
    /// What is laid over it, for a second.
    pub(crate) laid: Option<Laid>,
    /// Whether roles are swapped first, and back afterwards.
    pub(crate) swaps: bool,
    epoch: Epoch,
}

/// Uses the token of a rollback up: to this snapshot, or to the second that was planned.
///
/// # Errors
/// As [`Plans::redeem`].
pub(crate) fn redeem(
    plans: &Plans,
    token: &str,
    (status, snapshot): (&GroupStatus, Option<&SnapshotStatus>),
    clock: &Clock,
) -> Result<Deed, Refused> {
    let redeemed = plans.redeem(token, (status.group, clock), |deed| {
        let plans::Deed::Rollback(made) = deed else {
            return Err("the plan is not one of a rollback");
        };
        match snapshot {
            Some(_) if made.laid.is_some() => return Err("the plan is of a second"),
            Some(snapshot) if made.snapshot != snapshot.id => {
                return Err("the plan is of another snapshot");
            }
            None if made.laid.is_none() => return Err("the plan is of a snapshot"),
            Some(_) | None => {}
        }
        if made.epoch != status.epoch {
            return Err("since the plan was made roles were changed");
        }
        Ok(made)
    });
    let name = snapshot.map(|snapshot| snapshot.name.as_str());
    redeemed.map_err(|refused| refused.next(again(&status.name, name)))
}

/// How a plan is made again: to a snapshot, or to a second.
#[must_use]
pub(crate) fn again(group: &str, snapshot: Option<&str>) -> String {
    snapshot.map_or_else(
        || format!("make a new plan: twinspan point rollback plan {group} --at TIME"),
        |name| format!("make a new plan: twinspan snapshot rollback plan {group} {name}"),
    )
}

/// The sessions that run, so that they have to be suspended, and are resumed afterwards.
pub(crate) fn running(status: &GroupStatus) -> impl Iterator<Item = &LegStatus> {
    let runs = |leg: &&LegStatus| match leg.state {
        SessionState::Active | SessionState::Halted => true,
        SessionState::Suspended | SessionState::Error => false,
    };
    status.legs.iter().filter(runs)
}

/// What is known when a rollback is planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook<'a> {
    /// The group, here.
    pub(crate) status: &'a GroupStatus,
    /// Where it would go back to.
    pub(crate) snapshot: &'a SnapshotStatus,
    /// What is laid over it, for a second.
    pub(crate) laid: Option<Laid>,
    /// What the site that serves the group says of its hosts, when roles are to be swapped first.
    pub(crate) swap: Option<Result<u64, &'a str>>,
    /// Hosts that are attached here.
    pub(crate) hosts: u64,
    /// Another operation on the group.
    pub(crate) busy: Option<&'a str>,
    /// Bytes in which the volumes may differ from it, or why that is not known.
    pub(crate) changed: Result<u64, &'a str>,
}

impl Outlook<'_> {
    /// Everything that was looked at.
    #[must_use]
    pub(crate) fn checks(&self) -> Vec<Check> {
        let mut checks =
            vec![self.is_primary(), self.is_usable(), self.is_whole(), self.is_alone()];
        checks.extend(self.status.parts.is_some().then(|| {
            let text = "a group over several gateways has no snapshots on request";
            check("one gateway has all of the group", CheckState::Blocked, text)
        }));
        checks.push(self.differs());
        checks.push(self.drops());
        checks.extend(self.status.legs.iter().map(follows));
        checks
    }

    fn is_primary(&self) -> Check {
        let name = "this site serves the group";
        match (self.status.role, &self.status.upstream) {
            (Role::Primary, _) => check(name, CheckState::Ok, "it is the primary"),
            (Role::Secondary, Some(upstream)) if self.swap.is_some() => self.swaps(upstream),
            (_, Some(upstream)) => {
                let text = format!(
                    "it does not: ask {}, whose mirror goes with it; for what only this site keeps: \
                     --swap",
                    upstream.site
                );
                check(name, CheckState::Blocked, text)
            }
            (Role::Secondary | Role::Fenced, None) => {
                check(name, CheckState::Blocked, "it does not")
            }
        }
    }

    /// The site that serves the group hands it over, and takes it over again by delta.
    fn swaps(&self, upstream: &UpstreamStatus) -> Check {
        let (site, group) = (&upstream.site, &self.status.name);
        let name = format!("swap roles with {site}");
        let is_whole = matches!(self.status.quality, Quality::InSync | Quality::Consistent);
        if upstream.link != LinkState::Connected || !is_whole {
            let text = format!(
                "{site} is not followed now; if it is lost: twinspan failover plan {group}, then go \
                 back here"
            );
            return check(&name, CheckState::Blocked, text);
        }
        match self.swap {
            Some(Err(why)) => check(&name, CheckState::Blocked, why),
            None | Some(Ok(_)) => {
                let text = "it hands over first, follows by delta, and serves again afterwards";
                check(&name, CheckState::Warning, text)
            }
        }
    }

    /// Hosts here, and where roles are swapped also those there.
    pub(crate) fn all_hosts(&self) -> u64 {
        let there = self.swap.and_then(Result::ok).unwrap_or(0);
        self.hosts.saturating_add(there)
    }

    fn is_usable(&self) -> Check {
        let name = match self.laid {
            None => format!("snapshot {}", self.snapshot.name),
            Some(laid) => format!("the second {}", text(laid.unix_ms)),
        };
        let text = match self.snapshot.state {
            SnapshotState::Available => {
                let taken = text(self.snapshot.unix_ms);
                let text = match self.laid {
                    None => format!("available, taken {taken}"),
                    Some(_) => {
                        format!(
                            "a base of {taken}, and what was written down since is laid over it"
                        )
                    }
                };
                return check(&name, CheckState::Ok, text);
            }
            SnapshotState::RollingBack => "the group is going back to it",
            SnapshotState::Deleting => "it is being deleted",
            SnapshotState::Error => "its content is not there",
        };
        check(&name, CheckState::Blocked, text)
    }

    fn is_whole(&self) -> Check {
        let name = "every volume is in it";
        let held = |id| self.snapshot.volumes.iter().any(|(held, _)| *held == id);
        match self.status.volumes.iter().find(|volume| !held(volume.volume)) {
            None => check(name, CheckState::Ok, format!("{} volumes", self.status.volumes.len())),
            Some(volume) => {
                let text = format!(
                    "{0} joined later; first: twinspan group remove {1} {0}",
                    volume.name, self.status.name
                );
                check(name, CheckState::Blocked, text)
            }
        }
    }

    fn is_alone(&self) -> Check {
        let name = "no other operation";
        match self.busy {
            Some(other) => check(name, CheckState::Blocked, format!("{other} is under way")),
            None if self.status.handover.is_some() => {
                check(name, CheckState::Blocked, "roles are being swapped")
            }
            None => check(name, CheckState::Ok, "none is under way"),
        }
    }

    fn differs(&self) -> Check {
        let name = "what is undone";
        match self.changed {
            Ok(0) => check(name, CheckState::Ok, "nothing was written since"),
            Ok(bytes) => {
                let text = format!(
                    "{} at most; kept as a snapshot of its own, to go back to",
                    bytes_text(bytes)
                );
                check(name, CheckState::Warning, text)
            }
            Err(why) => check(name, CheckState::Unknown, why),
        }
    }

    fn drops(&self) -> Check {
        let name = "hosts";
        let place = if self.swap.is_some() { "at the two sites" } else { "here" };
        match self.all_hosts() {
            0 => check(name, CheckState::Ok, format!("none is attached {place}")),
            hosts => {
                let text = format!("{hosts} attached {place}: detach them, or say --drop-hosts");
                check(name, CheckState::Warning, text)
            }
        }
    }
}

fn follows(leg: &LegStatus) -> Check {
    let name = format!("mirror at {}", leg.site);
    match leg.state {
        SessionState::Active | SessionState::Halted => {
            let text =
                "suspended, then resumed: it follows by delta, and is no copy of now until then";
            check(&name, CheckState::Warning, text)
        }
        SessionState::Suspended => {
            check(&name, CheckState::Ok, "suspended, and stays so: resume it afterwards")
        }
        SessionState::Error => {
            check(&name, CheckState::Warning, "in error, and stays so: resume it afterwards")
        }
    }
}

/// Makes a plan.
#[must_use]
pub(crate) fn plan(outlook: &Outlook<'_>, plans: &Plans, clock: &Clock) -> RollbackPlan {
    let Outlook { status, snapshot, laid, .. } = *outlook;
    let to_ms = laid.map_or(snapshot.unix_ms, |laid| laid.unix_ms);
    let mut plan = RollbackPlan {
        as_of: clock.rfc3339(),
        group: status.name.clone(),
        group_id: status.group.uuid(),
        snapshot: snapshot.name.clone(),
        snapshot_id: snapshot.id.uuid(),
        created_at: text(to_ms),
        moment: laid.map(|laid| text(laid.unix_ms)),
        swap: outlook.swap.is_some(),
        seconds: clock.unix_ms().saturating_sub(to_ms) / 1000,
        changed_bytes: outlook.changed.ok(),
        hosts: outlook.all_hosts(),
        sessions: running(status).map(|leg| leg.site.clone()).collect(),
        checks: outlook.checks(),
        token: None,
        expires_at: None,
    };
    if !is_blocked(&plan.checks) {
        let swaps = outlook.swap.is_some();
        let deed = Deed { snapshot: snapshot.id, laid, swaps, epoch: status.epoch };
        let ticket = plans.remember(status.group, plans::Deed::Rollback(deed), clock);
        plan.token = Some(ticket.token);
        plan.expires_at = Some(ticket.expires_at);
    }
    plan
}
