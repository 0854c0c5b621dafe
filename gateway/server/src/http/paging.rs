//! Lists in pages: `?limit=100&marker=ID&sort=-bytes&health=at_risk` (EVS-27).
//!
//! A filter is any field of an item that is a word, a number or yes-or-no, with the value that it
//! must have. `sort` is such a field, with `-` before it for the largest first; without it the
//! order is the list's own. A page ends with the identity that the next one begins behind.
//!
//! Invariant: pages that are asked for in one order, while nothing changes, hold each item once. A
//! parameter that the list does not know is refused by name, so that nothing is left out unseen.

use std::cmp::Ordering;
use std::collections::HashMap;

use api::Code;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::refusal::Refused;

/// The most items of one page.
const LIMIT_MAX: usize = 1_000;

/// The parameters of a list, as they were given.
pub(super) type Asked = axum::extract::Query<HashMap<String, String>>;

/// What every list takes, besides its filters.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what is read from any query")]
pub(super) struct Parameters {
    /// Items of a page, 1 to 1000.
    limit: Option<u16>,
    /// The identity that the page begins behind: `next` of the page before.
    marker: Option<String>,
    /// A filter's name, with `-` before it for the largest first.
    sort: Option<String>,
}

/// Which items, in which order, and where the page begins and ends.
#[derive(Debug, Default)]
pub(super) struct Page {
    limit: Option<usize>,
    marker: Option<String>,
    sort: Option<(String, bool)>,
    filters: Vec<(String, String)>,
}

impl Page {
    /// Reads the parameters of a list of things with these fields.
    ///
    /// # Errors
    /// [`Code::Invalid`], with the name of the parameter.
    pub(super) fn read(asked: HashMap<String, String>, fields: &[&str]) -> Result<Self, Refused> {
        let mut page = Self::default();
        for (name, value) in asked {
            match name.as_str() {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    let wrong = || invalid(format!("limit is {value:?}, not 1 to {LIMIT_MAX}"));
                    page.limit = Some(limit.ok_or_else(wrong)?);
                }
                "marker" => page.marker = Some(value),
                "sort" => {
                    let falling = value.starts_with('-');
                    let field = value.trim_start_matches('-').to_owned();
                    known(&field, fields)?;
                    page.sort = Some((field, falling));
                }
                _ => {
                    known(&name, fields)?;
                    page.filters.push((name, value));
                }
            }
        }
        Ok(page)
    }

    /// The items of this page, and the marker of the next one while there is more.
    ///
    /// # Errors
    /// [`Code::Invalid`] when the marker's item is not in the list.
    pub(super) fn take<T: Serialize>(
        &self,
        items: Vec<T>,
    ) -> Result<(Vec<T>, Option<String>), Refused> {
        let everything = self.limit.is_none() && self.marker.is_none() && self.sort.is_none();
        if everything && self.filters.is_empty() {
            return Ok((items, None));
        }
        let mut shown: Vec<(Map<String, Value>, T)> =
            items.into_iter().map(|item| (fields_of(&item), item)).collect();
        if let Some((by, falling)) = &self.sort {
            shown.sort_by(|(a, _), (b, _)| {
                let order = compare(field(a, by), field(b, by));
                let order = if *falling { order.reverse() } else { order };
                // What is alike stands in one order on every page.
                order.then_with(|| identity(a).cmp(&identity(b)))
            });
        }
        if let Some(marker) = &self.marker {
            // It may not pass the filters any more; its place is known all the same.
            let at = shown.iter().position(|(fields, _)| identity(fields) == *marker);
            let gone = || invalid(format!("marker {marker:?} is not in the list: begin again"));
            shown.drain(..=at.ok_or_else(gone)?);
        }
        shown.retain(|(fields, _)| {
            self.filters
                .iter()
                .all(|(name, value)| field(fields, name).is_some_and(|v| is(v, value)))
        });
        let limit = self.limit.unwrap_or(usize::MAX);
        let more = shown.len() > limit;
        shown.truncate(limit);
        let next = shown.last().filter(|_| more).map(|(fields, _)| identity(fields));
        Ok((shown.into_iter().map(|(_, item)| item).collect(), next))
    }
}

fn invalid(detail: String) -> Refused {
    Refused::new(Code::Invalid, detail)
}

fn known(name: &str, fields: &[&str]) -> Result<(), Refused> {
    if fields.contains(&name) {
        return Ok(());
    }
    let next = format!("use limit, marker, sort, or one of {}", fields.join(", "));
    Err(invalid(format!("the list has no parameter {name:?}")).next(next))
}

fn fields_of<T: Serialize>(item: &T) -> Map<String, Value> {
    match serde_json::to_value(item) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// A field, or one of a part: `leg.phase`.
fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let mut parts = name.split('.');
    let first = fields.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

fn identity(fields: &Map<String, Value>) -> String {
    fields.get("id").map(plain).unwrap_or_default()
}

/// A value as it stands in a query; nothing for what is not one word.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

fn is(value: &Value, wanted: &str) -> bool {
    !value.is_null() && plain(value) == wanted
}

/// What is unknown comes first.
fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64);
    let words = |value: Option<&Value>| value.map(plain).unwrap_or_default();
    match (number(a), number(b)) {
        (None, None) => words(a).cmp(&words(b)),
        (a, b) => a.cmp(&b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize)]
    struct Thing {
        id: u32,
        name: &'static str,
        bytes: Option<u64>,
    }

    const FIELDS: &[&str] = &["name", "bytes"];

    fn things() -> Vec<Thing> {
        let thing = |id, name, bytes| Thing { id, name, bytes };
        vec![
            thing(1, "b", Some(20)),
            thing(2, "a", Some(100)),
            thing(3, "c", None),
            thing(4, "a", Some(3)),
        ]
    }

    fn ask(query: &[(&str, &str)]) -> Result<(Vec<u32>, Option<String>), String> {
        let asked = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let taken = Page::read(asked, FIELDS).and_then(|page| page.take(things()));
        taken
            .map(|(items, next)| (items.into_iter().map(|thing| thing.id).collect(), next))
            .map_err(|refused| refused.0.detail)
    }

    #[test]
    fn evs_27_pages_in_any_order_hold_each_item_once() {
        assert_eq!(ask(&[]).unwrap(), (vec![1, 2, 3, 4], None));
        for sort in ["name", "-name", "bytes", "-bytes"] {
            let whole = ask(&[("sort", sort)]).unwrap().0;
            let (mut paged, mut marker) = (Vec::new(), None::<String>);
            loop {
                let mut query = vec![("sort", sort), ("limit", "1")];
                query.extend(marker.as_deref().map(|marker| ("marker", marker)));
                let (page, next) = ask(&query).unwrap();
                assert_eq!(page.len(), 1);
                paged.extend(page);
                marker = next;
                if marker.is_none() {
                    break;
                }
            }
            assert_eq!(paged, whole, "{sort}");
        }
        assert_eq!(ask(&[("sort", "bytes")]).unwrap().0, [3, 4, 1, 2], "numbers, not words");
        assert_eq!(ask(&[("sort", "-name")]).unwrap().0, [3, 1, 2, 4]);
    }

    #[test]
    fn evs_27_filters_are_fields_and_all_must_hold() {
        assert_eq!(ask(&[("name", "a")]).unwrap().0, [2, 4]);
        assert_eq!(ask(&[("name", "a"), ("bytes", "3")]).unwrap().0, [4]);
        assert_eq!(ask(&[("name", "a"), ("limit", "1")]).unwrap(), (vec![2], Some("2".to_owned())));
        let rest = ask(&[("name", "a"), ("limit", "1"), ("marker", "2")]).unwrap();
        assert_eq!(rest, (vec![4], None));
        assert_eq!(ask(&[("bytes", "")]).unwrap().0, Vec::<u32>::new(), "unknown is no value");
    }

    #[test]
    fn evs_27_what_a_list_does_not_know_is_refused_by_name() {
        for query in [("limit", "0"), ("limit", "1001"), ("limit", "many"), ("marker", "9")] {
            assert!(ask(&[query]).unwrap_err().contains(query.0), "{query:?}");
        }
        assert!(ask(&[("colour", "red")]).unwrap_err().contains("colour"));
        assert!(ask(&[("sort", "colour")]).unwrap_err().contains("colour"));
    }
}
