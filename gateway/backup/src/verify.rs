//! Verifying: everything that backups need is read back and checked.
//!
//! Every map that a living backup names is read, and every chunk that a map names. What is wrong is
//! told by object and by block range, with the backups that would read it.
//!
//! Invariant: a backup that no damage names reads back whole.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use block::{BlockRange, VolumeId};
use futures_util::StreamExt;

use crate::BackupId;
use crate::error::BackupError;
use crate::format::{Content, Entry, Manifest, MapRef, Member, Place, segment_span};
use crate::layout;
use crate::limits::{FETCHES, LOADS, VERIFIED_CHUNKS};
use crate::reader::{Fetch, fetch, fetches};
use crate::repository::Repository;
use crate::take::merged;
use crate::watch::Watch;

/// Something that cannot be read back.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The object's key below the prefix.
    pub key: String,
    /// What is wrong with it.
    pub error: BackupError,
    /// What it hurts.
    pub hurt: Vec<Hurt>,
}

/// Blocks of a backup that cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hurt {
    /// Which backup.
    pub backup: BackupId,
    /// Which volume of it.
    pub volume: VolumeId,
    /// Which blocks of the volume.
    pub blocks: BlockRange,
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Backups that were looked at.
    pub backups: u64,
    /// Maps that were read.
    pub maps: u64,
    /// Chunks that were read back.
    pub chunks: u64,
    /// Their bytes as they lie in the store.
    pub bytes: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

impl Verified {
    /// Whether everything could be read back.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }

    /// The backups that cannot be restored whole.
    #[must_use]
    pub fn hurt(&self) -> BTreeSet<BackupId> {
        self.damage.iter().flat_map(|damage| &damage.hurt).map(|hurt| hurt.backup).collect()
    }
}

/// What was found wrong, before it is known whom it hurts.
#[derive(Default)]
struct Wrong {
    maps: HashMap<MapRef, BackupError>,
    places: HashMap<Place, BackupError>,
}

impl Repository {
    /// Reads back everything that these backups need; all that were not removed if none is named.
    ///
    /// # Errors
    /// Only what ends a verification: the store does not answer, or it was given up. Damage is no
    /// error.
    ///
    /// # Cancellation
    /// Changes nothing.
    pub async fn verify(
        &self,
        backups: &[BackupId],
        watch: &Watch,
    ) -> Result<Verified, BackupError> {
        let mut verified = Verified::default();
        let manifests = self.wanted_manifests(backups, &mut verified, watch).await?;
        verified.backups = manifests.len() as u64;
        let maps: HashSet<MapRef> = manifests.iter().flat_map(Manifest::maps).copied().collect();
        let mut wrong = Wrong::default();
        let mut seen = HashSet::new();
        let loads = maps.into_iter().map(|map| async move { (map, self.map(&map).await) });
        let mut loads = futures_util::stream::iter(loads).buffer_unordered(LOADS);
        while let Some((map, loaded)) =
            watch.unless_cancelled(async { Ok(loads.next().await) }).await?
        {
            watch.pace(u64::from(map.length)).await?;
            verified.maps += 1;
            match loaded {
                Ok(loaded) => {
                    let places = new_places(&loaded.entries, &mut seen);
                    self.check_places(places, &mut wrong, &mut verified, watch).await?;
                }
                Err(error) => {
                    wrong.maps.insert(map, lasting(error)?);
                }
            }
        }
        if !(wrong.maps.is_empty() && wrong.places.is_empty()) {
            let hurt = self.hurt(&manifests, &wrong, watch).await?;
            verified.damage.extend(told(wrong, hurt));
            verified.damage.sort_by(|a, b| a.key.cmp(&b.key));
        }
        Ok(verified)
    }

    async fn wanted_manifests(
        &self,
        backups: &[BackupId],
        verified: &mut Verified,
        watch: &Watch,
    ) -> Result<Vec<Manifest>, BackupError> {
        let removed = self.bucket.list_ids(layout::REMOVED).await?;
        let ids = match backups {
            [] => self.bucket.list_ids(layout::BACKUPS).await?,
            some => some.to_vec(),
        };
        let mut manifests = Vec::new();
        for id in ids.into_iter().filter(|id| !removed.contains(id)) {
            match watch.unless_cancelled(self.manifest(id)).await {
                Ok(Some(manifest)) => manifests.push(manifest),
                Ok(None) => {}
                Err(BackupError::Missing { .. }) => return Err(BackupError::NoBackup { id }),
                Err(error) => {
                    let (key, error) = (layout::manifest(id), lasting(error)?);
                    verified.damage.push(Damage { key, error, hurt: Vec::new() });
                }
            }
        }
        Ok(manifests)
    }

    /// Reads chunks back.
    async fn check_places(
        &self,
        places: Vec<Place>,
        wrong: &mut Wrong,
        verified: &mut Verified,
        watch: &Watch,
    ) -> Result<(), BackupError> {
        let loads = fetches(places).into_iter().map(|one| self.check_fetch(one, watch));
        let mut loads = futures_util::stream::iter(loads).buffer_unordered(FETCHES);
        while let Some(checked) = loads.next().await {
            for (place, error) in checked? {
                verified.chunks += 1;
                verified.bytes += u64::from(place.stored);
                if let Some(error) = error {
                    wrong.places.insert(place, error);
                }
            }
        }
        Ok(())
    }

    /// Reads close chunks back together, and where that fails one by one, so that a pack that is
    /// cut off costs only what was cut off.
    async fn check_fetch(
        &self,
        one: Fetch,
        watch: &Watch,
    ) -> Result<Vec<(Place, Option<BackupError>)>, BackupError> {
        let (pack, places) = (one.pack, one.places.clone());
        let told = |(place, chunk): (Place, Result<_, crate::codec::Malformed>)| {
            let error = chunk.err();
            (place, error.map(|error| crate::seal::damaged(&layout::pack(&place.pack), error)))
        };
        match fetch(self, watch, one).await {
            Ok(chunks) => Ok(chunks.into_iter().map(told).collect()),
            Err(error @ BackupError::Missing { .. }) => {
                Ok(places.into_iter().map(|place| (place, Some(error.clone()))).collect())
            }
            Err(error) => {
                let error = lasting(error)?;
                if let [place] = places[..] {
                    return Ok(vec![(place, Some(error))]);
                }
                let mut checked = Vec::new();
                for place in places {
                    let start = u64::from(place.offset);
                    let end = start + u64::from(place.stored);
                    let single = Fetch { pack, places: vec![place], start, end };
                    match fetch(self, watch, single).await {
                        Ok(chunks) => checked.extend(chunks.into_iter().map(told)),
                        Err(error) => checked.push((place, Some(lasting(error)?))),
                    }
                }
                Ok(checked)
            }
        }
    }

    /// Whom it hurts, by the object's key.
    async fn hurt(
        &self,
        manifests: &[Manifest],
        wrong: &Wrong,
        watch: &Watch,
    ) -> Result<BTreeMap<String, Vec<Hurt>>, BackupError> {
        let mut hurt: BTreeMap<String, Vec<Hurt>> = BTreeMap::new();
        for manifest in manifests {
            for member in &manifest.members {
                for (segment, layers) in &member.segments {
                    watch.check()?;
                    let found = self.hurt_in(member, *segment, layers, wrong).await?;
                    for (key, first, end) in found {
                        let blocks = BlockRange::new(first, end);
                        let one = Hurt { backup: manifest.id, volume: member.id, blocks };
                        hurt.entry(key).or_default().push(one);
                    }
                }
            }
        }
        Ok(hurt)
    }

    /// The wrong objects that one segment needs, with the blocks that it needs them for.
    async fn hurt_in(
        &self,
        member: &Member,
        segment: u32,
        layers: &[MapRef],
        wrong: &Wrong,
    ) -> Result<Vec<(String, u64, u64)>, BackupError> {
        if layers.iter().any(|layer| wrong.maps.contains_key(layer)) {
            // What the map says of the segment is not known, so all of it may be wrong.
            let whole = segment_span(segment);
            let end = whole.end.min(member.bytes.div_ceil(block::BLOCK_BYTES));
            let lost = layers.iter().filter(|layer| wrong.maps.contains_key(layer));
            return Ok(lost.map(|map| (layout::map(map), whole.first, end)).collect());
        }
        if wrong.places.is_empty() {
            return Ok(Vec::new());
        }
        let mut found: Vec<(String, u64, u64)> = Vec::new();
        for entry in merged(self, layers).await? {
            let Content::Chunk { place, .. } = entry.content else { continue };
            if !wrong.places.contains_key(&place) {
                continue;
            }
            let key = layout::pack(&place.pack);
            match found.last_mut() {
                Some((last, _, end)) if *last == key && *end == entry.span.first => {
                    *end = entry.span.end;
                }
                _ => found.push((key, entry.span.first, entry.span.end)),
            }
        }
        Ok(found)
    }
}

/// The chunks that were not looked at before.
fn new_places(entries: &[Entry], seen: &mut HashSet<Place>) -> Vec<Place> {
    let places = entries.iter().filter_map(|entry| match entry.content {
        Content::Chunk { place, .. } => Some(place),
        Content::Zero => None,
    });
    let mut new = Vec::new();
    for place in places {
        if seen.len() >= VERIFIED_CHUNKS {
            seen.clear();
        }
        if seen.insert(place) {
            new.push(place);
        }
    }
    new
}

/// What is wrong with an object for good; an error of the moment ends the verification.
fn lasting(error: BackupError) -> Result<BackupError, BackupError> {
    match error {
        BackupError::Missing { .. }
        | BackupError::Damaged { .. }
        | BackupError::Newer { .. }
        | BackupError::UnknownFeatures { .. } => Ok(error),
        error => Err(error),
    }
}

fn told(wrong: Wrong, mut hurt: BTreeMap<String, Vec<Hurt>>) -> Vec<Damage> {
    let maps = wrong.maps.into_iter().map(|(map, error)| (layout::map(&map), error));
    let packs = wrong.places.into_iter().map(|(place, error)| (layout::pack(&place.pack), error));
    let objects: BTreeMap<String, BackupError> = maps.chain(packs).collect();
    let damage = objects.into_iter().map(|(key, error)| {
        let hurt = hurt.remove(&key).unwrap_or_default();
        Damage { key, error, hurt }
    });
    damage.collect()
}
