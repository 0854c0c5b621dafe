//! The checksum of an all-zero block, which is written nowhere.
//!
//! Invariant: 0 stands for "reads as zeroes" wherever block checksums are listed, so that a hole
//! and a block of stored zeroes compare equal.

/// CRC32C (Castagnoli) of 4096 zero bytes.
pub const ZERO_BLOCK_CRC: u32 = 0x98f9_4189;

/// The checksum as it is listed: 0 for a block of zeroes.
#[must_use]
pub const fn listed(crc: u32) -> u32 {
    if crc == ZERO_BLOCK_CRC { 0 } else { crc }
}
