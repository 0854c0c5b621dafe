//! The calls of `os-vendor-replications`.

use api::{EvsPair, EvsPairCreate, EvsPairShown};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::list::{Asked, Match, cut};
use super::{Body, Failure, MODEL, Named, Shared, check_model, check_text, ids};
use crate::book::evs::{Dialect, Life, Pair};
use crate::clock::text;
use crate::gateway::Gateway;
use crate::gateway::evs::view::Data;
use crate::gateway::evs::{Call, NewPair};
use crate::refusal::Refused;

const GIB: u64 = 1 << 30;

const fn status(life: Life) -> &'static str {
    match life {
        Life::Creating => "creating",
        Life::Deleting => "deleting",
        Life::ErrorDeleting => "error_deleting",
        Life::Error => "error",
        _ => "available",
    }
}

pub(super) async fn shown(gateway: &Gateway, pair: &Pair) -> EvsPair {
    let pages = gateway.book.read();
    let group = pair.group.and_then(|group| pages.evs.group(group).ok().cloned());
    let data = match &group {
        Some(group) => gateway.data_of_pair(group, pair).await,
        None => Data::IDLE,
    };
    let fault = pair.fault.as_ref();
    let metadata = json!({
        "volume_type": "thin", "multiattach": false, "volume_size": pair.bytes.div_ceil(GIB),
    });
    EvsPair {
        id: pair.head.id.to_string(),
        name: pair.name.clone(),
        description: pair.description.clone(),
        status: status(pair.life).to_owned(),
        replication_consistency_group_id: pair.group.map(|group| group.to_string()),
        volume_ids: format!("{},{}", pair.disks[0], pair.disks[1]),
        priority_station: pair.stations[pair.primary].clone(),
        replication_model: MODEL.to_owned(),
        replication_status: data.replication.word().to_owned(),
        progress: data.progress.map(|progress| progress.to_string()),
        failure_detail: fault.map(|fault| fault.code.clone()),
        failure_reason: fault.map(|fault| fault.why.clone()),
        fault_level: data.fault_level.to_string(),
        record_metadata: metadata.to_string(),
        created_at: text(pair.head.made_ms),
        updated_at: text(pair.head.changed_ms),
    }
}

fn find(gateway: &Gateway, id: Uuid) -> Result<Pair, Refused> {
    gateway.book.read().evs.pair_in(Dialect::Evs, id).cloned()
}

async fn answer(gateway: &Gateway, id: Uuid) -> Result<Json<EvsPairShown>, Failure> {
    let pair = find(gateway, id)?;
    Ok(Json(EvsPairShown { replication: shown(gateway, &pair).await }))
}

/// Pairs
#[utoipa::path(get, path = "/v2/{project}/os-vendor-replications", tag = "evs",
    operation_id = "evs_list_pairs",
    params(("project" = String, Path), ("limit" = Option<u32>, Query),
           ("marker" = Option<String>, Query), ("name" = Option<String>, Query),
           ("status" = Option<String>, Query)),
    responses((status = 200, body = api::EvsPairList), (status = "default", body = api::EvsError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(mut asked): Query<Asked>,
) -> Result<Json<Value>, Failure> {
    let pages = gateway.book.read();
    // One disk of a pair is part of the text of both, and so is each of two in any order.
    let volumes = asked.remove("volume_ids").or_else(|| asked.remove("volume_id"));
    let mut items = Vec::new();
    for pair in pages.evs.pairs().filter(|pair| pair.dialect == Dialect::Evs) {
        let its = |disk: &str| pair.disks.iter().any(|of| of.to_string() == disk);
        if volumes.as_ref().is_none_or(|volumes| volumes.split(',').all(its)) {
            items.push(serde_json::to_value(shown(&gateway, pair).await).unwrap_or_default());
        }
    }
    let filters = [
        ("name", "name", Match::Equal),
        ("status", "status", Match::Equal),
        ("priority_station", "priority_station", Match::Equal),
        ("replication_consistency_group_id", "replication_consistency_group_id", Match::Equal),
    ];
    Ok(Json(json!({ "replications": cut(items, &asked, &filters)? })))
}

/// Make a pair of two disks of different zones
#[utoipa::path(post, path = "/v2/{project}/os-vendor-replications", tag = "evs",
    operation_id = "evs_create_pair", params(("project" = String, Path)),
    request_body = EvsPairCreate,
    responses((status = 202, body = EvsPairShown), (status = "default", body = api::EvsError)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(EvsPairCreate { replication: wanted }): Body<EvsPairCreate>,
) -> Result<(StatusCode, Json<EvsPairShown>), Failure> {
    check_text("name", &wanted.name)?;
    check_text("description", &wanted.description)?;
    check_model(&wanted.replication_model)?;
    let disks = ids(&wanted.volume_ids)?;
    if disks.len() != 2 || disks[0] == disks[1] {
        let detail = "volume_ids names two disks, of different zones";
        return Err(Failure::new(api::Code::Invalid, detail));
    }
    let call = Call::MakePair(NewPair {
        dialect: Dialect::Evs,
        name: wanted.name,
        description: wanted.description,
        disks,
        station: wanted.priority_station,
        group: None,
        overwrites: wanted.overwrite_destination,
    });
    let made = gateway.evs_call(call).await?;
    Ok((StatusCode::ACCEPTED, answer(&gateway, made.id).await?))
}

/// A pair
#[utoipa::path(get, path = "/v2/{project}/os-vendor-replications/{id}", tag = "evs",
    operation_id = "evs_show_pair", params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = EvsPairShown), (status = "default", body = api::EvsError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<Json<EvsPairShown>, Failure> {
    answer(&gateway, named.id()?).await
}

/// Delete a pair that is in no group; both disks stay
#[utoipa::path(delete, path = "/v2/{project}/os-vendor-replications/{id}", tag = "evs",
    operation_id = "evs_delete_pair", params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 202), (status = "default", body = api::EvsError)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<StatusCode, Failure> {
    let id = find(&gateway, named.id()?)?.head.id;
    gateway.evs_call(Call::DeletePair { id, with_target: false }).await?;
    Ok(StatusCode::ACCEPTED)
}
