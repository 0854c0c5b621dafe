//! What can go wrong with a backup, in words: what, why, and what to do next.
//!
//! Invariant: an error of the object store has been retried by its client before it gets here, so
//! none of these is retried again; a run that ended with one of the first two can be resumed.

use std::sync::Arc;

use block::{SnapshotId, VolumeId};
use jiff::Timestamp;

use crate::BackupId;

/// Why a source or a sink of volume data failed, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct VolumeError {
    /// What failed and why.
    pub what: String,
}

impl VolumeError {
    /// An error with these words.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

/// Why an operation on a repository of backups failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackupError {
    /// The store does not answer, or answers with an error of its own.
    #[error(
        "the object store cannot be reached: {doing}: {source}. \
         What was stored stays; resume when the store answers again"
    )]
    Unreachable {
        /// What was being done.
        doing: String,
        /// What its client said, after its last retry.
        #[source]
        source: Arc<object_store::Error>,
    },
    /// The store refuses the credentials.
    #[error(
        "the object store refuses the credentials: {doing}: {source}. \
         Give credentials that may read, write, list and delete below the prefix, then resume"
    )]
    Refused {
        /// What was being done.
        doing: String,
        /// What its client said.
        #[source]
        source: Arc<object_store::Error>,
    },
    /// The description of a target is not one that can be connected to.
    #[error("the target cannot be used: {why}. Correct its description")]
    Target {
        /// What is wrong with it.
        why: String,
    },
    /// An object that must be there is not.
    #[error(
        "object {key} is missing from the bucket. \
         Verify the repository to see which backups it hurts"
    )]
    Missing {
        /// Its key below the prefix.
        key: String,
    },
    /// An object's bytes are not what was written.
    #[error("object {key} is damaged: {why}. Verify the repository to see which backups it hurts")]
    Damaged {
        /// Its key below the prefix.
        key: String,
        /// What does not fit.
        why: &'static str,
    },
    /// An object was written by a later version of this product.
    #[error(
        "object {key} has format version {found}, and this gateway knows versions up to {known}. \
         Upgrade this gateway"
    )]
    Newer {
        /// Its key below the prefix.
        key: String,
        /// Its version.
        found: u16,
        /// The newest one that is known.
        known: u16,
    },
    /// An object uses a feature of the format that is not known here.
    #[error(
        "object {key} needs format features {features:#06x} that are not known here. Upgrade this gateway"
    )]
    UnknownFeatures {
        /// Its key below the prefix.
        key: String,
        /// The unknown bits.
        features: u16,
    },
    /// There is nothing below the prefix.
    #[error("there is no repository of backups here. Create one, or correct bucket and prefix")]
    NoRepository,
    /// There is a repository already.
    #[error("there is a repository of backups here already. Open it, or choose another prefix")]
    RepositoryExists,
    /// The repository is encrypted and no key was given.
    #[error("the repository is encrypted. Give its key")]
    KeyNeeded,
    /// The key does not open it.
    #[error("the key does not open this repository. Give the key that it was created with")]
    WrongKey,
    /// A key was given for a repository that is not encrypted.
    #[error(
        "a key was given and the repository is not encrypted. \
         Open it without a key, or create an encrypted one under another prefix"
    )]
    NotEncrypted,
    /// The store ignores or refuses the condition of a put.
    #[error(
        "the bucket does not keep a put from replacing an object ({why}), so two gateways could \
         overwrite each other's backups. Use a store with conditional puts; a bucket with \
         versions has none on some stores"
    )]
    NoConditionalPut {
        /// What it did.
        why: &'static str,
    },
    /// There is no such backup.
    #[error("there is no backup {id}")]
    NoBackup {
        /// Which.
        id: BackupId,
    },
    /// The backup was removed.
    #[error("backup {id} was removed; its data goes with the next collection")]
    Removed {
        /// Which.
        id: BackupId,
    },
    /// The backup has no such volume.
    #[error("backup {id} does not hold volume {volume}")]
    NoVolume {
        /// Which backup.
        id: BackupId,
        /// Which volume.
        volume: VolumeId,
    },
    /// The backup is locked.
    #[error("backup {id} is locked until {until} and cannot be removed before, by anyone")]
    Locked {
        /// Which.
        id: BackupId,
        /// When it may be removed.
        until: Timestamp,
    },
    /// A lock is only ever moved on.
    #[error("backup {id} is locked until {until}; a lock cannot be shortened")]
    ShorterLock {
        /// Which.
        id: BackupId,
        /// Its date.
        until: Timestamp,
    },
    /// The volume has as many backups as it may have.
    #[error(
        "volume {volume} has {limit} backups, which is its limit. Remove one, or raise the limit"
    )]
    TooMany {
        /// Which volume.
        volume: VolumeId,
        /// How many it may have.
        limit: usize,
    },
    /// The request names no volume, or one twice, or too many.
    #[error("a backup is of 1 to {max} different volumes")]
    Volumes {
        /// The most that it may hold.
        max: usize,
    },
    /// A text of the request is too long, or there are too many labels.
    #[error("{what} is longer than {max}")]
    TooLong {
        /// Which.
        what: &'static str,
        /// The most that it may be.
        max: usize,
    },
    /// There is nothing to resume.
    #[error("there is no unfinished backup {id}. Begin a new one")]
    NotResumable {
        /// Which.
        id: BackupId,
    },
    /// What is resumed is not what was begun.
    #[error(
        "backup {id} was begun from point {expected} of volume {volume}, which is not offered. \
         Offer it, or abandon that backup and begin a new one"
    )]
    OtherPoint {
        /// Which backup.
        id: BackupId,
        /// Which volume.
        volume: VolumeId,
        /// The point that it was begun from.
        expected: SnapshotId,
    },
    /// Somebody abandoned the run while it went on.
    #[error("backup {id} was abandoned while it was being made. Begin a new one")]
    Abandoned {
        /// Which.
        id: BackupId,
    },
    /// The backup that this one builds upon went away as it began.
    #[error("the backups that this one would build upon are being removed. Begin it again")]
    ParentGone,
    /// The source could not be read.
    #[error("volume {volume} could not be read: {source}. Resume when it can")]
    Source {
        /// Which volume.
        volume: VolumeId,
        /// What it said.
        #[source]
        source: VolumeError,
    },
    /// The destination of a restore failed.
    #[error("the restore could not be written: {source}. Resume it when that is mended")]
    Sink {
        /// What it said.
        #[source]
        source: VolumeError,
    },
    /// The caller gave it up.
    #[error("cancelled. What was stored stays until it is resumed or abandoned")]
    Cancelled,
    /// The system has no randomness to give, or refuses a thread.
    #[error("the system refused {what}")]
    System {
        /// What was asked for.
        what: &'static str,
    },
}

impl BackupError {
    /// Whether the same run can go on later from where it is.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Refused { .. }
                | Self::Source { .. }
                | Self::Sink { .. }
                | Self::Cancelled
        )
    }

    /// From the store's client, which was doing this to that object.
    pub(crate) fn of_store(doing: &str, key: &str, error: object_store::Error) -> Self {
        use object_store::Error;
        let said = || format!("{doing} {key}");
        match error {
            Error::NotFound { .. } => Self::Missing { key: key.to_owned() },
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Self::Refused { doing: said(), source: Arc::new(error) }
            }
            _ => Self::Unreachable { doing: said(), source: Arc::new(error) },
        }
    }
}
