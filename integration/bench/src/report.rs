//! Medians over the rounds, ratios to the first contestant on the same medium, as a table and as
//! JSON.
//!
//! Invariant: a ratio above 1 is in favour of the first contestant, whatever is compared.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use crate::Options;
use crate::contestant::Medium;
use crate::rounds::Round;
use crate::workload::{Goals, Suite};

/// The middle of several rounds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    transport: &'static str,
    workload: &'static str,
    contestant: &'static str,
    medium: Medium,
    ops_per_second: f64,
    ops_per_second_min: f64,
    ops_per_second_max: f64,
    mib_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_op: f64,
    /// How many times as many requests the first contestant does, and how many times less
    /// processor time and median latency it needs; null for itself.
    ratio: Option<Ratio>,
    /// Which of these ratios are to be reached; null where there is none.
    goals: Option<Goals>,
    /// Processor time below which nobody can be, of one that keeps nothing and only answers; null where
    /// none takes part.
    cpu_floor_us: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Ratio {
    ops: f64,
    cpu: f64,
    p50: f64,
}

/// What a floor is, for who reads the table.
const FLOOR: &str =
    "floor: the ratio of one that keeps nothing and only answers, where that misses the goal too\n";

/// A whole run.
#[derive(Debug)]
pub(crate) struct Report {
    suite: Suite,
    seconds: f64,
    repeats: usize,
    size_mib: u64,
    rows: Vec<Row>,
    rounds: Vec<Round>,
}

impl Report {
    pub(crate) fn of(suite: Suite, options: &Options, rounds: Vec<Round>) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        for round in &rounds {
            let is_same = |other: &Round| {
                (other.transport, other.workload, other.contestant)
                    == (round.transport, round.workload, round.contestant)
            };
            let is_there = rows.iter().any(|row| {
                (row.transport, row.workload, row.contestant)
                    == (round.transport, round.workload, round.contestant)
            });
            if !is_there {
                let same: Vec<&Round> = rounds.iter().filter(|other| is_same(other)).collect();
                let first = rows.iter().find(|row| {
                    (row.transport, row.workload, row.medium)
                        == (round.transport, round.workload, round.medium)
                });
                let workload = suite.workloads().iter().find(|of| of.name == round.workload);
                let goals = workload.map(|of| of.goals).filter(|_| first.is_some());
                let row = Row { goals, ..Row::of(&same, first) };
                rows.push(row);
            }
        }
        let floors: Vec<_> =
            rows.iter().filter(|row| row.medium == Medium::Nowhere).cloned().collect();
        for row in &mut rows {
            let same =
                |floor: &&Row| (floor.transport, floor.workload) == (row.transport, row.workload);
            row.cpu_floor_us = floors.iter().find(same).map(|floor| floor.cpu_us_per_op);
        }
        let Options { seconds, repeats, size_mib, .. } = *options;
        Self { suite, seconds, repeats, size_mib, rows, rounds }
    }

    pub(crate) fn json(&self) -> Result<String> {
        let value = json!({
            "bench": self.suite.name(),
            "seconds": self.seconds,
            "repeats": self.repeats,
            "size_mib": self.size_mib,
            "cpus": std::thread::available_parallelism()?.get(),
            "rows": self.rows,
            "rounds": self.rounds,
        });
        Ok(serde_json::to_string(&value)?)
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "bench {}: median of {} rounds of {} s, volumes of {} MiB\n\
             x: how many times as much the first on the same medium does, or as little CPU and \
             latency it needs\n{}",
            self.suite.name(),
            self.repeats,
            self.seconds,
            self.size_mib,
            if self.rows.iter().any(|row| row.cpu_floor_us.is_some()) { FLOOR } else { "" },
        );
        let has_goal = |goals: Goals| goals.ops.or(goals.cpu).or(goals.p50).is_some();
        let width = if self.rows.iter().filter_map(|row| row.goals).any(has_goal) { 30 } else { 6 };
        let mut before = ("", "");
        for row in &self.rows {
            if before != (row.transport, row.workload) {
                before = (row.transport, row.workload);
                text += &format!(
                    "\n{:<34} {:>9} {:>8} {:>8} {:>9} {:>8}   {:<width$} {:<width$} {:<width$}\n",
                    format!("{} over {}", row.workload, row.transport),
                    "ops/s",
                    "MiB/s",
                    "p50 us",
                    "p99 us",
                    "CPU us",
                    " x ops",
                    " x CPU",
                    " x p50",
                );
            }
            // Writing to a string cannot fail.
            write!(
                text,
                "  {:<32} {:>9.0} {:>8.0} {:>8.1} {:>9.1} {:>8.2}",
                row.contestant,
                row.ops_per_second,
                row.mib_per_second,
                row.p50_us,
                row.p99_us,
                row.cpu_us_per_op,
            )
            .ok();
            if let Some(ratio) = row.ratio {
                let goals = row.goals.map_or([None; 3], |of| [of.ops, of.cpu, of.p50]);
                text += "  ";
                let best = [None, row.cpu_floor_us.map(|floor| row.cpu_us_per_op / floor), None];
                let values = [ratio.ops, ratio.cpu, ratio.p50];
                for ((value, goal), best) in values.into_iter().zip(goals).zip(best) {
                    write!(text, " {:<width$}", beside_goal(value, goal, best)).ok();
                }
            }
            text.push('\n');
        }
        text
    }
}

/// A ratio, the goal that it has, and whether that is met, or beyond the best that anybody reaches.
fn beside_goal(value: f64, goal: Option<f64>, best: Option<f64>) -> String {
    match goal {
        None => format!("{value:>6.2}"),
        Some(goal) => match best {
            _ if value >= goal => format!("{value:>6.2} (goal {goal}: met)"),
            Some(best) if best < goal => format!("{value:>6.2} (goal {goal}, floor {best:.2})"),
            _ => format!("{value:>6.2} (goal {goal}: missed)"),
        },
    }
}

/// The middle of what was measured, the lower one of two; not a number if there is nothing.
#[must_use]
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    fn of(rounds: &[&Round], first: Option<&Self>) -> Self {
        let middle = |value: fn(&Round) -> f64| median(rounds.iter().map(|round| value(round)));
        let all = || rounds.iter().map(|round| round.measured.ops_per_second);
        let (ops_min, ops_max) = (all().fold(f64::NAN, f64::min), all().fold(f64::NAN, f64::max));
        let ops = median(all());
        let p50_us = middle(|round| round.measured.p50_us);
        let cpu_us_per_op = middle(|round| round.cpu_us_per_op);
        let over = |theirs: f64, ours: f64| if ours > 0.0 { theirs / ours } else { f64::NAN };
        Self {
            transport: rounds[0].transport,
            workload: rounds[0].workload,
            contestant: rounds[0].contestant,
            medium: rounds[0].medium,
            ops_per_second: ops,
            ops_per_second_min: ops_min,
            ops_per_second_max: ops_max,
            mib_per_second: middle(|round| round.measured.mib_per_second),
            p50_us,
            p99_us: middle(|round| round.measured.p99_us),
            cpu_us_per_op,
            ratio: first.map(|first| Ratio {
                ops: over(first.ops_per_second, ops),
                cpu: over(cpu_us_per_op, first.cpu_us_per_op),
                p50: over(p50_us, first.p50_us),
            }),
            goals: None,
            cpu_floor_us: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Measured;

    fn round(contestant: &'static str, ops_per_second: f64) -> Round {
        let measured = Measured {
            ops_per_second,
            mib_per_second: 1.0,
            p50_us: 1e6 / ops_per_second,
            p99_us: 9.0,
            p999_us: 9.9,
            ops_in_all: 1,
        };
        let cpu_us_per_op = 2e6 / ops_per_second;
        Round {
            transport: "unix",
            workload: "w",
            contestant,
            medium: Medium::Disk,
            measured,
            cpu_us_per_op,
        }
    }

    fn options() -> Options {
        Options {
            seconds: 1.0,
            repeats: 3,
            output: "table".into(),
            size_mib: 1,
            dir: None,
            only: Vec::new(),
            transport: Vec::new(),
        }
    }

    /// What is on tmpfs is compared with nothing on a disk.
    #[test]
    fn says_of_each_ratio_to_a_peer_on_the_same_medium_whether_its_goal_is_met() {
        let of = |medium, rounds: [(&'static str, f64); 2]| {
            let workload = "4k random read, depth 32";
            rounds.map(|(name, ops)| Round { workload, medium, ..round(name, ops) })
        };
        let rounds = [
            of(Medium::Disk, [("ours", 400.0), ("theirs", 100.0)]),
            of(Medium::Memory, [("ours in memory", 500.0), ("theirs in memory", 250.0)]),
        ];
        let report = Report::of(Suite::Iscsi, &options(), rounds.concat());
        let has_ratio: Vec<bool> = report.rows.iter().map(|row| row.ratio.is_some()).collect();
        assert_eq!(has_ratio, [false, true, false, true]);
        let table = report.table();
        let line = |name: &str| {
            let found = table.lines().find(|line| line.trim_start().starts_with(name));
            found.unwrap().to_owned()
        };
        let (disk, memory) = (line("theirs "), line("theirs in memory"));
        assert_eq!(disk.matches("4.00 (goal 3: met)").count(), 2, "{table}");
        assert_eq!(memory.matches("2.00 (goal 3: missed)").count(), 2, "{table}");
        assert!(
            report.json().unwrap().contains("\"goals\":{\"cpu\":3.0,\"ops\":3.0,\"p50\":null}")
        );
        let bare = rounds
            .concat()
            .into_iter()
            .chain(of(Medium::Nowhere, [("bare", 200.0), ("bare", 200.0)]));
        let floored = Report::of(Suite::Iscsi, &options(), bare.collect()).table();
        assert!(floored.contains("2.00 (goal 3, floor 0.80)"), "{floored}");
        let without = Report::of(Suite::Nbd, &options(), rounds.concat());
        assert!(!without.table().contains("goal"));
    }

    #[test]
    fn takes_medians_and_compares_with_the_first() {
        let rounds =
            [("a", 400.0), ("b", 90.0), ("a", 1.0), ("b", 100.0), ("a", 500.0), ("b", 999.0)];
        let rounds = rounds.map(|(name, ops)| round(name, ops)).to_vec();
        let report = Report::of(Suite::Nbd, &options(), rounds);
        assert_eq!(report.rows.len(), 2);
        assert!((report.rows[0].ops_per_second - 400.0).abs() < 0.1);
        assert!(report.rows[0].ratio.is_none());
        let ratio = report.rows[1].ratio.unwrap();
        assert!((ratio.ops - 4.0).abs() < 0.01 && (ratio.cpu - 4.0).abs() < 0.01, "{ratio:?}");
        assert!((ratio.p50 - 4.0).abs() < 0.01, "{ratio:?}");
        assert!(report.json().unwrap().contains("\"rounds\":["));
    }
}
