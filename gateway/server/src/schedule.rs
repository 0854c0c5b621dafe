//! When something that recurs is to be run: cron expressions in time zones, and what becomes of the
//! due times that were not waited for.
//!
//! ```text
//!   before ├──due──due──due──┤ now      none: wait for the next
//!                                       some, nothing runs:  one run for all of them; the others are
//!                                                            missed
//!                                       some, one runs:      all of them are skipped
//!   now ├───────────────────┤ before    the clock was moved back: go on from now
//! ```
//!
//! Invariant: pure but for [`drive`], which sleeps. A due time is run, skipped or missed, and each is
//! so once; two runs of one schedule never overlap. Whoever keeps `before` durably before it runs
//! never runs a due time twice, unless the clock is moved back by more than a minute.

use std::time::Duration;

use croner::Cron;
use croner::errors::CronError;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The most due times that are counted one by one: a year of downtime of a schedule of seconds must
/// not keep a thread busy.
pub(crate) const COUNTED_MAX: u64 = 10_000;
/// The longest expression that is looked at: each of its lists written out has not so many letters.
const EXPRESSION_LEN_MAX: usize = 256;
/// A run that begins later than this makes up for its own due time, which was missed.
const LATE: SignedDuration = SignedDuration::from_secs(60);
/// A clock that is set right goes back by less.
const BACK: SignedDuration = SignedDuration::from_secs(60);
/// A clock may be moved while nobody looks at it, so it is looked at so often.
const LOOK: Duration = Duration::from_secs(5);

/// Why a schedule is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScheduleError {
    /// The expression cannot be read.
    #[error("{expression:?} is no cron expression: {why}")]
    Expression {
        /// What was written.
        expression: String,
        /// What the parser said.
        why: String,
    },
    /// It names no moment.
    #[error("{0:?} is due at no time")]
    Never(String),
    /// Nobody knows the zone.
    #[error("{0:?} is no time zone: use a name such as UTC or Europe/Berlin")]
    Zone(String),
}

/// The times at which something is due.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing is due.
    Wait,
    /// It is time for one run.
    Run {
        /// The newest due time, which the run is for.
        due: Timestamp,
        /// Due times that found nobody: those before it, and it too when the run is late.
        missed: u64,
    },
    /// A run is under way: these due times are given up.
    Skip {
        /// How many.
        dues: u64,
    },
    /// The clock was moved back, by so much: nothing is due before the next due time.
    Back(SignedDuration),
}

/// What a look at a schedule finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// What is to be done.
    pub(crate) act: Act,
    /// What to hand to the next look: all due times up to it are done with. To be recorded before a
    /// run begins.
    pub(crate) before: Timestamp,
    /// When something is due next; never, if absent.
    pub(crate) next: Option<Timestamp>,
}

// === impl Schedule ===

impl Schedule {
    /// Reads an expression of five fields (minute, hour, day of the month, month, day of the week), or
    /// of six with the second before them. A time of day that does not exist on a day is due when the
    /// clock has gone over it; one that exists twice is due once, unless the hour is `*` or a step.
    ///
    /// # Errors
    /// [`ScheduleError`], which names what cannot be read.
    pub(crate) fn parse(expression: &str, zone: &str) -> Result<Self, ScheduleError> {
        let why =
            |why: String| ScheduleError::Expression { expression: expression.to_owned(), why };
        if expression.len() > EXPRESSION_LEN_MAX {
            return Err(why(format!("it has more than {EXPRESSION_LEN_MAX} letters")));
        }
        let fields = expression.split_whitespace().count();
        if fields > 6 {
            return Err(why(format!("it has {fields} fields, not 5 or 6")));
        }
        let cron: Cron = expression.parse().map_err(|error: CronError| why(error.to_string()))?;
        let zone = TimeZone::get(zone).map_err(|_unknown| ScheduleError::Zone(zone.to_owned()))?;
        let schedule = Self { cron, zone };
        let never = || ScheduleError::Never(expression.to_owned());
        schedule.is_ever_due().then_some(schedule).ok_or_else(never)
    }

    /// In whose clock times of day are.
    #[must_use]
    pub(crate) const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first due time after a moment.
    #[must_use]
    pub(crate) fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let from = whole_second(moment).to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&from, false).ok()?.timestamp();
        // A search that does not go on would be asked for ever.
        (next > moment).then_some(next)
    }

    /// The last due time up to a moment, that moment included.
    fn last_until(&self, moment: Timestamp) -> Option<Timestamp> {
        let until = whole_second(moment).to_zoned(self.zone.clone());
        Some(self.cron.find_previous_occurrence(&until, true).ok()?.timestamp())
    }

    /// Looks at the schedule: `before` is what the last look said, or when it was made; `now` is what
    /// the clock of the wall says.
    #[must_use]
    pub(crate) fn look(&self, before: Timestamp, now: Timestamp, is_running: bool) -> Look {
        if now < before {
            let back = before.duration_since(now);
            if back <= BACK {
                return Look { act: Act::Wait, before, next: self.next_after(before) };
            }
            return Look { act: Act::Back(back), before: now, next: self.next_after(now) };
        }
        let Some((due, dues)) = self.dues(before, now) else {
            return Look { act: Act::Wait, before, next: self.next_after(now) };
        };
        let is_late = now.duration_since(due) > LATE;
        let act = if is_running {
            Act::Skip { dues }
        } else {
            Act::Run { due, missed: if is_late { dues } else { dues - 1 } }
        };
        Look { act, before: due, next: self.next_after(now) }
    }

    /// The newest due time after `before` and up to `now`, and how many there are, counted up to
    /// [`COUNTED_MAX`].
    fn dues(&self, before: Timestamp, now: Timestamp) -> Option<(Timestamp, u64)> {
        let is_due = |due: &Timestamp| *due <= now;
        let all = std::iter::successors(self.next_after(before).filter(is_due), |due| {
            self.next_after(*due).filter(is_due)
        });
        let (mut newest, mut count) = (None, 0);
        for due in all {
            newest = Some(due);
            count += 1;
            if count == COUNTED_MAX {
                newest = self.last_until(now).max(newest);
                break;
            }
        }
        newest.map(|newest| (newest, count))
    }

    /// Whether any day of the calendar has a due time. The dates that a year may have are all in the
    /// 28 years after which they begin anew.
    fn is_ever_due(&self) -> bool {
        let from = jiff::civil::date(2000, 1, 1).to_zoned(TimeZone::UTC);
        from.is_ok_and(|from| self.next_after(from.timestamp()).is_some())
    }
}

/// Without what is less than a second: no expression knows of it.
fn whole_second(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

// === driving ===

/// How long to rest when the clock says `now` and something is due next at `wanted`: not for long, as
/// the clock may be moved, and not for nothing, as a schedule knows whole seconds.
fn rest(wanted: Option<Timestamp>, now: Timestamp) -> Duration {
    let until = wanted.map(|at| at.duration_since(now));
    let rest = until.map_or(LOOK, |until| Duration::try_from(until).unwrap_or_default());
    rest.clamp(Duration::from_millis(20), LOOK)
}

/// Looks at schedules for as long as the gateway runs: `look` is told what the clock says and answers
/// when it wants to be asked again, at the latest; it is asked sooner when `wake` is notified, as when a
/// schedule was set. It begins runs, and does not wait for them.
pub(crate) async fn drive<F: Future<Output = Option<Timestamp>>>(
    clock: impl Fn() -> Timestamp,
    (stopping, wake): (CancellationToken, &Notify),
    mut look: impl FnMut(Timestamp) -> F,
) {
    loop {
        let wanted = look(clock()).await;
        tokio::select! {
            () = tokio::time::sleep(rest(wanted, clock())) => {}
            () = wake.notified() => {}
            () = stopping.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests;
