//! Snapshots of a mirror's volumes, all of a group at once.
//!
//! Invariant: one round of each kind at a time, as the machine asks for them.

use block::{BlockSet, IoError, SnapshotId};

use super::Core;
use super::inbox::Tag;
use crate::machine::Event;

/// Snapshots that are being removed, and how many are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Removal {
    waiting: usize,
    snapshots: Vec<(usize, SnapshotId)>,
    gone: Vec<bool>,
}

impl Core {
    pub(super) fn snapshot(&mut self, snapshots: &[SnapshotId]) {
        self.submit();
        let key = self.begin_round(0, snapshots.len());
        for (member, snapshot) in self.members.iter().zip(snapshots) {
            member.store.snapshot(*snapshot, self.ticket(Tag::Snapshotted(key)));
        }
    }

    pub(super) fn roll_back(&mut self, snapshots: &[SnapshotId]) {
        self.submit();
        let key = self.begin_round(0, snapshots.len());
        for (member, snapshot) in self.members.iter().zip(snapshots) {
            member.store.roll_back(*snapshot, self.ticket(Tag::RolledBack(key)));
        }
    }

    pub(super) fn remove_snapshots(&mut self, snapshots: Vec<(usize, SnapshotId)>) {
        if snapshots.is_empty() {
            self.events.push(Event::SnapshotsRemoved { snapshots });
            return;
        }
        for (index, (volume, snapshot)) in snapshots.iter().enumerate() {
            let ticket = self.ticket(Tag::Removed(index));
            self.members[*volume].store.remove_snapshot(*snapshot, ticket);
        }
        let gone = vec![false; snapshots.len()];
        self.removal = Removal { waiting: snapshots.len(), snapshots, gone };
    }

    /// A store answered for one of them.
    pub(super) fn removed(&mut self, index: usize, result: Result<(), IoError>) {
        let removal = &mut self.removal;
        removal.gone[index] = result.is_ok();
        removal.waiting -= 1;
        if removal.waiting == 0 {
            let Removal { snapshots, gone, .. } = std::mem::take(removal);
            let snapshots =
                snapshots.into_iter().zip(gone).filter_map(|(s, gone)| gone.then_some(s)).collect();
            self.events.push(Event::SnapshotsRemoved { snapshots });
        }
    }

    /// Lists what differs. The map is read, not the data.
    pub(super) fn list_changed(&mut self, snapshots: &[SnapshotId]) {
        /// Ranges asked for at a time.
        const STEP: usize = 4096;
        let mut changed = Vec::with_capacity(snapshots.len());
        for (member, snapshot) in self.members.iter().zip(snapshots) {
            let mut ranges = BlockSet::new();
            let mut from = 0;
            loop {
                match member.store.changed_since(*snapshot, from, STEP) {
                    Err(error) => {
                        self.events.push(Event::Changed { result: Err(error) });
                        return;
                    }
                    Ok(step) => {
                        let Some(last) = step.last() else { break };
                        from = last.end();
                        ranges.extend(step);
                    }
                }
            }
            changed.push(ranges);
        }
        self.events.push(Event::Changed { result: Ok(changed) });
    }
}
