//! `/api/v1/groups/{group}/migrate`, `/restore` and `/diff`: moves that lose nothing, and a look at
//! what two sites wrote apart.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::{Body, Failure, Shared};

/// In what the copies of a group differ
///
/// What each side wrote since they parted, by volume and extent. The other sites are asked now; one
/// that does not answer within seconds is told as unknown, with the time it was last heard.
#[utoipa::path(get, path = "/api/v1/groups/{group}/diff", tag = "groups",
    operation_id = "diff_group", params(("group" = String, Path)),
    responses((status = 200, body = api::GroupDiff), (status = "default", body = api::Problem)))]
pub(super) async fn diff(
    State(gateway): Shared,
    Path(group): Path<String>,
) -> Result<Json<api::GroupDiff>, Failure> {
    Ok(Json(gateway.diff_group(&group).await?))
}

/// What a planned migration of this group to another site would mean
#[utoipa::path(post, path = "/api/v1/groups/{group}/migrate/plan", tag = "groups",
    operation_id = "plan_migration", params(("group" = String, Path)),
    request_body = api::MigrationPlanRequest,
    responses((status = 200, body = api::MigrationPlan), (status = "default", body = api::Problem)))]
pub(super) async fn plan_migration(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::MigrationPlanRequest>,
) -> Result<Json<api::MigrationPlan>, Failure> {
    Ok(Json(gateway.plan_migration(&group, &request.to).await?))
}

/// Run the plan of a migration, with its token
///
/// Hosts are held, what is in flight comes to its end, the other site takes over. It is rolled back
/// if it fails before the other site was asked to.
#[utoipa::path(post, path = "/api/v1/groups/{group}/migrate/run", tag = "groups",
    operation_id = "run_migration", params(("group" = String, Path)),
    request_body = api::MigrationRunRequest,
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn run_migration(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::MigrationRunRequest>,
) -> Result<(StatusCode, Json<api::Operation>), Failure> {
    let operation = gateway.run_migration(&group, &request).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// What a restore of this group to its original site would do
#[utoipa::path(post, path = "/api/v1/groups/{group}/restore/plan", tag = "groups",
    operation_id = "plan_restore", params(("group" = String, Path)),
    request_body = api::RestoreRequest,
    responses((status = 200, body = api::RestorePlan), (status = "default", body = api::Problem)))]
pub(super) async fn plan_restore(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::RestoreRequest>,
) -> Result<Json<api::RestorePlan>, Failure> {
    Ok(Json(gateway.plan_restore(&group, &request).await?))
}

/// Bring a group back to its original site, with what was written to the copy here
///
/// The copy here becomes the source, the original site follows, and when it has everything roles are
/// swapped. One that was cut short is run again by the same call.
#[utoipa::path(post, path = "/api/v1/groups/{group}/restore", tag = "groups",
    operation_id = "restore_group", params(("group" = String, Path)),
    request_body = api::RestoreRequest,
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn restore(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::RestoreRequest>,
) -> Result<(StatusCode, Json<api::Operation>), Failure> {
    let operation = gateway.restore(&group, &request).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Forget a restore that was begun; the group stays as it is
#[utoipa::path(delete, path = "/api/v1/groups/{group}/restore", tag = "groups",
    operation_id = "give_restore_up", params(("group" = String, Path)),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn give_up(
    State(gateway): Shared,
    Path(group): Path<String>,
) -> Result<StatusCode, Failure> {
    gateway.give_restore_up(&group).await?;
    Ok(StatusCode::NO_CONTENT)
}
