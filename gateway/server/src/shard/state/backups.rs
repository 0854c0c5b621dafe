//! What backups do on a shard: snapshots are read, volumes are filled that no host may attach.
//!
//! Invariant: it gives way to hosts between pieces. A volume that is being filled takes no host, from
//! the moment at which those that were there are dropped.

use std::rc::Rc;

use api::Code;
use block::{
    Answer, BLOCK_BYTES, BlockRange, BlockSet, Extent, GroupId, IoError, Op, Request, RunKind,
    Store, Volume, VolumeId,
};
use bytes::Bytes;

use super::{OpenVolume, ShardState, ask};
use crate::backups::point::Place;
use crate::refusal::Refused;

/// Zeroes that one request makes.
const ZERO_BYTES: u64 = 4 << 20;
/// Ranges of a map that are looked at between two looks at the hosts.
const STEP_RANGES: usize = 1024;

type Target = (GroupId, VolumeId);

impl ShardState {
    // === Reading a snapshot ===

    /// The snapshot's volume, opened once and held until [`Self::release_point`].
    fn point(&self, place: Place) -> Result<Rc<dyn Volume>, Refused> {
        let open = self.open_group(place.group)?;
        if let Some(held) = open.snapshots.held.borrow().get(&place.here) {
            return Ok(Rc::clone(held));
        }
        let opened = self.open_of(place.group, place.volume)?.store.open_snapshot(place.here);
        let opened = opened.map_err(|error| {
            let detail = format!("the snapshot of the backup is not there: {error}");
            Refused::new(Code::BackupInterrupted, detail)
        })?;
        open.snapshots.held.borrow_mut().insert(place.here, Rc::clone(&opened));
        Ok(opened)
    }

    /// The size that the volume had.
    ///
    /// # Errors
    /// [`Code::BackupInterrupted`] when the snapshot is not there.
    pub(crate) fn point_bytes(&self, place: Place) -> Result<u64, Refused> {
        Ok(self.point(place)?.geometry().bytes())
    }

    /// Lets the snapshot go.
    pub(crate) fn release_point(&self, place: Place) {
        if let Some(open) = self.group(place.group) {
            open.snapshots.held.borrow_mut().remove(&place.here);
        }
    }

    /// The blocks of a snapshot that hold data, from block `from` on.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn point_mapped(
        &self,
        place: Place,
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, Refused> {
        let volume = self.point(place)?;
        let bytes = volume.geometry().bytes();
        let mut set = BlockSet::new();
        let mut at = from.saturating_mul(BLOCK_BYTES);
        while at < bytes && set.len() < limit {
            let rest = Extent::new(at, bytes - at).map_err(|_empty| IoError::OutOfRange)?;
            let runs = volume.layout(rest, limit)?;
            if runs.is_empty() {
                break;
            }
            for run in runs {
                let (first, end) = (at / BLOCK_BYTES, (at + run.len).div_ceil(BLOCK_BYTES));
                at += run.len;
                if run.kind == RunKind::Data {
                    set.push(BlockRange::new(first, end));
                }
            }
        }
        set.truncate(limit);
        Ok(set)
    }

    /// The blocks in which a snapshot may differ from an earlier one, from block `from` on.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn point_changed(
        &self,
        place: Place,
        earlier: block::SnapshotId,
        from: u64,
        limit: usize,
    ) -> Result<BlockSet, Refused> {
        let store = self.open_of(place.group, place.volume)?.store;
        Ok(store.changed_between((earlier, place.here), from, limit)?)
    }

    /// A piece of a snapshot.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn read_point(&self, place: Place, extent: Extent) -> Result<Bytes, Refused> {
        let volume = self.point(place)?;
        read(volume.as_ref(), extent).await
    }

    pub(super) fn open_of(&self, group: GroupId, volume: VolumeId) -> Result<OpenVolume, Refused> {
        let missing = || Refused::new(Code::NotFound, "the group has no such volume");
        self.open_group(group)?.volume(volume).ok_or_else(missing)
    }

    // === Filling a volume ===

    /// Takes no host for these volumes from now on, and drops those that are there.
    ///
    /// # Errors
    /// [`Code::NotOpened`], [`Code::NotFound`]; [`Code::HostsAttached`] unless they may be dropped;
    /// then nothing was changed.
    pub(crate) fn close_to_hosts(
        &self,
        group: GroupId,
        volumes: &[VolumeId],
        drop_hosts: bool,
    ) -> Result<(), Refused> {
        let open: Vec<OpenVolume> =
            volumes.iter().map(|volume| self.open_of(group, *volume)).collect::<Result<_, _>>()?;
        let hosts: usize = open.iter().map(OpenVolume::attached).sum();
        if hosts > 0 && !drop_hosts {
            let detail = format!("{hosts} hosts are attached");
            return Err(Refused::new(Code::HostsAttached, detail));
        }
        for volume in open {
            volume.is_closed.set(true);
            volume.closing.take().cancel();
        }
        Ok(())
    }

    /// Takes hosts for these volumes again.
    pub(crate) fn open_to_hosts(&self, group: GroupId, volumes: &[VolumeId]) {
        for volume in volumes {
            if let Ok(open) = self.open_of(group, *volume) {
                open.is_closed.set(false);
            }
        }
    }

    fn served(&self, (group, volume): Target) -> Result<Rc<dyn Volume>, Refused> {
        let open = self.open_group(group)?;
        if !open.group.is_serving() {
            let detail = "the group is not served here any more";
            return Err(Refused::new(Code::NotPrimary, detail));
        }
        let missing = || Refused::new(Code::NotFound, "the group has no such volume");
        open.group.volume(volume).ok_or_else(missing)
    }

    /// Writes the blocks of a piece in which it differs from what is there; all of them where that cannot
    /// be read: it is given up for this.
    ///
    /// # Errors
    /// The volume's.
    pub(crate) async fn fill(
        &self,
        target: Target,
        offset: u64,
        data: Bytes,
    ) -> Result<(), Refused> {
        let volume = self.served(target)?;
        let extent = Extent::new(offset, data.len() as u64).map_err(|_e| IoError::OutOfRange)?;
        let runs = match submit(volume.as_ref(), Op::Read(extent)).await {
            Err(IoError::Checksum | IoError::Media) => vec![(0, data.len())],
            there => differing(&read_bytes(there?)?, &data),
        };
        for (from, to) in runs {
            write(volume.as_ref(), offset + from as u64, data.slice(from..to)).await?;
        }
        Ok(())
    }

    /// Makes a range read as zeroes. What is not mapped is left alone.
    ///
    /// # Errors
    /// The volume's.
    pub(crate) async fn fill_zeroes(&self, target: Target, extent: Extent) -> Result<(), Refused> {
        let volume = self.served(target)?;
        let store = self.open_of(target.0, target.1)?.store;
        let blocks = extent.blocks();
        let mut from = blocks.first();
        while from < blocks.end() {
            let ranges = store.mapped(from, STEP_RANGES)?;
            let Some(last) = ranges.last() else { break };
            from = last.end();
            for range in ranges {
                let (first, end) =
                    (range.first().max(blocks.first()), range.end().min(blocks.end()));
                let Some(count) = end.checked_sub(first).filter(|count| *count > 0) else {
                    continue;
                };
                let piece = Extent::new(first * BLOCK_BYTES, count * BLOCK_BYTES)
                    .map_err(|_e| IoError::OutOfRange)?;
                for extent in piece.pieces(ZERO_BYTES) {
                    submit(volume.as_ref(), Op::Zero { extent, may_trim: true }).await?;
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// The volume's.
    pub(crate) async fn fill_flush(&self, target: Target) -> Result<(), Refused> {
        let volume = self.served(target)?;
        Ok(submit(volume.as_ref(), Op::Flush).await.map(drop)?)
    }
}

async fn submit(volume: &dyn Volume, op: Op) -> Result<Answer, IoError> {
    ask(|ticket| volume.submit(&mut vec![Request { op, fua: false, ticket }])).await
}

async fn write(volume: &dyn Volume, offset: u64, data: Bytes) -> Result<(), Refused> {
    let extent = Extent::new(offset, data.len() as u64).map_err(|_e| IoError::OutOfRange)?;
    Ok(submit(volume, Op::Write(extent, data)).await.map(drop)?)
}

pub(super) async fn read(volume: &dyn Volume, extent: Extent) -> Result<Bytes, Refused> {
    read_bytes(submit(volume, Op::Read(extent)).await?)
}

fn read_bytes(answer: Answer) -> Result<Bytes, Refused> {
    let Answer::Read(segments) = answer else {
        return Err(Refused::new(Code::Internal, "a read was answered without data"));
    };
    Ok(block::joined(&segments))
}

/// The runs of blocks in which two pieces of the same length differ, as bytes from their beginning.
fn differing(there: &[u8], wanted: &[u8]) -> Vec<(usize, usize)> {
    let block = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (number, (a, b)) in there.chunks(block).zip(wanted.chunks(block)).enumerate() {
        if a == b {
            continue;
        }
        let (from, to) = (number * block, number * block + b.len());
        match runs.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => runs.push((from, to)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::differing;

    #[test]
    fn only_blocks_that_differ_are_written() {
        let there = vec![1_u8; 5 * 4096];
        let mut wanted = there.clone();
        assert_eq!(differing(&there, &wanted), []);
        (wanted[4096], wanted[2 * 4096 + 5], wanted[5 * 4096 - 1]) = (2, 2, 2);
        assert_eq!(differing(&there, &wanted), [(4096, 3 * 4096), (4 * 4096, 5 * 4096)]);
    }
}
