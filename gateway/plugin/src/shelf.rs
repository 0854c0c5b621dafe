//! What is kept for plugins on disk: keys and values of theirs, what they were granted, and their
//! configuration.
//!
//! Invariant: what was answered is durable. A plugin's limits hold whatever it writes, and it reaches
//! nobody else's entries.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::grants::{Grant, Grants};
use crate::limits::{KV_BYTES_MAX, KV_KEY_BYTES_MAX, KV_KEYS_MAX, KV_VALUE_BYTES_MAX};

/// Revision and value by plugin and key.
const VALUES: TableDefinition<'_, (&str, &str), (u64, &[u8])> = TableDefinition::new("values");
/// Keys, bytes and the highest revision by plugin. Revisions are never used again, so that a writer
/// that expects an old entry does not meet a new one of the same number.
const USED: TableDefinition<'_, &str, (u64, u64, u64)> = TableDefinition::new("used");
/// What an operator set, as JSON, by plugin.
const SET: TableDefinition<'_, &str, &str> = TableDefinition::new("set");

/// Why an entry was not kept or found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShelfError {
    /// A key or value is too long.
    #[error("the key or the value is too long")]
    TooLarge,
    /// The plugin has as much as it may have.
    #[error("the plugin keeps as much as it may")]
    Quota,
    /// The entry has another revision.
    #[error("the entry has revision {0}")]
    Revision(u64),
    /// The disk.
    #[error("{0}")]
    Disk(String),
}

impl<E: Into<redb::Error>> From<E> for ShelfError {
    fn from(error: E) -> Self {
        Self::Disk(error.into().to_string())
    }
}

/// What an operator set for a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What it may.
    pub grants: Grants,
    /// Its configuration, a JSON object.
    pub config: Option<serde_json::Value>,
}

/// The same, as it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    grants: Vec<String>,
    config: Option<serde_json::Value>,
}

/// The file.
pub(crate) struct Shelf {
    database: Database,
}

impl Shelf {
    /// Opens or makes it.
    ///
    /// # Errors
    /// [`ShelfError::Disk`].
    pub(crate) fn open(path: &Path) -> Result<Self, ShelfError> {
        let database = Database::create(path)?;
        let writing = database.begin_write()?;
        writing.open_table(VALUES)?;
        writing.open_table(USED)?;
        writing.open_table(SET)?;
        writing.commit()?;
        Ok(Self { database })
    }

    /// What an operator set; nothing for a plugin that nobody set anything for.
    ///
    /// # Errors
    /// [`ShelfError::Disk`], also when what is there cannot be read.
    pub(crate) fn settings(&self, plugin: &str) -> Result<Settings, ShelfError> {
        let table = self.database.begin_read()?.open_table(SET)?;
        let Some(text) = table.get(plugin)? else { return Ok(Settings::default()) };
        let unreadable =
            |why: String| ShelfError::Disk(format!("what was set for {plugin}: {why}"));
        let written: Written =
            serde_json::from_str(text.value()).map_err(|error| unreadable(error.to_string()))?;
        let grants =
            written.grants.iter().map(|text| text.parse::<Grant>()).collect::<Result<Vec<_>, _>>();
        let grants = Grants::new(grants.map_err(|error| unreadable(error.to_string()))?);
        Ok(Settings { grants, config: written.config })
    }

    /// Sets it.
    ///
    /// # Errors
    /// [`ShelfError::Disk`].
    pub(crate) fn set(&self, plugin: &str, settings: &Settings) -> Result<(), ShelfError> {
        let written = Written {
            grants: settings.grants.iter().map(ToString::to_string).collect(),
            config: settings.config.clone(),
        };
        let text =
            serde_json::to_string(&written).map_err(|error| ShelfError::Disk(error.to_string()))?;
        let writing = self.database.begin_write()?;
        writing.open_table(SET)?.insert(plugin, text.as_str())?;
        Ok(writing.commit()?)
    }

    /// Forgets all of a plugin.
    ///
    /// # Errors
    /// [`ShelfError::Disk`].
    pub(crate) fn forget(&self, plugin: &str) -> Result<(), ShelfError> {
        let writing = self.database.begin_write()?;
        writing.open_table(SET)?.remove(plugin)?;
        writing.open_table(USED)?.remove(plugin)?;
        writing.open_table(VALUES)?.retain(|(of, _), _| of != plugin)?;
        Ok(writing.commit()?)
    }

    /// An entry's revision and value.
    ///
    /// # Errors
    /// [`ShelfError::Disk`].
    pub(crate) fn get(
        &self,
        plugin: &str,
        key: &str,
    ) -> Result<Option<(u64, Vec<u8>)>, ShelfError> {
        let table = self.database.begin_read()?.open_table(VALUES)?;
        Ok(table.get((plugin, key))?.map(|found| {
            let (revision, value) = found.value();
            (revision, value.to_vec())
        }))
    }

    /// Writes an entry if its revision is the expected one (0: there is none), and answers its new one.
    ///
    /// # Errors
    /// [`ShelfError`], any.
    pub(crate) fn put(
        &self,
        plugin: &str,
        (key, value): (&str, &[u8]),
        expected: Option<u64>,
    ) -> Result<u64, ShelfError> {
        if key.len() > KV_KEY_BYTES_MAX || value.len() > KV_VALUE_BYTES_MAX {
            return Err(ShelfError::TooLarge);
        }
        let size = |value: &[u8]| (key.len() + value.len()) as u64;
        let writing = self.database.begin_write()?;
        let next = {
            let mut values = writing.open_table(VALUES)?;
            let old = values.get((plugin, key))?.map(|old| {
                let (revision, value) = old.value();
                (revision, size(value))
            });
            let present = old.map_or(0, |(revision, _)| revision);
            if expected.is_some_and(|expected| expected != present) {
                return Err(ShelfError::Revision(present));
            }
            let mut used = writing.open_table(USED)?;
            let (keys, bytes, highest) = used.get(plugin)?.map_or((0, 0, 0), |used| used.value());
            let keys = keys + u64::from(old.is_none());
            let bytes = bytes - old.map_or(0, |(_, bytes)| bytes) + size(value);
            if keys > KV_KEYS_MAX as u64 || bytes > KV_BYTES_MAX as u64 {
                return Err(ShelfError::Quota);
            }
            let next = highest + 1;
            values.insert((plugin, key), (next, value))?;
            used.insert(plugin, (keys, bytes, next))?;
            next
        };
        writing.commit()?;
        Ok(next)
    }

    /// Removes an entry; one that is not there is no error.
    ///
    /// # Errors
    /// [`ShelfError::Disk`].
    pub(crate) fn delete(&self, plugin: &str, key: &str) -> Result<(), ShelfError> {
        let writing = self.database.begin_write()?;
        let removed = writing
            .open_table(VALUES)?
            .remove((plugin, key))?
            .map(|old| (key.len() + old.value().1.len()) as u64);
        if let Some(size) = removed {
            let mut used = writing.open_table(USED)?;
            let (keys, bytes, highest) =
                used.get(plugin)?.map_or((1, size, 0), |used| used.value());
            used.insert(plugin, (keys - 1, bytes - size, highest))?;
        }
        Ok(writing.commit()?)
    }

    /// Keys that begin so, in order, after one of them.
    ///
    /// # Errors
    /// [`ShelfError::Disk`].
    pub(crate) fn keys(
        &self,
        plugin: &str,
        (prefix, after): (&str, Option<&str>),
        limit: usize,
    ) -> Result<Vec<String>, ShelfError> {
        let table = self.database.begin_read()?.open_table(VALUES)?;
        let from = after.unwrap_or("").max(prefix);
        let mut keys = Vec::new();
        for entry in table.range((plugin, from)..)? {
            let (key, _) = entry?;
            let (of, key) = key.value();
            if of != plugin || !key.starts_with(prefix) || keys.len() >= limit {
                break;
            }
            if after != Some(key) {
                keys.push(key.to_owned());
            }
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(&dir.path().join("plugins.redb")).unwrap();
        (dir, shelf)
    }

    #[test]
    fn an_entry_is_written_only_over_the_one_that_was_read() {
        let (_dir, shelf) = shelf();
        let first = shelf.put("a", ("k", b"1"), Some(0)).unwrap();
        assert_eq!(shelf.put("a", ("k", b"2"), Some(0)), Err(ShelfError::Revision(first)));
        let second = shelf.put("a", ("k", b"2"), Some(first)).unwrap();
        assert_eq!(shelf.get("a", "k").unwrap(), Some((second, b"2".to_vec())));
        shelf.delete("a", "k").unwrap();
        let third = shelf.put("a", ("k", b"3"), Some(0)).unwrap();
        assert!(third > second, "a revision came back: {third} after {second}");
    }

    #[test]
    fn a_plugin_sees_its_own_keys_in_order() {
        let (_dir, shelf) = shelf();
        for (plugin, key) in [("a", "x/1"), ("a", "x/2"), ("a", "x/3"), ("a", "y"), ("b", "x/9")] {
            shelf.put(plugin, (key, b""), None).unwrap();
        }
        assert_eq!(shelf.keys("a", ("x/", None), 2).unwrap(), ["x/1", "x/2"]);
        assert_eq!(shelf.keys("a", ("x/", Some("x/2")), 9).unwrap(), ["x/3"]);
        assert_eq!(shelf.keys("a", ("z", None), 9).unwrap(), Vec::<String>::new());
        shelf.forget("a").unwrap();
        assert_eq!(shelf.keys("a", ("", None), 9).unwrap(), Vec::<String>::new());
        assert_eq!(shelf.keys("b", ("", None), 9).unwrap(), ["x/9"]);
    }

    #[test]
    fn no_plugin_keeps_more_than_it_may_and_what_it_deletes_makes_room() {
        let (_dir, shelf) = shelf();
        let long = vec![0; KV_VALUE_BYTES_MAX + 1];
        assert_eq!(shelf.put("a", ("k", &long), None), Err(ShelfError::TooLarge));
        let key = "k".repeat(KV_KEY_BYTES_MAX + 1);
        assert_eq!(shelf.put("a", (&key, b""), None), Err(ShelfError::TooLarge));
        let value = &long[..KV_VALUE_BYTES_MAX];
        let fits = KV_BYTES_MAX / KV_VALUE_BYTES_MAX - 1;
        for i in 0..fits {
            shelf.put("a", (&i.to_string(), value), None).unwrap();
        }
        assert_eq!(shelf.put("a", ("one more", value), None), Err(ShelfError::Quota));
        shelf.delete("a", "0").unwrap();
        shelf.delete("a", "0").unwrap();
        shelf.put("a", ("one more", value), None).unwrap();
        // Written again an entry takes its room once.
        shelf.put("a", ("one more", value), None).unwrap();
        shelf.put("b", ("k", value), None).unwrap();
    }

    #[test]
    fn what_was_set_outlives_the_gateway() {
        let (dir, shelf) = shelf();
        let settings = Settings {
            grants: Grants::new(["kv", "http:a:1"].map(|text| text.parse().unwrap())),
            config: Some(serde_json::json!({ "region": "north" })),
        };
        shelf.set("a", &settings).unwrap();
        drop(shelf);
        let shelf = Shelf::open(&dir.path().join("plugins.redb")).unwrap();
        assert_eq!(shelf.settings("a").unwrap(), settings);
        assert_eq!(shelf.settings("b").unwrap(), Settings::default());
    }
}
