//! Reads the copy that lies here, whatever part this gateway plays: for proofs, not for hosts.
//!
//! Invariant: it changes nothing, and gives way to hosts between pieces.

use block::{Answer, Extent, GroupId, IoError, Op, Request, Store, VolumeId};
use bytes::Bytes;
use std::rc::Rc;

use super::{ShardState, ask};
use crate::refusal::Refused;

/// What is digested between two looks at the hosts.
const PIECE_BYTES: u64 = 1 << 20;

impl ShardState {
    fn store(&self, group: GroupId, volume: VolumeId) -> Result<Rc<dyn Store>, Refused> {
        let open = self.open_group(group)?;
        let volume = open.volume(volume);
        volume
            .map(|volume| -> Rc<dyn Store> { volume.store })
            .ok_or_else(|| Refused::new(api::Code::NotFound, "the group has no such volume"))
    }

    /// The size of a copy and the digest of its content, as `api::VolumeDigest` says.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn digest(
        &self,
        group: GroupId,
        volume: VolumeId,
    ) -> Result<(u64, String), Refused> {
        let store = self.store(group, volume)?;
        let bytes = store.geometry().bytes();
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        while offset < bytes {
            let extent = Extent::new(offset, PIECE_BYTES.min(bytes - offset))
                .map_err(|error| Refused::new(api::Code::Internal, error.to_string()))?;
            for checksum in store.checksums(extent)? {
                hasher.update(&checksum.to_le_bytes());
            }
            offset = extent.end();
            tokio::task::yield_now().await;
        }
        Ok((bytes, hasher.finalize().to_hex().to_string()))
    }

    /// A piece of a copy.
    ///
    /// # Errors
    /// The store's, or [`api::Code::Invalid`] when it does not lie inside the volume.
    pub(crate) async fn read(
        &self,
        group: GroupId,
        volume: VolumeId,
        extent: Extent,
    ) -> Result<Bytes, Refused> {
        let store = self.store(group, volume)?;
        if store.geometry().extent(extent.offset(), extent.len()).is_err() {
            return Err(Refused::from(IoError::OutOfRange));
        }
        let answer = ask(|ticket| {
            let mut batch = vec![Request { op: Op::Read(extent), fua: false, ticket }];
            store.submit(&mut batch);
        })
        .await?;
        let Answer::Read(segments) = answer else {
            return Err(Refused::new(api::Code::Internal, "a read was answered without data"));
        };
        Ok(block::joined(&segments))
    }
}
