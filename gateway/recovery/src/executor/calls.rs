//! One call to a provider, and what follows from its outcome.
//!
//! Invariant: whatever a provider answers, it becomes at most one record, and nothing beyond its limits
//! gets into a journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::{World, poll_after};
use crate::actions::{ActionError, Actions, Context, Direction, Outcome, Report, Retry, Standing};
use crate::limits::{
    CHOICES_MAX, CREATED_MAX, OUTPUT_BYTES_MAX, OUTPUTS_MAX, REPORT_BYTES_MAX, TOKEN_BYTES_MAX,
    WORDS_BYTES_MAX,
};
use crate::registry::split_action;
use crate::run::{Call, CallKind, Event, Run, State};

/// When an attempt must be over, and when its provider may be asked again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) until: Instant,
    pub(super) not_before: Option<Instant>,
}

/// What a call came to.
pub(super) enum Answer {
    /// What its provider said.
    Outcome(Outcome),
    /// It was so before.
    Found(Report),
}

pub(super) type Result = std::result::Result<Answer, ActionError>;

/// A call that is over.
pub(super) struct Called {
    pub(super) result: Result,
    /// Whether its provider was asked to do anything, now or by an execution that was killed.
    pub(super) acted: bool,
}

/// When to ask again, and how far it is.
pub(super) struct Again {
    pub(super) after: Duration,
    pub(super) progress: String,
}

/// Makes a call. It owns all that it needs, so that the run can go on meanwhile.
pub(super) fn call(
    run: &Run,
    world: &Arc<dyn World>,
    call: Call,
    (times, in_doubt): (Times, bool),
) -> impl Future<Output = Called> + Send + use<> {
    let step = &run.plan.steps[call.place];
    let site = step.site.map(|role| run.setting().sites.of(role).to_owned());
    let actions = world.actions_at(site.as_deref(), &step.action);
    let name = step.action.clone();
    let params = run.params(call.place);
    let context = Context {
        run: run.id().to_owned(),
        step: step.id.clone(),
        idempotency_key: format!("{}/{}", run.id(), step.id),
        attempt: call.attempt,
        deadline: Duration::ZERO,
        is_dry_run: false,
        actor: run.begun.actor.clone(),
        direction: call.direction,
    };
    let timeout = step.timeout;
    let acted = AtomicBool::new(in_doubt || !matches!(call.kind, CallKind::Begin));
    let kind = call.kind;
    async move {
        let calling = async {
            if let Some(not_before) = times.not_before {
                sleep_until(not_before.min(times.until)).await;
            }
            let late = || {
                let detail = format!("it was not over within {timeout:?}");
                ActionError::now("timeout", detail)
            };
            let left = times.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            let actions = actions.ok_or_else(|| {
                let place = site.map_or_else(|| "here".to_owned(), |site| format!("at {site}"));
                ActionError::now("no_provider", format!("nobody has the action {name} {place}"))
            })?;
            let params = params.map_err(|why| ActionError::never("bad_reference", why))?;
            let context = Context { deadline: left, ..context };
            let (_, action) = split_action(&name).unwrap_or(("", &name));
            let what = (action, &context, &params);
            let doing = perform(&*actions, what, (kind, in_doubt), &acted);
            timeout_at(times.until, doing).await.unwrap_or_else(|_elapsed| Err(late()))
        };
        let result = calling.await;
        Called { result, acted: acted.load(Ordering::Relaxed) }
    }
}

async fn perform(
    actions: &dyn Actions,
    (action, context, params): (&str, &Context, &Value),
    (kind, in_doubt): (CallKind, bool),
    acted: &AtomicBool,
) -> Result {
    if in_doubt
        && context.direction == Direction::Forward
        && matches!(kind, CallKind::GoOn { .. })
        && let Standing::Done(report) = actions.check(action, context, params).await?
    {
        return Ok(Answer::Found(report));
    }
    let outcome = match kind {
        CallKind::Begin => match actions.check(action, context, params).await? {
            Standing::Done(report) => return Ok(Answer::Found(report)),
            Standing::Blocked(why) => return Err(ActionError::now("blocked", why)),
            Standing::Ready => {
                acted.store(true, Ordering::Relaxed);
                actions.run(action, context, params).await
            }
        },
        CallKind::GoOn { token, answer } => {
            actions.resume(action, context, params, &token, answer.as_deref()).await
        }
        CallKind::Undo(report) => actions.undo(action, context, params, &report).await,
    };
    outcome.map(Answer::Outcome)
}

/// The record of what a call came to, and when to ask again.
pub(super) fn judge(run: &Run, place: usize, called: Called) -> (Option<Event>, Option<Again>) {
    let step = run.plan.steps[place].id.clone();
    let (attempt, known, answered) = match &run.steps[place].state {
        State::Running { attempt, token, answer } => (*attempt, token.clone(), answer.is_some()),
        // The run went another way meanwhile.
        _ => return (None, None),
    };
    let back = run.direction == Direction::Back;
    let untouched = !called.acted;
    let fail = |error: ActionError| {
        let ActionError { code, detail, next, retry } = error;
        // Whatever a provider calls it: a record that is too long is none, and the run would be held.
        let (code, next, mut detail) = (words(code), next.map(words), words(detail));
        let again = retry != Retry::Never && attempt <= run.plan.steps[place].retries;
        let is_last = again && !run.has_room(place);
        if is_last {
            detail.push_str("; it is not tried again, because it used up its share of the journal");
        }
        let retry = if is_last { Retry::Never } else { retry };
        let error = ActionError { code, detail, next, retry };
        (Some(Event::Failed { step: step.clone(), attempt, error, untouched }), None)
    };
    let (outcome, found) = match called.result {
        Err(error) => return fail(error),
        Ok(Answer::Found(report)) => (Outcome::Done(report), true),
        Ok(Answer::Outcome(outcome)) => (outcome, false),
    };
    if let Some(why) = too_much(&outcome) {
        return fail(ActionError::never("too_much", why));
    }
    let keeps_token = |token: &Value| known.as_ref() == Some(token) && !answered;
    let is_repeated = match &outcome {
        Outcome::Pending { token, .. } => !keeps_token(token),
        Outcome::NeedsOperator { .. } => true,
        Outcome::Done(_) | Outcome::Skipped(_) => false,
    };
    if is_repeated && !run.has_room(place) {
        return fail(no_room());
    }
    let event = match outcome {
        Outcome::Done(report) if back => {
            Event::Undone { step, summary: words(report.summary), left: report.created }
        }
        Outcome::Skipped(why) if back => {
            Event::Undone { step, summary: words(why), left: Vec::new() }
        }
        Outcome::Done(report) => Event::Done { step, report, found, untouched },
        Outcome::Skipped(why) => Event::Skipped { step, why: words(why), actor: None },
        Outcome::NeedsOperator { prompt, choices, token } => {
            Event::Asked { step, prompt: words(prompt), choices, token }
        }
        Outcome::Pending { token, poll_after: after, progress } => {
            let again = Again { after: poll_after(after), progress: words(progress) };
            // An answer was told now, so it must not be told again after a kill.
            let is_new = !keeps_token(&token);
            return (is_new.then_some(Event::Pending { step, token }), Some(again));
        }
    };
    (Some(event), None)
}

/// An action that goes on, and says so in ever new words: what is left of the journal is for what ends
/// the run.
fn no_room() -> ActionError {
    let detail = "the action gave a new token, or asked, so often that it used up its share of the run's \
                  journal; what it did may be under way";
    let next = "look what it did; then leave the step out (twinspan run skip), or take the run back \
                (twinspan run abort); the action should keep its token while nothing changes";
    ActionError { next: Some(next.to_owned()), ..ActionError::never("journal_full", detail) }
}

/// What a journal does not take.
fn too_much(outcome: &Outcome) -> Option<String> {
    let token_bytes = |token: &Value| token.to_string().len();
    match outcome {
        Outcome::Done(report) => {
            let bytes = serde_json::to_vec(report).map_or(usize::MAX, |text| text.len());
            let output = report.outputs.values().any(|text| text.len() > OUTPUT_BYTES_MAX);
            let many = report.outputs.len() > OUTPUTS_MAX
                || report.created.len() + report.removed.len() > CREATED_MAX;
            (bytes > REPORT_BYTES_MAX || output || many).then(|| {
                format!(
                    "the report of the action is too large: {bytes} bytes, {} outputs",
                    report.outputs.len()
                )
            })
        }
        Outcome::Pending { token, .. } => (token_bytes(token) > TOKEN_BYTES_MAX)
            .then(|| "the token of the action is too large".to_owned()),
        Outcome::NeedsOperator { choices, token, .. } => {
            let bad = choices.is_empty()
                || choices.len() > CHOICES_MAX
                || choices.iter().any(|choice| choice.len() > WORDS_BYTES_MAX)
                || token_bytes(token) > TOKEN_BYTES_MAX;
            bad.then(|| {
                "the action asks with no choices, too many, or a token too large".to_owned()
            })
        }
        Outcome::Skipped(_) => None,
    }
}

/// At most so many words, cut where a character ends.
fn words(mut text: String) -> String {
    if text.len() > WORDS_BYTES_MAX {
        let end = (0..=WORDS_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
