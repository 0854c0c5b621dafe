//! The orchestrator of this site, over HTTP: what it holds is read whole, and changed item by item.
//!
//! Invariant: every request may be repeated. One that changes something carries a key that is the same for
//! every attempt, and what it says is how things are to be, not how they are to change.

use serde_json::{Value, json};

use crate::model::{Export, Items, text};
use crate::outside::{Code, NoAnswer, Outside, Request, Response, Trouble};

/// Attempts of one request within a call.
const ATTEMPTS: u32 = 5;
/// The pause after the first; it doubles.
const PAUSE_MS: u64 = 50;
/// The longest pause that an orchestrator can ask for within a call.
const PAUSE_MS_MAX: u64 = 1_000;

/// This site's orchestrator.
pub struct Manager<'a> {
    outside: &'a dyn Outside,
    url: String,
    secret: String,
    /// Under whose lock changes are made; empty: nobody's.
    holder: String,
}

/// Whether a lock was had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    Had,
    /// Something is under way there: so many operations.
    Busy(u64),
    /// Somebody else has it.
    Of(String),
}

fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let one = |byte: u8| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    name.bytes().map(one).collect()
}

impl<'a> Manager<'a> {
    /// The one that the configuration names.
    ///
    /// # Errors
    /// When it names none.
    pub fn of(outside: &'a dyn Outside, holder: &str) -> Result<Self, Trouble> {
        let config = outside.config();
        let (url, secret) = (text(&config, "manager"), text(&config, "token"));
        if url.is_empty() || secret.is_empty() {
            let why = "the plugin is not configured here: twinspan plugin configure \
                       lserver-switchover FILE, with manager, token and folder";
            return Err(Trouble::never(Code::Config, why));
        }
        let (url, secret) = (url.trim_end_matches('/').to_owned(), secret.to_owned());
        Ok(Self { outside, url, secret, holder: holder.to_owned() })
    }

    fn ask(
        &self,
        (method, path): (&'static str, &str),
        body: Option<&Value>,
        key: &str,
    ) -> Result<Response, Trouble> {
        let mut headers = vec![("accept".to_owned(), "application/json".to_owned())];
        if !key.is_empty() {
            headers.push(("idempotency-key".to_owned(), key.to_owned()));
        }
        if !self.holder.is_empty() {
            headers.push(("lock-holder".to_owned(), self.holder.clone()));
        }
        if body.is_some() {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        let request = Request {
            method,
            url: format!("{}{path}", self.url),
            headers,
            body: body.map(|body| body.to_string().into_bytes()).unwrap_or_default(),
            secret: self.secret.clone(),
        };
        let mut why = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt != 0 {
                self.outside.pause(PAUSE_MS << attempt);
            }
            match self.outside.send(&request) {
                Ok(answer) if answer.status == 429 || answer.status >= 500 => {
                    why = format!("it answered {}", answer.status);
                    let asked = answer.retry_after.and_then(|text| text.parse::<u64>().ok());
                    if let Some(seconds) = asked.filter(|_| attempt + 1 < ATTEMPTS) {
                        self.outside.pause(seconds.saturating_mul(1_000).min(PAUSE_MS_MAX));
                    }
                }
                Ok(answer) if matches!(answer.status, 401 | 403) => {
                    let why = format!("{} does not take our token ({})", self.url, answer.status);
                    return Err(Trouble::never(Code::Unauthorized, why));
                }
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Again(text)) => why = text,
                Err(NoAnswer::Never(text)) => return Err(Trouble::never(Code::Denied, text)),
            }
        }
        let why = format!("{method} {path} at {}: {why}, {ATTEMPTS} times", self.url);
        Err(Trouble::later(Code::Unavailable, why))
    }

    fn refused(&self, what: &str, answer: &Response) -> Trouble {
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let why = format!("{what}: it answered {} {}", answer.status, text(&said, "error"));
        match answer.status {
            423 => Trouble::later(Code::Conflict, why),
            404 => Trouble::never(Code::NotFound, why),
            409 => Trouble::never(Code::WrongState, why),
            _ => Trouble::never(Code::Argument, why),
        }
    }

    fn json(&self, what: &str, answer: &Response) -> Result<Value, Trouble> {
        if answer.status != 200 {
            return Err(self.refused(what, answer));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| Trouble::later(Code::Unavailable, format!("{what}: no JSON: {error}")))
    }

    /// How it is: its revision, operations under way, free servers, who has its lock.
    pub fn status(&self) -> Result<Value, Trouble> {
        self.json("status", &self.ask(("GET", "/v1/status"), None, "")?)
    }

    /// All that it holds, at one moment.
    pub fn export(&self) -> Result<Export, Trouble> {
        let said = self.json("export", &self.ask(("GET", "/v1/items"), None, "")?)?;
        let wrong = |why: String| Trouble::never(Code::Internal, format!("export: {why}"));
        let revision = said.get("revision").and_then(Value::as_u64);
        let revision = revision.ok_or_else(|| wrong("it has no revision".to_owned()))?;
        let items = said.get("items").cloned().unwrap_or_default();
        let items: Items =
            serde_json::from_value(items).map_err(|error| wrong(error.to_string()))?;
        Ok(Export { site: self.outside.here()?, revision, at_ms: self.outside.now_ms(), items })
    }

    fn change(
        &self,
        (method, path): (&'static str, &str),
        body: Option<&Value>,
        key: &str,
    ) -> Result<(), Trouble> {
        let answer = self.ask((method, path), body, key)?;
        match answer.status {
            200..=299 => Ok(()),
            404 if method == "DELETE" => Ok(()),
            _ => Err(self.refused(&format!("{method} {path}"), &answer)),
        }
    }

    /// Lets an item be so.
    pub fn put(&self, kind: &str, name: &str, item: &Value, key: &str) -> Result<(), Trouble> {
        let path = format!("/v1/items/{kind}/{}", encoded(name));
        self.change(("PUT", &path), Some(item), &format!("{key}/put/{kind}/{name}"))
    }

    /// Lets an item be gone.
    pub fn delete(&self, kind: &str, name: &str, key: &str) -> Result<(), Trouble> {
        let path = format!("/v1/items/{kind}/{}", encoded(name));
        self.change(("DELETE", &path), None, &format!("{key}/delete/{kind}/{name}"))
    }

    /// Starts or stops a server.
    pub fn power(&self, server: &str, is_on: bool, key: &str) -> Result<(), Trouble> {
        let word = if is_on { "on" } else { "off" };
        let path = format!("/v1/power/{}", encoded(server));
        let key = format!("{key}/power-{word}/{server}");
        self.change(("POST", &path), Some(&json!({ "power": word })), &key)
    }

    /// Asks for its lock: nobody else changes anything while it is had.
    pub fn lock(&self, holder: &str) -> Result<Lock, Trouble> {
        let body = json!({ "holder": holder });
        let answer = self.ask(("PUT", "/v1/lock"), Some(&body), &format!("{holder}/lock"))?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match answer.status {
            200 => Ok(Lock::Had),
            409 => Ok(Lock::Of(text(&said, "holder").to_owned())),
            423 => Ok(Lock::Busy(said.get("busy").and_then(Value::as_u64).unwrap_or(1))),
            _ => Err(self.refused("lock", &answer)),
        }
    }

    /// Gives its lock back; one that is not had is no error.
    pub fn unlock(&self, holder: &str) -> Result<(), Trouble> {
        let path = format!("/v1/lock/{}", encoded(holder));
        self.change(("DELETE", &path), None, &format!("{holder}/unlock"))
    }
}
