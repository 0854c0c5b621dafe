//! What a person, or the provider of a step, can say to a run.
//!
//! Invariant: a word that is accepted is one record; what is not accepted says what can be said.

use super::{APPROVE, Event, REJECT, Run, State};
use crate::actions::{Created, Direction};

/// What a person says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// An answer to what a step asks.
    Answer {
        /// The step; absent when only one asks.
        step: Option<String>,
        /// One of the choices.
        answer: String,
    },
    /// A step that failed is to be tried again.
    Retry {
        /// The step; absent when only one failed.
        step: Option<String>,
    },
    /// A step is not to be done; on the way back: what it did stays.
    Skip {
        /// The step; absent when only one waits.
        step: Option<String>,
        /// Why.
        why: String,
    },
    /// The run is to turn back.
    Abort {
        /// Why.
        why: String,
    },
    /// A step's provider made something, or removed it. It is heard whatever the step is in: what was
    /// made is there.
    Note {
        /// The step.
        step: String,
        /// What it made.
        created: Vec<Created>,
        /// What it removed.
        removed: Vec<Created>,
    },
}

/// Why a word is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// The run has ended.
    #[error("the run has ended: {0}")]
    Ended(&'static str),
    /// There is no such step.
    #[error("the run has no step {0:?}")]
    NoSuchStep(String),
    /// No step, or more than one, is meant.
    #[error("{0}")]
    Unclear(String),
    /// The step is not in a state for it.
    #[error("step {step} is {state}: {what}")]
    WrongState {
        /// The step.
        step: String,
        /// How it is.
        state: &'static str,
        /// What would be needed.
        what: &'static str,
    },
    /// That cannot be answered.
    #[error("step {step} does not take {answer:?}, but: {choices}")]
    NoSuchChoice {
        /// The step.
        step: String,
        /// What was answered.
        answer: String,
        /// What can be.
        choices: String,
    },
    /// What can be repeated of the step has no room in the journal.
    #[error(
        "step {step} has used up its share of the run's journal: nothing more of it is noted, and it is \
         not tried again; leave it out (twinspan run skip), or give the run up (twinspan run abort): for \
         both there is room"
    )]
    Full {
        /// The step.
        step: String,
    },
    /// It has turned back already.
    #[error("the run is on its way back already")]
    TurnedBack,
}

impl Run {
    /// The record of a word.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn hear(&self, word: &Word, actor: &str) -> Result<Event, WordError> {
        if let Some((ending, ..)) = &self.ended {
            return Err(WordError::Ended(ending.word()));
        }
        let actor = actor.to_owned();
        match word {
            Word::Answer { step, answer } => self.hear_answer(step.as_deref(), answer, actor),
            Word::Retry { step } => {
                let place = self.meant(step.as_deref(), "failed", Self::is_stuck)?;
                let pauses = matches!(self.steps[place].state, State::Pausing { .. });
                let can = pauses || self.is_stuck(place);
                let step = self.plan.steps[place].id.clone();
                if can && !self.has_room_anew(place) {
                    return Err(WordError::Full { step });
                }
                let event = Event::Retried { step, actor };
                self.if_so(can, place, event, "only one that failed is tried again")
            }
            Word::Skip { step, why } => {
                let place = self.meant(step.as_deref(), "waiting", Self::is_skippable)?;
                let (step, why) = (self.plan.steps[place].id.clone(), why.clone());
                let event = Event::Skipped { step, why, actor: Some(actor) };
                let can = self.is_skippable(place);
                self.if_so(can, place, event, "only one that failed, pauses or asks is left out")
            }
            Word::Abort { .. } if self.direction == Direction::Back => Err(WordError::TurnedBack),
            Word::Abort { why } => Ok(Event::Aborted { actor, why: why.clone() }),
            Word::Note { step, created, removed } => {
                let place = self.plan.place(step);
                let place = place.ok_or_else(|| WordError::NoSuchStep(step.clone()))?;
                if !self.has_room_to_note(place, created) {
                    return Err(WordError::Full { step: step.clone() });
                }
                let (created, removed) = (created.clone(), removed.clone());
                Ok(Event::Noted { step: step.clone(), created, removed })
            }
        }
    }

    /// A step that failed, where nothing goes on without it. What comes after one that is carried on
    /// without may have begun.
    fn is_stuck(&self, place: usize) -> bool {
        let step = &self.steps[place];
        matches!(step.state, State::Failed { .. })
            && step.direction == self.direction
            && (self.direction == Direction::Back || !self.is_over(place))
    }

    fn is_skippable(&self, place: usize) -> bool {
        match self.steps[place].state {
            State::Pausing { .. } | State::Asking { .. } | State::Approving => true,
            _ => self.is_stuck(place),
        }
    }

    fn if_so(
        &self,
        can: bool,
        place: usize,
        event: Event,
        what: &'static str,
    ) -> Result<Event, WordError> {
        if can {
            return Ok(event);
        }
        let step = self.plan.steps[place].id.clone();
        Err(WordError::WrongState { step, state: self.steps[place].word(), what })
    }

    /// The step of this name, or the only one that `is_it`.
    fn meant(
        &self,
        step: Option<&str>,
        what: &str,
        is_it: impl Fn(&Self, usize) -> bool,
    ) -> Result<usize, WordError> {
        if let Some(name) = step {
            return self.plan.place(name).ok_or_else(|| WordError::NoSuchStep(name.to_owned()));
        }
        let found: Vec<usize> = (0..self.steps.len()).filter(|p| is_it(self, *p)).collect();
        match found.as_slice() {
            [only] => Ok(*only),
            [] => Err(WordError::Unclear(format!("no step is {what}"))),
            several => {
                let names = several.iter().map(|place| self.plan.steps[*place].id.as_str());
                let names: Vec<&str> = names.collect();
                let text = format!("several steps are {what}, name one: {}", names.join(", "));
                Err(WordError::Unclear(text))
            }
        }
    }

    fn hear_answer(
        &self,
        step: Option<&str>,
        answer: &str,
        actor: String,
    ) -> Result<Event, WordError> {
        let asks = |run: &Self, place: usize| {
            matches!(run.steps[place].state, State::Asking { .. } | State::Approving)
        };
        let place = self.meant(step, "asking", asks)?;
        let step = self.plan.steps[place].id.clone();
        let approving = [APPROVE.to_owned(), REJECT.to_owned()];
        let choices = match &self.steps[place].state {
            State::Approving => approving.as_slice(),
            State::Asking { choices, .. } => choices,
            _ => {
                let state = self.steps[place].word();
                return Err(WordError::WrongState { step, state, what: "it asks nothing" });
            }
        };
        if choices.iter().any(|choice| choice == answer) {
            return Ok(Event::Answered { step, answer: answer.to_owned(), actor });
        }
        let choices = choices.join(", ");
        Err(WordError::NoSuchChoice { step, answer: answer.to_owned(), choices })
    }
}
