//! Options and their answers, as bytes.
//!
//! Invariant: a length that a client names is checked against what is there before it is used.

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{OPTION_MAGIC, OPTION_REPLY_MAGIC};
use crate::limits::NAME_BYTES_MAX;

/// What a client asks for during the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionCode {
    /// Start transmission with this export, the old way: no error can be told.
    ExportName,
    /// End the handshake.
    Abort,
    /// List the exports.
    List,
    /// Start TLS.
    StartTls,
    /// Describe an export.
    Info,
    /// Start transmission with this export.
    Go,
    /// Replies in chunks.
    StructuredReply,
    /// List the metadata contexts of an export.
    ListMetaContext,
    /// Choose metadata contexts of an export.
    SetMetaContext,
    /// Headers with 64-bit lengths; includes replies in chunks.
    ExtendedHeaders,
    /// One that this server does not know.
    Unknown,
}

impl OptionCode {
    /// The option with this number.
    #[must_use]
    pub const fn of(number: u32) -> Self {
        match number {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            _ => Self::Unknown,
        }
    }
}

/// How an option is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionReply {
    /// Done.
    Ack,
    /// One export.
    Server,
    /// One piece of information about an export.
    Info,
    /// One metadata context.
    MetaContext,
    /// Unknown option.
    Unsupported,
    /// Refused by policy.
    Policy,
    /// Malformed or out of place.
    Invalid,
    /// TLS first.
    TlsRequired,
    /// No such export.
    UnknownExport,
    /// The server is shutting down.
    Shutdown,
    /// Longer than this server takes.
    TooBig,
    /// Extended headers are on, so compact structured replies cannot be.
    ExtendedHeaders,
}

impl OptionReply {
    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        const ERROR: u32 = 1 << 31;
        match self {
            Self::Ack => 1,
            Self::Server => 2,
            Self::Info => 3,
            Self::MetaContext => 4,
            Self::Unsupported => ERROR | 1,
            Self::Policy => ERROR | 2,
            Self::Invalid => ERROR | 3,
            Self::TlsRequired => ERROR | 5,
            Self::UnknownExport => ERROR | 6,
            Self::Shutdown => ERROR | 7,
            Self::TooBig => ERROR | 9,
            Self::ExtendedHeaders => ERROR | 10,
        }
    }
}

/// A kind of information about an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Info {
    /// Size and transmission flags.
    Export = 0,
    /// The name that the server calls it by.
    Name = 1,
    /// A description for people.
    Description = 2,
    /// Smallest, preferred and largest block.
    BlockSize = 3,
}

impl Info {
    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOption {
    magic: U64,
    code: U32,
    len: U32,
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOptionReply {
    magic: U64,
    option: U32,
    kind: U32,
    len: U32,
}

/// The start of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Its number, to be repeated in the answer.
    pub number: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl OptionHeader {
    /// Its bytes on the wire.
    pub const BYTES: usize = size_of::<RawOption>();

    /// Reads one from the front of `input`; `Ok(None)` when more bytes are needed.
    ///
    /// # Errors
    /// When it does not start as an option must.
    pub fn read(input: &[u8]) -> Result<Option<Self>, super::Malformed> {
        let Ok((raw, _)) = RawOption::read_from_prefix(input) else {
            return Ok(None);
        };
        if raw.magic.get() != OPTION_MAGIC {
            return Err(super::Malformed);
        }
        Ok(Some(Self { number: raw.code.get(), len: raw.len.get() }))
    }
}

/// What the client says of itself after the greeting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFlags {
    /// It understands answers to options.
    pub fixed_newstyle: bool,
    /// It wants no padding after `EXPORT_NAME`.
    pub no_zeroes: bool,
}

impl ClientFlags {
    /// Its bytes on the wire.
    pub const BYTES: usize = 4;

    /// Reads them from the front of `input`; `Ok(None)` when more bytes are needed.
    ///
    /// # Errors
    /// When a flag is set that was not offered.
    pub fn read(input: &[u8]) -> Result<Option<Self>, super::Malformed> {
        let Some(bits) = input.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else {
            return Ok(None);
        };
        if bits & !3 != 0 {
            return Err(super::Malformed);
        }
        Ok(Some(Self { fixed_newstyle: bits & 1 != 0, no_zeroes: bits & 2 != 0 }))
    }
}

/// Appends one answer to an option.
pub fn push_reply(out: &mut Vec<u8>, option: u32, reply: OptionReply, parts: &[&[u8]]) {
    let len = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.len()));
    // Names and descriptions are cut to `NAME_BYTES_MAX` before they come here, so the length
    // always fits.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let raw = RawOptionReply {
        magic: OPTION_REPLY_MAGIC.into(),
        option: option.into(),
        kind: reply.number().into(),
        len: len.into(),
    };
    out.extend_from_slice(raw.as_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Reads fields from the payload of an option.
#[derive(Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// At the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*head))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*head))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*head))
    }

    /// A text with its length before it: UTF-8, no NUL, at most [`NAME_BYTES_MAX`] bytes.
    pub fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        checked_name(head)
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

/// These bytes as a name: UTF-8, no NUL, at most [`NAME_BYTES_MAX`] bytes.
#[must_use]
pub fn checked_name(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > NAME_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}
