//! A gateway that dies between any two syncs of what it does: of the way back of a group to a snapshot,
//! and of a restore over the originals. What the next start finds is carried through, or was not begun,
//! and until then no host is let in.
//!
//! Invariant: the disk remembers what was written before each sync of one run, the book's and the
//! stores' alike, so that nothing here depends on when anything happens.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::{BackupRestoreRequest, OperationState, RollbackRequest};
use block::{Extent, SLOT_BYTES, VolumeId};
use bytes::Bytes;
use mirror::{Serving, SnapshotOrigin};
use testkit::SimDisk;

use super::{Rig, ended};
use crate::gateway::backups::Asker;
use crate::gateway::backups::tests::{by_hand, target};
use crate::gateway::rollbacks::Wanted;

/// Parts of the volume that are written, each in a slot of its own.
const PARTS: u64 = 4;
/// What the volume is brought back to, and what is written over it.
const GOOD: u8 = 1;
const BAD: u8 = 2;

async fn open(disk: &Arc<SimDisk>, dir: &Path) -> Rig {
    let target = target(dir, None);
    let configure = |config: &mut crate::config::Config| {
        // Nothing here is about deadlines.
        config.api.shard_deadline = Duration::from_mins(1);
        config.backup_targets = vec![target];
    };
    Rig::open_on(disk, dir, configure).await
}

async fn write(rig: &Rig, byte: u8) {
    let (group, volume) = rig.gateway.find_volume("orders").unwrap();
    let place = (group.group(), VolumeId::from_uuid(volume.id));
    let written = rig.gateway.shard_of(place.0).run(move |state| async move {
        for part in 0..PARTS {
            let data = Bytes::from(vec![byte; usize::try_from(SLOT_BYTES).unwrap()]);
            state.fill(place, part * SLOT_BYTES, data).await?;
        }
        state.fill_flush(place).await
    });
    written.await.unwrap().unwrap();
}

/// The one byte that all of it is.
fn whole(content: &[u8], context: &str) -> u8 {
    let byte = content[0];
    assert!(content.iter().all(|of| *of == byte), "{context}: it is neither the one nor the other");
    byte
}

/// Whoever is let in now finds all of the one or all of the other.
async fn lets_nobody_see_half(rig: &Rig, context: &str) {
    let (group, volume) = rig.gateway.find_volume("orders").unwrap();
    let is_held = rig.gateway.book.read().is_held((group.id, volume.id));
    let Ok(status) = rig.gateway.status_of(group.group()).await else { return };
    if is_held || status.serving != Serving::Yes {
        return;
    }
    let content = rig.gateway.read_volume("orders", 0, PARTS * SLOT_BYTES).await.unwrap();
    whole(&content, context);
}

/// Waits until all that was cut short is over, and the group is served.
async fn carried_through(rig: &Rig, context: &str) {
    let gateway = &rig.gateway;
    let id = gateway.find_group("orders").unwrap().group();
    let is_over = || {
        let pages = gateway.book.read();
        let is_noted = !pages.rollbacks.is_empty() || !pages.backups.fills.is_empty();
        let list = gateway.operations.list();
        !is_noted && list.iter().all(|of| of.state != OperationState::Running)
    };
    let look = async {
        loop {
            if is_over()
                && let Ok(status) = gateway.status_of(id).await
                && status.serving == Serving::Yes
            {
                return;
            }
            lets_nobody_see_half(rig, context).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_mins(2), look).await.is_ok();
    assert!(in_time, "{context}: {:?} {:?}", gateway.book.read(), gateway.operations.list());
}

/// What the gateway keeps of before, where it keeps something.
async fn kept(rig: &Rig, context: &str) -> Option<u8> {
    let (group, volume) = rig.gateway.find_volume("orders").unwrap();
    let (group, volume) = (group.group(), VolumeId::from_uuid(volume.id));
    let status = rig.gateway.status_of(group).await.unwrap();
    let mut safeties = status.snapshots.iter().filter(|of| of.origin == SnapshotOrigin::Safety);
    let (_, here) = *safeties.find(|of| of.state.is_readable())?.volumes.first()?;
    let extent = Extent::new(0, PARTS * SLOT_BYTES).unwrap();
    let shard = rig.gateway.shard_of(group);
    let read =
        shard.run(move |state| async move { state.read_at((group, volume), here, extent).await });
    let segments = read.await.unwrap()?.unwrap();
    Some(whole(&block::joined(&segments), context))
}

/// Opens the gateway as each death left it: it is all of the one or all of the other, of the good one
/// from some death on, and then what was there before is kept.
async fn is_whole_after_each(deaths: Vec<Arc<SimDisk>>, dir: &Path) {
    assert!(deaths.len() > 8, "it takes some syncs, not {}", deaths.len());
    let mut found = Vec::new();
    for (number, disk) in deaths.into_iter().enumerate() {
        let context = format!("death {number}");
        let rig = open(&disk, dir).await;
        lets_nobody_see_half(&rig, &context).await;
        rig.gateway.take_rollbacks_up();
        rig.gateway.begin_backups();
        carried_through(&rig, &context).await;
        let content = rig.gateway.read_volume("orders", 0, PARTS * SLOT_BYTES).await.unwrap();
        let byte = whole(&content, &context);
        if byte == GOOD {
            assert_eq!(kept(&rig, &context).await, Some(BAD), "{context}: what was there before");
        }
        let (group, volume) = rig.gateway.find_volume("orders").unwrap();
        assert!(!rig.gateway.book.read().is_held((group.id, volume.id)), "{context}");
        found.push(byte);
        rig.close().await;
    }
    let good = found.iter().position(|byte| *byte == GOOD).expect("the last one was done");
    assert!(good > 0, "nothing is changed before it is noted: {found:?}");
    let after = &found[good..];
    assert!(after.iter().all(|byte| *byte == GOOD), "what was begun is carried through: {found:?}");
}

#[tokio::test]
async fn snap_02_a_gateway_that_dies_at_any_sync_of_a_rollback_is_whole_and_goes_through_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new();
    let rig = open(&disk, dir.path()).await;
    rig.make_orders().await;
    write(&rig, GOOD).await;
    rig.gateway.take_snapshot("orders", Some("good".to_owned())).await.unwrap();
    write(&rig, BAD).await;
    let wanted = Wanted::Snapshot("good");
    let plan = rig.gateway.plan_rollback("orders", wanted, false).await.unwrap();
    let request = RollbackRequest { token: plan.token.unwrap(), drop_hosts: false };
    disk.remember_syncs();
    let begun = rig.gateway.roll_back(("orders", Some("good")), &request).await.unwrap();
    let done = ended(&rig.gateway, begun.id).await;
    assert_eq!(done.state, OperationState::Succeeded, "{done:?}");
    let deaths = disk.remembered();
    rig.close().await;
    is_whole_after_each(deaths, dir.path()).await;
}

#[tokio::test]
async fn bak_03_a_gateway_that_dies_at_any_sync_of_a_restore_is_whole_and_goes_through_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new();
    let rig = open(&disk, dir.path()).await;
    rig.make_orders().await;
    write(&rig, GOOD).await;
    let begun = rig.gateway.create_backup(&by_hand("good"), Asker::default()).await.unwrap();
    let taken = ended(&rig.gateway, begun.id).await;
    assert_eq!(taken.state, OperationState::Succeeded, "{taken:?}");
    write(&rig, BAD).await;
    let plan = rig.gateway.plan_backup_restore("good", None).await.unwrap();
    let request = BackupRestoreRequest { token: plan.token, ..BackupRestoreRequest::default() };
    disk.remember_syncs();
    let begun = rig.gateway.restore_backup("good", &request).await.unwrap();
    let done = ended(&rig.gateway, begun.id).await;
    assert_eq!(done.state, OperationState::Succeeded, "{done:?}");
    let deaths = disk.remembered();
    rig.close().await;
    is_whole_after_each(deaths, dir.path()).await;
}
