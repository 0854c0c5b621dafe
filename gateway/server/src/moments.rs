//! The write journals of this gateway, and what is opened from them.
//!
//! ```text
//!   policy of the group ─▶ Journal ◀─ group on its shard
//!   pool's record ─▶ Laid (group, places, time) ─▶ View ─▶ LaidOrigin ─▶ volume
//! ```
//!
//! Invariant: the segments that a volume is filled from are pinned for as long as the pool's record of
//! it names them; who opens a journal says so from those records first.

pub(crate) mod origin;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::PointJournal;
use block::{GroupId, SnapshotId, VolumeId};
use mirror::{GroupStatus, Mode, Role, SnapshotState};
use serde::{Deserialize, Serialize};
use store::OriginRecord;
use store::journal::{Journal, JournalLimits, JournalStatus, Moment, Place, View};
use uuid::Uuid;

use crate::clock::text;

/// The window, in seconds: below, a base would be taken every second; above, its index is no small
/// thing to keep in memory.
const WINDOW_S: (u64, u64) = (10, 259_200);
/// The bytes: sixteen segments of a size that a disk likes, and 64 bases of a million changes.
const BYTES: (u64, u64) = (64 << 20, 256 << 30);

/// What lies over the snapshot that a volume is filled from, as the pool's record of it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Laid {
    /// The group whose journal has it.
    pub(crate) group: Uuid,
    /// From where, and up to where: segments and bytes.
    from: (u64, u64),
    to: (u64, u64),
    /// The moment, in milliseconds since 1970.
    pub(crate) unix_ms: u64,
}

/// Kinds of what is laid over a snapshot.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Description {
    Journal(Laid),
}

/// All write journals.
#[derive(Debug, Default)]
pub(crate) struct Moments {
    journals: Mutex<HashMap<GroupId, Journal>>,
    /// By the volume that is filled.
    views: Mutex<HashMap<VolumeId, Arc<View>>>,
}

// === impl Laid ===

impl Laid {
    #[must_use]
    pub(crate) fn new(group: GroupId, moment: &Moment) -> Self {
        let place = |place: Place| (place.segment, place.at);
        let (from, to) = (place(moment.from), place(moment.to));
        Self { group: group.uuid(), from, to, unix_ms: moment.unix_ms }
    }

    /// As the pool keeps it.
    #[must_use]
    pub(crate) fn encode(self) -> Vec<u8> {
        serde_json::to_vec(&Description::Journal(self)).expect("numbers fit JSON")
    }

    /// What the pool kept; `None` when a newer release wrote it.
    #[must_use]
    pub(crate) fn decode(description: &[u8]) -> Option<Self> {
        let Description::Journal(laid) = serde_json::from_slice(description).ok()?;
        Some(laid)
    }

    /// Where the part of the journal begins and ends.
    pub(crate) fn places(self) -> (Place, Place) {
        let place = |(segment, at)| Place { segment, at };
        (place(self.from), place(self.to))
    }
}

// === impl Moments ===

impl Moments {
    fn journals(&self) -> MutexGuard<'_, HashMap<GroupId, Journal>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn views(&self) -> MutexGuard<'_, HashMap<VolumeId, Arc<View>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The journal of a group, if it is open.
    #[must_use]
    pub(crate) fn journal(&self, group: GroupId) -> Option<Journal> {
        self.journals().get(&group).cloned()
    }

    /// It is open.
    pub(crate) fn add(&self, group: GroupId, journal: Journal) {
        self.journals().insert(group, journal);
    }

    /// Nobody needs it any more.
    pub(crate) fn remove(&self, group: GroupId) {
        self.journals().remove(&group);
    }

    /// The groups whose journals are open.
    #[must_use]
    pub(crate) fn open(&self) -> Vec<GroupId> {
        self.journals().keys().copied().collect()
    }

    /// The segments of a moment stay for as long as a group is on its way back to it. Says whether all
    /// of them are there.
    pub(crate) fn pin_way_back(&self, group: GroupId, moment: &Moment) -> bool {
        self.journal(group).is_some_and(|journal| journal.pin(way_back(group), moment))
    }

    /// A group is on its way back no more.
    pub(crate) fn unpin_way_back(&self, group: GroupId) {
        if let Some(journal) = self.journal(group) {
            journal.unpin(way_back(group));
        }
    }

    /// What is laid over the origin of a volume is at hand.
    pub(crate) fn add_view(&self, filled: VolumeId, view: View) {
        self.views().insert(filled, Arc::new(view));
    }

    fn view(&self, filled: VolumeId) -> Option<Arc<View>> {
        self.views().get(&filled).cloned()
    }

    /// A volume needs nothing of a journal any more.
    pub(crate) fn let_go(&self, filled: VolumeId, laid: Option<Laid>) {
        self.views().remove(&filled);
        let journal = laid.and_then(|laid| self.journal(GroupId::from_uuid(laid.group)));
        if let Some(journal) = journal {
            journal.unpin(filled);
        }
    }
}

/// What the way back of a group pins its journal as: no volume has the group's identity.
const fn way_back(group: GroupId) -> VolumeId {
    VolumeId::from_uuid(group.uuid())
}

/// The segments that a group needs on its way back to a second.
#[must_use]
pub(crate) fn pin_of_way_back(group: GroupId, laid: Laid) -> (VolumeId, (u64, u64)) {
    (way_back(group), (laid.from.0, laid.to.0))
}

/// The segments that volumes of a pool are still filled from, of one group.
#[must_use]
pub(crate) fn pins(pool: &store::Pool, group: GroupId) -> HashMap<VolumeId, (u64, u64)> {
    let pinned = |record: store::VolumeRecord| {
        let Some(OriginRecord::Laid { description, .. }) = record.origin else { return None };
        let laid = Laid::decode(&description).filter(|laid| laid.group == group.uuid())?;
        Some((record.id, (laid.from.0, laid.to.0)))
    };
    pool.volumes().into_iter().filter_map(pinned).collect()
}

/// Proves what is asked for.
///
/// # Errors
/// What cannot be used.
pub(crate) fn proven(wanted: &PointJournal) -> Result<(), String> {
    let (least, most) = WINDOW_S;
    if !(least..=most).contains(&wanted.window_seconds) {
        let window = wanted.window_seconds;
        return Err(format!("the window is {window} s, of {least} to {most}"));
    }
    let (least, most) = BYTES;
    if !(least..=most).contains(&wanted.bytes) {
        return Err(format!("the journal has {} bytes, of {least} to {most}", wanted.bytes));
    }
    Ok(())
}

/// As the journal is told.
#[must_use]
pub(crate) const fn limits(wanted: &PointJournal) -> JournalLimits {
    JournalLimits { window_ms: wanted.window_seconds * 1_000, bytes: wanted.bytes }
}

/// Whether a base holds every volume that the group has now.
pub(crate) fn is_there(status: &GroupStatus) -> impl Fn(SnapshotId) -> bool {
    move |base| {
        let found = status.snapshots.iter().find(|of| of.id == base);
        found.is_some_and(|snapshot| {
            snapshot.state == SnapshotState::Available
                && status
                    .volumes
                    .iter()
                    .all(|volume| snapshot.volumes.iter().any(|(held, _)| *held == volume.volume))
        })
    }
}

/// Why less can be opened than was asked for; `None` when all can.
#[must_use]
pub(crate) fn shorter_because(
    wanted: &PointJournal,
    status: &GroupStatus,
    journal: &JournalStatus,
) -> Option<String> {
    if journal.is_reading {
        return Some("what an earlier start left is still being looked through".to_owned());
    }
    if status.role != Role::Secondary {
        return Some("this site is no mirror of the group now; its mirrors go on".to_owned());
    }
    if status.upstream.as_ref().is_some_and(|upstream| upstream.mode == Mode::Stack) {
        return Some("its session is of mode stack, which sends in no order".to_owned());
    }
    let gap = journal.last_gap.map(|gap| gap.to_string());
    if !journal.follows {
        let why = gap.unwrap_or_else(|| "it was just begun".to_owned());
        return Some(format!("it waits until the copy here is whole: {why}"));
    }
    let last = journal.ranges.last();
    if last.is_some_and(|(from, to)| to - from >= wanted.window_seconds * 1_000) {
        return None;
    }
    if journal.is_cut_by_bytes {
        return Some("its bytes are used up".to_owned());
    }
    let since = last.map_or_else(String::new, |(from, _)| format!(" at {}", text(*from)));
    Some(match gap {
        Some(gap) => format!("it began anew{since}: {gap}"),
        None => format!("it was begun{since}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_moment_is_read_back() {
        let group = GroupId::of(7);
        let from = Place { segment: 1, at: 56 };
        let to = Place { segment: 3, at: 99 };
        let moment = Moment { base: SnapshotId::of(1), from, to, unix_ms: 5 };
        let laid = Laid::new(group, &moment);
        assert_eq!(Laid::decode(&laid.encode()), Some(laid));
        assert_eq!(laid.places(), (from, to));
        assert_eq!(Laid::decode(b"{\"other\":{}}"), None);
        // As the first release wrote it.
        let bytes = br#"{"journal":{"group":"00000000-0000-0000-0000-000000000007","from":[1,56],"to":[3,99],"unix_ms":5}}"#;
        assert_eq!(Laid::decode(bytes), Some(laid));
    }

    #[test]
    fn a_window_and_bytes_out_of_bounds_are_refused_by_name() {
        let wanted = |window_seconds, bytes| PointJournal { window_seconds, bytes };
        assert!(proven(&wanted(9, 64 << 20)).unwrap_err().contains("window"));
        assert!(proven(&wanted(259_201, 64 << 20)).unwrap_err().contains("window"));
        assert!(proven(&wanted(10, (64 << 20) - 1)).unwrap_err().contains("bytes"));
        assert!(proven(&wanted(10, (256 << 30) + 1)).unwrap_err().contains("bytes"));
        assert_eq!(proven(&wanted(10, 64 << 20)), Ok(()));
    }
}
