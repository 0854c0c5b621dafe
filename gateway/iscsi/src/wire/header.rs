//! The basic header segment: 48 bytes that every PDU begins with (RFC 7143 §11.2).
//!
//! Invariant: a [`Header`] has the layout of the wire, so that bytes become one without a copy of
//! our own.

use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a basic header.
pub const HEADER_BYTES: usize = 48;

/// The tag that stands for none.
pub const NO_TAG: u32 = u32::MAX;

/// A basic header, as it lies on the wire.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Opcode, with the bit for immediate delivery.
    pub opcode: u8,
    /// Flags, the final bit first.
    pub flags: u8,
    /// What these mean depends on the opcode.
    pub specific: [u8; 2],
    /// Length of the additional header segments, in words of four bytes.
    pub ahs_words: u8,
    pub(crate) data_len: [u8; 3],
    /// Logical unit number, or what depends on the opcode.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub tag: U32,
    /// What these mean depends on the opcode.
    pub words: [U32; 7],
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

impl Header {
    /// The header at the start of `bytes`; `None` when they are too few.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::read_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Opcode without the bit for immediate delivery.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.opcode & 0x3f
    }

    /// Whether it is to be done at once, out of the order of numbers.
    #[must_use]
    pub const fn immediate(&self) -> bool {
        self.opcode & 0x40 != 0
    }

    /// Whether the final bit is set.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        self.flags & 0x80 != 0
    }

    /// Length of the data segment, without padding.
    #[must_use]
    pub const fn data_len(&self) -> usize {
        let [a, b, c] = self.data_len;
        u32::from_be_bytes([0, a, b, c]) as usize
    }

    /// With a data segment of this length, at most 2²⁴ − 1.
    #[must_use]
    pub const fn with_data_len(mut self, len: u32) -> Self {
        let [_, a, b, c] = len.to_be_bytes();
        self.data_len = [a, b, c];
        self
    }

    /// The word at this index, in the byte order of this machine.
    pub(crate) fn word(&self, index: usize) -> u32 {
        self.words[index].get()
    }
}

/// Bytes that fill the last word of `len` bytes.
#[must_use]
pub const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}
