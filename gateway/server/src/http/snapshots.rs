//! `/api/v1/groups/{group}/snapshots`: taken, listed, deleted, gone back to.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::paging::{Asked, Page, Parameters};
use super::{Body, Failure, Shared};
use crate::gateway::changes;
use crate::gateway::rollbacks::Wanted;

/// What snapshots are filtered and sorted by.
const FIELDS: &[&str] =
    &["id", "name", "origin", "state", "created_at", "exclusive_bytes", "shared_bytes"];

/// The snapshots of a group that this site keeps, oldest first, in pages if asked for
///
/// Filters: `id`, `name`, `origin`, `state`, `created_at`, `exclusive_bytes`, `shared_bytes`.
#[utoipa::path(get, path = "/api/v1/groups/{group}/snapshots", tag = "snapshots",
    operation_id = "list_snapshots", params(("group" = String, Path), Parameters),
    responses((status = 200, body = api::SnapshotList), (status = "default", body = api::Problem)))]
pub(super) async fn list(
    State(gateway): Shared,
    Path(group): Path<String>,
    Query(asked): Asked,
) -> Result<Json<api::SnapshotList>, Failure> {
    let page = Page::read(asked, FIELDS)?;
    let (items, next) = page.take(gateway.show_snapshots(&group).await?)?;
    Ok(Json(api::SnapshotList { as_of: gateway.clock.rfc3339(), items, next }))
}

/// Take a snapshot of all volumes of a group at one moment
///
/// Hosts go on. It is kept here and at every mirror that has everything; answered when it is durable
/// here.
#[utoipa::path(post, path = "/api/v1/groups/{group}/snapshots", tag = "snapshots",
    operation_id = "create_snapshot", params(("group" = String, Path)),
    request_body = api::SnapshotCreate,
    responses((status = 201, body = api::Snapshot), (status = "default", body = api::Problem)))]
pub(super) async fn create(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(wanted): Body<api::SnapshotCreate>,
) -> Result<(StatusCode, Json<api::Snapshot>), Failure> {
    Ok((StatusCode::CREATED, Json(gateway.create_snapshot(&group, wanted).await?)))
}

/// One snapshot, by name or id
#[utoipa::path(get, path = "/api/v1/groups/{group}/snapshots/{snapshot}", tag = "snapshots",
    operation_id = "show_snapshot", params(("group" = String, Path), ("snapshot" = String, Path)),
    responses((status = 200, body = api::Snapshot), (status = "default", body = api::Problem)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path((group, snapshot)): Path<(String, String)>,
) -> Result<Json<api::Snapshot>, Failure> {
    Ok(Json(gateway.snapshot(&group, &snapshot).await?))
}

/// Delete a snapshot, in any order with others
///
/// At a primary it is deleted at each mirror that is connected, too; at a mirror only there. Whoever
/// reads it goes on, and its room comes back a little later.
#[utoipa::path(delete, path = "/api/v1/groups/{group}/snapshots/{snapshot}", tag = "snapshots",
    operation_id = "delete_snapshot",
    params(("group" = String, Path), ("snapshot" = String, Path)),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path((group, snapshot)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    gateway.delete_snapshot(&group, &snapshot).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which part of what changed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    from: Option<String>,
    volume: Option<String>,
    #[serde(default)]
    offset: u64,
    limit: Option<usize>,
}

/// What may differ between two snapshots of a volume, or since one, in pages
///
/// With `from`, between that snapshot and this one; without, between this one and what is there now.
/// Ranges are in order; the next page begins at `offset` = `next` of the one before, until that is
/// absent. At most `limit` ranges (1000 if absent, 10000 at most).
#[utoipa::path(get, path = "/api/v1/groups/{group}/snapshots/{snapshot}/changes",
    tag = "snapshots", operation_id = "snapshot_changes",
    params(("group" = String, Path), ("snapshot" = String, Path),
        ("from" = Option<String>, Query), ("volume" = Option<String>, Query),
        ("offset" = Option<u64>, Query), ("limit" = Option<usize>, Query)),
    responses((status = 200, body = api::SnapshotChanges), (status = "default", body = api::Problem)))]
pub(super) async fn changes(
    State(gateway): Shared,
    Path((group, snapshot)): Path<(String, String)>,
    Query(part): Query<Part>,
) -> Result<Json<api::SnapshotChanges>, Failure> {
    let Part { from, volume, offset, limit } = part;
    let wanted = changes::Wanted { from, volume, offset, limit };
    Ok(Json(gateway.snapshot_changes((&group, &snapshot), wanted).await?))
}

/// What going back to a snapshot would mean
///
/// For what only a mirror keeps, it is asked with `swap`: the site that serves the group hands it over
/// first, and serves it again afterwards.
#[utoipa::path(post, path = "/api/v1/groups/{group}/snapshots/{snapshot}/rollback/plan",
    tag = "snapshots", operation_id = "plan_rollback",
    params(("group" = String, Path), ("snapshot" = String, Path)),
    request_body = api::RollbackAsk,
    responses((status = 200, body = api::RollbackPlan), (status = "default", body = api::Problem)))]
pub(super) async fn plan_rollback(
    State(gateway): Shared,
    Path((group, snapshot)): Path<(String, String)>,
    Body(asked): Body<api::RollbackAsk>,
) -> Result<Json<api::RollbackPlan>, Failure> {
    let wanted = Wanted::Snapshot(&snapshot);
    Ok(Json(gateway.plan_rollback(&group, wanted, asked.swap).await?))
}

/// Make all volumes of a group what they were at a snapshot, with the token of a plan
///
/// The sessions that run are suspended and resumed afterwards: the mirrors follow by delta. What was
/// there is kept as a snapshot of its own.
#[utoipa::path(post, path = "/api/v1/groups/{group}/snapshots/{snapshot}/rollback",
    tag = "snapshots", operation_id = "roll_back",
    params(("group" = String, Path), ("snapshot" = String, Path)),
    request_body = api::RollbackRequest,
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn roll_back(
    State(gateway): Shared,
    Path((group, snapshot)): Path<(String, String)>,
    Body(request): Body<api::RollbackRequest>,
) -> Result<(StatusCode, Json<api::Operation>), Failure> {
    let operation = gateway.roll_back((&group, Some(&snapshot)), &request).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
