//! What a gateway durably knows of a group's recovery points beside the snapshots themselves.
//!
//! ```text
//!   "TwP1"  u16 version  policy?  gone  CRC32C(all before)         (all integers little-endian)
//! ```
//!
//! Invariant: there is no record of a group that knows nothing of the kind.

use block::{GatewayId, GroupId, SnapshotId};
use bytes::Bytes;

use super::RecordError;
use super::wire::{Reader, Writer};

const MAGIC: [u8; 4] = *b"TwP1";
const VERSION: u16 = 1;

/// A snapshot that was removed here, and the mirrors that did not say yet that they keep it no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) id: SnapshotId,
    pub(crate) at: Vec<GatewayId>,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecoveryRecord {
    pub(crate) policy: Option<Bytes>,
    pub(crate) gone: Vec<Gone>,
}

/// Where the ledger keeps it.
pub(crate) fn recovery_key(group: GroupId) -> String {
    format!("points/{group}")
}

impl RecoveryRecord {
    /// Its bytes; `None`, which removes them, when it says nothing.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        if *self == Self::default() {
            return None;
        }
        let mut w = Writer(MAGIC.to_vec());
        w.0.extend(VERSION.to_le_bytes());
        w.option(self.policy.as_ref(), |w, policy| w.bytes(policy));
        w.list(&self.gone, |w, gone| {
            w.uuid(gone.id.uuid());
            w.list(&gone.at, |w, gateway| w.uuid(gateway.uuid()));
        });
        Some(w.sealed())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut r = Reader::open(bytes, MAGIC, VERSION)?;
        let policy = r.option(Reader::bytes)?;
        let gone = r.list(|r| {
            Ok(Gone {
                id: SnapshotId::from_uuid(r.uuid()?),
                at: r.list(|r| r.uuid().map(GatewayId::from_uuid))?,
            })
        })?;
        if r.0.is_empty() { Ok(Self { policy, gone }) } else { Err(RecordError::Damaged) }
    }
}

impl Writer {
    pub(super) fn bytes(&mut self, bytes: &Bytes) {
        self.len(bytes.len());
        self.0.extend(bytes);
    }
}

impl Reader<'_> {
    pub(super) fn bytes(&mut self) -> Result<Bytes, RecordError> {
        let len = self.len()?;
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(Bytes::copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::crc32c;
    use super::*;

    #[test]
    fn what_is_known_of_points_is_read_whole_or_not_at_all() {
        let record = RecoveryRecord {
            policy: Some(Bytes::from_static(b"{}")),
            gone: vec![Gone { id: SnapshotId::of(1), at: vec![GatewayId::of(2)] }],
        };
        let bytes = record.encode().unwrap();
        assert_eq!(RecoveryRecord::decode(&bytes), Ok(record));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            assert!(RecoveryRecord::decode(&damaged).is_err(), "byte {at}");
            assert!(RecoveryRecord::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(RecoveryRecord::default().encode(), None);
    }

    #[test]
    fn bytes_of_version_1_are_read() {
        // Written by the first release that had them: no policy, one removal that one mirror is to hear of.
        let mut bytes = b"TwP1\x01\x00\x00\x01\x00\x00\x00".to_vec();
        bytes.extend(SnapshotId::of(1).uuid().as_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(GatewayId::of(2).uuid().as_bytes());
        let crc = crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        let gone = vec![Gone { id: SnapshotId::of(1), at: vec![GatewayId::of(2)] }];
        assert_eq!(RecoveryRecord::decode(&bytes), Ok(RecoveryRecord { policy: None, gone }));
    }
}
