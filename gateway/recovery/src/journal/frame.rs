//! The bytes of a journal.
//!
//! Invariant: whatever the bytes are, nothing panics, and no more memory is taken than they have. A
//! last record counts as torn only if nothing that could be a record follows it.

use crc_fast::CrcAlgorithm;

use crate::limits::RECORD_BYTES_MAX;
use crate::run::Record;

/// What a journal begins with.
const MAGIC: &[u8; 8] = b"TWSPRUN\0";
/// The version that this release writes; it reads no other.
const VERSION: u32 = 1;
/// Features that a reader must know; this release knows none.
const FEATURES: u32 = 0;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 36;
/// Bytes of a record before its payload: the length and its checksum.
const PREFIX_BYTES: usize = 8;
/// Bytes of a record after its payload.
const SUFFIX_BYTES: usize = 4;

/// What is wrong with the bytes of a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// They are none.
    #[error("it is no journal of a run")]
    NotAJournal,
    /// They are of another release.
    #[error("it has version {version} and features {features:#x}; this release reads version 1")]
    TooNew {
        /// The version.
        version: u32,
        /// The features.
        features: u32,
    },
    /// They are damaged.
    #[error("it is damaged at byte {at}: {why}")]
    Damaged {
        /// Where.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// What the bytes of a journal say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Whose journal it is.
    pub run: [u8; 16],
    /// Its records.
    pub records: Vec<Record>,
    /// Bytes up to the end of the last whole record.
    pub whole_bytes: usize,
}

fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    u32::try_from(digest.finalize()).expect("a 32-bit checksum fits 32 bits")
}

/// The bytes that the journal of a run begins with.
#[must_use]
pub fn header(run: [u8; 16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&FEATURES.to_le_bytes());
    bytes.extend_from_slice(&run);
    let crc = crc32c(&[&bytes]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The bytes of a record; `None` when it is larger than [`RECORD_BYTES_MAX`].
#[must_use]
pub fn encode(record: &Record) -> Option<Vec<u8>> {
    let payload = serde_json::to_vec(record).ok()?;
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= RECORD_BYTES_MAX)?;
    let length = length.to_le_bytes();
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + payload.len() + SUFFIX_BYTES);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&crc32c(&[&length]).to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes.extend_from_slice(&crc32c(&[&length, &payload]).to_le_bytes());
    Some(bytes)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

/// Reads the bytes of a journal.
///
/// # Errors
/// [`FrameError`]; a torn end is none.
pub fn decode(bytes: &[u8]) -> Result<Read, FrameError> {
    if bytes.get(..MAGIC.len()) != Some(MAGIC) || bytes.len() < HEADER_BYTES {
        return Err(FrameError::NotAJournal);
    }
    let (version, features) = (number(bytes, 8), number(bytes, 12));
    let (version, features) = (version.unwrap_or(0), features.unwrap_or(0));
    if version != VERSION || features != FEATURES {
        return Err(FrameError::TooNew { version, features });
    }
    let crc_at = HEADER_BYTES - SUFFIX_BYTES;
    if number(bytes, crc_at) != Some(crc32c(&[&bytes[..crc_at]])) {
        return Err(FrameError::Damaged { at: crc_at, why: "the header's checksum is wrong" });
    }
    let run = bytes[16..crc_at].try_into().map_err(|_e| FrameError::NotAJournal)?;
    let mut read = Read { run, records: Vec::new(), whole_bytes: HEADER_BYTES };
    while read.whole_bytes < bytes.len() {
        let at = read.whole_bytes;
        match record(bytes, at)? {
            Some((record, end)) => {
                let expected = read.records.last().map_or(1, |last| last.number + 1);
                if record.number != expected {
                    return Err(FrameError::Damaged { at, why: "a record is missing before it" });
                }
                read.records.push(record);
                read.whole_bytes = end;
            }
            None => break,
        }
    }
    Ok(read)
}

/// The record at a place and where it ends; `None` when it is the torn end.
fn record(bytes: &[u8], at: usize) -> Result<Option<(Record, usize)>, FrameError> {
    let damaged = |why| FrameError::Damaged { at, why };
    let rest = &bytes[at..];
    if rest.len() < PREFIX_BYTES || rest.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let length = number(bytes, at).unwrap_or(0);
    let payload_bytes = usize::try_from(length).unwrap_or(usize::MAX);
    let is_length = number(bytes, at + 4) == Some(crc32c(&[&length.to_le_bytes()]));
    if !is_length || payload_bytes > RECORD_BYTES_MAX {
        // Only the last record can be torn, and it has at most this many bytes.
        let may_be_torn =
            rest.len() < PREFIX_BYTES + RECORD_BYTES_MAX + SUFFIX_BYTES && !has_record(rest);
        return if may_be_torn {
            Ok(None)
        } else {
            Err(damaged("the length of a record is wrong"))
        };
    }
    let start = at + PREFIX_BYTES;
    let end = start + payload_bytes + SUFFIX_BYTES;
    let Some(whole) = bytes.get(start..end) else { return Ok(None) };
    let (payload, _) = whole.split_at(payload_bytes);
    if number(bytes, end - SUFFIX_BYTES) != Some(crc32c(&[&length.to_le_bytes(), payload])) {
        let is_last = end == bytes.len();
        return if is_last { Ok(None) } else { Err(damaged("the checksum of a record is wrong")) };
    }
    let record = serde_json::from_slice(payload)
        .map_err(|_e| damaged("a record says what this release does not know"))?;
    Ok(Some((record, end)))
}

/// Whether something that could be a record begins anywhere behind the first byte.
fn has_record(rest: &[u8]) -> bool {
    (1..rest.len().saturating_sub(PREFIX_BYTES)).any(|at| {
        let length = number(rest, at).unwrap_or(0);
        let fits = usize::try_from(length).is_ok_and(|n| n > 0 && n <= RECORD_BYTES_MAX);
        fits && number(rest, at + 4) == Some(crc32c(&[&length.to_le_bytes()]))
    })
}
