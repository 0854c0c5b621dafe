//! What the gateway is told before it starts: one file, overridden by the environment, validated.
//!
//! ```text
//!   defaults ◀ FILE.toml ◀ TWINSPAN_SECTION__KEY ──figment──▶ Raw ──validate──▶ Config
//! ```
//!
//! Invariant: a [`Config`] has no value left to interpret or to doubt. An unknown key is refused by
//! name, with the file and the nearest key that exists: a key that is ignored is a setting that is
//! not in force.

mod backup;
mod iscsi;
mod load;
mod place;
mod plugins;
mod raw;
mod recovery;
mod validate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use backup::TargetConfig;
pub use iscsi::{IscsiConfig, IscsiListener, IscsiUser, SecretPlace};
pub use load::{defaults_toml, effective_toml, load};
pub use place::{Degrees, Position};
pub use plugins::PluginsConfig;
pub use raw::Raw;
pub use recovery::RecoveryConfig;

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// The file or the environment.
        place: String,
        /// The key, with its section.
        key: String,
        /// The most similar one that exists.
        nearest: Option<String>,
    },
    /// A value that cannot be used.
    #[error("{place}: `{key}`: {reason}")]
    Value {
        /// The file or the environment.
        place: String,
        /// The key, with its section.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read or is no TOML.
    #[error("{place}: {reason}")]
    File {
        /// The file.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ConfigError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> api::Code {
        match self {
            Self::UnknownKey { .. } => api::Code::ConfigUnknownKey,
            Self::Value { .. } | Self::File { .. } => api::Code::ConfigInvalid,
        }
    }
}

/// What may be made at a gateway; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Volumes, mirrors of other sites' volumes among them.
    pub volumes: Option<u64>,
    /// Bytes of their sizes together.
    pub bytes: Option<u64>,
    /// Groups of the EVS and SDRS dialects.
    pub groups: usize,
    /// Their pairs.
    pub pairs: usize,
    /// Protected instances.
    pub instances: usize,
}

/// When every stored block is read and held against its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// How often; zero: only when an operator asks.
    pub every: Duration,
    /// What it reads in a second.
    pub bytes_per_second: u64,
}

/// Everything, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it stands.
    pub site: Site,
    /// Where everything is kept that must survive.
    pub data_dir: PathBuf,
    /// Threads that carry volumes.
    pub shards: usize,
    /// Bytes that the pool may take; `None`: what the file system has.
    pub pool_capacity: Option<u64>,
    /// Bytes a second that each volume copies at most which is filled while it is used; `None`: no
    /// limit.
    pub fill_rate: Option<u64>,
    /// Reading what is stored, to find what the disk lost.
    pub scrub: ScrubConfig,
    /// What may be made here.
    pub quota: Quota,
    /// Most snapshots of a group that operators asked for.
    pub snapshots_max_manual: usize,
    /// Freeze hooks, each with a name of its own.
    pub hooks: Vec<Hook>,
    /// Plans, and what their steps may call.
    pub recovery: RecoveryConfig,
    /// Where backups go.
    pub backup_targets: Vec<TargetConfig>,
    /// Plugins.
    pub plugins: PluginsConfig,
    /// The REST API.
    pub api: ApiConfig,
    /// Where Prometheus scrapes; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Links to other gateways.
    pub link: LinkConfig,
    /// NBD.
    pub nbd: NbdConfig,
    /// iSCSI.
    pub iscsi: IscsiConfig,
    /// Mirroring.
    pub mirror: MirrorConfig,
    /// The witness; `None`: an operator decides.
    pub witness: Option<WitnessConfig>,
    /// Logging.
    pub log: LogConfig,
    /// BLAKE3 of what was loaded, for `twinspan_config_info`.
    pub digest: String,
}

/// What brings those that write to a group to rest while a point of it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// How it is called.
    pub kind: HookKind,
    /// How long each of its calls may take, and the point between them.
    pub timeout: Duration,
}

/// How a hook is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// A program and its arguments.
    Command(Vec<String>),
    /// A URL that takes a POST.
    Url(String),
    /// The socket of a QEMU guest agent.
    QemuAgent(PathBuf),
    /// A plugin's actions `freeze` and `thaw`.
    Plugin(String),
}

/// Where a gateway stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its region; may be empty.
    pub region: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Where it lies.
    pub position: Option<Position>,
}

/// The REST API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Where it listens, over TLS.
    pub listen: SocketAddr,
    /// How long a shard may take to answer before the answer is UNKNOWN.
    pub shard_deadline: Duration,
}

/// Links to other gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Where links are accepted.
    pub listen: SocketAddr,
    /// What other sites dial.
    pub advertise: String,
    /// Simulated distance, there and back.
    pub distance: Duration,
}

/// NBD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdConfig {
    /// Where hosts attach.
    pub listeners: Vec<NbdListener>,
    /// Certificate chain, PEM.
    pub certificate: Option<PathBuf>,
    /// Private key, PEM.
    pub key: Option<PathBuf>,
    /// Authorities of client certificates, PEM; `None`: none are asked for.
    pub client_ca: Option<PathBuf>,
    /// Connections of all listeners together.
    pub connections_max: usize,
    /// Bytes in flight of all connections together.
    pub inflight_bytes_max: u64,
    /// How long a connection looks for its next request before its thread sleeps.
    pub busy_poll: Duration,
}

/// One NBD listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdListener {
    /// Its name, in access lists and logs.
    pub name: String,
    /// Where it listens.
    pub address: NbdAddress,
    /// Whether TLS is spoken.
    pub tls: Tls,
}

/// Where an NBD listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Whether TLS is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Never.
    Off,
    /// If the client asks.
    Optional,
    /// Always.
    Required,
}

/// Mirroring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorConfig {
    /// Policies of new sessions.
    pub policy: mirror::Policy,
    /// When a silent gateway is asked, and when it is given up.
    pub heartbeat: mirror::HeartbeatTimes,
    /// How much may wait for a mirror that follows behind.
    pub journal: mirror::JournalLimits,
    /// When mirrors are compared with their sources.
    pub verify: VerifyConfig,
    /// The longest distance of a mirror of mode `sync`, in kilometres; `None`: any.
    pub max_distance_km: Option<u32>,
}

/// Verification of mirrors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyConfig {
    /// How old the last one may be; zero: only by hand.
    pub every: Duration,
    /// Bytes of each mirror that are compared in a second at most.
    pub bytes_per_second: u64,
}

/// Arbitration by a witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessConfig {
    /// Where it is; `None`: it is gone for good.
    pub etcd: Option<EtcdSettings>,
    /// How long a lease runs.
    pub lease_ms: u64,
    /// How long writes wait for it.
    pub hold_ms: u64,
    /// How long a mirror waits for its primary before it promotes itself.
    pub failover_after_ms: u64,
}

/// Where etcd is and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// What it is called in metrics.
    pub name: String,
    /// Client URLs of its members.
    pub endpoints: Vec<String>,
    /// What every key begins with.
    pub prefix: String,
    /// How long one member may take to answer.
    pub timeout: Duration,
    /// Authorities of its certificate, PEM.
    pub ca: Option<PathBuf>,
    /// The certificate and key that are shown to it, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A filter as `tracing` reads it.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

#[cfg(test)]
mod tests;
