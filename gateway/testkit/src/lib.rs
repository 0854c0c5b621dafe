//! What tests of several crates need: a disk that loses power, fails and fills up when it is told to;
//! decoders under hostile input; how much memory a piece of a test takes.
//!
//! Invariant: nothing here knows a clock or chance; what happens follows from the calls and the
//! seeds alone.
#![warn(missing_docs)]

mod content;
pub mod fuzz;
pub mod heap;
mod sim_disk;

pub use sim_disk::{Rot, SimDisk};

#[cfg(test)]
#[global_allocator]
static COUNTED: heap::Counted = heap::Counted;
