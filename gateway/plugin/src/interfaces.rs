//! What a component may call, one file for each interface of the contract.
//!
//! Invariant: each looks first at whether the call may reach anybody, then at its grant.

mod config;
mod folder;
mod http;
mod kv;
mod log;
mod metrics;
mod run;
mod secrets;
mod volumes;

pub(crate) use self::http::Web;
