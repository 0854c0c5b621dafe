//! The calls of `/api/v1/operations`: what takes long, followed by its id.

use api::Code;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use uuid::Uuid;

use super::paging::{Asked, Page, Parameters};
use super::{Failure, Shared};
use crate::refusal::Refused;

/// What operations are filtered and sorted by.
const FIELDS: &[&str] = &["id", "kind", "subject", "state"];

/// All operations that are remembered, newest first, in pages if asked for
///
/// Filters: `id`, `kind`, `subject`, `state`.
#[utoipa::path(get, path = "/api/v1/operations", tag = "operations",
    operation_id = "list_operations", params(Parameters),
    responses((status = 200, body = api::OperationList), (status = "default", body = api::Problem)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(asked): Asked,
) -> Result<Json<api::OperationList>, Failure> {
    let page = Page::read(asked, FIELDS)?;
    let (items, next) = page.take(gateway.operations.list())?;
    Ok(Json(api::OperationList { as_of: gateway.clock.rfc3339(), items, next }))
}

/// One operation
#[utoipa::path(get, path = "/api/v1/operations/{operation}", tag = "operations",
    operation_id = "show_operation", params(("operation" = String, Path)),
    responses((status = 200, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(operation): Path<String>,
) -> Result<Json<api::Operation>, Failure> {
    let found = Uuid::parse_str(&operation).ok().and_then(|id| gateway.operations.get(id));
    found.map(Json).ok_or_else(|| {
        let detail = format!("there is no operation {operation:?}, or it was forgotten");
        Failure::new(Code::NotFound, detail)
    })
}

/// Ask an operation to give up; it ends by itself a little later
#[utoipa::path(post, path = "/api/v1/operations/{operation}/cancel", tag = "operations",
    operation_id = "cancel_operation", params(("operation" = String, Path)),
    responses((status = 202, body = api::Operation), (status = "default", body = api::Problem)))]
pub(super) async fn cancel(
    State(gateway): Shared,
    Path(operation): Path<String>,
) -> Result<(StatusCode, Json<api::Operation>), Failure> {
    let id = Uuid::parse_str(&operation).unwrap_or_default();
    let cancelled = gateway.operations.cancel(id).map_err(Refused)?;
    Ok((StatusCode::ACCEPTED, Json(cancelled)))
}
