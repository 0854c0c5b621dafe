//! A host's change: gate, range lock, activity log, every copy at once, one answer.
//!
//! Invariant (rule 1): [`Machine::try_answer`] is the only place that answers a change, and it asks
//! [`decide`].

use block::{BlockRange, Extent, IoError, LegId, Seq, WriteId};

use super::gate::{Gate, Held};
use super::leg::{InFlight, LegSet, Stage};
use super::{Effect, Machine};
use crate::locks::Holder;
use crate::mode::{Decision, Mode, Progress, decide};
use crate::status::{Cause, SessionState};

/// Where a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Waits for its range, or for its extents to be recorded.
    Waiting,
    /// On its way to every copy.
    Flying,
}

/// One change under way.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) volume: usize,
    pub(super) extent: Extent,
    /// Bytes of payload.
    payload: u64,
    pub(super) step: Step,
    pub(super) local: Option<Result<(), IoError>>,
    /// Legs that have not acknowledged it, nor been struck off.
    pub(super) pending: LegSet,
    /// A mirror was lost whose policy forbids to go on without it.
    pub(super) halted: bool,
    pub(super) answered: bool,
    /// Legs that miss it, so that it is unprotected if acknowledged.
    pub(super) missing: bool,
    /// A change from the primary, by its link and number there, instead of a host's.
    pub(super) incoming: Option<(u64, Seq)>,
}

impl Write {
    pub(super) fn range(&self) -> BlockRange {
        self.extent.blocks()
    }

    /// A host's, admitted and on its way to no copy yet.
    fn is_waiting(&self) -> bool {
        self.step == Step::Waiting && self.incoming.is_none() && !self.answered
    }
}

/// The changes under way, by the driver's small dense names.
#[derive(Debug, Default)]
pub(super) struct Writes {
    slots: Vec<Option<Write>>,
    count: usize,
}

impl Writes {
    pub(super) fn insert(&mut self, id: WriteId, write: Write) {
        let at = index(id);
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || None);
        }
        assert!(self.slots[at].is_none(), "a name is used again only after it was forgotten");
        self.slots[at] = Some(write);
        self.count += 1;
    }

    pub(super) fn get(&self, id: WriteId) -> &Write {
        self.slots[index(id)].as_ref().expect("the change is under way")
    }

    pub(super) fn get_mut(&mut self, id: WriteId) -> &mut Write {
        self.slots[index(id)].as_mut().expect("the change is under way")
    }

    pub(super) fn remove(&mut self, id: WriteId) -> Write {
        self.count -= 1;
        self.slots[index(id)].take().expect("the change is under way")
    }

    /// Whether a change that has no answer yet waits for this leg.
    pub(super) fn any_pending(&self, leg: LegId) -> bool {
        self.slots.iter().flatten().any(|write| !write.answered && write.pending.has(leg))
    }

    /// Whether a host's change was admitted that is on its way to no copy yet.
    pub(super) fn any_waiting(&self) -> bool {
        self.slots.iter().flatten().any(Write::is_waiting)
    }

    /// Whether a change is on its way that the copy here has not applied, nor failed to.
    pub(super) fn any_unapplied(&self) -> bool {
        let mut flying = self.slots.iter().flatten().filter(|write| write.step == Step::Flying);
        flying.any(|write| write.local.is_none())
    }

    /// Whether a change there is under way that the copy here has not applied, nor failed to.
    fn any_unapplied_in(&self, volume: usize, extent: Extent) -> bool {
        let mut there = self.slots.iter().flatten().filter(|write| write.volume == volume);
        there.any(|write| write.local.is_none() && write.extent.overlaps(extent))
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Where changes are on their way to a copy, by volume.
    pub(super) fn flying(&self) -> Vec<(usize, BlockRange)> {
        let flying = self.slots.iter().flatten().filter(|write| write.step == Step::Flying);
        flying.map(|write| (write.volume, write.range())).collect()
    }

    pub(super) fn ids(&self) -> Vec<WriteId> {
        let named = self.slots.iter().zip(0u64..);
        named.filter(|(slot, _)| slot.is_some()).map(|(_, n)| WriteId::new(n)).collect()
    }
}

fn index(id: WriteId) -> usize {
    usize::try_from(id.get()).expect("the driver's names are small and dense")
}

/// What is changed: the volume, where, and bytes of payload.
pub(super) type Change = (usize, Extent, u64);

impl Machine {
    pub(super) fn on_change(&mut self, write: WriteId, change: Change, out: &mut Vec<Effect>) {
        match self.gate(true) {
            Gate::Open => {}
            Gate::Hold => {
                self.held.push_back(Held::Change { write, change });
                return;
            }
            Gate::Refuse(error) => {
                refuse(write, error, out);
                return;
            }
        }
        if self.begins_with_next {
            // The first change that a lost mirror lacks: its history is recorded before it.
            self.begin_alone();
            self.keep(super::After::Nothing, out);
            self.held.push_back(Held::Change { write, change });
            return;
        }
        self.admit(write, change, None, out);
    }

    /// Takes a change in: it waits for its range, then for its extents, then flies.
    pub(super) fn admit(
        &mut self,
        write: WriteId,
        (volume, extent, payload): Change,
        incoming: Option<(u64, Seq)>,
        out: &mut Vec<Effect>,
    ) {
        self.writes.insert(
            write,
            Write {
                volume,
                extent,
                payload,
                step: Step::Waiting,
                local: None,
                pending: LegSet::default(),
                halted: false,
                answered: false,
                missing: false,
                incoming,
            },
        );
        if self.volumes[volume].locks.acquire(extent.blocks(), Holder::Write(write)) {
            self.launch_or_park(write, out);
        }
    }

    /// The change has its range. It flies once its extents are recorded (rule 3).
    pub(super) fn launch_or_park(&mut self, write: WriteId, out: &mut Vec<Effect>) {
        let change = self.writes.get(write);
        let (volume, extent) = (change.volume, change.extent);
        if self.volumes[volume].activity.enter(extent) {
            self.launch(write, out);
        } else {
            self.volumes[volume].parked.push_back(write);
        }
    }

    fn launch(&mut self, write: WriteId, out: &mut Vec<Effect>) {
        let change = self.writes.get_mut(write);
        assert_eq!(change.step, Step::Waiting, "a change is launched once");
        change.step = Step::Flying;
        let (volume, extent, payload) = (change.volume, change.extent, change.payload);
        out.push(Effect::Apply { write });
        if change.incoming.is_some() {
            self.note_for_relays(volume, extent.blocks());
            return;
        }
        let seq = self.next_seq();
        let mut pending = self.leaving;
        let mut missing = false;
        let mut halted = false;
        let mut overflowed = LegSet::default();
        for leg in self.legs.iter_mut().flatten() {
            leg.spells.note(payload);
            if leg.stage.is_live() {
                if leg.wipe.contains(&volume) {
                    // The wipe comes behind it and takes it away again there.
                    leg.dirty[volume].insert(extent.blocks());
                }
                leg.undurable.push_back((seq, volume, extent.blocks()));
                leg.inflight.push_back(InFlight {
                    seq,
                    holder: (!leg.journaled).then_some(Holder::Write(write)),
                    volume,
                    whole: extent.whole_blocks(),
                    bytes: payload,
                    at_ms: self.now_ms,
                    acked: false,
                });
                leg.inflight_bytes += payload;
                leg.cuts.note(payload, self.now_ms);
                if !leg.journaled {
                    pending.insert(leg.id);
                } else if leg.backlog_bytes() > self.journal.bytes()
                    || leg.unconfirmed_bytes() > self.journal.memory_bytes
                {
                    overflowed.insert(leg.id);
                }
                out.push(Effect::Send { leg: leg.id, seq, write });
            } else {
                leg.dirty[volume].insert(extent.blocks());
                // It was let in before the mirror was lost, and still counts it: without it, it is
                // not acknowledged (rule 1).
                halted |= leg.halted;
            }
            // What follows behind by its mode was never promised to have everything.
            missing |= leg.policy.mode == Mode::Sync
                && (!self.counting.has(leg.id) || self.leaving.has(leg.id));
        }
        let change = self.writes.get_mut(write);
        change.pending = pending;
        change.missing = missing;
        change.halted = halted;
        for leg in overflowed.iter() {
            self.lose_leg(leg, Cause::JournalFull, SessionState::Halted, out);
        }
    }

    pub(super) fn on_applied(
        &mut self,
        write: WriteId,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) {
        let change = self.writes.get_mut(write);
        assert!(change.local.is_none(), "the store answers once");
        change.local = Some(result);
        if change.incoming.is_some() {
            self.incoming_applied(write, result, out);
            return;
        }
        if result.is_err() {
            // The mirrors may have what this copy has not: the copier settles it from here. From now
            // on, and not from when the last mirror answered: no snapshot is asked of them in between
            // (rule 14).
            let (volume, range) = (change.volume, change.range());
            for leg in self.legs.iter_mut().flatten() {
                leg.spoil(volume, range);
            }
        }
        if result == Err(IoError::Latched) {
            // This answers everything, and forgets this change too if no mirror is busy with it.
            self.latch(IoError::Latched, out);
            if self.writes.peek(write).is_none() {
                return;
            }
        }
        self.try_answer(write, out);
    }

    /// A mirror has the change, or has been struck off.
    pub(super) fn leg_done(&mut self, write: WriteId, leg: LegId, out: &mut Vec<Effect>) {
        self.writes.get_mut(write).pending.remove(leg);
        self.try_answer(write, out);
    }

    /// Answers the change if its mode says so, and forgets it if nothing of it is under way.
    pub(super) fn try_answer(&mut self, write: WriteId, out: &mut Vec<Effect>) {
        let counting = self.counting;
        let halted = self.writes.get(write).halted.then(|| self.halt_error());
        let change = self.writes.get_mut(write);
        if change.step != Step::Flying {
            return;
        }
        if !change.answered {
            let progress = Progress {
                local: change.local,
                waiting_for: change.pending.and(counting).len(),
                halted: change.halted,
            };
            let result = match decide(&progress) {
                Decision::Wait => return,
                Decision::Acknowledge => Ok(()),
                Decision::Fail(error) => {
                    Err(halted.filter(|_| error == IoError::Halted).unwrap_or(error))
                }
            };
            change.answered = true;
            let (missing, len) = (change.missing, change.extent.len());
            if missing && result.is_ok() {
                self.counters.unprotected_writes += 1;
                self.counters.unprotected_bytes += len;
            }
            out.push(Effect::Answer { write, result });
        }
        self.try_finish(write, out);
    }

    /// Forgets an answered change once no copy is busy with it, and lets the next one through.
    pub(super) fn try_finish(&mut self, write: WriteId, out: &mut Vec<Effect>) {
        let change = self.writes.get(write);
        let busy =
            change.step == Step::Flying && (change.local.is_none() || !change.pending.is_empty());
        if !change.answered || busy {
            return;
        }
        let change = self.writes.remove(write);
        let range = change.range();
        if change.step == Step::Flying {
            self.volumes[change.volume].activity.leave(change.extent);
        }
        out.push(Effect::Forget { write });
        self.unlock(change.volume, range, Holder::Write(write), out);
    }

    /// Gives a range back and lets those through that waited for it.
    pub(super) fn unlock(
        &mut self,
        volume: usize,
        range: BlockRange,
        holder: Holder,
        out: &mut Vec<Effect>,
    ) {
        let mut granted = std::mem::take(&mut self.granted);
        self.volumes[volume].locks.release(range, holder, &mut granted);
        self.let_through(granted, out);
    }

    /// Takes a request for a range back; says whether it was still waiting for it.
    pub(super) fn withdraw(
        &mut self,
        volume: usize,
        holder: Holder,
        out: &mut Vec<Effect>,
    ) -> bool {
        let mut granted = std::mem::take(&mut self.granted);
        let waited = self.volumes[volume].locks.withdraw(holder, &mut granted);
        self.let_through(granted, out);
        waited
    }

    fn let_through(&mut self, mut granted: Vec<Holder>, out: &mut Vec<Effect>) {
        for holder in granted.drain(..) {
            match holder {
                Holder::Write(write) => self.launch_or_park(write, out),
                // A change that was let through before it may have filled the leg's journal: then
                // the copy is dropped, and its range is given back.
                Holder::Copy(leg, copy) if self.waits_to_be_sent(leg, copy) => {
                    self.send_copy(leg, copy, out);
                }
                Holder::Copy(..) => {}
            }
        }
        self.granted = granted;
    }

    /// Answers every request of a host that has no answer yet with `error`. What is in flight goes
    /// on to its end; what waits is dropped.
    pub(super) fn fail_everything(&mut self, error: IoError, out: &mut Vec<Effect>) {
        self.fail_attributes(error, out);
        for held in std::mem::take(&mut self.held) {
            let (Held::Change { write, .. } | Held::Flush { write, .. }) = held;
            refuse(write, error, out);
        }
        for waiter in self.flushes.take_waiters() {
            refuse(waiter, error, out);
        }
        for write in self.writes.ids() {
            let change = self.writes.get_mut(write);
            if change.answered || change.incoming.is_some() {
                continue;
            }
            change.answered = true;
            out.push(Effect::Answer { write, result: Err(error) });
            self.drop_waiting(write, out);
        }
    }

    /// A change that was answered before it flew never flies.
    fn drop_waiting(&mut self, write: WriteId, out: &mut Vec<Effect>) {
        let change = self.writes.get(write);
        if change.step == Step::Flying {
            self.try_finish(write, out);
            return;
        }
        let (volume, range) = (change.volume, change.range());
        self.volumes[volume].parked.retain(|parked| *parked != write);
        let holder = Holder::Write(write);
        let waited = self.withdraw(volume, holder, out);
        self.writes.remove(write);
        out.push(Effect::Forget { write });
        if !waited {
            self.unlock(volume, range, holder, out);
        }
    }

    /// Strikes a lost leg off every change that waits for it.
    pub(super) fn strike_off(&mut self, leg: LegId, halted: bool, out: &mut Vec<Effect>) {
        let promised = self.leg(leg).is_none_or(|leg| leg.policy.mode == Mode::Sync);
        for write in self.writes.ids() {
            // Finishing one may have finished others.
            let Some(change) = self.writes.peek(write) else { continue };
            if change.pending.has(leg) {
                let change = self.writes.get_mut(write);
                change.halted |= halted;
                // Acknowledged from here on, it is so with one copy less.
                change.missing |= promised;
                self.leg_done(write, leg, out);
            }
        }
    }

    /// Whether the copy here has every change of these bytes that came before now, so that a read gives
    /// what is there.
    pub(crate) fn has_applied(&self, volume: usize, extent: Extent) -> bool {
        let is_held = |held: &Held| match held {
            Held::Change { change: (of, other, _), .. } => *of == volume && other.overlaps(extent),
            Held::Flush { .. } => false,
        };
        !self.held.iter().any(is_held) && !self.writes.any_unapplied_in(volume, extent)
    }

    /// Whether a mirror has everything that is in the stream. What the copier settles there (where a
    /// change failed here) is part of the stream then: the mirror stays one point in time.
    pub(crate) fn has_all(&self, leg: LegId) -> bool {
        self.leg(leg).is_some_and(|leg| matches!(leg.stage, Stage::InSync | Stage::Following))
    }

    /// Whether changes for a mirror go through its send journal.
    pub(crate) fn is_journaled(&self, leg: LegId) -> bool {
        self.leg(leg).is_some_and(|leg| leg.journaled)
    }

    pub(super) fn in_sync_stage(&self, leg: LegId) -> bool {
        self.leg(leg).is_some_and(|leg| leg.stage == Stage::InSync)
    }
}

impl Writes {
    pub(super) fn peek(&self, id: WriteId) -> Option<&Write> {
        self.slots.get(index(id)).and_then(Option::as_ref)
    }
}

pub(super) fn refuse(write: WriteId, error: IoError, out: &mut Vec<Effect>) {
    out.push(Effect::Answer { write, result: Err(error) });
    out.push(Effect::Forget { write });
}
