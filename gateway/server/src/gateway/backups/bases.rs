//! The snapshots that backups keep here, let go without the store.
//!
//! ```text
//!   alone with group and target ─▶ snapshot removed ─▶ forgotten ─▶ the next one
//! ```
//!
//! Invariant: the store is not asked, so that a target that is gone for ever, or stands in no
//! configuration any more, keeps no snapshot here. Nothing goes while a backup to it is taken.

use api::{BackupBase, BackupForget, BackupForgotten, Code};
use block::{GroupId, VolumeId};
use mirror::Refusal;
use uuid::Uuid;

use super::runs::subject;
use crate::book::{GroupEntry, Pages, RunEntry};
use crate::clock::text;
use crate::gateway::Gateway;
use crate::operations::Running;
use crate::refusal::Refused;

impl Gateway {
    /// Lets go what the next backup of a group or a volume to a target builds upon, and gives up runs
    /// to it that were interrupted. What was removed before an error stays so, and the same call goes
    /// on.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::BackupTargetUnknown`] for a target that is not configured and for
    /// which nothing is kept; [`Code::Busy`] while a backup to it is taken; [`Code::NeedsConsent`] for
    /// one that answers; [`Code::RollingBack`] for what a way back needs; the group's or the book's.
    pub(crate) async fn forget_bases(
        &self,
        target: &str,
        wanted: &BackupForget,
    ) -> Result<BackupForgotten, Refused> {
        let (group, volumes) = self.find_backed_up(&wanted.of)?;
        let kept = || kept_for(&self.book.read(), target, (group.id, &volumes));
        let mut runs = kept();
        let connected = self.targets.get(target);
        let (configured, answers) = match (&connected, runs.is_empty()) {
            (Ok(connected), _) => (true, connected.is_up() == Some(true)),
            (Err(_), false) => (false, false),
            (Err(unknown), true) => return Err(unknown.clone()),
        };
        if !wanted.dry_run && !runs.is_empty() {
            if answers && !wanted.force {
                return Err(still_there(&wanted.of, target));
            }
            // Held until all of it is done: no backup is begun meanwhile.
            let alone = self.alone_with(&runs, target)?;
            runs = kept();
            let result = self.forget_all(&runs, (target, configured)).await;
            for running in alone {
                running.end(result.clone().map_err(|refused| *refused.0));
            }
            result?;
            let words = format!(
                "{} snapshots for backups to {target} were let go: the next backup there is full",
                runs.len()
            );
            self.events.tell("backup", &wanted.of, words);
        }
        let pages = self.book.read();
        Ok(BackupForgotten {
            as_of: self.clock.rfc3339(),
            of: wanted.of.clone(),
            target: target.to_owned(),
            configured,
            dry_run: wanted.dry_run,
            items: runs.iter().map(|run| shown(&pages, run)).collect(),
        })
    }

    /// The right to be the only one that works with these runs' groups and the target.
    fn alone_with(&self, runs: &[RunEntry], target: &str) -> Result<Vec<Running>, Refused> {
        let pages = self.book.read();
        let known = runs.iter().filter_map(|run| pages.group_by_id(GroupId::from_uuid(run.group)));
        let mut subjects: Vec<String> = known.map(|group| subject(&group.name, target)).collect();
        subjects.sort_unstable();
        subjects.dedup();
        let mut alone: Vec<Running> = Vec::new();
        for subject in subjects {
            match self.operations.begin_alone("backup-forget", &subject) {
                Ok(running) => alone.push(running),
                Err(problem) => {
                    for running in alone {
                        running.end(Err((*problem).clone()));
                    }
                    return Err(Refused(problem));
                }
            }
        }
        Ok(alone)
    }

    async fn forget_all(
        &self,
        runs: &[RunEntry],
        (target, configured): (&str, bool),
    ) -> Result<(), Refused> {
        let pages = self.book.read();
        if runs.iter().any(|run| pages.is_on_a_way(run.group, run.snapshot)) {
            return Err(Refused::from(Refusal::NeededOnTheWay));
        }
        for run in runs {
            self.forget_run(run.backup).await?;
        }
        if configured {
            return Ok(());
        }
        // Nobody asks any more how old the last backup is in a target that is not there.
        let groups: Vec<Uuid> = runs.iter().map(|run| run.group).collect();
        self.book
            .change(Vec::new(), |pages| {
                let is_gone = |group: &Uuid, of: &str| of == target && groups.contains(group);
                pages.backups.lasts.retain(|last| !is_gone(&last.group, &last.target));
                Ok::<(), Refused>(())
            })
            .await
    }
}

/// The runs and bases of a group, or of some volumes, in a target.
fn kept_for(pages: &Pages, target: &str, (group, volumes): (Uuid, &[Uuid])) -> Vec<RunEntry> {
    let is_whole = |known: &GroupEntry| known.volumes.len() == volumes.len();
    let of_group = pages.group_by_id(GroupId::from_uuid(group)).is_some_and(is_whole);
    let is_meant = |run: &&RunEntry| {
        let of_volumes = run.volumes.iter().any(|volume| volumes.contains(volume));
        run.target == target && (of_volumes || (of_group && run.group == group))
    };
    pages.backups.runs.iter().filter(is_meant).cloned().collect()
}

fn still_there(of: &str, target: &str) -> Refused {
    let detail = format!(
        "{target} answers, and the next backup of {of} there builds upon what is kept here: without \
         it all of it is read again"
    );
    let next = format!(
        "twinspan backup delete of its newest backup lets it go too; if the target is given up: \
         twinspan backup forget {of} --target {target} --force"
    );
    Refused::new(Code::NeedsConsent, detail).next(next)
}

fn shown(pages: &Pages, run: &RunEntry) -> BackupBase {
    let name = |volume: &Uuid| {
        let known = pages.volume_by_id(VolumeId::from_uuid(*volume));
        known.map_or_else(|| volume.to_string(), |(_, entry)| entry.name.clone())
    };
    BackupBase {
        backup: run.backup,
        name: run.name.clone(),
        created_at: text(run.begun_ms),
        volumes: run.volumes.iter().map(name).collect(),
        snapshot: run.snapshot,
        interrupted: !run.is_taken,
    }
}
