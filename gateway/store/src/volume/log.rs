//! The log that the map's records are appended to.
//!
//! Invariant: a record is in the file before the change that it stands for is answered. A failed
//! append moves nothing on: the next one is written to the same place.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::medium::{Directory, File, read_all};

use super::record::{RECORD_BYTES, Record};

/// Room that is taken ahead, so that trims and commits succeed on a full disk.
const RESERVE_BYTES: u64 = 256 << 10;

/// The log of one volume.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) generation: u64,
    file: Arc<dyn File>,
    base: u64,
    next: u64,
    reserved: u64,
    /// Records were appended since the last sync began.
    unsynced: bool,
    /// No sync of the directory covers the name yet.
    unnamed: bool,
    /// A failed append could not be taken back.
    torn: bool,
    /// Logs before this one that have records which no sync covers yet.
    old: Vec<Arc<dyn File>>,
    buffer: Vec<u8>,
}

/// The file of a log.
pub(crate) fn name(generation: u64) -> String {
    format!("map.log.{generation}")
}

/// The generation of a file that is a log.
pub(crate) fn generation_of(name: &str) -> Option<u64> {
    name.strip_prefix("map.log.")?.parse().ok()
}

/// Every record of a log, in order, without its header, up to the first that is torn; and the
/// number of its header. `None` when the header itself is torn.
pub(crate) fn read(file: &dyn File, generation: u64) -> io::Result<Option<(u64, Vec<Record>)>> {
    let data = read_all(file)?;
    // The header alone stands for its number: it is read with the number it claims.
    let claimed = data.get(16..24).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let Some(base) = claimed else { return Ok(None) };
    let mut records = Vec::new();
    for (place, bytes) in data.chunks(RECORD_BYTES).enumerate() {
        match Record::decode(bytes, generation, base.wrapping_add(place as u64)) {
            Some(Record::Header { base: found }) if place == 0 && found == base => {}
            Some(record) if place > 0 => records.push(record),
            _ if place == 0 => return Ok(None),
            _ => break,
        }
    }
    Ok(Some((base, records)))
}

// === impl Log ===

impl Log {
    /// Makes the log `generation`, whose first record has number `base`. Its name is not durable.
    pub(crate) fn create(dir: &dyn Directory, generation: u64, base: u64) -> io::Result<Self> {
        let name = name(generation);
        match dir.remove(&name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = dir.create(&name)?;
        let mut log = Self {
            generation,
            file,
            base,
            next: base,
            reserved: 0,
            unsynced: true,
            unnamed: true,
            torn: false,
            old: Vec::new(),
            buffer: Vec::new(),
        };
        log.append(&[Record::Header { base }])?;
        Ok(log)
    }

    /// Takes up a log that holds its header only.
    pub(crate) fn resume(file: Arc<dyn File>, generation: u64, base: u64) -> Self {
        Self {
            generation,
            file,
            base,
            next: base + 1,
            reserved: 0,
            unsynced: false,
            unnamed: false,
            torn: false,
            old: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// The number that the next record will have.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The number of the header.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Whether the directory must be synced, once.
    pub(crate) fn take_unnamed(&mut self) -> bool {
        std::mem::take(&mut self.unnamed)
    }

    /// Bytes in the file.
    pub(crate) fn bytes(&self) -> u64 {
        (self.next - self.base) * RECORD_BYTES as u64
    }

    /// Whether there is nothing but the header.
    pub(crate) fn is_empty(&self) -> bool {
        self.next <= self.base + 1
    }

    /// Whether a sync has something to do here.
    pub(crate) fn unsynced(&self) -> bool {
        self.unsynced || !self.old.is_empty()
    }

    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<usize> {
        let start = self.bytes();
        self.buffer.clear();
        let mut index = self.next;
        for record in records {
            record.encode(self.generation, index, &mut self.buffer);
            index += 1;
        }
        let end = start + self.buffer.len() as u64;
        if end > self.reserved {
            let upto = end + RESERVE_BYTES;
            // A hint: when there is no room ahead there may still be room for these records.
            if self.file.reserve(self.reserved, upto - self.reserved).is_ok() {
                self.reserved = upto;
            }
        }
        if let Err(error) = self.file.write_at(&mut [IoSlice::new(&self.buffer)], start) {
            // The first of them may stand there, whole: a start would believe what was refused.
            self.reserved = start;
            self.unsynced = true;
            self.torn = self.file.set_size(start).is_err();
            return Err(error);
        }
        self.next = index;
        self.unsynced = true;
        Ok(self.buffer.len())
    }

    /// Whether records that were refused may stand behind the others: nothing may be promised then.
    pub(crate) fn is_torn(&self) -> bool {
        self.torn
    }

    /// Everything that a sync must make durable, the oldest first.
    pub(crate) fn take_unsynced(&mut self) -> Vec<Arc<dyn File>> {
        let mut files = std::mem::take(&mut self.old);
        if std::mem::take(&mut self.unsynced) {
            files.push(Arc::clone(&self.file));
        }
        files
    }

    /// Goes on in a new log. What this one had not synced stays to be synced.
    pub(crate) fn rotate(&mut self, dir: &dyn Directory) -> io::Result<()> {
        let mut new = Self::create(dir, self.generation + 1, self.next)?;
        new.old = std::mem::take(&mut self.old);
        if self.unsynced {
            new.old.push(Arc::clone(&self.file));
        }
        *self = new;
        Ok(())
    }

    pub(crate) fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }

    /// A checkpoint made all logs before this one obsolete.
    pub(crate) fn forget_old(&mut self) {
        self.old.clear();
    }
}
