//! The gateway as a process: configuration, threads, REST API, metrics, the way in for hosts and
//! for other gateways, and an orderly end.
//!
//! ```text
//!   main thread (control): HTTP, metrics, listeners, operations ─▶ Gateway
//!   shard threads:         groups, stores, legs, hosts          ─▶ ShardState (never leaves)
//! ```
//!
//! Invariant: the control thread never touches a volume's data and never waits for a shard without
//! a deadline; a shard never waits for the control thread.
#![forbid(unsafe_code)]

mod access;
mod assemble;
mod backups;
mod board;
mod book;
mod clock;
mod companions;
pub mod config;
mod events;
mod exports;
mod failover;
mod fillings;
mod folder;
mod gateway;
mod hooks;
mod http;
mod metrics;
mod migration;
mod moments;
mod names;
mod numbers;
mod operations;
mod plans;
mod plugins;
mod points;
mod portals;
mod refusal;
mod reprotect;
mod reservations;
mod restore;
mod rollback;
mod runs;
mod schedule;
mod shard;
mod shutdown;
mod spill;
mod status;
mod targets;
mod telemetry;
mod tls;
mod ways;
mod witnessing;

pub use assemble::{ADMIN_TOKEN_FILE, StartError, run};
pub use http::openapi;
pub use names::is_name;
pub use tls::API_CERTIFICATE_FILE;
