//! The calls of `/api/v1/sites`: this site, the others, and how they join.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::{Body, Failure, Shared};

/// This site and those it knows
#[utoipa::path(get, path = "/api/v1/sites", tag = "sites", operation_id = "list_sites",
    responses((status = 200, body = api::SiteList), (status = "default", body = api::Problem)))]
pub(super) async fn list(State(gateway): Shared) -> Json<api::SiteList> {
    Json(gateway.show_sites().await)
}

/// Make a join token, good for one use
#[utoipa::path(post, path = "/api/v1/sites/token", tag = "sites", operation_id = "make_join_token",
    request_body = api::TokenRequest,
    responses((status = 201, body = api::JoinToken), (status = "default", body = api::Problem)))]
pub(super) async fn make_token(
    State(gateway): Shared,
    Body(request): Body<api::TokenRequest>,
) -> Result<(StatusCode, Json<api::JoinToken>), Failure> {
    let token = gateway.make_join_token(request.ttl_seconds).await?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// Join the site that made the token
#[utoipa::path(post, path = "/api/v1/sites/join", tag = "sites", operation_id = "join_site",
    request_body = api::JoinRequest,
    responses((status = 200, body = api::SiteList), (status = "default", body = api::Problem)))]
pub(super) async fn join(
    State(gateway): Shared,
    Body(request): Body<api::JoinRequest>,
) -> Result<Json<api::SiteList>, Failure> {
    Ok(Json(gateway.join_site(&request.token).await?))
}
