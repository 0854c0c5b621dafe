//! The way of a primary back to a named snapshot, in place.
//!
//! ```text
//!   hosts are dropped ─▶ what is under way ends ─▶ what is here now is kept, by name (rule 10)
//!   ─▶ what will change is listed ─▶ one record: mirrors lack that, a history begins, the intention
//!   ─▶ the stores go back ─▶ one record: it is done
//! ```
//!
//! Invariant (rule 9): what the way back changes is in every mirror's dirty map, durably and with the
//! intention, before anything is changed. From that record on it is carried through: whatever ends it
//! in the middle, the next start takes it up before anybody is served or followed. A store that has no
//! room for it did not fail: it waits for room, and until then nothing else is done to the group, but
//! that snapshots which it does not need are removed for it.

use block::{BlockSet, IoError, LegId, SnapshotId};

use super::leg::Stage;
use super::{After, Effect, Machine, Note, Pending, Role};
use crate::command::Refusal;
use crate::record::{Label, Named};
use crate::status::{Marks, SnapshotOrigin, SnapshotState};

/// From a full store to the next try: each adds a little to the logs of the stores that had room.
const ROOM_PAUSE_MS: u64 = 1_000;

/// A way back that is under way.
#[derive(Debug)]
pub(super) struct Rollback {
    /// To which snapshot.
    to: SnapshotId,
    /// The one of what was there before (rule 10); `None` when a start finds none.
    safety: Option<SnapshotId>,
    step: Step,
    /// Nobody asked for it since the start, and it stands in the place of a command while it waits.
    is_unasked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// What hosts had under way comes to its end.
    Settling(Label),
    /// What is here now is being kept under this name.
    Keeping(SnapshotId),
    /// What will change is being listed.
    Listing,
    /// The intention is being recorded.
    Intending,
    /// The stores are at it.
    Rolling,
    /// A store had no room for it; they are asked again at this time.
    Waiting(u64),
    /// Its end is being recorded.
    Recording,
}

impl Step {
    /// Whether nothing was changed yet, so that it can be given up.
    const fn is_free(&self) -> bool {
        matches!(self, Self::Settling(_) | Self::Keeping(_) | Self::Listing)
    }
}

// === impl Machine ===

impl Machine {
    pub(super) fn begin_rollback(
        &mut self,
        to: SnapshotId,
        (safety, unix_ms): (SnapshotId, u64),
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.require_primary()?;
        self.require_alone("goes back to no snapshot")?;
        self.find_whole(to)?;
        let is_active = |leg: &super::Leg| leg.in_set || leg.wanted || leg.stage != Stage::Off;
        let ousting = LegId::all().any(|leg| self.is_ousting(leg));
        if self.legs.iter().flatten().any(|leg| is_active(leg)) || ousting {
            return Err(Refusal::SessionsActive);
        }
        let name = format!("auto.before-rollback.{unix_ms}");
        let origin = SnapshotOrigin::Safety;
        let label = Label { id: safety, name, origin, unix_ms, marks: Marks::default() };
        self.may_name(&label)?;
        self.command = Some(Pending::RollBack(to));
        let (safety, step) = (Some(safety), Step::Settling(label));
        self.rollback = Some(Rollback { to, safety, step, is_unasked: false });
        out.push(Effect::DropHosts);
        Ok(())
    }

    /// Whether every volume of the group can go back to a snapshot.
    fn find_whole(&self, id: SnapshotId) -> Result<(), Refusal> {
        let of = |volume: &super::VolumeState| volume.part_of(id).map(|named| named.state);
        let states: Vec<_> = self.volumes.iter().map(of).collect();
        if states.iter().all(Option::is_none) {
            return Err(Refusal::NoSuchSnapshot);
        }
        if let Some(at) = states.iter().position(Option::is_none) {
            return Err(Refusal::SnapshotPartial { volume: self.volumes[at].name.clone() });
        }
        let usable = states.iter().all(|state| *state == Some(SnapshotState::Available));
        if usable { Ok(()) } else { Err(Refusal::SnapshotUnusable) }
    }

    /// Whether the group is on its way to this snapshot, or keeps what was there before as it.
    pub(super) fn needs_on_its_way(&self, id: SnapshotId) -> bool {
        let needs = |rollback: &Rollback| rollback.to == id || rollback.safety == Some(id);
        self.rollback.as_ref().is_some_and(needs)
    }

    /// Whether the way back can go on when there is room, and not before.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.rollback.as_ref().is_some_and(|rollback| matches!(rollback.step, Step::Waiting(_)))
    }

    /// An operator gives a snapshot up while the way back waits for room, beside the command that
    /// waits with it. Whatever else is removed here, the way back is carried through.
    pub(super) fn make_room(&mut self, id: SnapshotId, token: u64, out: &mut Vec<Effect>) {
        let refused = match self.may_remove(id) {
            Ok(()) if self.closing => Some(Refusal::Io(IoError::ShuttingDown)),
            Ok(()) => (!self.waits_for_room()).then_some(Refusal::Busy),
            Err(refusal) => Some(refusal),
        };
        if let Some(refusal) = refused {
            out.push(Effect::RoomMade(token, Err(refusal)));
            return;
        }
        let records = self.give_named_up(id, out);
        self.keep_with(After::RoomMade(token), records, out);
    }

    /// Moves the way back on, or gives it up while nothing is changed.
    pub(super) fn advance_rollback(&mut self, out: &mut Vec<Effect>) {
        let Some(Rollback { to, safety, step, .. }) = &self.rollback else { return };
        let (to, safety) = (*to, *safety);
        if step.is_free() && (self.role != Role::Primary || self.latched || self.closing) {
            self.give_rollback_up(to, Refusal::Interrupted, out);
            return;
        }
        match step {
            Step::Settling(label) => {
                let quiet = self.is_idle() && self.untold.is_none() && self.leaving.is_empty();
                if quiet {
                    let label = label.clone();
                    let step = Step::Keeping(label.id);
                    self.rollback = Some(Rollback { to, safety, step, is_unasked: false });
                    self.ask_for(label, out);
                }
            }
            Step::Waiting(until_ms) => {
                let is_due = self.now_ms >= *until_ms && self.is_idle();
                if is_due && !self.latched && !self.closing {
                    self.roll(to, out);
                }
            }
            Step::Keeping(_)
            | Step::Listing
            | Step::Intending
            | Step::Rolling
            | Step::Recording => {}
        }
    }

    /// The stores go back, whatever a try before has done of it.
    fn roll(&mut self, to: SnapshotId, out: &mut Vec<Effect>) {
        if let Some(rollback) = &mut self.rollback {
            rollback.step = Step::Rolling;
        }
        self.points.begin_rollback();
        out.push(Effect::RollBack { snapshots: self.stores_names(to) });
    }

    fn give_rollback_up(&mut self, to: SnapshotId, refusal: Refusal, out: &mut Vec<Effect>) {
        self.rollback = None;
        self.finish_own(Pending::RollBack(to), Err(refusal), out);
    }

    /// What was here is kept, or cannot be.
    pub(super) fn safety_taken(
        &mut self,
        id: SnapshotId,
        result: Result<(), Refusal>,
        out: &mut Vec<Effect>,
    ) {
        let Some(rollback) = &mut self.rollback else { return };
        if rollback.step != Step::Keeping(id) {
            return;
        }
        let to = rollback.to;
        match result {
            Ok(()) => {
                rollback.step = Step::Listing;
                out.push(Effect::ListChanged { snapshots: self.stores_names(to) });
            }
            Err(refusal) => self.give_rollback_up(to, refusal, out),
        }
    }

    /// What the stores call a snapshot, by index of the volume.
    fn stores_names(&self, id: SnapshotId) -> Vec<SnapshotId> {
        self.parts_of(id).map(|named| named.here).collect()
    }

    fn set_named(&mut self, id: SnapshotId, state: SnapshotState) {
        self.parts_mut(id).for_each(|named| named.state = state);
    }

    /// The blocks are listed in which the content will change; says whether that was asked for here.
    pub(super) fn rollback_listed(
        &mut self,
        result: &Result<Vec<BlockSet>, IoError>,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Some(rollback) = self.rollback.as_mut().filter(|r| r.step == Step::Listing) else {
            return false;
        };
        let to = rollback.to;
        let changed = match result {
            Ok(changed) => changed,
            Err(error) => {
                self.give_rollback_up(to, Refusal::Io(*error), out);
                return true;
            }
        };
        rollback.step = Step::Intending;
        for leg in self.legs.iter_mut().flatten() {
            for (dirty, ranges) in leg.dirty.iter_mut().zip(changed) {
                ranges.iter().for_each(|range| dirty.insert(*range));
            }
        }
        // What comes from here on is no continuation of what a mirror may hold.
        self.begin_alone();
        self.set_named(to, SnapshotState::RollingBack);
        let records = self.named_records();
        self.keep_with(After::RollbackIntended, records, out);
        true
    }

    /// The intention is durable; says whether it was that of a primary.
    pub(super) fn rollback_intended(&mut self, out: &mut Vec<Effect>) -> bool {
        let Some(rollback) = self.rollback.as_ref().filter(|r| r.step == Step::Intending) else {
            return false;
        };
        let to = rollback.to;
        self.roll(to, out);
        true
    }

    /// Takes up a way back that something cut short, before anybody is served.
    pub(super) fn resume_named_rollback(&mut self, out: &mut Vec<Effect>) {
        let is_rolling = |named: &&Named| named.state == SnapshotState::RollingBack;
        let rolling = self.volumes.iter().flat_map(|volume| &volume.named).find(is_rolling);
        let Some(to) = rolling.map(|named| named.label.id) else { return };
        let all = self.parts_of(to).filter(is_rolling).count();
        if all < self.volumes.len() {
            // Some volumes may be there and others cannot: nothing may be served from this.
            self.latch(IoError::Media, out);
            return;
        }
        let (safety, step) = (self.newest_safety(), Step::Rolling);
        self.rollback = Some(Rollback { to, safety, step, is_unasked: false });
        self.roll(to, out);
    }

    /// The last that was taken of what a way back gave up: none is taken while one is under way.
    fn newest_safety(&self) -> Option<SnapshotId> {
        let mut named = self.volumes.first()?.named.iter().rev();
        let is_safety = |named: &&Named| named.label.origin == SnapshotOrigin::Safety;
        named.find(is_safety).map(|named| named.label.id)
    }

    /// The stores answered; says whether it was to this.
    pub(super) fn rollback_done(
        &mut self,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Some(rollback) = self.rollback.as_mut().filter(|r| r.step == Step::Rolling) else {
            return false;
        };
        let to = rollback.to;
        match result {
            Ok(()) => {
                rollback.step = Step::Recording;
                self.set_named(to, SnapshotState::Available);
                let records = self.named_records();
                self.keep_with(After::RolledBack, records, out);
            }
            Err(IoError::NoSpace) => {
                // Until then no command is taken: a mirror that followed meanwhile would be brought
                // what is given up.
                rollback.step = Step::Waiting(self.now_ms.saturating_add(ROOM_PAUSE_MS));
                if self.command.is_none() {
                    rollback.is_unasked = true;
                    self.command = Some(Pending::RollBack(to));
                }
                // What a full store could not give back before, it may now.
                self.remove_unneeded(out);
            }
            // Some volumes may be there and others not: the next start takes it up again.
            Err(error) => self.latch(error, out),
        }
        true
    }

    /// Its end is durable: hosts may come back.
    pub(super) fn rollback_recorded(&mut self, out: &mut Vec<Effect>) {
        let Some(Rollback { to, is_unasked, .. }) = self.rollback.take() else { return };
        out.push(Effect::Note(Note::RolledBack { id: to }));
        if !is_unasked {
            self.finish_own(Pending::RollBack(to), Ok(()), out);
        } else if self.command == Some(Pending::RollBack(to)) {
            // Nobody hears an answer, and who asks for something in this moment must not take it for
            // their own.
            self.command = None;
        }
    }
}
