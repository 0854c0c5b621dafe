//! Recovery points at two gateways: what becomes of them while one of the two is away.

use block::SnapshotId;
use bytes::Bytes;
use twinspan_mirror::{Command, Marks, Refusal, SnapshotState};

use crate::world::World;

fn take(id: u128, marks: Marks) -> Command {
    let (snapshot, name) = (SnapshotId::of(id), format!("auto.point.{id}"));
    Command::TakePoint { snapshot, name, unix_ms: 1, marks, here_only: false }
}

#[test]
fn snap_06_what_was_removed_while_a_mirror_was_away_goes_there_when_it_is_back() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.write(0, 1, 4096).await.unwrap();
        for id in 1..=3 {
            east.command(take(id, Marks::default())).await.unwrap();
        }
        west.until(|s| s.snapshots.len() == 3).await;
        world.cut();
        for id in [1, 3] {
            let snapshot = SnapshotId::of(id);
            east.command(Command::RemoveSnapshot { snapshot }).await.unwrap();
        }
        east.write(0, 2, 4096).await.unwrap();
        let east = world.restart_uncut(east);
        world.pass(5).await;
        assert_eq!(west.status().snapshots.len(), 3);
        world.heal();
        west.until(|s| s.snapshots.len() == 1).await;
        assert_eq!(west.status().snapshots[0].id, SnapshotId::of(2));
        east.until_equivalent().await;
        assert_eq!(east.status().snapshots.len(), 1);
    });
}

/// A new primary lacks what only the old one has; that is not a removal.
#[test]
fn what_only_a_mirror_has_stays_there() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        world.cut();
        east.write(0, 1, 4096).await.unwrap();
        east.command(take(1, Marks::default())).await.unwrap();
        world.heal();
        east.until_equivalent().await;
        let leg = east.status().legs[0].leg;
        east.command(Command::Reverse { leg }).await.unwrap();
        west.until_equivalent().await;
        assert!(west.status().snapshots.is_empty());
        assert_eq!(east.status().snapshots[0].state, SnapshotState::Available);
    });
}

#[test]
fn a_policy_and_locks_outlive_restarts_and_a_swap_of_roles() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let policy = Some(Bytes::from_static(b"every hour"));
        east.command(Command::SetPointPolicy { policy: policy.clone() }).await.unwrap();
        let far = Marks { locked_until_ms: u64::MAX, ..Marks::default() };
        east.command(take(1, far)).await.unwrap();
        east.until(|s| s.snapshots[0].held_by.len() == 1).await;
        west.until(|s| s.point_policy == policy).await;
        let leg = east.status().legs[0].leg;
        east.command(Command::Reverse { leg }).await.unwrap();
        west.until_equivalent().await;
        let west = world.restart(west);
        west.until_equivalent().await;
        assert_eq!(west.status().point_policy, policy);
        let snapshot = SnapshotId::of(1);
        for site in [&west, &east] {
            let refused = site.command(Command::RemoveSnapshot { snapshot }).await;
            assert_eq!(refused, Err(Refusal::SnapshotLocked { until_ms: u64::MAX }));
        }
        // It goes on at the new primary, and its mirror hears of changes.
        west.command(Command::SetPointPolicy { policy: None }).await.unwrap();
        east.until(|s| s.point_policy.is_none()).await;
    });
}
