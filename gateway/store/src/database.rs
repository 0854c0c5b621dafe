//! The embedded database over a [`File`] of ours, so that it too runs on a simulated disk.
//!
//! Invariant: every commit is durable when it returns, and opening after a crash does not walk
//! the whole file (two-phase commits that carry the allocator's state).

use std::io::{self, IoSlice};
use std::sync::Arc;

use redb::{Database, StorageBackend, WriteTransaction};

use crate::error::StoreError;
use crate::medium::{Directory, File, open_or_create};

/// Enough for the inner pages of a large map; leaves are kept decoded elsewhere.
const CACHE_BYTES: usize = 4 << 20;

#[derive(Debug)]
struct DatabaseFile(Arc<dyn File>);

/// Opens or makes the database in the file `name`.
pub(crate) fn open(dir: &dyn Directory, name: &str) -> Result<Database, StoreError> {
    let file = open_or_create(dir, name).map_err(StoreError::io("open database file"))?;
    file.forget_clean().map_err(StoreError::io("open database file"))?;
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(DatabaseFile(file))
        .map_err(StoreError::database("open database"))
}

/// Begins a change.
pub(crate) fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction =
        database.begin_write().map_err(StoreError::database("begin transaction"))?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

impl StorageBackend for DatabaseFile {
    fn len(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.read_at(out, offset)? < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_size(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(&mut [IoSlice::new(data)], offset)
    }
}
