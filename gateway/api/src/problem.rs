//! An error as a problem document (RFC 9457) with our codes.
//!
//! Invariant: `detail` says what and why, `next` says what to do; neither holds a secret.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Code;

/// The body of every answer that is not a success (`application/problem+json`).
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Problem {
    /// Where the page about this code is.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: String,
    /// The HTTP status, repeated.
    pub status: u16,
    /// What happened here, and why.
    pub detail: String,
    /// The stable code, `GWnnnn`.
    pub code: String,
    /// What to do about it; a command where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Problem {
    /// A problem with this code.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("https://twinspan.dev/errors/{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.http_status(),
            detail: detail.into(),
            code: code.as_str().to_owned(),
            next: code.next().map(str::to_owned),
        }
    }

    /// The same with another thing to do.
    #[must_use]
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}
