//! The rules of a trial: sentences of the contract that can be seen to be broken.
//!
//! Invariant: a rule is judged by what was sent, registered and answered, never by what a plugin says of
//! itself.

use super::moods::{Mood, Sent};
use super::world::SECRET;
use crate::bindings::twinspan::plugin::types::{Created, Error, Report, Retry};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The same description every time.
    Stable,
    /// No trap, no limit reached, no answer outside of the contract.
    NoFault,
    /// What only asks, and a dry run, change nothing.
    ChangesNothing,
    /// An error says why.
    SaysWhy,
    /// What passes may be tried again.
    Retries,
    /// No success without the effect.
    Honest,
    /// Tried again with the same key, the effect is there once.
    Once,
    /// What can be undone is undone, also twice.
    Undoes,
    /// What was made is registered, and named or gone after an undo.
    CleansUp,
    /// No secret is told.
    KeepsSecrets,
}

impl Rule {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Stable,
        Self::NoFault,
        Self::ChangesNothing,
        Self::SaysWhy,
        Self::Retries,
        Self::Honest,
        Self::Once,
        Self::Undoes,
        Self::CleansUp,
        Self::KeepsSecrets,
    ];

    /// What it says, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Stable => "it describes itself the same way every time",
            Self::NoFault => "no call traps, reaches a limit, or answers outside of the contract",
            Self::ChangesNothing => "what only asks, and a dry run, change nothing",
            Self::SaysWhy => "an error says why",
            Self::Retries => "what passes may be tried again",
            Self::Honest => "it does not answer that it did what it did not do",
            Self::Once => "tried again with the same key, the effect is there once",
            Self::Undoes => "what can be undone is undone, and twice does no harm",
            Self::CleansUp => "what it registered is gone, or named, after an undo",
            Self::KeepsSecrets => "it tells no secret",
        }
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub rule: Rule,
    /// By which action, if it was one.
    pub action: Option<String>,
    /// In which mood it was seen first.
    pub mood: Mood,
    /// What was seen.
    pub detail: String,
}

/// Whether a text tells a secret.
pub(super) fn tells_secret(text: &str) -> bool {
    text.contains(SECRET)
}

/// What is wrong with an error, if anything is.
pub(super) fn of_error(error: &Error, mood: Mood, has_sent: bool) -> Option<(Rule, String)> {
    if error.message.trim().is_empty() {
        return Some((Rule::SaysWhy, format!("an error of code {:?} has no message", error.code)));
    }
    if mood.passes() && has_sent && matches!(error.retry, Retry::Never) {
        let what = format!("{:?} may never be tried again: {}", error.code, error.message);
        return Some((Rule::Retries, what));
    }
    None
}

/// A request that, sent again with the same key, may make a second thing: it carries no key, and nobody
/// looked before.
pub(super) fn made_twice<'a>(sent: &'a [Sent], key: &str) -> Option<&'a Sent> {
    let mut has_looked = false;
    sent.iter().find(|sent| {
        has_looked |= !sent.changes;
        sent.makes && !has_looked && !sent.text.contains(key)
    })
}

/// Whether two are the same thing: names are for people.
pub(super) fn is_same(one: &Created, other: &Created) -> bool {
    one.kind == other.kind && one.id == other.id
}

/// What was registered and is, after an undo, neither gone nor named.
pub(super) fn left_behind<'a>(registered: &'a [Created], undone: &Report) -> Option<&'a Created> {
    let is_named = |made: &Created| {
        let mut named = undone.removed.iter().chain(&undone.created);
        named.any(|named| is_same(named, made))
    };
    registered.iter().find(|made| !is_named(made))
}
