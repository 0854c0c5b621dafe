//! What the host protocols share: how much they hold, how they wait, where payloads are received.
//!
//! Invariant: it knows no protocol, no volume and no socket.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod capacity;
pub mod limits;
mod patience;
pub mod payloads;
mod watch;

pub use capacity::{Capacity, Grant};
pub use patience::Patience;
pub use watch::Watch;
