//! Two groups in one process, over memory stores and an in-memory link, in virtual time: the
//! driver's own tests. What needs disks, power cuts and thousands of schedules is in the simulator.

#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]
#![expect(clippy::cast_possible_truncation, reason = "numbers of a test are small")]

mod attributes;
mod cascade;
mod copying;
mod detached;
mod hazards;
mod holds;
mod link;
mod modes;
mod moments;
mod mortal;
mod parts;
mod points;
mod policies;
mod snapshots;
mod verify;
mod world;

use block::{IoError, Op};
use twinspan_mirror::{
    Command, Consent, Phase, Policy, Recovery, Refusal, Role, Serving, SessionState, Split,
};
use world::{Site, World, bytes, extent};

#[test]
fn a_write_is_on_both_copies_when_it_is_acknowledged() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        for n in 0..40u8 {
            east.write(u64::from(n) * 4096, n + 1, 4096).await.unwrap();
            assert_eq!(west.content(u64::from(n) * 4096, 4096), bytes(n + 1, 4096));
        }
        // Unaligned, overlapping and in flight at once: the copies are equal all the same.
        let tickets: Vec<_> = (0..64u64)
            .map(|n| east.start(Op::Write(extent(n * 700, 1500), bytes(n as u8, 1500))))
            .collect();
        for ticket in tickets {
            ticket.await.unwrap();
        }
        assert_eq!(east.content(0, 1 << 20), west.content(0, 1 << 20));
        east.flush().await.unwrap();
    });
}

#[test]
fn the_initial_copy_takes_what_is_mapped_while_hosts_go_on() {
    World::run(|world| async move {
        let (east, west) = world.two_sites();
        for n in 0..50u64 {
            east.write(n * 65_536, 7, 4096).await.unwrap();
        }
        east.mirror_to(&west, Policy::default()).await.unwrap();
        for n in 0..50u64 {
            east.write(n * 65_536 + 4096, 9, 8192).await.unwrap();
        }
        east.until_equivalent().await;
        assert_eq!(east.content(0, 4 << 20), west.content(0, 4 << 20));
        let status = east.status();
        assert_eq!(status.legs[0].phase, Phase::Equivalent);
        assert_eq!(status.legs[0].sessions[0].out_of_sync_bytes, 0);
        assert_eq!(west.status().rpo_ms, Some(0));
    });
}

#[test]
fn a_lost_mirror_is_brought_back_by_delta() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.write(0, 1, 4096).await.unwrap();
        world.cut();
        east.write(8192, 2, 4096).await.unwrap();
        let status = east.status();
        assert_eq!(status.legs[0].state, SessionState::Halted);
        assert_eq!(status.counters.unprotected_writes, 1);
        assert_ne!(west.content(8192, 4096), bytes(2, 4096));
        world.heal();
        east.until_equivalent().await;
        assert_eq!(west.content(0, 1 << 20), east.content(0, 1 << 20));
        let moved = east.status().legs[0].sessions[0].resync_total_bytes;
        assert!(moved <= 3 * 4096, "a delta of two blocks moved {moved} bytes");
        assert!(!east.status().legs[0].sessions[0].full);
    });
}

#[test]
fn split_manual_refuses_writes_until_the_mirror_is_back() {
    World::run(|world| async move {
        let policy = Policy { split: Split::Manual, ..Policy::default() };
        let (east, west) = world.two_sites();
        east.mirror_to(&west, policy).await.unwrap();
        east.until_equivalent().await;
        world.cut();
        assert_eq!(east.write(0, 5, 4096).await, Err(IoError::Halted));
        assert_eq!(east.status().serving, Serving::Halted);
        assert!(east.read(0, 4096).await.is_ok());
        world.heal();
        east.until_equivalent().await;
        east.write(0, 6, 4096).await.unwrap();
        assert_eq!(west.content(0, 4096), bytes(6, 4096));
    });
}

#[test]
fn recovery_manual_waits_for_an_operator() {
    World::run(|world| async move {
        let policy = Policy { recovery: Recovery::Manual, ..Policy::default() };
        let (east, west) = world.two_sites();
        east.mirror_to(&west, policy).await.unwrap();
        east.until_equivalent().await;
        world.cut();
        east.write(0, 5, 4096).await.unwrap();
        world.heal();
        world.pass(30).await;
        assert_eq!(east.status().legs[0].phase, Phase::Tracking);
        let leg = east.status().legs[0].leg;
        east.command(Command::Resume { leg, discard: false }).await.unwrap();
        east.until_equivalent().await;
        assert_eq!(west.content(0, 4096), bytes(5, 4096));
    });
}

#[test]
fn failover_fences_the_old_primary_and_reprotect_moves_the_difference() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        for n in 0..100u64 {
            east.write(n * 4096, 3, 4096).await.unwrap();
        }
        east.flush().await.unwrap();
        let east_hosts = east.hosts();
        world.cut();
        let refused = west.command(Command::Promote { consent: Consent::InSync }).await;
        assert!(matches!(refused, Ok(()) | Err(Refusal::PrimaryAlive)));
        world.pass(10).await;
        if refused.is_err() {
            west.command(Command::Promote { consent: Consent::InSync }).await.unwrap();
        }
        assert_eq!(west.status().role, Role::Primary);
        west.write(4096 * 7, 9, 4096).await.unwrap();
        assert!(west.status().epoch > east.status().epoch);
        world.heal();
        world.pass(10).await;
        // The old primary asked its mirror and learned.
        assert_eq!(east.status().role, Role::Fenced);
        assert!(east_hosts.is_cancelled());
        assert_eq!(east.write(0, 1, 4096).await, Err(IoError::Fenced));
        let leg = west.status().legs[0].leg;
        west.command(Command::Resume { leg, discard: true }).await.unwrap();
        west.until_equivalent().await;
        assert_eq!(east.content(0, 1 << 20), west.content(0, 1 << 20));
        assert!(!west.status().legs[0].sessions[0].full);
        assert_eq!(east.status().role, Role::Secondary);
    });
}

#[test]
fn reverse_swaps_roles_and_loses_nothing() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.write(4096, 3, 4096).await.unwrap();
        let leg = east.status().legs[0].leg;
        east.command(Command::Reverse { leg }).await.unwrap();
        assert_eq!(west.status().role, Role::Primary);
        assert_eq!(west.read(4096, 4096).await.unwrap(), bytes(3, 4096));
        west.until_equivalent().await;
        west.write(0, 8, 4096).await.unwrap();
        assert_eq!(east.content(0, 4096), bytes(8, 4096));
        assert!(east.status().epoch == west.status().epoch);
    });
}

#[test]
fn both_killed_come_back_equal() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        for n in 0..20u64 {
            east.write(n * 4096, 4, 4096).await.unwrap();
        }
        let (east, west) = (world.restart(east), world.restart(west));
        east.until_equivalent().await;
        assert_eq!(east.read(0, 4096).await.unwrap(), bytes(4, 4096));
        east.write(0, 5, 4096).await.unwrap();
        assert_eq!(west.content(0, 1 << 20), east.content(0, 1 << 20));
    });
}

#[test]
fn after_a_crash_only_what_differs_is_copied() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        for n in 0..256u64 {
            east.write(n * 4096, 4, 4096).await.unwrap();
        }
        east.flush().await.unwrap();
        // What a crash leaves behind: both copies may differ in the whole extent; in truth they do
        // in one block.
        west.scribble(5 * 4096, 9, 4096);
        let (east, west) = (world.restart(east), world.restart(west));
        east.until_equivalent().await;
        assert_eq!(east.content(0, 4 << 20), west.content(0, 4 << 20));
        let session = &east.status().legs[0].sessions[0];
        assert_eq!((session.resync_total_bytes, session.resync_copied_bytes), (4096, 4096));
    });
}

#[test]
fn a_restarted_primary_waits_for_its_mirror_or_for_an_operator() {
    World::run(|world| async move {
        let (east, _west) = world.mirrored().await;
        world.cut();
        let east = world.restart_uncut(east);
        assert_eq!(east.status().serving, Serving::WaitingForMirror);
        world.pass(20).await;
        assert_eq!(east.status().serving, Serving::WaitingForMirror);
        let leg = east.status().legs[0].leg;
        east.command(Command::Suspend { leg }).await.unwrap();
        assert_eq!(east.status().serving, Serving::Yes);
        east.write(0, 1, 4096).await.unwrap();
    });
}

#[test]
fn both_sides_with_own_writes_are_a_split_brain_told_in_words() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        world.cut();
        east.write(0, 1, 4096).await.unwrap();
        world.pass(10).await;
        west.command(Command::Promote { consent: Consent::InSync }).await.unwrap();
        west.write(4096, 2, 4096).await.unwrap();
        world.heal();
        world.pass(10).await;
        let leg = west.status().legs[0].leg;
        west.command(Command::Resume { leg, discard: false }).await.unwrap();
        world.pass(10).await;
        assert!(west.status().split_brain);
        assert_eq!(west.status().legs[0].state, SessionState::Error);
        west.command(Command::Resume { leg, discard: true }).await.unwrap();
        west.until_equivalent().await;
        assert!(!west.status().split_brain);
        assert_eq!(east.content(0, 1 << 20), west.content(0, 1 << 20));
        assert_eq!(west.read(4096, 4096).await.unwrap(), bytes(2, 4096));
    });
}

#[test]
fn a_ninth_mirror_and_a_second_one_to_the_same_gateway_are_refused() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let again = east.mirror_to(&west, Policy::default()).await;
        assert_eq!(again, Err(Refusal::AlreadyMirrored));
        for n in 0..8 {
            let added = east.mirror_to_gateway(1000 + n).await;
            assert_eq!(added, if n < 7 { Ok(()) } else { Err(Refusal::TooManyLegs) });
        }
    });
}

#[test]
fn growth_reaches_the_mirror_first() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let volume = east.status().volumes[0].volume;
        let shrink = east.command(Command::Grow { volume, bytes: 4096 }).await;
        assert_eq!(shrink, Err(Refusal::BadSize));
        east.command(Command::Grow { volume, bytes: Site::BYTES * 2 }).await.unwrap();
        assert_eq!(west.status().volumes[0].bytes, Site::BYTES * 2);
        east.write(Site::BYTES + 4096, 3, 4096).await.unwrap();
        assert_eq!(west.content(Site::BYTES + 4096, 4096), bytes(3, 4096));
    });
}

/// The mirror said nothing, and whatever was asked after this was refused as busy.
#[test]
fn rule_11_a_growth_whose_sync_fails_at_the_mirror_is_answered() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let volume = east.status().volumes[0].volume;
        west.life.growth_fails.set(Some(IoError::Latched));
        let grow = Command::Grow { volume, bytes: Site::BYTES * 2 };
        let grown = tokio::time::timeout(std::time::Duration::from_secs(60), east.command(grow));
        assert_eq!(grown.await.unwrap(), Err(Refusal::Interrupted));
        // It is answered when the mirror is durably out.
        east.write(0, 1, 4096).await.unwrap();
        assert_eq!(west.status().serving, Serving::Latched);
        let leg = &east.status().legs[0];
        assert_eq!(leg.state, SessionState::Error);
        east.command(Command::Suspend { leg: leg.leg }).await.unwrap();
        assert_eq!(east.status().volumes[0].bytes, Site::BYTES);
    });
}
