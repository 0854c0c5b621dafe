//! What must be so before anything is moved: modes, mapping files, names.
//!
//! Invariant: everything that is wrong is found in one go, and nothing is asked of anybody.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::model::{Export, Kind, Level, Mode, Scope, text};

/// Something that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// For programs.
    pub code: &'static str,
    /// What, why and what next.
    pub message: String,
}

fn finding(code: &'static str, message: impl Into<String>) -> Finding {
    Finding { code, message: message.into() }
}

/// Combinations that exclude each other.
#[must_use]
pub fn modes(scope: &Scope) -> Vec<Finding> {
    let mut all = Vec::new();
    let hosts = scope.kind == Kind::VmHost;
    if scope.mode == Mode::ActiveActive && scope.level == Level::Site {
        all.push(finding(
            "active-active-site",
            "an active destination has tenants of its own, so a whole site cannot be switched to it: \
             use level=tenant",
        ));
    }
    if scope.mode == Mode::ActiveActive && hosts {
        all.push(finding(
            "active-active-vm-host",
            "whole hosts cannot be switched to an active destination: use type=vm-guest",
        ));
    }
    if scope.level == Level::Tenant && hosts {
        all.push(finding(
            "tenant-vm-host",
            "a host has servers of several tenants, so it is not switched with one: use level=site or \
             type=vm-guest",
        ));
    }
    if scope.is_limited() && hosts {
        all.push(finding(
            "range-vm-host",
            "with whole hosts the range cannot be limited: leave out exclude and pools",
        ));
    }
    match (scope.level, scope.tenants.is_empty()) {
        (Level::Tenant, true) => {
            all.push(finding("no-tenant", "level=tenant names no tenant: say tenants=A,B"));
        }
        (Level::Site, false) => all.push(finding(
            "tenants-of-site",
            "tenants are named and the level is site: use level=tenant or leave them out",
        )),
        _ => {}
    }
    all
}

/// A mapping file of one site pair.
pub struct Mapping(BTreeMap<String, String>);

impl Mapping {
    /// The mapping file of this name, from one site to the other.
    ///
    /// # Errors
    /// When one thing has two others.
    pub fn of(export: &Export, name: &str, (from, to): (&str, &str)) -> Result<Self, Finding> {
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let pairs = export.get("mappings", name).and_then(|of| of.get("pairs"));
        for pair in pairs.and_then(Value::as_array).into_iter().flatten() {
            let (one, other) = (text(pair, from), text(pair, to));
            if one.is_empty() || other.is_empty() {
                continue;
            }
            let before = all.insert(one.to_owned(), other.to_owned());
            if before.is_some_and(|before| before != other) {
                let why = format!("mapping file {name} gives {one} of {from} two places at {to}");
                return Err(finding("mapped-twice", why));
            }
        }
        Ok(Self(all))
    }

    /// The other site's name for it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// What of a server has a place at the other site by which mapping file.
pub const MAPPED: [(&str, &str); 3] =
    [("storage", "storage"), ("vm_manager", "vm-manager"), ("vm_pool", "vm-pool")];

/// Every storage unit, VM manager and VM pool that a server needs has a place at the destination.
#[must_use]
pub fn mappings(export: &Export, sites: (&str, &str), scope: &Scope) -> Vec<Finding> {
    let mut all = Vec::new();
    let servers = scope.moving(export).remove("lservers").unwrap_or_default();
    for (key, file) in MAPPED {
        let mapping = match Mapping::of(export, file, sites) {
            Ok(mapping) => mapping,
            Err(wrong) => {
                all.push(wrong);
                continue;
            }
        };
        let used = servers.iter().filter_map(|name| export.get("lservers", name));
        let used: BTreeSet<&str> =
            used.map(|server| text(server, key)).filter(|of| !of.is_empty()).collect();
        for unmapped in used.into_iter().filter(|name| mapping.get(name).is_none()) {
            let why = format!(
                "{unmapped} of {} has no place at {} in mapping file {file}: add a pair",
                sites.0, sites.1
            );
            all.push(finding("unmapped", why));
        }
    }
    all
}

/// Names that have to be unique over both sites, and names that have to be the same.
#[must_use]
pub fn names(export: &Export, own: &Export, scope: &Scope) -> Vec<Finding> {
    let mut all = Vec::new();
    let moving = scope.moving(export);
    if scope.mode == Mode::ActiveActive {
        for (kind, names) in &moving {
            let taken = |name: &&&str| {
                let there = own.get(kind, name);
                there.is_some_and(|there| text(there, "from") != export.site)
            };
            for name in names.iter().filter(taken) {
                let why = format!("{kind}/{name} exists at {} too: rename one", own.site);
                all.push(finding("name-taken", why));
            }
        }
    }
    for (name, device) in export.of("network-devices") {
        if scope.has_tenant(text(device, "tenant")) && own.get("network-devices", name).is_none() {
            let why =
                format!("network device {name} is not registered at {} by this name", own.site);
            all.push(finding("device-name", why));
        }
    }
    all.extend(shared(export, scope));
    all
}

/// What tenants that are switched apart must not share.
fn shared(export: &Export, scope: &Scope) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut tenants_of: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (name, server) in export.of("lservers") {
        let tenant = text(server, "tenant");
        for key in ["address", "storage"] {
            let used = text(server, key);
            if !used.is_empty() {
                tenants_of.entry((key, used)).or_default().insert(tenant);
            }
        }
        let image = text(server, "image");
        let is_global = export.get("images", image).is_some_and(|of| text(of, "tenant").is_empty());
        if scope.level == Level::Tenant && scope.has_tenant(tenant) && is_global {
            let why = format!("image {image} of {name} is in a global pool: move it to {tenant}'s");
            all.push(finding("image-global", why));
        }
    }
    for ((key, name), tenants) in tenants_of {
        let moves = tenants.iter().filter(|tenant| scope.has_tenant(tenant)).count();
        let apart = scope.level == Level::Tenant && moves != 0 && moves != tenants.len();
        if tenants.len() > 1 && (key == "address" || apart) {
            let names: Vec<&str> = tenants.into_iter().collect();
            let why = format!("{key} {name} is shared by tenants {}", names.join(", "));
            all.push(finding(
                if key == "address" { "address-shared" } else { "storage-shared" },
                why,
            ));
        }
    }
    all
}

/// Whether there are servers enough at the destination for the physical ones that move.
#[must_use]
pub fn capacity(export: &Export, free: u64, scope: &Scope) -> Vec<Finding> {
    let servers = scope.moving(export).remove("lservers").unwrap_or_default();
    let is_physical = |name: &&&str| {
        export.get("lservers", name).is_some_and(|of| text(of, "type") == "physical")
    };
    let needed = servers.iter().filter(is_physical).count() as u64;
    if needed <= free {
        return Vec::new();
    }
    let why = format!("{needed} physical servers are needed and {free} are free: free some");
    vec![finding("no-server", why)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::samples::{east, scope, west};

    fn codes(findings: &[Finding]) -> Vec<&'static str> {
        findings.iter().map(|of| of.code).collect()
    }

    #[test]
    fn ror_14_modes_that_exclude_each_other_are_refused_by_name() {
        for (params, expected) in [
            (json!({}), &[][..]),
            (json!({ "mode": "active-active" }), &["active-active-site"]),
            (json!({ "mode": "active-active", "level": "tenant", "tenants": "red" }), &[]),
            (
                json!({ "mode": "active-active", "type": "vm-host", "level": "tenant", "tenants": "a" }),
                &["active-active-vm-host", "tenant-vm-host"],
            ),
            (json!({ "type": "vm-host", "exclude": "web1" }), &["range-vm-host"]),
            (json!({ "level": "tenant" }), &["no-tenant"]),
            (json!({ "tenants": "red" }), &["tenants-of-site"]),
        ] {
            assert_eq!(codes(&modes(&scope(params.clone()))), expected, "{params}");
        }
    }

    #[test]
    fn ror_16_what_has_no_place_at_the_other_site_is_told_before() {
        let whole = scope(json!({}));
        let mut export = east();
        assert_eq!(mappings(&export, ("east", "west"), &whole), []);
        let pairs = json!({ "pairs": [{ "east": "array-e", "west": "array-w" }] });
        export.items.get_mut("mappings").unwrap().insert("storage".to_owned(), pairs);
        let told = mappings(&export, ("east", "west"), &whole);
        assert_eq!(codes(&told), ["unmapped"]);
        assert!(told[0].message.contains("array-f"), "{told:?}");
        let red = scope(json!({ "level": "tenant", "tenants": "red" }));
        assert_eq!(mappings(&export, ("east", "west"), &red), []);
        let twice =
            json!({ "pairs": [{ "east": "a", "west": "b" }, { "east": "a", "west": "c" }] });
        export.items.get_mut("mappings").unwrap().insert("vm-pool".to_owned(), twice);
        assert!(codes(&mappings(&export, ("east", "west"), &red)).contains(&"mapped-twice"));
        // The way back reads the same file.
        assert_eq!(
            Mapping::of(&east(), "storage", ("west", "east")).ok().unwrap().get("array-w"),
            Some("array-e")
        );
    }

    #[test]
    fn ror_17_names_that_clash_or_do_not_match_are_told() {
        let (mut export, mut own) = (east(), west());
        let red = json!({ "mode": "active-active", "level": "tenant", "tenants": "red" });
        assert_eq!(names(&export, &own, &scope(red.clone())), []);
        own.items.get_mut("lservers").unwrap().insert("web1".to_owned(), json!({}));
        own.items.remove("network-devices");
        assert_eq!(codes(&names(&export, &own, &scope(red.clone()))), ["name-taken"]);
        assert_eq!(codes(&names(&export, &own, &scope(json!({})))), ["device-name"]);
        let servers = export.items.get_mut("lservers").unwrap();
        servers.get_mut("db1").unwrap()["address"] = json!("10.0.0.1");
        servers.get_mut("db1").unwrap()["storage"] = json!("array-e");
        servers.get_mut("web2").unwrap()["image"] = json!("db-host");
        let told = names(&export, &west(), &scope(red));
        assert_eq!(codes(&told), ["image-global", "address-shared", "storage-shared"]);
        assert_eq!(codes(&capacity(&export, 0, &scope(json!({})))), ["no-server"]);
        assert_eq!(capacity(&export, 1, &scope(json!({}))), []);
    }
}
