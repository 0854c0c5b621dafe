//! The checks can fail: each rule that is broken on purpose is missed within 2 000 seeds.
//!
//! A break that is not found means that the checks are blind there, not that the mirror is right.
#![expect(clippy::print_stdout, reason = "the seed that noticed is worth knowing")]

use twinspan_sim::{Sabotage, run};

/// Seeds after which a break counts as unnoticed.
const SEEDS: u64 = 2_000;

fn found(sabotage: Sabotage) {
    let bad = (0..SEEDS).find_map(|seed| run(seed, sabotage).failure.map(|why| (seed, why)));
    let (seed, why) = bad.expect("a broken rule is noticed");
    println!("{sabotage:?} is noticed by seed {seed}: {} {}", why.property, why.text);
}

#[test]
fn an_acknowledgement_before_the_mirror_has_it() {
    found(Sabotage::AcknowledgesUnsent);
}

#[test]
fn a_record_that_is_not_durable() {
    found(Sabotage::RecordsLate);
}

#[test]
fn a_copy_that_is_overtaken() {
    found(Sabotage::CopierWithoutLock);
}

#[test]
fn an_activity_log_that_forgets() {
    found(Sabotage::ForgetsActivity);
}

#[test]
fn a_flush_that_was_only_asked_for() {
    found(Sabotage::DurableAtOnce);
}

#[test]
fn an_epoch_that_nobody_gave() {
    found(Sabotage::RaisesEpoch);
}
