//! `/api/v1/groups/{group}/point-journal` and `/moments`: what mirrors write down, and a group as of any
//! second of it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::{Body, Failure, Shared};

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
