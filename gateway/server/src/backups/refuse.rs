//! What goes wrong with backups, as operators are told.
//!
//! Invariant: each error of the engine has one code; its words say what to do, so they stay.
#![warn(clippy::wildcard_enum_match_arm)]

use api::Code;
use backup::BackupError;

use crate::refusal::Refused;

/// The code of an error.
#[must_use]
pub(crate) const fn code(error: &BackupError) -> Code {
    match error {
        BackupError::Unreachable { .. } => Code::BackupTargetDown,
        BackupError::Refused { .. } => Code::BackupTargetRefused,
        BackupError::Target { .. } => Code::BackupTargetInvalid,
        BackupError::Missing { .. } | BackupError::Damaged { .. } => Code::BackupDamaged,
        BackupError::Newer { .. } | BackupError::UnknownFeatures { .. } => Code::BackupNewer,
        BackupError::NoRepository => Code::NoRepository,
        BackupError::RepositoryExists => Code::Exists,
        BackupError::KeyNeeded | BackupError::WrongKey | BackupError::NotEncrypted => {
            Code::BackupKey
        }
        BackupError::NoConditionalPut { .. } => Code::BackupTargetUnfit,
        BackupError::NoBackup { .. }
        | BackupError::Removed { .. }
        | BackupError::NoVolume { .. } => Code::NotFound,
        BackupError::Locked { .. } | BackupError::ShorterLock { .. } => Code::BackupLocked,
        BackupError::TooMany { .. } => Code::BackupLimit,
        BackupError::Volumes { .. } | BackupError::TooLong { .. } => Code::Invalid,
        BackupError::OtherPoint { .. }
        | BackupError::Abandoned { .. }
        | BackupError::ParentGone => Code::BackupOver,
        BackupError::NotResumable { .. }
        | BackupError::Source { .. }
        | BackupError::Sink { .. } => Code::BackupInterrupted,
        BackupError::Cancelled => Code::BackupCancelled,
        BackupError::System { .. } => Code::Internal,
    }
}

impl From<BackupError> for Refused {
    fn from(error: BackupError) -> Self {
        let code = code(&error);
        let refused = Self::new(code, error.to_string());
        if code == Code::NotFound { refused.next("twinspan backup list") } else { refused }
    }
}
