//! Snapshots with names: the same content at both copies, and the way back to one.

use block::{Mode, Op, SnapshotId};
use twinspan_mirror::{
    Command, GroupStatus, Phase, Policy, Refusal, Serving, SessionState, SnapshotOrigin,
    SnapshotState,
};

use crate::world::{Site, World, bytes, extent};

fn take(id: u128, name: &str) -> Command {
    let (snapshot, name) = (SnapshotId::of(id), name.to_owned());
    Command::Snapshot { snapshot, name, origin: SnapshotOrigin::Manual, unix_ms: 1 }
}

/// What a site's store calls a snapshot.
fn here(status: &GroupStatus, id: u128) -> SnapshotId {
    let snapshot = status.snapshots.iter().find(|snapshot| snapshot.id == SnapshotId::of(id));
    let snapshot = snapshot.expect("it is listed");
    assert_eq!(snapshot.state, SnapshotState::Available);
    snapshot.volumes[0].1
}

async fn content(site: &Site, id: u128) -> bytes::Bytes {
    site.kept_content(here(&site.status(), id)).await
}

/// Suspends the session, goes back, and resumes it.
pub(crate) async fn go_back(site: &Site, id: u128, safety: u128) {
    let leg = site.status().legs[0].leg;
    site.command(Command::Suspend { leg }).await.unwrap();
    let unix_ms = u64::try_from(safety).unwrap();
    let (snapshot, safety) = (SnapshotId::of(id), SnapshotId::of(safety));
    site.command(Command::RollBack { snapshot, safety, unix_ms }).await.unwrap();
    site.command(Command::Resume { leg, discard: false }).await.unwrap();
}

#[test]
fn snap_01_holds_the_same_at_both_sites_whatever_hosts_do_meanwhile() {
    for mode in [Mode::Sync, Mode::Consistency] {
        World::run(|world| async move {
            let (east, west) = world.two_sites();
            east.mirror_to(&west, Policy { mode, ..Policy::default() }).await.unwrap();
            east.until(|s| {
                matches!(s.legs[0].phase, Phase::Equivalent | Phase::Following)
                    && s.legs[0].lag_ms.is_some()
            })
            .await;
            for round in 0..8_u8 {
                // Overlapping, unaligned, all in flight when it is asked for.
                let writes: Vec<_> = (0..64_u64)
                    .map(|n| {
                        let fill = round.wrapping_mul(64).wrapping_add(n as u8);
                        east.start(Op::Write(extent(n * 700, 1500), bytes(fill, 1500)))
                    })
                    .collect();
                east.command(take(u128::from(round) + 1, &format!("s{round}"))).await.unwrap();
                for write in writes {
                    write.await.unwrap();
                }
                let id = SnapshotId::of(u128::from(round) + 1);
                east.until(|s| s.snapshots.iter().any(|s| s.id == id && s.held_by.len() == 1))
                    .await;
            }
            for id in 1..=8 {
                assert_eq!(content(&east, id).await, content(&west, id).await, "snapshot {id}");
            }
            assert_ne!(content(&east, 1).await, content(&east, 8).await);
        });
    }
}

#[test]
fn snap_02_goes_back_in_place_and_the_mirror_follows_by_delta() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.write(0, 1, 64 << 10).await.unwrap();
        east.write(1 << 20, 1, 64 << 10).await.unwrap();
        east.flush().await.unwrap();
        east.command(take(1, "before")).await.unwrap();
        east.write(4096, 2, 8192).await.unwrap();
        let hosts = east.hosts();
        go_back(&east, 1, 9).await;
        assert!(hosts.is_cancelled());
        assert_eq!(east.content(4096, 8192), bytes(1, 8192));
        east.until_equivalent().await;
        assert!(east.equals(&west));
        let moved = east.status().legs[0].sessions[0].resync_total_bytes;
        assert!(moved <= 8 * 4096, "a delta of two blocks moved {moved} bytes");
        // Nothing is lost: what was there before has a name of its own, and is gone back to.
        go_back(&east, 9, 10).await;
        assert_eq!(east.content(4096, 8192), bytes(2, 8192));
        east.until_equivalent().await;
        assert!(east.equals(&west));
        east.write(0, 7, 4096).await.unwrap();
        assert!(east.equals(&west));
    });
}

/// Who waits for the way back still does; what is deleted is asked for beside it.
#[test]
fn snap_02_a_way_back_without_room_goes_on_when_a_snapshot_is_deleted() {
    World::run(|world| async move {
        let (east, _west) = world.two_sites();
        for n in 1..=2_u8 {
            east.write(0, n, 4096).await.unwrap();
            east.command(take(u128::from(n), &format!("s{n}"))).await.unwrap();
        }
        east.write(0, 3, 4096).await.unwrap();
        east.life.is_full.set(true);
        let (snapshot, safety) = (SnapshotId::of(1), SnapshotId::of(9));
        let back = east.command(Command::RollBack { snapshot, safety, unix_ms: 9 });
        let make_room = async {
            // Between two tries, which are a second apart.
            world.pass_ms(3_500).await;
            assert_eq!(east.status().serving, Serving::RollingBack);
            for snapshot in [snapshot, safety] {
                let refused = east.command(Command::RemoveSnapshot { snapshot }).await;
                assert_eq!(refused, Err(Refusal::NeededOnTheWay));
            }
            assert!(east.life.is_full.get(), "nothing was removed");
            let snapshot = SnapshotId::of(2);
            east.command(Command::RemoveSnapshot { snapshot }).await
        };
        let (back, removed) = tokio::join!(back, make_room);
        assert_eq!((back, removed), (Ok(()), Ok(())));
        assert_eq!(east.content(0, 4096), bytes(1, 4096));
        let left: Vec<SnapshotId> = east.status().snapshots.iter().map(|s| s.id).collect();
        assert_eq!(left, [snapshot, safety]);
    });
}

#[test]
fn snap_06_snapshots_go_in_any_order_at_both_sites_and_what_is_left_stays() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        for n in 1..=4_u8 {
            east.write(0, n, 4096).await.unwrap();
            east.command(take(u128::from(n), &format!("s{n}"))).await.unwrap();
        }
        let all = |s: &GroupStatus| s.snapshots.len() == 4;
        west.until(all).await;
        for id in [2_u128, 4] {
            let snapshot = SnapshotId::of(id);
            east.command(Command::RemoveSnapshot { snapshot }).await.unwrap();
        }
        for site in [&east, &west] {
            site.until(|s| s.snapshots.len() == 2).await;
            assert_eq!(&content(site, 1).await[..4096], &bytes(1, 4096)[..]);
            assert_eq!(&content(site, 3).await[..4096], &bytes(3, 4096)[..]);
        }
        // One that a mirror has is its own to remove, too.
        let snapshot = SnapshotId::of(1);
        west.command(Command::RemoveSnapshot { snapshot }).await.unwrap();
        west.until(|s| s.snapshots.len() == 1).await;
        assert_eq!(east.status().snapshots.len(), 2);
        let again = west.command(Command::RemoveSnapshot { snapshot }).await;
        assert_eq!(again, Err(Refusal::NoSuchSnapshot));
    });
}

#[test]
fn snapshots_survive_a_restart_a_swap_and_a_failover_with_their_names() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.write(0, 1, 4096).await.unwrap();
        east.command(take(1, "before")).await.unwrap();
        east.write(0, 2, 4096).await.unwrap();
        let leg = east.status().legs[0].leg;
        east.until(|s| s.snapshots[0].held_by.len() == 1).await;
        east.command(Command::Reverse { leg }).await.unwrap();
        west.until_equivalent().await;
        let west = world.restart(west);
        west.until(|s| s.legs.iter().any(|leg| leg.phase == Phase::Equivalent)).await;
        assert_eq!(west.status().snapshots[0].name, "before");
        // What the new primary kept as a mirror, it goes back to.
        go_back(&west, 1, 9).await;
        assert_eq!(west.content(0, 4096), bytes(1, 4096));
        west.until_equivalent().await;
        assert!(west.equals(&east));
    });
}

#[test]
fn snap_09_a_mirror_that_is_away_when_the_group_goes_back_follows_when_it_is_there() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.write(0, 1, 1 << 20).await.unwrap();
        east.command(take(1, "before")).await.unwrap();
        world.cut();
        east.write(8192, 2, 4096).await.unwrap();
        go_back(&east, 1, 9).await;
        east.write(65_536, 3, 4096).await.unwrap();
        world.pass(5).await;
        world.heal();
        east.until_equivalent().await;
        assert_eq!(west.content(8192, 4096), bytes(1, 4096));
        assert!(east.equals(&west));
        assert!(!east.status().legs[0].sessions[0].full);
        assert_eq!(east.status().legs[0].state, SessionState::Active);
    });
}
