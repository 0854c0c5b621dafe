//! Taking a backup, as one operation: noted, a snapshot taken, read, complete.
//!
//! ```text
//!   book: run noted ─▶ snapshot ─▶ book: has it ─▶ Repository::take or resume
//!   ─▶ book: complete, it is what the next one builds upon ─▶ older snapshots removed
//! ```
//!
//! Invariant: a run is in the book from before its snapshot until it is complete or given up, so that a
//! start after a kill goes on with it. What is cancelled is given up; what is interrupted is not.

use std::sync::Arc;

use api::units::bytes_text;
use api::{BackupCreate, Code, Operation};
use backup::{
    BackupError, BackupId, Consistency, Origin, Repository, Request, Source, Taken, Watch,
};
use block::{GroupId, VolumeId};
use uuid::Uuid;

use super::{date, followed};
use crate::backups::Connected;
use crate::backups::point::Point;
use crate::book::{GroupEntry, RunEntry};
use crate::clock::text;
use crate::gateway::members::check_name;
use crate::gateway::{Gateway, Known};
use crate::operations::{Running, under_way};
use crate::refusal::Refused;

/// Between two looks at a group that is being opened after a start.
const LOOK_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// Who asks for a backup.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asker {
    /// A policy; `None`: a person.
    pub(crate) policy: Option<String>,
}

/// What operations of runs are told to be done to.
pub(super) fn subject(group: &str, target: &str) -> String {
    format!("{group}>{target}")
}

impl Gateway {
    /// Begins a backup of a group or of one volume.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::BackupTargetUnknown`], [`Code::Busy`] while one of the same group to
    /// the same target is taken here, [`Code::VolumeRestoring`], [`Code::Filling`]. What goes wrong later
    /// is in the operation.
    pub(crate) async fn create_backup(
        self: &Arc<Self>,
        wanted: &BackupCreate,
        asker: Asker,
    ) -> Result<Operation, Refused> {
        let target = self.targets.get(&wanted.target)?;
        let (group, volumes) = self.find_backed_up(&wanted.of)?;
        let locked_until = wanted.locked_until.as_deref().map(date).transpose()?;
        self.require_not_restoring(&volumes)?;
        self.require_filled(&group)?;
        let begun_ms = self.clock.unix_ms();
        let name = match &wanted.name {
            Some(name) => {
                check_name(name)?;
                name.clone()
            }
            None => {
                let at = text(begun_ms / 1000 * 1000);
                at.chars().filter(char::is_ascii_alphanumeric).collect()
            }
        };
        let id = BackupId::new(target.now()).uuid();
        let run = RunEntry {
            backup: id,
            target: wanted.target.clone(),
            group: group.id,
            volumes,
            snapshot: Uuid::now_v7(),
            has_snapshot: false,
            is_taken: false,
            name,
            full: wanted.full,
            locked_until_s: locked_until.map(jiff::Timestamp::as_second),
            policy: asker.policy,
            begun_ms,
            error: None,
        };
        self.begin_run(&group, target, run, true).await
    }

    /// Goes on with a run that was interrupted.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Busy`].
    pub(crate) async fn resume_backup(
        self: &Arc<Self>,
        backup: Uuid,
    ) -> Result<Operation, Refused> {
        let pages = self.book.read();
        let is_it = |run: &&RunEntry| run.backup == backup && !run.is_taken;
        let Some(run) = pages.backups.runs.iter().find(is_it).cloned() else {
            return self.resume_restore(backup);
        };
        let target = self.targets.get(&run.target)?;
        let group = pages.group_by_id(GroupId::from_uuid(run.group)).cloned();
        let group = group.ok_or_else(|| Refused::new(Code::NotFound, "its group is gone"))?;
        self.begin_run(&group, target, run, false).await
    }

    async fn begin_run(
        self: &Arc<Self>,
        group: &GroupEntry,
        target: Arc<Connected>,
        run: RunEntry,
        is_new: bool,
    ) -> Result<Operation, Refused> {
        let subject = subject(&group.name, &run.target);
        if let Some(other) = self.operations.running_on(&subject) {
            return Err(Refused::new(Code::Busy, under_way(&other)));
        }
        let running = self.operations.begin_alone("backup", &subject).map_err(Refused)?;
        let shown = running.snapshot();
        if is_new {
            let noted = self.note_run(&run).await;
            if let Err(refused) = noted {
                running.end(Err((*refused.0).clone()));
                return Err(refused);
            }
        }
        let (gateway, name) = (Arc::clone(self), group.name.clone());
        let policy = run.policy.clone();
        self.tasks.spawn(async move { gateway.carry_out(running, &name, &target, run).await });
        let shown = shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))?;
        if let Some(policy) = policy {
            self.follow_policy(policy, shown.id);
        }
        Ok(shown)
    }

    /// Takes up the runs that the last stop cut short.
    pub(super) fn take_backups_up(self: &Arc<Self>) {
        let pages = self.book.read();
        for run in pages.backups.runs.iter().filter(|run| !run.is_taken).cloned() {
            let gateway = Arc::clone(self);
            self.tasks.spawn(async move { gateway.take_run_up(run).await });
        }
        drop(pages);
        self.take_restores_up();
    }

    async fn take_run_up(self: Arc<Self>, run: RunEntry) {
        let Some(group) = self.await_open(GroupId::from_uuid(run.group)).await else { return };
        let resumed = match self.targets.get(&run.target) {
            Ok(target) => self.begin_run(&group, target, run.clone(), false).await.map(drop),
            Err(refused) => Err(refused),
        };
        if let Err(refused) = resumed {
            let why = refused.0.detail;
            tracing::warn!(backup = %run.backup, why, "an interrupted backup is not taken up");
        }
    }

    /// The group once it is open; `None` when it is gone or the gateway stops before.
    pub(super) async fn await_open(&self, group: GroupId) -> Option<GroupEntry> {
        let look = async {
            loop {
                let entry = self.book.read().group_by_id(group).cloned()?;
                if let Known::Status(_, moment) = self.look_at(group).await
                    && moment.fresh
                {
                    return Some(entry);
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        self.stopping.run_until_cancelled(look).await.flatten()
    }

    /// The operation that takes this backup now.
    pub(super) fn running_backup(&self, backup: Uuid) -> Option<Uuid> {
        let pages = self.book.read();
        let run = pages.backups.runs.iter().find(|run| run.backup == backup && !run.is_taken)?;
        let group = pages.group_by_id(GroupId::from_uuid(run.group))?;
        self.operations.running_on(&subject(&group.name, &run.target)).map(|running| running.id)
    }

    /// The group, and the volumes of it that a name stands for.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(super) fn find_backed_up(&self, name: &str) -> Result<(GroupEntry, Vec<Uuid>), Refused> {
        let pages = self.book.read();
        if let Some(group) = pages.group(name) {
            return Ok((group.clone(), group.volumes.iter().map(|volume| volume.id).collect()));
        }
        if let Some((group, volume)) = pages.volume(name) {
            return Ok((group.clone(), vec![volume.id]));
        }
        let detail = format!("there is no group or volume {name:?} at {}", self.config.site.name);
        Err(Refused::new(Code::NotFound, detail))
    }

    async fn note_run(&self, run: &RunEntry) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                let runs = &mut pages.backups.runs;
                match runs.iter_mut().find(|of| of.backup == run.backup) {
                    Some(known) => *known = run.clone(),
                    None => runs.push(run.clone()),
                }
                Ok::<(), Refused>(())
            })
            .await
    }

    async fn carry_out(&self, running: Running, group: &str, target: &Connected, run: RunEntry) {
        let mut running = running;
        let cancel = running.cancellable(&self.stopping);
        let watch = target.watch(cancel.clone());
        let began_ms = self.clock.steady_ms();
        let mut run = run;
        let result = self.take_backup(&mut running, (group, target), &mut run, &watch).await;
        let is_stopping = self.stopping.is_cancelled();
        let result = match result {
            Ok(()) => Ok(()),
            // The next start goes on with it.
            Err(refused) if is_stopping => Err(refused),
            Err(refused) => Err(self.not_taken(&mut running, (target, &run), refused).await),
        };
        let took_ms = self.clock.steady_ms().saturating_sub(began_ms);
        self.tell_run((group, target), &run, &result, took_ms);
        running.end(result.map_err(|refused| *refused.0));
        self.drop_unneeded().await;
    }

    async fn take_backup(
        &self,
        running: &mut Running,
        (group, target): (&str, &Connected),
        run: &mut RunEntry,
        watch: &Arc<Watch>,
    ) -> Result<(), Refused> {
        running.step(&format!("open {}", target.config.name));
        // Where there are backups of this gateway there is a repository: one that is gone is not mounted,
        // or was removed, and a new one in its place would hide that.
        let has_backups =
            self.book.read().backups.lasts.iter().any(|last| last.target == run.target);
        let repository = target.open(!has_backups).await.map_err(|error| match error {
            BackupError::NoRepository if has_backups => {
                let name = &target.config.name;
                let detail = format!(
                    "there is no repository at {}, and this gateway has backups there: it is not \
                     mounted, or was removed; if backups are to begin anew, give the target another name",
                    target.config.url
                );
                Refused::new(Code::BackupTargetDown, detail)
                    .next(format!("twinspan backup target check {name}"))
            }
            error => Refused::from(error),
        })?;
        running.done(target.config.url.clone());
        running.step("keep the volumes as they are now");
        let point = self.point_of(run).await?;
        if !run.has_snapshot {
            run.has_snapshot = true;
            self.note_run(run).await?;
        }
        let sources = self.sources(run, &point).await?;
        running.done(format!("snapshot {}", point.name));
        running.step("read and store what the target does not have");
        let work = move_blocks((target, &repository), (group, run), &sources, watch);
        let taken = followed(running, watch, work).await;
        self.release(&sources);
        let taken = taken?;
        running.done(taken_text(&taken));
        let sum = |of: fn(&backup::TakenVolume) -> u64| taken.volumes.iter().map(of).sum();
        let (read, stored) = (sum(|of| of.read_bytes), sum(|of| of.stored_bytes));
        crate::metrics::backups::moved(&target.config.name, read, stored);
        running.step("keep the snapshot for the next one");
        let backup = run.backup;
        self.book
            .change(Vec::new(), |pages| {
                pages.backups.complete(backup);
                Ok::<(), Refused>(())
            })
            .await?;
        running.done("it reads what changed since");
        Ok(())
    }

    /// It was not taken: a run that can be gone on with is remembered with the reason, any other is
    /// given up.
    async fn not_taken(
        &self,
        running: &mut Running,
        (target, run): (&Connected, &RunEntry),
        refused: Refused,
    ) -> Refused {
        running.failed(&refused.0.detail);
        let lasting = [
            Code::BackupTargetDown,
            Code::BackupTargetRefused,
            Code::BackupTargetInvalid,
            Code::BackupKey,
            Code::ShardSilent,
            Code::NotOpened,
            Code::PeerUnreachable,
        ];
        let can_go_on = lasting.iter().any(|code| refused.0.code == code.as_str())
            || (refused.is(Code::BackupInterrupted) && run.has_snapshot);
        if can_go_on && run.has_snapshot {
            let error = Some((refused.0.code.clone(), refused.0.detail.clone()));
            let noted = RunEntry { error, ..run.clone() };
            if let Err(other) = self.note_run(&noted).await {
                tracing::warn!(why = other.0.detail, "why a backup was interrupted is not noted");
            }
            return refused.next(format!("twinspan backup resume {}", run.backup));
        }
        running.step("give it up");
        // Without a snapshot, or at its limit, it was never begun: nothing of it is in the bucket.
        let is_absent = !run.has_snapshot || refused.is(Code::BackupLimit);
        let given_up = if is_absent {
            self.forget_run(run.backup).await
        } else {
            self.give_up(target, run).await
        };
        match given_up {
            Ok(()) => running.done("what it stored goes with the next collection"),
            Err(other) => running.failed(&other.0.detail),
        }
        refused
    }

    async fn give_up(&self, target: &Connected, run: &RunEntry) -> Result<(), Refused> {
        match target.open(false).await {
            Ok(repository) => {
                target.note(repository.abandon(BackupId::from_uuid(run.backup)).await)?;
            }
            Err(BackupError::NoRepository) => {}
            Err(error) => return Err(Refused::from(error)),
        }
        self.forget_run(run.backup).await
    }

    fn tell_run(
        &self,
        (group, target): (&str, &Connected),
        run: &RunEntry,
        result: &Result<(), Refused>,
        took_ms: u64,
    ) {
        let name = &target.config.name;
        let text = match result {
            Ok(()) => format!("{} of {group} was taken to {name}", run.name),
            Err(refused) => format!("{} of {group} to {name}: {}", run.name, refused.0.detail),
        };
        self.events.tell("backup", &run.backup.to_string(), text);
        crate::metrics::backups::run(group, name, result.is_ok(), took_ms);
    }

    /// Volumes that are being restored, or half way back to a second, are not backed up, and are no
    /// mirror's source.
    ///
    /// # Errors
    /// [`Code::VolumeRestoring`], [`Code::RollingBack`].
    pub(crate) fn require_not_restoring(&self, volumes: &[Uuid]) -> Result<(), Refused> {
        let pages = self.book.read();
        for volume in volumes {
            if let Some((group, _)) = pages.volume_by_id(VolumeId::from_uuid(*volume)) {
                self.require_not_half_way(group.id)?;
            }
        }
        self.require_no_restore(volumes)
    }

    /// # Errors
    /// [`Code::VolumeRestoring`].
    pub(in crate::gateway) fn require_no_restore(&self, volumes: &[Uuid]) -> Result<(), Refused> {
        let pages = self.book.read();
        let Some(volume) = volumes.iter().find(|volume| pages.backups.fill_of(**volume).is_some())
        else {
            return Ok(());
        };
        let known = pages.volume_by_id(VolumeId::from_uuid(*volume));
        let name = known.map_or_else(|| volume.to_string(), |(_, entry)| entry.name.clone());
        let detail = format!("volume {name} is being restored from a backup");
        Err(Refused::new(Code::VolumeRestoring, detail))
    }
}

/// Goes on with the run from what the bucket has of it, or begins it.
async fn move_blocks(
    (target, repository): (&Connected, &Repository),
    (group, run): (&str, &RunEntry),
    sources: &[Arc<Point>],
    watch: &Arc<Watch>,
) -> Result<Taken, Refused> {
    let sources: Vec<Arc<dyn Source>> =
        sources.iter().map(|source| Arc::clone(source) as Arc<dyn Source>).collect();
    let id = BackupId::from_uuid(run.backup);
    // A run that was begun is gone on with, whatever the catalogue says.
    match repository.resume(id, &sources, watch).await {
        Err(BackupError::NotResumable { .. }) => {}
        resumed => return Ok(target.note(resumed)?),
    }
    let request = Request {
        origin: if run.policy.is_some() { Origin::Scheduled } else { Origin::Manual },
        policy: run.policy.clone(),
        consistency: Consistency::Crash,
        group: Some((GroupId::from_uuid(run.group), group.to_owned())),
        locked_until: run.locked_until_s.and_then(|s| jiff::Timestamp::from_second(s).ok()),
        full: run.full,
        backups_max: target.config.backups_max,
        ..Request::new(id, run.name.clone())
    };
    let mut catalogue = target.catalogue().await?;
    catalogue.set_now(target.now());
    Ok(target.note(repository.take(&request, &sources, &mut catalogue, watch).await)?)
}

fn taken_text(taken: &Taken) -> String {
    let sum = |of: fn(&backup::TakenVolume) -> u64| taken.volumes.iter().map(of).sum::<u64>();
    let full = taken.volumes.iter().filter(|volume| volume.parent.is_none()).count();
    let how = match (full, taken.volumes.len()) {
        (0, _) => "incremental".to_owned(),
        (full, all) if full == all => "full".to_owned(),
        (full, all) => format!("{full} of {all} volumes full"),
    };
    format!(
        "{how}: {} read, {} stored",
        bytes_text(sum(|volume| volume.read_bytes)),
        bytes_text(sum(|volume| volume.stored_bytes))
    )
}
