//! What changed between two snapshots of a volume, or since one, told piece by piece.
//!
//! Invariant: every range that differs is listed; one that is listed may be equal.

use api::{ChangedRange, Code, SnapshotChanges};
use block::{BLOCK_BYTES, SnapshotId, VolumeId};
use mirror::SnapshotStatus;
use uuid::Uuid;

use super::Gateway;
use super::snapshots::find;
use crate::book::GroupEntry;
use crate::refusal::Refused;

/// Ranges in one answer, if nobody says otherwise, and at most.
const RANGES: usize = 1000;
const RANGES_MAX: usize = 10_000;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The snapshot that the other is compared with; what is there now if absent.
    pub(crate) from: Option<String>,
    /// Which volume; may be left out when the snapshot has one only.
    pub(crate) volume: Option<String>,
    /// The byte to begin at.
    pub(crate) offset: u64,
    /// The most ranges.
    pub(crate) limit: Option<usize>,
}

impl Gateway {
    /// The ranges of a volume that may differ between `from` and a snapshot; without `from`, between
    /// the snapshot and what is there now.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::SnapshotUnusable`], [`Code::Invalid`] when the snapshot has several
    /// volumes and none is named, or the store's.
    pub(crate) async fn snapshot_changes(
        &self,
        (group, name): (&str, &str),
        wanted: Wanted,
    ) -> Result<SnapshotChanges, Refused> {
        let entry = self.find_group(group)?;
        let status = self.status_of(entry.group()).await?;
        let snapshot = find(&status, name)?;
        let volume = named_volume(&entry, snapshot, wanted.volume.as_deref())?;
        let here = of_volume(snapshot, volume)?;
        let from = wanted.from.as_deref().map(|from| find(&status, from)).transpose()?;
        let snapshots = match from {
            Some(from) => (of_volume(from, volume)?, Some(here)),
            None => (here, None),
        };
        let limit = wanted.limit.unwrap_or(RANGES).clamp(1, RANGES_MAX);
        let (group, first) = (entry.group(), wanted.offset / BLOCK_BYTES);
        let changed = self
            .shard_of(group)
            .call(move |state| state.changed((group, volume), snapshots, (first, limit)))
            .await??;
        let next = changed.last().filter(|_| changed.len() >= limit);
        let next = next.map(|last| last.end().saturating_mul(BLOCK_BYTES));
        let items = changed.iter().map(|range| ChangedRange {
            offset: range.first().saturating_mul(BLOCK_BYTES),
            length: range.count().saturating_mul(BLOCK_BYTES),
        });
        Ok(SnapshotChanges {
            as_of: self.clock.rfc3339(),
            volume_id: volume.uuid(),
            items: items.collect(),
            next,
        })
    }
}

fn of_volume(snapshot: &SnapshotStatus, volume: VolumeId) -> Result<SnapshotId, Refused> {
    if !snapshot.state.is_readable() {
        let detail = format!("snapshot {} is not readable here", snapshot.name);
        return Err(Refused::new(Code::SnapshotUnusable, detail));
    }
    let found = snapshot.volumes.iter().find(|(id, _)| *id == volume);
    found.map(|(_, here)| *here).ok_or_else(|| {
        let detail = format!("snapshot {} does not hold that volume", snapshot.name);
        Refused::new(Code::NotFound, detail)
    })
}

/// The volume of this name or identity, or the only one.
///
/// # Errors
/// [`Code::NotFound`]; [`Code::Invalid`] when one of several must be named.
pub(super) fn named_volume(
    entry: &GroupEntry,
    snapshot: &SnapshotStatus,
    name: Option<&str>,
) -> Result<VolumeId, Refused> {
    let name_of = |id: &VolumeId| {
        let known = entry.volumes.iter().find(|volume| volume.id == id.uuid());
        known.map_or_else(|| id.to_string(), |volume| volume.name.clone())
    };
    let meant = |(id, _): &&(VolumeId, SnapshotId)| {
        name.is_none_or(|name| name_of(id) == name || Uuid::parse_str(name) == Ok(id.uuid()))
    };
    let mut found = snapshot.volumes.iter().filter(meant);
    let (volume, _) = found.next().ok_or_else(|| {
        let detail = format!("snapshot {} has no volume of that name", snapshot.name);
        Refused::new(Code::NotFound, detail)
    })?;
    if found.next().is_some() {
        let all: Vec<String> = snapshot.volumes.iter().map(|(id, _)| name_of(id)).collect();
        let detail = format!("snapshot {} has volumes {}", snapshot.name, all.join(", "));
        return Err(Refused::new(Code::Invalid, detail).next("name one of them"));
    }
    Ok(*volume)
}
