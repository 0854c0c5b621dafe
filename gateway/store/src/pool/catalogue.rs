//! Which volumes a pool has.
//!
//! Invariant: a record is written after the volume's files are durable and removed before they
//! are.

use std::collections::BTreeMap;
use std::io;

use block::{SLOT_BYTES, VolumeId};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use crate::codec::{Format, put_counted};
use crate::database;
use crate::error::StoreError;
use crate::medium::Directory;

const VOLUMES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("volumes");
const FORMAT: Format = Format { what: "volume record", magic: *b"TSVOLRC\0", version: 1 };

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
}

// === impl VolumeRecord ===

impl VolumeRecord {
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&self.bytes.to_le_bytes());
        body.extend_from_slice(&self.created.to_le_bytes());
        put_counted(&mut body, self.name.as_bytes());
        FORMAT.seal(&body)
    }

    fn decode(id: VolumeId, data: &[u8]) -> Result<Self, StoreError> {
        let mut reader = FORMAT.open(data)?;
        let (bytes, created) = (reader.u64()?, reader.u64()?);
        let name = reader.counted()?;
        let name = std::str::from_utf8(name)
            .map_err(|_error| reader.damaged("the name is not text"))?
            .to_owned();
        Ok(Self { id, name, bytes, created })
    }
}

pub(super) fn load(database: &Database) -> Result<BTreeMap<VolumeId, VolumeRecord>, StoreError> {
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
        volumes.insert(id, VolumeRecord::decode(id, value.value())?);
    }
    Ok(volumes)
}

pub(super) fn put(database: &Database, record: &VolumeRecord) -> Result<(), StoreError> {
    change(database, |table| {
        table.insert(record.id.uuid().as_u128(), record.encode().as_slice()).map(drop)
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

    #[test]
    fn reads_the_bytes_of_version_1() {
        let id = VolumeId::of(3);
        let record = VolumeRecord { id, name: "orders".to_owned(), bytes: 1 << 30, created: 77 };
        assert_eq!(crate::hex(&record.encode()), BYTES);
        assert_eq!(VolumeRecord::decode(id, &crate::unhex(BYTES)).unwrap(), record);
    }
}
