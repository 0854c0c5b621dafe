//! The content of a copy here: digested, or read piece by piece, whatever its role.
//!
//! Invariant: nothing is changed.

use api::{Code, VolumeDigest};
use block::{Extent, VolumeId};
use bytes::Bytes;

use super::Gateway;
use crate::refusal::Refused;

/// The largest piece of content in one answer.
pub(crate) const CONTENT_BYTES_MAX: u64 = 4 << 20;

impl Gateway {
    /// Reads every block of the copy here, whatever its role, and digests it.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Filling`], or the store's.
    pub(crate) async fn digest_volume(&self, name: &str) -> Result<VolumeDigest, Refused> {
        let (group, volume) = self.find_volume(name)?;
        self.require_filled(&group)?;
        let (group_id, id) = (group.group(), VolumeId::from_uuid(volume.id));
        let from = self.clock.rfc3339();
        let shard = self.shard_of(group_id).clone();
        let (bytes, digest) =
            shard.run(move |state| async move { state.digest(group_id, id).await }).await??;
        Ok(VolumeDigest {
            id: volume.id,
            site: self.config.site.name.clone(),
            bytes,
            digest,
            from,
            to: self.clock.rfc3339(),
        })
    }

    /// Reads a piece of the copy here, whatever its role.
    ///
    /// # Errors
    /// [`Code::Invalid`] for a piece outside the volume or longer than [`CONTENT_BYTES_MAX`].
    pub(crate) async fn read_volume(
        &self,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, Refused> {
        let (group, volume) = self.find_volume(name)?;
        let (group_id, id) = (group.group(), VolumeId::from_uuid(volume.id));
        if length > CONTENT_BYTES_MAX {
            let detail = format!("length is at most {CONTENT_BYTES_MAX}");
            return Err(Refused::new(Code::Invalid, detail));
        }
        let extent = Extent::new(offset, length)
            .map_err(|error| Refused::new(Code::Invalid, error.to_string()))?;
        let shard = self.shard_of(group_id).clone();
        shard.run(move |state| async move { state.read(group_id, id, extent).await }).await?
    }
}
