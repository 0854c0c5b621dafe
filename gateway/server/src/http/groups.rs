//! `/api/v1/status` and `/api/v1/groups`.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;

use super::paging::{Asked, Page, Parameters};
use super::{Body, Failure, Shared};
use crate::gateway::Gateway;

/// What groups are filtered and sorted by.
const FIELDS: &[&str] = &["id", "name", "health", "role", "epoch", "serving", "quality"];

/// The status screen
#[utoipa::path(get, path = "/api/v1/status", tag = "status", operation_id = "status",
    responses((status = 200, body = api::Status), (status = "default", body = api::Problem)))]
pub(super) async fn status(State(gateway): Shared) -> Json<api::Status> {
    Json(gateway.show_status().await)
}

/// All groups, worst first, in pages if asked for
///
/// Filters: `id`, `name`, `health`, `role`, `epoch`, `serving`, `quality`.
#[utoipa::path(get, path = "/api/v1/groups", tag = "groups", operation_id = "list_groups",
    params(Parameters),
    responses((status = 200, body = api::GroupList), (status = "default", body = api::Problem)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(asked): Asked,
) -> Result<Json<api::GroupList>, Failure> {
    let page = Page::read(asked, FIELDS)?;
    let (items, next) = page.take(gateway.show_groups().await)?;
    Ok(Json(api::GroupList { as_of: gateway.clock.rfc3339(), items, next }))
}

/// One group, by name or id
#[utoipa::path(get, path = "/api/v1/groups/{group}", tag = "groups",
    operation_id = "show_group", params(("group" = String, Path)),
    responses((status = 200, body = api::Group), (status = "default", body = api::Problem)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(group): Path<String>,
) -> Result<Json<api::Group>, Failure> {
    let entry = gateway.find_group(&group)?;
    let known = gateway.look_at(entry.group()).await;
    Ok(Json(Gateway::show_group(&entry, &known)))
}

/// Opens this site's copy of a group to hosts, read-write and on its own, while its session is
/// suspended
///
/// What is written here is tracked, and discarded when the session is resumed at its source.
#[utoipa::path(post, path = "/api/v1/groups/{group}/detach", tag = "groups",
    operation_id = "detach_group", params(("group" = String, Path)),
    responses((status = 200, body = api::Group), (status = "default", body = api::Problem)))]
pub(super) async fn detach(
    State(gateway): Shared,
    Path(group): Path<String>,
) -> Result<Json<api::Group>, Failure> {
    let entry = gateway.find_group(&group)?;
    gateway.command(entry.group(), mirror::Command::Detach).await?;
    let known = gateway.look_at(entry.group()).await;
    Ok(Json(Gateway::show_group(&entry, &known)))
}

/// Make a group of volumes that exist
#[utoipa::path(post, path = "/api/v1/groups", tag = "groups", operation_id = "create_group",
    request_body = api::GroupCreate,
    responses((status = 201, body = api::Group), (status = "default", body = api::Problem)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(wanted): Body<api::GroupCreate>,
) -> Result<(StatusCode, Json<api::Group>), Failure> {
    Ok((StatusCode::CREATED, Json(gateway.make_group(&wanted).await?)))
}

/// How a group is deleted.
#[derive(serde::Deserialize)]
pub(super) struct Deletion {
    #[serde(default)]
    lost: bool,
}

/// Take a group apart: each of its volumes goes on in a group of its own
#[utoipa::path(delete, path = "/api/v1/groups/{group}", tag = "groups",
    operation_id = "delete_group",
    params(("group" = String, Path),
           ("lost" = Option<bool>, Query,
            description = "true: give up what this site still has of a group that cannot be opened")),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(group): Path<String>,
    Query(Deletion { lost }): Query<Deletion>,
) -> Result<StatusCode, Failure> {
    if lost {
        gateway.give_up_group(&group).await?;
    } else {
        gateway.delete_group(&group).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Let a volume join a group; its mirrors get all of the volume, and of the others what they missed
#[utoipa::path(post, path = "/api/v1/groups/{group}/volumes", tag = "groups",
    operation_id = "add_to_group", params(("group" = String, Path)),
    request_body = api::GroupJoin,
    responses((status = 200, body = api::Group), (status = "default", body = api::Problem)))]
pub(super) async fn add(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(wanted): Body<api::GroupJoin>,
) -> Result<Json<api::Group>, Failure> {
    Ok(Json(gateway.join_group(&group, &wanted.volume).await?))
}

/// Let a volume leave a group; it goes on in one of its own, and at the mirrors as an old copy
#[utoipa::path(delete, path = "/api/v1/groups/{group}/volumes/{volume}", tag = "groups",
    operation_id = "remove_from_group", params(("group" = String, Path), ("volume" = String, Path)),
    responses((status = 200, body = api::Group), (status = "default", body = api::Problem)))]
pub(super) async fn remove(
    State(gateway): Shared,
    Path((group, volume)): Path<(String, String)>,
) -> Result<Json<api::Group>, Failure> {
    Ok(Json(gateway.leave_group(&group, &volume).await?))
}
