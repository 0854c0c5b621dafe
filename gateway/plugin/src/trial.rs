//! A trial of a component before it is given to a gateway: it is called in every way that a gateway
//! calls it, by a gateway that is simulated and in bad moods.
//!
//! ```text
//!   component ──▶ host (its own, in a scratch folder) ──▶ every action × every mood ──▶ rules ──▶ Verdict
//!                   └── web and world that are busy, broken, lie, or kill in the middle
//! ```
//!
//! Invariant: nothing leaves the machine, whatever the component asks for; and each rule is one of the
//! contract's own sentences.

mod answers;
mod moods;
mod params;
mod rules;
mod steps;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

pub use self::answers::{Answers, NoAnswers};
pub use self::moods::Mood;
pub(crate) use self::moods::Script;
pub use self::rules::{Finding, Rule};
pub(crate) use self::world::Simulated;
use crate::error::LoadError;
use crate::grants::{Grant, Grants};
use crate::host::{Plugins, Refused, Setup, StartError};
use crate::loaded::About;

/// What a trial is made with.
pub struct Trial {
    /// A folder of its own, which nobody needs afterwards.
    pub scratch: PathBuf,
    /// The component.
    pub component: Vec<u8>,
    /// Its configuration; empty if there is none.
    pub config: Option<Value>,
    /// What it is granted beside all that it wants: hosts, secrets and folders that an operator names.
    pub grants: Vec<Grant>,
    /// Parameters of actions, by name; made from the schema where there are none.
    pub params: BTreeMap<String, Value>,
    /// What the other side answers while it is well; `200 {}` to everything that is not in here.
    pub answers: Answers,
}

/// What came of it.
#[derive(Debug)]
pub struct Verdict {
    /// Who was tried.
    pub about: Arc<About>,
    /// Calls that were made.
    pub calls: u64,
    /// Requests that it would have sent: none where it is not configured, or not granted, to send any.
    pub requests: u64,
    /// Rules that were broken, and where; each once for each action.
    pub findings: Vec<Finding>,
    /// Actions that were not tried, and why.
    pub untried: Vec<(String, String)>,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A host could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It is no plugin.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The configuration is not taken.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// A component that is being tried.
struct Tried {
    plugins: Plugins,
    world: Arc<Simulated>,
    script: Arc<Script>,
    about: Arc<About>,
    /// All that it is granted, in every mood but one.
    grants: Grants,
    calls: u64,
    requests: u64,
    findings: Vec<Finding>,
    untried: Vec<(String, String)>,
}

impl Trial {
    /// Makes the trial. Takes seconds, and minutes for a plugin that uses up its limits.
    ///
    /// # Errors
    /// [`TrialError`]: it could not even be loaded.
    pub async fn run(self) -> Result<Verdict, TrialError> {
        let script = Arc::new(Script::new(self.answers));
        let world = Arc::new(Simulated::default());
        let setup = Setup {
            directory: self.scratch.join("plugins"),
            state: self.scratch.join("state"),
            keys: Vec::new(),
            world: Arc::clone(&world) as Arc<dyn crate::world::World>,
        };
        let plugins = Plugins::start_with(setup, Some(Arc::clone(&script)))?;
        let about = plugins.install(self.component, None).await?;
        if let Some(config) = self.config {
            plugins.configure(&about.name, config).await?;
        }
        let grants = Grants::new(about.wants.iter().cloned().chain(self.grants));
        let mut tried = Tried {
            plugins,
            world,
            script,
            about,
            grants,
            calls: 0,
            requests: 0,
            findings: Vec::new(),
            untried: Vec::new(),
        };
        tried.itself().await;
        for mood in Mood::ALL {
            tried.in_mood(*mood, &self.params).await?;
        }
        tried.plugins.stop();
        let Tried { about, calls, requests, findings, untried, .. } = tried;
        Ok(Verdict { about, calls, requests, findings, untried })
    }
}
