//! A request, the ticket that answers it exactly once, and the queue the answers go to.
//!
//! Invariant: a [`Ticket`] is consumed by its answer. One that is dropped unanswered tells the
//! host an I/O error instead of leaving it waiting for ever, and is counted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::{Extent, IoError};

/// What is asked of a volume or a store. Ranges were proven to lie inside it.
#[derive(Clone, Debug)]
pub enum Op {
    /// Read these bytes.
    Read(Extent),
    /// Store these bytes; the payload is exactly as long as the extent.
    Write(Extent, Bytes),
    /// Make these bytes read as zero.
    Zero {
        /// Where.
        extent: Extent,
        /// Whether the blocks may be given back to the pool (NBD: no `NO_HOLE`).
        may_trim: bool,
    },
    /// Give these blocks back; whole blocks read as zero afterwards, edges keep their content.
    Trim(Extent),
    /// Bring these bytes near. A hint: it always succeeds.
    Cache(Extent),
    /// Put everything that was answered before on stable storage.
    Flush,
}

impl Op {
    /// The bytes concerned; a flush concerns none.
    #[must_use]
    pub fn extent(&self) -> Option<Extent> {
        match self {
            Self::Read(extent)
            | Self::Write(extent, _)
            | Self::Zero { extent, .. }
            | Self::Trim(extent)
            | Self::Cache(extent) => Some(*extent),
            Self::Flush => None,
        }
    }

    /// Whether this changes content.
    #[must_use]
    pub fn is_change(&self) -> bool {
        match self {
            Self::Write(..) | Self::Zero { .. } | Self::Trim(_) => true,
            Self::Read(_) | Self::Cache(_) | Self::Flush => false,
        }
    }
}

/// One request on its way down.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub op: Op,
    /// Whether a change must be on stable storage before it is answered.
    pub fua: bool,
    /// Where the answer goes.
    pub ticket: Ticket,
}

/// One piece of what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// These bytes.
    Data(Bytes),
    /// This many zeroes that nobody stored.
    Zero(u64),
}

impl Segment {
    /// Bytes in this piece.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zero(len) => *len,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What was read, in order; the lengths add up to the extent's.
pub type Segments = SmallVec<[Segment; 1]>;

/// What was read, in one piece; copied unless it is one already.
#[must_use]
pub fn joined(segments: &[Segment]) -> Bytes {
    if let [Segment::Data(only)] = segments {
        return only.clone();
    }
    let mut out = BytesMut::new();
    for segment in segments {
        match segment {
            Segment::Data(data) => out.extend_from_slice(data),
            // No read is longer than what memory can hold.
            Segment::Zero(len) => {
                out.resize(out.len() + usize::try_from(*len).unwrap_or(usize::MAX), 0);
            }
        }
    }
    out.freeze()
}

/// What a request is answered with when it succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// Done; here is what was read.
    Read(Segments),
}

/// One answer, as the asker finds it in its queue.
#[derive(Debug)]
pub struct Completion {
    /// The tag that the asker gave.
    pub tag: u64,
    /// How it ended.
    pub result: Result<Answer, IoError>,
}

/// The queue that one asker's answers go to. It stays on its thread.
#[derive(Debug, Default)]
pub struct Completions {
    ready: RefCell<Vec<Completion>>,
    waker: RefCell<Option<Waker>>,
    dropped: Cell<u64>,
}

impl Completions {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self::default())
    }

    /// A ticket whose answer will be found here under `tag`.
    #[must_use]
    pub fn ticket(self: &Rc<Self>, tag: u64) -> Ticket {
        Ticket { queue: Some(Rc::clone(self)), tag }
    }

    /// Moves every answer that is here behind those in `into`; says whether there was one.
    pub fn take(&self, into: &mut Vec<Completion>) -> bool {
        let mut ready = self.ready.borrow_mut();
        let any = !ready.is_empty();
        into.append(&mut ready);
        any
    }

    /// Ready when an answer is here.
    ///
    /// # Cancellation
    /// Safe: nothing is taken. One task at a time is woken: the last that polled.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.ready.borrow().is_empty() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        match waker.as_mut() {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// How many tickets were dropped unanswered. Anything but 0 is a bug of ours.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    fn push(&self, completion: Completion) {
        self.ready.borrow_mut().push(completion);
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The right and the duty to answer one request.
#[derive(Debug)]
pub struct Ticket {
    queue: Option<Rc<Completions>>,
    tag: u64,
}

impl Ticket {
    /// A ticket whose answer nobody waits for.
    #[must_use]
    pub const fn ignored() -> Self {
        Self { queue: None, tag: 0 }
    }

    /// Answers the request.
    pub fn answer(mut self, result: Result<Answer, IoError>) {
        if let Some(queue) = self.queue.take() {
            queue.push(Completion { tag: self.tag, result });
        }
    }

    /// Answers that it is done.
    pub fn done(self) {
        self.answer(Ok(Answer::Done));
    }

    /// Answers with an error.
    pub fn fail(self, error: IoError) {
        self.answer(Err(error));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.dropped.set(queue.dropped.get() + 1);
            queue.push(Completion { tag: self.tag, result: Err(IoError::Dropped) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_ticket_is_an_error_and_is_counted() {
        let queue = Completions::new();
        drop(queue.ticket(7));
        let mut ready = Vec::new();
        assert!(queue.take(&mut ready));
        assert_eq!(ready[0].tag, 7);
        assert_eq!(ready[0].result, Err(IoError::Dropped));
        assert_eq!(queue.dropped(), 1);
    }

    #[test]
    fn an_answer_is_found_once_under_its_tag() {
        let queue = Completions::new();
        queue.ticket(3).done();
        let mut ready = Vec::new();
        assert!(queue.take(&mut ready));
        assert!(!queue.take(&mut ready));
        assert_eq!((ready.len(), ready[0].tag), (1, 3));
        assert_eq!(queue.dropped(), 0);
    }
}
