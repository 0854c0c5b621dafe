//! The other parts of the group, at other gateways of this site.
//!
//! ```text
//!   number n:  working towards ──all are ready──▶ asked ──every mirror voted──▶ joined
//!                    ▲                              │                             │
//!                    └── n + 1 ◀── the mirror is lost, or a companion is past n ──┘
//! ```
//!
//! Invariant (rule 5 over gateways): nothing is acknowledged without a mirror that was in a stretch
//! before every companion is past that stretch, durably, as it said itself.
//!
//! Invariant: what is said to companions is recorded, or is a wish that may be out of date.

mod command;
mod mirror;
mod stretch;
mod together;

use std::collections::VecDeque;

use block::{GatewayId, IoError, LegId, Message, PartFacts, PartState};

use super::leg::{LegSet, Stage};
use super::role::{YieldStep, Yielding};
use super::{After, Effect, Machine, Note, Role};
use crate::command::Refusal;
use crate::record::{PartsRecord, RoleRecord, SpanWord};
use crate::status::{Serving, SessionState};

/// How long hosts wait for companions before they are refused, in milliseconds.
pub(crate) const HOLD_MS: u64 = 5_000;

/// A companion, as it is known here.
#[derive(Clone, Debug)]
struct Companion {
    gateway: GatewayId,
    /// An operator said that it is stopped and stays out.
    excluded: bool,
    said: Option<PartState>,
    /// It answered since this gateway started.
    heard: bool,
    reachable: Option<bool>,
}

/// At which cut a mirror is to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    cut: u64,
    /// Not every mirror has that cut: each takes over as it is.
    apart: bool,
}

/// The companions, and where this part is.
#[derive(Debug)]
pub(super) struct Company {
    all: Vec<Companion>,
    number: u64,
    whole: u64,
    from: u64,
    copy: u64,
    kept: u64,
    /// At a mirror: the stretch that the next vote is for.
    told: u64,
    /// The mirror was asked to record the stretch.
    asked: bool,
    voted: bool,
    joined: bool,
    /// The newest stretch that this part left. Companions must be past it.
    left: u64,
    parting: LegSet,
    parting_since: u64,
    /// What is recorded of it.
    recorded: PartState,
    /// By number of the record: what it will say.
    recording: VecDeque<(u64, PartState)>,
    /// What companions were told last.
    said: Option<PartFacts>,
    /// Companions must hear what they were told before, too: who is excluded changed.
    news: bool,
    target: Option<Target>,
    /// Hosts wait for a companion, since when.
    waiting_since: Option<u64>,
    excluded_by: Option<GatewayId>,
    /// Hosts are held for a snapshot of all parts.
    holding: Option<together::Holding>,
}

// === impl Company ===

impl Company {
    pub(super) fn new(companions: Vec<GatewayId>) -> Self {
        let companions = companions.into_iter().map(|gateway| (gateway, false)).collect();
        Self::restore(PartsRecord { companions, ..PartsRecord::default() })
    }

    /// As it is recorded. One that was not in a stretch begins a new number: what it said of the last
    /// one, without recording it, is not known any more.
    pub(super) fn restore(record: PartsRecord) -> Self {
        let number = if record.joined { record.number } else { record.number + 1 };
        let companion = |(gateway, excluded): &(GatewayId, bool)| Companion {
            gateway: *gateway,
            excluded: *excluded,
            said: None,
            heard: false,
            reachable: None,
        };
        Self {
            all: record.companions.iter().map(companion).collect(),
            number,
            whole: record.whole,
            from: record.from,
            copy: record.copy,
            kept: record.kept,
            told: record.told,
            asked: record.joined,
            voted: record.joined,
            joined: record.joined,
            left: if record.joined { 0 } else { record.number },
            parting: LegSet::default(),
            parting_since: 0,
            recorded: PartState::default(),
            recording: VecDeque::new(),
            said: None,
            news: true,
            target: None,
            waiting_since: None,
            excluded_by: None,
            holding: None,
        }
    }

    pub(super) fn boxed(record: PartsRecord) -> Box<Self> {
        Box::new(Self::restore(record))
    }

    pub(super) fn record(&self) -> PartsRecord {
        PartsRecord {
            companions: self.all.iter().map(|c| (c.gateway, c.excluded)).collect(),
            number: self.number,
            whole: self.whole,
            from: self.from,
            copy: self.copy,
            kept: self.kept,
            told: self.told,
            joined: self.joined,
        }
    }

    /// Those that were not excluded.
    fn counted(&self) -> impl Iterator<Item = &Companion> {
        self.all.iter().filter(|companion| !companion.excluded)
    }

    /// Whether all companions that count say something.
    fn all_say(&self, of: impl Fn(&PartFacts) -> bool) -> bool {
        self.counted().all(|c| c.said.as_ref().is_some_and(|said| of(&said.facts)))
    }

    /// Whether every companion is past whatever this part left: then it is certain which stretch was
    /// whole.
    fn is_settled(&self) -> bool {
        self.joined || self.all_say(|facts| facts.number >= self.number)
    }

    /// Whom hosts wait for: a companion that was not heard since this gateway started, or that is no
    /// primary, or took over elsewhere.
    fn awaited(&self) -> Option<&Companion> {
        let agrees = |c: &&Companion| {
            let said = c.said.as_ref();
            c.heard && said.is_some_and(|s| s.facts.is_primary && s.facts.from == self.from)
        };
        self.counted().find(|companion| !agrees(companion))
    }

    /// What is recorded, as it will be said.
    fn facts(&self, is_primary: bool) -> PartFacts {
        PartFacts {
            number: self.number,
            has_joined: self.joined,
            whole: self.whole,
            from: self.from,
            is_primary,
            copy: self.copy,
            kept: self.kept,
            ..PartFacts::default()
        }
    }
}

impl Machine {
    /// The gateways that hold the other parts of the group at this site.
    #[must_use]
    pub fn companions(&self) -> Vec<GatewayId> {
        self.company.iter().flat_map(|company| &company.all).map(|c| c.gateway).collect()
    }

    /// Who this gateway is.
    pub(crate) fn introduce(&mut self, me: GatewayId) {
        self.me = Some(me);
    }

    /// A record is asked for: what it says of this part.
    pub(super) fn recording_part(&mut self, number: u64) {
        let is_source = self.quality == block::Quality::Source;
        let is_point = matches!(self.quality, block::Quality::InSync | block::Quality::Outdated);
        let primary =
            matches!(self.recorded_role, RoleRecord::Primary | RoleRecord::Yielding { .. });
        let kept = self.points.kept().is_some();
        let Some(company) = &mut self.company else { return };
        if is_source || !is_point {
            company.copy = 0;
        }
        if !kept {
            company.kept = 0;
        }
        let excludes = company.all.iter().filter(|c| c.excluded).map(|c| c.gateway).collect();
        let state = PartState { facts: company.facts(primary), excludes };
        company.recording.push_back((number, state));
    }

    /// A record is durable.
    pub(super) fn recorded_part(&mut self, number: u64) {
        let Some(company) = &mut self.company else { return };
        while company.recording.front().is_some_and(|(asked, _)| *asked <= number) {
            if let Some((_, state)) = company.recording.pop_front() {
                company.news |= company.recorded.excludes != state.excludes;
                company.recorded = state;
            }
        }
    }

    /// How this part is, as companions may know it.
    #[must_use]
    pub fn part_state(&self) -> Option<PartState> {
        let company = self.company.as_ref()?;
        Some(PartState { facts: self.part_facts()?, excludes: company.recorded.excludes.clone() })
    }

    fn part_facts(&self) -> Option<PartFacts> {
        let company = self.company.as_ref()?;
        let recorded = company.recorded.facts;
        let current = recorded.number == company.number;
        let rules = matches!(self.role, Role::Primary | Role::Yielding(_));
        let leg = self.own_leg();
        let ready = company.asked || leg.is_some_and(|leg| leg.stage == Stage::Voting);
        Some(PartFacts {
            is_ready: current && rules && ready && !self.latched && company.parting.is_empty(),
            has_voted: current && company.voted,
            has_joined: current && recorded.has_joined,
            is_primary: recorded.is_primary && rules,
            is_drained: self.is_drained(),
            mirror: leg.map(|leg| leg.gateway),
            ..recorded
        })
    }

    /// The one leg of a part.
    fn own_leg(&self) -> Option<&super::Leg> {
        self.legs.iter().flatten().map(|leg| &**leg).next()
    }

    fn is_drained(&self) -> bool {
        match self.role {
            Role::Yielding(Yielding { step: YieldStep::Flushing(round), .. }) => {
                self.flushes.is_done(round)
            }
            _ => false,
        }
    }

    /// Whether roles may be swapped: every companion is drained, or swapped already.
    pub(super) fn companions_are_drained(&self) -> bool {
        let drained = |facts: &PartFacts| facts.is_drained || !facts.is_primary;
        self.company.as_ref().is_none_or(|company| company.all_say(drained))
    }

    // --- what is heard ---

    /// A companion says how its part is. `answers`: it was asked since this gateway started.
    pub(super) fn on_companion_said(
        &mut self,
        gateway: GatewayId,
        state: PartState,
        answers: bool,
        out: &mut Vec<Effect>,
    ) {
        let ours = self.me.is_some_and(|me| state.excludes.contains(&me));
        let Some(company) = &mut self.company else { return };
        let Some(companion) = company.all.iter_mut().find(|c| c.gateway == gateway) else { return };
        companion.reachable = Some(true);
        companion.heard |= answers;
        let late = companion.said.as_ref().is_some_and(|s| s.facts.number > state.facts.number);
        if late && !answers {
            return;
        }
        let (number, whole, excluded) = (state.facts.number, state.facts.whole, companion.excluded);
        companion.said = Some(state);
        if excluded {
            return;
        }
        if ours {
            self.excluded_by(gateway, out);
            return;
        }
        company.excluded_by.take_if(|by| *by == gateway);
        company.whole = company.whole.max(whole);
        if number > company.number {
            self.end_stretch(number, Some(gateway), out);
        }
    }

    /// A companion did not answer.
    pub(super) fn on_companion_lost(&mut self, gateway: GatewayId) {
        let Some(company) = &mut self.company else { return };
        if let Some(companion) = company.all.iter_mut().find(|c| c.gateway == gateway) {
            companion.reachable = Some(false);
        }
    }

    /// An operator excluded this gateway at a companion: nothing here is in the group's order any
    /// more, so nobody is served.
    fn excluded_by(&mut self, gateway: GatewayId, out: &mut Vec<Effect>) {
        let Some(company) = &mut self.company else { return };
        if company.excluded_by.replace(gateway).is_some() {
            return;
        }
        let next = company.number + 1;
        out.push(Effect::DropHosts);
        out.push(Effect::Note(Note::ExcludedBy { gateway }));
        self.fail_everything(IoError::NoCompanion, out);
        self.end_stretch(next, Some(gateway), out);
    }

    pub(super) fn is_parting(&self, leg: LegId) -> bool {
        self.company.as_ref().is_some_and(|company| company.parting.has(leg))
    }

    // --- who is served ---

    /// Whether hosts wait for a companion.
    pub(super) fn waits_for_companions(&self) -> bool {
        self.company.as_ref().is_some_and(|c| c.excluded_by.is_some() || c.awaited().is_some())
    }

    /// With what hosts are refused who waited too long for a companion.
    pub(super) fn companion_refusal(&self) -> Option<IoError> {
        let company = self.company.as_ref()?;
        let waited = company.waiting_since.is_some_and(|since| self.now_ms >= since + HOLD_MS);
        (waited || company.excluded_by.is_some()).then_some(IoError::NoCompanion)
    }

    pub(super) fn companion_serving(&self) -> Serving {
        match &self.company {
            Some(company) if company.excluded_by.is_some() => Serving::Excluded,
            _ => Serving::WaitingForCompanion,
        }
    }

    pub(super) fn companions_tick(&mut self, out: &mut Vec<Effect>) {
        self.hold_tick(out);
        let now_ms = self.now_ms;
        let waits = self.role == Role::Primary && self.waits_for_companions();
        let Some(company) = &mut self.company else { return };
        company.waiting_since = waits.then(|| company.waiting_since.unwrap_or(now_ms));
        let late = now_ms.saturating_sub(company.parting_since) >= HOLD_MS;
        let parting = company.parting;
        for leg in parting.iter().filter(|_| late) {
            self.held_too_long(leg, Refusal::NoCompanion, out);
        }
    }

    // --- the turn's end ---

    /// Moves this part on as far as it can go, and tells companions.
    pub(super) fn advance_companions(&mut self, out: &mut Vec<Effect>) {
        if self.company.is_none() {
            return;
        }
        if matches!(self.role, Role::Primary | Role::Yielding(_)) && !self.latched {
            self.advance_stretch(out);
        }
        let facts = self.part_facts();
        let Some(company) = &mut self.company else { return };
        // What is not recorded for the first time yet is nothing to be told.
        let known = company.recorded.facts.number > 0;
        if known && (company.said != facts || std::mem::take(&mut company.news)) {
            company.said = facts;
            if let Some(state) = self.part_state() {
                out.push(Effect::TellCompanions { state });
            }
        }
    }

    /// Tells the mirror which stretch the next vote is for, which was whole, and who holds the other
    /// parts at its site.
    fn tell_span(&self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(company) = &self.company else { return };
        let mirrors = company.counted().map(|c| c.said.as_ref().and_then(|s| s.facts.mirror));
        let word = SpanWord {
            number: company.number,
            whole: company.whole,
            companions: mirrors.collect::<Option<Vec<_>>>(),
        };
        out.push(Effect::Post { leg, message: Message::Span(word.encode()) });
    }

    pub(super) fn check_companions(&self) {
        let Some(company) = &self.company else { return };
        assert!(!company.joined || company.asked, "a stretch is joined after every mirror voted");
        for leg in self.legs.iter().flatten().filter(|leg| leg.stage == Stage::InSync) {
            assert!(
                company.joined && company.parting.is_empty(),
                "{:?} counts only in the stretch that all parts are in (rule 5)",
                leg.id
            );
        }
        assert!(
            company.left < company.number || company.joined,
            "a stretch that was left is not entered again"
        );
    }

    /// Ends the stretch here, if this part is in one, and goes on to that number.
    fn end_stretch(&mut self, number: u64, by: Option<GatewayId>, out: &mut Vec<Effect>) {
        let Some(company) = &mut self.company else { return };
        let was_in = company.asked;
        company.left = company.left.max(if was_in { company.number } else { 0 });
        company.number = number.max(company.number);
        (company.asked, company.voted, company.joined) = (false, false, false);
        if was_in {
            out.push(Effect::Note(Note::StretchEnded { by }));
        }
        self.keep(After::Nothing, out);
        if !was_in || !matches!(self.role, Role::Primary | Role::Yielding(_)) {
            return;
        }
        for leg in self.live.iter() {
            let cause = crate::status::Cause::StretchEnded { by };
            self.lose_leg(leg, cause, SessionState::Halted, out);
        }
    }
}
