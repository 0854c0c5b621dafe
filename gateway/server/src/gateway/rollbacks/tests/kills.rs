//! A process that dies between any two things that it notes of a way back, or of a restore over the
//! original: the next start makes all of the one or all of the other of it, and nobody sees more or less.
//!
//! ```text
//!   the book is held ─▶ who wants to change it waits in line ─▶ the next hold waits behind that
//!   ─▶ the book is let go ─▶ one change ─▶ the next hold has it: a copy of the disk is what a kill leaves
//! ```

use testkit::SimDisk;
use tokio::sync::oneshot;

use super::fills::{NOW, THEN, all, backed_up_in, with_target};
use super::*;
use crate::book::Pages;

/// What the process goes on with while the book is held, before a second copy of the disk is taken. It
/// decides only which of the moments between two changes that is: each of them must do.
const MOMENT: Duration = Duration::from_millis(20);

/// A place in the line of those who change the book.
struct Hold {
    queued: oneshot::Receiver<()>,
    has_it: oneshot::Receiver<Pages>,
    /// Dropped, it lets the book go.
    _release: oneshot::Sender<()>,
}

impl Hold {
    fn ask(gateway: &Arc<Gateway>) -> Self {
        let (queue, queued) = oneshot::channel();
        let (tell, has_it) = oneshot::channel();
        let (release, released) = oneshot::channel::<()>();
        let holder = Arc::clone(gateway);
        gateway.tasks.spawn(async move {
            let _asked = queue.send(());
            let held = holder.book.change_by(
                |pages| {
                    let _over = tell.send(pages.clone());
                    Ok::<(), Refused>(())
                },
                async move |_page| {
                    let _released = released.await;
                    Err(Refused::new(Code::Internal, "it was only held"))
                },
            );
            assert!(held.await.is_err(), "the book was changed by who only holds it");
        });
        Self { queued, has_it, _release: release }
    }
}

/// Does `work`, and copies the disk after each change of the book, and at the end.
async fn killed_after_each_change(
    scene: &Scene,
    disk: &Arc<SimDisk>,
    work: impl Future<Output = ()>,
) -> Vec<Arc<SimDisk>> {
    let gateway = &scene.rig.gateway;
    let mut kills = Vec::new();
    let mut held = Hold::ask(gateway);
    let seen = (&mut held.has_it).await.unwrap();
    tokio::select! {
        () = work => {}
        () = copy_after_each_change((gateway, disk), (held, seen), &mut kills) => {}
    }
    kills.push(disk.fork());
    kills
}

async fn copy_after_each_change(
    (gateway, disk): (&Arc<Gateway>, &Arc<SimDisk>),
    (mut held, mut seen): (Hold, Pages),
    kills: &mut Vec<Arc<SimDisk>>,
) {
    loop {
        // Whoever wants to change the book has time to stand in line.
        tokio::time::sleep(MOMENT).await;
        let mut next = Hold::ask(gateway);
        (&mut next.queued).await.unwrap();
        drop(std::mem::replace(&mut held, next));
        let pages = (&mut held.has_it).await.unwrap();
        if pages == seen {
            continue;
        }
        seen = pages;
        kills.push(disk.fork());
        let syncs = disk.syncs();
        tokio::time::sleep(MOMENT).await;
        if disk.syncs() != syncs {
            kills.push(disk.fork());
        }
    }
}

/// What a kill may leave, and what is made of it.
struct Case<'a> {
    dir: &'a Path,
    /// What hosts may find.
    whole: Vec<Vec<u8>>,
}

impl Case<'_> {
    /// Starts again after each of the kills; what the volume holds then, of each, and what became of the
    /// way back, if one was taken up.
    async fn start_after(
        &self,
        scene: Scene,
        kills: Vec<Arc<SimDisk>>,
    ) -> Vec<(Vec<u8>, Option<Operation>)> {
        let Scene { rig, group, volume, base } = scene;
        rig.close().await;
        let mut ends = Vec::new();
        for (number, disk) in kills.iter().enumerate() {
            let rig = Rig::open_on(disk, self.dir, with_target(self.dir)).await;
            let scene = Scene { rig, group, volume, base };
            scene.journal().await.settle();
            self.look(&scene, number).await;
            tokio::select! {
                () = scene.take_up() => {}
                () = self.keep_looking(&scene, number) => {}
            }
            assert!(scene.is_open().await, "{number}: hosts are kept out");
            let way = scene.last_way().await;
            self.look(&scene, number).await;
            ends.push((scene.content().await, way));
            scene.rig.close().await;
        }
        ends
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
        assert!(self.whole.contains(&content), "{number}: {blocks:?}");
    }
}

impl Scene {
    async fn is_open(&self) -> bool {
        let status = self.rig.gateway.status_of(self.group).await.unwrap();
        status.serving == Serving::Yes && !self.is_held()
    }

    async fn on(disk: &Arc<SimDisk>, dir: &Path) -> Self {
        backed_up_in(Rig::open_on(disk, dir, with_target(dir)).await).await
    }

    async fn do_restore(&self) {
        let restored = ended(&self.rig.gateway, self.begin_restore().await).await;
        assert_eq!(restored.state, api::OperationState::Succeeded, "{restored:?}");
        assert_eq!(self.content().await, all(THEN));
    }

    async fn do_go_back(&self) {
        let done = self.go_back().await;
        assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
        assert_eq!(self.content().await, as_of_second());
    }

    async fn do_go_back_to(&self, snapshot: SnapshotId) {
        let gateway = &self.rig.gateway;
        let name = snapshot.uuid().to_string();
        let wanted = Wanted::Snapshot(&name);
        let plan = gateway.plan_rollback("orders", wanted, false).await.unwrap();
        let request = RollbackRequest { token: plan.token.unwrap(), drop_hosts: false };
        let begun = gateway.roll_back(("orders", Some(&name)), &request).await.unwrap();
        let done = ended(gateway, begun.id).await;
        assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
    }
}

/// A way back that was taken up tells whether it led where it was to go.
fn told_truly(ends: &[(Vec<u8>, Option<Operation>)], to: &[u8]) {
    for (number, (content, way)) in ends.iter().enumerate() {
        let Some(way) = way else { continue };
        let is_told = way.state == api::OperationState::Succeeded;
        assert_eq!(content == to, is_told, "{number}: {way:?}");
    }
    assert!(ends.iter().any(|(_, way)| way.is_some()), "nothing was cut short");
}

#[tokio::test]
async fn a_restore_over_the_original_that_is_killed_after_any_note_is_whole_or_not_begun() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let scene = Scene::on(&disk, dir.path()).await;
    let before = disk.fork();
    let mut kills = killed_after_each_change(&scene, &disk, scene.do_restore()).await;
    kills.insert(0, before);
    let case = Case { dir: dir.path(), whole: vec![all(NOW), all(THEN)] };
    let ends = case.start_after(scene, kills).await;
    let restored: Vec<bool> = ends.iter().map(|(content, _)| *content == all(THEN)).collect();
    // From the note that it is begun on it is carried through.
    assert!(restored.is_sorted(), "{restored:?}");
    assert!(!restored[0] && restored[restored.len() - 2], "{restored:?}");
}

#[tokio::test]
async fn a_way_back_to_a_snapshot_that_is_killed_after_any_note_is_whole_or_not_begun() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let scene = Scene::on(&disk, dir.path()).await;
    let work = scene.do_go_back_to(scene.base);
    let kills = killed_after_each_change(&scene, &disk, work).await;
    let case = Case { dir: dir.path(), whole: vec![all(NOW), all(THEN)] };
    let ends = case.start_after(scene, kills).await;
    assert!(ends.iter().any(|(content, _)| *content == all(THEN)));
}

#[tokio::test]
async fn a_way_back_to_a_second_that_is_killed_after_any_note_is_whole_or_not_begun() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let scene = Scene::on(&disk, dir.path()).await;
    let kills = killed_after_each_change(&scene, &disk, scene.do_go_back()).await;
    let case = Case { dir: dir.path(), whole: vec![all(NOW), as_of_second()] };
    let ends = case.start_after(scene, kills).await;
    told_truly(&ends, &as_of_second());
}

/// Whichever of the two it is in the end: never half of one and half of the other.
#[tokio::test]
async fn a_way_back_out_of_half_a_restore_that_is_killed_after_any_note_is_whole_or_restored() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let scene = Scene::on(&disk, dir.path()).await;
    let before = scene.stop_restore().await;
    let work = scene.do_go_back_to(before);
    let kills = killed_after_each_change(&scene, &disk, work).await;
    let case = Case { dir: dir.path(), whole: vec![all(NOW), all(THEN)] };
    let ends = case.start_after(scene, kills).await;
    told_truly(&ends, &all(NOW));

    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let scene = Scene::on(&disk, dir.path()).await;
    scene.stop_restore().await;
    let kills = killed_after_each_change(&scene, &disk, scene.do_go_back()).await;
    let case = Case { dir: dir.path(), whole: vec![as_of_second(), all(THEN)] };
    let ends = case.start_after(scene, kills).await;
    told_truly(&ends, &as_of_second());
}
