//! Volumes of a shard that are filled while hosts use them, and snapshots that others are filled
//! from.
//!
//! Invariant: the filler holds a volume only while it takes a step, so that a group closes when it
//! is told to.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use block::{
    Answer, BLOCK_BYTES, BlockRange, BlockSet, Completions, Extent, GroupId, IoError, Op, Request,
    RunKind, Segments, SnapshotId, Store, Ticket, Volume, VolumeId,
};
use mirror::SnapshotState;
use store::PoolVolume;

use super::{ShardState, ask};
use crate::fillings::{Fillings, Standing, Told};
use crate::gateway::snapshots::Place;
use crate::refusal::Refused;

/// What one step copies: a few milliseconds for a disk.
const STEP_BYTES: u64 = 4 << 20;
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Runs of a snapshot that are looked at between two looks at the hosts.
const STEP_RUNS: usize = 1024;

impl ShardState {
    /// Says where the origin of a volume is, and begins to fill it, if it has one.
    pub(super) fn begin_filling(&self, id: VolumeId, volume: &Rc<PoolVolume>) {
        let Some(origin) = self.parts.pool.volume(id).and_then(|record| record.origin) else {
            return;
        };
        let fillings = Arc::clone(&self.parts.fillings);
        volume.set_origin(fillings.open(id, &origin, &self.tasks));
        fillings.post(id, None, Standing::Copying);
        let rate = [self.parts.fill_rate, fillings.limit(&origin)].into_iter().flatten().min();
        let filling = fill(Rc::downgrade(volume), id, fillings, rate);
        let stop = self.stop.clone();
        self.spawn(async move {
            stop.run_until_cancelled(filling).await;
        });
    }

    /// Keeps a snapshot for the volume `by` that will be filled from it; whether there is one.
    #[must_use]
    pub(crate) fn keep_snapshot(&self, (group, volume, here): Place, by: VolumeId) -> bool {
        let open = self.group(group).and_then(|open| open.volume(volume));
        open.is_some_and(|open| {
            let exists = open.store.open_snapshot(here).is_ok();
            if exists {
                open.store.keep_snapshot(here, by);
            }
            exists
        })
    }

    /// The volume `by` is not filled from a snapshot any more; if no other one is, and nobody can name
    /// it either, it goes, durably. To be repeated until it succeeds.
    ///
    /// # Errors
    /// [`api::Code::NotOpened`], or the store's.
    pub(crate) async fn let_go_of_snapshot(
        &self,
        (group, volume, here): Place,
        by: VolumeId,
    ) -> Result<(), Refused> {
        let open = self.open_group(group)?;
        let Some(of) = open.volume(volume) else { return Ok(()) };
        of.store.let_go_of_snapshot(here, by);
        if of.store.keeps_snapshot(here) {
            // The last one that is filled from it removes it.
            return Ok(());
        }
        let named = open.group.status().snapshots.iter().any(|snapshot| {
            snapshot.state != SnapshotState::Deleting && snapshot.volumes.contains(&(volume, here))
        });
        if named {
            return Ok(());
        }
        // Its name is to be gone durably; what that leaves is worked off behind.
        of.store.remove_snapshot(here, Ticket::ignored());
        ask(|ticket| {
            of.store.submit(&mut vec![Request { op: Op::Flush, fua: false, ticket }]);
        })
        .await?;
        if of.store.open_snapshot(here).is_ok() {
            let detail = "a snapshot that nobody needs any more could not be removed";
            return Err(Refused::new(api::Code::PoolFailed, detail));
        }
        Ok(())
    }

    /// A piece of a snapshot for a volume that is filled from it; `None` when it is not open here.
    pub(crate) async fn read_at(
        &self,
        (group, volume): (GroupId, VolumeId),
        here: SnapshotId,
        extent: Extent,
    ) -> Option<Result<Segments, IoError>> {
        let view = self.group(group)?.volume(volume)?.store.open_snapshot(here).ok()?;
        let answer = ask(|ticket| {
            view.submit(&mut vec![Request { op: Op::Read(extent), fua: false, ticket }]);
        });
        Some(match answer.await {
            Ok(Answer::Read(segments)) => Ok(segments),
            Err(IoError::Checksum) => Err(IoError::Checksum),
            Ok(Answer::Done) | Err(_) => Err(IoError::Origin),
        })
    }

    /// The blocks that a snapshot has, from one on, as at most so many ranges; `None` when it is not
    /// open here.
    pub(crate) async fn mapped_at(
        &self,
        (group, volume): (GroupId, VolumeId),
        here: SnapshotId,
        (from, limit): (u64, usize),
    ) -> Option<Result<BlockSet, IoError>> {
        let view = self.group(group)?.volume(volume)?.store.open_snapshot(here).ok()?;
        let bytes = view.geometry().bytes();
        let mut at = from.saturating_mul(BLOCK_BYTES);
        let mut out = BlockSet::new();
        while at < bytes && out.len() < limit {
            let runs = Extent::new(at, bytes - at)
                .map_err(|_error| IoError::Origin)
                .and_then(|rest| view.layout(rest, STEP_RUNS));
            let Ok(runs) = runs else { return Some(Err(IoError::Origin)) };
            if runs.is_empty() {
                break;
            }
            for run in runs {
                let (first, end) = (at / BLOCK_BYTES, (at + run.len).div_ceil(BLOCK_BYTES));
                at += run.len;
                if run.kind == RunKind::Data && out.len() < limit {
                    out.push(BlockRange::new(first, end));
                }
            }
            tokio::task::yield_now().await;
        }
        Some(Ok(out))
    }
}

/// Fills a volume step by step, at most so many bytes a second, until all is there or it is gone.
async fn fill(volume: Weak<PoolVolume>, id: VolumeId, fillings: Arc<Fillings>, rate: Option<u64>) {
    let pause = rate.map_or(Duration::ZERO, |rate| {
        Duration::from_millis(STEP_BYTES.saturating_mul(1000) / rate.max(1))
    });
    loop {
        let queue = Completions::new();
        {
            let Some(volume) = volume.upgrade() else { return fillings.remove(id) };
            if !volume.is_filling() {
                break;
            }
            volume.fill(STEP_BYTES, queue.ticket(0));
        }
        std::future::poll_fn(|context| queue.poll_ready(context)).await;
        let mut answers = Vec::new();
        queue.take(&mut answers);
        let Some(volume) = volume.upgrade() else { return fillings.remove(id) };
        let standing = match answers.pop().map(|answer| answer.result) {
            Some(Ok(_)) => Standing::Copying,
            Some(Err(IoError::NoSpace)) => Standing::NoRoom,
            Some(Err(error)) => Standing::Failed(error),
            None => Standing::Failed(IoError::Dropped),
        };
        fillings.post(id, volume.left_bytes(), standing);
        drop(volume);
        let pause = if standing == Standing::Copying { pause } else { RETRY };
        tokio::time::sleep(pause).await;
    }
    fillings.tell(Told::Filled(id));
}
