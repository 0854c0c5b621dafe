//! Lists: filtered, ordered, and cut into pages by a marker or an offset.
//!
//! Invariant: a filter that does not exist is refused by name, so that a script is never shown all for
//! some. Items with equal keys are in the order of their identities, so pages hold each item once.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use api::Code;
use serde_json::Value;

use crate::refusal::Refused;

/// Items of a page, if nobody says otherwise, and at most.
const LIMIT: usize = 1000;

/// What a list was asked for, as it was written.
pub(in crate::http) type Asked = BTreeMap<String, String>;

fn text<'a>(item: &'a Value, field: &str) -> std::borrow::Cow<'a, str> {
    match item.get(field) {
        Some(Value::String(text)) => text.into(),
        None | Some(Value::Null) => "".into(),
        Some(other) => other.to_string().into(),
    }
}

fn number(asked: &Asked, key: &str, default: usize) -> Result<usize, Refused> {
    let Some(text) = asked.get(key) else { return Ok(default) };
    text.parse().map_err(|_e| {
        Refused::new(Code::Invalid, format!("{key}={text:?} is no number ({})", "SDRS.0221"))
    })
}

/// How a filter is compared with a field.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) enum Match {
    /// The same.
    Equal,
    /// Contained in it.
    Part,
}

/// Cuts a list to what was asked for.
///
/// # Errors
/// [`Code::Invalid`] for what is no filter, no key, or no number.
pub(in crate::http) fn cut(
    mut items: Vec<Value>,
    asked: &Asked,
    filters: &[(&str, &str, Match)],
) -> Result<Vec<Value>, Refused> {
    let known = ["limit", "marker", "offset", "sort_key", "sort_dir", "changes-since"];
    let is_filter = |key: &str| filters.iter().any(|(name, ..)| *name == key);
    if let Some(unknown) = asked.keys().find(|key| !known.contains(&&***key) && !is_filter(key)) {
        let names: Vec<&str> = filters.iter().map(|(name, ..)| *name).chain(known).collect();
        let detail = format!("there is no parameter {unknown:?}; there are {}", names.join(", "));
        return Err(Refused::new(Code::Invalid, detail));
    }
    for (name, field, how) in filters {
        if let Some(wanted) = asked.get(*name) {
            items.retain(|item| match how {
                Match::Equal => text(item, field) == *wanted,
                Match::Part => text(item, field).contains(wanted.as_str()),
            });
        }
    }
    if let Some(since) = asked.get("changes-since") {
        items.retain(|item| text(item, "updated_at").as_ref() >= since.as_str());
    }
    sort(&mut items, asked)?;
    let limit = number(asked, "limit", LIMIT)?;
    if limit > LIMIT {
        return Err(Refused::new(Code::Invalid, format!("limit is at most {LIMIT} (SDRS.0221)")));
    }
    let mut from = number(asked, "offset", 0)?;
    if let Some(marker) = asked.get("marker") {
        let at = items.iter().position(|item| text(item, "id") == *marker);
        let missing = || Refused::new(Code::NotFound, format!("marker {marker:?} is not listed"));
        from += at.ok_or_else(missing)? + 1;
    }
    Ok(items.into_iter().skip(from).take(limit).collect())
}

fn sort(items: &mut [Value], asked: &Asked) -> Result<(), Refused> {
    let key = asked.get("sort_key").map_or("created_at", String::as_str);
    if items.first().is_some_and(|item| item.get(key).is_none()) {
        return Err(Refused::new(Code::Invalid, format!("sort_key {key:?} is no field")));
    }
    let is_descending = match asked.get("sort_dir").map(String::as_str) {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(other) => {
            let detail = format!("sort_dir is asc or desc, not {other:?}");
            return Err(Refused::new(Code::Invalid, detail));
        }
    };
    let order = |one: &Value, other: &Value| -> Ordering {
        let by_key = text(one, key).cmp(&text(other, key));
        by_key.then_with(|| text(one, "id").cmp(&text(other, "id")))
    };
    items.sort_by(|one, other| {
        let order = order(one, other);
        if is_descending { order.reverse() } else { order }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn items() -> Vec<Value> {
        let item = |id: u32, name: &str| {
            let at = format!("2026-01-0{}", id / 2 + 1);
            json!({"id": id.to_string(), "name": name, "created_at": at, "updated_at": at})
        };
        vec![item(1, "a"), item(2, "b"), item(3, "ab"), item(4, "c")]
    }

    fn listed(asked: &[(&str, &str)]) -> Result<Vec<String>, Refused> {
        let asked = asked.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let filters = [("name", "name", Match::Part), ("created_at", "created_at", Match::Equal)];
        let found = cut(items(), &asked, &filters)?;
        Ok(found.iter().map(|item| text(item, "id").into_owned()).collect())
    }

    #[test]
    fn evs_27_pages_by_marker_and_by_offset_hold_each_item_once() {
        assert_eq!(listed(&[]).unwrap(), ["4", "3", "2", "1"], "the newest first");
        assert_eq!(listed(&[("limit", "2")]).unwrap(), ["4", "3"]);
        assert_eq!(listed(&[("limit", "2"), ("marker", "3")]).unwrap(), ["2", "1"]);
        assert_eq!(listed(&[("limit", "2"), ("offset", "3")]).unwrap(), ["1"]);
        assert_eq!(
            listed(&[("sort_key", "name"), ("sort_dir", "asc")]).unwrap(),
            ["1", "3", "2", "4"]
        );
        assert_eq!(listed(&[("name", "a")]).unwrap(), ["3", "1"]);
        assert_eq!(listed(&[("changes-since", "2026-01-02")]).unwrap(), ["4", "3", "2"]);
    }

    #[test]
    fn evs_27_what_a_list_does_not_know_is_refused() {
        for wrong in [
            ("colour", "red"),
            ("limit", "1001"),
            ("limit", "many"),
            ("sort_key", "colour"),
            ("sort_dir", "up"),
            ("marker", "9"),
        ] {
            assert!(listed(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
