//! What a run has under way to the store.
//!
//! Invariant: at most [`UPLOADS`] objects are under way, which is what bounds the memory of a run.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use crate::error::BackupError;
use crate::format::Pack;
use crate::layout;
use crate::limits::UPLOADS;
use crate::repository::{Repository, blocking};
use crate::watch::Watch;

/// Objects under way; each tells how many bytes it had.
pub(super) struct Uploads<'a> {
    repository: &'a Repository,
    watch: &'a Arc<Watch>,
    under_way: FuturesUnordered<BoxFuture<'static, Result<u64, BackupError>>>,
    /// Bytes that arrived.
    pub(super) stored_bytes: u64,
}

impl<'a> Uploads<'a> {
    pub(super) fn new(repository: &'a Repository, watch: &'a Arc<Watch>) -> Self {
        Self { repository, watch, under_way: FuturesUnordered::new(), stored_bytes: 0 }
    }

    /// Sends a pack on its way, when there is room for it.
    pub(super) async fn pack(&mut self, pack: Pack) -> Result<(), BackupError> {
        self.room().await?;
        let (repository, watch) = (self.repository.clone(), Arc::clone(self.watch));
        self.under_way.push(Box::pin(async move {
            let (reference, object) = blocking(move || pack.finish()).await?;
            put(&repository, &watch, layout::pack(&reference), object).await
        }));
        Ok(())
    }

    /// Sends any other object on its way.
    pub(super) async fn object(&mut self, key: String, object: Bytes) -> Result<(), BackupError> {
        self.room().await?;
        let (repository, watch) = (self.repository.clone(), Arc::clone(self.watch));
        self.under_way.push(Box::pin(async move { put(&repository, &watch, key, object).await }));
        Ok(())
    }

    /// Lets what is under way go on, until one of it arrives; for ever when nothing is.
    ///
    /// # Cancellation
    /// Nothing is lost: what is under way stays so.
    pub(super) async fn arrived(&mut self) -> Result<(), BackupError> {
        match self.under_way.next().await {
            Some(stored) => self.stored_bytes += stored?,
            None => std::future::pending().await,
        }
        Ok(())
    }

    async fn room(&mut self) -> Result<(), BackupError> {
        while self.under_way.len() >= UPLOADS {
            self.arrived().await?;
        }
        Ok(())
    }

    /// Waits for all of it.
    pub(super) async fn finish(&mut self) -> Result<(), BackupError> {
        while !self.under_way.is_empty() {
            self.arrived().await?;
        }
        Ok(())
    }
}

async fn put(
    repository: &Repository,
    watch: &Watch,
    key: String,
    object: Bytes,
) -> Result<u64, BackupError> {
    let bytes = object.len() as u64;
    watch.pace(bytes).await?;
    watch.unless_cancelled(repository.bucket.put(&key, object)).await?;
    Ok(bytes)
}
