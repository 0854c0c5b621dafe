//! Our errors as numbers on the wire and back.
//!
//! Invariant: each number means one error for ever; a new error breaks the build here.
#![warn(clippy::wildcard_enum_match_arm)]

use block::IoError;

/// The number of an error.
pub(super) const fn code(error: IoError) -> u64 {
    match error {
        IoError::OutOfRange => 1,
        // A mirror tells of a snapshot that it does not keep in words, and of changes in numbers.
        // Should it come here all the same, this is the nearest that every release knows.
        IoError::NoSpace | IoError::TooManySnapshots => 2,
        IoError::ReadOnly => 3,
        IoError::Fenced => 4,
        IoError::Halted => 5,
        IoError::ShuttingDown => 6,
        IoError::Unsupported => 7,
        IoError::Invalid => 8,
        IoError::Checksum => 9,
        IoError::Media => 10,
        IoError::Latched => 11,
        IoError::Dropped => 12,
        IoError::NoWitness => 13,
        IoError::NoCompanion => 14,
        IoError::Origin => 15,
        IoError::Reserved => 16,
    }
}

/// The error with this number.
pub(super) const fn error(code: u64) -> Option<IoError> {
    Some(match code {
        1 => IoError::OutOfRange,
        2 => IoError::NoSpace,
        3 => IoError::ReadOnly,
        4 => IoError::Fenced,
        5 => IoError::Halted,
        6 => IoError::ShuttingDown,
        7 => IoError::Unsupported,
        8 => IoError::Invalid,
        9 => IoError::Checksum,
        10 => IoError::Media,
        11 => IoError::Latched,
        12 => IoError::Dropped,
        13 => IoError::NoWitness,
        14 => IoError::NoCompanion,
        15 => IoError::Origin,
        16 => IoError::Reserved,
        _ => return None,
    })
}
