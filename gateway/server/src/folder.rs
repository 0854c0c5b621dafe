//! What lies on a volume that is a folder: two catalogues in turn, and the files behind them.
//!
//! ```text
//!   0           256 KiB     512 KiB
//!   ├ catalogue ┤ catalogue ┤ files, each in whole blocks ...
//!     odd         even        sequence numbers
//! ```
//!
//! Invariant: what the newest whole catalogue names is not written over. A new file lies beside it and is
//! durable before the next catalogue, in the other place, names it; so a volume that is cut off anywhere
//! holds one folder or the next.

use std::collections::BTreeMap;

use block::BLOCK_BYTES;
use serde::{Deserialize, Serialize};

/// One catalogue's place, in bytes: [`FILES_MAX`] files with the longest names fit.
pub(crate) const SLOT_BYTES: u64 = 256 << 10;
/// Where files begin.
pub(crate) const FILES_AT: u64 = 2 * SLOT_BYTES;
/// Files of one folder.
pub(crate) const FILES_MAX: usize = 512;
/// A file's name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 200;
/// A file, in bytes: what a plugin can have from another product in one answer.
pub(crate) const FILE_BYTES_MAX: usize = 4 << 20;

const MAGIC: [u8; 8] = *b"TSFOLDER";
const VERSION: u32 = 1;
/// Magic, version, features that must be known, sequence, length of what follows.
const HEAD_BYTES: usize = 32;
/// The digest of all before it.
const DIGEST_BYTES: usize = 32;

// Beside its name an entry is five numbers and a digest with their keys: at most 190 bytes.
const _: () = assert!(FILES_MAX * (NAME_BYTES_MAX + 190) + HEAD_BYTES + DIGEST_BYTES < 256 << 10);

/// A file, as a catalogue names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Its first byte on the volume.
    pub(crate) at: u64,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// Its revision.
    pub(crate) revision: u64,
    /// When it was written, in milliseconds since 1970.
    pub(crate) written_ms: u64,
    /// Of its content, 16 bytes in hexadecimal.
    pub(crate) digest: String,
}

/// All files, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// Raised by each change.
    pub(crate) sequence: u64,
    /// They.
    pub(crate) files: BTreeMap<String, Entry>,
}

/// What is in a catalogue's place.
enum Place {
    Blank,
    /// Ours, and not whole.
    Torn,
    /// Somebody else's, or of a gateway that is newer.
    Foreign(String),
    Whole(Catalogue),
}

/// The digest of a file's content.
#[must_use]
pub(crate) fn digest(content: &[u8]) -> String {
    blake3::hash(content).to_hex().as_str()[..32].to_owned()
}

/// The newest of two catalogues.
///
/// # Errors
/// In words, when the volume holds something else or no whole catalogue.
pub(crate) fn newest(odd: &[u8], even: &[u8]) -> Result<Catalogue, String> {
    let places = [place(odd), place(even)];
    if let Some(why) = places.iter().find_map(|place| match place {
        Place::Foreign(why) => Some(why.clone()),
        Place::Blank | Place::Torn | Place::Whole(_) => None,
    }) {
        return Err(why);
    }
    match places {
        [Place::Whole(one), Place::Whole(other)] => {
            Ok(if one.sequence > other.sequence { one } else { other })
        }
        [Place::Whole(one), _] | [_, Place::Whole(one)] => Ok(one),
        // The first catalogue of all was cut off, or there never was one.
        [Place::Blank, _] | [_, Place::Blank] => Ok(Catalogue::default()),
        _ => Err("neither catalogue is whole: the copy may still be filled".to_owned()),
    }
}

fn place(bytes: &[u8]) -> Place {
    let head = &bytes[..HEAD_BYTES.min(bytes.len())];
    if head.iter().all(|byte| *byte == 0) {
        return Place::Blank;
    }
    if !head.starts_with(&MAGIC) {
        return Place::Foreign("the volume holds something that is no folder".to_owned());
    }
    let number = |at: usize, len: usize| {
        let piece = head.get(at..at + len).unwrap_or_default();
        piece.iter().rev().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte))
    };
    let (version, features, sequence) = (number(8, 4), number(12, 4), number(16, 8));
    if version != u64::from(VERSION) || features != 0 {
        let why = format!("the folder has version {version} and features {features:#x}: upgrade");
        return Place::Foreign(why);
    }
    let length = usize::try_from(number(24, 8)).unwrap_or(usize::MAX);
    let end = HEAD_BYTES.saturating_add(length);
    let (Some(body), Some(said)) =
        (bytes.get(..end), bytes.get(end..end.saturating_add(DIGEST_BYTES)))
    else {
        return Place::Torn;
    };
    if blake3::hash(body).as_bytes() != said {
        return Place::Torn;
    }
    match serde_json::from_slice(&body[HEAD_BYTES..]) {
        Ok(files) => Place::Whole(Catalogue { sequence, files }),
        Err(error) => Place::Foreign(format!("the folder's catalogue cannot be read: {error}")),
    }
}

impl Catalogue {
    /// Its bytes, filled up to whole blocks, and where they belong.
    ///
    /// # Errors
    /// In words, when they do not fit.
    pub(crate) fn encode(&self) -> Result<(u64, Vec<u8>), String> {
        let files = serde_json::to_vec(&self.files).map_err(|error| error.to_string())?;
        let mut bytes = Vec::from(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend((files.len() as u64).to_le_bytes());
        bytes.extend(files);
        let digest = blake3::hash(&bytes);
        bytes.extend(digest.as_bytes());
        let bytes = padded(bytes);
        if bytes.len() as u64 > SLOT_BYTES {
            return Err("the folder's catalogue is too long".to_owned());
        }
        let at = if self.sequence.is_multiple_of(2) { SLOT_BYTES } else { 0 };
        Ok((at, bytes))
    }

    /// Where so many bytes fit on a volume of this size, beside everything that is named here.
    #[must_use]
    pub(crate) fn room(&self, bytes: u64, volume_bytes: u64) -> Option<u64> {
        let mut taken: Vec<(u64, u64)> =
            self.files.values().map(|of| (of.at, of.at + blocks(of.bytes))).collect();
        taken.sort_unstable();
        let mut at = FILES_AT;
        for (from, to) in taken {
            if from >= at + blocks(bytes) {
                break;
            }
            at = at.max(to);
        }
        (at + blocks(bytes) <= volume_bytes).then_some(at)
    }
}

/// Bytes in whole blocks; an empty file has one.
fn blocks(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(BLOCK_BYTES)
}

/// Filled up with zeroes to whole blocks.
#[must_use]
pub(crate) fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    let whole = usize::try_from(blocks(bytes.len() as u64)).unwrap_or(bytes.len());
    bytes.resize(whole, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64, bytes: u64) -> Entry {
        Entry { at, bytes, revision: 1, written_ms: 2, digest: digest(b"x") }
    }

    fn with(sequence: u64, files: &[(&str, u64, u64)]) -> Catalogue {
        let files = files.iter().map(|(name, at, bytes)| ((*name).to_owned(), entry(*at, *bytes)));
        Catalogue { sequence, files: files.collect() }
    }

    #[test]
    fn a_catalogue_is_read_as_it_was_written_and_each_takes_the_others_place() {
        let (one, two) = (with(1, &[("a", FILES_AT, 7)]), with(2, &[("b", FILES_AT, 9)]));
        let ((at_one, odd), (at_two, even)) = (one.encode().unwrap(), two.encode().unwrap());
        assert_eq!((at_one, at_two), (0, SLOT_BYTES));
        assert_eq!(newest(&odd, &even), Ok(two));
        // The newer one was cut off: the one before holds.
        for byte in [40, 80, 120] {
            let mut torn = even.clone();
            torn[byte] ^= 1;
            assert_eq!(newest(&odd, &torn), Ok(one.clone()), "byte {byte}");
        }
        assert_eq!(newest(&odd, &[0; 4096]), Ok(one));
    }

    #[test]
    fn an_empty_volume_is_an_empty_folder_and_one_with_other_data_is_none() {
        assert_eq!(newest(&[0; 4096], &[0; 4096]), Ok(Catalogue::default()));
        assert!(newest(&[7; 4096], &[0; 4096]).unwrap_err().contains("no folder"));
        let (_, mut newer) = with(1, &[]).encode().unwrap();
        newer[8] = 2;
        assert!(newest(&newer, &[0; 4096]).unwrap_err().contains("version 2"));
        let (_, mut torn) = with(1, &[]).encode().unwrap();
        torn[33] ^= 1;
        assert_eq!(newest(&torn, &[0; 4096]), Ok(Catalogue::default()));
        assert!(newest(&torn, &torn).unwrap_err().contains("whole"));
    }

    #[test]
    fn a_catalogue_that_was_written_by_version_1_is_read() {
        let bytes = include_bytes!("folder/catalogue-v1.bin");
        assert_eq!(newest(bytes, &[0; 4096]), Ok(with(1, &[("a/b.json", FILES_AT, 5)])));
    }

    #[test]
    fn a_new_file_lies_beside_all_that_are_named() {
        let volume = FILES_AT + 5 * BLOCK_BYTES;
        let some =
            with(1, &[("a", FILES_AT, 1), ("b", FILES_AT + 2 * BLOCK_BYTES, BLOCK_BYTES + 1)]);
        assert_eq!(some.room(10, volume), Some(FILES_AT + BLOCK_BYTES));
        assert_eq!(some.room(BLOCK_BYTES + 1, volume), None);
        assert_eq!(
            some.room(BLOCK_BYTES + 1, volume + BLOCK_BYTES),
            Some(FILES_AT + 4 * BLOCK_BYTES)
        );
        assert_eq!(with(1, &[]).room(0, FILES_AT + BLOCK_BYTES), Some(FILES_AT));
    }

    #[test]
    fn a_full_catalogue_fits_its_place() {
        let name = |i: usize| format!("{i:03}{}", "n".repeat(NAME_BYTES_MAX - 3));
        let files = (0..FILES_MAX).map(|i| (name(i), entry(u64::MAX, u64::MAX)));
        let full = Catalogue { sequence: 1, files: files.collect() };
        assert!(full.encode().is_ok());
    }
}
