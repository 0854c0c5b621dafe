//! What a provider of actions does for a run: it describes, checks, runs, resumes and undoes.
//!
//! ```text
//!             ┌────────── resume(token) ◀──────────┐
//!   check ─▶ run ─▶ Pending(token) ─ after a while ─┤
//!                ─▶ NeedsOperator(token) ─ answer ──┘
//!                ─▶ Done(report) ─▶ undo(report), perhaps, much later
//!                ─▶ Skipped(why)
//! ```
//!
//! What must stay true for every provider:
//!
//! - **Each call may be repeated.** A gateway may be killed after an action took effect and before
//!   that was noted; then the call comes again, with the same [`Context::idempotency_key`]. It must
//!   find what it did the first time and report it, and not do it twice.
//! - **A call answers soon.** What takes longer than a few seconds answers [`Outcome::Pending`], and
//!   is asked again. A call is dropped at its [`Context::deadline`], or when the run is given up; what
//!   it did by then is found by the next one.
//! - **A token is all that a provider may count on.** Its own memory may be gone, and the next call may
//!   be made at another site.
//! - **[`Context::is_dry_run`]** means that nothing may be changed.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a call comes to, later. Boxed, so that providers can be kept behind `dyn`.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, ActionError>> + Send + 'a>>;

/// A provider of actions. `action` is the part of the name after the slash; `params` are those of the
/// step, with all references replaced by what they stand for.
pub trait Actions: Send + Sync {
    /// The actions that it has, without its own name before them.
    fn names(&self) -> Vec<String>;

    /// What the action would do. It looks at nothing but its parameters, and finds what is wrong with
    /// them: a plan is checked by it.
    ///
    /// In a plan that is only checked, a reference may stand for what no step has said yet; such a
    /// parameter is the text of the reference, as `${snapshot.id}`.
    fn describe<'a>(&'a self, action: &'a str, params: &'a Value) -> Doing<'a, Description>;

    /// How things stand before it runs: whether it can be run, or was done already.
    fn check<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Standing>;

    /// Does it.
    fn run<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Outcome>;

    /// Goes on after [`Outcome::Pending`], or after [`Outcome::NeedsOperator`] with the answer, which
    /// is one of the choices. With [`Direction::Back`] in the context it is an undo that goes on.
    #[expect(
        clippy::too_many_arguments,
        reason = "a token and an answer beside what all calls have"
    )]
    fn resume<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
        token: &'a Value,
        answer: Option<&'a str>,
    ) -> Doing<'a, Outcome>;

    /// Takes back what it did and reported. [`Outcome::Skipped`] says that there was nothing to take
    /// back. What it could not remove of what it had made, it names in `created` of its own report.
    ///
    /// It is called for a step that failed, too, whose effect nobody knows: then the report names only
    /// what was noted as it was made, and what there is to take back is found by the key.
    ///
    /// It is not called for what a check found done before any attempt ran. Where a kill came between
    /// the call and its record, nobody knows who did it, and it is called.
    fn undo<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
        report: &'a Report,
    ) -> Doing<'a, Outcome>;
}

/// What an action would do, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// A few words, for a timeline.
    pub title: String,
    /// What it will do with these parameters, in a sentence.
    pub will_do: String,
    /// Whether [`Actions::undo`] takes it back.
    pub is_reversible: bool,
}

/// How things stand before an action runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It can be run.
    Ready,
    /// What it would do is so already; this is what it would have reported.
    Done(Report),
    /// It cannot be run, and why.
    Blocked(String),
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done.
    Done(Report),
    /// There was nothing to do, and why.
    Skipped(String),
    /// It goes on by itself.
    Pending {
        /// What [`Actions::resume`] is given; at most [`TOKEN_BYTES_MAX`] as JSON.
        ///
        /// [`TOKEN_BYTES_MAX`]: crate::limits::TOKEN_BYTES_MAX
        token: Value,
        /// When to ask again.
        poll_after: Duration,
        /// How far it is, in words.
        progress: String,
    },
    /// A person must say something first.
    NeedsOperator {
        /// What is asked.
        prompt: String,
        /// What can be answered; not empty.
        choices: Vec<String>,
        /// What [`Actions::resume`] is given, with the answer.
        token: Value,
    },
}

/// For whom and how often an action is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The run's identity.
    pub run: String,
    /// The step's name in the plan.
    pub step: String,
    /// The same for every attempt of this step of this run, at whatever site.
    pub idempotency_key: String,
    /// 1 for the first.
    pub attempt: u32,
    /// How long this call may take from now on.
    pub deadline: Duration,
    /// Nothing may be changed.
    pub is_dry_run: bool,
    /// Who asked for it.
    pub actor: String,
    /// Whether it is done or taken back.
    pub direction: Direction,
}

/// Which way a run goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Steps are done.
    #[default]
    Forward,
    /// Steps are taken back.
    Back,
}

/// What an action did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// In a sentence.
    pub summary: String,
    /// What it made that stays until something removes it: a run lists what is left of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub created: Vec<Created>,
    /// What it removed of what an earlier step of the run made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<Created>,
    /// What later steps can refer to, as `${step.name}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
}

impl Report {
    /// One that says this and nothing more.
    #[must_use]
    pub fn of(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }
}

/// Something that an action made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Created {
    /// What it is, in a word: `snapshot`, `server`.
    pub kind: String,
    /// Its identity, for whoever removes it.
    pub id: String,
    /// Its name, for people.
    pub name: String,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{detail}")]
pub struct ActionError {
    /// A code, of the product or of the provider.
    pub code: String,
    /// What went wrong, in a sentence.
    pub detail: String,
    /// What to do about it, if that is known.
    pub next: Option<String>,
    /// Whether trying again can help.
    pub retry: Retry,
}

impl ActionError {
    /// One that trying again does not mend.
    pub fn never(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code: code.into(), detail: detail.into(), next: None, retry: Retry::Never }
    }

    /// One that may be gone at the next attempt, after the step's own pause.
    pub fn now(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { retry: Retry::Now, ..Self::never(code, detail) }
    }
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// It cannot.
    Never,
    /// At once, as far as the provider knows; the step's own pause between attempts holds.
    Now,
    /// Not before this time has passed.
    After(Duration),
}
