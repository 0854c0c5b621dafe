//! Backups in real servers, of S3 and of Azure: taken, lost sight of, refused, resumed, restored and
//! collected.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use backup::{
    Access, BackupError, BackupId, Catalogue, Key, Repository, Request, Restore, Sink, Source,
    Target, VolumeError, Watch,
};
use block::{BLOCK_BYTES, BlockRange, BlockSet, Extent, SnapshotId, VolumeId};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use harness::Deadline;

use crate::azurite::Azurite;
use crate::rados::Rados;

/// A volume that is as large as what it holds.
struct Image {
    point: u128,
    data: Bytes,
    changed: Option<(u128, BlockSet)>,
}

impl Image {
    fn blocks(&self) -> u64 {
        self.data.len() as u64 / BLOCK_BYTES
    }

    /// Bytes without a pattern.
    fn random(blocks: u64, seed: u64) -> Self {
        let mut state = seed;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let words = words.take(usize::try_from(blocks * BLOCK_BYTES / 8).unwrap_or(0));
        Self { point: 1, data: words.flatten().collect(), changed: None }
    }

    /// The same with some blocks overwritten.
    fn next(&self, blocks: std::ops::Range<u64>) -> Self {
        let mut data = self.data.to_vec();
        let at = |block: u64| usize::try_from(block * BLOCK_BYTES).unwrap_or(0);
        for byte in &mut data[at(blocks.start)..at(blocks.end)] {
            *byte = !*byte;
        }
        let changed = vec![BlockRange::new(blocks.start, blocks.end)];
        Self { point: self.point + 1, data: data.into(), changed: Some((self.point, changed)) }
    }
}

fn from(set: &BlockSet, first: u64) -> Result<BlockSet, VolumeError> {
    let later = set.iter().filter(|range| range.end() > first);
    Ok(later.map(|range| BlockRange::new(range.first().max(first), range.end())).collect())
}

impl Source for Image {
    fn volume(&self) -> VolumeId {
        VolumeId::of(7)
    }

    fn name(&self) -> String {
        "image".to_owned()
    }

    fn bytes(&self) -> u64 {
        self.data.len() as u64
    }

    fn point(&self) -> SnapshotId {
        SnapshotId::of(self.point)
    }

    fn knows(&self, earlier: SnapshotId) -> bool {
        self.changed.as_ref().is_some_and(|(point, _)| SnapshotId::of(*point) == earlier)
    }

    fn mapped(&self, first: u64, _: usize) -> BoxFuture<'_, Result<BlockSet, VolumeError>> {
        ready(from(&vec![BlockRange::new(0, self.blocks())], first)).boxed()
    }

    fn changed_since(
        &self,
        _: SnapshotId,
        first: u64,
        _: usize,
    ) -> BoxFuture<'_, Result<BlockSet, VolumeError>> {
        let changed = self.changed.as_ref().ok_or_else(|| VolumeError::new("unknown point"));
        ready(changed.and_then(|(_, set)| from(set, first))).boxed()
    }

    fn read(&self, extent: Extent) -> BoxFuture<'_, Result<Bytes, VolumeError>> {
        let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
        ready(Ok(self.data.slice(at(extent.offset())..at(extent.end())))).boxed()
    }
}

struct Disk(Mutex<Vec<u8>>);

impl Sink for Disk {
    fn bytes(&self) -> u64 {
        self.0.lock().map(|disk| disk.len() as u64).unwrap_or(0)
    }

    fn is_blank(&self) -> bool {
        true
    }

    fn write(&self, offset: u64, data: Bytes) -> BoxFuture<'_, Result<(), VolumeError>> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        self.0.lock().expect("nobody panics with it")[at..at + data.len()].copy_from_slice(&data);
        ready(Ok(())).boxed()
    }

    fn zero(&self, _: Extent) -> BoxFuture<'_, Result<(), VolumeError>> {
        ready(Ok(())).boxed()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), VolumeError>> {
        ready(Ok(())).boxed()
    }
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn id(number: u128) -> BackupId {
    BackupId::from_uuid(uuid::Uuid::from_u128(number))
}

async fn open(target: &Target, key: Option<&Key>) -> Result<Repository, BackupError> {
    let (store, prefix) = target.connect()?;
    Repository::open(store, prefix, key, "west", Access::ReadWrite).await
}

async fn take(
    repository: &Repository,
    number: u128,
    image: &Arc<Image>,
    watch: &Arc<Watch>,
) -> Result<backup::Taken, BackupError> {
    let sources: Vec<Arc<dyn Source>> = vec![Arc::clone(image) as Arc<dyn Source>];
    let mut catalogue = Catalogue::new(now());
    let request = Request::new(id(number), "nightly");
    repository.take(&request, &sources, &mut catalogue, watch).await
}

async fn check(repository: &Repository, number: u128, image: &Image) -> Result<()> {
    let disk = Disk(Mutex::new(vec![0; image.data.len()]));
    let restore = Restore::new(id(number), image.volume(), 0, now());
    repository.restore(&restore, &disk, &Arc::default()).await?;
    let disk = disk.0.into_inner().expect("nobody panics with it");
    ensure!(disk == image.data, "backup {number} reads back otherwise");
    Ok(())
}

#[test]
fn backups_live_in_a_real_s3_server_through_its_loss_and_lost_rights() -> Result<()> {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let mut rados = Rados::start(folder.path())?;
    let user = rados.user("east")?;
    rados.bucket(&user, "backups", false)?;
    rados.bucket(&user, "locked", true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let key = Key::new([3; 32]);
    let target = rados.target(&user, "backups");

    let first = Arc::new(Image::random(16 * 1024, 1));
    let second = Arc::new(first.next(100..264));
    let repository = runtime.block_on(async {
        let (store, prefix) = target.connect()?;
        let repository = Repository::create(store, prefix, Some(&key), "east").await?;
        let begun = Deadline::after(std::time::Duration::from_mins(1));
        take(&repository, 1, &first, &Arc::default()).await?;
        println!("{} bytes stored in {:?}", first.bytes(), begun.elapsed());
        let watch = Arc::default();
        let taken = take(&repository, 2, &second, &watch).await?;
        ensure!(taken.volumes[0].parent == Some(id(1)), "{taken:?}");
        let moved = watch.progress().moved_bytes;
        ensure!(moved * 1000 <= first.bytes() * 12, "{moved} of {}", first.bytes());
        println!("1 % of {} bytes: {moved} moved", first.bytes());
        let asked = Deadline::after(std::time::Duration::from_mins(1));
        let reader = repository.read(id(2), first.volume(), now(), &Arc::default()).await?;
        reader.read(Extent::new(9000 * BLOCK_BYTES, BLOCK_BYTES)?).await?;
        println!("first byte after {:?}", asked.elapsed());
        reader.close().await?;
        check(&repository, 1, &first).await?;
        check(&repository, 2, &second).await?;
        anyhow::Ok(repository)
    })?;

    // The bucket is lost in the middle, and comes back.
    let third = Arc::new(Image { point: 9, ..Image::random(16 * 1024, 2) });
    let sources: Vec<Arc<dyn Source>> = vec![Arc::clone(&third) as Arc<dyn Source>];
    let lost = interrupted(&runtime, &repository, 3, &third, || rados.lose())?;
    ensure!(matches!(lost, BackupError::Unreachable { .. }), "{lost}");
    rados.resume()?;
    let watch = Arc::default();
    runtime.block_on(repository.resume(id(3), &sources, &watch))?;
    println!("taken up after the loss: {} bytes", watch.progress().found_bytes);
    ensure!(watch.progress().found_bytes > 0, "nothing was taken up");
    runtime.block_on(check(&repository, 3, &third))?;

    // So are the rights.
    let fourth = Arc::new(Image { point: 10, ..Image::random(16 * 1024, 3) });
    let sources: Vec<Arc<dyn Source>> = vec![Arc::clone(&fourth) as Arc<dyn Source>];
    let refused = interrupted(&runtime, &repository, 4, &fourth, || rados.suspend(&user, true))?;
    ensure!(matches!(refused, BackupError::Refused { .. }), "{refused}");
    rados.suspend(&user, false)?;
    runtime.block_on(repository.resume(id(4), &sources, &Arc::default()))?;

    runtime.block_on(elsewhere(&target, &key, &second, &fourth))?;
    runtime.block_on(begun_at_once(&target))?;
    runtime.block_on(async {
        // A bucket with versions, where this server ignores the condition.
        let (store, prefix) = rados.target(&user, "locked").connect()?;
        let locked = Repository::create(store, prefix, None, "east").await;
        let error = locked.err().context("a bucket that replaces what it should not was taken")?;
        ensure!(matches!(error, BackupError::NoConditionalPut { .. }), "{error}");
        Ok(())
    })
}

#[test]
fn bak_01_backups_live_in_a_real_azure_server_and_are_collected_there() -> Result<()> {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let azurite = Azurite::start(folder.path())?;
    azurite.container("backups")?;
    let target = azurite.target("backups");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let key = Key::new([4; 32]);
        let first = Arc::new(Image::random(4 * 1024, 5));
        let second = Arc::new(first.next(100..164));
        let (store, prefix) = target.connect()?;
        let repository = Repository::create(store, prefix, Some(&key), "east").await?;
        take(&repository, 1, &first, &Arc::default()).await?;
        let taken = take(&repository, 2, &second, &Arc::default()).await?;
        ensure!(taken.volumes[0].parent == Some(id(1)), "{taken:?}");
        check(&repository, 1, &first).await?;
        check(&repository, 2, &second).await?;
        let fresh = open(&target, Some(&key)).await?;
        fresh.remove(id(2), now()).await?;
        let collected = fresh.collect(now(), &Watch::default()).await?;
        ensure!(collected.gone.len() == 1 && collected.objects > 0, "{collected:?}");
        check(&fresh, 1, &first).await?;
        let verified = fresh.verify(&[], &Watch::default()).await?;
        ensure!(verified.is_whole() && verified.backups == 1, "{verified:?}");
        begun_at_once(&target).await?;
        let other = target.with("access_key", "aHVzaA==");
        let refused = open(&other, Some(&key)).await.err().context("any key is taken")?;
        ensure!(matches!(refused, BackupError::Refused { .. }), "{refused}");
        Ok(())
    })
}

/// Another gateway, which knows nothing but the bucket and the key.
async fn elsewhere(target: &Target, key: &Key, second: &Image, fourth: &Image) -> Result<()> {
    let fresh = open(target, Some(key)).await?;
    let mut catalogue = Catalogue::new(now());
    catalogue.refresh(&fresh, &Watch::default()).await?;
    ensure!(catalogue.entries().count() == 4, "{catalogue:?}");
    fresh.remove(id(1), now()).await?;
    fresh.remove(id(3), now()).await?;
    let collected = fresh.collect(now(), &Watch::default()).await?;
    ensure!(collected.gone.len() == 2 && collected.objects > 0, "{collected:?}");
    check(&fresh, 2, second).await?;
    check(&fresh, 4, fourth).await?;
    let verified = fresh.verify(&[], &Watch::default()).await?;
    ensure!(verified.is_whole() && verified.backups == 2, "{verified:?}");
    Ok(())
}

/// Many gateways begin a repository at once: one of them does.
async fn begun_at_once(target: &Target) -> Result<()> {
    let (scheme, _) = target.url.split_once("://").context("a URL")?;
    let other = Target { url: format!("{scheme}://backups/race"), ..target.clone() };
    let (store, prefix) = other.connect()?;
    let creations =
        (0..8).map(|_| Repository::create(Arc::clone(&store), prefix.clone(), None, "east"));
    let created = futures_util::future::join_all(creations).await;
    ensure!(created.iter().filter(|created| created.is_ok()).count() == 1, "{created:?}");
    Ok(())
}

/// Takes a backup and does something to the store when some of it arrived; the error of the run.
fn interrupted(
    runtime: &tokio::runtime::Runtime,
    repository: &Repository,
    number: u128,
    image: &Arc<Image>,
    interrupt: impl FnOnce() -> Result<()>,
) -> Result<BackupError> {
    let watch = Arc::new(Watch::default());
    watch.limit_packs(1 << 20);
    runtime.block_on(async {
        let run = take(repository, number, image, &watch);
        let mut run = std::pin::pin!(run);
        // Polled by hand, so that the run stands still while the store is tampered with.
        while watch.progress().moved_bytes < 24 << 20 {
            let turn = tokio::time::sleep(std::time::Duration::from_millis(1));
            tokio::select! {
                taken = &mut run => anyhow::bail!("it ended too early: {taken:?}"),
                () = turn => {}
            }
        }
        interrupt()?;
        run.await.err().context("it did not notice")
    })
}
