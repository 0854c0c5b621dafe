//! A step in a run: how it is, and since when.

use super::{REJECT, Spent, State};
use crate::actions::{ActionError, Direction, Report};

/// A step in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How it is.
    pub state: State,
    /// Whether `state` is that of taking it back.
    pub direction: Direction,
    /// What it did.
    pub report: Option<Report>,
    /// The number of the record with its first intent.
    pub begun: Option<u64>,
    /// When its first attempt began.
    pub begun_ms: Option<u64>,
    /// When it came to what it is now.
    pub since_ms: u64,
    /// When it was over.
    pub ended_ms: Option<u64>,
    /// Attempts that failed.
    pub failures: u32,
    /// What it did was so before it did anything.
    pub found: bool,
    /// It did something, or may have: only then there is anything to take back.
    pub touched: bool,
    /// A person left it out after it was begun: what it did by then is not known.
    pub in_doubt: bool,
    /// What was written of it on the way that the run goes.
    pub spent: Spent,
}

impl Progress {
    pub(super) fn attempt(&self) -> u32 {
        match &self.state {
            State::Running { attempt, .. }
            | State::Asking { attempt, .. }
            | State::Pausing { attempt, .. }
            | State::Failed { attempt, .. } => *attempt,
            _ => 0,
        }
    }

    pub(super) fn answered(&self, answer: &str) -> State {
        match &self.state {
            State::Asking { attempt, token, .. } => State::Running {
                attempt: *attempt,
                token: Some(token.clone()),
                answer: Some(answer.to_owned()),
            },
            State::Approving if answer == REJECT => State::Failed {
                attempt: 0,
                error: ActionError::never("rejected", "a person did not agree"),
            },
            State::Approving => State::Approved,
            other => other.clone(),
        }
    }
}
