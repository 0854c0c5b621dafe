//! `[plugins]`: where components lie, whose are taken, and which secrets may be granted to them.
//!
//! Invariant: no secret stands in the configuration. Each is named by a file or found in the
//! environment, and is read when it is used, so that a new one needs no restart.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::validate::Place;

/// `[plugins]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPlugins {
    /// Where components lie, as `NAME.wasm`; empty: `plugins` below the data directory.
    pub directory: String,
    /// PEM files of public keys (Ed25519). Where there are any, only components are taken that one of
    /// them signed.
    pub trusted_keys: Vec<String>,
    /// Secrets that can be granted, as `NAME=FILE`; a name without a file is looked for in the
    /// environment, as `TWINSPAN_SECRET_NAME`.
    pub secrets: Vec<String>,
}

/// Plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginsConfig {
    /// Where components lie.
    pub directory: PathBuf,
    /// Whose are taken; anybody's if there are none.
    pub keys: Vec<plugin::Key>,
    /// Secrets, and the files that hold them; `None`: the environment does.
    pub secrets: Vec<(String, Option<PathBuf>)>,
}

/// Proves them.
///
/// # Errors
/// The first value that cannot be used.
pub(super) fn plugins(
    at: &Place<'_>,
    raw: &RawPlugins,
    data_dir: &str,
) -> Result<PluginsConfig, ConfigError> {
    let directory = match raw.directory.as_str() {
        "" => std::path::Path::new(data_dir).join("plugins"),
        directory => PathBuf::from(directory),
    };
    let keys = raw.trusted_keys.iter().map(|file| key(at, file)).collect::<Result<_, _>>()?;
    let mut secrets: Vec<(String, Option<PathBuf>)> = Vec::new();
    for text in &raw.secrets {
        let (name, file) = match text.split_once('=') {
            Some((name, file)) => (name, Some(PathBuf::from(file))),
            None => (text.as_str(), None),
        };
        let is_good = format!("secret:{name}").parse::<plugin::Grant>().is_ok();
        if !is_good || secrets.iter().any(|(other, _)| other == name) {
            let reason = format!("{name:?} is no name of a secret, or there twice");
            return Err(at.bad("plugins.secrets", reason));
        }
        secrets.push((name.to_owned(), file));
    }
    Ok(PluginsConfig { directory, keys, secrets })
}

fn key(at: &Place<'_>, file: &str) -> Result<plugin::Key, ConfigError> {
    let bad = |why: String| at.bad("plugins.trusted_keys", format!("{file}: {why}"));
    let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    plugin::Key::from_pem(&pem).map_err(bad)
}

impl PluginsConfig {
    /// A secret's bytes, without a line's end that an editor left.
    ///
    /// # Errors
    /// When none has this name, or it cannot be read.
    pub(crate) fn secret(&self, name: &str) -> Result<Vec<u8>, plugin::world::SecretError> {
        use plugin::world::SecretError;
        let known = self.secrets.iter().find(|(of, _)| of == name);
        let (_, file) = known.ok_or_else(|| SecretError::Unknown(name.to_owned()))?;
        let mut bytes = match file {
            Some(file) => std::fs::read(file).map_err(|error| {
                SecretError::Unavailable(format!("{}: {error}", file.display()))
            })?,
            None => {
                let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
                let name = format!("TWINSPAN_SECRET_{name}");
                let value = std::env::var_os(&name);
                let none = || SecretError::Unavailable(format!("{name} is not set"));
                value.ok_or_else(none)?.into_encoded_bytes()
            }
        };
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_when_it_is_used_and_has_no_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let config = PluginsConfig {
            directory: PathBuf::new(),
            keys: vec![],
            secrets: vec![("key".to_owned(), Some(file.clone())), ("not-set".to_owned(), None)],
        };
        assert!(config.secret("key").unwrap_err().to_string().contains("key"));
        std::fs::write(&file, "abc\r\n").unwrap();
        assert_eq!(config.secret("key").unwrap(), b"abc");
        let unset = config.secret("not-set").unwrap_err().to_string();
        assert!(unset.contains("TWINSPAN_SECRET_NOT_SET"), "{unset}");
        assert!(config.secret("other").is_err());
    }
}
