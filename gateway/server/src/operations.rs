//! What takes long: begun by a call, followed by its id.
//!
//! Invariant: an operation ends as succeeded or failed, exactly once, whatever its task does; one
//! whose task vanished is failed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use api::{Code, Operation, OperationProgress, OperationState, Problem, Step};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;

/// Those that ended are remembered up to this many.
const OPERATIONS_MAX: usize = 256;

/// All operations of this start.
#[derive(Debug)]
pub(crate) struct Operations {
    clock: Clock,
    all: Mutex<VecDeque<Operation>>,
    /// What gives each of those up that can be given up.
    cancels: Mutex<HashMap<Uuid, CancellationToken>>,
}

fn runs_on(operation: &Operation, subject: &str) -> bool {
    operation.subject == subject && operation.state == OperationState::Running
}

/// What is said to a call that may not go beside this one.
pub(crate) fn under_way(operation: &Operation) -> String {
    format!("operation {} ({}) is under way", operation.id, operation.kind)
}

impl Operations {
    /// None yet.
    #[must_use]
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, all: Mutex::default(), cancels: Mutex::default() })
    }

    /// Begins one.
    #[must_use]
    pub(crate) fn begin(self: &Arc<Self>, kind: &str, subject: &str) -> Running {
        let id = Uuid::now_v7();
        let operation = Operation {
            id,
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            state: OperationState::Running,
            steps: Vec::new(),
            progress: None,
            cancellable: false,
            started_at: self.clock.rfc3339(),
            ended_at: None,
            error: None,
        };
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= OPERATIONS_MAX
            && let Some(index) = all.iter().position(|o| o.state != OperationState::Running)
        {
            all.remove(index);
        }
        all.push_back(operation);
        Running { operations: Arc::clone(self), id, step_began_ms: 0, ended: false }
    }

    /// Begins one that must be alone with its subject.
    ///
    /// # Errors
    /// [`Code::Busy`] while another operation on it runs.
    pub(crate) fn begin_alone(
        self: &Arc<Self>,
        kind: &str,
        subject: &str,
    ) -> Result<Running, Box<Problem>> {
        let running = self.begin(kind, subject);
        let other = |of: &Operation| of.id != running.id && runs_on(of, subject);
        // Looked for after it was begun, so that of two that begin at once one sees the other.
        match self.list().into_iter().find(other) {
            None => Ok(running),
            Some(other) => {
                let problem = Problem::new(Code::Busy, under_way(&other))
                    .with_next(format!("twinspan operation show {}", other.id));
                running.end(Err(problem.clone()));
                Err(Box::new(problem))
            }
        }
    }

    /// The one that runs on this subject, if one does.
    #[must_use]
    pub(crate) fn running_on(&self, subject: &str) -> Option<Operation> {
        self.list().into_iter().find(|of| runs_on(of, subject))
    }

    /// One of them.
    #[must_use]
    pub(crate) fn get(&self, id: Uuid) -> Option<Operation> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|operation| operation.id == id).cloned()
    }

    /// All, newest first.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<Operation> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().cloned().collect()
    }

    /// Asks one to give up, if it runs and can be: it ends by itself then.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::WrongState`] for one that ended or cannot be cancelled.
    pub(crate) fn cancel(&self, id: Uuid) -> Result<Operation, Box<Problem>> {
        let problem = |code, detail: String| Box::new(Problem::new(code, detail));
        let operation = self.get(id).ok_or_else(|| {
            problem(Code::NotFound, format!("there is no operation {id}, or it was forgotten"))
        })?;
        let token = self.cancels.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        let token =
            token.filter(|_| operation.state == OperationState::Running).ok_or_else(|| {
                let kind = &operation.kind;
                let why = match operation.state {
                    OperationState::Running => format!("a {kind} cannot be cancelled"),
                    OperationState::Succeeded | OperationState::Failed => "it has ended".to_owned(),
                };
                problem(Code::WrongState, why)
            })?;
        token.cancel();
        Ok(operation)
    }

    fn change(&self, id: Uuid, change: impl FnOnce(&mut Operation)) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(operation) = all.iter_mut().find(|operation| operation.id == id) {
            change(operation);
        }
    }
}

/// The right to tell how an operation goes.
#[derive(Debug)]
pub(crate) struct Running {
    operations: Arc<Operations>,
    id: Uuid,
    step_began_ms: u64,
    ended: bool,
}

impl Running {
    /// How it is now.
    #[must_use]
    pub(crate) fn snapshot(&self) -> Option<Operation> {
        self.operations.get(self.id)
    }

    /// What is cancelled when it is to be given up: by an operator, or because `parent` is.
    #[must_use]
    pub(crate) fn cancellable(&self, parent: &CancellationToken) -> CancellationToken {
        let token = parent.child_token();
        let mut all = self.operations.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(self.id, token.clone());
        self.operations.change(self.id, |operation| operation.cancellable = true);
        token
    }

    /// Says how far it is.
    pub(crate) fn progress(&self, progress: OperationProgress) {
        self.operations.change(self.id, |operation| operation.progress = Some(progress));
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, name: &str) {
        self.step_began_ms = self.operations.clock.steady_ms();
        self.operations.change(self.id, |operation| {
            operation.steps.push(Step {
                name: name.to_owned(),
                state: OperationState::Running,
                detail: String::new(),
                took_ms: None,
            });
        });
    }

    /// Says what the step that was begun last waits for.
    pub(crate) fn waits(&self, why: &str) {
        self.operations.change(self.id, |operation| {
            let running =
                operation.steps.last_mut().filter(|step| step.state == OperationState::Running);
            if let Some(step) = running {
                why.clone_into(&mut step.detail);
            }
        });
    }

    /// Ends the step that was begun last.
    pub(crate) fn done(&mut self, detail: impl Into<String>) {
        self.end_step(OperationState::Succeeded, detail.into());
    }

    /// Ends the step that was begun last, in vain; others may follow.
    pub(crate) fn failed(&mut self, why: &str) {
        self.end_step(OperationState::Failed, why.to_owned());
    }

    fn end_step(&self, state: OperationState, detail: String) {
        let took_ms = self.operations.clock.steady_ms().saturating_sub(self.step_began_ms);
        self.operations.change(self.id, |operation| {
            if let Some(step) = operation.steps.last_mut() {
                step.state = state;
                step.detail = detail;
                step.took_ms = Some(took_ms);
            }
        });
    }

    /// Ends it.
    pub(crate) fn end(mut self, result: Result<(), Problem>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<(), Problem>) {
        self.ended = true;
        if let Err(problem) = &result {
            let running = self.operations.get(self.id).is_some_and(|operation| {
                operation.steps.last().is_some_and(|step| step.state == OperationState::Running)
            });
            if running {
                self.end_step(OperationState::Failed, problem.detail.clone());
            }
        }
        let now = self.operations.clock.rfc3339();
        self.operations.cancels.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.operations.change(self.id, |operation| {
            operation.cancellable = false;
            operation.state = match result {
                Ok(()) => OperationState::Succeeded,
                Err(_) => OperationState::Failed,
            };
            operation.error = result.err();
            operation.ended_at = Some(now);
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.finish(Err(Problem::new(Code::Internal, "the operation's task ended early")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_always_ends() {
        let operations = Operations::new(Clock::start());
        let mut running = operations.begin("failover", "g");
        let id = running.id;
        running.step("one");
        running.done("well");
        running.step("two");
        drop(running);
        let operation = operations.get(id).unwrap();
        assert_eq!(operation.state, OperationState::Failed);
        let states: Vec<_> = operation.steps.iter().map(|step| step.state).collect();
        assert_eq!(states, [OperationState::Succeeded, OperationState::Failed]);
        assert_eq!(operation.error.unwrap().code, "GW0001");
    }

    #[tokio::test]
    async fn one_that_can_be_given_up_is_asked_to_and_says_when_it_cannot() {
        let operations = Operations::new(Clock::start());
        let running = operations.begin("backup", "g");
        let id = running.id;
        assert_eq!(operations.cancel(id).unwrap_err().code, Code::WrongState.as_str());
        let token = running.cancellable(&CancellationToken::new());
        assert!(operations.get(id).unwrap().cancellable);
        operations.cancel(id).unwrap();
        assert!(token.is_cancelled());
        running.end(Ok(()));
        let refused = operations.cancel(id).unwrap_err();
        assert!(refused.detail.contains("ended"), "{refused:?}");
        assert_eq!(operations.cancel(Uuid::nil()).unwrap_err().code, Code::NotFound.as_str());
    }

    #[tokio::test]
    async fn of_two_on_one_subject_the_second_is_refused_by_name() {
        let operations = Operations::new(Clock::start());
        let first = operations.begin_alone("migrate", "g").unwrap();
        let refused = operations.begin_alone("restore", "g").unwrap_err();
        assert_eq!(refused.code, Code::Busy.as_str());
        assert!(refused.detail.contains("migrate"), "{refused:?}");
        assert!(operations.begin_alone("restore", "other").is_ok());
        first.end(Ok(()));
        assert!(operations.begin_alone("restore", "g").is_ok());
    }
}
