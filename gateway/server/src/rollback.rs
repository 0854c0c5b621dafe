//! What going back to a snapshot would mean: the plan, its token, and what stands in the way.
//!
//! Invariant: a plan is made from what this gateway knows by itself, and changes nothing.

use api::units::bytes_text;
use api::{Check, CheckState, RollbackPlan};
use block::{Epoch, SnapshotId};
use mirror::{GroupStatus, LegStatus, Role, SessionState, SnapshotState, SnapshotStatus};

use crate::clock::{Clock, text};
use crate::plans::{self, Plans, check, is_blocked};
use crate::refusal::Refused;

/// A rollback that was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    snapshot: SnapshotId,
    epoch: Epoch,
}

/// Uses the token of a rollback up.
///
/// # Errors
/// As [`Plans::redeem`].
pub(crate) fn redeem(
    plans: &Plans,
    token: &str,
    (status, snapshot): (&GroupStatus, &SnapshotStatus),
    clock: &Clock,
) -> Result<(), Refused> {
    let redeemed = plans.redeem(token, (status.group, clock), |deed| {
        let plans::Deed::Rollback(made) = deed else {
            return Err("the plan is not one of a rollback");
        };
        if made.snapshot != snapshot.id {
            return Err("the plan is of another snapshot");
        }
        if made.epoch != status.epoch {
            return Err("since the plan was made roles were changed");
        }
        Ok(())
    });
    let (group, name) = (&status.name, &snapshot.name);
    redeemed.map_err(|refused| {
        let next = format!("make a new plan: twinspan snapshot rollback plan {group} {name}");
        refused.next(next)
    })
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
            (_, Some(upstream)) => {
                let text = format!("it does not: ask {}, whose mirror goes with it", upstream.site);
                check(name, CheckState::Blocked, text)
            }
            (Role::Secondary | Role::Fenced, None) => {
                check(name, CheckState::Blocked, "it does not")
            }
        }
    }

    fn is_usable(&self) -> Check {
        let name = format!("snapshot {}", self.snapshot.name);
        let text = match self.snapshot.state {
            SnapshotState::Available => {
                let text = format!("available, taken {}", text(self.snapshot.unix_ms));
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
        match self.hosts {
            0 => check(name, CheckState::Ok, "none is attached here"),
            hosts => {
                let text = format!("{hosts} attached here: detach them, or say --drop-hosts");
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
    let Outlook { status, snapshot, hosts, .. } = *outlook;
    let mut plan = RollbackPlan {
        as_of: clock.rfc3339(),
        group: status.name.clone(),
        group_id: status.group.uuid(),
        snapshot: snapshot.name.clone(),
        snapshot_id: snapshot.id.uuid(),
        created_at: text(snapshot.unix_ms),
        seconds: clock.unix_ms().saturating_sub(snapshot.unix_ms) / 1000,
        changed_bytes: outlook.changed.ok(),
        hosts,
        sessions: running(status).map(|leg| leg.site.clone()).collect(),
        checks: outlook.checks(),
        token: None,
        expires_at: None,
    };
    if !is_blocked(&plan.checks) {
        let deed = Deed { snapshot: snapshot.id, epoch: status.epoch };
        let ticket = plans.remember(status.group, plans::Deed::Rollback(deed), clock);
        plan.token = Some(ticket.token);
        plan.expires_at = Some(ticket.expires_at);
    }
    plan
}
