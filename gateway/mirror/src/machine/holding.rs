//! A mirror that holds the content already, or most of it: an operator says so, because it was restored or
//! shipped there; or it has a history in common with the primary, and nobody knows where they went
//! apart, as after a failover with several mirrors.
//!
//! ```text
//!   opened ─▶ what is mapped here, and there ─▶ every such block compared ─▶ what differs copied
//! ```
//!
//! Invariant: what is said to be there saves the sending and nothing else. Every block that is mapped
//! on either side is compared, under its range lock, before the mirror counts; a link that ends in
//! between begins it anew. The mirror keeps a snapshot of what it holds before it lets the first
//! change in (rule 10). What the mirror is worth is recorded there as it is for one that is copied.

use block::{BlockRange, BlockSet, DirtyReport, LegId, Message, Open};

use super::compare::Need;
use super::leg::{Leg, Stage};
use super::secondary::Own;
use super::{Effect, Machine};
use crate::lineage::{Lineage, Relation, relate};

/// The lists that a comparison begins with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// Volumes whose map at the mirror is not here yet.
    awaited: Vec<bool>,
    /// Whether the maps here are listed.
    here: bool,
}

impl Leg {
    /// The blocks may be the same on both sides.
    fn suspect(&mut self, volume: usize, range: BlockRange) {
        self.suspects[volume].insert(range);
        self.dirty[volume].insert(range);
    }

    /// What is mapped here is listed, if this mirror is to be compared.
    pub(super) fn add_to_comparison(&mut self, mapped: &[BlockSet]) {
        let Some(listing) = &mut self.listing else { return };
        listing.here = true;
        for (volume, ranges) in mapped.iter().enumerate() {
            ranges.iter().for_each(|range| self.suspect(volume, *range));
        }
    }

    /// Whether everything is listed that there is to list.
    pub(super) fn is_listed(&self) -> bool {
        self.listing.as_ref().is_none_or(|listing| listing.here && !listing.awaited.contains(&true))
    }
}

impl Machine {
    /// Everything is copied whole, or compared; what is recorded of volumes that are new says no more
    /// than that.
    pub(super) fn begin_whole(&mut self, leg: LegId, need: Need, out: &mut Vec<Effect>) {
        let volumes = self.volumes.len();
        let state = self.leg_mut(leg).expect("the caller has it");
        state.compares = state.holds_content || need == Need::Compared;
        let compares = state.compares;
        let wipe = need == Need::Full { wipe: true } && !compares;
        state.base = None;
        state.dirty.iter_mut().for_each(crate::dirty::DirtyMap::clear);
        state.suspects.iter_mut().for_each(crate::dirty::DirtyMap::clear);
        state.wipe = if wipe { (0..volumes).collect() } else { Vec::new() };
        state.stage = Stage::Listing;
        // What is being written now may not be mapped yet when the map is listed.
        for (volume, range) in self.writes.flying() {
            self.leg_mut(leg).expect("the caller has it").dirty[volume].insert(range);
        }
        if compares {
            self.begin_comparison(leg, out);
        }
        out.push(Effect::List { leg });
    }

    /// The mirror was opened: what it holds is compared in place of being emptied.
    fn begin_comparison(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let volumes = self.volumes.len();
        let Some(state) = self.leg_mut(leg) else { return };
        state.listing = Some(Listing { awaited: vec![true; volumes], here: false });
        for volume in 0..volumes {
            let volume = u16::try_from(volume).expect("a group has few volumes");
            out.push(Effect::Post { leg, message: Message::List { volume } });
        }
    }

    /// The mirror says what is mapped there; says whether that was asked for a comparison.
    pub(super) fn on_mapped_to_compare(
        &mut self,
        leg: LegId,
        (volume, blocks): (usize, &BlockSet),
        last: bool,
    ) -> bool {
        let end = self.volumes.get(volume).map_or(0, |v| v.geometry.whole().blocks().end());
        let Some(state) = self.leg_mut(leg) else { return false };
        let Some(listing) = &mut state.listing else { return false };
        if let Some(awaited) = listing.awaited.get_mut(volume) {
            *awaited &= !last;
            for range in blocks {
                // What a longer copy has beyond our end is not the group's.
                let range = BlockRange::new(range.first().min(end), range.end().min(end));
                state.suspect(volume, range);
            }
        }
        self.begin_copying_when_listed(leg);
        true
    }

    // --- at the mirror ---

    /// How many bytes at most the primary may overwrite that only this copy has, if there may be
    /// anything and an operator allowed it (rule 10). A copy that does not know in what it differs
    /// may have any number of them.
    pub(super) fn discards(
        &self,
        open: &Open,
        (differs, is_known): (&[DirtyReport], bool),
    ) -> Option<Own> {
        let ours = self.lineage.as_ref().filter(|_| open.discard)?;
        let theirs = Lineage::new(open.generation, open.ancestors.clone());
        let behind = matches!(relate(&theirs, Some(ours)), Relation::Behind { .. });
        let blocks = differs.iter().flat_map(|report| &report.blocks).map(|range| range.count());
        let bytes = blocks.sum::<u64>() * block::BLOCK_BYTES;
        let own = if is_known || bytes > 0 { Own::Bytes(bytes) } else { Own::Unknown };
        (!behind || own != Own::Bytes(0)).then_some(own)
    }

    /// What the primary would overwrite first of content that no snapshot can keep, in words.
    pub(super) fn first_difference(&self) -> String {
        let first = self.upstream.as_ref().and_then(super::secondary::Upstream::first_waiting);
        let Some(change) = first else { return "the store here keeps no snapshots".to_owned() };
        let what = if change.resync { "differs" } else { "would be overwritten by a host" };
        format!(
            "what volume {} holds here {what} from byte {} on, and the store here keeps no snapshot \
             of it: nothing was overwritten",
            self.volumes[change.volume].name,
            change.extent.offset()
        )
    }
}
