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
        match self.random.below(24) {
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
