//! What can go wrong with a pool or a volume as a whole; what goes wrong with one request is an
//! [`block::IoError`].

use std::io;

use block::{IoError, VolumeId};

/// Why a pool or a volume could not be opened, made or removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or this one, has it open.
    #[error("{what} is open already")]
    Busy {
        /// Which pool or volume.
        what: String,
    },
    /// There is none.
    #[error("{what} does not exist")]
    NotFound {
        /// Which pool or volume.
        what: String,
    },
    /// There is one already.
    #[error("{what} exists already")]
    Exists {
        /// Which pool or volume.
        what: String,
    },
    /// Other volumes are filled from it, or it is being filled itself.
    #[error("{what} is needed until {until} is filled")]
    Needed {
        /// Which volume.
        what: String,
        /// The one that is being filled.
        until: String,
    },
    /// It was written by a release that knows more.
    #[error("{what} needs features {features:#x} that this release does not know")]
    Features {
        /// Which file.
        what: &'static str,
        /// The unknown incompatible feature bits.
        features: u64,
    },
    /// It was written in another format.
    #[error("{what} has format version {version}, this release reads {known}")]
    Version {
        /// Which file.
        what: &'static str,
        /// The version found.
        version: u32,
        /// The version that is read here.
        known: u32,
    },
    /// Its bytes do not make sense.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Which file.
        what: &'static str,
        /// What does not fit.
        why: &'static str,
    },
    /// No volume can have this size.
    #[error("size must be a multiple of 4096 bytes between 4096 and 1 PiB")]
    Size,
    /// The database of small records failed.
    #[error("{doing}")]
    Database {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<redb::Error>,
    },
    /// The medium failed.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

// === impl StoreError ===

impl StoreError {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn database<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Database { doing, source: Box::new(source.into()) }
    }

    pub(crate) fn needed(what: &str, until: &str) -> Self {
        Self::Needed { what: what.to_owned(), until: format!("volume {until}") }
    }

    pub(crate) fn no_volume(id: VolumeId) -> Self {
        Self::NotFound { what: format!("volume {id}") }
    }

    /// What one request is told when this happened on its way.
    pub(crate) fn for_request(&self) -> IoError {
        match self {
            Self::Damaged { .. } | Self::Features { .. } | Self::Version { .. } => {
                IoError::Checksum
            }
            Self::Database { source, .. } => match source.as_ref() {
                redb::Error::Io(e) => of_io(e),
                redb::Error::Corrupted(_) => IoError::Checksum,
                _ => IoError::Media,
            },
            Self::Io { source, .. } => of_io(source),
            Self::Size => IoError::Invalid,
            Self::Busy { .. }
            | Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::Needed { .. } => IoError::Media,
        }
    }
}

/// What a request is told about an error of the medium.
pub(crate) fn of_io(error: &io::Error) -> IoError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoError::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => IoError::ReadOnly,
        _ => IoError::Media,
    }
}
