//! How files and folders look: openings, lengths, names, what stands at the top.
//!
//! Invariant: the list of files that are longer than they should be only ever shrinks.

use crate::crates::{CRATES, PROTOCOLS, UNSAFE};
use crate::{Findings, Tree};

/// A file's longest length in lines, tests not counted.
const LINES_MAX: usize = 500;
/// Where today's exceptions stand: `path lines`, one on a line.
const RATCHET: &str = "integration/tidy/long-files.txt";
/// What a host protocol consists of: bytes, one connection, the listener, our errors in its words,
/// limits, metrics.
const PROTOCOL_FILES: [&str; 6] = ["wire", "session", "server", "status", "limits", "metrics"];
/// Everything visible at the top.
const TOP: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "config",
    "dashboards",
    "gateway",
    "integration",
    "plugins",
    "wit",
];

/// Every file says first what it is.
#[must_use]
pub fn openings(tree: &Tree) -> Findings {
    let opens = |text: &str| {
        let said = text.strip_prefix("//! ").unwrap_or_default();
        let said = said.lines().next().unwrap_or_default();
        said.starts_with(|c: char| c.is_uppercase() || c == '`' || c == '[') && said.contains(' ')
    };
    tree.rust()
        .filter(|(_, text)| !opens(text))
        .map(|(path, _)| format!("{path}: does not open with `//!` and what it is"))
        .collect()
}

/// No file is called `mod.rs`.
#[must_use]
pub fn no_mod_rs(tree: &Tree) -> Findings {
    tree.rust()
        .filter(|(path, _)| path.ends_with("/mod.rs"))
        .map(|(path, _)| format!("{path}: name it after its module, beside the folder"))
        .collect()
}

/// No file is longer than 500 lines without its tests, but for those on the list, which may not
/// have grown.
#[must_use]
pub fn lengths(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    let listed: Vec<(&str, usize)> = tree
        .text(RATCHET)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(path, lines)| Some((path, lines.trim().parse().ok()?)))
        .collect();
    for (path, permitted) in &listed {
        let lines = tree.text(path).map_or(0, lines_without_tests);
        if lines < *permitted || lines <= LINES_MAX {
            findings.push(format!("{RATCHET}: {path} has {lines} lines now; say so there"));
        }
    }
    for (path, text) in tree.rust().filter(|(path, _)| !is_test(path)) {
        let permitted = listed.iter().find(|(p, _)| *p == path).map_or(LINES_MAX, |(_, n)| *n);
        let lines = lines_without_tests(text);
        if lines > permitted {
            findings
                .push(format!("{path}: {lines} lines without tests, {permitted} are permitted"));
        }
    }
    findings
}

/// Whether a file holds nothing but tests.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Lines before the module of tests that ends a file.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.iter().position(|line| line.starts_with("mod tests {"));
    let Some(tests) = tests else { return lines.len() };
    let first = lines[..tests].iter().rposition(|line| *line == "#[cfg(test)]");
    first.unwrap_or(tests)
}

/// Each host protocol has the same files.
#[must_use]
pub fn protocol_files(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for folder in PROTOCOLS {
        for name in PROTOCOL_FILES {
            let path = format!("{folder}/src/{name}.rs");
            if tree.text(&path).is_none() {
                findings.push(format!("{path}: a host protocol has this file"));
            }
        }
    }
    findings
}

/// Crates forbid `unsafe`, but for those that may have it.
#[must_use]
pub fn no_unsafe(tree: &Tree) -> Findings {
    let roots = CRATES.iter().filter(|krate| !UNSAFE.contains(&krate.folder));
    roots
        .flat_map(|krate| ["lib.rs", "main.rs"].map(|root| format!("{}/src/{root}", krate.folder)))
        .filter(|path| tree.text(path).is_some_and(|t| !t.contains("#![forbid(unsafe_code)]")))
        .map(|path| format!("{path}: does not say `#![forbid(unsafe_code)]`"))
        .collect()
}

/// Nothing stands at the top but what belongs there.
#[must_use]
pub fn top_level(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for top in TOP {
        let folder = format!("{top}/");
        if !tree.files().any(|(path, _)| path == top || path.starts_with(&folder)) {
            findings.push(format!("{top}: is missing at the top"));
        }
    }
    for (path, _) in tree.files() {
        let top = path.split('/').next().unwrap_or(path);
        if !top.starts_with('.') && !TOP.contains(&top) {
            findings.push(format!("{path}: {top} does not belong at the top"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_does_not_open_is_found() {
        let tree = Tree::of(&[
            ("a.rs", "//! What it is.\n"),
            ("b.rs", "use std::io;\n"),
            ("c.rs", "//! \nfn main() {}\n"),
            ("d.rs", "//! (to be said)\n"),
        ]);
        assert_eq!(openings(&tree).len(), 3);
    }

    #[test]
    fn length_is_counted_without_tests_and_exceptions_only_shrink() {
        let code = "x\n".repeat(LINES_MAX);
        let long = "x\n".repeat(LINES_MAX + 100);
        let tested = format!("{code}#[cfg(test)]\nmod tests {{\n{long}}}\n");
        let exact = format!("long.rs {}\n", LINES_MAX + 100);
        let loose = format!("long.rs {}\n", LINES_MAX + 200);
        assert_eq!(lengths(&Tree::of(&[("a.rs", &tested)])), Findings::new());
        assert_eq!(lengths(&Tree::of(&[("long.rs", &long)])).len(), 1);
        assert_eq!(lengths(&Tree::of(&[("long.rs", &long), (RATCHET, &exact)])), Findings::new());
        assert_eq!(lengths(&Tree::of(&[("long.rs", &long), (RATCHET, &loose)])).len(), 1);
        assert_eq!(lengths(&Tree::of(&[(RATCHET, &exact)])).len(), 1);
    }

    #[test]
    fn strangers_at_the_top_and_missing_protocol_files_are_found() {
        let tree = Tree::of(&[("notes.txt", ""), ("a/mod.rs", ""), (".ci/run", "")]);
        assert_eq!(top_level(&tree).len(), TOP.len() + 2);
        assert_eq!(no_mod_rs(&tree).len(), 1);
        assert_eq!(protocol_files(&tree).len(), PROTOCOLS.len() * PROTOCOL_FILES.len());
    }

    #[test]
    fn a_crate_that_permits_unsafe_is_found() {
        let tree = Tree::of(&[
            ("gateway/nbd/src/lib.rs", "//! x\n"),
            ("gateway/store/src/lib.rs", "//! x\n"),
        ]);
        assert_eq!(no_unsafe(&tree).len(), 1);
    }
}
