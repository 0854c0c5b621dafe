//! An in-memory link that can be cut.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use block::{Identity, Link, LinkError, LinkTraffic, Message};

#[derive(Default)]
struct Pipe {
    messages: RefCell<VecDeque<Message>>,
    waker: RefCell<Option<Waker>>,
    closed: Cell<bool>,
}

impl Pipe {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.wake();
    }
}

/// One end.
pub(crate) struct PipeLink {
    peer: Identity,
    out: Rc<Pipe>,
    back: Rc<Pipe>,
}

/// What can cut both ends.
pub(crate) struct Cutter(Rc<Pipe>, Rc<Pipe>);

impl Cutter {
    pub(crate) fn cut(&self) {
        self.0.messages.borrow_mut().clear();
        self.1.messages.borrow_mut().clear();
        self.0.close();
        self.1.close();
    }
}

/// Both ends of a new link.
pub(crate) fn pair(a: Identity, b: Identity) -> (PipeLink, PipeLink, Cutter) {
    let (x, y) = (Rc::new(Pipe::default()), Rc::new(Pipe::default()));
    let cutter = Cutter(Rc::clone(&x), Rc::clone(&y));
    let left = PipeLink { peer: b, out: Rc::clone(&x), back: Rc::clone(&y) };
    (left, PipeLink { peer: a, out: y, back: x }, cutter)
}

impl Drop for PipeLink {
    fn drop(&mut self) {
        self.out.close();
        self.back.close();
    }
}

impl Link for PipeLink {
    fn version(&self) -> u16 {
        block::PROTOCOL_VERSION
    }

    fn peer(&self) -> &Identity {
        &self.peer
    }

    fn push(&mut self, message: Message) {
        if !self.out.closed.get() {
            self.out.messages.borrow_mut().push_back(message);
            self.out.wake();
        }
    }

    fn queued_bytes(&self) -> u64 {
        0
    }

    fn poll_send(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Vec<Message>,
    ) -> Poll<Result<(), LinkError>> {
        let mut messages = self.back.messages.borrow_mut();
        if !messages.is_empty() {
            into.extend(messages.drain(..));
            return Poll::Ready(Ok(()));
        }
        if self.back.closed.get() {
            return Poll::Ready(Err(LinkError::Closed));
        }
        *self.back.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    fn traffic(&self) -> LinkTraffic {
        LinkTraffic::default()
    }
}
