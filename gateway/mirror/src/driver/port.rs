//! Where a turn leaves the messages of one link, and its task finds them.
//!
//! Invariant: messages go out in the order they were left; a port that was closed sends what was
//! left before, and nothing after.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

use block::Message;

/// The outgoing side of a link.
#[derive(Debug, Default)]
pub(super) struct Port {
    outbox: RefCell<Vec<Message>>,
    waker: RefCell<Option<Waker>>,
    closing: Cell<bool>,
    dirty: Cell<bool>,
    queued_bytes: Cell<u64>,
}

impl Port {
    pub(super) fn push(&self, message: Message) {
        if !self.closing.get() {
            self.outbox.borrow_mut().push(message);
            self.dirty.set(true);
        }
    }

    /// Sends what was left and ends the link.
    pub(super) fn close(&self) {
        self.closing.set(true);
        self.dirty.set(true);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Wakes the link's task if there is something for it: once a turn.
    pub(super) fn wake(&self) {
        if self.dirty.replace(false)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    pub(super) fn listen(&self, context: &Context<'_>) {
        *self.waker.borrow_mut() = Some(context.waker().clone());
    }

    pub(super) fn drain(&self, link: &mut dyn block::Link) {
        for message in self.outbox.borrow_mut().drain(..) {
            link.push(message);
        }
    }

    pub(super) fn note_queue(&self, bytes: u64) {
        self.queued_bytes.set(bytes);
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        self.queued_bytes.get()
    }
}
