//! Room that is taken before it is needed.
//!
//! Invariant: what is ready holds nothing and is named by no record. After a crash it is taken
//! again before anything else is, so that no more than one volume's share ever lies idle; a
//! checkpoint knows it as free, and what opens the volume next gives it back.

use std::io;
use std::sync::Arc;

use block::{IoError, SLOT_BYTES};

use crate::executor::Lane;
use crate::medium::Room;

use super::Inner;
use super::data::{self, Place};
use super::lanes::Done;

/// Room (64 MiB) that a medium must have to spare before any of it is taken ahead: a pool that is
/// nearly full keeps what it has for what is written.
const SPARE_BYTES_MIN: u64 = 1024 * SLOT_BYTES;
/// On a large medium it is this part of it: from there on a slot takes the blocks that it holds, so that
/// volumes of which little is written in many places do not fill it sixteen times as fast.
const SPARE_SHARE: u64 = 10;

fn has_to_spare(room: &Room) -> bool {
    let spare = SPARE_BYTES_MIN.max(room.total / SPARE_SHARE);
    room.free.saturating_sub(room.reserve()) >= spare
}

// === impl Inner ===

impl Inner {
    /// Takes a slot for a write of less than a slot. One that fills its slot needs none that is
    /// ready: it pays once for as many blocks as it writes.
    pub(super) fn take_slot_for_part(&mut self) -> Result<u64, IoError> {
        let taken = match self.slots.take_ready() {
            Some(slot) => Ok(slot),
            None => self.take_slot(),
        };
        self.make_ready();
        taken
    }

    /// Lets a worker give room to the slots that will be needed next.
    fn make_ready(&mut self) {
        let Some(slots) = self.slots.begin_ready() else { return };
        for slot in &slots {
            // What cannot be made is told by the write that needs it.
            if self.data.for_writing(Place::of(*slot, 0)).is_err() {
                return self.slots.readied(Ok(false));
            }
        }
        let files = self.data.of_slots(&slots);
        let dir = Arc::clone(&self.dir);
        self.run_in(Lane::Write, move || {
            let allocate = || -> io::Result<bool> {
                if !has_to_spare(&dir.room()?) {
                    return Ok(false);
                }
                data::allocate(&files, &slots).map(|()| true)
            };
            Done::Readied(allocate())
        });
    }

    /// A worker has tried.
    pub(super) fn readied(&mut self, result: io::Result<bool>) {
        let result = result.map_err(|error| {
            // Nothing depends on it: writes take their room themselves.
            tracing::debug!(%error, "take room ahead");
        });
        self.slots.readied(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_a_large_medium_and_a_little_of_a_small_one_are_left_to_what_is_written() {
        const GIB: u64 = 1 << 30;
        let has = |total, free| has_to_spare(&Room { total, free });
        assert!(has(1000 * GIB, 101 * GIB) && !has(1000 * GIB, 100 * GIB));
        assert!(has(GIB / 4, GIB / 8) && !has(GIB / 4, GIB / 16));
    }
}
