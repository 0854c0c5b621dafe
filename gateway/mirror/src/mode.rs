//! When a change is acknowledged: the one place that knows.
//!
//! Invariant (rule 1): an acknowledgement is given only for [`Decision::Acknowledge`].
#![warn(clippy::wildcard_enum_match_arm)]

use block::IoError;
pub use block::Mode;

/// How far a change has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// What the local copy answered, if it did.
    pub(crate) local: Option<Result<(), IoError>>,
    /// How many copies that count have not acknowledged, nor been durably struck off.
    pub(crate) waiting_for: u32,
    /// Whether a copy was lost whose policy forbids to go on without it.
    pub(crate) halted: bool,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Not yet.
    Wait,
    /// Tell the host that it is done.
    Acknowledge,
    /// Tell the host that it failed. The copies may differ there until the copier has been.
    Fail(IoError),
}

/// Decides over one change. The copies that count are those of sessions in mode `sync`: the others
/// get the change through their send journals, and nobody waits for them.
pub(crate) fn decide(progress: &Progress) -> Decision {
    match progress.local {
        None => Decision::Wait,
        Some(Err(error)) => Decision::Fail(error),
        Some(Ok(())) if progress.waiting_for > 0 => Decision::Wait,
        Some(Ok(())) if progress.halted => Decision::Fail(IoError::Halted),
        Some(Ok(())) => Decision::Acknowledge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_waits_for_every_copy_that_counts() {
        let decide = |local, waiting_for, halted| decide(&Progress { local, waiting_for, halted });
        assert_eq!(decide(None, 0, false), Decision::Wait);
        assert_eq!(decide(Some(Ok(())), 1, false), Decision::Wait);
        assert_eq!(decide(Some(Ok(())), 0, false), Decision::Acknowledge);
        assert_eq!(decide(Some(Ok(())), 0, true), Decision::Fail(IoError::Halted));
        let full = Some(Err(IoError::NoSpace));
        assert_eq!(decide(full, 1, false), Decision::Fail(IoError::NoSpace));
    }
}
