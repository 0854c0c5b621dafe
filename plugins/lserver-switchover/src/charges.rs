//! Usage charges of the month of a switchover: both sites have a part of it.
//!
//! Invariant: nobody pays twice for a month, and nothing that was used is lost. What was reconciled for a
//! run is known by it and is not added again.

use serde_json::{Value, json};

use crate::model::text;

/// What is charged once for a month, however long it was used.
const MONTHLY: &str = "1 month";

/// What a line is known by at the other site: a disk has another name there, and the same size and pool.
fn key(line: &Value) -> (String, String) {
    match text(line, "item") {
        "disk" => {
            let size = line.get("size").map(Value::to_string).unwrap_or_default();
            ("disk".to_owned(), format!("{size} {}", text(line, "pool")))
        }
        item => (item.to_owned(), text(line, "id").to_owned()),
    }
}

fn amount(line: &Value) -> f64 {
    line.get("amount").and_then(Value::as_f64).unwrap_or_default()
}

/// One month of one platform, from what the source and the destination have of it.
#[must_use]
pub fn reconcile(source: &Value, destination: Option<&Value>, run: &str) -> Value {
    let lines = |of: &Value| of.get("lines").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut merged = lines(source);
    let mut free: Vec<bool> = vec![true; merged.len()];
    for line in destination.map(lines).unwrap_or_default() {
        let fits = |place: &usize| {
            free[*place]
                && key(&merged[*place]) == key(&line)
                && text(&merged[*place], "frequency") == text(&line, "frequency")
        };
        let Some(place) = (0..free.len()).find(fits) else {
            merged.push(line);
            continue;
        };
        // Two disks of one size are two.
        free[place] = false;
        let (one, other) = (amount(&merged[place]), amount(&line));
        let sum = if text(&line, "frequency") == MONTHLY { one.max(other) } else { one + other };
        merged[place]["amount"] = json!(sum);
    }
    let mut out = source.clone();
    out["lines"] = json!(merged);
    out["reconciled"] = json!(run);
    out
}

/// Whether it was reconciled for this run before.
#[must_use]
pub fn is_reconciled(usage: &Value, run: &str) -> bool {
    text(usage, "reconciled") == run
}

/// What of a month stays at the source once `exported` of it was reconciled at the destination: hours that
/// were used after it. Known by the run, so that nothing is taken away twice.
#[must_use]
pub fn remainder(now: &Value, exported: &Value, run: &str) -> Value {
    let mut out = now.clone();
    let told = exported.get("lines").and_then(Value::as_array).cloned().unwrap_or_default();
    for line in out.get_mut("lines").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = told.iter().find(|of| {
            text(of, "item") == text(line, "item") && text(of, "id") == text(line, "id")
        });
        if let Some(same) = same.filter(|_| text(line, "frequency") != MONTHLY) {
            line["amount"] = json!((amount(line) - amount(same)).max(0.0));
        }
    }
    out["moved"] = json!(run);
    out
}

/// Whether what moved was taken away for this run before.
#[must_use]
pub fn is_moved(usage: &Value, run: &str) -> bool {
    text(usage, "moved") == run
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(lines: Value) -> Value {
        json!({ "month": "2026-11", "platform": "shop", "lines": lines })
    }

    #[test]
    fn ror_10_a_month_is_charged_once_and_hours_are_added() {
        let east = usage(json!([
            { "item": "template", "id": "t1", "frequency": "1 month", "amount": 30.0 },
            { "item": "cpu", "id": "web1", "frequency": "1 hour", "amount": 100.0 },
            { "item": "disk", "id": "d-e", "size": 40, "pool": "gold", "frequency": "1 month", "amount": 8.0 },
            { "item": "disk", "id": "d-f", "size": 40, "pool": "gold", "frequency": "1 month", "amount": 8.0 }
        ]));
        let west = usage(json!([
            { "item": "template", "id": "t1", "frequency": "1 month", "amount": 35.0 },
            { "item": "cpu", "id": "web1", "frequency": "1 hour", "amount": 20.0 },
            { "item": "disk", "id": "d-w", "size": 40, "pool": "gold", "frequency": "1 month", "amount": 9.0 },
            { "item": "disk", "id": "d-x", "size": 80, "pool": "gold", "frequency": "1 month", "amount": 5.0 }
        ]));
        let merged = reconcile(&east, Some(&west), "r1");
        let amounts: Vec<f64> = merged["lines"].as_array().unwrap().iter().map(amount).collect();
        assert_eq!(amounts, [35.0, 120.0, 9.0, 8.0, 5.0]);
        assert!(is_reconciled(&merged, "r1") && !is_reconciled(&merged, "r2"));
        assert!(!is_reconciled(&west, "r1"));
        assert_eq!(reconcile(&east, None, "r1")["lines"], east["lines"]);
    }

    #[test]
    fn ror_10_hours_that_moved_are_not_added_again_on_the_way_back() {
        let line = |amount: f64| json!([{ "item": "cpu", "id": "web1", "frequency": "1 hour", "amount": amount }]);
        let (exported, at_its_end) = (usage(line(100.0)), usage(line(103.0)));
        let there = reconcile(&exported, Some(&usage(line(20.0))), "r1");
        let left = remainder(&at_its_end, &exported, "r1");
        assert!(is_moved(&left, "r1") && !is_moved(&at_its_end, "r1"));
        let back = reconcile(&there, Some(&left), "r2");
        assert_eq!(amount(&back["lines"][0]), 123.0);
    }
}
