//! What an export says of the conditions of a plan.
//!
//! Invariant: a step is left out for what the export has none of, whatever part of it moves; what cannot be
//! told is taken for true. A fact that became wrong since is found before anything is moved.

use serde_json::Value;

use crate::model::{Export, Scope, text};
use crate::rules::Finding;
use crate::steps::differing;

/// Facts that an export decides, with the parameter by which they are proven again, and whether a switchover
/// goes wrong where one of them is false and should not be: what another way may have been found for is a
/// person's to leave out.
pub const DECIDED: [(&str, &str, bool); 5] = [
    ("physical", "physical", true),
    ("vm-guest", "vm_guest", true),
    ("firewalls", "firewalls", false),
    ("sso", "sso", false),
    ("charging", "charging", false),
];

/// Whether the part of an export that is in scope has what a fact is about.
fn holds(fact: &str, export: &Export, scope: &Scope) -> bool {
    let is_physical = |item: &Value| text(item, "type") == "physical";
    let moving = scope.moving(export);
    let servers = || moving["lservers"].iter().filter_map(|name| export.get("lservers", name));
    let has = |kind: &str| export.of(kind).any(|(_, item)| scope.has_tenant(text(item, "tenant")));
    match fact {
        "physical" => servers().any(is_physical),
        "vm-guest" => servers().any(|server| !is_physical(server)),
        "firewalls" => has("network-devices"),
        "sso" => has("directory"),
        _ => {
            let moves = |of: &Value| moving["platforms"].contains(&text(of, "platform"));
            export.of("usage").any(|(_, usage)| moves(usage))
        }
    }
}

/// What the newest export of a source says for a plan that may be run with any scope; `own` is what the
/// destination holds, where that is known.
#[must_use]
pub fn found(export: &Export, own: Option<&Export>) -> Vec<(&'static str, bool)> {
    let Ok(all) = Scope::of(&Value::Null) else { return Vec::new() };
    let mut facts: Vec<_> =
        DECIDED.iter().map(|(fact, ..)| (*fact, holds(fact, export, &all))).collect();
    if let Some(own) = own {
        facts.push(("files-differ", !differing(export, own, ("files", &all)).is_empty()));
    }
    facts
}

/// What a run was told to leave out, and the export has all the same: what stands in its way, and what a
/// person is only told of.
#[must_use]
pub fn left_out<'a>(
    export: &Export,
    scope: &Scope,
    said: impl Fn(&str) -> &'a str,
) -> (Vec<Finding>, Vec<&'static str>) {
    let (mut wrong, mut told) = (Vec::new(), Vec::new());
    for (fact, parameter, is_needed) in DECIDED {
        if said(parameter) != "false" || !holds(fact, export, scope) {
            continue;
        }
        if !is_needed {
            told.push(fact);
            continue;
        }
        let message = format!(
            "the fact {fact} is false, and what moves from {} has it: run the plan with --fact \
             {fact}=true, or make it again",
            export.site
        );
        wrong.push(Finding { code: "fact-wrong", message });
    }
    (wrong, told)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::samples::{east, scope, west};

    #[test]
    fn ror_02_an_export_decides_what_a_plan_leaves_out() {
        let of = |export: &Export, own: Option<&Export>, fact: &str| {
            found(export, own).into_iter().find(|(name, _)| *name == fact).map(|(_, is)| is)
        };
        let whole = east();
        for fact in ["physical", "vm-guest"] {
            assert_eq!(of(&whole, None, fact), Some(true), "{fact}");
        }
        // Only whoever knows the destination can say whether its files differ.
        assert_eq!(of(&whole, None, "files-differ"), None);
        assert_eq!(of(&whole, Some(&whole), "files-differ"), Some(false));
        let mut other = west();
        let text = json!({ "text": "level=9" });
        other.items.entry("files".to_owned()).or_default().insert("manager.conf".to_owned(), text);
        assert_eq!(of(&other, Some(&whole), "files-differ"), Some(true));
        let mut bare = whole.clone();
        let servers = bare.items.get_mut("lservers").unwrap();
        servers.retain(|_, server| text_of(server) == "physical");
        for kind in ["network-devices", "directory", "usage"] {
            bare.items.remove(kind);
        }
        for fact in ["vm-guest", "firewalls", "sso", "charging"] {
            assert_eq!(of(&bare, None, fact), Some(false), "{fact}");
        }
        assert_eq!(of(&bare, None, "physical"), Some(true));
    }

    fn text_of(item: &Value) -> &str {
        text(item, "type")
    }

    #[test]
    fn ror_02_what_was_left_out_and_is_there_stands_in_the_way_where_the_batch_needs_it() {
        let mut export = east();
        let person = json!({ "groups": [] });
        export
            .items
            .entry("directory".to_owned())
            .or_default()
            .insert("uid=ann".to_owned(), person);
        let all = scope(json!({}));
        let (wrong, told) = left_out(&export, &all, |_| "true");
        assert_eq!((wrong, told), (vec![], vec![]));
        // A plan of before names none of them.
        assert_eq!(left_out(&export, &all, |_| ""), (vec![], vec![]));
        let (wrong, told) = left_out(&export, &all, |_| "false");
        assert_eq!(wrong.iter().map(|of| of.code).collect::<Vec<_>>(), ["fact-wrong"; 2]);
        assert!(wrong[0].message.contains("--fact physical=true"), "{wrong:?}");
        assert!(told.contains(&"sso"), "{told:?}");
        // Of what does not move nothing is needed.
        let red = scope(json!({ "level": "tenant", "tenants": "red" }));
        let (wrong, _) =
            left_out(&export, &red, |fact| if fact == "physical" { "false" } else { "" });
        assert_eq!(wrong, []);
    }
}
