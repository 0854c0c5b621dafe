//! Plugins: WebAssembly components that do what differs from cloud to cloud, and what keeps them from
//! doing anything else.
//!
//! ```text
//!   directory, API ──▶ host ──▶ loaded ──▶ call ──▶ instance ──▶ interfaces ──▶ World (the gateway)
//!                        │        who it is    limits             grants
//!                        └──▶ shelf: grants, configuration, keys and values
//! ```
//!
//! Invariant: a plugin that loops, traps, lies or asks for more harms nobody but itself: it runs on a
//! thread that yields to all others, within limits of time and memory, and reaches what it was granted.

#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod bindings;
mod call;
mod engine;
mod error;
mod grants;
mod health;
mod host;
mod instance;
mod interfaces;
mod limits;
mod loaded;
mod logs;
mod measure;
pub mod metrics;
mod shelf;
mod signature;
mod trial;
pub mod world;

/// The types of the contract.
pub mod contract {
    pub use crate::bindings::exports::twinspan::plugin::actions::Standing;
    pub use crate::bindings::exports::twinspan::plugin::placement::Proposal;
    pub use crate::bindings::exports::twinspan::plugin::plugin::{Health, HealthReport};
    pub use crate::bindings::twinspan::plugin::types::{
        Context, Created, Diagnostic, Error, ErrorCode, Group, Mode, Outcome, Pending, Progress,
        Question, Report, Retry, Role, Session, Severity, Site, Volume,
    };
}

pub use self::error::{CallError, LoadError};
pub use self::grants::{Grant, Grants, NoGrant};
pub use self::host::{Plugins, Refused, Setup, Standing, StartError};
pub use self::limits::{COMPONENT_BYTES_MAX, TOKEN_BYTES_MAX};
pub use self::loaded::{About, Action};
pub use self::logs::{Level, Line};
pub use self::measure::{Figures, MeasureError, measure};
pub use self::shelf::{Settings, ShelfError};
pub use self::signature::Key;
pub use self::trial::{Answers, Finding, Mood, NoAnswers, Rule, Trial, TrialError, Verdict};
pub use self::world::World;
