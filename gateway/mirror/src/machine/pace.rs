//! When the next copy goes: a bucket of bytes for each leg, and shares among those that copy at once.
//!
//! ```text
//!   time ──rate──▶ bucket ──bytes on the link──▶ below nothing: the next copy waits
//! ```
//!
//! Invariant: over any time a leg's copies send at most what its limit allows for that time and a
//! second, and what one leg may have in flight. What hosts write is not counted and never waits; nor
//! is the repair of a mirror that hosts count on.

use block::{BLOCK_BYTES, LegId, SnapshotId};

use super::copy::{COPIES_MAX, COPY_BLOCKS};
use super::leg::{Leg, Stage};
use super::{After, Effect, Machine};
use crate::bandwidth::Bandwidth;
use crate::policy::Policy;
use crate::priority::{Crowd, Priority, Share};

/// What a leg has in flight that copies alone.
const MOST: Share =
    Share { copies: COPIES_MAX, bytes: COPIES_MAX as u64 * COPY_BLOCKS * BLOCK_BYTES };

/// What a copier may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Bytes a second; `None`: as many as go; 0: nothing.
    pub(crate) limit: Option<u64>,
    /// Bytes that may be sent now. A copy goes while there is anything, and may leave less than
    /// nothing: so even a limit below one copy a second is kept to, and never stands still.
    budget: i64,
}

/// What only clocks on walls and other groups know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Another limit holds for a leg's copies: the time of day passed a border of its windows.
    Limit {
        /// Which leg.
        leg: LegId,
        /// Bytes a second; `None`: as many as go; 0: nothing.
        bytes_per_second: Option<u64>,
    },
    /// Who copies at this gateway, over all groups, changed.
    Crowd {
        /// The highest priority among them.
        highest: Option<Priority>,
    },
    /// A mirror's write journal wants a base.
    Base {
        /// What the snapshot is to be.
        snapshot: SnapshotId,
        /// The time, for people.
        unix_ms: u64,
    },
    /// What the clock says by which locks of snapshots end. It never goes back.
    LockClock {
        /// In Unix milliseconds.
        unix_ms: u64,
    },
}

// === impl Bucket ===

impl Bucket {
    /// The bucket of a policy whose limit at this time of day was not told yet: it waits for that.
    pub(super) fn of(bandwidth: &Bandwidth) -> Self {
        let limit = if bandwidth.has_windows() { Some(0) } else { bandwidth.usual };
        Self { limit, budget: 0 }
    }

    fn is_empty(self) -> bool {
        self.limit.is_some_and(|limit| limit == 0 || self.budget <= 0)
    }

    fn pass(&mut self, passed_ms: u64) {
        let Some(limit) = self.limit else { return };
        let more = limit.saturating_mul(passed_ms) / 1_000;
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        // What was not used within a second is not saved up.
        self.budget = self.budget.saturating_add(signed(more)).min(signed(limit));
    }

    pub(super) fn take(&mut self, bytes: u64) {
        if self.limit.is_some() {
            self.budget = self.budget.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

impl Leg {
    /// Whether its limit applies: the mirror is being filled or brought up to date. One that is in
    /// sync and has a bad block is repaired at once, and so is one that may be promoted.
    fn is_limited(&self) -> bool {
        let copies = matches!(self.stage, Stage::Copying | Stage::Following);
        self.is_relaying() || !self.in_set && copies
    }

    /// Whether its copier must wait for time to pass.
    pub(super) fn is_held_back(&self) -> bool {
        self.is_limited() && self.bucket.is_empty()
    }

    /// What a copy sent.
    pub(super) fn spend(&mut self, bytes: u64) {
        if self.is_limited() {
            self.bucket.take(bytes);
        }
    }

    /// Whether it has something to copy and may. One whose limit is 0 now takes nobody's share.
    fn is_copying(&self) -> bool {
        let paused = self.is_limited() && self.bucket.limit == Some(0);
        self.stage.is_live() && !self.is_clean() && !paused
    }
}

impl Machine {
    /// The legs of this group that copy now, by priority.
    pub(crate) fn copying(&self) -> Crowd {
        let mut crowd = Crowd::default();
        for leg in self.legs.iter().flatten().filter(|leg| leg.is_copying()) {
            crowd[leg.policy.priority.index()] += 1;
        }
        crowd
    }

    /// The highest priority that copies at this gateway, if it was told of one.
    pub(crate) fn highest_copying(&self) -> Option<Priority> {
        self.highest_copying
    }

    /// How many blocks the next copy of a leg may have; 0: it waits for one that is under way.
    pub(super) fn room_for_copy(&self, leg: LegId) -> u64 {
        let Some(state) = self.leg(leg) else { return 0 };
        let own = Priority::highest(self.copying());
        let highest = own.max(self.highest_copying).unwrap_or_default();
        let share = state.policy.priority.share(highest, MOST);
        let under_way = state.copies.iter().flatten().filter(|copy| !copy.verify);
        let (count, bytes) =
            under_way.fold((0, 0), |(count, bytes), copy| (count + 1, bytes + copy.extent.len()));
        if count >= share.copies {
            return 0;
        }
        (share.bytes.saturating_sub(bytes) / BLOCK_BYTES).min(COPY_BLOCKS)
    }

    /// The policies whose limit depends on the time of day, and the limit that each leg was told.
    pub(crate) fn windowed(&self) -> impl Iterator<Item = (LegId, &Bandwidth, Option<u64>)> {
        let legs = self.legs.iter().flatten();
        let windowed = legs.filter(|leg| leg.policy.bandwidth.has_windows());
        windowed.map(|leg| (leg.id, &leg.policy.bandwidth, leg.bucket.limit))
    }

    pub(super) fn on_pace(&mut self, pace: Pace, out: &mut Vec<Effect>) {
        match pace {
            Pace::Limit { leg, bytes_per_second } => self.on_limit(leg, bytes_per_second),
            Pace::Crowd { highest } => self.highest_copying = highest,
            Pace::LockClock { unix_ms } => self.on_lock_clock(unix_ms),
            Pace::Base { snapshot, unix_ms } => self.begin_base(snapshot, unix_ms, out),
        }
    }

    /// Another limit holds from now on.
    fn on_limit(&mut self, leg: LegId, bytes_per_second: Option<u64>) {
        if let Some(state) = self.leg_mut(leg) {
            state.bucket.limit = bytes_per_second;
            // What was saved up under a higher limit is not spent under a lower one.
            state.bucket.pass(0);
        }
    }

    /// Time passed: more may be copied.
    pub(super) fn pace_copies(&mut self, leg: LegId, passed_ms: u64) {
        if let Some(state) = self.leg_mut(leg) {
            state.bucket.pass(passed_ms);
        }
    }

    /// The leg has this policy from now on: the limit is what it says, and if that depends on the
    /// time, the driver says so at the next tick. The mirror is told, for when it is the primary.
    pub(super) fn policy_changed(&mut self, leg: LegId, before: &Policy, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        if state.policy.bandwidth != before.bandwidth {
            let budget = state.bucket.budget.min(0);
            state.bucket = Bucket { budget, ..Bucket::of(&state.policy.bandwidth) };
        }
        self.tell_policy(leg, out);
    }

    /// Says the session's policies to its mirror, so that they outlive a swap of roles.
    pub(super) fn tell_policy(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(state) = self.leg(leg) else { return };
        if state.stage.is_live() && state.version >= block::POLICY_SINCE_VERSION {
            let message = block::Message::Policy(crate::record::policy_bytes(&state.policy));
            out.push(Effect::Post { leg, message });
        }
    }

    /// The source says the session's policies. One that this release cannot read is as good as none:
    /// the last one stays.
    pub(super) fn told_policy(&mut self, bytes: &[u8], out: &mut Vec<Effect>) {
        let policy = crate::record::policy_of(bytes);
        if let Some(record) = &mut self.upstream_record
            && policy.is_some()
            && record.policy != policy
        {
            record.policy = policy;
            self.keep(After::Nothing, out);
        }
    }
}
