//! Promotion and the planned swap, as the witness permits them.
//!
//! Invariant: a mirror is promoted by one compare-and-swap that raises the epoch; without an
//! operator's consent only when the configuration that it replaces names the mirror, and the
//! primary's lease is over.

use block::{Claim, Configuration, Epoch, GatewayId, Goodbye, LegId, Quality};

use super::super::role::{Promoting, YieldStep, Yielding};
use super::super::{Effect, Machine, Note, Pending, Role};
use crate::command::{Consent, Refusal};
use crate::record::{Arbitrated, RoleRecord};

/// A promotion that asks the witness.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promotion {
    epoch: Epoch,
    handover: bool,
    consent: Consent,
    since_ms: u64,
    /// The witness was looked at since it began.
    pub(super) is_fresh: bool,
}

impl Machine {
    /// Whether the witness would permit a promotion, by what it said last.
    ///
    /// # Errors
    /// Why it would not.
    pub(in super::super) fn may_promote(
        &self,
        consent: Consent,
        handover: bool,
    ) -> Result<(), Refusal> {
        let Some(arbiter) = &self.arbiter else { return Ok(()) };
        let me = arbiter.terms.gateway;
        let Some(seen) = arbiter.seen.as_ref().filter(|_| arbiter.reachable == Some(true)) else {
            return Err(Refusal::NoWitness);
        };
        let forced = consent >= Consent::Outdated;
        let Some(standing) = &seen.standing else {
            return if forced { Ok(()) } else { Err(Refusal::NotNamed) };
        };
        let set = &standing.configuration;
        if forced || set.primary == me {
            return Ok(());
        }
        if set.member(me).is_none() || set.epoch != self.epoch {
            return Err(Refusal::NotNamed);
        }
        let lost_ms = arbiter.lost_since.map_or(0, |since| self.now_ms.saturating_sub(since));
        let waits = lost_ms < set.lease_ms && !self.orderly_end;
        if !handover && (waits || seen.alive == Some(set.primary)) {
            return Err(Refusal::LeaseRuns { lease_ms: set.lease_ms });
        }
        Ok(())
    }

    /// What a primary is told while this mirror is being promoted. Nobody has the new epoch before it
    /// is recorded, here or by a witness: until then the link only ends.
    pub(in super::super) fn promotion_goodbye(&self) -> Goodbye {
        let granted = matches!(
            self.role,
            Role::Promoting(
                Promoting::Listing
                    | Promoting::Intending
                    | Promoting::RollingBack
                    | Promoting::Recording,
            )
        );
        if self.arbiter.is_some() && granted {
            return Goodbye::Fenced { epoch: self.granted_epoch() };
        }
        Goodbye::Suspended
    }

    /// Asks the witness before this gateway becomes the primary; says whether there is one to ask.
    pub(in super::super) fn asks_to_promote(
        &mut self,
        epoch: Epoch,
        consent: Consent,
        handover: bool,
        out: &mut Vec<Effect>,
    ) -> bool {
        let since_ms = self.now_ms;
        let Some(arbiter) = &mut self.arbiter else { return false };
        arbiter.promotion = Some(Promotion { epoch, handover, consent, since_ms, is_fresh: false });
        self.role = Role::Promoting(Promoting::Claiming);
        out.push(Effect::Look);
        true
    }

    pub(super) fn claim_promotion(&mut self, out: &mut Vec<Effect>) {
        if self.role != Role::Promoting(Promoting::Claiming) {
            return;
        }
        let arbiter = self.arbiter.as_ref().expect("the caller has one");
        let due = arbiter.retry_ms <= self.now_ms;
        let Some(promotion) = arbiter.promotion.filter(|p| due && p.is_fresh) else { return };
        match self.may_promote(promotion.consent, promotion.handover) {
            Ok(()) => {}
            // What is not known yet is waited for, but not for ever.
            Err(Refusal::NoWitness) => return,
            Err(refusal) => {
                self.give_promotion_up(refusal, out);
                return;
            }
        }
        let me = arbiter.terms.gateway;
        let set = arbiter.standing().map(|standing| &standing.configuration);
        let own = set.is_some_and(|set| set.primary == me);
        // What was granted before, and its answer lost, is claimed again as it is.
        let tag = self.tag;
        let above = set.map_or(Epoch::ZERO, |s| if own { s.epoch } else { s.epoch.next(tag) });
        let is_past =
            |s: &Configuration| s.epoch > promotion.epoch || (!own && s.epoch == promotion.epoch);
        if promotion.handover && set.is_some_and(is_past) {
            self.give_promotion_up(Refusal::NotNamed, out);
            return;
        }
        // What the primary offered is taken as it is: it waits for this very epoch.
        let epoch = if promotion.handover { promotion.epoch } else { promotion.epoch.max(above) };
        let next = Configuration {
            epoch,
            primary: me,
            in_sync: Vec::new(),
            lease_ms: arbiter.terms.lease_ms,
        };
        let unless_alive = !promotion.handover && promotion.consent < Consent::Outdated && !own;
        self.claim(Claim { expected: arbiter.revision(), next, unless_alive }, out);
    }

    /// The newest epoch that the witness granted to this gateway in this life.
    pub(in super::super) fn granted_epoch(&self) -> Epoch {
        self.arbiter.as_ref().and_then(|arbiter| arbiter.owned).unwrap_or(Epoch::ZERO)
    }

    /// The witness granted a promotion: it is recorded. Says whether it was one.
    pub(super) fn promotion_granted(&mut self, set: &Configuration, out: &mut Vec<Effect>) -> bool {
        if self.role != Role::Promoting(Promoting::Claiming) {
            return false;
        }
        let arbiter = self.arbiter_mut();
        let Some(promotion) = arbiter.promotion.take() else { return false };
        arbiter.owned = Some(set.epoch);
        arbiter.enrolled = true;
        self.arbitrated = Arbitrated::Claimed;
        if self.goes_back() {
            self.begin_way_back(out);
        } else {
            self.role = Role::Promoting(Promoting::Recording);
            self.record_takeover(set.epoch, promotion.handover, out);
        }
        true
    }

    /// The gateway stays what it was.
    fn give_promotion_up(&mut self, refusal: Refusal, out: &mut Vec<Effect>) {
        let promotion = self.arbiter_mut().promotion.take();
        self.role = match self.recorded_role {
            RoleRecord::Fenced { by } => Role::Fenced { by },
            RoleRecord::Primary | RoleRecord::Yielding { .. } | RoleRecord::Secondary => {
                Role::Secondary
            }
            RoleRecord::Detached => {
                // Its hosts may come back.
                self.begins_with_next = true;
                out.push(Effect::Note(Note::Detached(true)));
                Role::Detached
            }
        };
        if promotion.is_some_and(|promotion| promotion.handover) {
            let goodbye = Goodbye::Refused(format!("handover refused: {refusal}"));
            self.drop_upstream(Some(goodbye), out);
        } else {
            self.finish_command(Err(refusal), out);
        }
    }

    pub(super) fn promotion_tick(&mut self, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        let follows = matches!(self.role, Role::Secondary | Role::Promoting(_));
        let lost = follows && self.upstream.is_none();
        let arbiter = self.arbiter_mut();
        // From the first tick after the loss: never earlier than what was heard last.
        arbiter.lost_since = lost.then(|| arbiter.lost_since.unwrap_or(now_ms));
        let hold_ms = arbiter.terms.hold_ms;
        if self.role == Role::Promoting(Promoting::Claiming) {
            let promotion = self.arbiter_mut().promotion;
            let overdue = |p: &Promotion| now_ms.saturating_sub(p.since_ms) >= hold_ms;
            // A swap that may have been granted is not given up: the old primary waits for us.
            if promotion.is_some_and(|p| overdue(&p) && !p.handover) {
                let refusal =
                    if self.may_be_named() { Refusal::WitnessSilent } else { Refusal::NoWitness };
                self.give_promotion_up(refusal, out);
            }
        } else if self.takes_over() {
            out.push(Effect::Note(Note::TakesOver));
            // It was found permitted just now.
            let begun = self.begin_promotion(Consent::InSync, out);
            debug_assert!(begun.is_ok(), "{begun:?}");
        }
    }

    /// Whether a claim is out that makes this gateway the primary, and its answer is not in.
    fn may_be_named(&self) -> bool {
        let arbiter = self.arbiter.as_ref().expect("only an arbitrated group comes here");
        arbiter.claims().any(|claim| claim.next.primary == arbiter.terms.gateway)
    }

    /// Whether this mirror promotes itself now.
    fn takes_over(&self) -> bool {
        let Some(arbiter) = &self.arbiter else { return false };
        let Some(standing) = arbiter.standing() else { return false };
        let set = &standing.configuration;
        let me = arbiter.terms.gateway;
        let lost_ms = arbiter.lost_since.map_or(0, |since| self.now_ms.saturating_sub(since));
        // One that the witness already made primary only finishes what was begun.
        let finishes = set.primary == me && set.epoch > self.epoch;
        let steps_in = set.member(me).is_some_and(|member| member.automatic)
            && arbiter.lost_since.is_some()
            && lost_ms >= arbiter.terms.failover_after_ms;
        self.role == Role::Secondary
            && self.command.is_none()
            && !self.is_following()
            && !self.latched
            && !self.closing
            && self.epoch != Epoch::ZERO
            && self.quality == Quality::InSync
            && (finishes || steps_in)
            && self.may_promote(Consent::InSync, false).is_ok()
    }

    // --- the old primary's side of a planned swap ---

    /// A higher epoch that is the swap under way; says whether it is.
    pub(super) fn swapped_to(
        &mut self,
        primary: GatewayId,
        epoch: Epoch,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Role::Yielding(Yielding { leg, epoch: planned, step: YieldStep::Asked }) = self.role
        else {
            return false;
        };
        let is_it = planned == epoch && self.leg(leg).is_some_and(|l| l.gateway == primary);
        if is_it {
            self.on_took_over(leg, epoch, out);
        }
        is_it
    }

    /// An operator does not wait for the mirror that was asked to take over. The witness knows
    /// whether it did: it is taken out of the set, or found to be the primary.
    pub(in super::super) fn go_on_by_witness(
        &mut self,
        asked: LegId,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if !self.witness_answers() {
            return Err(Refusal::NoWitness);
        }
        self.command = Some(Pending::GoOn);
        self.leave(asked, out);
        Ok(())
    }

    /// The mirror that was asked to take over is out of the set: it cannot any more.
    pub(super) fn ousted_while_yielding(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if self.asked_to_take_over(leg) {
            self.take_back(out);
        }
    }
}
