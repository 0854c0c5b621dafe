//! Errors in the shape of the dialects, whoever made them.
//!
//! Invariant: the status stays as it was, and this product's code is told beside the dialect's.

use api::{EvsError, EvsErrorBody, Problem};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use super::super::shaping;
use crate::gateway::evs::own_code;

fn is_dialect(path: &str) -> bool {
    ["/v1/", "/v2/"].iter().any(|start| path.starts_with(start))
}

fn error(problem: &Problem) -> EvsError {
    let code = own_code(&problem.detail).unwrap_or(&problem.code).to_owned();
    EvsError {
        error: EvsErrorBody {
            code,
            message: format!("{}: {}", problem.title, problem.detail),
            internal_code: problem.code.clone(),
            next: problem.next.clone(),
        },
    }
}

/// Lets calls of the dialects fail in their shape.
pub(in crate::http) async fn shape(request: Request, next: Next) -> Response {
    shaping::shape((request, next), is_dialect, error).await
}

#[cfg(test)]
mod tests {
    use api::Code;

    use super::*;

    #[test]
    fn evs_02_an_error_carries_the_dialects_code_and_ours() {
        let problem = Problem::new(Code::BadSize, "they differ (37100041)");
        let shaped = error(&problem).error;
        assert_eq!((&*shaped.code, &*shaped.internal_code), ("37100041", "GW0303"));
        let plain = error(&Problem::new(Code::NotFound, "it is not there")).error;
        assert_eq!(plain.code, plain.internal_code);
        assert!(!is_dialect("/api/v1/groups") && is_dialect("/v1/p/jobs/1"));
    }
}
