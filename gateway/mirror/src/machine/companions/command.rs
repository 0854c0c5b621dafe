//! What operators say of companions, and what they are told.
//!
//! Invariant: whoever is excluded or taken back in, the stretch that all were in is over.

use block::GatewayId;

use super::{Companion, Company};
use crate::command::Refusal;
use crate::machine::{After, Effect, Machine, Note, Role};
use crate::policy::{Failover, OnSlow, Split};
use crate::status::{CompanionStatus, PartsStatus};

impl Machine {
    // --- what operators say ---

    /// Whether a leg with this policy may be had by a part.
    pub(in crate::machine) fn may_span(&self, policy: &crate::Policy) -> Result<(), Refusal> {
        if self.company.is_none() {
            return Ok(());
        }
        let what = if policy.mode != block::Mode::Sync {
            "runs in mode sync"
        } else if policy.split != Split::Automatic {
            "has split automatic"
        } else if policy.on_slow == OnSlow::Degrade {
            "has no on_slow degrade"
        } else if policy.failover == Failover::Automatic {
            "has failover manual"
        } else {
            return Ok(());
        };
        Err(Refusal::Spanning { what })
    }

    pub(in crate::machine) fn require_alone(&self, what: &'static str) -> Result<(), Refusal> {
        if self.company.is_some() { Err(Refusal::Spanning { what }) } else { Ok(()) }
    }

    /// The mirrors of two parts are two gateways.
    pub(in crate::machine) fn require_own_mirror(&self, gateway: GatewayId) -> Result<(), Refusal> {
        let theirs = |c: &Companion| {
            let mirror = c.said.as_ref().and_then(|said| said.facts.mirror);
            c.gateway == gateway || mirror == Some(gateway)
        };
        if self.company.as_ref().is_some_and(|company| company.all.iter().any(theirs)) {
            return Err(Refusal::Spanning { what: "has a mirror of its own for each part" });
        }
        Ok(())
    }

    /// Another part of the group begins.
    pub(in crate::machine) fn accompany(
        &mut self,
        gateway: GatewayId,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.require_primary()?;
        if self.companions().contains(&gateway) {
            self.finish_command(Ok(()), out);
            return Ok(());
        }
        if self.legs.iter().any(Option::is_some) || self.arbiter.is_some() {
            let what = "gets its parts before it is mirrored, and has no witness";
            return Err(Refusal::Spanning { what });
        }
        let new = Company::new(vec![gateway]);
        match &mut self.company {
            Some(company) => company.all.extend(new.all),
            None => self.company = Some(Box::new(new)),
        }
        self.keep(After::Command, out);
        Ok(())
    }

    /// An operator says that a companion is stopped and stays out.
    pub(in crate::machine) fn exclude(
        &mut self,
        gateway: GatewayId,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.mark(gateway, true, out)
    }

    /// An operator takes a companion back in that is there again.
    pub(in crate::machine) fn include(
        &mut self,
        gateway: GatewayId,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let company = self.company.as_ref().ok_or(Refusal::Unknown)?;
        let companion = company.all.iter().find(|c| c.gateway == gateway);
        let companion = companion.ok_or(Refusal::Unknown)?;
        let there = companion.reachable == Some(true) && companion.heard;
        if companion.excluded && !there {
            return Err(Refusal::NotConnected);
        }
        self.mark(gateway, false, out)
    }

    fn mark(
        &mut self,
        gateway: GatewayId,
        excluded: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let company = self.company.as_mut().ok_or(Refusal::Unknown)?;
        let companion = company.all.iter_mut().find(|c| c.gateway == gateway);
        let companion = companion.ok_or(Refusal::Unknown)?;
        if companion.excluded != excluded {
            companion.excluded = excluded;
            let next = company.number + 1;
            out.push(Effect::Note(Note::Excluded { gateway, excluded }));
            self.end_stretch(next, Some(gateway), out);
        }
        self.keep(After::Command, out);
        Ok(())
    }

    // --- what people see ---

    pub(in crate::machine) fn parts_status(&self) -> Option<PartsStatus> {
        let company = self.company.as_ref()?;
        let awaited = if self.role == Role::Primary { company.awaited() } else { None };
        let stops = |c: &&Companion| {
            !company.parting.is_empty()
                && c.said.as_ref().is_none_or(|said| said.facts.number <= company.left)
        };
        Some(PartsStatus {
            state: self.part_state()?,
            waits_for: awaited.map(|c| c.gateway),
            stops: company.counted().filter(stops).map(|c| c.gateway).collect(),
            excluded_by: company.excluded_by,
            companions: company
                .all
                .iter()
                .map(|c| CompanionStatus {
                    gateway: c.gateway,
                    excluded: c.excluded,
                    heard: c.heard,
                    reachable: c.reachable,
                    said: c.said.clone(),
                })
                .collect(),
        })
    }
}
