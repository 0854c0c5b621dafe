//! A run for those who look at it.

use super::{APPROVE, Ending, Progress, REJECT, Run, State};
use crate::actions::Direction;

/// How a run is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Steps are done.
    Running,
    /// A person must say something, and nothing else goes on.
    Waiting,
    /// A step failed for good, and a person must say how it goes on.
    Stopped,
    /// Steps are taken back.
    TurningBack,
    /// It is over.
    Ended(Ending),
}

impl Standing {
    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
            Self::TurningBack => "turning_back",
            Self::Ended(ending) => ending.word(),
        }
    }

    /// Whether nothing goes on before a person says something.
    #[must_use]
    pub const fn needs_person(self) -> bool {
        matches!(self, Self::Waiting | Self::Stopped)
    }
}

/// What a person is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// By which step.
    pub step: String,
    /// What.
    pub prompt: String,
    /// What can be answered.
    pub choices: Vec<String>,
}

impl Run {
    /// How it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if let Some((ending, ..)) = &self.ended {
            return Standing::Ended(*ending);
        }
        let moves = |step: &Progress| {
            matches!(step.state, State::Running { .. } | State::Pausing { .. } | State::Approved)
        };
        // What is forward and stands still is of no account on the way back.
        let counts = |step: &&Progress| step.direction == self.direction;
        if self.steps.iter().filter(counts).any(moves) || !self.next().is_empty() {
            return match self.direction {
                Direction::Forward => Standing::Running,
                Direction::Back => Standing::TurningBack,
            };
        }
        if self.waiting().is_empty() { Standing::Stopped } else { Standing::Waiting }
    }

    /// What people are asked.
    #[must_use]
    pub fn waiting(&self) -> Vec<Waiting> {
        let steps = self.plan.steps.iter().zip(&self.steps);
        let asked = steps.filter_map(|(plan, step)| {
            let (prompt, choices) = match &step.state {
                State::Approving => (
                    plan.approval.clone().unwrap_or_default(),
                    vec![APPROVE.to_owned(), REJECT.to_owned()],
                ),
                State::Asking { prompt, choices, .. } => (prompt.clone(), choices.clone()),
                _ => return None,
            };
            Some(Waiting { step: plan.id.clone(), prompt, choices })
        });
        asked.collect()
    }
}

impl Progress {
    /// How it is, in a word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        let back = matches!(self.direction, Direction::Back);
        match &self.state {
            State::Waiting | State::Approved => "waiting",
            State::Approving | State::Asking { .. } => "asking",
            State::Running { .. } if back => "undoing",
            State::Running { .. } => "running",
            State::Pausing { .. } => "retrying",
            State::Failed { .. } if back => "undo_failed",
            State::Failed { .. } => "failed",
            State::Done => "done",
            State::Skipped(_) => "skipped",
            State::Undone(_) => "undone",
            State::Kept(_) => "kept",
        }
    }
}
