//! One transfer of a relay: a point is taken, what may differ is found and recorded, sent, and cut.
//!
//! Invariant: while a point is sent, `dirty` covers what the other gateway lacks of it, what it was
//! sent of it and what was changed here since; so a transfer that ends in the middle has lost
//! nothing, whoever goes on.

use block::{BlockRange, Extent, IoError, LegId, Message, Seq, SnapshotId};

use crate::dirty::DirtyMap;
use crate::lineage::Lineage;
use crate::machine::compare::Need;
use crate::machine::copy::COPY_BLOCKS;
use crate::machine::event::PointListing;
use crate::machine::leg::{Leg, Progress};
use crate::machine::{After, Effect, Machine, Note};
use crate::status::{Cause, SessionState};

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) enum Step {
    /// Nothing is under way.
    Resting,
    /// A link is wanted.
    Dialing,
    /// Connected; a point at which the copy here is whole is wanted.
    Waiting,
    /// What may differ of the point is being listed.
    Listing,
    /// That is being recorded, under this number.
    Recording { number: u64 },
    /// The point is being sent.
    Copying,
    /// It is sent; the other gateway keeps it next.
    Cutting { seq: Seq },
}

/// Blocks of the point that are on their way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) seq: Seq,
    volume: usize,
    bytes: u64,
    wipes: bool,
}

impl Machine {
    pub(super) fn advance_relay(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        let has_point = self.whole_history().is_some();
        let Some(state) = self.leg_mut(leg) else { return };
        let paused = state.retry.is_some_and(|at| now_ms < at);
        let Some(relay) = &mut state.relay else { return };
        match relay.step {
            Step::Resting if relay.due && has_point && !paused => {
                relay.step = Step::Dialing;
                state.retry = None;
                out.push(Effect::Dial { leg });
            }
            Step::Waiting => self.find_point(leg, out),
            Step::Copying => self.send_point(leg, out),
            Step::Resting
            | Step::Dialing
            | Step::Listing
            | Step::Recording { .. }
            | Step::Cutting { .. } => {}
        }
    }

    // --- the point ---

    /// A copy that is whole now is snapshotted; of one that is not, the point is sent that it keeps.
    fn find_point(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if self.is_whole() {
            if self.points.are_unsupported() {
                let why = "the store here keeps no snapshots, which relaying needs".to_owned();
                self.stop_relay(leg, Cause::Refused(why), out);
            } else {
                self.keep_point_for_relays(out);
            }
            return;
        }
        let kept = self.points.kept().and_then(|kept| {
            let snapshots = kept.snapshots.iter().map(|(_, snapshot)| *snapshot).collect();
            Some((snapshots, kept.lineage.clone()?))
        });
        match kept {
            Some((snapshots, lineage)) if !self.points.is_rolling_back() => {
                let at_ms = self.points.kept_ms();
                self.begin_listing(leg, snapshots, (lineage, at_ms), out);
            }
            // It was given up meanwhile: another one will come.
            Some(_) | None => {
                self.end_transfer(leg, out);
                self.relay_mut(leg).into_iter().for_each(|relay| relay.due = true);
            }
        }
    }

    /// The stores answered. Whoever waits for a point has this one.
    pub(in crate::machine) fn relay_point_taken(
        &mut self,
        result: Result<Vec<SnapshotId>, IoError>,
        out: &mut Vec<Effect>,
    ) {
        let legs: Vec<LegId> = self.relays.iter().collect();
        for leg in legs {
            if !self.relay_mut(leg).is_some_and(|relay| relay.step == Step::Waiting) {
                continue;
            }
            match &result {
                Ok(snapshots) if self.is_whole() => {
                    let lineage = self.lineage.clone().expect("a whole copy has a history");
                    let now_ms = self.now_ms;
                    self.begin_listing(leg, snapshots.clone(), (lineage, Some(now_ms)), out);
                }
                Ok(_) => {}
                Err(IoError::Unsupported) => {
                    let why = "the store here keeps no snapshots, which relaying needs".to_owned();
                    self.stop_relay(leg, Cause::Refused(why), out);
                }
                Err(error) => {
                    self.put_off(leg, "cannot keep a snapshot of the copy here", *error, out);
                }
            }
        }
    }

    /// Compares the history of the point with the other gateway's, and asks what may differ.
    fn begin_listing(
        &mut self,
        leg: LegId,
        snapshots: Vec<SnapshotId>,
        (lineage, at_ms): (Lineage, Option<u64>),
        out: &mut Vec<Effect>,
    ) {
        let Some(opening) = self.relay_mut(leg).and_then(|relay| relay.opening.take()) else {
            return;
        };
        let need = match self.compare(leg, &lineage, &opening) {
            Ok(need) => need,
            Err(cause) => {
                if matches!(cause, Cause::SplitBrain { .. }) {
                    out.push(Effect::Note(Note::SplitBrain { leg }));
                }
                self.stop_relay(leg, cause, out);
                return;
            }
        };
        let flying = self.writes.flying();
        let state = self.leg_mut(leg).expect("it was compared");
        state.take_differences(opening.differs);
        let Some(relay) = &mut state.relay else { return };
        relay.full = match need {
            Need::Full { wipe } => Some(wipe),
            // What is sent is read from a point, and a point cannot ask.
            Need::Compared => Some(true),
            Need::Delta => None,
        };
        if relay.full.is_some() {
            state.base = None;
        }
        relay.point = Some((lineage, at_ms));
        relay.step = Step::Listing;
        // What is being applied now may not be in what is listed.
        for (volume, range) in flying {
            relay.since[volume].insert(range);
        }
        let whole = relay.full.is_some();
        out.push(Effect::ListPoint { leg, snapshots, whole });
    }

    /// The point is open, and this is in it. What it may make different there is recorded first.
    pub(in crate::machine) fn on_point_listed(
        &mut self,
        leg: LegId,
        result: Result<PointListing, IoError>,
        out: &mut Vec<Effect>,
    ) {
        let is_awaited = self.relay_mut(leg).is_some_and(|relay| relay.step == Step::Listing);
        if !is_awaited {
            return;
        }
        let listing = match result {
            Ok(listing) => listing,
            Err(error) => {
                self.put_off(leg, "cannot read a snapshot of the copy here", error, out);
                return;
            }
        };
        let (number, now_ms) = (self.next_record, self.now_ms);
        let ends: Vec<u64> = self.volumes.iter().map(|volume| volume.geometry.blocks()).collect();
        let state = self.leg_mut(leg).expect("checked above");
        let Some(relay) = &mut state.relay else { return };
        for (volume, changed) in listing.changed.iter().enumerate() {
            insert_all(&mut relay.since[volume], changed);
            insert_all(&mut state.dirty[volume], changed);
        }
        for (volume, bytes) in listing.bytes.iter().enumerate() {
            let mut todo = match relay.full {
                Some(_) => map_of(&listing.mapped[volume]),
                None => state.dirty[volume].clone(),
            };
            // What lies behind the point's end came after it.
            todo.remove(BlockRange::new(bytes / block::BLOCK_BYTES, ends[volume]));
            relay.todo[volume] = todo;
        }
        relay.wipe =
            if relay.full == Some(true) { (0..listing.bytes.len()).collect() } else { Vec::new() };
        relay.step = Step::Recording { number };
        let full = relay.full.is_some();
        let total_bytes = relay.todo.iter().map(DirtyMap::bytes).collect();
        state.progress = Progress::begin(total_bytes, full, now_ms);
        let mark = self.relay_mark(leg, true);
        self.keep_with(After::RelayKept { leg, number }, mark, out);
    }

    pub(in crate::machine) fn relay_kept(&mut self, leg: LegId, number: u64) {
        if let Some(relay) = self.relay_mut(leg)
            && relay.step == (Step::Recording { number })
        {
            relay.step = Step::Copying;
        }
    }

    // --- what is sent ---

    /// Sends as much as there is room for; cuts when nothing is left.
    fn send_point(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        loop {
            let Some(relay) = self.relay_mut(leg) else { return };
            let busy = relay.slots.iter().flatten().count();
            if let Some(volume) = relay.wipe.first().copied() {
                // A wipe goes alone: nothing is copied before it is done.
                if busy == 0 {
                    self.send_wipe(leg, volume, out);
                }
                return;
            }
            let next =
                relay.todo.iter().enumerate().find_map(|(volume, todo)| {
                    todo.next_run(0, COPY_BLOCKS).map(|run| (volume, run))
                });
            let Some((volume, run)) = next else {
                if busy == 0 {
                    self.cut_point(leg, out);
                }
                return;
            };
            let Some(at) = relay.slots.iter().position(Option::is_none) else { return };
            if self.leg(leg).is_none_or(Leg::is_held_back) {
                return;
            }
            let state = self.leg_mut(leg).expect("checked above");
            state.spend(run.count() * block::BLOCK_BYTES);
            let relay = state.relay.as_mut().expect("checked above");
            relay.todo[volume].remove(run);
            let Some(extent) = run.extent() else { continue };
            let copy = u8::try_from(at).expect("there are few slots");
            let seq = self.next_seq();
            let slot = Slot { seq, volume, bytes: extent.len(), wipes: false };
            self.relay_mut(leg).expect("checked above").slots[at] = Some(slot);
            out.push(Effect::Copy { leg, copy, seq, volume, extent, compare: false });
        }
    }

    fn send_wipe(&mut self, leg: LegId, volume: usize, out: &mut Vec<Effect>) {
        let seq = self.next_seq();
        let extent: Extent = self.volumes[volume].geometry.whole();
        let change = block::Change::Zero { may_trim: true };
        let index = u16::try_from(volume).expect("a group has few volumes");
        let (fua, resync) = (false, true);
        let message = Message::Change { seq, volume: index, extent, change, fua, resync };
        out.push(Effect::Post { leg, message });
        let slot = Slot { seq, volume, bytes: 0, wipes: true };
        self.relay_mut(leg).expect("the caller has it").slots[0] = Some(slot);
    }

    pub(super) fn relay_acked(&mut self, leg: LegId, seq: Seq) {
        let Some(state) = self.leg_mut(leg) else { return };
        let Some(relay) = &mut state.relay else { return };
        let Some(slot) =
            relay.slots.iter_mut().find(|slot| slot.is_some_and(|slot| slot.seq == seq))
        else {
            return;
        };
        if let Some(Slot { volume, bytes, wipes, .. }) = slot.take() {
            if wipes {
                relay.wipe.retain(|wiped| *wiped != volume);
            }
            state.progress.copied_bytes[volume] += bytes;
        }
    }

    /// It cannot be read here.
    pub(in crate::machine) fn relay_copy_failed(
        &mut self,
        leg: LegId,
        error: IoError,
        out: &mut Vec<Effect>,
    ) {
        let cause = Cause::Refused(format!("cannot read the source: {error}"));
        if self.relay_mut(leg).is_some_and(|relay| relay.is_sending()) {
            self.stop_relay(leg, cause, out);
        }
    }

    fn cut_point(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let seq = self.next_seq();
        let Some(relay) = self.relay_mut(leg) else { return };
        let Some((lineage, _)) = relay.point.clone() else { return };
        relay.step = Step::Cutting { seq };
        let (generation, ancestors) = (lineage.current, lineage.ancestors);
        out.push(Effect::Post { leg, message: Message::Cut { seq, generation, ancestors } });
    }

    /// The other gateway keeps the point, durably: what it lacks now is what was changed since.
    pub(super) fn transferred(&mut self, leg: LegId, seq: Seq, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        let Some(state) = self.leg_mut(leg) else { return };
        let Some(relay) = state.relay.as_mut().filter(|r| r.step == (Step::Cutting { seq })) else {
            return;
        };
        let Some((lineage, at_ms)) = relay.point.take() else { return };
        state.dirty = std::mem::take(&mut relay.since);
        relay.due = false;
        relay.rest();
        state.suspects.iter_mut().for_each(DirtyMap::clear);
        state.base = Some(lineage.current);
        state.discard = false;
        state.wanted = false;
        state.lossy = None;
        state.failed = None;
        state.cause = None;
        state.state = SessionState::Active;
        state.cuts.keep((seq, at_ms, now_ms), lineage.current);
        // How far behind it is now is the last thing that it hears for a while.
        let ping = Message::Ping { stamp: 0, state: self.mirror_state(leg) };
        out.push(Effect::Post { leg, message: ping });
        let goodbye = Message::Goodbye(block::Goodbye::Suspended);
        out.push(Effect::Post { leg, message: goodbye });
        out.push(Effect::Hang { leg, redial: false });
        out.push(Effect::Note(Note::Transferred { leg }));
        let number = self.next_record;
        self.keep(After::RelayKept { leg, number }, out);
    }
}

fn insert_all(map: &mut DirtyMap, ranges: &[BlockRange]) {
    ranges.iter().for_each(|range| map.insert(*range));
}

fn map_of(ranges: &[BlockRange]) -> DirtyMap {
    let mut map = DirtyMap::default();
    insert_all(&mut map, ranges);
    map
}
