//! What the gateway gives to plugins: the trait that it implements.
//!
//! Invariant: whatever is asked here was granted before; an implementation need not look at grants.

use std::pin::Pin;

pub use crate::bindings::twinspan::plugin::folder::{File, FolderError};
pub use crate::bindings::twinspan::plugin::types::{
    Created, Group, Mode, Progress, Role, Session, Site, Volume,
};

/// A future that may go from thread to thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A file of a folder, with its content, or none.
pub type Found = Option<(File, Vec<u8>)>;

/// Why a secret was not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// None has this name.
    #[error("there is no secret {0}")]
    Unknown(String),
    /// It cannot be read now.
    #[error("{0}")]
    Unavailable(String),
}

/// The gateway, as plugins see it.
pub trait World: Send + Sync {
    /// Now, in milliseconds since the beginning of 1970, UTC.
    fn unix_ms(&self) -> u64;

    /// A secret's bytes.
    ///
    /// # Errors
    /// [`SecretError`].
    fn secret(&self, name: &str) -> Result<Vec<u8>, SecretError>;

    /// The name of this gateway's site.
    fn here(&self) -> String;

    /// This site and those of the peers.
    fn sites(&self) -> BoxFuture<'_, Vec<Site>>;

    /// All groups, or those of a run.
    ///
    /// # Errors
    /// In words, when they cannot be told now.
    fn groups<'a>(&'a self, run: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Group>, String>>;

    /// The files of the folder on a volume whose names begin so.
    ///
    /// # Errors
    /// [`FolderError`]; so all of folders.
    fn folder_files<'a>(
        &'a self,
        volume: &'a str,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<File>, FolderError>>;

    /// One of them, with its content.
    fn folder_read<'a>(
        &'a self,
        volume: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Found, FolderError>>;

    /// Writes one, for a step of a run or for nobody's, and answers its new revision.
    fn folder_write<'a>(
        &'a self,
        run: Option<&'a str>,
        volume: &'a str,
        file: (String, Vec<u8>),
        expected: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, FolderError>>;

    /// Removes one.
    fn folder_remove<'a>(
        &'a self,
        run: Option<&'a str>,
        volume: &'a str,
        name: String,
    ) -> BoxFuture<'a, Result<(), FolderError>>;

    /// Keeps, durably, that a step made something.
    ///
    /// # Errors
    /// In words, when it could not be kept.
    fn register<'a>(
        &'a self,
        run: &'a str,
        step: &'a str,
        created: Created,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Keeps that it is gone.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    fn unregister<'a>(
        &'a self,
        run: &'a str,
        step: &'a str,
        gone: Created,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Tells how far a step is.
    fn report(&self, run: &str, step: &str, progress: Progress);

    /// Whether somebody asked the run to stop.
    fn is_cancelled(&self, run: &str) -> bool;
}
