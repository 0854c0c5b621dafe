//! Errors in the shape of a dialect, whoever made them: the dialect's own calls, or what stands before them.
//!
//! Invariant: the status and the code stay as they were; only the body changes, and only of the dialect's
//! calls.

use api::{Code, Problem};
use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Longer texts of errors are cut by nobody: this only bounds what is read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Lets calls of a dialect fail in its shape.
pub(super) async fn shape<T: Serialize>(
    (request, next): (Request, Next),
    is_dialect: fn(&str) -> bool,
    error: fn(&Problem) -> T,
) -> Response {
    let is_ours = is_dialect(request.uri().path());
    let response = next.run(request).await;
    let status = response.status();
    if !is_ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let body = to_bytes(response.into_body(), ERROR_BYTES_MAX).await.unwrap_or_default();
    let problem = serde_json::from_slice(&body).unwrap_or_else(|_e| {
        // What the router itself refuses is text.
        let code = if status.is_server_error() { Code::Internal } else { Code::Invalid };
        Problem::new(code, String::from_utf8_lossy(&body))
    });
    (status, Json(error(&problem))).into_response()
}
