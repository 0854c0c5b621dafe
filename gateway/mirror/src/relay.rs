//! The mark of a session whose source is a mirror, as bytes.
//!
//! ```text
//!   "TwR1"  u32 count  volume 16 …  CRC32C(all before)      (integers little-endian)
//! ```
//!
//! Invariant: a mark that cannot be read whole stands for no volume at all, so that its session
//! copies everything.

use block::{GatewayId, GroupId, VolumeId};
use bytes::Bytes;
use uuid::Uuid;

use crate::record::crc32c;

const MAGIC: [u8; 4] = *b"TwR1";

/// Where the ledger says that a mirror relays to that gateway.
pub(crate) fn relay_key(group: GroupId, gateway: GatewayId) -> String {
    format!("relay/{group}/{gateway}")
}

/// The volumes that the session knows of.
pub(crate) fn encode(volumes: impl ExactSizeIterator<Item = VolumeId>) -> Bytes {
    let mut out = MAGIC.to_vec();
    let count = u32::try_from(volumes.len()).expect("a group has few volumes");
    out.extend(count.to_le_bytes());
    volumes.for_each(|volume| out.extend(volume.uuid().as_bytes()));
    let crc = crc32c(&out);
    out.extend(crc.to_le_bytes());
    Bytes::from(out)
}

/// Reads what [`encode`] wrote; no volume for anything else.
pub(crate) fn decode(bytes: &[u8]) -> Vec<VolumeId> {
    volumes(bytes).unwrap_or_default()
}

fn volumes(bytes: &[u8]) -> Option<Vec<VolumeId>> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (count, rest) = body.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    let (volumes, left) = rest.as_chunks::<16>();
    let whole = left.is_empty() && volumes.len() as u64 == u64::from(u32::from_le_bytes(*count));
    whole.then(|| volumes.iter().map(|id| VolumeId::from_uuid(Uuid::from_bytes(*id))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let volumes = [VolumeId::of(2), VolumeId::of(3)];
        let bytes = encode(volumes.into_iter());
        assert_eq!(decode(&bytes), volumes);
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 4;
            assert!(decode(&damaged).is_empty(), "byte {at}");
            assert!(decode(&bytes[..at]).is_empty(), "cut at {at}");
        }
    }

    /// The bytes that lie in the ledgers of gateways.
    #[test]
    fn writes_these_bytes() {
        let bytes = encode([VolumeId::of(0x0102)].into_iter());
        let mut expected = b"TwR1\x01\0\0\0".to_vec();
        expected.extend([0; 14]);
        expected.extend([1, 2]);
        assert_eq!(bytes[..24], expected);
        assert_eq!(bytes.len(), 28);
    }
}
