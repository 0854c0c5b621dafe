//! A reference model: a map from backups to what their volumes held, beside a repository that is
//! used by two gateways, killed, collected and read in an order that a seed draws.
//!
//! Invariant: after every step each backup that the model has can be read back, and none that it
//! does not have is listed.

use std::collections::BTreeMap;
use std::sync::Arc;

use block::VolumeId;
use object_store::local::LocalFileSystem;
use twinspan_backup::{BackupError, BackupId, Key, Repository, Request, Restore, Source, Status};

use crate::store::{Failure, Seen, catalogue, id, now, watch};
use crate::volumes::{Content, Disk, Point, Volume, step};

/// A bit more than one segment, so that there are two.
const BYTES: u64 = (1 << 30) + (64 << 20);

type Version = Vec<(VolumeId, u64, Arc<Content>)>;

struct World {
    seed: u64,
    draws: u64,
    store: Seen,
    key: Option<Key>,
    volumes: Vec<Volume>,
    backups: BTreeMap<BackupId, Version>,
    /// Begun, and not known to be complete or given up.
    begun: BTreeMap<BackupId, Vec<Arc<Point>>>,
    /// Whose removal was interrupted.
    doubtful: Vec<BackupId>,
    next: u128,
    taken: u32,
    resumed: u32,
}

impl World {
    fn new(seed: u64, store: Seen, key: Option<Key>) -> Self {
        let volumes = vec![Volume::new(1, BYTES), Volume::new(2, 64 << 20)];
        Self {
            seed,
            draws: seed,
            store,
            key,
            volumes,
            backups: BTreeMap::new(),
            begun: BTreeMap::new(),
            doubtful: Vec::new(),
            next: 1,
            taken: 0,
            resumed: 0,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.draws = step(self.draws);
        self.draws % below
    }

    /// The store fails after fewer requests than this.
    fn kill_within(&mut self, requests: u64) {
        let after = self.draw(requests);
        self.store.fail_after(after, Failure::Unreachable);
    }

    async fn open(&self) -> Repository {
        self.store.open(self.key.as_ref()).await
    }

    fn write(&mut self) {
        for _ in 0..=self.draw(5) {
            let at = usize::from(self.draw(3) == 0);
            let blocks = self.volumes[at].bytes / 4096;
            // Close to the beginning, or around the border between two segments.
            let near = if self.draw(2) == 0 { 0 } else { (1 << 18) - 40 };
            let first = (near + self.draw(80)).min(blocks - 1);
            let end = (first + 1 + self.draw(40)).min(blocks);
            if self.draw(4) == 0 {
                self.volumes[at].trim(first..end);
            } else {
                let filling = self.draw(u64::MAX);
                self.volumes[at].write(first..end, filling);
            }
        }
        if self.draw(8) == 0 {
            self.volumes[1].bytes += 64 << 12;
        }
        if self.draw(6) == 0 {
            self.volumes[0].forget();
        }
    }

    fn points(&mut self) -> Vec<Arc<Point>> {
        let both = self.draw(3) == 0;
        let first = usize::from(self.draw(3) == 0);
        let mut points = vec![self.volumes[first].point()];
        if both {
            points.push(self.volumes[1 - first].point());
        }
        points
    }

    fn sources(points: &[Arc<Point>]) -> Vec<Arc<dyn Source>> {
        points.iter().map(|point| Arc::clone(point) as Arc<dyn Source>).collect()
    }

    fn complete(&mut self, id: BackupId) {
        let points = self.begun.remove(&id).expect("it was begun");
        let version =
            points.iter().map(|point| (point.volume(), point.bytes(), Arc::clone(&point.content)));
        self.backups.insert(id, version.collect());
        self.taken += 1;
    }

    /// Takes a backup, perhaps not to its end.
    async fn take(&mut self) {
        let (repository, points) = (self.open().await, self.points());
        let id = id(self.next);
        self.next += 1;
        self.begun.insert(id, points.clone());
        let mut catalogue = catalogue(&repository).await;
        let is_killed = self.draw(3) == 0;
        if is_killed {
            self.kill_within(60);
        }
        let mut request = Request::new(id, "a backup");
        request.full = self.draw(10) == 0;
        let watch = watch();
        watch.limit_packs(1);
        let taken =
            repository.take(&request, &Self::sources(&points), &mut catalogue, &watch).await;
        self.store.mend();
        match taken {
            Ok(_) => self.complete(id),
            Err(error) => assert!(is_killed && error.is_resumable(), "{error}"),
        }
    }

    /// Goes on with one that was begun, or gives it up.
    async fn settle(&mut self) {
        let Some((id, points)) = self.begun.first_key_value() else { return };
        let (id, points) = (*id, points.clone());
        let repository = self.open().await;
        if self.draw(4) == 0 {
            if repository.abandon(id).await.unwrap() {
                self.complete(id);
            } else {
                self.begun.remove(&id);
            }
            let again = repository.resume(id, &Self::sources(&points), &watch()).await;
            assert!(matches!(again, Ok(_) | Err(BackupError::Abandoned { .. })), "{again:?}");
            return;
        }
        let is_killed = self.draw(4) == 0;
        if is_killed {
            self.kill_within(40);
        }
        let watch = watch();
        watch.limit_packs(1);
        let resumed = repository.resume(id, &Self::sources(&points), &watch).await;
        self.store.mend();
        match resumed {
            Ok(_) => {
                self.complete(id);
                self.resumed += u32::from(watch.progress().found_bytes > 0);
            }
            // It was killed before its pin was there; or before it stored anything, and what it would
            // build upon is being removed: then it was given up, if need be by the call before this.
            Err(
                BackupError::NotResumable { .. }
                | BackupError::ParentGone
                | BackupError::Abandoned { .. },
            ) => {
                self.begun.remove(&id);
            }
            Err(error) => assert!(is_killed && error.is_resumable(), "{error}"),
        }
    }

    /// One of them, and often the newest, which the next one builds upon.
    fn any(&mut self) -> Option<BackupId> {
        if self.draw(2) == 0 {
            return self.backups.keys().next_back().copied();
        }
        let count = u64::try_from(self.backups.len()).unwrap();
        let at = if count == 0 { return None } else { self.draw(count) };
        self.backups.keys().nth(usize::try_from(at).unwrap()).copied()
    }

    async fn remove(&mut self) {
        let Some(id) = self.any() else { return };
        let repository = self.open().await;
        let is_killed = self.draw(4) == 0;
        if is_killed {
            self.kill_within(4);
        }
        let removed = repository.remove(id, now()).await;
        self.store.mend();
        match removed {
            Ok(()) => drop(self.backups.remove(&id)),
            Err(error) => {
                assert!(is_killed, "{error}");
                self.doubtful.push(id);
            }
        }
    }

    async fn collect(&mut self) {
        let repository = self.open().await;
        let is_killed = self.draw(3) == 0;
        if is_killed {
            self.kill_within(80);
        }
        let collected = repository.collect(now(), &watch()).await;
        self.store.mend();
        assert!(is_killed || collected.is_ok(), "{collected:?}");
    }

    /// One gateway takes a backup while others remove one and collect.
    async fn all_at_once(&mut self) {
        let points = self.points();
        let id = id(self.next);
        self.next += 1;
        self.begun.insert(id, points.clone());
        let removed = self.any();
        let key = self.key.clone();
        let dawdling = |draw: u64| self.store.other().dawdling(draw);
        let seeds =
            (step(self.draws), step(self.draws ^ 1), step(self.draws ^ 2), step(self.draws ^ 3));
        let (a, b) = (dawdling(seeds.0), dawdling(seeds.1));
        let (c, d) = (dawdling(seeds.2), dawdling(seeds.3));
        self.draw(2);
        let take = async {
            let repository = a.open(key.as_ref()).await;
            let mut catalogue = catalogue(&repository).await;
            let watch = watch();
            watch.limit_packs(1);
            let request = Request::new(id, "a backup");
            repository.take(&request, &Self::sources(&points), &mut catalogue, &watch).await
        };
        let remove = async {
            let repository = b.open(key.as_ref()).await;
            match removed {
                Some(id) => repository.remove(id, now()).await,
                None => Ok(()),
            }
        };
        let sweep = async |store: &Seen| {
            let repository = store.open(key.as_ref()).await;
            let first = repository.collect(now(), &watch()).await;
            first.and(repository.collect(now(), &watch()).await)
        };
        let (taken, gone, one, two) = tokio::join!(take, remove, sweep(&c), sweep(&d));
        for swept in [one, two] {
            let is_fine = matches!(swept, Ok(_) | Err(BackupError::Missing { .. }));
            assert!(is_fine, "seed {}: {swept:?}", self.seed);
        }
        gone.unwrap();
        if let Some(removed) = removed {
            self.backups.remove(&removed);
        }
        match taken {
            Ok(_) => self.complete(id),
            Err(BackupError::ParentGone) => drop(self.begun.remove(&id)),
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Restores one, perhaps in two goes.
    async fn restore(&mut self) {
        let Some(id) = self.any() else { return };
        let repository = self.open().await;
        let at = usize::try_from(self.draw(8)).unwrap() % self.backups[&id].len();
        let (volume, bytes, content) = self.backups[&id][at].clone();
        let used = self.volumes[0].content.clone();
        let disk = if self.draw(2) == 0 {
            Disk::blank(bytes + (1 << 20))
        } else {
            Disk::used(
                bytes + (1 << 20),
                &used.into_iter().filter(|(b, _)| *b < bytes / 4096).collect(),
            )
        };
        let restore = Restore::new(id, volume, 0, now());
        if self.draw(2) == 0 {
            self.kill_within(20);
            *disk.fails_after.lock().unwrap() = Some(1);
            // Whether it comes to its end does not matter, only that it can be repeated.
            drop(repository.restore(&restore, &disk, &watch()).await);
            self.store.mend();
            *disk.fails_after.lock().unwrap() = None;
        }
        let restored = repository.restore(&restore, &disk, &watch()).await;
        restored.unwrap();
        assert!(disk.holds(&content), "seed {}: {id} reads back otherwise", self.seed);
    }

    /// What is listed is what the model has.
    async fn check(&mut self) {
        let repository = self.open().await;
        let catalogue = catalogue(&repository).await;
        for id in std::mem::take(&mut self.doubtful) {
            let status = catalogue.entry(id).map(|entry| entry.status);
            if status.is_none_or(|status| status == Status::Deleting) {
                self.backups.remove(&id);
            }
        }
        for entry in catalogue.entries() {
            let is_begun = self.begun.contains_key(&entry.id);
            match entry.status {
                // The answer to its last put was lost.
                Status::Available if is_begun => self.complete(entry.id),
                Status::Available | Status::Restoring => {
                    assert!(self.backups.contains_key(&entry.id), "seed {}: {entry:?}", self.seed);
                }
                Status::Protecting => assert!(is_begun, "seed {}: {entry:?}", self.seed),
                Status::Deleting => assert!(!self.backups.contains_key(&entry.id)),
                Status::Error => panic!("seed {}: {entry:?}", self.seed),
            }
        }
        for id in self.backups.keys() {
            let status = catalogue.entry(*id).map(|entry| entry.status);
            let is_there = status.is_some_and(Status::is_whole);
            assert!(is_there, "seed {}: {id} is {status:?}", self.seed);
        }
    }

    async fn verify(&self) {
        let verified = self.open().await.verify(&[], &watch()).await.unwrap();
        assert!(verified.is_whole(), "seed {}: {:?}", self.seed, verified.damage);
        assert_eq!(verified.backups, self.backups.len() as u64);
    }

    async fn one_step(&mut self) {
        self.write();
        match self.draw(12) {
            0..=3 => self.take().await,
            4 | 5 => self.settle().await,
            6 => self.remove().await,
            7 => self.collect().await,
            8 | 9 => self.restore().await,
            _ => self.all_at_once().await,
        }
        self.check().await;
    }

    /// Removes everything: nothing is left but what says that something was.
    async fn end(&mut self) {
        self.verify().await;
        let repository = self.open().await;
        for id in self.begun.keys() {
            repository.abandon(*id).await.unwrap();
        }
        let catalogue = catalogue(&repository).await;
        for entry in catalogue.entries() {
            repository.remove(entry.id, now()).await.unwrap();
        }
        // Readers that were interrupted left their pins.
        for pin in self.store.keys("pins").await {
            let pin = pin.rsplit('/').next().and_then(|id| id.parse().ok());
            repository.unpin(pin.expect("a pin has a name")).await.unwrap();
        }
        repository.collect(now(), &watch()).await.unwrap();
        for folder in ["packs", "maps", "removed", "pins", "locks"] {
            assert_eq!(self.store.keys(folder).await, [""; 0], "seed {}", self.seed);
        }
    }
}

async fn history(seed: u64, store: Seen, steps: u32) -> World {
    let key = seed.is_multiple_of(2).then(|| Key::new([7; 32]));
    store.create(key.as_ref()).await;
    let mut world = World::new(seed, store, key);
    for _ in 0..steps {
        world.one_step().await;
    }
    world.end().await;
    world
}

#[tokio::test]
async fn random_histories_agree_with_a_map_of_versions() {
    let (mut taken, mut resumed, mut seed) = (0, 0, 0);
    // How far a killed backup comes is up to the threads that compress its packs, so that no seed
    // is sure to take one up: histories go on until enough of them did.
    while seed < 24 || (resumed <= 3 && seed < 240) {
        let world = history(seed, Seen::memory(), 40).await;
        taken += world.taken;
        resumed += world.resumed;
        seed += 1;
    }
    // A history in which nothing happens agrees with everything.
    assert!(taken > 100 && resumed > 3, "{taken} were taken, {resumed} taken up");
}

#[tokio::test]
async fn a_random_history_in_a_directory_agrees_with_a_map_of_versions() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    history(1001, Seen::new(Arc::new(store)), 40).await;
}
