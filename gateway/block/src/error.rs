//! What can go wrong with one I/O, as every host protocol must be able to say it.
//!
//! Invariant: a variant exists because some caller acts on it. Each protocol maps all of them in
//! its own `status.rs` with no wildcard, so that a new one breaks the build there.

/// The outcome of a request that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IoError {
    /// The range does not lie inside the volume.
    #[error("range is outside the volume")]
    OutOfRange,
    /// The pool has no room for the blocks that this write would allocate.
    #[error("pool is full")]
    NoSpace,
    /// The store keeps as many snapshots of the volume as it ever does; there may be room enough.
    #[error("the pool keeps no more snapshots of the volume: some must be removed first")]
    TooManySnapshots,
    /// The volume or this attachment of it may not be written.
    #[error("volume is read-only here")]
    ReadOnly,
    /// A host of another protocol has reserved the volume, and this one may not do that meanwhile.
    #[error("reserved by a host of iSCSI")]
    Reserved,
    /// A higher epoch exists elsewhere: this gateway may no longer serve the volume.
    #[error("fenced by a higher epoch")]
    Fenced,
    /// Policy refuses the write while a mirror is missing (`split = manual`).
    #[error("write refused: a mirror is missing and the session's split policy is manual")]
    Halted,
    /// The witness did not permit to go on alone, because it cannot be reached.
    #[error("refused: a mirror is missing and the witness cannot be asked whether to go on alone")]
    NoWitness,
    /// A companion did not say that it stopped at the same cut, because it cannot be reached.
    #[error("refused: a mirror is missing and a companion has not stopped at the same cut")]
    NoCompanion,
    /// The gateway is draining.
    #[error("gateway is shutting down")]
    ShuttingDown,
    /// The operation is not offered by this volume (a fast zero that would not be fast).
    #[error("operation is not supported")]
    Unsupported,
    /// The request contradicts itself or the protocol.
    #[error("invalid request")]
    Invalid,
    /// A stored block does not match its checksum, and no mirror could repair it.
    #[error("stored block does not match its checksum")]
    Checksum,
    /// The medium below failed.
    #[error("medium error")]
    Media,
    /// What the volume is filled from cannot be read now, and this part was not copied yet.
    #[error("not copied yet, and what the volume is filled from cannot be read now")]
    Origin,
    /// An earlier sync of this copy failed; it answers nothing until it is reopened.
    #[error("copy is latched after a failed sync")]
    Latched,
    /// The request was dropped without an answer: a bug of ours, counted.
    #[error("request was dropped unanswered")]
    Dropped,
}
