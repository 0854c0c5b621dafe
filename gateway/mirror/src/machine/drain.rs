//! A mirror that does not have everything is brought to the present before its session is suspended:
//! until it is there, or the time for it is over, it is on its way as in mode `sync` (REC-06, REC-17).
//!
//! Invariant: nothing of it is recorded, and it ends by itself. A session whose link, gateway or
//! operator is lost on the way is what it was before, in its own mode.

use block::{LegId, Mode};

use super::leg::{Leg, Stage};
use super::{After, Effect, Machine, Pending, Role};
use crate::command::Refusal;
use crate::policy::Split;

impl Leg {
    /// Whether hosts go on when the mirror is lost. Those of a session that follows behind by its mode
    /// never stop for it, nor while it is brought to the present.
    pub(super) fn splits(&self) -> bool {
        let drains = self.draining.is_some() && self.policy.mode != Mode::Sync;
        drains || self.policy.split == Split::Automatic
    }

    /// How it copies now: until it is suspended, a mirror that is brought to the present is what it is
    /// on its way to be.
    pub(super) fn mode_now(&self) -> Mode {
        if self.draining.is_some() {
            Mode::Sync
        } else if self.degraded {
            Mode::Consistency
        } else {
            self.policy.mode
        }
    }
}

impl Machine {
    /// Begins it. Hosts wait for the mirror only once it lacks no more than it works off in a moment.
    pub(super) fn begin_drain(
        &mut self,
        leg: LegId,
        for_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.require_primary()?;
        let until_ms = self.now_ms.saturating_add(for_ms);
        let state = self.leg_mut(leg).ok_or(Refusal::Unknown)?;
        let rests = state.is_resting();
        if !state.stage.is_live() && !rests {
            return Err(Refusal::NotConnected);
        }
        if state.stepping_down {
            return Err(Refusal::Busy);
        }
        state.draining = Some(until_ms);
        if rests {
            self.begin_transfer(leg, out);
            self.keep(After::Command, out);
        } else {
            self.finish_command(Ok(()), out);
        }
        Ok(())
    }

    /// Suspends a leg at whose mirror nothing is missing; there is no other cut.
    pub(super) fn suspend_whole(
        &mut self,
        leg: LegId,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.require_primary()?;
        self.leg(leg).ok_or(Refusal::Unknown)?;
        if !self.in_sync_stage(leg) {
            return Err(Refusal::NotInSync);
        }
        self.stop(leg, Pending::Suspend(leg), out)
    }

    /// Ends those whose time is over.
    pub(super) fn drains_tick(&mut self, out: &mut Vec<Effect>) {
        if self.role != Role::Primary {
            return;
        }
        let now_ms = self.now_ms;
        for leg in LegId::all() {
            let over = |until: u64| now_ms >= until;
            if self.leg(leg).is_some_and(|state| state.draining.is_some_and(over)) {
                self.end_drain(leg, out);
            }
        }
    }

    fn end_drain(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let witness_answers = self.witness_answers();
        let Some(state) = self.leg_mut(leg) else { return };
        // One that votes counts or does not in a moment; one that counts leaves by the witness's word.
        let votes = matches!(state.stage, Stage::Voting | Stage::Joining);
        if votes || (state.in_set && !witness_answers) {
            return;
        }
        state.draining = None;
        if state.is_to_follow() && state.stage.is_live() && !state.journaled {
            self.step_down(leg, out);
        }
    }
}
