//! `http`: requests to hosts that were granted.
//!
//! ```text
//!   plugin ─▶ granted? ─▶ credentials put in ─▶ Web ─▶ the network, or what is simulated in a trial
//! ```
//!
//! Invariant: no request leaves for another host, whatever a URL looks like and wherever an answer
//! points. A secret is put in here, and is in no error and no log.

use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use crate::bindings::twinspan::plugin::http::{Auth, Host, HttpError, Request, Response};
use crate::instance::State;
use crate::limits::{HTTP_BODY_BYTES_MAX, HTTP_REQUESTS_MAX};
use crate::trial::Script;

/// Where requests go.
#[derive(Clone)]
pub(crate) struct Web {
    client: reqwest::Client,
    script: Option<Arc<Script>>,
}

impl Web {
    /// The network; with a script nothing leaves, and that answers.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub(crate) fn new(script: Option<Arc<Script>>) -> reqwest::Result<Self> {
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { client, script })
    }

    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<Response, HttpError> {
        match &self.script {
            None => receive(request).await,
            Some(script) => script.answer(&request.build().map_err(told)?).await,
        }
    }
}

fn invalid(why: impl ToString) -> HttpError {
    HttpError::InvalidRequest(why.to_string())
}

impl State {
    /// The request's address, if it may be called.
    fn granted(&self, text: &str) -> Result<(Url, String), HttpError> {
        let url = Url::parse(text).map_err(invalid)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("only http and https are spoken"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("credentials belong into auth, not into the address"));
        }
        let host = url.host_str().ok_or_else(|| invalid("it names no host"))?.to_ascii_lowercase();
        let port = url.port_or_known_default().ok_or_else(|| invalid("it names no port"))?;
        if self.caller.grants.has_http(&host, port) {
            return Ok((url, host));
        }
        let plugin = &self.caller.plugin;
        Err(HttpError::Denied(format!(
            "{host}:{port} is not granted: twinspan plugin grant {plugin} http:{host}:{port}"
        )))
    }

    fn secret(&self, name: &str) -> Result<String, HttpError> {
        if !self.caller.grants.has_secret(name) {
            let plugin = &self.caller.plugin;
            return Err(HttpError::Denied(format!(
                "the secret {name} is not granted: twinspan plugin grant {plugin} secret:{name}"
            )));
        }
        let bytes = self.caller.world.secret(name).map_err(invalid)?;
        // The bytes are not told, also where they are no text.
        String::from_utf8(bytes)
            .map_err(|_not_text| invalid(format!("the secret {name} is no text")))
    }

    fn headers(&self, request: &Request) -> Result<HeaderMap, HttpError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(invalid)?;
            // Whom a request is for and how long it is are not the plugin's to say.
            if [
                reqwest::header::HOST,
                reqwest::header::CONTENT_LENGTH,
                reqwest::header::TRANSFER_ENCODING,
            ]
            .contains(&name)
            {
                return Err(invalid(format!("{name} is set by the gateway")));
            }
            headers.append(name, HeaderValue::try_from(value.as_str()).map_err(invalid)?);
        }
        if let Auth::Header((name, secret)) = &request.auth {
            let name = HeaderName::try_from(name.as_str()).map_err(invalid)?;
            let value = HeaderValue::try_from(self.secret(secret)?);
            let mut value =
                value.map_err(|_told| invalid(format!("the secret {secret} fits no header")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    async fn exchange(&mut self, request: Request) -> Result<Response, HttpError> {
        // One that is refused counts, too: each writes a line.
        if self.requests >= HTTP_REQUESTS_MAX {
            return Err(HttpError::TooManyRequests);
        }
        self.requests += 1;
        let (url, host) = self.granted(&request.url)?;
        if request.body.len() > HTTP_BODY_BYTES_MAX {
            return Err(invalid("the body is too long"));
        }
        let method = Method::from_bytes(request.method.as_bytes()).map_err(invalid)?;
        let limit = std::time::Duration::from_millis(request.timeout_ms.into()).min(self.left());
        let mut sent = self.caller.web.client.request(method, url).timeout(limit);
        sent = sent.headers(self.headers(&request)?);
        sent = match &request.auth {
            Auth::None | Auth::Header(_) => sent,
            Auth::Bearer(name) => sent.bearer_auth(self.secret(name)?),
            Auth::Basic((user, password)) => {
                sent.basic_auth(self.secret(user)?, Some(self.secret(password)?))
            }
        };
        let result = self.caller.web.exchange(sent.body(request.body)).await;
        let word = match &result {
            Ok(_) => "ok",
            Err(HttpError::Timeout) => "timeout",
            Err(_) => "error",
        };
        self.caller.numbers.requested(&host, word);
        result
    }
}

/// An error's words, without the address: it may carry what is nobody's business.
fn told(error: reqwest::Error) -> HttpError {
    let error = error.without_url();
    if error.is_timeout() {
        return HttpError::Timeout;
    }
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        words = format!("{words}: {next}");
        cause = next.source();
    }
    if error.is_builder() {
        HttpError::InvalidRequest(words)
    } else if error.is_connect() {
        HttpError::Connect(words)
    } else {
        HttpError::Interrupted(words)
    }
}

async fn receive(request: reqwest::RequestBuilder) -> Result<Response, HttpError> {
    let mut answer = request.send().await.map_err(told)?;
    let status = answer.status().as_u16();
    let headers = answer
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(told)? {
        if body.len() + piece.len() > HTTP_BODY_BYTES_MAX {
            return Err(HttpError::ResponseTooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Response { status, headers, body })
}

impl Host for State {
    async fn send(&mut self, request: Request) -> wasmtime::Result<Result<Response, HttpError>> {
        self.reaches("http.send")?;
        let result = self.exchange(request).await;
        if let Err(HttpError::Denied(why)) = &result {
            let caller = &self.caller;
            caller.numbers.requested("", "denied");
            caller.logs.say(&caller.plugin, crate::logs::Level::Warn, why);
        }
        Ok(result)
    }
}
