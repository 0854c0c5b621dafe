//! Ranges of bytes and blocks, and the only arithmetic that is done on them.
//!
//! Invariant: an [`Extent`] is never empty and never wraps; one made by [`Geometry::extent`] lies
//! inside its volume, so nobody below the host protocols checks bounds again.
#![warn(clippy::arithmetic_side_effects)]

use std::fmt;

/// The grain of everything that is remembered about content: checksums, dirty maps, holes.
pub const BLOCK_BYTES: u64 = 4096;
/// The grain in which a pool places data.
pub const SLOT_BYTES: u64 = 65_536;
/// The grain of the activity log: what a crashed primary resynchronises.
pub const ACTIVITY_BYTES: u64 = 4 << 20;
/// The largest volume: 1 PiB.
pub const VOLUME_BYTES_MAX: u64 = 1 << 50;

const _: () = assert!(SLOT_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(ACTIVITY_BYTES.is_multiple_of(SLOT_BYTES));
const _: () = assert!(VOLUME_BYTES_MAX.is_multiple_of(ACTIVITY_BYTES));

/// Why a range was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// Zero bytes long.
    #[error("range is empty")]
    Empty,
    /// Ends behind the volume, or behind 2^64.
    #[error("range ends outside the volume")]
    OutOfRange,
    /// A size that no volume can have.
    #[error("size must be a multiple of {BLOCK_BYTES} bytes between {BLOCK_BYTES} and 1 PiB")]
    Size,
}

/// A range of bytes: not empty, not wrapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    offset: u64,
    len: u64,
}

impl Extent {
    /// A range of `len` bytes from `offset`.
    ///
    /// # Errors
    /// [`ExtentError::Empty`] for no bytes, [`ExtentError::OutOfRange`] for one that wraps.
    pub const fn new(offset: u64, len: u64) -> Result<Self, ExtentError> {
        if len == 0 {
            return Err(ExtentError::Empty);
        }
        match offset.checked_add(len) {
            Some(_) => Ok(Self { offset, len }),
            None => Err(ExtentError::OutOfRange),
        }
    }

    /// First byte.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Bytes, never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an extent is never empty")]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// One past the last byte.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset.wrapping_add(self.len)
    }

    /// Whether any byte lies in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }

    /// Whether every byte of `other` lies in this.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }

    /// The bytes that lie in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let offset = self.offset.max(other.offset);
        let end = self.end().min(other.end());
        (offset < end).then(|| Self { offset, len: end.wrapping_sub(offset) })
    }

    /// Whether both ends lie on block borders.
    #[must_use]
    pub const fn is_block_aligned(self) -> bool {
        self.offset.is_multiple_of(BLOCK_BYTES) && self.len.is_multiple_of(BLOCK_BYTES)
    }

    /// Every block that this touches.
    #[must_use]
    pub fn blocks(self) -> BlockRange {
        let first = self.offset / BLOCK_BYTES;
        BlockRange { first, end: self.end().div_ceil(BLOCK_BYTES) }
    }

    /// Every block that this covers whole; may be none.
    #[must_use]
    pub fn whole_blocks(self) -> BlockRange {
        let first = self.offset.div_ceil(BLOCK_BYTES);
        BlockRange { first, end: (self.end() / BLOCK_BYTES).max(first) }
    }

    /// Every extent of the activity log that this touches.
    pub fn activity(self) -> impl Iterator<Item = ActivityExtent> {
        let last = self.end().wrapping_sub(1) / ACTIVITY_BYTES;
        (self.offset / ACTIVITY_BYTES..=last).map(ActivityExtent)
    }

    /// Cuts the range into pieces that do not cross a multiple of `grain` bytes.
    ///
    /// # Panics
    /// On a grain of 0, which is a bug of the caller.
    pub fn pieces(self, grain: u64) -> impl Iterator<Item = Self> {
        assert!(grain > 0, "a grain of 0 has no pieces");
        let mut offset = self.offset;
        let end = self.end();
        std::iter::from_fn(move || {
            if offset >= end {
                return None;
            }
            let border = offset
                .checked_div(grain)
                .and_then(|n| n.checked_add(1))
                .and_then(|n| n.checked_mul(grain));
            let stop = border.map_or(end, |b| b.min(end));
            let piece = Self { offset, len: stop.wrapping_sub(offset) };
            offset = stop;
            Some(piece)
        })
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.len)
    }
}

/// A range of 4 KiB blocks; may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    first: u64,
    end: u64,
}

impl BlockRange {
    /// Blocks from `first` up to, not including, `end`.
    #[must_use]
    pub const fn new(first: u64, end: u64) -> Self {
        Self { first, end: if end < first { first } else { end } }
    }

    /// First block.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// One past the last block.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.end.wrapping_sub(self.first)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.first >= self.end
    }

    /// The bytes of these blocks; `None` for no block.
    #[must_use]
    pub fn extent(self) -> Option<Extent> {
        let offset = self.first.checked_mul(BLOCK_BYTES)?;
        let len = self.count().checked_mul(BLOCK_BYTES)?;
        Extent::new(offset, len).ok()
    }
}

/// One 4 MiB extent of the activity log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActivityExtent(u64);

impl ActivityExtent {
    /// The extent with this index.
    #[must_use]
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// Its index, for disk.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0
    }

    /// The blocks of it that lie inside a volume of this size.
    #[must_use]
    pub fn blocks(self, geometry: Geometry) -> BlockRange {
        let per = ACTIVITY_BYTES / BLOCK_BYTES;
        let first = self.0.saturating_mul(per);
        let end = first.saturating_add(per).min(geometry.blocks());
        BlockRange::new(first, end)
    }
}

/// A set of blocks, as ranges in order: what is dirty, allocated or different.
pub type BlockSet = Vec<BlockRange>;

/// The shape of a volume: its size, proven to be one that a volume can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    bytes: u64,
}

impl Geometry {
    /// A volume of `bytes` bytes.
    ///
    /// # Errors
    /// [`ExtentError::Size`] unless it is a multiple of 4 KiB, at least one and at most 1 PiB.
    pub const fn new(bytes: u64) -> Result<Self, ExtentError> {
        if bytes < BLOCK_BYTES || bytes > VOLUME_BYTES_MAX || !bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(ExtentError::Size);
        }
        Ok(Self { bytes })
    }

    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// Size in blocks.
    #[must_use]
    pub const fn blocks(self) -> u64 {
        self.bytes / BLOCK_BYTES
    }

    /// The whole volume.
    #[must_use]
    pub const fn whole(self) -> Extent {
        Extent { offset: 0, len: self.bytes }
    }

    /// A range inside this volume, proven to be so.
    ///
    /// # Errors
    /// [`ExtentError::Empty`], or [`ExtentError::OutOfRange`] if a byte of it is not inside.
    pub const fn extent(self, offset: u64, len: u64) -> Result<Extent, ExtentError> {
        match Extent::new(offset, len) {
            Ok(extent) if extent.end() <= self.bytes => Ok(extent),
            Ok(_) => Err(ExtentError::OutOfRange),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails, as it should")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(offset: u64, len: u64) -> Extent {
        Extent::new(offset, len).unwrap()
    }

    #[test]
    fn refuses_what_wraps_or_is_empty() {
        assert_eq!(Extent::new(5, 0), Err(ExtentError::Empty));
        assert_eq!(Extent::new(u64::MAX, 1), Err(ExtentError::OutOfRange));
        let geometry = Geometry::new(8192).unwrap();
        assert_eq!(geometry.extent(8191, 2), Err(ExtentError::OutOfRange));
        assert!(geometry.extent(8191, 1).is_ok());
        assert_eq!(Geometry::new(4097), Err(ExtentError::Size));
        assert_eq!(Geometry::new(VOLUME_BYTES_MAX + 4096), Err(ExtentError::Size));
    }

    #[test]
    fn whole_blocks_of_a_small_range_are_none() {
        assert!(extent(1, 4096).whole_blocks().is_empty());
        assert_eq!(extent(1, 8192).whole_blocks(), BlockRange::new(1, 2));
        assert_eq!(extent(1, 1).blocks(), BlockRange::new(0, 1));
    }

    proptest! {
        #[test]
        fn pieces_rebuild_the_range(offset in 0u64..1 << 50, len in 1u64..1 << 22, shift in 9u32..20) {
            let whole = extent(offset, len);
            let mut at = offset;
            for piece in whole.pieces(1 << shift) {
                prop_assert_eq!(piece.offset(), at);
                prop_assert_eq!(piece.offset() >> shift, (piece.end() - 1) >> shift);
                at = piece.end();
            }
            prop_assert_eq!(at, whole.end());
        }

        #[test]
        fn intersection_agrees_with_overlap(a in 0u64..100, b in 1u64..50, c in 0u64..100, d in 1u64..50) {
            let (x, y) = (extent(a, b), extent(c, d));
            prop_assert_eq!(x.overlaps(y), x.intersection(y).is_some());
            prop_assert_eq!(x.overlaps(y), y.overlaps(x));
        }
    }
}
