//! The snapshots that backups read: taken here or at the primary, found, given back.
//!
//! ```text
//!   noted in the book ─▶ taken (a mirror asks its primary, and waits until it has it too)
//!   ─▶ read by the run ─▶ kept while it is the newest of its target ─▶ removed, forgotten
//! ```
//!
//! Invariant: a snapshot that was noted as taken and is missing is not taken again under its name: what
//! it held went with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use block::{GatewayId, GroupId, Identity, SnapshotId, VolumeId};
use mirror::{Command, GroupStatus, Role, SnapshotOrigin, SnapshotState, SnapshotStatus};
use uuid::Uuid;

use crate::backups::point::{Place, Point};
use crate::book::RunEntry;
use crate::clock::text;
use crate::gateway::Gateway;
use crate::gateway::asks::{Answer, Question};
use crate::refusal::Refused;

/// A mirror that has everything has a snapshot a moment after its primary; one that follows behind has
/// it after a cut or two.
const ARRIVAL_MAX: Duration = Duration::from_mins(1);
const ARRIVAL_PAUSE: Duration = Duration::from_millis(100);

impl Gateway {
    /// The snapshot of a run, taken if it was not.
    ///
    /// # Errors
    /// [`Code::BackupOver`] when it was taken and is gone; [`Code::NotInSync`] at a mirror that
    /// does not keep it; [`Code::VolumeRestoring`], [`Code::RollingBack`]; the group's refusal.
    pub(super) async fn point_of(&self, run: &RunEntry) -> Result<SnapshotStatus, Refused> {
        let (group, id) = (GroupId::from_uuid(run.group), SnapshotId::from_uuid(run.snapshot));
        let status = self.status_of(group).await?;
        if let Some(point) = find(&status, id) {
            return usable(point);
        }
        if run.has_snapshot {
            let detail = "the snapshot that it reads is gone: what it held cannot be read any more";
            return Err(Refused::new(Code::BackupOver, detail));
        }
        let name = point_name(run);
        match (status.role, &status.upstream) {
            (Role::Secondary, Some(upstream)) => {
                let primary = upstream.gateway.uuid();
                let question =
                    Question::Point { group: run.group, snapshot: run.snapshot, name: Some(name) };
                self.ask(primary, &question).await?.done()?;
                self.await_point(group, id, &upstream.site).await
            }
            _ => {
                self.require_not_restoring(&run.volumes)?;
                self.keep_point(group, id, name).await?;
                let status = self.status_of(group).await?;
                find(&status, id).map_or_else(|| Err(gone()), usable)
            }
        }
    }

    async fn keep_point(
        &self,
        group: GroupId,
        id: SnapshotId,
        name: String,
    ) -> Result<(), Refused> {
        let unix_ms = self.clock.unix_ms();
        let origin = SnapshotOrigin::Backup;
        let command = Command::Snapshot { snapshot: id, name, origin, unix_ms };
        // The limit is on what people ask for.
        let shard = self.shard_of(group);
        shard
            .run(move |state| async move { state.take_snapshot(group, command, usize::MAX).await })
            .await?
    }

    async fn await_point(
        &self,
        group: GroupId,
        id: SnapshotId,
        primary: &str,
    ) -> Result<SnapshotStatus, Refused> {
        let look = async {
            loop {
                let status = self.status_of(group).await?;
                if let Some(point) = find(&status, id) {
                    return usable(point);
                }
                tokio::time::sleep(ARRIVAL_PAUSE).await;
            }
        };
        tokio::time::timeout(ARRIVAL_MAX, look).await.unwrap_or_else(|_late| {
            let detail = format!(
                "{primary} took the snapshot and this mirror does not keep it: it has not everything"
            );
            Err(Refused::new(Code::NotInSync, detail))
        })
    }

    /// A mirror backs its copy up and needs a snapshot of what the primary has now, or, without a
    /// name, needs it no more.
    ///
    /// # Errors
    /// [`Code::Forbidden`] for who is no mirror of the group, or for a snapshot that is not of its
    /// backups; [`Code::VolumeRestoring`], [`Code::RollingBack`]; the group's refusal.
    pub(in crate::gateway) async fn point_for(
        &self,
        peer: &Identity,
        (group, snapshot): (Uuid, Uuid),
        name: Option<String>,
    ) -> Result<Answer, Refused> {
        let (group, id) = (GroupId::from_uuid(group), SnapshotId::from_uuid(snapshot));
        let status = self.require_mirror(peer, group).await?;
        if let Some(name) = name {
            self.require_whole(group.uuid())?;
            self.keep_point(group, id, name).await?;
            return Ok(Answer::Done);
        }
        let is_own = self.book.read().backups.needs(snapshot);
        match find(&status, id) {
            Some(point) if point.origin == SnapshotOrigin::Backup && !is_own => {
                self.command(group, Command::RemoveSnapshot { snapshot: id }).await?;
                Ok(Answer::Done)
            }
            Some(_) => Err(Refused::new(Code::Forbidden, "the snapshot is not of your backups")),
            None => Ok(Answer::Done),
        }
    }

    async fn require_mirror(
        &self,
        peer: &Identity,
        group: GroupId,
    ) -> Result<Arc<GroupStatus>, Refused> {
        let status = self.status_of(group).await?;
        let is_mirror = |gateway: GatewayId| status.legs.iter().any(|leg| leg.gateway == gateway);
        if is_mirror(peer.gateway) {
            return Ok(status);
        }
        let detail = format!("{} is no mirror of the group", peer.site);
        Err(Refused::new(Code::Forbidden, detail))
    }

    /// The volumes of a run's snapshot, to be read.
    ///
    /// # Errors
    /// [`Code::BackupOver`] when one is not in it.
    pub(super) async fn sources(
        &self,
        run: &RunEntry,
        point: &SnapshotStatus,
    ) -> Result<Vec<Arc<Point>>, Refused> {
        let group = GroupId::from_uuid(run.group);
        let status = self.status_of(group).await?;
        let names = self.book.read();
        let mut sources = Vec::new();
        for volume in run.volumes.iter().copied().map(VolumeId::from_uuid) {
            let here = point.volumes.iter().find(|(id, _)| *id == volume).map(|(_, here)| *here);
            let here = here.ok_or_else(gone)?;
            let place = Place { group, volume, here };
            let shard = self.shard_of(group).clone();
            let bytes = shard.call(move |state| state.point_bytes(place)).await??;
            let known = names.volume_by_id(volume).map(|(_, entry)| entry.name.clone());
            let others = status
                .snapshots
                .iter()
                .filter(|of| of.id != point.id && of.state == SnapshotState::Available);
            let others: HashMap<SnapshotId, SnapshotId> = others
                .filter_map(|of| {
                    let (_, here) = of.volumes.iter().find(|(id, _)| *id == volume)?;
                    Some((of.id, *here))
                })
                .collect();
            let name = known.unwrap_or_else(|| volume.to_string());
            sources.push(Arc::new(Point { shard, place, name, bytes, point: point.id, others }));
        }
        Ok(sources)
    }

    /// Lets a run's snapshot go as far as this process holds it.
    pub(super) fn release(&self, sources: &[Arc<Point>]) {
        for source in sources {
            let place = source.place;
            if source.shard.post(move |state| state.release_point(place)).is_err() {
                tracing::debug!("a snapshot's thread has ended, and with it what it held");
            }
        }
    }

    /// Removes the snapshots that no backup builds upon any more, and forgets them.
    pub(super) async fn drop_unneeded(&self) {
        let unneeded = self.book.read().backups.unneeded();
        for run in unneeded {
            if let Err(refused) = self.forget_run(run.backup).await {
                // Found again after the next backup.
                let why = refused.0.detail;
                tracing::warn!(snapshot = %run.snapshot, why, "a backup's snapshot stays");
            }
        }
    }

    /// Removes the snapshot of a run or of a base, and forgets it.
    ///
    /// # Errors
    /// The group's or the book's; it is remembered then.
    pub(super) async fn forget_run(&self, backup: Uuid) -> Result<(), Refused> {
        let pages = self.book.read();
        let Some(run) = pages.backups.runs.iter().find(|run| run.backup == backup) else {
            return Ok(());
        };
        let group = GroupId::from_uuid(run.group);
        if pages.group_by_id(group).is_some() {
            self.drop_point(group, SnapshotId::from_uuid(run.snapshot)).await?;
        }
        self.book
            .change(Vec::new(), |pages| {
                pages.backups.runs.retain(|run| run.backup != backup);
                Ok::<(), Refused>(())
            })
            .await
    }

    async fn drop_point(&self, group: GroupId, id: SnapshotId) -> Result<(), Refused> {
        let status = self.status_of(group).await?;
        if let (Role::Secondary, Some(upstream)) = (status.role, &status.upstream) {
            let question = Question::Point { group: group.uuid(), snapshot: id.uuid(), name: None };
            // Where the primary cannot be asked now the copy here goes alone.
            if let Err(refused) = self.ask(upstream.gateway.uuid(), &question).await {
                let why = refused.0.detail;
                tracing::warn!(snapshot = %id, why, "a backup's snapshot stays at the primary");
            }
        }
        if find(&status, id).is_none() {
            return Ok(());
        }
        match self.command(group, Command::RemoveSnapshot { snapshot: id }).await {
            Err(refused) if refused.is(Code::NotFound) => Ok(()),
            result => result,
        }
    }
}

fn find(status: &GroupStatus, id: SnapshotId) -> Option<&SnapshotStatus> {
    status.snapshots.iter().find(|of| of.id == id)
}

fn gone() -> Refused {
    Refused::new(Code::BackupOver, "the snapshot that it reads does not hold the volume")
}

fn usable(point: &SnapshotStatus) -> Result<SnapshotStatus, Refused> {
    if point.state.is_readable() { Ok(point.clone()) } else { Err(gone()) }
}

/// The time, and enough of the backup's identity to tell two of one second apart.
fn point_name(run: &RunEntry) -> String {
    let at: String =
        text(run.begun_ms / 1000 * 1000).chars().filter(char::is_ascii_alphanumeric).collect();
    let id = run.backup.simple().to_string();
    format!("auto.backup.{at}.{}", id.get(id.len() - 6..).unwrap_or(&id))
}
