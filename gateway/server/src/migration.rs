//! What a planned migration of a group to another site would mean, before it is done.
//!
//! Invariant: a plan can be run only if the other site has everything and says so itself, so that
//! nothing is at risk. Its token is bound to the state that the plan was made from.

use api::units::bytes_text;
use api::{Check, CheckState, MigrationPlan};
use block::{Epoch, GatewayId, LegId};
use mirror::{GroupStatus, HandoverStatus, LegStatus, LinkState, Mode, Role, Serving};

use crate::clock::Clock;
use crate::gateway::surveys::Survey;
use crate::plans::{self, Plans, check, is_blocked};
use crate::refusal::Refused;
use crate::status::{leg_is_well, leg_out_of_sync};

/// What is asked and answered in a swap, one after the other: the last changes, their flush, the
/// handover, and the way back that the new primary opens.
const ROUND_TRIPS: f64 = 4.0;
/// What both sides record and sync meanwhile, on disks that take 25 ms for each of four.
const RECORDS_SECONDS: f64 = 0.1;
/// What a link is trusted to carry while nothing was measured: half of a 1 Gbit/s line.
const BYTES_PER_SECOND: u64 = 64 << 20;

/// The part of a group's state that a plan depends on. Its history is none: a primary may begin a
/// new one with any write, and a mirror that has everything goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    role: Role,
    epoch: Epoch,
    to: GatewayId,
    is_well: bool,
    volumes: usize,
    bytes: u64,
    handover: Option<HandoverStatus>,
}

impl Basis {
    fn of(status: &GroupStatus, leg: &LegStatus) -> Self {
        Self {
            role: status.role,
            epoch: status.epoch,
            to: leg.gateway,
            is_well: has_everything(leg),
            volumes: status.volumes.len(),
            bytes: status.volumes.iter().map(|volume| volume.bytes).sum(),
            handover: status.handover,
        }
    }

    /// What is not as it was.
    fn changed(self, now: Self) -> Option<&'static str> {
        if self.role != now.role || self.epoch != now.epoch || self.handover != now.handover {
            Some("since the plan was made roles were swapped, or are being swapped")
        } else if self.to != now.to || self.is_well != now.is_well {
            Some("since the plan was made the mirror's state has changed")
        } else if self != now {
            Some("since the plan was made the group's volumes have changed")
        } else {
            None
        }
    }
}

/// A migration that was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    basis: Basis,
    leg: LegId,
}

/// Uses the token of a migration up; says which leg's mirror takes over.
///
/// # Errors
/// As [`Plans::redeem`].
pub(crate) fn redeem(
    plans: &Plans,
    token: &str,
    status: &GroupStatus,
    clock: &Clock,
) -> Result<LegStatus, Refused> {
    let redeemed = plans.redeem(token, (status.group, clock), |deed| {
        let plans::Deed::Migration(made) = deed else {
            return Err("the plan is not one of a migration");
        };
        let leg = status.legs.iter().find(|leg| leg.leg == made.leg);
        let leg = leg.ok_or("since the plan was made the session was deleted")?;
        match made.basis.changed(Basis::of(status, leg)) {
            None => Ok(leg.clone()),
            Some(what) => Err(what),
        }
    });
    redeemed.map_err(|refused| {
        refused.next(format!("make a new plan: twinspan migrate plan {} --to SITE", status.name))
    })
}

/// Whether the mirror has every acknowledged write and waits for none.
#[must_use]
pub(crate) fn has_everything(leg: &LegStatus) -> bool {
    leg.in_sync && leg.policy.mode == Mode::Sync && leg_is_well(leg)
}

/// What is known when a migration is planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook<'a> {
    /// The group, here.
    pub(crate) status: &'a GroupStatus,
    /// The leg to the other site.
    pub(crate) leg: &'a LegStatus,
    /// This site.
    pub(crate) site: &'a str,
    /// Hosts that are attached here.
    pub(crate) hosts: u64,
    /// Another operation on the group.
    pub(crate) busy: Option<&'a str>,
    /// What the other site says of its part, or why it does not.
    pub(crate) there: Result<&'a Survey, &'a str>,
}

impl Outlook<'_> {
    /// Bytes that are on their way to the other site.
    fn backlog(&self) -> u64 {
        let leg = self.leg;
        leg.inflight_bytes.max(leg.send_queue_bytes).saturating_add(leg_out_of_sync(leg))
    }

    fn expected_seconds(&self) -> Option<f64> {
        let rtt = std::time::Duration::from_micros(self.leg.rtt_us?).as_secs_f64();
        let rate = self.leg.resync_rate.filter(|rate| *rate > 0).unwrap_or(BYTES_PER_SECOND);
        let millis = self.backlog().saturating_mul(1000).div_ceil(rate);
        let drain = std::time::Duration::from_millis(millis).as_secs_f64();
        Some(ROUND_TRIPS * rtt + drain + RECORDS_SECONDS)
    }

    /// Everything that was looked at.
    #[must_use]
    pub(crate) fn checks(&self) -> Vec<Check> {
        let mut checks =
            vec![self.is_served(), self.is_alone(), self.is_in_sync(), self.says_so_too()];
        checks.extend(self.witness());
        checks.extend(self.others());
        checks.extend([self.room(), self.hosts(), self.export()]);
        checks
    }

    fn is_served(&self) -> Check {
        let name = format!("serve at {}", self.site);
        match (self.status.role, &self.status.serving) {
            (Role::Primary, Serving::Yes) => {
                check(&name, CheckState::Ok, format!("primary at epoch {}", self.status.epoch))
            }
            (role, serving) => {
                let text = format!("the group is {role:?} here, serving {serving:?}");
                check(&name, CheckState::Blocked, text)
            }
        }
    }

    fn is_alone(&self) -> Check {
        let name = "no other operation";
        match self.busy {
            Some(other) => check(name, CheckState::Blocked, format!("{other} is under way")),
            None if self.status.handover.is_some() => {
                check(name, CheckState::Blocked, "roles are being swapped already")
            }
            None if self.leg.verifying.is_some() => {
                let text = "the verification under way ends without a certificate";
                check(name, CheckState::Warning, text)
            }
            None => check(name, CheckState::Ok, "none is under way"),
        }
    }

    fn is_in_sync(&self) -> Check {
        let (leg, name) = (self.leg, format!("{} holds every write", self.leg.site));
        if has_everything(leg) {
            return check(&name, CheckState::Ok, "in sync and connected");
        }
        let text = if leg.policy.mode != Mode::Sync {
            "the session follows behind by its mode; first: twinspan session set SESSION --mode sync"
                .to_owned()
        } else if leg.link == LinkState::Connected {
            format!("it is being brought up to date, {} differ", bytes_text(self.backlog()))
        } else {
            "it is not connected; if this site is lost: twinspan failover plan, there".to_owned()
        };
        check(&name, CheckState::Blocked, text)
    }

    fn says_so_too(&self) -> Check {
        let name = format!("ask {}", self.leg.site);
        let there = match self.there {
            Ok(there) => there,
            Err(why) => return check(&name, CheckState::Blocked, why),
        };
        let ready = there.role == api::Role::Secondary && there.quality == api::Quality::InSync;
        if !ready {
            let text = format!("its copy is {:?} and it is {:?}", there.quality, there.role);
            return check(&name, CheckState::Blocked, text);
        }
        let ours = env!("CARGO_PKG_VERSION");
        if there.release != ours {
            let text = format!("it is ready; its release is {}, here it is {ours}", there.release);
            return check(&name, CheckState::Warning, text);
        }
        check(&name, CheckState::Ok, format!("it is ready; release {ours}"))
    }

    fn witness(&self) -> Option<Check> {
        let witness = self.status.witness.filter(|witness| witness.arbitrated)?;
        let name = "ask the witness";
        Some(if witness.reachable == Some(true) {
            check(name, CheckState::Ok, "it answers")
        } else {
            check(
                name,
                CheckState::Blocked,
                "it does not answer, and roles are swapped by its word",
            )
        })
    }

    fn others(&self) -> Option<Check> {
        let legs = self.status.legs.iter().filter(|leg| leg.leg != self.leg.leg);
        let sites: Vec<&str> = legs.map(|leg| leg.site.as_str()).collect();
        let text = "they do not follow the new primary by themselves: mirror to them from there";
        let name = format!("other mirrors: {}", sites.join(", "));
        (!sites.is_empty()).then(|| check(&name, CheckState::Warning, text))
    }

    /// Its copy is whole already; hosts may go on to write where nothing is mapped yet.
    fn room(&self) -> Check {
        let name = format!("room at {}", self.leg.site);
        let volumes = self.status.volumes.iter();
        let unmapped: u64 = volumes.map(|v| v.bytes.saturating_sub(v.mapped_bytes)).sum();
        match self.there.ok().and_then(|there| there.room_bytes) {
            None => check(&name, CheckState::Unknown, "it does not say how much its pool has left"),
            Some(0) => check(&name, CheckState::Blocked, "its pool is full"),
            Some(room) if room < unmapped => {
                let text = format!(
                    "its pool has {} left; the volumes may still take {}",
                    bytes_text(room),
                    bytes_text(unmapped)
                );
                check(&name, CheckState::Warning, text)
            }
            Some(room) => {
                check(&name, CheckState::Ok, format!("its pool has {} left", bytes_text(room)))
            }
        }
    }

    fn hosts(&self) -> Check {
        let name = "hosts";
        match self.hosts {
            0 => check(name, CheckState::Ok, "none is attached here"),
            hosts => {
                let text = format!(
                    "{hosts} attached here: their requests wait, then they are dropped and attach at \
                     {}",
                    self.leg.site
                );
                check(name, CheckState::Warning, text)
            }
        }
    }

    fn export(&self) -> Check {
        let name = format!("export at {}", self.leg.site);
        match self.there.map(|there| there.has_listener) {
            Ok(true) => check(&name, CheckState::Ok, "it has an NBD listener"),
            Ok(false) => {
                check(&name, CheckState::Warning, "it has no NBD listener: nobody can attach")
            }
            Err(_) => check(&name, CheckState::Unknown, "it could not be asked"),
        }
    }
}

/// Makes a plan.
#[must_use]
pub(crate) fn plan(outlook: &Outlook<'_>, plans: &Plans, clock: &Clock) -> MigrationPlan {
    plan_with_parts(outlook, None, plans, clock)
}

/// The same for a group over several gateways: why its parts cannot swap roles together, if they
/// cannot.
#[must_use]
pub(crate) fn plan_with_parts(
    outlook: &Outlook<'_>,
    apart: Option<String>,
    plans: &Plans,
    clock: &Clock,
) -> MigrationPlan {
    let apart = apart.map(|why| check("swap all parts", CheckState::Blocked, why));
    let (status, leg) = (outlook.status, outlook.leg);
    let mut plan = MigrationPlan {
        as_of: clock.rfc3339(),
        group: status.name.clone(),
        group_id: status.group.uuid(),
        from: outlook.site.to_owned(),
        to: leg.site.clone(),
        epoch: status.epoch.turn().saturating_add(1),
        checks: outlook.checks().into_iter().chain(apart).collect(),
        at_risk_bytes: 0,
        hosts: outlook.hosts,
        backlog_bytes: outlook.backlog(),
        rtt_us: leg.rtt_us,
        expected_seconds: outlook.expected_seconds(),
        token: None,
        expires_at: None,
    };
    if !is_blocked(&plan.checks) {
        let deed = Deed { basis: Basis::of(status, leg), leg: leg.leg };
        let ticket = plans.remember(status.group, plans::Deed::Migration(deed), clock);
        plan.token = Some(ticket.token);
        plan.expires_at = Some(ticket.expires_at);
    }
    plan
}

#[cfg(test)]
pub(crate) mod tests;
