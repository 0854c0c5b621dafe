//! A mirror as a source (REC-27): east is the primary, west its mirror, north the mirror of west's
//! copy.

use block::{IoError, Mode, Quality};
use twinspan_mirror::{
    Cause, Command, Consent, Phase, Policy, Refusal, Role, Serving, SessionState,
};

use crate::world::{Site, World};

/// A transfer once a second.
fn relay() -> Policy {
    Policy { mode: Mode::Stack, transfer_every_s: 1, ..Policy::default() }
}

fn mode(mode: Mode) -> Policy {
    Policy { mode, ..Policy::default() }
}

async fn until_point(site: &Site) {
    site.until(|status| status.quality == Quality::Consistent).await;
}

/// Writes a row of dependent writes, a little apart.
async fn rows(world: &World, site: &Site, numbers: std::ops::Range<u64>) {
    for n in numbers {
        site.row(n).await.unwrap();
        world.pass_ms(70).await;
    }
}

/// Three sites, the first session in this mode, with a first point at the third.
async fn three(world: &World, policy: Policy) -> (Site, Site, Site) {
    let (east, west) = world.two_sites();
    let north = world.mirror(3, "north");
    east.mirror_to(&west, policy).await.unwrap();
    west.until(|s| matches!(s.quality, Quality::InSync | Quality::Consistent)).await;
    west.mirror_to(&north, relay()).await.unwrap();
    until_point(&north).await;
    world.pass_ms(200).await;
    (east, west, north)
}

#[test]
fn rec_27_a_mirror_of_a_mirror_follows_it_in_whole_points() {
    for policy in [Policy::default(), mode(Mode::Consistency)] {
        World::run(|world| async move {
            let (east, west, north) = three(&world, policy.clone()).await;
            assert_eq!(north.status().upstream.unwrap().site, "west");
            for n in 0..60 {
                east.row(n).await.unwrap();
                world.pass_ms(70).await;
                if north.status().quality == Quality::Consistent {
                    north.row_here(n + 1);
                }
                let seen = west.status().legs[0].lag_ms;
                assert!(seen.is_none_or(|lag| lag < 5_000), "{seen:?}");
            }
            world.pass(4).await;
            assert_eq!(north.row_here(60), 60);
            assert_eq!(north.snapshots(), 2, "one kept point of two volumes");
            assert_eq!(west.status().legs[0].lag_ms, Some(0));
            let (first, second) = (&east.status().legs[0], &west.status().legs[0]);
            assert_eq!(first.in_sync, policy.mode == Mode::Sync);
            assert!(second.relay && !second.in_sync && !first.relay);
            assert!(!second.sessions[0].full, "only what changed was sent");
            let kept = if policy.mode == Mode::Sync { 0 } else { 2 };
            assert_eq!(west.snapshots(), kept, "a point that was sent on is not kept");
        });
    }
}

#[test]
fn rec_27_an_idle_source_that_follows_behind_is_copied_from_the_point_that_it_keeps() {
    World::run(|world| async move {
        let (east, west) = world.behind(mode(Mode::Consistency)).await;
        rows(&world, &east, 0..10).await;
        world.pass(5).await;
        world.kill(&east);
        let north = world.mirror(3, "north");
        west.mirror_to(&north, relay()).await.unwrap();
        until_point(&north).await;
        assert_eq!(north.row_here(10), 10);
    });
}

/// The second session has nothing to send before the first one's copy is whole.
#[test]
fn rec_27_nothing_is_sent_on_before_the_first_copy_is_whole() {
    World::run(|world| async move {
        let (east, west) = world.two_sites();
        let north = world.mirror(3, "north");
        assert_eq!(west.mirror_to(&north, relay()).await, Err(Refusal::NotPrimary));
        rows(&world, &east, 0..20).await;
        west.hold(true);
        east.mirror_to(&west, Policy::default()).await.unwrap();
        world.pass(1).await;
        assert_eq!(west.mirror_to(&north, mode(Mode::Sync)).await, Err(Refusal::RelayMode));
        west.mirror_to(&north, relay()).await.unwrap();
        world.pass(2).await;
        assert_eq!(west.status().quality, Quality::Inconsistent);
        assert_eq!(north.status().quality, Quality::Blank);
        assert_eq!(west.status().legs[0].phase, Phase::NoPair);
        let leg = west.status().legs[0].leg;
        assert_eq!(west.command(Command::Suspend { leg }).await, Err(Refusal::NotWhole));
        west.hold(false);
        until_point(&north).await;
        assert_eq!(north.row_here(20), 20);
        west.command(Command::Suspend { leg }).await.unwrap();
        rows(&world, &east, 20..30).await;
        world.pass(3).await;
        assert_eq!(north.row_here(30), 20, "it stays at its point");
        west.command(Command::Resume { leg, discard: false }).await.unwrap();
        world.pass(3).await;
        assert_eq!(north.row_here(30), 30);
        west.command(Command::RemoveLeg { leg }).await.unwrap();
        assert!(west.status().legs.is_empty());
    });
}

#[test]
fn rec_27_after_the_primary_is_lost_its_mirrors_mirror_follows_by_delta() {
    for policy in [Policy::default(), mode(Mode::Consistency)] {
        World::run(|world| async move {
            let (east, west, north) = three(&world, policy).await;
            rows(&world, &east, 0..25).await;
            world.kill(&east);
            world.pass(5).await;
            west.command(Command::Promote { consent: Consent::Outdated }).await.unwrap();
            let here = west.row_here(25);
            rows(&world, &west, here..40).await;
            world.pass(5).await;
            assert_eq!(north.row_here(40), 40);
            let legs = west.status().legs;
            let leg = legs.iter().find(|leg| leg.site == "north").unwrap();
            assert!(!leg.relay && leg.sessions.iter().all(|session| !session.full), "{leg:#?}");
            // It is a mirror like any other now.
            let policy = mode(Mode::Sync);
            west.command(Command::SetPolicy { leg: leg.leg, policy }).await.unwrap();
            west.until_equivalent().await;
            assert!(west.equals(&north));
            // The old primary is fenced when it is back, and follows.
            let east = world.restart_uncut(east);
            let leg = legs.iter().find(|leg| leg.site == "east").unwrap().leg;
            west.command(Command::Resume { leg, discard: true }).await.unwrap();
            east.until(|status| status.role == Role::Secondary).await;
            world.pass(10).await;
            assert!(east.equals(&west));
        });
    }
}

#[test]
fn rec_27_a_promotion_at_the_far_end_fences_both_and_rewinds_them_by_consent() {
    for policy in [Policy::default(), mode(Mode::Consistency)] {
        World::run(|world| async move {
            let (east, west, north) = three(&world, policy).await;
            rows(&world, &east, 0..25).await;
            north.command(Command::Promote { consent: Consent::Outdated }).await.unwrap();
            let here = north.row_here(25);
            assert!(here > 0 && north.status().epoch > east.status().epoch);
            // Nobody heard of it yet. The next transfer does, and tells the primary.
            let wrote = east.row(25).await;
            assert!(matches!(wrote, Ok(()) | Err(IoError::Fenced)), "{wrote:?}");
            east.until(|status| status.role == Role::Fenced).await;
            assert!(east.row(26).await.is_err());
            assert_eq!(west.status().epoch, north.status().epoch);
            assert_eq!(west.status().role, Role::Secondary);
            assert_eq!(west.status().legs[0].cause, Some(Cause::AwaitingReprotect));
            let leg = north.status().legs[0].leg;
            let sync = mode(Mode::Sync);
            north.command(Command::SetPolicy { leg, policy: sync }).await.unwrap();
            north.command(Command::Resume { leg, discard: false }).await.unwrap();
            world.pass(5).await;
            // What was written after the point is nowhere else (rule 10).
            let refused = &north.status().legs[0];
            assert!(matches!(refused.cause, Some(Cause::SplitBrain { .. })), "{refused:#?}");
            north.command(Command::Resume { leg, discard: true }).await.unwrap();
            north.until_equivalent().await;
            assert!(north.status().legs[0].sessions.iter().all(|session| !session.full));
            assert!(north.equals(&west));
            assert_eq!(west.status().discarded.len(), 1, "what was discarded is kept (rule 10)");
        });
    }
}

/// The mirror in the middle is killed after each of its steps: what is at the far end is always one
/// point in time, and nothing that the primary was told is lost.
#[test]
fn rec_27_the_mirror_in_the_middle_dies_at_every_step() {
    for policy in [Policy::default(), mode(Mode::Consistency)] {
        for steps in 1..24 {
            let policy = policy.clone();
            World::run(|world| async move {
                let (east, west, north) = three(&world, policy.clone()).await;
                west.life.die_after(steps);
                let writes = async { rows(&world, &east, 0..60).await };
                let deadline = std::time::Duration::from_secs(5);
                drop(tokio::time::timeout(deadline, writes).await);
                let west = world.restart(west);
                east.until(|status| {
                    status.legs[0].phase == Phase::Equivalent
                        || status.legs[0].phase == Phase::Following
                })
                .await;
                rows(&world, &east, 0..70).await;
                world.pass(20).await;
                assert!(east.equals(&west), "{steps}");
                assert!(west.equals(&north), "{steps}: {:#?}", west.status());
                let kept = if policy.mode == Mode::Sync { 0 } else { 2 };
                assert_eq!(west.snapshots(), kept, "{steps}: no point is left behind");
            });
        }
    }
}

/// The far end is killed after each of its steps and promoted: it is always at a whole cut.
#[test]
fn rec_27_the_far_end_is_promoted_at_a_whole_cut_whatever_step_it_is_killed_at() {
    for steps in 1..20 {
        World::run(|world| async move {
            let (east, west, north) = three(&world, Policy::default()).await;
            north.life.die_after(steps);
            rows(&world, &east, 0..60).await;
            world.cut();
            let north = world.restart_uncut(north);
            world.pass(5).await;
            north.command(Command::Promote { consent: Consent::Outdated }).await.unwrap();
            north.row_here(60);
            assert_eq!(north.snapshots(), 0, "{steps}");
            drop((east, west));
        });
    }
}

/// The middle is promoted in the middle of a transfer: the far end lacks what that had sent and what
/// it had not.
#[test]
fn rec_27_a_promotion_in_the_middle_of_a_transfer_loses_nothing_of_it() {
    for ms in (0..2_000).step_by(97) {
        World::run(|world| async move {
            let (east, west, north) = three(&world, mode(Mode::Consistency)).await;
            rows(&world, &east, 0..20).await;
            north.hold(true);
            world.pass_ms(ms).await;
            rows(&world, &east, 20..30).await;
            world.kill(&east);
            world.pass(5).await;
            west.command(Command::Promote { consent: Consent::Outdated }).await.unwrap();
            north.hold(false);
            world.pass(20).await;
            assert!(west.equals(&north), "{ms}");
            let legs = west.status().legs;
            let leg = legs.iter().find(|leg| leg.site == "north").unwrap();
            assert!(leg.sessions.iter().all(|session| !session.full), "{ms}");
        });
    }
}

#[test]
fn rec_27_what_fails_at_the_far_end_is_nothing_to_the_primary() {
    World::run(|world| async move {
        let (east, west, north) = three(&world, Policy::default()).await;
        north.life.snapshots_fail.set(Some(IoError::NoSpace));
        rows(&world, &east, 0..30).await;
        west.until(|status| status.legs[0].state == SessionState::Error).await;
        assert!(matches!(&west.status().legs[0].cause, Some(Cause::Refused(_))));
        assert!(east.status().legs[0].in_sync && west.status().quality == Quality::InSync);
        north.row_here(30);
        north.life.snapshots_fail.set(None);
        let leg = west.status().legs[0].leg;
        west.command(Command::Resume { leg, discard: false }).await.unwrap();
        world.pass(5).await;
        assert_eq!(north.row_here(30), 30);
        // No point can be taken in the middle: the first session goes on, the second waits.
        west.life.snapshots_fail.set(Some(IoError::NoSpace));
        rows(&world, &east, 30..50).await;
        assert!(east.status().legs[0].in_sync && west.status().quality == Quality::InSync);
        assert_eq!(west.status().legs[0].state, SessionState::Halted);
        west.life.snapshots_fail.set(None);
        world.pass(10).await;
        assert_eq!(north.row_here(50), 50);
        // The far end is gone and back.
        world.kill(&north);
        rows(&world, &east, 50..60).await;
        let north = world.restart_uncut(north);
        world.pass(10).await;
        assert_eq!(north.row_here(60), 60);
        assert_eq!(east.status().counters.unprotected_writes, 0);
    });
}

#[test]
fn rec_27_a_store_that_keeps_no_snapshots_is_no_source() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let north = world.mirror(3, "north");
        west.life.snapshots_fail.set(Some(IoError::Unsupported));
        west.mirror_to(&north, relay()).await.unwrap();
        west.until(|status| status.legs[0].state == SessionState::Error).await;
        rows(&world, &east, 0..5).await;
        assert!(east.status().legs[0].in_sync);
    });
}

#[test]
fn rec_27_a_loop_and_one_too_many_are_refused() {
    World::run(|world| async move {
        let (east, west, north) = three(&world, Policy::default()).await;
        assert_eq!(west.mirror_to(&east, relay()).await, Err(Refusal::Loop));
        assert_eq!(west.mirror_to(&north, relay()).await, Err(Refusal::AlreadyMirrored));
        assert_eq!(north.mirror_to(&west, relay()).await, Err(Refusal::Loop));
        rows(&world, &east, 0..10).await;
        world.pass(3).await;
        // Around the corner: what the others say is told.
        north.mirror_to(&east, relay()).await.unwrap();
        north.until(|status| status.legs[0].state == SessionState::Error).await;
        assert_eq!(east.status().serving, Serving::Yes);
        let leg = north.status().legs[0].leg;
        north.command(Command::RemoveLeg { leg }).await.unwrap();
        let far = world.mirror(4, "far");
        north.mirror_to(&far, relay()).await.unwrap();
        until_point(&far).await;
        far.mirror_to(&west, relay()).await.unwrap();
        far.until(|status| status.legs[0].state == SessionState::Error).await;
        // Also while the mirror does not follow its primary at the moment.
        world.kill(&east);
        world.pass(5).await;
        let leg = far.status().legs[0].leg;
        far.command(Command::Resume { leg, discard: true }).await.unwrap();
        world.pass(5).await;
        assert_eq!(far.status().legs[0].state, SessionState::Error);
        assert_eq!(west.status().quality, Quality::InSync);
        assert_eq!(west.row_here(10), 10);
        assert_eq!(far.row_here(10), 10);
        for n in 0..7 {
            let added = west.relay_to_gateway(1000 + n).await;
            assert_eq!(added, if n < 6 { Ok(()) } else { Err(Refusal::TooManyRelays) });
        }
    });
}

#[test]
fn rec_27_roles_are_swapped_and_back_and_the_far_end_goes_on_by_delta() {
    World::run(|world| async move {
        let (east, west, north) = three(&world, Policy::default()).await;
        rows(&world, &east, 0..10).await;
        let leg = east.status().legs[0].leg;
        east.command(Command::Reverse { leg }).await.unwrap();
        west.until(|status| status.role == Role::Primary).await;
        rows(&world, &west, 10..20).await;
        west.until(|status| {
            status.legs.iter().any(|leg| leg.site == "east" && leg.phase == Phase::Equivalent)
        })
        .await;
        let back = west.status().legs;
        let back = back.iter().find(|leg| leg.site == "east").unwrap().leg;
        west.command(Command::Reverse { leg: back }).await.unwrap();
        east.until(|status| status.role == Role::Primary).await;
        east.until_equivalent().await;
        rows(&world, &east, 20..30).await;
        world.pass(5).await;
        assert_eq!(north.row_here(30), 30);
        let legs = west.status().legs;
        assert_eq!(legs.len(), 1, "{legs:#?}");
        assert!(legs[0].relay && legs[0].sessions.iter().all(|session| !session.full));
    });
}

#[test]
fn rec_27_the_primary_restarts_and_its_volumes_grow() {
    World::run(|world| async move {
        let (east, west, north) = three(&world, Policy::default()).await;
        rows(&world, &east, 0..10).await;
        let east = world.restart(east);
        east.until_equivalent().await;
        rows(&world, &east, 10..20).await;
        let volume = east.status().volumes[0].volume;
        east.command(Command::Grow { volume, bytes: Site::BYTES * 2 }).await.unwrap();
        east.write(Site::BYTES + 4096, 3, 4096).await.unwrap();
        world.pass(10).await;
        assert_eq!(north.status().volumes[0].bytes, Site::BYTES * 2);
        assert_eq!(north.content(Site::BYTES + 4096, 4096), west.content(Site::BYTES + 4096, 4096));
        assert_eq!(north.row_here(20), 20);
        assert!(west.status().legs[0].sessions.iter().all(|session| !session.full));
    });
}
