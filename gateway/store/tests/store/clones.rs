//! The life of a volume that is filled from a snapshot of another one, and power that is cut meanwhile.
//!
//! Invariant: until all of it is durable, the snapshot can be read, whoever removed it; then nothing is
//! left of either.

use std::sync::Arc;

use block::Store;
use store::{OriginRecord, Pool, PoolOptions, PoolVolume, VolumeRecord};

use crate::rig::{TestOrigin, VOLUME, ask, flush, open_pool, read};
use crate::shared::{BYTES, KEPT, OTHER, filled, other};

/// How far it came, as its maker was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Came {
    made: bool,
    filled: bool,
    forgotten: bool,
}

const ALL: Came = Came { made: true, filled: true, forgotten: true };

/// Makes the clone; then an operator removes the snapshot, which stays for it.
fn make(pool: &Arc<Pool>, came: &mut Came) -> Option<()> {
    let volume = pool.open_volume(VOLUME).ok()?;
    volume.keep_snapshot(KEPT, OTHER);
    let origin = OriginRecord::Snapshot { volume: VOLUME, snapshot: KEPT, bytes: BYTES };
    pool.create_volume(VolumeRecord { origin: Some(origin), ..other() }).ok()?;
    came.made = true;
    ask(|ticket| volume.remove_snapshot(KEPT, ticket)).ok().map(drop)
}

/// Copies what the snapshot shows.
fn fill(volume: &PoolVolume, clone: &PoolVolume) -> Option<()> {
    if !clone.is_filling() {
        return Some(());
    }
    let view = volume.open_snapshot(KEPT).ok()?;
    clone.set_origin(TestOrigin::new(read(view.as_ref(), 0, BYTES).ok()?));
    for _ in 0..100 {
        if !clone.is_filling() {
            return Some(());
        }
        ask(|ticket| clone.fill(BYTES, ticket)).ok()?;
    }
    panic!("filling does not end");
}

/// Fills it, removes the snapshot that nobody needs any more, and forgets it: in this order, so that
/// the record of the clone names the snapshot for as long as it is there.
fn finish(pool: &Arc<Pool>, came: &mut Came) -> Option<()> {
    let volume = pool.open_volume(VOLUME).ok()?;
    let clone = pool.open_volume(OTHER).ok()?;
    fill(&volume, &clone)?;
    came.filled = true;
    volume.let_go_of_snapshot(KEPT, OTHER);
    ask(|ticket| volume.remove_snapshot(KEPT, ticket)).ok()?;
    flush(volume.as_ref()).ok()?;
    pool.forget_origin(OTHER).ok()?;
    came.forgotten = true;
    Some(())
}

fn live(pool: &Arc<Pool>) -> Came {
    let mut came = Came::default();
    if make(pool, &mut came).is_some() {
        finish(pool, &mut came);
    }
    came
}

/// What is there after a cut is what the maker was told or more, and the content is somewhere; whether
/// the clone is there.
fn check(pool: &Arc<Pool>, came: Came, context: &str) -> bool {
    let volume = pool.open_volume(VOLUME).unwrap_or_else(|e| panic!("{context}: {e:#}"));
    assert_eq!(read(volume.as_ref(), 8192, 4096).unwrap(), vec![2; 4096], "{context}");
    let record = pool.volume(OTHER);
    assert!(record.is_some() || !came.made, "{context}: it was made");
    let is_forgotten = record.as_ref().is_some_and(|record| record.origin.is_none());
    assert!(is_forgotten || !came.forgotten, "{context}: its origin was forgotten");
    let clone = record.is_some().then(|| pool.open_volume(OTHER).unwrap());
    match clone.as_ref().filter(|clone| !clone.is_filling()) {
        Some(clone) => {
            let content = read(clone.as_ref(), 8192, 4096).unwrap();
            assert_eq!(content, vec![1; 4096], "{context}: it was filled");
        }
        None => {
            assert!(!came.filled && !is_forgotten, "{context}: it was filled");
            let view = volume.open_snapshot(KEPT);
            let view = view.unwrap_or_else(|e| panic!("{context}: the only content: {e}"));
            assert_eq!(read(view.as_ref(), 8192, 4096).unwrap(), vec![1; 4096], "{context}");
        }
    }
    clone.is_some()
}

/// Power is cut at every sync of making it, filling it, removing what was kept for it, and forgetting
/// that, with several ways of what is lost.
#[test]
fn snap_06_a_clone_is_whole_or_its_snapshot_is_there_whenever_power_is_cut() {
    let disk = filled();
    let before = disk.syncs();
    assert_eq!(live(&open_pool(&disk, PoolOptions::default()).unwrap()), ALL);
    let syncs = disk.syncs() - before;
    assert!(syncs >= 5, "records, content and the directory are synced: {syncs}");
    for stop in 0..syncs {
        for seed in 0..6 {
            let context = format!("stop {stop} seed {seed}");
            let disk = filled();
            disk.stop_at_sync(disk.syncs() + stop);
            // It may be gone before the pool is open.
            let opened = open_pool(&disk, PoolOptions::default());
            let mut came = opened.as_ref().map_or_else(|_gone| Came::default(), live);
            disk.power_cut(seed);
            drop(opened);
            let pool = open_pool(&disk, PoolOptions::default()).unwrap();
            // What was cut short is carried through.
            if check(&pool, came, &context) {
                assert_eq!(finish(&pool, &mut came), Some(()), "{context}");
            } else {
                assert_eq!(live(&pool), ALL, "{context}");
            }
            disk.power_cut(seed + 100);
            drop(pool);
            let pool = open_pool(&disk, PoolOptions::default()).unwrap();
            assert!(check(&pool, ALL, &context));
            let volume = pool.open_volume(VOLUME).unwrap();
            assert_eq!(volume.snapshots(), [], "{context}: nobody needs it any more");
            drop(volume);
            // Neither needs the other.
            pool.delete_volume(VOLUME).unwrap();
            let clone = pool.open_volume(OTHER).unwrap();
            assert_eq!(read(clone.as_ref(), 8192, 4096).unwrap(), vec![1; 4096], "{context}");
            drop(clone);
            pool.delete_volume(OTHER).unwrap();
            assert_eq!(pool.used_bytes(), 0, "{context}");
        }
    }
}
