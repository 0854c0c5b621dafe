//! AZ pairs, and what a disaster recovery over two zones needs of a cloud outside of storage.
//!
//! `placement` holds the catalogue of zones that may be paired. The actions speak to the cloud's compute
//! and network services: what a server is made of is collected, addresses are moved, a virtual address is
//! prepared, and the other server is compared with it. A gateway that protects servers calls those of
//! `instances` and `interfaces` by their names: the server of the other zone is made, disks and interfaces
//! change places, flavours are changed.
//!
//! Invariant: every deed says what is to be so, looks whether it is, and pushes once for what is not; a
//! call that comes again finds what the first one did.

mod actions;
mod before;
mod cloud;
mod deeds;
mod instances;
mod interfaces;
mod rules;
mod servers;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package evs:pairing;
        world pairing {
            include twinspan:plugin/action-plugin@0.1.0;
            export twinspan:plugin/placement@0.1.0;
        }
    ",
    world: "evs:pairing/pairing",
    generate_all,
});

use exports::twinspan::plugin::placement::{Guest as Placement, Proposal};
use exports::twinspan::plugin::plugin::{Descriptor, Guest, Health, HealthReport, Want};
use serde::Deserialize;
use twinspan::plugin::types::{Context, Diagnostic, Error, ErrorCode, Mode, Retry, Severity, Site};

struct Pairing;

/// What the operator configured; everything may be left out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Zones that may be paired. None: any two different zones.
    pairs: Vec<rules::ZonePair>,
    max_distance_km: f64,
    warn_round_trip_us: u32,
    /// The compute service, with the project: `https://ecs.example/v1/PROJECT`.
    compute: String,
    /// The network service, with the project: `https://vpc.example/v1/PROJECT`.
    network: String,
    /// The volume service, with the project: `https://evs.example/v2/PROJECT`. Without it the disks that
    /// the cloud makes with a server stay when they are taken out of it.
    volumes: String,
    /// The name of the secret that is the token.
    token: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pairs: Vec::new(),
            max_distance_km: 100.0,
            warn_round_trip_us: 2_000,
            compute: String::new(),
            network: String::new(),
            volumes: String::new(),
            token: "cloud-token".to_owned(),
        }
    }
}

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "pairs": { "type": "array", "items": {
      "type": "object",
      "additionalProperties": false,
      "required": ["zones"],
      "properties": {
        "zones": { "type": "array", "minItems": 2, "maxItems": 2, "items": { "type": "string" } },
        "sold_out": { "type": "boolean" },
        "hypermetro": { "type": "boolean" },
        "distance_km": { "type": "number", "minimum": 0 }
      }
    } },
    "max_distance_km": { "type": "number", "minimum": 0 },
    "warn_round_trip_us": { "type": "integer", "minimum": 0 },
    "compute": { "type": "string" },
    "network": { "type": "string" },
    "volumes": { "type": "string" },
    "token": { "type": "string" }
  }
}"#;

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error { code, message: message.into(), retry: Retry::Never, vendor_code: None }
}

fn again(code: ErrorCode, message: String, after_ms: u32) -> Error {
    Error { code, message, retry: Retry::AfterMs(after_ms), vendor_code: None }
}

/// With the number that the disaster recovery service has for it.
fn numbered(code: ErrorCode, number: &str, message: String) -> Error {
    Error { vendor_code: Some(number.to_owned()), ..error(code, message) }
}

fn read(config: &str) -> Result<Config, Error> {
    serde_json::from_str(config).map_err(|why| error(ErrorCode::InvalidConfig, why.to_string()))
}

fn config() -> Result<Config, Error> {
    read(&twinspan::plugin::config::get())
}

fn remark(severity: Severity, code: &str, message: String, vendor: Option<&str>) -> Diagnostic {
    Diagnostic {
        severity,
        code: code.to_owned(),
        message,
        path: None,
        vendor_code: vendor.map(str::to_owned),
    }
}

impl Guest for Pairing {
    fn describe() -> Descriptor {
        Descriptor {
            name: "evs-pairing".to_owned(),
            vendor: "Twinspan".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Zones that may be paired, and what servers need of a cloud.".to_owned(),
            config_schema: SCHEMA.to_owned(),
            actions: actions::all(),
            wants: vec![Want::Kv, Want::Secret("cloud-token".to_owned())],
        }
    }

    fn check_config(config: String) -> Vec<Diagnostic> {
        let wrong = |message| vec![remark(Severity::Error, "config", message, None)];
        let config = match read(&config) {
            Ok(config) => config,
            Err(why) => return wrong(why.message),
        };
        let twice = config.pairs.iter().find(|pair| pair.zones[0] == pair.zones[1]);
        match twice {
            Some(pair) => wrong(format!("{} is paired with itself", pair.zones[0])),
            None => vec![],
        }
    }

    fn probe() -> Result<HealthReport, Error> {
        let config = config()?;
        if config.compute.is_empty() || config.network.is_empty() {
            let message = "compute and network are not configured: only zones are checked";
            return Ok(HealthReport { health: Health::Degraded, message: message.to_owned() });
        }
        match cloud::Cloud::of(&config).list_servers() {
            Ok(count) => {
                let message = format!("the compute service answers; it lists {count} servers");
                Ok(HealthReport { health: Health::Ok, message })
            }
            Err(why) => Ok(HealthReport { health: Health::Failed, message: why.message }),
        }
    }
}

impl Placement for Pairing {
    fn suggest(
        _: Context,
        source: Site,
        mode: Mode,
        sites: Vec<Site>,
    ) -> Result<Vec<String>, Error> {
        Ok(rules::suggest(&config()?, &source, mode, sites))
    }

    fn check_session(_: Context, proposal: Proposal) -> Result<Vec<Diagnostic>, Error> {
        Ok(rules::check(&config()?, &proposal))
    }
}

export!(Pairing);
