//! A raw file as a store, on the simulated disk.

use std::rc::Rc;
use std::sync::Arc;

use block::{IoError, Op, Recovery, RunKind, SnapshotId, Store, Volume};
use store::medium::open_or_create;
use store::{Executor, RawOptions, RawStore};
use testkit::SimDisk;

use crate::rig::{ask, close, extent, flush, read, run, write};

fn open(disk: &Arc<SimDisk>) -> Rc<RawStore> {
    let root = disk.root();
    let content = open_or_create(root.as_ref(), "disk.img").unwrap();
    if content.size().unwrap() == 0 {
        content.set_size(8 << 20).unwrap();
        content.sync().unwrap();
        root.sync().unwrap();
    }
    RawStore::open(RawOptions {
        content,
        side_dir: root.as_ref(),
        side_name: "disk.side",
        executor: Executor::Inline,
        name: "disk.img",
    })
    .unwrap()
}

#[test]
fn reads_writes_and_shows_holes() {
    let disk = SimDisk::new();
    let store = open(&disk);
    write(store.as_ref(), 4000, vec![1; 10_000]).unwrap();
    disk.set_cold(true);
    assert_eq!(read(store.as_ref(), 4000, 10_000).unwrap(), vec![1; 10_000]);
    run(store.as_ref(), Op::Zero { extent: extent(4000, 200), may_trim: true }).unwrap();
    assert_eq!(read(store.as_ref(), 4000, 300).unwrap(), [vec![0; 200], vec![1; 100]].concat());
    let runs = store.layout(extent(0, 8 << 20), 9).unwrap();
    assert_eq!((runs[0].len, runs[0].kind), (16_384, RunKind::Data));
    assert_eq!((runs.len(), runs[1].kind), (2, RunKind::Hole));
    assert_eq!(store.checksums(extent(16_384, 4096)).unwrap(), [0]);
    assert_ne!(store.checksums(extent(4096, 4096)).unwrap(), [0]);
    run(store.as_ref(), Op::Trim(extent(0, 8 << 20))).unwrap();
    assert_eq!(store.mapped(0, 9).unwrap(), []);
    assert_eq!(read(store.as_ref(), 4000, 300).unwrap(), vec![0; 300]);
    assert_eq!(write(store.as_ref(), 8 << 20, vec![1; 1]), Err(IoError::OutOfRange));
    ask(|t| store.grow(9 << 20, t)).unwrap();
    write(store.as_ref(), 8 << 20, vec![1; 1]).unwrap();
}

#[test]
fn remembers_activity_and_a_clean_close() {
    let disk = SimDisk::new();
    let store = open(&disk);
    assert!(store.recovery().clean);
    let active: Vec<_> = extent(4 << 20, 4096).activity().collect();
    ask(|t| store.record_activity(&active, t)).unwrap();
    write(store.as_ref(), 4 << 20, vec![1; 512]).unwrap();
    flush(store.as_ref()).unwrap();
    disk.power_cut(5);
    let store = open(&disk);
    assert_eq!(store.recovery(), Recovery { clean: false, doubtful: false, active });
    assert_eq!(read(store.as_ref(), 4 << 20, 512).unwrap(), vec![1; 512]);
    close(store.as_ref()).unwrap();
    let store = open(&disk);
    assert!(store.recovery().clean);
    // A change that nobody announced.
    write(store.as_ref(), 0, vec![2; 512]).unwrap();
    disk.kill();
    let found = open(&disk).recovery();
    assert_eq!((found.clean, found.active), (false, extent(0, 1).activity().collect()));
}

#[test]
fn a_failed_sync_latches() {
    let disk = SimDisk::new();
    let store = open(&disk);
    write(store.as_ref(), 0, vec![1; 512]).unwrap();
    disk.fail_sync(disk.syncs());
    assert_eq!(flush(store.as_ref()), Err(IoError::Latched));
    assert_eq!(read(store.as_ref(), 0, 512), Err(IoError::Latched));
    assert_eq!(close(store.as_ref()), Err(IoError::Latched));
}

#[test]
fn refuses_snapshots() {
    let store = open(&SimDisk::new());
    let id = SnapshotId::of(1);
    assert_eq!(ask(|ticket| store.snapshot(id, ticket)), Err(IoError::Unsupported));
    assert_eq!(ask(|ticket| store.roll_back(id, ticket)), Err(IoError::Invalid));
    ask(|ticket| store.remove_snapshot(id, ticket)).unwrap();
    assert!(store.open_snapshot(id).is_err() && store.changed_since(id, 0, 1).is_err());
    assert_eq!(store.snapshots(), []);
}
