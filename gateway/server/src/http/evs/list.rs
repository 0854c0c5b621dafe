//! Lists: filtered, ordered, and cut into pages by a marker or an offset.
//!
//! Invariant: a filter that does not exist is refused by name, so that a script is never shown all for
//! some. Items with equal keys are in the order of their identities, so pages hold each item once.

use std::collections::BTreeMap;

use api::Code;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
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

/// A moment, as it is told here or with an offset; without one it is UTC's, and a day its beginning.
fn moment(text: &str) -> Option<Timestamp> {
    let civil = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    text.parse().ok().or_else(|| civil().map(|at| at.timestamp()))
}

/// The page that was asked for.
///
/// # Errors
/// [`Code::Invalid`] for what is no filter, no key, no number, or no time.
pub(in crate::http) fn cut(
    items: Vec<Value>,
    asked: &Asked,
    filters: &[(&str, &str, Match)],
) -> Result<Vec<Value>, Refused> {
    if number(asked, "limit", LIMIT)? == 0 {
        return Err(Refused::new(Code::Invalid, "limit is at least 1"));
    }
    page(select(items, asked, filters)?, asked)
}

/// The page that was asked for, under its name, and how many items there are on all pages.
///
/// # Errors
/// As for [`cut`].
pub(in crate::http) fn counted(
    name: &str,
    items: Vec<Value>,
    asked: &Asked,
    filters: &[(&str, &str, Match)],
) -> Result<Value, Refused> {
    let items = select(items, asked, filters)?;
    let count = items.len();
    Ok(serde_json::json!({ "count": count, name: page(items, asked)? }))
}

/// The items that filters leave, in the order that was asked for.
fn select(
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
        let since = moment(since).ok_or_else(|| {
            let detail = format!("changes-since={since:?} is no time ({})", "SDRS.0221");
            Refused::new(Code::Invalid, detail)
        })?;
        items.retain(|item| moment(&text(item, "updated_at")).is_none_or(|at| at >= since));
    }
    sort(&mut items, asked)?;
    Ok(items)
}

fn page(items: Vec<Value>, asked: &Asked) -> Result<Vec<Value>, Refused> {
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
    items.sort_by_cached_key(|item| {
        let of = text(item, key).into_owned();
        // Fractions of a second are told as short as they are, so times are no order of texts.
        let at = if key.ends_with("_at") { moment(&of) } else { None };
        (at, of, text(item, "id").into_owned())
    });
    if is_descending {
        items.reverse();
    }
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

    /// As the gateway tells them: with as many digits as there are.
    #[test]
    fn evs_27_times_are_compared_as_times_and_what_filters_leave_is_counted() {
        let item = |id: u32, fraction: &str| {
            let at = format!("2026-01-01T00:00:00{fraction}Z");
            json!({"id": id.to_string(), "name": "n", "created_at": at, "updated_at": at})
        };
        let items = || vec![item(1, ""), item(2, ".12"), item(3, ".123"), item(4, ".5")];
        let of = |asked: &[(&str, &str)]| {
            let asked = asked.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let listed = counted("all", items(), &asked, &[("id", "id", Match::Equal)]).unwrap();
            let ids = listed["all"].as_array().unwrap().iter().map(|item| text(item, "id"));
            (listed["count"].clone(), ids.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of(&[]), (json!(4), "4 3 2 1".to_owned()));
        let since = |at| of(&[("changes-since", at)]).1;
        assert_eq!(since("2026-01-01T00:00:00Z"), "4 3 2 1");
        assert_eq!(since("2026-01-01T00:00:00.123Z"), "4 3");
        assert_eq!(since("2026-01-01T01:00:00.2+01:00"), "4");
        assert_eq!(since("2026-01-01"), "4 3 2 1");
        assert_eq!(since("2026-01-01T00:00:01"), "");
        assert_eq!(of(&[("id", "2")]), (json!(1), "2".to_owned()));
        assert_eq!(of(&[("limit", "2")]), (json!(4), "4 3".to_owned()));
    }

    #[test]
    fn evs_27_what_a_list_does_not_know_is_refused() {
        for wrong in [
            ("colour", "red"),
            ("changes-since", "yesterday"),
            ("limit", "0"),
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
