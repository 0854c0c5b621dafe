//! Objects that are missing, cut off, altered or too new: each is named with what it hurts.

use twinspan_backup::{BackupError, Repository, Status, Verified};

use crate::runs::{restored, take};
use crate::store::{Seen, catalogue, id, now, watch};
use crate::volumes::Volume;

async fn verify(repository: &Repository) -> Verified {
    repository.verify(&[], &watch()).await.unwrap()
}

/// Two backups; the second has one block of its own.
async fn two() -> (Seen, Repository, Volume) {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 8 << 20);
    volume.write(0..64, 1);
    take(&repository, 1, &volume.point()).await;
    volume.write(20..21, 1001);
    take(&repository, 2, &volume.point()).await;
    assert!(verify(&repository).await.is_whole());
    (store, repository, volume)
}

async fn pack_of(store: &Seen, number: u128) -> String {
    let packs = store.keys(&format!("packs/{}", id(number))).await;
    assert_eq!(packs.len(), 1);
    packs[0].clone()
}

#[tokio::test]
async fn an_altered_block_hurts_only_who_reads_it() {
    let (store, repository, volume) = two().await;
    let key = pack_of(&store, 1).await;
    let mut bytes = store.get_all(&key).await.to_vec();
    // The chunks are 64 KiB each and do not compress: this is in the second.
    bytes[48 + 65536 + 5 * 4096] ^= 1;
    store.put_all(&key, bytes.into()).await;
    let verified = verify(&repository).await;
    assert_eq!(verified.damage.len(), 1);
    let damage = &verified.damage[0];
    assert!(key.ends_with(&damage.key) && matches!(damage.error, BackupError::Damaged { .. }));
    let blocks: Vec<_> = damage
        .hurt
        .iter()
        .map(|hurt| (hurt.backup, hurt.volume, hurt.blocks.first(), hurt.blocks.end()))
        .collect();
    let both = [
        (id(1), volume.id, 16, 32),
        // Its own block 20 lies elsewhere.
        (id(2), volume.id, 16, 20),
        (id(2), volume.id, 21, 32),
    ];
    assert_eq!(blocks, both);
    let disk = crate::volumes::Disk::blank(8 << 20);
    let restore = twinspan_backup::Restore::new(id(1), volume.id, 0, now());
    let error = repository.restore(&restore, &disk, &watch()).await.unwrap_err();
    assert!(error.to_string().contains(&damage.key), "{error}");
}

#[tokio::test]
async fn a_pack_that_is_cut_off_or_gone_is_told() {
    let (store, repository, volume) = two().await;
    let key = pack_of(&store, 2).await;
    let whole = store.get_all(&key).await;
    store.put_all(&key, whole.slice(..1000)).await;
    let verified = verify(&repository).await;
    assert_eq!(verified.hurt().into_iter().collect::<Vec<_>>(), [id(2)]);
    assert!(verified.damage[0].error.to_string().contains("cut off"), "{:?}", verified.damage);
    store.lose(&key).await;
    let verified = verify(&repository).await;
    assert!(matches!(verified.damage[0].error, BackupError::Missing { .. }));
    assert_eq!(verified.damage[0].hurt[0].blocks.first(), 20);
    // A new backup that reads the volume whole does not notice; the next verification still does.
    let mut volume = volume;
    volume.forget();
    store.put_all(&key, whole).await;
    assert!(verify(&repository).await.is_whole());
    let point = volume.point();
    take(&repository, 3, &point).await;
    assert!(restored(&repository, 3, &point).await);
}

#[tokio::test]
async fn a_lost_map_hurts_its_segment_and_stops_a_collection() {
    let (store, repository, volume) = two().await;
    let maps = store.keys(&format!("maps/{}", id(2))).await;
    store.lose(&maps[0]).await;
    let verified = verify(&repository).await;
    let hurt = verified.damage[0].hurt[0];
    assert_eq!((hurt.backup, hurt.volume), (id(2), volume.id));
    assert_eq!((hurt.blocks.first(), hurt.blocks.end()), (0, 2048));
    repository.remove(id(1), now()).await.unwrap();
    let packs = store.keys("packs").await;
    let refused = repository.collect(now(), &watch()).await.unwrap_err();
    assert!(matches!(refused, BackupError::Missing { .. }), "{refused}");
    assert_eq!(store.keys("packs").await, packs, "what is needed is not known");
    // Removing the hurt one sets the rest free.
    repository.remove(id(2), now()).await.unwrap();
    repository.collect(now(), &watch()).await.unwrap();
    assert_eq!(store.keys("packs").await, [""; 0]);
}

#[tokio::test]
async fn a_manifest_of_a_later_version_is_refused_by_name_and_hides_no_other() {
    let (store, repository, _volume) = two().await;
    let key = format!("backups-of-east/backups/{}", id(2));
    let mut bytes = store.get_all(&key).await.to_vec();
    bytes[8] = 9;
    store.put_all(&key, bytes.into()).await;
    let catalogue = catalogue(&repository).await;
    let entry = catalogue.entry(id(2)).unwrap();
    assert_eq!((entry.status, entry.status.as_str()), (Status::Error, "error"));
    let error = entry.error.as_ref().unwrap().to_string();
    assert!(error.contains("format version 9") && error.contains("Upgrade"), "{error}");
    assert_eq!(catalogue.entry(id(1)).unwrap().status, Status::Available);
    let verified = verify(&repository).await;
    assert!(matches!(verified.damage[0].error, BackupError::Newer { found: 9, .. }));
    // It may be locked, and what it needs is not known.
    assert!(matches!(repository.remove(id(2), now()).await, Err(BackupError::Newer { .. })));
    assert!(matches!(repository.collect(now(), &watch()).await, Err(BackupError::Newer { .. })));
}

#[tokio::test]
async fn a_damaged_manifest_can_be_removed() {
    let (store, repository, _volume) = two().await;
    let key = format!("backups-of-east/backups/{}", id(1));
    let bytes = store.get_all(&key).await;
    store.put_all(&key, bytes.slice(..bytes.len() - 1)).await;
    assert!(matches!(repository.collect(now(), &watch()).await, Err(BackupError::Damaged { .. })));
    repository.remove(id(1), now()).await.unwrap();
    repository.collect(now(), &watch()).await.unwrap();
    assert!(verify(&repository).await.is_whole());
}

#[tokio::test]
async fn a_damaged_pack_of_an_interrupted_run_is_stored_again() {
    use std::sync::Arc;
    use twinspan_backup::{Request, Source};
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 32 << 20);
    volume.write(0..8192, 1);
    let mut point = (*volume.point()).clone();
    point.broken = Some(8000);
    let sources: Vec<Arc<dyn Source>> = vec![Arc::new(point.clone())];
    let mut catalogue = catalogue(&repository).await;
    let small = watch();
    small.limit_packs(1);
    let request = Request::new(id(1), "x");
    let failed = repository.take(&request, &sources, &mut catalogue, &small).await;
    assert!(failed.unwrap_err().is_resumable());
    let packs = store.keys("packs").await;
    assert!(packs.len() > 1, "{packs:?}");
    let bytes = store.get_all(&packs[1]).await;
    store.put_all(&packs[1], bytes.slice(..bytes.len() - 3)).await;
    point.broken = None;
    let point = Arc::new(point);
    let sources: Vec<Arc<dyn Source>> = vec![point.clone()];
    repository.resume(id(1), &sources, &watch()).await.unwrap();
    assert!(restored(&repository, 1, &point).await);
    assert!(verify(&repository).await.is_whole());
}
