//! One gateway's API: TLS with its pinned certificate, a bearer token, JSON.
//!
//! Invariant: nothing is sent before the gateway proved to hold the pinned certificate's key.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use api::{Code, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use crate::failure::{Failure, UNREACHABLE};
use crate::place::Place;

/// A call answers within moments; only a digest reads a whole volume.
const CALL_MAX: Duration = Duration::from_secs(30);
const DIGEST_MAX: Duration = Duration::from_secs(3600);
/// A piece of a volume's content.
const CONTENT_BYTES_MAX: u64 = 8 << 20;

/// A way to one gateway.
pub(crate) struct Client {
    place: Place,
    agent: Agent,
    patient: Agent,
    endless: Agent,
}

impl Client {
    /// Prepares to talk to a gateway; does not talk yet.
    ///
    /// # Errors
    /// When its certificate cannot be used.
    pub(crate) fn new(place: Place) -> Result<Self, Failure> {
        let pem = place.certificate.as_deref().ok_or_else(|| {
            Failure::new(UNREACHABLE, format!("the certificate of {} is not known", place.url))
                .next("set TWINSPAN_CA to the api.crt of its data directory")
        })?;
        let certificate = Certificate::from_pem(pem.as_bytes()).map_err(|error| {
            Failure::new(UNREACHABLE, format!("the gateway's certificate: {error}"))
        })?;
        let roots = RootCerts::new_with_certs(&[certificate]);
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(roots)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = |limit: Option<Duration>| -> Agent {
            Agent::config_builder()
                .tls_config(tls.clone())
                .timeout_connect(Some(Duration::from_secs(5)))
                .timeout_global(limit)
                .http_status_as_error(false)
                .build()
                .into()
        };
        Ok(Self {
            agent: agent(Some(CALL_MAX)),
            patient: agent(Some(DIGEST_MAX)),
            endless: agent(None),
            place,
        })
    }

    /// The gateway's URL.
    pub(crate) fn url(&self) -> &str {
        &self.place.url
    }

    fn send(
        &self,
        agent: &Agent,
        method: &Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Response<Body>, Failure> {
        let request = self.request(method, path);
        let wrong = |error: ureq::http::Error| self.wrong(&error);
        let answer = match body {
            None => agent.run(request.body(()).map_err(wrong)?),
            Some(body) => agent
                .run(request.header("content-type", "application/json").body(body).map_err(wrong)?),
        };
        answer.map_err(|error| self.unreachable(&error))
    }

    fn request(&self, method: &Method, path: &str) -> ureq::http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.place.url))
            .header("accept", "application/json, text/event-stream");
        match &self.place.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn wrong(&self, error: &ureq::http::Error) -> Failure {
        Failure::coded(Code::Invalid, format!("{}: {error}", self.place.url))
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::new(UNREACHABLE, format!("{} does not answer: {error}", self.place.url))
            .next("start the gateway, or ask another site: --from SITE|URL")
    }

    fn call<T: DeserializeOwned>(
        &self,
        agent: &Agent,
        method: &Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Option<T>, Failure> {
        self.read(self.send(agent, method, path, body)?)
    }

    /// What an answer says; nothing if it is empty.
    fn read<T: DeserializeOwned>(&self, mut answer: Response<Body>) -> Result<Option<T>, Failure> {
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().map_err(|error| self.unreachable(&error))?;
        if status >= 400 {
            return Err(self.problem(status, text.as_bytes()));
        }
        if text.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::coded(Code::Internal, format!("the answer cannot be read: {error}"))
                .next("use the command of the gateway's own release")
        })
    }

    fn answered<T>(answer: Option<T>) -> Result<T, Failure> {
        answer.ok_or_else(|| Failure::coded(Code::Internal, "the answer is empty"))
    }

    /// Reads.
    ///
    /// # Errors
    /// The gateway's problem, or that it cannot be reached; the same for all below.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        Self::answered(self.call(&self.agent, &Method::GET, path, None)?)
    }

    /// Reads what may take an hour.
    pub(crate) fn get_patiently<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        Self::answered(self.call(&self.patient, &Method::GET, path, None)?)
    }

    /// Asks for something to be done; the answer may be empty.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Option<T>, Failure> {
        let body = serde_json::to_string(body)
            .map_err(|error| Failure::coded(Code::Internal, error.to_string()))?;
        self.call(&self.agent, method, path, Some(body))
    }

    /// Asks for something to be done that has an answer.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        Self::answered(self.ask(&Method::POST, path, body)?)
    }

    /// The same of what may take minutes.
    pub(crate) fn post_patiently<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_string(body)
            .map_err(|error| Failure::coded(Code::Internal, error.to_string()))?;
        Self::answered(self.call(&self.patient, &Method::POST, path, Some(body))?)
    }

    /// Changes something, and hears what it is then.
    pub(crate) fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        Self::answered(self.ask(&Method::PATCH, path, body)?)
    }

    /// Sends bytes, with a header of their own if they have one.
    pub(crate) fn put_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        bytes: &[u8],
        (kind, header): (&str, Option<(&str, &str)>),
    ) -> Result<T, Failure> {
        let mut request = self.request(&Method::PUT, path).header("content-type", kind);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(bytes).map_err(|error| self.wrong(&error))?;
        // A large component is compiled before the answer.
        let answer = self.patient.run(request).map_err(|error| self.unreachable(&error))?;
        Self::answered(self.read(answer)?)
    }

    /// Deletes.
    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        self.call::<serde_json::Value>(&self.agent, &Method::DELETE, path, None).map(|_| ())
    }

    /// Reads bytes.
    pub(crate) fn content(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut answer = self.send(&self.agent, &Method::GET, path, None)?;
        let status = answer.status().as_u16();
        let bytes = answer
            .body_mut()
            .with_config()
            .limit(CONTENT_BYTES_MAX)
            .read_to_vec()
            .map_err(|error| self.unreachable(&error))?;
        if status >= 400 {
            return Err(self.problem(status, &bytes));
        }
        Ok(bytes)
    }

    /// Whether the gateway is there and ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.send(&self.agent, &Method::GET, "/readyz", None)
            .is_ok_and(|answer| answer.status().as_u16() == 200)
    }

    /// Reads events after the `after`th: those that are remembered, or with `follow` also those to
    /// come, until the gateway ends the stream.
    pub(crate) fn events(
        &self,
        after: Option<u64>,
        follow: bool,
        mut tell: impl FnMut(api::Event),
    ) -> Result<(), Failure> {
        let mut request = Request::builder()
            .uri(format!("{}/api/v1/events?follow={follow}", self.place.url))
            .header("accept", "text/event-stream");
        if let Some(token) = &self.place.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let request =
            request.body(()).map_err(|error| Failure::coded(Code::Invalid, error.to_string()))?;
        let mut answer = self.endless.run(request).map_err(|error| self.unreachable(&error))?;
        let status = answer.status().as_u16();
        if status >= 400 {
            let text = answer.body_mut().read_to_string().unwrap_or_default();
            return Err(self.problem(status, text.as_bytes()));
        }
        let reader = std::io::BufReader::new(answer.into_body().into_reader());
        for line in reader.lines() {
            let Ok(line) = line else { return Ok(()) };
            let Some(data) = line.strip_prefix("data:") else { continue };
            if let Ok(event) = serde_json::from_str::<api::Event>(data.trim()) {
                tell(event);
            }
        }
        Ok(())
    }

    fn problem(&self, status: u16, body: &[u8]) -> Failure {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => Failure::from(problem),
            Err(_) => {
                let text = String::from_utf8_lossy(body);
                Failure::new(1, format!("{}: HTTP {status}: {text}", self.place.url))
            }
        }
    }
}
