//! What a stop or a kill cut short of a way back, taken up at the next start.
//!
//! Invariant: it is decided by what is recorded alone. A group that is at the base of a second and not
//! yet at the second is brought there before anybody is let in. A restore from a backup that was cut
//! short before is over when the group is where it goes, and goes on from its beginning when it is not.

use std::sync::Arc;

use api::units::bytes_text;
use api::{Code, Problem};
use block::{GroupId, SnapshotId};
use mirror::{GroupStatus, Role, Serving};

use super::{LOOK_PAUSE, Way, rolls_back};
use crate::book::{RollbackEntry, Stage};
use crate::clock::text;
use crate::gateway::{Gateway, Known};
use crate::operations::Running;
use crate::refusal::Refused;
use crate::rollback;

/// What became of a way back that a stop or a kill cut short.
struct Outcome {
    word: String,
    /// Nothing was changed: who asked for it has to ask again.
    is_undone: bool,
}

// === impl Outcome ===

impl Outcome {
    fn of(word: impl Into<String>) -> Self {
        Self { word: word.into(), is_undone: false }
    }

    fn undone() -> Self {
        Self { word: "nothing was changed: ask again".to_owned(), is_undone: true }
    }

    /// With what came of the way home.
    fn at_home(self, homed: Result<(), Refused>) -> Result<Self, Refused> {
        match homed {
            Ok(()) => Ok(self),
            Err(refused) if self.is_undone => {
                let detail = format!("{}; {}", self.word, refused.0.detail);
                Err(refused.saying(detail))
            }
            Err(refused) => Err(refused),
        }
    }

    fn told(self, way: &Way) -> Result<String, Refused> {
        if !self.is_undone {
            return Ok(self.word);
        }
        let name = Some(way.name.as_str()).filter(|_| way.laid.is_none());
        let next = rollback::again(&way.entry.name, name);
        Err(Refused::new(Code::RollbackUndone, self.word).next(next))
    }
}

/// Where a start finds a group.
struct Place {
    /// At the snapshot, beyond doubt.
    is_there: bool,
    outcome: Outcome,
}

impl Gateway {
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
        let name = note.laid.map_or(name, |laid| text(laid.unix_ms));
        let (laid, home) = (note.laid, self.home_of(&note));
        let way = Way { entry, to, name, laid, drop_hosts: true, home, before: None };
        let mut result = self.end_rollback(&mut running, &way, (&note, &status)).await;
        if result.is_ok()
            && let Some(home) = &way.home
        {
            let homed = self.go_home(&mut running, &way.entry, home).await;
            result = result.and_then(|outcome| outcome.at_home(homed));
        }
        let result = result.and_then(|outcome| outcome.told(&way));
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
    ) -> Result<Outcome, Refused> {
        let mut note = note.clone();
        let group = way.entry.group();
        if status.role != Role::Primary {
            // Another site serves the group now; its sessions are no matter of this one.
            self.note_rollback(group, None).await?;
            self.open_after_way_back(status).await?;
            running.done("nothing is left to do here");
            if note.only_swaps() {
                return Ok(Outcome::undone());
            }
            return Ok(Outcome::of("another site serves the group now"));
        }
        if note.stage == Stage::There {
            return self.end_where_it_goes(running, way, &note).await;
        }
        let safety = SnapshotId::from_uuid(note.safety);
        let is_kept = status.snapshots.iter().any(|of| of.id == safety);
        if note.laid.is_some() {
            self.close_for_way_back(status, true).await?;
        }
        let Place { is_there, mut outcome } = self.find_place(way, &note, is_kept).await?;
        running.done(outcome.word.clone());
        if is_there && note.laid.is_some() {
            let views = self.prove_laid(running, way).await.map_err(|refused| {
                Refused::new(Code::RollbackUnfinished, refused.0.detail.clone())
            })?;
            self.lay_over(running, way, (&mut note, views.unwrap_or_default())).await?;
            outcome = Outcome::of("the volumes are what they were at that second");
        }
        if is_there {
            self.end_fill(running, group).await?;
        }
        let left = if outcome.is_undone { note.undone() } else { note.clone() };
        self.resume_after(running, way, &left).await?;
        if is_kept {
            self.drop_older_safeties(running, way, note.kept()).await?;
        }
        Ok(outcome)
    }

    /// It is where it goes, or roles were swapped for it and no more.
    async fn end_where_it_goes(
        &self,
        running: &mut Running,
        way: &Way,
        note: &RollbackEntry,
    ) -> Result<Outcome, Refused> {
        if note.only_swaps() {
            let outcome = Outcome::undone();
            running.done(outcome.word.clone());
            return Ok(outcome);
        }
        running.done("the group is where it goes");
        if note.is_open() {
            self.end_fill(running, way.entry.group()).await?;
            self.resume_after(running, way, note).await?;
            self.drop_older_safeties(running, way, note.kept()).await?;
        }
        Ok(Outcome::of("the group is where it was to go"))
    }

    /// Whether the group is at the snapshot. Volumes that took no host since are there if they are equal
    /// to it, and only then: those of a restore, and all of a group that goes to a second.
    async fn find_place(
        &self,
        way: &Way,
        note: &RollbackEntry,
        is_kept: bool,
    ) -> Result<Place, Refused> {
        if note.stage == Stage::Back {
            let outcome = Outcome::of("the group is at the base of that second");
            return Ok(Place { is_there: true, outcome });
        }
        if !is_kept {
            return Ok(Place { is_there: false, outcome: Outcome::undone() });
        }
        let (group, to) = (way.entry.group(), way.to);
        let filled = self.filled_in(group);
        let is_sure = note.laid.is_some() || filled.is_some();
        let closed = filled.filter(|_| note.laid.is_none());
        let is_meant = move |volume| closed.as_ref().is_none_or(|closed| closed.contains(&volume));
        let changed = self
            .shard_of(group)
            .run(move |state| async move { state.changed_bytes_of(group, to, is_meant).await })
            .await?;
        let (is_there, outcome) = match changed {
            Ok(0) => (true, Outcome::of("the volumes are what they were at this snapshot")),
            Ok(_) if is_sure => (false, Outcome::undone()),
            Ok(bytes) => {
                let word = format!(
                    "the volumes may differ from it in {}: in what was written since, or the rollback \
                     was not begun",
                    bytes_text(bytes)
                );
                (false, Outcome::of(word))
            }
            // Hosts stay out, and the next start looks again.
            Err(refused) if is_sure => {
                return Err(Refused::new(Code::RollbackUnfinished, refused.0.detail.clone()));
            }
            Err(refused) => (false, Outcome::of(refused.0.detail.clone())),
        };
        Ok(Place { is_there, outcome })
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
