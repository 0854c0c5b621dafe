//! Steps that say which site serves a group: migrate, promote, reprotect.
//!
//! Invariant: what is begun is an operation like an operator's, followed by its id. An operation that
//! nobody remembers was cut short by a restart; then the group itself says how far it came.

use std::sync::Arc;
use std::time::Duration;

use api::{CheckState, MigrationRunRequest, Operation, OperationState, ReprotectRequest};
use mirror::{GroupStatus, Role, Serving, SessionState};
use recovery::{
    ActionError, Actions, Context, Description, Direction, Doing, Outcome, Report, Standing,
};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{CORE, Deed, describe, failed};
use crate::gateway::Gateway;
use crate::runs::remote::Remote;

/// Between two looks at an operation.
const LOOK: Duration = Duration::from_millis(200);

fn begun(operation: &Operation) -> Outcome {
    let token = json!({ "operation": operation.id });
    Outcome::Pending { token, poll_after: LOOK, progress: format!("{} begun", operation.kind) }
}

/// How an operation is that a token names.
fn followed(gateway: &Gateway, token: &Value) -> Followed {
    let id = token.get("operation").and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok());
    let Some(operation) = id.and_then(|id| gateway.operations.get(id)) else {
        return Followed::Forgotten;
    };
    let step = operation.steps.last().map_or(String::new(), |step| step.name.clone());
    match operation.state {
        OperationState::Running => Followed::Runs(Outcome::Pending {
            token: token.clone(),
            poll_after: LOOK,
            progress: step,
        }),
        OperationState::Succeeded => Followed::Succeeded,
        OperationState::Failed => {
            let detail = operation.error.map_or(step, |problem| problem.detail);
            Followed::Failed(ActionError::now("operation", detail))
        }
    }
}

enum Followed {
    Runs(Outcome),
    Succeeded,
    Failed(ActionError),
    Forgotten,
}

fn blocked(checks: &[api::Check]) -> Standing {
    let why = checks.iter().filter(|check| check.state == CheckState::Blocked);
    let why: Vec<String> = why.map(|of| format!("{}: {}", of.name, of.detail)).collect();
    if why.is_empty() { Standing::Ready } else { Standing::Blocked(why.join("; ")) }
}

async fn status_of(gateway: &Gateway, group: &str) -> Result<Arc<GroupStatus>, ActionError> {
    let entry = gateway.find_group(group).map_err(failed)?;
    gateway.status_of(entry.group()).await.map_err(failed)
}

/// Serves a group at another site, losing nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Migrate {
    group: String,
    to: String,
}

impl Migrate {
    /// Whether the other site is the primary, as far as it can be asked.
    async fn is_there(&self, gateway: &Gateway) -> Result<Option<Report>, ActionError> {
        let status = status_of(gateway, &self.group).await?;
        let follows = status.upstream.as_ref().is_some_and(|upstream| upstream.site == self.to);
        if status.role == Role::Primary {
            return Ok(None);
        }
        let peer = gateway.book.read().peer(&self.to).map(|peer| peer.gateway);
        let is_primary = match peer {
            Some(peer) => {
                let peer = block::GatewayId::from_uuid(peer);
                let survey = gateway.ask_survey(status.group, peer).await;
                survey.is_ok_and(|survey| survey.role == api::Role::Primary)
            }
            None => false,
        };
        let is_there = is_primary || (status.role == Role::Secondary && follows);
        Ok(is_there.then(|| Report::of(format!("{} serves {}", self.to, self.group))))
    }

    async fn begin(&self, gateway: &Arc<Gateway>) -> Result<Outcome, ActionError> {
        let plan = gateway.plan_migration(&self.group, &self.to).await.map_err(failed)?;
        let Some(token) = plan.token else {
            let why = match blocked(&plan.checks) {
                Standing::Blocked(why) => why,
                Standing::Ready | Standing::Done(_) => "it cannot be migrated now".to_owned(),
            };
            return Err(ActionError::now("blocked", why));
        };
        let request = MigrationRunRequest { token, drain_ms_max: None };
        let operation = gateway.run_migration(&self.group, &request).await.map_err(failed)?;
        Ok(begun(&operation))
    }

    /// The way back is the same at the other site.
    fn back(
        &self,
        gateway: &Arc<Gateway>,
        context: &Context,
    ) -> Result<(Remote, Value), ActionError> {
        let here = &gateway.config.site.name;
        let run = Uuid::parse_str(&context.run).unwrap_or_default();
        let term = gateway.runs.all().get(&run).map_or(0, |known| known.run.term);
        let remote = Remote::at(gateway, &self.to, "core/migrate", (run, term));
        let remote = remote.ok_or_else(|| {
            ActionError::never("no_peer", format!("{here} is not joined with {}", self.to))
        })?;
        Ok((remote, json!({ "group": self.group, "to": here })))
    }

    fn forth(context: &Context) -> Context {
        let idempotency_key = format!("{}/back", context.idempotency_key);
        Context { idempotency_key, direction: Direction::Forward, ..context.clone() }
    }
}

impl Deed for Migrate {
    fn describe(&self) -> Description {
        let will_do = format!("swap roles: {} serves {}, losing nothing", self.to, self.group);
        describe("migrate", will_do, true)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            if let Some(report) = self.is_there(gateway).await? {
                return Ok(Standing::Done(report));
            }
            match gateway.plan_migration(&self.group, &self.to).await {
                Ok(plan) => Ok(blocked(&plan.checks)),
                Err(refused) => Ok(Standing::Blocked(refused.0.detail)),
            }
        })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(self.begin(gateway))
    }

    fn resume<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        context: &'a Context,
        (token, _): (&'a Value, Option<&'a str>),
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            if context.direction == Direction::Back {
                let (remote, params) = self.back(gateway, context)?;
                let forth = Self::forth(context);
                return remote.resume(CORE, &forth, &params, token, None).await;
            }
            let error = match followed(gateway, token) {
                Followed::Runs(outcome) => return Ok(outcome),
                Followed::Succeeded => None,
                Followed::Failed(error) => Some(error),
                Followed::Forgotten => {
                    let why = "a restart of the gateway cut it short";
                    Some(ActionError::now("interrupted", why))
                }
            };
            let there = self.is_there(gateway).await?;
            let not_yet = || ActionError::now("interrupted", "the swap is not seen yet");
            there.map(Outcome::Done).ok_or_else(|| error.unwrap_or_else(not_yet))
        })
    }

    fn undo<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        context: &'a Context,
        _: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let status = status_of(gateway, &self.group).await?;
            if let Some(operation) = gateway.operations.running_on(&status.name) {
                // What is under way comes to its end first.
                let token = json!({ "wait": operation.id });
                return Err(ActionError::now("busy", format!("operation {token} runs")));
            }
            if status.role == Role::Primary {
                return Ok(Outcome::Skipped("roles are not swapped".to_owned()));
            }
            let (remote, params) = self.back(gateway, context)?;
            let forth = Self::forth(context);
            match remote.check(CORE, &forth, &params).await? {
                Standing::Done(report) => Ok(Outcome::Done(report)),
                Standing::Blocked(why) => Err(ActionError::now("blocked", why)),
                Standing::Ready => remote.run(CORE, &forth, &params).await,
            }
        })
    }
}

/// Serves a group at this site, without its primary.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Promote {
    group: String,
    /// What may be used: `in_sync`, `outdated`, `inconsistent`.
    #[serde(default)]
    accept: Option<String>,
}

impl Promote {
    async fn is_here(&self, gateway: &Gateway) -> Result<Option<Report>, ActionError> {
        let status = status_of(gateway, &self.group).await?;
        let serves = status.role == Role::Primary && status.serving == Serving::Yes;
        Ok(serves.then(|| {
            let summary = format!("{} serves {}", gateway.config.site.name, self.group);
            let mut report = Report::of(summary);
            let exports = status.volumes.iter().flat_map(|of| gateway.exports_of(&of.name));
            let exports: Vec<String> = exports.collect();
            report.outputs.insert("exports".to_owned(), exports.join(" "));
            report.outputs.insert("epoch".to_owned(), status.epoch.to_string());
            report
        }))
    }
}

impl Deed for Promote {
    fn describe(&self) -> Description {
        let accept = self.accept.as_deref().unwrap_or("in_sync");
        let will_do = format!("raise the epoch of {} and serve a copy {accept} here", self.group);
        describe("fail over", will_do, false)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            if let Some(report) = self.is_here(gateway).await? {
                return Ok(Standing::Done(report));
            }
            let plan = gateway.plan_failover(&self.group, self.accept.as_deref()).await;
            Ok(blocked(&plan.map_err(failed)?.checks))
        })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let plan = gateway.plan_failover(&self.group, self.accept.as_deref()).await;
            let plan = plan.map_err(failed)?;
            let Some(token) = plan.token else {
                return Err(ActionError::now("blocked", "a failover is blocked now"));
            };
            let operation = gateway.run_failover(&self.group, &token).await.map_err(failed)?;
            Ok(begun(&operation))
        })
    }

    fn resume<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        _: &'a Context,
        (token, _): (&'a Value, Option<&'a str>),
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let why = match followed(gateway, token) {
                Followed::Runs(outcome) => return Ok(outcome),
                Followed::Failed(error) => error,
                Followed::Succeeded | Followed::Forgotten => {
                    ActionError::now("interrupted", "this site does not serve yet")
                }
            };
            self.is_here(gateway).await?.map(Outcome::Done).ok_or(why)
        })
    }

    fn undo<'a>(
        &'a self,
        _: &'a Arc<Gateway>,
        _: &'a Context,
        _: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async {
            let why = "a promotion is not taken back: what was written since is here only";
            Err(ActionError {
                next: Some("run the plan with --swap".to_owned()),
                ..ActionError::never("irreversible", why)
            })
        })
    }
}

/// Mirrors a group again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reprotect {
    group: String,
    to: String,
    /// What only the other side has may be lost.
    #[serde(default)]
    discard: bool,
}

impl Reprotect {
    async fn follows(&self, gateway: &Gateway) -> Result<Option<Report>, ActionError> {
        let status = status_of(gateway, &self.group).await?;
        let is_it = |leg: &&mirror::LegStatus| leg.site == self.to;
        let active = status.legs.iter().find(is_it).is_some_and(|leg| {
            leg.state == SessionState::Active && leg.link == mirror::LinkState::Connected
        });
        Ok(active.then(|| Report::of(format!("{} follows", self.to))))
    }
}

impl Deed for Reprotect {
    fn describe(&self) -> Description {
        let lost = if self.discard { ", discarding what only it has" } else { "" };
        let will_do = format!("mirror {} to {} again, by delta{lost}", self.group, self.to);
        describe("reprotect", will_do, true)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(
            async move { Ok(self.follows(gateway).await?.map_or(Standing::Ready, Standing::Done)) },
        )
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let request = ReprotectRequest { to: Some(self.to.clone()), discard: self.discard };
            let operation = gateway.reprotect(&self.group, &request).await.map_err(failed)?;
            Ok(begun(&operation))
        })
    }

    fn resume<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        _: &'a Context,
        (token, _): (&'a Value, Option<&'a str>),
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            match followed(gateway, token) {
                Followed::Runs(outcome) => Ok(outcome),
                Followed::Failed(error) => Err(error),
                Followed::Succeeded => {
                    let summary = format!("{} is a mirror of {} again", self.to, self.group);
                    Ok(Outcome::Done(Report::of(summary)))
                }
                Followed::Forgotten => {
                    let why = ActionError::now("interrupted", "a restart cut it short");
                    self.follows(gateway).await?.map(Outcome::Done).ok_or(why)
                }
            }
        })
    }
}
