//! CRC32C, as digests of headers and data are sent: the least significant byte first.
//!
//! Invariant: the digest of data covers its padding.

use crc_fast::{CrcAlgorithm, Digest};

/// The digest of one piece, as sent.
#[must_use]
pub fn crc(bytes: &[u8]) -> [u8; 4] {
    crc_fast::crc32_iscsi(bytes).to_le_bytes()
}

/// The digest of several pieces.
#[derive(Debug)]
pub struct Crc(Digest);

impl Default for Crc {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc {
    /// Goes on with these bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// What is sent.
    #[must_use]
    pub fn finish(&self) -> [u8; 4] {
        // The upper half of a sum of 32 bits is empty.
        let sum = self.0.finalize().to_le_bytes();
        [sum[0], sum[1], sum[2], sum[3]]
    }
}
