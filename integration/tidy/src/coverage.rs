//! Which behaviours of the source systems are held by which tests.
//!
//! Invariant: a row of the ranges has one line; what a line names as a test is a test; a line without
//! one says why.

use crate::source::{Kind, pieces};
use crate::{Findings, Tree};

/// The table.
const TABLE: &str = "gateway/docs/COVERAGE.md";
/// The rows that have a line, both ends included.
const RANGES: [(&str, u32, u32); 5] =
    [("REC", 1, 34), ("EVS", 8, 18), ("EVS", 23, 30), ("EVS", 34, 36), ("EVS", 47, 50)];
/// How a line begins that names no test of its behaviour.
const REASONS: [&str; 2] = ["not yet: ", "not here: "];

/// Every row has a line, and every test in it exists.
#[must_use]
pub fn rows(tree: &Tree) -> Findings {
    let text = tree.text(TABLE).unwrap_or_default();
    let lines: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| REC-") || line.starts_with("| EVS-"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut findings = Findings::new();
    for row in wanted() {
        let count = lines.iter().filter(|line| line.first() == Some(&row.as_str())).count();
        if count != 1 {
            findings.push(format!("{TABLE}: {row} has {count} lines"));
        }
    }
    let tests = tests(tree);
    for line in &lines {
        let [row, behaviour, held] = line.as_slice() else {
            findings.push(format!("{TABLE}: the line of {line:?} has not three columns"));
            continue;
        };
        if behaviour.is_empty() {
            findings.push(format!("{TABLE}: {row} says nothing of its behaviour"));
        }
        let named: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        let has_reason = REASONS.iter().any(|reason| held.starts_with(reason));
        if named.is_empty() && !has_reason {
            findings.push(format!("{TABLE}: {row} names no test and says not why"));
        }
        for name in named.iter().filter(|name| !tests.iter().any(|test| test == *name)) {
            findings.push(format!("{TABLE}: {row}: there is no test {name}"));
        }
    }
    findings
}

fn wanted() -> impl Iterator<Item = String> {
    RANGES.into_iter().flat_map(|(system, first, last)| {
        (first..=last).map(move |number| format!("{system}-{number:02}"))
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

    fn table(held: &str) -> String {
        wanted().map(|row| format!("| {row} | it works | {held} |\n")).collect()
    }

    #[test]
    fn each_row_has_a_line_and_each_test_exists() {
        let code =
            ("a.rs", "#[test]\nfn it_works() {}\n#[tokio::test]\nasync fn so_does_this() {}");
        let good = table("`it_works`, `so_does_this`");
        assert_eq!(rows(&Tree::of(&[(TABLE, &good), code])), Findings::new());
        let reasons = table("not yet: nobody did it");
        assert_eq!(rows(&Tree::of(&[(TABLE, &reasons), code])), Findings::new());
        let (bare, unknown) = (table("it does"), table("`it_fails`"));
        assert_eq!(rows(&Tree::of(&[(TABLE, &bare), code])).len(), wanted().count());
        assert_eq!(rows(&Tree::of(&[(TABLE, &unknown), code])).len(), wanted().count());
    }

    #[test]
    fn a_missing_and_a_doubled_row_are_found() {
        let good = table("not here: it is not");
        let missing = good.replacen("REC-07", "REC-06", 1);
        let found = rows(&Tree::of(&[(TABLE, &missing)]));
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
