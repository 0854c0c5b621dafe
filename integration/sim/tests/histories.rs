//! Histories of many seeds: every property holds in each of them.
//!
//! `TWINSPAN_SIM_SEEDS` says how many in all (2000), `TWINSPAN_SIM_FIRST` where they begin (0).
//! `TWINSPAN_SIM_SEED` replays one with its log, with `TWINSPAN_SIM_TRACE` every message too.
#![expect(clippy::print_stdout, reason = "a replayed history is read")]

use twinspan_sim::{Outcome, Sabotage, Stats, run, trace};

/// Parts that run at the same time.
const PARTS: u64 = 8;
/// Seeds that once failed; each found another bug. They are no longer the same histories when the
/// simulator draws differently, but cost nothing.
const ONCE_BAD: [u64; 31] = [
    1, 3, 24, 34, 37, 40, 57, 74, 75, 83, 108, 126, 135, 150, 196, 260, 289, 555, 713, 914, 958,
    1102, 1274, 1652, 1836, 2172, 3302, 4435, 5079, 5247, 7905,
];

fn tail(log: &str, lines: usize) -> String {
    let all: Vec<_> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn check(seed: u64, outcome: &Outcome) {
    if let Some(failure) = &outcome.failure {
        panic!(
            "seed {seed}: {} does not hold: {}\n{}\nreplay: TWINSPAN_SIM_SEED={seed} \
             cargo nextest run -p twinspan-sim replay --no-capture",
            failure.property,
            failure.text,
            tail(&outcome.log, 60)
        );
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs one part of the seeds, and sees to it that they are worth running.
fn part(index: u64) {
    let first = number("TWINSPAN_SIM_FIRST").unwrap_or(0);
    let all = number("TWINSPAN_SIM_SEEDS").unwrap_or(2_000);
    let seeds = first + all * index / PARTS..first + all * (index + 1) / PARTS;
    let mut sum = Stats::default();
    let enough = seeds.clone().count() >= 100;
    for seed in seeds {
        let outcome = run(seed, Sabotage::None);
        check(seed, &outcome);
        sum.add(&outcome.stats);
    }
    println!("{sum:#?}");
    if enough {
        let rare = [sum.promotions, sum.handovers, sum.holes, sum.forced, sum.split_brains];
        assert!(rare.iter().all(|count| *count > 0), "something never happens: {sum:#?}");
    }
}

macro_rules! parts {
    ($($name:ident $index:literal)*) => { $(#[test] fn $name() { part($index); })* };
}

parts! {
    seeds_a 0 seeds_b 1 seeds_c 2 seeds_d 3 seeds_e 4 seeds_f 5 seeds_g 6 seeds_h 7
}

#[test]
fn seeds_that_once_failed() {
    for seed in ONCE_BAD {
        check(seed, &run(seed, Sabotage::None));
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..25 {
        let (first, second) = (trace(seed, Sabotage::None), trace(seed, Sabotage::None));
        assert!(first.log == second.log, "seed {seed} is not one history");
        assert!(first.log != trace(seed + 1, Sabotage::None).log, "every history is the same");
    }
}

#[test]
fn replay() {
    let Some(seed) = number("TWINSPAN_SIM_SEED") else { return };
    let traced = std::env::var_os("TWINSPAN_SIM_TRACE").is_some();
    let outcome = if traced { trace(seed, Sabotage::None) } else { run(seed, Sabotage::None) };
    println!("{}\n{:#?}", outcome.log, outcome.stats);
    check(seed, &outcome);
}
