//! What changed between two snapshots of a volume, or since one: for people, and for clients that ask
//! for a dirty bitmap.
//!
//! Invariant: maps are read, not data; hosts go on between two pieces.

use std::rc::{Rc, Weak};

use block::{
    BLOCK_BYTES, BlockSet, Extent, GroupId, IoError, Run, RunKind, SnapshotId, Store, VolumeId,
};
use nbd_server::Changes;
use store::PoolVolume;

use super::ShardState;
use crate::refusal::Refused;

/// A volume, or what it was at a snapshot, to be compared with snapshots of it.
pub(super) struct Compared {
    volume: Weak<PoolVolume>,
    at: Option<SnapshotId>,
}

impl Compared {
    pub(super) fn new(volume: &Rc<PoolVolume>, at: Option<SnapshotId>) -> Rc<Self> {
        Rc::new(Self { volume: Rc::downgrade(volume), at })
    }
}

impl Changes for Compared {
    fn changed(
        &self,
        since: SnapshotId,
        extent: Extent,
        limit: usize,
    ) -> Result<Vec<Run>, IoError> {
        let volume = self.volume.upgrade().ok_or(IoError::ShuttingDown)?;
        let from = extent.offset() / BLOCK_BYTES;
        let changed = between(volume.as_ref(), (since, self.at), from, limit)?;
        Ok(runs(&changed, extent, limit))
    }
}

fn between(
    store: &dyn Store,
    (since, at): (SnapshotId, Option<SnapshotId>),
    from: u64,
    limit: usize,
) -> Result<BlockSet, IoError> {
    match at {
        Some(at) => store.changed_between((since, at), from, limit),
        None => store.changed_since(since, from, limit),
    }
}

/// Ranges of blocks, of which there may be more if they are `limit`, as runs of an extent.
fn runs(changed: &BlockSet, extent: Extent, limit: usize) -> Vec<Run> {
    let mut out = Vec::new();
    let mut at = extent.offset();
    let mut push = |to: u64, kind: RunKind, at: &mut u64| {
        let to = to.min(extent.end());
        if to > *at {
            out.push(Run { len: to - *at, kind });
            *at = to;
        }
    };
    for range in changed {
        push(range.first().saturating_mul(BLOCK_BYTES), RunKind::Hole, &mut at);
        push(range.end().saturating_mul(BLOCK_BYTES), RunKind::Data, &mut at);
    }
    if changed.len() < limit {
        push(extent.end(), RunKind::Hole, &mut at);
    }
    out
}

impl ShardState {
    /// The blocks of a volume, from one on, that may differ between a snapshot and another one, or
    /// what is there now, as at most so many ranges.
    ///
    /// # Errors
    /// [`api::Code::NotOpened`], [`api::Code::NotFound`], or the store's.
    pub(crate) fn changed(
        &self,
        (group, volume): (GroupId, VolumeId),
        snapshots: (SnapshotId, Option<SnapshotId>),
        (from, limit): (u64, usize),
    ) -> Result<BlockSet, Refused> {
        let open = self.open_group(group)?;
        let missing = || Refused::new(api::Code::NotFound, "the group has no such volume");
        let of = open.volume(volume).ok_or_else(missing)?;
        Ok(between(of.store.as_ref(), snapshots, from, limit)?)
    }
}

#[cfg(test)]
mod tests {
    use block::BlockRange;

    use super::*;

    #[test]
    fn what_is_known_of_an_extent_is_told_and_no_more() {
        let extent = Extent::new(4096 + 100, 4 * 4096).unwrap();
        let run = |len, kind| Run { len, kind };
        let (clean, dirty) = (RunKind::Hole, RunKind::Data);
        let changed = vec![BlockRange::new(1, 2), BlockRange::new(3, 9)];
        let all = [run(3996, dirty), run(4096, clean), run(8292, dirty)];
        assert_eq!(runs(&changed, extent, 9), all);
        assert_eq!(runs(&changed[..1].to_vec(), extent, 1), all[..1]);
        assert_eq!(runs(&changed[..1].to_vec(), extent, 2)[1], run(12_388, clean));
        assert_eq!(runs(&Vec::new(), extent, 1), [run(16_384, clean)]);
        // Beyond it all is clean, whatever comes.
        assert_eq!(runs(&vec![BlockRange::new(77, 78)], extent, 1), [run(16_384, clean)]);
    }
}
