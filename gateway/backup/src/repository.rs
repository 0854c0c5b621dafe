//! A repository: everything that gateways keep below one prefix of a bucket.
//!
//! Any number of gateways use one at once. They know of each other only what lies in the bucket,
//! and what must not happen twice is a put under the condition that the key is new.
//!
//! Invariant: an object that was read is one that was written with this repository's keys.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::BackupId;
use crate::bucket::Bucket;
use crate::error::BackupError;
use crate::format::{Manifest, Map, MapRef, Pin};
use crate::layout;
use crate::limits::{MANIFEST_BYTES_MAX, MAP_BYTES_MAX, SMALL_BYTES_MAX};
use crate::seal::{Key, Keys, Kind, damaged, is_kind};

/// What a repository is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Backups are taken and removed.
    ReadWrite,
    /// Backups are only restored: nothing is written, so nothing keeps another gateway from
    /// removing what is being read, and a reader then says what is missing.
    ReadOnly,
}

/// A repository that was opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(crate) bucket: Bucket,
    pub(crate) keys: Arc<Keys>,
    pub(crate) gateway: Arc<str>,
    pub(crate) access: Access,
}

impl Repository {
    /// Makes one where there is none, encrypted if there is a key. `gateway` is the name under
    /// which this one is known to others.
    ///
    /// # Errors
    /// [`BackupError::RepositoryExists`]; [`BackupError::NoConditionalPut`] for a store that cannot
    /// keep two gateways apart; or what the store says.
    ///
    /// # Cancellation
    /// A call that is dropped leaves a repository or none.
    pub async fn create(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        key: Option<&Key>,
        gateway: &str,
    ) -> Result<Self, BackupError> {
        let bucket = Bucket::new(store, prefix);
        let (keys, header) = Keys::create(key)?;
        let header = Bytes::from(header);
        if !bucket.put_new(layout::REPOSITORY, header.clone()).await? {
            return Err(BackupError::RepositoryExists);
        }
        probe(&bucket, header).await?;
        let (keys, gateway) = (Arc::new(keys), gateway.into());
        Ok(Self { bucket, keys, gateway, access: Access::ReadWrite })
    }

    /// Opens the one that is there. Needs nothing but the store's credentials and the key.
    ///
    /// # Errors
    /// [`BackupError::NoRepository`], [`BackupError::KeyNeeded`], [`BackupError::WrongKey`],
    /// [`BackupError::NotEncrypted`], [`BackupError::NoConditionalPut`]; or what the store says.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        key: Option<&Key>,
        gateway: &str,
        access: Access,
    ) -> Result<Self, BackupError> {
        let bucket = Bucket::new(store, prefix);
        let header = match bucket.get(layout::REPOSITORY, SMALL_BYTES_MAX).await {
            Err(BackupError::Missing { .. }) => return Err(BackupError::NoRepository),
            header => header?,
        };
        let keys = Keys::open(&header, key)?;
        if access == Access::ReadWrite {
            probe(&bucket, header).await?;
        }
        Ok(Self { bucket, keys: Arc::new(keys), gateway: gateway.into(), access })
    }

    /// Whether what it holds is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.keys.is_encrypted()
    }

    /// What a manifest's key holds; `None` for the mark of an abandoned run.
    pub(crate) async fn manifest(&self, id: BackupId) -> Result<Option<Manifest>, BackupError> {
        let key = layout::manifest(id);
        let object = self.bucket.get(&key, MANIFEST_BYTES_MAX).await?;
        if is_kind(Kind::Void, &object) {
            return Ok(None);
        }
        let body = self.keys.unseal(Kind::Manifest, &key, &object)?;
        let manifest = Manifest::decode(&body).map_err(|e| damaged(&key, e))?;
        if manifest.id != id {
            return Err(damaged(&key, crate::codec::Malformed("it is another backup's")));
        }
        Ok(Some(manifest))
    }

    /// The manifest of a backup that was not removed.
    pub(crate) async fn live_manifest(&self, id: BackupId) -> Result<Manifest, BackupError> {
        // The mark first: it goes after the manifest, so without a mark and with a manifest there
        // was no mark when the first question was asked.
        let is_removed = self.bucket.has(&layout::removed(id)).await?;
        let manifest = match self.manifest(id).await {
            Err(BackupError::Missing { .. }) => return Err(BackupError::NoBackup { id }),
            manifest => manifest?.ok_or(BackupError::NoBackup { id })?,
        };
        if is_removed {
            return Err(BackupError::Removed { id });
        }
        Ok(manifest)
    }

    /// The manifest of a backup that was removed at the moment at which it was locked.
    pub(crate) async fn locked_manifest(
        &self,
        id: BackupId,
        now: Timestamp,
    ) -> Result<Manifest, BackupError> {
        let manifest = self.manifest(id).await?.ok_or(BackupError::NoBackup { id })?;
        let lock = manifest.about.locked_until.max(self.locks().await?.get(&id).copied());
        let is_locked = lock.is_some_and(|until| until > now);
        is_locked.then_some(manifest).ok_or(BackupError::Removed { id })
    }

    /// A map, checked against what names it.
    pub(crate) async fn map(&self, map: &MapRef) -> Result<Map, BackupError> {
        let key = layout::map(map);
        let object = self.bucket.get(&key, 2 * MAP_BYTES_MAX).await?;
        let keys = Arc::clone(&self.keys);
        let (length, digest, segment) = (map.length, map.digest, map.segment);
        blocking(move || {
            if object.len() != length as usize || blake3::hash(&object) != digest {
                return Err(damaged(&key, crate::codec::Malformed("it is not what was written")));
            }
            let body = keys.unseal(Kind::Map, &key, &object)?;
            let map = Map::decode(&body).map_err(|e| damaged(&key, e))?;
            if !map.is_inside(segment) {
                return Err(damaged(&key, crate::codec::Malformed("it leaves its segment")));
            }
            Ok(map)
        })
        .await
    }

    /// A pin.
    pub(crate) async fn pin(&self, id: BackupId) -> Result<Pin, BackupError> {
        let key = layout::pin(id);
        let object = self.bucket.get(&key, SMALL_BYTES_MAX).await?;
        let body = self.keys.unseal(Kind::Pin, &key, &object)?;
        Pin::decode(&body).map_err(|e| damaged(&key, e))
    }

    /// Puts a pin; says whether there was none of this name.
    pub(crate) async fn put_pin(&self, id: BackupId, pin: &Pin) -> Result<bool, BackupError> {
        let object = self.keys.seal(Kind::Pin, &pin.encode())?;
        self.bucket.put_new(&layout::pin(id), object.into()).await
    }

    /// The earlier of the caller's and the store's time: a clock that runs ahead on either side
    /// ends no lock.
    pub(crate) async fn earlier_time(&self, now: Timestamp) -> Result<Timestamp, BackupError> {
        Ok(now.min(self.bucket.time(BackupId::new(now)).await?))
    }
}

/// Puts the header once more: it must be refused.
async fn probe(bucket: &Bucket, header: Bytes) -> Result<(), BackupError> {
    if bucket.put_new(layout::REPOSITORY, header).await? {
        return Err(BackupError::NoConditionalPut { why: "it ignores the condition" });
    }
    Ok(())
}

/// Does what computes for a while on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // A panic of ours goes on here; what remains is a runtime that is being shut down.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_cancelled) => Err(BackupError::System { what: "a thread" }),
    }
}
