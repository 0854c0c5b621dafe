//! Verification: every mapped block of an in-sync mirror is compared with the copy here, while
//! hosts go on.
//!
//! ```text
//!   begin ─▶ listing (here and there) ─▶ comparing, a few blocks at a time ─▶ certificate
//! ```
//!
//! Invariant: a block counts as compared only when both sides read it while its range lock was
//! held, so that no change of it was under way. What differs becomes dirty, and the copier repairs
//! it from here: the primary's copy is the group's content by definition. A certificate is given
//! only for a run that reached its end on one link.

use block::{BlockRange, BlockSet, LegId, Message, Seq};

use super::leg::{Copy, Leg, Stage};
use super::{Effect, Machine, Role};
use crate::command::Refusal;
use crate::dirty::DirtyMap;
use crate::locks::Holder;
use crate::status::{Verified, Verifying};

/// Comparisons under way for a leg. Two keep a link of 1 ms at 128 MiB/s, and leave the other slots
/// to the copier.
const COMPARISONS_MAX: usize = 2;
/// Blocks in one comparison: 64 KiB, so that hosts wait for their range for less than a
/// millisecond's worth of reading.
const VERIFY_BLOCKS: u64 = 16;
/// The protocol version that can ask what is mapped.
const VERSION_LIST: u16 = 2;

/// One verification of one mirror.
#[derive(Debug)]
pub(crate) struct Verification {
    /// What is left to compare, by volume.
    left: Vec<DirtyMap>,
    /// Volumes whose map at the mirror is not here yet.
    awaited: Vec<bool>,
    /// Whether the maps here are not listed yet.
    listing: bool,
    bytes_per_second: u64,
    /// Bytes that may be compared now.
    budget: u64,
    found: Verifying,
    unreadable: u64,
}

impl Verification {
    fn new(volumes: usize, bytes_per_second: u64) -> Self {
        Self {
            left: vec![DirtyMap::default(); volumes],
            awaited: vec![true; volumes],
            listing: true,
            bytes_per_second,
            budget: 0,
            found: Verifying { total: 0, done: 0, mismatched: 0 },
            unreadable: 0,
        }
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> Verifying {
        Verifying { total: self.found.done + self.left_blocks(), ..self.found }
    }

    fn left_blocks(&self) -> u64 {
        self.left.iter().map(DirtyMap::bytes).sum::<u64>() / block::BLOCK_BYTES
    }

    fn is_listed(&self) -> bool {
        !self.listing && !self.awaited.contains(&true)
    }

    fn next(&mut self) -> Option<(usize, BlockRange)> {
        let mut volumes = self.left.iter_mut().enumerate();
        let (volume, run, map) = volumes.find_map(|(volume, map)| {
            map.next_run(0, VERIFY_BLOCKS).map(|run| (volume, run, map))
        })?;
        map.remove(run);
        Some((volume, run))
    }
}

impl Leg {
    /// The maps here are listed.
    pub(super) fn add_to_verification(&mut self, mapped: &[BlockSet]) {
        let Some(verify) = &mut self.verify else { return };
        for (left, ranges) in verify.left.iter_mut().zip(mapped) {
            ranges.iter().for_each(|range| left.insert(*range));
        }
        verify.listing = false;
    }
}

impl Machine {
    pub(super) fn begin_verification(
        &mut self,
        leg: LegId,
        bytes_per_second: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.require_primary()?;
        let volumes = self.volumes.len();
        let state = self.leg_mut(leg).ok_or(Refusal::Unknown)?;
        if state.stage != Stage::InSync {
            return Err(Refusal::NotInSync);
        }
        if state.version < VERSION_LIST {
            return Err(Refusal::PeerTooOld { theirs: state.version, needs: VERSION_LIST });
        }
        if let Some(verify) = &mut state.verify {
            // It goes on, at the pace that was asked for last.
            verify.bytes_per_second = bytes_per_second;
        } else {
            state.verify = Some(Verification::new(volumes, bytes_per_second));
            for volume in 0..volumes {
                let volume = u16::try_from(volume).expect("a group has few volumes");
                out.push(Effect::Post { leg, message: Message::List { volume } });
            }
            out.push(Effect::List { leg });
        }
        self.finish_command(Ok(()), out);
        Ok(())
    }

    /// A mirror says what is mapped there.
    pub(super) fn on_mapped_there(
        &mut self,
        leg: LegId,
        volume: u16,
        blocks: &BlockSet,
        last: bool,
    ) {
        let volume = usize::from(volume);
        if self.on_mapped_to_compare(leg, (volume, blocks), last) {
            return;
        }
        let end = self.volumes.get(volume).map_or(0, |v| v.geometry.whole().blocks().end());
        let Some(verify) = self.leg_mut(leg).and_then(|state| state.verify.as_mut()) else {
            return;
        };
        let Some(left) = verify.left.get_mut(volume) else { return };
        for range in blocks {
            // What a longer copy has beyond our end is not the group's.
            let range = BlockRange::new(range.first().min(end), range.end().min(end));
            left.insert(range);
        }
        verify.awaited[volume] &= !last;
    }

    /// Time passed: more may be compared. What was not used within a second is not saved up.
    pub(super) fn pace_verification(&mut self, leg: LegId, passed_ms: u64) {
        let Some(verify) = self.leg_mut(leg).and_then(|state| state.verify.as_mut()) else {
            return;
        };
        let more = verify.bytes_per_second.saturating_mul(passed_ms) / 1_000;
        let most = verify.bytes_per_second.max(VERIFY_BLOCKS * block::BLOCK_BYTES);
        verify.budget = verify.budget.saturating_add(more).min(most);
    }

    /// Starts as many comparisons as there is room and budget for; ends a run that has no more.
    pub(super) fn fill_verification(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        if self.role != Role::Primary {
            return;
        }
        loop {
            let Some(state) = self.leg_mut(leg) else { return };
            let Some(verify) = &mut state.verify else { return };
            if state.stage != Stage::InSync || !verify.is_listed() {
                return;
            }
            let busy = state.copies.iter().flatten().filter(|copy| copy.verify).count();
            if (busy >= COMPARISONS_MAX || verify.budget < VERIFY_BLOCKS * block::BLOCK_BYTES)
                && (busy > 0 || verify.left_blocks() > 0)
            {
                return;
            }
            let Some(slot) = state.copies.iter().position(Option::is_none) else { return };
            let Some((volume, run)) = verify.next() else {
                if busy == 0 {
                    self.certify(leg, out);
                }
                return;
            };
            let whole = self.volumes[volume].geometry.whole();
            let extent = run.extent().and_then(|extent| extent.intersection(whole));
            let state = self.leg_mut(leg).expect("checked above");
            let Some(extent) = extent else { continue };
            if let Some(verify) = &mut state.verify {
                verify.budget = verify.budget.saturating_sub(extent.len());
            }
            let (seq, sent, locked) = (Seq::ZERO, false, true);
            let (compare, verify) = (true, true);
            let copy = Copy { seq, volume, extent, sent, locked, compare, verify };
            state.copies[slot] = Some(copy);
            self.begin_copy(leg, slot, out);
        }
    }

    /// Both sides read these blocks.
    pub(super) fn verified(
        &mut self,
        (leg, copy): (LegId, u8),
        (volume, blocks): (usize, BlockRange),
        differs: &BlockSet,
        out: &mut Vec<Effect>,
    ) {
        let Some(state) = self.leg_mut(leg) else { return };
        let mut different = 0;
        for range in differs {
            let first = range.first().clamp(blocks.first(), blocks.end());
            let range = BlockRange::new(first, range.end().clamp(first, blocks.end()));
            state.dirty[volume].insert(range);
            different += range.count();
        }
        state.mismatched[volume] += different;
        if let Some(verify) = &mut state.verify {
            verify.found.done += blocks.count();
            verify.found.mismatched += different;
        }
        if different > 0 {
            out.push(Effect::Note(super::Note::Mismatch { leg, volume, blocks: different }));
        }
        self.unlock(volume, blocks, Holder::Copy(leg, copy), out);
    }

    /// The blocks cannot be read here. The mirror's may be the only good ones: they stay.
    pub(super) fn unverifiable(
        &mut self,
        (leg, copy): (LegId, u8),
        placed: Copy,
        out: &mut Vec<Effect>,
    ) {
        let blocks = placed.extent.blocks();
        let Some(state) = self.leg_mut(leg) else { return };
        state.copies[usize::from(copy)] = None;
        // It was never sent: nothing will acknowledge it.
        let holder = Holder::Copy(leg, copy);
        if let Some(at) = state.inflight.iter().position(|i| i.holder == Some(holder) && !i.acked) {
            let seq = state.inflight[at].seq;
            state.acknowledge(seq);
        }
        if let Some(verify) = &mut state.verify {
            verify.found.done += blocks.count();
            verify.unreadable += blocks.count();
        }
        self.unlock(placed.volume, blocks, holder, out);
    }

    fn certify(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let epoch = self.epoch;
        let generation = self.lineage.as_ref().expect("a primary has a history").current;
        let Some(verify) = self.leg_mut(leg).and_then(|state| state.verify.take()) else { return };
        let found = Verified {
            at_ms: 0,
            epoch,
            generation,
            blocks: verify.found.done,
            mismatched: verify.found.mismatched,
            unreadable: verify.unreadable,
        };
        out.push(Effect::Certify { leg, found });
    }
}
