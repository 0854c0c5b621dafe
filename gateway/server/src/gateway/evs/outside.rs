//! What protected servers need of a cloud, asked of the plugin that has the actions for it.
//!
//! ```text
//!   ask(action, key) ─▶ run ─▶ pending ─▶ resume ─▶ ... ─▶ done(outputs)
//!                        └─ failed ─▶ again, when the plugin says that it may help
//! ```
//!
//! Invariant: every try of one deed carries one key, by which the plugin finds what an earlier one did. What
//! a cloud cannot do touches no volume: mirrors do not know that there are servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Code;
use recovery::{Actions, Context, Direction, Outcome, Report, Retry};
use serde_json::{Value, json};
use uuid::Uuid;

use super::coded;
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// By this action a plugin shows that it has them all.
const SIGN: &str = "/make-server";
/// By this one a server is looked at.
pub(super) const LOOK: &str = "inspect-server";
/// And by this one a disk; a plugin may have none.
const LOOK_AT_DISK: &str = "inspect-disk";
/// Tries of one deed.
const TRIES_MAX: u32 = 8;
/// Looks at one deed that goes on by itself; with the pause that plugins ask for, minutes.
const LOOKS_MAX: u32 = 900;
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Of one call.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a deed told.
pub(super) type Told = BTreeMap<String, String>;

/// One deed of a plugin.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    /// What is done.
    pub(super) action: &'static str,
    /// The same for every try of it, for ever.
    pub(super) key: String,
    /// With what.
    pub(super) params: Value,
    /// The dialect's code for its failure.
    pub(super) failure: &'static str,
}

fn context(deed: &Deed, attempt: u32, direction: Direction) -> Context {
    Context {
        run: String::new(),
        step: String::new(),
        idempotency_key: deed.key.clone(),
        attempt,
        deadline: DEADLINE,
        is_dry_run: false,
        actor: "protected instances".to_owned(),
        direction,
    }
}

impl Gateway {
    /// The plugin that knows a cloud.
    fn cloud_plugin(&self) -> Result<(String, Arc<dyn Actions>), Refused> {
        let registry = &self.runs.registry;
        let found = registry.names().into_iter().find(|name| name.ends_with(SIGN));
        let actions = found.as_deref().and_then(|name| registry.provider_of(name));
        found.zip(actions).map(|(name, of)| (name.replace(SIGN, ""), of)).ok_or_else(|| {
            let detail = "no plugin here knows servers: protected instances need one at both sites";
            coded(Code::PluginUnknown, "SDRS.1306", detail)
                .next("twinspan plugin install evs_pairing.wasm, and grant it what it wants")
        })
    }

    /// Whether there is one.
    pub(super) fn has_cloud(&self) -> bool {
        self.cloud_plugin().is_ok()
    }

    /// Whether a disk may be copied as far as the cloud knows it. A plugin that cannot tell, or that knows no
    /// such disk, has nothing against it.
    pub(super) async fn require_copyable(&self, disk: Uuid, name: &str) -> Result<(), Refused> {
        let Ok((plugin, _)) = self.cloud_plugin() else { return Ok(()) };
        if !self.runs.registry.has(&format!("{plugin}/{LOOK_AT_DISK}")) {
            return Ok(());
        }
        let deed = Deed {
            action: LOOK_AT_DISK,
            key: format!("inspect/{disk}"),
            params: json!({ "disk": disk.to_string() }),
            failure: "SDRS.0405",
        };
        check_marks(name, &self.cloud(&deed).await?)
    }

    /// Lets a plugin do something, to its end; what it told.
    pub(super) async fn cloud(&self, deed: &Deed) -> Result<Told, Refused> {
        let (plugin, actions) = self.cloud_plugin()?;
        let mut tries = 1;
        loop {
            let context = context(deed, tries, Direction::Forward);
            let begun = actions.run(deed.action, &context, &deed.params).await;
            match carry(&*actions, (deed, &context), begun).await {
                Ok(told) => return Ok(told),
                Err(failed) => failed.wait_or_tell(&plugin, deed, tries).await?,
            }
            tries += 1;
        }
    }

    /// Lets a plugin take back what it did, as far as it came.
    pub(super) async fn cloud_undo(&self, deed: &Deed) -> Result<(), Refused> {
        let (plugin, actions) = self.cloud_plugin()?;
        let report = Report::default();
        let mut tries = 1;
        loop {
            let context = context(deed, tries, Direction::Back);
            let begun = actions.undo(deed.action, &context, &deed.params, &report).await;
            match carry(&*actions, (deed, &context), begun).await {
                Ok(_) => return Ok(()),
                Err(failed) => failed.wait_or_tell(&plugin, deed, tries).await?,
            }
            tries += 1;
        }
    }
}

/// Why a try came to nothing.
struct Failed {
    code: String,
    why: String,
    retry: Retry,
}

impl Failed {
    fn never(why: impl Into<String>) -> Self {
        Self { code: String::new(), why: why.into(), retry: Retry::Never }
    }

    /// Waits until another try may help, or says why none does.
    async fn wait_or_tell(self, plugin: &str, deed: &Deed, tries: u32) -> Result<(), Refused> {
        let pause = match self.retry {
            Retry::Never => None,
            Retry::Now => Some(PAUSE),
            Retry::After(pause) => Some(pause.min(PAUSE_MAX)),
        };
        match pause.filter(|_| tries < TRIES_MAX) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => {
                let (code, theirs) = self.codes(deed);
                let detail = format!("plugin {plugin}: {}: {}", deed.action, self.why);
                Err(coded(code, theirs, detail))
            }
        }
    }

    /// Ours and the dialect's. What somebody asked to be protected and what does not exist, or cannot, is a
    /// mistake of the asker's; anything else went wrong between the plugin and its cloud.
    fn codes<'a>(&'a self, deed: &Deed) -> (Code, &'a str) {
        match (deed.action, self.code.as_str()) {
            (LOOK, "not-found") => (Code::NotFound, deed.failure),
            (LOOK, "invalid-argument") => (Code::Invalid, "SDRS.0210"),
            (_, theirs) if theirs.starts_with("SDRS.") => (Code::PluginFailed, theirs),
            _ => (Code::PluginFailed, deed.failure),
        }
    }
}

/// What a cloud says of a disk that cannot be copied: the copy would be of no use, or nobody's to make.
fn check_marks(name: &str, told: &Told) -> Result<(), Refused> {
    let is = |mark: &str| told.get(mark).is_some_and(|is| is == "true");
    if is("frozen") {
        let detail = format!("disk {name} is frozen by the cloud");
        return Err(coded(Code::Invalid, "SDRS.0225", detail));
    }
    if is("encrypted") {
        let detail = format!("disk {name} is encrypted by the cloud: its copy could not be read");
        return Err(coded(Code::WrongState, "SDRS.1802", detail));
    }
    Ok(())
}

/// Follows one try to its end.
async fn carry(
    actions: &dyn Actions,
    (deed, context): (&Deed, &Context),
    begun: Result<Outcome, recovery::ActionError>,
) -> Result<Told, Failed> {
    let mut answer = begun;
    for _ in 0..LOOKS_MAX {
        let token = match answer {
            Ok(Outcome::Done(report)) => return Ok(report.outputs),
            Ok(Outcome::Skipped(_)) => return Ok(Told::new()),
            Ok(Outcome::Pending { token, poll_after, .. }) => {
                tokio::time::sleep(poll_after.min(PAUSE_MAX)).await;
                token
            }
            Ok(Outcome::NeedsOperator { prompt, .. }) => {
                return Err(Failed::never(format!(
                    "it asks a person, and there is none: {prompt}"
                )));
            }
            Err(error) => {
                let (code, why, retry) = (error.code, error.detail, error.retry);
                return Err(Failed { code, why, retry });
            }
        };
        answer = actions.resume(deed.action, context, &deed.params, &token, None).await;
    }
    Err(Failed::never("it goes on and on without an end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::evs::own_code;

    #[test]
    fn evs_37_a_server_that_is_not_there_is_a_mistake_of_whoever_asked() {
        let looks = Deed { action: LOOK, failure: "SDRS.1326", ..deed() };
        let failed = |code: &str| Failed {
            code: code.to_owned(),
            why: "why".to_owned(),
            retry: Retry::Never,
        };
        for (deed, code, ours, theirs) in [
            (&looks, "not-found", Code::NotFound, "SDRS.1326"),
            (&looks, "invalid-argument", Code::Invalid, "SDRS.0210"),
            (&looks, "denied", Code::PluginFailed, "SDRS.1326"),
            (&looks, "SDRS.1333", Code::PluginFailed, "SDRS.1333"),
            (&deed(), "not-found", Code::PluginFailed, "SDRS.1306"),
        ] {
            assert_eq!(failed(code).codes(deed), (ours, theirs), "{code}");
        }
    }

    #[test]
    fn evs_53_a_disk_that_is_frozen_or_encrypted_is_refused_by_its_number() {
        let told = |marks: &[(&str, &str)]| -> Told {
            marks.iter().map(|(mark, is)| ((*mark).to_owned(), (*is).to_owned())).collect()
        };
        assert_eq!(check_marks("d", &told(&[])), Ok(()), "nobody knows");
        assert_eq!(check_marks("d", &told(&[("frozen", "false"), ("encrypted", "false")])), Ok(()));
        for (mark, number) in [("frozen", "SDRS.0225"), ("encrypted", "SDRS.1802")] {
            let refused = check_marks("d", &told(&[(mark, "true")])).unwrap_err();
            assert_eq!(own_code(&refused.0.detail), Some(number));
        }
    }

    fn deed() -> Deed {
        let params = Value::Null;
        Deed { action: "make-server", key: "k".to_owned(), params, failure: "SDRS.1306" }
    }

    #[tokio::test(start_paused = true)]
    async fn evs_37_a_deed_is_tried_again_only_where_that_may_help_and_not_for_ever() {
        let failed = |retry| Failed { code: "SDRS.1341".to_owned(), why: "why".to_owned(), retry };
        let again = Retry::After(Duration::from_secs(5));
        assert!(failed(again).wait_or_tell("p", &deed(), 1).await.is_ok());
        let told = failed(again).wait_or_tell("p", &deed(), TRIES_MAX).await.unwrap_err();
        assert_eq!(own_code(&told.0.detail), Some("SDRS.1341"));
        let told = Failed::never("no").wait_or_tell("p", &deed(), 1).await.unwrap_err();
        assert_eq!(
            own_code(&told.0.detail),
            Some("SDRS.1306"),
            "the deed's own, where it says none"
        );
    }
}
