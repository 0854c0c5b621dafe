//! The calls of `os-vendor-replication-consistency-groups`.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{Code, EvsGroup, EvsGroupAction, EvsGroupCreate, EvsGroupShown, EvsGroupUpdate};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::list::{Asked, Match, cut};
use super::{Body, Failure, MODEL, Named, Shared, check_model, check_text, id, ids};
use crate::book::evs::{Dialect, Group, Life, Wanted};
use crate::clock::text;
use crate::gateway::Gateway;
use crate::gateway::evs::gates::Action;
use crate::gateway::evs::view::Data;
use crate::gateway::evs::{Call, NewGroup, SetGroup, own_code};
use crate::refusal::Refused;

/// A planned migration answers when it is over; one that takes longer goes on, and its status says so.
const REVERSE_MAX: Duration = Duration::from_secs(45);
const REVERSE_LOOK: Duration = Duration::from_millis(100);

const fn status(life: Life, wanted: Wanted) -> &'static str {
    match life {
        Life::Creating => "creating",
        Life::Error => "error",
        Life::Deleting => "deleting",
        Life::ErrorDeleting => "error_deleting",
        Life::Updating => "updating",
        Life::Reversing => "reversing",
        Life::ErrorReversing => "error_reversing",
        Life::FailingOver => "failovering",
        Life::FailedOver | Life::ErrorReprotecting => "failovered",
        Life::ErrorFailingOver => "error_failovering",
        Life::ErrorStarting | Life::ErrorStopping => match wanted {
            Wanted::FailedOver => "failovered",
            Wanted::Idle | Wanted::Running | Wanted::Paused => "available",
        },
        Life::Available | Life::Starting | Life::Stopping | Life::Reprotecting => "available",
        // Of servers only, which no group of this service has.
        Life::NicCreating
        | Life::NicDeleting
        | Life::Resizing
        | Life::ErrorResizing
        | Life::Attaching
        | Life::ErrorAttaching
        | Life::Detaching
        | Life::ErrorDetaching => "available",
    }
}

pub(super) async fn shown(gateway: &Gateway, group: &Group) -> EvsGroup {
    let core = gateway.core_status(group).await;
    let pages = gateway.book.read();
    let pairs: Vec<_> = pages.evs.pairs_of(group.head.id).cloned().collect();
    let data = Data::worst(&gateway.data_of_pairs(core.as_deref(), group, &pairs).await);
    let fault = group.fault.as_ref();
    EvsGroup {
        id: group.head.id.to_string(),
        name: group.name.clone(),
        description: group.description.clone(),
        status: status(group.life, group.wanted).to_owned(),
        priority_station: group.stations[group.primary].clone(),
        replication_model: MODEL.to_owned(),
        replication_status: data.replication.word().to_owned(),
        replication_ids: pairs.iter().map(|pair| pair.head.id.to_string()).collect(),
        failure_detail: fault.map(|fault| fault.code.clone()),
        failure_reason: fault.map(|fault| fault.why.clone()),
        fault_level: data.fault_level.to_string(),
        core_group: core.map(|core| core.name.clone()),
        created_at: text(group.head.made_ms),
        updated_at: text(group.head.changed_ms),
    }
}

fn find(gateway: &Gateway, id: Uuid) -> Result<Group, Refused> {
    gateway.book.read().evs.group_in(Dialect::Evs, id).cloned()
}

async fn answer(gateway: &Gateway, id: Uuid) -> Result<Json<EvsGroupShown>, Failure> {
    let group = find(gateway, id)?;
    Ok(Json(EvsGroupShown { replication_consistency_group: shown(gateway, &group).await }))
}

/// Groups
#[utoipa::path(get, path = "/v2/{project}/os-vendor-replication-consistency-groups", tag = "evs",
    operation_id = "evs_list_groups",
    params(("project" = String, Path), ("limit" = Option<u32>, Query),
           ("marker" = Option<String>, Query), ("name" = Option<String>, Query),
           ("status" = Option<String>, Query)),
    responses((status = 200, body = api::EvsGroupList), (status = "default", body = api::EvsError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Failure> {
    let pages = gateway.book.read();
    let mut items = Vec::new();
    for group in pages.evs.groups().filter(|group| group.dialect == Dialect::Evs) {
        items.push(serde_json::to_value(shown(&gateway, group).await).unwrap_or_default());
    }
    let filters = [
        ("name", "name", Match::Equal),
        ("status", "status", Match::Equal),
        ("priority_station", "priority_station", Match::Equal),
    ];
    let found = cut(items, &asked, &filters)?;
    Ok(Json(json!({ "replication_consistency_groups": found })))
}

/// Make a group of pairs
#[utoipa::path(post, path = "/v2/{project}/os-vendor-replication-consistency-groups", tag = "evs",
    operation_id = "evs_create_group", params(("project" = String, Path)),
    request_body = EvsGroupCreate,
    responses((status = 202, body = EvsGroupShown), (status = "default", body = api::EvsError)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(EvsGroupCreate { replication_consistency_group: wanted }): Body<EvsGroupCreate>,
) -> Result<(StatusCode, Json<EvsGroupShown>), Failure> {
    check_text("name", &wanted.name)?;
    check_text("description", &wanted.description)?;
    check_model(&wanted.replication_model)?;
    if wanted.replication_ids.is_empty() {
        return Err(Failure::new(Code::Invalid, "a group is made of at least one pair"));
    }
    let call = Call::MakeGroup(NewGroup {
        dialect: Dialect::Evs,
        name: wanted.name,
        description: wanted.description,
        pairs: ids(&wanted.replication_ids)?,
        station: wanted.priority_station,
        target: None,
        vpc: String::new(),
        domain: String::new(),
    });
    let made = gateway.evs_call(call).await?;
    Ok((StatusCode::ACCEPTED, answer(&gateway, made.id).await?))
}

/// A group
#[utoipa::path(get, path = "/v2/{project}/os-vendor-replication-consistency-groups/{id}",
    tag = "evs", operation_id = "evs_show_group",
    params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = EvsGroupShown), (status = "default", body = api::EvsError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<Json<EvsGroupShown>, Failure> {
    answer(&gateway, named.id()?).await
}

/// Change a group: pairs join and leave while it is paused
#[utoipa::path(put, path = "/v2/{project}/os-vendor-replication-consistency-groups/{id}",
    tag = "evs", operation_id = "evs_update_group",
    params(("project" = String, Path), ("id" = String, Path)), request_body = EvsGroupUpdate,
    responses((status = 202, body = EvsGroupShown), (status = "default", body = api::EvsError)))]
pub(super) async fn update(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(EvsGroupUpdate { replication_consistency_group: wanted }): Body<EvsGroupUpdate>,
) -> Result<(StatusCode, Json<EvsGroupShown>), Failure> {
    for (what, text) in [("name", &wanted.name), ("description", &wanted.description)] {
        check_text(what, text.as_deref().unwrap_or_default())?;
    }
    check_model(wanted.replication_model.as_deref().unwrap_or(MODEL))?;
    let change = SetGroup {
        name: wanted.name,
        description: wanted.description,
        add: ids(&wanted.add_replication_ids)?,
        remove: ids(&wanted.remove_replication_ids)?,
    };
    let id = find(&gateway, named.id()?)?.head.id;
    gateway.evs_call(Call::SetGroup { id, change }).await?;
    Ok((StatusCode::ACCEPTED, answer(&gateway, id).await?))
}

/// Delete a group that has no pairs
#[utoipa::path(delete, path = "/v2/{project}/os-vendor-replication-consistency-groups/{id}",
    tag = "evs", operation_id = "evs_delete_group",
    params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 202), (status = "default", body = api::EvsError)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<StatusCode, Failure> {
    let id = find(&gateway, named.id()?)?.head.id;
    gateway.evs_call(Call::DeleteGroup { id }).await?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Words {
    confirm: Option<String>,
    confirm_discard: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extension {
    replications: Vec<Larger>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Larger {
    id: String,
    new_size: f64,
}

/// So many whole GB; what is beyond them is cut off, as the service does.
pub(in crate::http) fn whole_gib(size: f64) -> Result<u64, Refused> {
    let whole = size.trunc();
    if !(1.0..=1_048_576.0).contains(&whole) {
        let detail = format!("new_size {size} is no size in GB");
        return Err(Refused::new(Code::BadSize, detail));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number of at most 2^20"
    )]
    Ok(whole as u64)
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Refused> {
    serde_json::from_value(value.clone())
        .map_err(|error| Refused::new(Code::Invalid, error.to_string()))
}

fn action(asked: &EvsGroupAction) -> Result<Action, Refused> {
    let only = asked.0.iter().next().filter(|_| asked.0.len() == 1);
    let Some((word, value)) = only else {
        return Err(Refused::new(Code::Invalid, "one action is named, by its key"));
    };
    let words = || if value.is_null() { Ok(Words::default()) } else { read::<Words>(value) };
    Ok(match word.as_str() {
        "os-sync-replication-consistency-group" => Action::Sync,
        "os-stop-replication-consistency-group" => Action::Pause,
        "os-reverse-replication-consistency-group" => Action::Reverse { to: None },
        "os-failover-replication-consistency-group" => {
            Action::Failover { confirm: words()?.confirm }
        }
        "os-reprotect-replication-consistency-group" => {
            Action::Reprotect { discard: words()?.confirm_discard }
        }
        "os-extend-replication-volumes" => {
            let mut gib = BTreeMap::new();
            for larger in read::<Extension>(value)?.replications {
                gib.insert(id(&larger.id)?, whole_gib(larger.new_size)?);
            }
            Action::Extend { gib }
        }
        other => {
            let detail = format!("there is no action {other:?}");
            return Err(Refused::new(Code::Invalid, detail));
        }
    })
}

/// Synchronise, pause, reverse, fail over, reprotect or expand a group
#[utoipa::path(post, path = "/v2/{project}/os-vendor-replication-consistency-groups/{id}/action",
    tag = "evs", operation_id = "evs_act_on_group",
    params(("project" = String, Path), ("id" = String, Path)), request_body = EvsGroupAction,
    responses((status = 200), (status = "default", body = api::EvsError)))]
pub(super) async fn act(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(asked): Body<EvsGroupAction>,
) -> Result<StatusCode, Failure> {
    let action = action(&asked)?;
    let id = find(&gateway, named.id()?)?.head.id;
    let is_reverse = matches!(action, Action::Reverse { .. });
    gateway.evs_call(Call::Act { id, action }).await?;
    if is_reverse {
        await_reversed(&gateway, id).await?;
    }
    Ok(StatusCode::OK)
}

async fn await_reversed(gateway: &Gateway, id: Uuid) -> Result<(), Refused> {
    let until = Instant::now() + REVERSE_MAX;
    while Instant::now() < until && !gateway.stopping.is_cancelled() {
        let group = find(gateway, id)?;
        match (group.life, group.fault) {
            (Life::Reversing, _) => tokio::time::sleep(REVERSE_LOOK).await,
            (Life::ErrorReversing, Some(fault)) => {
                let why = if own_code(&fault.why).is_some() {
                    fault.why
                } else {
                    format!("{} ({})", fault.why, fault.code)
                };
                return Err(Refused::new(Code::RolledBack, why));
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: Value) -> Result<Action, Refused> {
        action(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn evs_23_a_failover_is_asked_for_bare_or_with_the_word_that_confirms_it() {
        let bare = json!({"os-failover-replication-consistency-group": null});
        assert_eq!(asked(bare), Ok(Action::Failover { confirm: None }));
        let sure = json!({"os-failover-replication-consistency-group": {"confirm": "t"}});
        assert_eq!(asked(sure), Ok(Action::Failover { confirm: Some("t".to_owned()) }));
        for wrong in [
            json!({}),
            json!({"os-failover-replication-consistency-group": {"force": true}}),
            json!({"os-sync-replication-consistency-group": null, "os-x": null}),
            json!({"os-delete": null}),
        ] {
            assert!(asked(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn evs_26_a_part_of_a_gb_is_cut_off() {
        assert_eq!(whole_gib(2.9), Ok(2));
        for wrong in [0.5, -1.0, f64::NAN, 1e9] {
            assert!(whole_gib(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn evs_12_each_state_of_a_group_has_the_services_word() {
        for (life, word) in [
            (Life::Creating, "creating"),
            (Life::Updating, "updating"),
            (Life::Reversing, "reversing"),
            (Life::ErrorReversing, "error_reversing"),
            (Life::FailingOver, "failovering"),
            (Life::FailedOver, "failovered"),
            (Life::ErrorFailingOver, "error_failovering"),
            (Life::Starting, "available"),
        ] {
            assert_eq!(status(life, Wanted::Running), word);
        }
    }
}
