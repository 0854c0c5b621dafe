//! What passes with time: deadlines, idle flushes, rates.
//!
//! Invariant: time only ever goes forward here, whatever the driver's clock does.

use block::LegId;

use super::leg::Stage;
use super::{Effect, Machine};
use crate::locks::Holder;
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
        self.companions_tick(out);
        for leg in self.live.iter() {
            self.flush_idle_leg(leg, out);
            self.pace_verification(leg, passed);
            self.pace_copies(leg, passed);
            let state = self.leg_mut(leg).expect("a live leg exists");
            state.progress.mark(now_ms);
            self.check_deadline(leg, out);
        }
        self.modes_tick(out);
        self.relays_tick(passed);
    }

    /// Whether hosts have waited for the mirror for longer than they should: for a change, for a
    /// flush, or for what is to be kept of a volume. A mirror whose disk does not sync any more may
    /// acknowledge changes all the same.
    pub(super) fn is_late(&self, leg: LegId) -> bool {
        let Some(state) = self.leg(leg) else { return false };
        let awaited =
            |inflight: &&super::leg::InFlight| !inflight.acked && inflight.holder.is_some();
        let change = state.inflight.iter().find(awaited).map(|inflight| inflight.at_ms);
        let since = [change, self.flush_awaits(leg), self.attributes_await(leg)];
        since.into_iter().flatten().any(|at| self.is_overdue(leg, at))
    }

    /// Whether what a mirror was sent then should be answered by now.
    fn is_overdue(&self, leg: LegId, at_ms: u64) -> bool {
        let deadline_ms = self.leg(leg).map(|state| state.policy.ack_deadline_ms);
        deadline_ms.is_some_and(|deadline| self.now_ms.saturating_sub(at_ms) > deadline)
    }

    /// Whether a mirror makes nothing durable of what it acknowledges, and remembering that costs as
    /// much as a send journal has in memory (rule 4).
    fn is_never_durable(&self, leg: LegId) -> bool {
        let Some(state) = self.leg(leg) else { return false };
        let flush = state.flushes.front().map(|flush| flush.at_ms);
        state.unconfirmed_bytes() > self.journal.memory_bytes
            && flush.is_some_and(|at| self.is_overdue(leg, at))
    }

    /// Whether hosts have waited for too long for blocks that are on their way to a mirror that
    /// nobody's acknowledgement waits for: until it has them, nothing newer may go there (rule 2).
    fn holds_hosts_up(&self, leg: LegId) -> bool {
        let Some(state) = self.leg(leg) else { return false };
        let deadline_ms = state.policy.ack_deadline_ms;
        let late = |inflight: &&super::leg::InFlight| {
            self.now_ms.saturating_sub(inflight.at_ms) > deadline_ms
        };
        let held = |holder| match holder {
            Holder::Write(write) => {
                let write = self.writes.get(write);
                Some((write.volume, write.range()))
            }
            Holder::Copy(_, copy) => {
                let copy = state.copies[usize::from(copy)].filter(|copy| copy.locked);
                copy.map(|copy| (copy.volume, copy.extent.blocks()))
            }
        };
        // They stand in the order in which they were sent.
        let mut late = state.inflight.iter().take_while(late).filter(|inflight| !inflight.acked);
        late.any(|inflight| {
            let held = inflight.holder.and_then(held);
            held.is_some_and(|(volume, range)| self.volumes[volume].locks.is_awaited(range))
        })
    }

    /// A mirror that hosts wait for must acknowledge in time (rule 12).
    fn check_deadline(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if self.leaving.has(leg) {
            return;
        }
        let state = self.leg(leg).expect("a live leg exists");
        let counts = self.counting.has(leg);
        let late = if counts { self.is_late(leg) } else { self.holds_hosts_up(leg) };
        if state.stepping_down || !(late || self.is_never_durable(leg)) {
            return;
        }
        let knows_cuts = state.version >= block::CUTS_SINCE_VERSION;
        match state.policy.on_slow {
            OnSlow::Block => {}
            OnSlow::Degrade
                if counts
                    && knows_cuts
                    && !matches!(state.stage, Stage::Voting | Stage::Joining) =>
            {
                self.degrade(leg, out);
            }
            OnSlow::Error | OnSlow::Degrade => {
                self.lose_leg(leg, Cause::TooSlow, SessionState::Error, out);
            }
        }
    }
}
