//! A component, from its bytes to something that can be called: compiled, linked, and asked who it is.
//!
//! Invariant: what is here described itself within its limits, and all that it said was checked; nobody
//! checks it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jsonschema::Validator;
use serde_json::Value;
use wasmtime::component::{Component, HasSelf, Instance, InstancePre, Linker};
use wasmtime::{Engine, Store};

use crate::bindings::EveryPart;
use crate::bindings::exports::twinspan::plugin::plugin::Descriptor;
use crate::bindings::exports::twinspan::plugin::{actions, placement, plans, plugin, upkeep};
use crate::error::LoadError;
use crate::grants::{Grant, Grants, is_plain_name};
use crate::instance::State;
use crate::limits::{ACTION_SECONDS_MAX, ACTIONS_MAX, JSON_BYTES_MAX, WANTS_MAX};

/// What no plugin is called: actions of this name are the gateway's.
const RESERVED: &str = "core";
/// What this gateway serves.
const CONTRACT: &str = "twinspan:plugin";
/// Its versions.
const SERVED: &str = "0.1";

/// One thing that a plugin can do.
#[derive(Debug)]
pub struct Action {
    /// Its name.
    pub name: String,
    /// One line.
    pub title: String,
    /// The schema of its parameters.
    pub params_schema: Value,
    /// Whether it can be undone.
    pub is_reversible: bool,
    /// How long one call of it may take.
    pub limit: Duration,
    validator: Validator,
}

impl Action {
    /// Whether parameters fit, in words.
    ///
    /// # Errors
    /// What does not, and where.
    pub(crate) fn fits(&self, params: &Value) -> Result<(), String> {
        fits(&self.validator, params)
    }
}

fn fits(validator: &Validator, value: &Value) -> Result<(), String> {
    let wrong: Vec<_> = validator
        .iter_errors(value)
        .take(5)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// What a plugin said of itself.
#[derive(Debug)]
pub struct About {
    /// Its name.
    pub name: Arc<str>,
    /// Who made it.
    pub vendor: String,
    /// Its version, as it says it.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// SHA-256 of its component, in hexadecimal.
    pub digest: String,
    /// What it exports: `actions`, `placement`, `plans`, `upkeep`.
    pub exports: Vec<&'static str>,
    /// What it wants.
    pub wants: Grants,
    /// The schema of its configuration.
    pub config_schema: Value,
    /// What it can do, by name.
    pub actions: BTreeMap<String, Action>,
    config_validator: Validator,
}

impl About {
    /// What it can do of its parts, in one word for metrics.
    pub(crate) fn world(&self) -> String {
        if self.exports.is_empty() { "base".to_owned() } else { self.exports.join("+") }
    }

    /// Whether a configuration fits its schema, in words.
    ///
    /// # Errors
    /// What does not.
    pub(crate) fn fits(&self, config: &Value) -> Result<(), String> {
        fits(&self.config_validator, config)
    }
}

/// A component that can be instantiated, and where its exports are.
pub(crate) struct Linked {
    /// Ready to be instantiated.
    pub(crate) pre: InstancePre<State>,
    plugin: plugin::GuestIndices,
    actions: Option<actions::GuestIndices>,
    placement: Option<placement::GuestIndices>,
    plans: Option<plans::GuestIndices>,
    upkeep: Option<upkeep::GuestIndices>,
}

/// It does not export that part.
#[derive(Debug, thiserror::Error)]
#[error("it does not export {0}")]
pub(crate) struct Missing(pub(crate) &'static str);

/// What components may import, ready to be linked.
///
/// # Errors
/// When the engine refuses it, which is a mistake of ours.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    EveryPart::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// SHA-256, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Linked {
    /// Compiles, or takes from the cache, and links. Takes seconds for a large component.
    ///
    /// # Errors
    /// [`LoadError`], any but those of what it says of itself.
    pub(crate) fn new(linker: &Linker<State>, bytes: &[u8]) -> Result<Self, LoadError> {
        let engine = linker.engine();
        let component = Component::new(engine, bytes)
            .map_err(|error| LoadError::NoComponent(format!("{error:#}")))?;
        check_contract(engine, &component)?;
        let pre = linker
            .instantiate_pre(&component)
            .map_err(|error| LoadError::Import(format!("{error:#}")))?;
        let plugin = plugin::GuestIndices::new(&pre)
            .map_err(|_missing| LoadError::NotAPlugin(format!("{CONTRACT}/plugin")))?;
        let exports = |name: &str| {
            let name = format!("{CONTRACT}/{name}@");
            component.component_type().exports(engine).any(|(export, _)| export.starts_with(&name))
        };
        // An interface that is there and does not fit is an error; one that is not there is none.
        let wrong = |error: wasmtime::Error| LoadError::NotAPlugin(format!("{error:#}"));
        let part = |name| exports(name).then_some(&pre);
        Ok(Self {
            plugin,
            actions: part("actions").map(actions::GuestIndices::new).transpose().map_err(wrong)?,
            placement: part("placement")
                .map(placement::GuestIndices::new)
                .transpose()
                .map_err(wrong)?,
            plans: part("plans").map(plans::GuestIndices::new).transpose().map_err(wrong)?,
            upkeep: part("upkeep").map(upkeep::GuestIndices::new).transpose().map_err(wrong)?,
            pre,
        })
    }

    /// What every plugin exports, of an instance.
    ///
    /// # Errors
    /// None for a component that was linked; the engine's signature has one.
    pub(crate) fn plugin(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<plugin::Guest> {
        self.plugin.load(store, instance)
    }

    /// Steps for plans, of an instance.
    ///
    /// # Errors
    /// [`Missing`].
    pub(crate) fn actions(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<actions::Guest> {
        self.actions.as_ref().ok_or(Missing("actions"))?.load(store, instance)
    }

    /// Rules for where copies lie, of an instance.
    ///
    /// # Errors
    /// [`Missing`].
    pub(crate) fn placement(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<placement::Guest> {
        self.placement.as_ref().ok_or(Missing("placement"))?.load(store, instance)
    }

    /// Plans, of an instance.
    ///
    /// # Errors
    /// [`Missing`].
    pub(crate) fn plans(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<plans::Guest> {
        self.plans.as_ref().ok_or(Missing("plans"))?.load(store, instance)
    }

    /// What it does between runs, of an instance.
    ///
    /// # Errors
    /// [`Missing`].
    pub(crate) fn upkeep(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<upkeep::Guest> {
        self.upkeep.as_ref().ok_or(Missing("upkeep"))?.load(store, instance)
    }

    /// Its parts, by name.
    fn exports(&self) -> Vec<&'static str> {
        let parts = [
            ("actions", self.actions.is_some()),
            ("placement", self.placement.is_some()),
            ("plans", self.plans.is_some()),
            ("upkeep", self.upkeep.is_some()),
        ];
        parts.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
    }

    /// Checks what it said of itself.
    ///
    /// # Errors
    /// [`LoadError::Descriptor`].
    pub(crate) fn about(&self, digest: &str, said: Descriptor) -> Result<About, LoadError> {
        let wrong = LoadError::Descriptor;
        if !is_plain_name(&said.name) {
            let name = said.name.escape_debug();
            return Err(wrong(format!(
                "its name {name:?}: lower case letters, digits and hyphens, at most 63"
            )));
        }
        if said.name == RESERVED {
            return Err(wrong(format!("{RESERVED} is the gateway's own name among actions")));
        }
        if said.actions.len() > ACTIONS_MAX || said.wants.len() > WANTS_MAX {
            return Err(wrong(format!("more than {ACTIONS_MAX} actions or {WANTS_MAX} wishes")));
        }
        if !said.actions.is_empty() && self.actions.is_none() {
            return Err(wrong("it describes actions and does not export them".to_owned()));
        }
        let wants = said.wants.iter().map(Grant::wanted).collect::<Result<Vec<_>, _>>();
        let wants = Grants::new(wants.map_err(|error| wrong(error.to_string()))?);
        let mut actions = BTreeMap::new();
        for action in said.actions {
            let name = action.name.clone();
            let of =
                |why: String| wrong(format!("action {:?}: {why}", name.escape_debug().to_string()));
            if !is_plain_name(&name) {
                return Err(of("its name: lower case letters, digits and hyphens".to_owned()));
            }
            if !(1..=ACTION_SECONDS_MAX).contains(&action.timeout_s) {
                return Err(of(format!("its limit of time must be 1 to {ACTION_SECONDS_MAX} s")));
            }
            let (params_schema, validator) = schema(&action.params_schema).map_err(of)?;
            let action = Action {
                name: name.clone(),
                title: action.title,
                params_schema,
                is_reversible: action.is_reversible,
                limit: Duration::from_secs(action.timeout_s.into()),
                validator,
            };
            if actions.insert(name.clone(), action).is_some() {
                return Err(wrong(format!("action {name} is there twice")));
            }
        }
        let (config_schema, config_validator) = schema(&said.config_schema)
            .map_err(|why| wrong(format!("its configuration: {why}")))?;
        Ok(About {
            name: said.name.into(),
            vendor: said.vendor,
            version: said.version,
            description: said.description,
            digest: digest.to_owned(),
            exports: self.exports(),
            wants,
            config_schema,
            actions,
            config_validator,
        })
    }
}

/// A schema, ready to be used. Nothing is fetched for it.
fn schema(text: &str) -> Result<(Value, Validator), String> {
    if text.len() > JSON_BYTES_MAX {
        return Err(format!("its schema has more than {JSON_BYTES_MAX} bytes"));
    }
    let schema: Value =
        serde_json::from_str(text).map_err(|error| format!("its schema is no JSON: {error}"))?;
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err("its schema is not of an object (\"type\": \"object\")".to_owned());
    }
    let validator = jsonschema::draft202012::options()
        .build(&schema)
        .map_err(|error| format!("its schema: {error}"))?;
    Ok((schema, validator))
}

/// Whether it was built for a contract that is served here: told before the engine says it in its own
/// words.
fn check_contract(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    let ty = component.component_type();
    let imports = ty.imports(engine).map(|(name, _)| name.to_owned());
    let exports = ty.exports(engine).map(|(name, _)| name.to_owned());
    for name in imports.chain(exports) {
        let Some((_, version)) = name
            .strip_prefix(CONTRACT)
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|rest| rest.split_once('@'))
        else {
            continue;
        };
        if version != SERVED && !version.starts_with(&format!("{SERVED}.")) {
            let served = format!("{CONTRACT} {SERVED}");
            return Err(LoadError::Contract { needed: name, served });
        }
    }
    Ok(())
}
