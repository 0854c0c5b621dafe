//! What happens by the clock: points are taken when they are due, and those go that no rule keeps.
//!
//! Invariant: a group's points are taken by its primary, one at a time; each gateway removes only what
//! it keeps itself. What is done with a due time is recorded before its point is taken, and a gateway
//! that becomes the primary goes on where the one before it was.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::PointKeeper;
use block::GroupId;
use bytes::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use mirror::{Command, GroupStatus, LinkState, Role, Serving, SnapshotState};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::book::GroupEntry;
use crate::config::{Hook, HookKind};
use crate::gateway::Gateway;
use crate::points::{self, Stored, moment, unix_ms};
use crate::schedule::{Act, COUNTED_MAX, Look, Schedule, drive};

/// Where the ledger keeps what was done by the clock.
const KEY: &str = "control/points";
const VERSION: u32 = 1;
/// Before a hook that could not thaw is called again.
const THAW_PAUSE_MIN: Duration = Duration::from_secs(2);
/// As long at most, if it fails again and again.
const THAW_PAUSE_MAX: Duration = Duration::from_mins(5);

/// What came of a group's policy since this gateway started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// A point is being taken.
    pub(crate) running: bool,
    /// When the next one is due.
    pub(crate) next: Option<Timestamp>,
    /// Points that were taken.
    pub(crate) taken: u64,
    /// Due times that found one being taken.
    pub(crate) skipped: u64,
    /// Due times that found nobody.
    pub(crate) missed: u64,
    /// Points that could not be taken.
    pub(crate) failed: u64,
    /// Why the last one could not be, until one can again.
    pub(crate) last_failure: Option<String>,
    /// From the next due time to the one after it, in seconds.
    pub(crate) interval_s: Option<u64>,
    /// When the newest one was taken by this gateway, in milliseconds since 1970; mirrors may keep it.
    pub(crate) newest_ms: u64,
    /// All due times up to here are done with.
    before: Option<Timestamp>,
}

/// What is kept of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct Recorded {
    version: u32,
    /// By group: all due times up to here are done with, in milliseconds since 1970.
    before: BTreeMap<Uuid, u64>,
    /// Hooks that were called to freeze and not yet to thaw, by group.
    #[serde(default)]
    frozen: BTreeMap<Uuid, String>,
}

/// What the clock did, for every group.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    tallies: Mutex<HashMap<GroupId, Tally>>,
    recorded: tokio::sync::Mutex<Recorded>,
    /// A policy was set.
    wake: Notify,
}

// === impl Keeping ===

impl Keeping {
    /// What came of a group's policy here.
    #[must_use]
    pub(crate) fn tally(&self, group: GroupId) -> Tally {
        self.with(group, |tally| tally.clone())
    }

    /// A policy was set: what was due before it is not made up for.
    pub(super) fn policy_set(&self, group: GroupId, at: Timestamp) {
        self.with(group, |tally| tally.before = Some(at));
        self.wake.notify_one();
    }

    /// Begins a point, unless one is being taken.
    pub(super) fn begin(&self, group: GroupId) -> bool {
        self.with(group, |tally| !std::mem::replace(&mut tally.running, true))
    }

    /// What kept points from being taken is over, and was none.
    fn release(&self, group: GroupId) {
        self.with(group, |tally| tally.running = false);
    }

    /// A point was taken, or could not be.
    pub(super) fn end(&self, group: GroupId, result: Result<u64, String>) {
        self.with(group, |tally| {
            tally.running = false;
            match result {
                Ok(taken_ms) => {
                    tally.newest_ms = taken_ms;
                    tally.taken += 1;
                    tally.last_failure = None;
                }
                Err(why) => {
                    tally.failed += 1;
                    tally.last_failure = Some(why);
                }
            }
        });
    }

    fn with<T>(&self, group: GroupId, change: impl FnOnce(&mut Tally) -> T) -> T {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        change(tallies.entry(group).or_default())
    }
}

// === impl Gateway ===

impl Gateway {
    /// Begins what goes by the clock: locks end, points are taken and removed.
    pub(crate) fn begin_keeping(self: &Arc<Self>) {
        self.tasks.spawn(Arc::clone(self).keep_lock_clock());
        self.tasks.spawn(Arc::clone(self).keep_points());
    }

    /// Takes and removes recovery points by the clock, for as long as the gateway runs.
    async fn keep_points(self: Arc<Self>) {
        if let Err(why) = self.read_kept().await {
            tracing::error!(why, "what was done by schedule is not known; it begins anew");
        }
        self.thaw_what_was_left().await;
        self.tasks.spawn(Arc::clone(&self).keep_thawing());
        let (clock, stopping) = (self.clock, self.stopping.clone());
        let look = |now: Timestamp| {
            let gateway = Arc::clone(&self);
            async move { gateway.look_at_all_points(now).await }
        };
        drive(|| moment(clock.unix_ms()), (stopping, &self.keeping.wake), look).await;
    }

    pub(super) async fn look_at_all_points(self: &Arc<Self>, now: Timestamp) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        for entry in &self.book.read().groups {
            let wanted = self.look_at_points(entry, now).await;
            next = [next, wanted].into_iter().flatten().min();
        }
        next
    }

    /// Does for one group what is due, and says when something is due next.
    async fn look_at_points(
        self: &Arc<Self>,
        entry: &GroupEntry,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let group = entry.group();
        let status = self.board.get(group)?.status;
        let stored = Stored::of(&status).ok()?;
        let policy = stored.policy.as_ref()?;
        let is_served = status.role == Role::Primary && status.serving == Serving::Yes;
        if is_served {
            if let Err(refused) = self.settle_current(entry, &status).await {
                // Nothing goes before that is known; it is looked at again.
                let why = refused.0.detail;
                tracing::warn!(%group, why, "the use of the point current is not noted");
                return None;
            }
            self.move_points(entry, &status, policy.keep).await;
        }
        if !policy.on {
            return None;
        }
        let schedule = points::proven(policy).ok()?;
        self.retain_points(entry, &status, (&policy.retention, schedule.zone())).await;
        if is_served {
            let look = self.look_at_schedule(group, (&status, &stored), &schedule, now).await?;
            self.act_on(entry, &look);
            return look.next;
        }
        if status.role == Role::Secondary && follows(&status) {
            // The primary sees to it. Should this one be the primary next, it goes on from here.
            self.keeping.with(group, |tally| tally.before = Some(now));
        }
        None
    }

    /// Looks at a group's schedule, and records what is done with.
    async fn look_at_schedule(
        &self,
        group: GroupId,
        (status, stored): (&GroupStatus, &Stored),
        schedule: &Schedule,
        now: Timestamp,
    ) -> Option<Look> {
        let tally = self.keeping.tally(group);
        // A gateway that took over and never followed anybody since it started knows what it keeps.
        let newest = points::of(status).map(|point| point.unix_ms).max().unwrap_or(0);
        let before = tally.before.unwrap_or_else(|| moment(newest.max(stored.set_ms)));
        let look = schedule.look(before, now, tally.running);
        if look.act != Act::Wait
            && let Err(why) = self.record_before(group, look.before).await
        {
            // Not known to be done with: it is looked at again.
            tracing::warn!(%group, why, "what is due cannot be recorded");
            return None;
        }
        self.keeping.with(group, |tally| {
            tally.before = Some(look.before);
            tally.next = look.next;
            tally.interval_s = interval_s(schedule, look.next);
        });
        Some(look)
    }

    fn act_on(self: &Arc<Self>, entry: &GroupEntry, look: &Look) {
        let group = entry.group();
        let tell = |words: String| self.events.tell("point", &entry.name, words);
        match look.act {
            Act::Wait => {}
            Act::Back(by) => {
                tell(format!("the clock was moved back by {} s; points go on", by.as_secs()));
            }
            Act::Skip { dues } => {
                self.keeping.with(group, |tally| tally.skipped += dues);
                tell(format!("{dues} due times skipped: a point is still being taken"));
            }
            Act::Run { missed, .. } => {
                if missed > 0 {
                    self.keeping.with(group, |tally| tally.missed += missed);
                    let least = if missed >= COUNTED_MAX - 1 { "at least " } else { "" };
                    tell(format!("{least}{missed} due times missed; one point makes up for them"));
                }
                let (gateway, name) = (Arc::clone(self), entry.name.clone());
                self.tasks.spawn(async move {
                    // What came of it is counted and told there.
                    let _told = gateway.take_point(&name, false).await;
                });
            }
        }
    }

    /// Removes here what no rule keeps, and no way back that was begun leads to.
    async fn retain_points(
        &self,
        entry: &GroupEntry,
        status: &GroupStatus,
        rules: (&api::PointRetention, &TimeZone),
    ) {
        let fates = points::retained(status, rules, self.clock.lock_ms());
        for (point, _) in fates.into_iter().filter(|(_, fate)| fate.is_removed) {
            if self.book.read().is_on_a_way(entry.id, point.id.uuid()) {
                continue;
            }
            let command = Command::ForgetSnapshot { snapshot: point.id };
            match self.command(entry.group(), command).await {
                Ok(()) => {
                    let words = format!("{} removed: no rule keeps it", point.name);
                    self.events.tell("point", &entry.name, words);
                }
                // It is looked at again in a moment.
                Err(refused) => {
                    tracing::debug!(point = point.name, why = refused.0.detail, "a point stays");
                }
            }
        }
    }

    /// What mirrors said that they keep goes at the primary, if only they are to keep it. One that is
    /// locked stays here too, until its lock ends.
    async fn move_points(&self, entry: &GroupEntry, status: &GroupStatus, keep: PointKeeper) {
        if keep != PointKeeper::Mirror || self.keeping.tally(entry.group()).running {
            return;
        }
        let lock_ms = self.clock.lock_ms();
        let moved = points::of(status).filter(|point| {
            point.state == SnapshotState::Available
                && !point.held_by.is_empty()
                && point.marks.locked_until_ms <= lock_ms
                && !self.book.read().is_on_a_way(entry.id, point.id.uuid())
        });
        for point in moved {
            let command = Command::ForgetSnapshot { snapshot: point.id };
            if let Err(refused) = self.command(entry.group(), command).await {
                tracing::debug!(point = point.name, why = refused.0.detail, "a point stays");
            }
        }
    }

    // --- what is remembered ---

    async fn read_kept(&self) -> Result<(), String> {
        let Some(shard) = self.shards.first() else { return Ok(()) };
        let read = shard.call(|state| state.ledger().get(KEY)).await;
        let bytes = read.map_err(|silent| silent.to_string())?.map_err(|e| e.to_string())?;
        let Some(bytes) = bytes else { return Ok(()) };
        let found = Recorded::decode(&bytes)?;
        for (group, before) in &found.before {
            let before = moment(*before);
            self.keeping.with(GroupId::from_uuid(*group), |tally| tally.before = Some(before));
        }
        *self.keeping.recorded.lock().await = found;
        Ok(())
    }

    async fn record_before(&self, group: GroupId, before: Timestamp) -> Result<(), String> {
        self.record_kept(|kept| {
            kept.before.insert(group.uuid(), unix_ms(before));
        })
        .await
    }

    /// Remembers durably that a hook was called to freeze, or that nobody is to be thawed any more.
    pub(super) async fn note_frozen(
        &self,
        group: GroupId,
        hook: Option<&str>,
    ) -> Result<(), String> {
        self.record_kept(|kept| {
            match hook {
                Some(hook) => kept.frozen.insert(group.uuid(), hook.to_owned()),
                None => kept.frozen.remove(&group.uuid()),
            };
        })
        .await
    }

    async fn record_kept(&self, change: impl FnOnce(&mut Recorded)) -> Result<(), String> {
        let mut kept = self.keeping.recorded.lock().await;
        let mut next = kept.clone();
        next.version = VERSION;
        change(&mut next);
        let pages = self.book.read();
        next.before.retain(|group, _| pages.groups.iter().any(|entry| entry.id == *group));
        let bytes = serde_json::to_vec(&next).expect("numbers and names fit JSON");
        let records = vec![(KEY.to_owned(), Some(Bytes::from(bytes)))];
        let shard = self.shards.first().ok_or("there is no thread")?;
        let put = shard.run(move |state| async move { state.put(records).await }).await;
        put.map_err(|silent| silent.to_string())?.map_err(|error| error.to_string())?;
        *kept = next;
        Ok(())
    }

    /// Calls hooks that could not thaw again, for as long as the gateway runs: somebody waits.
    async fn keep_thawing(self: Arc<Self>) {
        let mut tries: HashMap<Uuid, (Instant, Duration)> = HashMap::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(THAW_PAUSE_MIN) => {}
                () = self.stopping.cancelled() => return,
            }
            let frozen = self.keeping.recorded.lock().await.frozen.clone();
            tries.retain(|group, _| frozen.contains_key(group));
            for (group, hook) in frozen {
                let now = Instant::now();
                let (due, pause) = tries.entry(group).or_insert((now, THAW_PAUSE_MIN));
                if *due <= now && !self.thaw_again(GroupId::from_uuid(group), &hook).await {
                    *due = now + *pause;
                    *pause = (*pause * 2).min(THAW_PAUSE_MAX);
                }
            }
        }
    }

    /// Says whether nothing is left to be done. No point is begun meanwhile: it would be thawed.
    async fn thaw_again(&self, group: GroupId, hook: &str) -> bool {
        if !self.keeping.begin(group) {
            // It is for the point that is being taken.
            return true;
        }
        // A point may have ended since this was looked at.
        let is_frozen = self.keeping.recorded.lock().await.frozen.contains_key(&group.uuid());
        let name = self.name_to_tell(group);
        let thawed = if is_frozen { self.thaw(group, &name, hook).await } else { Ok(()) };
        self.keeping.release(group);
        match thawed {
            Ok(()) if is_frozen => {
                let words = format!("thawed by hook {hook}, which could not before");
                self.events.tell("point", &name, words);
            }
            Ok(()) => {}
            Err(ref why) => tracing::warn!(group = name, hook, why, "still frozen"),
        }
        thawed.is_ok()
    }

    /// What people call a group; what it is known by, if it is there no more.
    fn name_to_tell(&self, group: GroupId) -> String {
        let pages = self.book.read();
        pages.group_by_id(group).map_or_else(|| group.to_string(), |entry| entry.name.clone())
    }

    /// A gateway that was killed between freezing and thawing left somebody at rest.
    async fn thaw_what_was_left(&self) {
        let frozen = self.keeping.recorded.lock().await.frozen.clone();
        for (group, hook) in frozen {
            let group = GroupId::from_uuid(group);
            let name = self.name_to_tell(group);
            let is_plugin = |of: &&Hook| matches!(of.kind, HookKind::Plugin(_));
            let known = self.config.hooks.iter().find(|known| known.name == hook);
            if known.filter(is_plugin).is_some() {
                self.load_plugins().await;
            }
            let thawed = self.thaw(group, &name, &hook).await;
            let words = match thawed {
                Ok(()) => format!("thawed by hook {hook} after a stop in the middle of a point"),
                Err(why) => format!("after a stop in the middle of a point: {why}"),
            };
            self.events.tell("point", &name, words);
        }
    }
}

impl Recorded {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let found: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if found.version > VERSION {
            let version = found.version;
            return Err(format!("it has version {version}, this release reads up to {VERSION}"));
        }
        Ok(found)
    }
}

/// From the next due time to the one after it.
fn interval_s(schedule: &Schedule, next: Option<Timestamp>) -> Option<u64> {
    let next = next?;
    let after = schedule.next_after(next)?;
    u64::try_from(after.duration_since(next).as_secs()).ok()
}

/// Whether the primary of a mirror is there.
fn follows(status: &GroupStatus) -> bool {
    status.upstream.as_ref().is_some_and(|upstream| upstream.link == LinkState::Connected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_read_and_nothing_newer() {
        let group = Uuid::from_u128(7);
        let bytes = format!("{{\"version\":1,\"before\":{{\"{group}\":9}}}}");
        let found = Recorded::decode(bytes.as_bytes()).unwrap();
        assert_eq!((found.before[&group], found.frozen.len()), (9, 0));
        let newer = Recorded { version: 2, ..found };
        let newer = Recorded::decode(&serde_json::to_vec(&newer).unwrap()).unwrap_err();
        assert!(newer.contains("version 2"));
    }

    #[test]
    fn a_point_is_taken_while_no_other_is() {
        let (keeping, group) = (Keeping::default(), GroupId::of(1));
        assert!(keeping.begin(group) && !keeping.begin(group));
        keeping.end(group, Err("no room".to_owned()));
        let tally = keeping.tally(group);
        assert_eq!((tally.failed, tally.last_failure.as_deref()), (1, Some("no room")));
        assert!(keeping.begin(group));
        keeping.end(group, Ok(5));
        assert_eq!((keeping.tally(group).last_failure, keeping.tally(group).newest_ms), (None, 5));
    }
}
