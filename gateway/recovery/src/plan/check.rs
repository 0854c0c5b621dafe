//! From a plan as it is written to one that is proven.
//!
//! Invariant: everything that is wrong is found in one go, each with its key and a way to mend it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::condition::{Condition, Facts};
use super::raw::{RawPlan, RawStep};
use super::reference::{self, RESERVED, Reference, is_id};
use super::{Fault, Kind, OnFailure, Plan, SiteRole, Sites, Step, key_of};
use crate::limits::{PARAMS_BYTES_MAX, PLAN_BYTES_MAX, RETRIES_MAX, STEPS_MAX};
use crate::registry::split_action;

/// A pause between attempts and a time limit end within a week.
const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, key: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Fault { key: key.into(), what: what.into(), fix: fix.into() });
    }
}

pub(super) fn prove(raw: RawPlan) -> Result<Plan, Vec<Fault>> {
    let mut faults = Faults::default();
    let kind = head(&raw, &mut faults);
    let rto_target = match raw.rto_target.as_str() {
        "" => None,
        text => duration(text, "rto_target", &mut faults),
    };
    for (table, names) in [
        ("parameters", raw.parameters.keys().collect::<Vec<_>>()),
        ("facts", raw.facts.keys().collect()),
    ] {
        for name in names.into_iter().filter(|name| !is_id(name)) {
            faults.add(format!("{table}.{name}"), "it is no name", "use letters, digits, - and _");
        }
    }
    let places = places(&raw, &mut faults);
    let after = order(&raw, &places, &mut faults);
    let before = all_before(&after);
    let mut steps = Vec::new();
    for (place, step) in raw.steps.iter().enumerate() {
        let scope = Scope { raw: &raw, places: &places, before: &before[place] };
        steps.push(prove_step((place, step), after[place].clone(), &scope, &mut faults));
    }
    circles(&raw, &before, &mut faults);
    for (index, group) in raw.groups.iter().enumerate() {
        let scope = Scope { raw: &raw, places: &places, before: &BTreeSet::new() };
        scope.check(&Value::String(group.clone()), &format!("groups[{}]", index + 1), &mut faults);
    }
    match kind {
        Some(kind) if faults.0.is_empty() => Ok(Plan {
            name: raw.name.clone(),
            title: raw.title.clone(),
            kind,
            sites: Sites {
                source: raw.sites.source.clone(),
                destination: raw.sites.destination.clone(),
            },
            groups: raw.groups.clone(),
            rto_target,
            parameters: raw.parameters.clone(),
            facts: raw.facts.clone(),
            steps: steps.into_iter().flatten().collect(),
            raw,
        }),
        _ => Err(faults.0),
    }
}

fn head(raw: &RawPlan, faults: &mut Faults) -> Option<Kind> {
    if !is_id(&raw.name) {
        let what = format!("{:?} is no name", raw.name);
        faults.add("name", what, "use a letter and then letters, digits, - and _, at most 64");
    }
    let kind = Kind::ALL.into_iter().find(|kind| kind.word() == raw.kind);
    if kind.is_none() {
        let known = Kind::ALL.map(Kind::word).join(", ");
        faults.add("kind", format!("{:?} is no kind of plan", raw.kind), format!("use: {known}"));
    }
    for (key, site) in [("source", &raw.sites.source), ("destination", &raw.sites.destination)] {
        if site.is_empty() {
            faults.add(format!("sites.{key}"), "it names no site", "name one, as its gateway does");
        }
    }
    if !raw.sites.source.is_empty() && raw.sites.source == raw.sites.destination {
        faults.add("sites", "source and destination are one site", "name two");
    }
    if raw.steps.is_empty() || raw.steps.len() > STEPS_MAX {
        let what = format!("there are {}", raw.steps.len());
        faults.add("steps", what, format!("write 1 to {STEPS_MAX}"));
    }
    let bytes = serde_json::to_vec(raw).map_or(usize::MAX, |text| text.len());
    if bytes > PLAN_BYTES_MAX {
        let what = format!("the plan has {bytes} bytes");
        faults.add("steps", what, format!("keep it below {PLAN_BYTES_MAX}"));
    }
    kind
}

/// The place of each step by its name.
fn places<'a>(raw: &'a RawPlan, faults: &mut Faults) -> BTreeMap<&'a str, usize> {
    let mut places = BTreeMap::new();
    for (place, step) in raw.steps.iter().enumerate() {
        let key = format!("{}.id", key_of(place, &step.id));
        if !is_id(&step.id) {
            faults.add(key, "it is no name", "use a letter and then letters, digits, - and _");
        } else if RESERVED.contains(&step.id.as_str()) {
            faults.add(key, "references use this word", "use another name");
        } else if let Some(first) = places.insert(step.id.as_str(), place) {
            let what = format!("step {} has this name too", first + 1);
            faults.add(key, what, "give each step a name of its own");
        }
    }
    places
}

/// Which steps must be over before each begins: those that it names, or its neighbour, or all of the
/// neighbours that are done at once.
fn order(
    raw: &RawPlan,
    places: &BTreeMap<&str, usize>,
    faults: &mut Faults,
) -> Vec<BTreeSet<usize>> {
    let mut all = Vec::new();
    let (mut previous, mut current) = (BTreeSet::new(), BTreeSet::new());
    let mut word = "";
    for (place, step) in raw.steps.iter().enumerate() {
        if step.parallel.is_empty() || step.parallel != word {
            previous = std::mem::take(&mut current);
            word = &step.parallel;
        }
        current.insert(place);
        let Some(named) = &step.after else {
            all.push(previous.clone());
            continue;
        };
        let mut after = BTreeSet::new();
        for name in named {
            match places.get(name.as_str()) {
                Some(other) => drop(after.insert(*other)),
                None => faults.add(
                    format!("{}.after", key_of(place, &step.id)),
                    format!("there is no step {name:?}"),
                    "name a step by its id",
                ),
            }
        }
        all.push(after);
    }
    all
}

/// Every step that is over before each begins, whatever lies between.
fn all_before(after: &[BTreeSet<usize>]) -> Vec<BTreeSet<usize>> {
    let of = |place: usize| {
        let mut found = BTreeSet::new();
        let mut left: Vec<usize> = after[place].iter().copied().collect();
        while let Some(next) = left.pop() {
            if found.insert(next) {
                left.extend(&after[next]);
            }
        }
        found
    };
    (0..after.len()).map(of).collect()
}

fn circles(raw: &RawPlan, before: &[BTreeSet<usize>], faults: &mut Faults) {
    let of_circle = |place: &usize| before[*place].contains(place);
    let names: Vec<&str> =
        (0..before.len()).filter(of_circle).map(|place| raw.steps[place].id.as_str()).collect();
    if let Some(place) = (0..before.len()).find(of_circle) {
        let what = format!("these wait for each other: {}", names.join(", "));
        let key = format!("{}.after", key_of(place, &raw.steps[place].id));
        faults.add(key, what, "remove one of them from the other's after");
    }
}

/// What a step may refer to.
struct Scope<'a> {
    raw: &'a RawPlan,
    places: &'a BTreeMap<&'a str, usize>,
    before: &'a BTreeSet<usize>,
}

impl Scope<'_> {
    fn check(&self, value: &Value, key: &str, faults: &mut Faults) {
        match reference::references(value) {
            Err(what) => faults.add(key, what, "correct it, or write $${ for the characters"),
            Ok(found) => {
                for reference in found {
                    if let Err((what, fix)) = self.knows(&reference) {
                        faults.add(key, what, fix);
                    }
                }
            }
        }
    }

    fn knows(&self, reference: &Reference) -> Result<(), (String, &'static str)> {
        match reference {
            Reference::Source | Reference::Destination | Reference::Run => Ok(()),
            Reference::Parameter(name) if self.raw.parameters.contains_key(name) => Ok(()),
            Reference::Parameter(name) => {
                Err((format!("${{{name}}} is no parameter"), "declare it as [parameters.NAME]"))
            }
            Reference::Fact(name) if self.raw.facts.contains_key(name) => Ok(()),
            Reference::Fact(name) => {
                Err((format!("${{fact.{name}}} is no fact"), "declare it in [facts]"))
            }
            Reference::Output { step, name } => match self.places.get(step.as_str()) {
                None => Err((
                    format!("${{{step}.{name}}}: there is no step {step:?}"),
                    "name a step by its id",
                )),
                Some(place) if self.before.contains(place) => Ok(()),
                Some(_) => Err((
                    format!("${{{step}.{name}}}: {step} is not over before this begins"),
                    "let this step come after it",
                )),
            },
        }
    }
}

fn prove_step(
    (place, raw): (usize, &RawStep),
    after: BTreeSet<usize>,
    scope: &Scope<'_>,
    faults: &mut Faults,
) -> Option<Step> {
    let key = key_of(place, &raw.id);
    let site = match raw.site.as_str() {
        "" => Some(None),
        "source" => Some(Some(SiteRole::Source)),
        "destination" => Some(Some(SiteRole::Destination)),
        other => {
            let what = format!("{other:?} is no role of a site");
            faults.add(format!("{key}.site"), what, "use source or destination, or leave it out");
            None
        }
    };
    let on_failure = match raw.on_failure.as_str() {
        "stop" => Some(OnFailure::Stop),
        "roll-back" => Some(OnFailure::RollBack),
        "carry-on" => Some(OnFailure::CarryOn),
        other => {
            let what = format!("{other:?} is not known");
            faults.add(format!("{key}.on_failure"), what, "use stop, roll-back or carry-on");
            None
        }
    };
    if split_action(&raw.action).is_none() {
        let what = format!("{:?} is no action", raw.action);
        faults.add(format!("{key}.action"), what, "write provider/action, as core/migrate");
    }
    if raw.retries > RETRIES_MAX {
        let what = format!("{} are more than anybody waits for", raw.retries);
        faults.add(format!("{key}.retries"), what, format!("use at most {RETRIES_MAX}"));
    }
    let params = Value::Object(raw.params.clone());
    if params.to_string().len() > PARAMS_BYTES_MAX {
        let fix = format!("keep it below {PARAMS_BYTES_MAX} bytes");
        faults.add(format!("{key}.params"), "they are too long", fix);
    }
    for (name, value) in &raw.params {
        scope.check(value, &format!("{key}.params.{name}"), faults);
    }
    let when = condition(raw, &scope.raw.facts, &key, faults);
    let timeout = duration(&raw.timeout, &format!("{key}.timeout"), faults);
    let backoff = duration(&raw.backoff, &format!("{key}.backoff"), faults);
    Some(Step {
        id: raw.id.clone(),
        title: raw.title.clone(),
        site: site?,
        when,
        action: raw.action.clone(),
        params,
        after,
        timeout: timeout?,
        retries: raw.retries,
        backoff: backoff?,
        approval: Some(raw.approval.clone()).filter(|text| !text.is_empty()),
        on_failure: on_failure?,
        point_of_no_return: raw.point_of_no_return,
        reversible: raw.reversible,
    })
}

fn condition(raw: &RawStep, facts: &Facts, key: &str, faults: &mut Faults) -> Option<Condition> {
    if raw.when.is_empty() {
        return None;
    }
    match Condition::parse(&raw.when, facts) {
        Ok(condition) => Some(condition),
        Err(error) => {
            let fix = "write facts with and, or, not, ==, != and in [..]";
            faults.add(format!("{key}.when"), error.to_string(), fix);
            None
        }
    }
}

/// `500ms`, `10s`, `5m`, `2h`.
fn duration(text: &str, key: &str, faults: &mut Faults) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let found = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    let found = found.map(Duration::from_millis).filter(|d| !d.is_zero() && *d <= DURATION_MAX);
    if found.is_none() {
        let what = format!("{text:?} is no length of time");
        faults.add(key, what, "write it as 500ms, 10s, 5m or 2h, at most a week");
    }
    found
}
