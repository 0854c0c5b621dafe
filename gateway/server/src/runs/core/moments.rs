//! Steps about a moment: a snapshot of it, those who write held still for it, a person asked in it.
//!
//! Invariant: a snapshot of a run is known by the run and the step, so that no other is taken for it.

use std::sync::Arc;

use api::Code;
use recovery::run::{APPROVE, REJECT};
use recovery::{ActionError, Context, Created, Description, Doing, Outcome, Report, Standing};
use serde::Deserialize;
use serde_json::Value;

use super::{Deed, describe, failed};
use crate::gateway::Gateway;
use crate::hooks;

/// Takes a snapshot of a group.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Snapshot {
    group: String,
}

/// The end of a run's identity is random, and so enough of it.
const RUN_CHARS: usize = 12;
/// Of a step's name, so that the whole is one.
const STEP_CHARS: usize = 40;

fn name_of(context: &Context) -> String {
    let run = &context.run;
    let (_, end) = run.split_at(run.len().saturating_sub(RUN_CHARS));
    let step: String = context.step.chars().take(STEP_CHARS).collect();
    format!("run.{end}.{step}")
}

fn thing(group: &str, name: &str) -> Created {
    let id = format!("{group}/{name}");
    Created { kind: "snapshot".to_owned(), name: id.clone(), id }
}

async fn exists(gateway: &Gateway, group: &str, name: &str) -> Result<bool, ActionError> {
    match gateway.snapshot(group, name).await {
        // One that is being deleted is gone for all that a run wants of it.
        Ok(snapshot) => Ok(snapshot.state != api::SnapshotState::Deleting),
        Err(refused) if refused.is(Code::NotFound) => {
            // The group must be there, or nothing is known of its snapshots.
            gateway.find_group(group).map_err(failed)?;
            Ok(false)
        }
        Err(refused) => Err(failed(refused)),
    }
}

async fn delete(gateway: &Gateway, group: &str, name: &str) -> Result<Report, ActionError> {
    gateway.delete_snapshot(group, name).await.map_err(failed)?;
    let mut report = Report::of(format!("deleted {group}/{name}"));
    report.removed.push(thing(group, name));
    Ok(report)
}

impl Snapshot {
    fn report(&self, context: &Context) -> Report {
        let name = name_of(context);
        let mut report = Report::of(format!("{}/{name}", self.group));
        report.created.push(thing(&self.group, &name));
        report.outputs.insert("snapshot".to_owned(), name);
        report
    }
}

impl Deed for Snapshot {
    fn describe(&self) -> Description {
        let will_do = format!("keep the moment of {} here and at its mirrors", self.group);
        describe("take a snapshot", will_do, true)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, context: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            let exists = exists(gateway, &self.group, &name_of(context)).await?;
            Ok(if exists { Standing::Done(self.report(context)) } else { Standing::Ready })
        })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, context: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let taken = gateway.take_snapshot(&self.group, Some(name_of(context))).await;
            taken.map_err(failed)?;
            Ok(Outcome::Done(self.report(context)))
        })
    }

    fn undo<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        context: &'a Context,
        _: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let name = name_of(context);
            if !exists(gateway, &self.group, &name).await? {
                return Ok(Outcome::Skipped("it is not there".to_owned()));
            }
            delete(gateway, &self.group, &name).await.map(Outcome::Done)
        })
    }
}

/// Deletes a snapshot.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteSnapshot {
    group: String,
    snapshot: String,
}

impl Deed for DeleteSnapshot {
    fn describe(&self) -> Description {
        let will_do = format!("delete snapshot {} of {}", self.snapshot, self.group);
        describe("delete a snapshot", will_do, false)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            if exists(gateway, &self.group, &self.snapshot).await? {
                return Ok(Standing::Ready);
            }
            let mut report = Report::of("it is not there");
            report.removed.push(thing(&self.group, &self.snapshot));
            Ok(Standing::Done(report))
        })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(
            async move { delete(gateway, &self.group, &self.snapshot).await.map(Outcome::Done) },
        )
    }
}

/// Brings those that write to a group to rest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Freeze {
    group: String,
    hook: String,
}

/// Lets them go on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Thaw {
    group: String,
    hook: String,
}

async fn call(
    gateway: &Gateway,
    (hook, group): (&str, &str),
    action: hooks::Action,
) -> Result<Report, ActionError> {
    let found = gateway.config.hooks.iter().find(|of| of.name == hook).ok_or_else(|| {
        let why = format!("{} has no hook {hook:?}", gateway.config.site.name);
        ActionError {
            next: Some("add it to [[points.hooks]]".to_owned()),
            ..ActionError::never(Code::PlanBad.as_str(), why)
        }
    })?;
    let called = hooks::call(found, (action, group), &gateway.runs.registry).await;
    called.map_err(|why| ActionError::now("hook", why))?;
    Ok(Report::of(format!("hook {hook} was called for {group}")))
}

impl Deed for Freeze {
    fn describe(&self) -> Description {
        let will_do = format!("freeze what writes to {} by hook {}", self.group, self.hook);
        describe("freeze", will_do, true)
    }

    fn check<'a>(&'a self, _: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async { Ok(Standing::Ready) })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let hook = (self.hook.as_str(), self.group.as_str());
            call(gateway, hook, hooks::Action::Freeze).await.map(Outcome::Done)
        })
    }

    fn undo<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        _: &'a Context,
        _: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let hook = (self.hook.as_str(), self.group.as_str());
            call(gateway, hook, hooks::Action::Thaw).await.map(Outcome::Done)
        })
    }
}

impl Deed for Thaw {
    fn describe(&self) -> Description {
        let will_do = format!("let go on what writes to {} by hook {}", self.group, self.hook);
        describe("thaw", will_do, true)
    }

    fn check<'a>(&'a self, _: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async { Ok(Standing::Ready) })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let hook = (self.hook.as_str(), self.group.as_str());
            call(gateway, hook, hooks::Action::Thaw).await.map(Outcome::Done)
        })
    }
}

/// Asks a person.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approve {
    prompt: String,
    /// What can be answered; left out: approve or reject.
    #[serde(default)]
    choices: Vec<String>,
}

impl Deed for Approve {
    fn describe(&self) -> Description {
        describe("ask a person", format!("ask: {}", self.prompt), true)
    }

    fn check<'a>(&'a self, _: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async { Ok(Standing::Ready) })
    }

    fn run<'a>(&'a self, _: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        let choices = if self.choices.is_empty() {
            vec![APPROVE.to_owned(), REJECT.to_owned()]
        } else {
            self.choices.clone()
        };
        let prompt = self.prompt.clone();
        Box::pin(async { Ok(Outcome::NeedsOperator { prompt, choices, token: Value::Null }) })
    }

    fn resume<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        context: &'a Context,
        (_, answer): (&'a Value, Option<&'a str>),
    ) -> Doing<'a, Outcome> {
        match answer {
            None => self.run(gateway, context),
            Some(REJECT) if self.choices.is_empty() => {
                Box::pin(async { Err(ActionError::never("rejected", "a person did not agree")) })
            }
            Some(answer) => {
                let mut report = Report::of(format!("answered: {answer}"));
                report.outputs.insert("answer".to_owned(), answer.to_owned());
                Box::pin(async { Ok(Outcome::Done(report)) })
            }
        }
    }
}
