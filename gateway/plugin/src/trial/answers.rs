//! What the other side answers in a trial, as its author wrote it down.
//!
//! Invariant: the first line that fits a request answers it; a placeholder of a path stands for one part
//! of it.

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

/// Answers, in order. As JSON: a list of objects with `request` (`"GET /v1/servers/{id}"`), `status`
/// (200) and `body`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Answers(Vec<Answer>);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    request: String,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    body: Value,
}

const fn ok() -> u16 {
    200
}

/// A text that is no answers.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}: it is a list of {{ \"request\": \"GET /path/{{id}}\", \"status\": 200, \"body\": {{}} }}"
)]
pub struct NoAnswers(String);

impl Answers {
    /// Reads them.
    ///
    /// # Errors
    /// [`NoAnswers`].
    pub fn parse(text: &[u8]) -> Result<Self, NoAnswers> {
        let read: Self =
            serde_json::from_slice(text).map_err(|error| NoAnswers(error.to_string()))?;
        match read.0.iter().find(|answer| answer.split().is_none()) {
            Some(bad) => Err(NoAnswers(format!("{:?} names no method and path", bad.request))),
            None => Ok(read),
        }
    }

    /// What is answered to a request: a status and a body.
    pub(super) fn to(&self, method: &Method, path: &str) -> (u16, String) {
        let found = self.0.iter().find(|answer| {
            answer.split().is_some_and(|(of, at)| of == method.as_str() && fits(at, path))
        });
        found.map_or_else(
            || (200, "{}".to_owned()),
            |answer| (answer.status, answer.body.to_string()),
        )
    }
}

impl Answer {
    fn split(&self) -> Option<(&str, &str)> {
        self.request.split_once(' ').filter(|(_, path)| path.starts_with('/'))
    }
}

fn fits(pattern: &str, path: &str) -> bool {
    let is_hole = |part: &str| part.starts_with('{') && part.ends_with('}');
    let (mut wanted, mut found) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(want), Some(part)) if is_hole(want) || want == part => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_answers() {
        let text = br#"[
            { "request": "GET /v1/servers/{id}", "body": { "id": 7 } },
            { "request": "POST /v1/servers", "status": 409 }
        ]"#;
        let answers = Answers::parse(text).unwrap();
        assert_eq!(answers.to(&Method::GET, "/v1/servers/x").1, r#"{"id":7}"#);
        assert_eq!(answers.to(&Method::GET, "/v1/servers/x/y"), (200, "{}".to_owned()));
        assert_eq!(answers.to(&Method::POST, "/v1/servers").0, 409);
    }

    #[test]
    fn what_is_no_answers_is_told_with_its_shape() {
        for text in ["{", "[{}]", r#"[{ "request": "/v1" }]"#, r#"[{ "request": "GET v1" }]"#] {
            let error = Answers::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("\"request\""), "{error}");
        }
    }
}
