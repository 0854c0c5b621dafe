//! Real time, in the one place where tests of real processes need it.
//!
//! Invariant: no wait is without an end.
#![expect(clippy::disallowed_types, reason = "other processes live in real time")]

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long between two looks at something that is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A point in time by which something must have happened.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// This long from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.elapsed() >= self.limit
    }

    /// How long ago it was set.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// How long is left; nothing when it is over.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }
}

/// Looks until `look` finds what it looks for.
///
/// # Errors
/// After `limit`, with `what` was awaited and the last reason why it was not there.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Deadline::after(limit);
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(e) if deadline.is_over() => bail!("waited {limit:?} for {what}: {e:#}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_what_comes_and_names_what_does_not() {
        let mut looks = 0;
        let found = wait_for("the third look", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { bail!("look {looks}") }
        });
        assert_eq!(found.unwrap(), 3);
        let missed: Result<()> =
            wait_for("rain", Duration::from_millis(30), || bail!("the sky is blue"));
        let message = missed.unwrap_err().to_string();
        assert!(message.contains("rain") && message.contains("blue"), "{message}");
    }
}
