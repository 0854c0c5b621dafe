//! Mirrors that follow behind: the send journal's bounds, cuts, and how old what is kept there is.
//!
//! ```text
//!   Copying ──clean──▶ Following ──Cut, CutApplied, Cut …      mode consistency
//!                       │  ▲   └──first CutApplied──▶ Off       mode stack: until the next transfer
//!          backlog small│  │too slow, or another mode
//!                       ▼  │
//!                    Draining … InSync                          mode sync
//! ```
//!
//! Invariant: a cut has its place behind every change that was launched before it, over all
//! volumes, and no copy of the resync is under way then; so what lies before it in the stream is
//! one point in time. What a cut covers is durable at the mirror when it is said to be kept.

use std::collections::VecDeque;

use block::{Generation, LegId, Message, Mode, Seq};

use super::leg::{Leg, Stage};
use super::{After, Effect, Machine, Note};
use crate::status::{Cause, SessionState};

/// How much a send journal may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes on disk behind them.
    pub spill_bytes: u64,
}

impl Default for JournalLimits {
    /// Half a second of 1 Gbit/s in memory, eight more on disk.
    fn default() -> Self {
        Self { memory_bytes: 64 << 20, spill_bytes: 1 << 30 }
    }
}

impl JournalLimits {
    pub(crate) const fn bytes(self) -> u64 {
        self.memory_bytes.saturating_add(self.spill_bytes)
    }
}

/// Cuts that the mirror has not confirmed: a mirror that cannot keep up is not sent more of them.
const CUTS_MAX: usize = 8;
/// A backlog that a mirror works off within a moment: hosts may wait for it again.
const SMALL_BACKLOG_BYTES: u64 = 1 << 20;
/// For so long the backlog must have been small before a degraded session is `sync` again.
const STEADY_MS: u64 = 10_000;
/// The first and the longest pause before a mirror whose journal overflowed is called again.
const HOLD_OFF_MS: (u64, u64) = (5_000, 300_000);
/// Spells that are remembered.
const SPELLS_MAX: usize = 32;

/// One cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    seq: Seq,
    at_ms: u64,
    generation: Generation,
}

/// A cut that is under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    cut: Cut,
    /// When the first change went out that it covers, and the cut before it does not.
    first_ms: Option<u64>,
}

/// The cuts of one leg.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    /// Sent and not known to be kept, oldest first.
    under_way: VecDeque<Flight>,
    /// The newest that the mirror keeps.
    applied: Option<Cut>,
    /// When the newest was cut.
    last_ms: u64,
    /// Whether one is due whatever was changed.
    due: bool,
    /// Whether the mirror kept one since the leg began to follow.
    confirmed: bool,
    /// When the first was sent of what was sent since the newest cut, and how much that is.
    first_ms: Option<u64>,
    bytes: u64,
    /// Since when the backlog has been small.
    steady_since_ms: Option<u64>,
    /// The pause after the next overflow, and when the last one was.
    hold_off_ms: u64,
    overflowed_ms: u64,
}

impl Cuts {
    /// The leg begins to follow: a first cut is due.
    pub(crate) fn begin(&mut self) {
        self.due = true;
        self.confirmed = false;
        self.steady_since_ms = None;
    }

    /// Whether the mirror would be promoted at a point of this history.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// The link is gone. What the mirror keeps, it keeps.
    pub(crate) fn end_flight(&mut self) {
        self.under_way.clear();
        self.steady_since_ms = None;
    }

    /// Something is sent.
    pub(crate) fn note(&mut self, bytes: u64, now_ms: u64) {
        self.bytes += bytes;
        self.first_ms.get_or_insert(now_ms);
    }

    /// The journal overflowed: says when the mirror is to be called again. A mirror that overflows
    /// again soon is called later and later.
    pub(crate) fn hold_off(&mut self, now_ms: u64) -> u64 {
        let (first, longest) = HOLD_OFF_MS;
        let soon = now_ms.saturating_sub(self.overflowed_ms) < self.hold_off_ms.saturating_mul(10);
        self.hold_off_ms =
            if soon { (self.hold_off_ms * 2).min(longest) } else { first }.max(first);
        self.overflowed_ms = now_ms;
        now_ms + self.hold_off_ms
    }

    /// How old the oldest change is that the mirror may lack at the point that it keeps; `None`
    /// when it is not known to keep one.
    pub(crate) fn lag_ms(&self, now_ms: u64) -> Option<u64> {
        let applied = self.applied?;
        let nothing_since = self.under_way.is_empty() && self.first_ms.is_none() && !self.due;
        if nothing_since {
            return Some(0);
        }
        let mut firsts = self.under_way.iter().map(|flight| flight.first_ms).chain([self.first_ms]);
        // What was changed before the leg began to follow has no time here: it may be as old as what
        // is kept. After that nobody counts the time in which nothing was changed.
        let oldest = firsts.find_map(|first| first).filter(|_| self.confirmed);
        // Time comes in ticks: what is missing is never of no age at all.
        Some(now_ms.saturating_sub(oldest.unwrap_or(applied.at_ms).max(applied.at_ms)).max(1))
    }

    /// A transfer is due whatever the interval says.
    pub(crate) fn due_at_once(&mut self) {
        self.last_ms = 0;
    }

    /// When the last transfer ended, or the newest cut was cut.
    pub(crate) fn last_ms(&self) -> u64 {
        self.last_ms
    }

    /// The mirror keeps a point of this history, which was whole at that time.
    pub(crate) fn keep(
        &mut self,
        (seq, at_ms, now_ms): (Seq, Option<u64>, u64),
        generation: Generation,
    ) {
        self.applied = at_ms.map(|at_ms| Cut { seq, at_ms, generation });
        self.last_ms = now_ms;
    }

    /// The mirror has everything: what it kept on the way there is gone.
    pub(crate) fn forget(&mut self) {
        self.applied = None;
    }

    /// When the newest cut that the mirror keeps was cut.
    pub(crate) fn applied_ms(&self) -> Option<u64> {
        self.applied.map(|cut| cut.at_ms)
    }
}

/// A time in which a mirror of mode `sync` did not have everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spell {
    /// When it began, in milliseconds of the gateway's own clock.
    pub begin_ms: u64,
    /// When it ended; `None` while it goes on.
    pub end_ms: Option<u64>,
    /// The longest that the mirror lagged behind meanwhile.
    pub worst_rpo_ms: u64,
    /// Bytes that were changed meanwhile.
    pub bytes: u64,
    /// Whether the session went on as in mode `consistency`; else the mirror was lost.
    pub degraded: bool,
}

/// The spells of one leg.
#[derive(Debug, Default)]
pub(crate) struct Spells(VecDeque<Spell>);

impl Spells {
    fn open(&mut self) -> Option<&mut Spell> {
        self.0.back_mut().filter(|spell| spell.end_ms.is_none())
    }

    pub(crate) fn begin(&mut self, now_ms: u64, degraded: bool) {
        if self.open().is_some() {
            return;
        }
        if self.0.len() >= SPELLS_MAX {
            self.0.pop_front();
        }
        let begin_ms = now_ms;
        self.0.push_back(Spell { begin_ms, end_ms: None, worst_rpo_ms: 0, bytes: 0, degraded });
    }

    pub(crate) fn note(&mut self, bytes: u64) {
        if let Some(spell) = self.open() {
            spell.bytes += bytes;
        }
    }

    fn lagged(&mut self, now_ms: u64, lag_ms: Option<u64>) {
        if let Some(spell) = self.open() {
            // Nothing that is newer than its begin can be missing for longer than it lasts.
            let lasted = now_ms.saturating_sub(spell.begin_ms);
            let lag = if spell.bytes == 0 { 0 } else { lag_ms.unwrap_or(lasted).min(lasted) };
            spell.worst_rpo_ms = spell.worst_rpo_ms.max(lag);
        }
    }

    pub(crate) fn end(&mut self, now_ms: u64) {
        if let Some(spell) = self.open() {
            spell.end_ms = Some(now_ms);
        }
    }

    pub(crate) fn list(&self) -> Vec<Spell> {
        self.0.iter().copied().collect()
    }
}

impl Leg {
    /// Whether the mirror works off what it is sent within a moment, so that hosts may wait for it.
    fn keeps_up(&self, now_ms: u64) -> bool {
        let change = self.inflight.front().map_or(now_ms, |inflight| inflight.at_ms);
        // One that acknowledges and does not sync would hold up the next flush of its hosts.
        let oldest = self.flushes.front().map_or(change, |flush| change.min(flush.at_ms));
        self.backlog_bytes() <= SMALL_BACKLOG_BYTES
            && now_ms.saturating_sub(oldest) <= self.policy.ack_deadline_ms / 2
    }
}

impl Machine {
    /// How much a send journal may hold. What is not said is the default.
    pub(crate) fn set_journal(&mut self, limits: JournalLimits) {
        self.journal = limits;
    }

    /// Moves a leg on that follows behind: back among those that count, or on to the next cut.
    pub(super) fn follow(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if self.is_ousting(leg) {
            // With its first cut the mirror would give up what the witness still names it for.
            return;
        }
        if self.untold.is_some() {
            // A cut of a history that is not recorded would be ahead of this copy after a restart.
            return;
        }
        let (newest, now_ms, limits) = (self.seq, self.now_ms, self.journal);
        let Some(state) = self.leg_mut(leg) else { return };
        let quiet = state.is_clean() && !state.has_copies();
        if !state.is_to_follow() && state.journaled && quiet && state.keeps_up(now_ms) {
            // From here on acknowledgements wait for it; when those before are in, it has all.
            state.journaled = false;
            state.stage = Stage::Draining { upto: newest };
            self.counting.insert(leg);
            self.advance_leg(leg, out);
            return;
        }
        let cuts = &state.cuts;
        let time = now_ms.saturating_sub(cuts.last_ms) >= state.policy.cut_interval_ms;
        let much = cuts.bytes >= limits.memory_bytes / 2;
        let due = cuts.due || (cuts.first_ms.is_some() && (time || much));
        // A transfer is one cut: what comes behind it is for the next.
        let room = if state.policy.mode == Mode::Stack { 1 } else { CUTS_MAX };
        // A copy that is under way has its number already and its place in the stream not yet.
        if due && cuts.under_way.len() < room && !state.has_copies() {
            self.cut(leg, out);
        }
    }

    fn cut(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let seq = self.next_seq();
        let at_ms = self.now_ms;
        let lineage = self.lineage.clone().expect("a primary has a history");
        let (generation, ancestors) = (lineage.current, lineage.ancestors);
        let state = self.leg_mut(leg).expect("the caller has it");
        let cuts = &mut state.cuts;
        let first_ms = cuts.first_ms.take();
        cuts.under_way.push_back(Flight { cut: Cut { seq, at_ms, generation }, first_ms });
        (cuts.last_ms, cuts.due, cuts.bytes) = (at_ms, false, 0);
        out.push(Effect::Post { leg, message: Message::Cut { seq, generation, ancestors } });
    }

    /// The mirror keeps a cut, durably.
    pub(super) fn on_cut_applied(&mut self, leg: LegId, seq: Seq, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        let mut kept = None;
        while state.cuts.under_way.front().is_some_and(|flight| flight.cut.seq <= seq) {
            kept = state.cuts.under_way.pop_front().map(|flight| flight.cut);
        }
        let Some(kept) = kept.filter(|cut| cut.seq == seq) else { return };
        while state.undurable.front().is_some_and(|(sent, ..)| *sent <= seq) {
            state.undurable.pop_front();
        }
        state.cuts.applied = Some(kept);
        let first = !std::mem::replace(&mut state.cuts.confirmed, true);
        let renewed = state.base != Some(kept.generation);
        // The mirror is a point in time of this history: what it had of its own is gone.
        state.base = Some(kept.generation);
        state.discard = false;
        state.lossy = None;
        state.holds_content = false;
        state.compares = false;
        state.failed = None;
        let follows = state.stage == Stage::Following;
        let transfers = state.policy.mode == Mode::Stack && state.is_to_follow();
        let rests = follows && transfers && state.journaled;
        if follows && first {
            out.push(Effect::Note(Note::MirrorFollows { leg }));
        }
        // What was new there is new no more, after a restart as well.
        let fresh = self.end_fresh(leg);
        if !fresh.is_empty() || (follows && !rests && (first || renewed)) {
            self.keep_with(After::DirtyKept, fresh, out);
        }
        if rests {
            self.rest(leg, out);
        }
    }

    /// The disk behind the send journal is full, slow or broken.
    pub(super) fn on_journal_failed(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if self.is_journaled(leg) {
            self.lose_leg(leg, Cause::JournalFull, SessionState::Halted, out);
        }
    }

    /// A transfer is done: from here on what changes is noted, and nothing is sent.
    fn rest(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        // How far behind it is now is the last thing that it hears for a while.
        let ping = Message::Ping { stamp: 0, state: self.mirror_state(leg) };
        out.push(Effect::Post { leg, message: ping });
        let state = self.leg_mut(leg).expect("the caller has it");
        state.end_flight();
        state.wanted = false;
        state.stage = Stage::Off;
        state.cause = None;
        state.cuts.last_ms = now_ms;
        self.live.remove(leg);
        let goodbye = Message::Goodbye(block::Goodbye::Suspended);
        out.push(Effect::Post { leg, message: goodbye });
        out.push(Effect::Hang { leg, redial: false });
        // Those that are under way are for the next transfer: their blocks are still dirty.
        self.drop_copies(leg, out);
        self.growth_lost(leg, out);
        out.push(Effect::Note(Note::Transferred { leg }));
        self.keep(After::DirtyKept, out);
    }

    /// How old the oldest acknowledged write is that a mirror may lack, as far as it is known here.
    pub(super) fn lag_ms(&self, leg: LegId) -> Option<u64> {
        let state = self.leg(leg)?;
        if state.stage == Stage::InSync {
            return Some(0);
        }
        if state.stage == Stage::Following {
            return state.cuts.lag_ms(self.now_ms);
        }
        let applied_ms = state.cuts.applied_ms()?;
        let nothing_since = state.is_clean() && state.undurable.is_empty();
        Some(if nothing_since { 0 } else { self.now_ms.saturating_sub(applied_ms).max(1) })
    }

    /// What passes with time for mirrors that follow behind.
    pub(super) fn modes_tick(&mut self, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        for leg in LegId::all() {
            let lag = self.lag_ms(leg);
            let Some(state) = self.leg_mut(leg) else { continue };
            state.spells.lagged(now_ms, lag);
            if state.degraded && state.stage == Stage::Following {
                let steady = state.keeps_up(now_ms);
                let since = state.cuts.steady_since_ms.filter(|_| steady);
                state.cuts.steady_since_ms = steady.then_some(since.unwrap_or(now_ms));
                if since.is_some_and(|since| now_ms.saturating_sub(since) >= STEADY_MS) {
                    state.degraded = false;
                }
            }
        }
        self.drains_tick(out);
        self.call_again(out);
        self.begin_due_transfers(out);
    }

    /// Calls the mirrors again whose pause after an overflow is over. While the list of volumes changes
    /// nobody is called: they would open the one that was.
    fn call_again(&mut self, out: &mut Vec<Effect>) {
        if self.role != super::Role::Primary || self.closing || self.is_regrouping() {
            return;
        }
        for leg in LegId::all() {
            let now_ms = self.now_ms;
            let Some(state) = self.leg_mut(leg) else { continue };
            if state.retry.is_some_and(|at| now_ms >= at) {
                state.retry = None;
                if state.wanted && state.stage == Stage::Off {
                    state.stage = Stage::Dialing;
                    out.push(Effect::Dial { leg });
                }
            }
        }
    }

    /// Begins the transfers of mode `stack` that are due, where there is anything to transfer.
    fn begin_due_transfers(&mut self, out: &mut Vec<Effect>) {
        if self.role != super::Role::Primary || self.closing || self.is_regrouping() {
            return;
        }
        if matches!(self.command, Some(super::Pending::Grow { .. })) {
            // It would be opened with the old size, and sent what comes behind that.
            return;
        }
        for leg in LegId::all() {
            let now_ms = self.now_ms;
            let Some(state) = self.leg(leg) else { continue };
            let every_ms = state.policy.transfer_every_s.saturating_mul(1_000);
            let due = every_ms > 0 && now_ms.saturating_sub(state.cuts.last_ms) >= every_ms;
            let rests = state.is_resting() && !(state.is_clean() && state.base.is_some());
            if due && rests {
                self.begin_transfer(leg, out);
                self.keep(After::Nothing, out);
            }
        }
    }
}
