//! Bytes of a volume that one asker has for itself, for as long as a read and the write that follows
//! from it take.
//!
//! ```text
//!   every way to the volume ──sift──▶ free: down at once
//!                             ╰─────▶ held: waits here ──the hold is dropped──▶ down, in its turn
//!   whoever holds ──Hold::submit──▶ down
//! ```
//!
//! Invariant: what changes held bytes and comes by any way but the hold's waits, and so does whatever
//! overlaps a request that waits, so that overlapping requests go down in the order in which they came.
//! While nobody holds anything, a batch costs one look at a cell.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::{Extent, Request, Volume};

/// What is held of one volume, and who waits for it. All ways to the volume share it.
#[derive(Default)]
pub struct Holds {
    /// Whether anything is held.
    busy: Cell<bool>,
    /// Whether what is submitted right now comes from whoever holds.
    passing: Cell<bool>,
    held: RefCell<Vec<Extent>>,
    /// What waits, with the way that it came, oldest first.
    waiting: RefCell<Vec<(Request, Rc<dyn Volume>)>>,
    wakers: RefCell<Vec<Waker>>,
}

/// Bytes that are held; they are free when it is dropped.
#[derive(Debug)]
pub struct Hold {
    holds: Rc<Holds>,
    extent: Extent,
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.borrow().len();
        f.debug_struct("Holds").field("held", &self.held).field("waiting", &waiting).finish()
    }
}

impl Holds {
    /// Whether anything is held.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// Whether none of these bytes is held.
    #[must_use]
    pub fn is_free(&self, extent: Extent) -> bool {
        !self.busy.get() || !self.held.borrow().iter().any(|held| held.overlaps(extent))
    }

    /// Waits until none of these bytes is held.
    ///
    /// # Cancellation
    /// Safe: nothing is changed.
    pub async fn until_free(&self, extent: Extent) {
        poll_fn(|context| self.poll_free(extent, context)).await;
    }

    /// Waits until none of these bytes is held, and holds them. What was submitted before may still be
    /// under way: see [`Volume::poll_settled`].
    ///
    /// # Cancellation
    /// Safe: nothing is held.
    pub async fn take(self: &Rc<Self>, extent: Extent) -> Hold {
        self.until_free(extent).await;
        self.held.borrow_mut().push(extent);
        self.busy.set(true);
        Hold { holds: Rc::clone(self), extent }
    }

    fn poll_free(&self, extent: Extent, context: &Context<'_>) -> Poll<()> {
        if self.is_free(extent) {
            return Poll::Ready(());
        }
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Takes out of `batch` what has to wait. It is submitted at `way` again, which is to be the volume
    /// that it was submitted at, when its bytes are free.
    pub fn sift(&self, batch: &mut Vec<Request>, way: impl FnOnce() -> Rc<dyn Volume>) {
        if self.busy.get() && !self.passing.get() {
            self.sort_out(batch, &way());
        }
    }

    #[cold]
    fn sort_out(&self, batch: &mut Vec<Request>, way: &Rc<dyn Volume>) {
        let mut waiting = self.waiting.borrow_mut();
        for request in std::mem::take(batch) {
            let is_behind = |extent: Extent| {
                let mut ahead = waiting.iter().filter_map(|(other, _)| other.op.extent());
                ahead.any(|other| other.overlaps(extent))
            };
            let waits = request.op.extent().is_some_and(|extent| {
                request.op.is_change() && !self.is_free(extent) || is_behind(extent)
            });
            if waits {
                waiting.push((request, Rc::clone(way)));
            } else {
                batch.push(request);
            }
        }
    }

    fn release(&self, extent: Extent) {
        {
            let mut held = self.held.borrow_mut();
            if let Some(at) = held.iter().position(|other| *other == extent) {
                held.swap_remove(at);
            }
            self.busy.set(!held.is_empty());
        }
        // What still has to wait is sorted out again on its way, behind what was before it.
        for (request, way) in self.waiting.take() {
            way.submit(&mut vec![request]);
        }
        self.wakers.take().into_iter().for_each(Waker::wake);
    }
}

impl Hold {
    /// Hands a request to the volume past this hold. Nothing else may be answered within that call by
    /// handing more requests to the volume; all of it happens on one thread.
    pub fn submit(&self, volume: &dyn Volume, request: Request) {
        let before = self.holds.passing.replace(true);
        volume.submit(&mut vec![request]);
        self.holds.passing.set(before);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.release(self.extent);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;

    use bytes::Bytes;

    use super::*;
    use crate::{Completions, Geometry, IoError, Op, Run, Ticket};

    /// Notes what reaches it, and shares its holds with every way to it.
    #[derive(Clone, Default)]
    struct Noted {
        holds: Rc<Holds>,
        seen: Rc<RefCell<Vec<(u64, bool)>>>,
    }

    impl Volume for Noted {
        fn geometry(&self) -> Geometry {
            Geometry::new(1 << 20).unwrap()
        }

        fn read_only(&self) -> bool {
            false
        }

        fn submit(&self, batch: &mut Vec<Request>) {
            self.holds.sift(batch, || Rc::new(self.clone()));
            for request in batch.drain(..) {
                let at = request.op.extent().map_or(u64::MAX, |extent| extent.offset());
                self.seen.borrow_mut().push((at, request.op.is_change()));
                request.ticket.done();
            }
        }

        fn layout(&self, _: Extent, _: usize) -> Result<Vec<Run>, IoError> {
            Ok(Vec::new())
        }
    }

    impl Noted {
        fn seen(&self) -> Vec<(u64, bool)> {
            self.seen.take()
        }
    }

    fn extent(offset: u64, len: u64) -> Extent {
        Extent::new(offset, len).unwrap()
    }

    fn write(offset: u64, len: u64) -> Request {
        let data = Bytes::from(vec![1; usize::try_from(len).unwrap()]);
        Request { op: Op::Write(extent(offset, len), data), fua: false, ticket: Ticket::ignored() }
    }

    fn read(offset: u64, len: u64) -> Request {
        Request { op: Op::Read(extent(offset, len)), fua: false, ticket: Ticket::ignored() }
    }

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    #[test]
    fn only_changes_of_held_bytes_wait_and_what_comes_behind_them() {
        let volume = Noted::default();
        let hold = now(volume.holds.take(extent(4096, 4096))).unwrap();
        let flush = Request { op: Op::Flush, fua: false, ticket: Ticket::ignored() };
        let first = vec![read(4096, 512), write(0, 4096), write(3584, 1024), read(0, 512), flush];
        for request in first {
            volume.submit(&mut vec![request]);
        }
        assert_eq!(volume.seen(), [(4096, false), (0, true), (0, false), (u64::MAX, false)]);
        // Both are behind the write that waits, though only one of them is of held bytes.
        volume.submit(&mut vec![write(3584, 512), read(4096, 512), write(9000, 10)]);
        assert_eq!(volume.seen(), [(9000, true)]);
        hold.submit(&volume, read(4096, 4096));
        hold.submit(&volume, write(4096, 4096));
        assert_eq!(volume.seen(), [(4096, false), (4096, true)]);
        drop(hold);
        assert_eq!(volume.seen(), [(3584, true), (3584, true), (4096, false)]);
        assert!(!volume.holds.is_busy());
    }

    #[test]
    fn what_waits_for_two_holds_goes_behind_the_later_one() {
        let volume = Noted::default();
        let first = now(volume.holds.take(extent(0, 512))).unwrap();
        let second = now(volume.holds.take(extent(512, 512))).unwrap();
        assert!(now(volume.holds.take(extent(256, 512))).is_none());
        volume.submit(&mut vec![write(0, 1024), write(0, 512)]);
        drop(first);
        assert_eq!(volume.seen(), [], "the first still waits, and the other is behind it");
        drop(second);
        assert_eq!(volume.seen(), [(0, true), (0, true)]);
    }

    #[test]
    fn whoever_waits_for_bytes_is_woken_and_a_hold_that_was_not_taken_holds_nothing() {
        let volume = Noted::default();
        let hold = now(volume.holds.take(extent(0, 512))).unwrap();
        {
            let mut later = pin!(volume.holds.take(extent(0, 512)));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..100 {
                assert!(later.as_mut().poll(&mut context).is_pending());
            }
            assert_eq!(volume.holds.wakers.borrow().len(), 1, "it is asked to be woken once");
        }
        drop(hold);
        assert!(volume.holds.is_free(extent(0, 512)));
        assert!(volume.holds.wakers.borrow().is_empty());
    }

    #[test]
    fn a_request_that_waits_is_answered_once_it_was_done() {
        let (volume, queue, mut ready) = (Noted::default(), Completions::new(), Vec::new());
        let hold = now(volume.holds.take(extent(0, 512))).unwrap();
        let waits = Request { ticket: queue.ticket(7), ..write(0, 512) };
        volume.submit(&mut vec![waits]);
        assert!(!queue.take(&mut ready));
        drop(hold);
        assert!(queue.take(&mut ready));
        assert_eq!((ready[0].tag, queue.dropped()), (7, 0));
    }
}
