//! What earlier attempts of a run have stored.
//!
//! Each pack says which blocks were looked at while it was filled. Those that follow on each other
//! from the beginning of a volume need not be looked at again; what lies behind a gap is nobody's
//! and goes with the next collection.
//!
//! Invariant: a pack is taken up only when every pack before it is, so what it refers to is there.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};

use crate::BackupId;
use crate::bucket::Listed;
use crate::error::BackupError;
use crate::format::{Footer, Index, index_range, open_index};
use crate::layout;
use crate::limits::LOADS;
use crate::repository::Repository;
use crate::watch::Watch;

impl Repository {
    /// For each of so many volumes the indexes that follow on each other.
    pub(super) async fn stored_by(
        &self,
        id: BackupId,
        volumes: usize,
        watch: &Arc<Watch>,
    ) -> Result<Vec<Vec<Index>>, BackupError> {
        let packs = self.bucket.list(&layout::packs(id)).await?;
        let loads = packs.into_iter().map(|listed| self.index(listed));
        let indexes = futures_util::stream::iter(loads).buffer_unordered(LOADS);
        let indexes = indexes.try_filter_map(|index| async move { Ok(index) });
        let indexes: Vec<Index> = watch.unless_cancelled(indexes.try_collect()).await?;
        Ok(chains(indexes, volumes))
    }

    /// The index of a pack; `None` for one that is not whole, which is as good as none.
    async fn index(&self, listed: Listed) -> Result<Option<Index>, BackupError> {
        let (key, bytes) = (listed.key, listed.bytes);
        let (Some(pack), Some(at)) = (layout::parse_pack(&key), bytes.checked_sub(Footer::BYTES))
        else {
            return Ok(None);
        };
        let read = async {
            let end = self.bucket.get_range(&key, at..bytes).await?;
            let footer = Footer::decode(&key, &end, bytes)?;
            let stored = self.bucket.get_range(&key, index_range(&footer)).await?;
            open_index(&self.keys, &pack, &footer, &stored)
        };
        match read.await {
            Ok(index) => Ok(Some(index)),
            Err(error @ (BackupError::Damaged { .. } | BackupError::Missing { .. })) => {
                tracing::warn!(%error, "a pack of an interrupted backup is stored again");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Those that follow on each other from block 0, for each volume.
fn chains(mut indexes: Vec<Index>, volumes: usize) -> Vec<Vec<Index>> {
    // Where two begin at the same block the one that reaches further is taken.
    indexes.sort_by_key(|index| {
        let coverage = index.coverage;
        (coverage.volume, coverage.from, std::cmp::Reverse(coverage.to))
    });
    let mut chains: Vec<Vec<Index>> = (0..volumes).map(|_| Vec::new()).collect();
    for index in indexes {
        let coverage = index.coverage;
        let Some(chain) = chains.get_mut(coverage.volume as usize) else { continue };
        let reached = chain.last().map_or(0, |last| last.coverage.to);
        if coverage.from == reached && coverage.to > reached {
            chain.push(index);
        }
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Coverage;

    fn index(volume: u32, from: u64, to: u64) -> Index {
        Index { coverage: Coverage { volume, from, to }, entries: Vec::new() }
    }

    #[test]
    fn packs_are_taken_up_as_far_as_they_follow_on_each_other() {
        let packs = vec![
            index(0, 40, 60),
            index(1, 5, 9),
            index(0, 0, 20),
            index(0, 20, 30),
            index(0, 20, 25),
            index(0, 30, 35),
            index(7, 0, 1),
        ];
        let chains = chains(packs, 2);
        let reached: Vec<_> =
            chains.iter().map(|chain| chain.last().map_or(0, |last| last.coverage.to)).collect();
        assert_eq!(reached, [35, 0]);
        assert_eq!(chains[0].len(), 3);
    }
}
