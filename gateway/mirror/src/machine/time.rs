//! What passes with time: deadlines, idle flushes, rates.
//!
//! Invariant: time only ever goes forward here, whatever the driver's clock does.

use block::LegId;

use super::leg::Stage;
use super::{Effect, Machine};
use crate::policy::OnSlow;
use crate::status::{Cause, SessionState};

impl Machine {
    pub(super) fn on_tick(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let passed = now_ms.saturating_sub(self.now_ms);
        self.now_ms = self.now_ms.max(now_ms);
        self.volumes.iter_mut().for_each(|volume| volume.activity.tick(now_ms));
        self.retire_idle = !self.closing;
        if self.is_halted() || (!self.leaving.is_empty()) || !self.held.is_empty() {
            self.counters.blocked_ms += passed;
        }
        self.witness_tick(out);
        for leg in self.live.iter() {
            self.flush_idle_leg(leg, out);
            self.pace_verification(leg, passed);
            let state = self.leg_mut(leg).expect("a live leg exists");
            state.progress.mark(now_ms);
            self.check_deadline(leg, out);
        }
        self.modes_tick(out);
        self.relays_tick();
    }

    /// Whether hosts have waited for the mirror for longer than they should.
    pub(super) fn is_late(&self, leg: LegId) -> bool {
        let Some(state) = self.leg(leg) else { return false };
        let awaited =
            |inflight: &&super::leg::InFlight| !inflight.acked && inflight.holder.is_some();
        let oldest = state.inflight.iter().find(awaited).map(|inflight| inflight.at_ms);
        oldest.is_some_and(|at| self.now_ms.saturating_sub(at) > state.policy.ack_deadline_ms)
    }

    /// A mirror that hosts wait for must acknowledge in time (rule 12).
    fn check_deadline(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if !self.counting.has(leg) || self.leaving.has(leg) {
            return;
        }
        let state = self.leg(leg).expect("a live leg exists");
        if state.stepping_down || !self.is_late(leg) {
            return;
        }
        let knows_cuts = state.version >= block::CUTS_SINCE_VERSION;
        match state.policy.on_slow {
            OnSlow::Block => {}
            OnSlow::Degrade
                if knows_cuts && !matches!(state.stage, Stage::Voting | Stage::Joining) =>
            {
                self.degrade(leg, out);
            }
            OnSlow::Error | OnSlow::Degrade => {
                self.lose_leg(leg, Cause::TooSlow, SessionState::Error, out);
            }
        }
    }
}
