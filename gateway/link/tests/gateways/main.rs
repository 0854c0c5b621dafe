//! The link as a whole: two gateways over real sockets, and connections over streams in memory.
#![expect(clippy::unwrap_used, reason = "a test that meets an error fails, helpers included")]

mod common;
mod connection;
mod throughput;
mod two_gateways;
