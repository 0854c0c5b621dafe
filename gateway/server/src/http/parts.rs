//! `/api/v1/groups/{group}/exclude` and `include`: companions of a group over several gateways.

use axum::Json;
use axum::extract::{Path, State};

use super::{Body, Failure, Shared};

/// Nothing waits any more for another gateway of this site that holds a part of the group
///
/// It needs the word that the gateway is stopped, and stays so until it is taken back in.
#[utoipa::path(post, path = "/api/v1/groups/{group}/exclude", tag = "groups",
    operation_id = "exclude_companion", params(("group" = String, Path)),
    request_body = api::CompanionRequest,
    responses((status = 200, body = api::Group), (status = "default", body = api::Problem)))]
pub(super) async fn exclude(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::CompanionRequest>,
) -> Result<Json<api::Group>, Failure> {
    Ok(Json(gateway.mark_companion(&group, &request, true).await?))
}

/// Take a gateway back in that was excluded and is there again
#[utoipa::path(post, path = "/api/v1/groups/{group}/include", tag = "groups",
    operation_id = "include_companion", params(("group" = String, Path)),
    request_body = api::CompanionRequest,
    responses((status = 200, body = api::Group), (status = "default", body = api::Problem)))]
pub(super) async fn include(
    State(gateway): Shared,
    Path(group): Path<String>,
    Body(request): Body<api::CompanionRequest>,
) -> Result<Json<api::Group>, Failure> {
    Ok(Json(gateway.mark_companion(&group, &request, false).await?))
}
