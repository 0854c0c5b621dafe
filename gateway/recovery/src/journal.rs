//! The journal of a run on disk: one file, to which records are appended.
//!
//! ```text
//!   file   = header record*
//!   header = "TWSPRUN\0" version:u32 features:u32 run:[u8; 16] crc:u32
//!   record = length:u32 crc-of-length:u32 payload:[u8; length] crc:u32      payload: JSON, `Record`
//! ```
//!
//! Numbers are little-endian, checksums CRC32C; that of a record goes over its length and its payload.
//!
//! Invariants: [`Journal::append`] returns after the record is on stable storage, or latches the
//! journal: after a failed write or sync nothing is appended to it before [`Journal::reopen`] wrote all
//! that was confirmed into a file of its own and put that in its place. What a crash left of a last record
//! that was never durable is cut off when the journal is opened; damage anywhere else, and a file that is
//! larger than what is read, is an error and changes nothing.

mod frame;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub use frame::{FrameError, HEADER_BYTES, Read as Contents, decode, encode, header};

use crate::limits::{JOURNAL_BYTES_MAX, RECORDS_MAX};
use crate::run::Record;

/// What the name of a journal ends with.
pub const EXTENSION: &str = "run";

/// What the name of a journal ends with that is written anew, until it takes the place of the old one.
pub const FRESH_EXTENSION: &str = "run-new";

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk failed.
    #[error("{doing} {path}")]
    Io {
        /// What was done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// It is damaged, or of a newer release.
    #[error("read {path}: {why}")]
    Frame {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: FrameError,
    },
    /// It is larger than what is read, so that its end is not known.
    #[error(
        "{path} has {bytes} bytes and at most {JOURNAL_BYTES_MAX} are read: it stays as it is, and its run \
         does not go on; look at what the run did by hand, then move the file out of the folder and \
         restart the gateway"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large it is.
        bytes: u64,
    },
    /// A write or a sync failed before: what lies on the disk is not known.
    #[error("a write of {0} failed before: nothing is appended until it is written anew")]
    Latched(PathBuf),
    /// A record that does not come next, or is too large.
    #[error("record {number} cannot be appended to {path}: {why}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// The record.
        number: u64,
        /// Why.
        why: &'static str,
    },
}

/// A journal that is open.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    run: [u8; 16],
    records: u64,
    bytes: u64,
    is_latched: bool,
}

/// A length in memory as one on a disk.
fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl Journal {
    /// Makes the journal of a run, durably; one that is there and has no record is begun anew.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn create(dir: &Path, run: [u8; 16], name: &str) -> Result<Self, JournalError> {
        let path = path_of(dir, name);
        let failed = |doing| {
            let path = path.clone();
            move |source| JournalError::Io { doing, path, source }
        };
        if let Ok((journal, contents)) = Self::open(&path)
            && contents.records.is_empty()
        {
            return Ok(journal);
        }
        if std::fs::metadata(&path).is_ok_and(|of| of.len() < HEADER_BYTES as u64) {
            // Cut short as it was made: nobody was told of it.
            std::fs::remove_file(&path).map_err(failed("remove"))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed("create"))?;
        file.write_all(&header(run)).map_err(failed("write"))?;
        file.sync_all().map_err(failed("sync"))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync the folder of"))?;
        Ok(Self { file, path, run, records: 0, bytes: HEADER_BYTES as u64, is_latched: false })
    }

    /// Opens a journal and reads it; what was never durable of it is cut off.
    ///
    /// # Errors
    /// [`JournalError::Io`], [`JournalError::Frame`], [`JournalError::TooLarge`]; nothing is cut then.
    pub fn open(path: &Path) -> Result<(Self, Contents), JournalError> {
        let failed = |doing| {
            let path = path.to_owned();
            move |source| JournalError::Io { doing, path, source }
        };
        let mut file =
            OpenOptions::new().read(true).write(true).open(path).map_err(failed("open"))?;
        let on_disk = file.metadata().map_err(failed("look at"))?.len();
        if on_disk > JOURNAL_BYTES_MAX {
            return Err(JournalError::TooLarge { path: path.to_owned(), bytes: on_disk });
        }
        let mut bytes = Vec::new();
        (&mut file).take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes).map_err(failed("read"))?;
        let contents =
            decode(&bytes).map_err(|why| JournalError::Frame { path: path.to_owned(), why })?;
        let whole = length(&bytes[..contents.whole_bytes]);
        if contents.whole_bytes < bytes.len() {
            file.set_len(whole).map_err(failed("cut"))?;
        }
        // What was read may lie in the page cache only: it counts from here on.
        file.sync_all().map_err(failed("sync"))?;
        file.seek(SeekFrom::End(0)).map_err(failed("seek in"))?;
        let records = contents.records.last().map_or(0, |last| last.number);
        let journal = Self {
            file,
            path: path.to_owned(),
            run: contents.run,
            records,
            bytes: whole,
            is_latched: false,
        };
        Ok((journal, contents))
    }

    /// Appends records, durably.
    ///
    /// # Errors
    /// [`JournalError`]; after any but [`JournalError::Refused`] the journal is latched.
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if self.is_latched {
            return Err(JournalError::Latched(self.path.clone()));
        }
        let mut bytes = Vec::new();
        let mut number = self.records;
        for record in records {
            number += 1;
            let path = self.path.clone();
            let refused = |why| JournalError::Refused { path, number: record.number, why };
            if record.number != number {
                return Err(refused("it does not come next"));
            }
            if number > RECORDS_MAX {
                return Err(refused("the journal is full"));
            }
            let Some(frame) = encode(record) else {
                return Err(refused("it is too large"));
            };
            bytes.extend(frame);
        }
        let after = self.bytes.saturating_add(length(&bytes));
        if after > JOURNAL_BYTES_MAX {
            let path = self.path.clone();
            return Err(JournalError::Refused { path, number, why: "the journal is full" });
        }
        let path = self.path.clone();
        let failed = |doing| move |source| JournalError::Io { doing, path, source };
        self.is_latched = true;
        self.file.write_all(&bytes).map_err(failed("append to"))?;
        let path = self.path.clone();
        let failed = |doing| move |source| JournalError::Io { doing, path, source };
        self.file.sync_data().map_err(failed("sync"))?;
        self.is_latched = false;
        self.records = number;
        self.bytes = after;
        Ok(())
    }

    /// Writes a journal that is latched anew: `records` are all that were confirmed, and nothing else is
    /// in it then. They are written once more and not read: after a sync that failed the page cache may
    /// say what the disk does not have. It needs room for all of them beside what is there.
    ///
    /// # Errors
    /// [`JournalError::Io`]: it stays latched, and the file is as it was. [`JournalError::Refused`] when
    /// these are not all of them.
    pub fn reopen(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
        let refused = |why| JournalError::Refused { path: self.path.clone(), number: count, why };
        if count != self.records {
            return Err(refused("these are not all records of the journal"));
        }
        let mut bytes = header(self.run);
        for record in records {
            bytes.extend(encode(record).ok_or_else(|| refused("it is too large"))?);
        }
        let fresh = self.path.with_extension(FRESH_EXTENSION);
        let written = write_whole(&fresh, &bytes).and_then(|file| {
            std::fs::rename(&fresh, &self.path)?;
            // Without its folder a name is not durable.
            self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
            Ok(file)
        });
        let file = written.map_err(|source| {
            // What is half written takes the room that is lacking; it may be gone already.
            drop(std::fs::remove_file(&fresh));
            JournalError::Io { doing: "write anew", path: self.path.clone(), source }
        })?;
        self.file = file;
        self.bytes = length(&bytes);
        self.is_latched = false;
        Ok(())
    }

    /// Whether a write or a sync failed, so that it is to be written anew.
    #[must_use]
    pub const fn is_latched(&self) -> bool {
        self.is_latched
    }

    /// Records in it.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A file with these bytes, durably; it stands at its end.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<File> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Where the journal of a run lies.
#[must_use]
pub fn path_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.{EXTENSION}"))
}

#[cfg(test)]
mod tests;
