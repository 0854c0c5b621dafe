//! Steps that reach outside: requests, messages, scripts.
//!
//! Invariant: only hosts and scripts of `[recovery]` are called. A call that was cut short may have
//! taken effect; the other end tells by the key, which is the same for every attempt.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use api::Code;
use recovery::limits::{OUTPUT_BYTES_MAX, OUTPUTS_MAX};
use recovery::{ActionError, Context, Description, Doing, Outcome, Report, Standing};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{Deed, describe};
use crate::gateway::Gateway;
use crate::refusal::chain_text;

/// What a script or a host may say, at most.
const SAID_BYTES_MAX: u64 = 256 << 10;
/// A script's word for: it can be run.
const READY: i32 = 10;

/// Sends a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    url: String,
    #[serde(default = "post")]
    method: String,
    #[serde(default)]
    body: Option<Value>,
    /// Status codes that are good; left out: 200 to 299.
    #[serde(default)]
    expect: Vec<u16>,
}

fn post() -> String {
    "POST".to_owned()
}

fn allowed(gateway: &Gateway, url: &str) -> Result<reqwest::Url, ActionError> {
    let bad = |why: String| ActionError::never(Code::PlanBad.as_str(), why);
    let parsed = reqwest::Url::parse(url).map_err(|error| bad(format!("{url}: {error}")))?;
    let host = parsed.host_str().unwrap_or_default();
    let with_port = format!("{host}:{}", parsed.port_or_known_default().unwrap_or(0));
    let hosts = &gateway.config.recovery.hosts;
    let is_http = matches!(parsed.scheme(), "http" | "https");
    if is_http && hosts.iter().any(|of| of == host || *of == with_port) {
        return Ok(parsed);
    }
    let error = bad(format!("{with_port} is no host that steps may send requests to"));
    Err(ActionError { next: Some("add it to recovery.hosts".to_owned()), ..error })
}

async fn send(
    gateway: &Gateway,
    context: &Context,
    (url, method, body): (&str, &str, Option<String>),
) -> Result<(u16, String), ActionError> {
    let url = allowed(gateway, url)?;
    let method = reqwest::Method::from_bytes(method.as_bytes())
        .map_err(|error| ActionError::never(Code::PlanBad.as_str(), error.to_string()))?;
    let failed = |error: reqwest::Error| ActionError::now("http", chain_text(&error));
    let client = reqwest::Client::builder()
        .timeout(context.deadline)
        // A host that is allowed does not say which others are.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(failed)?;
    let mut request = client.request(method, url);
    request = request.header("idempotency-key", &context.idempotency_key);
    if let Some(body) = body {
        request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
    }
    let mut answer = request.send().await.map_err(failed)?;
    let status = answer.status().as_u16();
    let mut said = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        if said.len() < OUTPUT_BYTES_MAX {
            said.extend_from_slice(&piece);
        }
    }
    said.truncate(OUTPUT_BYTES_MAX);
    Ok((status, String::from_utf8_lossy(&said).chars().take(OUTPUT_BYTES_MAX / 4).collect()))
}

fn judged(status: u16, said: String, expect: &[u16]) -> Result<Outcome, ActionError> {
    let good =
        if expect.is_empty() { (200..300).contains(&status) } else { expect.contains(&status) };
    if !good {
        return Err(ActionError::now("http", format!("it answered {status}")));
    }
    let mut report = Report::of(format!("it answered {status}"));
    report.outputs.insert("status".to_owned(), status.to_string());
    report.outputs.insert("body".to_owned(), said);
    Ok(Outcome::Done(report))
}

impl Deed for Http {
    fn describe(&self) -> Description {
        describe("send a request", format!("{} {}", self.method, self.url), false)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            allowed(gateway, &self.url)?;
            Ok(Standing::Ready)
        })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, context: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let body = self.body.as_ref().map(Value::to_string);
            let request = (self.url.as_str(), self.method.as_str(), body);
            let (status, said) = send(gateway, context, request).await?;
            judged(status, said, &self.expect)
        })
    }
}

/// Tells somebody.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notify {
    url: String,
    text: String,
}

impl Deed for Notify {
    fn describe(&self) -> Description {
        describe("notify", format!("tell {}: {}", self.url, self.text), false)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            allowed(gateway, &self.url)?;
            Ok(Standing::Ready)
        })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, context: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let body = json!({ "text": self.text, "run": context.run, "step": context.step });
            let request = (self.url.as_str(), "POST", Some(body.to_string()));
            let (status, said) = send(gateway, context, request).await?;
            judged(status, said, &[])
        })
    }
}

/// Executes a script.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Script {
    name: String,
    #[serde(default)]
    params: BTreeMap<String, String>,
}

/// How a script ended.
struct Ended {
    code: Option<i32>,
    said: String,
    complained: String,
}

impl Script {
    async fn call(
        &self,
        gateway: &Gateway,
        context: &Context,
        word: &str,
    ) -> Result<Ended, ActionError> {
        let scripts = &gateway.config.recovery.scripts;
        let command =
            scripts.iter().find(|(name, _)| *name == self.name).and_then(|(_, c)| c.split_first());
        let (program, arguments) = command.ok_or_else(|| {
            let why = format!("{} has no script {:?}", gateway.config.site.name, self.name);
            let error = ActionError::never(Code::PlanBad.as_str(), why);
            ActionError { next: Some("add it to [[recovery.scripts]]".to_owned()), ..error }
        })?;
        let failed =
            |error: std::io::Error| ActionError::now("script", format!("{program}: {error}"));
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .arg(word)
            .env("TWINSPAN_RUN", &context.run)
            .env("TWINSPAN_STEP", &context.step)
            .env("TWINSPAN_KEY", &context.idempotency_key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (name, value) in &self.params {
            let name = name.to_ascii_uppercase().replace('-', "_");
            command.env(format!("TWINSPAN_PARAM_{name}"), value);
        }
        let mut child = command.spawn().map_err(failed)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (said, complained) = tokio::join!(hear(out), hear(err));
        let status = child.wait().await.map_err(failed)?;
        Ok(Ended { code: status.code(), said, complained })
    }

    fn outcome(&self, ended: Ended) -> Result<Report, ActionError> {
        if ended.code != Some(0) {
            let code = ended.code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
            let why = ended.complained.trim();
            let detail = format!("script {} ended with {code}: {why}", self.name);
            return Err(ActionError::now("script", detail));
        }
        let mut report = Report::of(format!("script {} did it", self.name));
        let outputs = ended.said.lines().filter_map(|line| line.split_once('='));
        let named = outputs.filter(|(name, _)| recovery::plan::is_id(name));
        for (name, value) in named.take(OUTPUTS_MAX) {
            report.outputs.insert(name.to_owned(), value.to_owned());
        }
        Ok(report)
    }
}

/// What is said, as far as it is of interest; the rest is read and thrown away, so that nobody waits.
async fn hear(from: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(from) = from else { return String::new() };
    let mut limited = from.take(SAID_BYTES_MAX);
    let mut said = Vec::new();
    if limited.read_to_end(&mut said).await.is_ok() {
        let mut rest = limited.into_inner();
        // Its end is the child's, which is waited for.
        drop(tokio::io::copy(&mut rest, &mut tokio::io::sink()).await);
    }
    String::from_utf8_lossy(&said).into_owned()
}

impl Deed for Script {
    fn describe(&self) -> Description {
        describe("execute a script", format!("execute script {}", self.name), true)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, context: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            let ended = self.call(gateway, context, "check").await?;
            Ok(match ended.code {
                Some(0) => Standing::Done(self.outcome(ended)?),
                Some(READY) => Standing::Ready,
                _ => {
                    Standing::Blocked(format!("script {}: {}", self.name, ended.complained.trim()))
                }
            })
        })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, context: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let ended = self.call(gateway, context, "run").await?;
            self.outcome(ended).map(Outcome::Done)
        })
    }

    fn undo<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        context: &'a Context,
        _: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let ended = self.call(gateway, context, "undo").await?;
            self.outcome(ended).map(Outcome::Done)
        })
    }
}
