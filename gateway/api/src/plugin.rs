//! Plugins: components that do what differs from cloud to cloud, and what they may.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a plugin stands.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// It can be called.
    Loaded,
    /// It can be called, and wants what it was not granted.
    Ungranted,
    /// It failed again and again, and is not called for a while.
    Resting,
    /// Its file is not taken, and nothing else of its name is loaded.
    Refused,
}

/// One thing that a plugin can do.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct PluginAction {
    /// Its name; a plan's step names `PLUGIN/NAME`.
    pub name: String,
    /// One line.
    pub title: String,
    /// JSON Schema of its parameters.
    #[schema(value_type = Object)]
    pub params_schema: serde_json::Value,
    /// Whether it can be undone.
    pub is_reversible: bool,
    /// How long one call of it may take.
    pub limit_seconds: u64,
}

/// What a plugin says of itself.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct PluginAbout {
    /// Who made it.
    pub vendor: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// SHA-256 of its component, in hexadecimal.
    pub digest: String,
    /// What it exports: `actions`, `placement`, `plans`, `upkeep`.
    pub exports: Vec<String>,
    /// What it wants to be granted.
    pub wants: Vec<String>,
    /// JSON Schema of its configuration.
    #[schema(value_type = Object)]
    pub config_schema: serde_json::Value,
    /// What it can do.
    pub actions: Vec<PluginAction>,
}

/// A plugin.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct Plugin {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: PluginState,
    /// What is loaded; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<PluginAbout>,
    /// What it was granted: `http:HOST`, `secret:NAME`, `reveal:NAME`, `kv`, `volumes`,
    /// `folder:VOLUME`.
    pub granted: Vec<String>,
    /// What it wants and was not granted.
    pub missing: Vec<String>,
    /// Its configuration, if it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub config: Option<serde_json::Value>,
    /// Why its file, or a newer one, is not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// For how long it is not called, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resting: Option<PluginRest>,
}

/// A rest.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PluginRest {
    /// How long it lasts from now.
    pub seconds: u64,
    /// The last fault.
    pub why: String,
}

/// All plugins, by name.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq)]
pub struct PluginList {
    /// Them.
    pub items: Vec<Plugin>,
}

/// Changes what a plugin may.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PluginGrants {
    /// What is granted: `http:HOST`, `http:HOST:PORT`, `secret:NAME`, `reveal:NAME`, `kv`, `volumes`,
    /// `folder:VOLUME`.
    #[serde(default)]
    pub grant: Vec<String>,
    /// What is taken back.
    #[serde(default)]
    pub revoke: Vec<String>,
}

/// Whether a plugin could work now.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum PluginHealth {
    /// It could.
    Ok,
    /// Not all of it.
    Degraded,
    /// It could not.
    Failed,
}

/// What a plugin says when it is asked whether it could work now.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PluginProbe {
    /// Whether.
    pub health: PluginHealth,
    /// In words.
    pub message: String,
}

/// A line that a plugin said.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PluginLine {
    /// When, RFC 3339.
    pub at: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// What.
    pub text: String,
}

/// The last lines of a plugin, oldest first.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PluginLog {
    /// Them; at most 1000.
    pub items: Vec<PluginLine>,
}

/// A word that a plugin can be told.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PluginWord {
    /// The word.
    pub name: String,
    /// What for.
    pub meaning: String,
}

/// The words that a plugin can be told.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct PluginWords {
    /// They.
    pub items: Vec<PluginWord>,
}
