//! What two gateways say to each other on the wire: frames, handshake, TLS, trust. No policy.
//!
//! Invariant: a message arrives whole, in order and exactly as it was sent, from a gateway whose
//! certificate is pinned, or the link ends.
//!
//! ```text
//!   dial ─▶ TLS 1.3, both certificates pinned ─▶ Hello both ways ─▶ Detached ─attach▶ dyn Link
//!   accept ◀─ the same ─▶ Incoming::Group{Open, Detached} ─▶ moves to the group's thread, attach
//!                      └▶ Incoming::Join: a token was redeemed, the peer is now trusted
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod connection;
mod delayed;
mod endpoint;
mod handshake;
pub mod join;
pub mod limits;
mod outbox;
mod shelf;
mod socket;
pub mod trust;
pub mod wire;

pub use connection::Connection;
pub use delayed::Delayed;
pub use endpoint::{Detached, Incoming, LinkContext, accept, dial};
pub use handshake::{Versions, greet};
pub use join::{JoinDesk, JoinError, JoinFuture, JoinProof, JoinRefused, Token, TokenRecord, join};
pub use trust::{Credentials, Fingerprint, Peer, TrustError, Trusted};

/// What decoders take of memory is part of their tests.
#[cfg(test)]
#[global_allocator]
static COUNTED: testkit::heap::Counted = testkit::heap::Counted;
