//! `/api/v1/groups/{group}/point-journal` and `/moments`: what mirrors write down, and a group as of any
//! second of it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::{Body, Failure, Shared};
use crate::gateway::rollbacks::Wanted;

/// The write journal of a group at this site: which seconds can be opened, and why not more
#[utoipa::path(get, path = "/api/v1/groups/{group}/point-journal", tag = "points",
    operation_id = "show_point_journal", params(("group" = String, Path)),
    responses((status = 200, body = api::PointJournalState), (status = "default", body = api::Problem)))]
pub(super) async fn journal(
    State(gateway): Shared,
    Path(group): Path<String>,
) -> Result<Json<api::PointJournalState>, Failure> {
    Ok(Json(gateway.point_journal(&group).await?))
}

/// Have the mirrors of a group write down what they apply
///
/// At the primary; its mirrors are told, and go on with it when they follow another one.
#[utoipa::path(put, path = "/api/v1/groups/{group}/point-journal", tag = "points",
    operation_id = "set_point_journal", params(("group" = String, Path)),
    request_body = api::PointJournal,
    responses((status = 200, body = api::PointJournalState), (status = "default", body = api::Problem)))]
pub(super) async fn set_journal(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(wanted): Body<api::PointJournal>,
) -> Result<Json<api::PointJournalState>, Failure> {
    Ok(Json(gateway.set_point_journal(&group, Some(wanted)).await?))
}

/// Have the mirrors of a group write nothing down, and remove what they have
///
/// Volumes that were opened as of a second stay.
#[utoipa::path(delete, path = "/api/v1/groups/{group}/point-journal", tag = "points",
    operation_id = "end_point_journal", params(("group" = String, Path)),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn end_journal(
    State(gateway): Shared,
    Path(group): Path<String>,
) -> Result<StatusCode, Failure> {
    gateway.set_point_journal(&group, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Open a group as of a second, as new volumes in a group of their own, which can be used at once
///
/// At a gateway that has a write journal of the group. All volumes are of one moment of the group: what
/// its primary began before it, and nothing else.
#[utoipa::path(post, path = "/api/v1/groups/{group}/moments", tag = "points",
    operation_id = "open_moment", params(("group" = String, Path)), request_body = api::MomentOpen,
    responses((status = 201, body = api::Moment), (status = "default", body = api::Problem)))]
pub(super) async fn open(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(wanted): Body<api::MomentOpen>,
) -> Result<(StatusCode, Json<api::Moment>), Failure> {
    Ok((StatusCode::CREATED, Json(gateway.open_moment(&group, wanted).await?)))
}

/// What making all volumes of a group what they were at a second would mean
///
/// At a gateway that has a write journal of the group. A mirror is asked with `swap`: the site that
/// serves the group hands it over first, and serves it again afterwards.
#[utoipa::path(post, path = "/api/v1/groups/{group}/moments/rollback/plan", tag = "points",
    operation_id = "plan_moment_rollback", params(("group" = String, Path)),
    request_body = api::MomentRollbackAsk,
    responses((status = 200, body = api::RollbackPlan), (status = "default", body = api::Problem)))]
pub(super) async fn plan_rollback(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(asked): Body<api::MomentRollbackAsk>,
) -> Result<Json<api::RollbackPlan>, Failure> {
    let wanted = Wanted::Second(&asked.at);
    Ok(Json(gateway.plan_rollback(&group, wanted, asked.swap).await?))
}

/// Make all volumes of a group what they were at the second of a plan, with its token
///
/// As to a snapshot: what was there is kept as one, and mirrors follow by delta. No host is let in
/// before all of it is there, whatever comes between.
#[utoipa::path(post, path = "/api/v1/groups/{group}/moments/rollback", tag = "points",
    operation_id = "roll_back_to_moment", params(("group" = String, Path)),
    request_body = api::RollbackRequest,
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn roll_back(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::RollbackRequest>,
) -> Result<(StatusCode, Json<api::Operation>), Failure> {
    let operation = gateway.roll_back((&group, None), &request).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
