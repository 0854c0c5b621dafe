//! The batch command: what is deleted, imported and started at the destination, item by item, in order.
//!
//! Invariant: from the same export, the same saved configuration and the same scope comes the same list, so
//! that a place in it means the same after a restart.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::model::{Export, IMPORTED, Level, Mode, Scope, text};
use crate::outside::{Code, Trouble};
use crate::rules::{MAPPED, Mapping};

/// One thing to do at an orchestrator.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Put { kind: String, name: String, item: Value },
    Delete { kind: String, name: String },
    Power { name: String, is_on: bool },
}

impl Op {
    /// In words.
    #[must_use]
    pub fn words(&self) -> (&'static str, String) {
        match self {
            Self::Put { kind, name, .. } => ("import", format!("{kind}/{name}")),
            Self::Delete { kind, name } => ("delete", format!("{kind}/{name}")),
            Self::Power { name, is_on: true } => ("start", format!("lservers/{name}")),
            Self::Power { name, is_on: false } => ("stop", format!("lservers/{name}")),
        }
    }
}

fn put(kind: &str, name: &str, item: Value) -> Op {
    Op::Put { kind: kind.to_owned(), name: name.to_owned(), item }
}

fn delete(kind: &str, name: &str) -> Op {
    Op::Delete { kind: kind.to_owned(), name: name.to_owned() }
}

/// The mapping files of an export, by what of a server they are for.
struct Places(Vec<(&'static str, Mapping)>);

impl Places {
    fn of(export: &Export, sites: (&str, &str)) -> Result<Self, Trouble> {
        let one = |(key, file): (&'static str, &str)| {
            let mapping = Mapping::of(export, file, sites);
            mapping
                .map(|mapping| (key, mapping))
                .map_err(|wrong| Trouble::never(Code::Argument, wrong.message))
        };
        MAPPED.into_iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// An item as it is at the other site.
    fn move_there(&self, item: &Value, from: &str) -> Result<Value, String> {
        let mut moved = item.clone();
        for (key, mapping) in &self.0 {
            let here = text(item, key);
            if !here.is_empty() {
                let there =
                    mapping.get(here).ok_or_else(|| format!("{here} is in no mapping file"))?;
                moved[*key] = json!(there);
            }
        }
        moved["from"] = json!(from);
        Ok(moved)
    }
}

/// Mapping files come along, beside the pairs that are there: the way back needs them.
fn mapping_files(export: &Export, own: &Export) -> Vec<Op> {
    let pairs = |of: Option<&Value>| {
        let pairs = of.and_then(|of| of.get("pairs")).and_then(Value::as_array);
        pairs.cloned().unwrap_or_default()
    };
    let mut all = Vec::new();
    for (name, item) in export.of("mappings") {
        let mut both = pairs(own.get("mappings", name));
        let lacking: Vec<Value> =
            pairs(Some(item)).into_iter().filter(|pair| !both.contains(pair)).collect();
        if lacking.is_empty() {
            continue;
        }
        both.extend(lacking);
        all.push(put("mappings", name, json!({ "pairs": both })));
    }
    all
}

/// What is deleted of the destination's own environment.
fn cleared(export: &Export, own: &Export, scope: &Scope) -> Vec<Op> {
    let moving = scope.moving(export);
    let mut all = Vec::new();
    for kind in IMPORTED.iter().rev() {
        for (name, item) in own.of(kind) {
            let is_imported = moving[kind].contains(&name.as_str());
            let is_switched = text(item, "from") == export.site;
            let tenant = if *kind == "tenants" { name } else { text(item, "tenant") };
            let goes = match (scope.mode, scope.level) {
                (Mode::ActiveStandby, Level::Site) => true,
                // Tenants that were switched before stay.
                (Mode::ActiveStandby, Level::Tenant) => {
                    !is_switched || scope.tenants.contains(tenant)
                }
                (Mode::ActiveActive, _) => scope.tenants.contains(tenant),
            };
            // Images of physical servers have a step of their own.
            let has_own_step = *kind == "images" && text(item, "type") == "physical";
            if goes && !is_imported && !has_own_step {
                all.push(delete(kind, name));
            }
        }
    }
    all
}

/// The servers of the destination that have to stand still before: those that are deleted.
#[must_use]
pub fn released(export: &Export, own: &Export, scope: &Scope) -> Vec<String> {
    let is_on = |name: &str| own.get("lservers", name).is_some_and(|of| text(of, "power") == "on");
    let server = |op: Op| match op {
        Op::Delete { kind, name } if kind == "lservers" && is_on(&name) => Some(name),
        _ => None,
    };
    cleared(export, own, scope).into_iter().filter_map(server).collect()
}

/// The whole list.
///
/// # Errors
/// When something that moves has no place at the destination.
pub fn list(
    (export, own): (&Export, &Export),
    scope: &Scope,
    destination: &str,
    is_additional: bool,
) -> Result<Vec<Op>, Trouble> {
    let places = Places::of(export, (&export.site, destination))?;
    let moving = scope.moving(export);
    let fences = own.of("fences").filter(|(_, fence)| scope.has_tenant(text(fence, "tenant")));
    let mut all: Vec<Op> = fences.map(|(name, _)| delete("fences", name)).collect();
    if !is_additional {
        all.extend(cleared(export, own, scope));
    }
    all.extend(mapping_files(export, own));
    let mut started = Vec::new();
    for kind in IMPORTED {
        for name in &moving[kind] {
            let Some(item) = export.get(kind, name) else { continue };
            let there = own.get(kind, name);
            if is_additional && there.is_some_and(|there| text(there, "from") == export.site) {
                continue;
            }
            let moved = places.move_there(item, &export.site);
            let why = |why: String| Trouble::never(Code::Argument, format!("{kind}/{name}: {why}"));
            let mut moved = moved.map_err(why)?;
            if kind == "lservers" {
                if text(item, "power") == "on" {
                    started.push(Op::Power { name: (*name).to_owned(), is_on: true });
                }
                moved["power"] = json!("off");
            }
            all.push(put(kind, name, moved));
        }
    }
    all.extend(started);
    Ok(all)
}

/// What brings back a saved configuration where it is not so: `now` is what is there.
#[must_use]
pub fn way_back(saved: &Export, now: &Export) -> Vec<Op> {
    let kinds = IMPORTED.iter().copied();
    let kinds = kinds.chain(["network-devices", "files", "settings", "roles", "datastores"]);
    // It was fenced for what moved away; what it has of its own is to run.
    let mut all = vec![delete("fences", "all")];
    let mut started = Vec::new();
    for kind in kinds {
        for (name, item) in saved.of(kind) {
            let is_on = kind == "lservers" && text(item, "power") == "on";
            if is_on {
                started.push(Op::Power { name: name.clone(), is_on });
            }
            if now.get(kind, name) == Some(item) {
                continue;
            }
            let mut item = item.clone();
            if kind == "lservers" {
                item["power"] = json!("off");
            }
            all.push(put(kind, name, item));
        }
    }
    all.extend(started);
    all
}

/// What servers that stay behind hang on, as kind and name.
fn needed_by_what_stays<'a>(export: &'a Export, moving: &[&str]) -> BTreeSet<(&'a str, &'a str)> {
    let stays = export.of("lservers").filter(|(name, _)| !moving.contains(&name.as_str()));
    let keys =
        [("tenants", "tenant"), ("pools", "pool"), ("images", "image"), ("platforms", "platform")];
    stays.flat_map(|(_, server)| keys.map(|(kind, key)| (kind, text(server, key)))).collect()
}

/// What is deleted at a source that was switched, and the fences that keep it so.
#[must_use]
pub fn cleaned(export: &Export, scope: &Scope, run: &str) -> Vec<Op> {
    let moving = scope.moving(export);
    let fence =
        |name: &str, tenant: &str| put("fences", name, json!({ "tenant": tenant, "run": run }));
    let mut all: Vec<Op> = match (scope.level, scope.is_limited()) {
        (Level::Site, false) => vec![fence("all", "")],
        _ => moving["tenants"].iter().map(|tenant| fence(tenant, tenant)).collect(),
    };
    let servers = moving["lservers"].iter();
    all.extend(servers.map(|name| Op::Power { name: (*name).to_owned(), is_on: false }));
    let needed = needed_by_what_stays(export, &moving["lservers"]);
    for kind in IMPORTED.iter().rev() {
        let goes = moving[kind].iter().filter(|name| !needed.contains(&(*kind, **name)));
        all.extend(goes.map(|name| delete(kind, name)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples::{east, scope, west};

    fn words(ops: &[Op]) -> Vec<String> {
        ops.iter().map(|op| format!("{} {}", op.words().0, op.words().1)).collect()
    }

    #[test]
    fn ror_09_a_batch_clears_maps_imports_and_starts_in_order() {
        let ops = list((&east(), &west()), &scope(json!({})), "west", false).unwrap();
        let words = words(&ops);
        assert_eq!(
            words,
            [
                "delete lservers/own1",
                "delete pools/bronze",
                "delete tenants/green",
                "import mappings/storage",
                "import mappings/vm-manager",
                "import mappings/vm-pool",
                "import tenants/blue",
                "import tenants/red",
                "import pools/gold",
                "import pools/red-addresses",
                "import pools/tin",
                "import images/red-web",
                "import lservers/db1",
                "import lservers/web1",
                "import lservers/web2",
                "import platforms/erp",
                "import platforms/shop",
                "start lservers/db1",
                "start lservers/web1"
            ]
        );
        let Some(Op::Put { item, .. }) = ops.iter().find(|op| op.words().1 == "lservers/web1")
        else {
            panic!("it is not imported: {words:?}");
        };
        assert_eq!((text(item, "storage"), text(item, "vm_pool")), ("array-w", "vp-w"));
        assert_eq!((text(item, "from"), text(item, "power")), ("east", "off"));
    }

    #[test]
    fn ror_14_an_active_destination_keeps_what_is_its_own() {
        let red = scope(json!({ "mode": "active-active", "level": "tenant", "tenants": "red" }));
        let ops = words(&list((&east(), &west()), &red, "west", false).unwrap());
        assert!(ops.iter().all(|op| !op.starts_with("delete")), "{ops:?}");
        assert_eq!(released(&east(), &west(), &red), Vec::<String>::new());
        assert_eq!(released(&east(), &west(), &scope(json!({}))), ["own1"]);
    }

    #[test]
    fn ror_15_what_remained_is_imported_later_beside_what_is_there() {
        let mut there = west();
        let imported =
            list((&east(), &west()), &scope(json!({ "exclude": "web2" })), "west", false);
        for op in imported.unwrap() {
            match op {
                Op::Put { kind, name, item } => {
                    there.items.entry(kind).or_default().insert(name, item);
                }
                Op::Delete { kind, name } => {
                    drop(there.items.get_mut(&kind).unwrap().remove(&name))
                }
                Op::Power { .. } => {}
            }
        }
        let more = list((&east(), &there), &scope(json!({})), "west", true).unwrap();
        assert_eq!(words(&more), ["import lservers/web2"]);
    }

    #[test]
    fn ror_12_a_source_is_fenced_before_anything_of_it_is_deleted() {
        let ops = words(&cleaned(&east(), &scope(json!({})), "r1"));
        assert_eq!(
            ops[..4],
            ["import fences/all", "stop lservers/db1", "stop lservers/web1", "stop lservers/web2"]
        );
        assert!(ops[4..].iter().all(|op| op.starts_with("delete")), "{ops:?}");
        let red = cleaned(&east(), &scope(json!({ "level": "tenant", "tenants": "red" })), "r1");
        assert_eq!(red[0], put("fences", "red", json!({ "tenant": "red", "run": "r1" })));
        assert!(words(&red).iter().all(|op| !op.contains("db1") && !op.contains("gold")));
        let limited = words(&cleaned(&east(), &scope(json!({ "exclude": "web2" })), "r1"));
        for kept in ["web2", "red", "tin", "red-web", "shop"] {
            let delete = |kind: &str| limited.contains(&format!("delete {kind}/{kept}"));
            assert!(!IMPORTED.iter().any(|kind| delete(kind)), "{kept} is needed: {limited:?}");
        }
        assert!(limited.contains(&"delete tenants/blue".to_owned()), "{limited:?}");
    }

    #[test]
    fn ror_20_what_was_saved_is_brought_back_where_it_is_not_so() {
        let mut now = west();
        now.items.remove("lservers");
        let ops = words(&way_back(&west(), &now));
        assert_eq!(ops, ["delete fences/all", "import lservers/own1", "start lservers/own1"]);
    }
}
