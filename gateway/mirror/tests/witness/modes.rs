//! Mirrors that follow behind, copies that hosts use on their own, members that come and go, and
//! handovers that are never answered, where a witness decides.

use std::time::Duration;

use block::{IoError, Quality};
use twinspan_mirror::{Command, Consent, Mode, OnSlow, Policy, Refusal, Role, Serving, Split};

use crate::world::{GROUP, HOLD_MS, Site, World};
use witness::memory::Lie;

/// Who is named by the witness besides the primary.
fn named(world: &World) -> usize {
    world.witness.standing(GROUP).unwrap().configuration.in_sync.len()
}

async fn set(site: &Site, change: impl FnOnce(&mut Policy)) -> Result<(), Refusal> {
    let leg = &site.status().legs[0];
    let (leg, mut policy) = (leg.leg, leg.policy.clone());
    change(&mut policy);
    site.command(Command::SetPolicy { leg, policy }).await
}

#[test]
fn a_mirror_that_is_to_follow_behind_leaves_the_set_first_and_comes_back_into_it() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        set(&east, |policy| policy.mode = Mode::Consistency).await.unwrap();
        world.pass(3_000).await;
        assert_eq!(named(&world), 0);
        assert_eq!(west.status().quality, Quality::Consistent);
        // Nothing waits for it, so nobody needs to be asked when it is lost.
        east.faults.cut.set(true);
        world.cut(&east, &west);
        east.write(1).await.unwrap();
        world.heal();
        east.faults.cut.set(false);
        set(&east, |policy| policy.mode = Mode::Sync).await.unwrap();
        east.until_equivalent().await;
        assert_eq!(named(&world), 1);
    });
}

#[test]
fn without_the_witness_no_mirror_is_let_fall_behind() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        east.faults.cut.set(true);
        world.pass(3_000).await;
        let refused = set(&east, |policy| policy.mode = Mode::Stack).await;
        assert_eq!(refused, Err(Refusal::NoWitness));
        assert_eq!(east.status().legs[0].policy.mode, Mode::Sync);
        east.write(1).await.unwrap();
        assert!(west.holds(1));
    });
}

#[test]
fn a_primary_that_dies_before_the_mirror_is_out_of_the_set_waits_for_it_again() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        // The claim that takes it out is lost, and so is the primary.
        east.faults.fate.set(witness::memory::Fate::Lost);
        east.faults.cut.set(true);
        set(&east, |policy| policy.mode = Mode::Consistency).await.unwrap();
        let east = world.restart(east);
        assert_eq!(named(&world), 1);
        east.faults.cut.set(false);
        world.pass(5_000).await;
        east.write(1).await.unwrap();
        world.pass(3_000).await;
        assert_eq!(named(&world), 0);
        assert_eq!(west.status().quality, Quality::Consistent);
    });
}

#[test]
fn a_slow_mirror_is_degraded_with_the_word_of_the_witness() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        let slow = |policy: &mut Policy| {
            policy.on_slow = OnSlow::Degrade;
            policy.ack_deadline_ms = 1_000;
        };
        set(&east, slow).await.unwrap();
        west.pause();
        let write = tokio::time::timeout(Duration::from_millis(2_500), east.write(1));
        write.await.unwrap().unwrap();
        assert_eq!(named(&world), 0);
        west.resume();
        east.until_equivalent().await;
        assert_eq!(named(&world), 1);
    });
}

#[test]
fn a_slow_mirror_is_not_degraded_unasked() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        let slow = |policy: &mut Policy| {
            policy.on_slow = OnSlow::Degrade;
            policy.ack_deadline_ms = 1_000;
        };
        set(&east, slow).await.unwrap();
        world.pass(1_000).await;
        east.faults.cut.set(true);
        west.pause();
        assert_eq!(east.write(1).await, Err(IoError::NoWitness));
        assert_eq!(east.status().serving, Serving::NoWitness);
        west.resume();
        east.until_equivalent().await;
        east.write(2).await.unwrap();
        assert!(west.holds(2));
    });
}

#[test]
fn a_copy_goes_back_to_its_kept_point_only_with_the_word_of_the_witness() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        set(&east, |policy| policy.mode = Mode::Consistency).await.unwrap();
        world.pass(3_000).await;
        east.write(1).await.unwrap();
        east.pause();
        west.faults.cut.set(true);
        world.pass(30_000).await;
        assert!(!west.serves(), "it does not hold every write");
        let promote = Command::Promote { consent: Consent::Outdated };
        assert_eq!(west.command(promote).await, Err(Refusal::NoWitness));
        assert_eq!(west.status().quality, Quality::Consistent);
        west.faults.cut.set(false);
        world.pass(3_000).await;
        let promote = Command::Promote { consent: Consent::Outdated };
        west.command(promote).await.unwrap();
        let stands = world.witness.standing(GROUP).unwrap().configuration;
        assert_eq!(stands.primary, west.identity.gateway);
        west.write(2).await.unwrap();
        east.resume();
        world.pass(5_000).await;
        assert_eq!(east.status().role, Role::Fenced);
    });
}

#[test]
fn a_detached_copy_is_one_of_its_own_and_needs_no_witness() {
    World::run(Lie::None, |world| async move {
        let (east, west) = world.mirrored().await;
        let leg = east.status().legs[0].leg;
        east.command(Command::Suspend { leg }).await.unwrap();
        world.pass(1_000).await;
        west.command(Command::Detach).await.unwrap();
        west.faults.cut.set(true);
        world.pass(20_000).await;
        west.write(1).await.unwrap();
        assert!(west.read(1).await.unwrap());
        let west = world.restart(west);
        assert!(west.read(1).await.unwrap());
        // Promoted it is not without the witness, and it stays what it was.
        let promote = Command::Promote { consent: Consent::Outdated };
        assert_eq!(west.command(promote).await, Err(Refusal::NoWitness));
        west.write(2).await.unwrap();
        west.faults.cut.set(false);
        world.pass(3_000).await;
        let promote = Command::Promote { consent: Consent::Outdated };
        west.command(promote).await.unwrap();
        world.pass(3_000).await;
        assert!(west.serves() && !east.serves());
    });
}

/// Two sites of which the second was asked to take over, and neither heard more of the other.
async fn unanswered(world: &World, takes_over: bool) -> (Site, Site) {
    let (east, west) = world.mirrored().await;
    // So that the primary does not ask by itself to go on without the mirror.
    set(&east, |policy| policy.split = Split::Manual).await.unwrap();
    world.pass(3_000).await;
    west.faults.cut.set(!takes_over);
    let leg = east.status().legs[0].leg;
    east.spawn_command(Command::Reverse { leg });
    let is_primary = |site: &Site| {
        let stands = world.witness.standing(GROUP).unwrap().configuration;
        stands.primary == site.identity.gateway
    };
    for _ in 0..500 {
        if !is_primary(&west) {
            world.pass(1).await;
        }
    }
    assert_eq!(is_primary(&west), takes_over);
    // What the witness granted just now is still on its way.
    west.faults.cut.set(true);
    east.faults.cut.set(true);
    world.cut(&east, &west);
    world.pass(3_000).await;
    assert!(east.status().handover.unwrap().unanswered);
    (east, west)
}

#[test]
fn a_handover_that_is_never_answered_is_ended_by_a_word_and_the_witness() {
    World::run(Lie::None, |world| async move {
        let (east, west) = unanswered(&world, false).await;
        let go_on = || east.command(Command::Promote { consent: Consent::Outdated });
        assert_eq!(go_on().await, Err(Refusal::NoWitness));
        east.faults.cut.set(false);
        world.pass(3_000).await;
        go_on().await.unwrap();
        east.write(1).await.unwrap();
        assert_eq!(named(&world), 0);
        world.heal();
        west.faults.cut.set(false);
        world.pass(5_000).await;
        assert!(east.serves() && !west.serves());
    });
}

#[test]
fn a_handover_whose_answer_was_lost_is_answered_by_the_witness() {
    World::run(Lie::None, |world| async move {
        let (east, west) = unanswered(&world, true).await;
        east.faults.cut.set(false);
        world.pass(3_000).await;
        assert_eq!(east.status().role, Role::Secondary);
        let refused = east.command(Command::Promote { consent: Consent::InSync }).await;
        assert_eq!(refused, Err(Refusal::NotNamed));
        west.faults.cut.set(false);
        world.pass(3_000).await;
        assert!(west.serves() && !east.serves());
    });
}

#[test]
fn members_are_not_changed_without_the_witness() {
    World::run(Lie::None, |world| async move {
        let (east, _west) = world.mirrored().await;
        east.faults.cut.set(true);
        world.pass(3_000).await;
        assert_eq!(east.enlist().await, Err(Refusal::NoWitness));
        east.write(1).await.unwrap();
        world.pass(HOLD_MS).await;
        assert!(east.is_equivalent());
    });
}
