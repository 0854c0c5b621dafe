//! Sessions that are suspended: whole, once the mirror was brought to the present, or as they are.
//!
//! Invariant: a session that is not whole in the time for it goes on as before, in its own mode. It
//! is suspended as it is only by a word that says so, or where its mirror is not there to be waited
//! for.

use std::sync::Arc;
use std::time::Duration;

use api::units::{bytes_text, micros_text};
use api::{Code, Operation, Session, SuspendSession};
use mirror::{Command, GroupStatus, LegStatus, LinkState, Mode, Phase, Role, SessionState};
use tokio::time::Instant;

use super::Gateway;
use super::sessions::Place;
use crate::refusal::Refused;
use crate::status::leg_out_of_sync;

/// For how long a mirror is brought to the present, if nobody says otherwise: more than a full send
/// journal in memory takes on a line of 1 Gbit/s.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(60);
/// The longest that an operator can ask for: hosts go on meanwhile.
const DRAIN_MS_MAX: u64 = 24 * 3_600_000;
/// The group ends it by itself so much later than whoever waits here, if nobody does any more.
const DRAIN_SLACK: Duration = Duration::from_secs(1);
/// A copy is waited for that may be done in so many times the time for it: how fast it goes changes
/// from moment to moment.
const HOPE: u64 = 2;
/// Between two looks: hosts wait for the mirror from when it has everything until it is suspended.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What came of a call that suspends.
#[derive(Debug)]
pub(crate) enum Suspending {
    /// It is suspended; none: it is not ruled from here any more.
    Done(Option<Box<Session>>),
    /// Its mirror is being brought to the present.
    Draining(Box<Operation>),
}

impl Gateway {
    /// Suspends a session. Where its mirror has to be waited for that is an operation.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Invalid`]; [`Code::NotInSync`] where a copy is under way that will not
    /// be done in the time for it; or the group's refusal.
    pub(crate) async fn suspend_session(
        self: &Arc<Self>,
        name: &str,
        request: &SuspendSession,
    ) -> Result<Suspending, Refused> {
        let drain = drain_time(request)?;
        let (session, place) = self.find_session(name).await?;
        let id = session.id.to_string();
        let status = self.status_of(place.group).await?;
        let leg = leg_of(&status, place)?;
        if request.force || !is_to_drain(&status, leg) {
            let done = if leg.in_sync && !request.force {
                self.suspend_whole(&id, drain, |_left| ()).await?
            } else {
                self.suspend_as_it_is(&id).await?
            };
            return Ok(Suspending::Done(done.map(Box::new)));
        }
        if let Some(why) = too_far(leg, drain) {
            return Err(not_whole(&status.name, leg, &why));
        }
        let running = self.operations.begin("suspend", &session.group);
        let shown = running.snapshot();
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut running = running;
            running.step(&format!("bring {} to the present", session.to));
            let done = gateway.suspend_whole(&id, drain, |left| running.waits(left)).await;
            if done.is_ok() {
                running.done("it has every acknowledged write; changes here are tracked");
            }
            running.end(done.map(drop).map_err(|refused| *refused.0));
        });
        let shown = shown.ok_or_else(|| Refused::new(Code::Internal, "the operation vanished"))?;
        Ok(Suspending::Draining(Box::new(shown)))
    }

    /// Suspends a session as it is.
    ///
    /// # Errors
    /// The group's refusal.
    pub(crate) async fn suspend_as_it_is(&self, session: &str) -> Result<Option<Session>, Refused> {
        self.session_command(session, "suspended", |leg| Command::Suspend { leg }).await
    }

    /// Suspends a session when its mirror has every acknowledged write, and tells meanwhile what it
    /// lacks. One whose mirror is not there to be waited for is suspended as it is.
    ///
    /// # Errors
    /// [`Code::NotInSync`] when it does not have everything in time, or is lost on the way; the group's
    /// refusal.
    ///
    /// # Cancellation
    /// The session goes on as before a little after the time for it.
    pub(crate) async fn suspend_whole(
        &self,
        session: &str,
        drain: Duration,
        tell: impl Fn(&str),
    ) -> Result<Option<Session>, Refused> {
        let (_, place) = self.find_session(session).await?;
        let until = Instant::now() + drain;
        let mut begun = false;
        loop {
            let status = self.status_of(place.group).await?;
            let leg = leg_of(&status, place)?;
            if leg.in_sync {
                let whole = |leg| Command::SuspendWhole { leg };
                match self.session_command(session, "suspended", whole).await {
                    // Lost in this moment: looked at again.
                    Err(refused) if refused.is(Code::NotInSync) => {}
                    result => return result,
                }
            } else if !begun {
                if !is_to_drain(&status, leg) {
                    return self.suspend_as_it_is(session).await;
                }
                if let Some(why) = too_far(leg, drain) {
                    return Err(not_whole(&status.name, leg, &why));
                }
                self.drain(place, drain + DRAIN_SLACK).await?;
                begun = true;
                continue;
            } else if !leg.draining {
                return Err(not_whole(&status.name, leg, "it was lost, or is too slow"));
            }
            if Instant::now() >= until {
                self.drain(place, Duration::ZERO).await?;
                let why = format!("{} ms were not enough", drain.as_millis());
                return Err(not_whole(&status.name, leg, &why));
            }
            tell(&format!("{} are not at {} yet", bytes_text(left(leg)), leg.site));
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn drain(&self, place: Place, drain: Duration) -> Result<(), Refused> {
        let for_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        self.command(place.group, Command::Drain { leg: place.leg, for_ms }).await
    }
}

fn drain_time(request: &SuspendSession) -> Result<Duration, Refused> {
    match request.drain_ms_max {
        None => Ok(DRAIN_MAX),
        Some(millis @ 1..=DRAIN_MS_MAX) => Ok(Duration::from_millis(millis)),
        Some(_) => {
            let detail = format!("drain_ms_max must be 1 to {DRAIN_MS_MAX}");
            Err(Refused::new(Code::Invalid, detail))
        }
    }
}

/// The leg of a session.
///
/// # Errors
/// [`Code::NotFound`] when it is gone.
pub(super) fn leg_of(status: &GroupStatus, place: Place) -> Result<&LegStatus, Refused> {
    let leg = status.legs.iter().find(|leg| leg.leg == place.leg);
    leg.ok_or_else(|| Refused::from(mirror::Refusal::Unknown))
}

/// Whether there is a mirror that can be brought to the present. One that is not connected cannot, and
/// to go on without it is what its suspension is for.
fn is_to_drain(status: &GroupStatus, leg: &LegStatus) -> bool {
    let rests = leg.policy.mode == Mode::Stack && leg.link == LinkState::Off && left(leg) > 0;
    status.role == Role::Primary
        && leg.state == SessionState::Active
        && !leg.in_sync
        && (leg.link == LinkState::Connected || rests)
}

/// Why a copy that is under way is not waited for: it takes much longer than that, and whoever asked is
/// told at once. Who asks for more time than usual means to wait, and may know of a bandwidth window
/// that is not measured here.
fn too_far(leg: &LegStatus, drain: Duration) -> Option<String> {
    if leg.phase != Phase::Copying || leg.link != LinkState::Connected || drain > DRAIN_MAX {
        return None;
    }
    let rate = leg.resync_rate.filter(|rate| *rate > 0)?;
    let needs = left(leg).div_ceil(rate);
    if needs <= HOPE.saturating_mul(drain.as_secs().max(1)) {
        return None;
    }
    let sum = |of: fn(&mirror::SessionStatus) -> u64| leg.sessions.iter().map(of).sum::<u64>();
    let (copied, total) = (sum(|s| s.resync_copied_bytes), sum(|s| s.resync_total_bytes));
    let done = copied.saturating_mul(100).checked_div(total).unwrap_or(0).min(100);
    let kind = if leg.sessions.iter().any(|s| s.full) { "a first copy" } else { "a copy" };
    let needs = micros_text(needs.saturating_mul(1_000_000));
    Some(format!(
        "{kind} is under way, {done} % done, and needs about {needs} more at {}/s",
        bytes_text(rate)
    ))
}

/// Bytes that are not known to be at the mirror.
fn left(leg: &LegStatus) -> u64 {
    leg_out_of_sync(leg).saturating_add(leg.inflight_bytes)
}

fn not_whole(group: &str, leg: &LegStatus, why: &str) -> Refused {
    let (left, site) = (bytes_text(left(leg)), &leg.site);
    let detail = format!(
        "the session is not suspended and goes on as before: {left} are not at {site} ({why})"
    );
    Refused::new(Code::NotInSync, detail).next(format!(
        "wait longer, with --timeout, or suspend it as it is: twinspan session suspend \
         {group}:{site} --force"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::tests::{primary, well};

    #[test]
    fn rec_06_a_mirror_that_is_there_is_waited_for_and_one_that_is_not_is_gone_without() {
        let mut behind = well(2, "west");
        (behind.in_sync, behind.policy.mode) = (false, Mode::Consistency);
        let alone = |leg: &LegStatus| is_to_drain(&primary(vec![leg.clone()]), leg);
        assert!(alone(&behind));
        assert!(!alone(&LegStatus { in_sync: true, ..behind.clone() }), "nothing is missing");
        assert!(!alone(&LegStatus { link: LinkState::Connecting, ..behind.clone() }));
        assert!(!alone(&LegStatus { state: SessionState::Suspended, ..behind.clone() }));
        let mut rests = LegStatus { link: LinkState::Off, ..behind };
        assert!(!alone(&rests));
        rests.policy.mode = Mode::Stack;
        assert!(!alone(&rests), "nothing was changed since its last transfer");
        rests.sessions[0].out_of_sync_bytes = 4096;
        assert!(alone(&rests));
    }

    #[test]
    fn rec_08_what_was_not_in_time_says_what_is_left_and_the_word_for_it() {
        let mut leg = well(2, "west");
        leg.inflight_bytes = 8 << 20;
        let Refused(problem) = not_whole("shop", &leg, "60000 ms were not enough");
        assert_eq!(problem.code, Code::NotInSync.as_str());
        assert!(problem.detail.contains("8 MiB are not at west"), "{problem:?}");
        let next = problem.next.unwrap_or_default();
        assert!(next.contains("session suspend shop:west --force"), "{next}");
    }

    /// Whoever asked waited a minute for a first copy of days, to be refused then.
    #[test]
    fn rec_06_a_suspension_in_the_middle_of_a_first_copy_is_refused_at_once_with_how_far_it_is() {
        let mut copying = well(2, "west");
        (copying.in_sync, copying.phase, copying.resync_rate) =
            (false, Phase::Copying, Some(1 << 20));
        let session = &mut copying.sessions[0];
        session.full = true;
        (session.resync_total_bytes, session.resync_copied_bytes) = (1 << 30, 128 << 20);
        session.out_of_sync_bytes = 896 << 20;
        let why = too_far(&copying, DRAIN_MAX).unwrap();
        assert!(why.contains("a first copy is under way, 12 % done"), "{why}");
        assert!(why.contains("at 1 MiB/s"), "{why}");
        let Refused(problem) = not_whole("shop", &copying, &why);
        assert!(problem.detail.contains("896 MiB are not at west"), "{problem:?}");
        assert!(problem.next.unwrap_or_default().contains("--timeout"));
        // It is waited for where it may be in time, where that is not known, and by a word.
        let waits = |leg: &LegStatus, drain| assert_eq!(too_far(leg, drain), None);
        waits(&LegStatus { resync_rate: Some(8 << 20), ..copying.clone() }, DRAIN_MAX);
        waits(&LegStatus { resync_rate: None, ..copying.clone() }, DRAIN_MAX);
        waits(&LegStatus { resync_rate: Some(0), ..copying.clone() }, DRAIN_MAX);
        waits(&LegStatus { phase: Phase::Following, ..copying.clone() }, DRAIN_MAX);
        waits(&copying, Duration::from_secs(3600));
    }

    #[test]
    fn a_time_that_is_none_or_has_no_end_is_refused() {
        let ask = |drain_ms_max| SuspendSession { force: false, drain_ms_max };
        assert_eq!(drain_time(&ask(None)), Ok(DRAIN_MAX));
        assert_eq!(drain_time(&ask(Some(5))), Ok(Duration::from_millis(5)));
        assert!(drain_time(&ask(Some(0))).is_err());
        assert!(drain_time(&ask(Some(u64::MAX))).is_err());
    }
}
