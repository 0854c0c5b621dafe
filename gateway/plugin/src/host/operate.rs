//! What an operator asks of the plugins, and what runs ask.
//!
//! Invariant: what is asked of a plugin was checked against what it described, and what it answers
//! against the contract, before anybody else sees either.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{Plugins, locked};
use crate::bindings::exports::twinspan::plugin::actions::Standing as Stands;
use crate::bindings::exports::twinspan::plugin::placement::Proposal;
use crate::bindings::exports::twinspan::plugin::plugin::{Descriptor, HealthReport};
use crate::bindings::twinspan::plugin::types::{
    Context, Diagnostic, Error, Group, Mode, Outcome, Report, Severity, Site,
};
use crate::error::CallError;
use crate::grants::{Grant, Grants};
use crate::instance::Allowance;
use crate::limits::{JSON_BYTES_MAX, TOKEN_BYTES_MAX};
use crate::loaded::About;
use crate::logs::Line;
use crate::shelf::{Settings, ShelfError};

/// How a plugin stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// What is loaded, if anything is.
    pub about: Option<Arc<About>>,
    /// What it was granted.
    pub granted: Grants,
    /// Its configuration, if it was set.
    pub config: Option<Value>,
    /// Why its file, or a newer one, is not taken.
    pub refused: Option<String>,
    /// For how long it rests, and why.
    pub rests: Option<(Duration, String)>,
}

impl Standing {
    /// What it wants and was not granted.
    pub fn missing(&self) -> impl Iterator<Item = &Grant> {
        let wants = self.about.iter().flat_map(|about| about.wants.iter());
        wants.filter(|want| !self.granted.has(want))
    }
}

/// Why an operator's word was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The plugin could not be asked, or does not exist.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It could not be kept.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// The configuration is wrong.
    #[error("the configuration: {0}")]
    Config(String),
}

fn json(value: &Value) -> String {
    value.to_string()
}

impl Plugins {
    /// All of them, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Standing> {
        let slots: Vec<_> = locked(&self.0.slots).values().cloned().collect();
        slots.iter().map(|slot| Self::standing(slot)).collect()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Standing> {
        self.slot(name).ok().map(|slot| Self::standing(&slot))
    }

    fn standing(slot: &super::Slot) -> Standing {
        let (settings, _) = locked(&slot.settings).clone();
        let rests = match locked(&slot.health).may(Instant::now()) {
            Err(CallError::Resting { left, why }) => Some((left, why)),
            _ => None,
        };
        Standing {
            name: slot.name.to_string(),
            about: slot.loaded().map(|loaded| Arc::clone(&loaded.about)),
            granted: settings.grants.clone(),
            config: settings.config.clone(),
            refused: locked(&slot.refused).as_ref().map(|(_, why)| why.clone()),
            rests,
        }
    }

    /// The last lines that a plugin said, oldest first.
    ///
    /// # Errors
    /// [`CallError::Unknown`].
    pub fn logs(&self, name: &str) -> Result<Vec<Line>, CallError> {
        Ok(self.slot(name)?.logs.lines())
    }

    /// Sets what a plugin may: exactly this. It holds from its next call on.
    ///
    /// # Errors
    /// [`Refused::Call`] for an unknown one, [`Refused::Shelf`].
    pub fn grant(&self, name: &str, grants: Grants) -> Result<(), Refused> {
        self.change(name, |settings| settings.grants = grants)
    }

    /// Sets a plugin's configuration, if it fits its schema and the plugin has nothing against it.
    /// Answers the plugin's remarks.
    ///
    /// # Errors
    /// [`Refused`]; then the one before stays.
    pub async fn configure(&self, name: &str, config: Value) -> Result<Vec<Diagnostic>, Refused> {
        let loaded = self.slot(name)?.loaded();
        let loaded = loaded.ok_or_else(|| CallError::Unknown(name.to_owned()))?;
        if json(&config).len() > JSON_BYTES_MAX {
            return Err(Refused::Config(format!("it has more than {JSON_BYTES_MAX} bytes")));
        }
        loaded.about.fits(&config).map_err(Refused::Config)?;
        let text = json(&config);
        let remarks: Vec<Diagnostic> = self
            .call((name, None), "check-config", Allowance::PURE, |store, linked, instance| {
                Box::pin(async move {
                    let plugin = linked.plugin(store, &instance)?;
                    plugin.call_check_config(store, &text).await
                })
            })
            .await?;
        if let Some(wrong) = remarks.iter().find(|remark| remark.severity == Severity::Error) {
            return Err(Refused::Config(wrong.message.clone()));
        }
        self.change(name, |settings| settings.config = Some(config))?;
        Ok(remarks)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Settings)) -> Result<(), Refused> {
        let slot = self.slot(name)?;
        let mut settings = (*locked(&slot.settings).0).clone();
        change(&mut settings);
        self.0.shelf.set(name, &settings)?;
        slot.set(settings);
        Ok(())
    }

    /// Asks a plugin once more who it is.
    pub(crate) async fn descriptor(&self, name: &str) -> Result<Descriptor, CallError> {
        self.call((name, None), "describe", Allowance::PURE, |store, linked, instance| {
            Box::pin(async move {
                let plugin = linked.plugin(store, &instance)?;
                plugin.call_describe(store).await
            })
        })
        .await
    }

    /// Forgets a plugin's faults: it is called again at once.
    pub(crate) fn forgive(&self, name: &str) {
        if let Ok(slot) = self.slot(name) {
            *locked(&slot.health) = Default::default();
        }
    }

    /// Asks a plugin whether it could work now.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn probe(&self, name: &str) -> Result<Result<HealthReport, Error>, CallError> {
        self.call((name, None), "probe", Allowance::ASK, |store, linked, instance| {
            Box::pin(async move {
                let plugin = linked.plugin(store, &instance)?;
                plugin.call_probe(store).await
            })
        })
        .await
    }

    /// What of a plugin's action holds for a call: its limit, after its parameters were found to fit.
    fn action(&self, plugin: &str, name: &str, params: &Value) -> Result<Allowance, CallError> {
        let loaded = self.slot(plugin)?.loaded();
        let loaded = loaded.ok_or_else(|| CallError::Unknown(plugin.to_owned()))?;
        let unknown = || CallError::UnknownAction(name.to_owned());
        let action = loaded.about.actions.get(name).ok_or_else(unknown)?;
        action.fits(params).map_err(CallError::Parameters)?;
        Ok(Allowance::action(action.limit))
    }

    /// What an action would do: a summary, and warnings.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn describe_action(
        &self,
        (plugin, name): (&str, &str),
        params: &Value,
    ) -> Result<Result<(String, Vec<String>), Error>, CallError> {
        self.action(plugin, name, params)?;
        let (name, params) = (name.to_owned(), json(params));
        let said = self
            .call((plugin, None), "actions.describe", Allowance::ASK, |store, linked, instance| {
                Box::pin(async move {
                    let actions = linked.actions(store, &instance)?;
                    actions.call_describe(store, &name, &params).await
                })
            })
            .await?;
        Ok(said.map(|said| (said.summary, said.warnings)))
    }

    /// Whether an action could be run now.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn check_action(
        &self,
        (plugin, name): (&str, &str),
        ctx: Context,
        params: &Value,
    ) -> Result<Result<Stands, Error>, CallError> {
        let allowed = self.action(plugin, name, params)?;
        let (name, params, run) = (name.to_owned(), json(params), run_of(&ctx));
        self.call((plugin, run), "actions.check", allowed, |store, linked, instance| {
            Box::pin(async move {
                let actions = linked.actions(store, &instance)?;
                actions.call_check(store, &ctx, &name, &params).await
            })
        })
        .await
    }

    /// Runs an action, or begins it.
    ///
    /// # Errors
    /// [`CallError`]: the effect may be there all the same.
    pub async fn run_action(
        &self,
        (plugin, name): (&str, &str),
        ctx: Context,
        params: &Value,
    ) -> Result<Result<Outcome, Error>, CallError> {
        let allowed = self.action(plugin, name, params)?;
        let (name, params, run) = (name.to_owned(), json(params), run_of(&ctx));
        let said = self
            .call((plugin, run), "actions.run", allowed, |store, linked, instance| {
                Box::pin(async move {
                    let actions = linked.actions(store, &instance)?;
                    actions.call_run(store, &ctx, &name, &params).await
                })
            })
            .await?;
        outcome(said)
    }

    /// Goes on with an action that is pending, or has asked.
    ///
    /// # Errors
    /// [`CallError`]: the effect may be there all the same.
    pub async fn resume_action(
        &self,
        (plugin, name): (&str, &str),
        ctx: Context,
        params: &Value,
        (token, answer): (&Value, Option<String>),
    ) -> Result<Result<Outcome, Error>, CallError> {
        let allowed = self.action(plugin, name, params)?;
        let (name, params, token, run) = (name.to_owned(), json(params), json(token), run_of(&ctx));
        let said = self
            .call((plugin, run), "actions.resume", allowed, |store, linked, instance| {
                Box::pin(async move {
                    let actions = linked.actions(store, &instance)?;
                    actions
                        .call_resume(store, &ctx, &name, &params, &token, answer.as_deref())
                        .await
                })
            })
            .await?;
        outcome(said)
    }

    /// Undoes an action.
    ///
    /// # Errors
    /// [`CallError`]: it may be undone all the same.
    pub async fn undo_action(
        &self,
        (plugin, name): (&str, &str),
        ctx: Context,
        params: &Value,
        done: Report,
    ) -> Result<Result<Outcome, Error>, CallError> {
        let allowed = self.action(plugin, name, params)?;
        let (name, params, run) = (name.to_owned(), json(params), run_of(&ctx));
        let said = self
            .call((plugin, run), "actions.undo", allowed, |store, linked, instance| {
                Box::pin(async move {
                    let actions = linked.actions(store, &instance)?;
                    actions.call_undo(store, &ctx, &name, &params, &done).await
                })
            })
            .await?;
        outcome(said)
    }

    /// Every plugin that has rules for where copies lie.
    #[must_use]
    pub fn placing(&self) -> Vec<String> {
        let places =
            |of: &Standing| of.about.as_ref().is_some_and(|a| a.exports.contains(&"placement"));
        self.list().into_iter().filter(places).map(|of| of.name).collect()
    }

    /// What a plugin has against a session.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn check_session(
        &self,
        plugin: &str,
        ctx: Context,
        proposal: Proposal,
    ) -> Result<Result<Vec<Diagnostic>, Error>, CallError> {
        self.call(
            (plugin, None),
            "placement.check-session",
            Allowance::ASK,
            |store, linked, instance| {
                Box::pin(async move {
                    let placement = linked.placement(store, &instance)?;
                    placement.call_check_session(store, &ctx, &proposal).await
                })
            },
        )
        .await
    }

    /// Sites that could be the destination of a volume, the best first.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn suggest(
        &self,
        plugin: &str,
        ctx: Context,
        (source, mode, sites): (Site, Mode, Vec<Site>),
    ) -> Result<Result<Vec<String>, Error>, CallError> {
        self.call(
            (plugin, None),
            "placement.suggest",
            Allowance::ASK,
            move |store, linked, instance| {
                Box::pin(async move {
                    let placement = linked.placement(store, &instance)?;
                    placement.call_suggest(store, &ctx, &source, mode, &sites).await
                })
            },
        )
        .await
    }

    /// What a plugin can plan.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn plan_kinds(&self, plugin: &str) -> Result<Vec<String>, CallError> {
        self.call((plugin, None), "plans.kinds", Allowance::PURE, |store, linked, instance| {
            Box::pin(async move {
                let plans = linked.plans(store, &instance)?;
                plans.call_kinds(store).await
            })
        })
        .await
    }

    /// A plan of a plugin's, as JSON; nobody has checked it yet.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn make_plan(
        &self,
        (plugin, kind): (&str, &str),
        ctx: Context,
        (groups, options): (Vec<Group>, Value),
    ) -> Result<Result<Value, Error>, CallError> {
        let (kind, options) = (kind.to_owned(), json(&options));
        let said = self
            .call((plugin, None), "plans.make", Allowance::ASK, |store, linked, instance| {
                Box::pin(async move {
                    let plans = linked.plans(store, &instance)?;
                    plans.call_make(store, &ctx, &kind, &groups, &options).await
                })
            })
            .await?;
        match said {
            Ok(text) => serde_json::from_str(&text)
                .map(Ok)
                .map_err(|error| CallError::Answer(format!("its plan is no JSON: {error}"))),
            Err(error) => Ok(Err(error)),
        }
    }

    /// What a plugin has against a plan that names it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn check_plan(
        &self,
        plugin: &str,
        ctx: Context,
        plan: &Value,
    ) -> Result<Result<Vec<Diagnostic>, Error>, CallError> {
        let plan = json(plan);
        self.call((plugin, None), "plans.check", Allowance::ASK, |store, linked, instance| {
            Box::pin(async move {
                let plans = linked.plans(store, &instance)?;
                plans.call_check(store, &ctx, &plan).await
            })
        })
        .await
    }
}

/// The run and the step of a call, if it is of one.
fn run_of(ctx: &Context) -> Option<(String, String)> {
    (!ctx.run.is_empty()).then(|| (ctx.run.clone(), ctx.step.clone()))
}

/// What an action answered, if it fits the contract.
fn outcome(said: Result<Outcome, Error>) -> Result<Result<Outcome, Error>, CallError> {
    let token = match &said {
        Ok(Outcome::Pending(pending)) => Some(&pending.token),
        Ok(Outcome::Ask(question)) => Some(&question.token),
        Ok(Outcome::Done(_) | Outcome::Skipped(_)) | Err(_) => None,
    };
    if let Some(token) = token {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(CallError::Answer(format!(
                "its token has more than {TOKEN_BYTES_MAX} bytes"
            )));
        }
        if let Err(error) = serde_json::from_str::<Value>(token) {
            return Err(CallError::Answer(format!("its token is no JSON: {error}")));
        }
    }
    Ok(said)
}
