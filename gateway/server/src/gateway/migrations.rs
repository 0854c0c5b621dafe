//! Planned swaps of roles, as operations: a migration, and the last step of a restore.
//!
//! Invariant: hosts are held no longer than the caller allows before the other site is asked to take
//! over; a swap that did not come that far is taken back, and this gateway goes on as the primary.
//! Once it was asked only it knows, and hosts wait for its word.

use std::sync::Arc;
use std::time::Duration;

use api::{CheckState, Code, MigrationPlan, MigrationRunRequest, Operation};
use block::GroupId;
use mirror::{Command, GroupStatus, LegStatus, LinkState, Role, Serving};

use super::Gateway;
use super::surveys::Survey;
use crate::migration::{self, Outlook};
use crate::operations::{Running, under_way};
use crate::refusal::Refused;

/// For how long hosts are held at most while what is in flight ends, if nobody says otherwise: what
/// most hosts' own timeouts bear.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(30);
/// The longest that an operator can ask for.
const DRAIN_MS_MAX: u64 = 10 * 60_000;
/// Between two looks at a swap: shorter than any that a person would notice.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// The new primary dials back at once; a minute is for a busy one.
const FOLLOW_MAX: Duration = Duration::from_secs(60);
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);

impl Gateway {
    /// What a planned migration of this group would mean.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotPrimary`], [`Code::ShardSilent`].
    pub(crate) async fn plan_migration(
        &self,
        group: &str,
        to: &str,
    ) -> Result<MigrationPlan, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        if status.role != Role::Primary {
            return Err(Refused::from(mirror::Refusal::NotPrimary));
        }
        let leg = status.legs.iter().find(|leg| leg.site == to).ok_or_else(|| {
            let detail = format!("{group} has no mirror at {to:?}");
            Refused::new(Code::NotFound, detail)
                .next(format!("twinspan session create {group} --to {to}"))
        })?;
        let busy = self.operations.running_on(&entry.name);
        let busy = busy.map(|other| format!("operation {} ({})", other.id, other.kind));
        let hosts = self.hosts_of(status.group).await?;
        let there = self.survey_to_move(&status, leg).await;
        let outlook = self.outlook((&status, leg), hosts, busy.as_deref(), &there);
        if status.parts.is_none() {
            return Ok(migration::plan(&outlook, &self.plans, &self.clock));
        }
        let apart = self.parts_not_together(&status).await;
        Ok(migration::plan_with_parts(&outlook, apart, &self.plans, &self.clock))
    }

    /// How many hosts are attached to a group here.
    pub(super) async fn hosts_of(&self, group: GroupId) -> Result<u64, Refused> {
        let hosts = self.shard_of(group).call(move |state| state.hosts_of(group)).await?;
        Ok(u64::try_from(hosts).unwrap_or(u64::MAX))
    }

    async fn survey_to_move(
        &self,
        status: &GroupStatus,
        leg: &LegStatus,
    ) -> Result<Survey, String> {
        let asked = self.ask_survey(status.group, leg.gateway).await;
        asked.map_err(|refused| refused.0.detail)
    }

    fn outlook<'a>(
        &'a self,
        (status, leg): (&'a GroupStatus, &'a LegStatus),
        hosts: u64,
        busy: Option<&'a str>,
        there: &'a Result<Survey, String>,
    ) -> Outlook<'a> {
        let there = there.as_ref().map_err(String::as_str);
        Outlook { status, leg, site: &self.config.site.name, hosts, busy, there }
    }

    /// Runs the plan of a migration.
    ///
    /// # Errors
    /// [`Code::PlanToken`], [`Code::Busy`], [`Code::Invalid`]; nothing was begun. What goes wrong
    /// later is in the operation.
    pub(crate) async fn run_migration(
        self: &Arc<Self>,
        group: &str,
        request: &MigrationRunRequest,
    ) -> Result<Operation, Refused> {
        let drain = match request.drain_ms_max {
            None => DRAIN_MAX,
            Some(millis @ 1..=DRAIN_MS_MAX) => Duration::from_millis(millis),
            Some(_) => {
                let detail = format!("drain_ms_max must be 1 to {DRAIN_MS_MAX}");
                return Err(Refused::new(Code::Invalid, detail));
            }
        };
        let entry = self.find_group(group)?;
        let id = entry.group();
        let status = self.status_of(id).await?;
        if let Some(other) = self.operations.running_on(&entry.name) {
            // Said before the token is used up.
            return Err(Refused::new(Code::Busy, under_way(&other)));
        }
        let leg = migration::redeem(&self.plans, &request.token, &status, &self.clock)?;
        let running = self.operations.begin_alone("migrate", &entry.name).map_err(Refused)?;
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut running = running;
            let (name, site) = (&entry.name, &leg.site);
            gateway.events.tell("group", name, format!("migration to {site} begun"));
            let result = gateway.migrate(&mut running, id, (&leg, drain)).await;
            let text = match &result {
                Ok(()) => format!("migrated to {site}: this site is its mirror now"),
                Err(refused) => format!("migration to {site} failed: {}", refused.0.detail),
            };
            gateway.events.tell("group", name, text);
            running.end(result.map_err(|refused| *refused.0));
        });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    async fn migrate(
        &self,
        running: &mut Running,
        group: GroupId,
        (leg, drain): (&LegStatus, Duration),
    ) -> Result<(), Refused> {
        running.step(&format!("look at both sites again, {} may have changed", leg.site));
        let status = self.status_of(group).await?;
        let now = status.legs.iter().find(|now| now.leg == leg.leg).unwrap_or(leg);
        let there = self.survey_to_move(&status, now).await;
        let outlook = self.outlook((&status, now), 0, None, &there);
        let mut checks = outlook.checks();
        if let Some(why) = self.parts_not_together(&status).await {
            checks.push(crate::plans::check("swap all parts", CheckState::Blocked, why));
        }
        if let Some(blocked) = checks.iter().find(|check| check.state == CheckState::Blocked) {
            let why = format!("nothing was begun: {}: {}", blocked.name, blocked.detail);
            return Err(Refused::new(Code::RolledBack, why));
        }
        running.done("nothing stands in the way");
        self.hand_over(running, group, (now, drain)).await
    }

    /// Swaps roles with the mirror of a leg, and waits until this site follows it.
    ///
    /// # Errors
    /// [`Code::RolledBack`] when it was taken back; [`Code::HandoverUnanswered`] when the mirror was
    /// asked and did not answer; or the group's refusal.
    pub(crate) async fn hand_over(
        &self,
        running: &mut Running,
        group: GroupId,
        (leg, drain): (&LegStatus, Duration),
    ) -> Result<(), Refused> {
        running.step("quiesce hosts and drain");
        let before = self.status_of(group).await?;
        self.begin_swap_of_parts(&before, drain).await?;
        let swapped = self.command(group, Command::Reverse { leg: leg.leg });
        let drained = self.watch_drain(group, drain, running);
        let (swapped, recalled) = {
            tokio::pin!(swapped, drained);
            tokio::select! {
                biased;
                swapped = &mut swapped => (swapped, false),
                recalled = &mut drained => (swapped.await, recalled),
            }
        };
        let status = self.status_of(group).await?;
        if let Err(refused) = swapped {
            self.recall_parts(&before).await;
            return Err(not_swapped(&status, leg, (refused, recalled.then_some(drain))));
        }
        running.done(format!("{} is the primary", leg.site));
        if before.parts.is_some() {
            running.step("every other part");
            self.await_swap_of_parts(&before).await?;
            running.done("handed over");
        }
        running.step(&format!("follow {}", leg.site));
        running.done(self.await_following(group, &leg.site).await?);
        Ok(())
    }

    /// Tells when everything is drained and the mirror is asked; recalls the swap when that takes
    /// too long. Whether it did.
    async fn watch_drain(&self, group: GroupId, drain: Duration, running: &mut Running) -> bool {
        let until_ms = self.clock.steady_ms();
        let until_ms =
            until_ms.saturating_add(u64::try_from(drain.as_millis()).unwrap_or(u64::MAX));
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            let handover = self.status_of(group).await.ok().and_then(|status| status.handover);
            if handover.is_some_and(|handover| handover.drained) {
                running.done("everything acknowledged is durable at both sites");
                running.step("swap");
                return false;
            }
            if self.clock.steady_ms() >= until_ms {
                // One that was asked meanwhile is not touched by this.
                let recall = move |state: &std::rc::Rc<crate::shard::state::ShardState>| {
                    state.recall_handover(group);
                };
                return self.shard_of(group).post(recall).is_ok();
            }
        }
    }

    /// Waits until the copy here follows the site that took over; what came of it, in words.
    async fn await_following(&self, group: GroupId, site: &str) -> Result<String, Refused> {
        let until = tokio::time::Instant::now() + FOLLOW_MAX;
        while tokio::time::Instant::now() < until && !self.stopping.is_cancelled() {
            let status = self.status_of(group).await?;
            let is_up = |up: &mirror::UpstreamStatus| up.link == LinkState::Connected;
            if status.upstream.as_ref().is_some_and(is_up) {
                return Ok(format!("mirrored from {site} at epoch {}", status.epoch));
            }
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
        Ok(format!("{site} serves and has not opened its mirror here yet; it goes on trying"))
    }
}

/// What became of a swap that did not happen.
fn not_swapped(
    status: &GroupStatus,
    leg: &LegStatus,
    (refused, recalled): (Refused, Option<Duration>),
) -> Refused {
    let site = &leg.site;
    if status.handover.is_some_and(|handover| handover.unanswered) {
        let detail = format!(
            "{site} was asked to take over and did not answer: hosts wait until it does; if it is \
             lost: twinspan failover plan {}, here",
            status.name
        );
        return Refused::new(Code::HandoverUnanswered, detail);
    }
    if status.role != Role::Primary || status.serving == Serving::HandingOver {
        return refused;
    }
    let why = match recalled {
        Some(drain) => format!("what was in flight did not end within {} ms", drain.as_millis()),
        None => refused.0.detail,
    };
    let detail = format!("{why}; this site goes on as the primary at epoch {}", status.epoch);
    Refused::new(Code::RolledBack, detail)
        .next(format!("twinspan migrate plan {} --to {site}", status.name))
}
