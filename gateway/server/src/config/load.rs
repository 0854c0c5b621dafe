//! Reads the file and the environment, and says what is wrong with them in words.

use std::path::Path;

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Env, Format, Serialized, Toml};

use super::raw::Raw;
use super::{Config, ConfigError};

/// What the environment may override: these and what is below them.
const SECTIONS: [&str; 18] = [
    "data_dir",
    "shards",
    "site",
    "pool",
    "quota",
    "snapshots",
    "points",
    "backup",
    "plugins",
    "recovery",
    "api",
    "metrics",
    "link",
    "nbd",
    "iscsi",
    "mirror",
    "witness",
    "log",
];

/// Loads a configuration: defaults, overridden by `file`, overridden by `TWINSPAN_SECTION__KEY`.
///
/// # Errors
/// The first thing that is wrong.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let (raw, place) = load_raw(file)?;
    raw.validate(&place)
}

/// What is in force, as TOML.
///
/// # Errors
/// As [`load`].
pub fn effective_toml(file: Option<&Path>) -> Result<String, ConfigError> {
    let (raw, place) = load_raw(file)?;
    raw.validate(&place)?;
    Ok(to_toml(&raw))
}

/// The defaults, as TOML.
#[must_use]
pub fn defaults_toml() -> String {
    to_toml(&Raw::default())
}

pub(super) fn to_toml(raw: &Raw) -> String {
    toml_text(&toml::Value::try_from(raw).expect("plain strings, numbers and lists fit TOML"))
}

/// A plain value as TOML writes it.
fn scalar(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => serde_json::Value::from(text.as_str()).to_string(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(yes) => yes.to_string(),
        toml::Value::Array(items) => {
            format!("[{}]", items.iter().map(scalar).collect::<Vec<_>>().join(", "))
        }
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Datetime(_) | toml::Value::Table(_) => String::new(),
    }
}

/// Tables after plain values, as TOML wants it.
fn toml_text(value: &toml::Value) -> String {
    fn table(out: &mut String, name: &str, table_value: &toml::Table, list: bool) {
        if !name.is_empty() {
            let (open, close) = if list { ("[[", "]]") } else { ("[", "]") };
            out.push_str(&format!("\n{open}{name}{close}\n"));
        }
        let is_nested = |value: &toml::Value| {
            value.is_table()
                || value.as_array().is_some_and(|a| a.iter().any(toml::Value::is_table))
        };
        for (key, value) in table_value.iter().filter(|(_, value)| !is_nested(value)) {
            out.push_str(&format!("{key} = {}\n", scalar(value)));
        }
        for (key, value) in table_value.iter().filter(|(_, value)| is_nested(value)) {
            let path = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            match value {
                toml::Value::Table(inner) => table(out, &path, inner, false),
                toml::Value::Array(items) => {
                    for inner in items.iter().filter_map(toml::Value::as_table) {
                        table(out, &path, inner, true);
                    }
                }
                _ => {}
            }
        }
    }
    let mut out = String::new();
    if let Some(root) = value.as_table() {
        table(&mut out, "", root, false);
    }
    out
}

fn load_raw(file: Option<&Path>) -> Result<(Raw, String), ConfigError> {
    let place = file.map_or_else(|| "defaults".to_owned(), |file| file.display().to_string());
    let mut figment = Figment::from(Serialized::defaults(Raw::default()));
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError::File {
            place: place.clone(),
            reason: format!("cannot be read: {error}"),
        })?;
        // Parsed by itself first: figment would hide where a syntax error is.
        text.parse::<toml::Table>().map_err(|error| ConfigError::File {
            place: place.clone(),
            reason: format!("is not TOML: {error}"),
        })?;
        figment = figment.merge(Toml::string(&text));
    }
    figment = figment.merge(environment());
    match figment.extract::<Raw>() {
        Ok(raw) => Ok((raw, place)),
        Err(error) => Err(explain(&error, &place)),
    }
}

fn environment() -> Env {
    Env::prefixed("TWINSPAN_")
        .filter(|key| {
            let key = key.as_str().to_ascii_lowercase();
            let first = key.split("__").next().unwrap_or_default();
            SECTIONS.contains(&first)
        })
        .split("__")
}

fn explain(error: &figment::Error, file: &str) -> ConfigError {
    let from_environment = error
        .metadata
        .as_ref()
        .is_some_and(|metadata| metadata.name.contains("environment variable"));
    let place = if from_environment { "environment (TWINSPAN_*)" } else { file }.to_owned();
    let mut path = error.path.clone();
    match &error.kind {
        Kind::UnknownField(field, expected) => {
            if path.last() != Some(field) {
                path.push(field.clone());
            }
            let nearest = nearest(field, expected).map(|name| {
                let mut path = path.clone();
                path.pop();
                path.push(name.to_owned());
                path.join(".")
            });
            ConfigError::UnknownKey { place, key: path.join("."), nearest }
        }
        kind => ConfigError::Value { place, key: path.join("."), reason: kind.to_string() },
    }
}

/// The most similar of the keys that exist, if any is similar enough to be meant.
fn nearest(key: &str, existing: &[&'static str]) -> Option<&'static str> {
    existing
        .iter()
        .map(|name| (strsim::jaro_winkler(key, name), *name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
