//! What the gateway remembers of snapshots beside their groups' own records: what was said of them
//! when they were taken here.
//!
//! Invariant: a note is there before its snapshot is taken, so that no snapshot that was answered for
//! lacks it. One whose snapshot is gone is dropped by the notes that come after it.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Pages;

/// A note whose snapshot is not listed is one that is being taken, or is gone: so many of the newest
/// are waited for. More are not taken of one volume at once.
const WAITING_MAX: usize = 64;

/// What was said of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct NoteEntry {
    /// The snapshot.
    pub(crate) snapshot: Uuid,
    /// The volumes that it holds.
    pub(crate) volumes: Vec<Uuid>,
    /// What it is for.
    pub(crate) description: Option<String>,
    /// What else is to be known of it.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Pages {
    /// What was said of a snapshot, if anything was.
    #[must_use]
    pub(crate) fn note_of(&self, snapshot: Uuid) -> Option<&NoteEntry> {
        self.snapshot_notes.iter().find(|note| note.snapshot == snapshot)
    }

    /// Notes what is said of a snapshot of volumes that have `listed`, and drops what was said of those
    /// that are gone.
    pub(crate) fn note_snapshot(&mut self, note: NoteEntry, listed: &[Uuid]) {
        let known: HashSet<Uuid> = self.volumes().map(|(_, volume)| volume.id).collect();
        let mut waiting = 0;
        let stays = |of: &NoteEntry| {
            if !of.volumes.iter().any(|volume| known.contains(volume)) {
                return false;
            }
            let is_of_these = of.volumes.iter().any(|volume| note.volumes.contains(volume));
            if !is_of_these || listed.contains(&of.snapshot) {
                return true;
            }
            waiting += 1;
            waiting <= WAITING_MAX
        };
        let notes = std::mem::take(&mut self.snapshot_notes);
        let mut kept: Vec<NoteEntry> = notes.into_iter().rev().filter(stays).collect();
        kept.reverse();
        kept.push(note);
        self.snapshot_notes = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{GroupEntry, VolumeEntry};

    fn volume(number: u128) -> VolumeEntry {
        VolumeEntry {
            id: Uuid::from_u128(number),
            name: format!("v{number}"),
            settings: api::VolumeSettings::default(),
            lun: None,
            initiator_luns: BTreeMap::new(),
        }
    }

    fn note(snapshot: u128, volume: u128) -> NoteEntry {
        NoteEntry {
            snapshot: Uuid::from_u128(snapshot),
            volumes: vec![Uuid::from_u128(volume)],
            description: Some(format!("the {snapshot}th")),
            metadata: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_said_of_a_snapshot_goes_after_it_and_not_while_it_is_taken() {
        let mut pages = Pages::default();
        let volumes = vec![volume(1), volume(2)];
        pages.groups.push(GroupEntry { id: Uuid::from_u128(9), name: "g".to_owned(), volumes });
        // Of a volume that is no more, of another one, and the oldest of this one, which is there.
        for (snapshot, volume) in [(500, 7), (501, 2), (502, 1)] {
            pages.snapshot_notes.push(note(snapshot, volume));
        }
        let listed = [Uuid::from_u128(502)];
        for snapshot in 0..200 {
            pages.note_snapshot(note(1_000 + snapshot, 1), &listed);
        }
        assert!(pages.note_of(Uuid::from_u128(500)).is_none());
        let there = pages.note_of(Uuid::from_u128(502)).unwrap();
        assert_eq!(there.description.as_deref(), Some("the 502th"));
        assert!(pages.note_of(Uuid::from_u128(501)).is_some());
        // Itself, and those that may be on their way.
        assert_eq!(pages.snapshot_notes.len(), 2 + WAITING_MAX + 1);
        assert!(pages.note_of(Uuid::from_u128(1_199)).is_some());
        assert!(pages.note_of(Uuid::from_u128(1_000)).is_none());
    }
}
