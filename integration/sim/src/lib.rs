//! Whole histories of two or three gateways in virtual time: the real mirror over the real pool and
//! the real link protocol, with disks, networks, processes and operators that fail as a seed says.
//!
//! Invariant: one seed is one history. No thread, no real clock and no hash order has a part in
//! it; two runs of a seed write the same log, byte for byte.
//!
//! ```text
//!   hosts ──▶ mirror::Group ──▶ SlowStore ──▶ store::PoolVolume      the promise: model, checks
//!                │    ▲              └───▶ ledger ─▶ store::Pool    the amount:  delta
//!                ▼    │                                 │           the faults:  nemesis
//!        link::Connection ◀── net ──▶ another site      ▼           the sane:    operator
//!                                                testkit::SimDisk
//! ```
//!
//! A process is its tasks: to kill it is to drop them all between two polls. Its disk stays.
#![forbid(unsafe_code)]

mod arbiter;
mod attachment;
mod babble;
mod chain;
mod checks;
mod delta;
mod detached;
mod disks;
mod history;
mod host;
mod kept;
mod membership;
mod model;
mod nemesis;
mod net;
mod operator;
mod parts;
mod platter;
mod points;
mod process;
mod relay;
mod rng;
mod sabotage;
mod setup;
mod site;
mod slow;
mod snapshots;
mod spill;
mod stats;
mod tap;
mod tasks;
mod telling;
mod trace;
mod world;

pub use history::{Outcome, run, run_in, trace};
pub use sabotage::Sabotage;
pub use setup::Modes;
pub use stats::{FAULTS, Stats};
pub use telling::Failure;
