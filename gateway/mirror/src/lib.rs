//! The heart: one group's mirror as a state machine, and the driver that does what it decides.
//!
//! ```text
//!   hosts ──Request──▶ Group ──Event──▶ Machine::apply ──Effect──▶ driver ──▶ Store, Link, Ledger
//!         ◀─Answer────                                              ◀─ completions, messages, ticks
//! ```
//!
//! Invariant: `machine` knows no clock, no I/O, no task and no randomness; everything that happens
//! to it is an [`machine::Event`], everything that it wants is an [`machine::Effect`].
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod activity;
mod command;
mod dirty;
mod driver;
mod lineage;
mod locks;
pub mod machine;
pub mod metrics;
mod mode;
mod policy;
mod record;
mod status;

pub use command::{Command, Consent, Refusal};
pub use driver::{
    Arbitration, Clock, Dialer, Generations, Group, HeartbeatTimes, LocalFuture, OpenError, Parts,
    Spawn, found_primary, found_secondary,
};
pub use mode::Mode;
pub use policy::{ACK_DEADLINE_MS, Failover, OnSlow, Policy, Recovery, Split};
pub use record::RecordError;
pub use status::{
    Cause, GroupCounters, GroupStatus, LegStatus, LinkState, Phase, Role, Serving, SessionState,
    SessionStatus, UpstreamStatus, VolumeStatus, WitnessStatus,
};
