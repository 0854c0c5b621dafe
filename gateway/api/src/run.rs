//! Plans, their runs, and what a person can say to a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A plan, as it lies at the gateway.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// What it is for, in a sentence.
    pub title: String,
    /// `migrate`, `failover`, `failback`, `reprotect`, `drill`, `switchover`, `other`; empty when the plan cannot
    /// be read.
    pub kind: String,
    /// The site of the role source.
    pub source: String,
    /// The site of the role destination.
    pub destination: String,
    /// The file that it lies in.
    pub file: String,
    /// Whether a call saved it, so that a call can delete it.
    pub saved: bool,
    /// What a run of it can be told; those without a default must be told.
    pub parameters: Vec<PlanParameter>,
    /// What is taken for a fact if nobody says otherwise.
    pub facts: BTreeMap<String, String>,
    /// Its steps.
    pub steps: Vec<PlanStep>,
    /// What the plugins that it names have to say of it, when it is proven or saved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// What is wrong with it; absent when it can be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A parameter of a plan.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PlanParameter {
    /// Its name.
    pub name: String,
    /// What it means.
    pub meaning: String,
    /// Its value if nobody says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// A step of a plan.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PlanStep {
    /// Its name.
    pub id: String,
    /// What it does.
    pub title: String,
    /// The role of the site where it is done; empty: where the run runs.
    pub site: String,
    /// `provider/action`.
    pub action: String,
    /// When it is done; empty: always.
    pub when: String,
    /// The steps that must be over before.
    pub after: Vec<String>,
    /// Whether nothing up to it is taken back once it has begun.
    pub point_of_no_return: bool,
}

/// Plans, by name.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PlanList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They.
    pub items: Vec<Plan>,
}

/// A plan as it is written: in TOML, or as a JSON document with the same keys.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct PlanText {
    /// Its file, for messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// It, in TOML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toml: Option<String>,
    /// It, as a document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<serde_json::Value>,
}

/// A plan that a plugin is to write.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PlanMake {
    /// The plugin.
    pub plugin: String,
    /// One of the kinds that it plans.
    pub kind: String,
    /// The groups that the plan is about.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What else the plugin is to know, by name.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A plan that a plugin wrote.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PlanMade {
    /// As it was proven.
    pub plan: Plan,
    /// The document, to be saved or changed.
    pub document: serde_json::Value,
}

/// How a plan is to be run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct RunBegin {
    /// Parameters, by name.
    pub parameters: BTreeMap<String, String>,
    /// Facts, by name.
    pub facts: BTreeMap<String, String>,
    /// Whether source and destination change places.
    pub swap: bool,
}

/// A run that was only looked at.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct DryRun {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// The plan.
    pub plan: String,
    /// The site of the role source.
    pub source: String,
    /// The site of the role destination.
    pub destination: String,
    /// Whether every step is known to its provider.
    pub can_run: bool,
    /// Its steps.
    pub steps: Vec<DryRunStep>,
}

/// A step that was only looked at.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct DryRunStep {
    /// Its name.
    pub id: String,
    /// What it is, in a few words.
    pub title: String,
    /// Where it would be done.
    pub site: String,
    /// What it would do.
    pub will_do: String,
    /// Whether it can be taken back.
    pub reversible: bool,
    /// `ready`, `done` (it is so already), `blocked` (as things stand now), `later` (an earlier step
    /// decides), `left_out`, `unknown` (its provider cannot say).
    pub state: String,
    /// Why, in words.
    pub detail: String,
}

/// A run of a plan.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Run {
    /// Its identity.
    pub id: Uuid,
    /// Its plan.
    pub plan: String,
    /// What the plan is for.
    pub kind: String,
    /// `running`, `waiting` (for a person), `stopped` (a step failed), `turning_back`, and in the end
    /// `completed`, `rolled_back`, `aborted` or `refused`.
    pub state: String,
    /// Whether this gateway executes it now.
    pub here: bool,
    /// Why it does not go on, where it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The site of the role source.
    pub source: String,
    /// The site of the role destination.
    pub destination: String,
    /// The groups that no other run may touch before this one ends.
    pub groups: Vec<String>,
    /// Who began it.
    pub actor: String,
    /// The site that executes it.
    pub runner: String,
    /// How often it was begun or taken over: the gateway of the highest term goes on.
    pub term: u64,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How it ended, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Why it turned back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turned_back: Option<String>,
    /// Whether the point of no return was begun.
    pub past_no_return: bool,
    /// Its steps, in the order of the plan.
    pub steps: Vec<RunStep>,
    /// What people are asked.
    pub waiting: Vec<RunQuestion>,
    /// What steps made that is still there.
    pub left: Vec<RunLeft>,
    /// Sites that have no copy of the newest records.
    pub untold: Vec<RunUntold>,
    /// What can be done with it here now.
    pub allowed_actions: Vec<String>,
}

/// A step of a run.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RunStep {
    /// Its name.
    pub id: String,
    /// What it does.
    pub title: String,
    /// Where it is done.
    pub site: String,
    /// `provider/action`.
    pub action: String,
    /// `waiting`, `asking`, `running`, `retrying`, `done`, `skipped`, `failed`, and on the way back
    /// `undoing`, `undone`, `kept`, `undo_failed`.
    pub state: String,
    /// What came of it, how far it is, or why.
    pub detail: String,
    /// Attempts that failed.
    pub failures: u32,
    /// When it began, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// How long it took, in milliseconds; absent while it is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// What it said for later steps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
}

/// What a person is asked.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RunQuestion {
    /// By which step.
    pub step: String,
    /// What.
    pub prompt: String,
    /// What can be answered.
    pub choices: Vec<String>,
}

/// What a step made that is still there.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RunLeft {
    /// The step.
    pub step: String,
    /// What kind of thing.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A site that has no copy of the newest records.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RunUntold {
    /// Which.
    pub site: String,
    /// Why.
    pub why: String,
}

/// Runs, newest first.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct RunList {
    /// When this was true, RFC 3339.
    pub as_of: String,
    /// They.
    pub items: Vec<Run>,
    /// Journals that cannot be read, and why.
    pub damaged: BTreeMap<String, String>,
}

/// An answer to what a run asks.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RunAnswer {
    /// One of the choices.
    pub answer: String,
    /// The step that asks; absent when only one does.
    #[serde(default)]
    pub step: Option<String>,
}

/// A word about one step, or about the run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct RunWord {
    /// The step; absent when only one can be meant.
    pub step: Option<String>,
    /// Why.
    pub why: Option<String>,
}

/// How a run is to go on.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct RunResume {
    /// At this gateway, whoever executed it.
    pub here: bool,
    /// Your word that no other gateway goes on with it, if one cannot be asked.
    pub stopped: bool,
}
