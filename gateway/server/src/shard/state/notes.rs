//! What groups tell of themselves, in words for the event stream.
//!
//! Invariant: a note changes nothing; whoever needs the state asks for it.

use std::rc::Rc;
use std::sync::Arc;

use block::SnapshotId;
use mirror::SnapshotOrigin;
use mirror::machine::Note;

use super::ShardState;
use crate::book::GroupEntry;
use crate::status::cause_text;

impl ShardState {
    /// Where the group tells what happens to it: the event stream, and the board soon after.
    pub(super) fn notes(self: &Rc<Self>, entry: &GroupEntry) -> Rc<dyn Fn(Note)> {
        let events = Arc::clone(&self.parts.events);
        let (name, id) = (entry.name.clone(), entry.group());
        let state = Rc::downgrade(self);
        Rc::new(move |note| {
            let is_of_snapshot = snapshot_of(&note).is_some();
            if !is_of_snapshot {
                events.tell("group", &name, note_text(&note));
            }
            // The group is in the middle of a turn now; its status is asked for right after.
            if let Some(state) = state.upgrade() {
                let later = Rc::clone(&state);
                let (events, name) = (Arc::clone(&events), name.clone());
                state.spawn(async move {
                    let seen = later.status(id);
                    if let Some(snapshot) = snapshot_of(&note) {
                        // It is told by its name, which only the status knows.
                        let known = seen.as_ref().map(|seen| seen.status.snapshots.iter());
                        let named = known.into_iter().flatten().find(|of| of.id == snapshot);
                        if named.is_some_and(|of| of.origin == SnapshotOrigin::Journal) {
                            // One of those that come and go by themselves.
                            return;
                        }
                        let named = named.map_or_else(|| snapshot.to_string(), |s| s.name.clone());
                        let subject = format!("{name}@{named}");
                        events.tell("snapshot", &subject, note_text(&note));
                    }
                });
            }
        })
    }
}

/// The snapshot that a note is about.
const fn snapshot_of(note: &Note) -> Option<SnapshotId> {
    match note {
        Note::SnapshotTaken { id } | Note::SnapshotMissed { id, .. } | Note::RolledBack { id } => {
            Some(*id)
        }
        _ => None,
    }
}

fn note_text(note: &Note) -> String {
    match note {
        Note::MirrorInSync { leg } => format!("{leg}: the mirror holds everything"),
        Note::MirrorLost { leg, cause } => {
            format!("{leg}: the mirror was lost: {}", cause_text(cause))
        }
        Note::MirrorFollows { leg } => format!("{leg}: the mirror keeps whole cuts"),
        Note::Degraded { leg } => format!("{leg}: the mirror is too slow and follows behind"),
        Note::Transferred { leg } => format!("{leg}: the transfer is done"),
        Note::Promoted => "this gateway became the primary".to_owned(),
        Note::Demoted => "this gateway became a mirror".to_owned(),
        Note::Detached(true) => "the copy here is open to hosts on its own".to_owned(),
        Note::Detached(false) => "the copy here is no longer open to hosts".to_owned(),
        Note::Fenced => "fenced: a higher epoch exists: hosts were dropped".to_owned(),
        Note::FencedOff { gateway } => format!("gateway {gateway} was refused: its epoch is lower"),
        Note::SplitBrain { leg } => format!("{leg}: both sides have writes that the other lacks"),
        Note::StretchJoined { number } => {
            format!("stretch {number}: every part counts on its mirror")
        }
        Note::StretchEnded { by: None } => {
            "the mirror is lost: the sessions of all parts stop at one cut".to_owned()
        }
        Note::StretchEnded { by: Some(gateway) } => {
            format!("companion {gateway} stopped: the sessions of all parts stop at one cut")
        }
        Note::Excluded { gateway, excluded: true } => {
            format!("companion {gateway} was excluded by an operator")
        }
        Note::Excluded { gateway, excluded: false } => {
            format!("companion {gateway} was taken back in by an operator")
        }
        Note::ExcludedBy { gateway } => {
            format!("this gateway was excluded at companion {gateway}: hosts were dropped")
        }
        Note::TakesOver => "the primary and its lease are lost: this site takes over".to_owned(),
        Note::Witness { reachable: true } => "the witness answers again".to_owned(),
        Note::Witness { reachable: false } => "the witness does not answer".to_owned(),
        Note::Mismatch { leg, blocks, .. } => {
            format!(
                "{leg}: a verification found {blocks} blocks that differ; they are copied again"
            )
        }
        Note::Verified { leg, found } => format!(
            "{leg}: all {} mapped blocks were compared; {} differed, {} could not be read here",
            found.blocks, found.mismatched, found.unreadable
        ),
        Note::SnapshotTaken { .. } => "kept here".to_owned(),
        Note::SnapshotMissed { leg, why, .. } => {
            format!("{leg}: the mirror does not keep it: {why}")
        }
        Note::RolledBack { .. } => "the volumes are what they were at this snapshot".to_owned(),
        Note::Latched { error } => format!("the copy here failed: {error}"),
    }
}
