//! The protocol's bytes as types: constants, headers, and how they are read and written.
//!
//! Invariant: no I/O and no panic, whatever the bytes. What is read here is only well formed;
//! whether it makes sense is decided by `negotiate` and `session::admit`.
#![warn(clippy::arithmetic_side_effects)]

mod option;
mod transmission;

pub use option::{
    ClientFlags, Cursor, Info, OptionCode, OptionHeader, OptionReply, checked_name, push_reply,
};
pub use transmission::{
    Chunk, Command, CommandFlags, Errno, HeaderStyle, Malformed, RequestHeader, push_chunk,
    push_error, push_simple,
};

/// The first thing a server says.
pub const GREETING_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// What makes it a newstyle server, and what starts every option.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// What starts every answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// What starts a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// What starts an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// What starts a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// What starts a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// What starts a chunk of an extended reply.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flag of the server: options other than `EXPORT_NAME` are understood.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag of the server: it can leave out the padding after `EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 2;

/// Bytes of padding after the answer to `EXPORT_NAME`.
pub const EXPORT_NAME_PADDING: usize = 124;

/// What an export can do, as told before transmission starts.
pub mod transmission_flags {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `TRIM` is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` is understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag is understood.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers the writes of all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `CACHE` is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The `FAST_ZERO` flag is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// `BLOCK_STATUS` may carry a payload that names contexts.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// The greeting of a fixed newstyle server.
#[must_use]
pub fn greeting() -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
    bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes[16..].copy_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    bytes
}
