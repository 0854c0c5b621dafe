//! The calls to etcd.
//!
//! Invariant: reads are linearisable. An answer that cannot be understood is an error, never a
//! guess.

use std::collections::HashMap;
use std::sync::Arc;

use block::{Claim, GatewayId, GroupId, Keep, Revision, Sighting, Standing, Verdict, WitnessError};
use serde_json::{Value, json};
use tokio::time::Instant;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use uuid::Uuid;

use super::text::{from_base64, read, to_base64, write};
use super::{EtcdConfig, EtcdError};
use crate::metrics::Metrics;

/// The largest answer that is read: two small values and their framing.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The thread's way to etcd.
pub(super) struct Client {
    config: EtcdConfig,
    agent: Agent,
    metrics: Metrics,
    /// The endpoint that answered last.
    current: usize,
    /// By group: its lease.
    leases: HashMap<GroupId, String>,
    /// Since when the question at hand waits.
    since: Instant,
    /// When all endpoints failed last.
    failed: Option<Instant>,
}

// === impl Client ===

impl Client {
    pub(super) fn new(config: EtcdConfig, metrics: Metrics) -> Result<Self, EtcdError> {
        let agent = Agent::config_builder()
            .tls_config(tls(&config)?)
            .timeout_global(Some(config.timeout))
            .http_status_as_error(false)
            .build()
            .into();
        let leases = HashMap::new();
        let since = Instant::now();
        Ok(Self { config, agent, metrics, current: 0, leases, since, failed: None })
    }

    /// Another question, which was asked at `since`.
    pub(super) fn begin(&mut self, since: Instant) {
        self.since = since;
    }

    fn keys(&self, group: GroupId) -> (String, String) {
        let key = format!("{}/groups/{}", self.config.prefix, group.uuid());
        (to_base64(key.as_bytes()), to_base64(format!("{key}/alive").as_bytes()))
    }

    pub(super) fn look(
        &mut self,
        group: GroupId,
        keep: Option<Keep>,
    ) -> Result<Sighting, WitnessError> {
        let (key, alive) = self.keys(group);
        let ranges = ranges(&key, &alive);
        let Some(keep) = keep else {
            let answer = self.call("/v3/kv/txn", &json!({ "success": ranges }))?;
            return sighting(&answer, 0).map(|(sighting, _)| sighting);
        };
        let (lease, is_new) = self.renew(group, keep.lease_ms)?;
        if !is_new {
            let answer = self.call("/v3/kv/txn", &json!({ "success": ranges }))?;
            let (seen, bound) = sighting(&answer, 0)?;
            let stands = seen.standing.as_ref().is_some_and(|s| s.revision == keep.revision);
            if stands && seen.alive == Some(keep.gateway) && bound == lease {
                return Ok(Sighting { kept: true, ..seen });
            }
        }
        // The key exists only beside the configuration for which the lease is renewed.
        let value = to_base64(keep.gateway.uuid().to_string().as_bytes());
        let put = json!({ "request_put": { "key": alive, "value": value, "lease": lease } });
        let mut success = vec![put];
        success.extend(ranges.iter().cloned());
        let compare = [is_revision(&key, Some(keep.revision))];
        let txn = json!({ "compare": compare, "success": success, "failure": ranges });
        let answer = self.call("/v3/kv/txn", &txn)?;
        let kept = succeeded(&answer);
        let (seen, _) = sighting(&answer, usize::from(kept))?;
        Ok(Sighting { kept, ..seen })
    }

    pub(super) fn swap(&mut self, group: GroupId, claim: &Claim) -> Result<Verdict, WitnessError> {
        let (key, alive) = self.keys(group);
        let mut compare = vec![is_revision(&key, claim.expected)];
        if claim.unless_alive {
            compare.push(is_revision(&alive, None));
        }
        let value = to_base64(write(&claim.next).as_bytes());
        let put = [json!({ "request_put": { "key": key, "value": value } })];
        let failure = ranges(&key, &alive);
        let txn = json!({ "compare": compare, "success": put, "failure": failure });
        let answer = self.call("/v3/kv/txn", &txn)?;
        if !succeeded(&answer) {
            return Ok(Verdict::Denied(sighting(&answer, 0)?.0));
        }
        let revision = number(&answer["header"]["revision"]);
        revision
            .map(|revision| Verdict::Granted(Revision(revision)))
            .ok_or_else(|| unusable(&answer))
    }

    /// Renews the group's lease, or makes a new one; says which it is and whether it is new.
    fn renew(&mut self, group: GroupId, lease_ms: u64) -> Result<(String, bool), WitnessError> {
        if let Some(lease) = self.leases.get(&group).cloned() {
            let answer = self.call("/v3/lease/keepalive", &json!({ "ID": lease }))?;
            if number(&answer["result"]["TTL"]).is_some_and(|seconds| seconds > 0) {
                return Ok((lease, false));
            }
            self.leases.remove(&group);
        }
        let seconds = lease_ms.div_ceil(1_000).to_string();
        let answer = self.call("/v3/lease/grant", &json!({ "TTL": seconds }))?;
        let lease = answer["ID"].as_str().ok_or_else(|| unusable(&answer))?.to_owned();
        self.leases.insert(group, lease.clone());
        Ok((lease, true))
    }

    /// Asks the endpoint that answered last, then the others.
    fn call(&mut self, path: &str, body: &Value) -> Result<Value, WitnessError> {
        if self.failed.is_some_and(|failed| failed >= self.since) {
            // It was asked before the last one failed, and would fail as that one did.
            return Err(WitnessError::Unreachable("no member answers".to_owned()));
        }
        let endpoints = self.config.endpoints.len();
        let mut why = WitnessError::Unreachable("no endpoint is configured".to_owned());
        for _ in 0..endpoints {
            let asked = Instant::now();
            let url = format!("{}{path}", self.config.endpoints[self.current]);
            match self.post(&url, body) {
                Ok(answer) => {
                    self.metrics.answered(asked.elapsed());
                    self.failed = None;
                    return Ok(answer);
                }
                Err(error) => why = error,
            }
            self.current = (self.current + 1) % endpoints;
        }
        self.metrics.failed();
        self.failed = Some(Instant::now());
        Err(why)
    }

    fn post(&self, url: &str, body: &Value) -> Result<Value, WitnessError> {
        let unreachable = |error: ureq::Error| WitnessError::Unreachable(format!("{url}: {error}"));
        let mut answer = self
            .agent
            .post(url)
            .header("content-type", "application/json")
            .send(body.to_string())
            .map_err(unreachable)?;
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(unreachable)?;
        if !answer.status().is_success() {
            // A member without a leader says so with an error.
            let status = answer.status().as_u16();
            let text: String = text.chars().take(200).collect();
            return Err(WitnessError::Unreachable(format!("{url}: {status} {text}")));
        }
        serde_json::from_str(&text)
            .map_err(|error| WitnessError::Unusable(format!("{url}: {error}")))
    }
}

fn tls(config: &EtcdConfig) -> Result<TlsConfig, EtcdError> {
    let wrong =
        |what: &'static str| move |e: ureq::Error| EtcdError::Tls { what, why: e.to_string() };
    let roots = match &config.ca {
        Some(pem) => {
            let certificate = Certificate::from_pem(pem.as_bytes()).map_err(wrong("ca"))?;
            RootCerts::new_with_certs(&[certificate])
        }
        None => RootCerts::new_with_certs(&[]),
    };
    let client = match &config.identity {
        Some((certificate, key)) => {
            let certificate =
                Certificate::from_pem(certificate.as_bytes()).map_err(wrong("certificate"))?;
            let key = PrivateKey::from_pem(key.as_bytes()).map_err(wrong("key"))?;
            Some(ClientCert::new_with_certs(&[certificate], key))
        }
        None => None,
    };
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(roots)
        .client_cert(client)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// That a key has this revision; none: that it does not exist.
fn is_revision(key: &str, revision: Option<Revision>) -> Value {
    let revision = revision.map_or(0, |revision| revision.0).to_string();
    json!({ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision })
}

fn ranges(key: &str, alive: &str) -> [Value; 2] {
    [key, alive].map(|key| json!({ "request_range": { "key": key } }))
}

fn succeeded(answer: &Value) -> bool {
    answer["succeeded"].as_bool().unwrap_or(false)
}

/// etcd writes 64-bit numbers as texts, and leaves zeroes out.
fn number(value: &Value) -> Option<u64> {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64())
}

fn unusable(answer: &Value) -> WitnessError {
    WitnessError::Unusable(answer.to_string().chars().take(200).collect())
}

/// What the two ranges say that begin at `at` among the responses, and the lease that the liveness
/// key is bound to.
fn sighting(answer: &Value, at: usize) -> Result<(Sighting, String), WitnessError> {
    let found = |at: usize| {
        let range = answer["responses"].get(at).and_then(|r| r.get("response_range"));
        range.map(|range| range["kvs"].get(0)).ok_or_else(|| unusable(answer))
    };
    let value = |entry: &Value| entry["value"].as_str().and_then(from_base64);
    let standing = match found(at)? {
        None => None,
        Some(entry) => {
            let revision = number(&entry["mod_revision"]).ok_or_else(|| unusable(answer))?;
            let bytes = value(entry).ok_or_else(|| unusable(answer))?;
            let configuration = read(&bytes).map_err(WitnessError::Unusable)?;
            Some(Standing { revision: Revision(revision), configuration })
        }
    };
    let (mut alive, mut lease) = (None, String::new());
    if let Some(entry) = found(at + 1)? {
        let bytes = value(entry).ok_or_else(|| unusable(answer))?;
        let uuid = std::str::from_utf8(&bytes).ok().and_then(|text| Uuid::parse_str(text).ok());
        alive = Some(GatewayId::from_uuid(uuid.ok_or_else(|| unusable(answer))?));
        lease = entry["lease"].as_str().unwrap_or_default().to_owned();
    }
    Ok((Sighting { standing, alive, kept: false }, lease))
}
