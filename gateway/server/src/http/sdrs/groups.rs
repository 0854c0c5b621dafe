//! The calls of `server-groups`.

use api::{
    Code, SdrsGroup, SdrsGroupAction, SdrsGroupCreate, SdrsGroupRename, SdrsGroupShown,
    SdrsJobBegun,
};
use axum::Json;
use axum::extract::{Path, Query, State};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Asked, Begun, Body, Failure, Match, Named, Shared, begun, check_description, check_name,
    counted, domains,
};
use crate::book::evs::{Dialect, Group, Life, Wanted};
use crate::clock::text;
use crate::gateway::Gateway;
use crate::gateway::evs::gates::Action;
use crate::gateway::evs::view::{Data, Replication};
use crate::gateway::evs::{Call, NewGroup, SetGroup, coded};
use crate::refusal::Refused;

/// Three months: a group that has had no drill for so long is listed by that query.
const DRILL_DAYS: u64 = 90;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The service's word for what becomes of a group, a pair or a protected instance.
pub(super) const fn status(life: Life, wanted: Wanted) -> &'static str {
    match life {
        Life::Creating => "creating",
        Life::Available if matches!(wanted, Wanted::Running) => "protected",
        Life::Available | Life::Updating => "available",
        Life::Error => "error",
        Life::Deleting => "deleting",
        Life::ErrorDeleting => "error-deleting",
        Life::Starting => "starting",
        Life::ErrorStarting => "error-starting",
        Life::Stopping => "stopping",
        Life::ErrorStopping => "error-stopping",
        Life::Reversing => "reversing",
        Life::ErrorReversing => "error-reversing",
        Life::FailingOver => "failing-over",
        Life::FailedOver => "failed-over",
        Life::ErrorFailingOver => "error-failing-over",
        Life::Reprotecting => "reprotecting",
        Life::ErrorReprotecting => "error-reprotecting",
        Life::NicCreating => "nic-creating",
        Life::NicDeleting => "nic-deleting",
        Life::Resizing => "resizing",
        Life::ErrorResizing => "error-resizing",
        Life::Attaching => "attaching",
        Life::ErrorAttaching => "error-attaching",
        Life::Detaching => "detaching",
        Life::ErrorDetaching => "error-detaching",
    }
}

/// Which of its two zones is the production site, in the service's word.
pub(super) const fn station(primary: usize) -> &'static str {
    if primary == 0 { "source" } else { "target" }
}

async fn shown(gateway: &Gateway, group: &Group) -> SdrsGroup {
    let core = gateway.core_status(group).await;
    let pages = gateway.book.read();
    let pairs: Vec<_> = pages.evs.pairs_of(group.head.id).cloned().collect();
    let data = gateway.data_of_pairs(core.as_deref(), group, &pairs).await;
    let whole = Data::worst(&data);
    let is_new = group.wanted == Wanted::Idle;
    let said = |word: &str| (!is_new).then(|| word.to_owned());
    let is_well = whole.fault_level == 0 && whole.replication != Replication::Error;
    let drills = pages.evs.drills().filter(|drill| drill.group == group.head.id).count();
    let is_started = group.wanted == Wanted::Running;
    SdrsGroup {
        id: group.head.id.to_string(),
        name: group.name.clone(),
        description: group.description.clone(),
        status: status(group.life, group.wanted).to_owned(),
        progress: whole.progress.unwrap_or(0),
        source_availability_zone: group.stations[0].clone(),
        target_availability_zone: group.stations[1].clone(),
        domain_id: group.domain.clone(),
        priority_station: station(group.primary).to_owned(),
        protected_status: said(if is_started { "started" } else { "stopped" }),
        replication_status: said(whole.replication.word()),
        health_status: said(if is_well { "normal" } else { "abnormal" }),
        protected_instance_num: pages.evs.instances_of(group.head.id).count(),
        replication_num: data.len(),
        disaster_recovery_drill_num: drills,
        source_vpc_id: group.vpc.clone(),
        target_vpc_id: group.vpc.clone(),
        dr_type: "migration".to_owned(),
        protection_type: "replication-pair".to_owned(),
        failure_reason: group.fault.as_ref().map(|fault| format!("{}: {}", fault.code, fault.why)),
        core_group: core.map(|core| core.name.clone()),
        created_at: text(group.head.made_ms),
        updated_at: text(group.head.changed_ms),
    }
}

pub(super) fn find(gateway: &Gateway, id: Uuid) -> Result<Group, Refused> {
    gateway.book.read().evs.group_in(Dialect::Sdrs, id).cloned()
}

/// Protection groups
#[utoipa::path(get, path = "/v1/{project}/server-groups", tag = "evs",
    operation_id = "sdrs_list_groups",
    params(("project" = String, Path), ("limit" = Option<u32>, Query),
           ("offset" = Option<u32>, Query), ("status" = Option<String>, Query),
           ("name" = Option<String>, Query), ("query_type" = Option<String>, Query),
           ("availability_zone" = Option<String>, Query)),
    responses((status = 200, body = api::SdrsGroupList), (status = "default", body = api::EvsError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(mut asked): Query<Asked>,
) -> Result<Json<Value>, Failure> {
    let pages = gateway.book.read();
    let query = asked.remove("query_type");
    let zone = asked.remove("availability_zone");
    let now_ms = gateway.clock.unix_ms();
    let mut items = Vec::new();
    for group in pages.evs.groups().filter(|group| group.dialect == Dialect::Sdrs) {
        let is_there = zone.as_ref().is_none_or(|zone| group.stations[group.primary] == *zone);
        if is_there && is_queried(group, query.as_deref(), now_ms)? {
            items.push(serde_json::to_value(shown(&gateway, group).await).unwrap_or_default());
        }
    }
    let filters = [("status", "status", Match::Equal), ("name", "name", Match::Part)];
    Ok(Json(counted("server_groups", items, &asked, &filters)?))
}

fn is_queried(group: &Group, query: Option<&str>, now_ms: u64) -> Result<bool, Refused> {
    match query {
        None => Ok(true),
        Some("status_abnormal") => Ok(status(group.life, group.wanted).starts_with("error")),
        Some("stop_protected") => Ok(status(group.life, group.wanted) == "available"),
        Some("period_no_dr_drill") => {
            let since = now_ms.saturating_sub(DRILL_DAYS * DAY_MS);
            Ok(group.drilled_ms.is_none_or(|drilled| drilled < since))
        }
        Some(other) => {
            let detail = format!(
                "query_type is status_abnormal, stop_protected or period_no_dr_drill, not {other:?}"
            );
            Err(coded(Code::Invalid, "SDRS.0201", detail))
        }
    }
}

/// Make a protection group
#[utoipa::path(post, path = "/v1/{project}/server-groups", tag = "evs",
    operation_id = "sdrs_create_group", params(("project" = String, Path)),
    request_body = SdrsGroupCreate,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(SdrsGroupCreate { server_group: wanted }): Body<SdrsGroupCreate>,
) -> Begun {
    check_name(&wanted.name)?;
    check_description(&wanted.description)?;
    if wanted.dr_type.as_deref().is_some_and(|word| word != "migration") {
        let detail = "dr_type is migration";
        return Err(coded(Code::Invalid, "SDRS.0201", detail).into());
    }
    let (source, target) = (&wanted.source_availability_zone, &wanted.target_availability_zone);
    if !domains::is_of(&wanted.domain_id, source, target) {
        let detail = format!("domain {} is not the one of {source} and {target}", wanted.domain_id);
        return Err(coded(Code::Invalid, "SDRS.0205", detail).into());
    }
    let all = domains::all(&gateway).await?;
    if all.iter().any(|domain| domain.id == wanted.domain_id && domain.sold_out) {
        let detail = format!("domain {} is sold out", wanted.domain_id);
        return Err(coded(Code::PlacementRefused, "SDRS.1011", detail).into());
    }
    let call = Call::MakeGroup(NewGroup {
        dialect: Dialect::Sdrs,
        name: wanted.name,
        description: wanted.description,
        pairs: Vec::new(),
        station: wanted.source_availability_zone,
        target: Some(wanted.target_availability_zone),
        vpc: wanted.source_vpc_id,
        domain: wanted.domain_id,
    });
    begun(gateway.evs_call(call).await?)
}

/// A protection group
#[utoipa::path(get, path = "/v1/{project}/server-groups/{id}", tag = "evs",
    operation_id = "sdrs_show_group", params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = SdrsGroupShown), (status = "default", body = api::EvsError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<Json<SdrsGroupShown>, Failure> {
    let group = find(&gateway, named.id()?)?;
    Ok(Json(SdrsGroupShown { server_group: shown(&gateway, &group).await }))
}

/// Rename a protection group
#[utoipa::path(put, path = "/v1/{project}/server-groups/{id}", tag = "evs",
    operation_id = "sdrs_rename_group", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsGroupRename,
    responses((status = 200, body = SdrsGroupShown), (status = "default", body = api::EvsError)))]
pub(super) async fn rename(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(wanted): Body<SdrsGroupRename>,
) -> Result<Json<SdrsGroupShown>, Failure> {
    check_name(&wanted.server_group.name)?;
    let id = find(&gateway, named.id()?)?.head.id;
    let change = SetGroup { name: Some(wanted.server_group.name), ..SetGroup::default() };
    gateway.evs_call(Call::SetGroup { id, change }).await?;
    let group = find(&gateway, id)?;
    Ok(Json(SdrsGroupShown { server_group: shown(&gateway, &group).await }))
}

/// Delete a protection group that has no pairs and no drills
#[utoipa::path(delete, path = "/v1/{project}/server-groups/{id}", tag = "evs",
    operation_id = "sdrs_delete_group", params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn delete(State(gateway): Shared, Path(named): Path<Named>) -> Begun {
    let id = find(&gateway, named.id()?)?.head.id;
    begun(gateway.evs_call(Call::DeleteGroup { id }).await?)
}

/// Turn protection on or off, swap the sites, or let the other one take over
#[utoipa::path(post, path = "/v1/{project}/server-groups/{id}/action", tag = "evs",
    operation_id = "sdrs_act_on_group", params(("project" = String, Path), ("id" = String, Path)),
    request_body = SdrsGroupAction,
    responses((status = 200, body = SdrsJobBegun), (status = "default", body = api::EvsError)))]
pub(super) async fn act(
    State(gateway): Shared,
    Path(named): Path<Named>,
    Body(asked): Body<SdrsGroupAction>,
) -> Begun {
    let group = find(&gateway, named.id()?)?;
    let is_over = matches!(group.life, Life::FailedOver | Life::ErrorReprotecting);
    let action = match asked {
        // The same word turns protection on for the first time and after a failover.
        SdrsGroupAction::Start(words) if is_over => {
            Action::Reprotect { discard: words.confirm_discard }
        }
        SdrsGroupAction::Start(_) => Action::Sync,
        SdrsGroupAction::Stop(_) => Action::Pause,
        SdrsGroupAction::Reverse(words) => {
            if !["source", "target"].contains(&&*words.priority_station) {
                let detail = "priority_station is source or target";
                return Err(coded(Code::Invalid, "SDRS.0216", detail).into());
            }
            Action::Reverse { to: Some(words.priority_station) }
        }
        SdrsGroupAction::Failover(words) => Action::Failover { confirm: words.confirm },
    };
    begun(gateway.evs_call(Call::Act { id: group.head.id, action }).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::evs;

    fn group(life: Life, wanted: Wanted, drilled_ms: Option<u64>) -> Group {
        Group { life, wanted, drilled_ms, ..evs::samples::group() }
    }

    #[test]
    fn evs_44_a_group_without_a_drill_for_three_months_is_found() {
        let now_ms = 200 * DAY_MS;
        let query = Some("period_no_dr_drill");
        for (drilled, found) in
            [(None, true), (Some(100 * DAY_MS), true), (Some(150 * DAY_MS), false)]
        {
            let group = group(Life::Available, Wanted::Running, drilled);
            assert_eq!(is_queried(&group, query, now_ms), Ok(found), "{drilled:?}");
        }
        let stopped = group(Life::Available, Wanted::Paused, None);
        assert_eq!(is_queried(&stopped, Some("stop_protected"), now_ms), Ok(true));
        assert_eq!(is_queried(&stopped, Some("status_abnormal"), now_ms), Ok(false));
        assert!(is_queried(&stopped, Some("all"), now_ms).is_err());
    }

    #[test]
    fn evs_32_the_two_zones_stay_and_the_station_says_which_is_production() {
        assert_eq!((station(0), station(1)), ("source", "target"));
        assert_eq!(status(Life::Available, Wanted::Running), "protected");
        assert_eq!(status(Life::Available, Wanted::Paused), "available");
        assert_eq!(status(Life::ErrorReprotecting, Wanted::FailedOver), "error-reprotecting");
    }
}
