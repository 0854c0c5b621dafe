//! The configuration as it is written: every key, its default, and its meaning for users.
//!
//! Invariant: `config/twinspan.toml` states exactly these keys with exactly these defaults; a test
//! compares them.

use serde::{Deserialize, Serialize};

pub(super) use super::backup::RawBackup;
pub(super) use super::iscsi::RawIscsi;
pub(super) use super::plugins::RawPlugins;
pub(super) use super::recovery::RawRecovery;

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
    /// What may be made here.
    pub quota: RawQuota,
    /// Snapshots of groups.
    pub snapshots: RawSnapshots,
    /// Recovery points of groups.
    pub points: RawPoints,
    /// Backups in object stores.
    pub backup: RawBackup,
    /// Plugins.
    pub plugins: RawPlugins,
    /// Plans and their runs.
    pub recovery: RawRecovery,
    /// The REST API.
    pub api: RawApi,
    /// Metrics.
    pub metrics: RawMetrics,
    /// Links to other gateways.
    pub link: RawLink,
    /// NBD.
    pub nbd: RawNbd,
    /// iSCSI.
    pub iscsi: RawIscsi,
    /// Mirroring.
    pub mirror: RawMirror,
    /// Arbitration by a witness.
    pub witness: RawWitness,
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
            quota: RawQuota::default(),
            snapshots: RawSnapshots::default(),
            points: RawPoints::default(),
            backup: RawBackup::default(),
            plugins: RawPlugins::default(),
            recovery: RawRecovery::default(),
            api: RawApi::default(),
            metrics: RawMetrics::default(),
            link: RawLink::default(),
            nbd: RawNbd::default(),
            iscsi: RawIscsi::default(),
            mirror: RawMirror::default(),
            witness: RawWitness::default(),
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
    /// Latitude and longitude in degrees.
    pub position: Vec<super::Degrees>,
}

impl Default for RawSite {
    fn default() -> Self {
        Self {
            name: "local".to_owned(),
            region: String::new(),
            zone: String::new(),
            position: Vec::new(),
        }
    }
}

/// `[pool]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPool {
    /// Most bytes that it takes; empty: what the file system has.
    pub capacity: String,
    /// Bytes a second that each volume copies at most which is used before it is filled; empty: as
    /// fast as it goes.
    pub fill_bytes_per_second: String,
    /// How often every stored block of each volume is read and held against its checksum; `0s`: only
    /// when an operator asks for it.
    pub scrub_every: String,
    /// Bytes a second that this reads.
    pub scrub_rate: String,
}

impl Default for RawPool {
    fn default() -> Self {
        Self {
            capacity: String::new(),
            fill_bytes_per_second: "256MiB".to_owned(),
            scrub_every: "720h".to_owned(),
            scrub_rate: "32MiB".to_owned(),
        }
    }
}

/// `[quota]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawQuota {
    /// Most volumes, mirrors of other sites' volumes among them; 0: as many as there is room for.
    pub volumes: u64,
    /// Most bytes of all volumes' sizes together; empty: no limit.
    pub bytes: String,
    /// Most groups of the EVS and SDRS dialects.
    pub groups: usize,
    /// Most of their pairs.
    pub pairs: usize,
    /// Most protected instances.
    pub instances: usize,
}

impl Default for RawQuota {
    fn default() -> Self {
        Self { volumes: 0, bytes: String::new(), groups: 1024, pairs: 4096, instances: 1024 }
    }
}

/// `[snapshots]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSnapshots {
    /// Most snapshots of a group that operators asked for, 1 to 500.
    pub max_manual: u32,
}

impl Default for RawSnapshots {
    fn default() -> Self {
        Self { max_manual: 7 }
    }
}

/// `[points]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPoints {
    /// What brings those that write to a group to rest while a point of it is taken.
    pub hooks: Vec<RawHook>,
}

/// `[[points.hooks]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHook {
    /// Its name, as policies name it; the same at each site that may be the primary.
    pub name: String,
    /// A program and its arguments; `freeze` or `thaw` is added, `TWINSPAN_GROUP` is set.
    pub command: Vec<String>,
    /// A URL that takes a POST of `{"action": "freeze", "group": "NAME"}`, or `thaw`.
    pub url: String,
    /// The socket of a QEMU guest agent.
    pub qemu_agent: String,
    /// A plugin with the actions `freeze` and `thaw`, which are given the group.
    pub plugin: String,
    /// How long freezing, taking the point and thawing may take, each.
    pub timeout: String,
}

impl Default for RawHook {
    fn default() -> Self {
        Self {
            name: String::new(),
            command: Vec::new(),
            url: String::new(),
            qemu_agent: String::new(),
            plugin: String::new(),
            timeout: "10s".to_owned(),
        }
    }
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
    /// Microseconds that a connection looks for its next request before its thread sleeps; 0: none.
    pub busy_poll_us: u64,
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
            busy_poll_us: 50,
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
    /// New sessions: `sync` copies before it acknowledges, `consistency` follows behind in whole
    /// cuts, `stack` only by transfers.
    pub mode: String,
    /// New sessions: `automatic` goes on alone when the mirror is lost, `manual` refuses writes.
    pub split: String,
    /// New sessions: `automatic` resynchronises when it returns, `manual` waits.
    pub recovery: String,
    /// New sessions: when the mirror is too slow, `error` stops the session, `block` the hosts,
    /// `degrade` follows behind until it keeps up again.
    pub on_slow: String,
    /// New sessions: how long the mirror may take to acknowledge.
    pub ack_deadline: String,
    /// New sessions: `automatic` lets the mirror promote itself when the witness permits it.
    pub failover: String,
    /// New sessions: what resync and initial copy may send, as `50MiB/s`, `unlimited` or `paused`.
    pub bandwidth: String,
    /// New sessions: when another limit holds, as `mon-fri 08:00-18:00 Europe/Berlin=10MiB/s`.
    pub bandwidth_windows: Vec<String>,
    /// New sessions: `low`, `normal` or `high` among those that copy at once.
    pub priority: String,
    /// New sessions: from one cut to the next in mode `consistency`.
    pub cut_interval: String,
    /// New sessions: from one transfer to the next in mode `stack`; 0s: by hand only.
    pub transfer_every: String,
    /// Bytes that wait in memory for a mirror that follows behind, for each leg.
    pub journal_memory: String,
    /// Bytes that wait on disk behind them; 0: none.
    pub journal_disk: String,
    /// How often the other gateway is asked whether it lives.
    pub heartbeat: String,
    /// How long it may be silent before the link is given up.
    pub silence: String,
    /// How old the last verification of a mirror may be before the next begins; 0s: by hand only.
    pub verify_every: String,
    /// Bytes of a mirror that a verification compares in a second at most.
    pub verify_rate: String,
    /// New sessions of mode `sync`: how far the other site may be, in kilometres; 0: any distance.
    pub max_distance_km: u32,
}

impl Default for RawMirror {
    fn default() -> Self {
        Self {
            mode: "sync".to_owned(),
            split: "automatic".to_owned(),
            recovery: "automatic".to_owned(),
            on_slow: "error".to_owned(),
            ack_deadline: "8s".to_owned(),
            failover: "manual".to_owned(),
            cut_interval: "1s".to_owned(),
            transfer_every: "0s".to_owned(),
            journal_memory: "64MiB".to_owned(),
            journal_disk: "1GiB".to_owned(),
            heartbeat: "500ms".to_owned(),
            silence: "4s".to_owned(),
            verify_every: "168h".to_owned(),
            bandwidth: "unlimited".to_owned(),
            bandwidth_windows: Vec::new(),
            priority: "normal".to_owned(),
            verify_rate: "64MiB".to_owned(),
            max_distance_km: 100,
        }
    }
}

/// `[witness]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawWitness {
    /// Client URLs of the members of an etcd; none: an operator decides who goes on.
    pub endpoints: Vec<String>,
    /// What it is called in metrics.
    pub name: String,
    /// What every key in it begins with.
    pub prefix: String,
    /// How long a primary may serve reads on one heartbeat.
    pub lease: String,
    /// How long writes wait for the witness when a mirror is lost, before they are refused.
    pub hold: String,
    /// How long a mirror that may promote itself waits for its primary.
    pub failover_after: String,
    /// How long one member may take to answer.
    pub timeout: String,
    /// Authorities of its certificate, PEM.
    pub ca: String,
    /// The certificate that is shown to it, PEM; empty: none.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
    /// The witness is gone for good: groups that were under it go back to an operator.
    pub abandon: bool,
}

impl Default for RawWitness {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            name: "etcd".to_owned(),
            prefix: "/twinspan".to_owned(),
            lease: "6s".to_owned(),
            hold: "10s".to_owned(),
            failover_after: "10s".to_owned(),
            timeout: "2s".to_owned(),
            ca: String::new(),
            certificate: String::new(),
            key: String::new(),
            abandon: false,
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
