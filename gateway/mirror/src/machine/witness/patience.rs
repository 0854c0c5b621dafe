//! What passes with time while the witness does not answer: who waits, and for how long.
//!
//! Invariant: what waited too long fails; it is never acknowledged unasked.

use block::LegId;

use super::super::leg::Stage;
use super::super::{Effect, Machine, Pending, Role};
use crate::command::Refusal;
use crate::policy::Split;
use crate::status::{Cause, SessionState};

impl Machine {
    pub(in super::super) fn witness_tick(&mut self, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        let Some(arbiter) = &mut self.arbiter else { return };
        arbiter.awake = true;
        let (hold_ms, ousting) = (arbiter.terms.hold_ms, arbiter.ousting);
        for leg in ousting.iter() {
            let since = self.arbiter_mut().ousting_since[leg.index()];
            if now_ms.saturating_sub(since) >= hold_ms {
                self.held_too_long(leg, Refusal::NoWitness, out);
            }
        }
        let rules = matches!(self.role, Role::Primary | Role::Yielding(_));
        let waits = rules && !self.awaiting.is_empty() && self.owns();
        let arbiter = self.arbiter_mut();
        arbiter.waiting_since = waits.then(|| arbiter.waiting_since.unwrap_or(now_ms));
        if arbiter.waiting_since.is_some_and(|since| now_ms.saturating_sub(since) >= hold_ms) {
            self.go_on_without_unheard(out);
        }
        self.promotion_tick(out);
    }

    /// The witness, or a companion, did not answer in time: what waits fails, and the mirror is dialled again.
    pub(in super::super) fn held_too_long(
        &mut self,
        leg: LegId,
        refusal: Refusal,
        out: &mut Vec<Effect>,
    ) {
        if self.leg(leg).is_some_and(|state| state.stepping_down) {
            if !self.is_late(leg) {
                // It acknowledges: nobody is held by it.
                return;
            }
            self.lose_leg(leg, Cause::TooSlow, SessionState::Halted, out);
        }
        if self.dismissal.is_none() && self.is_regrouping() {
            // Its link waits for the record of the members.
            return;
        }
        let Some(state) = self.leg_mut(leg) else { return };
        if state.stage == Stage::Leaving {
            let again = state.wanted;
            state.halted = true;
            state.stage = if again { Stage::Dialing } else { Stage::Off };
            self.leaving.remove(leg);
            self.counting.remove(leg);
            out.push(Effect::Hang { leg, redial: again });
            self.strike_off(leg, true, out);
            self.strike_off_flush(leg, out);
        }
        let waits = match self.command {
            Some(Pending::Suspend(waiting) | Pending::Remove(waiting)) => waiting == leg,
            Some(Pending::GoOn) => true,
            // One that is asked for does not wait for a mirror that leaves; a way back begins without.
            Some(
                Pending::Members
                | Pending::Hold(_)
                | Pending::Snapshot(_)
                | Pending::RollBack(_)
                | Pending::Detach,
            ) => false,
            Some(Pending::Plain | Pending::Grow { .. }) | None => self.give_dismissal_up(out),
        };
        if waits {
            self.finish_command(Err(refusal), out);
        }
    }

    /// The witness confirmed this primary, and a mirror of its set is not heard: it leaves.
    fn go_on_without_unheard(&mut self, out: &mut Vec<Effect>) {
        for leg in self.awaiting.iter() {
            let Some(state) = self.leg(leg) else { continue };
            // One that is out of the set is awaited until that is recorded.
            let counts = state.in_set && !state.stage.is_live();
            if counts && state.policy.split == Split::Automatic && !self.is_ousting(leg) {
                self.leave(leg, out);
            }
        }
    }
}
