//! The one place where the gateway looks at a clock.
//!
//! Invariant: ages are differences of the steady clock, which starts at the time of day and then
//! never jumps. The wall clock is only ever shown, or compared with what a person wrote (an
//! expiry, a schedule), and no order or fencing depends on either. Locks end by a third clock, which
//! begins where it stood when the gateway stopped and then goes with the steady one: nobody sets it,
//! and it is never ahead of time that passed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A wall clock and a steady one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: tokio::time::Instant,
    origin_ms: u64,
    lock_origin_ms: u64,
}

impl Clock {
    /// Starts the steady clock.
    #[must_use]
    pub(crate) fn start() -> Self {
        let origin_ms = millis(unix());
        let origin = tokio::time::Instant::now();
        Self { origin, origin_ms, lock_origin_ms: origin_ms }
    }

    /// The same with a lock clock that stood at `recorded_ms` when the gateway was here last.
    #[must_use]
    pub(crate) const fn locks_from(self, recorded_ms: u64) -> Self {
        Self { lock_origin_ms: recorded_ms, ..self }
    }

    /// The lock clock: milliseconds since 1970 as it was believed when the gateway was made, and then
    /// only those in which it ran.
    #[must_use]
    pub(crate) fn lock_ms(&self) -> u64 {
        self.lock_origin_ms.saturating_add(millis(self.origin.elapsed()))
    }

    /// The steady clock: milliseconds since 1970 as it was believed at the start.
    #[must_use]
    pub(crate) fn steady_ms(&self) -> u64 {
        self.origin_ms.saturating_add(millis(self.origin.elapsed()))
    }

    /// Milliseconds since 1970, as the machine believes.
    #[must_use]
    pub(crate) fn unix_ms(&self) -> u64 {
        millis(unix())
    }

    /// Seconds since 1970, as the machine believes.
    #[must_use]
    pub(crate) fn unix_s(&self) -> u64 {
        unix().as_secs()
    }

    /// Now, RFC 3339.
    #[must_use]
    pub(crate) fn rfc3339(&self) -> String {
        text(self.unix_ms())
    }
}

/// A time in milliseconds since 1970 as RFC 3339.
#[must_use]
pub(crate) fn text(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_e| String::new(), |at| at.to_string())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl mirror::Clock for Clock {
    fn unix_ms(&self) -> u64 {
        self.steady_ms()
    }

    fn lock_ms(&self) -> u64 {
        Self::lock_ms(self)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock that everyone else is handed")]
fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The kernel's boot id: what was written to files survives in memory while it stays the same.
#[must_use]
pub(crate) fn host_boot() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // Without one, a fresh number each time: every start then counts as a power loss, which is
    // slower and never wrong.
    uuid::Uuid::parse_str(text.trim()).unwrap_or_else(|_e| uuid::Uuid::now_v7()).into_bytes()
}
