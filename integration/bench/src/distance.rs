//! What a mirror at a distance costs a host, by mode, and how far it is behind meanwhile.
//!
//! ```text
//!   round, for each medium and load:  load on "alone" ─ load on "consistency" ─ load on "sync"
//!                                                       ╰─ the mirror's lag is looked at all the while
//! ```
//!
//! Invariant: the three volumes lie on the same two gateways and get the same load in each round,
//! one after the other. The lag is what the primary itself says of the oldest write that the mirror
//! may lack; of a mirror that stopped following the report says so, whatever its lag was until then.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::Site;
use serde::Serialize;
use serde_json::Value;

use crate::Options;
use crate::client::Address;
use crate::goal::{Goal, Judged};
use crate::load::{Load, Measured, fill};
use crate::report::median;
use crate::rounds::{Work, write_out};

/// There and back.
const DISTANCE_MS: u64 = 5;
/// A measurement is no shorter than this: several cuts.
const SECONDS_MIN: f64 = 5.0;
/// What hosts do. Without a bound they go as fast as two sites on one machine let them.
const PACES: [Pace; 3] = [
    Pace { depth: 1, every: None },
    Pace { depth: 32, every: None },
    Pace { depth: 32, every: Some(Duration::from_micros(1_600)) },
];
/// Between two looks at the lag.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For a busy machine; what takes longer is a fault.
const LIMIT: Duration = Duration::from_secs(120);
/// The primary's word on how old the oldest write is that the mirror may lack.
const LAG: &str = "twinspan_leg_cut_age_seconds";

/// A volume, by what its mirror does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Alone,
    Consistency,
    Sync,
}

const KINDS: [Kind; 3] = [Kind::Alone, Kind::Consistency, Kind::Sync];

/// Where both sites keep everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Medium {
    /// tmpfs: what is left is the work of the two gateways and the distance.
    Memory,
    /// One disk under both sites, whose flushes wait for each other as those of two sites never do.
    Disk,
}

const MEDIA: [Medium; 2] = [Medium::Memory, Medium::Disk];

impl Medium {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    /// The loads that it gets.
    fn paces(self) -> &'static [Pace] {
        if self == Self::Memory { &PACES } else { &PACES[..1] }
    }

    /// What the mirror does meanwhile.
    fn kinds(self) -> &'static [Kind] {
        if self == Self::Memory { &KINDS } else { &KINDS[..2] }
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Consistency => "consistency",
            Self::Sync => "sync",
        }
    }

    /// A mirror that follows behind costs a host next to nothing and is never far behind. A lag that
    /// was never seen is not known to be small.
    fn goals(self, over_alone: f64, lag_max_seconds: Option<f64>) -> Vec<Judged> {
        if self != Self::Consistency {
            return Vec::new();
        }
        let lag = lag_max_seconds.unwrap_or(f64::NAN);
        vec![
            Goal::AtMost(1.3).judge("x alone", over_alone),
            Goal::Under(2.0).judge("lag max s", lag),
        ]
    }
}

/// How many requests are in flight, and how often, if not always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Pace {
    depth: usize,
    every: Option<Duration>,
}

/// One load on one volume.
#[derive(Clone, Debug, Serialize)]
struct Round {
    medium: Medium,
    #[serde(flatten)]
    pace: Pace,
    kind: Kind,
    #[serde(flatten)]
    measured: Measured,
    /// Every look at the mirror's lag that found one, in seconds.
    lags: Vec<f64>,
    /// Whether the mirror still followed, or was still in sync, when the load ended.
    kept_up: bool,
}

/// The middle of several rounds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    medium: Medium,
    #[serde(flatten)]
    pace: Pace,
    kind: Kind,
    ops_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Median latency as a multiple of the same volume's without a mirror.
    over_alone: f64,
    /// Half of the looks found no more, and all of them no more, over all rounds.
    lag_p50_seconds: Option<f64>,
    lag_max_seconds: Option<f64>,
    /// Whether the mirror kept up in all rounds.
    kept_up: bool,
    /// What is promised of mode consistency: what it costs a host, how far it is behind at most.
    goals: Vec<Judged>,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    distance_ms: u64,
    rows: Vec<Row>,
    rounds: Vec<Round>,
}

/// Measures and prints.
///
/// # Errors
/// When a site cannot be started, a request fails, or the mirror stops following.
pub(crate) fn run(options: &Options, work: &Work) -> Result<()> {
    let mut rounds = Vec::new();
    for medium in MEDIA {
        let dir = if medium == Medium::Memory { &work.memory } else { &work.disk };
        let (primary, mirror) = start(options, dir)?;
        for pace in medium.paces() {
            for repeat in 1..=options.repeats {
                eprintln!("distance: {}, {}, round {repeat}", medium.name(), pace.name());
                for kind in medium.kinds() {
                    let (measured, lags, kept_up) =
                        measure(&primary, *kind, *pace, options.seconds)?;
                    let (pace, kind) = (*pace, *kind);
                    rounds.push(Round { medium, pace, kind, measured, lags, kept_up });
                }
            }
        }
        drop(mirror);
    }
    let report = Report::of(rounds);
    let text = if options.output == "json" {
        serde_json::to_string(&report).context("print the report")?
    } else {
        report.table()
    };
    println!("{text}");
    Ok(())
}

fn start(options: &Options, dir: &Path) -> Result<(Site, Site)> {
    let mut primary = Site::new(dir, "east")?;
    let mut mirror = Site::new(dir, "west")?;
    for site in [&mut primary, &mut mirror] {
        site.set_distance(Duration::from_millis(DISTANCE_MS))?;
        site.start()?;
    }
    primary.join(&mirror)?;
    let size = format!("{}MiB", options.size_mib);
    for kind in KINDS {
        primary.cli(&["volume", "create", kind.name(), "--size", &size])?;
        fill(&address(&primary), kind.name())?;
        if kind != Kind::Alone {
            let to = mirror.name();
            primary.cli(&["session", "create", kind.name(), "--to", to, "--mode", kind.name()])?;
        }
    }
    settle(&primary, Kind::Consistency)?;
    settle(&primary, Kind::Sync)?;
    Ok((primary, mirror))
}

fn address(site: &Site) -> Address {
    Address::Unix(site.nbd_socket())
}

/// Waits until the mirror has all that it will get, and everything is on the disk.
fn settle(primary: &Site, kind: Kind) -> Result<()> {
    if kind != Kind::Alone {
        primary.wait_for(&["session", "show", kind.name()], LIMIT, |session| {
            let behind = session.pointer("/leg/rpo_seconds").and_then(Value::as_f64);
            keeps_up(session, kind) && behind.is_none_or(|seconds| seconds <= 0.0)
        })?;
    }
    write_out()
}

/// Whether the mirror of a session is where its mode wants it.
fn keeps_up(session: &Value, kind: Kind) -> bool {
    let wanted = if kind == Kind::Sync { "equivalent" } else { "following" };
    session.pointer("/leg/phase").and_then(Value::as_str) == Some(wanted)
}

/// What was measured, every lag that was seen, and whether the mirror kept up.
fn measure(
    primary: &Site,
    kind: Kind,
    pace: Pace,
    seconds: f64,
) -> Result<(Measured, Vec<f64>, bool)> {
    let place = (&address(primary), kind.name());
    let load = Load::rand_write(place, pace.depth, seconds.max(SECONDS_MIN));
    let load = Load { every: pace.every, ..load };
    let ended = AtomicBool::new(false);
    let (measured, lags) = std::thread::scope(|scope| {
        let looks = scope.spawn(|| watch_lag(primary, kind, &ended));
        let measured = load.run();
        ended.store(true, Ordering::Relaxed);
        let lags = looks.join().unwrap_or_else(|_| bail!("the thread that looks died"));
        Ok::<_, anyhow::Error>((measured?, lags?))
    })?;
    let kept_up = match kind {
        Kind::Alone => true,
        Kind::Consistency | Kind::Sync => {
            keeps_up(&primary.cli(&["session", "show", kind.name()])?, kind)
        }
    };
    settle(primary, kind)?;
    Ok((measured, lags, kept_up))
}

/// Looks at the lag until the load has ended. Looks at a volume without a lag cost the same.
fn watch_lag(primary: &Site, kind: Kind, ended: &AtomicBool) -> Result<Vec<f64>> {
    let mut lags = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let lag = lag_in(&primary.metrics()?);
        lags.extend(lag.filter(|_| kind == Kind::Consistency));
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(lags)
}

/// The lag in the text of `/metrics`: there is one mirror that follows behind.
fn lag_in(metrics: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(LAG))?;
    line.rsplit(' ').next()?.parse().ok()
}

// === impl Pace ===

impl Pace {
    fn name(self) -> String {
        let Self { depth, every } = self;
        every.map_or_else(
            || format!("depth {depth}"),
            |every| format!("depth {depth} at {:.0}/s", depth as f64 / every.as_secs_f64()),
        )
    }
}

// === impl Report ===

impl Report {
    fn of(rounds: Vec<Round>) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        for (medium, pace) in MEDIA.into_iter().flat_map(|of| PACES.map(|pace| (of, pace))) {
            for kind in KINDS {
                let same =
                    |round: &&Round| (round.medium, round.pace, round.kind) == (medium, pace, kind);
                let same: Vec<&Round> = rounds.iter().filter(same).collect();
                if same.is_empty() {
                    continue;
                }
                let middle = |of: &dyn Fn(&Measured) -> f64| {
                    median(same.iter().map(|round| of(&round.measured)))
                };
                let p50_us = middle(&|measured| measured.p50_us);
                let alone = rows
                    .iter()
                    .find(|row| (row.medium, row.pace, row.kind) == (medium, pace, Kind::Alone));
                let lags: Vec<f64> = same.iter().flat_map(|round| round.lags.clone()).collect();
                let over_alone = alone.map_or(1.0, |alone| p50_us / alone.p50_us);
                let lag_max_seconds = lags.iter().copied().reduce(f64::max);
                rows.push(Row {
                    medium,
                    pace,
                    kind,
                    ops_per_second: middle(&|measured| measured.ops_per_second),
                    p50_us,
                    p99_us: middle(&|measured| measured.p99_us),
                    kept_up: same.iter().all(|round| round.kept_up),
                    over_alone,
                    goals: kind.goals(over_alone, lag_max_seconds),
                    lag_max_seconds,
                    lag_p50_seconds: (!lags.is_empty()).then(|| median(lags)),
                });
            }
        }
        Self { distance_ms: DISTANCE_MS, rows, rounds }
    }

    fn table(&self) -> String {
        let mut text = format!(
            "4k random writes, two gateways {} ms apart (there and back)\n\
             x alone: median latency beside the same load on a volume without a mirror\n\n\
             {:<44} {:>9} {:>9} {:>9} {:>8} {:>10} {:>10}\n",
            self.distance_ms, "", "ops/s", "p50 us", "p99 us", "x alone", "lag p50 s", "lag max s",
        );
        for row in &self.rows {
            let lag = |seconds: Option<f64>| {
                seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}"))
            };
            text += &format!(
                "{:<44} {:>9.0} {:>9.1} {:>9.1} {:>8.2} {:>10} {:>10}{}\n",
                format!("{}, {}, {}", row.medium.name(), row.pace.name(), row.kind.name()),
                row.ops_per_second,
                row.p50_us,
                row.p99_us,
                row.over_alone,
                lag(row.lag_p50_seconds),
                lag(row.lag_max_seconds),
                if row.kept_up { "" } else { "   fell behind" },
            );
            for judged in &row.goals {
                text += &format!("{:<44} {}: {}\n", "", judged.figure, judged.text());
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(kind: Kind, p50_us: f64, lags: &[f64]) -> Round {
        let measured = Measured {
            ops_per_second: 1e6 / p50_us,
            mib_per_second: 1.0,
            p50_us,
            p99_us: 9.0,
            p999_us: 9.9,
            ops_in_all: 1,
        };
        Round {
            medium: Medium::Memory,
            pace: PACES[0],
            kind,
            measured,
            lags: lags.to_vec(),
            kept_up: true,
        }
    }

    #[test]
    fn compares_with_the_volume_that_has_no_mirror() {
        let report = Report::of(vec![
            round(Kind::Alone, 20.0, &[]),
            round(Kind::Consistency, 24.0, &[0.5, 1.5, 0.7]),
            round(Kind::Sync, 6000.0, &[]),
        ]);
        let row = report.rows.iter().find(|row| row.kind == Kind::Consistency).unwrap();
        assert!((row.over_alone - 1.2).abs() < 0.01, "{row:?}");
        assert_eq!((row.lag_p50_seconds, row.lag_max_seconds), (Some(0.7), Some(1.5)));
        assert!(report.table().contains("1.20"), "{}", report.table());
        assert!(row.goals.iter().all(|judged| judged.is_met), "{row:?}");
        let missed = Kind::Consistency.goals(1.31, None);
        assert!(missed.len() == 2 && missed.iter().all(|judged| !judged.is_met), "{missed:?}");
        assert!(Kind::Sync.goals(300.0, None).is_empty());
    }

    #[test]
    fn finds_the_lag() {
        let text = format!("# HELP {LAG} x\ntwinspan_other 7\n{LAG}{{leg=\"west\"}} 0.25\n");
        assert_eq!(lag_in(&text), Some(0.25));
        assert_eq!(lag_in("twinspan_other 7\n"), None);
    }
}
