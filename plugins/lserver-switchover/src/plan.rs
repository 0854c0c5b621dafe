//! The plans of a switchover, a failback, what remained, and a source that returned.
//!
//! ```text
//!   1 prove, save, pause, release  5 folder   6 images  9 settings   12 batch        15 charges
//!   2 lock and export              │          7 network 10 roles     13 directory    16 export, collect
//!   3 stop servers  4 replication ─┘          8 files   11 datastores 14 check       17 clean up
//!   ◀──────────────── taken back until here ─────────────────────▶ ‖ no return
//! ```
//!
//! Invariant: what of a plan differs from run to run is a parameter or a fact, so that it can be read once
//! and run the other way.

pub mod facts;
mod sequence;

use serde_json::{Map, Value, json};

use self::sequence::{
    ALIVE, DESTINATION, SOURCE, Steps, batch_and_after, before_batch, of_export, proof,
};
use crate::model::{Scope, text};
use crate::outside::{Code, Trouble};
use crate::rules;

/// What can be planned.
pub const KINDS: [&str; 4] = ["switchover", "failback", "additional", "cleanup"];

/// What a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub kind: String,
    pub name: String,
    pub groups: Vec<String>,
    /// The folder's group.
    pub folder: String,
    pub source: String,
    pub destination: String,
    /// Values that parameters have if a run is not told others.
    pub options: Map<String, Value>,
    /// Facts that an export decided, if a run is not told others.
    pub found: Vec<(&'static str, bool)>,
    /// Parameters beyond those that every plan has.
    pub more: Map<String, Value>,
}

/// Parameters, their meaning and what they are if nobody says otherwise.
const PARAMETERS: [(&str, &str, &str); 10] = [
    ("level", "site, or tenant with the tenants that move", "site"),
    ("mode", "active-standby or active-active", "active-standby"),
    ("type", "vm-guest or vm-host", "vm-guest"),
    ("tenants", "the tenants that move, with commas", ""),
    ("exclude", "L-Servers that stay, with commas", ""),
    ("pools", "the only storage pools that move, with commas; empty: all", ""),
    ("timeout_s", "how long operations of the source are waited for, in seconds", "3600"),
    ("noretry", "true: fail if operations are running at the source", "false"),
    ("fresh_s", "how old the newest export may be, in seconds; 0: any age", "0"),
    (
        "accept",
        "which copy may be served without the source: in_sync, outdated, inconsistent",
        "in_sync",
    ),
];

/// Facts, and what is taken for true if nobody says otherwise.
const FACTS: [(&str, bool); 7] = [
    ("source-alive", true),
    ("physical", true),
    ("firewalls", true),
    ("files-differ", true),
    ("vm-guest", true),
    ("sso", true),
    ("charging", true),
];

/// The plan, in the gateway's format.
///
/// # Errors
/// What is missing or excludes something else.
pub fn make(wanted: &Wanted) -> Result<Value, Trouble> {
    let bad = |why: &str| Trouble::never(Code::Argument, why);
    if wanted.groups.is_empty() && wanted.kind != "additional" {
        return Err(bad("name the groups of the volumes that move: --group NAME"));
    }
    if wanted.groups.contains(&wanted.folder) {
        return Err(bad("the folder's group moves by itself: leave it out of the groups"));
    }
    let groups: Vec<(String, String)> = wanted
        .groups
        .iter()
        .enumerate()
        .map(|(number, group)| ((number + 1).to_string(), group.clone()))
        .collect();
    let folder = wanted.folder.as_str();
    let mut steps = Steps(Vec::new());
    let from = json!({ "source": "${site.source}" });
    match wanted.kind.as_str() {
        "switchover" | "failback" => {
            before_batch(&mut steps, &groups, folder);
            batch_and_after(&mut steps, &groups, folder);
        }
        "additional" => {
            steps.own(("prove", "prove what is to come"), (DESTINATION, ""), "prove", proof());
            steps.own(
                ("save-own", "save the destination's own configuration"),
                (DESTINATION, ""),
                "save-own",
                json!({}),
            );
            steps.own(
                ("folder", "open the information folder"),
                (DESTINATION, ""),
                "open-folder",
                from,
            );
            steps
                .own(
                    ("recover", "import what remained"),
                    (DESTINATION, ""),
                    "recover",
                    of_export(json!({ "additional": "true" })),
                )
                .insert("point_of_no_return".to_owned(), json!(true));
            steps.own(
                ("check", "check what was imported"),
                (DESTINATION, ""),
                "check",
                of_export(json!({})),
            );
        }
        "cleanup" => {
            for (word, group) in
                groups.iter().cloned().chain([("folder".to_owned(), folder.to_owned())])
            {
                let params = json!({ "group": group, "to": "${site.source}", "discard": true });
                steps
                    .add(
                        (
                            &format!("reprotect-{word}"),
                            &format!("mirror {group} to the site that returned"),
                        ),
                        (DESTINATION, ""),
                        "core/reprotect",
                        params,
                    )
                    .insert("point_of_no_return".to_owned(), json!(true));
                let params = json!({ "group": group, "to": "${site.source}" });
                steps
                    .add(
                        (&format!("mirrored-{word}"), &format!("wait until it follows {group}")),
                        (DESTINATION, ""),
                        "core/wait-in-sync",
                        params,
                    )
                    .insert("timeout".to_owned(), json!("24h"));
            }
            steps.own(
                ("folder", "open the information folder"),
                (DESTINATION, ""),
                "open-folder",
                from,
            );
            steps.own(
                ("cleanup", "fence and clean up the site that returned"),
                (SOURCE, ""),
                "cleanup",
                of_export(json!({})),
            );
        }
        other => return Err(bad(&format!("{other:?} is not planned here"))),
    }
    if wanted.kind == "failback" {
        let title = "restore what the site had of its own before it took over";
        steps.own(("own-again", title), (SOURCE, ALIVE), "restore-own", json!({}));
    }
    Ok(document(wanted, &steps))
}

fn document(wanted: &Wanted, steps: &Steps) -> Value {
    let mut parameters = wanted.more.clone();
    for (name, meaning, default) in PARAMETERS {
        let default = wanted.options.get(name).cloned().unwrap_or_else(|| json!(default));
        parameters.insert(name.to_owned(), json!({ "meaning": meaning, "default": default }));
    }
    let mut facts = Map::new();
    for (name, default) in FACTS {
        let said = wanted.options.get(name).and_then(Value::as_str).map(|text| text == "true");
        let found = wanted.found.iter().find(|(of, _)| *of == name).map(|(_, found)| *found);
        facts.insert(name.to_owned(), json!(said.or(found).unwrap_or(default)));
    }
    let (kind, title) = match wanted.kind.as_str() {
        "switchover" => ("switchover", "Switch L-Servers over to the other site"),
        "failback" => ("failback", "Switch L-Servers back, and restore what the other site had"),
        "additional" => ("switchover", "Import what a limited switchover left"),
        _ => ("reprotect", "Clean up a source that returned after it was switched over"),
    };
    let mut groups = wanted.groups.clone();
    groups.push(wanted.folder.clone());
    json!({
        "name": wanted.name, "title": title, "kind": kind, "groups": groups,
        "sites": { "source": wanted.source, "destination": wanted.destination },
        "parameters": parameters, "facts": facts, "steps": steps.0,
    })
}

/// What is wrong with a plan that names this plugin's actions: place, code, words.
#[must_use]
pub fn check(plan: &Value) -> Vec<(String, &'static str, String)> {
    let mut all = Vec::new();
    let steps = plan.get("steps").and_then(Value::as_array).cloned().unwrap_or_default();
    let default =
        |name: &str| plan.pointer(&format!("/parameters/{name}/default")).and_then(Value::as_str);
    let mut told = std::collections::BTreeSet::new();
    for (number, step) in steps.iter().enumerate() {
        let Some(action) = text(step, "action").strip_prefix("lserver-switchover/") else {
            continue;
        };
        let place = format!("/steps/{number}");
        if action == "recover" && step.get("point_of_no_return") != Some(&json!(true)) {
            let why = "the batch deletes: say point_of_no_return = true, so that nothing before it is \
                       taken back once it has begun";
            all.push((place.clone(), "no-return", why.to_owned()));
        }
        let mut params = step.get("params").cloned().unwrap_or_else(|| json!({}));
        for value in params.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let name = value.as_str().and_then(|of| of.strip_prefix("${")?.strip_suffix('}'));
            if let Some(known) = name.and_then(default) {
                *value = json!(known);
            }
        }
        if params.get("level").is_none() {
            continue;
        }
        match Scope::of(&params) {
            Err(why) => all.push((format!("{place}/params"), "parameter", why)),
            Ok(scope) => {
                // A tenant may be named when it is run.
                let fatal = rules::modes(&scope).into_iter().filter(|of| of.code != "no-tenant");
                for finding in fatal.filter(|of| told.insert(of.code)) {
                    all.push((format!("{place}/params"), finding.code, finding.message));
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ror_02_what_an_export_decided_is_a_default_and_what_a_person_said_goes_before() {
        let mut wanted = wanted("switchover");
        wanted.found = vec![("physical", false), ("sso", false)];
        wanted.options.insert("sso".to_owned(), json!("true"));
        let plan = make(&wanted).unwrap();
        assert_eq!(plan["facts"]["physical"], false);
        assert_eq!(plan["facts"]["sso"], true);
        assert_eq!(plan["facts"]["charging"], true, "nobody knows better");
    }

    fn wanted(kind: &str) -> Wanted {
        let group = json!({ "meaning": "the group of the volumes that move" });
        let folder = json!({ "meaning": "the group of the information folder" });
        let more = json!({ "group": group, "folder": folder });
        Wanted {
            kind: kind.to_owned(),
            name: "lserver-switchover".to_owned(),
            groups: vec!["${group}".to_owned()],
            folder: "${folder}".to_owned(),
            source: "east".to_owned(),
            destination: "west".to_owned(),
            options: Map::new(),
            found: vec![],
            more: more.as_object().unwrap().clone(),
        }
    }

    fn numbers(plan: &Value) -> Vec<u32> {
        let steps = plan["steps"].as_array().unwrap().iter();
        steps.filter_map(|step| text(step, "title").split(':').next()?.parse().ok()).collect()
    }

    #[test]
    fn ror_01_the_plan_has_the_seventeen_steps_in_their_order_and_at_their_sites() {
        let plan = make(&wanted("switchover")).unwrap();
        let mut numbers = numbers(&plan);
        assert!(numbers.is_sorted(), "{numbers:?}");
        numbers.dedup();
        assert_eq!(numbers, (1..=17).collect::<Vec<_>>());
        let at = |id: &str| {
            let steps = plan["steps"].as_array().unwrap();
            let step = steps.iter().find(|step| step["id"] == id).unwrap();
            (text(step, "site").to_owned(), text(step, "when").to_owned())
        };
        let pair = |site: &str, when: &str| (site.to_owned(), when.to_owned());
        assert_eq!(at("save-own"), pair("destination", ""));
        assert_eq!(at("lock"), pair("source", "source-alive"));
        assert_eq!(at("images"), pair("destination", "physical"));
        assert_eq!(at("network"), pair("destination", "firewalls"));
        assert_eq!(at("files"), pair("destination", "files-differ"));
        assert_eq!(at("datastores"), pair("destination", "vm-guest"));
        assert_eq!(at("directory"), pair("destination", "sso"));
        assert_eq!(at("cleanup"), pair("source", "source-alive"));
    }

    #[test]
    fn the_plan_of_the_repository_is_what_is_made() {
        let file = include_str!("../../../config/plans/lserver-switchover.toml");
        let read: Value = toml::from_str(file).unwrap();
        assert_eq!(read, make(&wanted("switchover")).unwrap());
    }

    #[test]
    fn ror_20_a_failback_is_the_same_plan_and_restores_what_was_before() {
        let (there, back) =
            (make(&wanted("switchover")).unwrap(), make(&wanted("failback")).unwrap());
        let (there, back) = (there["steps"].as_array().unwrap(), back["steps"].as_array().unwrap());
        assert_eq!(there[..], back[..there.len()]);
        assert_eq!(back.len(), there.len() + 1);
        assert_eq!(back[there.len()]["action"], "lserver-switchover/restore-own");
    }

    #[test]
    fn ror_14_a_plan_with_modes_that_exclude_each_other_is_refused() {
        let mut wanted = wanted("switchover");
        assert_eq!(check(&make(&wanted).unwrap()), []);
        wanted.options.insert("mode".to_owned(), json!("active-active"));
        let told = check(&make(&wanted).unwrap());
        assert_eq!((told.len(), told[0].1), (1, "active-active-site"), "{told:?}");
        let mut plan = make(&wanted).unwrap();
        let steps = plan["steps"].as_array_mut().unwrap();
        steps.iter_mut().find(|step| step["id"] == "recover").unwrap()["point_of_no_return"] =
            json!(false);
        assert!(check(&plan).iter().any(|(_, code, _)| *code == "no-return"));
    }

    #[test]
    fn what_cannot_be_planned_says_why() {
        let none = Wanted { groups: vec![], ..wanted("switchover") };
        assert!(make(&none).unwrap_err().message.contains("--group"));
        let twice = Wanted { groups: vec!["${folder}".to_owned()], ..wanted("switchover") };
        assert!(make(&twice).unwrap_err().message.contains("folder"));
        for kind in KINDS {
            assert!(make(&wanted(kind)).is_ok(), "{kind}");
        }
    }
}
