//! From what is written to what is meant.
//!
//! Invariant: every error names the key, the value and what would be accepted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use api::units::{parse_bytes, parse_millis};
use mirror::{
    Bandwidth, Failover, HeartbeatTimes, JournalLimits, Mode, OnSlow, Policy, Priority, Recovery,
    Split,
};

use super::raw::{
    Raw, RawHook, RawListener, RawMirror, RawNbd, RawPool, RawQuota, RawSnapshots, RawWitness,
};
use super::{
    ApiConfig, Config, ConfigError, EtcdSettings, Hook, HookKind, LinkConfig, LogConfig,
    MirrorConfig, NbdAddress, NbdConfig, NbdListener, Quota, ScrubConfig, Site, Tls, VerifyConfig,
    WitnessConfig,
};

/// Threads beyond this help nobody: a group is bounded by one.
const SHARDS_MAX: usize = 256;
/// A host that takes longer than this to go on does not notice that a thread slept.
pub(super) const BUSY_POLL_US_MAX: u64 = 1000;
/// The machine that hears of time ten times a second cannot ask more often.
const HEARTBEAT_MS_MIN: u64 = 100;
/// One comparison: less would never begin.
const VERIFY_RATE_MIN: u64 = 64 << 10;
/// One step of a scrub a second.
const SCRUB_RATE_MIN: u64 = 64 << 10;
/// A step of filling is 4 MiB: less would look as if nothing happened.
const FILL_RATE_MIN: u64 = 64 << 10;
/// Two chunks for the disk, at least.
const JOURNAL_MEMORY_MIN: u64 = 1 << 20;
/// A cut is a snapshot and a record at the mirror: more often than this it would do little else.
const CUT_MS_MIN: u64 = 100;

/// Room for the gateway's own beside them in a group's 512.
const SNAPSHOTS_MAX: usize = 500;

/// Whoever is brought to rest for longer is thought dead.
const HOOK_MS_MAX: u64 = 120_000;

/// etcd knows whole seconds, and none shorter than its own elections.
const LEASE_MS_MIN: u64 = 2_000;

pub(super) struct Place<'a>(&'a str);

impl Place<'_> {
    pub(super) fn bad(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::Value { place: self.0.to_owned(), key: key.to_owned(), reason: reason.into() }
    }

    pub(super) fn address(&self, key: &str, text: &str) -> Result<SocketAddr, ConfigError> {
        text.parse().map_err(|_e| {
            self.bad(key, format!("{text:?} is not an address and port, like 127.0.0.1:7701"))
        })
    }

    pub(super) fn millis(&self, key: &str, text: &str) -> Result<u64, ConfigError> {
        parse_millis(text).map_err(|reason| self.bad(key, reason))
    }

    pub(super) fn bytes(&self, key: &str, text: &str) -> Result<u64, ConfigError> {
        parse_bytes(text).map_err(|reason| self.bad(key, reason))
    }

    pub(super) fn word<T: Copy>(
        &self,
        key: &str,
        text: &str,
        words: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.bad(key, format!("{text:?} is none of {}", words.join(", ")))
        })
    }
}

impl Raw {
    /// Proves every value.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn validate(&self, place: &str) -> Result<Config, ConfigError> {
        let at = Place(place);
        if !crate::names::is_name(&self.site.name) {
            return Err(at.bad(
                "site.name",
                format!("{:?} is no name: use 1 to 64 of A-Z a-z 0-9 . _ -", self.site.name),
            ));
        }
        if self.data_dir.is_empty() {
            return Err(at.bad("data_dir", "must name a directory"));
        }
        if self.shards > SHARDS_MAX {
            return Err(at.bad("shards", format!("must be at most {SHARDS_MAX}")));
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shards = if self.shards == 0 { cores.min(SHARDS_MAX) } else { self.shards };
        let metrics_listen = match self.metrics.listen.as_str() {
            "" => None,
            text => Some(at.address("metrics.listen", text)?),
        };
        Ok(Config {
            site: Site {
                name: self.site.name.clone(),
                region: self.site.region.clone(),
                zone: self.site.zone.clone(),
                position: super::Position::read(&self.site.position)
                    .map_err(|why| at.bad("site.position", why))?,
            },
            data_dir: PathBuf::from(&self.data_dir),
            shards,
            pool_capacity: bytes_or_none(&at, "pool.capacity", &self.pool.capacity)?,
            fill_rate: fill_rate(&at, &self.pool)?,
            scrub: scrub(&at, &self.pool)?,
            quota: quota(&at, &self.quota)?,
            snapshots_max_manual: snapshots(&at, &self.snapshots)?,
            hooks: hooks(&at, &self.points.hooks)?,
            recovery: super::recovery::recovery(&at, &self.recovery)?,
            backup_targets: super::backup::targets(&at, &self.backup)?,
            plugins: super::plugins::plugins(&at, &self.plugins, &self.data_dir)?,
            api: ApiConfig {
                listen: at.address("api.listen", &self.api.listen)?,
                shard_deadline: Duration::from_millis(
                    at.millis("api.shard_deadline", &self.api.shard_deadline)?.max(1),
                ),
            },
            metrics_listen,
            link: link(&at, &self.link)?,
            nbd: nbd(&at, &self.nbd)?,
            iscsi: super::iscsi::iscsi(&at, &self.iscsi)?,
            mirror: MirrorConfig {
                policy: policy(&at, &self.mirror)?,
                heartbeat: heartbeat(&at, &self.mirror)?,
                verify: verify(&at, &self.mirror)?,
                max_distance_km: (self.mirror.max_distance_km > 0)
                    .then_some(self.mirror.max_distance_km),
                journal: journal(&at, &self.mirror)?,
            },
            witness: witness(&at, self)?,
            log: LogConfig { level: self.log.level.clone(), json: self.log.json },
            digest: blake3::hash(super::load::to_toml(self).as_bytes()).to_hex().to_string(),
        })
    }
}

fn bytes_or_none(at: &Place<'_>, key: &str, text: &str) -> Result<Option<u64>, ConfigError> {
    if text.is_empty() { Ok(None) } else { at.bytes(key, text).map(Some) }
}

fn link(at: &Place<'_>, raw: &super::raw::RawLink) -> Result<LinkConfig, ConfigError> {
    let listen = at.address("link.listen", &raw.listen)?;
    let advertise = match raw.advertise.as_str() {
        "" if listen.ip().is_unspecified() => {
            return Err(at.bad(
                "link.advertise",
                "must say what other sites dial when link.listen is every address",
            ));
        }
        "" => listen.to_string(),
        text => text.to_owned(),
    };
    Ok(LinkConfig {
        listen,
        advertise,
        distance: Duration::from_millis(at.millis("link.distance", &raw.distance)?),
    })
}

fn quota(at: &Place<'_>, raw: &RawQuota) -> Result<Quota, ConfigError> {
    let bytes = bytes_or_none(at, "quota.bytes", &raw.bytes)?;
    let volumes = Some(raw.volumes).filter(|volumes| *volumes > 0);
    let (groups, pairs, instances) = (raw.groups, raw.pairs, raw.instances);
    Ok(Quota { volumes, bytes, groups, pairs, instances })
}

fn fill_rate(at: &Place<'_>, raw: &RawPool) -> Result<Option<u64>, ConfigError> {
    const KEY: &str = "pool.fill_bytes_per_second";
    if raw.fill_bytes_per_second.is_empty() {
        return Ok(None);
    }
    let rate = at.bytes(KEY, &raw.fill_bytes_per_second)?;
    if rate < FILL_RATE_MIN {
        return Err(at.bad(KEY, format!("must be empty or at least {FILL_RATE_MIN} bytes")));
    }
    Ok(Some(rate))
}

fn scrub(at: &Place<'_>, raw: &RawPool) -> Result<ScrubConfig, ConfigError> {
    let bytes_per_second = at.bytes("pool.scrub_rate", &raw.scrub_rate)?;
    if bytes_per_second < SCRUB_RATE_MIN {
        let reason = format!("must be at least {SCRUB_RATE_MIN} bytes");
        return Err(at.bad("pool.scrub_rate", reason));
    }
    let every = Duration::from_millis(at.millis("pool.scrub_every", &raw.scrub_every)?);
    Ok(ScrubConfig { every, bytes_per_second })
}

fn snapshots(at: &Place<'_>, raw: &RawSnapshots) -> Result<usize, ConfigError> {
    let count = usize::try_from(raw.max_manual).unwrap_or(usize::MAX);
    if !(1..=SNAPSHOTS_MAX).contains(&count) {
        return Err(at.bad("snapshots.max_manual", format!("must be 1 to {SNAPSHOTS_MAX}")));
    }
    Ok(count)
}

fn hooks(at: &Place<'_>, raw: &[RawHook]) -> Result<Vec<Hook>, ConfigError> {
    let proven: Vec<Hook> = raw.iter().map(|raw| hook(at, raw)).collect::<Result<_, _>>()?;
    for (index, hook) in proven.iter().enumerate() {
        if proven.iter().take(index).any(|other| other.name == hook.name) {
            let why = format!("{:?} is the name of two hooks", hook.name);
            return Err(at.bad("points.hooks.name", why));
        }
    }
    Ok(proven)
}

fn hook(at: &Place<'_>, raw: &RawHook) -> Result<Hook, ConfigError> {
    if !crate::names::is_name(&raw.name) {
        let why = format!("{:?} is no name: use 1 to 64 of A-Z a-z 0-9 . _ -", raw.name);
        return Err(at.bad("points.hooks.name", why));
    }
    let command = (!raw.command.is_empty()).then(|| HookKind::Command(raw.command.clone()));
    let url = (!raw.url.is_empty()).then(|| HookKind::Url(raw.url.clone()));
    let socket = PathBuf::from(&raw.qemu_agent);
    let agent = (!raw.qemu_agent.is_empty()).then_some(HookKind::QemuAgent(socket));
    let plugin = (!raw.plugin.is_empty()).then(|| HookKind::Plugin(raw.plugin.clone()));
    let mut kinds = command.into_iter().chain(url).chain(agent).chain(plugin);
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        let why = format!("hook {:?} needs one of command, url, qemu_agent and plugin", raw.name);
        return Err(at.bad("points.hooks", why));
    };
    if let HookKind::Url(url) = &kind
        && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
    {
        return Err(at.bad("points.hooks.url", format!("{url:?} is no http or https URL")));
    }
    let ms = at.millis("points.hooks.timeout", &raw.timeout)?;
    if !(1..=HOOK_MS_MAX).contains(&ms) {
        let why = format!("must be 1ms to {}s", HOOK_MS_MAX / 1_000);
        return Err(at.bad("points.hooks.timeout", why));
    }
    Ok(Hook { name: raw.name.clone(), kind, timeout: Duration::from_millis(ms) })
}

fn nbd(at: &Place<'_>, raw: &RawNbd) -> Result<NbdConfig, ConfigError> {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    if raw.connections_max == 0 {
        return Err(at.bad("nbd.connections_max", "must be at least 1"));
    }
    if raw.busy_poll_us > BUSY_POLL_US_MAX {
        return Err(at.bad("nbd.busy_poll_us", format!("must be at most {BUSY_POLL_US_MAX}")));
    }
    let listeners = raw
        .listeners
        .iter()
        .map(|listener| nbd_listener(at, raw, listener))
        .collect::<Result<Vec<_>, _>>()?;
    for (index, listener) in listeners.iter().enumerate() {
        if listeners.iter().take(index).any(|other| other.name == listener.name) {
            return Err(at.bad(
                "nbd.listeners.name",
                format!("{:?} is the name of two listeners", listener.name),
            ));
        }
    }
    Ok(NbdConfig {
        listeners,
        certificate: path(&raw.certificate),
        key: path(&raw.key),
        client_ca: path(&raw.client_ca),
        connections_max: raw.connections_max,
        inflight_bytes_max: at.bytes("nbd.inflight_bytes_max", &raw.inflight_bytes_max)?,
        busy_poll: Duration::from_micros(raw.busy_poll_us),
    })
}

fn nbd_listener(
    at: &Place<'_>,
    nbd: &RawNbd,
    raw: &RawListener,
) -> Result<NbdListener, ConfigError> {
    let tls = at.word(
        "nbd.listeners.tls",
        &raw.tls,
        &[("off", Tls::Off), ("optional", Tls::Optional), ("required", Tls::Required)],
    )?;
    if tls != Tls::Off && (nbd.certificate.is_empty() || nbd.key.is_empty()) {
        return Err(
            at.bad("nbd.listeners.tls", format!("{:?} needs nbd.certificate and nbd.key", raw.tls))
        );
    }
    let address = match raw.address.strip_prefix("unix:") {
        Some("") => return Err(at.bad("nbd.listeners.address", "unix: needs a path behind it")),
        Some(path) => NbdAddress::Unix(PathBuf::from(path)),
        None => NbdAddress::Tcp(at.address("nbd.listeners.address", &raw.address)?),
    };
    Ok(NbdListener { name: raw.name.clone(), address, tls })
}

fn witness(at: &Place<'_>, whole: &Raw) -> Result<Option<WitnessConfig>, ConfigError> {
    let raw = &whole.witness;
    if raw.endpoints.is_empty() && !raw.abandon {
        if whole.mirror.failover == "automatic" {
            return Err(at.bad("mirror.failover", "\"automatic\" needs witness.endpoints"));
        }
        return Ok(None);
    }
    let [lease_ms, hold_ms, failover_after_ms, timeout_ms] = [
        ("witness.lease", &raw.lease, LEASE_MS_MIN),
        ("witness.hold", &raw.hold, 1),
        ("witness.failover_after", &raw.failover_after, 1),
        ("witness.timeout", &raw.timeout, 1),
    ]
    .map(|(key, text, least)| {
        let millis = at.millis(key, text)?;
        if millis < least {
            Err(at.bad(key, format!("must be at least {least}ms")))
        } else {
            Ok(millis)
        }
    });
    let etcd = if raw.abandon { None } else { Some(etcd(at, raw, timeout_ms?)?) };
    let (lease_ms, hold_ms) = (lease_ms?, hold_ms?);
    Ok(Some(WitnessConfig { etcd, lease_ms, hold_ms, failover_after_ms: failover_after_ms? }))
}

fn etcd(at: &Place<'_>, raw: &RawWitness, timeout_ms: u64) -> Result<EtcdSettings, ConfigError> {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    for endpoint in &raw.endpoints {
        let is_tls = endpoint.starts_with("https://");
        if !is_tls && !endpoint.starts_with("http://") {
            let reason = format!("{endpoint:?} is no URL like http://127.0.0.1:2379");
            return Err(at.bad("witness.endpoints", reason));
        }
        if is_tls && raw.ca.is_empty() {
            return Err(at.bad("witness.ca", "is needed for https endpoints"));
        }
    }
    let identity = match (path(&raw.certificate), path(&raw.key)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(at.bad("witness.key", "goes with witness.certificate")),
    };
    Ok(EtcdSettings {
        name: raw.name.clone(),
        endpoints: raw.endpoints.iter().map(|e| e.trim_end_matches('/').to_owned()).collect(),
        prefix: raw.prefix.clone(),
        timeout: Duration::from_millis(timeout_ms),
        ca: path(&raw.ca),
        identity,
    })
}

fn verify(at: &Place<'_>, raw: &RawMirror) -> Result<VerifyConfig, ConfigError> {
    let bytes_per_second = at.bytes("mirror.verify_rate", &raw.verify_rate)?;
    if bytes_per_second < VERIFY_RATE_MIN {
        return Err(at.bad("mirror.verify_rate", "must be at least 64KiB: one comparison a second"));
    }
    let every = Duration::from_millis(at.millis("mirror.verify_every", &raw.verify_every)?);
    Ok(VerifyConfig { every, bytes_per_second })
}

fn heartbeat(at: &Place<'_>, raw: &RawMirror) -> Result<HeartbeatTimes, ConfigError> {
    let interval = at.millis("mirror.heartbeat", &raw.heartbeat)?;
    let silence = at.millis("mirror.silence", &raw.silence)?;
    if interval < HEARTBEAT_MS_MIN {
        return Err(at.bad("mirror.heartbeat", format!("must be at least {HEARTBEAT_MS_MIN}ms")));
    }
    // One that is late must not cost the link.
    if silence < interval.saturating_mul(2) {
        return Err(at.bad("mirror.silence", "must be at least twice mirror.heartbeat"));
    }
    Ok(HeartbeatTimes {
        interval: Duration::from_millis(interval),
        silence: Duration::from_millis(silence),
        ..HeartbeatTimes::default()
    })
}

fn bandwidth(at: &Place<'_>, raw: &RawMirror) -> Result<Bandwidth, ConfigError> {
    let usual = api::units::parse_rate(&raw.bandwidth);
    let windows = crate::status::windows(&raw.bandwidth_windows);
    Ok(Bandwidth {
        usual: usual.map_err(|why| at.bad("mirror.bandwidth", why))?,
        windows: windows.map_err(|why| at.bad("mirror.bandwidth_windows", why))?.into(),
    })
}

fn policy(at: &Place<'_>, raw: &RawMirror) -> Result<Policy, ConfigError> {
    Ok(Policy {
        mode: at.word(
            "mirror.mode",
            &raw.mode,
            &[("sync", Mode::Sync), ("consistency", Mode::Consistency), ("stack", Mode::Stack)],
        )?,
        split: at.word(
            "mirror.split",
            &raw.split,
            &[("automatic", Split::Automatic), ("manual", Split::Manual)],
        )?,
        recovery: at.word(
            "mirror.recovery",
            &raw.recovery,
            &[("automatic", Recovery::Automatic), ("manual", Recovery::Manual)],
        )?,
        on_slow: at.word(
            "mirror.on_slow",
            &raw.on_slow,
            &[("error", OnSlow::Error), ("block", OnSlow::Block), ("degrade", OnSlow::Degrade)],
        )?,
        ack_deadline_ms: at.millis("mirror.ack_deadline", &raw.ack_deadline)?.max(1),
        failover: at.word(
            "mirror.failover",
            &raw.failover,
            &[("manual", Failover::Manual), ("automatic", Failover::Automatic)],
        )?,
        cut_interval_ms: at.millis("mirror.cut_interval", &raw.cut_interval)?.max(CUT_MS_MIN),
        transfer_every_s: at.millis("mirror.transfer_every", &raw.transfer_every)? / 1_000,
        bandwidth: bandwidth(at, raw)?,
        priority: at.word(
            "mirror.priority",
            &raw.priority,
            &[("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)],
        )?,
        mode_after_swap: None,
    })
}

fn journal(at: &Place<'_>, raw: &RawMirror) -> Result<JournalLimits, ConfigError> {
    let memory_bytes = at.bytes("mirror.journal_memory", &raw.journal_memory)?;
    if memory_bytes < JOURNAL_MEMORY_MIN {
        return Err(at.bad("mirror.journal_memory", "must be at least 1MiB"));
    }
    let spill_bytes = at.bytes("mirror.journal_disk", &raw.journal_disk)?;
    Ok(JournalLimits { memory_bytes, spill_bytes })
}
