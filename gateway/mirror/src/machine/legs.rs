//! The life of a leg: connected, compared, copied, joined, lost.
//!
//! Invariant (rule 1): a leg leaves the in-sync set durably before anything is acknowledged without
//! it; a leg enters it only after it has everything and recorded so itself.

use block::{BlockSet, LegId, Message, Open, Seq, VolumeOffer, Vote};

use super::compare::Need;
use super::leg::{Leg, Progress, Stage};
use super::{After, Effect, Machine, Note, Opening, Role};
use crate::locks::Holder;
use crate::policy::Recovery;
use crate::status::{Cause, SessionState};

impl Machine {
    /// What is said to a mirror to open the group there.
    pub(crate) fn open_message(&self, leg: LegId) -> Option<Box<Open>> {
        let state = self.leg(leg)?;
        let relayed = self.is_relay(leg);
        let lineage = if relayed { self.whole_history()? } else { self.lineage.as_ref()? };
        let volumes = self.volumes.iter().zip(&state.sessions);
        Some(Box::new(Open {
            group: self.group,
            name: self.name.clone(),
            epoch: self.epoch,
            generation: lineage.current,
            ancestors: lineage.ancestors.clone(),
            volumes: volumes
                .map(|(volume, session)| VolumeOffer {
                    volume: volume.id,
                    session: *session,
                    name: volume.name.clone(),
                    bytes: volume.geometry.bytes(),
                })
                .collect(),
            discard: state.discard,
            relayed,
            heir_of: state.heir_of,
        }))
    }

    /// Who a leg's mirror is.
    pub(crate) fn leg_peer(&self, leg: LegId) -> Option<(block::GatewayId, String)> {
        self.leg(leg).map(|state| (state.gateway, state.site.clone()))
    }

    /// A mirror accepted the group: compares the histories, and begins to bring it up to date.
    pub(super) fn on_connected(&mut self, leg: LegId, opening: Opening, out: &mut Vec<Effect>) {
        if self.is_relay(leg) {
            self.relay_connected(leg, opening, out);
            return;
        }
        let expected = matches!(self.role, Role::Primary | Role::Yielding(_))
            && self.leg(leg).is_some_and(|state| state.stage == Stage::Dialing);
        if !expected {
            out.push(Effect::Hang { leg, redial: false });
            return;
        }
        if self.holds_link(leg, out) {
            return;
        }
        let ours = self.lineage.clone().expect("a primary has a history");
        let need = match self.compare(leg, &ours, &opening) {
            Ok(need) => need,
            Err(cause) => {
                if matches!(cause, Cause::SplitBrain { .. }) {
                    self.split_brain = true;
                    out.push(Effect::Note(Note::SplitBrain { leg }));
                }
                self.stop_leg(leg, cause, SessionState::Error, out);
                return;
            }
        };
        self.split_brain = false;
        self.awaiting.remove(leg);
        self.live.insert(leg);
        let now_ms = self.now_ms;
        let state = self.leg_mut(leg).expect("checked above");
        if state.in_set {
            // It holds every acknowledged write and still counts.
            self.counting.insert(leg);
        }
        let state = self.leg_mut(leg).expect("checked above");
        state.cause = None;
        state.left_whole = None;
        state.state = SessionState::Active;
        state.halted = false;
        self.returned(leg);
        self.end_heritage(leg, out);
        let state = self.leg_mut(leg).expect("checked above");
        state.cursor = (0, 0);
        state.last_flush_ms = now_ms;
        // One that still counts is waited for until it is durably out of the set.
        state.journaled = state.is_to_follow() && !state.in_set;
        let steps_down = state.is_to_follow() && state.in_set;
        if need != Need::Delta {
            self.begin_whole(leg, need, out);
        } else {
            state.take_differences(opening.differs);
            if state.fresh.iter().any(Option::is_some) {
                self.list_fresh(leg, out);
            } else {
                state.stage = Stage::Copying;
                Self::begin_progress(state, now_ms);
            }
        }
        let state = self.leg(leg).expect("checked above");
        if state.stage == Stage::Listing || !state.is_clean() {
            out.push(Effect::Post { leg, message: Message::Outdate });
        }
        if steps_down {
            self.step_down(leg, out);
        }
        self.tell_policy(leg, out);
        self.tell_recovery(leg, out);
        self.opened_in_company(leg, out);
        self.take_back_handover(leg, out);
    }

    pub(super) fn on_link_version(&mut self, leg: LegId, version: u16) {
        if let Some(state) = self.leg_mut(leg) {
            state.version = version;
        }
    }

    pub(super) fn on_listed(&mut self, leg: LegId, mapped: &[BlockSet]) {
        let Some(state) = self.leg_mut(leg) else { return };
        if state.stage != Stage::Listing {
            state.add_to_verification(mapped);
            return;
        }
        state.add_to_comparison(mapped);
        let full = state.base.is_none() && state.listing.is_none();
        for (index, ranges) in mapped.iter().enumerate() {
            if full || state.fresh[index].is_some() {
                ranges.iter().for_each(|range| state.dirty[index].insert(*range));
            }
        }
        self.begin_copying_when_listed(leg);
    }

    /// What is to be copied is known, unless the mirror has not said yet what it holds.
    pub(super) fn begin_copying_when_listed(&mut self, leg: LegId) {
        let now_ms = self.now_ms;
        let Some(state) = self.leg_mut(leg) else { return };
        if state.stage == Stage::Listing && state.is_listed() {
            state.listing = None;
            state.stage = Stage::Copying;
            Self::begin_progress(state, now_ms);
        }
    }

    fn begin_progress(state: &mut Leg, now_ms: u64) {
        state.progress = Progress {
            total_bytes: state.dirty.iter().map(crate::dirty::DirtyMap::bytes).collect(),
            copied_bytes: vec![0; state.dirty.len()],
            full: state.fresh.iter().map(|f| state.base.is_none() || f.is_some()).collect(),
            started_ms: Some(now_ms),
            marks: std::collections::VecDeque::from([(now_ms, 0)]),
        };
    }

    pub(super) fn on_disconnected(&mut self, leg: LegId, cause: Cause, out: &mut Vec<Effect>) {
        if self.is_relay(leg) {
            self.relay_disconnected(leg, cause, out);
            return;
        }
        let Some(state) = self.leg(leg).filter(|_| !self.closing) else { return };
        if state.stage.is_live() {
            self.lose_leg(leg, cause, SessionState::Halted, out);
        } else if matches!(cause, Cause::Refused(_)) {
            self.stop_leg(leg, cause, SessionState::Error, out);
        } else if state.wanted {
            let state = self.leg_mut(leg).expect("checked above");
            state.cause = Some(cause);
            if state.state == SessionState::Active {
                state.state = SessionState::Halted;
            }
        }
    }

    pub(super) fn on_heard(&mut self, leg: LegId, message: Message, out: &mut Vec<Effect>) {
        if self.is_relay(leg) {
            self.relay_heard(leg, message, out);
            return;
        }
        match message {
            Message::Acks(seqs) => seqs.into_iter().for_each(|seq| self.on_acked(leg, seq, out)),
            Message::Failed { error, seq } => {
                self.note_failed(leg, seq);
                self.lose_leg(leg, Cause::MirrorFailed(error), SessionState::Error, out);
            }
            Message::Durable { seq } => self.on_durable(leg, seq, out),
            Message::Compared { seq, differs } => self.on_compared(leg, seq, &differs, out),
            Message::CutApplied { seq } => self.on_cut_applied(leg, seq, out),
            Message::Mapped { volume, blocks, last } => {
                self.on_mapped_there(leg, volume, &blocks, last);
            }
            Message::Voted(Vote::InSync) => self.on_voted(leg, out),
            Message::Voted(Vote::TookOver { epoch }) => self.on_took_over(leg, epoch, out),
            Message::Grown { volume, bytes } => self.on_mirror_grown(leg, volume, bytes, out),
            Message::Pong { state: theirs, .. } => {
                if let Some(state) = self.leg_mut(leg) {
                    state.theirs = Some(theirs);
                }
            }
            Message::Snapshot(word) => self.heard_of_snapshot(leg, &word, out),
            Message::Goodbye(goodbye) => self.on_goodbye(leg, goodbye, out),
            other @ (Message::Open(_)
            | Message::Opened(_)
            | Message::Differs(_)
            | Message::Change { .. }
            | Message::Compare { .. }
            | Message::List { .. }
            | Message::Flush { .. }
            | Message::Promote { .. }
            | Message::Handover { .. }
            | Message::Outdate
            | Message::Cut { .. }
            | Message::Grow { .. }
            | Message::Policy(_)
            | Message::Span(_)
            | Message::Ask(_)
            | Message::Told(_)
            | Message::Ping { .. }) => {
                let what = format!("unexpected {:?}", std::mem::discriminant(&other));
                self.lose_leg(leg, Cause::Refused(what), SessionState::Error, out);
            }
        }
    }

    fn on_goodbye(&mut self, leg: LegId, goodbye: block::Goodbye, out: &mut Vec<Effect>) {
        use block::Goodbye;
        match goodbye {
            Goodbye::Fenced { epoch } => self.fence(epoch, out),
            Goodbye::SplitBrain { theirs_bytes } => {
                self.split_brain = true;
                out.push(Effect::Note(Note::SplitBrain { leg }));
                let cause = Cause::SplitBrain { theirs_bytes };
                self.lose_or_stop(leg, cause, SessionState::Error, out);
            }
            Goodbye::Refused(why) | Goodbye::Protocol(why) => {
                self.lose_or_stop(leg, Cause::Refused(why), SessionState::Error, out);
            }
            Goodbye::Shutdown => {
                let cause = Cause::LinkLost("the mirror was stopped".to_owned());
                self.lose_or_stop(leg, cause, SessionState::Halted, out);
            }
            Goodbye::Suspended => {
                let cause = Cause::LinkLost("the mirror ended the session".to_owned());
                self.lose_or_stop(leg, cause, SessionState::Halted, out);
            }
        }
    }

    fn lose_or_stop(&mut self, leg: LegId, cause: Cause, to: SessionState, out: &mut Vec<Effect>) {
        let Some(state) = self.leg(leg) else { return };
        if state.stage.is_live() {
            self.lose_leg(leg, cause, to, out);
        } else if to == SessionState::Error {
            self.stop_leg(leg, cause, to, out);
        } else {
            self.on_disconnected(leg, cause, out);
        }
    }

    fn on_acked(&mut self, leg: LegId, seq: Seq, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        let Some(done) = state.acknowledge(seq) else { return };
        if let Some(Holder::Copy(_, copy)) = done.holder {
            let asked = state.copies[usize::from(copy)].is_some_and(|copy| copy.compare);
            if asked {
                let why = "acknowledged what was asked".to_owned();
                self.lose_leg(leg, Cause::Refused(why), SessionState::Error, out);
            } else {
                self.copy_done(leg, copy, done.whole, out);
            }
            return;
        }
        if !state.dirty[done.volume].is_empty() && !state.wipe.contains(&done.volume) {
            state.dirty[done.volume].remove(done.whole);
        }
        if let Some(Holder::Write(write)) = done.holder {
            self.leg_done(write, leg, out);
        }
    }

    /// A leg that is not connected ends up stopped, with a reason that needs an operator.
    pub(super) fn stop_leg(
        &mut self,
        leg: LegId,
        cause: Cause,
        to: SessionState,
        out: &mut Vec<Effect>,
    ) {
        let Some(state) = self.leg_mut(leg) else { return };
        assert!(!state.stage.is_live(), "a live leg is lost, not stopped");
        if state.stage == Stage::Dialing {
            state.stage = Stage::Off;
        }
        state.wanted = false;
        state.discard = false;
        state.state = to;
        out.push(Effect::Note(Note::MirrorLost { leg, cause: cause.clone() }));
        state.cause = Some(cause);
        out.push(Effect::Hang { leg, redial: false });
        self.keep(After::Nothing, out);
    }

    /// A live leg is lost: what it may lack becomes dirty, and it leaves the in-sync set or halts
    /// the group, as its policy says. All sessions to that mirror stop at this one cut (rule 5).
    pub(super) fn lose_leg(
        &mut self,
        leg: LegId,
        cause: Cause,
        to: SessionState,
        out: &mut Vec<Effect>,
    ) {
        if self.closing {
            return;
        }
        let asked = self.asked_to_take_over(leg);
        let ousting = self.is_ousting(leg);
        self.forget_joining(leg);
        let now_ms = self.now_ms;
        let may_have_voted = self.may_have_voted();
        let Some(state) = self.leg_mut(leg) else { return };
        if !state.stage.is_live() {
            return;
        }
        let refused = matches!(cause, Cause::Refused(_));
        let overflowed = cause == Cause::JournalFull;
        let unanswered = asked && !refused;
        let (stepping_down, in_set, splits) = (state.stepping_down, state.in_set, state.splits());
        state.end_flight();
        // What was to be copied whole is so again: its base is none, or it is fresh.
        state.wipe.clear();
        out.push(Effect::Note(Note::MirrorLost { leg, cause: cause.clone() }));
        let regrouped = cause == Cause::Regrouped;
        let by_operator = regrouped || cause == Cause::Operator;
        state.cause = Some(cause);
        state.state = to;
        // A fault needs an operator; a loss is healed by itself unless the policy says otherwise. A
        // mirror that was asked to take over is called again in any case: only it knows.
        let again = unanswered
            || (to == SessionState::Halted && state.policy.recovery == Recovery::Automatic);
        state.wanted = (again && (state.wanted || unanswered)) || (regrouped && state.wanted);
        // One that was asked to vote may have recorded that it is in sync, with our history.
        let voted = matches!(state.stage, Stage::Voting | Stage::Joining)
            && !state.in_set
            && may_have_voted;
        let goes_on = splits || to != SessionState::Halted || by_operator;
        let leaves = voted || stepping_down || (state.in_set && goes_on);
        let halts = (state.in_set || ousting) && !leaves;
        state.halted = halts;
        let later = again && overflowed;
        state.retry = later.then(|| state.cuts.hold_off(now_ms));
        state.stage = if leaves {
            Stage::Leaving
        } else if again && !later {
            Stage::Dialing
        } else {
            Stage::Off
        };
        self.live.remove(leg);
        if leaves {
            self.leaving.insert(leg);
            if !stepping_down || in_set {
                // Else the record without it is on its way already.
                self.leave(leg, out);
            }
        } else {
            self.counting.remove(leg);
        }
        out.push(Effect::Hang { leg, redial: again && !later && !leaves });
        self.drop_copies(leg, out);
        if !leaves {
            self.strike_off(leg, halts, out);
            self.strike_off_flush(leg, out);
        }
        self.handover_lost(leg, refused, out);
        self.growth_lost(leg, out);
    }

    /// Takes the leg out of the in-sync set, durably, before anything that waits for it is
    /// acknowledged. If nothing waits, the new history begins with the first change: a mirror that
    /// was only out of reach has then missed nothing.
    pub(super) fn leave_set(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        // A change that waits for its range or its extents passed the gate already.
        if self.writes.any_pending(leg) || self.writes.any_waiting() {
            self.begin_alone();
        } else {
            self.begins_with_next = true;
        }
        let now_ms = self.now_ms;
        let state = self.leg_mut(leg).expect("the caller has it");
        if state.stage == Stage::Dialing {
            // Connected before that is recorded, it would be struck off what it does receive.
            state.stage = Stage::Leaving;
            out.push(Effect::Hang { leg, redial: false });
        }
        state.in_set = false;
        if state.policy.mode == block::Mode::Sync {
            state.spells.begin(now_ms, state.degraded);
        }
        self.keep(After::LegLeft(leg), out);
    }

    /// Begins a history that a lost mirror does not share. The caller has it recorded; then those
    /// that are in sync are told.
    pub(super) fn begin_alone(&mut self) {
        self.begins_with_next = false;
        self.begin_generation();
        self.untold = Some(self.next_record);
    }

    pub(super) fn leg_left(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        self.leaving.remove(leg);
        self.counting.remove(leg);
        self.awaiting.remove(leg);
        let moving = self.is_regrouping();
        let (live, steps) =
            self.leg(leg).map_or((false, false), |leg| (leg.stage.is_live(), leg.stepping_down));
        assert!(!live || steps, "a mirror is called again when it is recorded that it left");
        if steps {
            self.stepped_down(leg);
            // The mirror is told before anything is acknowledged without it.
            self.follow(leg, out);
        } else if let Some(state) = self.leg_mut(leg)
            && state.stage == Stage::Leaving
        {
            let again = state.wanted && !moving;
            state.stage = if again { Stage::Dialing } else { Stage::Off };
            if again {
                // The history changed: what is said when it is opened again must say so.
                out.push(Effect::Hang { leg, redial: true });
            }
        }
        self.strike_off(leg, false, out);
        self.strike_off_flush(leg, out);
        self.attributes_without(leg, out);
        self.finish_suspend(leg, out);
    }

    /// Moves a live leg on as far as it can go.
    pub(super) fn advance_leg(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        self.fill_copies(leg, out);
        let newest = self.seq;
        let Some(state) = self.leg_mut(leg) else { return };
        let clean = state.is_clean() && !state.has_copies();
        match state.stage {
            Stage::Copying if clean && (state.journaled || state.is_to_follow()) => {
                state.stage = Stage::Following;
                state.cuts.begin();
                self.follow(leg, out);
            }
            Stage::Following => self.follow(leg, out),
            Stage::Copying if clean => {
                // From here on acknowledgements wait for it; when those before are in, it has all.
                state.stage = Stage::Draining { upto: newest };
                self.counting.insert(leg);
                self.advance_leg(leg, out);
            }
            Stage::Draining { .. } if !clean => {
                state.stage = Stage::Copying;
                if !state.in_set {
                    self.counting.remove(leg);
                }
            }
            Stage::Draining { upto } if state.acked_upto(newest) >= upto => {
                let seq = self.flush_leg(leg, None, out);
                let state = self.leg_mut(leg).expect("checked above");
                state.stage = Stage::Flushing { seq };
            }
            _ => {}
        }
    }
}
