//! What people say of a snapshot when they take it: proven, noted before, forgotten with it.

use std::collections::BTreeMap;

use api::{Code, SnapshotCreate};
use block::SnapshotId;
use mirror::GroupStatus;
use uuid::Uuid;

use crate::book::NoteEntry;
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// A line of text for people, or a value for programs; all notes are read and written with the book.
const TEXT_BYTES_MAX: usize = 1024;
/// Keys are words.
const KEY_BYTES_MAX: usize = 128;
/// More than anybody sorts snapshots by.
const KEYS_MAX: usize = 32;

/// What is said of a snapshot, proven.
#[derive(Debug)]
pub(super) struct About {
    description: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl About {
    /// What somebody says who wants a snapshot.
    ///
    /// # Errors
    /// [`Code::Invalid`].
    pub(super) fn of(wanted: &SnapshotCreate) -> Result<Self, Refused> {
        let invalid = |detail: String| Refused::new(Code::Invalid, detail);
        let description = wanted.description.clone().filter(|text| !text.is_empty());
        if description.as_deref().is_some_and(|text| !is_line(text, TEXT_BYTES_MAX)) {
            let detail = format!("a description is one line of {TEXT_BYTES_MAX} bytes at most");
            return Err(invalid(detail));
        }
        let metadata = wanted.metadata.clone();
        if metadata.len() > KEYS_MAX {
            let count = metadata.len();
            return Err(invalid(format!("metadata has {count} keys, at most {KEYS_MAX}")));
        }
        for (key, value) in &metadata {
            if key.is_empty() || key.contains('=') || !is_line(key, KEY_BYTES_MAX) {
                let detail = format!(
                    "{key:?} is no key of metadata: 1 to {KEY_BYTES_MAX} bytes of one line, without ="
                );
                return Err(invalid(detail));
            }
            if !is_line(value, TEXT_BYTES_MAX) {
                let detail =
                    format!("the value of {key} is one line of {TEXT_BYTES_MAX} bytes at most");
                return Err(invalid(detail));
            }
        }
        Ok(Self { description, metadata })
    }

    const fn is_nothing(&self) -> bool {
        self.description.is_none() && self.metadata.is_empty()
    }
}

/// Whether a text fits into a line of a terminal's table, and does nothing else to it.
fn is_line(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.chars().any(char::is_control)
}

impl Gateway {
    /// Notes what is said of a snapshot that is going to be taken.
    ///
    /// # Errors
    /// The book's; nothing was noted.
    pub(super) async fn note_snapshot(
        &self,
        status: &GroupStatus,
        snapshot: SnapshotId,
        about: About,
    ) -> Result<(), Refused> {
        if about.is_nothing() {
            return Ok(());
        }
        let listed: Vec<Uuid> = status.snapshots.iter().map(|of| of.id.uuid()).collect();
        let About { description, metadata } = about;
        let volumes = status.volumes.iter().map(|of| of.volume.uuid()).collect();
        let note = NoteEntry { snapshot: snapshot.uuid(), volumes, description, metadata };
        self.book
            .change(Vec::new(), |pages| {
                pages.note_snapshot(note, &listed);
                Ok::<(), Refused>(())
            })
            .await
    }

    /// Forgets what was said of a snapshot that was not taken, or is gone.
    pub(super) async fn forget_note(&self, snapshot: SnapshotId) {
        let id = snapshot.uuid();
        if self.book.read().note_of(id).is_none() {
            return;
        }
        let forgotten = self
            .book
            .change(Vec::new(), |pages| {
                pages.snapshot_notes.retain(|note| note.snapshot != id);
                Ok::<(), Refused>(())
            })
            .await;
        if let Err(refused) = forgotten {
            // It is of nothing now, and goes with a later note.
            let why = refused.0.detail;
            tracing::warn!(%snapshot, why, "what was said of a snapshot is not forgotten");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(description: &str, metadata: &[(&str, &str)]) -> SnapshotCreate {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        SnapshotCreate {
            name: None,
            description: Some(description.to_owned()),
            metadata: metadata.iter().map(pair).collect(),
        }
    }

    #[test]
    fn what_is_said_of_a_snapshot_is_lines_and_not_many() {
        let about = About::of(&said("before the upgrade", &[("owner", "a=b"), ("empty", "")]));
        assert_eq!(about.unwrap().metadata["owner"], "a=b");
        assert!(About::of(&said("", &[])).unwrap().is_nothing());
        let (long, many) = ("x".repeat(1025), (0..33).map(|n| n.to_string()).collect::<Vec<_>>());
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "")).collect();
        for (bad, word) in [
            (said("two\nlines", &[]), "description"),
            (said(&long, &[]), "description"),
            (said("", &[("", "x")]), "no key"),
            (said("", &[("a=b", "x")]), "no key"),
            (said("", &[("a", "\u{1b}[2J")]), "value of a"),
            (said("", &many), "33 keys"),
        ] {
            let refused = About::of(&bad).unwrap_err();
            assert_eq!(refused.0.code, Code::Invalid.as_str());
            assert!(refused.0.detail.contains(word), "{refused:?}");
        }
    }
}
