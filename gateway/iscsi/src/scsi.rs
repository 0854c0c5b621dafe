//! SCSI as a disk speaks it (SPC-4, SBC-3, SAM-5): what a command asks of the volume, and how its
//! end is told.
//!
//! ```text
//!   session ──CDB──▶ Unit::begin ──▶ Plan::Read, Plan::Write   the session does these itself, batched
//!                                ──▶ Plan::Answer              known at once
//!                                ──▶ Plan::Slow                a task runs Unit::run with the data-out
//! ```
//!
//! Invariant: a [`Unit`] and all its nexuses live on the volume's thread. `begin` does no I/O and
//! never waits; nothing a host sends can panic it or make it hold memory without bound.

use std::rc::Rc;

use block::Extent;
use bytes::Bytes;

/// The initiator port of a nexus, as persistent reservations name it (RFC 7143 §4.2.7.1 and SPC-4
/// §7.6.4.6): it outlives connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InitiatorPort {
    /// Its iSCSI name.
    pub name: String,
    /// Its session identifier.
    pub isid: [u8; 6],
}

/// What a command needs before it can be answered.
#[derive(Debug)]
pub enum Plan {
    /// The bytes of this extent go to the host.
    Read(Extent),
    /// The bytes of this extent come from the host.
    Write {
        /// Where.
        extent: Extent,
        /// Whether they must be on stable storage before the command ends.
        fua: bool,
    },
    /// Nothing: this is the end of it. Data-out, if any, is taken and dropped.
    Answer(Outcome),
    /// Whatever is neither read, write nor known: run it with the data-out that it wants.
    Slow(Slow),
}

/// A command that is run by [`Unit::run`].
#[derive(Debug)]
pub struct Slow {
    /// Bytes of data-out that the command takes; at most `limits::PARAMETERS_MAX` or, for commands that carry
    /// content, one transfer length.
    pub data_out: u32,
    /// What it is.
    pub(crate) command: Command,
}

/// How a command ended (SAM-5 §5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// GOOD, CHECK CONDITION, CONDITION MET, BUSY, RESERVATION CONFLICT, TASK SET FULL, …
    pub status: Status,
    /// With CHECK CONDITION.
    pub sense: Option<Sense>,
    /// To the host; cut to its allocation length already.
    pub data_in: Bytes,
    /// Bytes that the command transfers as its CDB says, for the residual.
    pub transfer: u64,
}

/// A disk behind any number of nexuses.
#[derive(Debug)]
pub struct Unit;
