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
mod catalogue;
mod chunk;
mod codec;
pub mod collect;
mod error;
mod format;
mod id;
mod layout;
mod limits;
mod reader;
mod removal;
mod repository;
mod restore;
pub mod retention;
mod seal;
mod take;
mod target;
mod verify;
mod volume;
mod watch;

pub use catalogue::{Catalogue, Entry, Held, HeldVolume, Status};
pub use collect::Collected;
pub use error::{BackupError, VolumeError};
pub use format::{About, Consistency, Origin};
pub use id::BackupId;
pub use reader::{Part, Reader};
pub use repository::{Access, Repository};
pub use restore::Restore;
pub use seal::Key;
pub use take::{Request, Taken, TakenVolume};
pub use target::Target;
pub use verify::{Damage, Hurt, Verified};
pub use volume::{Sink, Source};
pub use watch::{Progress, Watch};

/// What decoders take of memory is part of their tests.
#[cfg(test)]
#[global_allocator]
static COUNTED: testkit::heap::Counted = testkit::heap::Counted;
