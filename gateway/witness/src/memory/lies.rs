//! Lies of a witness to the gateway that asks, each what it would see that left one check out: the
//! deliberate breaks of tests and simulations.
//!
//! Invariant: [`Lie::None`] changes nothing.

use std::rc::Rc;

use block::{
    Claim, GatewayId, GroupId, Keep, Member, Revision, Sighting, Verdict, Witness, WitnessError,
    WitnessFuture,
};

use super::MemoryWitness;

/// What is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// It tells the truth.
    #[default]
    None,
    /// A primary does not wait until a lost mirror is out of the set.
    LeavesUnasked,
    /// A mirror does not look whether it is named.
    PromotesUnnamed,
    /// A read does not look at its lease.
    ReadsForEver,
    /// A mirror does not wait for the primary's lease.
    IgnoresLeases,
    /// A claim without an answer counts as denied.
    ForgetsClaims,
}

struct Liar {
    lie: Lie,
    me: GatewayId,
    inner: Rc<dyn Witness>,
    truth: Rc<MemoryWitness>,
}

impl Lie {
    /// The witness as one gateway is told of it; `truth` is what it asks over `inner`.
    #[must_use]
    pub fn told_to(
        self,
        me: GatewayId,
        inner: Rc<dyn Witness>,
        truth: &Rc<MemoryWitness>,
    ) -> Rc<dyn Witness> {
        if self == Self::None {
            return inner;
        }
        Rc::new(Liar { lie: self, me, inner, truth: Rc::clone(truth) })
    }

    fn bend(self, me: GatewayId, sighting: &mut Sighting) {
        match (self, &mut sighting.standing) {
            (Self::PromotesUnnamed, Some(standing)) => {
                let set = &mut standing.configuration;
                if set.primary != me && set.member(me).is_none() {
                    set.in_sync.push(Member { gateway: me, automatic: true });
                }
            }
            (Self::IgnoresLeases, Some(standing)) => {
                standing.configuration.lease_ms = 0;
                sighting.alive = None;
            }
            _ => {}
        }
    }
}

impl Witness for Liar {
    fn now_ms(&self) -> u64 {
        if self.lie == Lie::ReadsForEver { 0 } else { self.inner.now_ms() }
    }

    fn look(&self, group: GroupId, keep: Option<Keep>) -> WitnessFuture<Sighting> {
        let (lie, me) = (self.lie, self.me);
        let asked = self.inner.look(group, keep);
        Box::pin(async move {
            let mut sighting = asked.await?;
            if keep.is_none() {
                lie.bend(me, &mut sighting);
            }
            Ok(sighting)
        })
    }

    fn swap(&self, group: GroupId, mut claim: Claim) -> WitnessFuture<Verdict> {
        let (lie, me) = (self.lie, self.me);
        let stands = self.truth.standing(group);
        if lie == Lie::LeavesUnasked
            && let Some(standing) = &stands
            && standing.configuration.primary == me
            && claim.next.in_sync.len() < standing.configuration.in_sync.len()
        {
            let revision = claim.expected.unwrap_or(Revision(0));
            return Box::pin(async move { Ok(Verdict::Granted(revision)) });
        }
        if lie == Lie::IgnoresLeases {
            claim.unless_alive = false;
        }
        let expected = claim.expected;
        let asked = self.inner.swap(group, claim);
        Box::pin(async move {
            match asked.await {
                Ok(Verdict::Denied(mut sighting)) => {
                    lie.bend(me, &mut sighting);
                    Ok(Verdict::Denied(sighting))
                }
                Err(WitnessError::Unreachable(_)) if lie == Lie::ForgetsClaims => {
                    let standing = stands.filter(|standing| Some(standing.revision) == expected);
                    Ok(Verdict::Denied(Sighting { standing, ..Sighting::default() }))
                }
                other => other,
            }
        })
    }
}
