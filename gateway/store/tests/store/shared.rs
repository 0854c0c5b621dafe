//! Content that two identities name: given, opened, removed, and power that is cut meanwhile.

use std::sync::Arc;

use block::{SLOT_BYTES, SnapshotId, Store, VolumeId};
use store::{Pool, PoolOptions, StoreError, VolumeRecord};
use testkit::SimDisk;

use crate::rig::{VOLUME, ask, close, disk_with, flush, open_pool, read, record, write};

pub(crate) const OTHER: VolumeId = VolumeId::of(9);
pub(crate) const KEPT: SnapshotId = SnapshotId::of(3);
pub(crate) const BYTES: u64 = 1 << 20;

pub(crate) fn other() -> VolumeRecord {
    VolumeRecord { id: OTHER, name: "other".to_owned(), ..record(BYTES) }
}

/// A pool whose volume has content, and a snapshot of what it was before.
pub(crate) fn filled() -> Arc<SimDisk> {
    let disk = disk_with(BYTES);
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let volume = pool.open_volume(VOLUME).unwrap();
    write(volume.as_ref(), 8192, vec![1; 4096]).unwrap();
    ask(|ticket| volume.snapshot(KEPT, ticket)).unwrap();
    write(volume.as_ref(), 8192, vec![2; 4096]).unwrap();
    flush(volume.as_ref()).unwrap();
    close(volume.as_ref()).unwrap();
    disk
}

fn check_content(pool: &Arc<Pool>, id: VolumeId, context: &str) {
    let volume = pool.open_volume(id).unwrap_or_else(|e| panic!("{context}: {e:#}"));
    assert_eq!(read(volume.as_ref(), 8192, 4096).unwrap(), vec![2; 4096], "{context}");
    assert_eq!(volume.snapshots().len(), 1, "{context}");
    let kept = volume.open_snapshot(KEPT).unwrap();
    assert_eq!(read(kept.as_ref(), 8192, 4096).unwrap(), vec![1; 4096], "{context}");
}

#[test]
fn two_identities_name_the_same_content_and_one_of_them_is_open() {
    let disk = filled();
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let used = pool.used_bytes();
    pool.share_volume(VOLUME, other()).unwrap();
    assert_eq!(pool.used_bytes(), used, "it takes its room once");
    let first = pool.open_volume(VOLUME).unwrap();
    assert!(matches!(pool.open_volume(OTHER), Err(StoreError::Busy { .. })));
    write(first.as_ref(), 0, vec![3; 4096]).unwrap();
    close(first.as_ref()).unwrap();
    drop(first);
    let second = pool.open_volume(OTHER).unwrap();
    assert_eq!(read(second.as_ref(), 0, 4096).unwrap(), vec![3; 4096]);
    // The first name goes while the second one is open.
    pool.delete_volume(VOLUME).unwrap();
    assert!(matches!(pool.delete_volume(OTHER), Err(StoreError::Busy { .. })));
    write(second.as_ref(), 0, vec![4; 4096]).unwrap();
    close(second.as_ref()).unwrap();
    drop(second);
    // The name of the directory is not free as long as the content lies in it.
    let again = VolumeRecord { name: "again".to_owned(), ..record(BYTES) };
    assert!(matches!(pool.create_volume(again.clone()), Err(StoreError::Exists { .. })));
    pool.delete_volume(OTHER).unwrap();
    assert_eq!(pool.used_bytes(), 0);
    pool.create_volume(again).unwrap();
    let volume = pool.open_volume(VOLUME).unwrap();
    assert_eq!(read(volume.as_ref(), 0, 4096).unwrap(), vec![0; 4096], "nothing is left of it");
}

#[test]
fn what_cannot_be_shared_is_refused_by_name() {
    let disk = filled();
    let pool = open_pool(&disk, PoolOptions::default()).unwrap();
    let shared = |record| pool.share_volume(VOLUME, record);
    let taken = VolumeRecord { name: "orders".to_owned(), ..other() };
    assert!(matches!(shared(taken), Err(StoreError::Exists { .. })));
    assert!(matches!(shared(record(BYTES)), Err(StoreError::Exists { .. })));
    let longer = VolumeRecord { bytes: 2 * BYTES, ..other() };
    assert!(matches!(shared(longer), Err(StoreError::Size)));
    let unknown = pool.share_volume(VolumeId::of(77), other());
    assert!(matches!(unknown, Err(StoreError::NotFound { .. })));
    let open = pool.open_volume(VOLUME).unwrap();
    assert!(matches!(pool.share_volume(VOLUME, other()), Err(StoreError::Busy { .. })));
    drop(open);
    pool.share_volume(VOLUME, other()).unwrap();
}

/// The steps by which a volume becomes another one with the same content; says how far they came.
fn rename(pool: &Arc<Pool>) -> (bool, bool) {
    let shared = pool.share_volume(VOLUME, other()).is_ok();
    (shared, shared && pool.delete_volume(VOLUME).is_ok())
}

/// Power is cut at every sync of the two steps, with several ways of what is lost.
#[test]
fn a_second_identity_is_whole_or_not_there_when_power_is_cut_while_it_is_given() {
    let disk = filled();
    let before = disk.syncs();
    assert_eq!(rename(&open_pool(&disk, PoolOptions::default()).unwrap()), (true, true));
    let syncs = disk.syncs() - before;
    assert!(syncs >= 3, "both records and the directory are synced");
    for stop in 0..syncs {
        for seed in 0..6 {
            let context = format!("stop {stop} seed {seed}");
            let disk = filled();
            disk.stop_at_sync(disk.syncs() + stop);
            // It may be gone before the pool is open.
            let opened = open_pool(&disk, PoolOptions::default());
            let (shared, deleted) = opened.as_ref().map_or((false, false), rename);
            disk.power_cut(seed);
            drop(opened);
            let pool = open_pool(&disk, PoolOptions::default()).unwrap();
            let names = [VOLUME, OTHER].map(|id| pool.volume(id).is_some());
            assert!(names[0] || names[1], "{context}: the content has a name");
            assert!(names[1] || !shared, "{context}: it was given a second one");
            assert!(!(names[0] && deleted), "{context}: the first one was removed");
            assert_eq!(pool.used_bytes(), SLOT_BYTES, "{context}: it takes its room once");
            for (id, named) in [VOLUME, OTHER].into_iter().zip(names) {
                if named {
                    check_content(&pool, id, &context);
                }
            }
            // What was cut short is done again, and nothing is left of the first name.
            if !names[1] {
                pool.share_volume(VOLUME, other()).unwrap();
            }
            if names[0] {
                pool.delete_volume(VOLUME).unwrap();
            }
            disk.power_cut(seed + 100);
            drop(pool);
            let pool = open_pool(&disk, PoolOptions::default()).unwrap();
            check_content(&pool, OTHER, &context);
            pool.delete_volume(OTHER).unwrap();
            assert_eq!(pool.used_bytes(), 0, "{context}");
            drop(pool);
            let pool = open_pool(&disk, PoolOptions::default()).unwrap();
            assert!(pool.volumes().is_empty() && pool.used_bytes() == 0, "{context}");
        }
    }
}
