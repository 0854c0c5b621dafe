//! A witness that lies to the gateway that asks: deliberate breaks of rule 13.
//!
//! Invariant: each lie is what a gateway would see that left one check out.

use std::rc::Rc;

use block::{
    Claim, GatewayId, GroupId, Keep, Member, Revision, Sighting, Verdict, Witness, WitnessError,
    WitnessFuture,
};
use witness::memory::MemoryWitness;

use super::Sabotage;
use crate::world::GROUP;

/// A witness that lies.
pub(super) struct Liar {
    pub(super) how: Sabotage,
    pub(super) me: GatewayId,
    pub(super) inner: Rc<dyn Witness>,
    pub(super) truth: Rc<MemoryWitness>,
}

fn bend(how: Sabotage, me: GatewayId, sighting: &mut Sighting) {
    match (how, &mut sighting.standing) {
        (Sabotage::PromotesUnnamed, Some(standing)) => {
            let set = &mut standing.configuration;
            if set.primary != me && set.member(me).is_none() {
                set.in_sync.push(Member { gateway: me, automatic: true });
            }
        }
        (Sabotage::IgnoresLeases, Some(standing)) => {
            standing.configuration.lease_ms = 0;
            sighting.alive = None;
        }
        _ => {}
    }
}

impl Witness for Liar {
    fn now_ms(&self) -> u64 {
        if self.how == Sabotage::ReadsForEver { 0 } else { self.inner.now_ms() }
    }

    fn look(&self, group: GroupId, keep: Option<Keep>) -> WitnessFuture<Sighting> {
        let (how, me) = (self.how, self.me);
        let asked = self.inner.look(group, keep);
        Box::pin(async move {
            let mut sighting = asked.await?;
            if keep.is_none() {
                bend(how, me, &mut sighting);
            }
            Ok(sighting)
        })
    }

    fn swap(&self, group: GroupId, mut claim: Claim) -> WitnessFuture<Verdict> {
        let (how, me) = (self.how, self.me);
        let stands = self.truth.standing(GROUP);
        if how == Sabotage::GoesOnUnasked
            && let Some(standing) = &stands
            && standing.configuration.primary == me
            && claim.next.in_sync.len() < standing.configuration.in_sync.len()
        {
            let revision = claim.expected.unwrap_or(Revision(0));
            return Box::pin(async move { Ok(Verdict::Granted(revision)) });
        }
        if how == Sabotage::IgnoresLeases {
            claim.unless_alive = false;
        }
        let expected = claim.expected;
        let asked = self.inner.swap(group, claim);
        Box::pin(async move {
            match asked.await {
                Ok(Verdict::Denied(mut sighting)) => {
                    bend(how, me, &mut sighting);
                    Ok(Verdict::Denied(sighting))
                }
                Err(WitnessError::Unreachable(_)) if how == Sabotage::ForgetsClaims => {
                    let standing = stands.filter(|standing| Some(standing.revision) == expected);
                    Ok(Verdict::Denied(Sighting { standing, ..Sighting::default() }))
                }
                other => other,
            }
        })
    }
}
