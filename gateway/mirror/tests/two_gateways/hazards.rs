//! What goes wrong between two sites and needs whole gateways to show: links that flap, power that
//! goes, changes that arrive late.

use block::{IoError, Mode, Op, Quality};
use twinspan_mirror::{Command, Consent, Phase, Policy, Refusal, Role};

use crate::world::{World, bytes, extent};

/// Cuts and heals the link every second for an hour while a host writes.
fn flap(mode: Mode) {
    World::run(|world| async move {
        let (east, west) = world.two_sites();
        east.mirror_to(&west, Policy { mode, ..Policy::default() }).await.unwrap();
        east.until(|status| matches!(status.legs[0].phase, Phase::Equivalent | Phase::Following))
            .await;
        let mut slowest = 0;
        for n in 0..1_800u64 {
            for half in 0..2 {
                let before = tokio::time::Instant::now();
                let (offset, fill) = ((n * 7 + half) % 1_024 * 4096, (n % 250 + 1) as u8);
                east.write(offset, fill, 4096).await.unwrap();
                slowest = slowest.max(before.elapsed().as_millis());
                if half == 0 {
                    world.cut()
                } else {
                    world.heal()
                }
                world.pass(1).await;
            }
        }
        assert!(slowest < 8_000, "a host waited for {slowest} ms");
        east.until(|status| status.legs[0].lag_ms == Some(0)).await;
        east.flush().await.unwrap();
        world.pass(5).await;
        assert!(east.equals(&west));
        let leg = &east.status().legs[0];
        assert!(!leg.sessions[0].full, "it comes back by delta, however often it was away");
        assert!(west.snapshots() <= 2, "at most one kept point of two volumes");
        assert_eq!(east.snapshots(), 0);
        assert!(east.status().counters.unprotected_writes <= 3_600);
    });
}

#[test]
fn a_path_that_flaps_every_second_for_an_hour_stops_no_host_in_mode_sync() {
    flap(Mode::Sync);
}

#[test]
fn a_path_that_flaps_every_second_for_an_hour_stops_no_host_in_mode_consistency() {
    flap(Mode::Consistency);
}

#[test]
fn rule_4_a_mirror_that_lost_power_is_promoted_only_with_a_word() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.write(0, 3, 4096).await.unwrap();
        world.cut();
        let west = world.restart_after_power_loss(west);
        world.cut();
        world.pass(10).await;
        let refused = west.command(Command::Promote { consent: Consent::InSync }).await;
        let quality = Quality::Inconsistent;
        assert_eq!(refused, Err(Refusal::QualityTooLow { quality }));
        // Once it has been brought up to date it is as good as before.
        world.heal();
        east.until_equivalent().await;
        world.cut();
        world.pass(10).await;
        west.command(Command::Promote { consent: Consent::InSync }).await.unwrap();
        assert_eq!(west.content(0, 4096), bytes(3, 4096));
    });
}

#[test]
fn rule_6_what_came_before_a_promotion_lands_before_the_first_write_after_it() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        west.hold(true);
        let late = east.start(Op::Write(extent(0, 4096), bytes(3, 4096)));
        world.pass_ms(100).await;
        world.cut();
        world.pass(10).await;
        // The old primary's change is still on its way to the disk here.
        let promote = west.command(Command::Promote { consent: Consent::InSync });
        let promoted = async {
            let done = promote.await;
            (done, west.write(0, 9, 4096).await)
        };
        let release = async {
            world.pass(20).await;
            assert_ne!(west.status().role, Role::Primary, "it waits for what is under way");
            west.hold(false);
        };
        let ((done, written), ()) = tokio::join!(promoted, release);
        done.unwrap();
        written.unwrap();
        assert_eq!(west.status().role, Role::Primary);
        world.pass(5).await;
        assert_eq!(west.content(0, 4096), bytes(9, 4096));
        drop(late);
    });
}

#[test]
fn rule_1_a_mirror_that_did_not_take_over_is_not_promoted_as_if_it_were_in_sync() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let north = world.mirror(3, "north");
        east.mirror_to_gateway(3).await.unwrap();
        east.until(|status| status.legs.iter().all(|leg| leg.in_sync)).await;
        let leg = east.status().legs[0].leg;
        east.command(Command::Reverse { leg }).await.unwrap();
        world.cut();
        assert_eq!(west.status().role, Role::Primary);
        // It lacks what the new primary is asked from here on, which inherits it and cannot reach it.
        west.write(0, 7, 4096).await.unwrap();
        world.pass(1).await;
        assert_eq!(north.status().quality, Quality::Outdated);
        world.pass(10).await;
        let refused = north.command(Command::Promote { consent: Consent::InSync }).await;
        assert_eq!(refused, Err(Refusal::QualityTooLow { quality: Quality::Outdated }));
    });
}

/// Found by the simulator: what a disk answered after its group was closed was waited for again and
/// again, by nobody who would take it, and the thread did nothing else any more.
#[test]
fn what_a_disk_answers_after_its_group_was_closed_keeps_nobody_busy() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.hold(true);
        let late = east.start(Op::Write(extent(0, 4096), bytes(1, 4096)));
        assert_eq!(east.close().await, Err(IoError::ShuttingDown), "it is still under way");
        east.hold(false);
        // Time goes on, for the other groups of the thread as well.
        world.pass(1).await;
        assert_eq!(west.status().role, Role::Secondary);
        drop(late);
    });
}
