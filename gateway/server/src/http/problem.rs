//! Errors on their way out, and bodies on their way in: both with our codes.

use api::{Code, Problem};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::refusal::Refused;

/// An error as the caller gets it.
#[derive(Debug)]
pub(crate) struct Failure(Box<Problem>);

impl Failure {
    /// With this code and these words.
    #[must_use]
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self(refused.0)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(code = self.0.code, detail = self.0.detail, "call failed");
        }
        let mut response = (status, Json(*self.0)).into_response();
        let kind = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// A JSON body; what is wrong with it is told as a problem. No body is an empty object.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let is_empty = length.is_none_or(|length| length.as_bytes() == b"0")
            && !request.headers().contains_key(header::TRANSFER_ENCODING);
        if is_empty {
            return serde_json::from_str("{}")
                .map(Self)
                .map_err(|error| invalid(&error.to_string()));
        }
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(invalid(&rejection_text(&rejection))),
        }
    }
}

fn rejection_text(rejection: &JsonRejection) -> String {
    rejection.body_text()
}

fn invalid(detail: &str) -> Failure {
    Failure::new(Code::Invalid, detail)
}

/// A path that leads nowhere.
pub(super) async fn no_such_call(request: Request) -> Failure {
    Failure::new(Code::NotFound, format!("there is no call {}", request.uri().path()))
}

/// A path with another method.
pub(super) async fn no_such_method(request: Request) -> Failure {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Failure::new(Code::Invalid, detail)
}
