//! What a host protocol sees of a volume.
//!
//! Invariant: a volume and everything that is attached to it live on one thread, so there is
//! nothing to lock and nothing to hand over.

use std::rc::Rc;
use std::task::{Context, Poll};

use crate::{Extent, Geometry, Holds, IoError, Request};

/// Whether a run of blocks holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// Something was written here.
    Data,
    /// Never written or given back: reads as zeroes and costs no I/O.
    Hole,
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Bytes, never 0.
    pub len: u64,
    /// What they are.
    pub kind: RunKind,
}

/// A block device as its hosts see it.
pub trait Volume {
    /// The current size. It may grow while hosts are attached; it never shrinks.
    fn geometry(&self) -> Geometry;

    /// Whether writes are refused for everybody (a mirror's copy, a snapshot).
    fn read_only(&self) -> bool;

    /// Takes every request out of `batch`, in order, and answers each exactly once through its
    /// ticket: some before this returns, the others later.
    ///
    /// Requests whose ranges overlap are applied in the order given; there is no other order among
    /// requests in flight. A flush covers every change that was answered before it was submitted,
    /// on whatever connection.
    fn submit(&self, batch: &mut Vec<Request>);

    /// What lies where in `extent`, as at most `limit` runs from its start, which therefore may
    /// cover only a first part of it. Costs no data I/O and is bounded by `limit`, not by the
    /// length of `extent`.
    ///
    /// # Errors
    /// [`IoError::Media`] or [`IoError::Checksum`] when the map cannot be read,
    /// [`IoError::Fenced`] when this gateway may no longer serve the volume.
    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError>;

    /// Where bytes of it can be held for one asker, against every other way to it. `None` where this is
    /// the only way.
    fn holds(&self) -> Option<Rc<Holds>> {
        None
    }

    /// Ready when a read of these bytes gives every change of them that was submitted before, by
    /// whatever way. Without it, a read may be answered from before a change that is under way.
    ///
    /// # Cancellation
    /// Safe: nothing is changed. Whoever polled is woken once, when it is worth another look.
    fn poll_settled(&self, _extent: Extent, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
