//! A run as a state machine over its journal: what is so follows from the records, and what is to be
//! done follows from what is so.
//!
//! ```text
//!   step:  waiting ─▶ (asking) ─▶ running ⇄ asking ─▶ done ───────┐
//!             │                      │ ▲                          │  the run turned back:
//!             └─▶ skipped            ▼ │ pause                    ▼
//!                                   failed ─────────────────▶ undoing ⇄ asking ─▶ undone
//!                                                                 │
//!                                                                 └─▶ undo failed ─▶ (a person)
//!   run:   forward ──────────────────────────────▶ ended: completed
//!             └── abort, or a failed step that says roll-back ──▶ back ─▶ ended: rolled back, aborted
//! ```
//!
//! Invariants, looked for after every record: a step is begun only after all that it comes after are
//! over; nothing that began before the point of no return is taken back once that point was begun;
//! nothing is begun after the end; a step is called only when its intent is in the journal.

mod next;
mod progress;
mod record;
mod room;
mod show;
mod words;

use serde_json::Value;

pub use next::{Call, CallKind, Effect};
pub use progress::Progress;
pub use record::{Begun, Ending, Event, Record, Runner};
pub use room::Spent;
pub use show::{Standing, Waiting};
pub use words::{Word, WordError};

use crate::actions::{ActionError, Created, Direction, Report, Retry};
use crate::plan::{OnFailure, Plan, Reference, Setting};

/// Answers to the question whether a step may begin.
pub const APPROVE: &str = "approve";
/// See [`APPROVE`].
pub const REJECT: &str = "reject";

/// A journal says what cannot be: it is damaged, or of a newer release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {number} of the journal: {why}")]
pub struct Unreadable {
    /// Which record.
    pub number: u64,
    /// What is wrong with it.
    pub why: String,
}

/// How a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// What it comes after is not over.
    Waiting,
    /// A person must agree before it begins.
    Approving,
    /// A person agreed.
    Approved,
    /// An attempt is under way.
    Running {
        /// Which.
        attempt: u32,
        /// What the provider knows it by, once it said so.
        token: Option<Value>,
        /// What a person answered, until the provider was told.
        answer: Option<String>,
    },
    /// The provider asks something.
    Asking {
        /// Which attempt.
        attempt: u32,
        /// What.
        prompt: String,
        /// What can be answered.
        choices: Vec<String>,
        /// What the provider knows it by.
        token: Value,
    },
    /// An attempt failed, and another one follows after a pause.
    Pausing {
        /// The attempt that failed.
        attempt: u32,
        /// Why.
        error: ActionError,
    },
    /// It failed for good.
    Failed {
        /// Attempts that were made.
        attempt: u32,
        /// Why.
        error: ActionError,
    },
    /// It is done.
    Done,
    /// It was left out, and why.
    Skipped(String),
    /// It is taken back.
    Undone(String),
    /// It was to be taken back, and a person said that it stays.
    Kept(String),
}

/// What was made and is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The step that made it.
    pub step: String,
    /// What.
    pub what: Created,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// How it began.
    pub begun: Begun,
    /// Its plan.
    pub plan: Plan,
    /// When it began.
    pub begun_ms: u64,
    /// Who runs it.
    pub runner: Runner,
    /// The number of times that it was begun or taken over: the highest one goes on.
    pub term: u64,
    /// Records so far.
    pub records: u64,
    /// Their bytes, as JSON.
    pub bytes: u64,
    /// Which way it goes.
    pub direction: Direction,
    /// Why it turned back.
    pub turned: Option<String>,
    /// Its steps, in the order of the plan.
    pub steps: Vec<Progress>,
    /// What was made and is still there.
    pub left: Vec<Left>,
    /// How it ended, in a word and in a sentence, and when.
    pub ended: Option<(Ending, String, u64)>,
}

/// Whether a step that goes forward did something by then, or may have.
fn acts(event: &Event) -> bool {
    match event {
        Event::Done { untouched, .. } | Event::Failed { untouched, .. } => !untouched,
        Event::Pending { .. } | Event::Asked { .. } => true,
        _ => false,
    }
}

fn unreadable(number: u64, why: impl Into<String>) -> Unreadable {
    Unreadable { number, why: why.into() }
}

impl Run {
    /// A run from its journal.
    ///
    /// # Errors
    /// A record that cannot be.
    pub fn replay(records: &[Record]) -> Result<Self, Unreadable> {
        let (first, rest) = records.split_first().ok_or_else(|| unreadable(1, "it is missing"))?;
        let mut run = Self::begin(first)?;
        for record in rest {
            run.apply(record)?;
        }
        Ok(run)
    }

    /// A run from the record that begins it.
    ///
    /// # Errors
    /// When it is another record, or its plan is none.
    pub fn begin(record: &Record) -> Result<Self, Unreadable> {
        let Event::Begun(begun) = &record.event else {
            return Err(unreadable(record.number, "a run does not begin so"));
        };
        let plan = Plan::prove("the journal", begun.plan.clone())
            .map_err(|error| unreadable(record.number, error.to_string()))?;
        let waiting = Progress {
            state: State::Waiting,
            direction: Direction::Forward,
            report: None,
            begun: None,
            begun_ms: None,
            since_ms: record.at_ms,
            ended_ms: None,
            failures: 0,
            found: false,
            touched: false,
            in_doubt: false,
            spent: Spent::default(),
        };
        let mut run = Self {
            steps: vec![waiting; plan.steps.len()],
            plan,
            begun_ms: record.at_ms,
            runner: begun.runner.clone(),
            term: record.term,
            records: record.number,
            bytes: 0,
            direction: Direction::Forward,
            turned: None,
            left: Vec::new(),
            ended: None,
            begun: Begun::clone(begun),
        };
        run.spend(record);
        Ok(run)
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.begun.run
    }

    /// The gateways that keep a copy of its journal, or should: all that take part but the one that runs
    /// it.
    pub fn keepers(&self) -> impl Iterator<Item = &Runner> {
        let begun = &self.begun;
        let all = begun.keepers.iter().chain(&begun.absent).chain([&begun.runner]);
        all.filter(|keeper| keeper.gateway != self.runner.gateway)
    }

    /// Its sites, parameters and facts.
    #[must_use]
    pub const fn setting(&self) -> &Setting {
        &self.begun.setting
    }

    /// The next record.
    #[must_use]
    pub fn record(&self, event: Event, at_ms: u64) -> Record {
        Record { number: self.records + 1, term: self.term, at_ms, event }
    }

    /// Takes one record.
    ///
    /// # Errors
    /// When it cannot come after those before it; the run is of no use then.
    pub fn apply(&mut self, record: &Record) -> Result<(), Unreadable> {
        let number = record.number;
        if number != self.records + 1 {
            return Err(unreadable(number, format!("number {} comes next", self.records + 1)));
        }
        let taken = matches!(record.event, Event::Taken { .. });
        if (record.term != self.term && !taken) || (taken && record.term <= self.term) {
            let why = format!("it has term {}, the run has {}", record.term, self.term);
            return Err(unreadable(number, why));
        }
        if self.ended.is_some() {
            return Err(unreadable(number, "the run has ended"));
        }
        match record.event.step() {
            None => self.apply_to_run(record)?,
            Some(step) => {
                let place = self.plan.place(step);
                let why = || unreadable(number, format!("there is no step {step:?}"));
                self.apply_to_step(place.ok_or_else(why)?, record);
            }
        }
        self.records = number;
        self.spend(record);
        self.check().map_err(|why| unreadable(number, why))
    }

    fn apply_to_run(&mut self, record: &Record) -> Result<(), Unreadable> {
        match &record.event {
            Event::Taken { runner, .. } => {
                self.runner = runner.clone();
                self.term = record.term;
            }
            // It is for those who look at the run; nothing follows from it.
            Event::Parted { .. } => {}
            Event::Aborted { actor, why } => self.turn(format!("{actor}: {why}"), record.at_ms),
            Event::Ended { result, summary } => {
                self.ended = Some((*result, summary.clone(), record.at_ms));
            }
            _ => return Err(unreadable(record.number, "a run begins once")),
        }
        Ok(())
    }

    fn apply_to_step(&mut self, place: usize, record: &Record) {
        if let Event::TurnedBack { step } = &record.event {
            self.turn(format!("step {step} failed"), record.at_ms);
            return;
        }
        if let Event::Noted { created, removed, .. } = &record.event {
            self.note(place, created, removed);
            self.steps[place].touched |= !created.is_empty();
            return;
        }
        let retries = self.plan.steps[place].retries;
        let at_ms = record.at_ms;
        let back = self.direction == Direction::Back;
        match &record.event {
            // What was there before the run is not of its making.
            Event::Done { report, untouched: true, .. } => self.note(place, &[], &report.removed),
            Event::Done { report, .. } => self.note(place, &report.created, &report.removed),
            Event::Undone { left, .. } => self.unmade(place, left),
            _ => {}
        }
        let step = &mut self.steps[place];
        step.direction = self.direction;
        step.since_ms = at_ms;
        step.touched |= !back && acts(&record.event);
        step.state = match &record.event {
            Event::ApprovalAsked { .. } => State::Approving,
            Event::Answered { answer, .. } => step.answered(answer),
            Event::Asked { prompt, choices, token, .. } => State::Asking {
                attempt: step.attempt(),
                prompt: prompt.clone(),
                choices: choices.clone(),
                token: token.clone(),
            },
            Event::Intent { attempt, .. } => {
                if !back {
                    step.begun.get_or_insert(record.number);
                    step.begun_ms.get_or_insert(at_ms);
                }
                State::Running { attempt: *attempt, token: None, answer: None }
            }
            Event::Pending { token, .. } => {
                State::Running { attempt: step.attempt(), token: Some(token.clone()), answer: None }
            }
            Event::Done { report, found, .. } => {
                step.report = Some(report.clone());
                step.found = *found;
                step.ended_ms = Some(at_ms);
                State::Done
            }
            Event::Skipped { why, actor, .. } => {
                step.in_doubt = actor.is_some() && step.begun.is_some();
                step.ended_ms = Some(at_ms);
                if back { State::Kept(why.clone()) } else { State::Skipped(why.clone()) }
            }
            Event::Failed { attempt, error, .. } => {
                step.failures += 1;
                if *attempt <= retries && error.retry != Retry::Never {
                    State::Pausing { attempt: *attempt, error: error.clone() }
                } else {
                    step.ended_ms = Some(at_ms);
                    State::Failed { attempt: *attempt, error: error.clone() }
                }
            }
            // The attempts are counted anew: a person had a reason to believe in it.
            Event::Retried { .. } if step.begun.is_some() => State::Approved,
            Event::Retried { .. } => State::Waiting,
            Event::Undone { summary, .. } => State::Undone(summary.clone()),
            _ => return,
        };
    }

    /// What was made is told by the step as it makes it, and once more at its end.
    fn note(&mut self, place: usize, created: &[Created], removed: &[Created]) {
        let step = self.plan.steps[place].id.clone();
        let is = |one: &Created, other: &Created| one.kind == other.kind && one.id == other.id;
        self.left.retain(|left| !removed.iter().any(|gone| is(gone, &left.what)));
        for what in created {
            if !self.left.iter().any(|left| is(what, &left.what)) {
                self.left.push(Left { step: step.clone(), what: what.clone() });
            }
        }
    }

    /// What is known of a step that came to no report: what it noted as it made it.
    fn noted(&self, place: usize) -> Report {
        let step = &self.plan.steps[place].id;
        let made = self.left.iter().filter(|left| left.step == *step);
        Report { created: made.map(|left| left.what.clone()).collect(), ..Report::default() }
    }

    fn unmade(&mut self, place: usize, left: &[Created]) {
        let step = self.plan.steps[place].id.clone();
        self.left.retain(|of| of.step != step);
        let stays = |what: &Created| Left { step: step.clone(), what: what.clone() };
        self.left.extend(left.iter().map(stays));
    }

    /// From here on nothing is begun, and what was done is taken back. What is under way is in doubt:
    /// it is taken back as something that may have been done.
    fn turn(&mut self, why: String, at_ms: u64) {
        self.direction = Direction::Back;
        self.turned = Some(why);
        let floor = self.floor();
        for (place, step) in self.steps.iter_mut().enumerate() {
            step.touched |= matches!(step.state, State::Running { .. } | State::Asking { .. });
            match &step.state {
                State::Waiting | State::Approving | State::Approved if step.begun.is_none() => {
                    step.state = State::Skipped("the run turned back before it".to_owned());
                }
                State::Running { .. }
                | State::Asking { .. }
                | State::Pausing { .. }
                | State::Approved
                    if !self.plan.steps[place].reversible || step.begun <= floor =>
                {
                    step.state =
                        State::Kept("the run turned back while it was under way".to_owned());
                }
                _ => continue,
            }
            step.since_ms = at_ms;
        }
    }

    /// The number of the record that began the point of no return, if it was begun: nothing that was
    /// begun up to it is taken back.
    #[must_use]
    pub fn floor(&self) -> Option<u64> {
        let points = self.plan.steps.iter().zip(&self.steps);
        points.filter(|(step, _)| step.point_of_no_return).filter_map(|(_, of)| of.begun).max()
    }

    /// Whether a step is over, so that those after it can begin.
    fn is_over(&self, place: usize) -> bool {
        match self.steps[place].state {
            State::Done | State::Skipped(_) => true,
            State::Failed { .. } => self.plan.steps[place].on_failure == OnFailure::CarryOn,
            _ => false,
        }
    }

    /// Whether a step is still to be taken back. What it found done, before any attempt of it did
    /// anything, is not the run's to take back.
    fn is_to_undo(&self, place: usize) -> bool {
        let (plan, step) = (&self.plan.steps[place], &self.steps[place]);
        let taken_back =
            matches!(step.state, State::Undone(_) | State::Kept(_) | State::Skipped(_));
        let above = self.floor().is_none_or(|floor| step.begun > Some(floor));
        self.direction == Direction::Back
            && plan.reversible
            && step.begun.is_some()
            && step.touched
            && above
            && !taken_back
    }

    /// What a reference stands for.
    ///
    /// # Errors
    /// Why it stands for nothing.
    pub fn text_of(&self, reference: &Reference) -> Result<String, String> {
        if let Some(text) = self.setting().text_of(reference, self.id()) {
            return Ok(text);
        }
        let Reference::Output { step, name } = reference else {
            return Err(format!("{reference:?} stands for nothing"));
        };
        let report = self.plan.place(step).and_then(|place| self.steps[place].report.as_ref());
        let report = report.ok_or_else(|| format!("step {step} was not done and said nothing"))?;
        report.outputs.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = report.outputs.keys().map(String::as_str).collect();
            format!("step {step} said no {name:?}, but: {}", known.join(", "))
        })
    }

    /// The parameters of a step, with everything in them that its references stand for.
    ///
    /// # Errors
    /// Which reference stands for nothing.
    pub fn params(&self, place: usize) -> Result<Value, String> {
        crate::plan::resolve(&self.plan.steps[place].params, &|of| self.text_of(of))
    }

    /// What must hold after every record.
    fn check(&self) -> Result<(), String> {
        let floor = self.floor();
        for (place, step) in self.steps.iter().enumerate() {
            let plan = &self.plan.steps[place];
            let is_begun = match step.state {
                State::Running { .. } | State::Asking { .. } | State::Done | State::Undone(_) => {
                    true
                }
                State::Failed { attempt, .. } | State::Pausing { attempt, .. } => attempt > 0,
                _ => false,
            };
            if is_begun && step.begun.is_none() {
                return Err(format!("step {} has no intent", plan.id));
            }
            let ready = plan.after.iter().all(|before| self.is_over(*before));
            let under_way = matches!(step.state, State::Running { .. } | State::Asking { .. });
            if self.direction == Direction::Forward && under_way && !ready {
                return Err(format!("step {} was begun too early", plan.id));
            }
            let goes_back = step.direction == Direction::Back
                && matches!(step.state, State::Running { .. } | State::Undone(_));
            if goes_back && floor.is_some_and(|floor| step.begun <= Some(floor)) {
                return Err(format!("step {} is before the point of no return", plan.id));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
