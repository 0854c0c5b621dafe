//! Taking, resuming and reading backups, and what they cost.

use std::sync::Arc;

use block::{BLOCK_BYTES, Extent};
use twinspan_backup::{
    Access, BackupError, Catalogue, Consistency, Key, Repository, Request, Restore, Source, Status,
    Taken, Target, Watch,
};

use crate::store::{Seen, catalogue, id, now, prefix, watch};
use crate::volumes::{Disk, Point, Volume, bytes_of, step};

pub(crate) async fn take(repository: &Repository, number: u128, point: &Arc<Point>) -> Taken {
    let sources: Vec<Arc<dyn Source>> = vec![Arc::clone(point) as Arc<dyn Source>];
    let mut catalogue = catalogue(repository).await;
    let request = Request::new(id(number), "nightly");
    repository.take(&request, &sources, &mut catalogue, &watch()).await.unwrap()
}

pub(crate) async fn restored(repository: &Repository, number: u128, point: &Arc<Point>) -> bool {
    let disk = Disk::blank(point.bytes());
    let restore = Restore::new(id(number), point.volume(), 0, now());
    repository.restore(&restore, &disk, &watch()).await.unwrap();
    disk.holds(&point.content)
}

#[tokio::test]
async fn one_per_cent_of_random_changes_moves_less_than_1_2_per_cent() {
    let store = Seen::memory();
    let repository = store.create(Some(&Key::new([1; 32]))).await;
    let mut volume = Volume::new(1, 256 << 20);
    let blocks = volume.bytes / BLOCK_BYTES;
    volume.write(0..blocks, 1);
    take(&repository, 1, &volume.point()).await;
    assert!(store.sent() > volume.bytes, "nothing of it compresses");
    let mut draws = 5;
    let mut changed = std::collections::BTreeSet::new();
    while (changed.len() as u64) < blocks / 100 {
        draws = step(draws);
        changed.insert(draws % blocks);
    }
    for block in changed {
        draws = step(draws);
        volume.write(block..block + 1, draws | 1);
    }
    let (sent, requests) = (store.sent(), store.requests());
    let point = volume.point();
    let taken = take(&repository, 2, &point).await;
    let moved = store.sent() - sent;
    assert!(moved * 1000 <= volume.bytes * 12, "{moved} of {}", volume.bytes);
    assert!(store.requests() - requests < 30, "{} requests", store.requests() - requests);
    assert_eq!(taken.volumes[0].parent, Some(id(1)));
    assert_eq!(taken.volumes[0].read_bytes, blocks / 100 * BLOCK_BYTES);
    assert!(restored(&repository, 2, &point).await);
}

#[tokio::test]
async fn what_the_last_backup_holds_is_not_stored_again_though_the_point_is_forgotten() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 16 << 20);
    volume.write(0..2000, 1);
    take(&repository, 1, &volume.point()).await;
    volume.write(100..116, 77);
    volume.trim(500..600);
    volume.forget();
    let sent = store.sent();
    let point = volume.point();
    let taken = take(&repository, 2, &point).await;
    assert_eq!(taken.volumes[0].parent, Some(id(1)));
    assert_eq!(taken.volumes[0].read_bytes, 1900 * BLOCK_BYTES, "all of it is read");
    let moved = store.sent() - sent;
    // Two chunks and what is left of the two at the ends of what was trimmed.
    assert!(moved < 6 * 65536, "{moved}");
    assert!(restored(&repository, 2, &point).await);
    // And where nothing changed nothing but a manifest is stored.
    volume.forget();
    let (maps, packs) = (store.keys("maps").await.len(), store.keys("packs").await.len());
    take(&repository, 3, &volume.point()).await;
    assert_eq!((store.keys("maps").await.len(), store.keys("packs").await.len()), (maps, packs));
}

#[tokio::test]
async fn what_was_overwritten_whole_is_not_kept_for_the_sake_of_its_map() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 16 << 20);
    volume.write(0..4096, 1);
    take(&repository, 1, &volume.point()).await;
    volume.write(0..4096, 1_000_001);
    volume.forget();
    let point = volume.point();
    take(&repository, 2, &point).await;
    repository.remove(id(1), now()).await.unwrap();
    let collected = repository.collect(now(), &watch()).await.unwrap();
    assert!(collected.bytes > 16 << 20, "{collected:?}");
    assert!(restored(&repository, 2, &point).await);
}

#[tokio::test]
async fn the_first_byte_costs_a_manifest_its_maps_and_a_part_of_a_pack() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 3 << 30);
    volume.write(0..4000, 1);
    volume.write(600_000..601_000, 1);
    take(&repository, 1, &volume.point()).await;
    volume.write(600_500..600_501, 9);
    let point = volume.point();
    take(&repository, 2, &point).await;
    let reading = store.try_open(None, Access::ReadOnly).await.unwrap();
    let before = store.requests();
    let reader = reading.read(id(2), volume.id, now(), &watch()).await.unwrap();
    let extent = Extent::new(600_500 * BLOCK_BYTES, BLOCK_BYTES).unwrap();
    assert_eq!(reader.read(extent).await.unwrap(), bytes_of(&point.content, extent));
    // Is it removed; the manifest; two maps; a part of a pack.
    assert_eq!(store.requests() - before, 5);
    let extent = Extent::new(599_990 * BLOCK_BYTES, 100 * BLOCK_BYTES).unwrap();
    assert_eq!(reader.read(extent).await.unwrap(), bytes_of(&point.content, extent));
    let far = Extent::new(3 << 30, BLOCK_BYTES).unwrap();
    assert!(reader.read(far).await.is_err());
    assert!(reader.pin().is_none(), "nothing is written where nothing may be");
}

#[tokio::test]
async fn what_is_pinned_by_name_is_read_again_after_its_removal_until_it_is_let_go() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 3 << 30);
    volume.write(10..4000, 1);
    volume.write(262_140..262_150, 3);
    volume.write(600_000..601_000, 1);
    take(&repository, 1, &volume.point()).await;
    volume.trim(100..200);
    let point = volume.point();
    take(&repository, 2, &point).await;
    let (pin, what) = (id(77), (id(2), volume.id));
    repository.pin_reading(pin, what, now()).await.unwrap();
    repository.remove(id(2), now()).await.unwrap();
    assert_eq!(repository.collect(now(), &watch()).await.unwrap().kept, [id(2)]);
    let reader = repository.read_pinned(what, &watch()).await.unwrap();
    let extent = Extent::new(262_000 * BLOCK_BYTES, 300 * BLOCK_BYTES).unwrap();
    assert_eq!(reader.read(extent).await.unwrap(), bytes_of(&point.content, extent));
    // All of it, from anywhere, in pieces that join.
    let all = reader.mapped(0, 10).await.unwrap();
    let spans: Vec<_> = all.iter().map(|range| (range.first(), range.end())).collect();
    assert_eq!(spans, [(10, 100), (200, 4000), (262_140, 262_150), (600_000, 601_000)]);
    assert_eq!(reader.mapped(0, 2).await.unwrap(), all[..2]);
    assert_eq!(reader.mapped(4000, 10).await.unwrap(), all[2..]);
    let within = reader.mapped(600_500, 10).await.unwrap();
    assert_eq!(within, [block::BlockRange::new(600_500, 601_000)]);
    reader.close().await.unwrap();
    assert_eq!(repository.collect(now(), &watch()).await.unwrap().kept, [id(2)]);
    repository.unpin(pin).await.unwrap();
    assert_eq!(repository.collect(now(), &watch()).await.unwrap().gone, [id(2)]);
    assert!(repository.read_pinned(what, &watch()).await.is_err());
    // What was removed before is not pinned.
    let refused = repository.pin_reading(pin, what, now()).await;
    assert!(refused.is_err() && repository.collect(now(), &watch()).await.unwrap().pins.is_empty());
}

#[tokio::test]
async fn a_segment_of_many_maps_is_merged_and_the_oldest_backup_can_go() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 8 << 20);
    volume.write(0..2000, 1);
    let mut points = Vec::new();
    for number in 1..=40_u64 {
        volume.write(number * 7..number * 7 + 3, number * 1000);
        volume.trim(number * 31..number * 31 + 2);
        points.push(volume.point());
        take(&repository, number.into(), points.last().unwrap()).await;
    }
    let before = store.requests();
    let reader = repository.read(id(40), volume.id, now(), &watch()).await.unwrap();
    reader.read(Extent::new(0, BLOCK_BYTES).unwrap()).await.unwrap();
    assert!(store.requests() - before <= 16 + 4, "{} requests", store.requests() - before);
    reader.close().await.unwrap();
    // Every other one goes, the first full one too.
    for number in (1..=40).step_by(2) {
        repository.remove(id(number), now()).await.unwrap();
    }
    let collected = repository.collect(now(), &watch()).await.unwrap();
    assert_eq!(collected.gone.len(), 20);
    for number in (2..=40).step_by(2) {
        assert!(restored(&repository, number as u128, &points[number - 1]).await, "{number}");
    }
}

#[tokio::test]
async fn a_group_is_complete_or_absent_and_of_one_cut() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let (mut log, mut data) = (Volume::new(1, 4 << 20), Volume::new(2, 4 << 20));
    log.write(0..10, 1);
    data.write(0..10, 3);
    let (first, second) = (log.point(), data.point());
    let mut broken = (*second).clone();
    broken.broken = Some(5);
    let sources: Vec<Arc<dyn Source>> = vec![first.clone(), Arc::new(broken)];
    let mut request = Request::new(id(1), "erp");
    request.group = Some((block::GroupId::of(9), "erp".to_owned()));
    request.consistency = Consistency::Application;
    request.labels = vec![("cut".to_owned(), "17".to_owned())];
    let mut catalogue = catalogue(&repository).await;
    let failed = repository.take(&request, &sources, &mut catalogue, &watch()).await;
    let error = failed.unwrap_err();
    assert!(matches!(error, BackupError::Source { volume, .. } if volume == data.id), "{error}");
    catalogue.refresh(&repository, &watch()).await.unwrap();
    assert_eq!(catalogue.entry(id(1)).unwrap().status, Status::Protecting);
    assert_eq!(catalogue.entry(id(1)).unwrap().gateway.as_deref(), Some("east-1"));
    let refused = repository.read(id(1), log.id, now(), &watch()).await;
    assert!(matches!(refused, Err(BackupError::NoBackup { .. })));
    // The sector was mended: what is there already is not stored again.
    let sources: Vec<Arc<dyn Source>> = vec![second.clone(), first.clone()];
    repository.resume(id(1), &sources, &watch()).await.unwrap();
    catalogue.refresh(&repository, &watch()).await.unwrap();
    let held = catalogue.entry(id(1)).unwrap().held.clone().unwrap();
    assert_eq!(held.about.group, request.group);
    assert_eq!(held.about.consistency, Consistency::Application);
    assert_eq!(held.about.labels, request.labels);
    assert_eq!(held.volumes.len(), 2);
    assert!(restored(&repository, 1, &first).await && restored(&repository, 1, &second).await);
}

#[tokio::test]
async fn two_gateways_that_back_up_the_same_volume_do_no_harm() {
    let store = Seen::memory();
    let (east, west) = (store.create(None).await, store.other().open(None).await);
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..100, 1);
    take(&east, 1, &volume.point()).await;
    volume.write(50..60, 1001);
    let (a, b) = (volume.point(), volume.point());
    tokio::join!(take(&east, 2, &a), take(&west, 3, &b));
    assert!(restored(&west, 2, &a).await && restored(&east, 3, &b).await);
    // The same run on both, as when a gateway is taken for dead: one manifest, which both tell.
    volume.write(10..20, 5);
    let c = volume.point();
    let (one, two) = tokio::join!(take(&east, 4, &c), take(&west, 4, &c));
    assert_eq!(one.id, two.id);
    assert!(restored(&east, 4, &c).await);
    let catalogue = catalogue(&east).await;
    assert_eq!(catalogue.entries().count(), 4);
}

#[tokio::test]
async fn a_clock_that_moved_back_changes_no_order() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..100, 1);
    take(&repository, 10, &volume.point()).await;
    volume.write(0..1, 7);
    let point = volume.point();
    let sources: Vec<Arc<dyn Source>> = vec![point.clone()];
    let mut catalogue = Catalogue::new("2020-01-01T00:00:00Z".parse().unwrap());
    let request = Request::new(id(5), "earlier, says the clock");
    // Its identity sorts first too, as one that is made of the time does.
    repository.take(&request, &sources, &mut catalogue, &watch()).await.unwrap();
    volume.write(1..2, 7);
    let taken = take(&repository, 11, &volume.point()).await;
    assert_eq!(taken.volumes[0].parent, Some(id(5)), "the last one that was taken");
    assert_eq!(taken.volumes[0].read_bytes, BLOCK_BYTES);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_name() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 4 << 20);
    let point = volume.point();
    let mut catalogue = catalogue(&repository).await;
    let mut refused = async |request: Request, sources: Vec<Arc<dyn Source>>| {
        let taken = repository.take(&request, &sources, &mut catalogue, &watch()).await;
        taken.unwrap_err().to_string()
    };
    let request = || Request::new(id(1), "x");
    assert!(refused(request(), vec![]).await.contains("1 to 4096 different volumes"));
    let twice: Vec<Arc<dyn Source>> = vec![point.clone(), point.clone()];
    assert!(refused(request(), twice).await.contains("different volumes"));
    let long = Request::new(id(1), "x".repeat(5000));
    assert!(refused(long, vec![point.clone()]).await.contains("longer than 4096"));
    take(&repository, 2, &point).await;
    let limited = Request { backups_max: Some(1), ..request() };
    let error = refused(limited, vec![volume.point()]).await;
    assert!(error.contains("has 1 backups, which is its limit"), "{error}");
    let resumed = repository.resume(id(77), &[], &watch()).await.unwrap_err();
    assert!(matches!(resumed, BackupError::NotResumable { .. }));
}

#[tokio::test]
async fn keys_and_prefixes_are_told_apart() {
    let (store, key) = (Seen::memory(), Key::new([1; 32]));
    let nothing = store.try_open(None, Access::ReadWrite).await.unwrap_err();
    assert!(matches!(nothing, BackupError::NoRepository));
    let repository = store.create(Some(&key)).await;
    assert!(repository.is_encrypted());
    let again = Repository::create(Arc::new(store.clone()), prefix(), None, "x").await;
    assert!(matches!(again, Err(BackupError::RepositoryExists)));
    let wrong = store.try_open(Some(&Key::new([2; 32])), Access::ReadWrite).await.unwrap_err();
    assert!(matches!(wrong, BackupError::WrongKey));
    let none = store.try_open(None, Access::ReadWrite).await.unwrap_err();
    assert!(matches!(none, BackupError::KeyNeeded));
    // Nothing in the bucket tells what was backed up.
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..64, 2);
    take(&repository, 1, &volume.point()).await;
    let fill = crate::volumes::fill(2);
    for key in store.keys("").await {
        let object = store.get_all(&key).await;
        let is_shown = object.windows(16).any(|w| w == &fill[..16] || w.starts_with(b"disk-1"));
        assert!(!is_shown, "{key}");
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let store: Arc<dyn object_store::ObjectStore> = Arc::new(Seen::memory().ignoring_conditions());
    let created = Repository::create(store, prefix(), None, "east-1").await;
    let error = created.unwrap_err();
    assert!(matches!(error, BackupError::NoConditionalPut { .. }), "{error}");
}

#[tokio::test]
async fn a_cancelled_run_can_be_resumed_and_stores_little_again() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 64 << 20);
    volume.write(0..8192, 1);
    let point = volume.point();
    let sources: Vec<Arc<dyn Source>> = vec![point.clone()];
    let cancel = tokio_util::sync::CancellationToken::new();
    let watch = Arc::new(Watch::new(cancel.clone()));
    watch.limit_packs(1 << 20);
    // So that it waits now and then, and whoever cancels it has a turn before it is done.
    watch.limit(40 << 20);
    let mut catalogue = catalogue(&repository).await;
    let request = Request::new(id(1), "x");
    let run = repository.take(&request, &sources, &mut catalogue, &watch);
    let stop = async {
        // Until some of it arrived.
        while watch.progress().moved_bytes < 20 << 20 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (taken, ()) = tokio::join!(run, stop);
    assert!(matches!(taken, Err(BackupError::Cancelled)));
    let sent = store.sent();
    let again = crate::store::watch();
    repository.resume(id(1), &sources, &again).await.unwrap();
    let found = again.progress().found_bytes;
    assert!(found > 8 << 20, "{found}");
    assert!(store.sent() - sent < (64 << 20) - found + (1 << 20));
    assert!(restored(&repository, 1, &point).await);
    let other = repository.resume(id(1), &sources, &again).await.unwrap();
    assert_eq!(other.id, id(1), "one that is complete is told as it is");
}

#[tokio::test]
async fn a_directory_is_a_target_and_opens_elsewhere_with_nothing_but_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::new(format!("file://{}/backups", folder.path().display()));
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..100, 1);
    let point = volume.point();
    {
        let (store, prefix) = target.connect().unwrap();
        let repository = Repository::create(store, prefix, None, "east-1").await.unwrap();
        take(&repository, 1, &point).await;
    }
    let (store, prefix) = target.connect().unwrap();
    let fresh = Repository::open(store, prefix, None, "west-1", Access::ReadOnly).await.unwrap();
    let catalogue = catalogue(&fresh).await;
    let entry = catalogue.entries().next().unwrap();
    assert_eq!(entry.held.as_ref().unwrap().about.gateway, "east-1");
    assert!(restored(&fresh, 1, &point).await);
}
