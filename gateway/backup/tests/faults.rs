//! A store that is lost or refuses in the middle of anything: told by name, and resumed.

use std::sync::Arc;

use twinspan_backup::{BackupError, Request, Restore, Source};

use crate::runs::{restored, take};
use crate::store::{Failure, Seen, catalogue, id, now, watch};
use crate::volumes::{Disk, Point, Volume};

fn sources(point: &Arc<Point>) -> Vec<Arc<dyn Source>> {
    vec![Arc::clone(point) as Arc<dyn Source>]
}

/// Takes a backup with the store failing after so many requests, and resumes it; whether it came
/// to its end before that.
async fn failing_after(requests: u64, failure: Failure) -> bool {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..200, 1);
    take(&repository, 1, &volume.point()).await;
    volume.write(40..140, 2001);
    let point = volume.point();
    let mut catalogue = catalogue(&repository).await;
    let small = watch();
    small.limit_packs(1);
    store.fail_after(requests, failure);
    let request = Request::new(id(2), "x");
    let taken = repository.take(&request, &sources(&point), &mut catalogue, &small).await;
    store.mend();
    let Err(error) = taken else { return true };
    let is_told = match failure {
        Failure::Unreachable => matches!(error, BackupError::Unreachable { .. }),
        Failure::Refused => matches!(error, BackupError::Refused { .. }),
    };
    assert!(is_told && error.is_resumable() && error.to_string().contains("resume"), "{error}");
    match repository.resume(id(2), &sources(&point), &watch()).await {
        Ok(_) => {}
        // Nothing of it was there yet.
        Err(BackupError::NotResumable { .. }) => drop(take(&repository, 2, &point).await),
        Err(error) => panic!("after {requests} requests: {error}"),
    }
    assert!(restored(&repository, 2, &point).await, "after {requests} requests");
    repository.collect(now(), &watch()).await.unwrap();
    assert!(restored(&repository, 2, &point).await, "after {requests} requests and swept");
    assert_eq!(store.keys("pins").await, [""; 0]);
    false
}

async fn failing_at_each_request(failure: Failure) {
    let mut requests = 0;
    while !failing_after(requests, failure).await {
        requests += 1;
        assert!(requests < 200, "it never ends");
    }
    assert!(requests > 10, "it takes some requests");
}

#[tokio::test]
async fn a_bucket_that_is_lost_at_any_request_is_told_and_the_run_resumed() {
    failing_at_each_request(Failure::Unreachable).await;
}

#[tokio::test]
async fn credentials_that_are_revoked_at_any_request_are_told_and_the_run_resumed() {
    failing_at_each_request(Failure::Refused).await;
}

/// Found in a review: a run that was killed between its pin and its look at the parent went on without
/// that look, although a collection had not seen the pin and was giving back what the parent holds.
#[tokio::test]
async fn a_run_that_was_killed_before_it_looked_at_its_parent_looks_when_it_goes_on() {
    for killed_after in 0..300 {
        let store = Seen::memory();
        let repository = store.create(None).await;
        let mut volume = Volume::new(1, 4 << 20);
        volume.write(0..200, 1);
        take(&repository, 1, &volume.point()).await;
        volume.write(40..60, 2001);
        let point = volume.point();
        // It is killed right behind its pin.
        let request = Request::new(id(2), "x");
        let mut requests = 0;
        while store.keys("pins").await.is_empty() {
            let mut catalogue = catalogue(&repository).await;
            store.fail_after(requests, Failure::Unreachable);
            let taken = repository.take(&request, &sources(&point), &mut catalogue, &watch()).await;
            assert!(taken.is_err(), "after {requests} requests");
            store.mend();
            requests += 1;
        }
        assert_eq!(store.keys(&format!("packs/{}", id(2))).await, [""; 0]);
        // To a collection that was killed, too, the pin came too late.
        let pin = store.keys("pins").await.remove(0);
        let late = store.get_all(&pin).await;
        store.lose(&pin).await;
        repository.remove(id(1), now()).await.unwrap();
        store.fail_after(killed_after, Failure::Unreachable);
        let collected = repository.collect(now(), &watch()).await;
        store.mend();
        store.put_all(&pin, late).await;

        let resumed = repository.resume(id(2), &sources(&point), &watch()).await;
        assert!(matches!(resumed, Err(BackupError::ParentGone)), "{killed_after}: {resumed:?}");
        assert_eq!(store.keys("pins").await, [""; 0]);
        take(&repository, 3, &point).await;
        repository.collect(now(), &watch()).await.unwrap();
        assert!(restored(&repository, 3, &point).await, "after {killed_after} requests");
        assert!(repository.verify(&[], &watch()).await.unwrap().is_whole());
        if collected.is_ok() {
            assert!(killed_after > 5, "it takes some requests");
            return;
        }
    }
    panic!("it never ends");
}

#[tokio::test]
async fn a_collection_that_is_killed_at_any_request_loses_nothing() {
    for requests in 0..300 {
        let store = Seen::memory();
        let repository = store.create(None).await;
        let mut volume = Volume::new(1, 4 << 20);
        let mut points = Vec::new();
        for number in 0..4_u64 {
            volume.write(number * 10..number * 10 + 40, number * 1000 + 1);
            points.push(volume.point());
            take(&repository, u128::from(number), &points[points.len() - 1]).await;
        }
        repository.remove(id(0), now()).await.unwrap();
        repository.remove(id(2), now()).await.unwrap();
        store.fail_after(requests, Failure::Unreachable);
        let collected = repository.collect(now(), &watch()).await;
        store.mend();
        assert!(restored(&repository, 1, &points[1]).await, "after {requests} requests");
        assert!(restored(&repository, 3, &points[3]).await, "after {requests} requests");
        let gone = repository.read(id(2), volume.id, now(), &watch()).await;
        let is_gone =
            matches!(gone, Err(BackupError::Removed { .. } | BackupError::NoBackup { .. }));
        assert!(is_gone, "after {requests} requests");
        repository.collect(now(), &watch()).await.unwrap();
        assert!(repository.verify(&[], &watch()).await.unwrap().is_whole());
        assert_eq!(store.keys("removed").await, [""; 0]);
        if collected.is_ok() {
            assert!(requests > 15, "it takes some requests");
            return;
        }
    }
    panic!("it never ends");
}

/// A bucket has a retention of its own, for all of it or for a part: what it keeps is told by name,
/// nothing else is hindered, and it goes when the retention is over.
#[tokio::test]
async fn what_a_store_refuses_to_remove_is_told_and_hinders_nothing_else() {
    for folder in ["packs", "maps", "backups", "removed", "locks", "pins", "clock", ""] {
        let store = Seen::memory();
        let repository = store.create(None).await;
        let mut volume = Volume::new(1, 4 << 20);
        volume.write(0..200, 1);
        take(&repository, 1, &volume.point()).await;
        // It builds upon nothing: all of the first may go.
        let first = volume.id;
        volume = Volume::new(2, 4 << 20);
        volume.write(0..200, 9001);
        let point = volume.point();
        take(&repository, 2, &point).await;
        repository.lock(id(1), "2020-01-01T00:00:00Z".parse().unwrap()).await.unwrap();
        store.retain(Some(folder));
        repository.remove(id(1), now()).await.unwrap();
        for _ in 0..2 {
            let collected = repository.collect(now(), &watch()).await.unwrap();
            let words = collected.refused_words();
            let is_told = words.as_ref().is_none_or(|words| words.contains("it is under"));
            assert!(is_told && words.is_some() == (collected.refused > 0), "{folder}: {words:?}");
            if ["packs", "maps", "backups", "removed", "locks", ""].contains(&folder) {
                assert!(collected.refused > 0, "{folder}");
            }
            let is_there = ["backups", ""].contains(&folder);
            let (gone, kept) = (collected.gone.contains(&id(1)), collected.kept.contains(&id(1)));
            assert_eq!(kept, is_there, "{folder}: {collected:?}");
            assert!(!(gone && kept), "{folder}");
        }
        // Others go on: reading, and taking what builds upon it.
        let read = repository.read(id(1), first, now(), &watch()).await;
        let is_gone =
            matches!(read, Err(BackupError::Removed { .. } | BackupError::NoBackup { .. }));
        assert!(is_gone, "{folder}");
        assert!(restored(&repository, 2, &point).await, "{folder}");
        volume.write(5..9, 77);
        let newer = volume.point();
        take(&repository, 3, &newer).await;
        assert!(restored(&repository, 3, &newer).await, "{folder}");
        store.retain(None);
        let collected = repository.collect(now(), &watch()).await.unwrap();
        assert_eq!((collected.refused, collected.refused_words()), (0, None), "{folder}");
        assert!(repository.verify(&[], &watch()).await.unwrap().is_whole(), "{folder}");
        for left in ["removed", "locks", "pins"] {
            assert_eq!(store.keys(left).await, [""; 0], "{folder}: {left}");
        }
        assert!(restored(&repository, 2, &point).await && restored(&repository, 3, &newer).await);
    }
}

/// A gateway that is killed between any two steps of a collection, beside another one that reads a
/// backup all the time and takes one that builds upon what is there. Nothing of a collection is
/// written down anywhere but in the bucket, so its requests are all its steps.
#[tokio::test]
async fn a_collection_that_is_killed_at_any_request_harms_nobody_who_reads_or_takes_meanwhile() {
    for requests in 0..300 {
        let store = Seen::memory();
        let (repository, other) = (store.create(None).await, store.other().open(None).await);
        let mut volume = Volume::new(1, 4 << 20);
        let mut points = Vec::new();
        for number in 0..4_u64 {
            volume.write(number * 10..number * 10 + 40, number * 1000 + 1);
            points.push(volume.point());
            take(&repository, u128::from(number), &points[points.len() - 1]).await;
        }
        let reader = other.read(id(2), volume.id, now(), &watch()).await.unwrap();
        for removed in [0, 2] {
            repository.remove(id(removed), now()).await.unwrap();
        }
        store.fail_after(requests, Failure::Unreachable);
        let collected = repository.collect(now(), &watch()).await;
        volume.write(5..25, 9001);
        points.push(volume.point());
        take(&other, 4, &points[4]).await;
        let extent = block::Extent::new(0, 200 * 4096).unwrap();
        let read = reader.read(extent).await.unwrap();
        assert_eq!(read, crate::volumes::bytes_of(&points[2].content, extent));
        reader.close().await.unwrap();
        store.mend();
        repository.collect(now(), &watch()).await.unwrap();
        for kept in [1, 3, 4] {
            let number = u128::try_from(kept).unwrap();
            assert!(restored(&other, number, &points[kept]).await, "after {requests} requests");
        }
        assert!(repository.verify(&[], &watch()).await.unwrap().is_whole());
        assert_eq!((store.keys("removed").await, store.keys("pins").await), (vec![], vec![]));
        if collected.is_ok() {
            assert!(requests > 10, "it takes some requests");
            return;
        }
    }
    panic!("it never ends");
}

#[tokio::test]
async fn an_abandoned_run_that_is_alive_fails_and_what_it_stored_goes() {
    let store = Seen::memory();
    let (repository, other) = (store.create(None).await, store.other().open(None).await);
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..200, 1);
    let point = volume.point();
    let mut catalogue = catalogue(&repository).await;
    store.fail_after(8, Failure::Unreachable);
    let small = watch();
    small.limit_packs(1);
    let request = Request::new(id(1), "x");
    let taken = repository.take(&request, &sources(&point), &mut catalogue, &small).await;
    assert!(taken.is_err());
    store.mend();
    assert!(!store.keys("packs").await.is_empty());
    // While its pin is there, nothing of it goes.
    let kept = other.collect(now(), &watch()).await.unwrap();
    assert_eq!((kept.objects, kept.pins.len()), (0, 1));
    assert_eq!(kept.pins[0], (id(1), "east-1".to_owned()));
    assert!(!other.abandon(id(1)).await.unwrap());
    let resumed = repository.resume(id(1), &sources(&point), &watch()).await;
    assert!(matches!(resumed, Err(BackupError::Abandoned { .. })), "{resumed:?}");
    let swept = other.collect(now(), &watch()).await.unwrap();
    assert!(swept.objects > 0);
    assert_eq!(store.keys("packs").await, [""; 0]);
    // One that is complete is not undone.
    take(&repository, 2, &point).await;
    assert!(other.abandon(id(2)).await.unwrap());
    assert!(restored(&repository, 2, &point).await);
}

#[tokio::test]
async fn what_an_interrupted_run_builds_upon_stays_though_it_is_removed() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..200, 1);
    take(&repository, 1, &volume.point()).await;
    volume.write(10..160, 5001);
    let point = volume.point();
    let mut catalogue = catalogue(&repository).await;
    store.fail_after(14, Failure::Unreachable);
    let small = watch();
    small.limit_packs(1);
    let request = Request::new(id(2), "x");
    let failed = repository.take(&request, &sources(&point), &mut catalogue, &small).await;
    assert!(failed.is_err());
    store.mend();
    assert!(store.keys("packs").await.len() > 1, "it stored something");
    repository.remove(id(1), now()).await.unwrap();
    let collected = repository.collect(now(), &watch()).await.unwrap();
    assert_eq!((collected.gone.len(), collected.kept.as_slice()), (0, &[id(1)][..]));
    repository.resume(id(2), &sources(&point), &watch()).await.unwrap();
    let collected = repository.collect(now(), &watch()).await.unwrap();
    assert_eq!(collected.gone, [id(1)]);
    assert!(restored(&repository, 2, &point).await);
}

#[tokio::test]
async fn a_backup_that_is_removed_while_it_is_read_stays_until_the_reader_is_done() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..200, 1);
    let point = volume.point();
    take(&repository, 1, &point).await;
    let reader = repository.read(id(1), volume.id, now(), &watch()).await.unwrap();
    repository.remove(id(1), now()).await.unwrap();
    let collected = repository.collect(now(), &watch()).await.unwrap();
    assert_eq!((collected.objects, collected.kept.as_slice()), (0, &[id(1)][..]));
    let extent = block::Extent::new(0, 200 * 4096).unwrap();
    assert_eq!(
        reader.read(extent).await.unwrap(),
        crate::volumes::bytes_of(&point.content, extent)
    );
    reader.close().await.unwrap();
    let collected = repository.collect(now(), &watch()).await.unwrap();
    assert_eq!(collected.gone, [id(1)]);
    assert_eq!(store.keys("packs").await, [""; 0]);
}

/// What a restore does between two of its steps is a request to the bucket or a write to the volume. A
/// gateway that is killed knows the position that it noted last, which may be any before: here the one
/// of two kills ago, at worst the beginning.
#[tokio::test]
async fn a_restore_that_is_killed_at_any_request_or_write_ends_in_what_the_backup_holds() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 40 << 20);
    for part in 0..40_u64 {
        volume.write(part * 256..part * 256 + 40, part * 1000 + 1);
    }
    take(&repository, 1, &volume.point()).await;
    volume.write(3000..3400, 77);
    let point = volume.point();
    take(&repository, 2, &point).await;
    let before = (0..9000).step_by(3).map(|block| (block, block + 5)).collect();
    for kills_at in [Kill::Request, Kill::Write] {
        let mut killed = 0;
        loop {
            let disk = Disk::used(point.bytes(), &before);
            let restore = Restore::new(id(2), volume.id, 0, now());
            match kills_at {
                Kill::Request => store.fail_after(killed, Failure::Unreachable),
                Kill::Write => {
                    *disk.fails_after.lock().unwrap() = Some(u32::try_from(killed).unwrap());
                }
            }
            let first = repository.restore(&restore, &disk, &watch()).await;
            let noted = restore.position();
            // Killed again, a bit further on, and then it goes on from what was noted the first time.
            let again = Restore::new(id(2), volume.id, noted / 2, now());
            store.fail_after(killed / 2 + 3, Failure::Unreachable);
            drop(repository.restore(&again, &disk, &watch()).await);
            store.mend();
            *disk.fails_after.lock().unwrap() = None;
            let last = Restore::new(id(2), volume.id, noted, now());
            repository.restore(&last, &disk, &watch()).await.unwrap();
            assert!(disk.holds(&point.content), "{kills_at:?} {killed}");
            if first.is_ok() {
                break;
            }
            killed += 1;
            assert!(killed < 500, "it never ends");
        }
        assert!(killed > 8, "{kills_at:?}: it takes some steps, not {killed}");
    }
    // Pins of those that were killed are all that stays.
    repository.collect(now(), &watch()).await.unwrap();
    assert!(repository.verify(&[], &watch()).await.unwrap().is_whole());
}

/// Where a restore is killed.
#[derive(Clone, Copy, Debug)]
enum Kill {
    Request,
    Write,
}

/// Found in a review: a gateway that died in the middle of a restore left a pin that nobody knew, so its
/// backup was being read for ever and never given back.
#[tokio::test]
async fn a_restore_that_keeps_its_pin_outlives_a_removal_and_leaves_nothing() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 40 << 20);
    for part in 0..40_u64 {
        volume.write(part * 256..part * 256 + 40, part * 1000 + 1);
    }
    let point = volume.point();
    take(&repository, 1, &point).await;
    let before = (0..9000).step_by(3).map(|block| (block, block + 5)).collect();
    let disk = Disk::used(point.bytes(), &before);
    let (pin, mut position) = (id(77), 0);
    for killed in [2, 5] {
        *disk.fails_after.lock().unwrap() = Some(killed);
        let restore = Restore::new(id(1), volume.id, position, now()).pinned(pin);
        assert!(repository.restore(&restore, &disk, &watch()).await.is_err());
        position = restore.position();
        let collected = repository.collect(now(), &watch()).await.unwrap();
        let pins: Vec<_> = collected.pins.iter().map(|(id, _)| *id).collect();
        assert_eq!(pins, [pin], "one, however often it is killed");
    }
    *disk.fails_after.lock().unwrap() = None;
    repository.remove(id(1), now()).await.unwrap();
    assert_eq!(repository.collect(now(), &watch()).await.unwrap().kept, [id(1)]);
    let last = Restore::new(id(1), volume.id, position, now()).pinned(pin);
    repository.restore(&last, &disk, &watch()).await.unwrap();
    assert!(disk.holds(&point.content));
    repository.unpin(pin).await.unwrap();
    let collected = repository.collect(now(), &watch()).await.unwrap();
    assert!(collected.gone == [id(1)] && collected.pins.is_empty(), "{collected:?}");
}
