//! What becomes of the other mirrors in a planned swap: the new primary is told what they lack.
//!
//! ```text
//!   A primary, B and C mirrors         A ── what C lacks, Handover ──▶ B
//!   B is the primary                   B ── Open, heir of A's epoch ─▶ C    C ── nothing else ─▶ B
//! ```
//!
//! Invariant (rule 9): B brings C up to date by what A told, and by what B wrote since, only where this
//! is every difference. It is, because
//! - A tells when it is drained: nothing is written there any more, B has all of it and lacks nothing,
//!   so that where C differs from A, it differs from B;
//! - what A tells is its map as it would use it itself, with all that C may hold only in memory, and
//!   the history that this map counts from;
//! - A writes nothing in that epoch again: it follows B, or goes on in a later one;
//! - C says that nobody opened it since A did in that epoch, neither a later primary nor a mirror that
//!   relays to it. So what C was sent since is A's and in the map. If C itself went on, its history
//!   says so.
//!
//! In all other cases C is compared or copied whole, as by any other primary.

use block::{
    BlockRange, BlockSet, GatewayId, HEIRS_SINCE_VERSION, LegId, Message, Open, Predecessor,
};

use super::leg::Leg;
use super::members::Records;
use super::{After, Effect, Machine, Role};
use crate::differences::Differences;
use crate::dirty::DirtyMap;
use crate::record::{Inherited, SnapshotWord, UpstreamRecord, heir_key, heir_record};
use crate::status::{Cause, SessionState};

/// Ranges that are told of all mirrors together: 512 KiB. Near ones are merged beyond that.
const RANGES_MAX: usize = 32 << 10;
/// The longest word; it must fit what is said between two servers. Beyond it nothing is told.
const WORD_BYTES_MAX: usize = 1 << 20;

impl Machine {
    // --- at the primary that hands over ---

    /// Tells the mirror that is asked to take over what the others lack: in place of what it was told
    /// before, if it was asked before.
    pub(super) fn bequeath(&self, to: LegId, out: &mut Vec<Effect>) {
        if self.leg(to).is_none_or(|leg| leg.version < HEIRS_SINCE_VERSION) {
            return;
        }
        // Where this gateway went back to a kept point, others may hold what only it knows was given
        // up. A group over several gateways has one mirror for each part.
        let tells = self.company.is_none()
            && self.is_settled(to)
            && self.legs.iter().flatten().all(|leg| leg.lossy.is_none());
        let others = self.own_legs().filter(|leg| leg.id != to && tells);
        let others = others.filter(|leg| leg.fresh.iter().all(Option::is_none));
        let others: Vec<&Leg> = others.collect();
        let most = RANGES_MAX / (2 * others.len() * self.volumes.len()).max(1);
        let told = others.into_iter().filter_map(|leg| self.inherited(leg, most)).collect();
        let mut word = SnapshotWord::Heritage(told).encode();
        if word.len() > WORD_BYTES_MAX {
            word = SnapshotWord::Heritage(Vec::new()).encode();
        }
        out.push(Effect::Post { leg: to, message: Message::Snapshot(word) });
    }

    fn inherited(&self, leg: &Leg, most: usize) -> Option<Inherited> {
        let mut maps = leg.dirty.clone();
        for (volume, range) in leg.at_risk() {
            maps[volume].insert(range);
        }
        // A suspect that is merged with what surely differs is compared, and copied after all.
        let ranges = |maps: Vec<DirtyMap>| -> Vec<BlockSet> {
            let maps = self.volumes.iter().zip(maps);
            let maps = maps.map(|(volume, map)| Differences::new(volume.id, map, None));
            maps.map(|map| map.ranges(most).blocks).collect()
        };
        let gateway = self.me?;
        let us = Predecessor { gateway, epoch: self.epoch };
        Some(Inherited {
            gateway: leg.gateway,
            site: leg.site.clone(),
            sessions: leg.sessions.clone(),
            policy: leg.policy.clone(),
            wanted: leg.wanted,
            suspended: leg.suspended,
            awaiting_reprotect: leg.awaiting_reprotect,
            base: leg.base?,
            heir_of: leg.heir_of.unwrap_or(us),
            lacks: ranges(maps),
            suspects: ranges(leg.suspects.clone()),
        })
    }

    // --- at the mirror that takes over ---

    pub(super) fn told_heritage(&mut self, mirrors: Vec<Inherited>) {
        if let Some(upstream) = &mut self.upstream {
            upstream.heritage = mirrors;
        }
    }

    /// The mirrors of the old primary become ours, as they were to it. Returns what is recorded of
    /// them beside the rest.
    pub(super) fn take_heritage(&mut self) -> Records {
        let upstream = self.upstream.as_mut();
        let told = upstream.map(|upstream| std::mem::take(&mut upstream.heritage));
        let mut records = Records::new();
        for mirror in told.unwrap_or_default() {
            let free = LegId::all().filter(|id| self.leg(*id).is_none());
            // The last one is the old primary's.
            let [id, _] = free.take(2).collect::<Vec<_>>()[..] else { break };
            if self.can_inherit(&mirror) {
                let mark = heir_key(self.group, mirror.gateway);
                records.push((mark, Some(heir_record(mirror.heir_of))));
                self.legs[id.index()] = Some(Box::new(self.inherit(id, mirror)));
            }
        }
        records
    }

    fn can_inherit(&self, mirror: &Inherited) -> bool {
        let volumes = self.volumes.len();
        let known = self.legs.iter().flatten().any(|leg| leg.gateway == mirror.gateway);
        let ours = [self.me, self.source()].contains(&Some(mirror.gateway));
        let has_base = self.lineage.as_ref().is_some_and(|lineage| lineage.has(mirror.base));
        let lists = [mirror.sessions.len(), mirror.lacks.len(), mirror.suspects.len()];
        let fits = lists.iter().all(|len| *len == volumes);
        fits && has_base && !known && !ours
    }

    /// What was recorded of a mirror that was inherited.
    pub(crate) fn restore_heir(&mut self, gateway: GatewayId, heir_of: Option<Predecessor>) {
        let mut legs = self.legs.iter_mut().flatten();
        if let Some(leg) = legs.find(|leg| leg.gateway == gateway) {
            leg.heir_of = heir_of;
        }
    }

    /// The mirror recorded that this gateway opened it: from now on it is known by that.
    pub(super) fn end_heritage(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        let gateway = state.gateway;
        if state.heir_of.take().is_some() {
            let mark = heir_key(self.group, gateway);
            self.keep_with(After::Nothing, vec![(mark, None)], out);
        }
    }

    /// A mirror that counts from where it did for the old primary.
    fn inherit(&self, id: LegId, mirror: Inherited) -> Leg {
        let Inherited { gateway, site, sessions, policy, .. } = mirror;
        let peer = UpstreamRecord { gateway, site, sessions, policy: None };
        let mut leg = Leg::new(id, peer, policy, self.volumes.len());
        let told = self.volumes.iter().zip(mirror.lacks.iter().zip(&mirror.suspects));
        for (index, (volume, (lacks, suspects))) in told.enumerate() {
            // What lies behind the end of the volume is nobody's, however far a peer counts.
            let end = volume.geometry.whole().blocks().end();
            let within = |range: &BlockRange| BlockRange::new(range.first(), range.end().min(end));
            lacks.iter().for_each(|range| leg.dirty[index].insert(within(range)));
            suspects.iter().for_each(|range| leg.suspects[index].insert(within(range)));
        }
        leg.base = Some(mirror.base);
        leg.heir_of = Some(mirror.heir_of);
        leg.wanted = mirror.wanted;
        leg.suspended = mirror.suspended;
        leg.awaiting_reprotect = mirror.awaiting_reprotect;
        (leg.state, leg.cause) = if leg.is_recorded_resting() {
            (SessionState::Active, None)
        } else if leg.wanted {
            (SessionState::Halted, None)
        } else if leg.awaiting_reprotect {
            (SessionState::Halted, Some(Cause::AwaitingReprotect))
        } else {
            (SessionState::Suspended, Some(Cause::Operator))
        };
        leg
    }

    // --- at the other mirror ---

    /// Whether whoever opens the group here knows what the primary knew that opened it last.
    pub(super) fn is_heir(&self, open: &Open) -> bool {
        let last = self.source().map(|gateway| Predecessor { gateway, epoch: self.epoch });
        self.role == Role::Secondary && last.is_some() && open.heir_of == last
    }
}
