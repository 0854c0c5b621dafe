//! Pins: what somebody needs who takes or reads a backup right now.
//!
//! The pin of a run that takes a backup also says what was asked for, so that the run can be
//! resumed after a kill and ends in the same manifest.
//!
//! Invariant: a pin is put before anything that it protects is looked at.

use block::{SnapshotId, VolumeId};

use super::about::{About, choice};
use crate::BackupId;
use crate::codec::{Malformed, Reader, Writer};
use crate::limits::VOLUMES_MAX;

/// Why something is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A backup is being taken, under the pin's identity.
    Taking(Box<Wanted>),
    /// A backup is being read.
    Reading,
}

/// What a run was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) about: About,
    pub(crate) volumes: Vec<WantedVolume>,
}

/// One volume of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WantedVolume {
    pub(crate) id: VolumeId,
    /// The point that is read.
    pub(crate) point: SnapshotId,
    /// The backup that it builds upon, and whether what changed since that one is known.
    pub(crate) parent: Option<(BackupId, bool)>,
}

/// A pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// Who has it.
    pub(crate) gateway: String,
    /// The backups whose data is needed.
    pub(crate) needs: Vec<BackupId>,
    pub(crate) purpose: Purpose,
}

impl Pin {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.text(&self.gateway);
        writer.length(self.needs.len());
        for id in &self.needs {
            writer.uuid(id.uuid());
        }
        match &self.purpose {
            Purpose::Reading => writer.byte(0),
            Purpose::Taking(wanted) => {
                writer.byte(1);
                write_wanted(&mut writer, wanted);
            }
        }
        writer.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let gateway = reader.text()?;
        let count = reader.count(VOLUMES_MAX)?;
        let needs =
            (0..count).map(|_| reader.uuid().map(BackupId::from_uuid)).collect::<Result<_, _>>()?;
        let purpose = if choice(&mut reader, false, true)? {
            Purpose::Taking(Box::new(read_wanted(&mut reader)?))
        } else {
            Purpose::Reading
        };
        reader.end()?;
        Ok(Self { gateway, needs, purpose })
    }
}

fn write_wanted(writer: &mut Writer, wanted: &Wanted) {
    wanted.about.write(writer);
    writer.length(wanted.volumes.len());
    for volume in &wanted.volumes {
        writer.uuid(volume.id.uuid());
        writer.uuid(volume.point.uuid());
        writer.optional(volume.parent, |writer, (id, is_known)| {
            writer.uuid(id.uuid());
            writer.byte(u8::from(is_known));
        });
    }
}

fn read_wanted(reader: &mut Reader<'_>) -> Result<Wanted, Malformed> {
    Ok(Wanted {
        about: About::read(reader)?,
        volumes: (0..reader.count(VOLUMES_MAX)?)
            .map(|_| {
                let id = VolumeId::from_uuid(reader.uuid()?);
                let point = SnapshotId::from_uuid(reader.uuid()?);
                let parent = reader.optional(|reader| {
                    Ok((BackupId::from_uuid(reader.uuid()?), choice(reader, false, true)?))
                })?;
                Ok(WantedVolume { id, point, parent })
            })
            .collect::<Result<_, Malformed>>()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn pin(taking: bool, parent: Option<bool>) -> Pin {
        let id = BackupId::from_uuid(Uuid::from_u128(4));
        let wanted = Wanted {
            about: super::super::about::example(),
            volumes: vec![WantedVolume {
                id: VolumeId::of(1),
                point: SnapshotId::of(2),
                parent: parent.map(|known| (id, known)),
            }],
        };
        let purpose = if taking { Purpose::Taking(Box::new(wanted)) } else { Purpose::Reading };
        Pin { gateway: "east-1".to_owned(), needs: vec![id], purpose }
    }

    proptest! {
        #[test]
        fn pins_come_back(taking: bool, parent: Option<bool>) {
            let pin = pin(taking, parent);
            prop_assert_eq!(Pin::decode(&pin.encode()), Ok(pin));
        }

        #[test]
        fn garbage_and_changed_bytes_never_panic(
            garbage in proptest::collection::vec(any::<u8>(), 0..200), at: usize, flip in 1_u8..,
        ) {
            let _either = Pin::decode(&garbage);
            let mut bytes = pin(true, Some(true)).encode();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let _either = Pin::decode(&bytes);
        }
    }
}
