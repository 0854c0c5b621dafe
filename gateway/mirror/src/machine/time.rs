//! What passes with time: deadlines, idle flushes, rates.
//!
//! Invariant: time only ever goes forward here, whatever the driver's clock does.

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
            let state = self.leg_mut(leg).expect("a live leg exists");
            let copied = state.progress.copied_bytes.iter().sum();
            if state.progress.marks.back().is_none_or(|(at, _)| now_ms >= at + 1_000) {
                state.progress.marks.push_back((now_ms, copied));
                if state.progress.marks.len() > 6 {
                    state.progress.marks.pop_front();
                }
            }
            let oldest = state.inflight.front().map(|inflight| inflight.at_ms);
            let late =
                oldest.is_some_and(|at| now_ms.saturating_sub(at) > state.policy.ack_deadline_ms);
            if late && state.policy.on_slow == OnSlow::Error && state.in_set {
                self.lose_leg(leg, Cause::TooSlow, SessionState::Error, out);
            }
        }
    }
}
