//! An object store that does what another one does, until it is told to fail.
//!
//! Invariant: a request that fails by count has not been done, and every one after it fails too, so
//! that whoever made it is as good as dead.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use twinspan_backup::{Access, BackupError, BackupId, Catalogue, Key, Repository, Watch};

use crate::volumes::step;

/// How requests fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The store is not reached.
    Unreachable,
    /// It refuses the credentials.
    Refused,
}

/// The store that all gateways of a test share, as one of them sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    inner: Arc<dyn ObjectStore>,
    requests: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    fails_from: Arc<AtomicU64>,
    refuses: Arc<AtomicBool>,
    /// Replaces objects although it was told not to.
    ignores_conditions: bool,
    /// Lets others go first now and then; 0 never.
    dawdles: Arc<AtomicU64>,
    /// What begins so is removed for nobody.
    retains: Arc<Mutex<Option<String>>>,
}

impl Seen {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            requests: Arc::default(),
            sent: Arc::default(),
            fails_from: Arc::new(AtomicU64::new(u64::MAX)),
            refuses: Arc::default(),
            ignores_conditions: false,
            dawdles: Arc::default(),
            retains: Arc::default(),
        }
    }

    pub(crate) fn memory() -> Self {
        Self::new(Arc::new(InMemory::new()))
    }

    /// The same store, as another gateway sees it.
    pub(crate) fn other(&self) -> Self {
        Self::new(Arc::clone(&self.inner))
    }

    pub(crate) fn ignoring_conditions(mut self) -> Self {
        self.ignores_conditions = true;
        self
    }

    /// Lets others go first at requests that this number draws.
    pub(crate) fn dawdling(self, seed: u64) -> Self {
        self.dawdles.store(seed | 1, Ordering::Relaxed);
        self
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes that were put so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// From now on, after so many more requests, all fail.
    pub(crate) fn fail_after(&self, requests: u64, failure: Failure) {
        self.refuses.store(failure == Failure::Refused, Ordering::Relaxed);
        self.fails_from.store(self.requests() + requests, Ordering::Relaxed);
    }

    /// From now on the bucket has a retention for what is below a folder of the repository, or none.
    pub(crate) fn retain(&self, folder: Option<&str>) {
        let prefix = folder.map(|folder| format!("backups-of-east/{folder}"));
        *self.retains.lock().unwrap() = prefix;
    }

    /// As Azure says it; others say it otherwise.
    fn may_remove(&self, path: &Path) -> Result<()> {
        let retains = self.retains.lock().unwrap();
        if !retains.as_ref().is_some_and(|prefix| path.as_ref().starts_with(prefix)) {
            return Ok(());
        }
        let source = "it is under a retention of the bucket".into();
        Err(Error::AlreadyExists { path: path.to_string(), source })
    }

    /// It works again.
    pub(crate) fn mend(&self) {
        self.fails_from.store(u64::MAX, Ordering::Relaxed);
    }

    async fn count(&self, path: &Path) -> Result<()> {
        let turns = self.dawdles.load(Ordering::Relaxed);
        if turns != 0 {
            self.dawdles.store(step(turns) | 1, Ordering::Relaxed);
            for _ in 0..step(turns) % 7 {
                tokio::task::yield_now().await;
            }
        }
        self.admit(path)
    }

    fn admit(&self, path: &Path) -> Result<()> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if number < self.fails_from.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (path, source) = (path.to_string(), "it was told to fail".into());
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Error::PermissionDenied { path, source });
        }
        Err(Error::Generic { store: "test", source })
    }

    pub(crate) async fn get_all(&self, key: &str) -> Bytes {
        self.inner.get(&Path::from(key)).await.unwrap().bytes().await.unwrap()
    }

    pub(crate) async fn put_all(&self, key: &str, bytes: Bytes) {
        self.inner.put(&Path::from(key), bytes.into()).await.unwrap();
    }

    pub(crate) async fn lose(&self, key: &str) {
        self.inner.delete(&Path::from(key)).await.unwrap();
    }

    /// The keys below a folder of the repository.
    pub(crate) async fn keys(&self, folder: &str) -> Vec<String> {
        let path = Path::from(format!("backups-of-east/{folder}"));
        let listed: Vec<_> = self.inner.list(Some(&path)).collect().await;
        listed.into_iter().map(|meta| meta.unwrap().location.to_string()).collect()
    }

    pub(crate) async fn create(&self, key: Option<&Key>) -> Repository {
        let store: Arc<dyn ObjectStore> = Arc::new(self.clone());
        Repository::create(store, prefix(), key, "east-1").await.unwrap()
    }

    pub(crate) async fn open(&self, key: Option<&Key>) -> Repository {
        self.try_open(key, Access::ReadWrite).await.unwrap()
    }

    pub(crate) async fn try_open(
        &self,
        key: Option<&Key>,
        access: Access,
    ) -> Result<Repository, BackupError> {
        Repository::open(Arc::new(self.clone()), prefix(), key, "east-1", access).await
    }
}

pub(crate) fn prefix() -> Path {
    Path::from("backups-of-east")
}

pub(crate) fn now() -> jiff::Timestamp {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

pub(crate) fn id(number: u128) -> BackupId {
    BackupId::from_uuid(uuid::Uuid::from_u128(number))
}

pub(crate) fn watch() -> Arc<Watch> {
    Arc::new(Watch::default())
}

/// What a gateway that knows nothing finds in the bucket.
pub(crate) async fn catalogue(repository: &Repository) -> Catalogue {
    let mut catalogue = Catalogue::new(now());
    catalogue.refresh(repository, &watch()).await.unwrap();
    catalogue
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that fails on request")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Seen {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.count(location).await?;
        if self.ignores_conditions {
            options.mode = PutMode::Overwrite;
        }
        self.sent.fetch_add(payload.content_length() as u64, Ordering::Relaxed);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.count(location).await?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.count(location).await?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let seen = self.clone();
        let admitted = locations.map(move |location| {
            let location = location?;
            seen.admit(&location)?;
            seen.may_remove(&location)?;
            Ok(location)
        });
        self.inner.delete_stream(admitted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let seen = self.clone();
        let prefix = prefix.cloned();
        // The list is made when it is asked for, as with a store far away.
        let listed = async move {
            let path = prefix.clone().unwrap_or_default();
            match seen.count(&path).await {
                Ok(()) => seen.inner.list(prefix.as_ref()),
                Err(error) => futures_util::stream::iter([Err(error)]).boxed(),
            }
        };
        futures_util::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
