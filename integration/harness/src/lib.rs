//! What end-to-end tests, benchmarks and the demo's tests are built from: gateways as processes, a
//! network that misbehaves on request, other people's clients.
//!
//! Invariant: everything is waited for with a deadline, and what does not come is told with the
//! tail of the log that says why. Nothing that was started outlives its owner.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod clock;
mod cloud;
mod conformance;
mod guest;
mod http;
mod orchestrator;
mod ports;
mod process;
mod product;
mod proxy;
mod site;
mod tools;
mod traced;

pub use clock::{Deadline, wait_for};
pub use cloud::{Cloud, Fault, Spoil};
pub use conformance::{Verdict, Verdicts, conformance, conformance_tests, expected};
pub use guest::{GATEWAY_ADDRESS, Guest};
pub use http::get;
pub use orchestrator::{Moment, Orchestrator, TOKEN as ORCHESTRATOR_TOKEN, Wrong};
pub use ports::free_port;
pub use process::{CpuTime, Process};
pub use product::{binary, config};
pub use proxy::{Direction, Proxy};
pub use site::{Answer, Ports, Site};
pub use tools::{Tool, python, require};
pub use traced::{Blow, Traced};
