//! Removing a backup, and keeping it from being removed.
//!
//! A backup is removed by a mark beside its manifest: it is listed as being deleted at once, and
//! its data goes with the next collection. A lock is a date: in the manifest, or put beside it
//! later, and the latest counts. Where a lock and a mark meet because two gateways put them at the
//! same moment, the lock wins until its date.
//!
//! Locks are the gateways' alone. A store's own object lock would have to be moved on for packs of
//! long ago with each backup that shares them. What a store keeps by a rule of its bucket is left
//! there, told, and asked for again by the next collection.
//!
//! Invariant: nothing here takes a lock back.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;

use crate::BackupId;
use crate::error::BackupError;
use crate::layout;
use crate::repository::Repository;

impl Repository {
    /// Removes a backup. One that is being read stays until the reader is done.
    ///
    /// # Errors
    /// [`BackupError::Locked`], [`BackupError::NoBackup`]; or what the store says.
    ///
    /// # Cancellation
    /// A call that is dropped removed it or did not.
    pub async fn remove(&self, id: BackupId, now: Timestamp) -> Result<(), BackupError> {
        // One whose manifest cannot be read can be removed: that is how it is got rid of. Its lock,
        // if it has one, can only be one that was put beside it.
        let in_manifest = match self.manifest(id).await {
            Ok(Some(manifest)) => manifest.about.locked_until,
            Ok(None) | Err(BackupError::Missing { .. }) => {
                return Err(BackupError::NoBackup { id });
            }
            Err(BackupError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        let lock = in_manifest.max(self.locks().await?.get(&id).copied());
        if let Some(until) = lock
            && (until > now || until > self.earlier_time(now).await?)
        {
            return Err(BackupError::Locked { id, until });
        }
        // Whether it was marked before does not matter.
        self.bucket.put_new(&layout::removed(id), Bytes::from_static(b"removed")).await?;
        tracing::info!(backup = %id, "backup removed");
        Ok(())
    }

    /// Locks a backup until a date, or moves its lock on.
    ///
    /// # Errors
    /// [`BackupError::ShorterLock`] for a date before the one it has, [`BackupError::Removed`],
    /// [`BackupError::NoBackup`]; or what the store says.
    ///
    /// # Cancellation
    /// A call that is dropped locked it or did not.
    pub async fn lock(&self, id: BackupId, until: Timestamp) -> Result<(), BackupError> {
        let manifest = self.live_manifest(id).await?;
        let lock = manifest.about.locked_until.max(self.locks().await?.get(&id).copied());
        if let Some(longer) = lock.filter(|lock| *lock > until) {
            return Err(BackupError::ShorterLock { id, until: longer });
        }
        let key = layout::lock(id, until.as_second());
        self.bucket.put_new(&key, Bytes::from_static(b"locked")).await?;
        // Now that the lock is there: a mark that is put later finds it, and one that was put
        // before is found here.
        if self.bucket.has(&layout::removed(id)).await? {
            return Err(BackupError::Removed { id });
        }
        Ok(())
    }

    /// The latest date of each backup that was locked after it was taken.
    pub(crate) async fn locks(&self) -> Result<BTreeMap<BackupId, Timestamp>, BackupError> {
        let mut locks: BTreeMap<BackupId, Timestamp> = BTreeMap::new();
        for listed in self.bucket.list(layout::LOCKS).await? {
            let until = listed.key.rsplit('/').next().and_then(|text| text.parse().ok());
            let until = until.and_then(|second| Timestamp::from_second(second).ok());
            if let (Some(id), Some(until)) = (layout::owner(&listed.key), until) {
                let lock = locks.entry(id).or_insert(until);
                *lock = (*lock).max(until);
            }
        }
        Ok(locks)
    }
}
