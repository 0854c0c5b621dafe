//! A run without its effects: what each step would do, and how things stand for it now.
//!
//! Invariant: providers are only asked to describe and to check, with a context that says that nothing
//! may be changed.

use std::sync::Arc;

use tokio::time::{Duration, timeout};

use super::World;
use crate::actions::{ActionError, Context, Description, Direction, Standing};
use crate::plan::{Plan, Setting};
use crate::registry::split_action;

/// A step that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryStep {
    /// Its name.
    pub id: String,
    /// Where it would be done; `None`: where the run runs.
    pub site: Option<String>,
    /// What it would do, as far as its provider says.
    pub description: Result<Description, ActionError>,
    /// How things stand; `None` when it depends on what an earlier step says, or is left out.
    pub standing: Option<Result<Standing, ActionError>>,
    /// Why it would be left out.
    pub left_out: Option<String>,
}

/// Each provider has so long to answer: an operator waits.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Looks at every step of a plan.
pub async fn dry_run(
    plan: &Plan,
    setting: &Setting,
    (actor, world): (&str, &Arc<dyn World>),
) -> Vec<DryStep> {
    let mut found = Vec::new();
    for step in &plan.steps {
        let site = step.site.map(|role| setting.sites.of(role).to_owned());
        let left_out = step
            .when
            .as_ref()
            .filter(|when| !when.holds(&setting.facts))
            .map(|when| when.why_not(&setting.facts));
        let (params, open) = setting.params_so_far(step, "dry-run");
        let context = Context {
            run: "dry-run".to_owned(),
            step: step.id.clone(),
            idempotency_key: format!("dry-run/{}", step.id),
            attempt: 1,
            deadline: ANSWER_MAX,
            is_dry_run: true,
            actor: actor.to_owned(),
            direction: Direction::Forward,
        };
        let (_, action) = split_action(&step.action).unwrap_or(("", &step.action));
        let late = || ActionError::now("timeout", "it did not answer in time");
        let (description, standing) = match world.actions_at(site.as_deref(), &step.action) {
            None => {
                let why = format!("nobody has the action {}", step.action);
                (Err(ActionError::never("no_provider", why)), None)
            }
            Some(actions) => {
                let describing = timeout(ANSWER_MAX, actions.describe(action, &params));
                let description = describing.await.unwrap_or_else(|_elapsed| Err(late()));
                let standing = if open || left_out.is_some() || description.is_err() {
                    None
                } else {
                    let checking = timeout(ANSWER_MAX, actions.check(action, &context, &params));
                    Some(checking.await.unwrap_or_else(|_elapsed| Err(late())))
                };
                (description, standing)
            }
        };
        found.push(DryStep { id: step.id.clone(), site, description, standing, left_out });
    }
    found
}
