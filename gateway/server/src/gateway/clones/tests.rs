//! The steps of making a clone and of letting one go: what is left when a gateway dies between two of
//! them, and what two clones of one snapshot have to do with each other.

use std::path::Path;

use block::{Extent, SLOT_BYTES, SnapshotId};
use bytes::Bytes;

use super::*;
use crate::gateway::tests::Rig;

/// Slots that what the volume holds takes.
const SLOTS: u64 = 2;

/// A gateway with `orders`, of which all that a snapshot holds was overwritten.
struct Scene {
    rig: Rig,
    group: GroupId,
    volume: VolumeId,
    here: SnapshotId,
}

impl Scene {
    async fn make(dir: &Path) -> Self {
        let rig = Rig::open(dir).await;
        rig.make_orders().await;
        let (entry, volume) = rig.gateway.find_volume("orders").unwrap();
        let (group, volume) = (entry.group(), VolumeId::from_uuid(volume.id));
        let scene = Self { rig, group, volume, here: SnapshotId::of(0) };
        scene.write(1).await;
        scene.rig.gateway.take_snapshot("orders", Some("then".to_owned())).await.unwrap();
        scene.write(2).await;
        let (place, bytes) = scene.rig.gateway.find_source_snapshot(&then()).await.unwrap();
        assert_eq!((place.0, place.1, bytes), (group, volume, 1 << 20));
        let scene = Self { here: place.2, ..scene };
        scene.await_slots(2 * SLOTS).await;
        scene
    }

    /// As it is after a stop, or a kill.
    async fn again(self, dir: &Path) -> Self {
        let Self { rig, group, volume, here } = self;
        rig.close().await;
        Self { rig: Rig::open(dir).await, group, volume, here }
    }

    async fn write(&self, byte: u8) {
        let place = (self.group, self.volume);
        let data = Bytes::from(vec![byte; usize::try_from(SLOTS * SLOT_BYTES).unwrap()]);
        let shard = self.rig.gateway.shard_of(self.group);
        let written = shard.run(move |state| async move { state.fill(place, 0, data).await });
        written.await.unwrap().unwrap();
    }

    /// What is read there of the snapshot; `None` when it is gone.
    async fn kept(&self) -> Option<u8> {
        let (place, here) = ((self.group, self.volume), self.here);
        let extent = Extent::new(0, 4096).unwrap();
        let shard = self.rig.gateway.shard_of(self.group);
        let read = shard.run(move |state| async move { state.read_at(place, here, extent).await });
        let segments = read.await.unwrap()?.unwrap();
        block::joined(&segments).first().copied()
    }

    /// The pool's part of making a clone: its snapshot is kept, it is recorded, and nobody knows it.
    async fn half_made(&self, name: &str) -> VolumeId {
        let id = VolumeId::from_uuid(Uuid::now_v7());
        let (volume, snapshot) = (self.volume, self.here);
        let place = (self.group, volume, snapshot);
        let shard = self.rig.gateway.shard_of(self.group);
        assert!(shard.call(move |state| state.keep_snapshot(place, id)).await.unwrap());
        let new = NewVolume {
            volume: id,
            name: name.to_owned(),
            bytes: 1 << 20,
            settings: api::VolumeSettings::default(),
            origin: Some(OriginRecord::Snapshot { volume, snapshot, bytes: 1 << 20 }),
        };
        self.rig.gateway.make_volumes(vec![new]).await.unwrap();
        id
    }

    /// Waits until the pool's volumes take so many slots.
    async fn await_slots(&self, slots: u64) {
        let place = (self.group, self.volume);
        let look = async {
            while self.rig.gateway.pool.used_bytes() != slots * SLOT_BYTES {
                // What was given up is free behind a flush.
                let shard = self.rig.gateway.shard_of(self.group);
                let flushed = shard.run(move |state| async move { state.fill_flush(place).await });
                flushed.await.unwrap().unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_mins(1), look).await.is_ok();
        let used = self.rig.gateway.pool.used_bytes() / SLOT_BYTES;
        assert!(in_time, "{used} slots are taken, and {slots} should be");
    }
}

fn then() -> SnapshotSource {
    SnapshotSource { group: "orders".to_owned(), snapshot: "then".to_owned(), volume: None }
}

/// How far the making, or the removal, of a clone was when the gateway died. The removal undoes what
/// the making did, the last step first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Died {
    /// The pool has it, and the book never knew it or knows it no more.
    Recorded,
    /// The same, and an operator deleted its snapshot.
    SnapshotDeleted,
    /// The same, and what was kept for it was let go.
    LetGo,
}

#[tokio::test]
async fn snap_06_a_clone_whose_making_or_removal_was_cut_short_leaves_nothing() {
    for died in [Died::Recorded, Died::SnapshotDeleted, Died::LetGo] {
        let dir = tempfile::tempdir().unwrap();
        let scene = Scene::make(dir.path()).await;
        let gateway = &scene.rig.gateway;
        let clone = scene.half_made("trial").await;
        if died != Died::Recorded {
            gateway.delete_snapshot("orders", "then").await.unwrap();
            assert_eq!(scene.kept().await, Some(1), "{died:?}: a clone needs it");
        }
        if died == Died::LetGo {
            gateway.let_go_of_origin(clone).await.unwrap();
        }
        let scene = scene.again(dir.path()).await;
        let gateway = &scene.rig.gateway;
        let listed = gateway.show_volumes().await.items;
        assert_eq!(listed.len(), 1, "{died:?}: {listed:?}");
        assert_eq!(gateway.pool.volumes().len(), 1, "{died:?}: half a volume is there");
        if died == Died::Recorded {
            // The snapshot is one like any other.
            assert_eq!(scene.kept().await, Some(1));
            gateway.delete_snapshot("orders", "then").await.unwrap();
        }
        scene.await_slots(SLOTS).await;
        assert_eq!(scene.kept().await, None, "{died:?}");
        gateway.delete_volume("orders").await.unwrap();
        assert_eq!(gateway.pool.used_bytes(), 0, "{died:?}");
        scene.rig.close().await;
    }
}

/// One that could not be recorded in the book gives way to the next of its name, and so does what was
/// kept for it.
#[tokio::test]
async fn snap_06_a_clone_that_was_not_made_gives_way_and_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::make(dir.path()).await;
    let gateway = &scene.rig.gateway;
    let left = scene.half_made("trial").await;
    gateway.delete_snapshot("orders", "then").await.unwrap();
    assert_eq!(scene.kept().await, Some(1));
    let again = NewVolume {
        volume: VolumeId::from_uuid(Uuid::now_v7()),
        name: "trial".to_owned(),
        bytes: 1 << 20,
        settings: api::VolumeSettings::default(),
        origin: None,
    };
    gateway.make_volumes(vec![again]).await.unwrap();
    assert!(gateway.pool.volume(left).is_none());
    scene.await_slots(SLOTS).await;
    assert_eq!(scene.kept().await, None);
    scene.rig.close().await;
}

/// Found in a review: the first one that was filled waited for the other, said once more that it let go,
/// and took the other's content away.
#[tokio::test]
async fn snap_06_of_two_clones_the_first_that_is_filled_lets_go_for_itself_only() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::make(dir.path()).await;
    let gateway = &scene.rig.gateway;
    let clones = [scene.half_made("first").await, scene.half_made("second").await];
    gateway.delete_snapshot("orders", "then").await.unwrap();
    let is_filled = |id| gateway.pool.volume(id).unwrap().origin.is_none();
    gateway.filled(clones[0]).await;
    assert_eq!((is_filled(clones[0]), is_filled(clones[1])), (true, false));
    // Said again, as where it could not be recorded, it changes nothing.
    gateway.let_go((scene.group, scene.volume, scene.here), clones[0]).await.unwrap();
    assert_eq!(scene.kept().await, Some(1), "the second needs it");
    scene.await_slots(2 * SLOTS).await;
    gateway.filled(clones[1]).await;
    assert!(is_filled(clones[1]));
    scene.await_slots(SLOTS).await;
    assert_eq!(scene.kept().await, None);
    scene.rig.close().await;
}
