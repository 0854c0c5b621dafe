//! The certificate of a verification, as bytes.
//!
//! ```text
//!   "TwV1"  u64 at_ms  u64 epoch  generation 16  u64 blocks  u64 mismatched  u64 unreadable
//!   CRC32C(all before)                                      (all integers little-endian)
//! ```
//!
//! Invariant: one that is not whole is none.

use block::{Epoch, GatewayId, Generation, GroupId};
use bytes::Bytes;
use uuid::Uuid;

use crate::record::crc32c;
use crate::status::Verified;

const MAGIC: [u8; 4] = *b"TwV1";

/// Where the ledger keeps the certificate of a mirror.
pub(crate) fn certificate_key(group: GroupId, gateway: GatewayId) -> String {
    format!("verified/{group}/{gateway}")
}

pub(crate) fn encode(found: &Verified) -> Bytes {
    let mut out = MAGIC.to_vec();
    out.extend(found.at_ms.to_le_bytes());
    out.extend(found.epoch.get().to_le_bytes());
    out.extend(found.generation.uuid().as_bytes());
    for count in [found.blocks, found.mismatched, found.unreadable] {
        out.extend(count.to_le_bytes());
    }
    let crc = crc32c(&out);
    out.extend(crc.to_le_bytes());
    Bytes::from(out)
}

/// Reads what [`encode`] wrote; `None` for anything else.
pub(crate) fn decode(bytes: &[u8]) -> Option<Verified> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let rest = body.strip_prefix(&MAGIC)?;
    let (head, rest) = rest.split_first_chunk::<16>()?;
    let (generation, counts) = rest.split_first_chunk::<16>()?;
    let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    let (words, left) = counts.as_chunks::<8>();
    let [blocks, mismatched, unreadable] = words else { return None };
    left.is_empty().then_some(())?;
    Some(Verified {
        at_ms: number(&head[..8])?,
        epoch: Epoch::new(number(&head[8..])?),
        generation: Generation::from_uuid(Uuid::from_bytes(*generation)),
        blocks: u64::from_le_bytes(*blocks),
        mismatched: u64::from_le_bytes(*mismatched),
        unreadable: u64::from_le_bytes(*unreadable),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let found = Verified {
            at_ms: 1_700_000_000_000,
            epoch: Epoch::new(7),
            generation: Generation::of(9),
            blocks: 1_048_576,
            mismatched: 3,
            unreadable: 1,
        };
        let bytes = encode(&found);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "54775631\
             0068e5cf8b010000\
             0700000000000000\
             00000000000000000000000000000009\
             0000100000000000\
             0300000000000000\
             0100000000000000\
             f31c91e4"
        );
        assert_eq!(decode(&bytes), Some(found));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
