//! What follows from how a run is: records to write, and calls to make.
//!
//! Invariant: a call is asked for only of a step whose intent is written. What is to be written comes
//! before every call, and after it the question is asked anew.

use std::time::Duration;

use serde_json::Value;

use super::{Ending, Event, Run, State};
use crate::actions::{Direction, Report, Retry};
use crate::plan::OnFailure;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// This is to be written.
    Write(Event),
    /// This call is to be made, unless it is under way.
    Call(Call),
    /// After this time another attempt is to be begun, unless somebody waits for that already.
    Pause {
        /// The place of the step.
        place: usize,
        /// How long.
        time: Duration,
        /// What is written then.
        then: Event,
    },
}

/// A call to a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The place of the step.
    pub place: usize,
    /// Which way.
    pub direction: Direction,
    /// Which attempt.
    pub attempt: u32,
    /// What is called.
    pub kind: CallKind,
}

/// What is called.
#[derive(Clone, Debug, PartialEq)]
pub enum CallKind {
    /// It is checked, and run unless it is done.
    Begin,
    /// It is asked how far it is, or told the answer.
    GoOn {
        /// What the provider knows it by.
        token: Value,
        /// What a person answered.
        answer: Option<String>,
    },
    /// It is taken back.
    Undo(Report),
}

impl Run {
    /// What is to be done now. While nothing changes, it is the same again.
    #[must_use]
    pub fn next(&self) -> Vec<Effect> {
        if self.ended.is_some() {
            return Vec::new();
        }
        match self.direction {
            Direction::Forward => self.next_forward(),
            Direction::Back => self.next_back(),
        }
    }

    fn next_forward(&self) -> Vec<Effect> {
        let mut effects = Vec::new();
        let halted = self.halting().is_some();
        for place in 0..self.steps.len() {
            effects.extend(self.next_of(place, halted));
        }
        if (0..self.steps.len()).all(|place| self.is_over(place)) {
            effects.push(Effect::Write(self.completed()));
        } else if effects.is_empty()
            && !self.is_asking()
            && let Some(place) = self.halting()
            && self.plan.steps[place].on_failure == OnFailure::RollBack
            && self.floor().is_none()
        {
            // Its neighbours came to their ends first.
            effects.push(Effect::Write(Event::TurnedBack { step: self.id_of(place) }));
        }
        effects
    }

    fn id_of(&self, place: usize) -> String {
        self.plan.steps[place].id.clone()
    }

    /// The first step that failed for good and is not carried on without.
    pub(super) fn halting(&self) -> Option<usize> {
        (0..self.steps.len()).find(|place| {
            matches!(self.steps[*place].state, State::Failed { .. }) && !self.is_over(*place)
        })
    }

    fn is_asking(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.state, State::Asking { .. } | State::Approving))
    }

    fn next_of(&self, place: usize, halted: bool) -> Option<Effect> {
        let (plan, step) = (&self.plan.steps[place], &self.steps[place]);
        match &step.state {
            State::Waiting | State::Approved if halted && step.begun.is_none() => None,
            State::Waiting => {
                if !plan.after.iter().all(|before| self.is_over(*before)) {
                    return None;
                }
                let facts = &self.setting().facts;
                if let Some(when) = plan.when.as_ref().filter(|when| !when.holds(facts)) {
                    let why = when.why_not(facts);
                    let step = self.id_of(place);
                    return Some(Effect::Write(Event::Skipped { step, why, actor: None }));
                }
                if plan.approval.is_some() {
                    let step = self.id_of(place);
                    return Some(Effect::Write(Event::ApprovalAsked { step }));
                }
                Some(Effect::Write(self.intent(place, 1)))
            }
            State::Approved => Some(Effect::Write(self.intent(place, 1))),
            _ => self.next_of_begun(place),
        }
    }

    fn intent(&self, place: usize, attempt: u32) -> Event {
        Event::Intent { step: self.id_of(place), attempt }
    }

    /// What follows of a step that was begun, or of taking it back.
    fn next_of_begun(&self, place: usize) -> Option<Effect> {
        let step = &self.steps[place];
        match &step.state {
            State::Running { attempt, token, answer } => {
                let kind = match (token, self.direction) {
                    (Some(token), _) => {
                        CallKind::GoOn { token: token.clone(), answer: answer.clone() }
                    }
                    (None, Direction::Forward) => CallKind::Begin,
                    (None, Direction::Back) => {
                        CallKind::Undo(step.report.clone().unwrap_or_else(|| self.noted(place)))
                    }
                };
                let (direction, attempt) = (self.direction, *attempt);
                Some(Effect::Call(Call { place, direction, attempt, kind }))
            }
            State::Pausing { attempt, error } => {
                let doubled = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
                let pause = self.plan.steps[place].backoff.saturating_mul(doubled);
                let time = match error.retry {
                    Retry::After(time) => pause.max(time),
                    Retry::Now | Retry::Never => pause,
                };
                let time = time.min(PAUSE_MAX);
                Some(Effect::Pause { place, time, then: self.intent(place, attempt + 1) })
            }
            _ => None,
        }
    }

    fn completed(&self) -> Event {
        let failed = self.steps.iter().filter(|s| matches!(s.state, State::Failed { .. })).count();
        let skipped = self.steps.iter().filter(|s| matches!(s.state, State::Skipped(_))).count();
        let done = self.steps.len() - failed - skipped;
        let summary = format!("{done} steps done, {skipped} left out, {failed} failed");
        Event::Ended { result: Ending::Completed, summary }
    }

    /// One step after the other, the last that was begun first.
    fn next_back(&self) -> Vec<Effect> {
        let to_undo = (0..self.steps.len()).filter(|place| self.is_to_undo(*place));
        let Some(place) = to_undo.max_by_key(|place| self.steps[*place].begun) else {
            return vec![Effect::Write(self.turned_back())];
        };
        let step = &self.steps[place];
        let begun_back = step.direction == Direction::Back;
        let effect = match &step.state {
            State::Approved if begun_back => Some(Effect::Write(self.intent(place, 1))),
            _ if begun_back => self.next_of_begun(place),
            _ => Some(Effect::Write(self.intent(place, 1))),
        };
        effect.into_iter().collect()
    }

    fn turned_back(&self) -> Event {
        let stays = |place: &usize| {
            let step = &self.steps[*place];
            let undone = match step.state {
                State::Undone(_) => true,
                // A provider that left it out had nothing to do; a person cannot know.
                State::Skipped(_) => !step.in_doubt,
                _ => false,
            };
            step.touched && !undone
        };
        let stays: Vec<String> =
            (0..self.steps.len()).filter(stays).map(|place| self.id_of(place)).collect();
        if stays.is_empty() {
            let summary = "everything that was done was taken back".to_owned();
            return Event::Ended { result: Ending::RolledBack, summary };
        }
        let summary = format!("what these did stays: {}", stays.join(", "));
        Event::Ended { result: Ending::Aborted, summary }
    }
}

/// However often it doubles, a pause between attempts ends within an hour.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
