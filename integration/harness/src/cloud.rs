//! A cloud's compute, network and volume services, as far as a disaster recovery asks them: servers, their
//! disks and interfaces, ports, public and virtual addresses, over HTTP, with the faults that such services
//! have.
//!
//! Invariant: what it is asked to do it does, also where its answer is then spoilt, as a service does
//! whose connection breaks; a request without the token does nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// No request of a test is larger.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What becomes of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and this status is told; with when to come again, in seconds.
    Status(u16, Option<u32>),
    /// It is done, and the answer breaks off in the middle.
    Half,
    /// It is done, and the connection ends without an answer.
    Silent,
    /// It is done after this time.
    Late(Duration),
}

#[derive(Debug, Default)]
struct State {
    token: String,
    servers: BTreeMap<String, Value>,
    /// What was begun on servers, and how often each was asked about.
    jobs: BTreeMap<String, Job>,
    spoils: VecDeque<Spoil>,
    /// Disks of the cloud's own.
    disks: BTreeSet<String>,
    /// What the volume service says of disks, where it says anything.
    marked: BTreeMap<String, Value>,
    ports: BTreeMap<String, Value>,
    public_ips: BTreeMap<String, Value>,
    /// For requests of this method, the next answers.
    faults: VecDeque<(String, Fault)>,
    /// What was asked, in order.
    asked: Vec<String>,
    made: u32,
}

mod compute;

use compute::Job;
pub use compute::Spoil;

/// A running one. It ends with its process.
#[derive(Clone, Debug)]
pub struct Cloud {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Cloud {
    /// Starts one that takes this token.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(token: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let address = listener.local_addr().context("where it listens")?;
        let state = Arc::new(Mutex::new(State { token: token.to_owned(), ..State::default() }));
        let cloud = Self { address, state };
        let serving = cloud.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                // A client that goes away ends its thread.
                thread::spawn(move || drop(serving.serve(stream)));
            }
        });
        Ok(cloud)
    }

    /// Where its services are.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1/p", self.address)
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a server there.
    pub fn put_server(&self, id: &str, server: Value) {
        self.with(|state| state.servers.insert(id.to_owned(), server));
    }

    /// Gives a server that is there an interface; its port.
    pub fn put_interface(&self, server: &str, network: &str) -> String {
        self.with(|state| {
            let wanted = json!({ "network_id": network, "device_id": server });
            let (_, made) = state.make_port(&wanted);
            made["port"]["id"].as_str().unwrap_or_default().to_owned()
        })
    }

    /// A server as the service would tell of it now; null if there is none.
    #[must_use]
    pub fn server(&self, id: &str) -> Value {
        self.with(|state| state.told(id).unwrap_or_default())
    }

    /// Changes a server as its owner would, behind the back of everybody else.
    pub fn set_status(&self, id: &str, status: &str) {
        self.with(|state| {
            if let Some(server) = state.servers.get_mut(id) {
                server["status"] = json!(status);
            }
        });
    }

    /// Deletes a server as its owner would.
    pub fn drop_server(&self, id: &str) {
        self.with(|state| state.servers.remove(id));
    }

    /// The servers that there are.
    #[must_use]
    pub fn servers(&self) -> Vec<String> {
        self.with(|state| state.servers.keys().cloned().collect())
    }

    /// The ports that a server has, in order.
    #[must_use]
    pub fn ports_of(&self, server: &str) -> Vec<String> {
        self.with(|state| {
            let its = state.ports.values().filter(|port| port["device_id"] == server);
            its.filter_map(|port| port["id"].as_str().map(str::to_owned)).collect()
        })
    }

    /// The disks that the cloud made by itself and that are there still.
    #[must_use]
    pub fn own_disks(&self) -> usize {
        self.with(|state| state.disks.len())
    }

    /// Lets the volume service mark a disk, as with `__system__frozen`; no value takes all marks off.
    pub fn mark_disk(&self, id: &str, mark: Option<(&str, &str)>) {
        self.with(|state| match mark {
            Some((name, value)) => {
                let told = json!({ "id": id, "metadata": { name: value } });
                state.marked.insert(id.to_owned(), told);
            }
            None => {
                state.marked.remove(id);
            }
        });
    }

    /// Lets the next job fail, or end well without doing anything.
    pub fn spoil_job(&self, spoil: Spoil) {
        self.with(|state| state.spoil_next(spoil));
    }

    /// Puts a port there.
    pub fn put_port(&self, id: &str) {
        let port = json!({ "id": id, "allowed_address_pairs": [] });
        self.with(|state| state.ports.insert(id.to_owned(), port));
    }

    /// Puts a public address there, bound to a port.
    pub fn put_public_ip(&self, id: &str, port: &str) {
        let ip = json!({ "id": id, "port_id": port });
        self.with(|state| state.public_ips.insert(id.to_owned(), ip));
    }

    /// Spoils the next answer to a request of this method.
    pub fn fail(&self, method: &str, fault: Fault) {
        self.with(|state| state.faults.push_back((method.to_owned(), fault)));
    }

    /// The faults that were not met yet.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.with(|state| state.faults.len())
    }

    /// The port that a public address is bound to.
    #[must_use]
    pub fn bound_to(&self, public_ip: &str) -> String {
        self.with(|state| state.public_ips[public_ip]["port_id"].as_str().unwrap_or("").to_owned())
    }

    /// All ports.
    #[must_use]
    pub fn ports(&self) -> Vec<Value> {
        self.with(|state| state.ports.values().cloned().collect())
    }

    /// What was asked: methods and paths.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.with(|state| state.asked.clone())
    }

    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone().context("a second handle")?);
        let mut stream = stream;
        loop {
            let Some((method, path, token, body)) = read_request(&mut reader)? else {
                return Ok(());
            };
            let fault = self.with(|state| {
                state.asked.push(format!("{method} {path}"));
                let at = state.faults.iter().position(|(of, _)| *of == method);
                at.and_then(|at| state.faults.remove(at)).map(|(_, fault)| fault)
            });
            let (status, answer, again) = match fault {
                Some(Fault::Status(status, again)) => {
                    (status, json!({ "error": "as the test asked" }), again)
                }
                _ => {
                    let (status, answer) =
                        self.with(|state| state.answer((&method, &path), &token, &body));
                    (status, answer, None)
                }
            };
            let text = if answer.is_null() { String::new() } else { answer.to_string() };
            let again = again.map(|s| format!("retry-after: {s}\r\n")).unwrap_or_default();
            let length = text.len();
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{again}content-length: \
                 {length}\r\n\r\n"
            );
            match fault {
                Some(Fault::Silent) => return Ok(()),
                Some(Fault::Half) => {
                    stream.write_all(format!("{head}{}", &text[..length / 2]).as_bytes())?;
                    return Ok(());
                }
                Some(Fault::Late(late)) => thread::sleep(late),
                Some(Fault::Status(..)) | None => {}
            }
            stream.write_all(format!("{head}{text}").as_bytes())?;
        }
    }
}

type Asked = (String, String, String, Value);

fn read_request(reader: &mut BufReader<TcpStream>) -> Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let (mut token, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "x-auth-token" => value.trim().clone_into(&mut token),
            "content-length" => length = value.trim().parse().context("a length")?,
            _ => {}
        }
    }
    let mut body = vec![0; length.min(BODY_BYTES_MAX)];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Some((method, path, token, body)))
}

impl State {
    fn answer(&mut self, (method, path): (&str, &str), token: &str, body: &Value) -> (u16, Value) {
        if token != self.token {
            return (401, json!({ "error": "no such token" }));
        }
        let versions = ["/v1/p/", "/v2/p/", "/v2.1/p/"];
        let path = versions.iter().find_map(|start| path.strip_prefix(start)).unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let name = query.strip_prefix("name=").unwrap_or_default();
        let mut parts = path.split('/');
        let (kind, id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match (method, kind, id) {
            ("GET", "publicips", id) => found("publicip", self.public_ips.get(id)),
            ("PUT", "publicips", id) => self.bind(id, body["publicip"]["port_id"].as_str()),
            ("GET", "ports", "") => {
                let named = self.ports.values().filter(|port| port["name"] == name);
                (200, json!({ "ports": named.collect::<Vec<_>>() }))
            }
            ("GET", "ports", id) => found("port", self.ports.get(id)),
            ("POST", "ports", "") => self.make_port(&body["port"]),
            ("PUT", "ports", id) => match self.ports.get_mut(id) {
                Some(port) => {
                    port["allowed_address_pairs"] = body["port"]["allowed_address_pairs"].clone();
                    (200, json!({ "port": port }))
                }
                None => (404, json!({ "error": "no such port" })),
            },
            ("DELETE", "ports", id) => match self.ports.remove(id) {
                Some(_) => (204, Value::Null),
                None => (404, json!({ "error": "no such port" })),
            },
            (
                "GET" | "POST" | "DELETE",
                "cloudservers" | "servers" | "jobs" | "cloudvolumes",
                _,
            ) => self.compute(method, (kind, id), (parts.collect::<Vec<_>>(), name), body),
            _ => (404, json!({ "error": format!("no call {method} {path}") })),
        }
    }

    /// An address is bound where it is free only.
    fn bind(&mut self, id: &str, port: Option<&str>) -> (u16, Value) {
        let Some(ip) = self.public_ips.get_mut(id) else {
            return (404, json!({ "error": "no such address" }));
        };
        let (now, port) = (ip["port_id"].as_str().unwrap_or("").to_owned(), port.unwrap_or(""));
        if !now.is_empty() && !port.is_empty() && now != port {
            return (409, json!({ "error": "the address is bound" }));
        }
        ip["port_id"] = json!(port);
        (200, json!({ "publicip": ip }))
    }

    fn make_port(&mut self, wanted: &Value) -> (u16, Value) {
        self.made += 1;
        let mut port = wanted.clone();
        let id = format!("port-{:03}", self.made);
        port["id"] = json!(id);
        port["mac_address"] = json!(format!("fa:16:3e:00:01:{:02x}", self.made));
        if port["fixed_ips"].is_null() {
            port["fixed_ips"] = json!([{ "ip_address": format!("192.168.0.{}", 100 + self.made) }]);
        }
        port["allowed_address_pairs"] = json!([]);
        self.ports.insert(id, port.clone());
        (201, json!({ "port": port }))
    }
}

fn found(key: &str, thing: Option<&Value>) -> (u16, Value) {
    match thing {
        Some(thing) => (200, json!({ key: thing })),
        None => (404, json!({ "error": format!("no such {key}") })),
    }
}
