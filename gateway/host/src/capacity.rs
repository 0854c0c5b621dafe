//! What all connections of a gateway share: how many there may be, and how many bytes they may
//! have in flight together.
//!
//! Invariant: what was taken is given back when its holder is dropped. Nobody waits in here: a
//! connection that gets nothing asks again, and says that it is waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{CONNECTIONS_MAX, FLOOR_BYTES, GATEWAY_BYTES_MAX, SPARE_GRANT_BYTES};

/// The shared limits of a gateway's listeners.
#[derive(Debug)]
pub struct Capacity {
    connections: Arc<Semaphore>,
    bytes_free: AtomicU64,
    waiting: AtomicUsize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self::new(CONNECTIONS_MAX, GATEWAY_BYTES_MAX)
    }
}

impl Capacity {
    /// Room for `connections` connections with `bytes` in flight above their floors.
    #[must_use]
    pub fn new(connections: usize, bytes: u64) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            bytes_free: AtomicU64::new(bytes),
            waiting: AtomicUsize::new(0),
        }
    }

    /// A place for one more connection; `None` when the gateway is full.
    #[must_use]
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    fn take(&self, bytes: u64) -> bool {
        self.bytes_free
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |free| free.checked_sub(bytes))
            .is_ok()
    }

    fn give(&self, bytes: u64) {
        self.bytes_free.fetch_add(bytes, Ordering::AcqRel);
    }
}

/// What one connection holds of the gateway's bytes.
#[derive(Debug)]
pub struct Grant {
    capacity: Arc<Capacity>,
    held: u64,
    waits: bool,
}

impl Grant {
    /// A connection's share, of which it holds nothing yet.
    #[must_use]
    pub const fn new(capacity: Arc<Capacity>) -> Self {
        Self { capacity, held: 0, waits: false }
    }

    /// Whether the connection may have `total` bytes in flight. One that may not counts as waiting
    /// until it asks again.
    pub fn covers(&mut self, total: u64) -> bool {
        let wanted = total.saturating_sub(FLOOR_BYTES);
        let covered = if wanted <= self.held {
            true
        } else {
            let missing = wanted - self.held;
            let taken = self.capacity.take(missing);
            if taken {
                self.held = wanted;
            }
            taken
        };
        if self.waits == covered {
            self.waits = !covered;
            if covered {
                self.capacity.waiting.fetch_sub(1, Ordering::Relaxed);
            } else {
                self.capacity.waiting.fetch_add(1, Ordering::Relaxed);
            }
        }
        covered
    }

    /// Gives back what `total` bytes in flight do not need. While nobody waits, some is kept for
    /// the next requests; an `idle` connection keeps nothing.
    pub fn settle(&mut self, total: u64, idle: bool) {
        if self.held == 0 {
            return;
        }
        let spare = if idle || self.is_contended() { 0 } else { SPARE_GRANT_BYTES };
        let keep = total.saturating_sub(FLOOR_BYTES).saturating_add(spare);
        if self.held > keep {
            self.capacity.give(self.held - keep);
            self.held = keep;
        }
    }

    /// Whether this connection holds bytes that another waits for.
    pub fn is_coveted(&self) -> bool {
        self.held > 0 && self.is_contended()
    }

    fn is_contended(&self) -> bool {
        self.capacity.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.waits {
            self.capacity.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.capacity.give(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_always_has_its_floor() {
        let capacity = Arc::new(Capacity::new(1, 0));
        let mut grant = Grant::new(Arc::clone(&capacity));
        assert!(grant.covers(FLOOR_BYTES));
        assert!(!grant.covers(FLOOR_BYTES + 1));
        assert_eq!(capacity.waiting.load(Ordering::Relaxed), 1);
        assert!(!grant.covers(FLOOR_BYTES + 1));
        assert_eq!(capacity.waiting.load(Ordering::Relaxed), 1);
        drop(grant);
        assert_eq!(capacity.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_taken_comes_back() {
        let capacity = Arc::new(Capacity::new(1, 1000));
        let mut hog = Grant::new(Arc::clone(&capacity));
        let mut other = Grant::new(Arc::clone(&capacity));
        assert!(hog.covers(FLOOR_BYTES + 900));
        assert!(!other.covers(FLOOR_BYTES + 200));
        assert!(hog.is_coveted());
        hog.settle(FLOOR_BYTES + 100, false);
        assert!(other.covers(FLOOR_BYTES + 200));
        assert!(!hog.is_coveted());
        drop((hog, other));
        assert_eq!(capacity.bytes_free.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn places_are_limited_and_come_back() {
        let capacity = Capacity::new(1, 0);
        let place = capacity.place();
        assert!(place.is_some());
        assert!(capacity.place().is_none());
        drop(place);
        assert!(capacity.place().is_some());
    }
}
