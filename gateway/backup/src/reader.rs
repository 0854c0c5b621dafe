//! Reading any part of a volume straight from a backup.
//!
//! The first byte costs the manifest, the maps of one segment (all at once) and a part of one pack.
//!
//! Invariant: what is handed out was checked against the hash that its map names it by.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use block::{BLOCK_BYTES, BlockRange, BlockSet, Extent, VolumeId};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::sync::{Mutex, OnceCell};

use crate::BackupId;
use crate::codec::Malformed;
use crate::error::BackupError;
use crate::format::{Content, Entry, Member, Pin, Place, Purpose, Span, cipher, decode_chunk};
use crate::id::PackRef;
use crate::layout;
use crate::limits::{CACHED_SEGMENTS, FETCH_BYTES_MAX, FETCH_GAP_BYTES, FETCHES, SEGMENT_BLOCKS};
use crate::repository::{Access, Repository, blocking};
use crate::seal::damaged;
use crate::take::merged;
use crate::watch::Watch;

type Segment = Arc<OnceCell<Arc<Vec<Entry>>>>;

/// One volume of one backup, open for reading.
#[derive(Debug)]
pub struct Reader {
    repository: Repository,
    member: Member,
    pin: Option<BackupId>,
    watch: Arc<Watch>,
    /// The last ones that were used are at the end.
    segments: Mutex<VecDeque<(u32, Segment)>>,
}

/// A run of blocks with one content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where in the volume.
    pub extent: Extent,
    /// What it holds; `None` for zeroes.
    pub data: Option<Bytes>,
}

impl Repository {
    /// Opens a volume of a backup. Where the repository may be written it is pinned, so that it
    /// stays if it is removed meanwhile, until [`Reader::close`].
    ///
    /// # Errors
    /// [`BackupError::NoBackup`], [`BackupError::Removed`], [`BackupError::NoVolume`]; or what the
    /// store says.
    ///
    /// # Cancellation
    /// A call that is dropped may leave a pin, which [`Repository::unpin`] removes.
    pub async fn read(
        &self,
        backup: BackupId,
        volume: VolumeId,
        now: Timestamp,
        watch: &Arc<Watch>,
    ) -> Result<Reader, BackupError> {
        let pin = match self.access {
            Access::ReadOnly => None,
            Access::ReadWrite => {
                let gateway = self.gateway.to_string();
                let pin = Pin { gateway, needs: vec![backup], purpose: Purpose::Reading };
                let id = BackupId::new(now);
                self.put_pin(id, &pin).await?;
                Some(id)
            }
        };
        let opened = self.held(backup, volume, now).await;
        match (opened, pin) {
            (Ok(member), pin) => Ok(Reader {
                repository: self.clone(),
                member,
                pin,
                watch: Arc::clone(watch),
                segments: Mutex::default(),
            }),
            (Err(error), Some(pin)) => {
                self.unpin(pin).await?;
                Err(error)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Pins a backup under a name that the caller remembers, for readers that come and go while
    /// processes die: it stays until [`Repository::unpin`], and what it protects can be read by
    /// [`Repository::read_pinned`] until then, whoever removes the backup meanwhile. A pin of this name
    /// that is there already is the caller's own, and holds what it held.
    ///
    /// # Errors
    /// As for [`read`](Self::read); then there is no new pin.
    ///
    /// # Cancellation
    /// A call that is dropped may leave the pin.
    pub async fn pin_reading(
        &self,
        pin: BackupId,
        (backup, volume): (BackupId, VolumeId),
        now: Timestamp,
    ) -> Result<(), BackupError> {
        let gateway = self.gateway.to_string();
        let wanted = Pin { gateway, needs: vec![backup], purpose: Purpose::Reading };
        let is_new = self.put_pin(pin, &wanted).await?;
        if is_new && let Err(error) = self.held(backup, volume, now).await {
            self.unpin(pin).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Opens a volume of a backup that the caller keeps by a pin, removed or not.
    ///
    /// # Errors
    /// [`BackupError::NoBackup`] when it is gone all the same, [`BackupError::NoVolume`]; or what
    /// the store says.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn read_pinned(
        &self,
        (backup, volume): (BackupId, VolumeId),
        watch: &Arc<Watch>,
    ) -> Result<Reader, BackupError> {
        let manifest = match self.manifest(backup).await {
            Err(BackupError::Missing { .. }) => None,
            manifest => manifest?,
        };
        let manifest = manifest.ok_or(BackupError::NoBackup { id: backup })?;
        let member = manifest.members.into_iter().find(|member| member.id == volume);
        Ok(Reader {
            repository: self.clone(),
            member: member.ok_or(BackupError::NoVolume { id: backup, volume })?,
            pin: None,
            watch: Arc::clone(watch),
            segments: Mutex::default(),
        })
    }

    /// Removes the pin of a reader that is no more. One that the store keeps is over by a mark, and
    /// goes with a later collection.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancellation
    /// A call that is dropped is to be repeated.
    pub async fn unpin(&self, pin: BackupId) -> Result<(), BackupError> {
        match self.bucket.remove(&layout::pin(pin)).await? {
            None => Ok(()),
            Some(_) => self.abandon(pin).await.map(drop),
        }
    }

    async fn held(
        &self,
        backup: BackupId,
        volume: VolumeId,
        now: Timestamp,
    ) -> Result<Member, BackupError> {
        let manifest = match self.live_manifest(backup).await {
            // A lock keeps what was marked at the same moment.
            Err(BackupError::Removed { id }) => self.locked_manifest(id, now).await?,
            manifest => manifest?,
        };
        let member = manifest.members.into_iter().find(|member| member.id == volume);
        member.ok_or(BackupError::NoVolume { id: backup, volume })
    }
}

impl Reader {
    /// The volume's size, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.member.bytes
    }

    /// The name of the pin that keeps the backup, to be removed should this process die.
    #[must_use]
    pub const fn pin(&self) -> Option<BackupId> {
        self.pin
    }

    /// Lets the backup go.
    ///
    /// # Errors
    /// What the store says; then the pin is still there.
    ///
    /// # Cancellation
    /// A call that is dropped may leave the pin.
    pub async fn close(self) -> Result<(), BackupError> {
        match self.pin {
            Some(pin) => self.repository.unpin(pin).await,
            None => Ok(()),
        }
    }

    /// The bytes of a block-aligned range inside the volume.
    ///
    /// # Errors
    /// [`BackupError::Missing`] or [`BackupError::Damaged`] with the object's key; or what the
    /// store says.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn read(&self, extent: Extent) -> Result<Bytes, BackupError> {
        let mut bytes = BytesMut::zeroed(usize::try_from(extent.len()).unwrap_or(usize::MAX));
        for part in self.parts(extent).await? {
            if let Some(data) = part.data {
                let at = usize::try_from(part.extent.offset() - extent.offset());
                let at = at.unwrap_or(usize::MAX);
                bytes[at..at + data.len()].copy_from_slice(&data);
            }
        }
        Ok(bytes.freeze())
    }

    /// The same in pieces that are in order, without gaps, and tell zeroes from data.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn parts(&self, extent: Extent) -> Result<Vec<Part>, BackupError> {
        let blocks = extent.blocks();
        if !extent.is_block_aligned() || extent.end() > self.member.bytes {
            return Err(BackupError::System { what: "to read outside a volume or inside a block" });
        }
        let mut parts = Vec::new();
        let mut first = blocks.first();
        while first < blocks.end() {
            let segment = u32::try_from(first / SEGMENT_BLOCKS).unwrap_or(u32::MAX);
            let end = (u64::from(segment) + 1) * SEGMENT_BLOCKS;
            let span = Span::new(first, end.min(blocks.end()));
            let entries = self.segment(segment).await?;
            self.fetch(&entries, span, &mut parts).await?;
            first = span.end;
        }
        Ok(parts)
    }

    /// The blocks that may hold anything but zeroes, in order, from block `from` on, as at most
    /// `limit` ranges. Fewer ranges than `limit` say that there are no more.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn mapped(&self, from: u64, limit: usize) -> Result<BlockSet, BackupError> {
        let mut blocks = BlockSet::new();
        let first = u32::try_from(from / SEGMENT_BLOCKS).unwrap_or(u32::MAX);
        let begin = self.member.segments.partition_point(|(segment, _)| *segment < first);
        for (segment, _) in &self.member.segments[begin..] {
            for entry in self.segment(*segment).await?.iter() {
                let (first, end) = (entry.span.first.max(from), entry.span.end);
                if first >= end || entry.content == Content::Zero {
                    continue;
                }
                let before = blocks.last().copied().filter(|last| last.end() == first);
                if let Some(before) = before {
                    blocks.pop();
                    blocks.push(BlockRange::new(before.first(), end));
                } else if blocks.len() == limit {
                    return Ok(blocks);
                } else {
                    blocks.push(BlockRange::new(first, end));
                }
            }
        }
        Ok(blocks)
    }

    /// The merged maps of a segment.
    async fn segment(&self, segment: u32) -> Result<Arc<Vec<Entry>>, BackupError> {
        let cell = {
            let mut segments = self.segments.lock().await;
            let at = segments.iter().position(|(number, _)| *number == segment);
            let entry = at.and_then(|at| segments.remove(at));
            let entry = entry.unwrap_or_else(|| (segment, Segment::default()));
            let cell = Arc::clone(&entry.1);
            segments.push_back(entry);
            if segments.len() > CACHED_SEGMENTS {
                segments.pop_front();
            }
            cell
        };
        let load = async {
            let layers = self.member.layers(segment);
            self.watch.pace(layers.iter().map(|layer| u64::from(layer.length)).sum()).await?;
            let entries = self.watch.unless_cancelled(merged(&self.repository, layers)).await?;
            Ok(Arc::new(entries))
        };
        cell.get_or_try_init(|| load).await.cloned()
    }

    /// Appends the content of `span`.
    async fn fetch(
        &self,
        entries: &[Entry],
        span: Span,
        parts: &mut Vec<Part>,
    ) -> Result<(), BackupError> {
        let after = entries.partition_point(|entry| entry.span.end <= span.first);
        let wanted = entries[after..].iter().take_while(|entry| entry.span.first < span.end);
        let wanted: Vec<Entry> = wanted.filter_map(|entry| entry.cut(span)).collect();
        let places = wanted.iter().filter_map(|entry| match entry.content {
            Content::Chunk { place, .. } => Some(place),
            Content::Zero => None,
        });
        let chunks = chunks(&self.repository, &self.watch, places.collect()).await?;
        let mut first = span.first;
        for entry in wanted {
            parts.extend(part(first, entry.span.first, None));
            let data = match entry.content {
                Content::Zero => None,
                Content::Chunk { place, skip } => {
                    let at =
                        |blocks: u64| usize::try_from(blocks * BLOCK_BYTES).unwrap_or(usize::MAX);
                    let skip = u64::from(skip);
                    let range = at(skip)..at(skip + entry.span.count());
                    chunks.get(&place).map(|chunk| chunk.slice(range))
                }
            };
            parts.extend(part(entry.span.first, entry.span.end, data));
            first = entry.span.end;
        }
        parts.extend(part(first, span.end, None));
        Ok(())
    }
}

fn part(first: u64, end: u64, data: Option<Bytes>) -> Option<Part> {
    let extent = Extent::new(first * BLOCK_BYTES, (end - first) * BLOCK_BYTES).ok()?;
    Some(Part { extent, data })
}

/// Chunks of one pack that lie close together.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) pack: PackRef,
    pub(crate) places: Vec<Place>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Which parts of which packs to ask for.
pub(crate) fn fetches(mut places: Vec<Place>) -> Vec<Fetch> {
    places.sort_unstable_by_key(|place| (place.pack, place.offset));
    places.dedup();
    let mut fetches: Vec<Fetch> = Vec::new();
    for place in places {
        let (start, end) =
            (u64::from(place.offset), u64::from(place.offset) + u64::from(place.stored));
        match fetches.last_mut() {
            Some(last)
                if last.pack == place.pack
                    && start <= last.end + FETCH_GAP_BYTES
                    && end <= last.start + FETCH_BYTES_MAX =>
            {
                last.places.push(place);
                last.end = last.end.max(end);
            }
            _ => fetches.push(Fetch { pack: place.pack, places: vec![place], start, end }),
        }
    }
    fetches
}

/// The checked content of one fetch.
pub(crate) async fn fetch(
    repository: &Repository,
    watch: &Watch,
    fetch: Fetch,
) -> Result<Vec<(Place, Result<Bytes, Malformed>)>, BackupError> {
    let key = layout::pack(&fetch.pack);
    watch.pace(fetch.end - fetch.start).await?;
    let get = repository.bucket.get_range(&key, fetch.start..fetch.end);
    let bytes = watch.unless_cancelled(get).await?;
    let keys = Arc::clone(&repository.keys);
    blocking(move || {
        let cipher = cipher(&keys, fetch.pack.attempt);
        let chunk = |place: Place| {
            let at = usize::try_from(u64::from(place.offset) - fetch.start).unwrap_or(usize::MAX);
            let stored = &bytes[at..at + place.stored as usize];
            (place, decode_chunk(&keys, cipher.as_ref(), &place, stored))
        };
        Ok(fetch.places.into_iter().map(chunk).collect())
    })
    .await
}

async fn chunks(
    repository: &Repository,
    watch: &Watch,
    places: Vec<Place>,
) -> Result<HashMap<Place, Bytes>, BackupError> {
    let loads = fetches(places).into_iter().map(|one| fetch(repository, watch, one));
    let loads = futures_util::stream::iter(loads).buffer_unordered(FETCHES);
    let fetched: Vec<_> = loads.try_collect().await?;
    let checked = fetched.into_iter().flatten().map(|(place, chunk)| {
        let chunk = chunk.map_err(|error| damaged(&layout::pack(&place.pack), error))?;
        Ok((place, chunk))
    });
    checked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::place;

    #[test]
    fn chunks_that_lie_close_together_are_asked_for_at_once() {
        let at = |number: u32, offset: u32| Place { offset, stored: 4096, ..place(number, 1) };
        let far = u32::try_from(FETCH_GAP_BYTES).unwrap() + 20_000;
        let places = vec![at(0, 8192), at(0, 0), at(0, far), at(1, 4096), at(0, 0)];
        let shape: Vec<_> = fetches(places)
            .iter()
            .map(|fetch| (fetch.places.len(), fetch.start, fetch.end))
            .collect();
        assert_eq!(shape, [(2, 0, 12288), (1, far.into(), u64::from(far) + 4096), (1, 4096, 8192)]);
    }
}
