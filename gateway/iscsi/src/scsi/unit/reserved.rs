//! Reservations of a unit: what initiators order, and who is told.
//!
//! Invariant: an order is answered when it is kept, in force, and nothing of what it aborted is under
//! way.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::super::nexus::{Nexus, RELEASED};
use super::super::reserve::{self, Notice, Order, Refusal, Reservations};
use super::super::sense::{self, Sense};
use super::super::{KeepError, Outcome, ReserveOut, Status};
use super::Unit;

/// How an order ended, and whether it aborted commands.
type Ended = Result<(Outcome, bool), Sense>;

/// An order about reservations. One that the keeper has goes on when nobody waits for it any more: what is
/// recorded, here or at a mirror, is put in force when it is known to be recorded, and not before.
struct UnderWay {
    unit: Rc<Unit>,
    /// Gone once it has ended.
    order: Option<Pin<Box<dyn Future<Output = Ended>>>>,
    /// Whether the keeper has it.
    begun: Rc<Cell<bool>>,
}

impl UnderWay {
    fn new(unit: Rc<Unit>, order: ReserveOut) -> Self {
        let begun = Rc::new(Cell::new(false));
        let (does, tells) = (Rc::clone(&unit), Rc::clone(&begun));
        let order: Pin<Box<dyn Future<Output = Ended>>> =
            Box::pin(async move { does.put_in_force(order, &tells).await });
        Self { unit, order: Some(order), begun }
    }
}

impl Future for UnderWay {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        // One that has ended is asked no more.
        let Some(order) = &mut this.order else { return Poll::Pending };
        let ended = ready!(order.as_mut().poll(context));
        this.order = None;
        Poll::Ready(ended)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(order) = self.order.take()
            && self.begun.get()
        {
            self.unit.keeper.see_through(Box::pin(async move { drop(order.await) }));
        }
    }
}

impl Unit {
    // === RESERVE and RELEASE (SPC-2) ===

    pub(super) fn reserve(&self, nexus: &Nexus, third_party: bool) -> Result<Outcome, Sense> {
        if third_party {
            return Err(sense::INVALID_FIELD.cdb(1));
        }
        if self.ordering.try_lock().is_err() {
            // Whether anybody is registered is being decided.
            return Ok(Outcome::of(Status::Busy));
        }
        let registered = !self.reservations.borrow().is_empty();
        if registered || self.holder.get().is_some_and(|holder| holder != nexus.id()) {
            return Ok(Outcome::of(Status::ReservationConflict));
        }
        self.holder.set(Some(nexus.id()));
        self.guard();
        Ok(Outcome::good())
    }

    pub(super) fn release(&self, nexus: &Nexus, third_party: bool) -> Result<Outcome, Sense> {
        if third_party {
            return Err(sense::INVALID_FIELD.cdb(1));
        }
        if self.holder.get() == Some(nexus.id()) {
            self.holder.set(None);
            self.guard();
        }
        Ok(Outcome::good())
    }

    /// What was reserved with RESERVE is free: another gateway has the volume or had it, and knows nothing
    /// of that. Whoever held it is told at the port that it came to.
    pub(super) fn lose_hold(&self) {
        let Some(holder) = self.holder.take() else { return };
        self.nexuses().iter().filter(|nexus| nexus.id() == holder).for_each(|n| n.tell(RELEASED));
    }

    /// Applies an order to a copy, has it kept, and lets it be: a host that was told of a reservation
    /// finds it after the loss of power, and none that was told of an abort finds blocks change that are
    /// of a command that was aborted. Whoever sent it need not be logged in here: it may have come to
    /// a port of another gateway, which knows who that is.
    ///
    /// # Errors
    /// Why it is refused.
    ///
    /// # Cancellation
    /// One that is being kept goes on, and is in force when it is kept. One that waits for another is not
    /// done.
    pub async fn reserve_out(&self, order: ReserveOut) -> Result<Outcome, Sense> {
        let Some(unit) = self.own.upgrade() else { return Ok(Outcome::of(Status::Busy)) };
        let (outcome, aborts) = UnderWay::new(unit, order).await?;
        // It is in force: whoever orders next does not wait for what this one aborted.
        if aborts {
            self.settle().await;
        }
        Ok(outcome)
    }

    /// Decides about an order, has what follows from it kept, and puts that in force. `begun` is told when
    /// the keeper has it.
    async fn put_in_force(&self, order: ReserveOut, begun: &Cell<bool>) -> Ended {
        let ReserveOut { who, action, scope, kind, list } = order;
        let order = reserve::order(action, (scope, kind), &list)?;
        let _turn = self.ordering.lock().await;
        let ended = |status| Ok((Outcome::of(status), false));
        if self.detour().is_some() {
            return ended(Status::Busy);
        }
        // Of one that came to a port of another gateway this was not looked at before.
        if self.holder.get().is_some() {
            return ended(Status::ReservationConflict);
        }
        if let Order::Move { to, .. } = &order
            && !self.has_port(to.target_port)
        {
            return Err(sense::INVALID_IN_LIST.list(18));
        }
        let mut next = self.reservations.borrow().clone();
        let notices = match next.apply(&who, order) {
            Ok(notices) => notices,
            Err(Refusal::NotReserved) => return Err(sense::INVALID_FIELD.cdb(1)),
            Err(Refusal::Conflict) => return ended(Status::ReservationConflict),
            Err(Refusal::WrongRelease) => return Err(sense::INVALID_RELEASE),
            Err(Refusal::Kind) => return Err(sense::INVALID_FIELD.cdb(2)),
            Err(Refusal::Field(at)) => return Err(sense::INVALID_IN_LIST.list(at)),
            Err(Refusal::NoRoom) => return Err(sense::NO_REGISTRATION_ROOM),
        };
        // Without APTPL too: who takes over did not lose the power.
        begun.set(true);
        match self.keeper.keep(next.encode()).await {
            Ok(()) => {}
            Err(KeepError::Store) => return Err(sense::NO_REGISTRATION_ROOM),
            Err(KeepError::NotNow) => return ended(Status::Busy),
        }
        self.set_reservations(next, &notices);
        Ok((Outcome::good(), notices.iter().any(|notice| notice.abort)))
    }

    /// Puts reservations in force, and tells those whom it concerns.
    pub(super) fn set_reservations(&self, next: Reservations, notices: &[Notice]) {
        *self.reservations.borrow_mut() = next;
        self.guard();
        for nexus in self.nexuses() {
            nexus.stand(&self.reservations.borrow());
            for notice in notices.iter().filter(|notice| nexus.is(&notice.who)) {
                if let Some(code) = notice.code {
                    nexus.tell(code);
                }
                if notice.abort {
                    self.abort(&nexus);
                }
            }
        }
    }

    /// Whether there is a target port of this relative number, or was when somebody registered there.
    fn has_port(&self, port: u16) -> bool {
        let settings = self.settings.borrow();
        settings.groups.iter().any(|group| group.ports.contains(&port))
            || self.reservations.borrow().has_port(port)
    }
}
