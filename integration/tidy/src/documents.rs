//! What documents say about the tree must be so.
//!
//! Invariant: a decision record, once merged, is only ever superseded, so its number, its date and
//! its status are there for good.

use crate::{Findings, Tree};

const RECORDS: &str = "gateway/docs/adr";
const SECTIONS: [&str; 6] =
    ["Context", "Decision", "Rejected", "Consequences", "Enforced by", "Revisit when"];
/// Where each file below `config/` is listed.
const CONFIG_LIST: &str = "gateway/docs/HACKING.md";
/// Where the commands of `cargo xtask` are declared, as variants of `Command`.
const COMMANDS: &str = "integration/xtask/src/main.rs";
/// Documents that a newcomer copies commands from.
const GUIDES: [&str; 3] = ["README.md", "gateway/docs/HACKING.md", ".ci/run"];

/// Decision records are numbered without gaps, dated, have a status and every section.
#[must_use]
pub fn decision_records(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for ((path, text), number) in tree.below(RECORDS, ".md").zip(1..) {
        let number = format!("{number:04}");
        let mut wrong = |what: &str| findings.push(format!("{path}: {what}"));
        if !path[RECORDS.len() + 1..].starts_with(&format!("{number}-")) {
            wrong(&format!("the next number is {number}"));
        }
        if !text.starts_with(&format!("# {number} ")) {
            wrong("does not open with its number and name");
        }
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).unwrap_or_default()
        };
        if !is_date(field("Date:")) {
            wrong("has no line `Date: YYYY-MM-DD`");
        }
        let status = field("Status:");
        if !(status == "accepted" || status.starts_with("superseded by ")) {
            wrong("has no line `Status: accepted` or `Status: superseded by NNNN`");
        }
        for section in SECTIONS {
            if !text.contains(&format!("\n## {section}\n")) {
                wrong(&format!("has no section {section}"));
            }
        }
    }
    findings
}

fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, b)| match at {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        })
}

/// Every configuration file is listed, and every listed one exists.
#[must_use]
pub fn config_files(tree: &Tree) -> Findings {
    let list = tree.text(CONFIG_LIST).unwrap_or_default();
    let mut findings: Findings = tree
        .below("config", "")
        .filter(|(path, _)| !list.contains(&format!("`{path}`")))
        .map(|(path, _)| format!("{path}: is not listed in {CONFIG_LIST}"))
        .collect();
    for (guide, path) in GUIDES.iter().flat_map(|guide| quoted(tree, guide)) {
        if path.starts_with("config/") && path.contains('.') && tree.text(path).is_none() {
            findings.push(format!("{guide}: there is no {path}"));
        }
    }
    findings
}

/// What a document sets between single backquotes.
fn quoted<'a>(tree: &'a Tree, document: &'a str) -> Vec<(&'a str, &'a str)> {
    let text = tree.text(document).unwrap_or_default();
    let odd = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    odd.map(|quote| (document, quote)).collect()
}

/// Every `cargo xtask` command in a guide exists.
#[must_use]
pub fn commands(tree: &Tree) -> Findings {
    let source = tree.text(COMMANDS).unwrap_or_default();
    let body = source.split("\nenum Command {").nth(1).unwrap_or_default();
    let body = body.split("\n}").next().unwrap_or_default();
    let known: Vec<String> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase))
        .filter_map(|line| line.split(|c: char| !c.is_alphanumeric()).next())
        .map(|variant| crate::source::words(variant).join("-"))
        .collect();
    let mut findings = Findings::new();
    for guide in GUIDES {
        let text = tree.text(guide).unwrap_or_default();
        let said = text
            .split("cargo xtask ")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !(c.is_ascii_lowercase() || c == '-')).next());
        for command in said.filter(|command| !command.is_empty()) {
            if !known.iter().any(|known| known == command) {
                findings.push(format!("{guide}: there is no `cargo xtask {command}`"));
            }
        }
    }
    findings
}

/// Links from one document to another lead somewhere.
#[must_use]
pub fn links(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, text) in tree.files().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let whole = resolve(folder, target);
            let below = format!("{whole}/");
            if !tree.files().any(|(file, _)| file == whole || file.starts_with(&below)) {
                findings.push(format!("{path}: the link to {target} leads nowhere"));
            }
        }
    }
    findings
}

fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: &str) -> String {
        let sections: String = SECTIONS.iter().map(|s| format!("\n## {s}\n\nWords.\n")).collect();
        format!("# {number} choose a thing\n\nDate: 2026-11-21\nStatus: accepted\n{sections}")
    }

    #[test]
    fn records_are_numbered_dated_and_whole() {
        let (one, three) = (record("0001"), record("0003"));
        let tree = Tree::of(&[("gateway/docs/adr/0001-choose.md", &one)]);
        assert_eq!(decision_records(&tree), Findings::new());
        let gap = Tree::of(&[
            ("gateway/docs/adr/0001-choose.md", &one),
            ("gateway/docs/adr/0003-choose.md", &three),
        ]);
        assert_eq!(decision_records(&gap).len(), 2);
        let bare = Tree::of(&[("gateway/docs/adr/0001-choose.md", "# 0001 choose\n")]);
        assert_eq!(decision_records(&bare).len(), 2 + SECTIONS.len());
    }

    #[test]
    fn config_files_are_listed_and_exist() {
        let tree = Tree::of(&[
            (CONFIG_LIST, "| `config/a.toml` | `config/gone.toml` |"),
            ("config/a.toml", ""),
            ("config/b.toml", ""),
        ]);
        assert_eq!(config_files(&tree).len(), 2);
    }

    #[test]
    fn commands_exist() {
        let source = "//! x\n\nenum Command {\n    /// Tests.\n    Test {\n        filter: u8,\n    },\n    FmtCheck,\n}\n";
        let guide = "`cargo xtask test` `cargo xtask fmt-check` `cargo xtask fly`";
        let tree = Tree::of(&[(COMMANDS, source), ("README.md", guide)]);
        assert_eq!(commands(&tree), ["README.md: there is no `cargo xtask fly`"]);
    }

    #[test]
    fn links_lead_somewhere() {
        let tree = Tree::of(&[
            ("README.md", "[a](docs/a.md#x) [b](https://b.org) [c](docs) [d](e.md)"),
            ("docs/a.md", "[up](../README.md)"),
        ]);
        assert_eq!(links(&tree), ["README.md: the link to e.md leads nowhere"]);
    }
}
