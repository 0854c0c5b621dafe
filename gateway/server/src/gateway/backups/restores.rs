//! Restoring from a backup, as one operation: to the volumes that it was taken of, or to a new one.
//!
//! ```text
//!   original   book: noted, with its pin ─▶ volumes take no host ─▶ sessions suspended ─▶ what is
//!              there is kept ─▶ pin put ─▶ filled ─▶ sessions resumed, by delta ─▶ book: over
//!              ─▶ hosts again ─▶ pin removed
//!   new        book: pin noted ─▶ pin put ─▶ volume made with the backup as its origin: hosts use it
//!              ─▶ filled ─▶ pin removed ─▶ book: over
//! ```
//!
//! Invariant: an original that is noted as being restored takes no host, through every restart, until
//! all of it is there, or the group went back to a snapshot, or it was deleted, or the copy here is that
//! of another primary.

mod fresh;
mod originals;
mod overtaken;

pub(crate) use originals::Deed;

use std::sync::Arc;
use std::time::Duration;

use api::units::bytes_text;
use api::{BackupRestoreRequest, Code, Operation};
use backup::{BackupError, BackupId, HeldVolume, Restore, Sink, Status, Watch};
use block::{GroupId, VolumeId};
use uuid::Uuid;

use super::{Found, followed};
use crate::backups::Connected;
use crate::backups::filling::Filling;
use crate::book::{FillEntry, FilledEntry, GroupEntry};
use crate::gateway::Gateway;
use crate::operations::{Running, under_way};
use crate::refusal::Refused;

/// How often it is made durable how far a restore is.
const NOTE_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks at what decides about a restore: a way back that comes first, another primary.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// A restore that is to be carried out.
struct Task {
    fill: FillEntry,
    target: Arc<Connected>,
    group: String,
    backup: String,
    drop_hosts: bool,
}

impl Gateway {
    /// Begins a restore.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Invalid`]; for a new volume [`Code::Exists`], [`Code::BadSize`], or what the store says; for
    /// the original [`Code::PlanToken`], [`Code::RestoreProtected`], [`Code::HostsAttached`],
    /// [`Code::Busy`]. Nothing was changed then; what goes wrong later is in the operation.
    pub(crate) async fn restore_backup(
        self: &Arc<Self>,
        name: &str,
        request: &BackupRestoreRequest,
    ) -> Result<Operation, Refused> {
        let found = self.find_backup(name).await?;
        match &request.to {
            Some(to) => self.restore_to_new(&found, to, request).await,
            None => self.restore_to_original(&found, request).await,
        }
    }

    fn task(&self, fill: FillEntry, target: Arc<Connected>, drop_hosts: bool) -> Task {
        let pages = self.book.read();
        let known = pages.group_by_id(GroupId::from_uuid(fill.group));
        let group = known.map_or_else(|| fill.group.to_string(), |group| group.name.clone());
        let backup = fill.backup.to_string();
        Task { fill, target, group, backup, drop_hosts }
    }

    fn start(self: &Arc<Self>, running: Running, task: Task) -> Result<Operation, Refused> {
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move { gateway.carry_restore_out(running, task).await });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    /// Goes on with a restore from this backup that was interrupted.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Busy`]; [`Code::RollingBack`] while a way back of the group is not
    /// over, which says what becomes of the restore.
    pub(super) fn resume_restore(self: &Arc<Self>, backup: Uuid) -> Result<Operation, Refused> {
        let pages = self.book.read();
        let (mut waiting, mut busy) = (None, None);
        for fill in pages.backups.fills.iter().filter(|fill| fill.backup == backup) {
            let group = pages.group_by_id(GroupId::from_uuid(fill.group));
            let Some(group) = group.map(|group| group.name.clone()) else { continue };
            match self.operations.running_on(&group) {
                Some(other) => busy = Some(Refused::new(Code::Busy, under_way(&other))),
                None if pages.has_open_way(fill.group) => busy = Some(on_its_way(&group)),
                None => waiting = Some((group, fill.clone())),
            }
        }
        if let Some((group, fill)) = waiting {
            let target = self.targets.get(&fill.target)?;
            let running = self.operations.begin_alone("backup-restore", &group).map_err(Refused)?;
            return self.start(running, self.task(fill, target, false));
        }
        for pin in pages.backups.pins.iter().filter(|pin| pin.backup == backup) {
            match self.follow_restore(pin) {
                Ok(None) => {}
                Ok(Some(operation)) => return Ok(operation),
                Err(refused) => busy = Some(refused),
            }
        }
        Err(busy.unwrap_or_else(|| {
            let detail = format!("nothing of backup {backup} was interrupted here");
            Refused::new(Code::NotFound, detail)
        }))
    }

    /// Takes up the restores that the last stop cut short.
    pub(super) fn take_restores_up(self: &Arc<Self>) {
        for fill in self.book.read().backups.fills.iter().cloned() {
            let gateway = Arc::clone(self);
            self.tasks.spawn(async move {
                let group = GroupId::from_uuid(fill.group);
                let resumed = match gateway.await_open(group).await {
                    Some(entry) => {
                        gateway.await_no_way_back(&entry).await;
                        gateway.take_restore_up(&fill)
                    }
                    None if gateway.stopping.is_cancelled() => Ok(()),
                    // Its group is gone.
                    None => gateway.forget_fill(fill.group).await,
                };
                if let Err(refused) = resumed {
                    let why = refused.0.detail;
                    tracing::warn!(backup = %fill.backup, why, "a restore is not taken up");
                }
            });
        }
        self.take_new_ones_up();
    }

    /// A way back of the group that was cut short says first whether there is anything to go on with.
    async fn await_no_way_back(&self, entry: &GroupEntry) {
        let is_over = || {
            let running = self.operations.running_on(&entry.name);
            let is_running = running.is_some_and(|running| running.kind == "rollback");
            !is_running && !self.book.read().has_open_way(entry.id)
        };
        let look = async {
            while !is_over() {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        let _stopped = self.stopping.run_until_cancelled(look).await;
    }

    fn take_restore_up(self: &Arc<Self>, fill: &FillEntry) -> Result<(), Refused> {
        let is_left = self.book.read().backups.fill_in(fill.group).is_some();
        if !is_left || self.stopping.is_cancelled() {
            return Ok(());
        }
        self.resume_restore(fill.backup).map(drop)
    }

    async fn carry_restore_out(&self, running: Running, task: Task) {
        let mut running = running;
        let cancel = running.cancellable(&self.stopping);
        let watch = task.target.watch(cancel.clone());
        let mut task = task;
        let result = self.restore_all(&mut running, &mut task, &watch).await;
        let result = match result {
            Err(refused) if !self.stopping.is_cancelled() => {
                Err(self.not_restored(&mut running, &task, refused).await)
            }
            result => result,
        };
        let text = match &result {
            Ok(()) => format!("restored from backup {}", task.backup),
            Err(refused) => format!("restore from backup {}: {}", task.backup, refused.0.detail),
        };
        self.events.tell("backup", &task.group, text);
        crate::metrics::backups::restore(&task.group, &task.target.config.name, result.is_ok());
        running.end(result.map_err(|refused| *refused.0));
    }

    async fn restore_all(
        &self,
        running: &mut Running,
        task: &mut Task,
        watch: &Arc<Watch>,
    ) -> Result<(), Refused> {
        let group = GroupId::from_uuid(task.fill.group);
        let volumes = ids(&task.fill);
        self.require_not_overtaken(&task.fill).await?;
        running.step("let no host in until it is done");
        let drop_hosts = task.drop_hosts;
        let shard = self.shard_of(group);
        shard.call(move |state| state.close_to_hosts(group, &volumes, drop_hosts)).await??;
        running.done("none is attached");
        self.keep_original(running, &mut task.fill).await?;
        for at in 0..task.fill.volumes.len() {
            self.fill_volume(running, task, at, watch).await?;
        }
        running.step("let hosts in");
        self.give_back(running, &task.fill).await?;
        running.done("they may attach");
        self.drop_older_originals(&task.fill).await;
        Ok(())
    }

    async fn fill_volume(
        &self,
        running: &mut Running,
        task: &mut Task,
        at: usize,
        watch: &Arc<Watch>,
    ) -> Result<(), Refused> {
        let Some(filled) = task.fill.volumes.get(at).cloned().filter(|of| !of.is_filled) else {
            return Ok(());
        };
        let (group, volume) =
            (GroupId::from_uuid(task.fill.group), VolumeId::from_uuid(filled.volume));
        let name = self.book.read().volume_by_id(volume).map(|(_, entry)| entry.name.clone());
        let name = name.ok_or_else(|| {
            Refused::new(Code::NotFound, "the volume was deleted while it was restored")
        })?;
        running.step(&format!("fill {name}"));
        let status = self.status_of(group).await?;
        let known = status.volumes.iter().find(|of| of.volume == volume);
        let bytes = known.map(|of| of.bytes).ok_or_else(|| {
            Refused::new(Code::NotFound, "the volume left its group while it was restored")
        })?;
        let shard = self.shard_of(group).clone();
        let sink = Filling::new(shard, (group, volume), bytes);
        let repository = task.target.open(false).await?;
        let (id, from) = (BackupId::from_uuid(task.fill.backup), VolumeId::from_uuid(filled.from));
        let mut restore = Restore::new(id, from, filled.position, task.target.now());
        if let Some(pin) = task.fill.pin {
            restore = restore.pinned(BackupId::from_uuid(pin));
        }
        let work = async {
            let restored = repository.restore(&restore, &sink, watch);
            let mut restored = std::pin::pin!(restored);
            loop {
                tokio::select! {
                    result = &mut restored => return result,
                    () = tokio::time::sleep(NOTE_PAUSE) => {
                        self.note_position(&mut task.fill, at, &restore, &sink).await;
                    }
                }
            }
        };
        let result = task.target.note(followed(running, watch, work).await);
        match result {
            Ok(()) => {}
            Err(BackupError::Sink { source }) if sink.failed().is_some() => {
                let code = sink.failed().unwrap_or(Code::BackupInterrupted);
                self.note_position(&mut task.fill, at, &restore, &sink).await;
                return Err(Refused::new(code, format!("volume {name}: {source}")));
            }
            Err(error) => {
                self.note_position(&mut task.fill, at, &restore, &sink).await;
                return Err(Refused::from(error));
            }
        }
        if let Some(filled) = task.fill.volumes.get_mut(at) {
            filled.is_filled = true;
        }
        self.note_fill(&task.fill).await?;
        running.done(bytes_text(bytes));
        Ok(())
    }

    /// Remembers durably how far it is; if that fails, the restore goes on from further back.
    async fn note_position(
        &self,
        fill: &mut FillEntry,
        at: usize,
        restore: &Restore,
        sink: &Filling,
    ) {
        let position = restore.position();
        let Some(filled) = fill.volumes.get_mut(at).filter(|of| of.position < position) else {
            return;
        };
        if let Err(error) = sink.flush().await {
            tracing::debug!(%error, "how far a restore is is not noted");
            return;
        }
        filled.position = position;
        if let Err(refused) = self.note_fill(fill).await {
            tracing::debug!(why = refused.0.detail, "how far a restore is is not noted");
        }
    }

    /// It did not come to its end.
    async fn not_restored(&self, running: &mut Running, task: &Task, refused: Refused) -> Refused {
        running.failed(&refused.0.detail);
        if !self.is_begun(&task.fill) {
            return self.undo_original(running, task, refused).await;
        }
        let error = Some((refused.0.code.clone(), refused.0.detail.clone()));
        if let Err(other) = self.note_fill(&FillEntry { error, ..task.fill.clone() }).await {
            tracing::warn!(why = other.0.detail, "why a restore was interrupted is not noted");
        }
        let group = &task.group;
        refused.next(format!(
            "twinspan backup resume {}, or go back to what was there: twinspan snapshot list {group}",
            task.backup
        ))
    }

    pub(super) async fn note_fill(&self, fill: &FillEntry) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                let fills = &mut pages.backups.fills;
                match fills.iter_mut().find(|of| of.group == fill.group) {
                    Some(known) => *known = fill.clone(),
                    None => fills.push(fill.clone()),
                }
                Ok::<(), Refused>(())
            })
            .await
    }

    /// The volumes of a group that are being restored over, if some are.
    pub(in crate::gateway) fn filled_in(&self, group: GroupId) -> Option<Vec<VolumeId>> {
        self.book.read().backups.fill_in(group.uuid()).map(ids)
    }

    /// The group went back to a snapshot: it is whole without the restore, which is over.
    pub(in crate::gateway) async fn end_fill(
        &self,
        running: &mut Running,
        group: GroupId,
    ) -> Result<(), Refused> {
        let pages = self.book.read();
        let Some(fill) = pages.backups.fill_in(group.uuid()) else { return Ok(()) };
        self.give_back(running, fill).await
    }

    /// The volumes are whole: their sessions go on, and hosts may attach.
    async fn give_back(&self, running: &mut Running, fill: &FillEntry) -> Result<(), Refused> {
        self.resume_for_restore(running, fill).await?;
        self.let_hosts_in(fill).await
    }

    /// Nothing of a group is being restored any more, and hosts may attach.
    async fn let_hosts_in(&self, fill: &FillEntry) -> Result<(), Refused> {
        let (group, volumes) = (GroupId::from_uuid(fill.group), ids(fill));
        self.forget_fill(fill.group).await?;
        Ok(self.shard_of(group).call(move |state| state.open_to_hosts(group, &volumes)).await?)
    }

    /// Nothing of a group is being restored any more.
    pub(in crate::gateway) async fn forget_fill(&self, group: Uuid) -> Result<(), Refused> {
        if !self.book.read().backups.fills.iter().any(|fill| fill.group == group) {
            return Ok(());
        }
        self.book
            .change(Vec::new(), |pages| {
                pages.backups.fills.retain(|fill| fill.group != group);
                Ok::<(), Refused>(())
            })
            .await?;
        self.targets.unneeded.notify_one();
        Ok(())
    }
}

/// What is refused of a group while a restore over one of its volumes is not over, and what ends it.
pub(in crate::gateway) fn not_over(group: &str, fill: &FillEntry) -> Refused {
    let backup = fill.backup;
    let detail = format!("the restore of group {group} from backup {backup} is not over");
    Refused::new(Code::VolumeRestoring, detail).next(format!(
        "twinspan backup resume {backup}, or go back to what was there: twinspan snapshot list {group}"
    ))
}

fn on_its_way(group: &str) -> Refused {
    let detail = format!("group {group} is on its way back to a snapshot");
    let next = format!(
        "wait for it: twinspan operation list; if it stopped: restart the gateway, or go back again: \
         twinspan snapshot list {group}"
    );
    Refused::new(Code::RollingBack, detail).next(next)
}

fn ids(fill: &FillEntry) -> Vec<VolumeId> {
    fill.volumes.iter().map(|of| VolumeId::from_uuid(of.volume)).collect()
}

fn fill_entry(found: &Found, group: GroupId, volumes: Vec<FilledEntry>) -> FillEntry {
    let pin = BackupId::new(found.target.now()).uuid();
    FillEntry {
        backup: found.entry.id.uuid(),
        target: found.target.config.name.clone(),
        group: group.uuid(),
        volumes,
        sessions: Vec::new(),
        safety: None,
        pin: Some(pin),
        error: None,
    }
}

/// The volumes of a backup that are meant.
///
/// # Errors
/// [`Code::WrongState`] for one that cannot be read, [`Code::NotFound`] for a volume that it lacks.
fn wanted(found: &Found, volume: Option<&str>) -> Result<Vec<HeldVolume>, Refused> {
    let id = found.entry.id;
    let held = match (found.entry.status, &found.entry.held) {
        (Status::Available | Status::Restoring, Some(held)) => held,
        (status, _) => {
            let detail = format!(
                "backup {id} is {}, and only an available one is restored",
                status.as_str()
            );
            let refused = Refused::new(Code::WrongState, detail);
            return Err(refused.next(format!("twinspan backup show {id}")));
        }
    };
    let Some(name) = volume else { return Ok(held.volumes.clone()) };
    let uuid = Uuid::parse_str(name).ok();
    let is_it = |of: &&HeldVolume| of.name == name || Some(of.id.uuid()) == uuid;
    let one = held.volumes.iter().find(is_it).cloned().ok_or_else(|| {
        let names: Vec<&str> = held.volumes.iter().map(|of| of.name.as_str()).collect();
        Refused::new(
            Code::NotFound,
            format!("it holds no volume {name:?}, but {}", names.join(", ")),
        )
    })?;
    Ok(vec![one])
}
