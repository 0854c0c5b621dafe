//! CRC32C, the one checksum of everything this crate writes.

use block::{BLOCK_BYTES, SLOT_BYTES};
use crc_fast::CrcAlgorithm;

/// A block as a length in memory.
#[expect(clippy::cast_possible_truncation, reason = "4096 fits everything")]
pub(crate) const BLOCK_SIZE: usize = BLOCK_BYTES as usize;
/// A slot as a length in memory.
#[expect(clippy::cast_possible_truncation, reason = "65536 fits everything")]
pub(crate) const SLOT_SIZE: usize = SLOT_BYTES as usize;

/// CRC32C (Castagnoli) of `data`.
#[must_use]
pub(crate) fn crc32c(data: &[u8]) -> u32 {
    let wide = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, data);
    u32::try_from(wide).expect("a 32-bit checksum fits 32 bits")
}

/// The checksum of each whole block of `data`, as it is listed (0 for a block of zeroes).
pub(crate) fn listed_blocks(data: &[u8]) -> impl Iterator<Item = u32> + '_ {
    data.chunks_exact(BLOCK_SIZE).map(|b| block::crc::listed(crc32c(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 4096]), block::crc::ZERO_BLOCK_CRC);
    }
}
