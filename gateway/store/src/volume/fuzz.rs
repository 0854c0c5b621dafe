//! What a disk may give back that is almost what was written, with checksums that match.

use block::{ActivityExtent, SnapshotId};
use testkit::fuzz::{Fuzz, Made};

use super::activity::Image;
use super::page::{BLOCKS, Entry, Page};
use super::record::{RECORD_BYTES, Record};
use super::state::State;
use crate::codec::{HEAD_BYTES, TAIL_BYTES};
use crate::crc::crc32c;

/// Sets right the length and the checksum of a wrapping.
fn seal(bytes: &mut [u8]) {
    let Some(len) = bytes.len().checked_sub(HEAD_BYTES + TAIL_BYTES) else { return };
    bytes[12..16].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
    let end = HEAD_BYTES + len;
    let sum = crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn pages_of_the_map_that_are_almost_right_mean_the_same_when_they_are_written_again() {
    let mut page = Page::new();
    let empty = page.encode();
    page.set(3, Entry { slot: 5, valid: 0x8001, zero: 2, summed: 1, sums: [7; BLOCKS] });
    page.set(255, Entry { slot: 9, valid: 0xffff, zero: 0, summed: 0xffff, sums: [8; BLOCKS] });
    Fuzz::new([page.encode(), empty]).repaired(seal).run(|bytes| {
        let Ok(found) = Page::decode(bytes) else { return Made::Refused };
        assert_eq!(Page::decode(&found.encode()).unwrap(), found);
        Made::Understood
    });
}

#[test]
fn states_that_are_almost_right_mean_the_same_when_they_are_written_again() {
    let mut state = State::new(1 << 40);
    let fresh = state.encode();
    state.next_slot = 9;
    state.free.insert(4);
    state.layers.get_mut(1).unwrap().present.insert_range(3..9);
    let plain = state.encode();
    for (layer, id) in [(2, 1), (3, 2)] {
        let id = SnapshotId::of(id);
        state.layers.apply(&Record::Snapshot { layer, id }, 1 << 30);
    }
    // A set of runs is larger in memory than it is written.
    Fuzz::new([fresh, plain, state.encode()]).repaired(seal).within(16 << 20).run(|bytes| {
        let Ok(found) = State::decode(bytes) else { return Made::Refused };
        assert_eq!(State::decode(&found.encode()).unwrap(), found);
        Made::Understood
    });
}

#[test]
fn images_of_activity_that_are_almost_right_mean_the_same_when_they_are_written_again() {
    let active = [0, 7, 1 << 20].map(ActivityExtent::new).to_vec();
    let image = Image { generation: 3, clean: false, snapshots: true, settling: None, active };
    Fuzz::new([image.encode()]).repaired(seal).run(|bytes| {
        let Ok(found) = Image::decode(bytes) else { return Made::Refused };
        let again = Image::decode(&found.encode()).unwrap();
        assert_eq!(again.encode(), found.encode());
        Made::Understood
    });
}

/// Records carry a sum of their own, with the log and the place that they are of.
#[test]
fn records_of_the_log_that_are_almost_right_mean_the_same_when_they_are_written_again() {
    let sums = [3; BLOCKS];
    let records = [
        Record::Header { base: 7 },
        Record::Map { layer: 1, chunk: 2, slot: 3, fresh: 2, sums },
        Record::Drop { layer: 1, chunk: 2, mask: 4, zero: 4 },
        Record::DropPage { layer: 1, page: 9 },
        Record::Resize { bytes: 1 << 30 },
        Record::Commit { upto: 13 },
        Record::Snapshot { layer: 3, id: SnapshotId::of(5) },
        Record::RollBack { layer: 4, id: SnapshotId::of(7) },
        Record::Fold { from: 5, into: 0x1_0003, chunk: 6, slot: 8, copied: 2, sums },
        Record::Filled,
    ];
    let seeds = records.map(|record| {
        let mut bytes = Vec::new();
        record.encode(5, 8, &mut bytes);
        bytes
    });
    let seal = |bytes: &mut [u8]| {
        // What is longer is the next one.
        let Some(record) = bytes.get_mut(..RECORD_BYTES) else { return };
        record[12..16].fill(0);
        let sum = super::record::checksum(5, 8, record);
        record[12..16].copy_from_slice(&sum.to_le_bytes());
    };
    Fuzz::new(seeds).repaired(seal).within(4096).run(|bytes| {
        let Some(found) = Record::decode(bytes, 5, 8) else { return Made::Refused };
        let mut again = Vec::new();
        found.encode(5, 8, &mut again);
        assert_eq!(Record::decode(&again, 5, 8), Some(found));
        Made::Understood
    });
}
