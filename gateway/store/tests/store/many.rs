//! Ten thousand snapshots in one pool: taken, listed, opened anew, read and deleted, at a cost that does
//! not grow with their number.
//!
//! What a step costs is counted in bytes that it writes, so the test says the same on any machine.

use std::rc::Rc;
use std::sync::Arc;

use block::{SLOT_BYTES, SnapshotId, Store, VolumeId};
use store::{Pool, PoolOptions, PoolVolume, VolumeRecord};
use testkit::SimDisk;

use crate::rig::{VOLUME, ask, close, disk_with, flush, open_pool, read, record, write};

const VOLUMES: u128 = 20;
const SNAPSHOTS: u64 = 500;
const BYTES: u64 = 4 << 20;
/// Blocks that are written in turn, each between two snapshots.
const BLOCKS: u64 = 40;

fn id(volume: u128) -> VolumeId {
    if volume == 0 { VOLUME } else { VolumeId::of(100 + volume) }
}

fn open(disk: &Arc<SimDisk>) -> (Arc<Pool>, Vec<Rc<PoolVolume>>) {
    let pool = open_pool(disk, PoolOptions::default()).unwrap();
    let volumes = (0..VOLUMES).map(|volume| pool.open_volume(id(volume)).unwrap()).collect();
    (pool, volumes)
}

fn byte(volume: usize, round: u64) -> u8 {
    u8::try_from((round + volume as u64) % 250 + 1).unwrap()
}

#[test]
fn ten_thousand_snapshots_of_a_pool_cost_no_more_each_than_a_few() {
    let disk = disk_with(BYTES);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    for volume in 1..VOLUMES {
        let record =
            VolumeRecord { id: id(volume), name: format!("volume-{volume}"), ..record(BYTES) };
        pool.create_volume(record).unwrap();
    }
    drop(pool);
    let (_pool, volumes) = open(&disk);
    let mut written = vec![disk.written()];
    for round in 0..SNAPSHOTS {
        for (at, volume) in volumes.iter().enumerate() {
            let block = round % BLOCKS * 4096;
            write(volume.as_ref(), block, vec![byte(at, round); 4096]).unwrap();
            ask(|ticket| volume.snapshot(SnapshotId::of(u128::from(round) + 1), ticket)).unwrap();
        }
        if (round + 1) % 100 == 0 {
            written.push(disk.written());
        }
    }
    let of_hundred: Vec<u64> = written.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let (first, last) = (of_hundred[0], of_hundred[of_hundred.len() - 1]);
    assert!(last <= 3 * first, "a hundred of each cost {of_hundred:?} bytes");
    // One of a volume more than it may have is refused, and harms none.
    let check = |volumes: &[Rc<PoolVolume>]| {
        for (at, volume) in volumes.iter().enumerate() {
            let listed = volume.snapshots();
            assert_eq!(listed.len(), usize::try_from(SNAPSHOTS).unwrap());
            for round in (0..SNAPSHOTS).step_by(97) {
                let kept = volume.open_snapshot(SnapshotId::of(u128::from(round) + 1)).unwrap();
                let found = read(kept.as_ref(), round % BLOCKS * 4096, 4096).unwrap();
                assert_eq!(found, vec![byte(at, round); 4096], "volume {at} at {round}");
            }
        }
    };
    check(&volumes);
    let room = u128::from(disk.allocated());
    let bound = VOLUMES * u128::from(SNAPSHOTS + BLOCKS) * u128::from(2 * SLOT_BYTES);
    assert!(room <= bound, "{room} bytes are more than two slots for each");
    for volume in &volumes {
        flush(volume.as_ref()).unwrap();
        close(volume.as_ref()).unwrap();
    }
    drop((volumes, _pool));

    // A start reads what each volume has, and writes next to nothing.
    let before = disk.written();
    let (pool, volumes) = open(&disk);
    let of_start = disk.written() - before;
    assert!(of_start <= first, "a start wrote {of_start} bytes");
    check(&volumes);
    // In no order of theirs.
    let before = disk.written();
    for turn in 0..SNAPSHOTS {
        let number = turn * 7 % SNAPSHOTS + 1;
        for volume in &volumes {
            ask(|ticket| volume.remove_snapshot(SnapshotId::of(u128::from(number)), ticket))
                .unwrap();
        }
    }
    let of_removal = (disk.written() - before) / (SNAPSHOTS / 100);
    assert!(of_removal <= 3 * first, "a hundred removals cost {of_removal} bytes");
    for (at, volume) in volumes.iter().enumerate() {
        assert_eq!(volume.snapshots(), []);
        let newest = SNAPSHOTS - 1;
        let found = read(volume.as_ref(), newest % BLOCKS * 4096, 4096).unwrap();
        assert_eq!(found, vec![byte(at, newest); 4096]);
        flush(volume.as_ref()).unwrap();
    }
    let slots = BLOCKS * 4096 / SLOT_BYTES + 1;
    let bound = u64::try_from(VOLUMES).unwrap() * slots * SLOT_BYTES;
    assert!(pool.used_bytes() <= bound, "{} bytes stay", pool.used_bytes());
}
