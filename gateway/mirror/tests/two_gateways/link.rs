//! An in-memory link that can be cut, and as long as a test wants it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use block::{Identity, Link, LinkError, LinkTraffic, Message};
use tokio::time::{Instant, Sleep};

#[derive(Default)]
struct Pipe {
    /// With when they arrive.
    messages: RefCell<VecDeque<(Instant, Message)>>,
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
    line: Line,
    /// Until the next message arrives.
    arrival: Option<Pin<Box<Sleep>>>,
}

/// How the links of a test are.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    /// The protocol version that both ends agreed on.
    pub(crate) version: u16,
    /// How long a message takes.
    pub(crate) latency: Duration,
}

impl Default for Line {
    fn default() -> Self {
        Self { version: block::PROTOCOL_VERSION, latency: Duration::ZERO }
    }
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
pub(crate) fn pair(a: Identity, b: Identity, line: Line) -> (PipeLink, PipeLink, Cutter) {
    let (x, y) = (Rc::new(Pipe::default()), Rc::new(Pipe::default()));
    let cutter = Cutter(Rc::clone(&x), Rc::clone(&y));
    let (out, back) = (Rc::clone(&x), Rc::clone(&y));
    let left = PipeLink { peer: b, out, back, line, arrival: None };
    (left, PipeLink { peer: a, out: y, back: x, line, arrival: None }, cutter)
}

impl Drop for PipeLink {
    fn drop(&mut self) {
        self.out.close();
        self.back.close();
    }
}

impl Link for PipeLink {
    fn version(&self) -> u16 {
        self.line.version
    }

    fn peer(&self) -> &Identity {
        &self.peer
    }

    fn push(&mut self, message: Message) {
        if !self.out.closed.get() {
            let arrives = Instant::now() + self.line.latency;
            self.out.messages.borrow_mut().push_back((arrives, message));
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
        let now = Instant::now();
        let before = into.len();
        while messages.front().is_some_and(|(arrives, _)| *arrives <= now) {
            into.extend(messages.pop_front().map(|(_, message)| message));
        }
        if into.len() > before {
            return Poll::Ready(Ok(()));
        }
        self.arrival =
            messages.front().map(|(arrives, _)| Box::pin(tokio::time::sleep_until(*arrives)));
        if let Some(arrival) = &mut self.arrival
            && arrival.as_mut().poll(context).is_ready()
        {
            context.waker().wake_by_ref();
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
