//! Backups: listed, verified, deleted, collected; their runs and restores stand in the files below.
//!
//! Invariant: a target that does not answer is told as silent; what others hold is listed all the
//! same. Nothing is deleted from a bucket but by an operator's word or by a policy's.

mod bases;
mod points;
pub(crate) mod policies;
pub(crate) mod restores;
mod runs;

pub(crate) use runs::Asker;

use std::sync::Arc;

use api::units::bytes_text;
use api::{
    Backup, BackupList, BackupTargetCheck, BackupTargetList, Code, Operation, OperationProgress,
    Problem, SilentTarget,
};
use backup::{BackupError, BackupId, Entry, Status, Watch};
use uuid::Uuid;

use super::Gateway;
use crate::backups::{Connected, show};
use crate::book::{BackupPages, RunEntry};
use crate::operations::Running;
use crate::refusal::Refused;

/// Between two words on how far something is.
const TELL_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);
/// Between two questions to a target that nobody uses.
const PROBE_PAUSE: std::time::Duration = std::time::Duration::from_mins(5);
/// Damage that is told one by one.
const DAMAGE_TOLD: usize = 8;

/// A backup that was found, and where.
pub(crate) struct Found {
    pub(crate) target: Arc<Connected>,
    pub(crate) entry: Entry,
}

impl Gateway {
    /// The targets that are configured.
    #[must_use]
    pub(crate) fn show_targets(&self) -> BackupTargetList {
        let items = self.targets.all().iter().map(|target| show::target(target)).collect();
        BackupTargetList { as_of: self.clock.rfc3339(), items }
    }

    /// Asks a target with the credentials that backups use.
    ///
    /// # Errors
    /// [`Code::BackupTargetUnknown`], or what is wrong with it.
    pub(crate) async fn check_target(&self, name: &str) -> Result<BackupTargetCheck, Refused> {
        let target = self.targets.get(name)?;
        let began = self.clock.steady_ms();
        // New credentials count at once.
        target.forget().await;
        let backups = match target.catalogue().await {
            Ok(catalogue) => Some(catalogue.entries().count() as u64),
            Err(BackupError::NoRepository) => None,
            Err(error) => return Err(Refused::from(error)),
        };
        Ok(BackupTargetCheck {
            target: name.to_owned(),
            repository: backups.is_some(),
            backups,
            took_ms: self.clock.steady_ms().saturating_sub(began),
        })
    }

    /// Takes up what the last stop cut short, and begins what goes on for as long as the gateway runs.
    pub(crate) fn begin_backups(self: &Arc<Self>) {
        self.take_backups_up();
        self.tasks.spawn(Arc::clone(self).probe_targets());
        self.tasks.spawn(Arc::clone(self).end_overtaken());
        self.tasks.spawn(Arc::clone(self).run_policies());
    }

    /// Asks every target now and then, so that one that is lost is told before it is needed.
    async fn probe_targets(self: Arc<Self>) {
        let stopping = self.stopping.clone();
        let probe = async {
            loop {
                for target in self.targets.all() {
                    let before = target.is_up();
                    let asked = target.catalogue().await;
                    if let (Err(error), Some(true)) = (&asked, before)
                        && target.is_up() == Some(false)
                    {
                        self.events.tell("backup", &target.config.name, error.to_string());
                    }
                }
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        };
        stopping.run_until_cancelled(probe).await;
    }

    /// All backups of all targets, or of one, oldest first.
    ///
    /// # Errors
    /// [`Code::BackupTargetUnknown`].
    pub(crate) async fn show_backups(&self, only: Option<&str>) -> Result<BackupList, Refused> {
        let targets = match only {
            Some(name) => vec![self.targets.get(name)?],
            None => self.targets.all().to_vec(),
        };
        let looks = targets.iter().map(|target| target.catalogue());
        let looks = futures_util::future::join_all(looks).await;
        let pages = self.book.read();
        let (mut items, mut silent) = (Vec::new(), Vec::new());
        for (target, look) in targets.iter().zip(looks) {
            let name = &target.config.name;
            match look {
                Ok(catalogue) => {
                    let shown =
                        |entry: &Entry| show::backup(name, entry, run_of(&pages.backups, entry));
                    items.extend(catalogue.entries().map(shown));
                }
                Err(BackupError::NoRepository) => {}
                Err(error) => {
                    let error: Problem = *Refused::from(error).0;
                    silent.push(SilentTarget { target: name.clone(), error });
                }
            }
        }
        items.sort_by(|a: &Backup, b| (&a.created_at, a.id).cmp(&(&b.created_at, b.id)));
        Ok(BackupList { as_of: self.clock.rfc3339(), items, silent, next: None })
    }

    /// Reads everything that a target says of its backups anew.
    ///
    /// # Errors
    /// What is wrong with the target.
    pub(crate) async fn rebuild_catalogue(&self, name: &str) -> Result<BackupList, Refused> {
        let target = self.targets.get(name)?;
        target.forget().await;
        target.catalogue().await?;
        self.show_backups(Some(name)).await
    }

    /// The backup with this identity, or the only one with this name.
    ///
    /// # Errors
    /// [`Code::NotFound`]; a target that cannot be asked, when no other has it.
    pub(crate) async fn find_backup(&self, name: &str) -> Result<Found, Refused> {
        let id = Uuid::parse_str(name).ok().map(BackupId::from_uuid);
        let (mut found, mut silent): (Vec<Found>, Option<BackupError>) = (Vec::new(), None);
        for target in self.targets.all() {
            let catalogue = match target.catalogue().await {
                Ok(catalogue) => catalogue,
                Err(BackupError::NoRepository) => continue,
                Err(error) => {
                    silent = Some(error);
                    continue;
                }
            };
            let is_it = |entry: &&Entry| {
                let called = entry.held.as_ref().map(|held| held.about.name.as_str());
                Some(entry.id) == id || (called == Some(name) && entry.status != Status::Deleting)
            };
            let here = |entry: &Entry| Found { target: Arc::clone(target), entry: entry.clone() };
            found.extend(catalogue.entries().filter(is_it).map(here));
        }
        match (found.pop(), found.is_empty(), silent) {
            (Some(one), true, _) => Ok(one),
            (Some(_), false, _) => {
                let detail = format!("several backups are called {name:?}: say which by its id");
                Err(Refused::new(Code::Invalid, detail).next("twinspan backup list"))
            }
            (None, _, Some(error)) => Err(Refused::from(error)),
            (None, _, None) => {
                let detail = format!("no target has a backup {name:?}");
                Err(Refused::new(Code::NotFound, detail).next("twinspan backup list"))
            }
        }
    }

    /// One backup.
    ///
    /// # Errors
    /// As [`Self::find_backup`].
    pub(crate) async fn show_backup(&self, name: &str) -> Result<Backup, Refused> {
        let found = self.find_backup(name).await?;
        Ok(self.show_found(&found))
    }

    fn show_found(&self, found: &Found) -> Backup {
        let pages = self.book.read();
        show::backup(&found.target.config.name, &found.entry, run_of(&pages.backups, &found.entry))
    }

    /// Deletes a backup, or gives a run up that is to become one.
    ///
    /// # Errors
    /// [`Code::BackupLocked`]; [`Code::Busy`] for a run that is under way here; what the store says.
    pub(crate) async fn delete_backup(&self, name: &str) -> Result<(), Refused> {
        let found = self.find_backup(name).await?;
        let (id, target) = (found.entry.id, &found.target);
        let repository = target.open(false).await?;
        if found.entry.status == Status::Protecting {
            if let Some(running) = self.running_backup(id.uuid()) {
                let detail = format!("operation {running} is taking it");
                let next = format!("twinspan operation cancel {running}");
                return Err(Refused::new(Code::Busy, detail).next(next));
            }
            target.note(repository.abandon(id).await)?;
        } else {
            target.note(repository.remove(id, target.now()).await)?;
        }
        self.forget_run(id.uuid()).await?;
        self.events.tell("backup", name, "deleted");
        Ok(())
    }

    /// Locks a backup until a date, or moves its lock on.
    ///
    /// # Errors
    /// [`Code::Invalid`] for what is no date, [`Code::BackupLocked`] for an earlier one.
    pub(crate) async fn lock_backup(&self, name: &str, until: &str) -> Result<Backup, Refused> {
        let until = date(until)?;
        let found = self.find_backup(name).await?;
        let repository = found.target.open(false).await?;
        found.target.note(repository.lock(found.entry.id, until).await)?;
        self.events.tell("backup", name, format!("locked until {until}"));
        self.show_backup(name).await
    }

    /// Reads back everything that a target's backups need, or that one of them does.
    ///
    /// # Errors
    /// [`Code::BackupTargetUnknown`], [`Code::NotFound`]; what is found is in the operation.
    pub(crate) fn verify_backups(
        self: &Arc<Self>,
        target: &str,
        backups: Vec<BackupId>,
    ) -> Result<Operation, Refused> {
        let target = self.targets.get(target)?;
        let running = self.operations.begin("backup-verify", &target.config.name);
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut running = running;
            let result = gateway.verify(&mut running, &target, &backups).await;
            let name = &target.config.name;
            match &result {
                Ok(()) => gateway.events.tell("backup", name, "verified: all of it reads back"),
                Err(refused) => {
                    let text = format!("verification failed: {}", refused.0.detail);
                    gateway.events.tell("backup", name, text);
                }
            }
            running.end(result.map_err(|refused| *refused.0));
        });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    async fn verify(
        &self,
        running: &mut Running,
        target: &Connected,
        backups: &[BackupId],
    ) -> Result<(), Refused> {
        running.step("read everything back");
        let watch = target.watch(running.cancellable(&self.stopping));
        let repository = target.open(false).await?;
        let work = repository.verify(backups, &watch);
        let verified = target.note(followed(running, &watch, work).await)?;
        let text = format!(
            "{} backups, {} chunks, {} in the store",
            verified.backups,
            verified.chunks,
            bytes_text(verified.bytes)
        );
        if verified.is_whole() {
            running.done(text);
            return Ok(());
        }
        let hurt: Vec<String> = verified.hurt().iter().map(ToString::to_string).collect();
        let told = |damage: &backup::Damage| {
            let places = damage.hurt.iter().take(DAMAGE_TOLD).map(|hurt| {
                let (first, end) = (hurt.blocks.first(), hurt.blocks.end());
                format!("blocks {first} to {end} of volume {} in {}", hurt.volume, hurt.backup)
            });
            format!("{}: {}: {}", damage.key, damage.error, places.collect::<Vec<_>>().join(", "))
        };
        let damage: Vec<String> = verified.damage.iter().take(DAMAGE_TOLD).map(told).collect();
        let detail = format!(
            "{} objects are damaged and hurt {} of {} backups ({}): {}",
            verified.damage.len(),
            hurt.len(),
            verified.backups,
            hurt.join(", "),
            damage.join("; ")
        );
        Err(Refused::new(Code::BackupDamaged, detail))
    }

    /// Gives back what no backup of a target needs.
    ///
    /// # Errors
    /// [`Code::BackupTargetUnknown`]; what goes wrong is in the operation.
    pub(crate) fn collect_backups(
        self: &Arc<Self>,
        target: &str,
        dry_run: bool,
    ) -> Result<Operation, Refused> {
        let target = self.targets.get(target)?;
        let running = self.operations.begin("backup-gc", &target.config.name);
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut running = running;
            let result = gateway.collect(&mut running, &target, dry_run).await;
            running.end(result.map_err(|refused| *refused.0));
        });
        shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))
    }

    async fn collect(
        &self,
        running: &mut Running,
        target: &Connected,
        dry_run: bool,
    ) -> Result<(), Refused> {
        running.step(if dry_run {
            "look what no backup needs"
        } else {
            "give back what no backup needs"
        });
        let watch = target.watch(running.cancellable(&self.stopping));
        let repository = target.open(false).await?;
        let now = target.now();
        let collected = if dry_run {
            followed(running, &watch, repository.collectable(now, &watch)).await
        } else {
            followed(running, &watch, repository.collect(now, &watch)).await
        };
        let collected = target.note(collected)?;
        let pins = collected.pins.iter().map(|(_, gateway)| gateway.as_str()).collect::<Vec<_>>();
        let users = if pins.is_empty() {
            String::new()
        } else {
            format!("; in use by {}", pins.join(", "))
        };
        let refused = collected.refused_words();
        let refused = refused.map_or_else(String::new, |words| format!("; {words}"));
        let text = format!(
            "{} objects of {}, {} deleted backups; {} objects of {} stay{users}{refused}",
            collected.objects,
            bytes_text(collected.bytes),
            collected.gone.len(),
            collected.needed_objects,
            bytes_text(collected.needed_bytes)
        );
        if !dry_run {
            self.events.tell("backup", &target.config.name, format!("collected: {text}"));
        }
        running.done(text);
        Ok(())
    }
}

/// What this gateway knows of a run that is not complete.
fn run_of<'a>(pages: &'a BackupPages, entry: &Entry) -> Option<&'a RunEntry> {
    pages.runs.iter().find(|run| run.backup == entry.id.uuid() && !run.is_taken)
}

/// A date as it is written.
///
/// # Errors
/// [`Code::Invalid`].
fn date(text: &str) -> Result<jiff::Timestamp, Refused> {
    text.parse().map_err(|_e| {
        let detail = format!("{text:?} is no time like 2027-01-31T00:00:00Z");
        Refused::new(Code::Invalid, detail)
    })
}

/// Awaits something and tells how far it is meanwhile.
async fn followed<T>(running: &Running, watch: &Watch, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let tell = || {
        let progress = watch.progress();
        running.progress(OperationProgress {
            total_bytes: progress.total_bytes,
            done_bytes: progress.done_bytes,
            moved_bytes: progress.moved_bytes,
            found_bytes: progress.found_bytes,
        });
    };
    loop {
        tokio::select! {
            result = &mut work => {
                tell();
                return result;
            }
            () = tokio::time::sleep(TELL_PAUSE) => tell(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
