//! Our errors as a SCSI host hears them: one exhaustive match.
//!
//! Invariant: adding a variant to `IoError` breaks the build here. Nothing that passes is told as
//! a medium or hardware error, or as a logical unit that is gone: hosts would give the disk up.
#![warn(clippy::wildcard_enum_match_arm)]

use block::IoError;

use crate::scsi::{Sense, sense};

/// What becomes of a command that ended with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// CHECK CONDITION with this.
    Sense(Sense),
    /// BUSY: the host tries again by itself, soon.
    Busy,
    /// Nothing is said. The session keeps the command for a bounded time, goes on answering NOPs,
    /// and then drops the connection, so that the host tries another path or comes back.
    Hold,
}

/// What a host is told when its command ended with `error`; `change` says whether the command
/// would have changed content.
#[must_use]
pub const fn fate(error: IoError, change: bool) -> Fate {
    match error {
        IoError::OutOfRange => Fate::Sense(sense::OUT_OF_RANGE),
        IoError::NoSpace => Fate::Sense(sense::NO_SPACE),
        IoError::ReadOnly => Fate::Sense(sense::WRITE_PROTECTED),
        // No command of a host takes a snapshot.
        IoError::Unsupported | IoError::Invalid | IoError::TooManySnapshots => {
            Fate::Sense(sense::INVALID_FIELD)
        }
        IoError::Checksum | IoError::Media if change => Fate::Sense(sense::WRITE_ERROR),
        IoError::Checksum | IoError::Media => Fate::Sense(sense::READ_ERROR),
        IoError::Dropped => Fate::Sense(sense::ABORTED),
        IoError::Origin | IoError::Reserved => Fate::Busy,
        IoError::Fenced
        | IoError::Halted
        | IoError::NoWitness
        | IoError::NoCompanion
        | IoError::ShuttingDown
        | IoError::Latched => Fate::Hold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_never_told_as_a_fault_of_the_disk() {
        for error in [
            IoError::Fenced,
            IoError::Halted,
            IoError::NoWitness,
            IoError::NoCompanion,
            IoError::ShuttingDown,
            IoError::Latched,
            IoError::Origin,
        ] {
            for change in [false, true] {
                assert!(!matches!(fate(error, change), Fate::Sense(_)), "{error:?}");
            }
        }
    }
}
