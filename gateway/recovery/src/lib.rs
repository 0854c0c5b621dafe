//! Runs that survive anything: plans, their runs, and what a step of one can do.
//!
//! ```text
//!   Plan ──▶ Run ◀── records ── Journal          pure; the disk is in `journal` only
//!             │ effects          ▲
//!             ▼                  │ kept before the effect
//!          execute ──────────────┘
//!             │ check, run, resume, undo
//!             ▼
//!          dyn Actions      whoever provides them
//! ```
//!
//! Invariant: nothing here knows of WASM, of HTTP or of a gateway. An action is reached through
//! [`Actions`] only, whoever provides it.

#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod actions;
pub mod executor;
pub mod journal;
pub mod leases;
pub mod limits;
pub mod plan;
pub mod registry;
pub mod run;

pub use actions::{
    ActionError, Actions, Context, Created, Description, Direction, Doing, Outcome, Report, Retry,
    Standing,
};
pub use executor::{Ended, Halt, Order, World, dry_run, execute};
pub use plan::{Plan, PlanError};
pub use registry::{Registry, split_action};
pub use run::Run;
