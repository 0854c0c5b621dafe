//! Backups of volumes in an object store.
//!
//! ```text
//!   Source ──blocks──▶ chunks ──▶ packs ──▶ bucket        Repository::take
//!   Sink   ◀──blocks── chunks ◀── parts of packs          Repository::restore, Reader
//!                        ▲
//!            manifest ▶ maps          verify, collect, catalogue read these too
//! ```
//!
//! The first backup of a volume holds everything, each later one what changed; each can be restored
//! and removed by itself. What a bucket holds is enough to find and read all of it.
//!
//! Invariant: a backup that is listed is complete, and stays so until it is removed, whatever is
//! killed, interrupted or done at once elsewhere.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bucket;
mod codec;
mod error;
mod format;
mod id;
mod layout;
mod limits;
mod repository;
mod seal;
mod target;
mod volume;
mod watch;

pub use error::{BackupError, VolumeError};
pub use format::{About, Consistency, Origin};
pub use id::BackupId;
pub use repository::{Access, Repository};
pub use seal::Key;
pub use target::Target;
pub use volume::{Sink, Source};
pub use watch::{Progress, Watch};
