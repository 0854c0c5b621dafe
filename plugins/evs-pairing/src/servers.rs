//! What a server is made of: collected from the compute service, kept in versions, compared.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error;
use super::twinspan::plugin::kv::{self, KvError};
use super::twinspan::plugin::types::{Error, ErrorCode, Retry};

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Nic {
    pub port: String,
    pub mac: String,
    pub private: Vec<String>,
    pub public: Vec<String>,
}

/// A server, as far as its disaster recovery needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Server {
    pub id: String,
    pub name: String,
    pub status: String,
    pub zone: String,
    pub vpc: String,
    pub flavour: String,
    pub vcpus: String,
    pub memory: String,
    pub image: String,
    pub disks: Vec<String>,
    pub nics: Vec<Nic>,
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

impl Server {
    /// From the compute service's words.
    pub fn read(told: &Value) -> Self {
        let mut nics: Vec<Nic> = Vec::new();
        let addresses = told["addresses"].as_object().into_iter().flat_map(|of| of.values());
        for address in addresses.filter_map(Value::as_array).flatten() {
            let port = text(&address["OS-EXT-IPS:port_id"]);
            let at = nics.iter().position(|nic| nic.port == port).unwrap_or_else(|| {
                let mac = text(&address["OS-EXT-IPS-MAC:mac_addr"]);
                nics.push(Nic { port, mac, ..Nic::default() });
                nics.len() - 1
            });
            let is_public = address["OS-EXT-IPS:type"] == "floating";
            let to = if is_public { &mut nics[at].public } else { &mut nics[at].private };
            to.push(text(&address["addr"]));
        }
        nics.sort_by(|one, other| one.port.cmp(&other.port));
        let attached = told["os-extended-volumes:volumes_attached"].as_array();
        let disks = attached.into_iter().flatten().map(|disk| text(&disk["id"]));
        Self {
            id: text(&told["id"]),
            name: text(&told["name"]),
            status: text(&told["status"]),
            zone: text(&told["OS-EXT-AZ:availability_zone"]),
            vpc: text(&told["metadata"]["vpc_id"]),
            flavour: text(&told["flavor"]["id"]),
            vcpus: text(&told["flavor"]["vcpus"]),
            memory: text(&told["flavor"]["ram"]),
            image: text(&told["image"]["id"]),
            disks: disks.collect(),
            nics,
        }
    }

    /// What is missing of what has to be known of every server.
    pub fn missing(&self) -> Vec<&'static str> {
        let is_bare = |nic: &Nic| nic.mac.is_empty() || nic.private.is_empty();
        [
            (self.id.is_empty(), "its identity"),
            (self.disks.is_empty(), "its disks"),
            (self.nics.is_empty(), "its network interfaces"),
            (self.nics.iter().any(is_bare), "the MAC or private address of an interface"),
        ]
        .into_iter()
        .filter_map(|(is_missing, what)| is_missing.then_some(what))
        .collect()
    }

    /// In what another server does not stand in for this one.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let same = [
            ("VPC", &self.vpc, &other.vpc),
            ("flavour", &self.flavour, &other.flavour),
            ("vCPUs", &self.vcpus, &other.vcpus),
            ("memory", &self.memory, &other.memory),
            ("image", &self.image, &other.image),
        ];
        let mut all: Vec<String> = same
            .into_iter()
            .filter(|(_, one, two)| one != two)
            .map(|(what, one, two)| format!("{what}: {one:?} there, {two:?} here"))
            .collect();
        if self.zone == other.zone {
            all.push(format!("both servers are in zone {:?}", self.zone));
        }
        if self.disks.len() != other.disks.len() {
            all.push(format!("disks: {} there, {} here", self.disks.len(), other.disks.len()));
        }
        if other.status != "SHUTOFF" {
            all.push(format!("it is {:?}: stop it before its disks are paired", other.status));
        }
        all
    }
}

pub fn unavailable(why: KvError) -> Error {
    let retry = match why {
        KvError::Revision(_) | KvError::Unavailable(_) => Retry::Now,
        KvError::Denied | KvError::TooLarge | KvError::Quota => Retry::Never,
    };
    Error { retry, ..error(ErrorCode::Unavailable, format!("the store of keys: {why:?}")) }
}

/// The versions of one server that are kept, the newest last.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Kept {
    last: u64,
    versions: Vec<(u64, Server)>,
}

/// Of one server; a year of weekly changes.
const VERSIONS_MAX: usize = 52;

/// Keeps what was collected, as a new version if it differs from the last one; its number.
pub fn keep(server: &Server) -> Result<u64, Error> {
    let key = format!("server/{}", server.id);
    let entry = kv::get(&key).map_err(unavailable)?;
    let revision = entry.as_ref().map_or(0, |entry| entry.revision);
    let mut kept: Kept = match &entry {
        None => Kept::default(),
        Some(entry) => serde_json::from_slice(&entry.value)
            .map_err(|why| error(ErrorCode::Internal, format!("{key}: {why}")))?,
    };
    if kept.versions.last().is_some_and(|(_, last)| last == server) {
        return Ok(kept.last);
    }
    kept.last += 1;
    kept.versions.push((kept.last, server.clone()));
    let beyond = kept.versions.len().saturating_sub(VERSIONS_MAX);
    kept.versions.drain(..beyond);
    let value = serde_json::to_vec(&kept)
        .map_err(|why| error(ErrorCode::Internal, format!("{key}: {why}")))?;
    kv::put(&key, &value, Some(revision)).map_err(unavailable)?;
    Ok(kept.last)
}
