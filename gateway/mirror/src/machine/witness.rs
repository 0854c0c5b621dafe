//! What the machine asks of the witness before it goes on without a mirror, or as the primary.
//!
//! ```text
//!   leave ──▶ ousting ──Arbitrate──▶ granted ──▶ recorded without it ──▶ acknowledged
//!                │ no answer for `hold`
//!                └─▶ halted: writes are refused until the witness answers or the mirror is back
//!   voted ──▶ joining ──Arbitrate──▶ granted ──▶ recorded with it
//! ```
//!
//! Invariant (rule 13): nothing is acknowledged without a mirror that the witness names or, as far
//! as is known here, may name. A claim without an answer counts as both granted and denied.

mod patience;
mod promotion;
mod view;

use block::{
    Claim, Configuration, Epoch, GatewayId, IoError, LegId, Member, Revision, Sighting, Standing,
    Verdict, WitnessError,
};

pub(crate) use self::view::ReadLicence;
use super::leg::{LegSet, Stage};
use super::{After, Effect, Machine, Note, Role};
use crate::policy::Failover;
use crate::record::Arbitrated;

/// How soon a claim is repeated that got no answer.
const RETRY_MS: u64 = 500;

/// What a gateway is told about its witness when a group is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// This gateway.
    pub gateway: GatewayId,
    /// How long a lease runs, in milliseconds.
    pub lease_ms: u64,
    /// How long writes wait for the witness before they are refused, in milliseconds.
    pub hold_ms: u64,
    /// How long a mirror that may promote itself waits for its primary, in milliseconds.
    pub failover_after_ms: u64,
}

/// A claim under way.
#[derive(Clone, Debug)]
struct Asked {
    number: u64,
    claim: Claim,
}

/// What is known of the witness, and what is wanted from it.
#[derive(Debug)]
pub(super) struct Arbiter {
    terms: Terms,
    /// What it said last.
    seen: Option<Sighting>,
    /// Whether it answered when it was last asked.
    reachable: Option<bool>,
    /// The epoch at which a claim of this life was granted.
    owned: Option<Epoch>,
    asked: Option<Asked>,
    /// Claims without an answer that may stand, or come to stand.
    maybe: Vec<Claim>,
    /// Whether the record says that the group is arbitrated.
    enrolled: bool,
    enrolling: bool,
    /// The record said so when the group was opened: an earlier life may have claims under way.
    is_restarted: bool,
    numbers: u64,
    retry_ms: u64,
    /// Legs whose mirrors must be out of the set before anything is acknowledged without them.
    ousting: LegSet,
    ousting_since: [u64; LegId::COUNT],
    /// Legs whose mirrors voted and are not in the set yet.
    joining: LegSet,
    /// Since when this primary waits for mirrors that it has not heard since it started.
    waiting_since: Option<u64>,
    /// Since when this mirror has no primary.
    lost_since: Option<u64>,
    promotion: Option<promotion::Promotion>,
    /// It knew the group once and does not any more.
    forgotten: bool,
    /// Something happened after which a claim may be due.
    awake: bool,
}

// === impl Arbiter ===

impl Arbiter {
    fn new(terms: Terms, arbitrated: Arbitrated) -> Self {
        Self {
            terms,
            seen: None,
            reachable: None,
            owned: None,
            asked: None,
            maybe: Vec::new(),
            enrolled: arbitrated != Arbitrated::No,
            enrolling: false,
            is_restarted: arbitrated != Arbitrated::No,
            numbers: 0,
            retry_ms: 0,
            ousting: LegSet::default(),
            ousting_since: [0; LegId::COUNT],
            joining: LegSet::default(),
            waiting_since: None,
            lost_since: None,
            promotion: None,
            forgotten: false,
            awake: true,
        }
    }

    fn standing(&self) -> Option<&Standing> {
        self.seen.as_ref().and_then(|sighting| sighting.standing.as_ref())
    }

    fn revision(&self) -> Option<Revision> {
        self.standing().map(|standing| standing.revision)
    }

    /// Takes what the witness says; claims that expect an older revision can stand no more.
    fn take(&mut self, sighting: Sighting) {
        let revision = sighting.standing.as_ref().map(|standing| standing.revision);
        self.maybe.retain(|claim| claim.expected >= revision);
        self.seen = Some(sighting);
        self.awake = true;
    }

    /// What the witness may have granted, or may still grant.
    fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.asked.iter().map(|asked| &asked.claim).chain(&self.maybe)
    }

    /// Whether the witness names a mirror, as far as is known.
    fn may_name(&self, gateway: GatewayId) -> bool {
        let claims = self.claims().map(|claim| &claim.next);
        let mut sets = claims.chain(self.standing().map(|s| &s.configuration));
        sets.any(|set| set.member(gateway).is_some())
    }
}

impl Machine {
    /// Puts the group under a witness. Before it is started.
    pub(crate) fn arbitrate_by(&mut self, terms: Terms) {
        self.arbiter = Some(Box::new(Arbiter::new(terms, self.arbitrated)));
    }

    fn arbiter_mut(&mut self) -> &mut Arbiter {
        self.arbiter.as_mut().expect("only an arbitrated group comes here")
    }

    fn owns(&self) -> bool {
        self.arbiter.as_ref().is_none_or(|arbiter| arbiter.owned == Some(self.epoch))
    }

    /// Whether an arbitrated primary has not been confirmed since it started.
    pub(super) fn waits_for_witness(&self) -> bool {
        self.arbiter.as_ref().is_some_and(|arbiter| arbiter.is_restarted) && !self.owns()
    }

    fn asks_witness(&self, leg: LegId) -> bool {
        let (Some(arbiter), Some(state)) = (&self.arbiter, self.leg(leg)) else { return false };
        state.in_set || self.waits_for_witness() || arbiter.may_name(state.gateway)
    }

    /// Whether only the witness lets hosts go on without a mirror that an operator stops, and does
    /// not answer.
    pub(super) fn misses_witness(&self, leg: LegId) -> bool {
        let counts = self.leg(leg).is_some_and(|state| {
            // One that is asked to vote may be named by a claim that is on its way.
            state.in_set || matches!(state.stage, Stage::Voting | Stage::Joining)
        });
        !self.witness_answers() && (self.is_ousting(leg) || (counts && self.asks_witness(leg)))
    }

    pub(super) fn is_ousting(&self, leg: LegId) -> bool {
        self.arbiter.as_ref().is_some_and(|arbiter| arbiter.ousting.has(leg))
            || self.is_parting(leg)
    }

    /// With what a change is refused while a mirror is missing.
    pub(super) fn halt_error(&self) -> IoError {
        let held = |leg: &super::Leg| leg.halted && self.is_ousting(leg.id);
        if self.legs.iter().flatten().any(|leg| held(leg)) {
            if self.company.is_some() { IoError::NoCompanion } else { IoError::NoWitness }
        } else {
            IoError::Halted
        }
    }

    // --- a mirror leaves and joins ---

    /// Takes the leg out of the in-sync set: at the witness first, if there is one.
    pub(super) fn leave(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if self.company.is_some() {
            self.leave_company(leg, out);
            return;
        }
        if !self.asks_witness(leg) {
            self.leave_set(leg, out);
            return;
        }
        let now_ms = self.now_ms;
        let state = self.leg_mut(leg).expect("the caller has it");
        if state.stage != Stage::Leaving && !state.stepping_down {
            // What is lost already is waited for by nothing: changes are refused meanwhile.
            state.halted = true;
        }
        let arbiter = self.arbiter_mut();
        arbiter.joining.remove(leg);
        arbiter.ousting.insert(leg);
        arbiter.ousting_since[leg.index()] = now_ms;
        arbiter.awake = true;
    }

    /// The mirror is connected again. One that still counts need not leave.
    pub(super) fn returned(&mut self, leg: LegId) {
        let Some(state) = self.leg(leg) else { return };
        let in_set = state.in_set;
        if !self.is_ousting(leg) || self.company.is_some() {
            return;
        }
        if in_set {
            self.arbiter_mut().ousting.remove(leg);
        } else {
            self.leg_mut(leg).expect("checked above").halted = true;
        }
    }

    /// The mirror voted: it is recorded as in sync once the witness names it.
    pub(super) fn join(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        // One that never left is named still.
        let left = self.leg(leg).is_some_and(|state| !state.in_set);
        if self.voted_in_company() {
            return;
        }
        if left && self.arbiter.is_some() {
            let arbiter = self.arbiter_mut();
            arbiter.joining.insert(leg);
            arbiter.awake = true;
        } else {
            self.join_set(leg, out);
        }
    }

    /// A leg was lost before the witness named it, or perhaps after.
    pub(super) fn forget_joining(&mut self, leg: LegId) {
        if let Some(arbiter) = &mut self.arbiter {
            arbiter.joining.remove(leg);
        }
    }

    /// The set that the witness should name.
    fn wanted_set(&self) -> Configuration {
        let arbiter = self.arbiter.as_ref().expect("only an arbitrated group comes here");
        let wanted = |leg: &&super::Leg| {
            (leg.in_set || arbiter.joining.has(leg.id)) && !arbiter.ousting.has(leg.id)
        };
        let legs = self.legs.iter().flatten().map(|leg| &**leg).filter(wanted);
        let mut in_sync: Vec<Member> = legs
            .map(|leg| Member {
                gateway: leg.gateway,
                automatic: leg.policy.failover == Failover::Automatic,
            })
            .collect();
        in_sync.sort_unstable();
        Configuration {
            epoch: self.epoch,
            primary: arbiter.terms.gateway,
            in_sync,
            lease_ms: arbiter.terms.lease_ms,
        }
    }

    /// Asks for what is wanted, one claim at a time.
    pub(super) fn arbitrate(&mut self, out: &mut Vec<Effect>) {
        let Some(arbiter) = &mut self.arbiter else { return };
        if !std::mem::take(&mut arbiter.awake) || self.latched || self.closing {
            return;
        }
        if !matches!(self.role, Role::Primary | Role::Yielding(_)) {
            let arbiter = self.arbiter_mut();
            (arbiter.ousting, arbiter.joining) = (LegSet::default(), LegSet::default());
        } else if arbiter.asked.is_none() && arbiter.retry_ms <= self.now_ms {
            self.claim_set(out);
        }
        let idle = self.arbiter.as_ref().is_some_and(|a| a.asked.is_none());
        if idle {
            self.claim_promotion(out);
        }
    }

    fn claim_set(&mut self, out: &mut Vec<Effect>) {
        let yielding = matches!(self.role, Role::Yielding(_));
        let bare = self.legs.iter().all(Option::is_none) && self.arbitrated == Arbitrated::No;
        let arbiter = self.arbiter.as_ref().expect("the caller has one");
        if bare || (yielding && self.owns() && arbiter.ousting.is_empty()) {
            return;
        }
        if !arbiter.enrolled {
            if !arbiter.enrolling {
                self.arbiter_mut().enrolling = true;
                self.arbitrated = Arbitrated::Intended;
                self.keep(After::Arbitrated, out);
            }
            return;
        }
        let Some(seen) = &arbiter.seen else { return };
        let wanted = self.wanted_set();
        if let Some(standing) = &seen.standing {
            let other = standing.configuration.primary != arbiter.terms.gateway;
            if standing.configuration.epoch >= self.epoch && other {
                return;
            }
            let stands = standing.configuration == wanted && arbiter.maybe.is_empty();
            if stands && self.owns() {
                self.set_stands(out);
                return;
            }
        } else if self.arbitrated == Arbitrated::Claimed {
            // It knew the group once: whatever it forgot may have been another primary.
            self.arbiter_mut().forgotten = true;
            return;
        }
        let expected = arbiter.revision();
        self.claim(Claim { expected, next: wanted, unless_alive: false }, out);
    }

    fn claim(&mut self, claim: Claim, out: &mut Vec<Effect>) {
        let arbiter = self.arbiter_mut();
        arbiter.numbers += 1;
        let number = arbiter.numbers;
        arbiter.asked = Some(Asked { number, claim: claim.clone() });
        out.push(Effect::Arbitrate { number, claim });
    }

    /// The record says that the group is arbitrated.
    pub(super) fn enrolled(&mut self) {
        if let Some(arbiter) = &mut self.arbiter {
            arbiter.enrolled = true;
            arbiter.awake = true;
        }
    }

    /// The witness names exactly the wanted set, and no claim can change that.
    fn set_stands(&mut self, out: &mut Vec<Effect>) {
        let arbiter = self.arbiter_mut();
        let (ousted, joined) = (arbiter.ousting, arbiter.joining);
        (arbiter.ousting, arbiter.joining) = (LegSet::default(), LegSet::default());
        for leg in ousted.iter() {
            let Some(state) = self.leg_mut(leg) else { continue };
            state.halted = false;
            if !state.stage.is_live() || state.stepping_down {
                self.leave_set(leg, out);
            }
            self.ousted_while_yielding(leg, out);
        }
        for leg in joined.iter() {
            self.join_set(leg, out);
        }
    }

    // --- answers ---

    pub(super) fn on_arbitrated(
        &mut self,
        number: u64,
        outcome: Result<Verdict, WitnessError>,
        out: &mut Vec<Effect>,
    ) {
        let now_ms = self.now_ms;
        let Some(arbiter) = &mut self.arbiter else { return };
        let asked = arbiter.asked.take().expect("a claim was asked for");
        assert_eq!(asked.number, number, "one claim at a time");
        let claim = asked.claim;
        match outcome {
            Ok(Verdict::Granted(revision)) => {
                let alive = arbiter.seen.as_ref().and_then(|seen| seen.alive);
                let configuration = claim.next.clone();
                let standing = Some(Standing { revision, configuration });
                arbiter.take(Sighting { standing, alive, kept: false });
                arbiter.retry_ms = 0;
                arbiter.forgotten = false;
                self.granted(&claim.next, out);
            }
            Ok(Verdict::Denied(sighting)) => {
                arbiter.retry_ms = 0;
                self.on_witness_seen(sighting, out);
            }
            Err(_) => {
                arbiter.maybe.push(claim);
                arbiter.retry_ms = now_ms + RETRY_MS;
                self.on_witness_lost(out);
            }
        }
    }

    fn granted(&mut self, set: &Configuration, out: &mut Vec<Effect>) {
        self.note_reachable(true, out);
        if self.promotion_granted(set, out) {
            return;
        }
        let ruling = matches!(self.role, Role::Primary | Role::Yielding(_));
        if !ruling || set.epoch != self.epoch {
            return;
        }
        self.arbiter_mut().owned = Some(set.epoch);
        if self.arbitrated != Arbitrated::Claimed {
            self.arbitrated = Arbitrated::Claimed;
            self.keep(After::Nothing, out);
        }
        if *set == self.wanted_set() {
            self.set_stands(out);
        }
    }

    pub(super) fn on_witness_seen(&mut self, sighting: Sighting, out: &mut Vec<Effect>) {
        let Some(arbiter) = &mut self.arbiter else { return };
        let ruled =
            sighting.standing.as_ref().map(|s| (s.configuration.epoch, s.configuration.primary));
        arbiter.take(sighting);
        if arbiter.reachable == Some(false) {
            arbiter.retry_ms = 0;
        }
        if let Some(promotion) = &mut arbiter.promotion {
            promotion.is_fresh = true;
        }
        self.note_reachable(true, out);
        let Some((epoch, primary)) = ruled else { return };
        if epoch > self.epoch
            && primary != self.witness_name()
            && !self.swapped_to(primary, epoch, out)
        {
            self.fence(epoch, out);
        }
    }

    fn witness_name(&self) -> GatewayId {
        self.arbiter.as_ref().expect("only an arbitrated group comes here").terms.gateway
    }

    pub(super) fn on_witness_lost(&mut self, out: &mut Vec<Effect>) {
        self.note_reachable(false, out);
    }

    fn note_reachable(&mut self, reachable: bool, out: &mut Vec<Effect>) {
        let arbiter = self.arbiter_mut();
        let before = arbiter.reachable.replace(reachable);
        if before != Some(reachable) && (before.is_some() || !reachable) {
            out.push(Effect::Note(Note::Witness { reachable }));
        }
    }

    /// Whether the witness can be asked, or nobody needs to be.
    pub(super) fn witness_answers(&self) -> bool {
        self.arbiter.as_ref().is_none_or(|arbiter| arbiter.reachable == Some(true))
    }
}
