//! The planned swap of roles, seen from the primary that yields.
//!
//! Invariant (rule 6): once the mirror was asked nobody is served here before it is known whether it
//! took over, or this gateway goes on above the epoch that it was offered.

use block::{Epoch, LegId, Message, Quality};

use super::leg::Stage;
use super::role::{YieldStep, Yielding};
use super::{After, Effect, Machine, Note, Pending, Role};
use crate::command::{Consent, Refusal};
use crate::record::{RoleRecord, UpstreamRecord};
use crate::status::Cause;

impl Machine {
    pub(super) fn begin_handover(
        &mut self,
        leg: LegId,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        match self.role {
            Role::Primary => {}
            Role::Yielding(_) | Role::Promoting(_) => return Err(Refusal::Busy),
            Role::Secondary | Role::Detached => return Err(Refusal::NotPrimary),
            Role::Fenced { by } => return Err(Refusal::Fenced { by }),
        }
        if !self.in_sync_stage(leg) {
            return Err(Refusal::NotInSync);
        }
        if !self.witness_answers() {
            return Err(Refusal::NoWitness);
        }
        let epoch = self.epoch.next(self.tag);
        self.role = Role::Yielding(Yielding { leg, epoch, step: YieldStep::Draining });
        out.push(Effect::Note(Note::Demoted));
        Ok(())
    }

    pub(super) fn is_settled(&self, leg: LegId) -> bool {
        self.leg(leg)
            .is_some_and(|leg| leg.stage == Stage::InSync && leg.is_clean() && !leg.has_copies())
    }

    pub(super) fn step_yield(&mut self, step: YieldStep) {
        if let Role::Yielding(yielding) = &mut self.role {
            yielding.step = step;
        }
    }

    /// The intention is durable: ask.
    pub(super) fn yielded(&mut self, out: &mut Vec<Effect>) {
        let Role::Yielding(Yielding { leg, epoch, step: YieldStep::Recording }) = self.role else {
            return;
        };
        if self.in_sync_stage(leg) {
            self.step_yield(YieldStep::Asked);
            self.bequeath(leg, out);
            out.push(Effect::Post { leg, message: Message::Handover { epoch } });
        } else {
            self.take_back(out);
        }
    }

    /// The mirror is the primary now.
    pub(super) fn on_took_over(&mut self, leg: LegId, epoch: Epoch, out: &mut Vec<Effect>) {
        let Role::Yielding(yielding) = self.role else { return };
        if yielding.leg != leg || yielding.epoch != epoch {
            return;
        }
        self.finish_own(Pending::GoOn, Err(Refusal::Fenced { by: epoch }), out);
        let state = self.leg(leg).expect("a leg that was asked is remembered");
        self.upstream_record = Some(UpstreamRecord {
            gateway: state.gateway,
            site: state.site.clone(),
            sessions: state.sessions.clone(),
            policy: Some(state.policy.after_swap()),
        });
        out.push(Effect::DropHosts);
        self.role = Role::Secondary;
        self.recorded_role = RoleRecord::Secondary;
        self.epoch = epoch;
        self.quality = Quality::InSync;
        self.handed_over_in_company();
        self.fail_everything(block::IoError::Fenced, out);
        for leg in LegId::all() {
            // The other mirrors lack what the new primary is asked from here on: promoted as if they
            // were in sync, they would lose it (rule 1).
            if self.live.has(leg) && leg != yielding.leg {
                out.push(Effect::Post { leg, message: Message::Outdate });
            }
            self.cut_off(leg, Cause::AwaitingReprotect, out);
        }
        // Whom this primary had not heard yet is the new one's affair: waited for here when this copy
        // is promoted again, it would be for ever.
        self.awaiting = super::LegSet::default();
        // Nothing was written here since the mirrors were drained: what they lack of ours, the new
        // primary was told.
        let fresh = self.forget_legs();
        self.keep_with(After::Demoted, fresh, out);
    }

    /// Whether this mirror was asked to take over and did not answer yet.
    pub(super) fn asked_to_take_over(&self, leg: LegId) -> bool {
        matches!(self.role, Role::Yielding(Yielding { leg: to, step: YieldStep::Asked, .. })
            if to == leg)
    }

    /// The mirror went away in the middle of a swap.
    pub(super) fn handover_lost(&mut self, leg: LegId, refused: bool, out: &mut Vec<Effect>) {
        let Role::Yielding(yielding) = self.role else { return };
        if yielding.leg != leg {
            return;
        }
        match yielding.step {
            // It was not asked: nothing happened.
            YieldStep::Draining | YieldStep::Flushing(_) | YieldStep::Recording => {
                self.take_back(out);
            }
            // It said that it will not.
            YieldStep::Asked if refused => self.take_back(out),
            // It may have taken over. Hosts wait until it says.
            YieldStep::Asked => self.finish_command(Err(Refusal::Interrupted), out),
            YieldStep::TakingBack | YieldStep::GoingOn => {}
        }
    }

    /// Nobody waits for the swap any longer. Until the mirror is asked nothing has happened.
    pub(super) fn recall_handover(&mut self, out: &mut Vec<Effect>) {
        let Role::Yielding(Yielding { step, .. }) = self.role else { return };
        match step {
            YieldStep::Draining | YieldStep::Flushing(_) => self.take_back(out),
            // The record that asks for it is on its way; what comes after it is the mirror's word.
            YieldStep::Recording
            | YieldStep::Asked
            | YieldStep::TakingBack
            | YieldStep::GoingOn => {}
        }
    }

    /// The mirror was opened again at the old epoch: it did not take over.
    pub(super) fn take_back_handover(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if let Role::Yielding(yielding) = self.role
            && yielding.leg == leg
            && yielding.step == YieldStep::Asked
        {
            self.take_back(out);
        }
    }

    pub(super) fn take_back(&mut self, out: &mut Vec<Effect>) {
        self.step_yield(YieldStep::TakingBack);
        self.recorded_role = RoleRecord::Primary;
        self.keep(After::Unyielded, out);
    }

    pub(super) fn unyielded(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.role, Role::Yielding(Yielding { step: YieldStep::TakingBack, .. })) {
            self.role = Role::Primary;
            let goes_on = self.command == Some(Pending::GoOn);
            let result = if goes_on { Ok(()) } else { Err(Refusal::Interrupted) };
            self.finish_command(result, out);
        }
    }

    /// The swap that is under way, for people.
    pub(super) fn handover(&self) -> Option<crate::HandoverStatus> {
        let Role::Yielding(Yielding { leg, epoch, step }) = self.role else { return None };
        let unanswered = step == YieldStep::Asked && !self.live.has(leg);
        let drained = !matches!(step, YieldStep::Draining | YieldStep::Flushing(_));
        Some(crate::HandoverStatus { leg, epoch, drained, unanswered })
    }

    /// The mirror was asked to take over and is gone, perhaps for good. An operator's word lets
    /// this gateway go on: at an epoch above the one that was offered, so that a mirror that did
    /// take over is fenced by the first word between the two, and in a history of its own, so that
    /// what was written there is told as a split brain and never overwritten unasked (rule 6).
    pub(super) fn go_on(
        &mut self,
        yielding: Yielding,
        consent: Consent,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let Yielding { leg: asked, epoch, step } = yielding;
        if step != YieldStep::Asked || self.live.has(asked) || !self.leaving.is_empty() {
            return Err(Refusal::Busy);
        }
        if consent < Consent::Outdated {
            return Err(Refusal::HandoverUnanswered);
        }
        if self.arbiter.is_some() {
            return self.go_on_by_witness(asked, out);
        }
        self.step_yield(YieldStep::GoingOn);
        // The others were opened at the old epoch: they are opened again.
        self.cut_legs(out);
        self.awaiting.remove(asked);
        let state = self.leg_mut(asked).expect("a leg that was asked is remembered");
        state.in_set = false;
        state.halted = false;
        self.begins_with_next = false;
        self.begin_generation();
        self.epoch = epoch.next(self.tag);
        self.recorded_role = RoleRecord::Primary;
        self.keep(After::TookOver { handover: false }, out);
        Ok(())
    }
}
