//! What a mirror that was opened needs, from the histories of both sides.
//!
//! Invariant (rules 9 and 10): a delta only where every difference is known; nothing that only the
//! mirror has is overwritten without an operator's word.

use block::{GatewayId, Generation, LegId, Mode, Quality};

use super::{Machine, Opening};
use crate::lineage::{Lineage, Relation, relate};
use crate::status::Cause;

/// What a mirror that was opened needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The blocks that are dirty here or differ there.
    Delta,
    /// Every block that is mapped on either side, by its checksum: the two have a history in common,
    /// and where they went apart nobody knows.
    Compared,
    /// Every mapped block; `wipe` if it holds anything that must go first.
    Full { wipe: bool },
}

impl Machine {
    /// Compares the history of what is here with the mirror's (rules 9 and 10).
    pub(super) fn compare(
        &self,
        leg: LegId,
        ours: &Lineage,
        opening: &Opening,
    ) -> Result<Need, Cause> {
        let state = self.leg(leg).expect("the caller checked");
        let needs = match state.policy.mode {
            // An older one would change what it holds without keeping it (rule 10).
            _ if state.holds_content => block::POLICY_SINCE_VERSION,
            Mode::Consistency | Mode::Stack => block::CUTS_SINCE_VERSION,
            Mode::Sync => 0,
        };
        if state.version < needs {
            return Err(Cause::PeerTooOld { version: state.version, needs });
        }
        let opened = &opening.opened;
        let theirs =
            opened.generation.map(|current| Lineage::new(current, opened.ancestors.clone()));
        let known = |common| {
            opened.differences_known && state.base.is_some_and(|base| ours.is_within(common, base))
        };
        let theirs_bytes = || {
            let blocks = opening.differs.iter().flat_map(|report| &report.blocks);
            blocks.map(|range| range.count()).sum::<u64>() * block::BLOCK_BYTES
        };
        let relation = relate(ours, theirs.as_ref());
        // An older one would change what it holds without keeping it (rule 10).
        let compares = state.version >= block::POLICY_SINCE_VERSION;
        let whole = if compares { Need::Compared } else { Need::Full { wipe: true } };
        let lost_bytes = state.lossy.unwrap_or(0) + theirs_bytes();
        // One that does not know in what it differs may have any number of them.
        let has_more = lost_bytes > 0 || !opened.differences_known;
        if let Relation::Behind { common } = relation
            && ((state.lossy.is_some() && has_more)
                || self.has_given_up((leg, opened.differences_known), common))
            && !state.discard
        {
            // This gateway went back to a point that the other had left behind it (rule 10).
            return Err(Cause::SplitBrain { theirs_bytes: lost_bytes });
        }
        match relation {
            // What a first copy left behind when it was cut short is no part of any history.
            Relation::Blank => Ok(Need::Full { wipe: opened.quality != Quality::Blank }),
            Relation::Behind { common } if known(common) => Ok(Need::Delta),
            Relation::Behind { .. } => Ok(whole),
            Relation::Diverged { common } if state.discard && known(common) => Ok(Need::Delta),
            // It went on from what is here, and kept track of it.
            Relation::Ahead if state.discard && known(ours.current) => Ok(Need::Delta),
            Relation::Diverged { .. } | Relation::Ahead if state.discard => Ok(whole),
            Relation::Unrelated if state.discard => Ok(Need::Full { wipe: true }),
            Relation::Diverged { .. } | Relation::Ahead => {
                Err(Cause::SplitBrain { theirs_bytes: theirs_bytes() })
            }
            Relation::Unrelated => Err(Cause::Refused(
                "the mirror holds an unrelated history of this volume".to_owned(),
            )),
        }
    }

    /// Whether this gateway went back to a kept point of that history for another mirror than this
    /// one: whoever followed it may hold what was given up, and how much that is nobody knows.
    fn has_given_up(&self, (leg, differs_known): (LegId, bool), common: Generation) -> bool {
        let relayed = |leg: &super::Leg| leg.relay.is_some() && leg.base == Some(common);
        if differs_known && self.leg(leg).is_some_and(relayed) {
            // It was sent a point from here, which is no newer than the one gone back to. One that
            // another primary opened since does not know in what it differs: that one may have gone
            // on beyond the point, there alone.
            return false;
        }
        let others = self.legs.iter().flatten().filter(|other| other.id != leg);
        let mut bases = others.filter(|other| other.lossy.is_some()).map(|other| other.base);
        bases.any(|base| base == Some(common))
    }

    /// A leg is forgotten, and with it that its history was given up here in part. From now on that
    /// history is none of ours: a copy that has it is overwritten only with a word (rule 10).
    pub(super) fn disown(&mut self, leg: LegId) {
        let given_up = self.leg(leg).filter(|leg| leg.lossy.is_some());
        let base = given_up.and_then(|leg| leg.base);
        if let (Some(base), Some(lineage)) = (base, &mut self.lineage) {
            lineage.ancestors.retain(|ancestor| *ancestor != base);
        }
    }

    /// Where the mirror at that gateway may differ; `None` when it is no mirror of this group.
    #[must_use]
    pub fn lacking(&self, gateway: GatewayId) -> Option<Vec<crate::Differences>> {
        let leg = self.legs.iter().flatten().find(|leg| leg.gateway == gateway)?;
        let maps = self.volumes.iter().zip(&leg.dirty);
        Some(maps.map(|(v, map)| crate::Differences::new(v.id, map.clone(), leg.base)).collect())
    }
}
