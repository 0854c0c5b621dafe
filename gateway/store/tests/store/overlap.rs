//! Hosts go on while snapshots are removed: the steps of a fold and changes take turns, and the
//! power may go at any moment.

use std::rc::Rc;

use block::{Completions, IoError, Op, Request, SnapshotId, Store, Volume};
use bytes::Bytes;
use store::{Executor, Pool, PoolOptions, PoolVolume};
use tokio_util::task::TaskTracker;

use crate::crash::{BYTES, Kept, Model, Random, SPAN};
use crate::rig::{VOLUME, disk_with, extent, flatten, open};

/// The tag of a request that is waited for; removals have their snapshot's number.
const WAITED: u64 = u64::MAX;

struct Shard {
    volume: Rc<PoolVolume>,
    queue: Rc<Completions>,
    model: Model,
    random: Random,
    byte: u8,
    /// Removals that were not answered yet.
    leaving: Vec<u128>,
}

impl Shard {
    /// Takes what was answered; says whether what is waited for was.
    fn take(&mut self) -> Option<Result<block::Answer, IoError>> {
        let mut done = Vec::new();
        self.queue.take(&mut done);
        let mut waited = None;
        for completion in done {
            if completion.tag == WAITED {
                waited = Some(completion.result);
            } else {
                // One that failed may be there or not.
                if completion.result.is_ok() {
                    let number = u128::from(completion.tag);
                    self.leaving.retain(|n| *n != number);
                    self.model.snapshots.remove(&number);
                }
            }
        }
        waited
    }

    async fn wait(&mut self) -> Result<block::Answer, IoError> {
        loop {
            if let Some(result) = self.take() {
                return result;
            }
            std::future::poll_fn(|cx| self.queue.poll_ready(cx)).await;
        }
    }

    async fn run(&mut self, op: Op) -> Result<block::Answer, IoError> {
        let ticket = self.queue.ticket(WAITED);
        self.volume.submit(&mut vec![Request { op, fua: false, ticket }]);
        self.wait().await
    }

    async fn step(&mut self) -> Result<(), IoError> {
        let blocks = SPAN / 4096;
        match self.random.below(27) {
            0..=10 => {
                self.byte = self.byte.checked_add(1).unwrap_or(1);
                let (offset, len) = (self.random.below(blocks - 8), self.random.below(8) + 1);
                self.model.set(offset * 4096, len * 4096, self.byte);
                let data = vec![self.byte; usize::try_from(len * 4096).unwrap()];
                self.run(Op::Write(extent(offset * 4096, len * 4096), Bytes::from(data))).await?;
            }
            11..=12 => {
                let (offset, len) = (self.random.below(blocks - 8), self.random.below(8) + 1);
                self.model.set(offset * 4096, len * 4096, 0);
                self.run(Op::Trim(extent(offset * 4096, len * 4096))).await?;
            }
            13 if self.random.below(4) == 0 => {
                self.model.set(0, SPAN, 0);
                self.run(Op::Trim(extent(0, BYTES))).await?;
            }
            14 => {
                self.run(Op::Flush).await?;
                self.model.flushed();
            }
            15 => {
                let answer = self.run(Op::Read(extent(0, SPAN))).await?;
                for (sector, data) in flatten(answer).chunks(512).enumerate() {
                    let wanted = self.model.now[sector];
                    let same = data.iter().all(|byte| *byte == wanted);
                    assert!(same, "sector {sector} holds {} and not {wanted}", data[0]);
                }
            }
            16..=19 => self.remove(),
            24..=26 => {
                self.byte = self.byte.checked_add(1).unwrap_or(1);
                let block = self.random.below(blocks - 64);
                let (offset, len) = (block * 4096, (self.random.below(33) + 32) * 4096);
                self.model.set(offset, len, self.byte);
                let data = Bytes::from(vec![self.byte; usize::try_from(len).unwrap()]);
                let op = Op::Write(extent(offset, len), data);
                let ticket = self.queue.ticket(WAITED);
                self.volume.submit_aside(&mut vec![Request { op, fua: false, ticket }]);
                self.wait().await?;
            }
            _ => self.snapshot().await?,
        }
        Ok(())
    }

    async fn snapshot(&mut self) -> Result<(), IoError> {
        let number = u128::from(self.random.below(4));
        if self.model.snapshots.contains_key(&number) {
            return Ok(());
        }
        let allowed = self.model.allowed.clone();
        self.model.snapshots.insert(number, Kept { allowed, certain: false });
        self.volume.snapshot(SnapshotId::of(number), self.queue.ticket(WAITED));
        self.wait().await?;
        self.model.flushed();
        let allowed = self.model.allowed.clone();
        self.model.snapshots.insert(number, Kept { allowed, certain: true });
        Ok(())
    }

    /// Asks for one to go and does not wait for it.
    fn remove(&mut self) {
        let number = u128::from(self.random.below(4));
        if self.leaving.contains(&number) {
            return;
        }
        let Some(kept) = self.model.snapshots.get_mut(&number) else { return };
        kept.certain = false;
        self.leaving.push(number);
        let ticket = self.queue.ticket(u64::try_from(number).unwrap());
        self.volume.remove_snapshot(SnapshotId::of(number), ticket);
    }
}

fn check(seed: u64) {
    let disk = disk_with(BYTES);
    let mut model = Model::new();
    let mut byte = 0;
    for round in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let executor = Executor::threads(1, 1).unwrap();
        let pool = Pool::open(disk.root(), executor, PoolOptions::default()).unwrap();
        let volume = pool.open_volume(VOLUME).unwrap();
        disk.set_cold(seed.is_multiple_of(3));
        disk.stop_at_sync(disk.syncs() + Random(seed << 8 | round).below(60));
        let tracker = TaskTracker::new();
        (model, byte) = local.block_on(&runtime, async {
            tracker.spawn_local(volume.pump());
            let random = Random(seed ^ round << 32);
            let (queue, leaving) = (Completions::new(), Vec::new());
            let mut shard = Shard { volume, queue, model, random, byte, leaving };
            for _ in 0..80 {
                if shard.step().await.is_err() {
                    break;
                }
            }
            shard.take();
            (shard.model, shard.byte)
        });
        disk.power_cut(seed ^ round);
        drop((local, runtime, pool));
        model.check(&open(&disk), &format!("seed {seed} round {round}"));
        disk.kill();
    }
}

#[test]
fn changes_and_folds_take_turns_and_power_is_cut() {
    for seed in 0..300 {
        check(seed);
    }
}

/// A worker writes what is large; what overlaps it waits, and nothing else does.
#[test]
fn what_overlaps_a_large_write_waits_for_it() {
    let disk = disk_with(BYTES);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let executor = Executor::threads(1, 1).unwrap();
    let pool = Pool::open(disk.root(), executor, PoolOptions::default()).unwrap();
    let volume = pool.open_volume(VOLUME).unwrap();
    let queue = Completions::new();
    let ops = [
        Op::Write(extent(4096, 300 << 10), Bytes::from(vec![1; 300 << 10])),
        Op::Write(extent(8192, 4096), Bytes::from(vec![2; 4096])),
        Op::Read(extent(0, 16_384)),
    ];
    let requests = (0..).zip(ops);
    let mut batch: Vec<Request> =
        requests.map(|(tag, op)| Request { op, fua: false, ticket: queue.ticket(tag) }).collect();
    let mut done = Vec::new();
    local.block_on(&runtime, async {
        let tracker = TaskTracker::new();
        tracker.spawn_local(volume.pump());
        volume.submit_aside(&mut batch);
        while done.len() < 3 {
            std::future::poll_fn(|cx| queue.poll_ready(cx)).await;
            queue.take(&mut done);
        }
    });
    done.sort_by_key(|completion| completion.tag);
    let seen = flatten(done.pop().unwrap().result.unwrap());
    let blocks: Vec<u8> = seen.chunks(4096).map(|block| block[0]).collect();
    assert_eq!(blocks, [0, 1, 2, 1]);
    drop((local, runtime, pool, volume));
    disk.kill();
    let volume = open(&disk);
    assert_eq!(crate::rig::read(volume.as_ref(), 0, 16_384).unwrap(), seen);
}
