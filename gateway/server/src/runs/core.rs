//! The actions `core/*`: what the gateway itself does for a run, by the verbs that operators have.
//!
//! | action | does | is done already when |
//! |---|---|---|
//! | `wait-in-sync` | waits until a mirror lacks nothing | it does not |
//! | `migrate` | swaps roles with a mirror, losing nothing | the other site is the primary |
//! | `promote` | fails over to this site | this site serves |
//! | `reprotect` | mirrors again | the mirror follows |
//! | `suspend`, `resume` | of the session to a site | it is so |
//! | `snapshot`, `delete-snapshot` | of a group | it is there, or gone |
//! | `freeze`, `thaw` | calls a hook of `[[points.hooks]]` | never known |
//! | `approve` | asks a person | never |
//! | `http`, `notify`, `script` | calls what `[recovery]` allows | a script says it |
//!
//! Invariant: nothing here does what an operator's call could not do, and each looks before it acts, so
//! that what was done before a kill is found and not repeated.

mod groups;
mod moments;
mod moves;
mod outside;

use std::sync::{Arc, Weak};

use api::Code;
use recovery::{
    ActionError, Actions, Context, Description, Doing, Outcome, Report, Retry, Standing,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::gateway::Gateway;
use crate::refusal::Refused;

/// The provider's name.
pub(crate) const CORE: &str = "core";

/// One action with its parameters.
trait Deed: Send + Sync {
    /// What it would do.
    fn describe(&self) -> Description;

    /// How things stand.
    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, context: &'a Context) -> Doing<'a, Standing>;

    /// Does it.
    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, context: &'a Context) -> Doing<'a, Outcome>;

    /// Goes on.
    fn resume<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        context: &'a Context,
        (token, answer): (&'a Value, Option<&'a str>),
    ) -> Doing<'a, Outcome> {
        let (_, _) = (token, answer);
        self.run(gateway, context)
    }

    /// Takes it back.
    fn undo<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        context: &'a Context,
        report: &'a Report,
    ) -> Doing<'a, Outcome> {
        let (_, _, _) = (gateway, context, report);
        Box::pin(async { Ok(Outcome::Skipped("it left nothing to take back".to_owned())) })
    }
}

/// The provider.
pub(crate) struct Core {
    gateway: Weak<Gateway>,
}

impl Core {
    pub(crate) fn new(gateway: &Arc<Gateway>) -> Self {
        Self { gateway: Arc::downgrade(gateway) }
    }

    fn gateway(&self) -> Result<Arc<Gateway>, ActionError> {
        self.gateway.upgrade().ok_or_else(|| ActionError::now("stopping", "the gateway stops"))
    }
}

/// The actions, and how the parameters of each are read.
type Reader = fn(&Value) -> Result<Box<dyn Deed>, ActionError>;
const ACTIONS: [(&str, Reader); 14] = [
    ("approve", read::<moments::Approve>),
    ("delete-snapshot", read::<moments::DeleteSnapshot>),
    ("freeze", read::<moments::Freeze>),
    ("http", read::<outside::Http>),
    ("migrate", read::<moves::Migrate>),
    ("notify", read::<outside::Notify>),
    ("promote", read::<moves::Promote>),
    ("reprotect", read::<moves::Reprotect>),
    ("resume", read::<groups::Resume>),
    ("script", read::<outside::Script>),
    ("snapshot", read::<moments::Snapshot>),
    ("suspend", read::<groups::Suspend>),
    ("thaw", read::<moments::Thaw>),
    ("wait-in-sync", read::<groups::WaitInSync>),
];

fn read<D: Deed + DeserializeOwned + 'static>(
    params: &Value,
) -> Result<Box<dyn Deed>, ActionError> {
    let deed: D = serde_json::from_value(params.clone()).map_err(|error| {
        ActionError::never(Code::PlanBad.as_str(), format!("its parameters: {error}"))
    })?;
    Ok(Box::new(deed))
}

fn deed(action: &str, params: &Value) -> Result<Box<dyn Deed>, ActionError> {
    let known = ACTIONS.iter().find(|(name, _)| *name == action);
    let (_, reader) = known.ok_or_else(|| {
        ActionError::never(Code::PlanBad.as_str(), format!("there is no action core/{action}"))
    })?;
    reader(params)
}

impl Actions for Core {
    fn names(&self) -> Vec<String> {
        ACTIONS.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    fn describe<'a>(&'a self, action: &'a str, params: &'a Value) -> Doing<'a, Description> {
        Box::pin(async move { deed(action, params).map(|deed| deed.describe()) })
    }

    fn check<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Standing> {
        Box::pin(async move {
            let deed = deed(action, params)?;
            let gateway = self.gateway()?;
            deed.check(&gateway, context).await
        })
    }

    fn run<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let deed = deed(action, params)?;
            let gateway = self.gateway()?;
            deed.run(&gateway, context).await
        })
    }

    fn resume<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
        token: &'a Value,
        answer: Option<&'a str>,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let deed = deed(action, params)?;
            let gateway = self.gateway()?;
            deed.resume(&gateway, context, (token, answer)).await
        })
    }

    fn undo<'a>(
        &'a self,
        action: &'a str,
        context: &'a Context,
        params: &'a Value,
        report: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            let deed = deed(action, params)?;
            let gateway = self.gateway()?;
            deed.undo(&gateway, context, report).await
        })
    }
}

/// A refusal of the gateway as an error of an action. What a caller got wrong stays wrong.
fn failed(refused: Refused) -> ActionError {
    let problem = *refused.0;
    let wrong = [Code::Invalid, Code::NotFound, Code::NeedsConsent, Code::Spanning];
    let retry = if wrong.iter().any(|code| code.as_str() == problem.code) {
        Retry::Never
    } else {
        Retry::Now
    };
    ActionError { code: problem.code, detail: problem.detail, next: problem.next, retry }
}

fn describe(title: &str, will_do: String, is_reversible: bool) -> Description {
    Description { title: title.to_owned(), will_do, is_reversible }
}

#[cfg(test)]
mod tests;
