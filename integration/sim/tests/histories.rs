//! Histories of many seeds. `TWINSPAN_SIM_SEEDS` says how many, `TWINSPAN_SIM_SEED` replays one
//! with its log.

use twinspan_sim::{Outcome, Sabotage, run, trace};

/// The last lines of a log.
fn tail(log: &str, lines: usize) -> String {
    let all: Vec<_> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn check(seed: u64, outcome: &Outcome) {
    if let Some(failure) = &outcome.failure {
        panic!(
            "seed {seed}: {} does not hold: {}\n{}\nreplay: TWINSPAN_SIM_SEED={seed}",
            failure.property,
            failure.text,
            tail(&outcome.log, 60)
        );
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn survey() {
    let first = number("FROM").unwrap_or(0);
    let count = number("TWINSPAN_SIM_SEEDS").unwrap_or(100);
    let mut bad: std::collections::BTreeMap<String, (u64, Vec<u64>)> = Default::default();
    let start = std::time::SystemTime::UNIX_EPOCH;
    let _ = start;
    for seed in first..first + count {
        let outcome = run(seed, Sabotage::None);
        if let Some(failure) = outcome.failure {
            let key: String = format!("{} {}", failure.property, failure.text)
                .chars()
                .filter(|c| !c.is_ascii_digit())
                .take(110)
                .collect();
            let entry = bad.entry(key).or_default();
            entry.0 += 1;
            entry.1.push(seed);
        }
    }
    for (key, (count, seeds)) in &bad {
        println!("{count:>5} {key} {:?}", &seeds[..seeds.len().min(6)]);
    }
    assert!(bad.is_empty());
}

#[test]
fn replay() {
    let Some(seed) = number("TWINSPAN_SIM_SEED") else { return };
    let traced = std::env::var_os("TWINSPAN_SIM_TRACE").is_some();
    let outcome = if traced { trace(seed, Sabotage::None) } else { run(seed, Sabotage::None) };
    println!("{}\n{:?}", outcome.log, outcome.stats);
    check(seed, &outcome);
}
