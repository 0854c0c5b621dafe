//! What a stop or a kill cut short of a way back, taken up at the next start.
//!
//! Invariant: it is decided by what is recorded alone. A group that is at the base of a second and not
//! yet at the second is brought there before anybody is let in.

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
            result = homed.and(result);
        }
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
        let mut note = note.clone();
        if status.role != Role::Primary {
            // Another site serves the group now; its sessions are no matter of this one.
            self.note_rollback(way.entry.group(), None).await?;
            self.open_after_way_back(status).await?;
            running.done("nothing is left to do here");
            return Ok("another site serves the group now".to_owned());
        }
        if note.stage == Stage::There {
            running.done("the group is where it goes");
            return Ok("the group is where it was to go".to_owned());
        }
        let safety = SnapshotId::from_uuid(note.safety);
        let is_kept = status.snapshots.iter().any(|of| of.id == safety);
        let (group, to) = (way.entry.group(), way.to);
        if note.laid.is_some() {
            self.close_for_way_back(status, true).await?;
        }
        let mut is_back = note.stage == Stage::Back;
        let word = if is_back {
            "the group is at the base of that second".to_owned()
        } else if is_kept {
            let shard = self.shard_of(group);
            let changed =
                shard.run(move |state| async move { state.changed_bytes(group, to).await }).await?;
            // No host was let in since: what is equal to the base is there because of it.
            is_back = note.laid.is_some() && changed == Ok(0);
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
        if is_back {
            let views = self.prove_laid(running, way).await.map_err(|refused| {
                Refused::new(Code::RollbackUnfinished, refused.0.detail.clone())
            })?;
            self.lay_over(running, way, (&mut note, views.unwrap_or_default())).await?;
        }
        self.resume_after(running, way, &note).await?;
        if is_kept {
            self.drop_older_safeties(running, way, note.kept()).await?;
        }
        Ok(if is_back { "the volumes are what they were at that second".to_owned() } else { word })
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
