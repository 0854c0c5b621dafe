//! Whether a connection that has nothing to do looks again or sleeps.
//!
//! ```text
//!              nothing to do                  the time is over
//!   Busy ───────────────────────▶ Looking ───────────────────────▶ Asleep
//!    ▲ ╰── while looks are off ───────│────────────────────────────▶ │
//!    ╰──────── something came ────────┴──────────────────────────────╯
//! ```
//!
//! Invariant: looking never goes on for longer than the limit, and looks that find nothing become
//! rare by themselves: each that was in vain doubles the number of times that the connection sleeps
//! at once. So an idle connection sleeps, a host that answers slowly costs next to nothing, and on
//! a machine with a single core, where the host cannot run while we look, we soon stop looking.

use std::time::Duration;

use tokio::time::Instant;

/// Sleeps without a look after many looks in vain: at most one in so many is tried.
const SLEEPS_MAX: u32 = 1023;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Busy,
    Looking { until: Instant },
    Asleep,
}

/// How long to go on looking, as this connection taught it.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    state: State,
    /// Times to sleep at once before the next look.
    sleeps: u32,
    /// What `sleeps` becomes when a look is in vain.
    penalty: u32,
}

impl Patience {
    /// Looks for `limit` at most; a limit of zero means never.
    pub const fn new(limit: Duration) -> Self {
        Self { limit, state: State::Busy, sleeps: 0, penalty: 0 }
    }

    /// Something came.
    pub const fn moved(&mut self) {
        if matches!(self.state, State::Looking { .. }) {
            self.penalty = 0;
        }
        self.state = State::Busy;
    }

    /// There is nothing to do: whether to look again, and not to sleep.
    pub fn looks(&mut self, now: impl FnOnce() -> Instant) -> bool {
        match self.state {
            State::Asleep => false,
            State::Busy if self.limit.is_zero() => false,
            State::Busy if self.sleeps > 0 => {
                self.sleeps -= 1;
                self.state = State::Asleep;
                false
            }
            State::Busy => {
                self.state = State::Looking { until: now() + self.limit };
                true
            }
            State::Looking { until } if now() < until => true,
            State::Looking { .. } => {
                self.penalty = (self.penalty * 2 + 1).min(SLEEPS_MAX);
                self.sleeps = self.penalty;
                self.state = State::Asleep;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    #[test]
    fn looks_until_the_time_is_over_and_then_sleeps() {
        let start = Instant::now();
        let mut patience = Patience::new(LIMIT);
        assert!(patience.looks(|| start));
        assert!(patience.looks(|| start + LIMIT / 2));
        assert!(!patience.looks(|| start + LIMIT));
        // Woken for nothing, it does not begin anew.
        assert!(!patience.looks(|| start + LIMIT * 2));
    }

    #[test]
    fn looks_in_vain_become_rare_and_one_that_is_not_makes_up_for_them() {
        let now = Instant::now();
        let mut patience = Patience::new(LIMIT);
        let mut looked = 0;
        for _ in 0..10_000 {
            if patience.looks(|| now) {
                looked += 1;
                assert!(!patience.looks(|| now + LIMIT));
            }
            patience.moved();
        }
        // Ten to get to the longest pause, and one after each.
        assert!((10..=20).contains(&looked), "{looked}");

        while !patience.looks(|| now) {
            patience.moved();
        }
        patience.moved();
        for _ in 0..100 {
            assert!(patience.looks(|| now), "what came in time is waited for again");
            patience.moved();
        }
    }

    #[test]
    fn no_limit_means_no_look() {
        let mut patience = Patience::new(Duration::ZERO);
        assert!(!patience.looks(Instant::now));
    }
}
