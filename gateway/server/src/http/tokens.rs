//! `/api/v1/tokens`: who may call this API.

use api::Code;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::{Body, Failure, Shared, hash_token, make_token};
use crate::book::{RoleEntry, TokenEntry};
use crate::names::is_name;
use crate::refusal::Refused;

fn word(role: RoleEntry) -> api::TokenRole {
    match role {
        RoleEntry::Viewer => api::TokenRole::Viewer,
        RoleEntry::Operator => api::TokenRole::Operator,
        RoleEntry::Admin => api::TokenRole::Admin,
    }
}

fn entry(role: api::TokenRole) -> RoleEntry {
    match role {
        api::TokenRole::Viewer => RoleEntry::Viewer,
        api::TokenRole::Operator => RoleEntry::Operator,
        api::TokenRole::Admin => RoleEntry::Admin,
    }
}

/// All tokens, without their secrets
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", operation_id = "list_tokens",
    responses((status = 200, body = api::TokenList), (status = "default", body = api::Problem)))]
pub(super) async fn list(State(gateway): Shared) -> Json<api::TokenList> {
    let pages = gateway.book.read();
    let items = pages
        .tokens
        .iter()
        .map(|token| api::TokenInfo { name: token.name.clone(), role: word(token.role) });
    Json(api::TokenList { items: items.collect() })
}

/// Make a token; its secret is told this once
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", operation_id = "create_token",
    request_body = api::TokenCreate,
    responses((status = 201, body = api::TokenSecret), (status = "default", body = api::Problem)))]
pub(super) async fn create(
    State(gateway): Shared,
    Body(wanted): Body<api::TokenCreate>,
) -> Result<(StatusCode, Json<api::TokenSecret>), Failure> {
    if !is_name(&wanted.name) {
        return Err(Failure::new(Code::Invalid, "name: use 1 to 64 of A-Z a-z 0-9 . _ -"));
    }
    let secret = make_token().map_err(|why| Failure::new(Code::Internal, why))?;
    let token = TokenEntry {
        name: wanted.name.clone(),
        hash: hash_token(&secret),
        role: entry(wanted.role),
    };
    gateway
        .book
        .change(Vec::new(), |pages| {
            if pages.tokens.iter().any(|other| other.name == token.name) {
                let detail = format!("a token {:?} exists", token.name);
                return Err(Refused::new(Code::Exists, detail));
            }
            pages.tokens.push(token);
            Ok(())
        })
        .await?;
    gateway.events.tell("gateway", &wanted.name, "a token was made");
    let told = api::TokenSecret { name: wanted.name, role: wanted.role, token: secret };
    Ok((StatusCode::CREATED, Json(told)))
}

/// Withdraw a token
#[utoipa::path(delete, path = "/api/v1/tokens/{name}", tag = "tokens",
    operation_id = "delete_token", params(("name" = String, Path)),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn delete(
    State(gateway): Shared,
    Path(name): Path<String>,
) -> Result<StatusCode, Failure> {
    gateway
        .book
        .change(Vec::new(), |pages| {
            let Some(index) = pages.tokens.iter().position(|token| token.name == name) else {
                return Err(Refused::new(Code::NotFound, format!("there is no token {name:?}")));
            };
            let admins = pages.tokens.iter().filter(|t| t.role == RoleEntry::Admin).count();
            if pages.tokens.get(index).is_some_and(|t| t.role == RoleEntry::Admin) && admins == 1 {
                let detail = "it is the last one with the role admin";
                return Err(Refused::new(Code::Forbidden, detail).next("make another one first"));
            }
            pages.tokens.remove(index);
            Ok(())
        })
        .await?;
    gateway.events.tell("gateway", &name, "a token was withdrawn");
    Ok(StatusCode::NO_CONTENT)
}
