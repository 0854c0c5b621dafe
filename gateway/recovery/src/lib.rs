//! Runs that survive anything: what a step of a recovery can do.
//!
//! Invariant: nothing here knows of WASM, of HTTP or of a gateway. An action is reached through
//! [`Actions`] only, whoever provides it.

#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod actions;
pub mod limits;
pub mod registry;

pub use actions::{
    ActionError, Actions, Context, Created, Description, Direction, Doing, Outcome, Report, Retry,
    Standing,
};
pub use registry::{Registry, split_action};
