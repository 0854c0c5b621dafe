//! How things stood before a deed: noted before the first push, so that a deed that was cut short still
//! knows it at its next attempt, and its undo.
//!
//! Invariant: what is noted first for a key holds until it is forgotten.

use serde::{Deserialize, Serialize};

use super::error;
use super::servers::unavailable;
use super::twinspan::plugin::kv;
use super::twinspan::plugin::types::{Error, ErrorCode};

const KEY: &str = "before";
/// Notes that are kept: those of deeds that were never taken back go, the oldest first.
const NOTES_MAX: usize = 200;

#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct Notes {
    /// Key of the deed, and how it was; in the order in which they came.
    all: Vec<(String, String)>,
}

impl Notes {
    fn of(&self, key: &str) -> Option<&str> {
        self.all.iter().find(|(of, _)| of == key).map(|(_, how)| how.as_str())
    }

    /// How it was, as it was noted first; whether that is new.
    fn note(&mut self, key: &str, now: &str) -> (String, bool) {
        if let Some(known) = self.of(key) {
            return (known.to_owned(), false);
        }
        self.all.push((key.to_owned(), now.to_owned()));
        let beyond = self.all.len().saturating_sub(NOTES_MAX);
        self.all.drain(..beyond);
        (now.to_owned(), true)
    }
}

fn load() -> Result<(Notes, u64), Error> {
    let entry = kv::get(KEY).map_err(unavailable)?;
    let Some(entry) = entry else { return Ok((Notes::default(), 0)) };
    let notes = serde_json::from_slice(&entry.value)
        .map_err(|why| error(ErrorCode::Internal, format!("{KEY}: {why}")))?;
    Ok((notes, entry.revision))
}

fn store(notes: &Notes, revision: u64) -> Result<(), Error> {
    let value = serde_json::to_vec(notes)
        .map_err(|why| error(ErrorCode::Internal, format!("{KEY}: {why}")))?;
    kv::put(KEY, &value, Some(revision)).map_err(unavailable).map(drop)
}

/// Notes how things stand, unless that was noted for this deed already; how they stood first.
pub fn note(key: &str, now: &str) -> Result<String, Error> {
    let (mut notes, revision) = load()?;
    let (first, is_new) = notes.note(key, now);
    if is_new {
        store(&notes, revision)?;
    }
    Ok(first)
}

/// How things stood before a deed, if it was begun.
pub fn of(key: &str) -> Result<Option<String>, Error> {
    Ok(load()?.0.of(key).map(str::to_owned))
}

/// The deed was taken back.
pub fn forget(key: &str) -> Result<(), Error> {
    let (mut notes, revision) = load()?;
    if notes.of(key).is_none() {
        return Ok(());
    }
    notes.all.retain(|(of, _)| of != key);
    store(&notes, revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_first_holds_and_the_oldest_goes() {
        let mut notes = Notes::default();
        assert_eq!(notes.note("one", "old-port"), ("old-port".to_owned(), true));
        assert_eq!(notes.note("one", ""), ("old-port".to_owned(), false));
        for more in 0..NOTES_MAX {
            notes.note(&more.to_string(), "");
        }
        assert_eq!(notes.all.len(), NOTES_MAX);
        assert_eq!(notes.of("one"), None);
        assert_eq!(notes.of("0"), Some(""));
    }
}
