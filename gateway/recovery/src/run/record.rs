//! What a journal says of a run, one record for each thing that happened or is about to.
//!
//! Invariant: the records of a run, in their order, say everything about it. These types are what lies
//! on the disk and goes to other sites, as JSON: a field may be added with a default, none may change
//! its meaning.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::actions::{ActionError, Created, Report};
use crate::plan::{RawPlan, Setting};

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 1 for the first; none is left out.
    pub number: u64,
    /// The term of the gateway that ran the run when it was written.
    pub term: u64,
    /// When, in milliseconds since 1970, as that gateway believed. It is only shown.
    pub at_ms: u64,
    /// What happened.
    pub event: Event,
}

/// A gateway, as a journal names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Its identity.
    pub gateway: String,
    /// Its site.
    pub site: String,
}

/// How a run begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The run's identity.
    pub run: String,
    /// The whole plan.
    pub plan: RawPlan,
    /// Sites, parameters and facts.
    pub setting: Setting,
    /// The groups that no other run may touch, by identity, and their names.
    pub groups: Vec<(String, String)>,
    /// Who wanted it.
    pub actor: String,
    /// Where it runs.
    pub runner: Runner,
    /// Other gateways that keep a copy of the journal from its first record on.
    pub keepers: Vec<Runner>,
    /// Those that should and could not be reached when it began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Runner>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "record")]
pub enum Event {
    /// The run begins.
    Begun(Box<Begun>),
    /// Another gateway runs it from now on, with this record's term.
    Taken {
        /// Which.
        runner: Runner,
        /// Who said so.
        actor: String,
    },
    /// Sites that keep a copy of the journal could not be told of the record before this one, and the run
    /// goes on without them until they can be told.
    Parted {
        /// They, by name.
        sites: Vec<String>,
        /// Why, in a sentence.
        why: String,
    },
    /// A person must agree before a step begins.
    ApprovalAsked {
        /// The step.
        step: String,
    },
    /// A step asks something.
    Asked {
        /// The step.
        step: String,
        /// What.
        prompt: String,
        /// What can be answered.
        choices: Vec<String>,
        /// For the provider.
        token: Value,
    },
    /// A person answered.
    Answered {
        /// The step.
        step: String,
        /// What.
        answer: String,
        /// Who.
        actor: String,
    },
    /// An attempt of a step is about to be made, or of taking it back when the run is on its way back.
    Intent {
        /// The step.
        step: String,
        /// 1 for the first.
        attempt: u32,
    },
    /// It goes on by itself, known by this token.
    Pending {
        /// The step.
        step: String,
        /// For the provider.
        token: Value,
    },
    /// A step is done.
    Done {
        /// The step.
        step: String,
        /// What it did.
        report: Report,
        /// It was so before this attempt did anything.
        #[serde(default)]
        found: bool,
        /// And this attempt cannot have done it: its provider was asked to do nothing.
        #[serde(default)]
        untouched: bool,
    },
    /// A step made something, or removed it, and goes on.
    Noted {
        /// The step.
        step: String,
        /// What it made.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        created: Vec<Created>,
        /// What it removed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<Created>,
    },
    /// A step is not done, or not taken back.
    Skipped {
        /// The step.
        step: String,
        /// Why.
        why: String,
        /// Who said so; absent when it was the plan or the provider.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
    },
    /// An attempt failed.
    Failed {
        /// The step.
        step: String,
        /// Which attempt; 0 when none was made.
        attempt: u32,
        /// Why.
        error: ActionError,
        /// Its provider was asked to do nothing.
        #[serde(default)]
        untouched: bool,
    },
    /// A person wants a step to be tried again.
    Retried {
        /// The step.
        step: String,
        /// Who.
        actor: String,
    },
    /// The run turns back, because a step failed whose plan says so.
    TurnedBack {
        /// The step.
        step: String,
    },
    /// The run turns back, because a person says so.
    Aborted {
        /// Who.
        actor: String,
        /// Why.
        why: String,
    },
    /// A step is taken back.
    Undone {
        /// The step.
        step: String,
        /// In a sentence.
        summary: String,
        /// What it had made and could not remove.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<Created>,
    },
    /// The run is over.
    Ended {
        /// How.
        result: Ending,
        /// In a sentence.
        summary: String,
    },
}

impl Event {
    /// The step that it is about.
    #[must_use]
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Begun(_)
            | Self::Taken { .. }
            | Self::Parted { .. }
            | Self::Aborted { .. }
            | Self::Ended { .. } => None,
            Self::ApprovalAsked { step }
            | Self::Asked { step, .. }
            | Self::Answered { step, .. }
            | Self::Intent { step, .. }
            | Self::Pending { step, .. }
            | Self::Done { step, .. }
            | Self::Noted { step, .. }
            | Self::Skipped { step, .. }
            | Self::Failed { step, .. }
            | Self::Retried { step, .. }
            | Self::TurnedBack { step }
            | Self::Undone { step, .. } => Some(step),
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Every step was done or left out.
    Completed,
    /// Everything that was done was taken back.
    RolledBack,
    /// It was given up, and something of it stays.
    Aborted,
    /// It was not begun: another run has one of its groups.
    Refused,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Completed, Self::RolledBack, Self::Aborted, Self::Refused];

    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
        }
    }
}
