//! The configuration as it is written: every key, its default, and its meaning for users.
//!
//! Invariant: `config/twinspan.toml` states exactly these keys with exactly these defaults; a test
//! compares them.

use serde::{Deserialize, Serialize};

/// The file as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// Where everything is kept that must survive.
    pub data_dir: String,
    /// Threads that carry volumes; 0: one per core.
    pub shards: usize,
    /// Where the gateway stands.
    pub site: RawSite,
    /// The pool.
    pub pool: RawPool,
    /// The REST API.
    pub api: RawApi,
    /// Metrics.
    pub metrics: RawMetrics,
    /// Links to other gateways.
    pub link: RawLink,
    /// NBD.
    pub nbd: RawNbd,
    /// Mirroring.
    pub mirror: RawMirror,
    /// Logging.
    pub log: RawLog,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/twinspan".to_owned(),
            shards: 0,
            site: RawSite::default(),
            pool: RawPool::default(),
            api: RawApi::default(),
            metrics: RawMetrics::default(),
            link: RawLink::default(),
            nbd: RawNbd::default(),
            mirror: RawMirror::default(),
            log: RawLog::default(),
        }
    }
}

/// `[site]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSite {
    /// Its name, unique among the sites that join each other.
    pub name: String,
    /// For people and plugins.
    pub region: String,
    /// For people and plugins.
    pub zone: String,
}

impl Default for RawSite {
    fn default() -> Self {
        Self { name: "local".to_owned(), region: String::new(), zone: String::new() }
    }
}

/// `[pool]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPool {
    /// Most bytes that it takes; empty: what the file system has.
    pub capacity: String,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawApi {
    /// Where it listens; always TLS.
    pub listen: String,
    /// How long a volume's thread may take to answer before it is shown as UNKNOWN.
    pub shard_deadline: String,
}

impl Default for RawApi {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7701".to_owned(), shard_deadline: "2s".to_owned() }
    }
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMetrics {
    /// Where Prometheus scrapes, plain HTTP; empty: nowhere.
    pub listen: String,
}

impl Default for RawMetrics {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9108".to_owned() }
    }
}

/// `[link]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLink {
    /// Where links of other gateways are accepted, mutual TLS.
    pub listen: String,
    /// What other sites dial; empty: `listen`.
    pub advertise: String,
    /// Simulated distance to every other site, there and back. For demonstrations.
    pub distance: String,
}

impl Default for RawLink {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7702".to_owned(),
            advertise: String::new(),
            distance: "0ms".to_owned(),
        }
    }
}

/// `[nbd]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawNbd {
    /// Certificate chain for TLS, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
    /// Authorities of client certificates, PEM; empty: none are asked for.
    pub client_ca: String,
    /// Connections of all listeners together.
    pub connections_max: usize,
    /// Bytes in flight of all connections together.
    pub inflight_bytes_max: String,
    /// Where hosts attach.
    pub listeners: Vec<RawListener>,
}

impl Default for RawNbd {
    fn default() -> Self {
        Self {
            certificate: String::new(),
            key: String::new(),
            client_ca: String::new(),
            connections_max: 1024,
            inflight_bytes_max: "1GiB".to_owned(),
            listeners: vec![RawListener::default()],
        }
    }
}

/// `[[nbd.listeners]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawListener {
    /// Its name.
    pub name: String,
    /// `HOST:PORT`, or `unix:PATH`.
    pub address: String,
    /// `off`, `optional` or `required`.
    pub tls: String,
}

impl Default for RawListener {
    fn default() -> Self {
        Self {
            name: "tcp".to_owned(),
            address: "127.0.0.1:10809".to_owned(),
            tls: "off".to_owned(),
        }
    }
}

/// `[mirror]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMirror {
    /// New sessions: `automatic` goes on alone when the mirror is lost, `manual` refuses writes.
    pub split: String,
    /// New sessions: `automatic` resynchronises when it returns, `manual` waits.
    pub recovery: String,
    /// New sessions: when the mirror is too slow, `error` stops the session, `block` the hosts.
    pub on_slow: String,
    /// New sessions: how long the mirror may take to acknowledge.
    pub ack_deadline: String,
    /// How often the other gateway is asked whether it lives.
    pub heartbeat: String,
    /// How long it may be silent before the link is given up.
    pub silence: String,
    /// How old the last verification of a mirror may be before the next begins; 0s: by hand only.
    pub verify_every: String,
    /// Bytes of a mirror that a verification compares in a second at most.
    pub verify_rate: String,
}

impl Default for RawMirror {
    fn default() -> Self {
        Self {
            split: "automatic".to_owned(),
            recovery: "automatic".to_owned(),
            on_slow: "error".to_owned(),
            ack_deadline: "8s".to_owned(),
            heartbeat: "500ms".to_owned(),
            silence: "4s".to_owned(),
            verify_every: "168h".to_owned(),
            verify_rate: "64MiB".to_owned(),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,mirror=debug`.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: "info".to_owned(), json: false }
    }
}
