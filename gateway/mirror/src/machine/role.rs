//! Who is primary: promotion, the planned swap of roles, and the fence.
//!
//! Invariant (rule 6): a gateway serves hosts only at an epoch that it recorded before; one that
//! learns of a higher epoch drops its hosts before it does anything else.

use block::{Epoch, LegId, Message, Quality};

use super::command::Pending;
use super::leg::{Leg, Stage};
use super::{After, Effect, Machine, Note, Role};
use crate::command::{Consent, Refusal};
use crate::policy::Policy;
use crate::record::{RoleRecord, UpstreamRecord};
use crate::status::{Cause, SessionState};

/// How far a planned swap has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Yielding {
    pub(super) leg: LegId,
    pub(super) epoch: Epoch,
    pub(super) step: YieldStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum YieldStep {
    /// What is in flight comes to its end.
    Draining,
    /// Every copy is made durable by this round.
    Flushing(u64),
    /// The intention is being recorded.
    Recording,
    /// The mirror was asked, or may have been before this gateway restarted.
    Asked,
    /// It did not take over; that is being recorded.
    TakingBack,
    /// An operator goes on here whatever it did, at an epoch above the one that it was offered;
    /// that is being recorded.
    GoingOn,
}

/// How far a promotion has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promoting {
    /// What was received is being applied, before the copy goes back to its kept point.
    Settling { consent: Consent },
    /// The blocks that change by that are being listed.
    Listing,
    /// They and the intention are being recorded.
    Intending,
    /// The stores go back.
    RollingBack,
    /// What was received is applied and made durable by this round.
    Flushing { round: u64, consent: Consent },
    /// The witness is asked for it.
    Claiming,
    /// The new epoch is being recorded.
    Recording,
}

impl Machine {
    // --- the fence ---

    /// A higher epoch exists: nobody is served here any more.
    pub(super) fn fence(&mut self, by: Epoch, out: &mut Vec<Effect>) {
        let known = matches!(self.role, Role::Fenced { by: known } if by <= known);
        let no_primary = matches!(self.role, Role::Secondary | Role::Promoting(_) | Role::Detached);
        if by <= self.epoch || known || no_primary {
            return;
        }
        out.push(Effect::DropHosts);
        out.push(Effect::Note(Note::Fenced));
        self.role = Role::Fenced { by };
        self.recorded_role = RoleRecord::Fenced { by };
        self.quality = Quality::Outdated;
        self.fail_everything(block::IoError::Fenced, out);
        for leg in LegId::all() {
            self.cut_off(leg, Cause::AwaitingReprotect, out);
        }
        self.awaiting = super::LegSet::default();
        self.drop_dismissal();
        self.fenced_in_company();
        if self.command != Some(Pending::Members) {
            self.finish_command(Err(Refusal::Fenced { by }), out);
        }
        self.keep(After::Fenced, out);
    }

    /// Ends a leg because this gateway is no longer primary. What it may lack stays known: the new
    /// primary will ask (rule 9).
    pub(super) fn cut_off(&mut self, leg: LegId, cause: Cause, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        state.end_flight();
        state.wipe.clear();
        state.stage = Stage::Off;
        state.in_set = false;
        state.wanted = false;
        state.awaiting_reprotect = true;
        state.halted = false;
        state.discard = false;
        state.state = SessionState::Halted;
        state.cause = Some(cause);
        self.live.remove(leg);
        self.counting.remove(leg);
        self.leaving.remove(leg);
        out.push(Effect::Hang { leg, redial: false });
        self.drop_copies(leg, out);
        self.strike_off(leg, false, out);
        self.strike_off_flush(leg, out);
    }

    // --- promotion ---

    pub(super) fn begin_promotion(
        &mut self,
        consent: Consent,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        match self.role {
            Role::Primary => return Err(Refusal::NotSecondary),
            Role::Yielding(yielding) => return self.go_on(yielding, consent, out),
            Role::Promoting(_) => return Err(Refusal::Busy),
            Role::Secondary | Role::Fenced { .. } | Role::Detached => {}
        }
        if self.epoch == Epoch::ZERO {
            // No primary was ever heard of here: the next epoch would be one that is in use (rule 6).
            return Err(Refusal::QualityTooLow { quality: self.quality });
        }
        if self.is_following() && consent < Consent::Outdated {
            return Err(Refusal::PrimaryAlive);
        }
        let usual = Consent::needed(self.quality, self.points.kept().is_some());
        if consent < self.consent_for_target().unwrap_or(usual) {
            return Err(Refusal::QualityTooLow { quality: self.quality });
        }
        if self.points.is_rolling_back() {
            return Err(Refusal::Busy);
        }
        self.drop_upstream(Some(self.promotion_goodbye()), out);
        if self.goes_back() {
            self.role = Role::Promoting(Promoting::Settling { consent });
            return Ok(());
        }
        if self.role == Role::Detached {
            self.end_detachment(out);
        }
        let round = self.flushes.want();
        self.role = Role::Promoting(Promoting::Flushing { round, consent });
        Ok(())
    }

    /// Becomes primary in the record; serves when that is durable.
    pub(super) fn record_takeover(&mut self, epoch: Epoch, handover: bool, out: &mut Vec<Effect>) {
        assert!(epoch > self.epoch, "an epoch only rises (rule 6)");
        let base = self.lineage.as_ref().map(|lineage| lineage.current);
        self.relays_become_mirrors(out);
        // Before the new history: those that they count from are remembered with it.
        let heirs = if handover { self.take_heritage() } else { super::members::Records::new() };
        self.epoch = epoch;
        self.recorded_role = RoleRecord::Primary;
        let half = matches!(self.quality, Quality::Inconsistent | Quality::Blank);
        self.quality = Quality::Source;
        self.begin_generation();
        if let Some(upstream) = self.upstream_record.as_ref().filter(|_| half) {
            // What it sent is noted for it alone: where the others differ is not known (rule 9).
            let own = self.legs.iter_mut().flatten().filter(|leg| leg.relay.is_none());
            own.filter(|leg| leg.gateway != upstream.gateway).for_each(|leg| leg.base = None);
        }
        if let Some(upstream) = self.upstream_record.take() {
            self.face_old_primary(upstream, base, handover);
        }
        self.took_over_in_company(handover);
        self.points.give_up_kept();
        self.points.settle_foreign();
        self.keep_with(After::TookOver { handover }, heirs, out);
    }

    /// The old primary becomes a mirror of ours: at once after a handover, by `reprotect` else.
    fn face_old_primary(
        &mut self,
        old: UpstreamRecord,
        base: Option<block::Generation>,
        handover: bool,
    ) {
        self.recorded_detached = false;
        let known = LegId::all().find(|id| self.leg(*id).is_some_and(|l| l.gateway == old.gateway));
        if let Some(id) = known {
            let policy = self.policy_towards(&old, id);
            let leg = self.leg_mut(id).expect("it was just found");
            leg.bucket = super::pace::Bucket::of(&policy.bandwidth);
            leg.policy = policy;
            // It is forgotten as soon as this copy is the old primary's. Until then it knows what was
            // written here, went back with the kept point, or cannot be known (rule 9).
            leg.wanted = handover;
            leg.suspended = false;
            leg.awaiting_reprotect = !handover;
            leg.state = SessionState::Halted;
            leg.cause = Some(Cause::AwaitingReprotect);
            return;
        }
        let Some(id) = LegId::all().find(|id| self.leg(*id).is_none()) else { return };
        let policy = self.policy_towards(&old, id);
        let mut leg = Leg::new(id, old, policy, self.volumes.len());
        leg.base = base;
        leg.wanted = handover;
        leg.awaiting_reprotect = !handover;
        leg.state = SessionState::Halted;
        leg.cause = Some(Cause::AwaitingReprotect);
        self.legs[id.index()] = Some(Box::new(leg));
    }

    /// The policies of a session with the primary that was followed, for the other direction: those
    /// that it said last, or those of an earlier time in this direction. A swap of roles that the
    /// session was in mode `sync` for is over with it.
    pub(super) fn policy_towards(&self, old: &UpstreamRecord, leg: LegId) -> Policy {
        let earlier = self.leg(leg).filter(|leg| leg.gateway == old.gateway);
        let policy = old.policy.clone().or_else(|| earlier.map(|leg| leg.policy.clone()));
        policy.map_or_else(
            || Policy { mode: self.upstream_mode, ..Policy::default() },
            |policy| policy.after_swap(),
        )
    }

    pub(super) fn took_over(&mut self, handover: bool, out: &mut Vec<Effect>) {
        self.role = Role::Primary;
        self.split_brain = false;
        out.push(Effect::Note(Note::Promoted));
        if handover {
            let epoch = self.epoch;
            out.push(Effect::Reply { message: Message::Voted(block::Vote::TookOver { epoch }) });
            self.drop_upstream(None, out);
        } else {
            self.finish_command(Ok(()), out);
        }
        self.dial_wanted(out);
    }

    pub(super) fn dial_wanted(&mut self, out: &mut Vec<Effect>) {
        for leg in LegId::all() {
            let Some(state) = self.leg_mut(leg) else { continue };
            if state.wanted && state.stage == Stage::Off {
                // It is called now, whatever pause it was in.
                state.retry = None;
                state.stage = Stage::Dialing;
                out.push(Effect::Dial { leg });
            }
        }
    }

    /// The primary, drained, asks this mirror to take over.
    pub(super) fn on_handover(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        if self.quality != Quality::InSync || epoch <= self.epoch {
            let why = format!("handover refused: {:?} at epoch {}", self.quality, self.epoch);
            self.drop_upstream(Some(block::Goodbye::Refused(why)), out);
            return;
        }
        if !self.asks_to_promote(epoch, Consent::InSync, true, out) {
            self.role = Role::Promoting(Promoting::Recording);
            self.record_takeover(epoch, true, out);
        }
    }

    /// Moves a promotion or a swap on as far as it can go.
    pub(super) fn advance_role(&mut self, out: &mut Vec<Effect>) {
        match self.role {
            Role::Promoting(Promoting::Settling { consent })
                if self.writes.len() == 0 && !self.points.is_busy() && self.records.is_empty() =>
            {
                self.settled_for_promotion(consent, out);
            }
            Role::Promoting(Promoting::Flushing { round, consent }) => {
                if self.flushes.has_failed() {
                    self.role = Role::Secondary;
                    self.finish_command(Err(Refusal::Io(block::IoError::Media)), out);
                } else if self.flushes.is_done(round)
                    && self.writes.len() == 0
                    && !self.points.is_busy()
                {
                    let epoch = self.epoch_after_fence();
                    if !self.asks_to_promote(epoch, consent, false, out) {
                        self.role = Role::Promoting(Promoting::Recording);
                        self.record_takeover(epoch, false, out);
                    }
                }
            }
            Role::Yielding(Yielding { leg, epoch, step }) => match step {
                YieldStep::Draining if self.writes.len() == 0 && self.is_settled(leg) => {
                    let round = self.flushes.want();
                    self.step_yield(YieldStep::Flushing(round));
                    self.begin_flush_round(out);
                }
                YieldStep::Flushing(round)
                    if self.flushes.is_done(round) && self.companions_are_drained() =>
                {
                    self.step_yield(YieldStep::Recording);
                    let to = self.leg(leg).expect("an in-sync leg exists").gateway;
                    self.recorded_role = RoleRecord::Yielding { to, epoch };
                    self.keep(After::Yielded, out);
                }
                YieldStep::Draining
                | YieldStep::Flushing(_)
                | YieldStep::Recording
                | YieldStep::Asked
                | YieldStep::TakingBack
                | YieldStep::GoingOn => {}
            },
            Role::Promoting(
                Promoting::Settling { .. }
                | Promoting::Listing
                | Promoting::Intending
                | Promoting::RollingBack
                | Promoting::Claiming
                | Promoting::Recording,
            )
            | Role::Primary
            | Role::Secondary
            | Role::Detached
            | Role::Fenced { .. } => {}
        }
    }

    /// What was received is applied: the copy goes back to its kept point, if that is still what a
    /// promotion does. The witness is asked before anything of the copy is given up.
    fn settled_for_promotion(&mut self, consent: Consent, out: &mut Vec<Effect>) {
        if !self.goes_back() {
            let round = self.flushes.want();
            self.role = Role::Promoting(Promoting::Flushing { round, consent });
        } else if !self.asks_to_promote(self.epoch_after_fence(), consent, false, out) {
            self.begin_way_back(out);
        }
    }

    /// Nobody else is promoted: which blocks change on the way back to the kept point?
    pub(super) fn begin_way_back(&mut self, out: &mut Vec<Effect>) {
        self.role = Role::Promoting(Promoting::Listing);
        self.list_changed(out);
    }

    /// The copy is its kept point now: the promotion goes on.
    pub(super) fn take_over_after_rollback(&mut self, out: &mut Vec<Effect>) {
        let epoch = self.epoch_to_take();
        self.role = Role::Promoting(Promoting::Recording);
        self.record_takeover(epoch, false, out);
    }

    /// The epoch of a promotion: the one that the witness granted, if it was asked already.
    fn epoch_to_take(&self) -> Epoch {
        self.epoch_after_fence().max(self.granted_epoch())
    }

    fn epoch_after_fence(&self) -> Epoch {
        match self.recorded_role {
            RoleRecord::Fenced { by } => by.max(self.epoch).next(self.tag),
            RoleRecord::Primary
            | RoleRecord::Yielding { .. }
            | RoleRecord::Secondary
            | RoleRecord::Detached => self.epoch.next(self.tag),
        }
    }
}
