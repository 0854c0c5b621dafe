//! Plugins as providers of actions for runs: a step names `PLUGIN/ACTION`.
//!
//! Invariant: what a plugin answers is told to the run as it is; what went wrong in the plugin itself
//! says so with its name, and whether trying again can help.

use std::time::Duration;

use plugin::contract::{self, ErrorCode};
use plugin::{CallError, Plugins};
use recovery::{
    ActionError, Actions, Context, Created, Description, Direction, Doing, Outcome, Report, Retry,
    Standing,
};
use serde_json::Value;

use crate::clock::Clock;

/// One plugin.
pub(crate) struct Provider {
    plugins: Plugins,
    plugin: String,
    clock: Clock,
}

impl Provider {
    /// Of the plugin of this name.
    #[must_use]
    pub(crate) const fn new(plugins: Plugins, plugin: String, clock: Clock) -> Self {
        Self { plugins, plugin, clock }
    }

    fn context(&self, context: &Context) -> contract::Context {
        let left = u64::try_from(context.deadline.as_millis()).unwrap_or(u64::MAX);
        contract::Context {
            run: context.run.clone(),
            step: context.step.clone(),
            idempotency_key: context.idempotency_key.clone(),
            attempt: context.attempt,
            deadline: self.clock.unix_ms().saturating_add(left),
            dry_run: context.is_dry_run,
            actor: context.actor.clone(),
            is_undo: context.direction == Direction::Back,
        }
    }

    /// A call that came to no answer of the plugin's.
    fn failed(&self, error: &CallError) -> ActionError {
        let code = crate::gateway::plugins::call_code(error).as_str();
        let detail = format!("plugin {}: {error}", self.plugin);
        match error {
            CallError::Unknown(_)
            | CallError::Unsupported(_)
            | CallError::UnknownAction(_)
            | CallError::Parameters(_) => ActionError::never(code, detail),
            CallError::Resting { left, .. } => {
                ActionError { retry: Retry::After(*left), ..ActionError::never(code, detail) }
            }
            CallError::Trap(_)
            | CallError::Cpu(_)
            | CallError::Time(_)
            | CallError::Memory(_)
            | CallError::Output(_)
            | CallError::Answer(_)
            | CallError::Stopped => ActionError::now(code, detail),
        }
    }

    fn said_no(&self, error: contract::Error) -> ActionError {
        let code = error.vendor_code.unwrap_or_else(|| code_word(error.code).to_owned());
        let retry = match error.retry {
            contract::Retry::Never => Retry::Never,
            contract::Retry::Now => Retry::Now,
            contract::Retry::AfterMs(ms) => Retry::After(Duration::from_millis(ms.into())),
        };
        ActionError { retry, ..ActionError::never(code, error.message) }
    }

    fn told<T>(
        &self,
        said: Result<Result<T, contract::Error>, CallError>,
    ) -> Result<T, ActionError> {
        said.map_err(|error| self.failed(&error))?.map_err(|error| self.said_no(error))
    }

    fn outcome(&self, said: contract::Outcome) -> Result<Outcome, ActionError> {
        // The host checked that it is JSON.
        let token = |text: &str| {
            serde_json::from_str::<Value>(text)
                .map_err(|error| self.failed(&CallError::Answer(error.to_string())))
        };
        Ok(match said {
            contract::Outcome::Done(done) => Outcome::Done(report(done)),
            contract::Outcome::Skipped(why) => Outcome::Skipped(why),
            contract::Outcome::Pending(pending) => Outcome::Pending {
                token: token(&pending.token)?,
                poll_after: Duration::from_millis(pending.poll_after_ms.into()),
                progress: progress(&pending.progress),
            },
            contract::Outcome::Ask(question) => Outcome::NeedsOperator {
                prompt: question.prompt,
                choices: question.choices,
                token: token(&question.token)?,
            },
        })
    }
}

/// Progress in words.
pub(crate) fn progress(progress: &contract::Progress) -> String {
    match progress.percent {
        Some(percent) => format!("{} ({percent} %)", progress.message),
        None => progress.message.clone(),
    }
}

const fn code_word(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidArgument => "invalid-argument",
        ErrorCode::InvalidConfig => "invalid-config",
        ErrorCode::Unauthorized => "unauthorized",
        ErrorCode::Denied => "denied",
        ErrorCode::NotFound => "not-found",
        ErrorCode::AlreadyExists => "already-exists",
        ErrorCode::Conflict => "conflict",
        ErrorCode::WrongState => "wrong-state",
        ErrorCode::QuotaExceeded => "quota-exceeded",
        ErrorCode::Unsupported => "unsupported",
        ErrorCode::Unavailable => "unavailable",
        ErrorCode::Timeout => "timeout",
        ErrorCode::Cancelled => "cancelled",
        ErrorCode::Internal => "internal",
    }
}

/// What was made, as runs name it.
pub(crate) fn created(what: contract::Created) -> Created {
    Created { kind: what.kind, id: what.id, name: what.name }
}

fn report(report: contract::Report) -> Report {
    Report {
        summary: report.summary,
        created: report.created.into_iter().map(created).collect(),
        removed: report.removed.into_iter().map(created).collect(),
        outputs: report.outputs.into_iter().collect(),
    }
}

/// What was done, as the plugin said it.
fn said(report: &Report) -> contract::Report {
    let made = |all: &[Created]| {
        let one = |of: &Created| contract::Created {
            kind: of.kind.clone(),
            id: of.id.clone(),
            name: of.name.clone(),
        };
        all.iter().map(one).collect()
    };
    contract::Report {
        summary: report.summary.clone(),
        created: made(&report.created),
        removed: made(&report.removed),
        outputs: report.outputs.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

impl Actions for Provider {
    fn names(&self) -> Vec<String> {
        let about = self.plugins.get(&self.plugin).and_then(|of| of.about);
        about.map(|about| about.actions.keys().cloned().collect()).unwrap_or_default()
    }

    fn describe<'a>(&'a self, action: &'a str, params: &'a Value) -> Doing<'a, Description> {
        Box::pin(async move {
            let about = self.plugins.get(&self.plugin).and_then(|of| of.about);
            let known = about.as_ref().and_then(|about| about.actions.get(action));
            let unknown = || self.failed(&CallError::UnknownAction(action.to_owned()));
            let known = known.ok_or_else(unknown)?;
            let said = self.plugins.describe_action((&self.plugin, action), params).await;
            let (mut will_do, warnings) = self.told(said)?;
            for warning in warnings {
                will_do = format!("{will_do}. {warning}");
            }
            let title = known.title.clone();
            Ok(Description { title, will_do, is_reversible: known.is_reversible })
        })
    }

    fn check<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Standing> {
        Box::pin(async move {
            let ctx = self.context(context);
            let said = self.plugins.check_action((&self.plugin, action), ctx, params).await;
            Ok(match self.told(said)? {
                contract::Standing::Ready => Standing::Ready,
                contract::Standing::Done(done) => Standing::Done(report(done)),
                contract::Standing::Blocked(why) => Standing::Blocked(why),
            })
        })
    }

    fn run<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let ctx = self.context(context);
            let said = self.plugins.run_action((&self.plugin, action), ctx, params).await;
            self.outcome(self.told(said)?)
        })
    }

    fn resume<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
        token: &'a Value,
        answer: Option<&'a str>,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let ctx = self.context(context);
            let on = (token, answer.map(str::to_owned));
            let said = self.plugins.resume_action((&self.plugin, action), ctx, params, on).await;
            self.outcome(self.told(said)?)
        })
    }

    fn undo<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
        done: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let ctx = self.context(context);
            let done = said(done);
            let said = self.plugins.undo_action((&self.plugin, action), ctx, params, done).await;
            self.outcome(self.told(said)?)
        })
    }
}
