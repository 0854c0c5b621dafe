//! Backups as operators are told of them.
//!
//! Invariant: what cannot be read is shown with its reason, and hides nothing else.

use api::{
    Backup, BackupConsistency, BackupOrigin, BackupStatus, BackupTarget, BackupVolume, Problem,
};
use backup::{Consistency, Entry, Held, HeldVolume, Origin, Status};

use super::refuse::code;
use super::targets::Connected;
use crate::book::RunEntry;

/// A target.
#[must_use]
pub(crate) fn target(target: &Connected) -> BackupTarget {
    let config = &target.config;
    BackupTarget {
        name: config.name.clone(),
        url: config.url.clone(),
        encrypted: config.key.is_some(),
        bytes_per_second: config.bytes_per_second,
        backups_max: config.backups_max.and_then(|max| u64::try_from(max).ok()),
        up: target.is_up(),
    }
}

const fn status(status: Status) -> BackupStatus {
    match status {
        Status::Available => BackupStatus::Available,
        Status::Protecting => BackupStatus::Protecting,
        Status::Restoring => BackupStatus::Restoring,
        Status::Deleting => BackupStatus::Deleting,
        Status::Error => BackupStatus::Error,
    }
}

fn volume(held: &HeldVolume) -> BackupVolume {
    BackupVolume {
        volume: held.name.clone(),
        volume_id: held.id.uuid(),
        bytes: held.bytes,
        stored_bytes: held.stored_bytes,
        parent: held.parent.map(backup::BackupId::uuid),
    }
}

fn actions(entry: &Entry, run: Option<&RunEntry>) -> Vec<String> {
    let mut actions = Vec::new();
    match entry.status {
        Status::Available | Status::Restoring => {
            actions.extend(["backup.verify", "backup.restore", "backup.lock"]);
            if entry.locked_until.is_none() {
                actions.push("backup.delete");
            }
        }
        Status::Protecting => {
            actions.extend(run.map(|_| "backup.resume"));
            actions.push("backup.delete");
        }
        Status::Error => actions.push("backup.delete"),
        Status::Deleting => {}
    }
    actions.into_iter().map(str::to_owned).collect()
}

/// A backup or a run, with what this gateway knows of the run.
#[must_use]
pub(crate) fn backup(target: &str, entry: &Entry, run: Option<&RunEntry>) -> Backup {
    let held: Option<&Held> = entry.held.as_deref();
    let about = held.map(|held| &held.about);
    let volumes: Vec<BackupVolume> =
        held.map(|held| held.volumes.iter().map(volume).collect()).unwrap_or_default();
    let of_run = run.and_then(|run| run.error.as_ref());
    let of_run = of_run.map(|(code, detail)| {
        let code = api::Code::parse(code).unwrap_or(api::Code::BackupInterrupted);
        Problem::new(code, detail.clone())
    });
    let of_entry = entry.error.as_ref().map(|error| Problem::new(code(error), error.to_string()));
    Backup {
        id: entry.id.uuid(),
        name: about
            .map(|about| about.name.clone())
            .or(run.map(|run| run.name.clone()))
            .unwrap_or_default(),
        target: target.to_owned(),
        status: status(entry.status),
        group: about.and_then(|about| about.group.as_ref()).map(|(_, name)| name.clone()),
        origin: about.map(|about| match about.origin {
            Origin::Manual => BackupOrigin::Manual,
            Origin::Scheduled => BackupOrigin::Scheduled,
        }),
        policy: about.and_then(|about| about.policy.clone()),
        consistency: about.map(|about| match about.consistency {
            Consistency::Crash => BackupConsistency::Crash,
            Consistency::Application => BackupConsistency::Application,
        }),
        created_at: about.map(|about| about.created.to_string()),
        taken_by: about.map(|about| about.gateway.clone()).or_else(|| entry.gateway.clone()),
        bytes: volumes.iter().map(|volume| volume.bytes).sum(),
        stored_bytes: volumes.iter().map(|volume| volume.stored_bytes).sum(),
        full: !volumes.is_empty() && volumes.iter().all(|volume| volume.parent.is_none()),
        locked_until: entry.locked_until.map(|until| until.to_string()),
        volumes,
        error: of_entry.or(of_run),
        allowed_actions: actions(entry, run),
    }
}
