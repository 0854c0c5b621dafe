//! Errors in the dialect's shape, whoever made them.
//!
//! Invariant: the status and the code stay as they were; only the body changes.

use api::{Problem, RecError};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use super::super::shaping;

/// The words after `/api/v1/` that are the dialect's.
const DIALECT: [&str; 4] = ["copysession", "volume", "job", "storage"];

fn is_dialect(path: &str) -> bool {
    let rest = path.strip_prefix("/api/v1/").unwrap_or_default();
    rest.split('/').next().is_some_and(|word| DIALECT.contains(&word))
}

/// A problem in the dialect's shape.
pub(super) fn error(problem: &Problem) -> RecError {
    RecError {
        error_code: problem.code.trim_start_matches("GW").to_owned(),
        message: format!("{} ({})", problem.title, problem.detail),
        internal_code: problem.code.clone(),
        next: problem.next.clone(),
    }
}

/// Lets calls of the dialect fail in its shape.
pub(in crate::http) async fn shape(request: Request, next: Next) -> Response {
    shaping::shape((request, next), is_dialect, error).await
}

#[cfg(test)]
mod tests {
    use api::Code;

    use super::*;

    #[test]
    fn rec_29_only_the_dialects_calls_are_shaped() {
        for path in ["/api/v1/copysession", "/api/v1/volume/1", "/api/v1/job/7", "/api/v1/storage"]
        {
            assert!(is_dialect(path), "{path}");
        }
        for path in ["/api/v1/volumes/1", "/api/v1/sessions", "/healthz", "/api/v1/"] {
            assert!(!is_dialect(path), "{path}");
        }
    }

    #[test]
    fn rec_29_an_error_keeps_its_code() {
        let shaped = error(&Problem::new(Code::NotInSync, "it is copying"));
        assert_eq!(shaped.error_code, "0407");
        assert_eq!(shaped.internal_code, "GW0407");
        assert_eq!(shaped.message, "the mirror is not in sync (it is copying)");
    }
}
