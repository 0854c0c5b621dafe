//! Frames: messages as bytes and back, without I/O.
//!
//! Invariant: a frame that was damaged, cut or made up is [`Corrupt`]; none panics, and none makes
//! this gateway allocate more than its kind allows. The layout of the header, and that of `Hello`
//! up to its release, never change: they are what releases of any age find each other by.
//!
//! ```text
//!    0 magic "GWLK"      4    20 reserved 0    4 ┐
//!    4 version           2    16 seq           8 │ unused ones are 0
//!    6 kind              1    24 epoch         8 │
//!    7 flags             1    32 offset        8 │
//!    8 volume            2    40 len           8 │
//!   10 reserved 0        2    48 aux           8 ┘
//!   12 payload bytes     4    56 CRC32C of the payload    4
//!                             60 CRC32C of bytes 0..60    4    then the payload; little-endian
//! ```
#![warn(clippy::arithmetic_side_effects)]

mod body;
pub(crate) mod cursor;
mod decode;
mod encode;
mod status;
#[cfg(test)]
mod tests;

use block::{Hello, LinkError, Message};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use crate::outbox::Outbox;
pub use body::{JoinAnswer, JoinRequest, Refusal};
pub use decode::Decoder;
pub use encode::{encode, encode_greeting, split_differs};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;
/// The first bytes of every frame.
const MAGIC: u32 = u32::from_le_bytes(*b"GWLK");
/// The version in the header of greetings, which is never negotiated.
const GREETING_VERSION: u16 = 0;

/// What a frame carries, by number. A number is never used again for something else.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const REFUSED: u8 = 2;
    pub(super) const JOIN: u8 = 3;
    pub(super) const JOINED: u8 = 4;
    /// Greetings are below, messages from here on.
    pub(super) const FIRST_MESSAGE: u8 = 16;
    pub(super) const OPEN: u8 = 16;
    pub(super) const OPENED: u8 = 17;
    pub(super) const DIFFERS: u8 = 18;
    pub(super) const WRITE: u8 = 32;
    pub(super) const ZERO: u8 = 33;
    pub(super) const TRIM: u8 = 34;
    pub(super) const FLUSH: u8 = 35;
    pub(super) const ACKS: u8 = 36;
    pub(super) const FAILED: u8 = 37;
    pub(super) const DURABLE: u8 = 38;
    pub(super) const COMPARE: u8 = 39;
    pub(super) const COMPARED: u8 = 40;
    /// From version 2 on.
    pub(super) const LIST: u8 = 41;
    /// From version 2 on.
    pub(super) const MAPPED: u8 = 42;
    pub(super) const PROMOTE: u8 = 48;
    pub(super) const HANDOVER: u8 = 49;
    pub(super) const VOTED: u8 = 50;
    pub(super) const OUTDATE: u8 = 51;
    pub(super) const GROW: u8 = 52;
    pub(super) const GROWN: u8 = 53;
    /// Since version 2, as is the next.
    pub(super) const CUT: u8 = 54;
    pub(super) const CUT_APPLIED: u8 = 55;
    /// From version 3 on.
    pub(super) const POLICY: u8 = 56;
    /// From version 4 on.
    pub(super) const SPAN: u8 = 57;
    /// From version 5 on.
    pub(super) const SNAPSHOT: u8 = 58;
    pub(super) const PING: u8 = 64;
    pub(super) const PONG: u8 = 65;
    pub(super) const GOODBYE: u8 = 80;
    /// From version 2 on, as is the next.
    pub(super) const ASK: u8 = 96;
    pub(super) const TOLD: u8 = 97;
}

/// Bits of a header's flags; what each kind may set is checked.
mod flag {
    pub(super) const FUA: u8 = 1;
    pub(super) const RESYNC: u8 = 2;
    pub(super) const MAY_TRIM: u8 = 4;
    pub(super) const DISCARD: u8 = 8;
    pub(super) const IN_SYNC: u8 = 16;
    pub(super) const COPYING: u8 = 32;
    /// The session's mode, since version 2; neither of them is `sync`.
    pub(super) const CONSISTENCY: u8 = 64;
    pub(super) const STACK: u8 = 128;
    /// Of other kinds than the two before.
    pub(super) const LAST: u8 = 64;
    /// The sender of an `Open` is a mirror itself, since version 3.
    pub(super) const RELAYED: u8 = 16;
    /// It took over in a planned swap, from the primary of the epoch in `seq`, since version 9.
    pub(super) const HEIR: u8 = 32;
}

/// A header as it lies on the wire.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    version: U16,
    kind: u8,
    flags: u8,
    volume: U16,
    reserved: U16,
    payload_bytes: U32,
    seq: U64,
    epoch: U64,
    offset: U64,
    len: U64,
    aux: U64,
    payload_crc: U32,
    header_crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

/// The fields of a header that messages use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    kind: u8,
    flags: u8,
    volume: u16,
    seq: u64,
    epoch: u64,
    offset: u64,
    len: u64,
    aux: u64,
}

/// Bytes arrived that are no frame of this protocol; the text says in what way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt frame: {0}")]
pub struct Corrupt(pub &'static str);

impl From<Corrupt> for LinkError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt.0)
    }
}

/// A message that does not fit the protocol, so that it is not even tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message cannot be sent: {0}")]
pub struct Unsendable(pub &'static str);

impl From<Unsendable> for LinkError {
    fn from(unsendable: Unsendable) -> Self {
        Self::Io(unsendable.to_string())
    }
}

/// What is said before a version is agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Who is speaking, and in which versions.
    Hello(Hello),
    /// No, and why.
    Refused(Refusal),
    /// Redeems a token.
    Join(JoinRequest),
    /// The token was good.
    Joined(JoinAnswer),
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Before a version is agreed on.
    Greeting(Greeting),
    /// After that.
    Message(Message),
}

/// CRC32C, as in the header.
fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}
