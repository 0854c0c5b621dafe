//! What a volume is filled from while hosts use it: the content of one moment that lies elsewhere.
//!
//! ```text
//!   volume ──read, mapped──▶ dyn Origin      a snapshot of another volume of the pool,
//!          ◀──── Reply ─────                 a backup in an object store
//! ```
//!
//! Invariant: an origin never changes. What it answered once it would answer again, so it does not
//! matter when a block is copied.

use std::fmt;

use crate::{BlockSet, Extent, IoError, Segments};

/// What a volume is filled from.
///
/// It lives on the thread of the volume that it fills and must not make that wait: an origin that
/// reads on another thread or over a network hands its answer over from there. Several questions
/// are under way at once, and are answered in any order.
pub trait Origin: fmt::Debug {
    /// Its size in bytes. A volume may be longer: what lies behind reads as zeroes.
    fn bytes(&self) -> u64;

    /// Every block that may hold anything but zeroes, in order, from block `from` on, as at most
    /// `limit` ranges. An answer with fewer ranges than `limit` goes to the end.
    ///
    /// Answers [`IoError::Origin`] when it cannot be read now.
    fn mapped(&self, from: u64, limit: usize, reply: Reply<BlockSet>);

    /// The content of `extent`, which lies inside it; as with a read of a volume, the lengths add
    /// up to the extent's, and zeroes that nobody stored are [`crate::Segment::Zero`]. It has tried
    /// as often as makes sense before it answers an error, within a bounded time: hosts wait.
    ///
    /// Answers [`IoError::Origin`] when it cannot be read now, [`IoError::Checksum`] when what is
    /// there is damaged. Never zeroes for what could not be read.
    fn read(&self, extent: Extent, reply: Reply<Segments>);
}

/// The right and the duty to answer one question to an [`Origin`], from any thread.
pub struct Reply<T> {
    to: Option<Answerer<T>>,
}

type Answerer<T> = Box<dyn FnOnce(Result<T, IoError>) + Send>;

// === impl Reply ===

impl<T> Reply<T> {
    /// One that hands the answer to `to`, which must not wait for anything.
    #[must_use]
    pub fn new(to: impl FnOnce(Result<T, IoError>) + Send + 'static) -> Self {
        Self { to: Some(Box::new(to)) }
    }

    /// Answers.
    pub fn answer(mut self, result: Result<T, IoError>) {
        if let Some(to) = self.to.take() {
            to(result);
        }
    }
}

impl<T> Drop for Reply<T> {
    /// Nobody is left waiting: one that was dropped says [`IoError::Dropped`].
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            to(Err(IoError::Dropped));
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("answered", &self.to.is_none()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_question_is_answered_once_even_if_the_reply_is_dropped() {
        let (sender, receiver) = mpsc::channel();
        let ask = |sender: mpsc::Sender<Result<u8, IoError>>| {
            Reply::new(move |result| sender.send(result).unwrap())
        };
        ask(sender.clone()).answer(Ok(3));
        drop(ask(sender));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [Ok(3), Err(IoError::Dropped)]);
    }
}
