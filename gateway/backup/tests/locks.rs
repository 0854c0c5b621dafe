//! Locks: no role and no clock ends one before its date.

use std::sync::Arc;

use jiff::Timestamp;
use twinspan_backup::{BackupError, Request, Source, Status};

use crate::runs::{restored, take};
use crate::store::{Seen, catalogue, id, now, watch};
use crate::volumes::Volume;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_locked_backup_is_not_removed_by_anyone_before_its_date() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..10, 1);
    let point = volume.point();
    let until = at("2999-01-01T00:00:00Z");
    let request = Request { locked_until: Some(until), ..Request::new(id(1), "locked") };
    let sources: Vec<Arc<dyn Source>> = vec![point.clone()];
    let mut known = catalogue(&repository).await;
    repository.take(&request, &sources, &mut known, &watch()).await.unwrap();
    let error = repository.remove(id(1), now()).await.unwrap_err();
    assert!(matches!(error, BackupError::Locked { until: date, .. } if date == until));
    assert!(error.to_string().contains("2999"), "{error}");
    // A gateway whose clock runs ahead asks the store's, which does not.
    let ahead = at("3000-01-01T00:00:00Z");
    assert!(matches!(repository.remove(id(1), ahead).await, Err(BackupError::Locked { .. })));
    // A mark that was put all the same, by hand or in a race with the lock, waits for the date.
    let mark = format!("backups-of-east/removed/{}", id(1));
    store.put_all(&mark, bytes::Bytes::from_static(b"removed")).await;
    let collected = repository.collect(ahead, &watch()).await.unwrap();
    assert_eq!((collected.gone.len(), collected.kept.as_slice()), (0, &[id(1)][..]));
    assert_eq!(catalogue(&repository).await.entry(id(1)).unwrap().status, Status::Available);
    assert!(restored(&repository, 1, &point).await);
}

#[tokio::test]
async fn a_lock_is_moved_on_and_never_back_and_ends() {
    let store = Seen::memory();
    let repository = store.create(None).await;
    let mut volume = Volume::new(1, 4 << 20);
    volume.write(0..10, 1);
    take(&repository, 1, &volume.point()).await;
    // By the store's clock, which is the machine's, this is long over.
    let past = at("2020-01-01T00:00:00Z");
    repository.lock(id(1), past).await.unwrap();
    let earlier = repository.lock(id(1), at("2019-01-01T00:00:00Z")).await;
    assert!(matches!(earlier, Err(BackupError::ShorterLock { .. })));
    let entry = catalogue(&repository).await.entry(id(1)).cloned().unwrap();
    assert_eq!(entry.locked_until, Some(past));
    // A clock that was moved back makes the lock longer, not shorter.
    let back = at("2019-06-01T00:00:00Z");
    assert!(matches!(repository.remove(id(1), back).await, Err(BackupError::Locked { .. })));
    repository.remove(id(1), now()).await.unwrap();
    let late = repository.lock(id(1), at("2999-01-01T00:00:00Z")).await;
    assert!(matches!(late, Err(BackupError::Removed { .. })));
    repository.collect(now(), &watch()).await.unwrap();
    assert_eq!(store.keys("locks").await, [""; 0]);
    assert_eq!(store.keys("clock").await, [""; 0]);
}
