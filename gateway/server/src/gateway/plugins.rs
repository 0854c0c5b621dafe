//! Plugins as operators see and change them.
//!
//! Invariant: what fails in a plugin is told with its name and refuses what it was asked about; it
//! touches nothing that runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{
    Code, Plugin, PluginAbout, PluginAction, PluginGrants, PluginHealth, PluginLine, PluginList,
    PluginLog, PluginProbe, PluginRest, PluginState,
};
use plugin::contract::{Context, Health};
use plugin::{About, CallError, Grant, Grants, Level, LoadError, Plugins, Standing};
use uuid::Uuid;

use super::Gateway;
use crate::clock::text;
use crate::plugins::actions::Provider;
use crate::refusal::Refused;
use crate::runs::core::CORE;

pub(crate) fn call_code(error: &CallError) -> Code {
    match error {
        CallError::Unknown(_) | CallError::UnknownAction(_) | CallError::Unsupported(_) => {
            Code::PluginUnknown
        }
        CallError::Parameters(_) => Code::Invalid,
        CallError::Resting { .. }
        | CallError::Trap(_)
        | CallError::Cpu(_)
        | CallError::Time(_)
        | CallError::Memory(_)
        | CallError::Output(_)
        | CallError::Answer(_) => Code::PluginFailed,
        CallError::Stopped => Code::Starting,
    }
}

/// A call that came to no answer, as an operator is told.
pub(super) fn call_failed(plugin: &str, error: &CallError) -> Refused {
    Refused::new(call_code(error), format!("plugin {plugin}: {error}"))
}

pub(super) fn said_no(plugin: &str, error: &plugin::contract::Error) -> Refused {
    let code = error.vendor_code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
    Refused::new(Code::PluginFailed, format!("plugin {plugin}: {}{code}", error.message))
}

fn not_set(plugin: &str, error: &plugin::Refused) -> Refused {
    match error {
        plugin::Refused::Call(error) => call_failed(plugin, error),
        plugin::Refused::Shelf(error) => Refused::new(Code::PoolFailed, error.to_string()),
        plugin::Refused::Config(why) => Refused::new(Code::PluginConfig, why.clone()),
    }
}

fn about(about: &About) -> PluginAbout {
    let action = |action: &plugin::Action| PluginAction {
        name: action.name.clone(),
        title: action.title.clone(),
        params_schema: action.params_schema.clone(),
        is_reversible: action.is_reversible,
        limit_seconds: action.limit.as_secs(),
    };
    PluginAbout {
        vendor: about.vendor.clone(),
        version: about.version.clone(),
        description: about.description.clone(),
        digest: about.digest.clone(),
        exports: about.exports.iter().map(ToString::to_string).collect(),
        wants: about.wants.iter().map(ToString::to_string).collect(),
        config_schema: about.config_schema.clone(),
        actions: about.actions.values().map(action).collect(),
    }
}

fn shown(of: &Standing) -> Plugin {
    let missing: Vec<String> = of.missing().map(ToString::to_string).collect();
    let state = match (&of.about, &of.rests) {
        (None, _) => PluginState::Refused,
        (Some(_), Some(_)) => PluginState::Resting,
        (Some(_), None) if !missing.is_empty() => PluginState::Ungranted,
        (Some(_), None) => PluginState::Loaded,
    };
    let rest = of.rests.as_ref();
    Plugin {
        name: of.name.clone(),
        state,
        about: of.about.as_deref().map(about),
        granted: of.granted.iter().map(ToString::to_string).collect(),
        missing,
        config: of.config.clone(),
        refused: of.refused.clone(),
        resting: rest.map(|(left, why)| PluginRest { seconds: left.as_secs(), why: why.clone() }),
    }
}

impl Gateway {
    pub(super) fn plugins(&self) -> Result<&Plugins, Refused> {
        self.plugins.as_ref().ok_or_else(|| {
            Refused::new(Code::PluginsDown, "the system does not let plugins be run here")
        })
    }

    fn plugin(&self, name: &str) -> Result<Standing, Refused> {
        let none = || call_failed(name, &CallError::Unknown(name.to_owned()));
        self.plugins()?.get(name).ok_or_else(none)
    }

    /// All plugins.
    ///
    /// # Errors
    /// [`Code::PluginsDown`]; so all below.
    pub(crate) fn show_plugins(&self) -> Result<PluginList, Refused> {
        Ok(PluginList { items: self.plugins()?.list().iter().map(shown).collect() })
    }

    /// One plugin.
    ///
    /// # Errors
    /// [`Code::PluginUnknown`]; so all below that name one.
    pub(crate) fn show_plugin(&self, name: &str) -> Result<Plugin, Refused> {
        Ok(shown(&self.plugin(name)?))
    }

    /// Takes a component, in the place of one of its name.
    ///
    /// # Errors
    /// [`Code::PluginRefused`]; then nothing has changed.
    pub(crate) async fn install_plugin(
        &self,
        component: Vec<u8>,
        signature: Option<Vec<u8>>,
    ) -> Result<Plugin, Refused> {
        let installed = self.plugins()?.install(component, signature).await;
        let about = installed.map_err(|error| {
            let code = match error {
                LoadError::File { .. } => Code::PoolFailed,
                _ => Code::PluginRefused,
            };
            Refused::new(code, error.to_string())
        })?;
        self.offer_plugins();
        self.ring();
        let what = format!("version {} is loaded ({})", about.version, about.digest);
        self.events.tell("plugin", &about.name, what);
        self.show_plugin(&about.name)
    }

    /// Removes a plugin; with `forgets` also what it was granted and what it kept.
    ///
    /// # Errors
    /// [`Code::PluginUnknown`], unless what is kept of it is to be forgotten; [`Code::PoolFailed`].
    pub(crate) async fn remove_plugin(&self, name: &str, forgets: bool) -> Result<(), Refused> {
        if !forgets {
            self.plugin(name)?;
        }
        let removed = self.plugins()?.remove(name, forgets).await;
        removed.map_err(|error| Refused::new(Code::PoolFailed, error.to_string()))?;
        self.offer_plugins();
        self.events.tell("plugin", name, "removed");
        Ok(())
    }

    /// Changes what a plugin may.
    ///
    /// # Errors
    /// [`Code::Invalid`] for what is no grant.
    pub(crate) fn grant_plugin(
        &self,
        name: &str,
        wanted: &PluginGrants,
    ) -> Result<Plugin, Refused> {
        let parse = |texts: &[String]| {
            let parsed =
                texts.iter().map(|text| text.parse::<Grant>()).collect::<Result<Vec<_>, _>>();
            parsed.map_err(|error| Refused::new(Code::Invalid, error.to_string()))
        };
        let (more, less) = (parse(&wanted.grant)?, parse(&wanted.revoke)?);
        let has = self.plugin(name)?.granted;
        let stay = has.iter().filter(|grant| !less.contains(grant)).cloned();
        let grants = Grants::new(stay.chain(more));
        let text = grants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.plugins()?.grant(name, grants).map_err(|error| not_set(name, &error))?;
        let text = if text.is_empty() { "nothing is granted".to_owned() } else { text };
        self.events.tell("plugin", name, format!("granted: {text}"));
        self.ring();
        self.show_plugin(name)
    }

    /// Sets a plugin's configuration.
    ///
    /// # Errors
    /// [`Code::PluginConfig`], [`Code::PluginFailed`]; then the one before stays.
    pub(crate) async fn configure_plugin(
        &self,
        name: &str,
        config: serde_json::Value,
    ) -> Result<Plugin, Refused> {
        self.plugin(name)?;
        let set = self.plugins()?.configure(name, config).await;
        set.map_err(|error| not_set(name, &error))?;
        self.events.tell("plugin", name, "configured");
        self.ring();
        self.show_plugin(name)
    }

    /// Asks a plugin whether it could work now.
    ///
    /// # Errors
    /// [`Code::PluginFailed`].
    pub(crate) async fn probe_plugin(&self, name: &str) -> Result<PluginProbe, Refused> {
        let report =
            self.plugins()?.probe(name).await.map_err(|error| call_failed(name, &error))?;
        let report = report.map_err(|error| said_no(name, &error))?;
        let health = match report.health {
            Health::Ok => PluginHealth::Ok,
            Health::Degraded => PluginHealth::Degraded,
            Health::Failed => PluginHealth::Failed,
        };
        Ok(PluginProbe { health, message: report.message })
    }

    /// The last lines of a plugin.
    pub(crate) fn plugin_log(&self, name: &str) -> Result<PluginLog, Refused> {
        let lines = self.plugins()?.logs(name).map_err(|error| call_failed(name, &error))?;
        let line = |line: plugin::Line| {
            let level = match line.level {
                Level::Debug => "debug",
                Level::Info => "info",
                Level::Warn => "warn",
                Level::Error => "error",
            };
            PluginLine { at: text(line.at_ms), level: level.to_owned(), text: line.text }
        };
        Ok(PluginLog { items: lines.into_iter().map(line).collect() })
    }

    /// Loads what lies in the directory of plugins, and lets runs call it.
    pub(crate) async fn load_plugins(&self) {
        if let Some(plugins) = &self.plugins {
            plugins.scan().await;
            self.offer_plugins();
        }
    }

    /// Lets steps of runs call the plugins that are loaded, and no others.
    pub(crate) fn offer_plugins(&self) {
        let Some(plugins) = &self.plugins else { return };
        let registry = &self.runs.registry;
        let has_actions =
            |of: &Standing| of.about.as_ref().is_some_and(|about| !about.actions.is_empty());
        let loaded: BTreeSet<String> =
            plugins.list().into_iter().filter(has_actions).map(|of| of.name).collect();
        let offered: BTreeSet<String> =
            registry.providers().into_iter().filter(|provider| provider != CORE).collect();
        for gone in offered.difference(&loaded) {
            registry.remove(gone);
        }
        for new in loaded.difference(&offered) {
            registry.put(new, Arc::new(Provider::new(plugins.clone(), new.clone(), self.clock)));
        }
    }

    /// What a call is told that is of no run.
    pub(super) fn aside(&self, actor: &str) -> Context {
        Context {
            run: String::new(),
            step: String::new(),
            idempotency_key: Uuid::now_v7().to_string(),
            attempt: 1,
            deadline: self.clock.unix_ms().saturating_add(30_000),
            dry_run: true,
            actor: actor.to_owned(),
            is_undo: false,
        }
    }
}
