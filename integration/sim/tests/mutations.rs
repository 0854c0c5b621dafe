//! The checks can fail: each rule that is broken on purpose is missed within 2 000 seeds.
//!
//! A break that is not found means that the checks are blind there, not that the mirror is right.
#![expect(clippy::print_stdout, reason = "the seed that noticed is worth knowing")]

use twinspan_sim::{Modes, Sabotage, run_in};

/// Seeds after which a break counts as unnoticed.
const SEEDS: u64 = 2_000;

/// Seeds that noticed a break last, where it took hundreds: they are tried first. One that notices it
/// no more, because histories are drawn otherwise now, costs one history.
const NOTICED: [(Sabotage, u64); 7] = [
    (Sabotage::DurableAtOnce, 710),
    (Sabotage::DurableWhenAcknowledged, 1_692),
    (Sabotage::FlushNotCarried, 187),
    (Sabotage::ForgetsClaims, 1_260),
    (Sabotage::IgnoresLeases, 166),
    (Sabotage::KnowsDifferences, 679),
    (Sabotage::SharesEpoch, 280),
];

fn found(modes: Modes, sabotage: Sabotage) {
    let run = |seed, sabotage| run_in(modes, seed, sabotage);
    let first = NOTICED.iter().filter(|(of, _)| *of == sabotage).map(|(_, seed)| *seed);
    let mut seeds = first.chain(0..SEEDS);
    let bad = seeds.find_map(|seed| run(seed, sabotage).failure.map(|why| (seed, why)));
    let (seed, why) = bad.expect("a broken rule is noticed");
    let whole = run(seed, Sabotage::None).failure;
    assert!(whole.is_none(), "seed {seed} fails without a break too: {whole:?}");
    let text: String = why.text.chars().take(200).collect();
    println!("{sabotage:?} is noticed by seed {seed}: {} {text}", why.property);
}

macro_rules! breaks {
    ($($name:ident $sabotage:ident)*) => {
        $(#[test] fn $name() { found(Modes::Sync, Sabotage::$sabotage); })*
    };
}

breaks! {
    an_acknowledgement_before_the_mirror_has_it AcknowledgesUnsent
    a_record_that_is_not_durable RecordsLate
    a_change_that_is_overtaken HostWithoutLock
    a_copy_that_is_overtaken CopierWithoutLock
    an_activity_log_that_forgets ForgetsActivity
    a_change_that_was_only_acknowledged DurableWhenAcknowledged
    a_flush_that_was_only_asked_for DurableAtOnce
    a_flush_that_is_not_carried FlushNotCarried
    an_unclean_mirror_that_may_be_promoted UncleanIsPromotable
    sessions_that_stop_at_different_cuts CutsApart
    an_epoch_that_nobody_gave RaisesEpoch
    an_epoch_that_is_not_checked EpochNotChecked
    an_epoch_that_two_promotions_share SharesEpoch
    a_mirror_that_knows_what_another_primary_wrote KnowsDifferences
    changes_that_do_not_wait_for_a_missing_mirror GoesOnHalted
    a_mirror_that_a_host_writes_to AttachesDestination
    dirty_maps_that_are_forgotten ForgetsDirtyMaps
    a_copy_that_is_discarded_without_a_word DiscardsUnasked
    a_volume_that_counts_as_copied_before_it_was CountsNewcomers
    a_mirror_that_is_never_too_slow WaitsForEver
    a_failed_sync_that_is_done_again RetriesSync
    a_failed_sync_that_counts_as_done IgnoresFailedSync
    a_primary_that_goes_on_without_the_witness GoesOnUnasked
    a_promotion_of_a_mirror_that_the_witness_does_not_name PromotesUnnamed
    a_read_without_a_lease ReadsForEver
    a_promotion_while_the_lease_of_the_primary_runs IgnoresLeases
    a_snapshot_that_holds_what_came_after_its_place SnapshotsLate
    a_lock_that_ends_when_a_clock_is_set LocksByTheWall
    a_claim_without_an_answer_that_counts_as_denied ForgetsClaims
    a_block_that_rotted_and_is_read_as_good BelievesRot
}

#[test]
fn a_copy_that_does_not_go_back_to_its_kept_point() {
    found(Modes::Consistency, Sabotage::StaysAhead);
}

#[test]
fn a_cut_that_is_sent_ahead_of_what_it_covers() {
    found(Modes::Consistency, Sabotage::CutsEarly);
}

#[test]
fn companions_that_are_not_asked() {
    found(Modes::Parts, Sabotage::CompanionsUnasked);
}

#[test]
fn parts_that_are_held_one_after_the_other() {
    found(Modes::Parts, Sabotage::PartsHeldOneByOne);
}

#[test]
fn a_mirror_that_sends_on_what_changes() {
    found(Modes::Relay, Sabotage::SendsOnWhatChanges);
}

#[test]
fn a_mirror_that_does_not_note_what_came_after_the_point_that_it_sends_on() {
    found(Modes::Relay, Sabotage::ForgetsSince);
}

#[test]
fn each_rule_has_a_break() {
    let breaks = include_str!("../src/sabotage.rs");
    for rule in 1..=15 {
        assert!(breaks.contains(&format!("/// Rule {rule}: ")), "nothing breaks rule {rule}");
    }
}
