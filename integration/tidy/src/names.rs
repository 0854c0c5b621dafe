//! Names that operators meet: metrics and error codes. Each is documented, and each that is
//! documented exists.
//!
//! Invariant: a metric is a string literal that is nothing but its name, so that it can be found.

use std::collections::{BTreeMap, BTreeSet};

use crate::crates::CRATES;
use crate::source::{Kind, pieces};
use crate::{Findings, Tree};

/// Where each metric has a row.
pub const METRICS: &str = "gateway/docs/METRICS.md";
/// Where each error code has a page.
const ERRORS: &str = "gateway/docs/errors";

/// Whether a documented metric is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `/metrics` has it.
    Here,
    /// A name that is reserved for what comes.
    Planned,
}

/// The rows of METRICS: name and stage.
#[must_use]
pub fn rows(tree: &Tree) -> BTreeMap<&str, Stage> {
    let table = tree.text(METRICS).unwrap_or_default().lines();
    table
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            let is_planned = cells.any(|cell| cell == "planned");
            let stage = if is_planned { Stage::Planned } else { Stage::Here };
            name.starts_with("twinspan_").then_some((name, stage))
        })
        .collect()
}

/// Every metric in the code has a row, and every row that is not planned is in the code.
#[must_use]
pub fn metrics(tree: &Tree) -> Findings {
    let rows = rows(tree);
    let mut used = BTreeSet::new();
    let mut findings = Findings::new();
    for (path, text) in tree.below("gateway", ".rs") {
        for literal in pieces(text).iter().filter(|piece| piece.kind == Kind::Text) {
            let name = literal.text;
            if !is_metric(name) || !used.insert(name) {
                continue;
            }
            match rows.get(name) {
                Some(Stage::Here) => {}
                Some(Stage::Planned) => {
                    findings.push(format!("{METRICS}: {name} is planned no longer, {path} has it"));
                }
                None => findings.push(format!("{path}: {name} has no row in {METRICS}")),
            }
        }
    }
    for (name, stage) in rows {
        if stage == Stage::Here && !used.contains(name) {
            findings.push(format!("{METRICS}: {name} is nowhere in the code, nor planned"));
        }
    }
    findings
}

/// Whether a literal is the name of a metric rather than that of a crate.
fn is_metric(name: &str) -> bool {
    let is_crate = || {
        let folder = |krate: &crate::crates::Crate| krate.folder.rsplit('/').next();
        CRATES.iter().any(|krate| folder(krate) == name.strip_prefix("twinspan_"))
    };
    name.starts_with("twinspan_")
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.ends_with('_')
        && !is_crate()
}

/// Every error code in the code has a page, and every page a code.
#[must_use]
pub fn error_codes(tree: &Tree) -> Findings {
    let mut used = BTreeMap::new();
    for (path, text) in tree.below("gateway", ".rs") {
        for literal in pieces(text).iter().filter(|piece| piece.kind == Kind::Text) {
            used.extend(codes(literal.text).map(|code| (code, path)));
        }
    }
    let mut findings = Findings::new();
    for (code, path) in &used {
        let page = format!("{ERRORS}/{code}.md");
        match tree.text(&page) {
            None => findings.push(format!("{path}: {code} has no page {page}")),
            Some(text) if !text.starts_with(&format!("# {code} ")) => {
                findings.push(format!("{page}: does not open with `# {code} ` and what happened"));
            }
            Some(_) => {}
        }
    }
    for (path, _) in tree.below(ERRORS, ".md").filter(|(path, _)| !path.ends_with("/README.md")) {
        let code = path[ERRORS.len() + 1..].trim_end_matches(".md");
        if !used.contains_key(code) {
            findings.push(format!("{path}: no code says {code}"));
        }
    }
    findings
}

/// The error codes in a text: `GW` and four digits.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| {
        word.len() == 6 && word.starts_with("GW") && word[2..].bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| `twinspan_a_total` | counter | - | here | x |\n\
        | `twinspan_b` | gauge | - | planned | x |\n";

    #[test]
    fn metrics_and_rows_must_agree() {
        let code = "f(\"twinspan_a_total\"); g(\"twinspan_nbd\"); // \"twinspan_c\"";
        let tree = Tree::of(&[(METRICS, TABLE), ("gateway/x.rs", code)]);
        assert_eq!(metrics(&tree), Findings::new());
        let tree =
            Tree::of(&[(METRICS, TABLE), ("gateway/x.rs", "f(\"twinspan_b\", \"twinspan_c\")")]);
        assert_eq!(metrics(&tree).len(), 3, "{:?}", metrics(&tree));
    }

    #[test]
    fn codes_and_pages_must_agree() {
        let code = ("gateway/x.rs", "e(\"GW0101\"); // \"GW0102\"");
        let page = ("gateway/docs/errors/GW0101.md", "# GW0101 a leg is latched\n");
        assert_eq!(error_codes(&Tree::of(&[code, page])), Findings::new());
        assert_eq!(error_codes(&Tree::of(&[code])).len(), 1);
        assert_eq!(error_codes(&Tree::of(&[page])).len(), 1);
    }
}
