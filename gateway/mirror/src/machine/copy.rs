//! The resync copier: brings a mirror the blocks that it may lack, while hosts go on.
//!
//! Invariant (rule 2): a copy holds the range lock from before the read until the mirror's
//! acknowledgement, so that it never overwrites a newer write. Where changes go through a send
//! journal it holds it until it has its place there: what is newer comes behind it.

use block::{BLOCK_BYTES, BlockRange, BlockSet, Extent, IoError, LegId, Seq};

use super::leg::{Copy, InFlight, Stage};
use super::{Effect, Machine};
use crate::locks::Holder;
use crate::status::{Cause, SessionState};

/// Copies under way per leg. Eight of 256 KiB keep a link of 1 ms and 10 Gbit/s busy without
/// holding more than 2 MiB away from hosts.
pub(crate) const COPIES_MAX: usize = 8;
/// Blocks in one copy: 256 KiB.
pub(crate) const COPY_BLOCKS: u64 = 64;

impl Machine {
    /// Starts as many copies as there is room for.
    pub(super) fn fill_copies(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let half = self.journal.memory_bytes / 2;
        let Some(state) = self.leg_mut(leg) else { return };
        let copies = matches!(state.stage, Stage::Copying | Stage::InSync | Stage::Following);
        if !copies || state.is_clean() {
            self.fill_verification(leg, out);
            return;
        }
        // A journal that fills is for the hosts' changes: what is dirty can wait.
        if state.journaled && state.backlog_bytes() > half {
            return;
        }
        for slot in 0..COPIES_MAX {
            let state = self.leg_mut(leg).expect("checked above");
            if state.copies[slot].is_some() {
                continue;
            }
            if state.is_held_back() {
                return;
            }
            let room = self.room_for_copy(leg);
            if room == 0 {
                return;
            }
            let Some((volume, extent, compare)) = self.next_copy(leg, room) else { return };
            let state = self.leg_mut(leg).expect("checked above");
            let (seq, sent, locked) = (Seq::ZERO, false, true);
            let verify = false;
            state.copies[slot] = Some(Copy { seq, volume, extent, sent, locked, compare, verify });
            self.begin_copy(leg, slot, out);
        }
    }

    /// Takes the range of a copy that was put into this slot; it is sent as soon as it has it.
    pub(super) fn begin_copy(&mut self, leg: LegId, slot: usize, out: &mut Vec<Effect>) {
        let placed = self.leg(leg).and_then(|state| state.copies[slot]);
        let Copy { volume, extent, .. } = placed.expect("the caller placed it");
        let copy = u8::try_from(slot).expect("there are few slots");
        let holder = Holder::Copy(leg, copy);
        if self.volumes[volume].locks.acquire(extent.blocks(), holder) {
            self.send_copy(leg, copy, out);
        }
    }

    /// The next blocks to copy. A wipe goes alone: nothing is copied before it is done.
    fn next_copy(&mut self, leg: LegId, blocks_max: u64) -> Option<(usize, Extent, bool)> {
        let volumes = self.volumes.len();
        let whole: Vec<Extent> = self.volumes.iter().map(|v| v.geometry.whole()).collect();
        let state = self.leg_mut(leg)?;
        if let Some(volume) = state.wipe.first() {
            return (!state.has_copies()).then(|| (*volume, whole[*volume], false));
        }
        loop {
            let (volume, from) = state.cursor;
            if volume >= volumes {
                // Around again only when nothing is under way, or the same blocks would be found.
                if state.has_copies() || state.dirty.iter().all(|d| d.is_empty()) {
                    return None;
                }
                state.cursor = (0, 0);
                continue;
            }
            let Some(run) = state.dirty[volume].next_run(from, blocks_max) else {
                state.cursor = (volume + 1, 0);
                continue;
            };
            // A run is compared or copied, not both: it ends where the other kind begins.
            let suspect = state.suspects[volume].next_run(run.first(), blocks_max);
            let compare = suspect.is_some_and(|suspect| suspect.first() == run.first());
            let border = suspect.map_or(u64::MAX, |s| if compare { s.end() } else { s.first() });
            let run = BlockRange::new(run.first(), run.end().min(border));
            state.cursor = (volume, run.end());
            let extent = run.extent().and_then(|extent| extent.intersection(whole[volume]));
            match extent {
                Some(extent) => return Some((volume, extent, compare)),
                None => state.dirty[volume].remove(run),
            }
        }
    }

    /// Whether a copy is still to be sent once it has its range.
    pub(super) fn waits_to_be_sent(&self, leg: LegId, copy: u8) -> bool {
        let placed = self.leg(leg).and_then(|state| state.copies[usize::from(copy)]);
        placed.is_some_and(|placed| !placed.sent)
    }

    /// The copy has its range: read it here, send it there.
    pub(super) fn send_copy(&mut self, leg: LegId, copy: u8, out: &mut Vec<Effect>) {
        let seq = self.next_seq();
        let now_ms = self.now_ms;
        let state = self.leg_mut(leg).expect("a copy that waits belongs to a leg");
        let slot = state.copies[usize::from(copy)].as_ref().expect("a copy that waits exists");
        let (volume, extent) = (slot.volume, slot.extent);
        let journaled = state.journaled;
        // What is on its way there would be compared too early: it is copied without asking.
        let early = journaled && state.is_under_way(volume, extent.blocks());
        let compare = slot.compare && !early;
        let slot = state.copies[usize::from(copy)].as_mut().expect("a copy that waits exists");
        (slot.seq, slot.sent, slot.compare) = (seq, true, compare);
        let verify = slot.verify;
        let wipe = state.wipe.first() == Some(&volume);
        let bytes = if wipe || compare { 0 } else { extent.len() };
        state.inflight.push_back(InFlight {
            seq,
            holder: Some(Holder::Copy(leg, copy)),
            volume,
            whole: extent.blocks(),
            bytes,
            at_ms: now_ms,
            acked: false,
        });
        state.inflight_bytes += bytes;
        if !verify {
            /// Of each block, its checksum.
            const SUM_BYTES: u64 = 4;
            let sums = if compare { extent.blocks().count() * SUM_BYTES } else { 0 };
            state.spend(bytes + sums);
        }
        if wipe {
            let change = block::Change::Zero { may_trim: true };
            let index = u16::try_from(volume).expect("a group has few volumes");
            let message = block::Message::Change {
                seq,
                volume: index,
                extent,
                change,
                fua: false,
                resync: true,
            };
            out.push(Effect::Post { leg, message });
            if journaled {
                self.on_copy_queued(leg, copy, seq, out);
            }
            return;
        }
        if verify {
            // Changes nothing there, so there is nothing that could be lost.
            out.push(Effect::Copy { leg, copy, seq, volume, extent, compare });
            return;
        }
        // What is found to be the same may be so only in the mirror's memory.
        state.undurable.push_back((seq, volume, extent.blocks()));
        out.push(Effect::Copy { leg, copy, seq, volume, extent, compare });
    }

    /// The copy has its place in the send journal: what hosts write there now comes behind it.
    pub(super) fn on_copy_queued(&mut self, leg: LegId, copy: u8, seq: Seq, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        let Some(queued) = state.copies[usize::from(copy)].as_mut() else { return };
        if queued.seq != seq || !std::mem::take(&mut queued.locked) {
            return;
        }
        let (volume, range) = (queued.volume, queued.extent.blocks());
        self.unlock(volume, range, Holder::Copy(leg, copy), out);
    }

    /// The mirror has the blocks.
    pub(super) fn copy_done(
        &mut self,
        leg: LegId,
        copy: u8,
        whole: BlockRange,
        out: &mut Vec<Effect>,
    ) {
        let Some(state) = self.leg_mut(leg) else { return };
        let Some(done) = state.copies[usize::from(copy)].take() else { return };
        assert!(!done.compare, "the caller sent away who acknowledges a question");
        if state.wipe.first() == Some(&done.volume) {
            state.wipe.remove(0);
        } else {
            // Nothing, if the blocks were spoilt here since they were read.
            state.dirty[done.volume].remove(whole);
            state.suspects[done.volume].remove(whole);
            state.progress.copied_bytes[done.volume] += done.extent.len();
        }
        if done.locked {
            self.unlock(done.volume, done.extent.blocks(), Holder::Copy(leg, copy), out);
        }
    }

    /// The mirror compared: what is the same is done, what differs is copied next.
    pub(super) fn on_compared(
        &mut self,
        leg: LegId,
        seq: Seq,
        differs: &BlockSet,
        out: &mut Vec<Effect>,
    ) {
        let Some(state) = self.leg_mut(leg) else { return };
        let done = state.acknowledge(seq).and_then(|inflight| inflight.holder);
        let Some(Holder::Copy(_, copy)) = done else { return };
        let Some(done) = state.copies[usize::from(copy)].take() else { return };
        let (volume, blocks) = (done.volume, done.extent.blocks());
        if done.verify {
            self.verified((leg, copy), (volume, blocks), differs, out);
            return;
        }
        state.suspects[volume].remove(blocks);
        state.dirty[volume].remove(blocks);
        let mut different = 0;
        for range in differs {
            let first = range.first().clamp(blocks.first(), blocks.end());
            let range = BlockRange::new(first, range.end().min(blocks.end()));
            state.dirty[volume].insert(range);
            different += range.count();
        }
        let same = blocks.count().saturating_sub(different) * BLOCK_BYTES;
        let copied = state.progress.copied_bytes[volume];
        let total = &mut state.progress.total_bytes[volume];
        *total = total.saturating_sub(same).max(copied);
        // The cursor stays: going back would find again what other copies are busy with. It comes
        // around when they are done.
        if done.locked {
            self.unlock(volume, blocks, Holder::Copy(leg, copy), out);
        }
    }

    /// The blocks cannot be read here: the mirror cannot be brought up to date.
    pub(super) fn on_copy_failed(
        &mut self,
        leg: LegId,
        copy: u8,
        error: IoError,
        out: &mut Vec<Effect>,
    ) {
        if self.is_relay(leg) {
            self.relay_copy_failed(leg, error, out);
            return;
        }
        let placed = self.leg(leg).and_then(|state| state.copies[usize::from(copy)]);
        if let Some(placed) = placed.filter(|placed| placed.verify) {
            self.unverifiable((leg, copy), placed, out);
        } else if placed.is_some() {
            let cause = Cause::Refused(format!("cannot read the source: {error}"));
            self.lose_leg(leg, cause, SessionState::Error, out);
        }
    }

    /// The leg was lost: its copies end here, their ranges are given back.
    pub(super) fn drop_copies(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        let copies = std::mem::take(&mut state.copies);
        let holders = (0u8..).map(|index| Holder::Copy(leg, index));
        let copies: Vec<_> = copies
            .iter()
            .zip(holders)
            .filter_map(|(copy, holder)| copy.map(|c| (c, holder)))
            .collect();
        // Those that wait go first: a range that is given back must not wake one of them.
        for (copy, holder) in copies.iter().filter(|(copy, _)| !copy.sent) {
            if !self.withdraw(copy.volume, *holder, out) {
                // It was just let through, and not sent yet.
                self.unlock(copy.volume, copy.extent.blocks(), *holder, out);
            }
        }
        for (copy, holder) in copies.iter().filter(|(copy, _)| copy.sent && copy.locked) {
            self.unlock(copy.volume, copy.extent.blocks(), *holder, out);
        }
    }
}
