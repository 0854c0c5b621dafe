//! Power is cut at every sync: what was flushed is there, what was not is old or new by sector,
//! and nothing else is ever seen, now or in a snapshot.
//!
//! The tests count that they can fail: a disk that loses flushed data is caught by the same check.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use block::{IoError, Op, Origin, SnapshotId, Store, Volume};
use bytes::Bytes;
use store::{PoolVolume, StoreError};
use testkit::SimDisk;

use crate::rig::{
    TestOrigin, ask, close, disk_to_fill, disk_with, extent, flush, open, read, run, run_aside,
    try_open,
};

pub(crate) const BYTES: u64 = 32 << 20;
pub(crate) const SPAN: u64 = 512 << 10;
/// What a volume grows by at most, all of which is modelled behind the span.
const GROWN: u64 = 64 << 10;
const SECTOR: usize = 512;

/// What each sector may hold after a power cut, as the byte it is filled with.
pub(crate) struct Model {
    /// What it reads as now.
    pub(crate) now: Vec<u8>,
    /// What it may read as: the flushed byte and everything since.
    pub(crate) allowed: Allowed,
    pub(crate) snapshots: BTreeMap<u128, Kept>,
    /// What it reads as instead, all of it, if a return to a snapshot came to pass.
    returned: Option<Allowed>,
    /// What it is filled from.
    origin: Option<Rc<TestOrigin>>,
    /// The sizes that it may have: the one that was answered, and what was asked for since.
    sizes: BTreeSet<u64>,
}

pub(crate) type Allowed = Vec<BTreeSet<u8>>;

/// A snapshot.
pub(crate) struct Kept {
    pub(crate) allowed: Allowed,
    /// It was answered that it is there, and it was not asked to go.
    pub(crate) certain: bool,
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

impl Model {
    pub(crate) fn new() -> Self {
        let sectors = usize::try_from(SPAN + GROWN).unwrap() / SECTOR;
        Self {
            now: vec![0; sectors],
            allowed: vec![BTreeSet::from([0]); sectors],
            snapshots: BTreeMap::new(),
            returned: None,
            origin: None,
            sizes: BTreeSet::from([BYTES]),
        }
    }

    /// Of a volume that is filled.
    fn filling() -> Self {
        let mut model = Self::new();
        let content = origin();
        model.now = content.chunks(SECTOR).map(|sector| sector[0]).collect();
        model.now.resize(model.allowed.len(), 0);
        model.flushed();
        model.origin = Some(TestOrigin::new(content));
        model
    }

    fn disk(&self) -> Arc<SimDisk> {
        match &self.origin {
            Some(origin) => disk_to_fill(BYTES, origin.bytes()),
            None => disk_with(BYTES),
        }
    }

    fn open(&self, disk: &Arc<SimDisk>) -> Result<Rc<PoolVolume>, StoreError> {
        let volume = try_open(disk)?;
        if let Some(origin) = &self.origin {
            volume.set_origin(Rc::clone(origin) as Rc<dyn Origin>);
        }
        Ok(volume)
    }

    pub(crate) fn set(&mut self, offset: u64, len: u64, byte: u8) {
        let first = usize::try_from(place(offset)).unwrap() / SECTOR;
        for sector in first..first + usize::try_from(len).unwrap() / SECTOR {
            self.now[sector] = byte;
            self.allowed[sector].insert(byte);
        }
    }

    pub(crate) fn flushed(&mut self) {
        for (allowed, now) in self.allowed.iter_mut().zip(&self.now) {
            *allowed = BTreeSet::from([*now]);
        }
    }

    pub(crate) fn check(&mut self, volume: &PoolVolume, context: &str) {
        let bytes = Volume::geometry(volume).bytes();
        assert!(self.sizes.contains(&bytes), "{context}: {bytes} bytes of {:?}", self.sizes);
        self.sizes = BTreeSet::from([bytes]);
        let content = content(volume, context);
        let fits = |allowed: &Allowed| content.iter().zip(allowed).all(|(c, a)| a.contains(c));
        if self.returned.take().is_none_or(|returned| !fits(&returned)) {
            hold_against(&content, &self.allowed, context);
        }
        self.now = content;
        // What was recovered is durable: recovery ends with a checkpoint.
        self.flushed();
        let found = volume.snapshots();
        for (number, kept) in &self.snapshots {
            let id = SnapshotId::of(*number);
            let there = found.iter().any(|s| s.id == id);
            assert!(there || !kept.certain, "{context}: snapshot {number} is lost");
        }
        let mut known = BTreeMap::new();
        for snapshot in found {
            let number = snapshot.id.uuid().as_u128();
            let context = format!("{context} snapshot {number}");
            let kept = self.snapshots.get(&number);
            let kept = kept.unwrap_or_else(|| panic!("{context}: nobody took it"));
            let content =
                self::content(volume.open_snapshot(snapshot.id).unwrap().as_ref(), &context);
            hold_against(&content, &kept.allowed, &context);
            let allowed = content.into_iter().map(|byte| BTreeSet::from([byte])).collect();
            known.insert(number, Kept { allowed, certain: true });
        }
        self.snapshots = known;
    }

    fn snapshot(&mut self, volume: &PoolVolume, number: u128) -> Result<(), IoError> {
        let id = SnapshotId::of(number);
        let Some(kept) = self.snapshots.get_mut(&number) else {
            let kept = Kept { allowed: self.allowed.clone(), certain: false };
            self.snapshots.insert(number, kept);
            ask(|ticket| volume.snapshot(id, ticket))?;
            self.flushed();
            let kept = Kept { allowed: self.allowed.clone(), certain: true };
            self.snapshots.insert(number, kept);
            return Ok(());
        };
        kept.certain = false;
        ask(|ticket| volume.remove_snapshot(id, ticket))?;
        self.snapshots.remove(&number);
        // It is durable, and so is what was before it.
        self.flushed();
        Ok(())
    }

    /// Makes it longer by a few blocks, or writes to the last one that it grew by.
    fn grow(&mut self, volume: &PoolVolume, random: &mut Random, byte: u8) -> Result<(), IoError> {
        let bytes = Volume::geometry(volume).bytes();
        if bytes > BYTES && random.below(2) == 0 {
            self.set(bytes - 4096, 4096, byte);
            let data = Bytes::from(vec![byte; 4096]);
            return run(volume, Op::Write(extent(bytes - 4096, 4096), data)).map(drop);
        }
        let longer = (bytes + (random.below(4) + 1) * 4096).min(BYTES + GROWN);
        self.sizes.insert(longer);
        ask(|ticket| volume.grow(longer, ticket))?;
        self.sizes = BTreeSet::from([longer]);
        Ok(())
    }

    fn roll_back(&mut self, volume: &PoolVolume, number: u128) -> Result<(), IoError> {
        let Some(kept) = self.snapshots.get(&number) else { return Ok(()) };
        self.returned = Some(kept.allowed.clone());
        ask(|ticket| volume.roll_back(SnapshotId::of(number), ticket))?;
        self.allowed = self.returned.take().unwrap();
        self.now = self.allowed.iter().map(|a| *a.first().unwrap()).collect();
        Ok(())
    }
}

/// An origin that ends before the volume does, with holes and blocks of many kinds.
fn origin() -> Vec<u8> {
    let mut content = vec![0; usize::try_from(SPAN).unwrap() - 9 * 4096];
    for (block, content) in content.chunks_mut(4096).enumerate().filter(|(b, _)| b % 4 != 1) {
        content.fill(200 + u8::try_from(block % 50).unwrap());
    }
    content
}

/// Where something is in the model: what a volume grew by lies behind the span.
fn place(offset: u64) -> u64 {
    offset.checked_sub(BYTES).map_or(offset, |behind| SPAN + behind)
}

/// The byte that each sector is filled with. What a volume did not grow by yet is nothing.
fn content(volume: &dyn Volume, context: &str) -> Vec<u8> {
    let mut got = read(volume, 0, SPAN).unwrap_or_else(|e| panic!("{context}: {e}"));
    let grown = volume.geometry().bytes() - BYTES;
    if grown > 0 {
        got.extend(read(volume, BYTES, grown).unwrap_or_else(|e| panic!("{context}: {e}")));
    }
    got.resize(usize::try_from(SPAN + GROWN).unwrap(), 0);
    let mut out = Vec::new();
    for (sector, data) in got.chunks(SECTOR).enumerate() {
        assert!(data.iter().all(|b| *b == data[0]), "{context}: sector {sector} is torn");
        out.push(data[0]);
    }
    out
}

fn hold_against(content: &[u8], allowed: &Allowed, context: &str) {
    for (sector, (byte, allowed)) in content.iter().zip(allowed).enumerate() {
        assert!(
            allowed.contains(byte),
            "{context}: sector {sector} holds {byte} and may hold {allowed:?}"
        );
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
    match random.below(if model.origin.is_some() { 39 } else { 31 }) {
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
            let bytes = Volume::geometry(volume).bytes();
            model.set(0, SPAN, 0);
            if bytes > BYTES {
                model.set(BYTES, bytes - BYTES, 0);
            }
            run(volume, Op::Trim(extent(0, bytes))).map(drop)
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
        18 => model.roll_back(volume, random.below(4).into()),
        19 if random.below(3) > 0 => {
            *byte = byte.checked_add(1).unwrap_or(1);
            model.grow(volume, random, *byte)
        }
        20..=27 => model.snapshot(volume, random.below(4).into()),
        28..=30 => {
            *byte = byte.checked_add(1).unwrap_or(1);
            let (block, count) = (random.below(blocks - 64), random.below(33) + 32);
            model.set(block * 4096, count * 4096, *byte);
            let data = Bytes::from(vec![*byte; usize::try_from(count * 4096).unwrap()]);
            run_aside(volume, Op::Write(extent(block * 4096, count * 4096), data)).map(drop)
        }
        31..=38 => ask(|ticket| volume.fill(random.below(200_000), ticket)).map(drop),
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
    crash_of(Model::new(), seed, stop)
}

fn crash_of(mut model: Model, seed: u64, stop: Option<u64>) -> (Arc<SimDisk>, u64) {
    let disk = model.disk();
    let mut byte = 0;
    let before = disk.syncs();
    if let Some(stop) = stop {
        disk.stop_at_sync(before + stop);
    }
    if let Ok(volume) = model.open(&disk) {
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
        let volume = model.open(&disk).unwrap_or_else(|e| panic!("{context}: {e:#}"));
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
fn loses_nothing_of_the_origin_whenever_power_is_cut() {
    for seed in 1000..1010 {
        let (_, syncs) = crash_of(Model::filling(), seed, None);
        for stop in 0..syncs {
            crash_of(Model::filling(), seed, Some(stop));
        }
    }
}

#[test]
fn loses_nothing_of_the_origin_at_many_seeds() {
    for seed in 2000..2400 {
        crash_of(Model::filling(), seed, Some(seed % 60));
    }
}

#[test]
fn fills_to_the_end_however_often_power_is_cut() {
    for seed in 0..40 {
        let mut model = Model::filling();
        let disk = model.disk();
        let mut rounds = 0;
        loop {
            disk.stop_at_sync(disk.syncs() + 2 + seed % 5 + rounds / 4);
            if let Ok(volume) = model.open(&disk) {
                while volume.is_filling() {
                    if ask(|ticket| volume.fill(40_000, ticket)).is_err() {
                        break;
                    }
                }
            }
            disk.power_cut(seed << 8 | rounds);
            let volume = model.open(&disk).unwrap();
            model.check(&volume, &format!("seed {seed} round {rounds}"));
            if !volume.is_filling() {
                break;
            }
            rounds += 1;
            assert!(rounds < 200, "seed {seed}: filling does not end");
        }
        // Nobody asks the origin any more.
        let reads = model.origin.take().unwrap().reads.get();
        assert!(reads > 0);
        let volume = model.open(&disk).unwrap();
        model.check(&volume, "without an origin");
    }
}

#[test]
fn loses_nothing_flushed_at_many_seeds() {
    for seed in 100..700 {
        crash(seed, Some(seed % 60));
    }
}

/// Blocks of a slot were trimmed, flushed and given to another chunk, all behind the last commit.
/// When the new owner's data was lost, what the old one had left there was taken for it, because
/// the log still named its checksum.
#[test]
fn does_not_take_what_a_former_owner_left_for_content() {
    for seed in 0..64 {
        let disk = disk_with(BYTES);
        let volume = open(&disk);
        let write = |chunk: u64, byte: u8| {
            let data = Bytes::from(vec![byte; 4096]);
            run(volume.as_ref(), Op::Write(extent(chunk << 16, 4096), data)).unwrap();
        };
        write(0, 1);
        run(volume.as_ref(), Op::Trim(extent(0, 4096))).unwrap();
        flush(volume.as_ref()).unwrap();
        write(1, 2);
        disk.power_cut(seed);
        drop(volume);
        let volume = open(&disk);
        for sector in read(volume.as_ref(), 1 << 16, 4096).unwrap().chunks(SECTOR) {
            assert!([0, 2].contains(&sector[0]), "seed {seed}: holds {}", sector[0]);
        }
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
