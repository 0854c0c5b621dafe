//! A link that somebody listens to, or interrupts.
//!
//! Invariant: what is said goes on as it is, and what is heard too; an interruption comes behind it.

use std::rc::Weak;
use std::task::{Context, Poll};

use block::{Identity, IoError, Link, LinkError, LinkTraffic, Message};

use crate::world::World;

/// Who listens.
pub(crate) trait Tap {
    /// This end says something.
    fn says(&mut self, _message: &Message) {}

    /// This end is about to hear one or more messages at once.
    fn begins(&mut self) {}

    /// This end hears something.
    fn hears(&mut self, _message: &Message) {}

    /// What this end hears besides, behind what came.
    fn adds(&mut self) -> Option<Message> {
        None
    }
}

/// A link that somebody listens to.
pub(crate) struct Tapped<T> {
    inner: Box<dyn Link>,
    tap: T,
}

impl<T: Tap> Tapped<T> {
    pub(crate) fn new(inner: Box<dyn Link>, tap: T) -> Self {
        Self { inner, tap }
    }
}

impl<T: Tap> Link for Tapped<T> {
    fn peer(&self) -> &Identity {
        self.inner.peer()
    }

    fn push(&mut self, message: Message) {
        self.tap.says(&message);
        self.inner.push(message);
    }

    fn queued_bytes(&self) -> u64 {
        self.inner.queued_bytes()
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.inner.poll_send(context)
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Vec<Message>,
    ) -> Poll<Result<(), LinkError>> {
        let before = into.len();
        let polled = self.inner.poll_receive(context, into);
        if into.len() > before {
            self.tap.begins();
        }
        into[before..].iter().for_each(|message| self.tap.hears(message));
        if matches!(polled, Poll::Ready(Ok(()))) {
            into.extend(self.tap.adds());
        }
        polled
    }

    fn version(&self) -> u16 {
        self.inner.version()
    }

    fn traffic(&self) -> LinkTraffic {
        self.inner.traffic()
    }
}

/// What a mirror is told.
pub(crate) struct Ear {
    pub(crate) world: Weak<World>,
    pub(crate) site: usize,
}

impl Tap for Ear {
    fn says(&mut self, message: &Message) {
        if let (Message::Failed { error: IoError::NoSpace, .. }, Some(world)) =
            (message, self.world.upgrade())
        {
            world.happened("the pool of a destination is full");
        }
    }

    fn hears(&mut self, message: &Message) {
        // It is asked to take over: what may have been begun before came to nothing.
        if let (Message::Handover { .. }, Some(world)) = (message, self.world.upgrade()) {
            let place = &world.sites[self.site].promotion;
            place.set(place.get().filter(|promotion| !promotion.unheard));
        }
    }
}
