//! The resource orchestrator of a site, as far as a switchover speaks with it: items by kind and name, a
//! lock, power. `gateway/docs/LSERVER.md` says what is called.
//!
//! Invariant: a change is made once for each key that was given with it, however often it is asked for.
//! What it is told to do wrong it does once, to the next request that it fits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

/// A request's body, in bytes.
const BODY_BYTES_MAX: usize = 8 << 20;

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It answers this status and does nothing.
    Status(u16),
    /// It does what it is asked, and sends half of the answer.
    HalfBody,
    /// It does what it is asked, and answers nothing.
    NoAnswer,
    /// It does what it is asked, and answers after so long.
    Late(Duration),
}

/// When a process is killed that has to do with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It is asked for and not made.
    Before,
    /// It is made and not answered.
    After,
}

/// A process that is to be killed.
#[derive(Clone, Copy, Debug)]
struct Strike {
    /// As this change is asked for, or a later one.
    change: usize,
    moment: Moment,
    process: u32,
}

/// What it holds.
#[derive(Debug, Default)]
struct State {
    items: BTreeMap<String, BTreeMap<String, Value>>,
    revision: u64,
    lock: Option<String>,
    busy: u64,
    free_servers: u64,
    shared_directory: bool,
    /// Changes that were made, by their keys.
    keys: BTreeSet<String>,
    /// Method and path of each change that was made, in order.
    made: Vec<String>,
    /// Changes that were asked for again.
    repeated: u64,
    wrong: VecDeque<(String, Wrong)>,
    /// Keys of the changes that were asked for, by the first time; the lock is none of them.
    asked: Vec<String>,
    strike: Option<Strike>,
    /// The change that the last strike came with, until it is looked at.
    struck: Option<usize>,
}

/// A running one. It ends with this value.
#[derive(Debug)]
pub struct Orchestrator {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stopped: Arc<AtomicBool>,
}

/// The token that it takes.
pub const TOKEN: &str = "orchestrator-token";

/// A request.
struct Asked {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Value,
}

type Answer = (u16, Value);

impl Orchestrator {
    /// Starts one that holds these items, by kind and name.
    ///
    /// # Errors
    /// When there is no port for it.
    pub fn start(items: Value) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind")?;
        let address = listener.local_addr()?;
        let items = serde_json::from_value(items).context("items by kind and name")?;
        let state = State { items, revision: 1, free_servers: 8, ..State::default() };
        let (state, stopped) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (shared, stops) = (Arc::clone(&state), Arc::clone(&stopped));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stops.load(Ordering::Acquire) {
                    return;
                }
                let state = Arc::clone(&shared);
                // Whoever hung up hears nothing.
                std::thread::spawn(move || serve(stream, &state).ok());
            }
        });
        Ok(Self { address, state, stopped })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it answers.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same, as a gateway grants it.
    #[must_use]
    pub fn grant(&self) -> String {
        format!("http:{}", self.address)
    }

    /// An item; null if there is none.
    #[must_use]
    pub fn item(&self, kind: &str, name: &str) -> Value {
        let state = self.state();
        let found = state.items.get(kind).and_then(|of| of.get(name));
        found.cloned().unwrap_or(Value::Null)
    }

    /// Everything of these kinds.
    #[must_use]
    pub fn items(&self, kinds: &[&str]) -> Value {
        let state = self.state();
        let of = |kind: &&str| ((*kind).to_owned(), json!(state.items.get(*kind)));
        Value::Object(kinds.iter().map(of).collect())
    }

    /// Changes an item as its own operators do.
    pub fn set(&self, kind: &str, name: &str, item: Value) {
        let mut state = self.state();
        state.items.entry(kind.to_owned()).or_default().insert(name.to_owned(), item);
        state.revision += 1;
    }

    /// Says how many operations are running there.
    pub fn set_busy(&self, operations: u64) {
        self.state().busy = operations;
    }

    /// Who has its lock.
    #[must_use]
    pub fn lock(&self) -> Option<String> {
        self.state().lock.clone()
    }

    /// Does this wrong with the next request whose method and path begin so, as `PUT /v1/items`.
    pub fn go_wrong(&self, request: &str, wrong: Wrong) {
        self.state().wrong.push_back((request.to_owned(), wrong));
    }

    /// What it was told to do wrong and had no request for.
    #[must_use]
    pub fn not_yet_wrong(&self) -> usize {
        self.state().wrong.len()
    }

    /// Kills the process group of this number with SIGKILL as this change is asked for, or a later one: they
    /// are counted from 0, each once. Another strike that was told takes its place.
    pub fn strike_at(&self, change: usize, moment: Moment, process: u32) {
        self.state().strike = Some(Strike { change, moment, process });
    }

    /// Kills nothing any more.
    pub fn spare(&self) {
        self.state().strike = None;
    }

    /// The change that somebody was killed at, once.
    #[must_use]
    pub fn struck(&self) -> Option<usize> {
        self.state().struck.take()
    }

    /// How many changes were asked for so far, each once.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.state().asked.len()
    }

    /// Changes that were made, as method and path, in order.
    #[must_use]
    pub fn made(&self) -> Vec<String> {
        self.state().made.clone()
    }

    /// How often a change was asked for again that had been made.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.state().repeated
    }
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // It waits for a connection, and looks then.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> Result<()> {
    let asked = read(&mut BufReader::new(stream.try_clone()?))?;
    let (wrong, (status, body)) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((change, strike)) = state.strike_for(&asked) {
            if strike.moment == Moment::After {
                state.answer(&asked);
            }
            // It dies before anybody else is answered. What was killed already cannot be killed again.
            let process = i32::try_from(strike.process).ok().and_then(Pid::from_raw);
            let _dead = process.map(|process| kill_process_group(process, Signal::KILL));
            state.struck = Some(change);
            return Ok(stream.shutdown(Shutdown::Both)?);
        }
        let line = format!("{} {}", asked.method, asked.path);
        let place = state.wrong.iter().position(|(of, _)| line.starts_with(of.as_str()));
        let wrong = place.and_then(|place| state.wrong.remove(place)).map(|(_, wrong)| wrong);
        match wrong {
            Some(Wrong::Status(status)) => (wrong, (status, json!({ "error": "as it was told" }))),
            _ => (wrong, state.answer(&asked)),
        }
    };
    let body = body.to_string();
    let sent = match wrong {
        Some(Wrong::NoAnswer) => return Ok(stream.shutdown(Shutdown::Both)?),
        Some(Wrong::HalfBody) => &body[..body.len() / 2],
        Some(Wrong::Late(time)) => {
            std::thread::sleep(time);
            &body[..]
        }
        _ => &body[..],
    };
    let more = if status == 429 { "retry-after: 0\r\n" } else { "" };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{more}\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(sent.as_bytes())?)
}

fn read(reader: &mut impl BufRead) -> Result<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next(), words.next());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").map_or(Ok(0), |text| text.parse())?;
    anyhow::ensure!(length <= BODY_BYTES_MAX, "the body is too long");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Asked { method: method.context("a method")?, path: path.context("a path")?, headers, body })
}

fn refused(status: u16, why: impl Into<String>) -> Answer {
    (status, json!({ "error": why.into() }))
}

/// A name in a path.
fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl State {
    /// Counts a change that is asked for; who is killed at it.
    fn strike_for(&mut self, asked: &Asked) -> Option<(usize, Strike)> {
        let key = asked.headers.get("idempotency-key").filter(|key| !key.is_empty())?;
        if asked.method == "GET" || asked.path.starts_with("/v1/lock") {
            return None;
        }
        let known = self.asked.iter().position(|of| of == key);
        let change = known.unwrap_or_else(|| {
            self.asked.push(key.clone());
            self.asked.len() - 1
        });
        let strike = self.strike.take_if(|strike| strike.change <= change)?;
        Some((change, strike))
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        let header = |name: &str| asked.headers.get(name).map_or("", String::as_str);
        if header("authorization") != format!("Bearer {TOKEN}") {
            return refused(401, "no such token");
        }
        let path: Vec<String> = asked.path.split('/').skip(1).map(decoded).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let ("GET", ["v1", "status"]) = (asked.method.as_str(), &path[..]) {
            let status = json!({
                "revision": self.revision, "busy": self.busy, "lock": self.lock,
                "free_servers": self.free_servers, "shared_directory": self.shared_directory,
            });
            return (200, status);
        }
        if let ("GET", ["v1", "items"]) = (asked.method.as_str(), &path[..]) {
            return (200, json!({ "revision": self.revision, "items": self.items }));
        }
        let key = header("idempotency-key").to_owned();
        if key.is_empty() {
            return refused(400, "a change needs an idempotency-key");
        }
        if self.keys.contains(&key) && !path.contains(&"lock") {
            self.repeated += 1;
            return (200, json!({ "revision": self.revision }));
        }
        let answer = self.change(asked, &path, header("lock-holder"));
        if answer.0 == 200 {
            self.keys.insert(key);
            self.made.push(format!("{} {}", asked.method, asked.path));
        }
        answer
    }

    fn change(&mut self, asked: &Asked, path: &[&str], holder: &str) -> Answer {
        match (asked.method.as_str(), path) {
            ("PUT", ["v1", "lock"]) => return self.take_lock(&asked.body),
            ("DELETE", ["v1", "lock", holder]) => {
                self.lock = self.lock.take().filter(|of| of != holder);
                return (200, json!({}));
            }
            _ => {}
        }
        if self.lock.as_ref().is_some_and(|of| of != holder) {
            return refused(423, "somebody else has the lock");
        }
        match (asked.method.as_str(), path) {
            ("PUT", ["v1", "items", kind, name]) => {
                let of = self.items.entry((*kind).to_owned()).or_default();
                of.insert((*name).to_owned(), asked.body.clone());
            }
            ("DELETE", ["v1", "items", kind, name]) => {
                let removed = self.items.get_mut(*kind).and_then(|of| of.remove(*name));
                if removed.is_none() {
                    return refused(404, "it is not there");
                }
            }
            ("POST", ["v1", "power", name]) => return self.power(name, &asked.body),
            _ => return refused(404, "nobody answers here"),
        }
        self.revision += 1;
        (200, json!({ "revision": self.revision }))
    }

    fn take_lock(&mut self, body: &Value) -> Answer {
        let holder = body["holder"].as_str().unwrap_or_default();
        match &self.lock {
            Some(of) if of != holder => (409, json!({ "holder": of })),
            None if self.busy != 0 => (423, json!({ "busy": self.busy })),
            _ => {
                self.lock = Some(holder.to_owned());
                (200, json!({ "holder": holder }))
            }
        }
    }

    fn power(&mut self, name: &str, body: &Value) -> Answer {
        let fences = self.items.get("fences").cloned().unwrap_or_default();
        let Some(server) = self.items.get_mut("lservers").and_then(|of| of.get_mut(name)) else {
            return refused(404, "there is no such server");
        };
        let fenced =
            fences.iter().any(|(name, of)| name == "all" || of["tenant"] == server["tenant"]);
        if fenced && body["power"] == "on" {
            return refused(409, "it is fenced: it was switched to another site");
        }
        server["power"] = body["power"].clone();
        self.revision += 1;
        (200, json!({ "revision": self.revision }))
    }
}
