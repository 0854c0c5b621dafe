//! Plans as the gateway asks for them: what they are made from, and what the newest export says of them.
//!
//! Invariant: nothing is changed, and an orchestrator or a folder that does not answer is in nobody's way.

use serde_json::{Map, Value, json};

use super::twinspan::plugin::types::{Diagnostic, Group, Severity};
use super::twinspan::plugin::volumes;
use super::{Gateway, json_of, of_contract};
use crate::collect;
use crate::manager::Manager;
use crate::model::{Scope, text};
use crate::outside::{Code, Outside, Trouble};
use crate::plan::{self, Wanted};

/// The group of the folder's volume.
fn folder_group() -> Result<String, Trouble> {
    let volume = collect::volume(&Gateway)?;
    let groups = volumes::groups().map_err(of_contract)?;
    let has = |group: &&Group| group.volumes.iter().any(|of| of.name == volume);
    let none = || Trouble::never(Code::NotFound, format!("there is no volume {volume} here"));
    groups.iter().find(has).map(|group| group.name.clone()).ok_or_else(none)
}

/// The site that a plan goes from, and the one that it goes to, as far as nobody said so.
fn sites_of(groups: &[Group], here: &str) -> (String, String) {
    let Some(group) = groups.first() else { return (String::new(), String::new()) };
    let source = group.primary_site.clone().unwrap_or_default();
    let follows = group.sessions.first().map(|of| of.destination.clone());
    let destination = follows.or_else(|| (source != here).then(|| here.to_owned()));
    (source, destination.unwrap_or_default())
}

pub(super) fn made(kind: String, groups: &[Group], options: &str) -> Result<Value, Trouble> {
    let options = json_of(options);
    let (source, destination) = sites_of(groups, &Gateway.here()?);
    let or = |key: &str, found: String| match text(&options, key) {
        "" => found,
        said => said.to_owned(),
    };
    let folder = or("folder", String::new());
    let (source, destination) = (or("source", source), or("destination", destination));
    let wanted = Wanted {
        name: or("name", format!("lserver-{kind}")),
        kind,
        groups: groups.iter().map(|group| group.name.clone()).collect(),
        folder: if folder.is_empty() { folder_group()? } else { folder },
        found: found(&source, &destination),
        source,
        destination,
        options: options.as_object().cloned().unwrap_or_default(),
        more: Map::new(),
    };
    if wanted.source.is_empty() || wanted.destination.is_empty() {
        let why = "which sites? Say --set source=SITE --set destination=SITE";
        return Err(Trouble::never(Code::Argument, why));
    }
    plan::make(&wanted)
}

/// Facts that the newest export of the source decides. Without one everything is taken for true.
fn found(source: &str, destination: &str) -> Vec<(&'static str, bool)> {
    let Ok((_, export, _)) = collect::newest(&Gateway, source) else { return vec![] };
    // What this site holds says something only where it is the destination.
    let is_there = Gateway.here().is_ok_and(|here| here == destination);
    let own = || Manager::of(&Gateway, "").and_then(|manager| manager.export()).ok();
    let own = is_there.then(own).flatten();
    plan::facts::found(&export, own.as_ref())
}

/// What the newest export says against a plan. It may be another one when the plan is run, so none of it
/// stands in the way.
pub(super) fn looked_at(plan: &Value) -> Vec<Diagnostic> {
    let remark = |code: &str, message: String| Diagnostic {
        severity: Severity::Warning,
        code: code.to_owned(),
        message,
        path: None,
        vendor_code: None,
    };
    let site = |role: &str| plan.pointer(&format!("/sites/{role}")).and_then(Value::as_str);
    let (Some(source), Some(destination)) = (site("source"), site("destination")) else {
        return vec![];
    };
    let export = match collect::newest(&Gateway, source) {
        Ok((_, export, _)) => export,
        Err(trouble) => return vec![remark("no-export", trouble.message)],
    };
    let mut params = json!({});
    for key in ["level", "mode", "type", "tenants", "exclude", "pools"] {
        let default = plan.pointer(&format!("/parameters/{key}/default"));
        params[key] = default.cloned().unwrap_or_else(|| json!(""));
    }
    let Ok(scope) = Scope::of(&params) else { return vec![] };
    let unmapped = crate::rules::mappings(&export, (source, destination), &scope);
    unmapped.into_iter().map(|of| remark(of.code, of.message)).collect()
}
