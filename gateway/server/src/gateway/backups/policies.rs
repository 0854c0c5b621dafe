//! Policies: backups by schedule, and what is kept of them.
//!
//! ```text
//!   drive ─▶ look at each schedule ─▶ run: book: due time done with ─▶ create_backup ─▶ outcome noted
//!                                    │    ─▶ what no rule keeps is deleted and collected
//!                                    ├▶ a run is under way: skipped, counted
//!                                    └▶ nobody was there: missed, counted, one run for all
//! ```
//!
//! Invariant: a due time is done with in the book before its run begins, so that no restart runs it
//! twice. Retention deletes only what the policy itself took, and never the newest.

mod keep;

use std::sync::Arc;

use api::{
    BackupCreate, BackupPolicy, BackupPolicyList, BackupPolicyRun, BackupPolicySet, Code,
    Operation, OperationState, Problem,
};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::runs::Asker;
use crate::book::{Pages, PolicyEntry};
use crate::clock::text;
use crate::gateway::Gateway;
use crate::points::{LOCK_DAYS_MAX, moment};
use crate::refusal::Refused;
use crate::schedule::{Act, Schedule, drive};

/// As in the source systems: more often than once an hour there are recovery points.
const DUES_A_DAY_MAX: usize = 24;
/// Between two looks at a run that a policy began.
const LOOK_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

impl Gateway {
    /// Looks at the schedules for as long as the gateway runs.
    pub(super) async fn run_policies(self: Arc<Self>) {
        let (clock, stopping) = (self.clock, self.stopping.clone());
        let look = |now: Timestamp| {
            let gateway = Arc::clone(&self);
            async move { gateway.look_at_policies(now).await }
        };
        drive(|| moment(clock.unix_ms()), (stopping, &self.targets.policy_set), look).await;
    }

    fn now(&self) -> Timestamp {
        moment(self.clock.unix_ms())
    }

    pub(super) async fn look_at_policies(self: &Arc<Self>, now: Timestamp) -> Option<Timestamp> {
        let policies = self.book.read().backups.policies.clone();
        let mut next: Option<Timestamp> = None;
        for policy in policies.iter().filter(|policy| policy.on) {
            let Ok(schedule) = Schedule::parse(&policy.schedule, &policy.zone) else { continue };
            let Some(name) = name_of(&self.book.read(), policy.of) else { continue };
            // They stand at zero before anything is lost, so that the first loss is seen as one.
            crate::metrics::backups::slots(&name, 0, 0);
            let before = Timestamp::from_millisecond(policy.before_ms).unwrap_or(now);
            let look = schedule.look(before, now, self.policy_runs(policy));
            next = next.into_iter().chain(look.next).min();
            if look.before != before || look.act != Act::Wait {
                self.act(policy, &name, look.act, look.before).await;
            }
        }
        next
    }

    async fn act(self: &Arc<Self>, policy: &PolicyEntry, name: &str, act: Act, before: Timestamp) {
        let (skipped, missed) = match act {
            Act::Skip { dues } => (dues, 0),
            Act::Run { missed, .. } => (0, missed),
            Act::Wait | Act::Back(_) => (0, 0),
        };
        let noted = self
            .change_policy(policy.of, |policy| {
                policy.before_ms = before.as_millisecond();
                policy.skipped = policy.skipped.saturating_add(skipped);
                policy.missed = policy.missed.saturating_add(missed);
            })
            .await;
        if let Err(refused) = noted {
            // Not noted is not begun: the next look finds the same due time.
            tracing::error!(of = name, why = refused.0.detail, "a policy's due time is not noted");
            return;
        }
        let tell = |text: String| self.events.tell("backup", name, text);
        match act {
            Act::Wait => {}
            Act::Back(by) => tell(format!("the clock was moved back by {by:#}")),
            Act::Skip { dues } => tell(format!("{dues} due times skipped: a run is under way")),
            Act::Run { missed, .. } => {
                if missed > 0 {
                    tell(format!("{missed} due times were missed; one run makes up for them"));
                }
                if let Err(refused) = self.begin_policy(policy, name).await {
                    tell(format!("the policy's run was not begun: {}", refused.0.detail));
                    self.note_outcome(policy.of, Some(&refused.0)).await;
                }
            }
        }
        crate::metrics::backups::slots(name, skipped, missed);
    }

    /// Whether a run of this policy, or any run of the same group to its target, is under way.
    fn policy_runs(&self, policy: &PolicyEntry) -> bool {
        let pages = self.book.read();
        let Some((group, _)) = found(&pages, policy.of) else { return false };
        self.operations.running_on(&super::runs::subject(&group, &policy.target)).is_some()
    }

    async fn begin_policy(
        self: &Arc<Self>,
        policy: &PolicyEntry,
        name: &str,
    ) -> Result<Operation, Refused> {
        // A run that was interrupted is gone on with, not followed by another.
        let interrupted = self.book.read().backups.runs.iter().find_map(|run| {
            let is_it = !run.is_taken && run.policy.as_deref() == Some(name);
            (is_it && run.target == policy.target).then_some(run.backup)
        });
        match interrupted {
            Some(backup) => self.resume_backup(backup).await,
            None => {
                let wanted = BackupCreate {
                    of: policy.of.to_string(),
                    target: policy.target.clone(),
                    locked_until: self.lock_of(policy).map(|until| until.to_string()),
                    ..BackupCreate::default()
                };
                self.create_backup(&wanted, Asker { policy: Some(name.to_owned()) }).await
            }
        }
    }

    /// Until when what a policy takes now is locked. Of both clocks the later one counts: one on the
    /// wall that was set back makes no lock shorter.
    fn lock_of(&self, policy: &PolicyEntry) -> Option<Timestamp> {
        let days = i64::from(policy.lock_days);
        let now = self.now().max(moment(self.clock.lock_ms()));
        (days > 0).then(|| {
            now.checked_add(SignedDuration::from_hours(24 * days)).unwrap_or(Timestamp::MAX)
        })
    }

    /// A run of the policy with this name was begun, or is gone on with, by whomever: its end is the
    /// policy's.
    pub(super) fn follow_policy(self: &Arc<Self>, name: String, operation: Uuid) {
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move { gateway.end_policy(&name, operation).await });
    }

    async fn end_policy(&self, name: &str, operation: Uuid) {
        let ended = async {
            loop {
                match self.operations.get(operation) {
                    Some(now) if now.state == OperationState::Running => {
                        tokio::time::sleep(LOOK_PAUSE).await;
                    }
                    ended => return ended,
                }
            }
        };
        let Some(ended) = self.stopping.run_until_cancelled(ended).await.flatten() else { return };
        // As it is now: a policy that was deleted meanwhile deletes nothing any more.
        let pages = self.book.read();
        let mut all = pages.backups.policies.iter();
        let found = all.find(|policy| name_of(&pages, policy.of).as_deref() == Some(name)).cloned();
        let Some(policy) = found else { return };
        self.note_outcome(policy.of, ended.error.as_ref()).await;
        if ended.error.is_none()
            && let Err(refused) = self.retain(&policy, name).await
        {
            let text = format!("what no rule keeps was not deleted: {}", refused.0.detail);
            self.events.tell("backup", name, text);
        }
    }

    async fn note_outcome(&self, of: Uuid, error: Option<&Problem>) {
        let now = self.clock.unix_ms();
        let error = error.map(|problem| (problem.code.clone(), problem.detail.clone()));
        let noted = self
            .change_policy(of, |policy| (policy.ended_ms, policy.error) = (Some(now), error))
            .await;
        if let Err(refused) = noted {
            tracing::warn!(why = refused.0.detail, "how a policy's run ended is not noted");
        }
    }

    async fn change_policy(
        &self,
        of: Uuid,
        change: impl FnOnce(&mut PolicyEntry),
    ) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                if let Some(policy) = pages.backups.policies.iter_mut().find(|of_| of_.of == of) {
                    change(policy);
                }
                Ok::<(), Refused>(())
            })
            .await
    }

    // === What people do with policies ===

    /// Sets the policy of a group or a volume.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::BackupTargetUnknown`], [`Code::BackupPolicyBad`].
    pub(crate) async fn set_backup_policy(
        &self,
        of: &str,
        wanted: BackupPolicySet,
    ) -> Result<BackupPolicy, Refused> {
        self.targets.get(&wanted.target)?;
        let bad = |why: String| Refused::new(Code::BackupPolicyBad, why);
        let schedule = Schedule::parse(&wanted.schedule, &wanted.zone)
            .map_err(|error| bad(error.to_string()))?;
        let now = self.now();
        if is_too_often(&schedule, now) {
            let why =
                format!("{:?} is due more than {DUES_A_DAY_MAX} times a day", wanted.schedule);
            return Err(bad(why));
        }
        if wanted.lock_days > LOCK_DAYS_MAX {
            let days = wanted.lock_days;
            return Err(bad(format!("lock_days is {days}, at most {LOCK_DAYS_MAX}")));
        }
        let id = self.policy_subject(of)?;
        self.book
            .change(Vec::new(), |pages| {
                let policies = &mut pages.backups.policies;
                let known = policies.iter().find(|policy| policy.of == id).cloned();
                policies.retain(|policy| policy.of != id);
                policies.push(PolicyEntry {
                    of: id,
                    target: wanted.target,
                    schedule: wanted.schedule,
                    zone: wanted.zone,
                    retention: wanted.retention,
                    lock_days: wanted.lock_days,
                    on: wanted.on,
                    before_ms: now.as_millisecond(),
                    skipped: known.as_ref().map_or(0, |known| known.skipped),
                    missed: known.as_ref().map_or(0, |known| known.missed),
                    ended_ms: known.as_ref().and_then(|known| known.ended_ms),
                    error: known.and_then(|known| known.error),
                });
                Ok::<(), Refused>(())
            })
            .await?;
        self.targets.policy_set.notify_one();
        self.events.tell("backup", of, "policy set");
        self.backup_policy(of)
    }

    /// Turns a policy on or off. What came due while it was off is not made up for.
    ///
    /// # Errors
    /// [`Code::NoBackupPolicy`].
    pub(crate) async fn turn_backup_policy(
        &self,
        of: &str,
        on: bool,
    ) -> Result<BackupPolicy, Refused> {
        let policy = self.find_policy(of)?;
        let now_ms = self.now().as_millisecond();
        self.change_policy(policy.of, |policy| (policy.on, policy.before_ms) = (on, now_ms))
            .await?;
        self.targets.policy_set.notify_one();
        self.events.tell("backup", of, if on { "policy turned on" } else { "policy turned off" });
        self.backup_policy(of)
    }

    /// Deletes a policy; what it took stays, and no rule deletes it any more.
    ///
    /// # Errors
    /// [`Code::NoBackupPolicy`].
    pub(crate) async fn delete_backup_policy(&self, of: &str) -> Result<(), Refused> {
        let id = self.find_policy(of)?.of;
        self.book
            .change(Vec::new(), |pages| {
                pages.backups.policies.retain(|policy| policy.of != id);
                Ok::<(), Refused>(())
            })
            .await?;
        self.events.tell("backup", of, "policy deleted");
        Ok(())
    }

    /// Runs a policy now, whether it is on or off.
    ///
    /// # Errors
    /// [`Code::NoBackupPolicy`], or why a backup cannot be begun.
    pub(crate) async fn run_backup_policy(
        self: &Arc<Self>,
        of: &str,
    ) -> Result<Operation, Refused> {
        let policy = self.find_policy(of)?;
        let name = name_of(&self.book.read(), policy.of).unwrap_or_else(|| of.to_owned());
        self.begin_policy(&policy, &name).await
    }

    /// The policies, by what they are of.
    #[must_use]
    pub(crate) fn show_backup_policies(&self) -> BackupPolicyList {
        let pages = self.book.read();
        let shown = |policy: &PolicyEntry| self.show_policy(&pages, policy);
        let mut items: Vec<BackupPolicy> = pages.backups.policies.iter().map(shown).collect();
        items.sort_by(|a, b| a.of.cmp(&b.of));
        BackupPolicyList { as_of: self.clock.rfc3339(), items }
    }

    /// One policy.
    ///
    /// # Errors
    /// [`Code::NoBackupPolicy`].
    pub(crate) fn backup_policy(&self, of: &str) -> Result<BackupPolicy, Refused> {
        let policy = self.find_policy(of)?;
        Ok(self.show_policy(&self.book.read(), &policy))
    }

    fn show_policy(&self, pages: &Pages, policy: &PolicyEntry) -> BackupPolicy {
        let schedule = Schedule::parse(&policy.schedule, &policy.zone).ok().filter(|_| policy.on);
        let next = schedule.and_then(|schedule| schedule.next_after(self.now()));
        let error = policy.error.as_ref().map(|(code, detail)| {
            let code = Code::parse(code).unwrap_or(Code::BackupInterrupted);
            Problem::new(code, detail.clone())
        });
        BackupPolicy {
            of: name_of(pages, policy.of).unwrap_or_else(|| policy.of.to_string()),
            id: policy.of,
            target: policy.target.clone(),
            schedule: policy.schedule.clone(),
            zone: policy.zone.clone(),
            retention: policy.retention.clone(),
            lock_days: policy.lock_days,
            on: policy.on,
            next_at: next.map(|next| next.to_string()),
            last_run: policy.ended_ms.map(|ms| BackupPolicyRun { at: text(ms), error }),
            skipped: policy.skipped,
            missed: policy.missed,
        }
    }

    fn policy_subject(&self, of: &str) -> Result<Uuid, Refused> {
        let pages = self.book.read();
        let group = pages.group(of).map(|group| group.id);
        group.or_else(|| pages.volume(of).map(|(_, volume)| volume.id)).ok_or_else(|| {
            let here = &self.config.site.name;
            Refused::new(Code::NotFound, format!("there is no group or volume {of:?} at {here}"))
        })
    }

    pub(super) fn find_policy(&self, of: &str) -> Result<PolicyEntry, Refused> {
        let id = self.policy_subject(of)?;
        let pages = self.book.read();
        let found = pages.backups.policies.iter().find(|policy| policy.of == id);
        found.cloned().ok_or_else(|| {
            Refused::new(Code::NoBackupPolicy, format!("{of} has no policy of backups here"))
        })
    }
}

/// The name of the group, and the name of what the policy is of.
fn found(pages: &Pages, of: Uuid) -> Option<(String, String)> {
    let of_group = pages.group_by_id(block::GroupId::from_uuid(of));
    if let Some(group) = of_group {
        return Some((group.name.clone(), group.name.clone()));
    }
    let (group, volume) = pages.volume_by_id(block::VolumeId::from_uuid(of))?;
    Some((group.name.clone(), volume.name.clone()))
}

/// The name of the group or volume that a policy is of; `None` when it is gone.
pub(crate) fn name_of(pages: &Pages, of: Uuid) -> Option<String> {
    found(pages, of).map(|(_, name)| name)
}

/// Whether the 25th due time from now comes before a day is over.
fn is_too_often(schedule: &Schedule, now: Timestamp) -> bool {
    let mut last = now;
    for _ in 0..DUES_A_DAY_MAX {
        match schedule.next_after(last) {
            Some(next) => last = next,
            None => return false,
        }
    }
    let first = schedule.next_after(now).unwrap_or(last);
    let following = schedule.next_after(last).unwrap_or(Timestamp::MAX);
    following.duration_since(first) < SignedDuration::from_hours(24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_due_24_times_a_day_at_most() {
        let now: Timestamp = "2026-11-26T09:30:00Z".parse().unwrap();
        let often = |text: &str| is_too_often(&Schedule::parse(text, "UTC").unwrap(), now);
        assert!(!often("0 * * * *") && !often("0 2 * * mon"));
        assert!(often("*/30 * * * *") && often("0,1 * * * *"));
    }
}
