//! Deeds that take the cloud longer than a call may: one look at a time, and one push for what is not so.
//!
//! ```text
//!   look ─▶ it is so ─────────────────────────────▶ done
//!     ▲  └▶ it is not ─▶ what was pushed still runs ─┐
//!     │                └▶ push ─────────────────────┤
//!     └───────────── pending(what was pushed) ◀─────┘
//! ```
//!
//! Invariant: nothing is done because it was asked for, only because a look showed that it is not so. A
//! service that says "done" and has not is asked again a few times, and is then told of by name.

use serde::{Deserialize, Serialize};

use super::cloud::{Cloud, Job, Progress};
use super::twinspan::plugin::types::{
    Error, ErrorCode, Outcome, Pending, Progress as Told, Report,
};
use super::{before, error};

/// Between two looks.
const LOOK_MS: u32 = 1_000;
/// The same thing is pushed this often; then the service does not do what it says.
const PUSHES_MAX: u32 = 5;

/// What a look found.
pub enum Seen {
    /// It is so.
    Done(Report),
    /// It is not so yet; what is waited for.
    Not(String),
}

/// What was pushed, from look to look.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Pushed {
    /// What was pushed last: a name for it.
    #[serde(default)]
    what: String,
    #[serde(default)]
    times: u32,
    /// What the service calls it, where it has a name.
    #[serde(default)]
    job: Option<Job>,
    /// Only look.
    #[serde(skip)]
    pub is_dry: bool,
    /// The deed's key, where it can be taken back: that something was pushed is noted by it.
    #[serde(skip)]
    pub key: Option<String>,
}

impl Pushed {
    pub fn read(token: &str) -> Result<Self, Error> {
        serde_json::from_str(token)
            .map_err(|why| error(ErrorCode::InvalidArgument, format!("the token: {why}")))
    }

    /// Pushes, unless what was pushed before still runs.
    pub fn push(
        &mut self,
        cloud: &Cloud,
        what: &str,
        begin: impl FnOnce() -> Result<Job, Error>,
    ) -> Result<(), Error> {
        if self.is_dry {
            return Ok(());
        }
        if self.what != what {
            (self.what, self.times, self.job) = (what.to_owned(), 0, None);
        }
        match self.job.as_deref().map(|job| cloud.job(job)) {
            Some(Ok(Progress::Running)) => return Ok(()),
            Some(Ok(Progress::Fail(why))) => {
                return Err(error(ErrorCode::WrongState, format!("{what}: {why}")));
            }
            Some(Err(why)) if why.code != ErrorCode::NotFound => return Err(why),
            // It says that it is done, since this look was begun: the next one sees whether it is so.
            Some(Ok(Progress::Success) | Err(_)) => {
                self.job = None;
                return Ok(());
            }
            None => {}
        }
        if self.times == PUSHES_MAX {
            let why = format!("{what}: asked for {PUSHES_MAX} times, and still it is not so");
            return Err(error(ErrorCode::WrongState, why));
        }
        if let Some(key) = &self.key {
            before::note(key, "pushed")?;
        }
        self.times += 1;
        self.job = match begin() {
            Ok(job) => Some(job).filter(|job| !job.is_empty()),
            // Something is under way with the same thing, perhaps this.
            Err(why) if why.code == ErrorCode::Conflict => None,
            Err(why) => return Err(why),
        };
        Ok(())
    }

    /// What is told of a look.
    pub fn outcome(&self, seen: Seen) -> Result<Outcome, Error> {
        match seen {
            Seen::Done(report) => Ok(Outcome::Done(report)),
            Seen::Not(what) if self.is_dry => {
                let summary = format!("it would be done: {what}");
                Ok(Outcome::Done(super::actions::report(summary, &[])))
            }
            Seen::Not(message) => {
                let token = serde_json::to_string(self)
                    .map_err(|why| error(ErrorCode::Internal, why.to_string()))?;
                let progress = Told { percent: None, message };
                Ok(Outcome::Pending(Pending { token, poll_after_ms: LOOK_MS, progress }))
            }
        }
    }
}
