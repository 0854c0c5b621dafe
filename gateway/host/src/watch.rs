//! The slow eye on a connection that stands still.
//!
//! Invariant: it costs a connection that moves nothing but a look twice a second, and one that has
//! nothing to wait for nothing at all.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// When to look again, and since when nothing was sent.
#[derive(Debug)]
pub struct Watch {
    timer: Pin<Box<Sleep>>,
    /// When the timer fires, if it matters.
    armed: Option<Instant>,
    sent_bytes: u64,
    still_since: Instant,
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// One that watches nothing yet. Must be called where a timer runs.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            timer: Box::pin(tokio::time::sleep_until(now)),
            armed: None,
            sent_bytes: 0,
            still_since: now,
        }
    }

    /// There is nothing to watch, or it begins anew.
    pub const fn rest(&mut self) {
        self.armed = None;
    }

    /// Ready when `interval` has passed since the last look, with the time of this one and for how
    /// long nothing was sent. A shorter interval than before counts from now.
    pub fn poll_look(
        &mut self,
        cx: &mut Context<'_>,
        interval: Duration,
        sent_bytes: u64,
    ) -> Poll<(Instant, Duration)> {
        let now = Instant::now();
        if self.armed.is_none() {
            (self.still_since, self.sent_bytes) = (now, sent_bytes);
        }
        if self.armed.is_none_or(|at| at > now + interval) {
            self.arm(now + interval);
        }
        ready!(self.timer.as_mut().poll(cx));
        self.arm(now + interval);
        if sent_bytes != self.sent_bytes {
            (self.sent_bytes, self.still_since) = (sent_bytes, now);
        }
        Poll::Ready((now, now.saturating_duration_since(self.still_since)))
    }

    fn arm(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
        self.armed = Some(at);
    }
}
