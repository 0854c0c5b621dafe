//! Reservations of a unit: what initiators order, and who is told.
//!
//! Invariant: an order is answered when it is kept, in force, and nothing of what it aborted is under
//! way.

use super::super::nexus::Nexus;
use super::super::reserve::{self, Notice, Order, Refusal, Reservations};
use super::super::sense::{self, Sense};
use super::super::{KeepError, Outcome, ReserveOut, Status};
use super::Unit;

impl Unit {
    // === RESERVE and RELEASE (SPC-2) ===

    pub(super) fn reserve(&self, nexus: &Nexus, third_party: bool) -> Result<Outcome, Sense> {
        if third_party {
            return Err(sense::INVALID_FIELD.cdb(1));
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

    /// Applies an order to a copy, has it kept, and lets it be: a host that was told of a reservation
    /// finds it after the loss of power, and none that was told of an abort finds blocks change that are
    /// of a command that was aborted. Whoever sent it need not be logged in here: it may have come to
    /// a port of another gateway, which knows who that is.
    ///
    /// # Errors
    /// Why it is refused.
    ///
    /// # Cancellation
    /// It may be kept and not in force, as when the power is lost just then.
    pub async fn reserve_out(&self, order: ReserveOut) -> Result<Outcome, Sense> {
        let ReserveOut { who, action, scope, kind, list } = order;
        let order = reserve::order(action, (scope, kind), &list)?;
        let turn = self.ordering.lock().await;
        if self.detour().is_some() {
            return Ok(Outcome::of(Status::Busy));
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
            Err(Refusal::Conflict) => return Ok(Outcome::of(Status::ReservationConflict)),
            Err(Refusal::WrongRelease) => return Err(sense::INVALID_RELEASE),
            Err(Refusal::Field(at)) => return Err(sense::INVALID_IN_LIST.list(at)),
            Err(Refusal::NoRoom) => return Err(sense::NO_REGISTRATION_ROOM),
        };
        // Without APTPL too: who takes over did not lose the power.
        match self.keeper.keep(next.encode()).await {
            Ok(()) => {}
            Err(KeepError::Store) => return Err(sense::NO_REGISTRATION_ROOM),
            Err(KeepError::NotNow) => return Ok(Outcome::of(Status::Busy)),
        }
        self.set_reservations(next, &notices);
        // It is in force: whoever orders next need not wait for what this one aborted.
        drop(turn);
        if notices.iter().any(|notice| notice.abort) {
            self.settle().await;
        }
        Ok(Outcome::good())
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
