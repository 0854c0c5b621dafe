//! What plugins do of themselves between runs, what they are told, and the plans that they write.
//!
//! ```text
//!   start, configuration, grants, a word ──bell──▶ keep_plugins_up ──tick──▶ plugin
//!                                                     ▲      └── asks again when it said
//!                                                     └───────────────┘
//! ```
//!
//! Invariant: of one plugin one tick runs at a time. A plan of a plugin's is proven as any other is before
//! anybody sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use plugin::contract::{Context, Diagnostic, Severity};
use recovery::Plan;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::Gateway;
use super::plugins::{call_failed, said_no};
use crate::refusal::Refused;

/// How often it is looked whether there are plugins that were not there before.
const LOOK: Duration = Duration::from_secs(2);
/// After a tick that failed.
const AFTER_FAULT: Duration = Duration::from_mins(1);
/// A tick and a word may take as long as an action.
const LONG: Duration = Duration::from_mins(5);

/// What is known of one plugin's ticks.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    runs: bool,
    /// The bell rang while it ran.
    again: bool,
}

impl Gateway {
    /// Asks plugins what is due, until the gateway stops.
    pub(super) async fn keep_plugins_up(self: Arc<Self>) {
        let Some(plugins) = &self.plugins else { return };
        let mut due: BTreeMap<String, Due> = BTreeMap::new();
        let mut ticking = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            let there: BTreeSet<String> = plugins.upkept().into_iter().collect();
            due.retain(|name, of| of.runs || there.contains(name));
            for name in there {
                let of = due.entry(name.clone());
                let of = of.or_insert(Due { at: now, runs: false, again: false });
                if of.at <= now && !of.runs {
                    of.runs = true;
                    ticking.push(self.tick_plugin(name));
                }
            }
            let idle = due.values().filter(|of| !of.runs).map(|of| of.at);
            let next = idle.min().map_or(now + LOOK, |at| at.min(now + LOOK));
            tokio::select! {
                Some((name, after)) = ticking.next() => {
                    if let Some(of) = due.get_mut(&name) {
                        let now = Instant::now();
                        *of = Due { at: if of.again { now } else { now + after }, runs: false, again: false };
                    }
                }
                () = tokio::time::sleep_until(next) => {}
                () = self.bell.notified() => {
                    for of in due.values_mut() {
                        of.at = Instant::now();
                        of.again = of.runs;
                    }
                }
                () = self.stopping.cancelled() => return,
            }
        }
    }

    async fn tick_plugin(&self, name: String) -> (String, Duration) {
        let Some(plugins) = &self.plugins else { return (name, AFTER_FAULT) };
        let after = match plugins.tick(&name, self.in_earnest("schedule")).await {
            Ok(Ok(after)) => after,
            Ok(Err(error)) => {
                tracing::info!(
                    plugin = name,
                    why = error.message,
                    "a plugin did not do what is due"
                );
                AFTER_FAULT
            }
            // Its own log and its rest say the same.
            Err(error) => {
                tracing::debug!(plugin = name, "a tick failed: {error}");
                AFTER_FAULT
            }
        };
        (name, after)
    }

    /// Lets plugins be asked soon.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    /// What a call is told that may change something and is of no run.
    fn in_earnest(&self, actor: &str) -> Context {
        let long = u64::try_from(LONG.as_millis()).unwrap_or(u64::MAX);
        let deadline = self.clock.unix_ms().saturating_add(long);
        Context { deadline, dry_run: false, ..self.aside(actor) }
    }

    /// What a plugin can be told.
    ///
    /// # Errors
    /// [`Code::PluginUnknown`], also for a plugin that takes no words.
    pub(crate) async fn plugin_words(&self, name: &str) -> Result<api::PluginWords, Refused> {
        let words = self.plugins()?.words(name).await;
        let words = words.map_err(|error| call_failed(name, &error))?;
        let word = |(name, meaning)| api::PluginWord { name, meaning };
        Ok(api::PluginWords { items: words.into_iter().map(word).collect() })
    }

    /// Tells a plugin a word; what it answers.
    ///
    /// # Errors
    /// [`Code::PluginUnknown`], [`Code::Invalid`] for a word that it does not know,
    /// [`Code::PluginFailed`] with what it says.
    pub(crate) async fn say_to_plugin(
        &self,
        name: &str,
        (word, params): (&str, &Value),
        actor: &str,
    ) -> Result<Value, Refused> {
        let said = self.plugins()?.say(name, self.in_earnest(actor), (word, params)).await;
        let said = said.map_err(|error| call_failed(name, &error))?;
        // What it was told may change what is due.
        self.ring();
        said.map_err(|error| said_no(name, &error))
    }

    /// A plan that a plugin writes, proven.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a group, [`Code::Invalid`] for a kind that it does not plan,
    /// [`Code::PluginFailed`] with why it does not, [`Code::PlanBad`].
    pub(crate) async fn make_plan(
        &self,
        wanted: &api::PlanMake,
        actor: &str,
    ) -> Result<api::PlanMade, Refused> {
        let (plugins, name) = (self.plugins()?, wanted.plugin.as_str());
        let kinds = plugins.plan_kinds(name).await.map_err(|error| call_failed(name, &error))?;
        if !kinds.contains(&wanted.kind) {
            let detail = format!("{name} plans no {:?}: {}", wanted.kind, kinds.join(", "));
            return Err(Refused::new(Code::Invalid, detail));
        }
        for group in &wanted.groups {
            self.find_group(group)?;
        }
        let (groups, volumes) = tokio::join!(self.show_groups(), self.show_volumes());
        let here = &self.config.site.name;
        let named =
            wanted.groups.iter().filter_map(|name| groups.iter().find(|of| of.name == *name));
        let named = named.map(|of| crate::plugins::group(of, &volumes.items, here)).collect();
        let options = serde_json::to_value(&wanted.options)
            .map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let made = plugins.make_plan((name, &wanted.kind), self.aside(actor), (named, options));
        let made = made.await.map_err(|error| call_failed(name, &error))?;
        let document = made.map_err(|error| said_no(name, &error))?;
        let file = Some(format!("the plan of {name}"));
        let text = api::PlanText { file, toml: None, plan: Some(document.clone()) };
        let plan = self.check_plan(&text).await?;
        Ok(api::PlanMade { plan, document })
    }

    /// Asks each plugin that a plan names, and that has something to say of plans, what is wrong with it.
    /// Answers what does not stand in the way.
    ///
    /// # Errors
    /// [`Code::PlanBad`] with everything that does, [`Code::PluginFailed`].
    pub(super) async fn check_with_plugins(&self, plan: &Plan) -> Result<Vec<String>, Refused> {
        let Some(plugins) = &self.plugins else { return Ok(Vec::new()) };
        let provider = |action: &str| recovery::split_action(action).map(|(of, _)| of.to_owned());
        let named: BTreeSet<String> =
            plan.steps.iter().filter_map(|step| provider(&step.action)).collect();
        let document = serde_json::to_value(&plan.raw)
            .map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let (mut wrong, mut remarks) = (Vec::new(), Vec::new());
        for name in named {
            let about = plugins.get(&name).and_then(|of| of.about);
            if !about.is_some_and(|about| about.exports.contains(&"plans")) {
                continue;
            }
            let ctx =
                Context { idempotency_key: Uuid::now_v7().to_string(), ..self.aside("gateway") };
            let said = plugins.check_plan(&name, ctx, &document).await;
            let said = said.map_err(|error| call_failed(&name, &error))?;
            for of in said.map_err(|error| said_no(&name, &error))? {
                let line = remark(&name, &of);
                if of.severity == Severity::Error { wrong.push(line) } else { remarks.push(line) }
            }
        }
        if wrong.is_empty() {
            Ok(remarks)
        } else {
            Err(Refused::new(Code::PlanBad, wrong.join("\n")))
        }
    }
}

/// One remark on a plan, in a line.
fn remark(plugin: &str, of: &Diagnostic) -> String {
    let code = of.vendor_code.as_ref().unwrap_or(&of.code);
    let place = of.path.as_ref().map(|path| format!("{path}: ")).unwrap_or_default();
    format!("{place}{} ({plugin}: {code})", of.message)
}
