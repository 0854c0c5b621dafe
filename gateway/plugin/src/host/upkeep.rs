//! What plugins do of themselves between runs, and what they are told.
//!
//! Invariant: what a plugin answers is JSON before anybody else sees it.

use std::time::Duration;

use serde_json::Value;

use super::Plugins;
use crate::bindings::twinspan::plugin::types::{Context, Error};
use crate::error::CallError;
use crate::instance::Allowance;
use crate::limits::{ACTION_SECONDS_MAX, TICK_MAX, TICK_MIN};

/// A plugin collects what another product has: as long as an action.
const LONG: Allowance = Allowance::action(Duration::from_secs(ACTION_SECONDS_MAX as u64));

impl Plugins {
    /// Every plugin that does something of itself.
    #[must_use]
    pub fn upkept(&self) -> Vec<String> {
        let keeps = |of: &super::Standing| {
            of.about.as_ref().is_some_and(|about| about.exports.contains(&"upkeep"))
        };
        self.list().into_iter().filter(keeps).map(|of| of.name).collect()
    }

    /// What a plugin can be told, and what for.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn words(&self, plugin: &str) -> Result<Vec<(String, String)>, CallError> {
        self.call((plugin, None), "upkeep.words", Allowance::PURE, |store, linked, instance| {
            Box::pin(async move {
                let upkeep = linked.upkeep(store, &instance)?;
                upkeep.call_words(store).await
            })
        })
        .await
    }

    /// Lets a plugin do what is due; when it wants to be asked again.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn tick(
        &self,
        plugin: &str,
        ctx: Context,
    ) -> Result<Result<Duration, Error>, CallError> {
        let said = self
            .call((plugin, None), "upkeep.tick", LONG, |store, linked, instance| {
                Box::pin(async move {
                    let upkeep = linked.upkeep(store, &instance)?;
                    upkeep.call_tick(store, &ctx).await
                })
            })
            .await?;
        Ok(said.map(|ms| Duration::from_millis(ms.into()).clamp(TICK_MIN, TICK_MAX)))
    }

    /// Tells a plugin a word, and what it answers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn say(
        &self,
        plugin: &str,
        ctx: Context,
        (word, params): (&str, &Value),
    ) -> Result<Result<Value, Error>, CallError> {
        let known = self.words(plugin).await?;
        if !known.iter().any(|(name, _)| name == word) {
            let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
            let words = format!("{word:?} is none of its words: {}", names.join(", "));
            return Err(CallError::Parameters(words));
        }
        let (word, params) = (word.to_owned(), params.to_string());
        let said = self
            .call((plugin, None), "upkeep.say", LONG, |store, linked, instance| {
                Box::pin(async move {
                    let upkeep = linked.upkeep(store, &instance)?;
                    upkeep.call_say(store, &ctx, &word, &params).await
                })
            })
            .await?;
        match said {
            Ok(text) => serde_json::from_str(&text)
                .map(Ok)
                .map_err(|error| CallError::Answer(format!("its answer is no JSON: {error}"))),
            Err(error) => Ok(Err(error)),
        }
    }
}
