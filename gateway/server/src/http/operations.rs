//! The calls of `/api/v1/operations`: what takes long, followed by its id.

use api::Code;
use axum::Json;
use axum::extract::{Path, State};
use uuid::Uuid;

use super::{Failure, Shared};

/// All operations that are remembered, newest first
#[utoipa::path(get, path = "/api/v1/operations", tag = "operations",
    operation_id = "list_operations",
    responses((status = 200, body = api::OperationList), (status = "default", body = api::Problem)))]
pub(super) async fn list(State(gateway): Shared) -> Json<api::OperationList> {
    let items = gateway.operations.list();
    Json(api::OperationList { as_of: gateway.clock.rfc3339(), items })
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
