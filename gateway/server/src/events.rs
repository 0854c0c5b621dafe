//! What happened, for those who follow: a bounded ring and a broadcast.
//!
//! Invariant: numbers grow by one. A follower that comes back with the last number it saw gets
//! everything after it that is still in the ring; a gap in the numbers tells it what it missed.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use api::Event;
use tokio::sync::broadcast;

use crate::clock::Clock;

/// An hour of a busy day.
const RING_EVENTS_MAX: usize = 4096;
/// A follower that falls this far behind must come back with its last number.
const FOLLOWER_EVENTS_MAX: usize = 256;

/// The ring.
#[derive(Debug)]
pub(crate) struct Events {
    clock: Clock,
    ring: Mutex<Ring>,
    live: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct Ring {
    last: u64,
    events: VecDeque<Event>,
}

impl Events {
    /// An empty ring.
    #[must_use]
    pub(crate) fn new(clock: Clock) -> Self {
        let (live, _) = broadcast::channel(FOLLOWER_EVENTS_MAX);
        Self { clock, ring: Mutex::default(), live }
    }

    /// Adds an event. It is logged too.
    pub(crate) fn tell(&self, kind: &str, subject: &str, text: impl Into<String>) {
        let text = text.into();
        tracing::info!(kind, subject, "{text}");
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last += 1;
        let event = Event {
            id: ring.last,
            at: self.clock.rfc3339(),
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            text,
        };
        if ring.events.len() == RING_EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(event.clone());
        // Sent under the lock, so that nobody who joins misses one or sees one twice. With no
        // follower there is nobody to tell.
        let _followers = self.live.send(event);
    }

    /// The events after number `after` that are still here, and those to come.
    #[must_use]
    pub(crate) fn follow(&self, after: Option<u64>) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let past = match after {
            None => Vec::new(),
            Some(after) => ring.events.iter().filter(|event| event.id > after).cloned().collect(),
        };
        (past, self.live.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_that_comes_back_misses_nothing_that_is_in_the_ring() {
        let events = Events::new(Clock::start());
        for number in 0..=RING_EVENTS_MAX {
            events.tell("volume", "v", format!("event {number}"));
        }
        let (past, mut live) = events.follow(Some(4095));
        let ids: Vec<u64> = past.iter().map(|event| event.id).collect();
        assert_eq!(ids, [4096, 4097]);
        let (past, _) = events.follow(Some(0));
        assert_eq!((past.len(), past[0].id), (RING_EVENTS_MAX, 2));
        events.tell("volume", "v", "last");
        assert_eq!(live.recv().await.unwrap().id, 4098);
    }
}
