//! A process that dies at any sync of a way back to a second, or of a way back out of half a restore: the
//! next start makes all of the one or all of the other of it, tells which, and nobody sees more or less.

use testkit::SimDisk;

use super::fills::{NOW, THEN, all, backed_up_in, with_target};
use super::*;

/// Where it leads to, and what hosts may find beside that.
struct Case<'a> {
    dir: &'a Path,
    to: Vec<u8>,
    or: Vec<u8>,
}

impl Case<'_> {
    /// Starts again after each death.
    async fn is_one_of_both_after_each(&self, scene: Scene, deaths: Vec<Arc<SimDisk>>) {
        let Scene { rig, group, volume, base } = scene;
        rig.close().await;
        let mut ends = Vec::new();
        for (number, disk) in deaths.iter().enumerate() {
            let rig = Rig::open_on(disk, self.dir, with_target(self.dir)).await;
            let scene = Scene { rig, group, volume, base };
            scene.journal().await.settle();
            self.look(&scene, number).await;
            tokio::select! {
                () = scene.take_up() => {}
                () = self.keep_looking(&scene, number) => {}
            }
            let way = scene.last_way().await;
            assert!(scene.is_open().await, "{number}: hosts are kept out: {way:?}");
            self.look(&scene, number).await;
            let is_there = scene.content().await == self.to;
            if let Some(way) = &way {
                let is_told = way.state == api::OperationState::Succeeded;
                assert_eq!(is_there, is_told, "{number}: {way:?}");
            }
            ends.push((is_there, way.is_some()));
            scene.rig.close().await;
        }
        let cut_short = |led: bool| ends.contains(&(led, true));
        assert!(cut_short(false) && cut_short(true), "nothing was cut short: {ends:?}");
        let led: Vec<bool> = ends.iter().map(|(is_there, _)| *is_there).collect();
        assert!(led.is_sorted(), "what was begun is carried through: {ends:?}");
    }

    async fn keep_looking(&self, scene: &Scene, number: usize) {
        loop {
            self.look(scene, number).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Whoever is let in finds a volume that is whole.
    async fn look(&self, scene: &Scene, number: usize) {
        if !scene.is_open().await {
            return;
        }
        let content = scene.content().await;
        let blocks: Vec<u8> = content.iter().step_by(4096).copied().collect();
        assert!(content == self.to || content == self.or, "{number}: {blocks:?}");
    }
}

impl Scene {
    async fn on(disk: &Arc<SimDisk>, dir: &Path) -> Self {
        backed_up_in(Rig::open_on(disk, dir, with_target(dir)).await).await
    }

    async fn is_open(&self) -> bool {
        let status = self.rig.gateway.status_of(self.group).await.unwrap();
        status.serving == Serving::Yes && !self.is_held()
    }

    /// Goes back to the second, and dies at each sync of that.
    async fn go_back_and_die(&self, disk: &Arc<SimDisk>) -> Vec<Arc<SimDisk>> {
        disk.remember_syncs();
        let done = self.go_back().await;
        assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
        disk.remembered()
    }

    async fn go_back_to_and_die(
        &self,
        snapshot: SnapshotId,
        disk: &Arc<SimDisk>,
    ) -> Vec<Arc<SimDisk>> {
        let gateway = &self.rig.gateway;
        let name = snapshot.uuid().to_string();
        let wanted = Wanted::Snapshot(&name);
        let plan = gateway.plan_rollback("orders", wanted, false).await.unwrap();
        let request = RollbackRequest { token: plan.token.unwrap(), drop_hosts: false };
        disk.remember_syncs();
        let begun = gateway.roll_back(("orders", Some(&name)), &request).await.unwrap();
        let done = ended(gateway, begun.id).await;
        assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
        disk.remembered()
    }
}

#[tokio::test]
async fn a_way_back_to_a_second_that_is_killed_at_any_sync_is_whole_or_was_not_begun() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let scene = Scene::on(&disk, dir.path()).await;
    let deaths = scene.go_back_and_die(&disk).await;
    let case = Case { dir: dir.path(), to: as_of_second(), or: all(NOW) };
    case.is_one_of_both_after_each(scene, deaths).await;
}

#[tokio::test]
async fn a_way_back_out_of_half_a_restore_that_is_killed_at_any_sync_is_whole_or_restored() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let scene = Scene::on(&disk, dir.path()).await;
    let before = scene.stop_restore().await;
    let deaths = scene.go_back_to_and_die(before, &disk).await;
    let case = Case { dir: dir.path(), to: all(NOW), or: all(THEN) };
    case.is_one_of_both_after_each(scene, deaths).await;
}

#[tokio::test]
async fn a_way_to_a_second_out_of_half_a_restore_that_is_killed_at_any_sync_is_whole_or_restored() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let scene = Scene::on(&disk, dir.path()).await;
    scene.stop_restore().await;
    let deaths = scene.go_back_and_die(&disk).await;
    let case = Case { dir: dir.path(), to: as_of_second(), or: all(THEN) };
    case.is_one_of_both_after_each(scene, deaths).await;
}
