//! The calls of `protected-instances`.

use api::{
    Code, SdrsAttach, SdrsAttachment, SdrsInstance, SdrsInstanceCreate, SdrsInstanceDelete,
    SdrsInstanceRename, SdrsInstanceShown, SdrsJobBegun, SdrsNic, SdrsNicCreate, SdrsNicDelete,
    SdrsResize,
};
use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::groups::{find as find_group, station, status as status_of};
use super::tags::{check_tags, shown as shown_tag};
use super::{
    Asked, Begun, Body, Failure, Match, Named, Shared, begun, check_description, check_name,
    counted, id, listed_ids,
};
use crate::book::evs::{Group, Instance, Life, Wanted};
use crate::clock::text;
use crate::gateway::Gateway;
use crate::gateway::evs::view::{Data, Replication};
use crate::gateway::evs::{Call, InstanceCall, NewInstance, NewNic, coded};
use crate::refusal::Refused;

/// An instance is as its group is, unless something is the matter with its servers or its pairs.
fn status(instance: &Instance, group: Option<&Group>, data: Data) -> &'static str {
    let Some(group) = group else { return status_of(instance.life, Wanted::Idle) };
    match instance.life {
        Life::Available if instance.lost.is_some() => "invalid",
        Life::Available if instance.is_displaced && !group.life.is_busy() => match group.life {
            Life::FailedOver => "error-failing-over",
            _ => "error-reversing",
        },
        Life::Available if data.replication == Replication::Error => "fault",
        Life::Available => status_of(group.life, group.wanted),
        life => status_of(life, group.wanted),
    }
}

pub(super) async fn shown(gateway: &Gateway, instance: &Instance) -> SdrsInstance {
    let pages = gateway.book.read();
    let group = pages.evs.group(instance.group).ok().cloned();
    let pairs = instance.disks.iter().filter_map(|disk| pages.evs.pair(disk.pair).ok());
    let pairs: Vec<_> = pairs.cloned().collect();
    let data = match &group {
        Some(group) => {
            let core = gateway.core_status(group).await;
            Data::worst(&gateway.data_of_pairs(core.as_deref(), group, &pairs).await)
        }
        None => Data::IDLE,
    };
    let lost = instance.lost.as_ref().map(|lost| format!("server {lost} does not exist any more"));
    let fault = instance.fault.as_ref().map(|fault| format!("{}: {}", fault.code, fault.why));
    let attachment = |disk: &crate::book::evs::Attached| SdrsAttachment {
        replication: disk.pair.to_string(),
        device: disk.device.clone(),
    };
    let nic = |nic: &crate::book::evs::Nic| SdrsNic {
        active: nic.active.clone(),
        standby: nic.standby.clone(),
    };
    SdrsInstance {
        id: instance.head.id.to_string(),
        name: instance.name.clone(),
        description: instance.description.clone(),
        server_group_id: instance.group.to_string(),
        status: status(instance, group.as_ref(), data).to_owned(),
        progress: data.progress.unwrap_or(0),
        source_server: instance.servers[0].clone(),
        target_server: instance.servers[1].clone(),
        priority_station: station(group.map_or(0, |group| group.primary)).to_owned(),
        attachment: instance.disks.iter().map(attachment).collect(),
        nics: instance.nics.iter().map(nic).collect(),
        tags: instance.tags.iter().map(shown_tag).collect(),
        metadata: json!({}),
        failure_reason: lost.or(fault),
        created_at: text(instance.head.made_ms),
        updated_at: text(instance.head.changed_ms),
    }
}

pub(super) fn find(gateway: &Gateway, id: Uuid) -> Result<Instance, Refused> {
    gateway.book.read().evs.instance(id).cloned()
}

/// Protected instances
#[utoipa::path(get, path = "/v1/{project}/protected-instances", tag = "evs",
    operation_id = "sdrs_list_instances",
    params(("project" = String, Path), ("limit" = Option<u32>, Query),
           ("offset" = Option<u32>, Query), ("status" = Option<String>, Query),
           ("name" = Option<String>, Query), ("server_group_id" = Option<String>, Query),
           ("server_group_ids" = Option<String>, Query),
           ("protected_instance_ids" = Option<String>, Query)),
    responses((status = 200, body = api::SdrsInstanceList),
              (status = "default", body = api::EvsError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(mut asked): Query<Asked>,
) -> Result<Json<Value>, Failure> {
    let groups = listed_ids(&mut asked, "server_group_ids")?;
    let these = listed_ids(&mut asked, "protected_instance_ids")?;
    let is_one = |of: &Option<Vec<String>>, id: Uuid| {
        of.as_ref().is_none_or(|of| of.contains(&id.to_string()))
    };
    let pages = gateway.book.read();
    let mut items = Vec::new();
    for instance in pages.evs.instances() {
        if is_one(&groups, instance.group) && is_one(&these, instance.head.id) {
            items.push(serde_json::to_value(shown(&gateway, instance).await).unwrap_or_default());
        }
    }
    let filters = [
        ("status", "status", Match::Equal),
        ("name", "name", Match::Part),
        ("server_group_id", "server_group_id", Match::Equal),
    ];
    Ok(Json(counted("protected_instances", items, &asked, &filters)?))
}

/// Protect a server: a server that stands in for it is made in the other zone
#[utoipa::path(post, path = "/v1/{project}/protected-instances", tag = "evs",
    operation_id = "sdrs_create_instance", params(("project" = String, Path)),
    request_body = SdrsInstanceCreate,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(SdrsInstanceCreate { protected_instance: wanted }): Body<SdrsInstanceCreate>,
) -> Begun {
    check_name(&wanted.name)?;
    check_description(&wanted.description)?;
    check_tags(&wanted.tags)?;
    if wanted.server_id.is_empty() {
        return Err(coded(Code::Invalid, "SDRS.0210", "server_id names a server").into());
    }
    if wanted.primary_subnet_id.is_empty() && !wanted.primary_ip_address.is_empty() {
        let detail = "primary_ip_address needs primary_subnet_id";
        return Err(coded(Code::Invalid, "SDRS.0219", detail).into());
    }
    let group = find_group(&gateway, id(&wanted.server_group_id)?)?;
    let of = InstanceCall::Make(NewInstance {
        group: group.head.id,
        server: wanted.server_id,
        name: wanted.name,
        description: wanted.description,
        subnet: wanted.primary_subnet_id,
        ip: wanted.primary_ip_address,
        flavour: wanted.flavor_ref,
        tags: wanted.tags.into_iter().map(|tag| (tag.key, tag.value)).collect(),
    });
    begun(gateway.evs_call(Call::Instance { of }).await?)
}

/// A protected instance
#[utoipa::path(get, path = "/v1/{project}/protected-instances/{id}", tag = "evs",
    operation_id = "sdrs_show_instance", params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = SdrsInstanceShown), (status = "default", body = api::EvsError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<Json<SdrsInstanceShown>, Failure> {
    let instance = find(&gateway, named.id()?)?;
    Ok(Json(SdrsInstanceShown { protected_instance: shown(&gateway, &instance).await }))
}

/// Rename a protected instance
#[utoipa::path(put, path = "/v1/{project}/protected-instances/{id}", tag = "evs",
    operation_id = "sdrs_rename_instance",
    params(("project" = String, Path), ("id" = String, Path)), request_body = SdrsInstanceRename,
    responses((status = 200, body = SdrsInstanceShown), (status = "default", body = api::EvsError)))]
pub(super) async fn rename(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(wanted): Body<SdrsInstanceRename>,
) -> Result<Json<SdrsInstanceShown>, Failure> {
    check_name(&wanted.protected_instance.name)?;
    let id = find(&gateway, named.id()?)?.head.id;
    let of = InstanceCall::Rename { id, name: wanted.protected_instance.name };
    gateway.evs_call(Call::Instance { of }).await?;
    let instance = find(&gateway, id)?;
    Ok(Json(SdrsInstanceShown { protected_instance: shown(&gateway, &instance).await }))
}

/// Protect a server no more; it stays, and so do its pairs
#[utoipa::path(delete, path = "/v1/{project}/protected-instances/{id}", tag = "evs",
    operation_id = "sdrs_delete_instance",
    params(("project" = String, Path), ("id" = String, Path)), request_body = SdrsInstanceDelete,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(wanted): Body<SdrsInstanceDelete>,
) -> Begun {
    let of = InstanceCall::Delete {
        id: named.id()?,
        with_server: wanted.delete_target_server,
        with_address: wanted.delete_target_eip,
    };
    begun(gateway.evs_call(Call::Instance { of }).await?)
}

/// Attach a pair to both servers of an instance
#[utoipa::path(post, path = "/v1/{project}/protected-instances/{id}/attachreplication", tag = "evs",
    operation_id = "sdrs_attach_pair", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsAttach,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn attach(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(SdrsAttach { attachment: wanted }): Body<SdrsAttach>,
) -> Begun {
    let is_device = wanted.device.strip_prefix("/dev/").is_some_and(|name| {
        (1..=16).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase())
    });
    if !is_device {
        let detail = format!("{:?} is no device: say one as /dev/vdb", wanted.device);
        return Err(coded(Code::Invalid, "SDRS.0201", detail).into());
    }
    let pair = id(&wanted.replication_id)?;
    let of = InstanceCall::Attach { id: named.id()?, pair, device: wanted.device };
    begun(gateway.evs_call(Call::Instance { of }).await?)
}

/// What a path names: an instance, and a pair of it.
#[derive(Debug, Deserialize)]
pub(super) struct NamedPair {
    id: String,
    pair: String,
}

/// Take a pair out of both servers of an instance
#[utoipa::path(delete, path = "/v1/{project}/protected-instances/{id}/detachreplication/{pair}",
    tag = "evs", operation_id = "sdrs_detach_pair",
    params(("project" = String, Path), ("id" = String, Path), ("pair" = String, Path)),
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn detach(State(gateway): Shared, Path(named): Path<NamedPair>) -> Begun {
    let of = InstanceCall::Detach { id: id(&named.id)?, pair: id(&named.pair)? };
    begun(gateway.evs_call(Call::Instance { of }).await?)
}

/// Give both servers of an instance an interface
#[utoipa::path(post, path = "/v1/{project}/protected-instances/{id}/nic", tag = "evs",
    operation_id = "sdrs_add_nic", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsNicCreate,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn add_nic(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(wanted): Body<SdrsNicCreate>,
) -> Begun {
    if wanted.subnet_id.is_empty() {
        return Err(coded(Code::Invalid, "SDRS.0201", "subnet_id names a network").into());
    }
    let security_groups = wanted.security_groups.into_iter().map(|group| group.id).collect();
    let nic = NewNic { subnet: wanted.subnet_id, ip: wanted.ip_address, security_groups };
    let of = InstanceCall::AddNic { id: named.id()?, nic };
    begun(gateway.evs_call(Call::Instance { of }).await?)
}

/// Take an interface from both servers of an instance
#[utoipa::path(post, path = "/v1/{project}/protected-instances/{id}/nic/delete", tag = "evs",
    operation_id = "sdrs_remove_nic", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsNicDelete,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn remove_nic(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(wanted): Body<SdrsNicDelete>,
) -> Begun {
    let of = InstanceCall::RemoveNic { id: named.id()?, port: wanted.nic_id };
    begun(gateway.evs_call(Call::Instance { of }).await?)
}

/// Change the flavours of an instance's stopped servers
#[utoipa::path(post, path = "/v1/{project}/protected-instances/{id}/resize", tag = "evs",
    operation_id = "sdrs_resize_instance",
    params(("project" = String, Path), ("id" = String, Path)), request_body = SdrsResize,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn resize(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(SdrsResize { resize: wanted }): Body<SdrsResize>,
) -> Begun {
    let flavours = match wanted.both {
        Some(both) => [Some(both.clone()), Some(both)],
        None => [wanted.production, wanted.recovery],
    };
    let of = InstanceCall::Resize { id: named.id()?, flavours };
    begun(gateway.evs_call(Call::Instance { of }).await?)
}
