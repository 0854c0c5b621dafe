//! Whose the policies of a session are: its own, whoever is its source.

use block::Mode;
use twinspan_mirror::{
    Bandwidth, Command, Consent, Failover, OnSlow, Phase, Policy, Priority, Recovery, Role, Split,
    Window,
};

use crate::link::Line;
use crate::world::{Site, World};

/// Policies of which none is as usual.
fn unusual(mode: Mode) -> Policy {
    let windows = [Window::parse("mon-fri 08:00-18:00 Europe/Berlin", 1 << 20).unwrap()];
    Policy {
        mode,
        split: Split::Automatic,
        recovery: Recovery::Manual,
        on_slow: OnSlow::Degrade,
        failover: Failover::Automatic,
        ack_deadline_ms: 5_500,
        cut_interval_ms: 300,
        transfer_every_s: 7,
        bandwidth: Bandwidth { usual: Some(50 << 20), windows: windows.into() },
        priority: Priority::High,
        mode_after_swap: None,
    }
}

fn policy(site: &Site) -> Policy {
    site.status().legs[0].policy.clone()
}

async fn resume(site: &Site) {
    let leg = site.status().legs[0].leg;
    site.command(Command::Resume { leg, discard: false }).await.unwrap();
}

async fn reverse(from: &Site, to: &Site) {
    let leg = from.status().legs[0].leg;
    from.command(Command::Reverse { leg }).await.unwrap();
    to.until(|status| {
        status.role == Role::Primary
            && matches!(status.legs[0].phase, Phase::Equivalent | Phase::Following)
    })
    .await;
}

#[test]
fn a_reverse_and_restarts_of_either_side_keep_the_policies() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let moved = east.status().legs[0].sessions[0].resync_total_bytes;
        let wanted = Policy { split: Split::Manual, ..unusual(Mode::Sync) };
        east.set(|policy| *policy = wanted.clone()).await.unwrap();
        assert_eq!(east.status().legs[0].phase, Phase::Equivalent, "nothing is copied for it");
        assert_eq!(east.status().legs[0].sessions[0].resync_total_bytes, moved);
        world.pass(1).await;
        // The mirror has them durably, and so has the source.
        let (west, east) = (world.restart(west), world.restart(east));
        world.pass(3).await;
        if east.status().legs[0].phase != Phase::Equivalent {
            resume(&east).await;
        }
        east.until_equivalent().await;
        assert_eq!(policy(&east), wanted);
        reverse(&east, &west).await;
        assert_eq!(policy(&west), wanted);
        // They are the new source's to change, and go back with the next swap.
        let other = Policy { ack_deadline_ms: 6_000, ..wanted };
        west.set(|policy| *policy = other.clone()).await.unwrap();
        world.pass(1).await;
        let (east, west) = (world.restart(east), world.restart(west));
        world.pass(3).await;
        if west.status().legs[0].phase != Phase::Equivalent {
            resume(&west).await;
        }
        west.until_equivalent().await;
        reverse(&west, &east).await;
        assert_eq!(policy(&east), other);
    });
}

#[test]
fn a_promotion_and_a_reprotect_keep_the_policies() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let wanted = unusual(Mode::Sync);
        east.set(|policy| *policy = wanted.clone()).await.unwrap();
        world.pass(1).await;
        world.cut();
        world.pass(5).await;
        let west = world.restart_uncut(west);
        west.command(Command::Promote { consent: Consent::InSync }).await.unwrap();
        assert_eq!(policy(&west), wanted);
        let west = world.restart_uncut(west);
        assert_eq!(policy(&west), wanted);
        world.heal();
        resume(&west).await;
        west.until_equivalent().await;
        assert_eq!(policy(&west), wanted);
        // And home again by a second promotion.
        world.cut();
        world.pass(5).await;
        east.command(Command::Promote { consent: Consent::InSync }).await.unwrap();
        assert_eq!(policy(&east), wanted);
    });
}

#[test]
fn a_promotion_to_a_kept_point_keeps_the_policies_and_the_mode() {
    World::run(|world| async move {
        let wanted = Policy { recovery: Recovery::Automatic, ..unusual(Mode::Consistency) };
        let (east, west) = world.behind(wanted.clone()).await;
        west.hold(true);
        east.row(0).await.unwrap();
        world.pass(1).await;
        world.cut();
        west.hold(false);
        world.pass(5).await;
        west.command(Command::Promote { consent: Consent::Outdated }).await.unwrap();
        assert_eq!(policy(&west), wanted);
        world.heal();
        let leg = west.status().legs[0].leg;
        west.command(Command::Resume { leg, discard: true }).await.unwrap();
        west.until(|status| status.legs[0].phase == Phase::Following).await;
        assert_eq!(policy(&west), wanted);
    });
}

/// Roles are swapped in mode `sync` only. A session that follows behind is in it for that, and no
/// longer, whatever is restarted in between.
#[test]
fn a_session_that_follows_behind_has_its_mode_again_after_a_swap() {
    for restarted in [None, Some(0), Some(1)] {
        World::run(|world| async move {
            let wanted = Policy { recovery: Recovery::Automatic, ..unusual(Mode::Consistency) };
            let (mut east, mut west) = world.behind(wanted.clone()).await;
            east.set(|policy| *policy = policy.for_swap()).await.unwrap();
            assert_eq!(policy(&east).mode_after_swap, Some(Mode::Consistency));
            east.until_equivalent().await;
            world.pass(1).await;
            match restarted {
                Some(0) => east = world.restart(east),
                Some(_) => west = world.restart(west),
                None => {}
            }
            world.pass(3).await;
            east.until_equivalent().await;
            reverse(&east, &west).await;
            west.until(|status| status.legs[0].phase == Phase::Following).await;
            assert_eq!(policy(&west), wanted, "{restarted:?}");
            west.row(0).await.unwrap();
            world.pass(3).await;
            assert!(east.equals(&west));
            // The swap is over for the side that was the source, too.
            world.cut();
            world.pass(5).await;
            east.command(Command::Promote { consent: Consent::Outdated }).await.unwrap();
            assert_eq!(policy(&east), wanted, "{restarted:?}");
        });
    }
}

/// A source that is lost before the swap it was in mode `sync` for.
#[test]
fn a_promotion_ends_the_swap_that_a_session_was_in_mode_sync_for() {
    World::run(|world| async move {
        let wanted = unusual(Mode::Consistency);
        let (east, west) = world.behind(wanted.clone()).await;
        east.set(|policy| *policy = policy.for_swap()).await.unwrap();
        east.until_equivalent().await;
        world.pass(1).await;
        world.cut();
        world.pass(5).await;
        west.command(Command::Promote { consent: Consent::InSync }).await.unwrap();
        assert_eq!(policy(&west), wanted);
    });
}

/// Version 2 of the protocol has no message for policies: nothing is said, and everything else goes
/// as it always did. Of the policies the mirror knows the mode, which heartbeats carry.
#[test]
fn a_mirror_of_version_2_is_not_told_the_policies_and_follows_all_the_same() {
    World::run(|world| async move {
        world.line(Line { version: 2, ..Line::default() });
        let (east, west) = world.mirrored().await;
        let wanted = Policy { recovery: Recovery::Automatic, ..unusual(Mode::Sync) };
        east.set(|policy| *policy = wanted.clone()).await.unwrap();
        world.pass(2).await;
        let west = world.restart(west);
        world.pass(3).await;
        east.until_equivalent().await;
        east.row(0).await.unwrap();
        reverse(&east, &west).await;
        assert_eq!(policy(&west), Policy::default());
        assert!(west.equals(&east));
        // The gateway that knows them has them again when it is the source again.
        reverse(&west, &east).await;
        assert_eq!(policy(&east), wanted);
    });
}
