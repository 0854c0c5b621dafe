//! From one mode to another while everything goes on, and transfers.
//!
//! Invariant (rule 1): a leg that is to follow behind is durably out of the in-sync set before
//! anything is acknowledged that it does not have.

use block::{LegId, Mode};

use super::leg::{Leg, Stage};
use super::{After, Effect, Machine, Note, Role};
use crate::command::Refusal;
use crate::status::SessionState;

impl Leg {
    /// Whether it is a leg of mode `stack` between two transfers.
    pub(crate) fn is_resting(&self) -> bool {
        self.policy.mode == Mode::Stack
            && self.stage == Stage::Off
            && self.state == SessionState::Active
            && !self.wanted
    }

    /// The same, as far as the record says.
    pub(crate) fn is_recorded_resting(&self) -> bool {
        let stopped = self.suspended || self.awaiting_reprotect;
        self.policy.mode == Mode::Stack && !self.wanted && !stopped
    }
}

impl Machine {
    /// The leg's policy says another mode than before: goes there from wherever it is.
    pub(super) fn change_mode(
        &mut self,
        leg: LegId,
        before: Mode,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let now_ms = self.now_ms;
        let state = self.leg_mut(leg).ok_or(Refusal::Unknown)?;
        let mode = state.policy.mode;
        if mode == before {
            return Ok(());
        }
        state.degraded = false;
        if mode != Mode::Sync {
            // From here on it is not promised to have everything.
            state.spells.end(now_ms);
        }
        if mode != Mode::Sync && state.stage.is_live() && !state.journaled {
            self.step_down(leg, out);
        } else if mode != Mode::Sync && !state.stage.is_live() && state.in_set {
            // Not connected, and counted among those that have everything: not any more.
            state.halted = false;
            self.leave(leg, out);
        } else if mode == Mode::Stack {
            // What follows already has its transfer with the next cut.
            state.cuts.begin();
        }
        let state = self.leg_mut(leg).expect("checked above");
        let rested = before == Mode::Stack
            && state.stage == Stage::Off
            && state.state == SessionState::Active;
        if rested {
            state.wanted = true;
            self.dial_wanted(out);
        }
        Ok(())
    }

    /// Whether the mode may be changed now.
    pub(super) fn may_change_mode(&self, leg: LegId, to: Mode) -> Result<(), Refusal> {
        let state = self.leg(leg).ok_or(Refusal::Unknown)?;
        if state.policy.mode == to {
            return Ok(());
        }
        if to != Mode::Sync && self.awaiting.has(leg) {
            // It may have been promoted: to go on without it takes a word of its own.
            return Err(Refusal::NotConnected);
        }
        if (state.in_set || state.stepping_down) && !self.witness_answers() {
            // Only the witness lets hosts go on without waiting for it.
            return Err(Refusal::NoWitness);
        }
        if matches!(state.stage, Stage::Voting | Stage::Joining | Stage::Leaving)
            || state.stepping_down
        {
            return Err(Refusal::Busy);
        }
        let knows_cuts = state.version >= block::CUTS_SINCE_VERSION;
        if to != Mode::Sync && state.stage.is_live() && !knows_cuts {
            let needs = block::CUTS_SINCE_VERSION;
            return Err(Refusal::PeerTooOld { theirs: state.version, needs });
        }
        Ok(())
    }

    /// A connected leg that hosts wait for, or that is on its way there, is to follow behind. It
    /// stays connected, and nothing is copied; the first cut tells the mirror.
    pub(super) fn step_down(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        state.draining = None;
        state.stage = match state.stage {
            Stage::InSync => Stage::Following,
            Stage::Listing => Stage::Listing,
            Stage::Copying | Stage::Draining { .. } | Stage::Flushing { .. } => Stage::Copying,
            Stage::Off
            | Stage::Dialing
            | Stage::Voting
            | Stage::Joining
            | Stage::Following
            | Stage::Leaving => return,
        };
        state.cuts.begin();
        // What follows behind cannot be compared with what is here now.
        state.verify = None;
        if state.in_set {
            // Hosts wait for it until it is durably out of the set.
            state.stepping_down = true;
            self.leave(leg, out);
        } else {
            self.counting.remove(leg);
            self.stepped_down(leg);
            self.strike_off(leg, false, out);
            self.strike_off_flush(leg, out);
        }
    }

    /// Nothing waits for the leg any more.
    pub(super) fn stepped_down(&mut self, leg: LegId) {
        if let Some(state) = self.leg_mut(leg) {
            state.stepping_down = false;
            state.journaled = true;
            state.unhold();
            if state.policy.mode == Mode::Stack {
                // A cut that was confirmed before it could rest ends no transfer.
                state.cuts.begin();
            }
        }
    }

    /// A mirror of mode `sync` is too slow, and its policy is to go on without waiting for it.
    pub(super) fn degrade(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if let Some(state) = self.leg_mut(leg) {
            state.degraded = true;
            self.step_down(leg, out);
            out.push(Effect::Note(Note::Degraded { leg }));
        }
    }

    /// Brings a mirror of mode `stack` to one later point.
    pub(super) fn transfer(&mut self, leg: LegId, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        if self.is_relay(leg) {
            return self.transfer_to_relay(leg, out);
        }
        if !matches!(self.role, Role::Primary) {
            return Err(Refusal::NotPrimary);
        }
        let state = self.leg(leg).ok_or(Refusal::Unknown)?;
        if state.policy.mode != Mode::Stack {
            return Err(Refusal::NotStack);
        }
        let stopped = matches!(state.state, SessionState::Suspended | SessionState::Error);
        if stopped || state.awaiting_reprotect {
            return Err(Refusal::Stopped);
        }
        if state.is_resting() {
            self.begin_transfer(leg, out);
        }
        self.keep(After::Command, out);
        Ok(())
    }

    pub(super) fn begin_transfer(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if let Some(state) = self.leg_mut(leg) {
            state.wanted = true;
            self.dial_wanted(out);
        }
    }
}
