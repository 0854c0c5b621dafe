//! Snapshots of a mirror's volumes, all of a group at once.
//!
//! Invariant: one round of each kind at a time, as the machine asks for them.

use std::rc::Rc;

use block::{BlockSet, Extent, IoError, LegId, RunKind, SnapshotId, Volume};
use tokio::sync::oneshot;

use super::inbox::Tag;
use super::{Core, Group};
use crate::command::Refusal;
use crate::machine::{Event, Note, PointListing};

/// Ranges of a map that are asked for at a time.
const STEP: usize = 4096;

/// Snapshots that are being removed, and how many are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Removal {
    waiting: usize,
    snapshots: Vec<(usize, SnapshotId)>,
    gone: Vec<bool>,
}

// === impl Group ===

impl Group {
    /// Gives a snapshot up for a way back that waits for room; answers when that is durable.
    ///
    /// # Cancellation
    /// It may be given up.
    pub(super) async fn make_room(self: &Rc<Self>, snapshot: SnapshotId) -> Result<(), Refusal> {
        if self.stopping.is_cancelled() {
            return Err(Refusal::Interrupted);
        }
        let (answer, waiting) = oneshot::channel();
        {
            let mut core = self.core.borrow_mut();
            core.attempts += 1;
            let token = core.attempts;
            core.room_makers.insert(token, answer);
            core.events.push(Event::MakeRoom(snapshot, token));
        }
        self.turn();
        waiting.await.unwrap_or(Err(Refusal::Interrupted))
    }
}

// === impl Core ===

impl Core {
    pub(super) fn room_made(&mut self, token: u64, result: Result<(), Refusal>) {
        if let Some(maker) = self.room_makers.remove(&token) {
            // A caller that went away no longer wants to know.
            let _unheard = maker.send(result);
        }
    }

    pub(super) fn snapshot(&mut self, snapshots: &[SnapshotId]) {
        assert_eq!(snapshots.len(), self.members.len(), "each volume is in it (rule 14)");
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
        let result = self.changed_since(snapshots);
        self.events.push(Event::Changed { result });
    }

    fn changed_since(&self, snapshots: &[SnapshotId]) -> Result<Vec<BlockSet>, IoError> {
        let mut changed = Vec::with_capacity(snapshots.len());
        for (member, snapshot) in self.members.iter().zip(snapshots) {
            let mut ranges = BlockSet::new();
            let mut from = 0;
            loop {
                let step = member.store.changed_since(*snapshot, from, STEP)?;
                let Some(last) = step.last() else { break };
                from = last.end();
                ranges.extend(step);
            }
            changed.push(ranges);
        }
        Ok(changed)
    }

    /// Opens a point for a leg: its copies are read from it until its link ends, whatever becomes of
    /// the snapshots' names. Lists what may differ in it.
    pub(super) fn list_point(&mut self, leg: LegId, snapshots: &[SnapshotId], mapped: bool) {
        let result = Box::new(self.open_point(leg, snapshots, mapped));
        self.events.push(Event::PointListed { leg, result });
    }

    fn open_point(
        &mut self,
        leg: LegId,
        snapshots: &[SnapshotId],
        mapped: bool,
    ) -> Result<PointListing, IoError> {
        let opened = self.members.iter().zip(snapshots);
        let opened = opened.map(|(member, snapshot)| member.store.open_snapshot(*snapshot));
        let source = opened.collect::<Result<Vec<_>, _>>()?;
        let listed = |volume: &Rc<dyn Volume>| {
            if mapped { mapped_in(&**volume) } else { Ok(BlockSet::new()) }
        };
        let listing = PointListing {
            bytes: source.iter().map(|volume| volume.geometry().bytes()).collect(),
            mapped: source.iter().map(listed).collect::<Result<_, _>>()?,
            changed: self.changed_since(snapshots)?,
        };
        if let Some(port) = &mut self.legs[leg.index()] {
            port.source = source;
        }
        Ok(listing)
    }
}

/// Every block in which something lies.
fn mapped_in(volume: &dyn Volume) -> Result<BlockSet, IoError> {
    let mut ranges = BlockSet::new();
    let end = volume.geometry().bytes();
    let mut from = 0;
    while let Ok(rest) = Extent::new(from, end.saturating_sub(from)) {
        let runs = volume.layout(rest, STEP)?;
        if runs.is_empty() {
            return Err(IoError::Media);
        }
        for run in runs {
            if let (RunKind::Data, Ok(extent)) = (run.kind, Extent::new(from, run.len)) {
                ranges.push(extent.blocks());
            }
            from += run.len;
        }
    }
    Ok(ranges)
}

/// What the log says of snapshots with names.
pub(super) fn log(group: &str, note: &Note) {
    match note {
        Note::SnapshotTaken { id } => tracing::info!(group, snapshot = %id, "snapshot is kept"),
        Note::SnapshotMissed { id, leg, why } => {
            tracing::warn!(group, snapshot = %id, %leg, why, "mirror does not keep a snapshot");
        }
        Note::RolledBack { id } => {
            tracing::warn!(group, snapshot = %id, "went back to a snapshot");
        }
        _ => {}
    }
}
