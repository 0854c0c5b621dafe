//! The resync copier: brings a mirror the blocks that it may lack, while hosts go on.
//!
//! Invariant (rule 2): a copy holds the range lock from before the read until the mirror's
//! acknowledgement, so that it never overwrites a newer write.

use block::{Extent, IoError, LegId};

use super::leg::{Copy, InFlight, Stage};
use super::{Effect, Machine};
use crate::locks::Holder;
use crate::status::{Cause, SessionState};

/// Copies under way per leg. Eight of 256 KiB keep a link of 1 ms and 10 Gbit/s busy without
/// holding more than 2 MiB away from hosts.
pub(crate) const COPIES_MAX: usize = 8;
/// Blocks in one copy: 256 KiB.
const COPY_BLOCKS: u64 = 64;

impl Machine {
    /// Starts as many copies as there is room for.
    pub(super) fn fill_copies(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        if state.is_clean() || !matches!(state.stage, Stage::Copying | Stage::InSync) {
            return;
        }
        for slot in 0..COPIES_MAX {
            let state = self.leg_mut(leg).expect("checked above");
            if state.copies[slot].is_some() {
                continue;
            }
            let Some((volume, extent)) = self.next_copy(leg) else { return };
            let state = self.leg_mut(leg).expect("checked above");
            state.copies[slot] = Some(Copy { volume, extent, sent: false });
            let copy = u8::try_from(slot).expect("there are few slots");
            let holder = Holder::Copy(leg, copy);
            if self.volumes[volume].locks.acquire(extent.blocks(), holder) {
                self.send_copy(leg, copy, out);
            }
        }
    }

    /// The next blocks to copy. A wipe goes alone: nothing is copied before it is done.
    fn next_copy(&mut self, leg: LegId) -> Option<(usize, Extent)> {
        let volumes = self.volumes.len();
        let whole: Vec<Extent> = self.volumes.iter().map(|v| v.geometry.whole()).collect();
        let state = self.leg_mut(leg)?;
        if let Some(volume) = state.wipe.first() {
            return (!state.has_copies()).then(|| (*volume, whole[*volume]));
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
            let Some(run) = state.dirty[volume].next_run(from, COPY_BLOCKS) else {
                state.cursor = (volume + 1, 0);
                continue;
            };
            state.cursor = (volume, run.end());
            let extent = run.extent().and_then(|extent| extent.intersection(whole[volume]));
            match extent {
                Some(extent) => return Some((volume, extent)),
                None => state.dirty[volume].remove(run),
            }
        }
    }

    /// The copy has its range: read it here, send it there.
    pub(super) fn send_copy(&mut self, leg: LegId, copy: u8, out: &mut Vec<Effect>) {
        let seq = self.next_seq();
        let now_ms = self.now_ms;
        let state = self.leg_mut(leg).expect("a copy that waits belongs to a leg");
        let slot = state.copies[usize::from(copy)].as_mut().expect("a copy that waits exists");
        slot.sent = true;
        let (volume, extent) = (slot.volume, slot.extent);
        let wipe = state.wipe.first() == Some(&volume);
        state.inflight.push_back(InFlight {
            seq,
            holder: Holder::Copy(leg, copy),
            bytes: if wipe { 0 } else { extent.len() },
            at_ms: now_ms,
            acked: false,
        });
        if wipe {
            let change = block::Change::Zero { may_trim: true };
            let volume = u16::try_from(volume).expect("a group has few volumes");
            let message =
                block::Message::Change { seq, volume, extent, change, fua: false, resync: true };
            out.push(Effect::Post { leg, message });
            return;
        }
        state.inflight_bytes += extent.len();
        state.undurable.push_back((seq, volume, extent.blocks()));
        out.push(Effect::Copy { leg, copy, seq, volume, extent });
    }

    /// The mirror has the blocks.
    pub(super) fn copy_done(&mut self, leg: LegId, copy: u8, out: &mut Vec<Effect>) {
        let Some(state) = self.leg_mut(leg) else { return };
        let Some(done) = state.copies[usize::from(copy)].take() else { return };
        if state.wipe.first() == Some(&done.volume) {
            state.wipe.remove(0);
        } else {
            state.dirty[done.volume].remove(done.extent.blocks());
            state.progress.copied_bytes[done.volume] += done.extent.len();
        }
        self.unlock(done.volume, done.extent.blocks(), Holder::Copy(leg, copy), out);
    }

    /// The blocks cannot be read here: the mirror cannot be brought up to date.
    pub(super) fn on_copy_failed(
        &mut self,
        leg: LegId,
        copy: u8,
        error: IoError,
        out: &mut Vec<Effect>,
    ) {
        let under_way =
            self.leg(leg).is_some_and(|state| state.copies[usize::from(copy)].is_some());
        if under_way {
            let cause = Cause::Refused(format!("cannot read the source: {error}"));
            self.lose_leg(leg, cause, SessionState::Error, out);
        }
    }

    /// The leg was lost: its copies end here, their ranges are given back.
    pub(super) fn drop_copies(&mut self, leg: LegId, out: &mut Vec<Effect>) {
        for slot in 0..COPIES_MAX {
            let Some(state) = self.leg_mut(leg) else { return };
            let Some(copy) = state.copies[slot].take() else { continue };
            let index = u8::try_from(slot).expect("there are few slots");
            let holder = Holder::Copy(leg, index);
            if copy.sent {
                self.unlock(copy.volume, copy.extent.blocks(), holder, out);
            } else {
                self.withdraw(copy.volume, holder, out);
            }
        }
    }
}
