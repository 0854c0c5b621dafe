//! The life of a leg: connected, compared, copied, joined, lost.
//!
//! Invariant (rule 1): a leg leaves the in-sync set durably before anything is acknowledged without
//! it; a leg enters it only after it has everything and recorded so itself.

use block::{BlockSet, LegId, Message, Open, Quality, Seq, VolumeOffer, Vote};

use super::leg::{Leg, Progress, Stage};
use super::{After, Effect, Machine, Note, Opening, Role};
use crate::lineage::{Lineage, Relation, relate};
use crate::locks::Holder;
use crate::policy::{Recovery, Split};
use crate::status::{Cause, SessionState};

/// What a mirror that was opened needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// The blocks that are dirty here or differ there.
    Delta,
    /// Every mapped block; `wipe` if it holds anything that must go first.
    Full { wipe: bool },
}

impl Machine {
    /// What is said to a mirror to open the group there.
    pub(crate) fn open_message(&self, leg: LegId) -> Option<Box<Open>> {
        let state = self.leg(leg)?;
        let lineage = self.lineage.as_ref()?;
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
        }))
    }

    /// Who a leg's mirror is.
    pub(crate) fn leg_peer(&self, leg: LegId) -> Option<(block::GatewayId, String)> {
        self.leg(leg).map(|state| (state.gateway, state.site.clone()))
    }

    pub(super) fn on_connected(&mut self, leg: LegId, opening: Opening, out: &mut Vec<Effect>) {
        let expected = matches!(self.role, Role::Primary | Role::Yielding(_))
            && self.leg(leg).is_some_and(|state| state.stage == Stage::Dialing);
        if !expected {
            out.push(Effect::Hang { leg, redial: false });
            return;
        }
        let need = match self.compare(leg, &opening) {
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
        let volumes = self.volumes.len();
        let now_ms = self.now_ms;
        let state = self.leg_mut(leg).expect("checked above");
        if state.in_set {
            // It holds every acknowledged write and still counts.
            self.counting.insert(leg);
        }
        let state = self.leg_mut(leg).expect("checked above");
        state.cause = None;
        state.state = SessionState::Active;
        state.halted = false;
        self.returned(leg);
        let state = self.leg_mut(leg).expect("checked above");
        state.cursor = (0, 0);
        state.last_flush_ms = now_ms;
        if let Need::Full { wipe } = need {
            state.base = None;
            state.dirty.iter_mut().for_each(crate::dirty::DirtyMap::clear);
            state.suspects.iter_mut().for_each(crate::dirty::DirtyMap::clear);
            state.wipe = if wipe { (0..volumes).collect() } else { Vec::new() };
            state.stage = Stage::Listing;
            // What is being written now may not be mapped yet when the map is listed.
            for (volume, range) in self.writes.flying() {
                self.leg_mut(leg).expect("checked above").dirty[volume].insert(range);
            }
            out.push(Effect::List { leg });
        } else {
            for report in opening.differs {
                let volume = usize::from(report.volume);
                if volume < volumes {
                    for range in report.blocks {
                        // Of what the mirror names, much may be the same on both sides.
                        state.suspects[volume].insert(range);
                        state.dirty[volume].insert(range);
                    }
                }
            }
            state.stage = Stage::Copying;
            Self::begin_progress(state, now_ms, false);
        }
        let state = self.leg(leg).expect("checked above");
        if state.stage == Stage::Listing || !state.is_clean() {
            out.push(Effect::Post { leg, message: Message::Outdate });
        }
        self.take_back_handover(leg, out);
    }

    /// Compares histories (rules 9 and 10).
    fn compare(&self, leg: LegId, opening: &Opening) -> Result<Need, Cause> {
        let state = self.leg(leg).expect("the caller checked");
        let ours = self.lineage.as_ref().expect("a primary has a history");
        let opened = &opening.opened;
        let theirs =
            opened.generation.map(|current| Lineage::new(current, opened.ancestors.clone()));
        let known = |common| {
            opened.differences_known && state.base.is_some_and(|base| ours.is_within(common, base))
        };
        let theirs_bytes = || {
            let blocks = opening.differs.iter().flat_map(|report| &report.blocks);
            blocks.map(|range| range.count()).sum::<u64>() * block::BLOCK_BYTES
        };
        match relate(ours, theirs.as_ref()) {
            // What a first copy left behind when it was cut short is no part of any history.
            Relation::Blank => Ok(Need::Full { wipe: opened.quality != Quality::Blank }),
            Relation::Behind { common } if known(common) => Ok(Need::Delta),
            Relation::Behind { .. } => Ok(Need::Full { wipe: true }),
            Relation::Diverged { common } if state.discard && known(common) => Ok(Need::Delta),
            Relation::Diverged { .. } | Relation::Ahead | Relation::Unrelated if state.discard => {
                Ok(Need::Full { wipe: true })
            }
            Relation::Diverged { .. } | Relation::Ahead => {
                Err(Cause::SplitBrain { theirs_bytes: theirs_bytes() })
            }
            Relation::Unrelated => Err(Cause::Refused(
                "the mirror holds an unrelated history of this volume".to_owned(),
            )),
        }
    }

    pub(super) fn on_listed(&mut self, leg: LegId, mapped: &[BlockSet]) {
        let now_ms = self.now_ms;
        let Some(state) = self.leg_mut(leg) else { return };
        if state.stage != Stage::Listing {
            return;
        }
        for (dirty, ranges) in state.dirty.iter_mut().zip(mapped) {
            ranges.iter().for_each(|range| dirty.insert(*range));
        }
        state.stage = Stage::Copying;
        Self::begin_progress(state, now_ms, true);
    }

    fn begin_progress(state: &mut Leg, now_ms: u64, full: bool) {
        state.progress = Progress {
            total_bytes: state.dirty.iter().map(crate::dirty::DirtyMap::bytes).collect(),
            copied_bytes: vec![0; state.dirty.len()],
            full,
            started_ms: Some(now_ms),
            marks: std::collections::VecDeque::from([(now_ms, 0)]),
        };
    }

    pub(super) fn on_disconnected(&mut self, leg: LegId, cause: Cause, out: &mut Vec<Effect>) {
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
        match message {
            Message::Acks(seqs) => seqs.into_iter().for_each(|seq| self.on_acked(leg, seq, out)),
            Message::Failed { error, .. } => {
                self.lose_leg(leg, Cause::MirrorFailed(error), SessionState::Error, out);
            }
            Message::Durable { seq } => self.on_durable(leg, seq, out),
            Message::Compared { seq, differs } => self.on_compared(leg, seq, &differs, out),
            Message::Voted(Vote::InSync) => self.on_voted(leg, out),
            Message::Voted(Vote::TookOver { epoch }) => self.on_took_over(leg, epoch, out),
            Message::Grown { volume, bytes } => self.on_mirror_grown(leg, volume, bytes, out),
            Message::Pong { state: theirs, .. } => {
                if let Some(state) = self.leg_mut(leg) {
                    state.theirs = Some(theirs);
                }
            }
            Message::Goodbye(goodbye) => self.on_goodbye(leg, goodbye, out),
            other @ (Message::Open(_)
            | Message::Opened(_)
            | Message::Differs(_)
            | Message::Change { .. }
            | Message::Compare { .. }
            | Message::Flush { .. }
            | Message::Promote { .. }
            | Message::Handover { .. }
            | Message::Outdate
            | Message::Grow { .. }
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
        match state.acknowledge(seq) {
            None => {}
            Some(Holder::Copy(_, copy)) => {
                let asked = state.copies[usize::from(copy)].is_some_and(|copy| copy.compare);
                if asked {
                    let why = "acknowledged what was asked".to_owned();
                    self.lose_leg(leg, Cause::Refused(why), SessionState::Error, out);
                } else {
                    self.copy_done(leg, copy, out);
                }
            }
            Some(Holder::Write(write)) => {
                let change = self.writes.get(write);
                let (volume, whole) = (change.volume, change.extent.whole_blocks());
                let state = self.leg_mut(leg).expect("it just acknowledged");
                if !state.dirty[volume].is_empty() && !state.wipe.contains(&volume) {
                    state.dirty[volume].remove(whole);
                }
                self.leg_done(write, leg, out);
            }
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
        let Some(state) = self.leg_mut(leg) else { return };
        if !state.stage.is_live() {
            return;
        }
        let refused = matches!(cause, Cause::Refused(_));
        let unanswered = asked && !refused;
        state.end_flight();
        if !state.wipe.is_empty() || state.stage == Stage::Listing {
            state.base = None;
            state.wipe.clear();
        }
        out.push(Effect::Note(Note::MirrorLost { leg, cause: cause.clone() }));
        let by_operator = cause == Cause::Operator;
        state.cause = Some(cause);
        state.state = to;
        // A fault needs an operator; a loss is healed by itself unless the policy says otherwise. A
        // mirror that was asked to take over is called again in any case: only it knows.
        let again = unanswered
            || (to == SessionState::Halted && state.policy.recovery == Recovery::Automatic);
        state.wanted = again && (state.wanted || unanswered);
        // One that was asked to vote may have recorded that it is in sync, with our history.
        let voted = matches!(state.stage, Stage::Voting | Stage::Joining) && !state.in_set;
        let goes_on =
            state.policy.split == Split::Automatic || to != SessionState::Halted || by_operator;
        let leaves = voted || (state.in_set && goes_on);
        let halts = (state.in_set || ousting) && !leaves;
        state.halted = halts;
        state.stage = if leaves {
            Stage::Leaving
        } else if again {
            Stage::Dialing
        } else {
            Stage::Off
        };
        self.live.remove(leg);
        if leaves {
            self.leaving.insert(leg);
            self.leave(leg, out);
        } else {
            self.counting.remove(leg);
        }
        out.push(Effect::Hang { leg, redial: again && !leaves });
        self.drop_copies(leg, out);
        if halts {
            self.writes.halt_waiting();
        }
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
            self.begin_alone(out);
        } else {
            self.begins_with_next = true;
        }
        let state = self.leg_mut(leg).expect("the caller has it");
        state.in_set = false;
        self.keep(After::LegLeft(leg), out);
    }

    /// Begins a history that a lost mirror does not share, and tells those that are in sync.
    pub(super) fn begin_alone(&mut self, out: &mut Vec<Effect>) {
        self.begins_with_next = false;
        self.begin_generation();
        let lineage = self.lineage.clone().expect("a primary has a history");
        for leg in self.live.iter().filter(|leg| self.in_sync_stage(*leg)) {
            let (generation, ancestors) = (lineage.current, lineage.ancestors.clone());
            out.push(Effect::Post { leg, message: Message::Promote { generation, ancestors } });
        }
    }

    pub(super) fn leg_left(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        self.leaving.remove(leg);
        self.counting.remove(leg);
        self.awaiting.remove(leg);
        if let Some(state) = self.leg_mut(leg)
            && state.stage == Stage::Leaving
        {
            let again = state.wanted;
            state.stage = if again { Stage::Dialing } else { Stage::Off };
            if again {
                // The history changed: what is said when it is opened again must say so.
                out.push(Effect::Hang { leg, redial: true });
            }
        }
        self.strike_off(leg, false, out);
        self.strike_off_flush(leg, out);
        self.finish_suspend(leg, out);
    }

    /// Moves a live leg on as far as it can go.
    pub(super) fn advance_leg(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        self.fill_copies(leg, out);
        let newest = self.seq;
        let Some(state) = self.leg_mut(leg) else { return };
        let clean = state.is_clean() && !state.has_copies();
        match state.stage {
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

    /// The flush before the vote is durable: ask the mirror to record that it has everything.
    pub(super) fn leg_durable(&mut self, leg: LegId, seq: Seq, out: &mut Vec<Effect>) {
        let lineage = self.lineage.clone();
        let Some(state) = self.leg_mut(leg) else { return };
        if let Stage::Flushing { seq: awaited } = state.stage
            && seq >= awaited
        {
            state.stage = Stage::Voting;
            let lineage = lineage.expect("a primary has a history");
            let (generation, ancestors) = (lineage.current, lineage.ancestors);
            out.push(Effect::Post { leg, message: Message::Promote { generation, ancestors } });
        }
    }

    fn on_voted(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let current = self.lineage.as_ref().map(|lineage| lineage.current);
        let Some(state) = self.leg_mut(leg) else { return };
        if state.stage == Stage::Voting {
            state.stage = Stage::Joining;
            state.discard = false;
            state.base = current;
            self.join(leg, out);
        }
    }

    pub(super) fn leg_joined(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        if state.stage == Stage::Joining {
            state.stage = Stage::InSync;
            out.push(Effect::Note(Note::MirrorInSync { leg }));
        }
    }
}
