//! `/api/v1/plans` and `/api/v1/runs`: plans, their runs, and what people say to them.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use recovery::run::Word;

use super::auth::Caller;
use super::{Body, Failure, Shared};
use crate::gateway::runs::run_id;

/// All plans, by name; one that cannot be read says why
#[utoipa::path(get, path = "/api/v1/plans", tag = "plans", operation_id = "list_plans",
    responses((status = 200, body = api::PlanList), (status = "default", body = api::Problem)))]
pub(super) async fn plans(State(gateway): Shared) -> Result<Json<api::PlanList>, Failure> {
    let items = gateway.show_plans().await?;
    Ok(Json(api::PlanList { as_of: gateway.clock.rfc3339(), items }))
}

/// Save a plan, in place of the one that was saved under its name
#[utoipa::path(post, path = "/api/v1/plans", tag = "plans", operation_id = "save_plan",
    request_body = api::PlanText,
    responses((status = 201, body = api::Plan), (status = "default", body = api::Problem)))]
pub(super) async fn save(
    State(gateway): Shared,
    Body(text): Body<api::PlanText>,
) -> Result<(StatusCode, Json<api::Plan>), Failure> {
    Ok((StatusCode::CREATED, Json(gateway.save_plan(&text).await?)))
}

/// Prove a plan without saving it
#[utoipa::path(post, path = "/api/v1/plans/check", tag = "plans", operation_id = "check_plan",
    request_body = api::PlanText,
    responses((status = 200, body = api::Plan), (status = "default", body = api::Problem)))]
pub(super) async fn check(
    State(gateway): Shared,
    Body(text): Body<api::PlanText>,
) -> Result<Json<api::Plan>, Failure> {
    Ok(Json(gateway.check_plan(&text).await?))
}

/// Let a plugin write a plan; it is proven and not saved
#[utoipa::path(post, path = "/api/v1/plans/make", tag = "plans", operation_id = "make_plan",
    request_body = api::PlanMake,
    responses((status = 200, body = api::PlanMade), (status = "default", body = api::Problem)))]
pub(super) async fn make(
    State(gateway): Shared,
    Extension(Caller(actor)): Extension<Caller>,
    Body(wanted): Body<api::PlanMake>,
) -> Result<Json<api::PlanMade>, Failure> {
    Ok(Json(gateway.make_plan(&wanted, &actor).await?))
}

/// One plan
#[utoipa::path(get, path = "/api/v1/plans/{plan}", tag = "plans", operation_id = "show_plan",
    params(("plan" = String, Path)),
    responses((status = 200, body = api::Plan), (status = "default", body = api::Problem)))]
pub(super) async fn plan(
    State(gateway): Shared,
    Path(plan): Path<String>,
) -> Result<Json<api::Plan>, Failure> {
    Ok(Json(gateway.show_plan(&plan).await?))
}

/// Delete a plan that was saved
#[utoipa::path(delete, path = "/api/v1/plans/{plan}", tag = "plans", operation_id = "delete_plan",
    params(("plan" = String, Path)),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(plan): Path<String>,
) -> Result<StatusCode, Failure> {
    gateway.delete_plan(&plan).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a run of a plan would do, step by step, as things stand now; nothing is changed
#[utoipa::path(post, path = "/api/v1/plans/{plan}/dry-run", tag = "plans",
    operation_id = "dry_run_plan", params(("plan" = String, Path)), request_body = api::RunBegin,
    responses((status = 200, body = api::DryRun), (status = "default", body = api::Problem)))]
pub(super) async fn dry_run(
    State(gateway): Shared,
    Extension(Caller(actor)): Extension<Caller>,
    Path(plan): Path<String>,
    Body(request): Body<api::RunBegin>,
) -> Result<Json<api::DryRun>, Failure> {
    Ok(Json(gateway.dry_run(&plan, &request, &actor).await?))
}

/// Run a plan
///
/// The run is followed by its id. It goes on by itself after a restart of this gateway, and can be taken
/// over at another site that takes part.
#[utoipa::path(post, path = "/api/v1/plans/{plan}/runs", tag = "plans", operation_id = "run_plan",
    params(("plan" = String, Path)), request_body = api::RunBegin,
    responses((status = 202, body = api::Run), (status = "default", body = api::Problem)))]
pub(super) async fn begin(
    State(gateway): Shared,
    Extension(Caller(actor)): Extension<Caller>,
    Path(plan): Path<String>,
    Body(request): Body<api::RunBegin>,
) -> Result<(StatusCode, Json<api::Run>), Failure> {
    Ok((StatusCode::ACCEPTED, Json(gateway.run_plan(&plan, &request, &actor).await?)))
}

/// The runs that are known here, newest first, with those that other sites execute
#[utoipa::path(get, path = "/api/v1/runs", tag = "runs", operation_id = "list_runs",
    responses((status = 200, body = api::RunList), (status = "default", body = api::Problem)))]
pub(super) async fn list(State(gateway): Shared) -> Json<api::RunList> {
    Json(api::RunList {
        as_of: gateway.clock.rfc3339(),
        items: gateway.show_runs(),
        damaged: gateway.runs.damaged(),
    })
}

/// One run
#[utoipa::path(get, path = "/api/v1/runs/{run}", tag = "runs", operation_id = "show_run",
    params(("run" = String, Path)),
    responses((status = 200, body = api::Run), (status = "default", body = api::Problem)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(run): Path<String>,
) -> Result<Json<api::Run>, Failure> {
    Ok(Json(gateway.show_run(run_id(&run)?)?))
}

/// Answer what a run asks
#[utoipa::path(post, path = "/api/v1/runs/{run}/answer", tag = "runs", operation_id = "answer_run",
    params(("run" = String, Path)), request_body = api::RunAnswer,
    responses((status = 200, body = api::Run), (status = "default", body = api::Problem)))]
pub(super) async fn answer(
    State(gateway): Shared,
    Extension(Caller(actor)): Extension<Caller>,
    Path(run): Path<String>,
    Body(said): Body<api::RunAnswer>,
) -> Result<Json<api::Run>, Failure> {
    let word = Word::Answer { step: said.step, answer: said.answer };
    Ok(Json(gateway.say_to_run(run_id(&run)?, word, &actor).await?))
}

/// Try a step that failed again
#[utoipa::path(post, path = "/api/v1/runs/{run}/retry", tag = "runs", operation_id = "retry_run",
    params(("run" = String, Path)), request_body = api::RunWord,
    responses((status = 200, body = api::Run), (status = "default", body = api::Problem)))]
pub(super) async fn retry(
    State(gateway): Shared,
    Extension(Caller(actor)): Extension<Caller>,
    Path(run): Path<String>,
    Body(said): Body<api::RunWord>,
) -> Result<Json<api::Run>, Failure> {
    let word = Word::Retry { step: said.step };
    Ok(Json(gateway.say_to_run(run_id(&run)?, word, &actor).await?))
}

/// Leave a step out that failed or asks; on the way back, what it did stays
#[utoipa::path(post, path = "/api/v1/runs/{run}/skip", tag = "runs", operation_id = "skip_run",
    params(("run" = String, Path)), request_body = api::RunWord,
    responses((status = 200, body = api::Run), (status = "default", body = api::Problem)))]
pub(super) async fn skip(
    State(gateway): Shared,
    Extension(Caller(actor)): Extension<Caller>,
    Path(run): Path<String>,
    Body(said): Body<api::RunWord>,
) -> Result<Json<api::Run>, Failure> {
    let why = said.why.unwrap_or_else(|| format!("left out by {actor}"));
    let word = Word::Skip { step: said.step, why };
    Ok(Json(gateway.say_to_run(run_id(&run)?, word, &actor).await?))
}

/// Give a run up: what it did is taken back, as far as the point of no return allows
#[utoipa::path(post, path = "/api/v1/runs/{run}/abort", tag = "runs", operation_id = "abort_run",
    params(("run" = String, Path)), request_body = api::RunWord,
    responses((status = 200, body = api::Run), (status = "default", body = api::Problem)))]
pub(super) async fn abort(
    State(gateway): Shared,
    Extension(Caller(actor)): Extension<Caller>,
    Path(run): Path<String>,
    Body(said): Body<api::RunWord>,
) -> Result<Json<api::Run>, Failure> {
    let why = said.why.unwrap_or_else(|| "given up".to_owned());
    Ok(Json(gateway.say_to_run(run_id(&run)?, Word::Abort { why }, &actor).await?))
}

/// Let a run go on that is held here, or take it over from another gateway
#[utoipa::path(post, path = "/api/v1/runs/{run}/resume", tag = "runs", operation_id = "resume_run",
    params(("run" = String, Path)), request_body = api::RunResume,
    responses((status = 202, body = api::Run), (status = "default", body = api::Problem)))]
pub(super) async fn resume(
    State(gateway): Shared,
    Extension(Caller(actor)): Extension<Caller>,
    Path(run): Path<String>,
    Body(how): Body<api::RunResume>,
) -> Result<(StatusCode, Json<api::Run>), Failure> {
    Ok((StatusCode::ACCEPTED, Json(gateway.resume_run(run_id(&run)?, how, &actor).await?)))
}
