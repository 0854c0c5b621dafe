//! What this plugin asks of its gateway, and what it answers to it: the same natively and in a component.
//!
//! Invariant: nothing else reaches the world.

use serde_json::Value;

/// What kind of trouble, as the contract has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Argument,
    Config,
    Unauthorized,
    Denied,
    NotFound,
    Conflict,
    WrongState,
    Quota,
    Unavailable,
    Timeout,
    Internal,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub code: Code,
    /// What, why and what next.
    pub message: String,
    /// Milliseconds until it may be tried again; none: not before somebody changed something.
    pub again_ms: Option<u32>,
}

impl Trouble {
    /// It will not get better by itself.
    pub fn never(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), again_ms: None }
    }

    /// It may get better by itself.
    pub fn later(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), again_ms: Some(1_000) }
    }
}

/// What is sent to an orchestrator.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: &'static str,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The name of the secret that is its token.
    pub secret: String,
}

/// What it answers.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Seconds or a date, as it said it.
    pub retry_after: Option<String>,
    pub body: Vec<u8>,
}

/// Why there is no whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// It may be tried again, as every request here can be repeated.
    Again(String),
    /// It will not get better by itself.
    Never(String),
}

/// A file of the information folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub bytes: u64,
    pub at_ms: u64,
}

/// The gateway.
pub trait Outside {
    /// Sends a request.
    fn send(&self, request: &Request) -> Result<Response, NoAnswer>;
    /// Waits, within the time of the call.
    fn pause(&self, ms: u64);
    /// Now, in milliseconds since 1970.
    fn now_ms(&self) -> u64;
    /// This site's name.
    fn here(&self) -> Result<String, Trouble>;
    /// Whether this site serves the volume of the folder.
    fn serves(&self, volume: &str) -> Result<bool, Trouble>;
    /// The plugin's configuration.
    fn config(&self) -> Value;
    /// A value of the plugin's own at this site.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Trouble>;
    fn put(&self, key: &str, value: &[u8]) -> Result<(), Trouble>;
    fn delete(&self, key: &str) -> Result<(), Trouble>;
    fn keys(&self, prefix: &str) -> Result<Vec<String>, Trouble>;
    /// Files of the information folder.
    fn files(&self, volume: &str, prefix: &str) -> Result<Vec<File>, Trouble>;
    fn read(&self, volume: &str, name: &str) -> Result<Option<Vec<u8>>, Trouble>;
    fn write(&self, volume: &str, name: &str, content: &[u8]) -> Result<(), Trouble>;
    fn remove(&self, volume: &str, name: &str) -> Result<(), Trouble>;
}

/// What an action did, as the contract has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub summary: String,
    pub outputs: Vec<(String, String)>,
}

impl Report {
    pub fn of(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.outputs.push((name.to_owned(), value.to_string()));
        self
    }
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Done(Report),
    Skipped(String),
    Pending { token: Value, after_ms: u32, percent: Option<u8>, progress: String },
}

/// For whom a call is made.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub run: String,
    pub step: String,
    pub key: String,
}
