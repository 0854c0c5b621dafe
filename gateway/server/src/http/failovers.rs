//! `/api/v1/groups/{group}/failover` and `/reprotect`: plans, and what runs them.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::{Body, Failure, Shared};

/// What a failover of this group to this gateway would mean
#[utoipa::path(post, path = "/api/v1/groups/{group}/failover/plan", tag = "groups",
    operation_id = "plan_failover", params(("group" = String, Path)),
    request_body = api::PlanRequest,
    responses((status = 200, body = api::FailoverPlan), (status = "default", body = api::Problem)))]
pub(super) async fn plan(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::PlanRequest>,
) -> Result<Json<api::FailoverPlan>, Failure> {
    Ok(Json(gateway.plan_failover(&group, request.accept.as_deref()).await?))
}

/// Run a plan, with its token
#[utoipa::path(post, path = "/api/v1/groups/{group}/failover/run", tag = "groups",
    operation_id = "run_failover", params(("group" = String, Path)),
    request_body = api::RunRequest,
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn run(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::RunRequest>,
) -> Result<(StatusCode, Json<api::Operation>), Failure> {
    let operation = gateway.run_failover(&group, &request.token).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// What it would mean to bring the site that used to be the primary up to date
#[utoipa::path(post, path = "/api/v1/groups/{group}/reprotect/plan", tag = "groups",
    operation_id = "plan_reprotect", params(("group" = String, Path)),
    request_body = api::ReprotectRequest,
    responses((status = 200, body = api::ReprotectPlan), (status = "default", body = api::Problem)))]
pub(super) async fn plan_reprotect(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::ReprotectRequest>,
) -> Result<Json<api::ReprotectPlan>, Failure> {
    Ok(Json(gateway.plan_reprotect(&group, &request).await?))
}

/// Bring the site that used to be the primary up to date, by a plan's token
#[utoipa::path(post, path = "/api/v1/groups/{group}/reprotect/run", tag = "groups",
    operation_id = "run_reprotect", params(("group" = String, Path)),
    request_body = api::RunRequest,
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn run_reprotect(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::RunRequest>,
) -> Result<(StatusCode, Json<api::Operation>), Failure> {
    let operation = gateway.run_reprotect(&group, &request.token).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
