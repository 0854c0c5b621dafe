//! A mirror as a source: its copy is brought to another gateway, from one whole point to the next.
//!
//! ```text
//!   Resting ──due, and there is a whole point──▶ Dialing ──Opened──▶ Waiting ──a point──▶ Listing
//!      ▲                                                                                     │
//!      └──CutApplied── Cutting ◀── Copying ◀──what may differ is recorded── Recording ◀──────┘
//! ```
//!
//! Invariant: what is sent is read from a point at which the copy here was whole, never from the
//! copy that is changing; so the other gateway keeps one cut of the group after another, and the
//! primary waits for nothing of it. From the point on that the other gateway keeps, `dirty` has
//! every block that was changed here, whatever part this gateway played meanwhile.

mod link;
pub(super) mod transfer;

use block::{GatewayId, Goodbye, LegId, Message, Mode, Quality, VolumeId};

use self::transfer::{Slot, Step};
use super::copy::COPIES_MAX;
use super::leg::Leg;
use super::members::Records;
use super::{After, Effect, Machine, Note, Opening, Role};
use crate::command::Refusal;
use crate::dirty::DirtyMap;
use crate::lineage::Lineage;
use crate::policy::Policy;
use crate::record::{UpstreamRecord, dirty_key};
use crate::relay::{encode, relay_key};
use crate::status::{Cause, LinkState, SessionState};

/// Relays of one mirror: one place among the legs is left for the primary, which becomes a mirror
/// of this gateway when it takes over.
const RELAYS_MAX: usize = LegId::COUNT - 1;
/// After a transfer that failed, before the next one is tried.
const RETRY_MS: u64 = 5_000;
/// From one transfer to the next of a session that became a relay and said nothing of it.
const EVERY_S: u64 = 60;

/// A leg whose source is a mirror.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(super) step: Step,
    /// A transfer is wanted, whatever the interval says.
    due: bool,
    /// What the other gateway answered.
    opening: Option<Box<Opening>>,
    /// The history of the point that is sent, and when it was.
    point: Option<(Lineage, Option<u64>)>,
    /// The point is sent whole; whether the copy there is emptied first.
    full: Option<bool>,
    /// Changed here since the point.
    since: Vec<DirtyMap>,
    /// Of the point, what is not sent yet.
    todo: Vec<DirtyMap>,
    /// Volumes whose copy there must be emptied first.
    wipe: Vec<usize>,
    slots: [Option<Slot>; COPIES_MAX],
}

impl Relay {
    fn new(volumes: usize) -> Self {
        Self {
            step: Step::Resting,
            due: false,
            opening: None,
            point: None,
            full: None,
            since: vec![DirtyMap::default(); volumes],
            todo: vec![DirtyMap::default(); volumes],
            wipe: Vec::new(),
            slots: [None; COPIES_MAX],
        }
    }

    /// Nothing is under way any more.
    fn rest(&mut self) {
        let (volumes, due) = (self.todo.len(), self.due);
        *self = Self { due, ..Self::new(volumes) };
    }

    pub(super) fn is_resting(&self) -> bool {
        self.step == Step::Resting
    }

    /// Whether a transfer sends.
    pub(super) fn is_sending(&self) -> bool {
        !matches!(self.step, Step::Resting | Step::Dialing | Step::Waiting)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_sending() || self.step == Step::Waiting
    }
}

impl Machine {
    /// Whose copy this one is, or was when it last followed.
    pub(super) fn source(&self) -> Option<GatewayId> {
        self.upstream_record.as_ref().map(|upstream| upstream.gateway)
    }

    /// Whether the leg's source is this gateway as a mirror.
    pub(super) fn is_relay(&self, leg: LegId) -> bool {
        self.role == Role::Secondary && self.relays.has(leg)
    }

    fn relay_mut(&mut self, leg: LegId) -> Option<&mut Relay> {
        self.leg_mut(leg)?.relay.as_deref_mut()
    }

    /// Whether anything may be sent there now.
    fn may_relay(&self, leg: LegId) -> bool {
        let Some(state) = self.leg(leg) else { return false };
        let source = self.source();
        let stopped = matches!(state.state, SessionState::Suspended | SessionState::Error);
        self.is_relay(leg)
            && !self.latched
            && !self.closing
            && source.is_some_and(|source| source != state.gateway)
            && !(stopped || state.suspended || state.awaiting_reprotect)
            && self.has_nothing_of_its_own()
    }

    /// Whether what is here is the source's history and no more. What hosts wrote here, while this copy
    /// was detached or this gateway the primary, is no point of the group's, however whole it is: it
    /// goes nowhere, and what a relay's gateway keeps is not given up for it.
    fn has_nothing_of_its_own(&self) -> bool {
        let source = self.source();
        let current = self.lineage.as_ref().map(|lineage| lineage.current);
        self.own_legs().all(|leg| Some(leg.gateway) == source && leg.base == current)
    }

    /// The legs that are no relays: what this gateway knows of its mirrors as a primary.
    pub(super) fn own_legs(&self) -> impl Iterator<Item = &Leg> {
        self.legs.iter().flatten().map(|leg| &**leg).filter(|leg| leg.relay.is_none())
    }

    // --- what is remembered ---

    /// Finds the relays again. `known` says which volumes the session to a gateway knows, if it is
    /// one. A volume that joined since may be another one there.
    pub(crate) fn restore_relays(&mut self, known: impl Fn(GatewayId) -> Option<Vec<VolumeId>>) {
        let volumes: Vec<VolumeId> = self.volumes.iter().map(|volume| volume.id).collect();
        for leg in self.legs.iter_mut().flatten() {
            let Some(knows) = known(leg.gateway) else { continue };
            if knows != volumes {
                leg.base = None;
            }
            let due = leg.base.is_none() || leg.wanted;
            leg.relay = Some(Box::new(Relay { due, ..Relay::new(volumes.len()) }));
            self.relays.insert(leg.id);
        }
    }

    /// The mark of a relay, or its removal.
    fn relay_mark(&self, leg: LegId, is_relay: bool) -> Records {
        let Some(state) = self.leg(leg) else { return Records::new() };
        let volumes = self.volumes.iter().map(|volume| volume.id);
        vec![(relay_key(self.group, state.gateway), is_relay.then(|| encode(volumes)))]
    }

    /// A leg is forgotten: it is no relay any more.
    pub(super) fn end_relay(&mut self, leg: LegId) -> Records {
        if !self.relays.has(leg) {
            return Records::new();
        }
        self.relays.remove(leg);
        self.relay_mark(leg, false)
    }

    /// A change that the primary sent is on its way to the copy here.
    pub(super) fn note_for_relays(&mut self, volume: usize, range: block::BlockRange) {
        for leg in self.relays.iter() {
            let Some(state) = self.leg_mut(leg) else { continue };
            state.dirty[volume].insert(range);
            if let Some(relay) = state.relay.as_mut().filter(|relay| relay.is_sending()) {
                relay.since[volume].insert(range);
            }
        }
    }

    /// Something was changed here that is in no dirty map.
    pub(super) fn distrust_relays(&mut self, out: &mut Vec<Effect>) {
        for leg in self.relays.iter() {
            self.end_transfer(leg, out);
            if let Some(state) = self.leg_mut(leg) {
                state.base = None;
            }
        }
    }

    /// This copy follows a primary again, as one point in time of its history: what it knew as a
    /// primary is forgotten but for those that it relays to.
    pub(super) fn keep_relays(&mut self) -> Records {
        let source = self.source();
        let mut records = Records::new();
        for leg in LegId::all() {
            let fresh = self.end_fresh(leg);
            let was_fresh = !fresh.is_empty();
            records.extend(fresh);
            let follows = self.leg(leg).is_some_and(|leg| Some(leg.gateway) != source);
            if !(follows && self.relays.has(leg)) {
                records.extend(self.end_relay(leg));
                self.legs[leg.index()] = None;
                continue;
            }
            let state = self.leg_mut(leg).expect("checked above");
            if was_fresh {
                state.base = None;
            }
            state.relay_again();
        }
        records
    }

    /// This gateway becomes the primary: those that it relayed to are its mirrors, and lack what is
    /// dirty.
    pub(super) fn relays_become_mirrors(&mut self, out: &mut Vec<Effect>) {
        for leg in self.relays.iter() {
            self.end_transfer(leg, out);
            let Some(state) = self.leg_mut(leg) else { continue };
            state.retry = None;
            state.cuts.begin();
            state.cuts.due_at_once();
            if state.state == SessionState::Halted && !state.awaiting_reprotect {
                state.state = SessionState::Active;
                state.cause = None;
            }
        }
    }

    // --- what operators ask ---

    pub(super) fn add_relay(
        &mut self,
        peer: UpstreamRecord,
        policy: Policy,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let source = self.upstream_record.as_ref().ok_or(Refusal::NotPrimary)?;
        if source.gateway == peer.gateway {
            return Err(Refusal::Loop);
        }
        if self.legs.iter().flatten().any(|leg| leg.gateway == peer.gateway) {
            return Err(Refusal::AlreadyMirrored);
        }
        if policy.mode != Mode::Stack {
            return Err(Refusal::RelayMode);
        }
        if peer.sessions.len() != self.volumes.len() {
            return Err(Refusal::SessionsMismatch);
        }
        let taken = self.legs.iter().flatten().count();
        let free = LegId::all().find(|id| self.leg(*id).is_none());
        let id = free.filter(|_| taken < RELAYS_MAX).ok_or(Refusal::TooManyRelays)?;
        let volumes = self.volumes.len();
        let mut leg = Leg::new(id, peer, policy, volumes);
        leg.state = SessionState::Active;
        leg.relay = Some(Box::new(Relay { due: true, ..Relay::new(volumes) }));
        self.legs[id.index()] = Some(Box::new(leg));
        self.relays.insert(id);
        let mark = self.relay_mark(id, true);
        self.keep_with(After::Command, mark, out);
        Ok(())
    }

    /// Suspends a relay, or forgets it.
    pub(super) fn stop_relaying(
        &mut self,
        leg: LegId,
        removes: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let mut records = Records::new();
        if removes {
            records = self.remove_relay(leg, out);
        } else if self.whole_history().is_none() {
            // Before this copy is whole there is nothing that the other one could stay at.
            return Err(Refusal::NotWhole);
        } else {
            self.end_transfer(leg, out);
            let state = self.leg_mut(leg).ok_or(Refusal::Unknown)?;
            state.suspended = true;
            state.wanted = false;
            state.state = SessionState::Suspended;
            state.cause = Some(Cause::Operator);
        }
        self.keep_with(After::Command, records, out);
        Ok(())
    }

    pub(super) fn resume_relay(
        &mut self,
        leg: LegId,
        discard: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let state = self.leg_mut(leg).ok_or(Refusal::Unknown)?;
        state.suspended = false;
        state.awaiting_reprotect = false;
        state.discard = discard;
        state.retry = None;
        if state.state != SessionState::Active {
            state.state = SessionState::Active;
            state.cause = None;
            state.want_transfer();
        }
        self.keep(After::Command, out);
        Ok(())
    }

    pub(super) fn set_relay_policy(
        &mut self,
        leg: LegId,
        policy: Policy,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if policy.mode != Mode::Stack {
            return Err(Refusal::RelayMode);
        }
        let state = self.leg_mut(leg).ok_or(Refusal::Unknown)?;
        let before = std::mem::replace(&mut state.policy, policy);
        self.policy_changed(leg, &before, out);
        self.keep(After::Command, out);
        Ok(())
    }

    pub(super) fn transfer_to_relay(
        &mut self,
        leg: LegId,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let state = self.leg_mut(leg).ok_or(Refusal::Unknown)?;
        let stopped = matches!(state.state, SessionState::Suspended | SessionState::Error);
        if stopped || state.awaiting_reprotect {
            return Err(Refusal::Stopped);
        }
        state.retry = None;
        state.want_transfer();
        self.keep(After::Command, out);
        Ok(())
    }

    fn remove_relay(&mut self, leg: LegId, out: &mut Vec<Effect>) -> Records {
        self.end_transfer(leg, out);
        let mut records = self.end_fresh(leg);
        records.extend(self.end_relay(leg));
        if let Some(state) = self.legs[leg.index()].take() {
            let keys = self.volumes.iter().map(|v| dirty_key(self.group, state.gateway, v.id));
            records.extend(keys.map(|key| (key, None)));
            let certificate = crate::certificate::certificate_key(self.group, state.gateway);
            records.push((certificate, None));
        }
        records
    }

    /// Something here stood in the way: it is tried again in a while.
    fn put_off(&mut self, leg: LegId, why: &str, error: block::IoError, out: &mut Vec<Effect>) {
        self.end_transfer(leg, out);
        let now_ms = self.now_ms;
        let Some(state) = self.leg_mut(leg) else { return };
        let cause = Cause::Refused(format!("{why}: {error}"));
        out.push(Effect::Note(Note::MirrorLost { leg, cause: cause.clone() }));
        state.cause = Some(cause);
        state.state = SessionState::Halted;
        state.retry = Some(now_ms + RETRY_MS);
        state.relay.iter_mut().for_each(|relay| relay.due = true);
    }

    /// The volumes changed their size: the point that was on its way is of the old one.
    pub(super) fn begin_relays_again(&mut self, out: &mut Vec<Effect>) {
        for leg in self.relays.iter() {
            let resting = self.relay_mut(leg).is_none_or(|relay| relay.is_resting());
            self.end_transfer(leg, out);
            self.relay_mut(leg).into_iter().for_each(|relay| relay.due |= !resting);
        }
    }

    /// Ends what is under way there. What it may lack stays dirty.
    fn end_transfer(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(relay) = self.relay_mut(leg) else { return };
        if relay.is_resting() {
            return;
        }
        let connected = relay.is_connected();
        relay.rest();
        if connected {
            let goodbye = Message::Goodbye(Goodbye::Suspended);
            out.push(Effect::Post { leg, message: goodbye });
        }
        out.push(Effect::Hang { leg, redial: false });
    }

    // --- time ---

    /// Begins the transfers that are due, where there is anything to transfer.
    pub(super) fn relays_tick(&mut self, passed_ms: u64) {
        let now_ms = self.now_ms;
        for leg in self.relays.iter() {
            self.pace_copies(leg, passed_ms);
            let may = self.may_relay(leg);
            let Some(state) = self.leg_mut(leg).filter(|_| may) else { continue };
            let every_ms = state.policy.transfer_every_s.saturating_mul(1_000);
            let passed = now_ms.saturating_sub(state.cuts.last_ms());
            let lacks = state.base.is_none() || !state.is_clean();
            state.progress.mark(now_ms);
            let Some(relay) = &mut state.relay else { continue };
            relay.due |= every_ms > 0 && passed >= every_ms && lacks && relay.is_resting();
        }
    }

    /// Moves every relay on as far as it can go.
    pub(super) fn advance_relays(&mut self, out: &mut Vec<Effect>) {
        for leg in self.relays.iter() {
            if self.may_relay(leg) {
                self.advance_relay(leg, out);
            } else {
                self.end_transfer(leg, out);
            }
        }
    }

    /// The history of a point at which the copy here is or was whole, if there is one.
    pub(super) fn whole_history(&self) -> Option<&Lineage> {
        if self.is_whole() {
            return self.lineage.as_ref();
        }
        // On the way back to it, it cannot be sent, and whoever is called hears nothing.
        let kept = self.points.kept().filter(|_| !self.points.is_rolling_back());
        kept.and_then(|kept| kept.lineage.as_ref())
    }

    /// Whether the copy here is one point in time once what was received is applied.
    fn is_whole(&self) -> bool {
        matches!(self.quality, Quality::InSync | Quality::Outdated) && self.lineage.is_some()
    }

    /// What must hold of relays whatever happened.
    pub(super) fn check_relays(&self) {
        for leg in self.legs.iter().flatten() {
            let Some(relay) = &leg.relay else {
                assert!(!self.relays.has(leg.id), "one truth about what is a relay");
                continue;
            };
            assert!(self.relays.has(leg.id), "one truth about what is a relay");
            assert!(relay.is_resting() || self.is_relay(leg.id), "only a mirror relays");
            assert!(
                !relay.is_sending() || relay.point.is_some(),
                "a relay sends nothing but a whole point (rule 8)"
            );
            let is_quiet = relay.is_resting() || !self.counting.has(leg.id);
            assert!(is_quiet, "no acknowledgement waits for a relay (rule 1)");
        }
    }
}

impl Leg {
    /// An operator asks for a transfer. That is recorded, for a start before it is done.
    fn want_transfer(&mut self) {
        self.wanted = true;
        self.relay.iter_mut().for_each(|relay| relay.due = true);
    }

    /// Whether a point of a mirror's copy is on its way there.
    pub(super) fn is_relaying(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| relay.is_sending())
    }

    /// The connection of a relay; off for every other leg.
    pub(super) fn relay_link(&self) -> LinkState {
        match &self.relay {
            Some(relay) if relay.is_connected() => LinkState::Connected,
            Some(relay) if !relay.is_resting() => LinkState::Connecting,
            Some(_) | None => LinkState::Off,
        }
    }

    /// A mirror of a gateway that was the primary for a time is a relay again.
    fn relay_again(&mut self) {
        if std::mem::take(&mut self.awaiting_reprotect) {
            self.state = SessionState::Active;
            self.cause = None;
            self.wanted = false;
            self.relay.iter_mut().for_each(|relay| relay.due = true);
        }
        if self.policy.mode != Mode::Stack {
            self.policy.mode = Mode::Stack;
            if self.policy.transfer_every_s == 0 {
                self.policy.transfer_every_s = EVERY_S;
            }
        }
        if self.suspended {
            self.state = SessionState::Suspended;
        }
    }
}
