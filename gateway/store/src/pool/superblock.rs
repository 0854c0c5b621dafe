//! Who a pool is, twice: the file `super` holds two copies, each in a sector of its own.
//!
//! Invariant: a copy is written only while the other one is whole and durable.

use std::io::{self, IoSlice};

use block::{GatewayId, PoolId};

use crate::codec::Format;
use crate::error::StoreError;
use crate::medium::{Directory, read_all};

use super::PoolIdentity;

const FILE: &str = "super";
const FORMAT: Format = Format { what: "pool superblock", magic: *b"TSPOOL\0\0", version: 1 };
/// Each copy has a block of its own.
const COPY_BYTES: usize = 4096;

/// A superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    identity: PoolIdentity,
}

// === impl Superblock ===

impl Superblock {
    pub(super) fn new(identity: PoolIdentity) -> Self {
        Self { identity }
    }

    pub(super) fn identity(&self) -> PoolIdentity {
        self.identity
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(self.identity.pool.uuid().as_bytes());
        body.extend_from_slice(self.identity.gateway.uuid().as_bytes());
        FORMAT.seal(&body)
    }

    fn decode(data: &[u8]) -> Result<Self, StoreError> {
        let mut reader = FORMAT.open(data)?;
        let pool = PoolId::of(u128::from_be_bytes(reader.array()?));
        let gateway = GatewayId::of(u128::from_be_bytes(reader.array()?));
        Ok(Self { identity: PoolIdentity { pool, gateway } })
    }

    /// Reads the first copy that is whole; `None` when there is no superblock at all.
    pub(super) fn read(dir: &dyn Directory) -> Result<Option<Self>, StoreError> {
        let file = match dir.open(FILE) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("open superblock")(e)),
        };
        let data = read_all(file.as_ref()).map_err(StoreError::io("read superblock"))?;
        let mut error = None;
        for copy in data.chunks(COPY_BYTES).take(2) {
            match Self::decode(copy) {
                Ok(found) => return Ok(Some(found)),
                Err(e @ (StoreError::Features { .. } | StoreError::Version { .. })) => {
                    return Err(e);
                }
                Err(e) => error = Some(e),
            }
        }
        // A crash while the pool was made leaves an empty file: there is no pool yet.
        error.map_or(Ok(None), Err)
    }

    /// Writes both copies, one after the other, and makes the name durable.
    pub(super) fn create(&self, dir: &dyn Directory) -> Result<(), StoreError> {
        let writing = || StoreError::io("write superblock");
        let file = crate::medium::open_or_create(dir, FILE).map_err(writing())?;
        let mut copy = self.encode();
        copy.resize(COPY_BYTES, 0);
        for place in 0..2 {
            file.write_at(&mut [IoSlice::new(&copy)], place * COPY_BYTES as u64)
                .and_then(|()| file.sync())
                .map_err(writing())?;
        }
        dir.sync().map_err(writing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &str = "5453504f4f4c00000100000020000000000000000000000000000000000000000000000000000001000000000000000000000000000000028063cbbe";

    #[test]
    fn reads_the_bytes_of_version_1() {
        let identity = PoolIdentity { pool: PoolId::of(1), gateway: GatewayId::of(2) };
        let superblock = Superblock::new(identity);
        assert_eq!(crate::hex(&superblock.encode()), BYTES);
        assert_eq!(Superblock::decode(&crate::unhex(BYTES)).unwrap(), superblock);
    }

    #[test]
    fn refuses_an_unknown_feature_by_its_bit() {
        let mut bytes = crate::unhex(BYTES);
        bytes[16] = 4;
        let end = bytes.len() - 4;
        let sum = crate::crc::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
        let refused = Superblock::decode(&bytes);
        assert!(matches!(refused, Err(StoreError::Features { features: 4, .. })));
    }
}
