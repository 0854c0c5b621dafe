//! What snapshots cost, what they do when something fails, and who may open them.

use std::rc::Rc;
use std::sync::Arc;

use block::{BlockRange, IoError, Op, SLOT_BYTES, SnapshotId, Store, Volume, VolumeId};
use bytes::Bytes;
use store::{PoolOptions, PoolVolume, StoreError, VolumeRecord};
use testkit::SimDisk;

use crate::rig::{
    VOLUME, ask, close, disk_with, extent, flush, open, open_pool, read, run, submit, try_open,
    write,
};

const CHUNK: u64 = SLOT_BYTES;

fn take(volume: &PoolVolume, number: u128) -> Result<(), IoError> {
    ask(|ticket| volume.snapshot(SnapshotId::of(number), ticket)).map(drop)
}

fn remove(volume: &PoolVolume, number: u128) -> Result<(), IoError> {
    ask(|ticket| volume.remove_snapshot(SnapshotId::of(number), ticket)).map(drop)
}

fn roll_back(volume: &PoolVolume, number: u128) -> Result<(), IoError> {
    ask(|ticket| volume.roll_back(SnapshotId::of(number), ticket)).map(drop)
}

fn view(volume: &PoolVolume, number: u128) -> Rc<dyn Volume> {
    volume.open_snapshot(SnapshotId::of(number)).unwrap()
}

fn shown(volume: &dyn Volume, offset: u64) -> u8 {
    let content = read(volume, offset, 4096).unwrap();
    assert!(content.iter().all(|byte| *byte == content[0]));
    content[0]
}

/// What a fixed workload without snapshots cost before there were any.
#[test]
fn a_volume_without_snapshots_costs_what_it_did() {
    let disk = disk_with(1 << 30);
    let before = (disk.syncs(), disk.written());
    let volume = open(&disk);
    for round in 0..4u8 {
        for chunk in 0..40u64 {
            write(volume.as_ref(), chunk * 3 * 4096, vec![round + 1; 8192]).unwrap();
        }
        let data = Bytes::from(vec![9; 4096]);
        let batch = (0..16).map(|block| Op::Write(extent(block << 20, 4096), data.clone()));
        assert!(submit(volume.as_ref(), batch.collect()).iter().all(Result::is_ok));
        flush(volume.as_ref()).unwrap();
        run(volume.as_ref(), Op::Trim(extent(CHUNK, 3 * CHUNK))).unwrap();
        let zero = Op::Zero { extent: extent(10, 100_000), may_trim: true };
        run(volume.as_ref(), zero).unwrap();
        flush(volume.as_ref()).unwrap();
    }
    close(volume.as_ref()).unwrap();
    let cost = (disk.syncs() - before.0, disk.written() - before.1);
    assert_eq!(cost, (26, 1_641_816));
}

#[test]
fn an_overwrite_of_what_the_head_has_writes_its_data_only() {
    let disk = disk_with(1 << 30);
    let volume = open(&disk);
    write(volume.as_ref(), 0, vec![1; 65_536]).unwrap();
    take(&volume, 1).unwrap();
    let (syncs, written) = (disk.syncs(), disk.written());
    write(volume.as_ref(), 8192, vec![2; 4096]).unwrap();
    // The data and one record; nothing is synced.
    assert_eq!((disk.syncs() - syncs, disk.written() - written), (0, 4096 + 96));
    flush(volume.as_ref()).unwrap();
    let (syncs, written) = (disk.syncs(), disk.written());
    write(volume.as_ref(), 8192, vec![3; 4096]).unwrap();
    assert_eq!((disk.syncs() - syncs, disk.written() - written), (0, 4096));
    assert_eq!((shown(volume.as_ref(), 8192), shown(view(&volume, 1).as_ref(), 8192)), (3, 1));
}

/// A cut a second on a large volume: what was there before must not be touched.
#[test]
fn taking_one_and_removing_the_one_before_costs_what_was_written_between() {
    let disk = disk_with(1 << 30);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let volume = pool.open_volume(VOLUME).unwrap();
    for chunk in 0..512 {
        write(volume.as_ref(), chunk * CHUNK, vec![1; 65_536]).unwrap();
    }
    take(&volume, 0).unwrap();
    close(volume.as_ref()).unwrap();
    let mut costs = Vec::new();
    for cut in 1..=40u64 {
        let byte = u8::try_from(cut + 1).unwrap();
        for block in 0..8 {
            write(volume.as_ref(), (cut * 8 + block) * CHUNK + block * 4096, vec![byte; 4096])
                .unwrap();
        }
        let before = disk.written();
        take(&volume, u128::from(cut)).unwrap();
        remove(&volume, u128::from(cut) - 1).unwrap();
        costs.push(disk.written() - before);
    }
    // Eight blocks are copied, and their records written; the first cut announces its extents.
    assert!(costs[2..].iter().all(|cost| *cost < 8 * (4096 + 96) + 1024), "{costs:?}");
    // One slot for each chunk, but for the few that were not given back yet.
    assert!(pool.used_bytes() <= (512 + 16) * CHUNK, "{}", pool.used_bytes() / CHUNK);
    remove(&volume, 40).unwrap();
    assert_eq!(volume.usage().mapped_bytes, 512 * CHUNK);
    assert_eq!(pool.used_bytes(), 512 * CHUNK);
    for cut in 1..=40u64 {
        let byte = u8::try_from(cut + 1).unwrap();
        for block in 0..8 {
            let chunk = (cut * 8 + block) * CHUNK;
            assert_eq!(shown(volume.as_ref(), chunk + block * 4096), byte);
            assert_eq!(shown(volume.as_ref(), chunk + 15 * 4096), 1);
        }
    }
    assert_eq!(volume.scrub(0, u64::MAX).unwrap().bad, []);
}

#[test]
fn says_what_each_holds_and_gives_it_back() {
    let disk = disk_with(1 << 30);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let volume = pool.open_volume(VOLUME).unwrap();
    write(volume.as_ref(), 0, vec![1; 65_536]).unwrap();
    take(&volume, 1).unwrap();
    write(volume.as_ref(), 0, vec![2; 16_384]).unwrap();
    take(&volume, 2).unwrap();
    run(volume.as_ref(), Op::Trim(extent(0, 8192))).unwrap();
    let sizes = |volume: &PoolVolume| {
        let all = volume.snapshots();
        all.iter().map(|s| (s.exclusive_bytes / 4096, s.shared_bytes / 4096)).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&volume), [(4, 12), (2, 14)]);
    let since = |number| volume.changed_since(SnapshotId::of(number), 0, 9).unwrap();
    assert_eq!((since(1), since(2)), (vec![BlockRange::new(0, 4)], vec![BlockRange::new(0, 2)]));
    let between = |one, other| {
        let ids = (SnapshotId::of(one), SnapshotId::of(other));
        volume.changed_between(ids, 0, 9).unwrap()
    };
    assert_eq!(
        (between(1, 2), between(2, 1)),
        (vec![BlockRange::new(0, 4)], vec![BlockRange::new(0, 4)])
    );
    roll_back(&volume, 1).unwrap();
    // The second one is alone now with what it has.
    assert_eq!(sizes(&volume), [(0, 16), (4, 12)]);
    assert_eq!(shown(view(&volume, 2).as_ref(), 0), 2);
    remove(&volume, 1).unwrap();
    assert_eq!(sizes(&volume), [(4, 12)]);
    remove(&volume, 2).unwrap();
    assert_eq!((volume.usage().mapped_bytes, pool.used_bytes()), (CHUNK, CHUNK));
    assert_eq!(shown(volume.as_ref(), 0), 1);
}

#[test]
fn a_held_snapshot_outlives_its_removal() {
    let disk = disk_with(1 << 30);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let volume = pool.open_volume(VOLUME).unwrap();
    write(volume.as_ref(), 0, vec![1; 65_536]).unwrap();
    take(&volume, 1).unwrap();
    let held = view(&volume, 1);
    write(volume.as_ref(), 0, vec![2; 65_536]).unwrap();
    remove(&volume, 1).unwrap();
    assert_eq!(volume.snapshots(), []);
    assert!(volume.open_snapshot(SnapshotId::of(1)).is_err());
    disk.set_cold(true);
    assert_eq!(shown(held.as_ref(), 4096), 1);
    assert!(held.read_only());
    assert_eq!(write(held.as_ref(), 0, vec![3; 4096]), Err(IoError::ReadOnly));
    assert_eq!(read(held.as_ref(), 1 << 30, 1), Err(IoError::OutOfRange));
    assert_eq!(held.layout(extent(0, 1 << 20), 9).unwrap().len(), 2);
    assert_eq!(volume.usage().mapped_bytes, 2 * CHUNK);
    drop(held);
    flush(volume.as_ref()).unwrap();
    assert_eq!(volume.usage().mapped_bytes, CHUNK);
    flush(volume.as_ref()).unwrap();
    assert_eq!(pool.used_bytes(), CHUNK);
}

#[test]
fn a_snapshot_keeps_the_size_it_had() {
    let disk = disk_with(1 << 20);
    let volume = open(&disk);
    take(&volume, 1).unwrap();
    ask(|ticket| volume.grow(2 << 20, ticket)).unwrap();
    write(volume.as_ref(), 1 << 20, vec![1; 4096]).unwrap();
    take(&volume, 2).unwrap();
    disk.power_cut(5);
    drop(volume);
    let volume = open(&disk);
    let sizes: Vec<u64> = volume.snapshots().iter().map(|s| s.bytes).collect();
    assert_eq!(sizes, [1 << 20, 2 << 20]);
    assert_eq!(view(&volume, 1).geometry().bytes(), 1 << 20);
    roll_back(&volume, 1).unwrap();
    assert_eq!(volume.geometry().bytes(), 2 << 20);
    assert_eq!(shown(volume.as_ref(), 1 << 20), 0);
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let disk = disk_with(64 << 20);
    let volume = open(&disk);
    for chunk in 0..8 {
        write(volume.as_ref(), chunk * CHUNK, vec![1; 65_536]).unwrap();
    }
    take(&volume, 1).unwrap();
    for chunk in 0..8 {
        write(volume.as_ref(), chunk * CHUNK, vec![2; 4096]).unwrap();
    }
    take(&volume, 2).unwrap();
    // The log's next page has no room: each of these needs a record, which comes there in time.
    disk.set_capacity(Some(disk.allocated()));
    let mut full = 0;
    for number in 3..200 {
        match take(&volume, number) {
            Ok(()) => {}
            Err(IoError::NoSpace) => full += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(full > 0);
    let known = volume.snapshots().len();
    assert_eq!(roll_back(&volume, 1), Err(IoError::NoSpace));
    assert_eq!(remove(&volume, 2), Err(IoError::NoSpace));
    assert_eq!(volume.snapshots().len(), known);
    assert_eq!((shown(volume.as_ref(), 0), shown(volume.as_ref(), 4096)), (2, 1));
    assert_eq!(shown(view(&volume, 1).as_ref(), 0), 1);
    disk.set_capacity(None);
    for snapshot in volume.snapshots() {
        ask(|ticket| volume.remove_snapshot(snapshot.id, ticket)).unwrap();
    }
    assert_eq!((shown(volume.as_ref(), 0), shown(volume.as_ref(), 4096)), (2, 1));
    assert_eq!(volume.usage().mapped_bytes, 8 * CHUNK);
}

#[test]
fn what_cannot_be_read_is_left_where_it_is() {
    let disk = disk_with(64 << 20);
    let volume = open(&disk);
    write(volume.as_ref(), 0, vec![1; 65_536]).unwrap();
    take(&volume, 1).unwrap();
    write(volume.as_ref(), 0, vec![2; 4096]).unwrap();
    write(volume.as_ref(), CHUNK, vec![3; 4096]).unwrap();
    flush(volume.as_ref()).unwrap();
    // The block that would have to be copied is damaged.
    disk.corrupt(&format!("volumes/{VOLUME}/data.0000"), CHUNK + 17);
    assert_eq!(remove(&volume, 1), Err(IoError::Checksum));
    assert_eq!(volume.snapshots(), []);
    disk.set_cold(true);
    assert_eq!(read(volume.as_ref(), 0, 4096), Err(IoError::Checksum));
    assert_eq!(shown(volume.as_ref(), 4096), 1);
    assert_eq!(shown(volume.as_ref(), CHUNK), 3);
    // Written anew it is whole again, and the next opening goes on.
    write(volume.as_ref(), 0, vec![4; 4096]).unwrap();
    close(volume.as_ref()).unwrap();
    drop(volume);
    let volume = open(&disk);
    assert_eq!(shown(volume.as_ref(), 0), 4);
    flush(volume.as_ref()).unwrap();
    assert_eq!(volume.usage().mapped_bytes, CHUNK + 4096);
}

#[test]
fn a_failed_sync_latches_what_waits_for_it() {
    for (act, again) in
        [(take as fn(&PoolVolume, u128) -> Result<(), IoError>, 3), (remove, 1), (roll_back, 1)]
    {
        let disk = disk_with(1 << 20);
        let volume = open(&disk);
        write(volume.as_ref(), 0, vec![1; 4096]).unwrap();
        take(&volume, 1).unwrap();
        write(volume.as_ref(), 0, vec![2; 4096]).unwrap();
        disk.fail_sync(disk.syncs());
        assert_eq!(act(&volume, again), Err(IoError::Latched));
        assert_eq!(act(&volume, again), Err(IoError::Latched));
        drop(volume);
        let volume = open(&disk);
        assert!([1, 2].contains(&shown(volume.as_ref(), 0)));
    }
}

/// A release that does not know snapshots must not come as far as the log, whose records it would
/// take for a torn end.
#[test]
fn the_activity_record_announces_snapshots_before_the_log_has_one() {
    let disk = disk_with(1 << 20);
    let volume = open(&disk);
    write(volume.as_ref(), 0, vec![1; 4096]).unwrap();
    assert_eq!(features(&disk), 0);
    take(&volume, 1).unwrap();
    assert_eq!(features(&disk), 1);
    close(volume.as_ref()).unwrap();
    assert_eq!(features(&disk), 1);
    drop(volume);
    assert!(!matches!(try_open(&disk), Err(StoreError::Features { .. })));
}

/// The feature bits of the newer image of the activity record.
fn features(disk: &Arc<SimDisk>) -> u64 {
    let volumes = disk.root().open_dir("volumes").unwrap();
    let dir = volumes.open_dir(&VOLUME.to_string()).unwrap();
    let file = dir.open("activity").unwrap();
    let images = [0, 1 << 20].map(|offset| {
        let mut head = [0; 32];
        file.read_at(&mut head, offset).unwrap();
        let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        (field(24), field(16))
    });
    images.into_iter().max().unwrap().1
}

/// Ten thousand snapshots in one pool: each volume has its own, and the last cost what the first did.
#[test]
fn a_pool_with_ten_thousand_snapshots_is_used_opened_and_cleared() {
    const VOLUMES: u128 = 100;
    const EACH: u128 = 100;
    let disk = disk_with(16 << 20);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let id = |volume: u128| VolumeId::of(100 + volume);
    let byte = |number: u128| u8::try_from(number % 250 + 1).unwrap();
    let mut costs = Vec::new();
    for one in 0..VOLUMES {
        let (name, bytes) = (format!("volume-{one}"), 16 << 20);
        pool.create_volume(VolumeRecord { id: id(one), name, bytes, created: 1, origin: None })
            .unwrap();
        let volume = pool.open_volume(id(one)).unwrap();
        let before = disk.written();
        for number in 1..=EACH {
            let at = u64::try_from(number % 8).unwrap() * CHUNK;
            write(volume.as_ref(), at, vec![byte(number); 4096]).unwrap();
            take(&volume, number).unwrap();
        }
        costs.push(disk.written() - before);
        close(volume.as_ref()).unwrap();
    }
    let (first, last) = (costs[0], costs[costs.len() - 1]);
    assert!(last <= first * 2, "the last volume's cost {last}, the first's {first}");
    drop(pool);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    for one in 0..VOLUMES {
        let volume = pool.open_volume(id(one)).unwrap();
        assert_eq!(volume.snapshots().len(), usize::try_from(EACH).unwrap());
        for number in [1, 50, EACH] {
            let at = u64::try_from(number % 8).unwrap() * CHUNK;
            assert_eq!(shown(view(&volume, number).as_ref(), at), byte(number));
        }
        close(volume.as_ref()).unwrap();
    }
    // One volume gives its own room back, beside those of the others.
    let (used, volume) = (pool.used_bytes(), pool.open_volume(id(4)).unwrap());
    for number in 1..=EACH {
        remove(&volume, number).unwrap();
    }
    assert!(volume.snapshots().is_empty());
    let each = used / u64::try_from(VOLUMES).unwrap();
    assert_eq!(pool.used_bytes(), used - each + 8 * CHUNK);
    // Power goes while another one is cleared: what was removed stays so, and nothing else is.
    close(volume.as_ref()).unwrap();
    drop(volume);
    let volume = pool.open_volume(id(5)).unwrap();
    for number in (1..=EACH).rev().step_by(3) {
        remove(&volume, number).unwrap();
    }
    let (used, left) = (pool.used_bytes(), volume.snapshots());
    drop(volume);
    drop(pool);
    disk.power_cut(5);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    for one in 0..VOLUMES {
        let volume = pool.open_volume(id(one)).unwrap();
        match one {
            4 => assert!(volume.snapshots().is_empty()),
            5 => assert_eq!(volume.snapshots(), left),
            _ => assert_eq!(volume.snapshots().len(), usize::try_from(EACH).unwrap()),
        }
        close(volume.as_ref()).unwrap();
    }
    // What was on its way to another place when power went is given back, and no room is lost for good.
    let settled = pool.used_bytes();
    assert!(settled <= used, "{settled} of {used}");
    drop(pool);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    assert_eq!(pool.used_bytes(), settled);
}

/// Found in a review: each look at a volume's snapshots counted all of their maps in one go, while hosts
/// waited, and again after each new one.
#[test]
fn what_snapshots_take_is_counted_in_pieces_and_only_what_can_change_again() {
    const PAGE: u64 = 256 * CHUNK;
    const PAGES: u64 = 48;
    const ALL: u128 = 16;
    let count = |volume: &PoolVolume| {
        let mut calls = 1;
        loop {
            if let Some(all) = volume.count_snapshots() {
                return (calls, all);
            }
            calls += 1;
        }
    };
    let exclusive = |all: &[block::Snapshot]| -> Vec<u64> {
        all.iter().map(|of| of.exclusive_bytes / 4096).collect()
    };
    let disk = disk_with(PAGES * PAGE);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let volume = pool.open_volume(VOLUME).unwrap();
    let write_all = |volume: &PoolVolume, byte| {
        (0..PAGES).for_each(|page| write(volume, page * PAGE, vec![byte; 4096]).unwrap());
    };
    for number in 1..=ALL {
        write_all(&volume, u8::try_from(number).unwrap());
        take(&volume, number).unwrap();
    }
    // The first time all of it is looked at; hosts go on meanwhile.
    assert_eq!(volume.count_snapshots(), None);
    write_all(&volume, 100);
    let (calls, all) = count(&volume);
    assert!(calls > 30, "{calls}");
    assert!(all[..15].iter().all(|of| of.exclusive_bytes == PAGES * 4096), "{all:?}");
    assert!(all[15].exclusive_bytes <= PAGES * 4096 && all.len() == 16, "{all:?}");
    // Then only what lies under the head, and after a new one what it changed.
    let (calls, all) = count(&volume);
    assert!(calls <= 3, "{calls}");
    assert_eq!(exclusive(&all), [PAGES; 16]);
    write(volume.as_ref(), 5 * CHUNK, vec![7; 8192]).unwrap();
    take(&volume, ALL + 1).unwrap();
    let (calls, all) = count(&volume);
    assert!(calls <= 8, "{calls}");
    assert_eq!(exclusive(&all)[15..], [PAGES, 0]);
    assert_eq!(all[16].shared_bytes, (PAGES + 2) * 4096);
    // After one in the middle is gone, its neighbours.
    remove(&volume, 8).unwrap();
    let (calls, all) = count(&volume);
    assert!(calls <= 20, "{calls}");
    assert_eq!(exclusive(&all)[..16], [[PAGES; 15].as_slice(), &[0]].concat());
    // Back to an older one: what lay over it is alone with what it has.
    roll_back(&volume, 12).unwrap();
    write(volume.as_ref(), 0, vec![9; 4096]).unwrap();
    let (_, all) = count(&volume);
    close(volume.as_ref()).unwrap();
    drop(volume);
    drop(pool);
    let volume = open(&disk);
    assert_eq!(volume.snapshots(), all, "counted anew, it is the same");
    assert_eq!(volume.snapshot_ids(), all.iter().map(|of| of.id).collect::<Vec<_>>());
}

/// All the snapshots that a volume may have: what is done with it costs what it did before.
#[test]
fn a_volume_with_all_its_snapshots_is_used_opened_and_cleared() {
    const ALL: u128 = 1_024;
    let disk = disk_with(64 << 20);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let volume = pool.open_volume(VOLUME).unwrap();
    let byte = |number: u128| u8::try_from(number % 250 + 1).unwrap();
    let mut costs = Vec::new();
    for number in 1..=ALL {
        let at = u64::try_from(number % 64).unwrap() * CHUNK;
        let before = disk.written();
        write(volume.as_ref(), at, vec![byte(number); 4096]).unwrap();
        take(&volume, number).unwrap();
        costs.push(disk.written() - before);
    }
    // The last hundred cost what the second hundred did: checkpoints aside, a write and a record.
    let median = |costs: &[u64]| {
        let mut sorted = costs.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let (early, late) = (median(&costs[100..200]), median(&costs[924..]));
    assert!(late <= early * 2, "{early} bytes for a snapshot early on, {late} late");
    assert_eq!(take(&volume, ALL + 1), Err(IoError::TooManySnapshots), "no disk is full");
    assert_eq!(shown(volume.as_ref(), u64::try_from(ALL % 64).unwrap() * CHUNK), byte(ALL));
    assert_eq!(shown(volume.as_ref(), 100 * CHUNK), 0, "what was never written");
    close(volume.as_ref()).unwrap();
    drop(volume);
    drop(pool);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let volume = pool.open_volume(VOLUME).unwrap();
    assert_eq!(volume.snapshots().len(), usize::try_from(ALL).unwrap());
    for number in [1, 500, ALL] {
        let view = volume.open_snapshot(SnapshotId::of(number)).unwrap();
        let at = u64::try_from(number % 64).unwrap() * CHUNK;
        assert_eq!(shown(view.as_ref(), at), byte(number), "snapshot {number}");
    }
    // In any order, and there is room for another one.
    for number in (2..=ALL).step_by(2).chain((1..ALL).step_by(2)) {
        remove(&volume, number).unwrap();
    }
    assert_eq!(volume.snapshots().len(), 0);
    take(&volume, ALL + 1).unwrap();
    assert_eq!(shown(volume.as_ref(), u64::try_from(ALL % 64).unwrap() * CHUNK), byte(ALL));
    assert_eq!(pool.used_bytes(), 64 * CHUNK);
}
