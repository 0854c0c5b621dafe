//! Which volumes a pool has.
//!
//! Invariant: a record is written after the volume's files are durable and removed before they
//! are.

use std::collections::BTreeMap;
use std::io;

use block::{SLOT_BYTES, SnapshotId, VolumeId};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use crate::codec::{Format, Reader, put_counted};
use crate::database;
use crate::error::StoreError;
use crate::medium::Directory;

const VOLUMES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("volumes");
const FORMAT: Format = Format { what: "volume record", magic: *b"TSVOLRC\0", version: 1 };

/// The volume's files lie in the directory of another identity: a release that does not know this
/// would take them for what a crash left.
const FEATURE_HOME: u64 = 1;

/// The volume is filled from an origin: a release that does not know this would remove what that
/// needs.
const FEATURE_ORIGIN: u64 = 2;

/// Its origin is a snapshot with changes laid over it: a release that does not know this would fill the
/// volume without them.
const FEATURE_LAID: u64 = 4;

/// A volume, and the identity that its directory is called by: its own, or that of the volume which
/// it shares its files with, or once did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) record: VolumeRecord,
    pub(super) home: VolumeId,
}

/// What the pool knows of a volume without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Its identity.
    pub id: VolumeId,
    /// Its name, unique in the pool.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// What it is filled from, until that is done.
    pub origin: Option<OriginRecord>,
}

/// What a volume is filled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginRecord {
    /// A snapshot of another volume of the pool, as its store calls it. The pool keeps both.
    Snapshot {
        /// The other volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The same, with changes laid over it that only the owner of the pool understands. The pool keeps
    /// the snapshot and the other volume.
    Laid {
        /// The other volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
        /// A description by which the changes are found again.
        description: Vec<u8>,
        /// The snapshot's size in bytes.
        bytes: u64,
    },
    /// What only the owner of the pool understands.
    Other {
        /// A description by which it is found again.
        description: Vec<u8>,
        /// Its size in bytes.
        bytes: u64,
    },
}

// === impl Entry ===

impl Entry {
    fn encode(&self) -> Vec<u8> {
        let Self { record, home } = self;
        let mut body = Vec::new();
        body.extend_from_slice(&record.bytes.to_le_bytes());
        body.extend_from_slice(&record.created.to_le_bytes());
        put_counted(&mut body, record.name.as_bytes());
        let mut features = 0;
        if *home != record.id {
            features |= FEATURE_HOME;
            put_pair(&mut body, home.uuid().as_u64_pair());
        }
        if let Some(origin) = &record.origin {
            features |= FEATURE_ORIGIN;
            if matches!(origin, OriginRecord::Laid { .. }) {
                features |= FEATURE_LAID;
            }
            origin.encode(&mut body);
        }
        FORMAT.seal_with(features, &body)
    }

    fn decode(id: VolumeId, data: &[u8]) -> Result<Self, StoreError> {
        let (features, mut reader) =
            FORMAT.open_with(FEATURE_HOME | FEATURE_ORIGIN | FEATURE_LAID, data)?;
        let (bytes, created) = (reader.u64()?, reader.u64()?);
        let name = reader.counted()?;
        let name = std::str::from_utf8(name)
            .map_err(|_error| reader.damaged("the name is not text"))?
            .to_owned();
        let mut home = id;
        if features & FEATURE_HOME != 0 {
            home = VolumeId::of(pair(&mut reader)?);
        }
        let mut origin = None;
        if features & FEATURE_ORIGIN != 0 {
            origin = Some(OriginRecord::decode(&mut reader)?);
        }
        Ok(Self { record: VolumeRecord { id, name, bytes, created, origin }, home })
    }
}

// === impl OriginRecord ===

impl OriginRecord {
    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Snapshot { bytes, .. } | Self::Laid { bytes, .. } | Self::Other { bytes, .. } => {
                *bytes
            }
        }
    }

    /// The snapshot of another volume that it needs, and that volume.
    #[must_use]
    pub fn snapshot(&self) -> Option<(VolumeId, SnapshotId)> {
        match self {
            Self::Snapshot { volume, snapshot, .. } | Self::Laid { volume, snapshot, .. } => {
                Some((*volume, *snapshot))
            }
            Self::Other { .. } => None,
        }
    }

    fn encode(&self, body: &mut Vec<u8>) {
        body.extend_from_slice(&self.bytes().to_le_bytes());
        match self {
            Self::Snapshot { volume, snapshot, .. } => {
                body.extend_from_slice(&1u32.to_le_bytes());
                put_pair(body, volume.uuid().as_u64_pair());
                put_pair(body, snapshot.uuid().as_u64_pair());
            }
            Self::Other { description, .. } => {
                body.extend_from_slice(&2u32.to_le_bytes());
                put_counted(body, description);
            }
            Self::Laid { volume, snapshot, description, .. } => {
                body.extend_from_slice(&3u32.to_le_bytes());
                put_pair(body, volume.uuid().as_u64_pair());
                put_pair(body, snapshot.uuid().as_u64_pair());
                put_counted(body, description);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let bytes = reader.u64()?;
        match reader.u32()? {
            1 => {
                let (volume, snapshot) = (pair(reader)?, pair(reader)?);
                let (volume, snapshot) = (VolumeId::of(volume), SnapshotId::of(snapshot));
                Ok(Self::Snapshot { volume, snapshot, bytes })
            }
            2 => Ok(Self::Other { description: reader.counted()?.to_vec(), bytes }),
            3 => {
                let (volume, snapshot) = (pair(reader)?, pair(reader)?);
                let (volume, snapshot) = (VolumeId::of(volume), SnapshotId::of(snapshot));
                let description = reader.counted()?.to_vec();
                Ok(Self::Laid { volume, snapshot, description, bytes })
            }
            _ => Err(reader.damaged("its origin is of an unknown kind")),
        }
    }
}

fn put_pair(body: &mut Vec<u8>, (high, low): (u64, u64)) {
    body.extend_from_slice(&high.to_le_bytes());
    body.extend_from_slice(&low.to_le_bytes());
}

fn pair(reader: &mut Reader<'_>) -> Result<u128, StoreError> {
    Ok(u128::from(reader.u64()?) << 64 | u128::from(reader.u64()?))
}

pub(super) fn load(database: &Database) -> Result<BTreeMap<VolumeId, Entry>, StoreError> {
    let transaction =
        database.begin_read().map_err(StoreError::database("begin reading the catalogue"))?;
    let table = match transaction.open_table(VOLUMES) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        Err(e) => return Err(StoreError::database("open the catalogue")(e)),
    };
    let mut volumes = BTreeMap::new();
    for row in table.iter().map_err(StoreError::database("read the catalogue"))? {
        let (key, value) = row.map_err(StoreError::database("read the catalogue"))?;
        let id = VolumeId::of(key.value());
        volumes.insert(id, Entry::decode(id, value.value())?);
    }
    Ok(volumes)
}

pub(super) fn put(database: &Database, entry: &Entry) -> Result<(), StoreError> {
    change(database, |table| {
        table.insert(entry.record.id.uuid().as_u128(), entry.encode().as_slice()).map(drop)
    })
}

pub(super) fn remove(database: &Database, id: VolumeId) -> Result<(), StoreError> {
    change(database, |table| table.remove(id.uuid().as_u128()).map(drop))
}

fn change(
    database: &Database,
    change: impl FnOnce(&mut redb::Table<'_, u128, &'static [u8]>) -> Result<(), redb::StorageError>,
) -> Result<(), StoreError> {
    let transaction = database::begin(database)?;
    {
        let mut table =
            transaction.open_table(VOLUMES).map_err(StoreError::database("open the catalogue"))?;
        change(&mut table).map_err(StoreError::database("change the catalogue"))?;
    }
    transaction.commit().map_err(StoreError::database("commit the catalogue"))
}

/// Slots that the data files of a volume take on the medium: none when its folder is gone, which
/// is an error of that volume when it is opened and of no other.
pub(super) fn slots_of(volumes: &dyn Directory, id: VolumeId) -> Result<u64, StoreError> {
    let measure = || -> io::Result<u64> {
        let dir = match volumes.open_dir(&id.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            opened => opened?,
        };
        let mut bytes = 0;
        for name in dir.list()?.iter().filter(|n| n.starts_with("data.")) {
            bytes += dir.open(name)?.allocated()?;
        }
        Ok(bytes.div_ceil(SLOT_BYTES))
    };
    measure().map_err(StoreError::io("measure volume"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &str = "5453564f4c524300010000001a000000000000000000000000000040000000004d00000000000000060000006f7264657273f593fa5c";

    fn record(id: VolumeId, origin: Option<OriginRecord>) -> VolumeRecord {
        VolumeRecord { id, name: "orders".to_owned(), bytes: 1 << 30, created: 77, origin }
    }

    #[test]
    fn reads_the_bytes_of_version_1() {
        let id = VolumeId::of(3);
        let entry = Entry { record: record(id, None), home: id };
        assert_eq!(crate::hex(&entry.encode()), BYTES);
        assert_eq!(Entry::decode(id, &crate::unhex(BYTES)).unwrap(), entry);
    }

    const BYTES_OF_A_GUEST: &str = "5453564f4c524300010000002a000000010000000000000000000040000000004d00000000000000060000006f726465727300000000000000000400000000000000853df618";

    #[test]
    fn reads_the_bytes_of_one_in_the_directory_of_another() {
        let id = VolumeId::of(3);
        let entry = Entry { record: record(id, None), home: VolumeId::of(4) };
        assert_eq!(crate::hex(&entry.encode()), BYTES_OF_A_GUEST);
        assert_eq!(Entry::decode(id, &crate::unhex(BYTES_OF_A_GUEST)).unwrap(), entry);
    }

    const BYTES_OF_A_CLONE: &str = "5453564f4c5243000100000046000000020000000000000000000040000000004d00000000000000060000006f726465727300000020000000000100000000000000000000000400000000000000050000000000000006000000000000007e9dd7c7";
    const BYTES_OF_A_RESTORE: &str = "5453564f4c5243000100000031000000020000000000000000000040000000004d00000000000000060000006f7264657273000000100000000002000000070000007661756c742f37c9247fb1";

    #[test]
    fn reads_the_bytes_of_one_that_is_filled_and_older_releases_refuse_it() {
        let id = VolumeId::of(3);
        let (volume, snapshot) = (VolumeId::of(4), SnapshotId::of(5 << 64 | 6));
        let clone = OriginRecord::Snapshot { volume, snapshot, bytes: 1 << 29 };
        let restore = OriginRecord::Other { description: b"vault/7".to_vec(), bytes: 1 << 28 };
        for (origin, known) in [(clone, BYTES_OF_A_CLONE), (restore, BYTES_OF_A_RESTORE)] {
            let entry = Entry { record: record(id, Some(origin)), home: id };
            assert_eq!(crate::hex(&entry.encode()), known);
            assert_eq!(Entry::decode(id, &crate::unhex(known)).unwrap(), entry);
            let opened = FORMAT.open_with(FEATURE_HOME, &entry.encode()).map(drop);
            assert!(matches!(opened, Err(StoreError::Features { features: 2, .. })));
        }
    }

    const BYTES_OF_A_MOMENT: &str = "5453564f4c524300010000004e000000060000000000000000000040000000004d00000000000000060000006f72646572730000002000000000030000000000000000000000040000000000000005000000000000000600000000000000040000007468656e68e36ca3";

    #[test]
    fn reads_the_bytes_of_one_that_is_filled_as_of_a_moment_and_older_releases_refuse_it() {
        let id = VolumeId::of(3);
        let (volume, snapshot) = (VolumeId::of(4), SnapshotId::of(5 << 64 | 6));
        let description = b"then".to_vec();
        let origin = OriginRecord::Laid { volume, snapshot, description, bytes: 1 << 29 };
        let entry = Entry { record: record(id, Some(origin)), home: id };
        assert_eq!(crate::hex(&entry.encode()), BYTES_OF_A_MOMENT);
        assert_eq!(Entry::decode(id, &crate::unhex(BYTES_OF_A_MOMENT)).unwrap(), entry);
        let opened = FORMAT.open_with(FEATURE_HOME | FEATURE_ORIGIN, &entry.encode()).map(drop);
        assert!(matches!(opened, Err(StoreError::Features { features: 4, .. })));
    }
}
