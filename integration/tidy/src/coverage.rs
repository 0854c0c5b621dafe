//! Which behaviours of the source systems, and which hazards, are held by which tests.
//!
//! Invariant: a row of the ranges has one line; what a line names as a test is a test; a line without
//! one says why.

use crate::source::{Kind, pieces};
use crate::{Findings, Tree};

/// A document with one line for each number of some ranges.
struct Table {
    path: &'static str,
    /// Prefix, first and last number, both included.
    ranges: &'static [(&'static str, u32, u32)],
    /// Whether a line may say why it names no test.
    reasons: bool,
}

/// Rows of the source systems.
const BEHAVIOURS: Table = Table {
    path: "gateway/docs/COVERAGE.md",
    ranges: &[
        ("REC", 1, 34),
        ("EVS", 1, 53),
        ("SNAP", 1, 9),
        ("BAK", 1, 13),
        ("HDR", 8, 9),
        ("ROR", 1, 21),
    ],
    reasons: true,
};
/// What goes wrong in replication.
const HAZARDS: Table = Table {
    path: "gateway/docs/HAZARDS.md",
    ranges: &[("HAZ", 1, 35), ("CASE", 1, 18)],
    reasons: false,
};
/// How a line begins that names no test of its behaviour.
const REASONS: [&str; 2] = ["not yet: ", "not here: "];

/// Every row of the source systems has a line, and every test in it exists.
#[must_use]
pub fn behaviours(tree: &Tree) -> Findings {
    rows(tree, &BEHAVIOURS)
}

/// Every hazard has a line, and every test in it exists.
#[must_use]
pub fn hazards(tree: &Tree) -> Findings {
    rows(tree, &HAZARDS)
}

fn rows(tree: &Tree, table: &Table) -> Findings {
    let path = table.path;
    let text = tree.text(path).unwrap_or_default();
    let is_row = |line: &&str| {
        let first = line.strip_prefix("| ").unwrap_or_default();
        table.ranges.iter().any(|(system, ..)| first.starts_with(&format!("{system}-")))
    };
    let lines: Vec<Vec<&str>> = text
        .lines()
        .filter(is_row)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut findings = Findings::new();
    for row in wanted(table) {
        // The number may stand in a cell with words behind it.
        let count = lines.iter().filter(|line| line[0].split(' ').next() == Some(&row)).count();
        if count != 1 {
            findings.push(format!("{path}: {row} has {count} lines"));
        }
    }
    let tests = tests(tree);
    for line in &lines {
        let [row, behaviour, held] = line.as_slice() else {
            findings.push(format!("{path}: the line of {line:?} has not three columns"));
            continue;
        };
        if behaviour.is_empty() {
            findings.push(format!("{path}: {row} says nothing of its behaviour"));
        }
        let named: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        let has_reason = table.reasons && REASONS.iter().any(|reason| held.starts_with(reason));
        if named.is_empty() && !has_reason {
            findings.push(format!("{path}: {row} names no test and says not why"));
        }
        for name in named.iter().filter(|name| !tests.iter().any(|test| test == *name)) {
            findings.push(format!("{path}: {row}: there is no test {name}"));
        }
    }
    findings
}

fn wanted(table: &Table) -> impl Iterator<Item = String> {
    table.ranges.iter().flat_map(|(system, first, last)| {
        (*first..=*last).map(move |number| format!("{system}-{number:02}"))
    })
}

/// The names of all test functions: those that an attribute `#[…test…]` stands before.
fn tests(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (_, text) in tree.rust() {
        let code: String = pieces(text)
            .into_iter()
            .filter(|piece| piece.kind == Kind::Code)
            .map(|piece| piece.text)
            .collect();
        for (at, _) in code.match_indices("fn ") {
            let before = code[..at].trim_end().trim_end_matches("async").trim_end();
            let attribute = before.rsplit("#[").next().unwrap_or_default();
            // The attribute ends right before the function.
            let ends = attribute.find(']').is_some_and(|end| end + 1 == attribute.len());
            if !(ends && attribute.contains("test") && before.contains("#[")) {
                continue;
            }
            let name = code[at + 3..].split(|c: char| !(c.is_alphanumeric() || c == '_')).next();
            found.extend(name.map(str::to_owned));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = BEHAVIOURS.path;

    fn table(held: &str) -> String {
        wanted(&BEHAVIOURS).map(|row| format!("| {row} | it works | {held} |\n")).collect()
    }

    #[test]
    fn each_row_has_a_line_and_each_test_exists() {
        let code =
            ("a.rs", "#[test]\nfn it_works() {}\n#[tokio::test]\nasync fn so_does_this() {}");
        let good = table("`it_works`, `so_does_this`");
        assert_eq!(behaviours(&Tree::of(&[(TABLE, &good), code])), Findings::new());
        let reasons = table("not yet: nobody did it");
        assert_eq!(behaviours(&Tree::of(&[(TABLE, &reasons), code])), Findings::new());
        let (bare, unknown) = (table("it does"), table("`it_fails`"));
        assert_eq!(
            behaviours(&Tree::of(&[(TABLE, &bare), code])).len(),
            wanted(&BEHAVIOURS).count()
        );
        assert_eq!(
            behaviours(&Tree::of(&[(TABLE, &unknown), code])).len(),
            wanted(&BEHAVIOURS).count()
        );
    }

    #[test]
    fn a_hazard_needs_a_test_and_no_reason_will_do() {
        let code = ("a.rs", "#[test]\nfn it_works() {}");
        let line = |row: String, held: &str| format!("| {row} and words | a remedy | {held} |\n");
        let table = |held| wanted(&HAZARDS).map(|row| line(row, held)).collect::<Vec<_>>().concat();
        let (good, reason) = (table("`it_works`"), table("not yet: nobody did it"));
        assert_eq!(hazards(&Tree::of(&[(HAZARDS.path, &good), code])), Findings::new());
        let found = hazards(&Tree::of(&[(HAZARDS.path, &reason), code]));
        assert_eq!(found.len(), wanted(&HAZARDS).count());
    }

    #[test]
    fn a_missing_and_a_doubled_row_are_found() {
        let good = table("not here: it is not");
        let missing = good.replacen("REC-07", "REC-06", 1);
        let found = behaviours(&Tree::of(&[(TABLE, &missing)]));
        let expected =
            [format!("{TABLE}: REC-06 has 2 lines"), format!("{TABLE}: REC-07 has 0 lines")];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_function_that_is_no_test_is_none() {
        let code =
            "fn helper() {}\n#[must_use]\nfn other() {}\n#[test]\nfn real() {}\nfn last() {}";
        assert_eq!(tests(&Tree::of(&[("a.rs", code)])), ["real"]);
    }
}
