//! Errors in the shape of the dialects, whoever made them.
//!
//! Invariant: the status stays as it was, and this product's code is told beside the dialect's.

use api::{Code, EvsError, EvsErrorBody, Problem};
use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::gateway::evs::own_code;

/// Longer texts of errors are cut by nobody: this only bounds what is read.
const ERROR_BYTES_MAX: usize = 64 << 10;

fn is_dialect(path: &str) -> bool {
    ["/v1/", "/v2/"].iter().any(|start| path.starts_with(start))
}

fn error(problem: Problem) -> EvsError {
    let code = own_code(&problem.detail).unwrap_or(&problem.code).to_owned();
    EvsError {
        error: EvsErrorBody {
            code,
            message: format!("{}: {}", problem.title, problem.detail),
            internal_code: problem.code,
            next: problem.next,
        },
    }
}

/// Lets calls of the dialects fail in their shape.
pub(in crate::http) async fn shape(request: Request, next: Next) -> Response {
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
    (status, Json(error(problem))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evs_02_an_error_carries_the_dialects_code_and_ours() {
        let problem = Problem::new(Code::BadSize, "they differ (37100041)");
        let shaped = error(problem).error;
        assert_eq!((&*shaped.code, &*shaped.internal_code), ("37100041", "GW0303"));
        let plain = error(Problem::new(Code::NotFound, "it is not there")).error;
        assert_eq!(plain.code, plain.internal_code);
        assert!(!is_dialect("/api/v1/groups") && is_dialect("/v1/p/jobs/1"));
    }
}
