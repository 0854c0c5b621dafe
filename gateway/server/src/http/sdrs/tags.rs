//! The calls of `tags`: what owners call protected instances by, and which are found by it.
//!
//! Invariant: what is wrong with a tag or a question is told with the service's own number before anything
//! is changed.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    Code, SdrsNumber, SdrsTag, SdrsTagAdd, SdrsTagBatch, SdrsTagFound, SdrsTagList, SdrsTagNamed,
    SdrsTagQuery, SdrsTagResource, SdrsTagValues, SdrsTagsOfAll,
};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::instances::{find, shown as shown_instance};
use super::{Body, Failure, Named, Shared, id};
use crate::gateway::evs::{Call, InstanceCall, TAGS_MAX, coded};
use crate::refusal::Refused;

const KEY_MAX: usize = 36;
const VALUE_MAX: usize = 43;
/// Keys of one question, and values of one of its keys.
const ASKED_MAX: usize = 20;
/// Instances of one answer.
const LIMIT: u64 = 1000;
/// What is looked for beside tags.
const NAME: &str = "resource_name";

fn refuse<T>(number: &str, detail: impl std::fmt::Display) -> Result<T, Refused> {
    Err(coded(Code::Invalid, number, detail))
}

fn is_word(text: &str, max: usize) -> bool {
    text.len() <= max && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}

fn check_key(key: &str) -> Result<(), Refused> {
    if key.is_empty() {
        return refuse("SDRS.2205", "a tag has a key");
    }
    if !is_word(key, KEY_MAX) {
        let detail = format!("{key:?} is no key: at most {KEY_MAX} of A-Z a-z 0-9 _ -");
        return refuse("SDRS.2204", detail);
    }
    Ok(())
}

/// No key twice.
fn check_once<'a>(keys: impl Iterator<Item = &'a str>) -> Result<(), Refused> {
    let mut known = BTreeSet::new();
    for key in keys {
        if !known.insert(key) {
            return refuse("SDRS.2209", format!("key {key:?} is there twice"));
        }
    }
    Ok(())
}

/// Tags that are to be put.
pub(super) fn check_tags(tags: &[SdrsTag]) -> Result<(), Refused> {
    if tags.len() > TAGS_MAX {
        return refuse("SDRS.2203", format!("{} tags; at most {TAGS_MAX} are put", tags.len()));
    }
    for tag in tags {
        check_key(&tag.key)?;
        if !is_word(&tag.value, VALUE_MAX) {
            let value = &tag.value;
            let detail = format!("{value:?} is no value: at most {VALUE_MAX} of A-Z a-z 0-9 _ -");
            return refuse("SDRS.2207", detail);
        }
    }
    check_once(tags.iter().map(|tag| tag.key.as_str()))
}

/// A tag as it is told.
pub(super) fn shown((key, value): &(String, String)) -> SdrsTag {
    SdrsTag { key: key.clone(), value: value.clone() }
}

fn put_of(tags: Vec<SdrsTag>) -> Vec<(String, String)> {
    tags.into_iter().map(|tag| (tag.key, tag.value)).collect()
}

/// What a path names: an instance, and a key of it.
#[derive(Debug, Deserialize)]
pub(super) struct NamedTag {
    id: String,
    key: String,
}

/// The tags of a protected instance
#[utoipa::path(get, path = "/v1/{project}/protected-instances/{id}/tags", tag = "evs",
    operation_id = "sdrs_list_tags", params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = SdrsTagList), (status = "default", body = api::EvsError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<Json<SdrsTagList>, Failure> {
    let instance = find(&gateway, named.id()?)?;
    Ok(Json(SdrsTagList { tags: instance.tags.iter().map(shown).collect() }))
}

/// Put a tag on a protected instance
#[utoipa::path(post, path = "/v1/{project}/protected-instances/{id}/tags", tag = "evs",
    operation_id = "sdrs_put_tag", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsTagAdd,
    responses((status = 204), (status = "default", body = api::EvsError)))]
pub(super) async fn put(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(SdrsTagAdd { tag }): Body<SdrsTagAdd>,
) -> Result<StatusCode, Failure> {
    check_tags(std::slice::from_ref(&tag))?;
    let of = InstanceCall::Tag { id: named.id()?, put: put_of(vec![tag]), off: Vec::new() };
    gateway.evs_call(Call::Instance { of }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take a tag off a protected instance
#[utoipa::path(delete, path = "/v1/{project}/protected-instances/{id}/tags/{key}", tag = "evs",
    operation_id = "sdrs_take_tag_off",
    params(("project" = String, Path), ("id" = String, Path), ("key" = String, Path)),
    responses((status = 204), (status = "default", body = api::EvsError)))]
pub(super) async fn take_off(
    State(gateway): Shared,
    Path(named): Path<NamedTag>,
) -> Result<StatusCode, Failure> {
    let instance = find(&gateway, id(&named.id)?)?;
    if instance.tags.iter().all(|(key, _)| *key != named.key) {
        let detail = format!("the instance has no tag of key {:?}", named.key);
        return Err(coded(Code::NotFound, "SDRS.2206", detail).into());
    }
    let of = InstanceCall::Tag { id: instance.head.id, put: Vec::new(), off: vec![named.key] };
    gateway.evs_call(Call::Instance { of }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a batch puts, and the keys that it takes off.
type Batched = (Vec<(String, String)>, Vec<String>);

/// What a batch asks for.
fn batched(wanted: SdrsTagBatch) -> Result<Batched, Refused> {
    if wanted.tags.is_empty() {
        return refuse("SDRS.2202", "tags names some");
    }
    match wanted.action.as_str() {
        "create" => {
            let whole = |SdrsTagNamed { key, value }: SdrsTagNamed| match value {
                Some(value) => Ok(SdrsTag { key, value }),
                None => refuse("SDRS.2208", format!("tag {key:?} has a value, if an empty one")),
            };
            let tags = wanted.tags.into_iter().map(whole).collect::<Result<Vec<_>, _>>()?;
            check_tags(&tags)?;
            Ok((put_of(tags), Vec::new()))
        }
        "delete" => {
            let keys: Vec<String> = wanted.tags.into_iter().map(|tag| tag.key).collect();
            // What cannot be a key is not there either; only that there is one is asked for.
            if keys.iter().any(String::is_empty) {
                return refuse("SDRS.2205", "a tag has a key");
            }
            Ok((Vec::new(), keys))
        }
        other => refuse("SDRS.2201", format!("action {other:?}: say create or delete")),
    }
}

/// Put tags on a protected instance, or take them off
#[utoipa::path(post, path = "/v1/{project}/protected-instances/{id}/tags/action", tag = "evs",
    operation_id = "sdrs_batch_tags", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsTagBatch,
    responses((status = 204), (status = "default", body = api::EvsError)))]
pub(super) async fn batch(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(wanted): Body<SdrsTagBatch>,
) -> Result<StatusCode, Failure> {
    let (put, off) = batched(wanted)?;
    let of = InstanceCall::Tag { id: named.id()?, put, off };
    gateway.evs_call(Call::Instance { of }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The tags of all protected instances
#[utoipa::path(get, path = "/v1/{project}/protected-instances/tags", tag = "evs",
    operation_id = "sdrs_list_all_tags", params(("project" = String, Path)),
    responses((status = 200, body = SdrsTagsOfAll), (status = "default", body = api::EvsError)))]
pub(super) async fn of_all(State(gateway): Shared) -> Json<SdrsTagsOfAll> {
    let pages = gateway.book.read();
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (key, value) in pages.evs.instances().flat_map(|instance| &instance.tags) {
        all.entry(key).or_default().insert(value);
    }
    let values = |(key, values): (&str, BTreeSet<&str>)| SdrsTagValues {
        key: key.to_owned(),
        values: values.into_iter().map(str::to_owned).collect(),
    };
    Json(SdrsTagsOfAll { tags: all.into_iter().map(values).collect() })
}

// --- found ---

fn check_asked(tags: &[SdrsTagValues]) -> Result<(), Refused> {
    if tags.len() > ASKED_MAX {
        return refuse("SDRS.2203", format!("{} keys; at most {ASKED_MAX}", tags.len()));
    }
    for tag in tags {
        if tag.key.is_empty() {
            return refuse("SDRS.2205", "a tag has a key");
        }
        if tag.values.len() > ASKED_MAX {
            let detail =
                format!("{} values of {:?}; at most {ASKED_MAX}", tag.values.len(), tag.key);
            return refuse("SDRS.2218", detail);
        }
        let once: BTreeSet<&String> = tag.values.iter().collect();
        if once.len() < tag.values.len() {
            return refuse("SDRS.2219", format!("a value of {:?} is there twice", tag.key));
        }
    }
    check_once(tags.iter().map(|tag| tag.key.as_str()))
}

fn number(of: Option<&SdrsNumber>, otherwise: u64) -> Result<u64, Refused> {
    match of {
        None => Ok(otherwise),
        Some(SdrsNumber::Number(number)) => Ok(*number),
        Some(SdrsNumber::Text(text)) => {
            text.parse().or_else(|_no| refuse("SDRS.2220", format!("{text:?} is no number")))
        }
    }
}

/// How many are left out, and how many are told; `None`: only how many there are.
fn page(wanted: &SdrsTagQuery) -> Result<Option<(usize, usize)>, Refused> {
    match wanted.action.as_str() {
        "count" if wanted.limit.is_some() || wanted.offset.is_some() => {
            refuse("SDRS.2211", "a count has no limit and no offset")
        }
        "count" => Ok(None),
        "filter" => {
            let (offset, limit) =
                (number(wanted.offset.as_ref(), 0)?, number(wanted.limit.as_ref(), LIMIT)?);
            if !(1..=LIMIT).contains(&limit) {
                return refuse("SDRS.2220", format!("limit is 1 to {LIMIT}"));
            }
            let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
            Ok(Some((whole(offset), whole(limit))))
        }
        other => refuse("SDRS.2210", format!("action {other:?}: say filter or count")),
    }
}

fn check_query(wanted: &SdrsTagQuery) -> Result<(), Refused> {
    for tags in [&wanted.tags, &wanted.tags_any, &wanted.not_tags, &wanted.not_tags_any] {
        check_asked(tags)?;
    }
    match wanted.matches.as_slice() {
        [] => Ok(()),
        [one] if one.key == NAME => Ok(()),
        [one] if one.key.is_empty() => refuse("SDRS.2213", "a match has a key"),
        [one] => refuse("SDRS.2214", format!("match {:?}: there is only {NAME}", one.key)),
        _ => refuse("SDRS.2215", format!("there is one match, of {NAME}")),
    }
}

/// Whether a question finds an instance of this name and these tags.
fn finds(wanted: &SdrsTagQuery, name: &str, tags: &[(String, String)]) -> bool {
    let has = |asked: &SdrsTagValues| {
        let is_it = |value: &String| asked.values.is_empty() || asked.values.contains(value);
        tags.iter().any(|(key, value)| *key == asked.key && is_it(value))
    };
    let is_named = wanted.matches.iter().all(|of| {
        // Nothing is a part of every name; it stands for no name at all.
        let part = of.value.to_lowercase();
        if part.is_empty() { name.is_empty() } else { name.to_lowercase().contains(&part) }
    });
    is_named
        && wanted.tags.iter().all(has)
        && (wanted.tags_any.is_empty() || wanted.tags_any.iter().any(has))
        && (wanted.not_tags.is_empty() || !wanted.not_tags.iter().all(has))
        && !wanted.not_tags_any.iter().any(has)
}

/// The protected instances that have tags
#[utoipa::path(post, path = "/v1/{project}/protected-instances/resource_instances/action",
    tag = "evs", operation_id = "sdrs_find_by_tags", params(("project" = String, Path)),
    request_body = SdrsTagQuery,
    responses((status = 200, body = SdrsTagFound), (status = "default", body = api::EvsError)))]
pub(super) async fn look(
    State(gateway): Shared,
    Body(wanted): Body<SdrsTagQuery>,
) -> Result<Json<SdrsTagFound>, Failure> {
    check_query(&wanted)?;
    let page = page(&wanted)?;
    let pages = gateway.book.read();
    let found: Vec<_> =
        pages.evs.instances().filter(|of| finds(&wanted, &of.name, &of.tags)).collect();
    let total_count = found.len();
    let Some((offset, limit)) = page else {
        return Ok(Json(SdrsTagFound { resources: None, total_count }));
    };
    let mut resources = Vec::new();
    for instance in found.into_iter().skip(offset).take(limit) {
        resources.push(SdrsTagResource {
            resource_id: instance.head.id.to_string(),
            resource_name: instance.name.clone(),
            resource_detail: shown_instance(&gateway, instance).await,
            tags: instance.tags.iter().map(shown).collect(),
        });
    }
    Ok(Json(SdrsTagFound { resources: Some(resources), total_count }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::evs::own_code;

    fn tag(key: &str, value: &str) -> SdrsTag {
        SdrsTag { key: key.into(), value: value.into() }
    }

    fn number_of<T>(refused: Result<T, Refused>) -> String {
        let refused = refused.err().expect("it is refused");
        own_code(&refused.0.detail).unwrap_or_default().to_owned()
    }

    #[test]
    fn evs_37_tags_are_few_and_short() {
        assert_eq!(check_tags(&[tag("role", "web"), tag("a_b-c", "")]), Ok(()));
        for (bad, number) in [
            (tag("", "x"), "SDRS.2205"),
            (tag("a b", "x"), "SDRS.2204"),
            (tag(&"k".repeat(37), ""), "SDRS.2204"),
            (tag("k", "ü"), "SDRS.2207"),
            (tag("k", &"v".repeat(44)), "SDRS.2207"),
        ] {
            assert_eq!(number_of(check_tags(std::slice::from_ref(&bad))), number, "{bad:?}");
        }
        let many: Vec<SdrsTag> = (0..11).map(|n| tag(&format!("k{n}"), "v")).collect();
        assert_eq!(number_of(check_tags(&many)), "SDRS.2203");
        assert_eq!(number_of(check_tags(&[tag("k", "v"), tag("k", "w")])), "SDRS.2209");
    }

    #[test]
    fn evs_37_a_batch_puts_whole_tags_and_takes_off_by_keys() {
        let of = |body| batched(serde_json::from_value(body).expect("a batch"));
        let put = json!({ "action": "create", "tags": [{ "key": "a", "value": "" }] });
        assert_eq!(of(put), Ok((vec![("a".to_owned(), String::new())], vec![])));
        let off =
            json!({ "action": "delete", "tags": [{ "key": "a b" }, { "key": "c", "value": "d" }] });
        assert_eq!(of(off), Ok((vec![], vec!["a b".to_owned(), "c".to_owned()])));
        for (body, number) in [
            (json!({ "action": "update", "tags": [{ "key": "a" }] }), "SDRS.2201"),
            (json!({ "action": "create", "tags": [] }), "SDRS.2202"),
            (json!({ "action": "create", "tags": [{ "key": "a" }] }), "SDRS.2208"),
            (json!({ "action": "delete", "tags": [{ "key": "" }] }), "SDRS.2205"),
        ] {
            assert_eq!(number_of(of(body.clone())), number, "{body}");
        }
    }

    fn query(body: serde_json::Value) -> SdrsTagQuery {
        let mut all = json!({ "action": "filter" });
        let fields = body.as_object().expect("an object").clone();
        all.as_object_mut().expect("an object").extend(fields);
        serde_json::from_value(all).expect("a query")
    }

    #[test]
    fn evs_37_instances_are_found_by_keys_values_and_names() {
        let tags = [("role".to_owned(), "web".to_owned()), ("owner".to_owned(), "ann".to_owned())];
        let one = |key: &str, values: &[&str]| json!([{ "key": key, "values": values }]);
        let both = json!([
            { "key": "role", "values": ["db", "web"] }, { "key": "owner", "values": ["bob"] },
        ]);
        for (body, is_found) in [
            (json!({}), true),
            (json!({ "tags": one("role", &["db", "web"]) }), true),
            (json!({ "tags": one("role", &[]) }), true),
            (json!({ "tags": one("role", &["db"]) }), false),
            (json!({ "tags": both }), false),
            (json!({ "tags_any": both }), true),
            (json!({ "not_tags": both }), true),
            (json!({ "not_tags_any": both }), false),
            (json!({ "matches": [{ "key": "resource_name", "value": "RON" }] }), true),
            (json!({ "matches": [{ "key": "resource_name", "value": "" }] }), false),
        ] {
            assert_eq!(finds(&query(body.clone()), "front", &tags), is_found, "{body}");
        }
    }

    #[test]
    fn evs_37_what_is_wrong_with_a_question_has_its_number() {
        let check = |body| {
            let wanted = query(body);
            check_query(&wanted).and_then(|()| page(&wanted))
        };
        assert_eq!(check(json!({})), Ok(Some((0, 1000))));
        assert_eq!(check(json!({ "offset": "2", "limit": 5 })), Ok(Some((2, 5))));
        assert_eq!(check(json!({ "action": "count" })), Ok(None));
        let twice = json!([{ "key": "a", "values": [] }, { "key": "a", "values": [] }]);
        for (body, number) in [
            (json!({ "action": "list" }), "SDRS.2210"),
            (json!({ "action": "count", "limit": 1 }), "SDRS.2211"),
            (json!({ "limit": 0 }), "SDRS.2220"),
            (json!({ "limit": "many" }), "SDRS.2220"),
            (json!({ "tags": twice }), "SDRS.2209"),
            (json!({ "tags": [{ "key": "", "values": [] }] }), "SDRS.2205"),
            (json!({ "tags": [{ "key": "a", "values": ["b", "b"] }] }), "SDRS.2219"),
            (json!({ "matches": [{ "key": "", "value": "" }] }), "SDRS.2213"),
            (json!({ "matches": [{ "key": "colour", "value": "red" }] }), "SDRS.2214"),
        ] {
            assert_eq!(number_of(check(body.clone())), number, "{body}");
        }
        let values: Vec<String> = (0..21).map(|n| n.to_string()).collect();
        let many = json!({ "tags": [{ "key": "a", "values": values }] });
        assert_eq!(number_of(check(many)), "SDRS.2218");
        let keys: Vec<_> = (0..21).map(|n| json!({ "key": n.to_string(), "values": [] })).collect();
        assert_eq!(number_of(check(json!({ "tags": keys }))), "SDRS.2203");
    }
}
