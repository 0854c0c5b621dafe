//! The calls of `disaster-recovery-drills`.

use api::{Code, SdrsDrill, SdrsDrillCreate, SdrsDrillShown, SdrsDrillVolume, SdrsJobBegun};
use axum::Json;
use axum::extract::{Path, Query, State};
use serde_json::Value;

use super::groups::{find as find_group, status};
use super::{Asked, Begun, Body, Failure, Match, Named, Shared, begun, check_name, counted, id};
use crate::book::evs::{Drill, Wanted};
use crate::clock::text;
use crate::gateway::evs::{Call, coded};

fn shown(drill: &Drill) -> SdrsDrill {
    let volume = |(pair, volume): &(uuid::Uuid, String)| SdrsDrillVolume {
        replication_id: pair.to_string(),
        volume: volume.clone(),
    };
    SdrsDrill {
        id: drill.head.id.to_string(),
        name: drill.name.clone(),
        status: status(drill.life, Wanted::Idle).to_owned(),
        server_group_id: drill.group.to_string(),
        drill_vpc_id: drill.vpc.clone(),
        drill_volumes: drill.volumes.iter().map(volume).collect(),
        failure_reason: drill.fault.as_ref().map(|fault| format!("{}: {}", fault.code, fault.why)),
        created_at: text(drill.head.made_ms),
        updated_at: text(drill.head.changed_ms),
    }
}

/// Drills
#[utoipa::path(get, path = "/v1/{project}/disaster-recovery-drills", tag = "evs",
    operation_id = "sdrs_list_drills",
    params(("project" = String, Path), ("limit" = Option<u32>, Query),
           ("offset" = Option<u32>, Query), ("status" = Option<String>, Query),
           ("name" = Option<String>, Query), ("server_group_id" = Option<String>, Query)),
    responses((status = 200, body = api::SdrsDrillList), (status = "default", body = api::EvsError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Failure> {
    let pages = gateway.book.read();
    let drills = pages.evs.drills().map(|drill| serde_json::to_value(shown(drill)));
    let items: Vec<Value> = drills.map(Result::unwrap_or_default).collect();
    let filters = [
        ("status", "status", Match::Equal),
        ("name", "name", Match::Part),
        ("server_group_id", "server_group_id", Match::Equal),
    ];
    Ok(Json(counted("disaster_recovery_drills", items, &asked, &filters)?))
}

/// Make a drill: disks of what the other site holds, apart from what runs
#[utoipa::path(post, path = "/v1/{project}/disaster-recovery-drills", tag = "evs",
    operation_id = "sdrs_create_drill", params(("project" = String, Path)),
    request_body = SdrsDrillCreate,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(SdrsDrillCreate { disaster_recovery_drill: wanted }): Body<SdrsDrillCreate>,
) -> Begun {
    check_name(&wanted.name)?;
    let group = find_group(&gateway, id(&wanted.server_group_id)?)?.head.id;
    let call = Call::MakeDrill { name: wanted.name, group, vpc: wanted.drill_vpc_id };
    begun(gateway.evs_call(call).await?)
}

/// A drill
#[utoipa::path(get, path = "/v1/{project}/disaster-recovery-drills/{id}", tag = "evs",
    operation_id = "sdrs_show_drill", params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = SdrsDrillShown), (status = "default", body = api::EvsError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<Json<SdrsDrillShown>, Failure> {
    let id = named.id()?;
    let pages = gateway.book.read();
    let drill = pages
        .evs
        .drills()
        .find(|drill| drill.head.id == id)
        .ok_or_else(|| coded(Code::NotFound, "SDRS.1901", format!("there is no drill {id}")))?;
    Ok(Json(SdrsDrillShown { disaster_recovery_drill: shown(drill) }))
}

/// End a drill: its disks are deleted
#[utoipa::path(delete, path = "/v1/{project}/disaster-recovery-drills/{id}", tag = "evs",
    operation_id = "sdrs_delete_drill", params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn delete(State(gateway): Shared, Path(named): Path<Named>) -> Begun {
    begun(gateway.evs_call(Call::DeleteDrill { id: named.id()? }).await?)
}
