//! Manifests: what one backup is, and by which maps its volumes are read.
//!
//! A manifest is put once, under a condition, when everything that it names is there: so a backup
//! of several volumes is complete or absent. It names the maps of its parent itself, so no backup
//! needs another's manifest, and any of them can be removed.
//!
//! Invariant: segments are in order, and each has at least one map.

use block::{SnapshotId, VOLUME_BYTES_MAX, VolumeId};

use super::about::About;
use crate::BackupId;
use crate::codec::{Malformed, Reader, Writer};
use crate::id::Attempt;
use crate::limits::{LAYERS_MAX, MAP_BYTES_MAX, SEGMENTS_MAX, VOLUMES_MAX};

/// A map, by where it lies and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MapRef {
    pub(crate) run: BackupId,
    pub(crate) attempt: Attempt,
    /// Which volume of that run.
    pub(crate) volume: u32,
    pub(crate) segment: u32,
    /// Of the whole object, in bytes.
    pub(crate) length: u32,
    /// BLAKE3 of the whole object.
    pub(crate) digest: [u8; 32],
}

/// One volume of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: VolumeId,
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// The snapshot that was read.
    pub(crate) point: SnapshotId,
    pub(crate) parent: Option<BackupId>,
    /// Bytes that were put into packs for it.
    pub(crate) stored_bytes: u64,
    /// Bytes that were read of it.
    pub(crate) read_bytes: u64,
    /// Its maps by segment, the newest first.
    pub(crate) segments: Vec<(u32, Vec<MapRef>)>,
}

impl Member {
    /// The maps of a segment.
    pub(crate) fn layers(&self, segment: u32) -> &[MapRef] {
        let found = self.segments.binary_search_by_key(&segment, |(segment, _)| *segment);
        found.map_or(&[], |at| &self.segments[at].1)
    }
}

/// One backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) id: BackupId,
    pub(crate) about: About,
    pub(crate) members: Vec<Member>,
}

impl Manifest {
    pub(crate) fn member(&self, volume: VolumeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == volume)
    }

    /// Every map that it names.
    pub(crate) fn maps(&self) -> impl Iterator<Item = &MapRef> {
        self.members.iter().flat_map(|member| &member.segments).flat_map(|(_, layers)| layers)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.uuid(self.id.uuid());
        self.about.write(&mut writer);
        writer.length(self.members.len());
        for member in &self.members {
            write_member(&mut writer, member);
        }
        writer.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let manifest = Self::read(&mut reader)?;
        reader.end()?;
        Ok(manifest)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            id: BackupId::from_uuid(reader.uuid()?),
            about: About::read(reader)?,
            members: (0..reader.count(VOLUMES_MAX)?)
                .map(|_| read_member(reader))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn write_member(writer: &mut Writer, member: &Member) {
    writer.uuid(member.id.uuid());
    writer.text(&member.name);
    writer.number(member.bytes);
    writer.uuid(member.point.uuid());
    writer.optional(member.parent, |writer, id| writer.uuid(id.uuid()));
    writer.number(member.stored_bytes);
    writer.number(member.read_bytes);
    // Who made a map is said once for the many maps that one attempt makes.
    let mut makers: Vec<(BackupId, Attempt, u32)> = Vec::new();
    let layers = || member.segments.iter().flat_map(|(_, layers)| layers);
    makers.extend(layers().map(maker));
    makers.sort_unstable();
    makers.dedup();
    writer.length(makers.len());
    for (run, attempt, volume) in &makers {
        writer.uuid(run.uuid());
        writer.uuid(attempt.0);
        writer.number(u64::from(*volume));
    }
    writer.length(member.segments.len());
    let mut next = 0;
    for (segment, layers) in &member.segments {
        writer.number(u64::from(*segment - next));
        next = *segment + 1;
        writer.length(layers.len());
        for layer in layers {
            writer.length(makers.binary_search(&maker(layer)).unwrap_or_default());
            writer.number(u64::from(layer.length));
            writer.raw(&layer.digest);
        }
    }
}

fn maker(layer: &MapRef) -> (BackupId, Attempt, u32) {
    (layer.run, layer.attempt, layer.volume)
}

fn read_member(reader: &mut Reader<'_>) -> Result<Member, Malformed> {
    let id = VolumeId::from_uuid(reader.uuid()?);
    let name = reader.text()?;
    let bytes = reader.at_most(VOLUME_BYTES_MAX)?;
    let point = SnapshotId::from_uuid(reader.uuid()?);
    let parent = reader.optional(Reader::uuid)?.map(BackupId::from_uuid);
    let (stored_bytes, read_bytes) = (reader.number()?, reader.number()?);
    let makers = reader.count(usize::MAX)?;
    let makers = (0..makers)
        .map(|_| {
            let (run, attempt) = (BackupId::from_uuid(reader.uuid()?), Attempt(reader.uuid()?));
            let volume = u32::try_from(reader.at_most(VOLUMES_MAX as u64)?);
            Ok((run, attempt, volume.unwrap_or(u32::MAX)))
        })
        .collect::<Result<Vec<_>, Malformed>>()?;
    let mut segments = Vec::new();
    let mut next = 0_u64;
    for _ in 0..reader.count(usize::MAX)? {
        let segment = next + reader.at_most(SEGMENTS_MAX)?;
        if segment >= SEGMENTS_MAX {
            return Err(Malformed("a segment lies behind every volume's end"));
        }
        next = segment + 1;
        let segment = u32::try_from(segment).unwrap_or(u32::MAX);
        let count = reader.count(LAYERS_MAX)?;
        if count == 0 {
            return Err(Malformed("a segment has no map"));
        }
        let layers = (0..count).map(|_| read_layer(reader, &makers, segment));
        segments.push((segment, layers.collect::<Result<_, _>>()?));
    }
    Ok(Member { id, name, bytes, point, parent, stored_bytes, read_bytes, segments })
}

fn read_layer(
    reader: &mut Reader<'_>,
    makers: &[(BackupId, Attempt, u32)],
    segment: u32,
) -> Result<MapRef, Malformed> {
    let at = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
    let (run, attempt, volume) = *makers.get(at).ok_or(Malformed("a map has no maker"))?;
    // A map is compressed, and what cannot be compressed grows by less than this.
    let length = reader.at_most(2 * MAP_BYTES_MAX as u64)?;
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    Ok(MapRef { run, attempt, volume, segment, length, digest: reader.array()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn manifest(segments: Vec<(u32, u8)>, name: String) -> Manifest {
        let mut next = 0;
        let build = |(gap, count): (u32, u8)| {
            let segment = next + gap % 50;
            next = segment + 1;
            let layer = |number: u8| MapRef {
                run: BackupId::from_uuid(Uuid::from_u128(u128::from(number % 3))),
                attempt: Attempt(Uuid::from_u128(u128::from(number % 2))),
                volume: u32::from(number % 4),
                segment,
                length: u32::from(number) * 100,
                digest: [number; 32],
            };
            (segment, (0..count % 9 + 1).map(layer).collect())
        };
        let member = Member {
            id: VolumeId::of(1),
            name,
            bytes: 1 << 40,
            point: SnapshotId::of(5),
            parent: Some(BackupId::from_uuid(Uuid::from_u128(4))),
            stored_bytes: 17,
            read_bytes: 18,
            segments: segments.into_iter().map(build).collect(),
        };
        Manifest {
            id: BackupId::from_uuid(Uuid::from_u128(6)),
            about: super::super::about::example(),
            members: vec![member],
        }
    }

    proptest! {
        #[test]
        fn manifests_come_back(
            segments in proptest::collection::vec(any::<(u32, u8)>(), 0..20),
            name in "\\PC{0,30}",
        ) {
            let manifest = manifest(segments, name);
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }

        #[test]
        fn garbage_and_changed_bytes_never_panic(
            garbage in proptest::collection::vec(any::<u8>(), 0..300),
            segments in proptest::collection::vec(any::<(u32, u8)>(), 0..6),
            at: usize,
            flip in 1_u8..,
        ) {
            let _either = Manifest::decode(&garbage);
            let mut bytes = manifest(segments, "v".to_owned()).encode();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(manifest) = Manifest::decode(&bytes) {
                let segments = manifest.members.iter().flat_map(|member| member.segments.windows(2));
                for two in segments {
                    prop_assert!(two[0].0 < two[1].0);
                }
            }
        }
    }

    #[test]
    fn the_bytes_of_a_manifest_are_these() {
        let bytes = include_bytes!("manifest_1.bin");
        let expected = manifest(vec![(0, 2), (3, 1)], "disk".to_owned());
        assert_eq!(Manifest::decode(bytes), Ok(expected.clone()));
        assert_eq!(expected.encode(), bytes);
    }
}
