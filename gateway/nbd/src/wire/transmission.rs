//! Requests and replies, as bytes.
//!
//! Invariant: reading takes a header or leaves the input alone; it never looks behind it.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
};

/// The bytes are no header of this protocol: nothing behind them can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes are no header of the protocol")]
pub struct Malformed;

/// Which headers the two sides agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderStyle {
    /// Compact requests, every reply one piece.
    #[default]
    Simple,
    /// Compact requests, replies to reads and errors in chunks.
    Structured,
    /// 64-bit lengths, every reply in chunks.
    Extended,
}

impl HeaderStyle {
    /// Bytes of a request's header.
    #[must_use]
    pub const fn request_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => size_of::<RawRequest>(),
            Self::Extended => size_of::<RawExtendedRequest>(),
        }
    }

    /// Whether replies may come in chunks.
    #[must_use]
    pub const fn has_chunks(self) -> bool {
        match self {
            Self::Simple => false,
            Self::Structured | Self::Extended => true,
        }
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Read bytes.
    Read,
    /// Store bytes.
    Write,
    /// Finish what is in flight and close.
    Disconnect,
    /// Put on stable storage what was answered.
    Flush,
    /// Give bytes back.
    Trim,
    /// Bring bytes near.
    Cache,
    /// Make bytes read as zero.
    WriteZeroes,
    /// What lies where.
    BlockStatus,
}

impl Command {
    /// The command with this number.
    #[must_use]
    pub const fn of(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            _ => return None,
        })
    }
}

/// The flags of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandFlags(u16);

impl CommandFlags {
    /// On stable storage before the answer.
    pub const FUA: Self = Self(1);
    /// Zeroes must stay allocated.
    pub const NO_HOLE: Self = Self(1 << 1);
    /// The data of a read in one chunk.
    pub const DF: Self = Self(1 << 2);
    /// One extent per context is enough.
    pub const REQ_ONE: Self = Self(1 << 3);
    /// Zero the bytes faster than a write would, or fail at once.
    pub const FAST_ZERO: Self = Self(1 << 4);
    /// The length is that of a payload which follows.
    pub const PAYLOAD_LEN: Self = Self(1 << 5);

    /// These bits.
    #[must_use]
    pub const fn of(bits: u16) -> Self {
        Self(bits)
    }

    /// The bare bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether nothing but `allowed` is set.
    #[must_use]
    pub const fn within(self, allowed: Self) -> bool {
        self.0 & !allowed.0 == 0
    }
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRequest {
    magic: U32,
    flags: U16,
    command: U16,
    cookie: U64,
    offset: U64,
    len: U32,
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtendedRequest {
    magic: U32,
    flags: U16,
    command: U16,
    cookie: U64,
    offset: U64,
    len: U64,
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSimpleReply {
    magic: U32,
    error: U32,
    cookie: U64,
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawChunk {
    magic: U32,
    flags: U16,
    kind: U16,
    cookie: U64,
    len: U32,
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtendedChunk {
    magic: U32,
    flags: U16,
    kind: U16,
    cookie: U64,
    offset: U64,
    len: U64,
}

/// The header of a request, of either style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Its flags.
    pub flags: CommandFlags,
    /// The number of its command.
    pub command: u16,
    /// What the client recognises the reply by.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes concerned, or bytes of payload.
    pub len: u64,
}

impl RequestHeader {
    /// Reads one from the front of `input`; `Ok(None)` when more bytes are needed.
    ///
    /// # Errors
    /// When the magic is another.
    pub fn read(style: HeaderStyle, input: &[u8]) -> Result<Option<Self>, Malformed> {
        match style {
            HeaderStyle::Simple | HeaderStyle::Structured => {
                let Ok((raw, _)) = RawRequest::ref_from_prefix(input) else {
                    return Ok(None);
                };
                if raw.magic.get() != REQUEST_MAGIC {
                    return Err(Malformed);
                }
                Ok(Some(Self {
                    flags: CommandFlags(raw.flags.get()),
                    command: raw.command.get(),
                    cookie: raw.cookie.get(),
                    offset: raw.offset.get(),
                    len: raw.len.get().into(),
                }))
            }
            HeaderStyle::Extended => {
                let Ok((raw, _)) = RawExtendedRequest::ref_from_prefix(input) else {
                    return Ok(None);
                };
                if raw.magic.get() != EXTENDED_REQUEST_MAGIC {
                    return Err(Malformed);
                }
                Ok(Some(Self {
                    flags: CommandFlags(raw.flags.get()),
                    command: raw.command.get(),
                    cookie: raw.cookie.get(),
                    offset: raw.offset.get(),
                    len: raw.len.get(),
                }))
            }
        }
    }

    /// Bytes of payload that follow it.
    #[must_use]
    pub fn payload_len(&self, style: HeaderStyle) -> u64 {
        let announced = style == HeaderStyle::Extended && self.flags.has(CommandFlags::PAYLOAD_LEN);
        if announced || Command::of(self.command) == Some(Command::Write) { self.len } else { 0 }
    }
}

/// The errors that the protocol knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// Not permitted.
    Perm,
    /// I/O error.
    Io,
    /// Invalid.
    Inval,
    /// No space left, or past the end.
    NoSpc,
    /// Too large.
    Overflow,
    /// Not supported: only for a zeroing that would not be fast.
    NotSup,
    /// Shutting down.
    Shutdown,
}

impl Errno {
    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::Inval => 22,
            Self::NoSpc => 28,
            Self::Overflow => 75,
            Self::NotSup => 95,
            Self::Shutdown => 108,
        }
    }

    /// Its name, for metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Perm => "EPERM",
            Self::Io => "EIO",
            Self::Inval => "EINVAL",
            Self::NoSpc => "ENOSPC",
            Self::Overflow => "EOVERFLOW",
            Self::NotSup => "ENOTSUP",
            Self::Shutdown => "ESHUTDOWN",
        }
    }
}

/// The header of one chunk of a reply.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Which request it answers.
    pub cookie: u64,
    /// The offset of that request.
    pub offset: u64,
    /// Its kind.
    pub kind: u16,
    /// Whether it is the last of its reply.
    pub last: bool,
    /// Bytes that follow.
    pub len: u32,
}

impl Chunk {
    /// No content.
    pub const NONE: u16 = 0;
    /// Bytes at an offset.
    pub const DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const HOLE: u16 = 2;
    /// Extents with 32-bit lengths.
    pub const STATUS: u16 = 5;
    /// Extents with 64-bit lengths.
    pub const STATUS_EXTENDED: u16 = 6;
    /// An error.
    pub const ERROR: u16 = 1 << 15 | 1;
}

/// Appends the header of a chunk, in the style that was agreed on.
pub fn push_chunk(out: &mut Vec<u8>, style: HeaderStyle, chunk: Chunk) {
    let flags = U16::new(u16::from(chunk.last));
    let (kind, cookie) = (chunk.kind.into(), chunk.cookie.into());
    if style == HeaderStyle::Extended {
        let raw = RawExtendedChunk {
            magic: EXTENDED_REPLY_MAGIC.into(),
            flags,
            kind,
            cookie,
            offset: chunk.offset.into(),
            len: u64::from(chunk.len).into(),
        };
        out.extend_from_slice(raw.as_bytes());
    } else {
        let magic = STRUCTURED_REPLY_MAGIC.into();
        let raw = RawChunk { magic, flags, kind, cookie, len: chunk.len.into() };
        out.extend_from_slice(raw.as_bytes());
    }
}

/// Appends a simple reply, without its data.
pub fn push_simple(out: &mut Vec<u8>, cookie: u64, error: Option<Errno>) {
    let raw = RawSimpleReply {
        magic: SIMPLE_REPLY_MAGIC.into(),
        error: error.map_or(0, Errno::number).into(),
        cookie: cookie.into(),
    };
    out.extend_from_slice(raw.as_bytes());
}

/// Appends a chunk that ends a reply with an error and says why in words.
pub fn push_error(
    out: &mut Vec<u8>,
    style: HeaderStyle,
    request: (u64, u64),
    error: Errno,
    message: &str,
) {
    // Messages are ours and short; one that did not fit would be left out.
    let (message, text_len) =
        u16::try_from(message.len()).map_or(("", 0), |text_len| (message, text_len));
    let (cookie, offset) = request;
    let len = u32::from(text_len).saturating_add(6);
    push_chunk(out, style, Chunk { cookie, offset, kind: Chunk::ERROR, last: true, len });
    out.extend_from_slice(&error.number().to_be_bytes());
    out.extend_from_slice(&text_len.to_be_bytes());
    out.extend_from_slice(message.as_bytes());
}
