//! A moment as what a volume is filled from: a snapshot, with what the write journal has laid over it.
//!
//! Invariant: as of any origin, what it answers never changes. What of the journal cannot be read back
//! is an error and never the older content below it.

use std::rc::Rc;
use std::sync::Arc;

use block::{
    BlockRange, BlockSet, Extent, GroupId, IoError, Origin, Reply, Segment, Segments, VolumeId,
};
use store::journal::View;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::Laid;
use crate::fillings::{Fillings, OPEN_PAUSE, OPEN_TRIES_MAX};

/// See the top of the file.
#[derive(Clone)]
pub(crate) struct LaidOrigin {
    base: Rc<dyn Origin>,
    fillings: Arc<Fillings>,
    /// The volume that is filled, and the one that the snapshot is of.
    volumes: (VolumeId, VolumeId),
    laid: Laid,
    tasks: TaskTracker,
}

// === impl LaidOrigin ===

impl LaidOrigin {
    pub(crate) const fn new(
        base: Rc<dyn Origin>,
        fillings: Arc<Fillings>,
        volumes: (VolumeId, VolumeId),
        laid: Laid,
        tasks: TaskTracker,
    ) -> Self {
        Self { base, fillings, volumes, laid, tasks }
    }

    /// What lies over the base: at hand, or read anew after a restart.
    async fn view(&self) -> Result<Arc<View>, IoError> {
        let (filled, of) = self.volumes;
        for _ in 0..OPEN_TRIES_MAX {
            let gateway = self.fillings.control().map(|(gateway, _)| gateway);
            if let Some(view) = gateway.as_ref().and_then(|gateway| gateway.moments.view(filled)) {
                return Ok(view);
            }
            let group = GroupId::from_uuid(self.laid.group);
            let journal = gateway.as_ref().and_then(|gateway| gateway.moments.journal(group));
            if let (Some(gateway), Some(journal)) = (gateway, journal) {
                let (from, to) = self.laid.places();
                let read = tokio::task::spawn_blocking(move || journal.views(from, to)).await;
                let mut views = match read {
                    Ok(Ok(views)) => views,
                    Ok(Err(error)) => {
                        tracing::warn!(volume = %filled, %error, "read a moment");
                        return Err(IoError::Checksum);
                    }
                    Err(_) => return Err(IoError::Origin),
                };
                let view = Arc::new(views.remove(&of).unwrap_or_default());
                gateway.moments.views().insert(filled, Arc::clone(&view));
                return Ok(view);
            }
            // The gateway is starting.
            tokio::time::sleep(OPEN_PAUSE).await;
        }
        Err(IoError::Origin)
    }

    async fn read_laid(&self, extent: Extent) -> Result<Segments, IoError> {
        let view = self.view().await?;
        let under = if view.hides(extent) {
            [Segment::Zero(extent.len())].into_iter().collect()
        } else {
            ask(|reply| self.base.read(extent, reply)).await?
        };
        let read = tokio::task::spawn_blocking(move || view.read(extent, under));
        read.await.unwrap_or(Err(IoError::Origin))
    }

    /// The blocks of both, as far as both are known, until there are as many as were asked for.
    async fn mapped_laid(&self, from: u64, limit: usize) -> Result<BlockSet, IoError> {
        let view = self.view().await?;
        let end = self.base.bytes() / block::BLOCK_BYTES;
        let (mut at, mut out) = (from, BlockSet::new());
        while at < end && out.len() < limit {
            let base = ask(|reply| self.base.mapped(at, limit, reply)).await?;
            let laid = view.touched(at, limit);
            let known = |set: &BlockSet| match set.last() {
                Some(last) if set.len() >= limit => last.end(),
                Some(_) | None => end,
            };
            let upto = known(&base).min(known(&laid)).min(end);
            merge(&mut out, base, laid, upto);
            at = upto;
        }
        out.truncate(limit);
        Ok(out)
    }
}

/// Appends what lies before a block of two sets that are in order.
fn merge(out: &mut BlockSet, one: BlockSet, other: BlockSet, upto: u64) {
    let mut all: Vec<BlockRange> = one.into_iter().chain(other).collect();
    all.sort_unstable_by_key(|range| range.first());
    for range in all {
        let range = BlockRange::new(range.first(), range.end().min(upto));
        if range.is_empty() {
            continue;
        }
        match out.last_mut().filter(|last| last.end() >= range.first()) {
            Some(last) => *last = BlockRange::new(last.first(), last.end().max(range.end())),
            None => out.push(range),
        }
    }
}

/// Asks the origin below.
async fn ask<T: Send + 'static>(question: impl FnOnce(Reply<T>)) -> Result<T, IoError> {
    let (sender, answer) = oneshot::channel();
    question(Reply::new(move |result| {
        // Whoever asked may be gone.
        let _gone = sender.send(result);
    }));
    answer.await.unwrap_or(Err(IoError::Origin))
}

impl std::fmt::Debug for LaidOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} as of {}", self.base, self.laid.unix_ms)
    }
}

impl Origin for LaidOrigin {
    fn bytes(&self) -> u64 {
        self.base.bytes()
    }

    fn mapped(&self, from: u64, limit: usize, reply: Reply<BlockSet>) {
        let origin = self.clone();
        drop(self.tasks.spawn_local(async move {
            reply.answer(origin.mapped_laid(from, limit).await);
        }));
    }

    fn read(&self, extent: Extent, reply: Reply<Segments>) {
        let origin = self.clone();
        drop(self.tasks.spawn_local(async move {
            reply.answer(origin.read_laid(extent).await);
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sets_become_one_in_order_and_no_further_than_both_are_known() {
        let range = BlockRange::new;
        let mut out = BlockSet::new();
        merge(&mut out, vec![range(0, 2), range(9, 20)], vec![range(1, 4), range(6, 7)], 12);
        assert_eq!(out, [range(0, 4), range(6, 7), range(9, 12)]);
        merge(&mut out, vec![range(12, 20)], Vec::new(), 30);
        assert_eq!(out, [range(0, 4), range(6, 7), range(9, 20)]);
    }
}
