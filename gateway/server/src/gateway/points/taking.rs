//! How a recovery point is taken: what writes comes to rest, the group keeps the moment, and what
//! writes goes on.
//!
//! ```text
//!   freeze ──▶ take ──▶ thaw ──▶ mark as application-consistent
//!      └─ failed or slow ─▶ thaw ─▶ take ─▶ mark: crash-consistent, because
//! ```
//!
//! Invariant: whoever was asked to freeze is asked to thaw, whatever came in between, within the
//! hook's limit after the limit of freezing; that it has to be is on stable storage first, so that a
//! gateway that was killed in the middle thaws when it starts.

use std::sync::Arc;

use api::{Code, Point};
use block::{GroupId, SnapshotId};
use mirror::{Command, GroupStatus, Marks};
use uuid::Uuid;

use super::stored;
use crate::book::GroupEntry;
use crate::clock::text;
use crate::config::Hook;
use crate::gateway::Gateway;
use crate::hooks::{self, Action};
use crate::points::{self, CurrentUse};
use crate::refusal::Refused;

/// What the names of points begin with; only the gateway gives such names.
const PREFIX: &str = "auto.point";
/// Points of one second: a schedule has one.
const SAME_SECOND_MAX: u32 = 100;

/// What is to be taken.
struct Wanted {
    snapshot: SnapshotId,
    name: String,
    marks: Marks,
    here_only: bool,
}

impl Gateway {
    /// Takes a recovery point of a group now: an ordinary one, or `current`.
    ///
    /// # Errors
    /// [`Code::PointRunning`], [`Code::PointUsed`], [`Code::NotPrimary`], [`Code::VolumeRestoring`],
    /// [`Code::RollingBack`], or the group's refusal. What failed is counted and told.
    pub(crate) async fn take_point(
        self: &Arc<Self>,
        group: &str,
        current: bool,
    ) -> Result<Point, Refused> {
        let entry = self.find_group(group)?;
        let group_id = entry.group();
        let status = self.status_of(group_id).await?;
        if !self.keeping.begin(group_id) {
            let detail = format!("a point of group {} is being taken", entry.name);
            return Err(Refused::new(Code::PointRunning, detail));
        }
        let gateway = Arc::clone(self);
        // Whoever asked may go away; what was frozen is thawed all the same.
        let taking = self.tasks.spawn(async move {
            let result = gateway.take_and_show(&entry, &status, current).await;
            let outcome = match &result {
                Ok(_) => Ok(gateway.clock.unix_ms()),
                Err(refused) => Err(refused.0.detail.clone()),
            };
            if let Err(why) = &outcome {
                gateway.events.tell("point", &entry.name, format!("no point was taken: {why}"));
            }
            gateway.keeping.end(group_id, outcome);
            result
        });
        taking.await.map_err(|error| Refused::new(Code::Internal, error.to_string()))?
    }

    async fn take_and_show(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        current: bool,
    ) -> Result<Point, Refused> {
        let snapshot = self.take_alone(entry, status, current).await?;
        self.point(&entry.name, &snapshot.uuid().to_string()).await
    }

    async fn take_alone(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        current: bool,
    ) -> Result<SnapshotId, Refused> {
        self.require_whole(entry.id)?;
        let stored = stored(status)?;
        let turn = status.epoch.turn();
        if current && let Some(at_ms) = stored.current_used(status) {
            let at = text(at_ms);
            let detail = format!("the point current of group {} was used at {at}", entry.name);
            return Err(Refused::new(Code::PointUsed, detail));
        }
        let policy = stored.policy.clone().unwrap_or_default();
        let unix_ms = self.clock.unix_ms();
        let marks = Marks {
            locked_until_ms: points::lock_of(&policy, self.clock.lock_ms()),
            used: current,
            ..Marks::default()
        };
        let wanted = Wanted {
            snapshot: SnapshotId::from_uuid(Uuid::now_v7()),
            name: if current { points::current_name(turn) } else { point_name(status, unix_ms) },
            marks,
            here_only: policy.keep == api::PointKeeper::Primary,
        };
        let snapshot = wanted.snapshot;
        let words = match &policy.hook {
            None => {
                self.take(entry, status, wanted, unix_ms).await?;
                None
            }
            Some(name) => Some(self.take_at_rest(entry, status, (wanted, unix_ms), name).await?),
        };
        if current {
            // A kill before this leaves it to the point itself, while that is there.
            self.note_current(entry, status, CurrentUse { turn, at_ms: unix_ms }).await?;
        }
        self.events.tell(
            "point",
            &entry.name,
            words.unwrap_or_else(|| "a point was taken".to_owned()),
        );
        Ok(snapshot)
    }

    async fn note_current(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        used: CurrentUse,
    ) -> Result<(), Refused> {
        let change = move |status: &GroupStatus| {
            let mut stored = stored(status)?;
            stored.note_current(used);
            Ok::<_, Refused>((stored, ()))
        };
        self.change_stored(entry, status, change).await
    }

    /// Notes a use of `current` that a kill left unnoted, before its point may go.
    ///
    /// # Errors
    /// What is known of the points cannot be read, or the group's refusal.
    pub(in crate::gateway) async fn settle_current(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
    ) -> Result<(), Refused> {
        match stored(status)?.unnoted(status) {
            Some(used) => self.note_current(entry, status, used).await,
            None => Ok(()),
        }
    }

    async fn take(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        wanted: Wanted,
        unix_ms: u64,
    ) -> Result<(), Refused> {
        let Wanted { snapshot, name, marks, here_only } = wanted;
        let command = Command::TakePoint { snapshot, name, unix_ms, marks, here_only };
        let group = entry.group();
        let shard = self.shard_of(group);
        let taken =
            shard.run(move |state| async move { state.take_point(group, command).await }).await?;
        taken.map_err(|refused| self.at_the_primary(refused, status))
    }

    /// Takes a point while what writes is at rest, and says in words what became of that.
    async fn take_at_rest(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        (wanted, unix_ms): (Wanted, u64),
        name: &str,
    ) -> Result<String, Refused> {
        let snapshot = wanted.snapshot;
        let Some(hook) = self.config.hooks.iter().find(|hook| hook.name == name) else {
            let why = format!("no hook {name} is configured at {}", self.config.site.name);
            return self.take_unrested(entry, status, (wanted, unix_ms), why).await;
        };
        if let Err(why) = self.freeze(entry, hook).await {
            // It may have taken effect all the same.
            let thawed = self.thaw(entry.group(), &entry.name, &hook.name).await;
            let why = thawed.err().map_or(why.clone(), |thaw| format!("{why}; {thaw}"));
            return self.take_unrested(entry, status, (wanted, unix_ms), why).await;
        }
        let taking = self.take(entry, status, wanted, unix_ms);
        tokio::pin!(taking);
        let in_time = tokio::time::timeout(hook.timeout, &mut taking).await;
        // Nobody is kept at rest for longer, whatever became of the point.
        let thawed = self.thaw(entry.group(), &entry.name, &hook.name).await;
        let was_slow = in_time.is_err();
        match in_time {
            Ok(taken) => taken?,
            Err(_elapsed) => taking.await?,
        }
        let why_not = match thawed {
            Err(why) => Some(why),
            Ok(()) if was_slow => {
                Some(format!("taking the point took longer than {:?}", hook.timeout))
            }
            Ok(()) => None,
        };
        let words = match &why_not {
            None => "an application-consistent point was taken".to_owned(),
            Some(why) => format!("a crash-consistent point was taken: {why}"),
        };
        let marks = Marks { application: why_not.is_none(), why_not, ..Marks::default() };
        self.mark_snapshot(entry, snapshot, marks).await?;
        Ok(words)
    }

    async fn take_unrested(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        (mut wanted, unix_ms): (Wanted, u64),
        why: String,
    ) -> Result<String, Refused> {
        let words = format!("a crash-consistent point was taken: {why}");
        wanted.marks.why_not = Some(why);
        self.take(entry, status, wanted, unix_ms).await?;
        Ok(words)
    }

    async fn freeze(&self, entry: &GroupEntry, hook: &Hook) -> Result<(), String> {
        self.note_frozen(entry.group(), Some(&hook.name)).await?;
        let plugins = &self.runs.registry;
        hooks::call(hook, (Action::Freeze, &entry.name), plugins).await
    }

    /// Thaws, and remembers that nobody has to any more.
    ///
    /// # Errors
    /// Why the hook could not; it is tried again in seconds, and when the gateway starts.
    pub(super) async fn thaw(&self, group: GroupId, name: &str, hook: &str) -> Result<(), String> {
        let Some(known) = self.config.hooks.iter().find(|known| known.name == hook) else {
            return Err(format!("no hook {hook} is configured any more: thaw by hand"));
        };
        hooks::call(known, (Action::Thaw, name), &self.runs.registry).await?;
        if let Err(why) = self.note_frozen(group, None).await {
            // It is thawed once more at the next start, which is no harm.
            tracing::warn!(group = name, why, "that nobody is frozen is not recorded");
        }
        Ok(())
    }
}

/// The time, in UTC, and a number behind it when it is taken.
fn point_name(status: &GroupStatus, unix_ms: u64) -> String {
    let at: String =
        text(unix_ms / 1000 * 1000).chars().filter(char::is_ascii_alphanumeric).collect();
    let first = format!("{PREFIX}.{at}");
    let is_free = |name: &String| !status.snapshots.iter().any(|of| of.name == *name);
    let numbered = (2..SAME_SECOND_MAX).map(|number| format!("{first}-{number}"));
    std::iter::once(first.clone()).chain(numbered).find(is_free).unwrap_or(first)
}
