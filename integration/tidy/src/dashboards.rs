//! Dashboards and alerts ask for nothing that `/metrics` does not have.
//!
//! Invariant: a panel or an alert on a name that nobody exports stays silent for ever, which looks
//! like health; so every name is checked.

use crate::names::{Stage, rows};
use crate::{Findings, Tree};

/// What Prometheus appends to a histogram's name.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];
/// The only severities, so that a route on them catches everything.
const SEVERITIES: [&str; 2] = ["critical", "warning"];

/// Every metric in `dashboards/` has a row in METRICS and exists.
#[must_use]
pub fn metrics(tree: &Tree) -> Findings {
    let rows = rows(tree);
    let mut findings = Findings::new();
    for (path, text) in tree.below("dashboards", "") {
        for name in names(text) {
            let whole = PARTS.iter().find_map(|part| name.strip_suffix(part));
            match rows.get(name).or_else(|| whole.and_then(|whole| rows.get(whole))) {
                Some(Stage::Here) => {}
                Some(Stage::Planned) => findings.push(format!("{path}: {name} is only planned")),
                None => findings.push(format!("{path}: {name} has no row")),
            }
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

/// The metric names in a rule file or a dashboard.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.starts_with("twinspan_"))
}

/// Every series that a rule records is used, and every one that is used is recorded.
#[must_use]
pub fn recorded_series(tree: &Tree) -> Findings {
    let text: Vec<(&str, &str)> = tree.below("dashboards", "").collect();
    let recorded: Vec<&str> = text
        .iter()
        .flat_map(|(_, text)| text.split("record: ").skip(1))
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    let mut findings = Findings::new();
    for (path, text) in text {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        for word in words.filter(|word| word.starts_with("twinspan:")) {
            if !recorded.contains(&word) {
                findings.push(format!("{path}: no rule records {word}"));
            }
        }
    }
    findings
}

/// Every alert has one of the two severities, a summary, a description and a section in the
/// runbooks, where its address points to.
#[must_use]
pub fn alerts(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    let rules = tree.text("dashboards/alerts.yml").unwrap_or_default();
    let runbooks = tree.text("dashboards/RUNBOOKS.md").unwrap_or_default();
    for alert in rules.split("- alert: ").skip(1) {
        let alert = alert.split("- name: ").next().unwrap_or(alert);
        let name = alert.lines().next().unwrap_or_default();
        let severity = alert.split("severity: ").nth(1).unwrap_or_default();
        let severity = severity.split(['}', ',', '\n']).next().unwrap_or_default().trim();
        if !SEVERITIES.contains(&severity) {
            findings.push(format!("{name}: its severity is {severity:?}"));
        }
        let address = format!("RUNBOOKS.md#{}\"", name.to_lowercase());
        for key in ["summary: ", "description: ", address.as_str()] {
            if !alert.contains(key) {
                findings.push(format!("{name}: has no {key}"));
            }
        }
        if !runbooks.contains(&format!("\n## {name}\n")) {
            findings.push(format!("{name}: has no section in dashboards/RUNBOOKS.md"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::METRICS;

    #[test]
    fn a_name_that_nobody_exports_is_found() {
        let table = "| `twinspan_a_seconds` | histogram |\n| `twinspan_b` | gauge | planned |\n";
        let query = "rate(twinspan_a_seconds_bucket[5m]) + twinspan_b + twinspan_c";
        let tree = Tree::of(&[(METRICS, table), ("dashboards/x.json", query)]);
        assert_eq!(metrics(&tree).len(), 2, "{:?}", metrics(&tree));
    }

    #[test]
    fn a_series_that_no_rule_records_is_found() {
        let rules =
            "- record: twinspan:a\n  expr: x\n- alert: A\n  expr: twinspan:a + twinspan:b\n";
        let tree = Tree::of(&[("dashboards/alerts.yml", rules)]);
        assert_eq!(recorded_series(&tree).len(), 1);
        assert_eq!(alerts(&tree).len(), 5);
    }
}
