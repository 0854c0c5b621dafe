//! A plan as it is written, in TOML or JSON.
//!
//! Invariant: an unknown key is refused; what is left out has the value that stands in `Default`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::condition::Facts;

/// A plan as it is written. It is journaled whole when it is run, so that a run goes on by what it
/// began with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPlan {
    /// Its name.
    pub name: String,
    /// What it is for, in a sentence.
    pub title: String,
    /// `migrate`, `failover`, `failback`, `reprotect`, `drill`, `switchover` or `other`.
    pub kind: String,
    /// Which site has which role; swapped, the same plan goes the other way.
    pub sites: RawSites,
    /// The groups that it touches: while it runs, no other run touches them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// How long a run should take at most, like `10m`; empty: nobody said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rto_target: String,
    /// What a run is told, as `${name}`; one without a default must be given.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, RawParameter>,
    /// What conditions are about, with the values that hold if nobody says otherwise.
    #[serde(skip_serializing_if = "Facts::is_empty")]
    pub facts: Facts,
    /// The steps.
    pub steps: Vec<RawStep>,
}

/// `[sites]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSites {
    /// Where the groups are served when a run begins.
    pub source: String,
    /// Where they are to be served.
    pub destination: String,
}

/// `[parameters.NAME]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawParameter {
    /// Its value if nobody says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What it means.
    pub meaning: String,
}

/// `[[steps]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawStep {
    /// Its name, for references and for people.
    pub id: String,
    /// What it does; empty: what the action says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// `source` or `destination`; empty: where the run runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// The condition under which it is done; empty: always.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub when: String,
    /// `provider/action`.
    pub action: String,
    /// What the action is told.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// The steps that must be over before; left out: those before it. `[]`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<String>>,
    /// Neighbours with the same word here are done at once.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parallel: String,
    /// How long an attempt may take, people's answers not counted.
    pub timeout: String,
    /// Attempts after the first.
    pub retries: u32,
    /// Before the second attempt; before each later one twice as long.
    pub backoff: String,
    /// What an operator is asked before it begins; empty: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub approval: String,
    /// `stop`, `roll-back` or `carry-on`.
    pub on_failure: String,
    /// Once it has begun, nothing up to it is taken back any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub point_of_no_return: bool,
    /// Whether it is taken back on the way back.
    pub reversible: bool,
}

impl Default for RawStep {
    fn default() -> Self {
        Self {
            id: String::new(),
            title: String::new(),
            site: String::new(),
            when: String::new(),
            action: String::new(),
            params: Map::new(),
            after: None,
            parallel: String::new(),
            timeout: "10m".to_owned(),
            retries: 0,
            backoff: "5s".to_owned(),
            approval: String::new(),
            on_failure: "stop".to_owned(),
            point_of_no_return: false,
            reversible: true,
        }
    }
}
