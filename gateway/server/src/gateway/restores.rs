//! The way back of a group to its original site, as one operation.
//!
//! Invariant: that it was begun, and where to, is on stable storage before anything is changed, and
//! until it is over or given up; what there is left to do is read from the group's state. So one
//! that was cut short at any step is run again by the same call. What only the original site has is
//! never overwritten without consent, which is not remembered.

use std::sync::Arc;
use std::time::Duration;

use api::units::bytes_text;
use api::{Check, CheckState, Code, Operation, RestorePlan, RestoreRequest};
use block::{GatewayId, GroupId, LegId};
use mirror::{Cause, Command, Consent, GroupStatus, LegStatus, LinkState, Mode, SessionState};

use super::Gateway;
use super::failovers::would_discard;
use super::migrations::DRAIN_MAX;
use super::surveys::Survey;
use crate::book::{GroupEntry, RestoreEntry};
use crate::clock::text;
use crate::migration::has_everything;
use crate::operations::{Running, under_way};
use crate::plans::check;
use crate::refusal::Refused;
use crate::restore::{self, Aim, Stand};

/// How long the original site may be silent while it is waited for.
const SILENT_MS_MAX: u64 = 60_000;
/// Between two looks at a copy that may take hours.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Steps of one run. There are four; each may be begun again when a link is lost.
const STEPS_MAX: u32 = 32;

/// What is known when a restore is asked for.
struct Outlook {
    entry: GroupEntry,
    status: Arc<GroupStatus>,
    aim: Aim,
    stand: Stand,
    begun: Option<RestoreEntry>,
    here: Survey,
    there: Result<Survey, Refused>,
}

impl Outlook {
    /// Bytes that only the original site has and that would be overwritten. Before the copy here is
    /// the source they are what that site wrote since the session was suspended.
    fn discards(&self) -> Option<u64> {
        let there = self.there.as_ref().ok()?;
        match self.stand {
            Stand::Promote(_) | Stand::Follow(_) if there.owns_history(&self.here) => {
                Some(there.bytes())
            }
            Stand::Promote(_)
            | Stand::Follow(_)
            | Stand::Copy(_)
            | Stand::Swap(_)
            | Stand::Over => Some(0),
        }
    }

    /// Whether the copy here gives up what came after its kept point when it becomes the source.
    fn goes_back(&self) -> bool {
        let is_point = self.status.quality == block::Quality::Outdated;
        self.stand == Stand::Promote(Consent::Outdated) && self.status.kept.is_some() && !is_point
    }

    /// Why it is not begun.
    fn obstacle(&self, discard: bool) -> Option<Refused> {
        if matches!(self.stand, Stand::Over) {
            return None;
        }
        let (site, group) = (&self.aim.site, &self.status.name);
        match (&self.there, self.discards()) {
            (Err(refused), _) => Some(refused.clone()),
            (Ok(_), _) if !discard && self.goes_back() => {
                let detail = format!(
                    "the copy here goes back to its kept point; what {site} wrote after it would be \
                     lost"
                );
                Some(Refused::new(Code::NeedsConsent, detail).next(discarding_restore(group)))
            }
            (Ok(_), Some(bytes @ 1..)) if !discard => {
                Some(would_discard(site, bytes, discarding_restore(group)))
            }
            (Ok(_), _) => None,
        }
    }

    fn steps(&self, discard: bool) -> Vec<Check> {
        let ahead = match self.stand {
            Stand::Promote(_) => 0,
            Stand::Follow(_) => 1,
            Stand::Copy(_) => 2,
            Stand::Swap(_) => 3,
            Stand::Over => 4,
        };
        let all = [self.promotes(), self.follows(discard), self.copies(), self.swaps()];
        all.into_iter().skip(ahead).collect()
    }

    fn promotes(&self) -> Check {
        let name = "make the copy here the source";
        let hosts = self.there.as_ref().map_or(0, |there| there.hosts);
        let mut what = format!("{} is fenced, {hosts} hosts are dropped there", self.aim.site);
        if self.goes_back() {
            what.push_str("; the copy goes back to its kept point");
        }
        check(name, if hosts > 0 { CheckState::Warning } else { CheckState::Ok }, what)
    }

    fn follows(&self, discard: bool) -> Check {
        let name = format!("mirror to {}", self.aim.site);
        let Some(refused) = self.obstacle(discard) else {
            let text = match self.discards() {
                Some(bytes @ 1..) => {
                    let text = format!(
                        "{} that only it has are overwritten; a snapshot of them is kept there",
                        bytes_text(bytes)
                    );
                    return check(&name, CheckState::Warning, text);
                }
                Some(0) | None => "it has nothing that this site lacks",
            };
            return check(&name, CheckState::Ok, text);
        };
        let next = refused.0.next.as_deref().unwrap_or_default();
        check(&name, CheckState::Blocked, format!("{}: {next}", refused.0.detail))
    }

    fn copies(&self) -> Check {
        let name = format!("wait until {} has everything", self.aim.site);
        let bytes = bytes_text(self.here.bytes());
        let leg = self.leg();
        let mode = leg.map(|leg| leg.policy.mode);
        let mode = mode.or_else(|| self.status.upstream.as_ref().map(|upstream| upstream.mode));
        if mode.is_some_and(|mode| mode != Mode::Sync) {
            let text =
                format!("{bytes} at least; the session is in mode sync until roles are swapped");
            return check(&name, CheckState::Warning, text);
        }
        if !self.here.is_whole {
            return check(&name, CheckState::Warning, "a full copy: no common history is known");
        }
        check(&name, CheckState::Ok, format!("{bytes} at least"))
    }

    fn swaps(&self) -> Check {
        let name = format!("swap roles with {}", self.aim.site);
        let hosts = self.here.hosts;
        let text = format!("nothing is lost; {hosts} hosts here are dropped and attach there");
        check(&name, if hosts > 0 { CheckState::Warning } else { CheckState::Ok }, text)
    }

    fn leg(&self) -> Option<&LegStatus> {
        self.status.legs.iter().find(|leg| leg.gateway == self.aim.gateway)
    }
}

impl Gateway {
    fn begun_restore(&self, group: GroupId) -> Option<RestoreEntry> {
        let pages = self.book.read();
        pages.restores.iter().find(|entry| entry.group == group.uuid()).cloned()
    }

    async fn restore_outlook(&self, group: &str, to: Option<&str>) -> Result<Outlook, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let begun = self.begun_restore(status.group);
        let gateway = begun.as_ref().map(|begun| GatewayId::from_uuid(begun.to));
        let aim = restore::aim(&status, gateway, to)?;
        let stand = restore::stand(&status, &aim)?;
        let here = self.survey(status.group, aim.gateway).await?;
        let there = self.ask_survey(status.group, aim.gateway).await;
        Ok(Outlook { entry, status, aim, stand, begun, here, there })
    }

    /// What a restore of this group would do.
    ///
    /// # Errors
    /// Why there is nothing to restore.
    pub(crate) async fn plan_restore(
        &self,
        group: &str,
        request: &RestoreRequest,
    ) -> Result<RestorePlan, Refused> {
        let outlook = self.restore_outlook(group, request.to.as_deref()).await?;
        Ok(RestorePlan {
            as_of: self.clock.rfc3339(),
            group: outlook.entry.name.clone(),
            group_id: outlook.entry.id,
            from: self.config.site.name.clone(),
            to: outlook.aim.site.clone(),
            begun_at: outlook.begun.as_ref().map(|begun| text(begun.begun_ms)),
            steps: outlook.steps(request.discard),
            discards_bytes: outlook.discards(),
            copies_bytes: outlook.here.is_whole.then(|| outlook.here.bytes()),
        })
    }

    /// Brings a group back to its original site, or goes on with that.
    ///
    /// # Errors
    /// [`Code::WrongState`], [`Code::NeedsConsent`], [`Code::PeerUnreachable`], [`Code::Busy`];
    /// nothing was begun. What goes wrong later is in the operation.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        group: &str,
        request: &RestoreRequest,
    ) -> Result<Operation, Refused> {
        let outlook = self.restore_outlook(group, request.to.as_deref()).await?;
        if let Some(refused) = outlook.obstacle(request.discard) {
            return Err(refused);
        }
        let Outlook { entry, aim, .. } = outlook;
        let running = self.operations.begin_alone("restore", &entry.name).map_err(Refused)?;
        let shown = running.snapshot();
        let (gateway, discard) = (Arc::clone(self), request.discard);
        self.tasks.spawn(async move {
            let mut running = running;
            let (name, site) = (&entry.name, &aim.site);
            gateway.events.tell("group", name, format!("restore to {site} begun"));
            let result = gateway.bring_back(&mut running, entry.group(), (&aim, discard)).await;
            let text = match &result {
                Ok(()) => format!("restored to {site}: this site is its mirror now"),
                Err(refused) => {
                    format!("restore to {site} stopped, and can be run again: {}", refused.0.detail)
                }
            };
            gateway.events.tell("group", name, text);
            running.end(result.map_err(|refused| *refused.0));
        });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    /// Forgets that a restore was begun; the group stays as it is.
    ///
    /// # Errors
    /// [`Code::NotFound`] when none was; [`Code::Busy`] while it runs, or the group's refusal to
    /// give its session the mode back that it had.
    pub(crate) async fn give_restore_up(&self, group: &str) -> Result<(), Refused> {
        let entry = self.find_group(group)?;
        if self.begun_restore(entry.group()).is_none() {
            let detail = format!("no restore of {} was begun", entry.name);
            return Err(Refused::new(Code::NotFound, detail));
        }
        if let Some(other) = self.operations.running_on(&entry.name) {
            return Err(Refused::new(Code::Busy, under_way(&other)));
        }
        let status = self.status_of(entry.group()).await?;
        let is_source = status.role == mirror::Role::Primary;
        let waits = |leg: &&LegStatus| is_source && leg.policy.mode_after_swap.is_some();
        for leg in status.legs.iter().filter(waits) {
            // Roles are not swapped after all: it has its own mode again.
            let policy = leg.policy.after_swap();
            self.command(status.group, Command::SetPolicy { leg: leg.leg, policy }).await?;
        }
        self.note_restore(entry.group(), None).await?;
        self.events.tell("group", &entry.name, "the restore that was begun is given up");
        Ok(())
    }

    /// Remembers durably that a restore was begun, or that none is any more.
    async fn note_restore(&self, group: GroupId, to: Option<GatewayId>) -> Result<(), Refused> {
        let begun_ms = self.clock.unix_ms();
        self.book
            .change(Vec::new(), |pages| {
                let known = pages.restores.iter().find(|of| of.group == group.uuid()).cloned();
                pages.restores.retain(|of| of.group != group.uuid());
                if let Some(to) = to.map(GatewayId::uuid) {
                    let fresh = RestoreEntry { group: group.uuid(), to, begun_ms };
                    pages.restores.push(known.filter(|known| known.to == to).unwrap_or(fresh));
                }
                Ok::<(), Refused>(())
            })
            .await
    }

    async fn end_restore(
        &self,
        running: &mut Running,
        group: GroupId,
        aim: &Aim,
    ) -> Result<(), Refused> {
        running.step("note that it is over");
        self.note_restore(group, None).await?;
        running.done(format!("{} serves the group", aim.site));
        Ok(())
    }

    async fn bring_back(
        &self,
        running: &mut Running,
        group: GroupId,
        (aim, discard): (&Aim, bool),
    ) -> Result<(), Refused> {
        running.step("note that it is begun");
        self.note_restore(group, Some(aim.gateway)).await?;
        running.done(format!("until {} serves the group again, or it is given up", aim.site));
        for _ in 0..STEPS_MAX {
            let status = self.status_of(group).await?;
            match restore::stand(&status, aim)? {
                Stand::Promote(consent) => {
                    running.step("make the copy here the source");
                    self.become_primary(running, group, consent).await?;
                }
                Stand::Follow(leg) => {
                    let command = Command::Resume { leg, discard };
                    let followed = self.follow_again(running, group, (&aim.site, command)).await;
                    followed.map_err(|refused| by_restore(refused, &status))?;
                }
                Stand::Copy(leg) => {
                    running.step(&format!("wait until {} has everything", aim.site));
                    running.done(self.await_everything(group, leg).await?);
                }
                Stand::Swap(leg) => {
                    let leg = status.legs.iter().find(|found| found.leg == leg);
                    let leg = leg.ok_or_else(|| Refused::from(mirror::Refusal::Unknown))?;
                    self.hand_over(running, group, (leg, DRAIN_MAX)).await?;
                    // Behind it again in its own mode, the copy here looks as it did before.
                    return self.end_restore(running, group, aim).await;
                }
                Stand::Over => return self.end_restore(running, group, aim).await,
            }
        }
        let detail = format!("{} was lost again and again", aim.site);
        Err(Refused::new(Code::Interrupted, detail).next("run it again when the link is good"))
    }

    /// Waits until the mirror of a leg has everything; what there was to copy, in words.
    ///
    /// # Errors
    /// Why it will not come by itself. It is waited for as long as it is heard.
    pub(super) async fn await_everything(
        &self,
        group: GroupId,
        leg: LegId,
    ) -> Result<String, Refused> {
        let mut heard_ms = self.clock.steady_ms();
        loop {
            let status = self.status_of(group).await?;
            let found = status.legs.iter().find(|found| found.leg == leg);
            let found = found.ok_or_else(|| Refused::from(mirror::Refusal::Unknown))?;
            if has_everything(found) {
                let bytes = found.sessions.iter().map(|of| of.resync_total_bytes).sum();
                return Ok(format!("in sync; {} were copied or compared", bytes_text(bytes)));
            }
            let now_ms = self.clock.steady_ms();
            if found.link == LinkState::Connected {
                heard_ms = now_ms;
                self.go_on_in_sync(group, found).await;
            }
            will_come(&status, found)?;
            if now_ms.saturating_sub(heard_ms) > SILENT_MS_MAX {
                let detail = format!("{} was not reached for a minute", found.site);
                return Err(Refused::new(Code::PeerUnreachable, detail));
            }
            if self.stopping.is_cancelled() {
                return Err(Refused::new(Code::Starting, "the gateway stops"));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// A mirror that follows behind never has everything: roles are swapped in mode sync only, and
    /// then the session has its own mode again. It is asked for again until it is granted, because a
    /// link that just came up may refuse it.
    async fn go_on_in_sync(&self, group: GroupId, leg: &LegStatus) {
        if leg.policy.mode == Mode::Sync {
            return;
        }
        let command = Command::SetPolicy { leg: leg.leg, policy: leg.policy.for_swap() };
        if let Err(refused) = self.command(group, command).await {
            tracing::debug!(why = refused.0.detail, "mode sync was not granted yet");
        }
    }
}

/// Whether a leg that is not there yet will be, without an operator.
fn will_come(status: &GroupStatus, leg: &LegStatus) -> Result<(), Refused> {
    let (site, group) = (&leg.site, &status.name);
    match (&leg.cause, leg.state) {
        (Some(Cause::SplitBrain { theirs_bytes }), _) => {
            Err(would_discard(site, *theirs_bytes, discarding_restore(group)))
        }
        (cause, SessionState::Error) => {
            let why = cause.as_ref().map_or_else(String::new, crate::status::cause_text);
            let next = format!("remove the cause, then: twinspan session restore {group}");
            Err(Refused::new(Code::MirrorRefused, format!("{site}: {why}")).next(next))
        }
        (_, SessionState::Suspended) => {
            let detail = format!("the session to {site} was suspended by an operator");
            Err(Refused::new(Code::Stopped, detail)
                .next(format!("twinspan session restore {group}")))
        }
        (_, SessionState::Active | SessionState::Halted) => Ok(()),
    }
}

fn discarding_restore(group: &str) -> String {
    format!("twinspan session restore {group} --discard")
}

/// The same refusal, with the call that goes on here.
fn by_restore(refused: Refused, status: &GroupStatus) -> Refused {
    if refused.is(Code::NeedsConsent) {
        return refused.next(discarding_restore(&status.name));
    }
    refused
}
