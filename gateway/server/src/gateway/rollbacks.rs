//! Going back to a snapshot, as one operation: its sessions are suspended, the volumes become what
//! they were, the sessions go on by delta.
//!
//! ```text
//!   book: begun ─▶ suspend each session that runs ─▶ the group goes back ─▶ resume those
//!   ─▶ older snapshots of the gateway's own are deleted ─▶ book: over
//! ```
//!
//! Invariant: which sessions were suspended for it is on stable storage before the first is, and
//! until each was resumed, so that a start after a kill resumes them. The group itself decides, in
//! its own record, whether it goes back or not: it is there whole or not at all.

use std::sync::Arc;
use std::time::Duration;

use api::units::bytes_text;
use api::{Check, CheckState, Code, Operation, Problem, RollbackPlan, RollbackRequest};
use block::{GroupId, SnapshotId};
use mirror::{
    Command, GroupStatus, LegStatus, Role, Serving, SessionState, SnapshotOrigin, SnapshotState,
};
use uuid::Uuid;

use super::snapshots::{export_name, find};
use super::{Gateway, Known};
use crate::book::{GroupEntry, RollbackEntry};
use crate::operations::{Running, under_way};
use crate::refusal::Refused;
use crate::rollback::{self, Outlook};

/// Between two looks at a group that is being opened, or goes back after a start.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

impl Gateway {
    /// What going back to a snapshot would mean.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::ShardSilent`], [`Code::Spanning`].
    pub(crate) async fn plan_rollback(
        &self,
        group: &str,
        name: &str,
    ) -> Result<RollbackPlan, Refused> {
        let entry = self.find_group(group)?;
        let group = entry.group();
        let status = self.status_of(group).await?;
        let snapshot = find(&status, name)?;
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
        let outlook = Outlook {
            status: &status,
            snapshot,
            hosts,
            busy: busy.as_deref(),
            changed: changed.as_ref().copied().map_err(|refused| refused.0.detail.as_str()),
        };
        Ok(rollback::plan(&outlook, &self.plans, &self.clock))
    }

    /// Goes back to a snapshot.
    ///
    /// # Errors
    /// [`Code::PlanToken`], [`Code::Busy`], [`Code::HostsAttached`]; nothing was begun. What goes
    /// wrong later is in the operation.
    pub(crate) async fn roll_back(
        self: &Arc<Self>,
        (group, name): (&str, &str),
        request: &RollbackRequest,
    ) -> Result<Operation, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let snapshot = find(&status, name)?;
        if let Some(other) = self.operations.running_on(&entry.name) {
            // Said before the token is used up.
            return Err(Refused::new(Code::Busy, under_way(&other)));
        }
        let hosts = self.hosts_of(entry.group()).await?;
        if hosts > 0 && !request.drop_hosts {
            let detail = format!("{hosts} hosts are attached to group {}", entry.name);
            return Err(Refused::new(Code::HostsAttached, detail));
        }
        rollback::redeem(&self.plans, &request.token, (&status, snapshot), &self.clock)?;
        let running = self.operations.begin_alone("rollback", &entry.name).map_err(Refused)?;
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        let way = Way {
            entry,
            to: snapshot.id,
            name: snapshot.name.clone(),
            drop_hosts: request.drop_hosts,
        };
        self.tasks.spawn(async move {
            let mut running = running;
            gateway.tell_rollback(&way, "rollback begun");
            let result = gateway.go_back(&mut running, &way).await;
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

    fn tell_rollback(&self, way: &Way, text: &str) {
        self.events.tell("snapshot", &export_name(&way.entry.name, &way.name), text);
    }

    async fn go_back(&self, running: &mut Running, way: &Way) -> Result<(), Refused> {
        let group = way.entry.group();
        let safety = SnapshotId::from_uuid(Uuid::now_v7());
        running.step("look at the group again");
        let status = self.status_of(group).await?;
        self.nothing_in_the_way(&status, way)?;
        let suspends: Vec<LegStatus> = rollback::running(&status).cloned().collect();
        running.done("nothing stands in the way");
        running.step("note that it is begun");
        let note = RollbackEntry {
            group: group.uuid(),
            snapshot: way.to.uuid(),
            safety: safety.uuid(),
            sessions: suspends.iter().filter_map(session_of).collect(),
            begun_ms: self.clock.unix_ms(),
        };
        self.note_rollback(group, Some(note.clone())).await?;
        running.done("a start after a kill resumes the sessions");
        for leg in &suspends {
            running.step(&format!("suspend the session to {}", leg.site));
            if let Err(refused) = self.command(group, Command::Suspend { leg: leg.leg }).await {
                return Err(self.undo(running, way, (&note, refused)).await);
            }
            running.done("suspended");
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
        self.end_fill(running, group).await?;
        let used = mirror::Marks { used: true, ..mirror::Marks::default() };
        self.mark_snapshot(&way.entry, way.to, used).await?;
        self.resume_after(running, way, &note).await?;
        self.drop_older_safeties(running, way, safety).await
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
        let outlook = Outlook { status, snapshot, hosts: 0, busy: None, changed: Ok(0) };
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
        let own = [Code::HostsAttached, Code::SnapshotPartial, Code::SnapshotUnusable];
        let is_own = own.iter().any(|code| refused.0.code == code.as_str());
        running.failed(&why);
        match self.resume_after(running, way, note).await {
            Err(left) => left,
            Ok(()) if is_own => refused,
            Ok(()) => {
                let detail = format!("nothing was changed: {why}");
                let (group, name) = (&way.entry.name, &way.name);
                let next = format!("twinspan snapshot rollback plan {group} {name}");
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
            match self.command(group, command).await {
                Ok(()) => {
                    let bytes = leg.sessions.iter().map(|of| of.out_of_sync_bytes).sum();
                    running.done(format!("by delta: {} may differ there", bytes_text(bytes)));
                }
                Err(refused) => {
                    running.failed(&refused.0.detail);
                    left.get_or_insert((leg.site.clone(), refused));
                }
            }
        }
        self.note_rollback(group, None).await?;
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

    /// The newest of what the gateway keeps by itself is enough to go back once.
    async fn drop_older_safeties(
        &self,
        running: &mut Running,
        way: &Way,
        newest: SnapshotId,
    ) -> Result<(), Refused> {
        let group = way.entry.group();
        let status = self.status_of(group).await?;
        let older = status.snapshots.iter().filter(|of| {
            let is_older = of.origin == SnapshotOrigin::Safety && of.id != newest;
            let is_locked = of.marks.locked_until_ms > self.clock.lock_ms();
            is_older && !is_locked && of.state != SnapshotState::Deleting
        });
        for snapshot in older {
            running.step(&format!("delete {}", snapshot.name));
            self.command(group, Command::RemoveSnapshot { snapshot: snapshot.id }).await?;
            running.done("its room is given back");
        }
        Ok(())
    }

    /// Remembers durably which sessions wait for a rollback, or that none does any more.
    async fn note_rollback(
        &self,
        group: GroupId,
        note: Option<RollbackEntry>,
    ) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                pages.rollbacks.retain(|of| of.group != group.uuid());
                pages.rollbacks.extend(note);
                Ok::<(), Refused>(())
            })
            .await
    }

    /// Takes up the rollbacks that a stop or a kill cut short: whatever became of each, its sessions
    /// are resumed.
    pub(crate) fn take_rollbacks_up(self: &Arc<Self>) {
        for note in self.book.read().rollbacks.clone() {
            let gateway = Arc::clone(self);
            self.tasks.spawn(async move { gateway.take_rollback_up(note).await });
        }
    }

    async fn take_rollback_up(self: Arc<Self>, note: RollbackEntry) {
        let id = GroupId::from_uuid(note.group);
        let Some(entry) = self.book.read().group_by_id(id).cloned() else {
            return self.forget_rollback(id).await;
        };
        let to = SnapshotId::from_uuid(note.snapshot);
        let mut running = self.operations.begin("rollback", &entry.name);
        running.step("wait until the group is open, and back where it goes");
        let status = match self.await_no_rollback(id, to).await {
            Some(Some(status)) => status,
            Some(None) => {
                let problem = Problem::new(Code::NotFound, "the group was deleted meanwhile");
                running.end(Err(problem));
                return self.forget_rollback(id).await;
            }
            // The gateway stops, and the next start takes it up.
            None => return,
        };
        let name = self.name_of(id, to);
        let way = Way { entry, to, name, drop_hosts: false };
        let result = self.end_rollback(&mut running, &way, (&note, &status)).await;
        let text = match &result {
            Ok(word) => format!("a rollback was cut short by the last stop: {word}"),
            Err(refused) => format!("a rollback was cut short: {}", refused.0.detail),
        };
        self.tell_rollback(&way, &text);
        running.end(result.map(drop).map_err(|refused| *refused.0));
    }

    /// Its group is gone: nothing waits for anything.
    async fn forget_rollback(&self, group: GroupId) {
        if let Err(refused) = self.note_rollback(group, None).await {
            // It is found again at the next start.
            tracing::warn!(%group, why = refused.0.detail, "a rollback is still noted");
        }
    }

    async fn end_rollback(
        &self,
        running: &mut Running,
        way: &Way,
        (note, status): (&RollbackEntry, &GroupStatus),
    ) -> Result<String, Refused> {
        let safety = SnapshotId::from_uuid(note.safety);
        let is_kept = status.snapshots.iter().any(|of| of.id == safety);
        let (group, to) = (way.entry.group(), way.to);
        let word = if is_kept {
            let shard = self.shard_of(group);
            let changed =
                shard.run(move |state| async move { state.changed_bytes(group, to).await }).await?;
            match changed {
                Ok(0) => "the volumes are what they were at this snapshot".to_owned(),
                Ok(bytes) => format!(
                    "the volumes may differ from it in {}: in what was written since, or the rollback \
                     was not begun",
                    bytes_text(bytes)
                ),
                Err(refused) => refused.0.detail,
            }
        } else {
            "nothing was changed: ask again".to_owned()
        };
        running.done(word.clone());
        if status.role != Role::Primary {
            // Another site serves the group now; its sessions are no matter of this one.
            self.note_rollback(group, None).await?;
            return Ok(format!("{word}; another site serves the group now"));
        }
        self.resume_after(running, way, note).await?;
        if is_kept {
            self.drop_older_safeties(running, way, safety).await?;
        }
        Ok(word)
    }

    /// The group's status when it is open and on its way to no snapshot, or that there is no such
    /// group any more; `None` when the gateway stops before.
    async fn await_no_rollback(
        &self,
        group: GroupId,
        to: SnapshotId,
    ) -> Option<Option<Arc<GroupStatus>>> {
        let look = async {
            loop {
                if let Known::Status(status, moment) = self.look_at(group).await
                    && moment.fresh
                    && status.serving != Serving::Latched
                    && rolls_back(&status) != Some(to)
                {
                    return Some(status);
                }
                self.book.read().group_by_id(group)?;
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        self.stopping.run_until_cancelled(look).await
    }
}

/// Where a rollback leads.
struct Way {
    entry: GroupEntry,
    to: SnapshotId,
    name: String,
    drop_hosts: bool,
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
