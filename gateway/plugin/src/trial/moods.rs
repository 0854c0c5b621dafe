//! The moods of the simulated gateway and of the other side, and what requests are answered in them.
//!
//! Invariant: a request is written down before it is answered, as it would have left: with its
//! credentials in place.

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::{Method, Request};
use tokio::sync::Notify;

use super::answers::Answers;
use crate::bindings::twinspan::plugin::http::{HttpError, Response};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// All is granted, all is well.
    Well,
    /// Nothing is granted.
    Denied,
    /// The other side cannot be reached.
    Unreachable,
    /// It answers 429.
    Busy,
    /// It answers 500.
    Failing,
    /// It answers half of what it wanted to say.
    Interrupted,
    /// It does not answer in time.
    Slow,
    /// It answers 200, and what it says makes no sense.
    Garbled,
    /// What was made cannot be written down.
    Forgetful,
    /// Somebody asked to stop.
    Cancelled,
    /// The gateway dies at the first request that changes something, after the other side heard it;
    /// the next one goes on.
    Killed,
}

impl Mood {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Well,
        Self::Denied,
        Self::Unreachable,
        Self::Busy,
        Self::Failing,
        Self::Interrupted,
        Self::Slow,
        Self::Garbled,
        Self::Forgetful,
        Self::Cancelled,
        Self::Killed,
    ];

    /// What it is, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Well => "all is well",
            Self::Denied => "nothing is granted",
            Self::Unreachable => "the other side cannot be reached",
            Self::Busy => "the other side answers 429",
            Self::Failing => "the other side answers 500",
            Self::Interrupted => "answers break off",
            Self::Slow => "answers do not come in time",
            Self::Garbled => "answers make no sense",
            Self::Forgetful => "what is made cannot be written down",
            Self::Cancelled => "somebody asked to stop",
            Self::Killed => "the gateway dies in the middle",
        }
    }

    /// Whether the same call may succeed later.
    pub(super) const fn passes(self) -> bool {
        matches!(self, Self::Unreachable | Self::Busy | Self::Failing | Self::Slow)
    }

    /// Whether a request that changes something takes no effect in it, or not for sure.
    pub(super) const fn fails_requests(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Busy | Self::Failing | Self::Slow | Self::Interrupted
        )
    }
}

/// A request, as it would have left.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) changes: bool,
    /// Whether it makes something new: one that is repeated makes two.
    pub(super) makes: bool,
    /// Method and address.
    pub(super) line: String,
    /// All of it: line, headers, body.
    pub(super) text: String,
}

impl Sent {
    fn of(request: &Request) -> Self {
        let method = request.method();
        let line = format!("{method} {}", request.url());
        let mut text = line.clone();
        for (name, value) in request.headers() {
            text.push_str(&format!("\n{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
        text.push_str(&format!("\n\n{}", String::from_utf8_lossy(body)));
        let changes = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
        Self { changes, makes: *method == Method::POST, line, text }
    }
}

/// The other side.
pub(crate) struct Script {
    answers: Answers,
    state: Mutex<(Mood, Vec<Sent>)>,
    /// Rung when the gateway is to die.
    pub(super) death: Notify,
}

impl Script {
    pub(super) fn new(answers: Answers) -> Self {
        Self { answers, state: Mutex::new((Mood::Well, Vec::new())), death: Notify::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, (Mood, Vec<Sent>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, mood: Mood) {
        *self.state() = (mood, Vec::new());
    }

    /// What was sent since it was asked last.
    pub(super) fn take(&self) -> Vec<Sent> {
        std::mem::take(&mut self.state().1)
    }

    /// Answers a request by its mood.
    pub(crate) async fn answer(self: &Arc<Self>, request: &Request) -> Result<Response, HttpError> {
        let sent = Sent::of(request);
        let changes = sent.changes;
        let mood = {
            let mut state = self.state();
            state.1.push(sent);
            state.0
        };
        let words = mood.words().to_owned();
        match mood {
            Mood::Unreachable => Err(HttpError::Connect(words)),
            Mood::Interrupted => Err(HttpError::Interrupted(words)),
            Mood::Slow => Err(HttpError::Timeout),
            Mood::Busy => Ok(response(429, ("retry-after", "1"), b"")),
            Mood::Failing => Ok(response(500, ("content-type", "text/html"), b"<h1>Error</h1>")),
            Mood::Garbled => {
                Ok(response(200, ("content-type", "application/json"), b"{\"a\":[\xff\x00"))
            }
            Mood::Killed if changes => {
                self.death.notify_one();
                std::future::pending().await
            }
            Mood::Well | Mood::Denied | Mood::Forgetful | Mood::Cancelled | Mood::Killed => {
                let (status, body) = self.answers.to(request.method(), request.url().path());
                let json = ("content-type", "application/json");
                Ok(response(status, json, body.as_bytes()))
            }
        }
    }
}

fn response(status: u16, (name, value): (&str, &str), body: &[u8]) -> Response {
    Response { status, headers: vec![(name.to_owned(), value.to_owned())], body: body.to_vec() }
}
