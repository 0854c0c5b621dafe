//! Bytes and types: every PDU of iSCSI (RFC 7143 §11), without any I/O.
//!
//! ```text
//!   48 bytes ◀──▶ Header ──▶ Request   what an initiator sends
//!                        ◀── Response  what a target sends
//! ```
//!
//! Invariant: decoding looks at no byte twice and panics at none; what was encoded decodes to the
//! same. Lengths are checked by those who receive, not here.
#![warn(clippy::arithmetic_side_effects)]

mod digest;
mod header;
mod request;
mod response;
pub mod text;

pub use digest::{Crc, crc};
pub use header::{HEADER_BYTES, Header, NO_TAG, padding};
pub use request::{Function, Malformed, Request};
pub use response::{AsyncEvent, LoginStatus, RejectReason, Response, Stamp};

#[cfg(test)]
mod tests;
