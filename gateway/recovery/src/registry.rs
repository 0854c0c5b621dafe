//! Who provides which actions right now.
//!
//! Invariant: a provider that is replaced or removed serves the calls that it has to their end; the
//! next call of the same run finds the new one, or none.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::actions::Actions;

/// The providers, by name.
#[derive(Default)]
pub struct Registry {
    providers: RwLock<BTreeMap<String, Arc<dyn Actions>>>,
}

impl Registry {
    /// Lets a provider serve from now on; the one that had its name serves no new call.
    pub fn put(&self, provider: &str, actions: Arc<dyn Actions>) {
        let mut all = self.providers.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(provider.to_owned(), actions);
    }

    /// Lets a provider serve no new call. Whether it was there.
    pub fn remove(&self, provider: &str) -> bool {
        let mut all = self.providers.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(provider).is_some()
    }

    /// The provider of `provider/action`.
    #[must_use]
    pub fn provider_of(&self, action: &str) -> Option<Arc<dyn Actions>> {
        let (provider, _) = split_action(action)?;
        let all = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        all.get(provider).cloned()
    }

    /// Whether somebody has this action now.
    #[must_use]
    pub fn has(&self, action: &str) -> bool {
        let Some((_, name)) = split_action(action) else { return false };
        self.provider_of(action).is_some_and(|actions| actions.names().iter().any(|n| n == name))
    }

    /// Who provides actions now, in order.
    #[must_use]
    pub fn providers(&self) -> Vec<String> {
        let all = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        all.keys().cloned().collect()
    }

    /// Every action that there is now, as `provider/action`, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        // Providers are asked outside the lock: they may take one of their own.
        let all = self.providers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let of = |(name, actions): (String, Arc<dyn Actions>)| {
            actions.names().into_iter().map(move |action| format!("{name}/{action}"))
        };
        let mut names: Vec<String> = all.into_iter().flat_map(of).collect();
        names.sort();
        names
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(all.keys()).finish()
    }
}

/// `provider/action` in its two parts; `None` when it is not of that form.
#[must_use]
pub fn split_action(action: &str) -> Option<(&str, &str)> {
    action.split_once('/').filter(|(provider, name)| is_word(provider) && is_word(name))
}

/// Lower-case letters, digits and dashes, a letter first.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_provider_and_an_action() {
        assert_eq!(split_action("core/wait-in-sync"), Some(("core", "wait-in-sync")));
        for bad in ["core", "core/", "/a", "core/a/b", "Core/a", "core/a b", "core/1a"] {
            assert_eq!(split_action(bad), None, "{bad}");
        }
    }
}
