//! What a mirror knows of where it differs from whoever opens the group.
//!
//! Invariant: rule 9. Differences are said to be all that there are only where every change was noted
//! for that gateway, whoever made it; that they are not is remembered until this copy is whole again.

use block::{DirtyReport, GatewayId, LegId, Open, Quality};

use super::Machine;
use super::leg::Leg;
use crate::lineage::{Lineage, Relation, relate};
use crate::policy::Policy;
use crate::record::UpstreamRecord;

impl Machine {
    /// Remembers that only a full copy helps, also after a restart, where nobody kept track for whoever
    /// opens the group now (rule 9): of what was written here while nobody mirrored it, and of what
    /// another primary copied here and did not finish. That one is the last that opened the group only
    /// until now, so it does not tell the next time.
    pub(super) fn remember_untracked(
        &mut self,
        opener: &UpstreamRecord,
        was_primary: bool,
        is_heir: bool,
    ) {
        let is_other = !is_heir && self.source().is_some_and(|last| last != opener.gateway);
        let is_half = is_other && self.quality == Quality::Inconsistent;
        if !(was_primary || is_half) {
            return;
        }
        let known = self.legs.iter_mut().flatten().find(|leg| leg.gateway == opener.gateway);
        if let Some(leg) = known {
            // What a gateway that is relayed to lacks is noted, whoever wrote it here.
            if is_half && leg.relay.is_none() {
                leg.base = None;
            }
        } else if self.own_legs().next().is_none() {
            let free = LegId::all().find(|id| self.leg(*id).is_none());
            let id = free.expect("relays leave room for a leg");
            let leg = Leg::new(id, opener.clone(), Policy::default(), self.volumes.len());
            self.legs[id.index()] = Some(Box::new(leg));
        }
    }

    /// The blocks that this gateway wrote as a primary and that gateway may lack, and whether these
    /// are all in which this copy can differ from the history that both have. What a half-done copy
    /// left different is known to the one who copied, and to nobody else: of what another primary
    /// wrote here, the one that opens the group now knows nothing (rule 9).
    pub(super) fn differences(&self, open: &Open, gateway: GatewayId) -> (Vec<DirtyReport>, bool) {
        let Some(ours) = &self.lineage else { return (Vec::new(), true) };
        // What the last primary knew, its heir knows.
        let last = if self.is_heir(open) { Some(gateway) } else { self.source() };
        let theirs = Lineage::new(open.generation, open.ancestors.clone());
        let relation = relate(&theirs, Some(ours));
        let Some(leg) = self.legs.iter().flatten().find(|leg| leg.gateway == gateway) else {
            let is_theirs = last == Some(gateway) && matches!(relation, Relation::Behind { .. });
            return (Vec::new(), is_theirs && self.own_legs().next().is_none());
        };
        let reports = leg
            .dirty
            .iter()
            .zip(0u16..)
            .map(|(dirty, volume)| DirtyReport { volume, blocks: dirty.runs() });
        let reports = reports.filter(|report| !report.blocks.is_empty()).collect();
        let since = match relation {
            Relation::Behind { .. } | Relation::Blank => leg.base,
            Relation::Ahead => Some(open.generation),
            Relation::Diverged { common } => Some(common),
            Relation::Unrelated => None,
        };
        let tracked = leg
            .base
            .zip(since)
            .is_some_and(|(base, since)| since == base || ours.is_within(since, base));
        // What a gateway that is relayed to lacks is noted, whoever wrote it here.
        let noted = leg.relay.is_some() || last.is_none_or(|last| last == gateway);
        (reports, tracked && noted)
    }
}
