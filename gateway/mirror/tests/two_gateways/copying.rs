//! What a copier may send, and mirrors that hold the content already.

use std::time::Duration;

use block::{IoError, Op};
use bytes::Bytes;
use twinspan_mirror::{
    Bandwidth, Cause, Command, Consent, Phase, Policy, Priority, SessionState, Window,
};

use crate::link::Line;
use crate::world::{Site, World, bytes, extent};

fn bandwidth(usual: Option<u64>, windows: &[Window]) -> Policy {
    let bandwidth = Bandwidth { usual, windows: windows.into() };
    Policy { bandwidth, ..Policy::default() }
}

/// Fills both volumes.
async fn fill(site: &Site) {
    for volume in 0..2 {
        for n in 0..Site::BYTES / 131_072 {
            let op = Op::Write(extent(n * 131_072, 131_072), bytes(7, 131_072));
            site.start_on(volume, op).await.unwrap();
        }
    }
}

fn copied(site: &Site) -> Vec<u64> {
    let legs = site.status().legs;
    let of = |leg: &twinspan_mirror::LegStatus| {
        leg.sessions.iter().map(|session| session.resync_copied_bytes).sum()
    };
    legs.iter().map(of).collect()
}

#[test]
fn a_limit_holds_while_the_mirror_is_filled_and_hosts_go_on() {
    World::run(|world| async move {
        let (east, west) = world.two_sites();
        fill(&east).await;
        east.mirror_to(&west, bandwidth(Some(1 << 20), &[])).await.unwrap();
        world.pass(3).await;
        // 32 MiB at 1 MiB a second: not done, and a host's write is not held back.
        assert_eq!(east.status().legs[0].phase, Phase::Copying);
        assert_eq!(east.status().legs[0].bytes_per_second_max, Some(1 << 20));
        let moved = copied(&east)[0];
        assert!((1 << 20..=6 << 20).contains(&moved), "{moved} bytes in three seconds");
        let before = tokio::time::Instant::now();
        east.write(0, 9, 4096).await.unwrap();
        assert!(before.elapsed().as_millis() < 100);
        east.set(|policy| policy.bandwidth.usual = None).await.unwrap();
        world.pass(1).await;
        assert_eq!(east.status().legs[0].phase, Phase::Equivalent);
        assert!(east.equals(&west));
    });
}

/// The clocks of these tests begin at 00:16:40 on a Thursday.
#[test]
fn a_window_opens_and_closes_by_the_clock_of_its_zone() {
    World::run(|world| async move {
        let (east, west) = world.two_sites();
        fill(&east).await;
        let slow = Window::parse("thu 00:00-00:18 UTC", 256 << 10).unwrap();
        let nothing = Window::parse("thu 01:18-01:20 Europe/Berlin", 0).unwrap();
        east.mirror_to(&west, bandwidth(None, &[slow, nothing])).await.unwrap();
        world.pass(60).await;
        let in_the_first = copied(&east)[0];
        assert!((14 << 20..18 << 20).contains(&in_the_first), "{in_the_first} in a minute");
        assert_eq!(east.status().legs[0].bytes_per_second_max, Some(256 << 10));
        // From 00:18 to 00:20 nothing goes.
        world.pass(25).await;
        let paused = copied(&east)[0];
        world.pass(90).await;
        assert_eq!(east.status().legs[0].bytes_per_second_max, Some(0));
        assert_eq!(copied(&east)[0], paused);
        assert_eq!(east.status().legs[0].phase, Phase::Copying);
        // And then everything does.
        world.pass(30).await;
        assert_eq!(east.status().legs[0].bytes_per_second_max, None);
        assert_eq!(east.status().legs[0].phase, Phase::Equivalent);
        assert!(east.equals(&west));
    });
}

/// Three mirrors at the same distance, so that what is in flight is what is moved in a round trip.
#[test]
fn mirrors_that_are_filled_at_once_share_as_their_priorities_are() {
    World::run(|world| async move {
        world.line(Line { latency: Duration::from_millis(50), ..Line::default() });
        let (east, high) = world.two_sites();
        let (normal, low) = (world.mirror(3, "normal"), world.mirror(4, "low"));
        fill(&east).await;
        let priorities = [Priority::High, Priority::Normal, Priority::Low];
        for (site, priority) in [&high, &normal, &low].into_iter().zip(priorities) {
            // Held back until all three are there.
            let policy = Policy { priority, ..bandwidth(Some(0), &[]) };
            east.mirror_to(site, policy).await.unwrap();
        }
        world.pass(5).await;
        assert_eq!(copied(&east), [0, 0, 0]);
        for leg in east.status().legs {
            let mut policy = leg.policy.clone();
            policy.bandwidth.usual = None;
            east.command(Command::SetPolicy { leg: leg.leg, policy }).await.unwrap();
        }
        world.pass_ms(250).await;
        let before = copied(&east);
        world.pass_ms(1_000).await;
        let after = copied(&east);
        let moved: Vec<u64> =
            after.iter().zip(&before).map(|(after, before)| after - before).collect();
        assert_eq!(moved, [20 << 20, 5 << 20, 10 << 17], "16 : 4 : 1 in ten round trips");
        world.pass(30).await;
        assert!(east.equals(&high) && east.equals(&normal) && east.equals(&low));
    });
}

/// What east has at 50 places west has as well, but for one block that differs and one that only
/// west has.
async fn almost_equal(world: &World) -> (Site, Site, Bytes) {
    let (east, west) = world.holding();
    for n in 0..50u64 {
        east.write(n * 65_536, 7, 4096).await.unwrap();
        west.scribble(n * 65_536, if n == 20 { 8 } else { 7 }, 4096);
    }
    west.scribble(9 << 20, 5, 4096);
    let held = west.content(0, Site::BYTES);
    (east, west, held)
}

#[test]
fn a_mirror_that_holds_the_content_is_sent_only_what_differs() {
    World::run(|world| async move {
        let (east, west, held) = almost_equal(&world).await;
        assert!(west.status().is_foreign);
        east.compare_with(&west).await.unwrap();
        east.until_equivalent().await;
        assert!(east.equals(&west));
        let status = east.status();
        let moved = status.legs[0].sessions[0].resync_copied_bytes;
        assert_eq!(moved, 2 * 4096, "what is the same is not sent");
        assert!(!status.legs[0].comparing);
        // What it held is kept, and it is told how much of it was overwritten (rule 10).
        let status = west.status();
        assert_eq!(status.discarded.len(), 1);
        assert_eq!(status.discarded[0].bytes, 2 * 4096);
        assert_eq!(west.kept_content(status.discarded[0].snapshots[0].1).await, held);
        // It stays over a restart of both, and over what is written from here on.
        let (west, east) = (world.restart(west), world.restart(east));
        world.pass(10).await;
        east.write(20 * 65_536, 3, 4096).await.unwrap();
        east.until_equivalent().await;
        let status = west.status();
        assert_eq!(west.kept_content(status.discarded[0].snapshots[0].1).await, held);
    });
}

#[test]
fn rule_10_a_host_that_writes_meanwhile_overwrites_nothing_that_is_not_kept() {
    World::run(|world| async move {
        let (east, west, held) = almost_equal(&world).await;
        // Nothing is compared yet, and a host writes where west has something of its own.
        east.compare_with(&west).await.unwrap();
        east.set(|policy| policy.bandwidth.usual = Some(0)).await.unwrap();
        world.pass(2).await;
        east.write(9 << 20, 1, 4096).await.unwrap();
        world.pass(1).await;
        let status = west.status();
        assert_eq!(west.content(9 << 20, 4096), bytes(1, 4096));
        assert_eq!(west.kept_content(status.discarded[0].snapshots[0].1).await, held);
        east.set(|policy| policy.bandwidth.usual = None).await.unwrap();
        east.until_equivalent().await;
        assert!(east.equals(&west));
        assert_eq!(west.status().discarded.len(), 1, "it is kept once");
    });
}

#[test]
fn a_mirror_that_holds_the_same_keeps_no_snapshot() {
    World::run(|world| async move {
        let (east, west) = world.holding();
        for n in 0..50u64 {
            east.write(n * 65_536, 7, 4096).await.unwrap();
            west.scribble(n * 65_536, 7, 4096);
        }
        east.compare_with(&west).await.unwrap();
        east.until_equivalent().await;
        assert_eq!(copied(&east), [0]);
        let status = west.status();
        assert!(status.discarded.is_empty() && !status.is_foreign);
        assert_eq!(west.snapshots(), 0);
    });
}

/// The mirror is killed after each of its steps: what it held is there, or kept.
#[test]
fn rule_10_what_a_mirror_held_is_kept_whatever_step_it_is_killed_at() {
    for steps in 1..14 {
        World::run(|world| async move {
            let (east, west, held) = almost_equal(&world).await;
            west.life.die_after(steps);
            east.compare_with(&west).await.unwrap();
            world.pass(2).await;
            let west = world.restart(west);
            let status = west.status();
            match status.discarded.as_slice() {
                [] => assert_eq!(west.content(0, Site::BYTES), held, "{steps}: not kept"),
                [kept] => assert_eq!(west.kept_content(kept.snapshots[0].1).await, held, "{steps}"),
                several => panic!("{steps}: kept {} times", several.len()),
            }
            world.pass(5).await;
            east.until_equivalent().await;
            assert!(east.equals(&west), "{steps}");
            let status = west.status();
            assert_eq!(status.discarded.len(), 1, "{steps}");
            assert_eq!(west.kept_content(status.discarded[0].snapshots[0].1).await, held);
            assert_eq!(west.snapshots(), 2, "{steps}: one of each volume, and no other");
        });
    }
}

#[test]
fn rule_10_a_store_that_keeps_nothing_refuses_and_names_the_difference() {
    World::run(|world| async move {
        let (east, west, held) = almost_equal(&world).await;
        west.life.snapshots_fail.set(Some(IoError::Unsupported));
        east.compare_with(&west).await.unwrap();
        world.pass(5).await;
        let leg = &east.status().legs[0];
        assert_eq!(leg.state, SessionState::Error);
        let Some(Cause::Refused(why)) = &leg.cause else { panic!("{:?}", leg.cause) };
        assert!(why.contains("orders") && why.contains("from byte 1310720 on"), "{why}");
        assert_eq!(west.content(0, Site::BYTES), held);
        // Hosts here go on.
        east.write(0, 9, 4096).await.unwrap();
    });
}

#[test]
fn a_mirror_that_is_compared_is_not_promoted_before_it_is_equal() {
    World::run(|world| async move {
        let (east, west, held) = almost_equal(&world).await;
        east.compare_with(&west).await.unwrap();
        east.set(|policy| policy.bandwidth.usual = Some(0)).await.unwrap();
        world.pass(2).await;
        world.cut();
        world.pass(10).await;
        let promote = Command::Promote { consent: Consent::Outdated };
        assert!(west.command(promote).await.is_err(), "rule 7");
        assert_eq!(west.content(0, Site::BYTES), held);
    });
}
