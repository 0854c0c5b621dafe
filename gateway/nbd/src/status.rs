//! Our errors as the protocol's: one exhaustive match.
//!
//! Invariant: adding a variant to `IoError` breaks the build here. `ENOTSUP` answers nothing but a
//! zeroing that asked to be fast.
#![warn(clippy::wildcard_enum_match_arm)]

use block::IoError;

use crate::wire::{Command, Errno};

/// What a client is told when its request ended with `error`.
#[must_use]
pub(crate) fn errno(command: Command, error: IoError) -> Errno {
    match error {
        IoError::OutOfRange => past_the_end(command),
        IoError::NoSpace => Errno::NoSpc,
        IoError::ReadOnly | IoError::Reserved => Errno::Perm,
        IoError::Fenced | IoError::ShuttingDown => Errno::Shutdown,
        IoError::Unsupported => match command {
            Command::WriteZeroes => Errno::NotSup,
            Command::Read
            | Command::Write
            | Command::Disconnect
            | Command::Flush
            | Command::Trim
            | Command::Cache
            | Command::BlockStatus => Errno::Inval,
        },
        // No request of a host takes a snapshot.
        IoError::Invalid | IoError::TooManySnapshots => Errno::Inval,
        IoError::Halted
        | IoError::NoWitness
        | IoError::NoCompanion
        | IoError::Checksum
        | IoError::Media
        | IoError::Origin
        | IoError::Latched
        | IoError::Dropped => Errno::Io,
    }
}

/// What a client is told that reaches past the end: as for a disk that is full when it would have
/// written there.
#[must_use]
pub(crate) fn past_the_end(command: Command) -> Errno {
    match command {
        Command::Write | Command::WriteZeroes => Errno::NoSpc,
        Command::Read
        | Command::Disconnect
        | Command::Flush
        | Command::Trim
        | Command::Cache
        | Command::BlockStatus => Errno::Inval,
    }
}

/// The same in words, for the clients that show them.
#[must_use]
pub(crate) fn message(error: IoError) -> &'static str {
    match error {
        IoError::OutOfRange => "range is outside the volume",
        IoError::NoSpace => "pool is full",
        IoError::TooManySnapshots => "the pool keeps no more snapshots of the volume",
        IoError::ReadOnly => "volume is read-only here",
        IoError::Reserved => "a host of iSCSI has reserved the volume",
        IoError::Fenced => "fenced by a higher epoch: this gateway may no longer serve the volume",
        IoError::Halted => "a mirror is missing and the session's split policy is manual",
        IoError::NoWitness => {
            "a mirror is missing and the witness cannot be asked whether to go on alone"
        }
        IoError::NoCompanion => {
            "a mirror is missing and a companion has not stopped at the same cut"
        }
        IoError::ShuttingDown => "gateway is shutting down",
        IoError::Unsupported => "operation is not supported by this volume",
        IoError::Invalid => "invalid request",
        IoError::Checksum => "stored block does not match its checksum",
        IoError::Media => "medium error",
        IoError::Origin => "not copied yet, and what the volume is filled from cannot be read now",
        IoError::Latched => "copy is latched after a failed sync",
        IoError::Dropped => "request was dropped unanswered",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_enotsup_for_nothing_but_a_zeroing() {
        for number in 0..8 {
            let command = Command::of(number).unwrap();
            let answer = errno(command, IoError::Unsupported);
            assert_eq!(answer == Errno::NotSup, command == Command::WriteZeroes, "{command:?}");
        }
    }

    #[test]
    fn past_the_end_is_no_space_for_what_would_store() {
        assert_eq!(past_the_end(Command::Write), Errno::NoSpc);
        assert_eq!(past_the_end(Command::WriteZeroes), Errno::NoSpc);
        assert_eq!(past_the_end(Command::Trim), Errno::Inval);
        assert_eq!(past_the_end(Command::Read), Errno::Inval);
    }
}
