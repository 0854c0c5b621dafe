//! Plans: what is done for a recovery, step by step, proven before anything is begun.
//!
//! ```text
//!   TOML or JSON ──▶ RawPlan ──▶ Plan      with sites, parameters and facts of a run: Setting
//! ```
//!
//! Invariant: the steps of a [`Plan`] form no circle, each refers only to steps that are over before
//! it begins, and every name in it stands for something. Whether an action exists is asked when a run
//! begins, because providers come and go.

mod check;
mod condition;
mod raw;
mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use condition::{Condition, ConditionError, Fact, Facts};
pub use raw::{RawParameter, RawPlan, RawSites, RawStep};
pub use reference::{Reference, is_id};

use crate::registry::Registry;

/// What a plan is for. It names the metrics of its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The groups are served at the other site from now on; nothing is lost.
    Migrate,
    /// They are served there without the source.
    Failover,
    /// The way back after a failover.
    Failback,
    /// They are mirrored again.
    Reprotect,
    /// It is tried, and cleaned up.
    Drill,
    /// A whole site or tenant moves, with more than its storage.
    Switchover,
    /// Anything else.
    Other,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Migrate,
        Self::Failover,
        Self::Failback,
        Self::Reprotect,
        Self::Drill,
        Self::Switchover,
        Self::Other,
    ];

    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Migrate => "migrate",
            Self::Failover => "failover",
            Self::Failback => "failback",
            Self::Reprotect => "reprotect",
            Self::Drill => "drill",
            Self::Switchover => "switchover",
            Self::Other => "other",
        }
    }
}

/// The part that a site plays in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteRole {
    /// Where the groups are served when it begins.
    Source,
    /// Where they are to be served.
    Destination,
}

/// Which site plays which part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites {
    /// The source.
    pub source: String,
    /// The destination.
    pub destination: String,
}

impl Sites {
    /// The site of a role.
    #[must_use]
    pub fn of(&self, role: SiteRole) -> &str {
        match role {
            SiteRole::Source => &self.source,
            SiteRole::Destination => &self.destination,
        }
    }

    /// The other way round.
    #[must_use]
    pub fn swapped(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// What becomes of a run when a step failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It waits for an operator.
    Stop,
    /// It takes back what was done, as far as the point of no return allows.
    RollBack,
    /// It goes on as if the step were done.
    CarryOn,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub id: String,
    /// What it does; empty: what the action says.
    pub title: String,
    /// Where; `None`: where the run runs.
    pub site: Option<SiteRole>,
    /// When; `None`: always.
    pub when: Option<Condition>,
    /// `provider/action`.
    pub action: String,
    /// Its parameters, with references.
    pub params: Value,
    /// The steps that must be over before it begins, by their place.
    pub after: BTreeSet<usize>,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// Before the second attempt.
    pub backoff: Duration,
    /// What an operator is asked before it begins.
    pub approval: Option<String>,
    /// What becomes of the run when it failed for good.
    pub on_failure: OnFailure,
    /// Once it has begun, nothing up to it is taken back.
    pub point_of_no_return: bool,
    /// Whether it is taken back.
    pub reversible: bool,
}

/// A plan that was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// What it is for, in a sentence.
    pub title: String,
    /// What it is for.
    pub kind: Kind,
    /// Its sites, if nobody says otherwise.
    pub sites: Sites,
    /// The groups that it touches, with references.
    pub groups: Vec<String>,
    /// How long a run should take at most.
    pub rto_target: Option<Duration>,
    /// Its parameters.
    pub parameters: BTreeMap<String, RawParameter>,
    /// Its facts, with the values that hold if nobody says otherwise.
    pub facts: Facts,
    /// Its steps.
    pub steps: Vec<Step>,
    /// As it was written.
    pub raw: RawPlan,
}

/// One thing that is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
    /// How to mend it.
    pub fix: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.what, self.fix)
    }
}

/// Everything that is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// The file, or what else it came from.
    pub file: String,
    /// The faults, at least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> =
            self.faults.iter().map(|fault| format!("{}: {fault}", self.file)).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for PlanError {}

/// What a run is told beside its plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its sites.
    pub sites: Sites,
    /// Its parameters, all of them.
    pub parameters: BTreeMap<String, String>,
    /// Its facts, all of them.
    pub facts: Facts,
}

impl Plan {
    /// Reads a plan from TOML.
    ///
    /// # Errors
    /// Everything that is wrong with it; `file` is named.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, PlanError> {
        let raw = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            unreadable(file, format!("line {line}"), error.message())
        })?;
        Self::prove(file, raw)
    }

    /// Reads a plan from JSON.
    ///
    /// # Errors
    /// As [`Plan::from_toml`].
    pub fn from_json(file: &str, value: Value) -> Result<Self, PlanError> {
        let raw = serde_json::from_value(value)
            .map_err(|error| unreadable(file, "plan".to_owned(), &error.to_string()))?;
        Self::prove(file, raw)
    }

    /// Proves a plan.
    ///
    /// # Errors
    /// As [`Plan::from_toml`].
    pub fn prove(file: &str, raw: RawPlan) -> Result<Self, PlanError> {
        check::prove(raw).map_err(|faults| PlanError { file: file.to_owned(), faults })
    }

    /// The place of a step.
    #[must_use]
    pub fn place(&self, id: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.id == id)
    }

    /// Steps whose actions nobody has now.
    #[must_use]
    pub fn unknown_actions(&self, registry: &Registry) -> Vec<Fault> {
        let unknown = self.steps.iter().enumerate().filter(|(_, s)| !registry.has(&s.action));
        let fault = |(place, step): (usize, &Step)| Fault {
            key: format!("{}.action", key_of(place, &step.id)),
            what: format!("nobody has the action {:?}", step.action),
            fix: format!("use one of: {}", registry.names().join(", ")),
        };
        unknown.map(fault).collect()
    }

    /// Completes what a run is told by what the plan says.
    ///
    /// # Errors
    /// Names that the plan does not have, values of another kind, and parameters that nobody gave.
    pub fn setting(
        &self,
        swap: bool,
        parameters: &BTreeMap<String, String>,
        facts: &BTreeMap<String, String>,
    ) -> Result<Setting, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |key: String, what: String, fix: &str| {
            faults.push(Fault { key, what, fix: fix.to_owned() });
        };
        let mut all = BTreeMap::new();
        for name in parameters.keys().filter(|name| !self.parameters.contains_key(*name)) {
            let known: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
            let what = format!("the plan has the parameters: {}", known.join(", "));
            fault(format!("parameters.{name}"), what, "leave it out, or correct its name");
        }
        for (name, declared) in &self.parameters {
            match parameters.get(name).or(declared.default.as_ref()) {
                Some(value) => drop(all.insert(name.clone(), value.clone())),
                None => fault(
                    format!("parameters.{name}"),
                    format!("it has no value ({})", declared.meaning),
                    &format!("give it: --set {name}=VALUE"),
                ),
            }
        }
        let mut told = self.facts.clone();
        for (name, text) in facts {
            let key = format!("facts.{name}");
            match told.get(name).map(|default| default.read_like(text)) {
                Some(Ok(value)) => drop(told.insert(name.clone(), value)),
                Some(Err(what)) => fault(key, what, "correct the value"),
                None => fault(key, "the plan has no such fact".to_owned(), "correct its name"),
            }
        }
        if faults.is_empty() {
            let sites = self.sites.clone();
            let sites = if swap { sites.swapped() } else { sites };
            Ok(Setting { sites, parameters: all, facts: told })
        } else {
            Err(faults)
        }
    }
}

impl Setting {
    /// What a reference stands for before any step said anything; `None` for an output.
    #[must_use]
    pub fn text_of(&self, reference: &Reference, run: &str) -> Option<String> {
        match reference {
            Reference::Parameter(name) => self.parameters.get(name).cloned(),
            Reference::Source => Some(self.sites.source.clone()),
            Reference::Destination => Some(self.sites.destination.clone()),
            Reference::Run => Some(run.to_owned()),
            Reference::Fact(name) => self.facts.get(name).map(Fact::to_string),
            Reference::Output { .. } => None,
        }
    }

    /// The groups of a plan, with all references replaced.
    #[must_use]
    pub fn groups(&self, plan: &Plan) -> BTreeSet<String> {
        let of = |reference: &Reference| {
            self.text_of(reference, "").ok_or_else(|| "it is no output of a step".to_owned())
        };
        // The plan was proven, so each of its references stands for something.
        plan.groups.iter().filter_map(|group| reference::resolve_text(group, &of).ok()).collect()
    }

    /// The parameters of a step, with references to outputs left as they are, and whether there were
    /// any.
    #[must_use]
    pub fn params_so_far(&self, step: &Step, run: &str) -> (Value, bool) {
        let open = std::cell::Cell::new(false);
        let of = |reference: &Reference| {
            Ok(self.text_of(reference, run).unwrap_or_else(|| {
                open.set(true);
                match reference {
                    Reference::Output { step, name } => format!("${{{step}.{name}}}"),
                    _ => String::new(),
                }
            }))
        };
        let params = reference::resolve(&step.params, &of).unwrap_or_else(|_e| step.params.clone());
        (params, open.get())
    }
}

/// The value with all references in its texts replaced.
///
/// # Errors
/// What `of` says of one that stands for nothing.
pub fn resolve(
    value: &Value,
    of: &dyn Fn(&Reference) -> Result<String, String>,
) -> Result<Value, String> {
    reference::resolve(value, of)
}

fn key_of(place: usize, id: &str) -> String {
    if id.is_empty() {
        format!("steps[{}]", place + 1)
    } else {
        format!("steps[{}] ({id})", place + 1)
    }
}

fn unreadable(file: &str, key: String, what: &str) -> PlanError {
    let fix = "the keys of a plan stand in gateway/docs/PLANS.md".to_owned();
    PlanError { file: file.to_owned(), faults: vec![Fault { key, what: what.to_owned(), fix }] }
}

#[cfg(test)]
mod tests;
