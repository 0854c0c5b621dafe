//! The calls of `replications`.

use api::{
    Code, SdrsJobBegun, SdrsPair, SdrsPairAction, SdrsPairAttachment, SdrsPairCreate,
    SdrsPairDelete, SdrsPairMetadata, SdrsPairRename, SdrsPairShown,
};
use axum::Json;
use axum::extract::{Path, Query, State};
use serde_json::Value;
use uuid::Uuid;

use super::groups::{find as find_group, station, status as status_of};
use super::{
    Asked, Begun, Body, Failure, Match, Named, Shared, begun, check_description, check_name,
    counted, id, listed_ids, whole_gib,
};
use crate::book::evs::{Dialect, Group, Instance, Life, Pair, Wanted};
use crate::clock::text;
use crate::gateway::Gateway;
use crate::gateway::evs::view::{Data, Replication};
use crate::gateway::evs::{Call, NewPair, coded};
use crate::refusal::Refused;

const GIB: u64 = 1 << 30;

/// A pair is as its group is, unless it has a fault of its own.
fn status(pair: &Pair, group: Option<&Group>, data: Data) -> &'static str {
    match (pair.life, group) {
        (Life::Available, Some(group)) if data.replication == Replication::Error => {
            if group.wanted == Wanted::Idle { "available" } else { "fault" }
        }
        (Life::Available, Some(group)) => status_of(group.life, group.wanted),
        (life, _) => status_of(life, Wanted::Idle),
    }
}

async fn shown(gateway: &Gateway, pair: &Pair) -> SdrsPair {
    let pages = gateway.book.read();
    let group = pair.group.and_then(|group| pages.evs.group(group).ok().cloned());
    let data = match &group {
        Some(group) => gateway.data_of_pair(group, pair).await,
        None => Data::IDLE,
    };
    let is_new = group.as_ref().is_none_or(|group| group.wanted == Wanted::Idle);
    SdrsPair {
        id: pair.head.id.to_string(),
        name: pair.name.clone(),
        description: pair.description.clone(),
        replication_model: "hypermetro".to_owned(),
        status: status(pair, group.as_ref(), data).to_owned(),
        progress: data.progress.unwrap_or(0),
        replication_status: (!is_new).then(|| data.replication.word().to_owned()),
        server_group_id: pair.group.map(|group| group.to_string()).unwrap_or_default(),
        volume_ids: format!("{},{}", pair.disks[0], pair.disks[1]),
        priority_station: station(pair.primary).to_owned(),
        fault_level: data.fault_level.to_string(),
        failure_detail: pair.fault.as_ref().map(|fault| format!("{}: {}", fault.code, fault.why)),
        attachment: pages.evs.instances().filter_map(|of| attached(of, pair)).collect(),
        record_metadata: SdrsPairMetadata {
            multiattach: false,
            volume_size: pair.bytes.div_ceil(GIB),
            volume_type: "thin".to_owned(),
        },
        created_at: text(pair.head.made_ms),
        updated_at: text(pair.head.changed_ms),
    }
}

fn attached(instance: &Instance, pair: &Pair) -> Option<SdrsPairAttachment> {
    let disk = instance.disk_of(pair.head.id)?;
    let protected_instance = instance.head.id.to_string();
    Some(SdrsPairAttachment { protected_instance, device: disk.device.clone() })
}

fn find(gateway: &Gateway, id: Uuid) -> Result<Pair, Refused> {
    gateway.book.read().evs.pair_in(Dialect::Sdrs, id).cloned()
}

/// Pairs
#[utoipa::path(get, path = "/v1/{project}/replications", tag = "evs",
    operation_id = "sdrs_list_pairs",
    params(("project" = String, Path), ("limit" = Option<u32>, Query),
           ("offset" = Option<u32>, Query), ("status" = Option<String>, Query),
           ("name" = Option<String>, Query), ("server_group_id" = Option<String>, Query),
           ("server_group_ids" = Option<String>, Query)),
    responses((status = 200, body = api::SdrsPairList), (status = "default", body = api::EvsError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(mut asked): Query<Asked>,
) -> Result<Json<Value>, Failure> {
    let groups = listed_ids(&mut asked, "server_group_ids")?;
    let pages = gateway.book.read();
    let mut items = Vec::new();
    for pair in pages.evs.pairs().filter(|pair| pair.dialect == Dialect::Sdrs) {
        let its = pair.group.map(|group| group.to_string()).unwrap_or_default();
        if groups.as_ref().is_none_or(|groups| groups.contains(&its)) {
            items.push(serde_json::to_value(shown(&gateway, pair).await).unwrap_or_default());
        }
    }
    let filters = [
        ("status", "status", Match::Equal),
        ("name", "name", Match::Part),
        ("server_group_id", "server_group_id", Match::Equal),
    ];
    Ok(Json(counted("replications", items, &asked, &filters)?))
}

/// Make a pair of a disk and one that is made at the other site
#[utoipa::path(post, path = "/v1/{project}/replications", tag = "evs",
    operation_id = "sdrs_create_pair", params(("project" = String, Path)),
    request_body = SdrsPairCreate,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(SdrsPairCreate { replication: wanted }): Body<SdrsPairCreate>,
) -> Begun {
    check_name(&wanted.name)?;
    check_description(&wanted.description)?;
    let group = find_group(&gateway, id(&wanted.server_group_id)?)?;
    let call = Call::MakePair(NewPair {
        dialect: Dialect::Sdrs,
        name: wanted.name,
        description: wanted.description,
        disks: vec![id(&wanted.volume_id)?],
        station: group.stations[group.primary].clone(),
        group: Some(group.head.id),
        overwrites: false,
    });
    begun(gateway.evs_call(call).await?)
}

/// A pair
#[utoipa::path(get, path = "/v1/{project}/replications/{id}", tag = "evs",
    operation_id = "sdrs_show_pair", params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = SdrsPairShown), (status = "default", body = api::EvsError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<Json<SdrsPairShown>, Failure> {
    let pair = find(&gateway, named.id()?)?;
    Ok(Json(SdrsPairShown { replication: shown(&gateway, &pair).await }))
}

/// Rename a pair
#[utoipa::path(put, path = "/v1/{project}/replications/{id}", tag = "evs",
    operation_id = "sdrs_rename_pair", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsPairRename,
    responses((status = 200, body = SdrsPairShown), (status = "default", body = api::EvsError)))]
pub(super) async fn rename(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(wanted): Body<SdrsPairRename>,
) -> Result<Json<SdrsPairShown>, Failure> {
    check_name(&wanted.replication.name)?;
    let id = find(&gateway, named.id()?)?.head.id;
    let name = Some(wanted.replication.name);
    gateway.evs_call(Call::SetPair { id, name, description: None }).await?;
    let pair = find(&gateway, id)?;
    Ok(Json(SdrsPairShown { replication: shown(&gateway, &pair).await }))
}

/// Delete a pair; the production disk stays
#[utoipa::path(delete, path = "/v1/{project}/replications/{id}", tag = "evs",
    operation_id = "sdrs_delete_pair", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsPairDelete,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(wanted): Body<SdrsPairDelete>,
) -> Begun {
    let pair = find(&gateway, named.id()?)?;
    let group = id(&wanted.replication.server_group_id)?;
    if pair.group.is_some_and(|its| its != group) {
        let detail = format!("the pair is not in protection group {group}");
        return Err(coded(Code::Invalid, "SDRS.0207", detail).into());
    }
    let with_target = wanted.replication.delete_target_volume;
    begun(gateway.evs_call(Call::DeletePair { id: pair.head.id, with_target }).await?)
}

/// Expand both disks of a pair
#[utoipa::path(post, path = "/v1/{project}/replications/{id}/action", tag = "evs",
    operation_id = "sdrs_act_on_pair", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsPairAction,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn act(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(SdrsPairAction::ExtendReplication(wanted)): Body<SdrsPairAction>,
) -> Begun {
    let id = find(&gateway, named.id()?)?.head.id;
    begun(gateway.evs_call(Call::ExtendPair { id, gib: whole_gib(wanted.new_size)? }).await?)
}
