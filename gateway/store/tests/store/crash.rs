//! Power is cut at every sync: what was flushed is there, what was not is old or new by sector,
//! and nothing else is ever seen.
//!
//! The tests count that they can fail: a disk that loses flushed data is caught by the same check.

use std::collections::BTreeSet;
use std::sync::Arc;

use block::{IoError, Op, Store};
use bytes::Bytes;
use store::PoolVolume;
use testkit::SimDisk;

use crate::rig::{ask, close, disk_with, extent, flush, open, read, run, try_open};

const BYTES: u64 = 32 << 20;
const SPAN: u64 = 512 << 10;
const SECTOR: usize = 512;

/// What each sector may hold after a power cut, as the byte it is filled with.
struct Model {
    /// What it reads as now.
    now: Vec<u8>,
    /// What it may read as: the flushed byte and everything since.
    allowed: Vec<BTreeSet<u8>>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

impl Model {
    fn new() -> Self {
        let sectors = usize::try_from(SPAN).unwrap() / SECTOR;
        Self { now: vec![0; sectors], allowed: vec![BTreeSet::from([0]); sectors] }
    }

    fn set(&mut self, offset: u64, len: u64, byte: u8) {
        let first = usize::try_from(offset).unwrap() / SECTOR;
        for sector in first..first + usize::try_from(len).unwrap() / SECTOR {
            self.now[sector] = byte;
            self.allowed[sector].insert(byte);
        }
    }

    fn flushed(&mut self) {
        for (allowed, now) in self.allowed.iter_mut().zip(&self.now) {
            *allowed = BTreeSet::from([*now]);
        }
    }

    fn check(&mut self, volume: &PoolVolume, context: &str) {
        let got = read(volume, 0, SPAN).unwrap_or_else(|e| panic!("{context}: {e}"));
        for (sector, data) in got.chunks(SECTOR).enumerate() {
            assert!(data.iter().all(|b| *b == data[0]), "{context}: sector {sector} is torn");
            assert!(
                self.allowed[sector].contains(&data[0]),
                "{context}: sector {sector} holds {} and may hold {:?}",
                data[0],
                self.allowed[sector]
            );
            self.now[sector] = data[0];
        }
        // What was recovered is durable: recovery ends with a checkpoint.
        self.flushed();
    }
}

/// One step of a seeded workload. Every write has a byte of its own, so that a stale one shows.
fn step(
    volume: &PoolVolume,
    model: &mut Model,
    random: &mut Random,
    byte: &mut u8,
) -> Result<(), IoError> {
    let blocks = SPAN / 4096;
    match random.below(20) {
        0..=9 => {
            *byte = byte.checked_add(1).unwrap_or(1);
            let (offset, len) = if random.below(3) == 0 {
                let sector = random.below(SPAN / 512 - 40);
                (sector * 512, (random.below(40) + 1) * 512)
            } else {
                let block = random.below(blocks - 20);
                (block * 4096, (random.below(20) + 1) * 4096)
            };
            model.set(offset, len, *byte);
            let data = Bytes::from(vec![*byte; usize::try_from(len).unwrap()]);
            run(volume, Op::Write(extent(offset, len), data)).map(drop)
        }
        10..=12 => {
            let block = random.below(blocks - 20);
            let len = (random.below(20) + 1) * 4096;
            model.set(block * 4096, len, 0);
            run(volume, Op::Trim(extent(block * 4096, len))).map(drop)
        }
        13 => {
            model.set(0, SPAN, 0);
            run(volume, Op::Trim(extent(0, BYTES))).map(drop)
        }
        14 => {
            let block = random.below(blocks - 20);
            model.set(block * 4096, 8192, 0);
            let extent = extent(block * 4096, 8192);
            run(volume, Op::Zero { extent, may_trim: false }).map(drop)
        }
        15..=16 => {
            let result = flush(volume);
            if result.is_ok() {
                model.flushed();
            }
            result
        }
        17 => {
            let active: Vec<_> = extent(random.below(4) << 22, 4096).activity().collect();
            ask(|ticket| volume.record_activity(&active, ticket)).map(drop)
        }
        18 => Ok(()),
        _ => {
            let result = close(volume).map(drop);
            if result.is_ok() {
                model.flushed();
            }
            result
        }
    }
}

/// Runs a workload until its end or until the disk stops.
fn work(volume: &PoolVolume, model: &mut Model, seed: u64, byte: &mut u8) {
    let mut random = Random(seed);
    for _ in 0..30 {
        // The disk may stop in the middle of it: what was under way may be old or new.
        if step(volume, model, &mut random, byte).is_err() {
            return;
        }
    }
}

fn crash(seed: u64, stop: Option<u64>) -> (Arc<SimDisk>, u64) {
    let disk = disk_with(BYTES);
    let mut model = Model::new();
    let mut byte = 0;
    let before = disk.syncs();
    if let Some(stop) = stop {
        disk.stop_at_sync(before + stop);
    }
    if let Ok(volume) = try_open(&disk) {
        work(&volume, &mut model, seed, &mut byte);
    }
    let syncs = disk.syncs() - before;
    for again in 0..2u64 {
        disk.power_cut(seed.wrapping_mul(31) ^ stop.unwrap_or(u64::MAX) ^ again << 40);
        // The second time it is cut while it recovers, if the seed wants it so.
        if seed % 2 == again {
            disk.stop_at_sync(disk.syncs() + seed % 7);
            if let Ok(volume) = try_open(&disk) {
                drop(volume);
            }
            disk.power_cut(seed ^ 0xabcd ^ again);
        }
        let context = format!("seed {seed} stop {stop:?} round {again}");
        let volume = try_open(&disk).unwrap_or_else(|e| panic!("{context}: {e:#}"));
        model.check(&volume, &context);
        work(&volume, &mut model, seed ^ (again + 1) << 20, &mut byte);
    }
    (disk, syncs)
}

#[test]
fn loses_nothing_flushed_whenever_power_is_cut() {
    for seed in 0..12 {
        let (_, syncs) = crash(seed, None);
        for stop in 0..syncs {
            crash(seed, Some(stop));
        }
    }
}

#[test]
fn loses_nothing_flushed_at_many_seeds() {
    for seed in 100..500 {
        crash(seed, Some(seed % 40));
    }
}

#[test]
fn does_the_same_for_the_same_seed() {
    for seed in [3, 14, 159] {
        let runs: Vec<_> = (0..2)
            .map(|_| {
                let (disk, syncs) = crash(seed, None);
                (syncs, disk.written(), disk.allocated(), disk.paths())
            })
            .collect();
        assert_eq!(runs[0], runs[1]);
    }
}

#[test]
fn the_check_catches_a_lost_write() {
    let disk = disk_with(BYTES);
    let volume = open(&disk);
    let mut model = Model::new();
    let mut byte = 0;
    work(&volume, &mut model, 5, &mut byte);
    flush(volume.as_ref()).unwrap();
    model.flushed();
    run(volume.as_ref(), Op::Write(extent(0, 4096), Bytes::from(vec![250; 4096]))).unwrap();
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        model.check(&volume, "a write the model does not know");
    }));
    assert!(checked.is_err());
}

#[test]
fn keeps_everything_when_only_the_process_dies() {
    for seed in 0..40 {
        let disk = disk_with(BYTES);
        let mut model = Model::new();
        let mut byte = 0;
        for round in 0..4 {
            let volume = open(&disk);
            work(&volume, &mut model, seed ^ round << 8, &mut byte);
            disk.kill();
            drop(volume);
            // What was answered is there, flushed or not.
            model.flushed();
            model.check(&open(&disk), &format!("seed {seed} round {round}"));
            disk.kill();
        }
    }
}
