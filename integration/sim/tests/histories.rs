//! Histories of many seeds: every property holds in each of them.
//!
//! `TWINSPAN_SIM_SEEDS` says how many in all (2000), `TWINSPAN_SIM_FIRST` where they begin (0).
//! `cargo run -p twinspan-sim` runs more of them, and shows one.
#![expect(clippy::print_stdout, reason = "what happened in them is worth knowing")]

use std::collections::BTreeSet;

use twinspan_sim::{FAULTS, Modes, Outcome, Sabotage, Stats, run, trace};

/// Parts that run at the same time.
const PARTS: u64 = 8;
/// Seeds that once failed; each found another bug. They are no longer the same histories when the
/// simulator draws differently, but cost nothing.
const ONCE_BAD: [u64; 56] = [
    1, 3, 24, 34, 37, 40, 57, 74, 75, 83, 108, 126, 135, 150, 196, 260, 289, 555, 713, 914, 958,
    1102, 1274, 1652, 1836, 2172, 3302, 4435, 5079, 5247, 7905, 332, 375, 404, 413, 450, 536, 800,
    1104, 1121, 1194, 1280, 1656, 1739, 1941, 10193, 146, 210, 279, 353, 387, 626, 1030, 1133,
    1184, 10004,
];

fn tail(log: &str, lines: usize) -> String {
    let all: Vec<_> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// What is to be said of a history that failed.
fn complaint(seed: u64, outcome: &Outcome) -> Option<String> {
    outcome.failure.as_ref().map(|failure| {
        format!(
            "seed {seed}: {} does not hold: {}\n{}\nagain: cargo run -p twinspan-sim -- replay \
             {seed}",
            failure.property,
            failure.text,
            tail(&outcome.log, 60)
        )
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs seeds, all of them, and sees to it that none failed.
fn check(seeds: impl IntoIterator<Item = u64>) -> Stats {
    let mut sum = Stats::default();
    let mut complaints = Vec::new();
    for seed in seeds {
        let outcome = run(seed, Sabotage::None);
        complaints.extend(complaint(seed, &outcome));
        sum.add(&outcome.stats);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
    sum
}

/// Runs one part of the seeds.
fn part(index: u64) {
    let first = number("TWINSPAN_SIM_FIRST").unwrap_or(0);
    let all = number("TWINSPAN_SIM_SEEDS").unwrap_or(2_000);
    let sum = check(first + all * index / PARTS..first + all * (index + 1) / PARTS);
    println!("{sum:#?}");
}

macro_rules! parts {
    ($($name:ident $index:literal)*) => { $(#[test] fn $name() { part($index); })* };
}

parts! {
    seeds_a 0 seeds_b 1 seeds_c 2 seeds_d 3 seeds_e 4 seeds_f 5 seeds_g 6 seeds_h 7
}

#[test]
fn seeds_that_once_failed() {
    check(ONCE_BAD);
}

/// A run of 400 has every kind of fault and every kind of ending; one that never happens would
/// prove nothing.
#[test]
fn everything_happens_within_400_histories() {
    let sum = check(10_000..10_400);
    assert_eq!(sum.missing(), Vec::<&str>::new(), "these never happen: {sum:#?}");
    assert!(sum.faults.keys().all(|fault| FAULTS.contains(fault)), "{:?}", sum.faults);
}

/// The table of what goes wrong names each fault, and no other.
#[test]
fn the_table_of_faults_is_the_list_of_faults() {
    let page = include_str!("../../../gateway/docs/HACKING.md");
    let (_, table) = page.split_once("| what happens | drawn in").expect("the table is there");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let named = rows.filter_map(|row| row.split('|').nth(1)).map(str::trim);
    let (named, listed) = (named.collect::<BTreeSet<_>>(), BTreeSet::from(FAULTS));
    assert_eq!(named, listed);
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..25 {
        let (first, second) =
            (trace(Modes::Any, seed, Sabotage::None), trace(Modes::Any, seed, Sabotage::None));
        assert!(first.log == second.log, "seed {seed} is not one history");
        assert!(
            first.log != trace(Modes::Any, seed + 1, Sabotage::None).log,
            "every history is the same"
        );
    }
}
