//! Blocks that cannot be read any more, and are not needed.

use testkit::SimDisk;

use super::fills::{BLOCKS, NOW, THEN, all, backed_up_in, with_target};
use super::*;

/// Nothing is near any more, and a bit is flipped wherever the disk holds this, `at` bytes behind its
/// beginning.
fn spoil(disk: &Arc<SimDisk>, content: &[u8], at: u64) {
    disk.set_cold(true);
    let mut spoilt = 0;
    for path in disk.paths().into_iter().filter(|path| path.contains("/data.")) {
        let file = disk.root().open(&path).unwrap();
        let mut whole = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.read_at(&mut whole, 0).unwrap();
        for from in (0..whole.len()).step_by(4096) {
            if whole[from..].starts_with(content) {
                disk.corrupt(&path, from as u64 + at);
                spoilt += 1;
            }
        }
    }
    assert!(spoilt > 0, "it lies nowhere");
}

/// Found in a review: what was to be overwritten was read first, so that each try ended there, with
/// hosts shut out.
#[tokio::test]
async fn an_original_with_a_block_that_cannot_be_read_is_restored_all_the_same() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let rig = Rig::open_on(&disk, dir.path(), with_target(dir.path())).await;
    let scene = backed_up_in(rig).await;
    scene.flush().await;
    spoil(&disk, &all(NOW), 5 * BLOCK);
    let read = scene.rig.gateway.read_volume("orders", 5 * BLOCK, BLOCK).await;
    assert_eq!(read.unwrap_err().0.code, Code::PoolFailed.as_str());
    let restored = ended(&scene.rig.gateway, scene.begin_restore().await).await;
    assert_eq!(restored.state, api::OperationState::Succeeded, "{restored:?}");
    assert_eq!((scene.content().await, scene.is_held()), (all(THEN), false));
    scene.rig.close().await;
}

/// Found in a review, too: the way back to a second read all that it was to lay something over.
#[tokio::test]
async fn a_way_back_to_a_second_needs_nothing_of_its_base_that_it_hides() {
    for (block, is_hidden) in [(2, true), (0, false)] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
        let scene = Scene::make_in(Rig::open_on(&disk, dir.path(), |_| {}).await).await;
        for number in 0..BLOCKS {
            scene.write(number, NOW).await;
        }
        scene.flush().await;
        spoil(&disk, &all(THEN), block * BLOCK + 50);
        let done = scene.go_back().await;
        if is_hidden {
            assert_eq!(done.state, api::OperationState::Succeeded, "{done:?}");
            assert_eq!((scene.content().await, scene.is_held()), (as_of_second(), false));
        } else {
            // Half of that block is to be seen.
            assert_eq!(done.error.unwrap().code, Code::RollbackUnfinished.as_str());
            assert!(scene.is_held());
        }
        scene.rig.close().await;
    }
}
