//! What host protocols keep of a volume beside its content, as its gateway keeps it.
//!
//! ```text
//!   "TwA1"  u16 version  u64 number  bytes  CRC32C(all before)         (all integers little-endian)
//! ```
//!
//! Invariant: it is recorded by volume, so that it goes where that goes, whatever group it is in.

use block::VolumeId;
use bytes::Bytes;

use super::RecordError;
use super::wire::{Reader, Writer};

const MAGIC: [u8; 4] = *b"TwA1";
const VERSION: u16 = 1;

/// What is kept of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// How often it was replaced.
    pub(crate) number: u64,
    /// In words that only the host protocol reads.
    pub(crate) bytes: Bytes,
}

/// Where the ledger keeps it.
pub(crate) fn attributes_key(volume: VolumeId) -> String {
    format!("attributes/{volume}")
}

impl Attributes {
    pub(crate) fn encode(&self) -> Bytes {
        let mut w = Writer(MAGIC.to_vec());
        w.0.extend(VERSION.to_le_bytes());
        w.u64(self.number);
        w.bytes(&self.bytes);
        w.sealed()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut r = Reader::open(bytes, MAGIC, VERSION)?;
        let kept = Self { number: r.u64()?, bytes: r.bytes()? };
        if r.0.is_empty() { Ok(kept) } else { Err(RecordError::Damaged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_whole_or_not_at_all() {
        let kept = Attributes { number: 7, bytes: Bytes::from_static(b"registrations") };
        let bytes = kept.encode();
        assert_eq!(Attributes::decode(&bytes).as_ref(), Ok(&kept));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(Attributes::decode(&damaged).is_err(), "byte {at}");
            assert!(Attributes::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
