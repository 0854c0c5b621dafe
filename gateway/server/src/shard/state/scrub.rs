//! Scrubbing on a shard: a few blocks at a time, between the hosts' requests.
//!
//! Invariant: what is read for another gateway was held against its checksum in the same turn.

use block::{
    BLOCK_BYTES, Extent, GroupId, IoError, Op, Request, SnapshotId, Store, Volume, VolumeId,
};
use bytes::Bytes;
use store::{Repaired, Scrubbed};

use super::{ShardState, ask, backups::read};
use crate::gateway::scrubs::SeenIn;
use crate::refusal::Refused;

type Target = (GroupId, VolumeId);

impl ShardState {
    /// Reads and checks what is stored from a block on, about so many bytes: of a volume, or what a
    /// snapshot of it holds and a newer one does not.
    ///
    /// # Errors
    /// The store's; [`IoError::Media`] when the volume is not open.
    pub(crate) fn scrub_step(
        &self,
        (group, volume): Target,
        seen: Option<SeenIn>,
        from: u64,
        bytes: u64,
    ) -> Result<Scrubbed, IoError> {
        let store = self.open_of(group, volume).map_err(|_closed| IoError::Media)?.store;
        match seen {
            None => store.scrub(from, bytes),
            Some(SeenIn { here, newer, .. }) => store.scrub_snapshot(here, newer, (from, bytes)),
        }
    }

    /// A block of the copy here, if it is good.
    ///
    /// # Errors
    /// As for [`Self::scrub_step`], and for a block that is not.
    pub(crate) async fn read_good(
        &self,
        (group, volume): Target,
        snapshot: Option<SnapshotId>,
        block: u64,
    ) -> Result<Bytes, Refused> {
        let store = self.open_of(group, volume)?.store;
        let extent = extent_of(block)?;
        if let Some(here) = snapshot {
            // It does not change, and what is read of it was checked or is in memory: a scrub there
            // finds what is not.
            return read(store.open_snapshot(here)?.as_ref(), extent).await;
        }
        let sums = store.checksums(extent)?;
        let content = read(store.as_ref(), extent).await?;
        // Changed between the two, it is not what was checked.
        let is_checked = store.checksums(extent)? == sums;
        if is_checked { Ok(content) } else { Err(IoError::Checksum.into()) }
    }

    /// Puts the content of a bad block back, durably.
    ///
    /// # Errors
    /// As for [`Self::scrub_step`].
    pub(crate) async fn repair(
        &self,
        (group, volume): Target,
        seen: Option<SeenIn>,
        block: u64,
        content: Bytes,
    ) -> Result<Repaired, Refused> {
        let store = self.open_of(group, volume)?.store;
        let repaired = match seen {
            None => store.repair(block, &content)?,
            Some(seen) => store.repair_snapshot(seen.here, block, &content)?,
        };
        if repaired == Repaired::Done {
            let flush = |ticket| {
                store.submit(&mut vec![Request { op: Op::Flush, fua: false, ticket }]);
            };
            ask(flush).await?;
        }
        Ok(repaired)
    }

    /// Whether the volume, or what of it a snapshot shows, has the same block as another snapshot.
    ///
    /// # Errors
    /// As for [`Self::scrub_step`].
    pub(crate) fn is_same(
        &self,
        (group, volume): Target,
        (seen, other): (Option<SeenIn>, SnapshotId),
        block: u64,
    ) -> Result<bool, Refused> {
        let store = self.open_of(group, volume)?.store;
        let changed = match seen {
            None => store.changed_since(other, block, 1)?,
            Some(seen) => store.changed_between((seen.here, other), block, 1)?,
        };
        Ok(changed.first().is_none_or(|range| range.first() > block))
    }
}

fn extent_of(block: u64) -> Result<Extent, Refused> {
    let at = block.checked_mul(BLOCK_BYTES).ok_or(IoError::OutOfRange)?;
    Ok(Extent::new(at, BLOCK_BYTES).map_err(|_e| IoError::OutOfRange)?)
}
