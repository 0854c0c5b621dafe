//! The cloud's compute and network services over HTTP.
//!
//! Each deed is the smallest that the service has; what is wanted is compared with what is by whoever asks
//! for it. What an answer means for the caller: 429 and 5xx may be tried again, after the time that the service
//! names; an answer that breaks off may hide that something was done, so every deed looks first.

use serde_json::{Value, json};

use super::twinspan::plugin::http::{self, Auth, HttpError, Request};
use super::twinspan::plugin::types::{Error, ErrorCode};
use super::{Config, again, error};

/// Of one request; a step has several.
const TIMEOUT_MS: u32 = 10_000;
/// When a service does not say when to come again.
const AGAIN_MS: u32 = 1_000;

pub struct Cloud {
    compute: String,
    network: String,
    volumes: String,
    token: String,
}

/// What the compute service has begun, and is asked about by its name.
pub type Job = String;

/// How far that is.
pub enum Progress {
    Running,
    Success,
    Fail(String),
}

impl Cloud {
    pub fn of(config: &Config) -> Self {
        let (compute, network) = (config.compute.clone(), config.network.clone());
        Self { compute, network, volumes: config.volumes.clone(), token: config.token.clone() }
    }

    pub fn list_servers(&self) -> Result<usize, Error> {
        let found = self.call("GET", &format!("{}/cloudservers/detail", self.compute), None)?;
        Ok(found["servers"].as_array().map_or(0, Vec::len))
    }

    pub fn server(&self, id: &str) -> Result<Value, Error> {
        let found = self.call("GET", &format!("{}/cloudservers/{id}", self.compute), None)?;
        Ok(found["server"].clone())
    }

    pub fn server_named(&self, name: &str) -> Result<Option<Value>, Error> {
        let url = format!("{}/cloudservers/detail?name={name}", self.compute);
        let found = self.call("GET", &url, None)?;
        // The service finds names that begin so.
        let servers = found["servers"].as_array();
        Ok(servers.and_then(|all| all.iter().find(|server| server["name"] == name)).cloned())
    }

    /// The servers that there are, by their identities.
    pub fn all_servers(&self) -> Result<Vec<String>, Error> {
        let found = self.call("GET", &format!("{}/cloudservers/detail", self.compute), None)?;
        let ids = found["servers"].as_array().into_iter().flatten();
        Ok(ids.filter_map(|server| server["id"].as_str().map(str::to_owned)).collect())
    }

    /// Where the same service speaks the calls of version 2.1, which knows interfaces.
    fn servers(&self) -> String {
        format!("{}/servers", self.compute.replacen("/v1/", "/v2.1/", 1))
    }

    /// Makes a server, which starts by itself; its identity.
    pub fn make_server(&self, server: &Value) -> Result<String, Error> {
        let made = self.call("POST", &self.servers(), Some(&json!({ "server": server })))?;
        Ok(made["server"]["id"].as_str().unwrap_or_default().to_owned())
    }

    pub fn stop_server(&self, id: &str) -> Result<Job, Error> {
        let body = json!({ "os-stop": { "type": "SOFT", "servers": [{ "id": id }] } });
        self.begin("POST", &format!("{}/cloudservers/action", self.compute), Some(&body))
    }

    pub fn delete_server(&self, id: &str, with_addresses: bool) -> Result<Job, Error> {
        let body = json!({
            "servers": [{ "id": id }], "delete_publicip": with_addresses, "delete_volume": false,
        });
        self.begin("POST", &format!("{}/cloudservers/delete", self.compute), Some(&body))
    }

    pub fn resize_server(&self, id: &str, flavour: &str) -> Result<Job, Error> {
        let body = json!({ "resize": { "flavorRef": flavour } });
        self.begin("POST", &format!("{}/cloudservers/{id}/resize", self.compute), Some(&body))
    }

    /// The device's name may be left to the service.
    pub fn attach_disk(&self, id: &str, disk: &str, device: &str) -> Result<Job, Error> {
        let mut attachment = json!({ "volumeId": disk });
        if !device.is_empty() {
            attachment["device"] = json!(device);
        }
        let body = json!({ "volumeAttachment": attachment });
        let url = format!("{}/cloudservers/{id}/attachvolume", self.compute);
        self.begin("POST", &url, Some(&body))
    }

    pub fn detach_disk(&self, id: &str, disk: &str) -> Result<Job, Error> {
        let url = format!("{}/cloudservers/{id}/detachvolume/{disk}", self.compute);
        self.begin("DELETE", &url, None)
    }

    /// A disk as the volume service tells of it; `None` where that is not configured, or knows none such.
    pub fn disk(&self, disk: &str) -> Result<Option<Value>, Error> {
        if self.volumes.is_empty() {
            return Ok(None);
        }
        match self.call("GET", &format!("{}/cloudvolumes/{disk}", self.volumes), None) {
            Ok(found) => Ok(Some(found["volume"].clone())),
            Err(why) if why.code == ErrorCode::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Deletes a disk of the cloud's own; whether it could be: without the volume service it stays.
    pub fn delete_disk(&self, disk: &str) -> Result<bool, Error> {
        if self.volumes.is_empty() {
            return Ok(false);
        }
        match self.call("DELETE", &format!("{}/cloudvolumes/{disk}", self.volumes), None) {
            Err(why) if why.code == ErrorCode::NotFound => Ok(true),
            other => other.map(|_| true),
        }
    }

    /// Gives a server a port that exists.
    pub fn attach_port(&self, server: &str, port: &str) -> Result<(), Error> {
        let body = json!({ "interfaceAttachment": { "port_id": port } });
        let url = format!("{}/{server}/os-interface", self.servers());
        self.call("POST", &url, Some(&body)).map(drop)
    }

    /// Takes a port from a server. One that is gone has none.
    pub fn detach_port(&self, server: &str, port: &str) -> Result<(), Error> {
        match self.call("DELETE", &format!("{}/{server}/os-interface/{port}", self.servers()), None)
        {
            Err(why) if why.code == ErrorCode::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    fn begin(&self, method: &str, url: &str, body: Option<&Value>) -> Result<Job, Error> {
        let begun = self.call(method, url, body)?;
        Ok(begun["job_id"].as_str().unwrap_or_default().to_owned())
    }

    pub fn job(&self, id: &str) -> Result<Progress, Error> {
        let job = self.call("GET", &format!("{}/jobs/{id}", self.compute), None)?;
        Ok(match job["status"].as_str() {
            Some("SUCCESS") => Progress::Success,
            Some("FAIL") => {
                let (code, why) = (job["error_code"].as_str(), job["fail_reason"].as_str());
                Progress::Fail(format!("{}: {}", code.unwrap_or("?"), why.unwrap_or("no reason")))
            }
            _ => Progress::Running,
        })
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
