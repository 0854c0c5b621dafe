//! The two storage systems: what is asked of them, whoever answers.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::twinspan::plugin::http::{self, Auth, HttpError, Request};
use super::twinspan::plugin::kv::{self, KvError};
use super::twinspan::plugin::types::{Error, ErrorCode, Retry};
use super::{again, error};

/// Of one request; a step has several.
const TIMEOUT_MS: u32 = 10_000;
const AGAIN_MS: u32 = 1_000;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Side {
    /// That of the operation volume.
    Local,
    /// That of the mirrored volume.
    Remote,
}

/// What flows need.
pub trait Arrays {
    fn get(&self, side: Side, path: &str) -> Result<Value, Error>;
    /// Begins a job; its number.
    fn begin(&self, side: Side, call: (&str, &str), body: &Value) -> Result<u64, Error>;
    /// The word that a deed noted of its own.
    fn noted(&self, key: &str) -> Result<Option<String>, Error>;
    fn note(&self, key: &str, word: &str) -> Result<(), Error>;
}

/// What the operator configured.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where each system's API is: `https://box-a.example/api/v1`.
    pub local: String,
    pub remote: String,
    /// The names of the secrets that are their tokens.
    pub local_token: String,
    pub remote_token: String,
}

/// Systems that are spoken to.
pub struct Boxes {
    pub config: Config,
}

impl Boxes {
    fn call(&self, side: Side, (method, path): (&str, &str), body: &Value) -> Result<Value, Error> {
        let config = &self.config;
        let (base, token) = match side {
            Side::Local => (&config.local, &config.local_token),
            Side::Remote => (&config.remote, &config.remote_token),
        };
        if base.is_empty() {
            let why = format!("where the {side:?} storage system is is not configured");
            return Err(error(ErrorCode::InvalidConfig, why));
        }
        let url = format!("{}{path}", base.trim_end_matches('/'));
        let request = Request {
            method: method.to_owned(),
            url: url.clone(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: if body.is_null() { Vec::new() } else { body.to_string().into_bytes() },
            auth: if token.is_empty() { Auth::None } else { Auth::Bearer(token.clone()) },
            timeout_ms: TIMEOUT_MS,
        };
        let answer = http::send(&request).map_err(|why| no_answer(&url, why))?;
        let told: Value = match answer.body.as_slice() {
            [] => Value::Null,
            bytes => serde_json::from_slice(bytes).map_err(|why| {
                let message = format!("{method} {url}: the answer is no JSON: {why}");
                again(ErrorCode::Unavailable, message, AGAIN_MS)
            })?,
        };
        if (200..300).contains(&answer.status) {
            return Ok(told);
        }
        Err(refusal(answer.status, &format!("{method} {url}"), &told))
    }
}

/// A refusal in the words of the system, with its number.
pub fn refusal(status: u16, call: &str, told: &Value) -> Error {
    let words = told["message"].as_str().unwrap_or("no reason");
    let code = match status {
        400 => ErrorCode::InvalidArgument,
        401 => ErrorCode::Unauthorized,
        403 => ErrorCode::Denied,
        404 => ErrorCode::NotFound,
        409 => ErrorCode::Conflict,
        _ => ErrorCode::Unavailable,
    };
    let may_help = matches!(status, 429 | 500..=599);
    let retry = if may_help { Retry::AfterMs(AGAIN_MS) } else { Retry::Never };
    let number = told["error_code"].as_str().map(str::to_owned);
    Error { retry, vendor_code: number, ..error(code, format!("{call}: {status}: {words}")) }
}

fn no_answer(url: &str, why: HttpError) -> Error {
    match why {
        HttpError::Denied(what) => error(ErrorCode::Denied, format!("{url}: {what}")),
        HttpError::InvalidRequest(what) => {
            error(ErrorCode::InvalidConfig, format!("{url}: {what}"))
        }
        HttpError::Connect(what) | HttpError::Interrupted(what) => {
            again(ErrorCode::Unavailable, format!("{url}: {what}"), AGAIN_MS)
        }
        HttpError::Timeout => {
            again(ErrorCode::Timeout, format!("{url}: no answer in time"), AGAIN_MS)
        }
        HttpError::ResponseTooLarge | HttpError::TooManyRequests => {
            error(ErrorCode::Unavailable, format!("{url}: {why:?}"))
        }
    }
}

fn not_kept(why: KvError) -> Error {
    let retry = match why {
        KvError::Revision(_) | KvError::Unavailable(_) => Retry::Now,
        KvError::Denied | KvError::TooLarge | KvError::Quota => Retry::Never,
    };
    Error { retry, ..error(ErrorCode::Unavailable, format!("the store of keys: {why:?}")) }
}

const NOTES: &str = "notes";
/// Notes that are kept; those of deeds that ended long ago go.
const NOTES_MAX: usize = 200;

fn notes() -> Result<(Vec<(String, String)>, u64), Error> {
    let Some(entry) = kv::get(NOTES).map_err(not_kept)? else { return Ok((Vec::new(), 0)) };
    let all = serde_json::from_slice(&entry.value)
        .map_err(|why| error(ErrorCode::Internal, format!("{NOTES}: {why}")))?;
    Ok((all, entry.revision))
}

impl Arrays for Boxes {
    fn get(&self, side: Side, path: &str) -> Result<Value, Error> {
        self.call(side, ("GET", path), &Value::Null)
    }

    fn begin(&self, side: Side, call: (&str, &str), body: &Value) -> Result<u64, Error> {
        let accepted = self.call(side, call, body)?;
        accepted["job_id"].as_u64().ok_or_else(|| {
            let message = format!("{} {} began no job: {accepted}", call.0, call.1);
            again(ErrorCode::Unavailable, message, AGAIN_MS)
        })
    }

    fn noted(&self, key: &str) -> Result<Option<String>, Error> {
        let (all, _) = notes()?;
        Ok(all.into_iter().find(|(of, _)| of == key).map(|(_, word)| word))
    }

    fn note(&self, key: &str, word: &str) -> Result<(), Error> {
        let (mut all, revision) = notes()?;
        all.retain(|(of, _)| of != key);
        all.push((key.to_owned(), word.to_owned()));
        let beyond = all.len().saturating_sub(NOTES_MAX);
        all.drain(..beyond);
        let value = json!(all).to_string();
        kv::put(NOTES, value.as_bytes(), Some(revision)).map_err(not_kept).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_the_systems_number_and_says_whether_it_may_be_tried_again() {
        let told = json!({ "error_code": "0408", "message": "it is Copying" });
        let refused = refusal(409, "DELETE /copysession/1", &told);
        assert_eq!(refused.vendor_code.as_deref(), Some("0408"));
        assert!(refused.message.contains("it is Copying"));
        assert!(matches!(refused.retry, Retry::Never));
        assert!(matches!(refusal(503, "GET /job/1", &Value::Null).retry, Retry::AfterMs(_)));
    }
}
