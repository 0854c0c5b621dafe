//! Witnesses: etcd, and one in memory for tests and simulations.
//!
//! Invariant: a witness decides nothing. It keeps one small value for each group, replaces it only
//! when the revision is the expected one, and knows whose lease runs.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod etcd;
pub mod memory;
pub mod metrics;
