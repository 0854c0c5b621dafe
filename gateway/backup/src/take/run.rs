//! One attempt at taking a backup: from the points of its volumes to what its manifest names.
//!
//! ```text
//!   steps ─▶ reads (32 at once) ─▶ hash, compress (2 batches at once) ─▶ pack ─▶ uploads (4 at once)
//!                                                                  └──▶ entries ─▶ map
//! ```
//!
//! Invariant: everything that a manifest names has arrived before the manifest is put.

use std::collections::HashMap;
use std::sync::Arc;

use block::BLOCK_BYTES;
use futures_util::{Stream, StreamExt};

use super::plan::{self, Basis, Step};
use super::uploads::Uploads;
use crate::BackupId;
use crate::chunk::{Found, Piece, What, prepare};
use crate::error::BackupError;
use crate::format::{
    Content, Entry, Index, Map, MapRef, Member, Pack, Place, Span, overlay, segment_span,
};
use crate::id::{Attempt, ChunkId, PackRef};
use crate::layout;
use crate::limits::{
    CPU_BATCH_BYTES, CPU_BATCH_ITEMS, CPU_BATCHES, LAYERS, PACK_ENTRIES, READS, REMEMBERED_CHUNKS,
    SEGMENT_BLOCKS,
};
use crate::repository::{Repository, blocking};
use crate::seal::{self, Kind};
use crate::volume::Source;
use crate::watch::Watch;

/// What a volume's part of a backup builds upon.
pub(super) struct Parent {
    pub(super) id: BackupId,
    pub(super) member: Member,
    /// Whether what changed since it is known.
    pub(super) is_known: bool,
}

/// One attempt.
pub(super) struct Run<'a> {
    repository: &'a Repository,
    watch: &'a Arc<Watch>,
    id: BackupId,
    attempt: Attempt,
    uploads: Uploads<'a>,
    packs: u32,
    pack: Option<Pack>,
    remembered: HashMap<ChunkId, Place>,
}

/// One volume of it, while it is read.
struct Reading<'a> {
    number: u32,
    source: &'a dyn Source,
    parent: Option<&'a Parent>,
    blocks: u64,
    /// Everything before this block was looked at and is in a pack or needs none.
    covered: u64,
    /// What this backup has to say of the segment that is being read.
    entries: Vec<Entry>,
    /// What the parent's maps say of it together, where that was needed.
    below: Option<Arc<Vec<Entry>>>,
    read_bytes: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        watch: &'a Arc<Watch>,
        id: BackupId,
    ) -> Result<Self, BackupError> {
        Ok(Self {
            repository,
            watch,
            id,
            attempt: seal::new_attempt()?,
            uploads: Uploads::new(repository, watch),
            packs: 0,
            pack: None,
            remembered: HashMap::new(),
        })
    }

    /// Stores one volume; `found` is what earlier attempts stored of it, in order and without gaps.
    pub(super) async fn volume(
        &mut self,
        number: u32,
        source: &dyn Source,
        parent: Option<Parent>,
        found: Vec<Index>,
    ) -> Result<Member, BackupError> {
        let stored_before = self.uploads.stored_bytes;
        let covered = found.last().map_or(0, |index| index.coverage.to);
        let mut found: Vec<Entry> = found.into_iter().flat_map(|index| index.entries).collect();
        self.watch.expect(source.bytes());
        self.watch.find(found.iter().map(stored_bytes).sum());
        for entry in &found {
            if let Some(place) = entry.whole_chunk() {
                self.remember(place);
            }
        }
        found.reverse();
        let mut reading = Reading {
            number,
            source,
            parent: parent.as_ref(),
            blocks: source.bytes() / BLOCK_BYTES,
            covered,
            entries: Vec::new(),
            below: None,
            read_bytes: 0,
        };
        let mut segments = Vec::new();
        for segment in 0..u32::try_from(reading.blocks.div_ceil(SEGMENT_BLOCKS)).unwrap_or(u32::MAX)
        {
            let whole = segment_span(segment);
            let part = Span::new(whole.first, whole.end.min(reading.blocks));
            while let Some(entry) = found.pop_if(|entry| entry.span.first < part.end) {
                reading.entries.push(entry);
            }
            let rest = Span::new(part.first.max(covered), part.end);
            if rest.first < rest.end {
                self.segment(&mut reading, segment, rest).await?;
            }
            let layers = self.map(&mut reading, segment).await?;
            segments.extend((!layers.is_empty()).then_some((segment, layers)));
            self.watch.advance(part.count() * BLOCK_BYTES);
        }
        self.close_pack().await?;
        self.uploads.finish().await?;
        Ok(Member {
            id: source.volume(),
            name: source.name(),
            bytes: source.bytes(),
            point: source.point(),
            parent: reading.parent.map(|parent| parent.id),
            stored_bytes: self.uploads.stored_bytes - stored_before,
            read_bytes: reading.read_bytes,
            segments,
        })
    }

    /// Reads and stores a part of a segment.
    async fn segment(
        &mut self,
        reading: &mut Reading<'_>,
        segment: u32,
        part: Span,
    ) -> Result<(), BackupError> {
        let layers = reading.parent.map_or(&[][..], |parent| parent.member.layers(segment));
        reading.below = None;
        let basis = match reading.parent {
            None => Basis::Nothing,
            Some(Parent { member, is_known: true, .. }) => Basis::Changes {
                since: member.point,
                grown: member.bytes / BLOCK_BYTES,
                has_map: !layers.is_empty(),
            },
            Some(_) => {
                let merged = merged(self.repository, layers).await?;
                Basis::Content(reading.below.insert(Arc::new(merged)))
            }
        };
        let has_older = !matches!(basis, Basis::Nothing) && !layers.is_empty();
        let steps = plan::steps(reading.source, &basis, part).await?;
        let mut found =
            std::pin::pin!(found(self.repository, reading.source, steps, reading.below.clone()));
        loop {
            // What is under way goes on while the next is read and compressed.
            let batch = tokio::select! {
                biased;
                arrived = self.uploads.arrived() => {
                    arrived?;
                    continue;
                }
                batch = self.watch.unless_cancelled(async { Ok(found.next().await) }) => batch?,
            };
            let Some(batch) = batch else { return Ok(()) };
            let (read_bytes, batch) = batch?;
            reading.read_bytes += read_bytes;
            for one in batch {
                self.keep(reading, one, has_older).await?;
            }
        }
    }

    /// Takes what was found in a run of blocks into pack and map.
    async fn keep(
        &mut self,
        reading: &mut Reading<'_>,
        found: Found,
        has_older: bool,
    ) -> Result<(), BackupError> {
        let span = found.span;
        let content = match found.what {
            What::Zero if has_older => Some(Content::Zero),
            // Nothing is below, and what no map names is zero.
            What::Zero | What::Same => None,
            What::Data { bytes, compressed, id } => {
                let place = match self.remembered.get(&id) {
                    Some(place) => *place,
                    None => self.store(reading, &bytes, compressed, (span, id)).await?,
                };
                Some(Content::Chunk { place, skip: 0 })
            }
        };
        if let Some(content) = content {
            let entry = Entry { span, content };
            self.open_pack(reading).note(entry);
            reading.entries.push(entry);
        }
        if let Some(pack) = &mut self.pack {
            pack.reach(span.end);
            if pack.entries() >= PACK_ENTRIES {
                reading.covered = span.end;
                self.close_pack().await?;
            }
        }
        Ok(())
    }

    /// Puts a chunk into a pack.
    async fn store(
        &mut self,
        reading: &mut Reading<'_>,
        bytes: &[u8],
        compressed: bool,
        (span, id): (Span, ChunkId),
    ) -> Result<Place, BackupError> {
        let room = self.watch.pack_bytes();
        let is_full = |pack: &Pack| pack.data_bytes() > 0 && pack.data_bytes() + bytes.len() > room;
        if self.pack.as_ref().is_some_and(is_full) {
            reading.covered = self.pack.as_ref().map_or(reading.covered, Pack::reached);
            self.close_pack().await?;
        }
        // A chunk has at most 16 blocks.
        let blocks = u8::try_from(span.count()).unwrap_or(u8::MAX);
        let place = self.open_pack(reading).push(bytes, compressed, blocks, id);
        self.remember(place);
        Ok(place)
    }

    fn remember(&mut self, place: Place) {
        if self.remembered.len() >= REMEMBERED_CHUNKS {
            // The same content lies close together, if anywhere: a new beginning costs little.
            self.remembered.clear();
        }
        self.remembered.insert(place.id, place);
    }

    fn open_pack(&mut self, reading: &Reading<'_>) -> &mut Pack {
        let (run, attempt, packs) = (self.id, self.attempt, &mut self.packs);
        let keys = &self.repository.keys;
        self.pack.get_or_insert_with(|| {
            let reference = PackRef { run, attempt, number: *packs };
            *packs += 1;
            Pack::new(keys, reference, reading.number, reading.covered)
        })
    }

    async fn close_pack(&mut self) -> Result<(), BackupError> {
        match self.pack.take() {
            // A small one without data would spare a run that is resumed next to nothing.
            Some(pack) if pack.data_bytes() > 0 || pack.entries() >= PACK_ENTRIES => {
                self.uploads.pack(pack).await
            }
            _ => Ok(()),
        }
    }

    /// The maps of a segment: those of the parent, below what this backup has to say. From time to
    /// time all become one, and wherever they had to be read anyway: then packs of which nothing is
    /// left are named no longer.
    async fn map(
        &mut self,
        reading: &mut Reading<'_>,
        segment: u32,
    ) -> Result<Vec<MapRef>, BackupError> {
        let older = reading.parent.map_or(&[][..], |parent| parent.member.layers(segment));
        let mut entries = std::mem::take(&mut reading.entries);
        let mut below = reading.below.take();
        if entries.is_empty() {
            return Ok(older.to_vec());
        }
        let turn = usize::try_from(segment).unwrap_or_default() % LAYERS;
        if below.is_none() && older.len() + 1 > LAYERS + turn {
            below = Some(Arc::new(merged(self.repository, older).await?));
        }
        let is_merged = below.is_some();
        if let Some(below) = below {
            entries = overlay(&entries, &below);
        }
        if is_merged || older.is_empty() {
            // Nothing is below, and what no map names is zero.
            entries.retain(|entry| entry.content != Content::Zero);
        }
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let keys = Arc::clone(&self.repository.keys);
        let object = blocking(move || keys.seal(Kind::Map, &Map { entries }.encode())).await?;
        let map = MapRef {
            run: self.id,
            attempt: self.attempt,
            volume: reading.number,
            segment,
            length: u32::try_from(object.len()).unwrap_or(u32::MAX),
            digest: *blake3::hash(&object).as_bytes(),
        };
        self.uploads.object(layout::map(&map), object.into()).await?;
        let older = if is_merged { &[] } else { older };
        Ok(std::iter::once(map).chain(older.iter().copied()).collect())
    }
}

fn stored_bytes(entry: &Entry) -> u64 {
    entry.whole_chunk().map_or(0, |place| u64::from(place.stored))
}

/// What these maps, the newest first, say together; what is not in it is zero.
pub(crate) async fn merged(
    repository: &Repository,
    layers: &[MapRef],
) -> Result<Vec<Entry>, BackupError> {
    let loads = layers.iter().map(|layer| repository.map(layer));
    let maps = futures_util::future::try_join_all(loads).await?;
    blocking(move || {
        let oldest_first = maps.into_iter().rev();
        let all = oldest_first.fold(Vec::new(), |below, map| overlay(&map.entries, &below));
        Ok(all.into_iter().filter(|entry| entry.content != Content::Zero).collect())
    })
    .await
}

type Batch = Result<(u64, Vec<Found>), BackupError>;

/// Does the steps and tells what was found, in order, with the bytes that were read for it.
fn found<'a>(
    repository: &Repository,
    source: &'a dyn Source,
    steps: Vec<Step>,
    parent: Option<Arc<Vec<Entry>>>,
) -> impl Stream<Item = Batch> + Send + use<'a> {
    let read = move |step| async move {
        match step {
            Step::Zero(span) => Ok(Piece { span, data: None }),
            Step::Read(span) => {
                let data = source.read(plan::extent(span)?).await;
                let of_source =
                    |error| BackupError::Source { volume: source.volume(), source: error };
                let data = data.map_err(of_source)?;
                if data.len() as u64 != span.count() * BLOCK_BYTES {
                    let why = crate::VolumeError::new("it gave fewer bytes than were asked for");
                    return Err(of_source(why));
                }
                Ok(Piece { span, data: Some(data) })
            }
        }
    };
    let pieces = Box::pin(futures_util::stream::iter(steps).map(read).buffered(READS));
    let batches = futures_util::stream::unfold(pieces, async |mut pieces| {
        let batch = gather(&mut pieces).await;
        batch.map(|batch| (batch, pieces))
    });
    let keys = Arc::clone(&repository.keys);
    let prepare = move |batch: Result<(usize, Vec<Piece>), BackupError>| {
        let (keys, parent) = (Arc::clone(&keys), parent.clone());
        async move {
            let (bytes, pieces) = batch?;
            let found = blocking(move || prepare(&keys, parent.as_ref(), pieces)).await?;
            Ok((bytes as u64, found))
        }
    };
    batches.map(prepare).buffered(CPU_BATCHES)
}

/// The next pieces, as many as are worth handing over; `None` at the end.
async fn gather(
    pieces: &mut (impl Stream<Item = Result<Piece, BackupError>> + Unpin),
) -> Option<Result<(usize, Vec<Piece>), BackupError>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < CPU_BATCH_BYTES && batch.len() < CPU_BATCH_ITEMS {
        match pieces.next().await {
            Some(Ok(piece)) => {
                bytes += piece.data.as_ref().map_or(0, bytes::Bytes::len);
                batch.push(piece);
            }
            Some(Err(error)) => return Some(Err(error)),
            None => break,
        }
    }
    (!batch.is_empty()).then_some(Ok((bytes, batch)))
}
