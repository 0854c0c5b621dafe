//! Who may call what.
//!
//! Invariant: a token is compared by its hash, which leaks nothing by the time it takes. Reading
//! needs a viewer, changing an operator, trust and tokens an admin.

use std::sync::Arc;

use api::Code;
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Failure;
use crate::book::{RoleEntry, hex};
use crate::gateway::Gateway;

/// Where scripts for the EVS dialect put their token.
const X_AUTH_TOKEN: &str = "x-auth-token";

/// A fresh token with 256 random bits.
///
/// # Errors
/// When the system has no randomness to give.
pub(crate) fn make_token() -> Result<String, String> {
    let mut secret = [0; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut secret)
        .map_err(|_e| "the system has no randomness to give".to_owned())?;
    Ok(format!("tw_{}", hex(&secret)))
}

/// What is kept of a token.
#[must_use]
pub(crate) fn hash_token(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

/// Lets a call through whose token allows it.
pub(super) async fn authenticate(
    State(gateway): State<Arc<Gateway>>,
    mut request: Request,
    next: Next,
) -> Response {
    let needed = needed(request.method(), request.uri().path());
    let (name, role) = role_of(&gateway, &request).unzip();
    let name = name.unwrap_or_default();
    match role {
        None => Failure::new(
            Code::Unauthenticated,
            "the call carries no bearer token that this gateway knows",
        )
        .into_response(),
        Some(role) if role < needed => Failure::new(
            Code::Forbidden,
            format!("this needs the role {needed:?}, the token has {role:?}").to_lowercase(),
        )
        .into_response(),
        Some(_) => {
            request.extensions_mut().insert(Caller(name));
            next.run(request).await
        }
    }
}

/// Whose token a call carries: who said something, in what is kept of it.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) String);

fn role_of(gateway: &Gateway, request: &Request) -> Option<(String, RoleEntry)> {
    let headers = request.headers();
    let token = match headers.get(header::AUTHORIZATION) {
        Some(header) => header.to_str().ok()?.strip_prefix("Bearer ")?,
        // Scripts for the EVS dialect bring it so.
        None => headers.get(X_AUTH_TOKEN)?.to_str().ok()?,
    };
    let token = token.trim();
    let hash = hash_token(token);
    let pages = gateway.book.read();
    let found = pages.tokens.iter().find(|entry| entry.hash == hash);
    found.map(|entry| (entry.name.clone(), entry.role))
}

fn needed(method: &Method, path: &str) -> RoleEntry {
    // What may run here, and what it may, is a matter of trust too.
    let trust = path.starts_with("/api/v1/tokens")
        || (path.starts_with("/api/v1/plugins") && *method != Method::GET)
        || (path.starts_with("/api/v1/sites") && *method != Method::GET);
    if trust {
        RoleEntry::Admin
    } else if *method == Method::GET || *method == Method::HEAD {
        // The content of a volume is worth more than what is said about it.
        if path.ends_with("/content") { RoleEntry::Admin } else { RoleEntry::Viewer }
    } else {
        RoleEntry::Operator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_by_call() {
        for (method, path, role) in [
            (Method::GET, "/api/v1/status", RoleEntry::Viewer),
            (Method::GET, "/api/v1/sites", RoleEntry::Viewer),
            (Method::POST, "/api/v1/volumes", RoleEntry::Operator),
            (Method::POST, "/api/v1/sites/join", RoleEntry::Admin),
            (Method::GET, "/api/v1/tokens", RoleEntry::Admin),
            (Method::GET, "/api/v1/volumes/x/content", RoleEntry::Admin),
            (Method::GET, "/api/v1/plugins/x", RoleEntry::Viewer),
            (Method::PUT, "/api/v1/plugins", RoleEntry::Admin),
            (Method::POST, "/api/v1/plugins/x/grants", RoleEntry::Admin),
            (Method::POST, "/api/v1/groups/x/failover/run", RoleEntry::Operator),
        ] {
            assert_eq!(needed(&method, path), role, "{method} {path}");
        }
    }

    #[test]
    fn tokens_differ_and_are_long() {
        let (one, two) = (make_token().unwrap(), make_token().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 67);
        assert_ne!(hash_token(&one), hash_token(&two));
    }
}
