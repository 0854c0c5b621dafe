//! Our errors as problem documents: one exhaustive match each, so that a new one breaks the build.
#![warn(clippy::wildcard_enum_match_arm)]

use api::{Code, Problem};
use block::IoError;
use mirror::Refusal;
use store::StoreError;

use crate::book::BookError;
use crate::shard::Silent;

/// Why a call failed, on its way to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) Box<Problem>);

impl Refused {
    /// With this code and these words.
    #[must_use]
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    /// Whether it has this code.
    #[must_use]
    pub(crate) fn is(&self, code: Code) -> bool {
        self.0.code == code.as_str()
    }

    /// With the same code and other words.
    #[must_use]
    pub(crate) fn saying(self, detail: String) -> Self {
        let Self(mut problem) = self;
        problem.detail = detail;
        Self(problem)
    }

    /// Whether it says nothing of what was asked of another gateway, which is to be asked again.
    #[must_use]
    pub(crate) fn passes(&self) -> bool {
        let passing = [Code::PeerUnreachable, Code::Starting, Code::ShardSilent];
        Code::parse(&self.0.code).is_some_and(|code| passing.contains(&code))
    }

    /// With another thing to do.
    #[must_use]
    pub(crate) fn next(self, next: impl Into<String>) -> Self {
        Self(Box::new(self.0.with_next(next)))
    }
}

impl From<Silent> for Refused {
    fn from(silent: Silent) -> Self {
        Self::new(Code::ShardSilent, silent.to_string())
    }
}

impl From<BookError> for Refused {
    fn from(error: BookError) -> Self {
        match &error {
            BookError::Silent => Self::new(Code::ShardSilent, error.to_string()),
            BookError::Ledger(_) | BookError::Unreadable(_) => {
                Self::new(Code::PoolFailed, error.to_string())
            }
        }
    }
}

/// The code of an I/O error that an operator is told of.
#[must_use]
pub(crate) const fn io_code(error: IoError) -> Code {
    match error {
        IoError::NoSpace => Code::PoolFull,
        IoError::TooManySnapshots => Code::StoreSnapshotLimit,
        IoError::Fenced => Code::Fenced,
        IoError::Reserved => Code::VolumeInUse,
        IoError::Latched => Code::Latched,
        IoError::Halted => Code::Halted,
        IoError::NoWitness => Code::NoWitness,
        IoError::NoCompanion => Code::NoCompanion,
        IoError::ShuttingDown => Code::Starting,
        IoError::OutOfRange | IoError::Invalid | IoError::Unsupported | IoError::ReadOnly => {
            Code::Invalid
        }
        IoError::Checksum | IoError::Media => Code::PoolFailed,
        IoError::Origin => Code::OriginUnreadable,
        IoError::Dropped => Code::Internal,
    }
}

impl From<IoError> for Refused {
    fn from(error: IoError) -> Self {
        Self::new(io_code(error), error.to_string())
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Busy { .. } => Code::VolumeInUse,
            StoreError::Needed { .. } => Code::FillsAnother,
            StoreError::NotFound { .. } => Code::NotFound,
            StoreError::Exists { .. } => Code::Exists,
            StoreError::Size => Code::BadSize,
            StoreError::Features { .. }
            | StoreError::Version { .. }
            | StoreError::Damaged { .. }
            | StoreError::Database { .. }
            | StoreError::Io { .. } => Code::PoolFailed,
        };
        Self::new(code, chain_text(&error))
    }
}

/// An error and those that it came from, in one line.
#[must_use]
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Unknown => Code::NotFound,
            Refusal::NotPrimary => Code::NotPrimary,
            Refusal::NotSecondary => Code::NotSecondary,
            Refusal::TooManyLegs => Code::TooMany,
            Refusal::AlreadyMirrored => Code::AlreadyMirrored,
            Refusal::SessionsMismatch => Code::Internal,
            Refusal::NotInSync => Code::NotInSync,
            Refusal::NotConnected => Code::PeerUnreachable,
            Refusal::QualityTooLow { .. } | Refusal::PrimaryAlive => Code::NeedsConsent,
            Refusal::NotStack => Code::NotStack,
            Refusal::Stopped => Code::Stopped,
            Refusal::PeerTooOld { .. } => Code::PeerTooOld,
            Refusal::NotSuspended => Code::NotSuspended,
            Refusal::HandoverUnanswered => Code::NeedsConsent,
            Refusal::RelayMode => Code::RelayMode,
            Refusal::Loop => Code::Loop,
            Refusal::TooManyRelays => Code::TooMany,
            Refusal::NotWhole => Code::WrongState,
            Refusal::TooManyVolumes => Code::GroupFull,
            Refusal::LastVolume => Code::LastVolume,
            Refusal::Busy => Code::Busy,
            Refusal::BadSize => Code::BadSize,
            Refusal::Io(error) => io_code(*error),
            Refusal::Fenced { .. } => Code::Fenced,
            Refusal::Interrupted => Code::Interrupted,
            Refusal::NoWitness => Code::WitnessUnreachable,
            Refusal::WitnessSilent => Code::WitnessSilent,
            Refusal::NotNamed => Code::NotNamed,
            Refusal::LeaseRuns { .. } => Code::LeaseRuns,
            Refusal::NoCompanion => Code::NoCompanion,
            Refusal::Spanning { .. } => Code::Spanning,
            Refusal::PartsApart => Code::NoCompanion,
            Refusal::HoldEnded => Code::PartsSlow,
            Refusal::NoSuchCut { .. } => Code::NoSuchCut,
            Refusal::SnapshotExists => Code::Exists,
            Refusal::NoSuchSnapshot => Code::NotFound,
            Refusal::TooManySnapshots => Code::SnapshotLimit,
            Refusal::SnapshotPartial { .. } => Code::SnapshotPartial,
            Refusal::SnapshotUnusable => Code::SnapshotUnusable,
            Refusal::NeededOnTheWay => Code::RollingBack,
            Refusal::SnapshotLocked { .. } => Code::SnapshotLocked,
            Refusal::SessionsActive => Code::WrongState,
        };
        let detail = if let Refusal::SnapshotLocked { until_ms } = &refusal {
            format!("the snapshot is locked until {}", crate::clock::text(*until_ms))
        } else {
            refusal.to_string()
        };
        Self::new(code, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pool_does_not_keep_is_not_told_as_a_full_one() {
        let Refused(problem) = Refused::from(Refusal::Io(IoError::TooManySnapshots));
        assert_eq!(problem.code, Code::StoreSnapshotLimit.as_str());
        assert!(problem.detail.contains("no more snapshots"), "{problem:?}");
        assert!(problem.next.is_some_and(|next| next.contains("snapshot delete")));
        let Refused(problem) = Refused::from(Refusal::Io(IoError::NoSpace));
        assert_eq!(problem.code, Code::PoolFull.as_str());
    }
}
