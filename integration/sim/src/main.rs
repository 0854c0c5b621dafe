//! Many histories in one command, with a word now and then and, at the end, what failed.
//!
//! Invariant: every seed runs, whatever the others do; the exit code says whether all passed.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command for people says what it found")]

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use twinspan_sim::{Modes, Outcome, Sabotage, Stats, run_in, trace};

const USAGE: &str = "\
twinspan-sim seeds COUNT [FIRST]   run the histories FIRST (0) to FIRST + COUNT
twinspan-sim replay SEED           run one again and show its log
twinspan-sim trace SEED            the same, with every message and every request
each after `sync`, `consistency`, `stack` or `mixed`, the modes of the legs, or `parts`, a group over
two gateways a site, or `relay`, a mirror that is mirrored on: else any";

/// Lines of a failed history that are shown at once.
const TAIL_LINES: usize = 25;

thread_local! {
    /// The history that this thread is in.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// A panic ends a release build there and then: the seed must be known.
fn name_seed_in_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        println!("seed {} PANICKED: {panic}", SEED.get());
        usual(panic);
    }));
}

fn main() -> ExitCode {
    name_seed_in_panics();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let modes = match words.first() {
        Some(&"sync") => Some(Modes::Sync),
        Some(&"consistency") => Some(Modes::Consistency),
        Some(&"stack") => Some(Modes::Stack),
        Some(&"mixed") => Some(Modes::Mixed),
        Some(&"parts") => Some(Modes::Parts),
        Some(&"relay") => Some(Modes::Relay),
        _ => None,
    };
    if modes.is_some() {
        words.remove(0);
    }
    let modes = modes.unwrap_or_default();
    let number = |text: &str| text.parse::<u64>().ok();
    let done = match words[..] {
        ["seeds", count] => number(count).map(|count| seeds(modes, 0, count)),
        ["seeds", count, first] => {
            number(first).zip(number(count)).map(|(first, count)| seeds(modes, first, count))
        }
        ["replay", seed] => {
            number(seed).map(|seed| show(seed, &run_in(modes, seed, Sabotage::None)))
        }
        ["trace", seed] => number(seed).map(|seed| show(seed, &trace(modes, seed, Sabotage::None))),
        _ => None,
    };
    match done {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => {
            println!("{USAGE}");
            ExitCode::from(64)
        }
    }
}

/// Runs them all; says whether all passed.
fn seeds(modes: Modes, first: u64, count: u64) -> bool {
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let sum = Mutex::new(Stats::default());
    let step = (count / 40).clamp(1, 500);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let seed = first + index;
            SEED.set(seed);
            let outcome = run_in(modes, seed, Sabotage::None);
            sum.lock().expect("no worker panics").add(&outcome.stats);
            if let Some(failure) = &outcome.failure {
                println!("seed {seed} FAILED: {} {}", failure.property, failure.text);
                println!("{}", tail(&outcome.log));
                failed.lock().expect("no worker panics").push((seed, failure.property));
            }
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(step) || done == count {
                let failed = failed.lock().expect("no worker panics").len();
                println!("{done} of {count} histories, {failed} failed");
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    report(&sum.lock().expect("no worker panics"));
    let mut failed = failed.into_inner().expect("no worker panics");
    failed.sort_unstable();
    if failed.is_empty() {
        println!("every property holds in all {count} histories");
        return true;
    }
    println!("{} of {count} histories failed:", failed.len());
    for (seed, property) in &failed {
        println!("  {property}: cargo run -p twinspan-sim -- replay {seed}");
    }
    false
}

fn report(sum: &Stats) {
    println!("{sum:#?}");
    let missing = sum.missing();
    if !missing.is_empty() {
        println!("never happened: {}", missing.join(", "));
    }
}

fn show(seed: u64, outcome: &Outcome) -> bool {
    println!("{}", outcome.log);
    report(&outcome.stats);
    match &outcome.failure {
        None => println!("every property holds in history {seed}"),
        Some(failure) => println!("{} does not hold: {}", failure.property, failure.text),
    }
    outcome.failure.is_none()
}

fn tail(log: &str) -> String {
    let all: Vec<_> = log.lines().collect();
    all[all.len().saturating_sub(TAIL_LINES)..].join("\n")
}
