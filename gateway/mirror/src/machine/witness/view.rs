//! What others want to know of the witness: readers, the driver, people.
//!
//! Invariant: a read is licensed only while nobody else can have been promoted.

use super::super::leg::LegSet;
use super::super::{Machine, Role};
use crate::record::Arbitrated;
use crate::status::WitnessStatus;

/// What a read needs besides the role, so that it is not stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadLicence {
    /// Nobody else can have been promoted.
    Free,
    /// The lease at the witness, or one from each of these mirrors.
    Mirrors(LegSet),
    /// The lease at the witness.
    Lease,
    /// None is enough: a mirror was asked to take over.
    Never,
}

impl Machine {
    /// What a read needs besides the role.
    pub(crate) fn read_licence(&self) -> ReadLicence {
        let Some(arbiter) = &self.arbiter else { return ReadLicence::Free };
        if self.arbitrated == Arbitrated::No || self.role == Role::Detached {
            // A detached copy is one of its own: it is no older than its own writes.
            return ReadLicence::Free;
        }
        if let Role::Yielding(yielding) = self.role
            && self.asked_to_take_over(yielding.leg)
        {
            return ReadLicence::Never;
        }
        if self.waits_for_witness() {
            return ReadLicence::Lease;
        }
        let claims = arbiter.asked.iter().map(|asked| &asked.claim).chain(&arbiter.maybe);
        let sets = claims.map(|c| &c.next).chain(arbiter.standing().map(|s| &s.configuration));
        let mut mirrors = LegSet::default();
        for member in sets.flat_map(|set| &set.in_sync) {
            match self.legs.iter().flatten().find(|leg| leg.gateway == member.gateway) {
                Some(leg) if leg.stage.is_live() => mirrors.insert(leg.id),
                Some(_) | None => return ReadLicence::Lease,
            }
        }
        if mirrors.is_empty() { ReadLicence::Free } else { ReadLicence::Mirrors(mirrors) }
    }

    /// The lease that this primary renews: while it rules by a claim of this life.
    pub(crate) fn lease_to_keep(&self) -> Option<block::Keep> {
        let arbiter = self.arbiter.as_ref()?;
        let rules = matches!(self.role, Role::Primary | Role::Yielding(_)) && !self.latched;
        let standing = arbiter.standing().filter(|_| rules && arbiter.owned == Some(self.epoch))?;
        let (gateway, lease_ms) = (arbiter.terms.gateway, arbiter.terms.lease_ms);
        Some(block::Keep { gateway, revision: standing.revision, lease_ms })
    }

    pub(in super::super) fn witness_status(&self) -> Option<WitnessStatus> {
        let arbiter = self.arbiter.as_ref()?;
        let configuration = arbiter.standing().map(|standing| &standing.configuration);
        let me = arbiter.terms.gateway;
        Some(WitnessStatus {
            reachable: arbiter.reachable,
            arbitrated: self.arbitrated != Arbitrated::No,
            primary: configuration.map(|set| set.primary),
            epoch: configuration.map(|set| set.epoch),
            is_named: configuration.map(|set| set.primary == me || set.member(me).is_some()),
            is_automatic: configuration.and_then(|set| set.member(me)).is_some_and(|m| m.automatic),
            primary_alive: configuration
                .zip(arbiter.seen.as_ref())
                .map(|(set, seen)| seen.alive == Some(set.primary)),
            forgotten: arbiter.forgotten,
            asking: !arbiter.ousting.is_empty() || !arbiter.joining.is_empty(),
        })
    }

    /// Rule 13, as far as it is visible here.
    pub(in super::super) fn check_witness(&self) {
        let Some(arbiter) = &self.arbiter else { return };
        if self.role != Role::Primary || self.waits_for_witness() {
            return;
        }
        for leg in self.legs.iter().flatten().filter(|leg| arbiter.may_name(leg.gateway)) {
            let waits = self.counting.has(leg.id) || self.awaiting.has(leg.id) || leg.halted;
            assert!(waits, "an acknowledgement waits for every mirror that the witness names");
        }
    }
}
