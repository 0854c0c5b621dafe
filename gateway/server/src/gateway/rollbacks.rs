//! Going back to a snapshot, or to a second of the write journal, as one operation: its sessions are
//! suspended, the volumes become what they were, the sessions go on by delta.
//!
//! ```text
//!   [roles are swapped ─▶] book: begun ─▶ suspend each session that runs ─▶ the group goes back
//!   [─▶ book: back ─▶ what the journal has is laid over it ─▶ book: there] ─▶ resume those
//!   ─▶ older snapshots of the gateway's own are deleted [─▶ roles are swapped again] ─▶ book: over
//! ```
//!
//! Invariant: which sessions were suspended for it is on stable storage before the first is, and
//! until each was resumed, so that a start after a kill resumes them. The group itself decides, in
//! its own record, whether it goes back or not: it is at the snapshot whole or not at all. While what
//! the journal has is missing there, the book says so, no host is let in and no mirror follows.

mod laid;
mod resumed;
mod roles;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api::units::bytes_text;
use api::{Check, CheckState, Code, Operation, RollbackPlan, RollbackRequest};
use block::{GroupId, SnapshotId};
use mirror::{
    Command, GroupStatus, LegStatus, Serving, SessionState, SnapshotOrigin, SnapshotState,
    SnapshotStatus,
};
use uuid::Uuid;

use self::roles::Home;
use super::Gateway;
use super::snapshots::{export_name, find};
use crate::book::{GroupEntry, RollbackEntry, Stage};
use crate::clock::text;
use crate::moments::Laid;
use crate::operations::{Running, under_way};
use crate::refusal::Refused;
use crate::rollback::{self, Outlook};
use crate::status::leg_out_of_sync;

/// Between two looks at a group that is being opened, or goes back after a start.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Where a group is to go back to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    /// A snapshot, by name or identity.
    Snapshot(&'a str),
    /// A second of the write journal here.
    Second(&'a str),
}

impl Gateway {
    /// What going back to a snapshot or a second would mean; with `swap`, for a mirror whose primary
    /// hands over first.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::ShardSilent`], [`Code::Spanning`]; for a second
    /// [`Code::NoPointJournal`], [`Code::MomentUnknown`].
    pub(crate) async fn plan_rollback(
        &self,
        group: &str,
        wanted: Wanted<'_>,
        swap: bool,
    ) -> Result<RollbackPlan, Refused> {
        let entry = self.find_group(group)?;
        let group = entry.group();
        let status = self.status_of(group).await?;
        let (snapshot, laid) = self.find_wanted((&entry, &status), wanted)?;
        if status.parts.is_some() {
            let detail = "a group over several gateways goes back to no snapshot; read it at each \
                          part as VOLUME@SNAPSHOT, or make volumes from it";
            return Err(Refused::new(Code::Spanning, detail));
        }
        let busy = self.operations.running_on(&entry.name);
        let busy = busy.map(|other| format!("operation {} ({})", other.id, other.kind));
        let hosts = self.hosts_of(group).await?;
        let id = snapshot.id;
        let shard = self.shard_of(group);
        let changed =
            shard.run(move |state| async move { state.changed_bytes(group, id).await }).await?;
        let there = if swap { self.hosts_there(&status).await } else { None };
        let there = there.as_ref().map(|told| told.as_ref().copied().map_err(String::as_str));
        let outlook = Outlook {
            status: &status,
            snapshot,
            laid,
            swap: there,
            hosts,
            busy: busy.as_deref(),
            changed: changed.as_ref().copied().map_err(|refused| refused.0.detail.as_str()),
        };
        Ok(rollback::plan(&outlook, &self.plans, &self.clock))
    }

    fn find_wanted<'s>(
        &self,
        (entry, status): (&GroupEntry, &'s GroupStatus),
        wanted: Wanted<'_>,
    ) -> Result<(&'s SnapshotStatus, Option<Laid>), Refused> {
        let at = match wanted {
            Wanted::Snapshot(name) => return Ok((find(status, name)?, None)),
            Wanted::Second(at) => at,
        };
        let (_, found) = self.find_moment((entry, status), self.asked_ms(at)?)?;
        let base = status.snapshots.iter().find(|of| of.id == found.base);
        let base = base.ok_or_else(|| {
            Refused::new(Code::SnapshotUnusable, "the base of that second is not there any more")
        })?;
        Ok((base, Some(Laid::new(entry.group(), &found))))
    }

    /// Goes back to a snapshot, or to the second that was planned.
    ///
    /// # Errors
    /// [`Code::PlanToken`], [`Code::Busy`], [`Code::HostsAttached`]; nothing was begun. What goes
    /// wrong later is in the operation.
    pub(crate) async fn roll_back(
        self: &Arc<Self>,
        (group, snapshot): (&str, Option<&str>),
        request: &RollbackRequest,
    ) -> Result<Operation, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let named = snapshot.map(|name| find(&status, name)).transpose()?;
        if let Some(other) = self.operations.running_on(&entry.name) {
            // Said before the token is used up.
            return Err(Refused::new(Code::Busy, under_way(&other)));
        }
        let hosts = self.hosts_of(entry.group()).await?;
        if hosts > 0 && !request.drop_hosts {
            let detail = format!("{hosts} hosts are attached to group {}", entry.name);
            return Err(Refused::new(Code::HostsAttached, detail));
        }
        let deed = rollback::redeem(&self.plans, &request.token, (&status, named), &self.clock)?;
        let way = Way {
            to: deed.snapshot,
            name: self.way_name(&status, &deed),
            laid: deed.laid,
            drop_hosts: request.drop_hosts,
            home: if deed.swaps { Home::of(&status) } else { None },
            before: self.book.read().rollback_of(entry.id).cloned(),
            entry,
        };
        let running = self.operations.begin_alone("rollback", &way.entry.name).map_err(Refused)?;
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut running = running;
            gateway.tell_rollback(&way, "rollback begun");
            let result = gateway.go_back_and_home(&mut running, &way).await;
            match &result {
                Ok(()) => gateway.tell_rollback(&way, "rolled back"),
                Err(refused) => {
                    let text = format!("rollback failed: {}", refused.0.detail);
                    gateway.tell_rollback(&way, &text);
                }
            }
            running.end(result.map_err(|refused| *refused.0));
        });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    fn way_name(&self, status: &GroupStatus, deed: &rollback::Deed) -> String {
        match deed.laid {
            Some(laid) => text(laid.unix_ms),
            None => {
                let found = status.snapshots.iter().find(|of| of.id == deed.snapshot);
                found.map_or_else(|| deed.snapshot.to_string(), |of| of.name.clone())
            }
        }
    }

    fn tell_rollback(&self, way: &Way, text: &str) {
        self.events.tell("snapshot", &export_name(&way.entry.name, &way.name), text);
    }

    async fn go_back(&self, running: &mut Running, way: &Way) -> Result<(), Refused> {
        let group = way.entry.group();
        let safety = SnapshotId::from_uuid(Uuid::now_v7());
        running.step("look at the group again");
        let status = self.status_of(group).await?;
        self.nothing_in_the_way(&status, way)?;
        running.done("nothing stands in the way");
        let views = self.prove_laid(running, way).await?;
        let suspends: Vec<LegStatus> = rollback::running(&status).cloned().collect();
        running.step("note that it is begun");
        let mut note = self.entry_of(way, safety, &suspends);
        self.note_rollback(group, Some(note.clone())).await?;
        running.done("a start after a kill takes it up");
        for leg in &suspends {
            running.step(&format!("suspend the session to {}", leg.site));
            if let Err(refused) = self.command(group, Command::Suspend { leg: leg.leg }).await {
                return Err(self.undo(running, way, (&note, refused)).await);
            }
            running.done("suspended");
        }
        if way.laid.is_some()
            && let Err(refused) = self.close_for_way_back(&status, way.drop_hosts).await
        {
            return Err(self.undo(running, way, (&note, refused)).await);
        }
        running.step(&format!("go back to {}", way.name));
        let unix_ms = self.clock.unix_ms();
        let command = Command::RollBack { snapshot: way.to, safety, unix_ms };
        let drop_hosts = way.drop_hosts;
        let shard = self.shard_of(group);
        let result = shard
            .run(move |state| async move { state.roll_back(group, command, drop_hosts).await })
            .await?;
        if let Err(refused) = result {
            return Err(self.not_gone_back(running, way, (&note, refused)).await);
        }
        running.done(format!("what was there before is kept as {}", self.name_of(group, safety)));
        let leads_to_snapshot = views.is_none();
        if let Some(views) = views {
            self.lay_over(running, way, (&mut note, views)).await?;
        }
        self.end_fill(running, group).await?;
        if leads_to_snapshot {
            let used = mirror::Marks { used: true, ..mirror::Marks::default() };
            self.mark_snapshot(&way.entry, way.to, used).await?;
        }
        self.resume_after(running, way, &note).await?;
        self.drop_older_safeties(running, way, note.kept()).await
    }

    /// What is noted of it. What an earlier one that stopped half way suspended is resumed by this
    /// one, and what it kept stays.
    fn entry_of(&self, way: &Way, safety: SnapshotId, suspends: &[LegStatus]) -> RollbackEntry {
        let before = way.before.as_ref();
        let mut sessions: Vec<Uuid> = suspends.iter().filter_map(session_of).collect();
        sessions.extend(before.iter().flat_map(|before| &before.sessions));
        let half = before.filter(|before| before.stage == Stage::Back);
        RollbackEntry {
            group: way.entry.id,
            snapshot: way.to.uuid(),
            safety: safety.uuid(),
            sessions,
            begun_ms: self.clock.unix_ms(),
            laid: way.laid,
            stage: Stage::Begun,
            home: way.home.as_ref().map(Home::uuid).or(before.and_then(|before| before.home)),
            keeps: half.map(|half| half.keeps.unwrap_or(half.safety)),
        }
    }

    fn name_of(&self, group: GroupId, snapshot: SnapshotId) -> String {
        let seen = self.board.get(group);
        let found = seen.as_ref().map(|seen| seen.status.snapshots.iter());
        let found = found.into_iter().flatten().find(|of| of.id == snapshot);
        found.map_or_else(|| snapshot.to_string(), |of| of.name.clone())
    }

    /// Looked at again when it runs: a plan lives for minutes.
    fn nothing_in_the_way(&self, status: &GroupStatus, way: &Way) -> Result<(), Refused> {
        let snapshot = find(status, &way.to.uuid().to_string())?;
        let (laid, swap) = (way.laid, None);
        let outlook =
            Outlook { status, snapshot, laid, swap, hosts: 0, busy: None, changed: Ok(0) };
        let checks: Vec<Check> = outlook.checks();
        match checks.iter().find(|check| check.state == CheckState::Blocked) {
            None => Ok(()),
            Some(blocked) => {
                let why = format!("nothing was changed: {}: {}", blocked.name, blocked.detail);
                Err(Refused::new(Code::RollbackUndone, why))
            }
        }
    }

    /// The group did not go back: either nothing of it was changed, or it cannot go on.
    async fn not_gone_back(
        &self,
        running: &mut Running,
        way: &Way,
        (note, refused): (&RollbackEntry, Refused),
    ) -> Refused {
        let status = self.status_of(way.entry.group()).await;
        let is_under_way = status.as_ref().is_ok_and(|status| {
            status.serving == Serving::Latched || rolls_back(status) == Some(way.to)
        });
        if is_under_way || status.is_err() {
            // The note stays: the next start resumes the sessions when the group is there.
            let detail = format!("{}; nobody is served until it is", refused.0.detail);
            return Refused::new(Code::RollbackUnfinished, detail);
        }
        self.undo(running, way, (note, refused)).await
    }

    /// Nothing was changed but sessions suspended: they go on.
    async fn undo(
        &self,
        running: &mut Running,
        way: &Way,
        (note, refused): (&RollbackEntry, Refused),
    ) -> Refused {
        let why = refused.0.detail.clone();
        if let Some(before) = way.before.as_ref().filter(|before| before.holds()) {
            // The group is still half way to where an earlier one led.
            if let Err(other) = self.note_rollback(way.entry.group(), Some(before.clone())).await {
                tracing::warn!(why = other.0.detail, "a rollback that was half way is not noted");
            }
            let detail = format!("{why}; an earlier rollback is half way, and nobody is served");
            return Refused::new(Code::RollbackUnfinished, detail);
        }
        let own = [Code::HostsAttached, Code::SnapshotPartial, Code::SnapshotUnusable];
        let is_own = own.iter().any(|code| refused.0.code == code.as_str());
        running.failed(&why);
        match self.resume_after(running, way, &note.undone()).await {
            Err(left) => left,
            Ok(()) if is_own => refused,
            Ok(()) => {
                let detail = format!("nothing was changed: {why}");
                let name = Some(way.name.as_str()).filter(|_| way.laid.is_none());
                let next = rollback::again(&way.entry.name, name);
                Refused::new(Code::RollbackUndone, detail).next(next)
            }
        }
    }

    /// Resumes the sessions that were suspended for it, and forgets that it was begun.
    async fn resume_after(
        &self,
        running: &mut Running,
        way: &Way,
        note: &RollbackEntry,
    ) -> Result<(), Refused> {
        let group = way.entry.group();
        let status = self.status_of(group).await?;
        let mut left = None;
        for leg in status.legs.iter().filter(|leg| is_noted(leg, note)) {
            running.step(&format!("resume the session to {}", leg.site));
            let command = Command::Resume { leg: leg.leg, discard: false };
            match self.order(group, command).await {
                Ok(()) => {
                    let bytes = leg_out_of_sync(leg);
                    running.done(format!("by delta: {} may differ there", bytes_text(bytes)));
                }
                Err(refused) => {
                    running.failed(&refused.0.detail);
                    left.get_or_insert((leg.site.clone(), refused));
                }
            }
        }
        self.note_rollback(group, note.only_home()).await?;
        self.open_after_way_back(&status).await?;
        match left {
            None => Ok(()),
            Some((site, refused)) => {
                let detail =
                    format!("the session to {site} is still suspended: {}", refused.0.detail);
                let next = format!("twinspan session resume {}:{site}", way.entry.name);
                Err(refused.saying(detail).next(next))
            }
        }
    }

    /// What the gateway keeps by itself beside the newest of it, and nobody locked. What was there
    /// before a restore that is not over is no older one.
    pub(super) fn older_safeties<'s>(
        &self,
        status: &'s GroupStatus,
        newest: Option<SnapshotId>,
    ) -> impl Iterator<Item = &'s SnapshotStatus> {
        let lock_ms = self.clock.lock_ms();
        let pages = self.book.read();
        let filled = pages.backups.fill_in(status.group.uuid()).and_then(|fill| fill.safety);
        status.snapshots.iter().filter(move |of| {
            let is_older = of.origin == SnapshotOrigin::Safety && Some(of.id) != newest;
            let is_locked = of.marks.locked_until_ms > lock_ms;
            let is_needed = is_locked || filled == Some(of.id.uuid());
            is_older && !is_needed && of.state != SnapshotState::Deleting
        })
    }

    /// The newest of what the gateway keeps by itself is enough to go back once.
    async fn drop_older_safeties(
        &self,
        running: &mut Running,
        way: &Way,
        newest: SnapshotId,
    ) -> Result<(), Refused> {
        let group = way.entry.group();
        let status = self.status_of(group).await?;
        for snapshot in self.older_safeties(&status, Some(newest)) {
            running.step(&format!("delete {}", snapshot.name));
            self.command(group, Command::RemoveSnapshot { snapshot: snapshot.id }).await?;
            running.done("its room is given back");
        }
        Ok(())
    }

    /// Remembers durably which sessions wait for a rollback, or that none does any more. What a restore
    /// has filled counts for nothing from the moment at which a way back is begun: the group may be at
    /// the snapshot then, whatever is known of that.
    async fn note_rollback(
        &self,
        group: GroupId,
        note: Option<RollbackEntry>,
    ) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                pages.rollbacks.retain(|of| of.group != group.uuid());
                if note.as_ref().is_some_and(|note| note.stage == Stage::Begun) {
                    pages.backups.fill_from_the_beginning(group.uuid());
                }
                pages.rollbacks.extend(note);
                Ok::<(), Refused>(())
            })
            .await
    }
}

/// Where a rollback leads.
struct Way {
    entry: GroupEntry,
    to: SnapshotId,
    name: String,
    /// What is laid over the snapshot, for a second.
    laid: Option<Laid>,
    drop_hosts: bool,
    /// Who hands over first, and takes over again afterwards.
    home: Option<Home>,
    /// An earlier one that is not over.
    before: Option<RollbackEntry>,
}

/// The snapshot that the group is going back to.
fn rolls_back(status: &GroupStatus) -> Option<SnapshotId> {
    let mut all = status.snapshots.iter();
    all.find(|of| of.state == SnapshotState::RollingBack).map(|of| of.id)
}

/// By which session a leg is noted: places of legs are used again, sessions are not.
fn session_of(leg: &LegStatus) -> Option<Uuid> {
    leg.sessions.first().map(|session| session.session.uuid())
}

fn is_noted(leg: &LegStatus, note: &RollbackEntry) -> bool {
    let is_suspended = leg.state == SessionState::Suspended;
    is_suspended && leg.sessions.iter().any(|of| note.sessions.contains(&of.session.uuid()))
}
