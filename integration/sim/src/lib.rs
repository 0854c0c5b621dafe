//! Whole histories of two gateways in virtual time: the real mirror over the real link protocol,
//! with disks, networks, processes and operators that fail as a seed says.
//!
//! Invariant: one seed is one history. No thread, no real clock and no hash order has a part in
//! it; two runs of a seed write the same log, byte for byte.
//!
//! ```text
//!   hosts ──▶ mirror::Group ──▶ SlowStore ──▶ Platter or pool       the promise: model, checks
//!                │    ▲                                             the faults:  nemesis
//!                ▼    │                                             the sane:    operator
//!            link::Connection ◀── net::Stream ──▶ the other site
//! ```
//!
//! A process is its tasks: to kill it is to drop them all between two polls. Its platters stay.
#![forbid(unsafe_code)]

mod attachment;
mod checks;
mod history;
mod host;
mod model;
mod nemesis;
mod net;
mod operator;
mod platter;
mod process;
mod rng;
mod sabotage;
mod setup;
mod slow;
mod trace;
mod world;

pub use history::{Outcome, run, trace};
pub use sabotage::Sabotage;
pub use world::{Failure, Stats};
