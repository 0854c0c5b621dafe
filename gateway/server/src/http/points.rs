//! `/api/v1/groups/{group}/points`: recovery points, their policy, their retention; and locks of
//! snapshots.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::paging::{Asked, Page, Parameters};
use super::{Body, Failure, Shared};

/// Rules to ask about in place of the policy's; all are taken from here as soon as one is.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    /// So many of the newest.
    count: Option<u32>,
    /// Those that are no older than so many days.
    days: Option<u32>,
    /// The newest of each of the last so many days that have one.
    daily: Option<u32>,
    /// The newest of each of the last so many weeks that have one.
    weekly: Option<u32>,
    /// The newest of each of the last so many months that have one.
    monthly: Option<u32>,
    /// The newest of each of the last so many years that have one.
    yearly: Option<u32>,
}

impl Rules {
    fn asked(&self) -> Option<api::PointRetention> {
        let Self { count, days, daily, weekly, monthly, yearly } = *self;
        let any = [count, days, daily, weekly, monthly, yearly].iter().any(Option::is_some);
        any.then(|| api::PointRetention {
            count,
            days,
            daily: daily.unwrap_or(0),
            weekly: weekly.unwrap_or(0),
            monthly: monthly.unwrap_or(0),
            yearly: yearly.unwrap_or(0),
        })
    }
}

/// What points are filtered and sorted by.
const FIELDS: &[&str] =
    &["id", "name", "time", "application_consistent", "used", "disabled", "exclusive_bytes"];

/// The recovery points of a group that this site keeps, oldest first, and `current` at its primary, in
/// pages if asked for
///
/// Filters: `id`, `name`, `time`, `application_consistent`, `used`, `disabled`, `exclusive_bytes`.
#[utoipa::path(get, path = "/api/v1/groups/{group}/points", tag = "points",
    operation_id = "list_points", params(("group" = String, Path), Parameters),
    responses((status = 200, body = api::PointList), (status = "default", body = api::Problem)))]
pub(super) async fn list(
    State(gateway): Shared,
    Path(group): Path<String>,
    Query(asked): Asked,
) -> Result<Json<api::PointList>, Failure> {
    let page = Page::read(asked, FIELDS)?;
    let mut list = gateway.show_points(&group).await?;
    (list.items, list.next) = page.take(list.items)?;
    Ok(Json(list))
}

/// Take a recovery point now, as the policy says
///
/// With `current` it is the point of what the volumes hold now, which can be used once for as long as
/// the group has the same primary.
#[utoipa::path(post, path = "/api/v1/groups/{group}/points", tag = "points",
    operation_id = "take_point", params(("group" = String, Path)), request_body = api::PointTake,
    responses((status = 201, body = api::Point), (status = "default", body = api::Problem)))]
pub(super) async fn take(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(wanted): Body<api::PointTake>,
) -> Result<(StatusCode, Json<api::Point>), Failure> {
    Ok((StatusCode::CREATED, Json(gateway.take_point(&group, wanted.current).await?)))
}

/// One recovery point, by name or id
#[utoipa::path(get, path = "/api/v1/groups/{group}/points/{point}", tag = "points",
    operation_id = "show_point", params(("group" = String, Path), ("point" = String, Path)),
    responses((status = 200, body = api::Point), (status = "default", body = api::Problem)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path((group, point)): Path<(String, String)>,
) -> Result<Json<api::Point>, Failure> {
    Ok(Json(gateway.point(&group, &point).await?))
}

/// The policy of a group's recovery points, and what came of it here since this gateway started
#[utoipa::path(get, path = "/api/v1/groups/{group}/point-policy", tag = "points",
    operation_id = "show_point_policy", params(("group" = String, Path)),
    responses((status = 200, body = api::PointPolicyState), (status = "default", body = api::Problem)))]
pub(super) async fn policy(
    State(gateway): Shared,
    Path(group): Path<String>,
) -> Result<Json<api::PointPolicyState>, Failure> {
    Ok(Json(gateway.point_policy(&group).await?))
}

/// Change the policy; what is not named stays
///
/// At the primary; its mirrors are told, and go on with it when they are the primary.
#[utoipa::path(patch, path = "/api/v1/groups/{group}/point-policy", tag = "points",
    operation_id = "set_point_policy", params(("group" = String, Path)),
    request_body = api::PointPolicyPatch,
    responses((status = 200, body = api::PointPolicyState), (status = "default", body = api::Problem)))]
pub(super) async fn set_policy(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(patch): Body<api::PointPolicyPatch>,
) -> Result<Json<api::PointPolicyState>, Failure> {
    Ok(Json(gateway.set_point_policy(&group, patch).await?))
}

/// What retention would do here now, by the policy's rules or by others, with every reason
#[utoipa::path(get, path = "/api/v1/groups/{group}/point-retention", tag = "points",
    operation_id = "plan_point_retention", params(("group" = String, Path), Rules),
    responses((status = 200, body = api::PointRetentionPlan), (status = "default", body = api::Problem)))]
pub(super) async fn retention(
    State(gateway): Shared,
    Path(group): Path<String>,
    Query(rules): Query<Rules>,
) -> Result<Json<api::PointRetentionPlan>, Failure> {
    Ok(Json(gateway.plan_retention(&group, rules.asked()).await?))
}

/// Lock a snapshot or recovery point, or make its lock longer; nobody makes it shorter
#[utoipa::path(post, path = "/api/v1/groups/{group}/snapshots/{snapshot}/lock", tag = "snapshots",
    operation_id = "lock_snapshot", params(("group" = String, Path), ("snapshot" = String, Path)),
    request_body = api::PointLock,
    responses((status = 200, body = api::Point), (status = "default", body = api::Problem)))]
pub(super) async fn lock(
    State(gateway): Shared,
    Path((group, snapshot)): Path<(String, String)>,
    Body(wanted): Body<api::PointLock>,
) -> Result<Json<api::Point>, Failure> {
    Ok(Json(gateway.lock_snapshot(&group, &snapshot, &wanted).await?))
}
