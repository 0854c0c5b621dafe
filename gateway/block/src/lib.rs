//! The vocabulary that every other crate speaks: ids, units, requests, errors, and the traits
//! [`Volume`], [`Store`], [`Ledger`], [`Witness`] and [`Companions`].
//!
//! Invariant: nothing here does I/O, knows a clock, or depends on another crate of ours.
//!
//! ```text
//!   host protocol ──Request──▶ dyn Volume (mirror) ──Request──▶ dyn Store (pool, file, memory)
//!                 ◀──Answer── Completions           ◀──Answer── Completions
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod companion;
pub mod crc;
mod error;
mod hold;
mod id;
mod journal;
mod link;
mod message;
mod origin;
mod range;
mod request;
mod store;
mod volume;
mod witness;

pub use companion::{CompanionFuture, Companions, PartFacts, PartState};
pub use error::IoError;
pub use hold::{Hold, Holds};
pub use id::{
    BootId, Epoch, GatewayId, Generation, GroupId, LegId, PoolId, Seq, SessionId, SnapshotId,
    VolumeId, WriteId,
};
pub use journal::{Gap, JournalEntry, WriteJournal};
pub use link::{Link, LinkError, LinkTraffic};
pub use message::{
    ATTRIBUTES_SINCE_VERSION, BLOCKS_SINCE_VERSION, CUTS_SINCE_VERSION, Change, DirtyReport,
    Goodbye, HEIRS_SINCE_VERSION, Hello, Identity, Message, MirrorState, Mode, Open, Opened,
    POINTS_SINCE_VERSION, POLICY_SINCE_VERSION, PROTOCOL_VERSION, Predecessor, Quality,
    RELAYS_SINCE_VERSION, RUNS_SINCE_VERSION, SNAPSHOTS_SINCE_VERSION, SPAN_SINCE_VERSION,
    TIME_SINCE_VERSION, VolumeOffer, Vote,
};
pub use origin::{Origin, Reply};
pub use range::{
    ACTIVITY_BYTES, ActivityExtent, BLOCK_BYTES, BlockRange, BlockSet, Extent, ExtentError,
    Geometry, SLOT_BYTES, VOLUME_BYTES_MAX,
};
pub use request::{
    Answer, Completion, Completions, Op, Request, Segment, Segments, Ticket, joined,
};
pub use store::{Ledger, Recovery, Snapshot, Store, Usage};
pub use volume::{Run, RunKind, Volume};
pub use witness::{
    Claim, Configuration, Keep, Member, Revision, Sighting, Standing, Verdict, Witness,
    WitnessError, WitnessFuture,
};
