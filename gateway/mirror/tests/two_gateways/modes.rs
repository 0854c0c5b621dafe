//! Mirrors that follow behind: cuts, kept points, overflow, degrading, transfers, and every kill in
//! between.

use block::{Mode, Quality};
use twinspan_mirror::{
    Cause, Command, Consent, JournalLimits, LinkState, OnSlow, Phase, Policy, Refusal, Role,
    SessionState,
};

use crate::world::{Site, World, bytes};

fn mode(mode: Mode) -> Policy {
    Policy { mode, ..Policy::default() }
}

/// Promotes what is left after the other side is gone.
async fn fail_over(world: &World, site: &Site) {
    world.cut();
    world.pass(5).await;
    site.command(Command::Promote { consent: Consent::Outdated }).await.unwrap();
    assert_eq!(site.status().role, Role::Primary);
}

/// Makes the old primary a mirror again, and says whether `discard` was needed.
async fn reprotect(world: &World, site: &Site) -> bool {
    world.heal();
    world.pass(10).await;
    let leg = site.status().legs[0].leg;
    let policy = site.status().legs[0].policy.clone();
    site.command(Command::SetPolicy { leg, policy: Policy { mode: Mode::Sync, ..policy } })
        .await
        .unwrap();
    site.command(Command::Resume { leg, discard: false }).await.unwrap();
    world.pass(10).await;
    let refused = site.status().legs[0].state == SessionState::Error;
    if refused {
        assert!(
            matches!(site.status().legs[0].cause, Some(Cause::SplitBrain { theirs_bytes: 1.. })),
            "{:?}",
            site.status().legs[0].cause
        );
        site.command(Command::Resume { leg, discard: true }).await.unwrap();
    }
    site.until_equivalent().await;
    refused
}

#[test]
fn consistency_acknowledges_without_the_mirror_and_cuts_come_after() {
    World::run(|world| async move {
        let (east, west) = world.behind(mode(Mode::Consistency)).await;
        assert_eq!(east.status().legs[0].phase, Phase::Following);
        assert!(!east.status().legs[0].in_sync);
        west.hold(true);
        for n in 0..10 {
            east.row(n).await.unwrap();
        }
        assert_eq!(
            east.status().counters.unprotected_writes,
            0,
            "nobody promised that it is there"
        );
        assert_eq!(west.row_here(10), 0);
        world.pass(3).await;
        // The mirror says how far it is behind, and it is told as well.
        let lag = east.status().legs[0].lag_ms.unwrap();
        assert!((2_000..4_500).contains(&lag), "{lag}");
        let rpo = west.status().rpo_ms.unwrap();
        assert!((1_500..5_000).contains(&rpo), "{rpo}");
        west.hold(false);
        world.pass(3).await;
        assert_eq!(east.status().legs[0].lag_ms, Some(0));
        assert!(west.status().rpo_ms.unwrap() <= 600, "heard a moment ago");
        assert_eq!(west.row_here(10), 10);
        assert_eq!(west.snapshots(), 2, "one kept point of two volumes");
    });
}

#[test]
fn a_flush_does_not_wait_for_a_mirror_that_follows_behind() {
    World::run(|world| async move {
        let (east, west) = world.behind(mode(Mode::Consistency)).await;
        west.hold(true);
        east.row(0).await.unwrap();
        east.flush().await.unwrap();
        // Nor does a write of the same block.
        east.row(0).await.unwrap();
        west.hold(false);
    });
}

/// The mirror is killed after each of its steps, and promoted: it is always at a whole cut, never
/// before the last one that the primary was told of.
#[test]
fn consistency_promotes_a_whole_cut_whatever_step_the_mirror_is_killed_at() {
    for steps in 1..28 {
        World::run(|world| async move {
            let (east, west) = world.behind(mode(Mode::Consistency)).await;
            west.life.die_after(steps);
            let (mut confirmed, mut sent) = (0, 0);
            for n in 0..60 {
                if east.status().legs[0].lag_ms == Some(0) {
                    confirmed = n;
                }
                east.row(n).await.unwrap();
                sent = n + 1;
                world.pass_ms(70).await;
            }
            let west = world.restart_uncut(west);
            fail_over(&world, &west).await;
            let here = west.row_here(sent);
            assert!(here >= confirmed, "{steps}: {here} of {sent}, {confirmed} confirmed");
            assert_eq!(west.snapshots(), 0, "{steps}: a primary needs no kept point");
            let discarded = reprotect(&world, &west).await;
            assert!(discarded, "{steps}: the old primary had more");
            assert!(west.equals(&east), "{steps}");
            assert_eq!(east.status().discarded.len(), 1, "what was discarded is kept (rule 10)");
            assert_eq!(east.snapshots(), 2, "{steps}");
        });
    }
}

/// The promotion itself is killed after each of its steps and asked for again.
#[test]
fn rule_8_a_promotion_that_is_cut_short_is_done_again() {
    for steps in 1..12 {
        World::run(|world| async move {
            let (east, west) = world.behind(mode(Mode::Consistency)).await;
            for n in 0..10 {
                east.row(n).await.unwrap();
            }
            world.pass(2).await;
            for n in 10..15 {
                east.row(n).await.unwrap();
            }
            world.pass_ms(20).await;
            assert_eq!(west.row_here(15), 15);
            world.cut();
            world.pass(5).await;
            west.life.die_after(steps);
            let command = Command::Promote { consent: Consent::Outdated };
            let wait = std::time::Duration::from_secs(1);
            drop(tokio::time::timeout(wait, west.command(command.clone())).await);
            let west = world.restart_uncut(west);
            world.pass(1).await;
            if west.status().role != Role::Primary {
                west.command(command).await.unwrap();
            }
            // The first of the last five was cut at once: the second before had none.
            assert_eq!(west.row_here(15), 11, "{steps}: back at the cut");
            west.row(200).await.unwrap();
            assert!(
                reprotect(&world, &west).await,
                "{steps}: four writes are given up by word only"
            );
            assert!(west.equals(&east), "{steps}");
            assert!(!west.status().legs[0].sessions[0].full, "{steps}: by delta");
        });
    }
}

#[test]
fn rule_8_a_second_disaster_falls_back_to_the_point_before_the_catch_up() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        for n in 0..10 {
            east.row(n).await.unwrap();
        }
        world.cut();
        world.pass(5).await;
        for n in 10..200 {
            east.row(n).await.unwrap();
        }
        // The catch-up begins, and does not come to its end.
        west.hold(true);
        world.heal();
        west.until(|status| status.quality == Quality::Inconsistent).await;
        let kept = west.status().kept.unwrap();
        assert_eq!(kept.quality, Quality::Outdated);
        let refused = west.command(Command::Promote { consent: Consent::InSync }).await;
        assert!(refused.is_err());
        west.hold(false);
        world.cut();
        world.pass(5).await;
        let west = world.restart_uncut(west);
        assert!(west.status().kept.is_some(), "it outlives a restart");
        fail_over(&world, &west).await;
        assert_eq!(west.row_here(200), 10);
        assert!(reprotect(&world, &west).await);
        assert!(west.equals(&east));
    });
}

#[test]
fn rule_8_the_kept_point_goes_once_the_mirror_is_in_sync_again() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        world.cut();
        for n in 0..10 {
            east.row(n).await.unwrap();
        }
        world.heal();
        east.until_equivalent().await;
        world.pass(1).await;
        assert_eq!((west.status().kept, west.snapshots()), (None, 0));
        assert_eq!(west.status().quality, Quality::InSync);
    });
}

#[test]
fn rule_8_a_store_without_room_is_not_overwritten() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        west.life.snapshots_fail.set(Some(block::IoError::NoSpace));
        world.cut();
        east.row(0).await.unwrap();
        world.heal();
        world.pass(10).await;
        assert_eq!(east.status().legs[0].state, SessionState::Error);
        assert_eq!(west.status().quality, Quality::Outdated);
        assert_eq!(west.row_here(1), 0);
        west.life.snapshots_fail.set(None);
        let leg = east.status().legs[0].leg;
        east.command(Command::Resume { leg, discard: false }).await.unwrap();
        east.until_equivalent().await;
    });
}

#[test]
fn rule_8_a_store_without_snapshots_says_so_and_follows_as_before() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        west.life.snapshots_fail.set(Some(block::IoError::Unsupported));
        world.cut();
        east.row(0).await.unwrap();
        world.heal();
        east.until_equivalent().await;
        assert!(west.status().keeps_no_points);
        // Mode consistency needs them, and says so.
        east.set(|policy| policy.mode = Mode::Consistency).await.unwrap();
        world.pass(5).await;
        let leg = &east.status().legs[0];
        assert_eq!(leg.state, SessionState::Error);
        assert!(matches!(&leg.cause, Some(Cause::Refused(why)) if why.contains("snapshots")));
        east.row(1).await.unwrap();
    });
}

#[test]
fn from_sync_to_consistency_and_back_copies_nothing_while_hosts_write() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let mut n = 0;
        for (to, quality) in [
            (Mode::Consistency, Quality::Consistent),
            (Mode::Sync, Quality::InSync),
            (Mode::Consistency, Quality::Consistent),
            (Mode::Sync, Quality::InSync),
        ] {
            let copied = east.status().legs[0].sessions[0].resync_copied_bytes;
            east.row(n).await.unwrap();
            east.set(|policy| policy.mode = to).await.unwrap();
            for _ in 0..40 {
                n += 1;
                east.row(n).await.unwrap();
                world.pass_ms(20).await;
            }
            west.until(|status| status.quality == quality).await;
            let leg = &east.status().legs[0];
            assert_eq!(leg.policy.mode, to);
            assert_eq!(leg.in_sync, to == Mode::Sync);
            assert_eq!(leg.sessions[0].resync_copied_bytes, copied, "nothing is copied");
        }
        world.pass(2).await;
        assert!(east.equals(&west));
        assert_eq!(west.snapshots(), 0);
        // In sync again, it may be promoted without a word.
        fail_over(&world, &west).await;
        assert_eq!(west.row_here(n), n);
    });
}

#[test]
fn a_mirror_that_was_stepped_down_is_not_promoted_as_if_it_had_everything() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.set(|policy| policy.mode = Mode::Consistency).await.unwrap();
        west.until(|status| status.quality == Quality::Consistent).await;
        world.cut();
        east.row(0).await.unwrap();
        world.pass(5).await;
        let refused = west.command(Command::Promote { consent: Consent::InSync }).await;
        assert_eq!(refused, Err(Refusal::QualityTooLow { quality: Quality::Consistent }));
    });
}

#[test]
fn a_journal_that_overflows_halts_the_session_and_no_host() {
    World::run(|world| async move {
        world.journal.set(JournalLimits { memory_bytes: 64 << 10, spill_bytes: 192 << 10 });
        let (east, west) = world.behind(mode(Mode::Consistency)).await;
        west.hold(true);
        // What is on its way and what the journal holds is more than the limit.
        for n in 0..200 {
            east.row(n).await.unwrap();
        }
        let leg = &east.status().legs[0];
        assert_eq!((leg.state, &leg.cause), (SessionState::Halted, &Some(Cause::JournalFull)));
        assert_eq!(leg.link, LinkState::Connecting);
        west.hold(false);
        // Nobody calls at once: it would overflow again.
        world.pass(2).await;
        assert_eq!(east.status().legs[0].state, SessionState::Halted);
        east.until(|status| status.legs[0].phase == Phase::Following).await;
        world.pass(3).await;
        assert!(east.equals(&west));
        assert!(!east.status().legs[0].sessions[0].full);
    });
}

#[test]
fn what_memory_does_not_hold_goes_through_the_disk_in_order() {
    World::run(|world| async move {
        world.journal.set(JournalLimits { memory_bytes: 1 << 20, spill_bytes: 64 << 20 });
        let (east, west) = world.behind(mode(Mode::Consistency)).await;
        west.hold(true);
        for n in 0..400u64 {
            let op = block::Op::Write(
                crate::world::extent(n % 7 * 65_536, 65_536),
                bytes(n as u8 | 1, 65_536),
            );
            east.start(op).await.unwrap();
            world.pass_ms(1).await;
        }
        let leg = &east.status().legs[0];
        assert!(leg.spilled_bytes > 1 << 20, "{} in {}", leg.spilled_bytes, leg.journal_bytes);
        assert!(leg.journal_bytes - leg.spilled_bytes <= 2 << 20);
        west.hold(false);
        world.pass(3).await;
        assert!(east.equals(&west));
        assert_eq!(east.status().legs[0].lag_ms, Some(0));
    });
}

#[test]
fn rule_12_degrade_steps_down_by_itself_and_back() {
    World::run(|world| async move {
        let policy =
            Policy { on_slow: OnSlow::Degrade, ack_deadline_ms: 1_000, ..Policy::default() };
        let (east, west) = world.two_sites();
        east.mirror_to(&west, policy).await.unwrap();
        east.until_equivalent().await;
        west.hold(true);
        // The first write waits for the deadline, the others for nobody.
        for n in 0..20 {
            east.row(n).await.unwrap();
        }
        let leg = &east.status().legs[0];
        assert!(leg.degraded && !leg.in_sync);
        assert_eq!((leg.state, leg.policy.mode), (SessionState::Active, Mode::Sync));
        assert!(east.status().counters.unprotected_writes >= 19);
        world.pass(3).await;
        west.hold(false);
        east.until_equivalent().await;
        let leg = &east.status().legs[0];
        assert!(!leg.degraded && leg.in_sync);
        let [spell] = leg.spells[..] else { panic!("one spell: {:?}", leg.spells) };
        assert!(spell.degraded && spell.end_ms.unwrap() > spell.begin_ms + 10_000);
        assert!((2_000..6_000).contains(&spell.worst_rpo_ms), "{spell:?}");
        assert!(spell.bytes >= 19 * 4096);
        assert_eq!(west.status().quality, Quality::InSync);
        assert!(east.equals(&west));
    });
}

#[test]
fn stack_sends_nothing_until_a_transfer_and_goes_back_to_the_kept_point() {
    World::run(|world| async move {
        let (east, west) = world.behind(mode(Mode::Stack)).await;
        east.until(|status| status.legs[0].phase == Phase::Tracking).await;
        assert_eq!(east.status().legs[0].state, SessionState::Active);
        assert_eq!(east.status().legs[0].link, LinkState::Off);
        for n in 0..20 {
            east.row(n).await.unwrap();
        }
        world.pass(60).await;
        assert_eq!(west.row_here(20), 0);
        assert!(west.status().rpo_ms.unwrap() >= 60_000);
        let leg = east.status().legs[0].leg;
        east.command(Command::Transfer { leg }).await.unwrap();
        east.until(|status| status.legs[0].link == LinkState::Off).await;
        assert_eq!(west.row_here(20), 20);
        assert_eq!(west.status().quality, Quality::Consistent);
        assert!(west.status().rpo_ms.unwrap() < 2_000);
        // A disaster in the middle of the next transfer.
        for n in 20..150 {
            east.row(n).await.unwrap();
        }
        west.hold(true);
        east.command(Command::Transfer { leg }).await.unwrap();
        west.until(|status| status.quality == Quality::Inconsistent).await;
        west.hold(false);
        world.cut();
        let east = world.restart_uncut(east);
        fail_over(&world, &west).await;
        assert_eq!(west.row_here(150), 20);
        assert!(reprotect(&world, &west).await);
        assert!(west.equals(&east));
    });
}

#[test]
fn stack_transfers_by_its_schedule_and_survives_a_restart_in_between() {
    World::run(|world| async move {
        let policy = Policy { transfer_every_s: 30, ..mode(Mode::Stack) };
        let (east, west) = world.behind(policy).await;
        for n in 0..5 {
            east.row(n).await.unwrap();
        }
        world.pass(40).await;
        assert_eq!(west.row_here(5), 5);
        let east = world.restart(east);
        assert_eq!(east.status().legs[0].state, SessionState::Active);
        assert_eq!(east.status().legs[0].phase, Phase::Tracking);
        for n in 5..9 {
            east.row(n).await.unwrap();
        }
        world.pass(40).await;
        assert_eq!(west.row_here(9), 9);
    });
}

#[test]
fn any_mode_becomes_any_other_and_copies_only_what_differs() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let mut n = 0;
        let all = [Mode::Sync, Mode::Consistency, Mode::Stack];
        for from in all {
            for to in all {
                for mode in [from, to] {
                    east.set(|policy| policy.mode = mode).await.unwrap();
                    for _ in 0..10 {
                        east.row(n).await.unwrap();
                        n += 1;
                    }
                    let settled = match mode {
                        Mode::Sync => Phase::Equivalent,
                        Mode::Consistency => Phase::Following,
                        Mode::Stack => Phase::Tracking,
                    };
                    east.until(|status| status.legs[0].phase == settled).await;
                    let session = &east.status().legs[0].sessions[0];
                    assert!(session.resync_copied_bytes <= 30 * 4096, "{session:?}");
                }
            }
        }
        east.set(|policy| policy.mode = Mode::Sync).await.unwrap();
        east.until_equivalent().await;
        assert!(east.equals(&west));
        assert_eq!(west.row_here(n), n);
    });
}

#[test]
fn only_stack_has_transfers() {
    World::run(|world| async move {
        let (east, _west) = world.mirrored().await;
        let leg = east.status().legs[0].leg;
        assert_eq!(east.command(Command::Transfer { leg }).await, Err(Refusal::NotStack));
    });
}
