//! Steps about the mirror of a group at one site: wait for it, suspend it, resume it.

use std::sync::Arc;
use std::time::Duration;

use mirror::{Command, LegStatus, Role, SessionState};
use recovery::run::{Event, Record};
use recovery::{ActionError, Context, Description, Doing, Outcome, Report, Standing};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{Deed, describe, failed};
use crate::gateway::Gateway;
use crate::gateway::suspensions::DRAIN_MAX;
use crate::status::leg_is_well;

/// Between two looks at a mirror.
const LOOK: Duration = Duration::from_millis(500);
/// An output that says that the step changed something, so that taking it back does.
const CHANGED: &str = "changed";
/// What a step is known by that looked, and is about to change something. That is in the journal before it
/// does: what is found changed after a kill is the run's own where this is there, and was so before where it
/// is not.
const ABOUT: &str = "about";

/// How a mirror is, as its primary says.
enum Mirror {
    /// The group is served elsewhere.
    NotHere(String),
    /// There is none yet.
    None,
    /// So.
    Is(Box<LegStatus>),
}

async fn mirror_of(gateway: &Gateway, group: &str, to: &str) -> Result<Mirror, ActionError> {
    let entry = gateway.find_group(group).map_err(failed)?;
    let status = gateway.status_of(entry.group()).await.map_err(failed)?;
    if status.role != Role::Primary {
        let here = &gateway.config.site.name;
        return Ok(Mirror::NotHere(format!("{here} is not the primary of {group}")));
    }
    let leg = status.legs.iter().find(|leg| leg.site == to);
    Ok(leg.map_or(Mirror::None, |leg| Mirror::Is(Box::new(leg.clone()))))
}

fn changed(summary: String) -> Report {
    let mut report = Report::of(summary);
    report.outputs.insert(CHANGED.to_owned(), "true".to_owned());
    report
}

/// Lets it be recorded that a step is about to change something, and nothing else.
fn about(progress: String) -> Outcome {
    Outcome::Pending { token: Value::from(ABOUT), poll_after: Duration::ZERO, progress }
}

/// Whether a step changed what it is about, or may have: it said so, or was about to.
fn is_own(gateway: &Gateway, context: &Context, report: &Report) -> bool {
    if report.outputs.contains_key(CHANGED) {
        return true;
    }
    let was_about = |record: &Record| match &record.event {
        Event::Pending { step, token } => *step == context.step && *token == ABOUT,
        _ => false,
    };
    let Ok(run) = Uuid::parse_str(&context.run) else { return false };
    let all = gateway.runs.all();
    all.get(&run).is_some_and(|known| known.records.iter().any(was_about))
}

/// A group and the site of one of its mirrors.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitInSync {
    group: String,
    to: String,
}

impl WaitInSync {
    async fn look(&self, gateway: &Gateway) -> Result<Result<Report, String>, ActionError> {
        let (group, to) = (&self.group, &self.to);
        Ok(match mirror_of(gateway, group, to).await? {
            Mirror::NotHere(why) => Err(why),
            Mirror::None => Err(format!("{group} has no mirror at {to} yet")),
            Mirror::Is(leg) if leg.in_sync && leg_is_well(&leg) => {
                Ok(Report::of(format!("{to} lacks nothing of {group}")))
            }
            Mirror::Is(leg) => {
                let total: u64 = leg.sessions.iter().map(|of| of.resync_total_bytes).sum();
                let copied: u64 = leg.sessions.iter().map(|of| of.resync_copied_bytes).sum();
                let bytes = api::units::bytes_text;
                Err(format!("{to}: {} of {} copied", bytes(copied.min(total)), bytes(total)))
            }
        })
    }
}

impl Deed for WaitInSync {
    fn describe(&self) -> Description {
        let will_do = format!("wait until {} lacks nothing of {}", self.to, self.group);
        describe("wait for the mirror", will_do, true)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            Ok(match self.look(gateway).await? {
                Ok(report) => Standing::Done(report),
                Err(_) => Standing::Ready,
            })
        })
    }

    fn run<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move {
            Ok(match self.look(gateway).await? {
                Ok(report) => Outcome::Done(report),
                Err(progress) => {
                    Outcome::Pending { token: Value::Null, poll_after: LOOK, progress }
                }
            })
        })
    }
}

/// A group and the site of one of its mirrors.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Suspend {
    group: String,
    to: String,
}

/// The same, and whether what only the mirror has may be lost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    group: String,
    to: String,
    #[serde(default)]
    discard: bool,
}

async fn rule(gateway: &Gateway, group: &str, to: &str, wanted: bool) -> Result<bool, ActionError> {
    match mirror_of(gateway, group, to).await? {
        Mirror::NotHere(why) => Err(ActionError::now("not_primary", why)),
        Mirror::None => {
            let why = format!("{group} has no mirror at {to}");
            Err(ActionError::never("no_mirror", why))
        }
        Mirror::Is(leg) => Ok((leg.state == SessionState::Suspended) == wanted),
    }
}

async fn suspend(gateway: &Gateway, group: &str, to: &str) -> Result<(), ActionError> {
    let name = format!("{group}:{to}");
    gateway.suspend_whole(&name, DRAIN_MAX, |_left| ()).await.map(drop).map_err(failed)
}

async fn resume(
    gateway: &Gateway,
    (group, to): (&str, &str),
    discard: bool,
) -> Result<(), ActionError> {
    let name = format!("{group}:{to}");
    let command = |leg| Command::Resume { leg, discard };
    gateway.session_command(&name, "resumed", command).await.map(drop).map_err(failed)
}

fn standing(is_so: Result<bool, ActionError>, what: String) -> Result<Standing, ActionError> {
    Ok(match is_so {
        Ok(true) => Standing::Done(Report::of(what)),
        Ok(false) => Standing::Ready,
        Err(error) => Standing::Blocked(error.detail),
    })
}

impl Deed for Suspend {
    fn describe(&self) -> Description {
        let will_do = format!("stop mirroring {} to {} and track changes", self.group, self.to);
        describe("suspend the session", will_do, true)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            let is_so = rule(gateway, &self.group, &self.to, true).await;
            standing(is_so, format!("the session to {} is suspended", self.to))
        })
    }

    fn run<'a>(&'a self, _: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move { Ok(about(format!("suspends the session to {}", self.to))) })
    }

    fn resume<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        _: &'a Context,
        _: (&'a Value, Option<&'a str>),
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            suspend(gateway, &self.group, &self.to).await?;
            Ok(Outcome::Done(changed(format!("suspended the session to {}", self.to))))
        })
    }

    fn undo<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        context: &'a Context,
        report: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            if !is_own(gateway, context, report) {
                let why = "it was suspended before this run came to it, so it is left as it is";
                return Ok(Outcome::Skipped(why.to_owned()));
            }
            if !rule(gateway, &self.group, &self.to, true).await? {
                let why = format!("the session to {} is not suspended", self.to);
                return Ok(Outcome::Skipped(why));
            }
            // What the mirror wrote by itself meanwhile is nobody's to discard here.
            resume(gateway, (&self.group, &self.to), false).await?;
            Ok(Outcome::Done(Report::of(format!("resumed the session to {}", self.to))))
        })
    }
}

impl Deed for Resume {
    fn describe(&self) -> Description {
        let lost = if self.discard { ", discarding what only it has" } else { "" };
        let will_do = format!("mirror {} to {} again, by delta{lost}", self.group, self.to);
        describe("resume the session", will_do, true)
    }

    fn check<'a>(&'a self, gateway: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Standing> {
        Box::pin(async move {
            let is_so = rule(gateway, &self.group, &self.to, false).await;
            standing(is_so, format!("the session to {} is not suspended", self.to))
        })
    }

    fn run<'a>(&'a self, _: &'a Arc<Gateway>, _: &'a Context) -> Doing<'a, Outcome> {
        Box::pin(async move { Ok(about(format!("resumes the session to {}", self.to))) })
    }

    fn resume<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        _: &'a Context,
        _: (&'a Value, Option<&'a str>),
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            resume(gateway, (&self.group, &self.to), self.discard).await?;
            Ok(Outcome::Done(changed(format!("resumed the session to {}", self.to))))
        })
    }

    fn undo<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        context: &'a Context,
        report: &'a Report,
    ) -> Doing<'a, Outcome> {
        Box::pin(async move {
            if !is_own(gateway, context, report) {
                let why = "it was not suspended before this run came to it, so it is left as it is";
                return Ok(Outcome::Skipped(why.to_owned()));
            }
            if !rule(gateway, &self.group, &self.to, false).await? {
                let why = format!("the session to {} is suspended", self.to);
                return Ok(Outcome::Skipped(why));
            }
            suspend(gateway, &self.group, &self.to).await?;
            Ok(Outcome::Done(Report::of(format!("suspended the session to {}", self.to))))
        })
    }
}
