//! Recovery points as they are asked about: policies, lists, locks, what retention would do.
//!
//! Invariant: what a schedule does is in `keeping`, how a point is taken in `taking`. What is listed
//! is what this site keeps.

mod keeping;
mod taking;

use api::{
    Code, Point, PointFate, PointList, PointLock, PointPolicyPatch, PointPolicyState,
    PointRetention, PointRetentionPlan,
};
use block::SnapshotId;
use jiff::tz::TimeZone;
use mirror::{Command, GroupStatus, Marks, Role, SnapshotStatus};

pub(crate) use self::keeping::Keeping;
use super::Gateway;
use super::snapshots::{export_name, find};
use crate::book::GroupEntry;
use crate::clock::text;
use crate::points::{self, CURRENT, LOCK_DAYS_MAX, Stored, moment, unix_ms};
use crate::refusal::Refused;
use crate::shard::state::snapshots::Room;

impl Gateway {
    /// The recovery points of a group that are kept here, oldest first, and `current` at its primary.
    ///
    /// # Errors
    /// As [`Self::show_snapshots`].
    pub(crate) async fn show_points(&self, group: &str) -> Result<PointList, Refused> {
        let entry = self.find_group(group)?;
        let (status, room) = self.look_at_snapshots(&entry).await?;
        let mut items: Vec<Point> = points::of(&status)
            .map(|point| self.show_point(&entry, &status, point, &room))
            .collect();
        if status.role == Role::Primary {
            items.push(self.current_point(&entry, &status));
        }
        let lock_clock = text(self.clock.lock_ms());
        Ok(PointList { as_of: self.clock.rfc3339(), lock_clock, items, next: None })
    }

    /// One of them, by name or identity.
    ///
    /// # Errors
    /// As [`Self::show_snapshots`].
    pub(crate) async fn point(&self, group: &str, name: &str) -> Result<Point, Refused> {
        let entry = self.find_group(group)?;
        let (status, room) = self.look_at_snapshots(&entry).await?;
        if name == CURRENT && status.role == Role::Primary {
            return Ok(self.current_point(&entry, &status));
        }
        let point = find(&status, name)?;
        Ok(self.show_point(&entry, &status, point, &room))
    }

    fn show_point(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        point: &SnapshotStatus,
        room: &Room,
    ) -> Point {
        let shown = self.show_snapshot(entry, status, point, room);
        let disable_reason = points::disabled(status, point);
        let marks = &point.marks;
        Point {
            id: Some(shown.id),
            name: shown.name,
            group: shown.group,
            time: shown.created_at,
            application_consistent: marks.application,
            why_not: marks.why_not.clone(),
            used: marks.used,
            disabled: disable_reason.is_some(),
            disable_reason,
            locked_until: (marks.locked_until_ms > 0).then(|| text(marks.locked_until_ms)),
            exclusive_bytes: shown.exclusive_bytes,
            kept_at: shown.held_by.into_iter().map(|holder| holder.site).collect(),
            exports: shown.volumes.into_iter().flat_map(|volume| volume.exports).collect(),
        }
    }

    /// What the volumes hold now, which can be used once in a turn.
    fn current_point(&self, entry: &GroupEntry, status: &GroupStatus) -> Point {
        let stored = Stored::of(status).unwrap_or_default();
        let used = stored.current_used(status);
        Point {
            id: None,
            name: CURRENT.to_owned(),
            group: entry.name.clone(),
            time: self.clock.rfc3339(),
            application_consistent: false,
            why_not: None,
            used: used.is_some(),
            disabled: used.is_some(),
            disable_reason: used.map(|at_ms| {
                format!("it was used at {}; it can be used once in a turn", text(at_ms))
            }),
            locked_until: None,
            exclusive_bytes: None,
            kept_at: Vec::new(),
            exports: Vec::new(),
        }
    }

    // --- the policy ---

    /// The policy of a group, and what came of it here.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NoPointPolicy`], or the group does not answer.
    pub(crate) async fn point_policy(&self, group: &str) -> Result<PointPolicyState, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let stored = stored(&status)?;
        let policy = stored.policy.ok_or_else(|| no_policy(&entry.name))?;
        let tally = self.keeping.tally(entry.group());
        let takes_here = policy.on && status.role == Role::Primary;
        Ok(PointPolicyState {
            as_of: self.clock.rfc3339(),
            group: entry.name.clone(),
            set_at: text(stored.set_ms),
            takes_here,
            running: tally.running,
            next_at: tally.next.filter(|_| takes_here).map(|next| next.to_string()),
            taken: tally.taken,
            skipped: tally.skipped,
            missed: tally.missed,
            failed: tally.failed,
            last_failure: tally.last_failure,
            policy,
        })
    }

    /// Changes the policy of a group, here and at its mirrors.
    ///
    /// # Errors
    /// [`Code::PointPolicyInvalid`], [`Code::NotPrimary`], or the group's refusal; nothing was changed.
    pub(crate) async fn set_point_policy(
        &self,
        group: &str,
        patch: PointPolicyPatch,
    ) -> Result<PointPolicyState, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        if status.parts.is_some() {
            let detail = "a group over several gateways has no recovery points";
            return Err(Refused::new(Code::Spanning, detail));
        }
        let hooks: Vec<String> = self.config.hooks.iter().map(|hook| hook.name.clone()).collect();
        let site = self.config.site.name.clone();
        let set_ms = self.clock.unix_ms();
        let change = move |status: &GroupStatus| {
            // One that cannot be read is replaced as a whole.
            let mut stored = Stored::of(status).unwrap_or_default();
            let policy = points::patched(stored.policy.clone(), patch.clone());
            let invalid = |why: String| Refused::new(Code::PointPolicyInvalid, why);
            points::proven(&policy).map_err(invalid)?;
            if let Some(hook) = &policy.hook
                && !hooks.contains(hook)
            {
                return Err(invalid(format!("no hook {hook:?} is configured at {site}")));
            }
            let words = policy_words(&policy);
            (stored.policy, stored.set_ms) = (Some(policy), set_ms);
            Ok::<_, Refused>((stored, words))
        };
        let words = self.change_stored(&entry, &status, change).await?;
        self.keeping.policy_set(entry.group(), moment(set_ms));
        self.events.tell("point", &entry.name, words);
        self.point_policy(&entry.name).await
    }

    /// Changes what a group knows of its recovery points, here and at its mirrors. What is changed is
    /// what it knows in the moment of the change, so that what others set meanwhile stays; `change` may
    /// be asked again, and what it says beside is given back.
    ///
    /// # Errors
    /// What `change` says, [`Code::NotPrimary`], or the group's refusal; nothing was changed.
    ///
    /// # Cancellation
    /// It is changed all the same.
    pub(super) async fn change_stored<T: Send + 'static>(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        change: impl Fn(&GroupStatus) -> Result<(Stored, T), Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let group = entry.group();
        let shard = self.shard_of(group);
        let changed =
            shard.run(move |state| async move { state.change_points(group, change).await }).await?;
        changed.map_err(|refused| self.at_the_primary(refused, status))
    }

    // --- retention ---

    /// What retention would do here now under rules of a policy, or under others.
    ///
    /// # Errors
    /// [`Code::NoPointPolicy`] when there are neither; [`Code::PointPolicyInvalid`].
    pub(crate) async fn plan_retention(
        &self,
        group: &str,
        rules: Option<PointRetention>,
    ) -> Result<PointRetentionPlan, Refused> {
        let entry = self.find_group(group)?;
        let (status, room) = self.look_at_snapshots(&entry).await?;
        let policy = stored(&status)?.policy;
        let zone = policy.as_ref().map_or("UTC", |policy| policy.zone.as_str());
        let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
        let rules = rules.or_else(|| policy.map(|policy| policy.retention));
        let rules = rules.ok_or_else(|| no_policy(&entry.name))?;
        let invalid = |why: String| Refused::new(Code::PointPolicyInvalid, why);
        points::may_retain(&rules).map_err(invalid)?;
        let fates = points::retained(&status, (&rules, &zone), self.clock.lock_ms());
        let items = fates.into_iter().map(|(point, fate)| PointFate {
            name: point.name.clone(),
            id: point.id.uuid(),
            time: text(point.unix_ms),
            removed: fate.is_removed,
            reasons: fate.reasons.iter().map(ToString::to_string).collect(),
            exclusive_bytes: self.show_snapshot(&entry, &status, point, &room).exclusive_bytes,
        });
        Ok(PointRetentionPlan {
            as_of: self.clock.rfc3339(),
            group: entry.name.clone(),
            items: items.collect(),
            retention: rules,
        })
    }

    // --- locks ---

    /// Locks a snapshot until a moment of the lock clock, or makes its lock longer.
    ///
    /// # Errors
    /// [`Code::Invalid`] for a moment that is past, too far or before the present lock's end;
    /// [`Code::NotFound`], or the group's refusal.
    pub(crate) async fn lock_snapshot(
        &self,
        group: &str,
        name: &str,
        wanted: &PointLock,
    ) -> Result<Point, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let snapshot = find(&status, name)?;
        let invalid = |why: String| Refused::new(Code::Invalid, why);
        let now_ms = self.clock.lock_ms();
        let until_ms = match (&wanted.until, wanted.seconds) {
            (Some(until), None) => until.parse().map(unix_ms).map_err(|_e: jiff::Error| {
                invalid(format!("{until:?} is no time, like 2027-01-31T00:00:00Z"))
            })?,
            // Whole seconds are said back as they were meant.
            (None, Some(seconds)) => (now_ms / 1_000).saturating_add(seconds).saturating_mul(1_000),
            (Some(_), Some(_)) | (None, None) => {
                return Err(invalid("a lock needs one of until and seconds".to_owned()));
            }
        };
        let until = text(until_ms);
        if until_ms <= now_ms {
            let now = text(now_ms);
            return Err(invalid(format!("{until} is past: the lock clock says {now}")));
        }
        if until_ms - now_ms > u64::from(LOCK_DAYS_MAX) * 86_400_000 {
            return Err(invalid(format!("a lock lasts at most {LOCK_DAYS_MAX} days")));
        }
        let locked_ms = snapshot.marks.locked_until_ms;
        if until_ms < locked_ms {
            let detail = format!(
                "{} is locked until {}, and nobody makes a lock shorter",
                snapshot.name,
                text(locked_ms)
            );
            return Err(Refused::new(Code::SnapshotLocked, detail));
        }
        let marks = Marks { locked_until_ms: until_ms, ..Marks::default() };
        self.mark_snapshot(&entry, snapshot.id, marks).await?;
        let subject = export_name(&entry.name, &snapshot.name);
        self.events.tell("snapshot", &subject, format!("locked until {until}"));
        self.point(&entry.name, &snapshot.id.uuid().to_string()).await
    }

    /// Adds marks to a snapshot, here and at the mirrors of a primary.
    ///
    /// # Errors
    /// The group's refusal.
    pub(crate) async fn mark_snapshot(
        &self,
        entry: &GroupEntry,
        snapshot: SnapshotId,
        marks: Marks,
    ) -> Result<(), Refused> {
        self.command(entry.group(), Command::MarkSnapshot { snapshot, marks }).await
    }
}

/// What a group knows of its recovery points.
///
/// # Errors
/// [`Code::PointPolicyInvalid`] when a newer release wrote it.
fn stored(status: &GroupStatus) -> Result<Stored, Refused> {
    Stored::of(status).map_err(|why| {
        let detail = format!("the policy of group {}: {why}", status.name);
        Refused::new(Code::PointPolicyInvalid, detail)
    })
}

fn no_policy(group: &str) -> Refused {
    let detail = format!("group {group} has no policy for recovery points");
    let next = format!("twinspan point policy set {group}");
    Refused::new(Code::NoPointPolicy, detail).next(next)
}

fn policy_words(policy: &api::PointPolicy) -> String {
    if !policy.on {
        return "recovery points are off: none is taken, none removed".to_owned();
    }
    let keeper = match policy.keep {
        api::PointKeeper::Mirror => "the mirrors",
        api::PointKeeper::Primary => "the primary",
        api::PointKeeper::Both => "the primary and the mirrors",
    };
    format!("recovery points at {:?} {}, kept by {keeper}", policy.schedule, policy.zone)
}

#[cfg(test)]
mod tests;
