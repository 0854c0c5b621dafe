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
mod bandwidth;
mod certificate;
mod command;
mod cut;
mod differences;
mod dirty;
mod driver;
mod limits;
mod lineage;
mod locks;
pub mod machine;
pub mod metrics;
mod mode;
mod policy;
mod priority;
mod record;
mod regroup;
mod relay;
mod status;

pub use bandwidth::{Bandwidth, Days, WINDOWS_MAX, WallTime, Window, WindowError, Zone};
pub use command::{Command, Consent, Refusal};
pub use cut::{Cut, CutStep};
pub use differences::{Differences, Ranges};
pub use driver::{
    Arbitration, Clock, Dialer, Generations, Group, HeartbeatTimes, Journals, LocalFuture,
    OpenError, Parts, Spawn, Spill, SpillFile, found_adopted, found_holding, found_part,
    found_primary, found_secondary,
};
pub use limits::GROUP_VOLUMES_MAX;
pub use machine::{JournalLimits, Spell};
pub use mode::Mode;
pub use policy::{ACK_DEADLINE_MS, CUT_INTERVAL_MS, Failover, OnSlow, Policy, Recovery, Split};
pub use priority::{Copiers, Priority};
pub use record::{RecordError, locked_in as locked_snapshot};
pub use regroup::{Leaver, regroup_mirror};
pub use status::{
    Cause, CompanionStatus, DiscardedStatus, GroupCounters, GroupStatus, HandoverStatus, LegStatus,
    LinkState, Marks, PartsStatus, Phase, PointStatus, Role, Serving, SessionState, SessionStatus,
    SnapshotOrigin, SnapshotState, SnapshotStatus, UpstreamStatus, Verified, Verifying,
    VolumeStatus, WitnessStatus,
};
