//! Every limit that the host protocols share, with its arithmetic.
//!
//! Invariant: all of them are finite. Bytes unless the name says otherwise.

const MIB: u64 = 1 << 20;

/// Connections of one protocol at one gateway, unless configured otherwise.
pub const CONNECTIONS_MAX: usize = 1024;

/// What each connection may have in flight without asking for a share of the gateway's budget, so
/// that those who hold the budget cannot starve ordinary requests: 256 of 4 KiB, or one of 1 MiB.
pub const FLOOR_BYTES: u64 = MIB;

/// Bytes in flight above the floors, all connections together, unless configured otherwise.
pub const GATEWAY_BYTES_MAX: u64 = 1024 * MIB;

/// A connection keeps this much of the gateway's budget between requests, so that a steady stream
/// of large ones does not fetch and return it each time.
pub const SPARE_GRANT_BYTES: u64 = 8 * MIB;

/// A payload up to this size is received into memory that its thread keeps: what hosts send one
/// after the other when they write in sequence. Fresh memory would cost its page faults each time.
pub const PAYLOAD_KEPT_BYTES: usize = 1 << 20;

/// A smaller payload takes memory of its own size.
pub const PAYLOAD_KEPT_BYTES_MIN: usize = PAYLOAD_KEPT_BYTES / 4;
