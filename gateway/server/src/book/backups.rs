//! What the gateway remembers of backups: runs, the snapshots that it keeps for the next ones, and
//! volumes that are being restored.
//!
//! Invariant: a snapshot that is taken for a backup is noted before it is taken, and a pin before it
//! is put, so that one that a crash leaves is found and removed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A run that is under way or was interrupted; or, taken, the snapshot that the next one builds upon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct RunEntry {
    /// The backup that it is, or is to become.
    pub(crate) backup: Uuid,
    /// Where it goes.
    pub(crate) target: String,
    /// The group.
    pub(crate) group: Uuid,
    /// The volumes.
    pub(crate) volumes: Vec<Uuid>,
    /// The snapshot that it reads.
    pub(crate) snapshot: Uuid,
    /// Whether that snapshot was taken: one that is missing then is not taken again.
    pub(crate) has_snapshot: bool,
    /// Whether it is complete.
    pub(crate) is_taken: bool,
    /// What it is called.
    pub(crate) name: String,
    /// Whether it builds upon nothing.
    pub(crate) full: bool,
    /// Nobody deletes it before, in seconds since 1970.
    pub(crate) locked_until_s: Option<i64>,
    /// The policy that asked for it.
    pub(crate) policy: Option<String>,
    /// When it was begun, in milliseconds since 1970.
    pub(crate) begun_ms: u64,
    /// Why it was interrupted: a code and words.
    #[serde(default)]
    pub(crate) error: Option<(String, String)>,
}

/// A volume that is filled from a backup.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct FilledEntry {
    /// The volume here.
    pub(crate) volume: Uuid,
    /// The volume of the backup.
    pub(crate) from: Uuid,
    /// Everything before this byte is there.
    pub(crate) position: u64,
    /// Whether all of it is there.
    pub(crate) is_filled: bool,
}

/// A pin of a backup that is read: noted before it is put, and until it was removed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct PinEntry {
    /// The pin.
    pub(crate) pin: Uuid,
    /// The target that holds the backup.
    pub(crate) target: String,
    /// The backup.
    pub(crate) backup: Uuid,
    /// The new volume here that is filled; nil for originals, whose restore names the pin, and for a
    /// block that is read to repair another one.
    pub(crate) volume: Uuid,
}

/// A restore over its originals that is under way or was interrupted. Its volumes take no host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct FillEntry {
    /// The backup.
    pub(crate) backup: Uuid,
    /// The target that holds it.
    pub(crate) target: String,
    /// The group whose volumes are filled.
    pub(crate) group: Uuid,
    /// They.
    pub(crate) volumes: Vec<FilledEntry>,
    /// The sessions that were suspended for it, one of each leg.
    pub(crate) sessions: Vec<Uuid>,
    /// The snapshot of what was there before, when it is an original.
    pub(crate) safety: Option<Uuid>,
    /// The pin that keeps the backup until it is over; releases before this one noted none.
    #[serde(default)]
    pub(crate) pin: Option<Uuid>,
    /// Why it was interrupted: a code and words.
    #[serde(default)]
    pub(crate) error: Option<(String, String)>,
}

/// When a group was last backed up to a target, whether that backup is still there or not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct LastEntry {
    /// The group.
    pub(crate) group: Uuid,
    /// The target.
    pub(crate) target: String,
    /// The moment that it holds, in milliseconds since 1970.
    pub(crate) begun_ms: u64,
}

/// A policy: when a group or a volume is backed up, and what is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct PolicyEntry {
    /// The group, or the volume.
    pub(crate) of: Uuid,
    /// Where it goes.
    pub(crate) target: String,
    /// When, as cron reads it.
    pub(crate) schedule: String,
    /// In whose clock.
    pub(crate) zone: String,
    /// What is kept.
    pub(crate) retention: api::BackupRetention,
    /// For how many days what it takes is locked; releases before this one locked nothing.
    #[serde(default)]
    pub(crate) lock_days: u32,
    /// Whether it runs.
    pub(crate) on: bool,
    /// All due times up to it are done with, in milliseconds since 1970.
    pub(crate) before_ms: i64,
    /// Due times that were given up because a run was under way.
    pub(crate) skipped: u64,
    /// Due times that found nobody.
    pub(crate) missed: u64,
    /// When the last run ended, in milliseconds since 1970.
    pub(crate) ended_ms: Option<u64>,
    /// Why it failed: a code and words.
    pub(crate) error: Option<(String, String)>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct BackupPages {
    /// Runs, and behind them those that are complete, in the order in which they were completed.
    pub(crate) runs: Vec<RunEntry>,
    /// Restores over originals.
    pub(crate) fills: Vec<FillEntry>,
    /// Policies, one for each group or volume that has one.
    pub(crate) policies: Vec<PolicyEntry>,
    /// One for each group and target.
    pub(crate) lasts: Vec<LastEntry>,
    /// Pins of backups that are read.
    pub(crate) pins: Vec<PinEntry>,
}

impl BackupPages {
    /// The restore that fills a volume, if one does.
    pub(crate) fn fill_of(&self, volume: Uuid) -> Option<&FillEntry> {
        self.fills.iter().find(|fill| fill.volumes.iter().any(|of| of.volume == volume))
    }

    /// The restore over volumes of a group, if one is not over.
    pub(crate) fn fill_in(&self, group: Uuid) -> Option<&FillEntry> {
        self.fills.iter().find(|fill| fill.group == group)
    }

    /// What is there of a restore counts for nothing: from here on the group may become something else.
    /// Whoever goes on with it begins at the beginning.
    pub(crate) fn fill_from_the_beginning(&mut self, group: Uuid) {
        let fills = self.fills.iter_mut().filter(|fill| fill.group == group);
        for filled in fills.flat_map(|fill| &mut fill.volumes) {
            (filled.position, filled.is_filled) = (0, false);
        }
    }

    /// Whether a snapshot is one that a run reads or the next one builds upon.
    pub(crate) fn needs(&self, snapshot: Uuid) -> bool {
        self.runs.iter().any(|run| run.snapshot == snapshot)
    }

    /// Whether a run that is not complete reads a snapshot, or will when it goes on.
    pub(crate) fn reads(&self, snapshot: Uuid) -> bool {
        self.runs.iter().any(|run| run.snapshot == snapshot && !run.is_taken)
    }

    /// A run is complete: it becomes the newest of what is kept.
    pub(crate) fn complete(&mut self, backup: Uuid) {
        if let Some(at) = self.runs.iter().position(|run| run.backup == backup) {
            let mut run = self.runs.remove(at);
            (run.is_taken, run.error) = (true, None);
            self.lasts.retain(|last| last.group != run.group || last.target != run.target);
            let (group, target) = (run.group, run.target.clone());
            self.lasts.push(LastEntry { group, target, begun_ms: run.begun_ms });
            self.runs.push(run);
        }
    }

    /// What was completed and has been followed, in the same target, for each of its volumes.
    pub(crate) fn unneeded(&self) -> Vec<RunEntry> {
        let is_followed = |(at, run): &(usize, &RunEntry)| {
            let later = || {
                self.runs.iter().skip(at + 1).filter(|of| of.is_taken && of.target == run.target)
            };
            run.is_taken
                && run.volumes.iter().all(|volume| later().any(|of| of.volumes.contains(volume)))
        };
        self.runs.iter().enumerate().filter(is_followed).map(|(_, run)| run.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u128, target: &str, volumes: &[u128], is_taken: bool) -> RunEntry {
        RunEntry {
            backup: Uuid::from_u128(number),
            target: target.to_owned(),
            group: Uuid::from_u128(100),
            volumes: volumes.iter().copied().map(Uuid::from_u128).collect(),
            snapshot: Uuid::from_u128(number + 1000),
            has_snapshot: true,
            is_taken,
            name: String::new(),
            full: false,
            locked_until_s: None,
            policy: None,
            begun_ms: 0,
            error: None,
        }
    }

    #[test]
    fn the_newest_point_of_each_volume_and_target_is_kept() {
        let mut pages = BackupPages::default();
        pages.runs.push(run(1, "a", &[1, 2], true));
        pages.runs.push(run(2, "b", &[1, 2], true));
        pages.runs.push(run(3, "a", &[1], true));
        pages.runs.push(run(4, "a", &[1, 2], false));
        // Volume 2 has nothing newer in a, and what is under way is no base yet.
        assert_eq!(pages.unneeded(), []);
        pages.complete(Uuid::from_u128(4));
        let gone: Vec<Uuid> = pages.unneeded().iter().map(|run| run.backup).collect();
        assert_eq!(gone, [1, 3].map(Uuid::from_u128));
        assert_eq!(pages.lasts.len(), 1);
        assert!(pages.needs(Uuid::from_u128(1002)) && !pages.needs(Uuid::from_u128(1009)));
    }
}
