//! Numbered, checksummed records, and the log of those that were acknowledged.
//!
//! ```text
//!   region of a writer:  | slot 0 | slot 1 | ... |     record N lies in slot N mod slots
//!   record (4 KiB):      magic, writer, number, checksum, bytes that follow from writer and number
//!   log of a writer:     8 bytes for each number that was acknowledged, in order
//! ```
//!
//! Invariant: a number is written to the log after its record was acknowledged and before the next
//! is sent, so at most one record of a writer is neither logged nor unsent.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One record.
pub(crate) const RECORD_BYTES: usize = 4096;
const HEAD_BYTES: usize = 32;
const MAGIC: u64 = u64::from_le_bytes(*b"TWRECORD");

/// How a volume is divided among writers; kept, so that a later load goes on with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Layout {
    /// Writers.
    pub(crate) writers: u64,
    /// Slots of each.
    pub(crate) slots: u64,
}

impl Layout {
    /// Of a volume with this size.
    pub(crate) fn of(bytes: u64, writers: u64) -> Self {
        Self { writers, slots: bytes / RECORD_BYTES as u64 / writers.max(1) }
    }

    /// Where a record lies.
    pub(crate) fn offset(self, writer: u64, number: u64) -> u64 {
        (writer * self.slots + number % self.slots) * RECORD_BYTES as u64
    }
}

/// A record.
pub(crate) fn make(writer: u64, number: u64) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_BYTES);
    record.extend(MAGIC.to_le_bytes());
    record.extend(writer.to_le_bytes());
    record.extend(number.to_le_bytes());
    record.extend([0; 8]);
    let mut state = writer.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
    while record.len() < RECORD_BYTES {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        record.extend((word ^ (word >> 31)).to_le_bytes());
    }
    let sum = checksum(&record).to_le_bytes();
    if let Some(place) = record.get_mut(24..HEAD_BYTES) {
        place.copy_from_slice(&sum);
    }
    record
}

/// FNV-1a over everything but the checksum's own place.
fn checksum(record: &[u8]) -> u64 {
    let (head, rest) = record.split_at(record.len().min(24));
    let rest = rest.get(8..).unwrap_or_default();
    head.iter().chain(rest).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Zeroes.
    Nothing,
    /// This record, whole.
    Record {
        /// Whose.
        writer: u64,
        /// Which.
        number: u64,
    },
    /// Something else.
    Torn,
}

/// Reads a slot.
pub(crate) fn read(slot: &[u8]) -> Found {
    if slot.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    let word = |at: usize| {
        let bytes = slot.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    if word(0) != MAGIC || word(24) != checksum(slot) {
        return Found::Torn;
    }
    let (writer, number) = (word(8), word(16));
    // The checksum vouches for the head; the bytes must be those of this very record.
    if make(writer, number) == slot { Found::Record { writer, number } } else { Found::Torn }
}

/// The folder of a volume's logs.
pub(crate) fn folder(directory: &Path, volume: &str) -> PathBuf {
    directory.join("load").join(volume)
}

fn log_file(folder: &Path, writer: u64) -> PathBuf {
    folder.join(format!("writer-{writer}.log"))
}

/// Reads how a volume is divided; `None` before the first load.
pub(crate) fn read_layout(folder: &Path) -> Option<Layout> {
    serde_json::from_str(&std::fs::read_to_string(folder.join("layout.json")).ok()?).ok()
}

/// Keeps how a volume is divided.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_layout(folder: &Path, layout: Layout) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("layout.json"), serde_json::to_string(&layout)?)
}

/// The numbers that a writer's log holds, in order. A last one that was cut off was not
/// acknowledged to anybody.
pub(crate) fn read_log(folder: &Path, writer: u64) -> Vec<u64> {
    let bytes = std::fs::read(log_file(folder, writer)).unwrap_or_default();
    bytes
        .chunks_exact(8)
        .filter_map(|chunk| chunk.try_into().ok().map(u64::from_le_bytes))
        .collect()
}

/// A writer's log, to go on with.
pub(crate) struct Log(File);

impl Log {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(folder: &Path, writer: u64) -> std::io::Result<Self> {
        File::options().create(true).append(true).open(log_file(folder, writer)).map(Self)
    }

    /// Adds a number. The loader is not killed, so the page cache is enough.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn add(&mut self, number: u64) -> std::io::Result<()> {
        self.0.write_all(&number.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_whole_and_a_torn_one_is_not() {
        let record = make(3, 41_882);
        assert_eq!(record.len(), RECORD_BYTES);
        assert_eq!(read(&record), Found::Record { writer: 3, number: 41_882 });
        let older = make(3, 41_000);
        for cut in [24, 32, 512, 4095] {
            let torn = [&record[..cut], &older[cut..]].concat();
            assert_eq!(read(&torn), Found::Torn, "cut at {cut}");
        }
        assert_eq!(read(&[0; RECORD_BYTES]), Found::Nothing);
    }

    #[test]
    fn regions_do_not_overlap() {
        let layout = Layout::of(64 << 20, 3);
        let last = layout.offset(0, layout.slots - 1);
        assert_eq!(layout.offset(1, 0), last + RECORD_BYTES as u64);
        assert_eq!(layout.offset(1, layout.slots), layout.offset(1, 0));
        assert!(layout.offset(2, layout.slots - 1) < 64 << 20);
    }
}
