//! Flushes: group-committed, carried to every copy, and the mirrors' own from time to time.
//!
//! Invariant (rule 4): what a mirror may have only in memory is remembered until it says that a
//! flush sent after its acknowledgement is durable.

use std::collections::VecDeque;

use block::{IoError, LegId, Message, Seq, WriteId};

use super::gate::{Gate, Held};
use super::leg::{LegFlush, LegSet, Stage};
use super::write::refuse;
use super::{After, Effect, Machine, Note};

/// A mirror that its hosts never flush is flushed this often, so that a lost link costs little.
const LEG_FLUSH_MS: u64 = 1_000;
/// And at the latest after this many changes, so that what is remembered stays small: 2 MiB.
const UNDURABLE_MAX: usize = 65_536;

/// One round of flushing, shared by every host that asked before it began.
#[derive(Debug)]
pub(super) struct Round {
    number: u64,
    waiters: Vec<WriteId>,
    local: bool,
    legs: LegSet,
    error: Option<IoError>,
}

/// The round under way and those who wait for the next.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    round: Option<Round>,
    next: Vec<(WriteId, usize)>,
    /// The machine itself wants a round, as before roles are swapped.
    wanted: bool,
    rounds: u64,
    /// The newest round that made everything durable.
    done: u64,
    failed: bool,
}

impl Flushes {
    pub(super) fn take_waiters(&mut self) -> Vec<WriteId> {
        let mut waiters: Vec<WriteId> = self.next.drain(..).map(|(write, _)| write).collect();
        if let Some(round) = &mut self.round {
            waiters.append(&mut round.waiters);
        }
        waiters
    }

    /// Asks for a round that begins after this; returns its number.
    pub(super) fn want(&mut self) -> u64 {
        self.wanted = true;
        self.failed = false;
        self.rounds + 1
    }

    pub(super) fn is_done(&self, number: u64) -> bool {
        self.done >= number
    }

    pub(super) fn is_idle(&self) -> bool {
        self.round.is_none() && self.next.is_empty()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }
}

impl Machine {
    pub(super) fn on_flush(&mut self, write: WriteId, volume: usize, out: &mut Vec<Effect>) {
        match self.gate(false) {
            Gate::Open => self.flushes.next.push((write, volume)),
            Gate::Hold => self.held.push_back(Held::Flush { write, volume }),
            Gate::Refuse(error) => refuse(write, error, out),
        }
    }

    pub(super) fn begin_flush_round(&mut self, out: &mut Vec<Effect>) {
        let flushes = &mut self.flushes;
        if flushes.round.is_some() || (flushes.next.is_empty() && !flushes.wanted) {
            return;
        }
        flushes.rounds += 1;
        let number = flushes.rounds;
        let mut volumes: Vec<usize> = flushes.next.iter().map(|(_, volume)| *volume).collect();
        if std::mem::take(&mut flushes.wanted) {
            volumes = (0..self.volumes.len()).collect();
        }
        volumes.sort_unstable();
        volumes.dedup();
        let waiters = flushes.next.drain(..).map(|(write, _)| write).collect();
        flushes.round =
            Some(Round { number, waiters, local: true, legs: self.counting, error: None });
        out.push(Effect::FlushLocal { round: number, volumes });
        // What follows behind becomes durable with its cuts.
        for leg in self.live.iter() {
            if !self.is_journaled(leg) {
                self.flush_leg(leg, Some(number), out);
            }
        }
    }

    /// Sends a flush to a mirror.
    pub(super) fn flush_leg(
        &mut self,
        leg: LegId,
        round: Option<u64>,
        out: &mut Vec<Effect>,
    ) -> Seq {
        let newest = self.seq;
        let seq = self.next_seq();
        let now_ms = self.now_ms;
        let state = self.leg_mut(leg).expect("a live leg exists");
        let covers = state.acked_upto(newest);
        state.flushes.push_back(LegFlush { seq, covers, round, at_ms: now_ms });
        state.last_flush_ms = now_ms;
        out.push(Effect::Post { leg, message: Message::Flush { seq } });
        seq
    }

    pub(super) fn on_flushed(
        &mut self,
        number: u64,
        result: Result<(), IoError>,
        out: &mut Vec<Effect>,
    ) {
        if self.incoming_flushed(number, result, out) || self.relay_flushed(number, result, out) {
            return;
        }
        let round = self.flushes.round.as_mut().expect("a round is under way");
        assert_eq!(round.number, number, "one host round at a time");
        round.local = false;
        round.error = result.err();
        if let Err(error) = result {
            self.latch(error, out);
        }
        self.try_end_round(out);
    }

    /// A mirror made everything up to a flush durable.
    pub(super) fn on_durable(&mut self, leg: LegId, seq: Seq, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        let mut ended = VecDeque::new();
        while state.flushes.front().is_some_and(|flush| flush.seq <= seq) {
            ended.extend(state.flushes.pop_front());
        }
        for flush in &ended {
            while state.undurable.front().is_some_and(|(seq, _, _)| *seq <= flush.covers) {
                state.undurable.pop_front();
            }
        }
        for round in ended.iter().filter_map(|flush| flush.round) {
            self.leg_flushed(leg, round);
        }
        self.leg_durable(leg, seq, out);
        self.try_end_round(out);
    }

    fn leg_flushed(&mut self, leg: LegId, number: u64) {
        if let Some(round) = &mut self.flushes.round
            && round.number == number
        {
            round.legs.remove(leg);
        }
    }

    /// Since when the flush of hosts that is under way waits for a mirror.
    pub(super) fn flush_awaits(&self, leg: LegId) -> Option<u64> {
        let round = self.flushes.round.as_ref().filter(|round| round.legs.has(leg))?;
        let mut flushes = self.leg(leg)?.flushes.iter();
        flushes.find(|flush| flush.round == Some(round.number)).map(|flush| flush.at_ms)
    }

    /// A lost leg was struck off: no flush waits for it.
    pub(super) fn strike_off_flush(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if let Some(round) = &mut self.flushes.round {
            round.legs.remove(leg);
        }
        self.try_end_round(out);
    }

    fn try_end_round(&mut self, out: &mut Vec<Effect>) {
        let counting = self.counting;
        let ended = self
            .flushes
            .round
            .as_ref()
            .is_some_and(|round| !round.local && round.legs.and(counting).is_empty());
        if !ended {
            return;
        }
        let round = self.flushes.round.take().expect("checked above");
        match round.error {
            None => self.flushes.done = round.number,
            Some(_) => self.flushes.failed = true,
        }
        for write in round.waiters {
            out.push(Effect::Answer { write, result: round.error.map_or(Ok(()), Err) });
            out.push(Effect::Forget { write });
        }
    }

    /// Flushes a mirror that its hosts do not flush.
    pub(super) fn flush_idle_leg(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        let following = |leg: &&super::leg::Leg| leg.journaled && leg.stage == Stage::Following;
        let Some(state) = self.leg(leg).filter(|leg| !following(leg)) else { return };
        let overdue = now_ms.saturating_sub(state.last_flush_ms) >= LEG_FLUSH_MS
            || state.undurable.len() >= UNDURABLE_MAX;
        if overdue && !state.undurable.is_empty() && state.flushes.is_empty() {
            self.flush_leg(leg, None, out);
        }
    }

    /// The local copy or ledger failed: nothing is acknowledged from it any more (rule 11).
    pub(super) fn latch(&mut self, error: IoError, out: &mut Vec<Effect>) {
        if !self.latched {
            self.latched = true;
            out.push(Effect::Note(Note::Latched { error }));
            out.push(Effect::Journal(super::Entry::Gap(block::Gap::Latched)));
            // What the next start finds here is no better than after a loss of power (rule 4).
            self.host_boot = [0; 16];
            self.keep(After::Nothing, out);
        }
        self.drop_dismissal();
        self.fail_everything(IoError::Latched, out);
        self.end_following(out);
        if self.command.is_some() {
            self.finish_command(Err(crate::Refusal::Io(error)), out);
        }
    }
}
