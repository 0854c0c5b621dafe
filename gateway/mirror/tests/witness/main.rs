//! Groups under a witness: what it permits, what it refuses, and that no schedule of faults loses a
//! write that was acknowledged.

#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod history;
#[path = "../two_gateways/link.rs"]
mod link;
mod modes;
#[path = "../two_gateways/parts.rs"]
mod parts;
mod world;

use std::time::Duration;

use block::IoError;
use twinspan_mirror::{Command, Consent, Failover, Policy, Refusal, Role, Serving};
use witness::memory::Fate;
use witness::memory::Lie;
use world::{GROUP, HOLD_MS, World};

/// Histories that are tried; each takes a few milliseconds.
const SEEDS: u64 = 1_500;

#[test]
fn no_schedule_loses_an_acknowledged_write_or_answers_an_old_one() {
    let (mut acknowledged, mut reads, mut takeovers) = (0, 0, 0);
    for seed in 0..seeds() {
        let told = history::run(seed, Lie::None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        acknowledged += told.acknowledged;
        reads += told.reads;
        takeovers += told.takeovers;
    }
    // Histories in which nothing happens prove nothing.
    let each = |count: usize| count as u64 / seeds();
    assert!(each(acknowledged) > 10, "{acknowledged} writes");
    assert!(reads / seeds() > 5, "{reads} reads");
    assert!(takeovers as u64 > seeds() / 20, "{takeovers} takeovers");
}

/// Seeds to try: `TWINSPAN_SEEDS`, or the usual number.
fn seeds() -> u64 {
    let wanted = std::env::var("TWINSPAN_SEEDS").ok();
    wanted.map_or(SEEDS, |text| text.parse().unwrap())
}

fn is_found(lie: Lie) {
    let is_wrong = |why: &String| why.contains("is lost") || why.contains("an old block");
    let found = (0..SEEDS).find(|seed| history::run(*seed, lie).is_err_and(|why| is_wrong(&why)));
    assert!(found.is_some(), "{lie:?} was not found in {SEEDS} histories");
}

#[test]
fn leaving_unasked_is_found() {
    is_found(Lie::LeavesUnasked);
}

#[test]
fn promoting_unnamed_is_found() {
    is_found(Lie::PromotesUnnamed);
}

#[test]
fn reading_without_a_lease_is_found() {
    is_found(Lie::ReadsForEver);
}

#[test]
fn ignoring_the_lease_of_the_primary_is_found() {
    is_found(Lie::IgnoresLeases);
}

#[test]
fn forgetting_a_claim_without_an_answer_is_found() {
    is_found(Lie::ForgetsClaims);
}

#[test]
fn a_mirror_is_named_before_it_counts() {
    World::run(Lie::None, |world| async move {
        let (east, west) = (world.site(1, "east"), world.site(2, "west"));
        east.faults.cut.set(true);
        east.mirror_to(&west).await.unwrap();
        world.pass(20_000).await;
        assert!(!east.status().legs[0].in_sync, "the witness was not asked");
        // Nobody can be promoted, so hosts are served.
        east.write(1).await.unwrap();
        east.faults.cut.set(false);
        east.until_equivalent().await;
        let set = world.witness.standing(GROUP).unwrap().configuration;
        assert!(set.member(west.identity.gateway).is_some_and(|member| member.automatic));
    });
}

#[test]
fn with_all_mirrors_in_sync_the_witness_is_not_needed() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        east.faults.cut.set(true);
        west.faults.cut.set(true);
        world.pass(60_000).await;
        east.write(1).await.unwrap();
        assert!(east.read(1).await.unwrap());
        assert_eq!(east.status().witness.unwrap().reachable, Some(false));
        assert_eq!(east.status().serving, Serving::Yes);
    });
}

#[test]
fn without_the_witness_a_lost_mirror_holds_writes_and_then_refuses_them() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        east.faults.cut.set(true);
        world.pass(7_000).await;
        world.cut(&east, &west);
        let write = tokio::time::timeout(Duration::from_millis(HOLD_MS * 2), east.write(1));
        let begun = tokio::time::Instant::now();
        assert_eq!(write.await.unwrap(), Err(IoError::NoWitness));
        assert!(begun.elapsed() >= Duration::from_millis(HOLD_MS - 200), "it waited");
        assert_eq!(east.status().serving, Serving::NoWitness);
        assert_eq!(east.write(2).await, Err(IoError::NoWitness));
        // The mirror may have been promoted: a read is not licensed either.
        world.pass(5_000).await;
        assert_eq!(east.read(2).await, Err(IoError::NoWitness));
        east.faults.cut.set(false);
        world.pass(5_000).await;
        // West took over meanwhile, or east went on: never both.
        let (a, b) = (east.serves(), west.serves());
        assert!(a != b, "east {a}, west {b}");
    });
}

#[test]
fn a_mirror_that_comes_back_needs_no_witness() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        east.faults.cut.set(true);
        west.faults.cut.set(true);
        world.pass(7_000).await;
        world.cut(&east, &west);
        assert_eq!(east.write(1).await, Err(IoError::NoWitness));
        world.heal();
        east.until_equivalent().await;
        east.write(2).await.unwrap();
        assert!(west.holds(2));
    });
}

#[test]
fn a_cut_link_leaves_exactly_one_and_it_is_the_primary() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        world.cut(&east, &west);
        east.write(1).await.unwrap();
        world.pass(60_000).await;
        assert!(east.serves() && !west.serves());
        let refused = west.command(Command::Promote { consent: Consent::InSync }).await;
        assert_eq!(refused, Err(Refusal::NotNamed));
    });
}

#[test]
fn a_lost_primary_is_replaced_and_fenced_when_it_is_back() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        east.write(1).await.unwrap();
        east.pause();
        world.pass(30_000).await;
        assert!(west.serves(), "{:#?}", west.status());
        west.write(2).await.unwrap();
        east.resume();
        assert_eq!(east.read(2).await.ok(), None, "its lease is over");
        world.pass(5_000).await;
        assert_eq!(east.status().role, Role::Fenced);
        assert!(!east.serves());
    });
}

#[test]
fn a_restarted_primary_goes_on_alone_with_the_word_of_the_witness() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        west.faults.cut.set(true);
        world.cut(&east, &west);
        let east = world.restart(east);
        assert_eq!(east.status().serving, Serving::WaitingForWitness);
        world.pass(HOLD_MS + 2_000).await;
        east.write(1).await.unwrap();
        let set = world.witness.standing(GROUP).unwrap().configuration;
        assert_eq!(set.in_sync, Vec::new());
    });
}

#[test]
fn a_claim_of_an_earlier_life_cannot_land() {
    World::run(Lie::None, |world| async move {
        let (east, west) = (world.site(1, "east"), world.site(2, "west"));
        east.mirror_to(&west).await.unwrap();
        // The claim that names the mirror travels for half a minute.
        while west.status().quality != block::Quality::InSync {
            if world.witness.standing(GROUP).is_some() {
                east.faults.cut.set(true);
                east.faults.fate.set(Fate::Late(Duration::from_secs(30)));
            }
            world.pass(1).await;
        }
        world.pass(100).await;
        world.cut(&east, &west);
        let east = world.restart(east);
        east.faults.cut.set(false);
        world.pass(2_000).await;
        east.write(1).await.unwrap();
        world.pass(60_000).await;
        let set = world.witness.standing(GROUP).unwrap().configuration;
        assert_eq!(set.in_sync, Vec::new());
        assert!(!west.serves());
    });
}

#[test]
fn a_planned_swap_moves_the_key_and_a_lost_answer_does_not_lose_it() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        east.write(1).await.unwrap();
        world.pass(3_000).await;
        let leg = east.status().legs[0].leg;
        // The new primary's claim is granted and its answer lost.
        west.faults.cut.set(true);
        west.faults.fate.set(Fate::Unanswered);
        east.spawn_command(Command::Reverse { leg });
        world.pass(2_000).await;
        west.faults.cut.set(false);
        world.pass(3_000).await;
        assert!(west.serves(), "{:#?}", west.status());
        let set = world.witness.standing(GROUP).unwrap().configuration;
        assert_eq!(set.primary, west.identity.gateway);
        west.until_equivalent().await;
        assert_eq!(east.status().role, Role::Secondary);
    });
}

#[test]
fn a_promotion_whose_claim_is_not_answered_says_that_it_may_still_take_effect() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        let session = east.status().legs[0].clone();
        let policy = Policy { failover: Failover::Manual, ..session.policy };
        east.command(Command::SetPolicy { leg: session.leg, policy }).await.unwrap();
        east.write(1).await.unwrap();
        world.pass(3_000).await;
        east.pause();
        world.pass(30_000).await;
        west.faults.travel.set(Duration::from_millis(300));
        let promote = Command::Promote { consent: Consent::Outdated };
        let cut = async {
            // It was looked at; the claim is on its way.
            world.pass(700).await;
            west.faults.cut.set(true);
            west.faults.fate.set(Fate::Late(Duration::from_secs(60)));
        };
        let (refused, ()) = tokio::join!(west.command(promote), cut);
        assert_eq!(refused, Err(Refusal::WitnessSilent));
        assert!(!west.serves(), "until it is granted");
        world.pass(60_000).await;
        west.faults.cut.set(false);
        world.pass(5_000).await;
        assert!(west.serves(), "{:#?}", west.status());
    });
}

#[test]
fn a_witness_that_forgot_the_group_permits_nothing() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        world.witness.wipe();
        world.pass(3_000).await;
        world.cut(&east, &west);
        assert_eq!(east.write(1).await, Err(IoError::NoWitness));
        assert!(east.status().witness.unwrap().forgotten);
        world.pass(60_000).await;
        assert!(!west.serves());
    });
}

/// What was refused had cost the mirror its place all the same, and hosts their writes.
#[test]
fn suspending_or_deleting_without_the_witness_is_refused_and_changes_nothing() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        east.faults.cut.set(true);
        world.pass(3_000).await;
        let leg = east.status().legs[0].leg;
        for command in [Command::Suspend { leg }, Command::RemoveLeg { leg }] {
            assert_eq!(east.command(command).await, Err(Refusal::NoWitness));
            assert!(east.is_equivalent(), "{:#?}", east.status());
            assert_eq!(west.status().quality, block::Quality::InSync);
        }
        world.pass(HOLD_MS + 2_000).await;
        east.write(1).await.unwrap();
        assert!(west.holds(1));
        east.faults.cut.set(false);
        world.pass(3_000).await;
        east.command(Command::Suspend { leg }).await.unwrap();
        east.write(2).await.unwrap();
        assert!(!west.holds(2));
    });
}

/// One that is called in vain is called on: hosts are served again when it is back.
#[test]
fn suspending_a_lost_mirror_without_the_witness_is_refused_and_it_comes_back() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        for site in [&east, &west] {
            site.faults.cut.set(true);
        }
        world.pass(7_000).await;
        world.cut(&east, &west);
        assert_eq!(east.write(1).await, Err(IoError::NoWitness));
        let leg = east.status().legs[0].leg;
        assert_eq!(east.command(Command::Suspend { leg }).await, Err(Refusal::NoWitness));
        world.heal();
        east.until_equivalent().await;
        east.write(2).await.unwrap();
        assert!(west.holds(2));
    });
}

#[test]
fn a_group_under_a_witness_is_refused_without_one() {
    World::run(Lie::None, |world| async move {
        let (east, _west) = world.mirrored().await;
        let error = east.reopened_without_witness();
        assert!(error.contains("witness"), "{error}");
    });
}
