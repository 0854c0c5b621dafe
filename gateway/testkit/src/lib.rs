//! Faults for tests: a disk that loses power, fails and fills up when it is told to.
//!
//! Invariant: nothing here knows a clock or chance; what happens follows from the calls and the
//! seeds alone.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod content;
mod sim_disk;

pub use sim_disk::{Rot, SimDisk};
