//! Time, as the driver needs it.

use std::time::Duration;

/// The time of day, for people; nothing is ordered or fenced by it.
pub trait Clock {
    /// Milliseconds since 1970.
    fn unix_ms(&self) -> u64;

    /// Milliseconds since 1970 by the clock that ends locks: it is never set, never goes back, and does
    /// not go faster than time.
    fn lock_ms(&self) -> u64 {
        self.unix_ms()
    }
}

/// When a silent peer is asked, and when it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatTimes {
    /// How often the machine hears that time passed: the grain of deadlines.
    pub tick: Duration,
    /// How often a peer is asked.
    pub interval: Duration,
    /// How long it may be silent. Well under a host's 30 s, well over a pause of a busy machine.
    pub silence: Duration,
    /// How long an answer to `Open` may take: a mirror records before it answers.
    pub open: Duration,
    /// The first and the longest pause between two attempts to reach a mirror.
    pub redial: (Duration, Duration),
}

impl Default for HeartbeatTimes {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            interval: Duration::from_millis(500),
            silence: Duration::from_secs(4),
            open: Duration::from_secs(10),
            redial: (Duration::from_millis(100), Duration::from_secs(2)),
        }
    }
}
