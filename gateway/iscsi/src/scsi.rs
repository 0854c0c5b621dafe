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

mod cdb;
mod copy;
mod inquiry;
pub mod limits;
mod medium;
mod mode;
mod nexus;
mod opcodes;
mod report;
pub mod reserve;
pub mod sense;
#[cfg(test)]
mod tests;
mod unit;
mod unmap;

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use block::{Extent, VolumeId};
use bytes::Bytes;

pub use self::nexus::Nexus;
pub use self::report::no_unit;
pub use self::sense::{Field, Form, Sense, SenseBytes};
pub use self::unit::Unit;
pub(crate) use self::unit::{Attribute, Rank};

use self::cdb::Command;
use self::reserve::Registrant;

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
    /// The bytes of this extent come from the host. When they are here and are about to be
    /// submitted, [`Unit::admit`] is asked once more.
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
    /// Bytes of data-out that the command takes; at most [`limits::PARAMETERS_MAX`] or, for commands that
    /// carry content, [`limits::TRANSFER_BYTES_MAX`]. Fewer may be given to [`Unit::run`], if the
    /// host has announced fewer.
    pub data_out: u32,
    /// Whether it changes content, for [`crate::status::fate`].
    pub change: bool,
    pub(crate) command: Command,
    /// The nexus's count of aborts when it began.
    pub(crate) epoch: u32,
    /// Tells it alone to stop.
    pub abort: Abort,
}

/// Tells one command that is run to stop: it takes no further step. Whoever tells it polls it once more.
#[derive(Clone, Debug, Default)]
pub struct Abort(Rc<Cell<bool>>);

impl Abort {
    /// Tells it.
    pub fn tell(&self) {
        self.0.set(true);
    }

    /// Whether it was told.
    pub(crate) fn is_told(&self) -> bool {
        self.0.get()
    }
}

impl Slow {
    /// Whether it can be run with as many bytes of data-out as the host has announced. Where a
    /// block is repeated or compared, too few and too many are both a mistake of the host.
    #[must_use]
    pub const fn fits(&self, announced: u32) -> bool {
        match self.command {
            Command::WriteSame { .. } | Command::CompareAndWrite { .. } => {
                self.data_out == announced
            }
            _ => true,
        }
    }
}

/// Whether a read or a write may be handed to the volume now.
#[derive(Debug)]
pub enum Admission {
    /// It may.
    Go,
    /// It was aborted since it began: it is forgotten without an answer.
    Aborted,
    /// A command that must not be interrupted runs on the same blocks: run this, with the data-out,
    /// in place of it.
    Slow(Slow),
}

/// How a command ended, as its first byte in a response (SAM-5 §5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// The sense says why it was not done.
    CheckCondition = 0x02,
    /// PRE-FETCH: there was room for all of it.
    ConditionMet = 0x04,
    /// Try again soon.
    Busy = 0x08,
    /// A reservation of another nexus forbids it.
    ReservationConflict = 0x18,
    /// Too many commands at once.
    TaskSetFull = 0x28,
    /// It was aborted by another nexus.
    TaskAborted = 0x40,
}

/// How a command ended (SAM-5 §5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How.
    pub status: Status,
    /// With CHECK CONDITION.
    pub sense: Option<Sense>,
    /// To the host; cut to its allocation length already.
    pub data_in: Bytes,
    /// Bytes that the command transfers as its CDB says, in the direction that it has; the residual
    /// is the difference to what the host announced.
    pub transfer: u64,
}

impl Outcome {
    /// GOOD, with nothing to send.
    #[must_use]
    pub const fn good() -> Self {
        Self::of(Status::Good)
    }

    /// This status, with nothing to send.
    #[must_use]
    pub const fn of(status: Status) -> Self {
        Self { status, sense: None, data_in: Bytes::new(), transfer: 0 }
    }

    /// CHECK CONDITION.
    #[must_use]
    pub const fn refused(sense: Sense) -> Self {
        let status = Status::CheckCondition;
        Self { status, sense: Some(sense), data_in: Bytes::new(), transfer: 0 }
    }

    /// GOOD, with as much of this as the host has room for.
    pub(crate) fn data(data: Vec<u8>, room: u32) -> Self {
        let mut data = Bytes::from(data);
        data.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        let transfer = data.len() as u64;
        Self { data_in: data, transfer, ..Self::good() }
    }

    /// The same, after so many bytes of data-out.
    pub(crate) fn taking(self, transfer: u64) -> Self {
        Self { transfer, ..self }
    }
}

/// What makes a disk the same disk wherever it is served. It never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitIdentity {
    /// The volume, the same at every site.
    pub volume: VolumeId,
    /// The target's iSCSI name.
    pub target: String,
}

/// How an initiator may use the ports of a group (SPC-4 §5.15.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PortState {
    /// Active/optimized: this way is best.
    Optimized = 0x0,
    /// Active/non-optimized: it works, on a longer way.
    NonOptimized = 0x1,
    /// It says which disk this is, and carries no I/O: another one does.
    Standby = 0x2,
    /// The same, and it will not soon.
    Unavailable = 0x3,
    /// Between two of these; I/O is answered BUSY.
    Transitioning = 0xf,
}

/// A target port group: the ports of one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGroup {
    /// Its number, different at each site.
    pub group: u16,
    /// Its state.
    pub state: PortState,
    /// Its relative target ports, different at each site.
    pub ports: Vec<u16>,
}

/// What a unit is told when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSettings {
    /// The group that this gateway's ports belong to.
    pub group: u16,
    /// Every group through which the volume may be reached, this gateway's among them.
    pub groups: Vec<PortGroup>,
    /// How long a transition may take, for the initiators that ask.
    pub transition_seconds: u8,
}

impl UnitSettings {
    /// A gateway on its own: one group of one port, which is the best.
    #[must_use]
    pub fn alone() -> Self {
        let group = PortGroup { group: 1, state: PortState::Optimized, ports: vec![1] };
        Self { group: 1, groups: vec![group], transition_seconds: 30 }
    }
}

/// What changed about a unit. That it grew is noticed by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitEvent {
    /// The states of the port groups are these now.
    Groups(Vec<PortGroup>),
    /// It is there no more and will not come back: an operator deleted what it shows.
    Gone,
}

/// What a host or its session resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// CLEAR TASK SET: every command of every nexus is aborted.
    ClearTaskSet,
    /// LOGICAL UNIT RESET.
    LogicalUnit,
    /// TARGET WARM RESET or TARGET COLD RESET.
    Target,
}

/// Why reservations could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// There is no room for them, or their medium failed.
    #[error("reservations cannot be stored")]
    Store,
    /// It passes.
    #[error("reservations cannot be stored now")]
    NotNow,
}

/// PERSISTENT RESERVE OUT as it came to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReserveOut {
    /// Who sent it, to which port.
    pub who: Registrant,
    /// The service action.
    pub action: u8,
    /// The scope.
    pub scope: u8,
    /// The type.
    pub kind: u8,
    /// The parameter list.
    pub list: Bytes,
}

/// What hosts of other protocols may do to a volume beside what initiators have reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strangers {
    /// Read and write.
    #[default]
    Write,
    /// Read.
    Read,
    /// Nothing.
    Wait,
}

/// Resolves with how the gateway that has the volume ended an order; `None` when it did not say so in
/// time, or cannot be asked.
pub type ElsewhereFuture = Pin<Box<dyn Future<Output = Option<Outcome>>>>;

/// Resolves when reservations are on stable storage.
pub type KeepFuture = Pin<Box<dyn Future<Output = Result<(), KeepError>>>>;

/// What is left of an order that nobody waits for any more.
pub type RestFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Keeps persistent reservations beyond the life of the process.
pub trait ReservationKeeper: fmt::Debug {
    /// What was kept last; `None` if nothing ever was.
    ///
    /// # Errors
    /// When that cannot be found out; the unit is not served then.
    fn load(&self) -> Result<Option<Bytes>, KeepError>;

    /// Whether the power was lost since what is kept was put there, as far as initiators can tell: the
    /// process that served then ended, and nobody else took over. Registrations without APTPL are gone
    /// with it (SPC-4, 5.14.5).
    fn lost_power(&self) -> bool;

    /// Puts this in place of what is kept. PERSISTENT RESERVE OUT is answered when it is done.
    ///
    /// # Cancellation
    /// A future that is dropped may or may not have kept it. A unit drops none that it has polled: it has
    /// it seen through.
    fn keep(&self, state: Bytes) -> KeepFuture;

    /// Runs this to its end, on the volume's thread: an order that is being kept, whose session has ended.
    /// It may be dropped when the volume is closed.
    fn see_through(&self, rest: RestFuture);

    /// Has an order done by the gateway that has the volume, where this one has not. What it kept is
    /// loaded here when that is answered.
    ///
    /// # Cancellation
    /// It may or may not be done.
    fn elsewhere(&self, _order: ReserveOut) -> ElsewhereFuture {
        Box::pin(std::future::ready(None))
    }
}

/// Keeps reservations as long as the process lives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetful;

impl ReservationKeeper for Forgetful {
    fn load(&self) -> Result<Option<Bytes>, KeepError> {
        Ok(None)
    }

    fn lost_power(&self) -> bool {
        true
    }

    fn keep(&self, _: Bytes) -> KeepFuture {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Nothing that is kept here is waited for, so nothing is left of it.
    fn see_through(&self, _: RestFuture) {}
}
