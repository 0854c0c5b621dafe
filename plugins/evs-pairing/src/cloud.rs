//! The cloud's compute and network services over HTTP.
//!
//! What an answer means for the caller: 429 and 5xx may be tried again, after the time that the service
//! names; an answer that breaks off may hide that something was done, so every deed looks first.

use serde_json::{Value, json};

use super::twinspan::plugin::http::{self, Auth, HttpError, Request};
use super::twinspan::plugin::types::{Error, ErrorCode, Retry};
use super::{Config, error};

/// Of one request; a step has several.
const TIMEOUT_MS: u32 = 10_000;
/// When a service does not say when to come again.
const AGAIN_MS: u32 = 1_000;

pub struct Cloud {
    compute: String,
    network: String,
    token: String,
}

fn again(code: ErrorCode, message: String, after_ms: u32) -> Error {
    Error { code, message, retry: Retry::AfterMs(after_ms), vendor_code: None }
}

impl Cloud {
    pub fn of(config: &Config) -> Self {
        let (compute, network) = (config.compute.clone(), config.network.clone());
        Self { compute, network, token: config.token.clone() }
    }

    pub fn list_servers(&self) -> Result<usize, Error> {
        let found = self.call("GET", &format!("{}/cloudservers/detail", self.compute), None)?;
        Ok(found["servers"].as_array().map_or(0, Vec::len))
    }

    pub fn server(&self, id: &str) -> Result<Value, Error> {
        let found = self.call("GET", &format!("{}/cloudservers/{id}", self.compute), None)?;
        Ok(found["server"].clone())
    }

    pub fn public_ip(&self, id: &str) -> Result<Value, Error> {
        let found = self.call("GET", &format!("{}/publicips/{id}", self.network), None)?;
        Ok(found["publicip"].clone())
    }

    /// Binds an address to a port, or to none.
    pub fn bind_public_ip(&self, id: &str, port: Option<&str>) -> Result<(), Error> {
        let body = json!({ "publicip": { "port_id": port.unwrap_or_default() } });
        self.call("PUT", &format!("{}/publicips/{id}", self.network), Some(&body)).map(drop)
    }

    pub fn port(&self, id: &str) -> Result<Value, Error> {
        let found = self.call("GET", &format!("{}/ports/{id}", self.network), None)?;
        Ok(found["port"].clone())
    }

    pub fn port_named(&self, name: &str) -> Result<Option<Value>, Error> {
        let found = self.call("GET", &format!("{}/ports?name={name}", self.network), None)?;
        let ports = found["ports"].as_array();
        Ok(ports.and_then(|ports| ports.iter().find(|port| port["name"] == name)).cloned())
    }

    pub fn make_port(&self, port: &Value) -> Result<Value, Error> {
        let body = json!({ "port": port });
        let made = self.call("POST", &format!("{}/ports", self.network), Some(&body))?;
        Ok(made["port"].clone())
    }

    pub fn change_port(&self, id: &str, change: &Value) -> Result<(), Error> {
        let body = json!({ "port": change });
        self.call("PUT", &format!("{}/ports/{id}", self.network), Some(&body)).map(drop)
    }

    pub fn delete_port(&self, id: &str) -> Result<(), Error> {
        match self.call("DELETE", &format!("{}/ports/{id}", self.network), None) {
            Err(why) if why.code == ErrorCode::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    fn call(&self, method: &str, url: &str, body: Option<&Value>) -> Result<Value, Error> {
        if !url.starts_with("http") {
            let why = "compute and network are not configured";
            return Err(error(ErrorCode::InvalidConfig, why));
        }
        let request = Request {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.map(|body| body.to_string().into_bytes()).unwrap_or_default(),
            auth: Auth::Header(("x-auth-token".to_owned(), self.token.clone())),
            timeout_ms: TIMEOUT_MS,
        };
        let answer = http::send(&request).map_err(|why| no_answer(url, why))?;
        let words = || String::from_utf8_lossy(&answer.body).chars().take(200).collect::<String>();
        let told = |code| error(code, format!("{method} {url}: {}: {}", answer.status, words()));
        match answer.status {
            200..=299 if answer.body.is_empty() => Ok(Value::Null),
            200..=299 => serde_json::from_slice(&answer.body).map_err(|why| {
                let message = format!("{method} {url}: the answer is no JSON: {why}");
                again(ErrorCode::Unavailable, message, AGAIN_MS)
            }),
            400 => Err(told(ErrorCode::InvalidArgument)),
            401 => Err(told(ErrorCode::Unauthorized)),
            403 => Err(told(ErrorCode::Denied)),
            404 => Err(told(ErrorCode::NotFound)),
            409 => Err(told(ErrorCode::Conflict)),
            429 | 500..=599 => {
                let seconds = answer
                    .headers
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
                    .and_then(|(_, value)| value.parse::<u32>().ok());
                let after_ms = seconds.map_or(AGAIN_MS, |seconds| seconds.saturating_mul(1000));
                let message = told(ErrorCode::Unavailable).message;
                Err(again(ErrorCode::Unavailable, message, after_ms))
            }
            _ => Err(told(ErrorCode::Unavailable)),
        }
    }
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
