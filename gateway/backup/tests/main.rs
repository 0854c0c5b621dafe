//! Repositories over stores that fail, refuse, lie and lose, and over a directory: one module for
//! each subject.
//!
//! Invariant: a volume's content is a function of a small map, so a volume of terabytes costs what
//! was written to it.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod damage;
mod faults;
mod locks;
mod model;
mod runs;
mod store;
mod volumes;
