//! Snapshots of all parts of a group at one cut, ruled from the gateway that was asked.
//!
//! ```text
//!   Hold ─▶ every part: hosts' changes wait ─ all do ─▶ TakeHeld ─▶ every part
//!                                           └ one does not ─▶ LetGo ─▶ every part, and it is named
//! ```
//!
//! Invariant: no part is told to take its snapshot before every part has said that it holds its hosts;
//! a part that was told nothing lets them go on by itself. What was taken by some parts only is
//! removed, and shown as lacking at the others while it is not.

use std::sync::Arc;

use api::{Code, SnapshotPart};
use block::{GatewayId, GroupId, SnapshotId};
use futures_util::future::join_all;
use mirror::{Command, GroupStatus};
use uuid::Uuid;

use super::{Deed, counted};
use crate::gateway::Gateway;
use crate::gateway::asks::{Answer, Question};
use crate::refusal::Refused;

/// Which part did what it was told, and why another did not.
type Done = (Option<GatewayId>, Result<(), Refused>);

fn first_failure(done: Vec<Done>) -> Result<(), Refused> {
    done.into_iter().try_for_each(|(_, result)| result)
}

impl Gateway {
    /// Tells every part the same at the same time, the one here too.
    async fn all_parts(&self, status: &GroupStatus, deed: &Deed) -> Vec<Done> {
        let here = async { (None, self.snapshot_deed(status.group, deed.clone()).await) };
        let companions = counted(status);
        let there = companions.iter().map(|companion| async move {
            (Some(*companion), self.tell_part(*companion, status.group, deed.clone()).await)
        });
        let (here, mut all) = tokio::join!(here, join_all(there));
        all.push(here);
        all
    }

    /// Takes a snapshot of all parts of a group.
    ///
    /// # Errors
    /// What a part refuses with, by its name: hosts go on everywhere, and no part keeps it.
    pub(in crate::gateway) async fn take_together(
        &self,
        status: &GroupStatus,
        snapshot: SnapshotId,
        (name, unix_ms): (String, u64),
    ) -> Result<(), Refused> {
        let from = status.parts.as_ref().map_or(0, |parts| parts.state.facts.from);
        let id = snapshot.uuid();
        let hold = Deed::Hold { snapshot: id, name, unix_ms, from };
        let held = first_failure(self.all_parts(status, &hold).await);
        if let Err(refused) = held {
            self.all_parts(status, &Deed::LetGo { snapshot: id }).await;
            return Err(refused);
        }
        let taken = first_failure(self.all_parts(status, &Deed::TakeHeld { snapshot: id }).await);
        let Err(refused) = taken else { return Ok(()) };
        let left = first_failure(self.all_parts(status, &Deed::Forget { snapshot: id }).await);
        Err(match left {
            Ok(()) => refused,
            Err(also) => {
                let detail = format!("{}; {}", refused.0.detail, also.0.detail);
                let next = format!("twinspan snapshot delete {} {id}", status.name);
                refused.saying(detail).next(next)
            }
        })
    }

    /// Removes a snapshot of all parts, first at the companions: a call that stopped at one of them
    /// can be made again.
    ///
    /// # Errors
    /// What a companion refuses with, by its name.
    pub(in crate::gateway) async fn remove_at_companions(
        &self,
        status: &GroupStatus,
        snapshot: SnapshotId,
    ) -> Result<(), Refused> {
        self.tell_all(status, &Deed::Forget { snapshot: snapshot.uuid() }).await
    }

    /// What the part here does for a snapshot of all.
    pub(super) async fn snapshot_deed(&self, group: GroupId, deed: Deed) -> Result<(), Refused> {
        let of = SnapshotId::from_uuid;
        match deed {
            Deed::Hold { snapshot, name, unix_ms, from } => {
                let command = Command::Hold { snapshot: of(snapshot), name, unix_ms, from };
                let manual_max = self.config.snapshots_max_manual;
                let held = self.shard_of(group).run(move |state| async move {
                    state.take_snapshot(group, command, manual_max).await
                });
                held.await?
            }
            Deed::TakeHeld { snapshot } => {
                let command = Command::TakeHeld { snapshot: of(snapshot) };
                let taken = self
                    .shard_of(group)
                    .run(move |state| async move { state.take_point(group, command).await });
                taken.await?
            }
            Deed::LetGo { snapshot } => {
                let let_go = move |state: &std::rc::Rc<crate::shard::ShardState>| {
                    state.let_go(group, of(snapshot));
                };
                self.shard_of(group).call(let_go).await?;
                Ok(())
            }
            Deed::Forget { snapshot } => {
                let removed =
                    self.command(group, Command::RemoveSnapshot { snapshot: of(snapshot) });
                match removed.await {
                    Err(refused) if refused.is(Code::NotFound) => Ok(()),
                    result => result,
                }
            }
            Deed::Suspend
            | Deed::Resume { .. }
            | Deed::Reverse { .. }
            | Deed::Recall
            | Deed::TakeOver { .. } => Err(Refused::new(Code::Internal, "no deed of a snapshot")),
        }
    }

    /// Which other parts keep which snapshots: by companion, what it keeps, or nothing if it cannot be
    /// asked.
    pub(in crate::gateway) async fn snapshots_of_parts(
        &self,
        status: &GroupStatus,
    ) -> Arc<[(Uuid, Option<Vec<Uuid>>)]> {
        let group = status.group.uuid();
        let ask = |companion: GatewayId| async move {
            let asked = self.ask(companion.uuid(), &Question::PartLook { group }).await;
            let look = asked.and_then(Answer::looked).ok();
            (companion.uuid(), look.and_then(|look| look.snapshots))
        };
        join_all(counted(status).into_iter().map(ask)).await.into()
    }
}

/// Which other parts keep a snapshot.
pub(in crate::gateway) fn parts_of(
    known: &[(Uuid, Option<Vec<Uuid>>)],
    snapshot: SnapshotId,
) -> Vec<SnapshotPart> {
    let part = |(gateway, kept): &(Uuid, Option<Vec<Uuid>>)| SnapshotPart {
        gateway: *gateway,
        keeps: kept.as_ref().map(|kept| kept.contains(&snapshot.uuid())),
    };
    known.iter().map(part).collect()
}
