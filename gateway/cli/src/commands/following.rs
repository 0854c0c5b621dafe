//! Operations that are followed to their end, and the suspension of a session, which may be one.

use std::time::Duration;

use api::units::bytes_text;
use api::{Operation, OperationState, Session, SuspendSession};
use serde::Deserialize;
use tokio::time::Instant;
use ureq::http::Method;

use crate::args::{Format, Global};
use crate::client::Client;
use crate::failure::{Failure, TIMED_OUT, UNREACHABLE};

/// Between two looks at what is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How long a gateway that is asked how far it is may be silent.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// The gateway ends what is not done in time; so much longer its word is waited for.
const WORD_MAX: Duration = Duration::from_secs(30);

/// Follows an operation to its end.
pub(super) fn follow(
    client: &Client,
    begun: &Operation,
    timeout: Duration,
) -> Result<Operation, Failure> {
    follow_telling(client, begun, timeout, |_now| ())
}

/// The same, and tells how it is whenever that was looked at.
fn follow_telling(
    client: &Client,
    begun: &Operation,
    timeout: Duration,
    mut tell: impl FnMut(&Operation),
) -> Result<Operation, Failure> {
    let until = Instant::now() + timeout;
    let path = format!("/api/v1/operations/{}", begun.id);
    let mut heard = Instant::now();
    loop {
        let now: Operation = match client.get(&path) {
            // What goes on for hours is not lost sight of for a connection that was.
            Err(failure) if failure.exit == UNREACHABLE && heard.elapsed() < SILENT_MAX => {
                std::thread::sleep(LOOK_PAUSE);
                continue;
            }
            now => now?,
        };
        heard = Instant::now();
        tell(&now);
        if now.state != OperationState::Running {
            return Ok(now);
        }
        if Instant::now() > until {
            let what = format!("the operation {} is still under way", now.id);
            return Err(
                Failure::new(TIMED_OUT, what).next(format!("twinspan operation show {}", now.id))
            );
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// What a suspension is answered with: an operation where the mirror is waited for.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Begun(Box<Operation>),
    Done(Box<Session>),
}

/// `twinspan session suspend`; the session as it is then, if it is ruled from here still.
pub(super) fn suspend(
    client: &Client,
    path: &str,
    (force, timeout): (bool, Duration),
    global: &Global,
) -> Result<Option<Session>, Failure> {
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let request = SuspendSession { force, drain_ms_max: (!force).then_some(millis) };
    let answer = client.ask(&Method::POST, &format!("{path}/suspend"), &request)?;
    let begun = match answer {
        None => return Ok(None),
        Some(Answer::Done(session)) => return Ok(Some(*session)),
        Some(Answer::Begun(begun)) => begun,
    };
    let mut told = String::new();
    let tell = |now: &Operation| {
        let Some(step) = now.steps.last() else { return };
        let is_new = step.state == OperationState::Running && step.detail != told;
        if is_new && global.output == Format::Table {
            eprintln!("{}: {}", step.name, step.detail);
            told.clone_from(&step.detail);
        }
    };
    let ended = follow_telling(client, &begun, timeout + WORD_MAX, tell)?;
    match ended.error {
        Some(problem) => Err(Failure::from(problem)),
        None => client.get(path).map(Some),
    }
}

/// What a mirror lacks whose session was suspended as it is.
pub(super) fn missing(session: &Session) -> String {
    if session.leg.left_whole != Some(false) {
        return String::new();
    }
    let (bytes, to) = (bytes_text(session.out_of_sync_bytes), &session.to);
    format!(
        "missing {bytes} are not at {to}, some of them from before it was suspended: hosts there would \
         find an older point in time\n"
    )
}
