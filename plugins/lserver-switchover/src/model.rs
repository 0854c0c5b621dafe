//! What a resource orchestrator holds, as it is exported, and which part of it a switchover is about.
//!
//! Invariant: an item is the orchestrator's own document. What is not named here passes through unread.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Items by kind and name.
pub type Items = BTreeMap<String, BTreeMap<String, Value>>;

/// Kinds that the batch command imports, in the order in which each needs those before it.
pub const IMPORTED: [&str; 5] = ["tenants", "pools", "images", "lservers", "platforms"];

/// All that one site's orchestrator held at one moment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Export {
    /// The site.
    pub site: String,
    /// The orchestrator's number for what it held; it raises it with each change.
    pub revision: u64,
    /// When it was collected, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it held.
    pub items: Items,
}

impl Export {
    /// The items of a kind.
    pub fn of(&self, kind: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.items.get(kind).into_iter().flatten()
    }

    /// One item.
    #[must_use]
    pub fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.items.get(kind)?.get(name)
    }
}

/// A text of an item; empty where there is none.
#[must_use]
pub fn text<'a>(item: &'a Value, key: &str) -> &'a str {
    item.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Whether all of a site moves, or some tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Site,
    Tenant,
}

/// Whether the destination serves nothing of its own, or goes on with its own tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    ActiveStandby,
    ActiveActive,
}

/// Whether guests are imported on other hosts, or whole hosts move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    VmGuest,
    VmHost,
}

/// What a switchover is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub level: Level,
    pub mode: Mode,
    pub kind: Kind,
    /// The tenants that move, at the tenant level.
    pub tenants: BTreeSet<String>,
    /// L-Servers that stay.
    pub exclude: BTreeSet<String>,
    /// The only storage pools whose L-Servers move; all if there are none.
    pub pools: BTreeSet<String>,
}

fn names(text: &str) -> BTreeSet<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

impl Scope {
    /// The scope that the parameters of a step name.
    ///
    /// # Errors
    /// Which of them is no word of its kind.
    pub fn of(params: &Value) -> Result<Self, String> {
        let bad = |key: &str, word: &str, known: &str| format!("{key} is {word:?}: say {known}");
        let level = match text(params, "level") {
            "" | "site" => Level::Site,
            "tenant" => Level::Tenant,
            other => return Err(bad("level", other, "site or tenant")),
        };
        let mode = match text(params, "mode") {
            "" | "active-standby" => Mode::ActiveStandby,
            "active-active" => Mode::ActiveActive,
            other => return Err(bad("mode", other, "active-standby or active-active")),
        };
        let kind = match text(params, "type") {
            "" | "vm-guest" => Kind::VmGuest,
            "vm-host" => Kind::VmHost,
            other => return Err(bad("type", other, "vm-guest or vm-host")),
        };
        let list = |key| names(text(params, key));
        let (tenants, exclude, pools) = (list("tenants"), list("exclude"), list("pools"));
        Ok(Self { level, mode, kind, tenants, exclude, pools })
    }

    /// Whether only a part of what the level names moves.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        !self.exclude.is_empty() || !self.pools.is_empty()
    }

    /// Whether an item of this tenant (empty: of all) is in it.
    #[must_use]
    pub fn has_tenant(&self, tenant: &str) -> bool {
        match self.level {
            Level::Site => true,
            Level::Tenant => self.tenants.contains(tenant),
        }
    }

    fn moves_server(&self, name: &str, server: &Value) -> bool {
        let pool = text(server, "pool");
        self.has_tenant(text(server, "tenant"))
            && !self.exclude.contains(name)
            && (self.pools.is_empty() || self.pools.contains(pool))
    }

    /// What of an export moves: each kind that is imported, and its names.
    #[must_use]
    pub fn moving<'a>(&self, export: &'a Export) -> BTreeMap<&'static str, Vec<&'a str>> {
        let servers: Vec<&str> = export
            .of("lservers")
            .filter(|(name, server)| self.moves_server(name, server))
            .map(|(name, _)| name.as_str())
            .collect();
        let used = |key: &str| -> BTreeSet<&str> {
            let of = |name: &&str| Some(text(export.get("lservers", name)?, key));
            servers.iter().filter_map(of).filter(|name| !name.is_empty()).collect()
        };
        let (tenants, platforms) = (used("tenant"), used("platform"));
        let limited = self.is_limited();
        // Where the range is limited, what hangs only on servers that stay stays with them.
        let select = |kind: &str, is_needed: &dyn Fn(&str, &Value) -> bool| {
            let of = export.of(kind);
            of.filter(|(name, item)| is_needed(name, item)).map(|(name, _)| name.as_str()).collect()
        };
        let in_scope = |item: &Value| self.has_tenant(text(item, "tenant"));
        let replicated = |name: &str| self.pools.is_empty() || self.pools.contains(name);
        let pool_moves = |name: &str, item: &Value| {
            let tenant = text(item, "tenant");
            in_scope(item)
                && (text(item, "type") != "storage" || replicated(name))
                && (!limited || tenant.is_empty() || tenants.contains(tenant))
        };
        BTreeMap::from([
            (
                "tenants",
                select("tenants", &|name, _| {
                    self.has_tenant(name) && (!limited || tenants.contains(name))
                }),
            ),
            ("pools", select("pools", &pool_moves)),
            (
                "images",
                select("images", &|_, item| in_scope(item) && text(item, "type") != "physical"),
            ),
            (
                "platforms",
                select("platforms", &|name, item| {
                    in_scope(item) && (!limited || platforms.contains(name))
                }),
            ),
            ("lservers", servers),
        ])
    }

    /// What the level names and the limits leave behind, as `kind/name`.
    #[must_use]
    pub fn remaining(&self, export: &Export) -> Vec<String> {
        let unlimited = Self { exclude: BTreeSet::new(), pools: BTreeSet::new(), ..self.clone() };
        let (all, moving) = (unlimited.moving(export), self.moving(export));
        let left = |kind: &&str| {
            let moves = moving.get(kind).cloned().unwrap_or_default();
            let named = all.get(kind).cloned().unwrap_or_default();
            let stay: Vec<String> = named
                .iter()
                .filter(|name| !moves.contains(name))
                .map(|name| format!("{kind}/{name}"))
                .collect();
            stay
        };
        IMPORTED.iter().flat_map(left).collect()
    }
}

#[cfg(test)]
pub mod samples {
    //! A site with two tenants, for the tests of this crate.

    use serde_json::json;

    use super::*;

    /// What the source holds.
    pub fn east() -> Export {
        let items = json!({
            "tenants": { "red": {}, "blue": {} },
            "pools": {
                "gold": { "type": "storage", "tenant": "" },
                "tin": { "type": "storage", "tenant": "" },
                "red-addresses": { "type": "address", "tenant": "red" }
            },
            "images": {
                "red-web": { "type": "virtual", "tenant": "red", "content": "w1" },
                "db-host": { "type": "physical", "tenant": "", "content": "p1" }
            },
            "lservers": {
                "web1": { "tenant": "red", "type": "virtual", "power": "on", "image": "red-web",
                    "pool": "gold", "storage": "array-e", "vm_manager": "vc-e", "vm_pool": "vp-e",
                    "address": "10.0.0.1", "platform": "shop" },
                "web2": { "tenant": "red", "type": "virtual", "power": "off", "image": "red-web",
                    "pool": "tin", "storage": "array-e", "vm_manager": "vc-e", "vm_pool": "vp-e",
                    "address": "10.0.0.2", "platform": "shop" },
                "db1": { "tenant": "blue", "type": "physical", "power": "on", "image": "db-host",
                    "pool": "gold", "storage": "array-f", "address": "10.0.1.1", "platform": "erp" }
            },
            "platforms": {
                "shop": { "tenant": "red", "lservers": ["web1", "web2"] },
                "erp": { "tenant": "blue", "lservers": ["db1"] }
            },
            "network-devices": { "fw1": { "type": "firewall", "config": "allow 443" } },
            "mappings": {
                "storage": { "pairs": [{ "east": "array-e", "west": "array-w" },
                    { "east": "array-f", "west": "array-x" }] },
                "vm-manager": { "pairs": [{ "east": "vc-e", "west": "vc-w" }] },
                "vm-pool": { "pairs": [{ "east": "vp-e", "west": "vp-w" }] }
            }
        });
        export("east", items)
    }

    /// What the destination holds.
    pub fn west() -> Export {
        let items = json!({
            "tenants": { "green": {} },
            "pools": { "bronze": { "type": "storage", "tenant": "" } },
            "lservers": { "own1": { "tenant": "green", "type": "virtual", "power": "on" } },
            "network-devices": { "fw1": { "type": "firewall", "config": "allow 80" } }
        });
        export("west", items)
    }

    pub fn export(site: &str, items: Value) -> Export {
        let items = serde_json::from_value(items).unwrap();
        Export { site: site.to_owned(), revision: 1, at_ms: 1_000, items }
    }

    pub fn scope(params: Value) -> Scope {
        Scope::of(&params).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::samples::{east, scope};
    use super::*;

    #[test]
    fn ror_13_a_site_moves_whole_and_a_tenant_by_itself() {
        let export = east();
        let moving = scope(json!({ "level": "site" })).moving(&export);
        assert_eq!(moving["lservers"], ["db1", "web1", "web2"]);
        assert_eq!(moving["tenants"], ["blue", "red"]);
        assert_eq!(moving["images"], ["red-web"], "physical images have a step of their own");
        let moving = scope(json!({ "level": "tenant", "tenants": "red" })).moving(&export);
        assert_eq!(moving["lservers"], ["web1", "web2"]);
        assert_eq!(
            (&moving["tenants"][..], &moving["platforms"][..]),
            (&["red"][..], &["shop"][..])
        );
        assert_eq!(moving["pools"], ["red-addresses"], "what all tenants share stays");
        assert!(Scope::of(&json!({ "level": "rack" })).unwrap_err().contains("site or tenant"));
    }

    #[test]
    fn ror_15_the_range_is_limited_and_what_stays_is_told() {
        let export = east();
        let limited = scope(json!({ "pools": "gold", "exclude": "db1" }));
        let moving = limited.moving(&export);
        assert_eq!(moving["lservers"], ["web1"]);
        assert_eq!(moving["tenants"], ["red"], "a tenant of which nothing moves stays");
        assert_eq!(
            limited.remaining(&export),
            ["tenants/blue", "pools/tin", "lservers/db1", "lservers/web2", "platforms/erp"]
        );
        assert_eq!(scope(json!({})).remaining(&export), Vec::<String>::new());
    }
}
