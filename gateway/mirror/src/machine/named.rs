//! Snapshots of the whole group that an operator names: taken at one place in the stream, on every
//! copy that has all of it; removed; and gone back to.
//!
//! ```text
//!   primary   names for the stores are recorded ─▶ new changes are held ─▶ those under way are
//!             applied here ─▶ the stores begin, mirrors are told, hosts go on ─▶ recorded, answered
//!   mirror    what came before is applied ─▶ the stores keep it, the stream waits ─▶ recorded, told
//! ```
//!
//! Invariant: what a snapshot holds is the same on every copy that says it keeps it: all changes
//! before one place in the stream and none after it. What a crash leaves of one that was not recorded
//! is removed; one that was recorded is never removed but by an operator's word.

use std::collections::{HashMap, HashSet};

use block::{
    IoError, LegId, Message, POINTS_SINCE_VERSION, SNAPSHOTS_SINCE_VERSION, SnapshotId, VolumeId,
};
use bytes::Bytes;

use super::leg::Stage;
use super::members::Records;
use super::points::Why;
use super::write_journal::{Entry, UNASKED};
use super::{After, Effect, Machine, Pending, Role, VolumeState};
use crate::command::Refusal;
use crate::record::{Label, Named, SnapshotWord, encode_named, named_key};
use crate::status::{SnapshotOrigin, SnapshotState, SnapshotStatus};

/// The most named snapshots of a group: a record that is replaced as a whole stays small.
pub(super) const NAMED_MAX: usize = 512;

// === impl VolumeState ===

impl VolumeState {
    /// Its part of a snapshot.
    pub(super) fn part_of(&self, id: SnapshotId) -> Option<&Named> {
        self.named.iter().find(|named| named.label.id == id)
    }
}

// === impl Machine ===

impl Machine {
    /// The named snapshots of every volume as they were recorded. One whose content is not there is
    /// shown as such; one that was being removed still is.
    pub(super) fn restore_named(&mut self, restored: &[super::Restored]) {
        for (volume, found) in self.volumes.iter_mut().zip(restored) {
            let mut named = found.named.clone();
            named.retain_mut(|one| {
                let exists = found.snapshots.contains(&one.here);
                match one.state {
                    SnapshotState::Deleting if !exists => return false,
                    SnapshotState::Deleting => self.points.add_unneeded(volume.id, one.here),
                    SnapshotState::Available | SnapshotState::RollingBack if !exists => {
                        one.state = SnapshotState::Error;
                    }
                    SnapshotState::Available
                    | SnapshotState::RollingBack
                    | SnapshotState::Error => {}
                }
                true
            });
            volume.named = named;
        }
    }

    /// The named snapshots in the order in which they were taken, whatever clocks said then. A volume
    /// that came later has no earlier ones: they come before the first that it has.
    fn in_order(&self) -> HashMap<SnapshotId, usize> {
        let (mut order, mut seen) = (Vec::new(), HashSet::new());
        for volume in &self.volumes {
            let mut next = 0;
            for id in volume.named.iter().map(|named| named.label.id) {
                if seen.insert(id) {
                    order.insert(next, id);
                } else if order.get(next) != Some(&id) {
                    next = order.iter().position(|known| *known == id).unwrap_or(next);
                }
                next += 1;
            }
        }
        order.into_iter().zip(0..).collect()
    }

    /// The named snapshots, oldest first, for people.
    pub(super) fn named_status(&self) -> Vec<SnapshotStatus> {
        let mut all: Vec<SnapshotStatus> = Vec::new();
        let mut places: HashMap<SnapshotId, usize> = HashMap::new();
        for volume in &self.volumes {
            for named in &volume.named {
                let at = *places.entry(named.label.id).or_insert_with(|| {
                    all.push(SnapshotStatus {
                        id: named.label.id,
                        name: named.label.name.clone(),
                        origin: named.label.origin,
                        unix_ms: named.label.unix_ms,
                        marks: named.label.marks.clone(),
                        state: named.state,
                        volumes: Vec::new(),
                        held_by: named.held_by.clone(),
                    });
                    all.len() - 1
                });
                let status = &mut all[at];
                status.volumes.push((volume.id, named.here));
                if status.state == SnapshotState::Available {
                    status.state = named.state;
                }
            }
        }
        let order = self.in_order();
        all.sort_by_key(|snapshot| order.get(&snapshot.id).copied());
        all
    }

    fn is_named(&self, id: SnapshotId) -> bool {
        self.parts_of(id).next().is_some()
    }

    /// The volumes' parts of a snapshot, in the order of the volumes, of those that have one.
    pub(super) fn parts_of(&self, id: SnapshotId) -> impl Iterator<Item = &Named> {
        self.volumes.iter().filter_map(move |volume| volume.part_of(id))
    }

    /// The same, to be changed.
    pub(super) fn parts_mut(&mut self, id: SnapshotId) -> impl Iterator<Item = &mut Named> {
        let all = self.volumes.iter_mut().flat_map(|volume| &mut volume.named);
        all.filter(move |named| named.label.id == id)
    }

    /// The records of every volume's named snapshots.
    pub(super) fn named_records(&self) -> Records {
        let record = |volume: &VolumeState| -> (String, Option<Bytes>) {
            (named_key(volume.id), encode_named(&volume.named))
        };
        self.volumes.iter().map(record).collect()
    }

    // --- taking one ---

    /// An operator asks a primary for one.
    pub(super) fn begin_snapshot(
        &mut self,
        label: Label,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.require_primary()?;
        self.require_alone("has snapshots of all its parts only, and none by schedule")?;
        self.may_name(&label)?;
        self.command = Some(Pending::Snapshot(label.id));
        self.ask_for(label, out);
        Ok(())
    }

    /// Whether a snapshot of that name can be taken here.
    pub(super) fn may_name(&self, label: &Label) -> Result<(), Refusal> {
        if self.latched {
            return Err(Refusal::Io(IoError::Latched));
        }
        let mut named = self.volumes.iter().flat_map(|volume| &volume.named);
        if named.any(|one| one.label.id == label.id || one.label.name == label.name) {
            return Err(Refusal::SnapshotExists);
        }
        if self.volumes.iter().any(|volume| volume.named.len() >= NAMED_MAX) {
            return Err(Refusal::TooManySnapshots);
        }
        if self.points.are_unsupported() {
            return Err(Refusal::Io(IoError::Unsupported));
        }
        if self.points.is_busy() || self.closing {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// Names for the stores are recorded before they are used, so that a crash leaves no snapshot
    /// that nobody knows.
    pub(super) fn ask_for(&mut self, label: Label, out: &mut Vec<Effect>) {
        self.asked = Some(label);
        if !self.points.is_planned() {
            self.keep(After::Nothing, out);
        }
    }

    /// Whether hosts' changes wait for a snapshot that is about to be taken. Only for as long as it
    /// takes the copy here to apply what is under way.
    pub(super) fn holds_for_snapshot(&self) -> bool {
        let asked = self.asked.is_some() && self.points.is_planned() && self.is_plan_recorded();
        asked || self.holds_together()
    }

    /// Takes the snapshot that was asked for when this copy is at one place in the stream: what was
    /// sent to mirrors is applied here, and nothing else is.
    pub(super) fn advance_named(&mut self, out: &mut Vec<Effect>) {
        if let Some(label) = self.advance_hold(out) {
            self.take_named(label, out);
        }
        if self.asked.is_none() {
            return;
        }
        if self.role != Role::Primary || self.latched {
            self.asked = None;
            return;
        }
        if !self.holds_for_snapshot() || self.writes.any_unapplied() || self.points.is_busy() {
            return;
        }
        if let Some(label) = self.asked.take() {
            self.take_named(label, out);
        }
    }

    /// This copy is at one place in the stream: it is taken here, and by every mirror that has it all.
    fn take_named(&mut self, label: Label, out: &mut Vec<Effect>) {
        assert!(!self.writes.any_unapplied(), "what mirrors were sent before it is here (rule 14)");
        let word = SnapshotWord::Take(label.clone()).encode();
        let since = if label.is_plain() { SNAPSHOTS_SINCE_VERSION } else { POINTS_SINCE_VERSION };
        let here_only = self.recovery.here_only.take() == Some(label.id);
        self.points.begin_named(label, out);
        for leg in LegId::all().filter(|leg| !here_only && self.can_keep_named(*leg, since)) {
            out.push(Effect::Post { leg, message: Message::Snapshot(word.clone()) });
        }
    }

    /// Whether a mirror has everything before this place in the stream, and nothing else.
    fn can_keep_named(&self, leg: LegId, since: u16) -> bool {
        self.leg(leg).is_some_and(|leg| {
            matches!(leg.stage, Stage::InSync | Stage::Following)
                && leg.version >= since
                && leg.is_clean()
                && !leg.has_copies()
        })
    }

    /// The stores answered. `link` is that to the primary, 0 at a primary.
    pub(super) fn named_snapshotted(
        &mut self,
        (link, label): (u64, Label),
        here: &[SnapshotId],
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) {
        let id = label.id;
        let of_journal = label.origin == SnapshotOrigin::Journal;
        // Whoever is told that it is kept: nobody asked for one of the write journal.
        let asked = if of_journal { UNASKED } else { link };
        match result {
            Ok(()) => {
                let holders = if link == 0 { self.points.take_sooner() } else { Vec::new() };
                for (volume, here) in self.volumes.iter_mut().zip(here) {
                    let state = SnapshotState::Available;
                    let held_by = holders.clone();
                    volume.named.push(Named { label: label.clone(), here: *here, state, held_by });
                }
                let records = self.named_records();
                self.keep_with(After::SnapshotNamed { id, link: asked }, records, out);
            }
            Err(error) => {
                self.points.refuse_named(error);
                if of_journal {
                    out.push(Effect::Journal(Entry::Gap(block::Gap::Base)));
                }
                let names = self.volumes.iter().map(|volume| volume.id).zip(here.iter().copied());
                let names: Vec<(VolumeId, SnapshotId)> = names.collect();
                names.into_iter().for_each(|(v, s)| self.points.add_unneeded(v, s));
                if error == IoError::Latched {
                    self.latch(error, out);
                }
                let is_ours = link == 0 && self.role == Role::Primary;
                // It is none: mirrors that keep it already have no use for it.
                let records = if is_ours { self.bury(id, out) } else { Vec::new() };
                self.keep_with(After::Nothing, records, out);
                let why = format!("cannot keep a snapshot of the copy here: {error}");
                self.answer_named((id, asked), Err((Refusal::Io(error), why)), out);
            }
        }
        if link != 0 && self.upstream.as_ref().is_some_and(|upstream| upstream.link == link) {
            self.quality_kept(out);
        }
    }

    /// A snapshot is recorded.
    pub(super) fn snapshot_named(&mut self, id: SnapshotId, link: u64, out: &mut Vec<Effect>) {
        out.push(Effect::Note(super::Note::SnapshotTaken { id }));
        self.answer_named((id, link), Ok(()), out);
    }

    fn answer_named(
        &mut self,
        (id, link): (SnapshotId, u64),
        result: Result<(), (Refusal, String)>,
        out: &mut Vec<Effect>,
    ) {
        if link == 0 {
            let result = result.map_err(|(refusal, _)| refusal);
            self.safety_taken(id, result.clone(), out);
            self.finish_own(Pending::Snapshot(id), result, out);
        } else if self.upstream.as_ref().is_some_and(|upstream| upstream.link == link) {
            let failed = result.err().map(|(_, why)| why);
            self.reply_named(id, failed, out);
        }
    }

    fn reply_named(&self, id: SnapshotId, failed: Option<String>, out: &mut Vec<Effect>) {
        let word = SnapshotWord::Taken { id, failed };
        out.push(Effect::Reply { message: Message::Snapshot(word.encode()) });
    }

    // --- at a mirror ---

    /// The primary says something of snapshots, in its place in the stream.
    pub(super) fn told_of_snapshot(&mut self, word: &[u8], out: &mut Vec<Effect>) {
        match SnapshotWord::decode(word) {
            Ok(SnapshotWord::Take(label)) if self.is_named(label.id) => {
                self.reply_named(label.id, None, out);
            }
            Ok(SnapshotWord::Take(label)) => {
                let whole =
                    matches!(self.quality, block::Quality::InSync | block::Quality::Consistent);
                let refused =
                    if whole { self.may_name(&label).err() } else { Some(Refusal::NotInSync) };
                match refused {
                    Some(refusal) => self.reply_named(label.id, Some(refusal.to_string()), out),
                    None => self.keep_point(Why::Named(label), out),
                }
            }
            Ok(SnapshotWord::Remove(id)) => self.told_gone(id, false, out),
            Ok(SnapshotWord::Retire(id)) => self.told_gone(id, true, out),
            Ok(SnapshotWord::Mark { id, marks }) => self.told_marks(id, &marks, out),
            Ok(SnapshotWord::Policy(policy)) => self.told_point_policy(policy, out),
            Ok(SnapshotWord::Time { unix_ms }) => {
                out.push(Effect::Journal(Entry::Time { unix_ms }));
            }
            Ok(SnapshotWord::Attributes { volume, kept }) => {
                self.told_attributes(volume, kept, out);
            }
            Ok(SnapshotWord::Heritage(mirrors)) => self.told_heritage(mirrors),
            Ok(
                SnapshotWord::Taken { .. }
                | SnapshotWord::Retired(_)
                | SnapshotWord::AttributesKept { .. },
            )
            | Err(_) => {
                let why = "a word about snapshots that makes no sense".to_owned();
                self.drop_upstream(Some(block::Goodbye::Protocol(why)), out);
            }
        }
    }

    /// What a mirror says of a snapshot that it was to keep.
    pub(super) fn heard_of_snapshot(&mut self, leg: LegId, word: &[u8], out: &mut Vec<Effect>) {
        let Some(gateway) = self.leg(leg).map(|leg| leg.gateway) else { return };
        match SnapshotWord::decode(word) {
            // The mirror's stores were quicker than those here.
            Ok(SnapshotWord::Taken { id, failed: None })
                if self.points.heard_sooner(id, gateway) => {}
            Ok(SnapshotWord::Taken { id, failed: None }) => {
                let mut is_new = false;
                for named in self.parts_mut(id) {
                    if !named.held_by.contains(&gateway) {
                        named.held_by.push(gateway);
                        is_new = true;
                    }
                }
                if is_new {
                    let records = self.named_records();
                    self.keep_with(After::Nothing, records, out);
                }
            }
            Ok(SnapshotWord::Taken { id, failed: Some(why) }) => {
                out.push(Effect::Note(super::Note::SnapshotMissed { id, leg, why }));
            }
            Ok(SnapshotWord::Retired(id)) => self.heard_retired(leg, id, out),
            Ok(SnapshotWord::AttributesKept { volume, number }) => {
                self.heard_attributes(leg, (volume, number), out);
            }
            Ok(
                SnapshotWord::Take(_)
                | SnapshotWord::Remove(_)
                | SnapshotWord::Retire(_)
                | SnapshotWord::Mark { .. }
                | SnapshotWord::Policy(_)
                | SnapshotWord::Time { .. }
                | SnapshotWord::Heritage(_)
                | SnapshotWord::Attributes { .. },
            )
            | Err(_) => {
                let why = "a word about snapshots that makes no sense".to_owned();
                let error = crate::status::SessionState::Error;
                self.lose_leg(leg, crate::status::Cause::Refused(why), error, out);
            }
        }
    }

    // --- removing one ---

    /// An operator has no more use for one, here and at the mirrors, as soon as they are connected.
    pub(super) fn remove_named(
        &mut self,
        id: SnapshotId,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.may_remove(id)?;
        let records = self.give_named_up(id, out);
        self.keep_with(After::Command, records, out);
        Ok(())
    }

    /// What is recorded of a snapshot before the stores remove it.
    pub(super) fn give_named_up(&mut self, id: SnapshotId, out: &mut Vec<Effect>) -> Records {
        let gone = if self.role == Role::Primary { self.bury(id, out) } else { Vec::new() };
        self.mark_deleting(id);
        let mut records = self.named_records();
        records.extend(gone);
        records
    }

    /// What was removed from the stores is not listed any more.
    pub(super) fn forget_deleted(&mut self, out: &mut Vec<Effect>) {
        let mut gone = false;
        for volume in &mut self.volumes {
            let (id, points) = (volume.id, &self.points);
            volume.named.retain(|named| {
                let is_gone =
                    named.state == SnapshotState::Deleting && !points.is_unneeded(id, named.here);
                gone |= is_gone;
                !is_gone
            });
        }
        if gone {
            let records = self.named_records();
            self.keep_with(After::Nothing, records, out);
        }
    }
}
