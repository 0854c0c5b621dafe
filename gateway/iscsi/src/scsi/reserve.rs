//! Persistent reservations as a state machine (SPC-4 §5.13): who is registered, who holds what, and
//! what the others are told of it.
//!
//! ```text
//!   (registrations, reservation) ──(nexus, Order)──▶ Ok(notices), with the state that follows
//!                                                ──▶ Err(refusal), with the state as it was
//! ```
//!
//! Invariant: a reservation has a holder that is registered; nobody is registered twice; an order
//! that is refused changes nothing.

mod state;
#[cfg(test)]
mod tests;
mod wire;

pub use self::state::StateError;
pub(crate) use self::wire::{order, read};

use super::InitiatorPort;
use super::limits::REGISTRATIONS_MAX;
use super::nexus::{PREEMPTED, REGISTRATION_PREEMPTED, RELEASED};
use super::opcodes::Access;

/// A nexus as reservations know it: it outlives the session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Registrant {
    /// The initiator port.
    pub port: InitiatorPort,
    /// The relative target port. Its upper byte names the portal group.
    pub target_port: u16,
}

impl Registrant {
    /// Whether both are one nexus. The portals of a portal group are one target port (RFC 7143, §4.4.2);
    /// earlier releases numbered them, and what they kept or ask has those numbers.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.port == other.port && self.target_port >> 8 == other.target_port >> 8
    }
}

/// The types of reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The holder writes, all read.
    WriteExclusive = 1,
    /// The holder reads and writes.
    ExclusiveAccess = 3,
    /// Those that are registered write, all read.
    WriteExclusiveRegistrants = 5,
    /// Those that are registered read and write.
    ExclusiveAccessRegistrants = 6,
    /// Those that are registered write, and all of them hold it.
    WriteExclusiveAll = 7,
    /// Those that are registered read and write, and all of them hold it.
    ExclusiveAccessAll = 8,
}

impl Kind {
    /// The type with this code.
    #[must_use]
    pub const fn of(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }

    /// Whether every registrant holds it.
    const fn is_shared(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Whether it means something to those that are registered and do not hold it.
    const fn has_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }
}

/// What a nexus is to the reservation that there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It holds it.
    Holder,
    /// It is registered.
    Registered,
    /// Neither.
    #[default]
    Stranger,
}

/// The table of conflicts (SPC-4 table 66, SBC-3 table 13): whether a command of this access passes
/// beside a reservation of this type.
#[must_use]
pub(crate) const fn passes(kind: Kind, standing: Standing, access: Access) -> bool {
    match (standing, access) {
        (Standing::Holder, _) | (_, Access::None | Access::Reservation) => true,
        (Standing::Registered, _) if kind.has_registrants() => true,
        (_, Access::Read) => match kind {
            Kind::WriteExclusive | Kind::WriteExclusiveRegistrants | Kind::WriteExclusiveAll => {
                true
            }
            Kind::ExclusiveAccess | Kind::ExclusiveAccessRegistrants | Kind::ExclusiveAccessAll => {
                false
            }
        },
        (_, Access::Write) => false,
    }
}

/// What PERSISTENT RESERVE OUT asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// REGISTER, and REGISTER AND IGNORE EXISTING KEY when `key` is `None`.
    Register {
        /// The key that it says it has; 0 if it is not registered.
        key: Option<u64>,
        /// The key that it shall have; 0 ends its registration.
        new: u64,
        /// `APTPL`: whether reservations outlive the loss of power.
        persistent: bool,
    },
    /// RESERVE.
    Reserve {
        /// Its key.
        key: u64,
        /// The type.
        kind: Kind,
    },
    /// RELEASE.
    Release {
        /// Its key.
        key: u64,
        /// The type, as it was reserved.
        kind: Kind,
    },
    /// CLEAR.
    Clear {
        /// Its key.
        key: u64,
    },
    /// PREEMPT, and PREEMPT AND ABORT.
    Preempt {
        /// Its key.
        key: u64,
        /// The key of those that lose their registration.
        victim: u64,
        /// The type of the reservation that takes the place of one that is preempted; `None` if there is
        /// none of the type or the scope that was sent, which matter only then.
        kind: Option<Kind>,
        /// Whether their commands are aborted.
        abort: bool,
    },
    /// REGISTER AND MOVE.
    Move {
        /// Its key.
        key: u64,
        /// The key of the new holder, which is registered with it.
        new: u64,
        /// The new holder.
        to: Registrant,
        /// Whether its own registration ends.
        leave: bool,
        /// `APTPL`.
        persistent: bool,
    },
}

/// Why an order is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// INVALID FIELD IN CDB: there is no reservation that could be moved.
    NotReserved,
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    WrongRelease,
    /// INVALID FIELD IN CDB: there is no reservation of this type or scope.
    Kind,
    /// INVALID FIELD IN PARAMETER LIST, which begins at this byte.
    Field(u16),
    /// INSUFFICIENT REGISTRATION RESOURCES.
    NoRoom,
}

/// What another nexus learns of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Who.
    pub who: Registrant,
    /// The unit attention; none for a nexus that aborts its own commands.
    pub code: Option<u16>,
    /// Whether its commands are aborted.
    pub abort: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Registration {
    who: Registrant,
    key: u64,
}

/// The reservations of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    generation: u32,
    registrations: Vec<Registration>,
    /// The type, and the place of its holder among the registrations; if all hold it, of any.
    reservation: Option<(Kind, usize)>,
    persistent: bool,
}

impl Reservations {
    /// Whether they outlive the loss of power.
    #[must_use]
    pub const fn persistent(&self) -> bool {
        self.persistent
    }

    /// Whether nobody is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.registrations.is_empty()
    }

    /// Whether anybody is registered at the target port of this relative number.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.registrations.iter().any(|registration| registration.who.target_port == port)
    }

    /// The type of the reservation that there is.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.reservation.map(|(kind, _)| kind)
    }

    /// What a nexus is to the reservation.
    #[must_use]
    pub fn standing(&self, who: &Registrant) -> Standing {
        let at = self.registrations.iter().position(|r| r.who.is_same(who));
        match (at, self.reservation) {
            (Some(at), Some((kind, holder))) if kind.is_shared() || holder == at => {
                Standing::Holder
            }
            (Some(_), _) => Standing::Registered,
            (None, _) => Standing::Stranger,
        }
    }

    /// Does what `who` asks; returns what the others learn of it.
    ///
    /// # Errors
    /// Why it is refused; nothing has changed then.
    pub fn apply(&mut self, who: &Registrant, order: Order) -> Result<Vec<Notice>, Refusal> {
        let mut next = self.clone();
        if let Order::Move { to, .. } = &order {
            next.know_as(to);
        }
        next.know_as(who);
        let notices = match order {
            Order::Register { key, new, persistent } => next.register(who, key, new, persistent),
            Order::Reserve { key, kind } => next.reserve(who, key, kind),
            Order::Release { key, kind } => next.release(who, key, kind),
            Order::Clear { key } => next.clear(who, key),
            Order::Preempt { key, victim, kind, abort } => {
                next.preempt(who, key, victim, (kind, abort))
            }
            Order::Move { key, new, to, leave, persistent } => {
                next.hand_over(who, key, (new, to), (leave, persistent))
            }
        }?;
        next.check();
        *self = next;
        Ok(notices)
    }

    // === Orders ===

    fn register(
        &mut self,
        who: &Registrant,
        key: Option<u64>,
        new: u64,
        persistent: bool,
    ) -> Result<Vec<Notice>, Refusal> {
        let mut notices = Vec::new();
        match self.place(who) {
            None if key.is_some_and(|key| key != 0) => return Err(Refusal::Conflict),
            None if new == 0 => return Ok(notices),
            None if self.registrations.len() == REGISTRATIONS_MAX => return Err(Refusal::NoRoom),
            None => self.registrations.push(Registration { who: who.clone(), key: new }),
            Some(at) if key.is_some_and(|key| key != self.registrations[at].key) => {
                return Err(Refusal::Conflict);
            }
            Some(at) if new == 0 => {
                if let Some(kind) = self.remove(at)
                    && kind.has_registrants()
                {
                    notices = self.tell_others(who, RELEASED);
                }
            }
            Some(at) => self.registrations[at].key = new,
        }
        self.generation = self.generation.wrapping_add(1);
        self.persistent = persistent;
        Ok(notices)
    }

    fn reserve(&mut self, who: &Registrant, key: u64, kind: Kind) -> Result<Vec<Notice>, Refusal> {
        let at = self.proven(who, key)?;
        match self.reservation {
            None => self.reservation = Some((kind, at)),
            Some((held, holder)) if held == kind && (held.is_shared() || holder == at) => {}
            Some(_) => return Err(Refusal::Conflict),
        }
        Ok(Vec::new())
    }

    fn release(&mut self, who: &Registrant, key: u64, kind: Kind) -> Result<Vec<Notice>, Refusal> {
        let at = self.proven(who, key)?;
        match self.reservation {
            Some((held, holder)) if held.is_shared() || holder == at => {
                if held != kind {
                    return Err(Refusal::WrongRelease);
                }
                self.reservation = None;
                Ok(if kind.has_registrants() {
                    self.tell_others(who, RELEASED)
                } else {
                    Vec::new()
                })
            }
            _ => Ok(Vec::new()),
        }
    }

    fn clear(&mut self, who: &Registrant, key: u64) -> Result<Vec<Notice>, Refusal> {
        self.proven(who, key)?;
        let notices = self.tell_others(who, PREEMPTED);
        self.registrations.clear();
        self.reservation = None;
        self.generation = self.generation.wrapping_add(1);
        Ok(notices)
    }

    fn preempt(
        &mut self,
        who: &Registrant,
        key: u64,
        victim: u64,
        (kind, abort): (Option<Kind>, bool),
    ) -> Result<Vec<Notice>, Refusal> {
        self.proven(who, key)?;
        let (all, takes) = match self.reservation {
            Some((held, _)) if held.is_shared() => (victim == 0, victim == 0),
            Some((_, holder)) => (false, self.registrations[holder].key == victim),
            None => (false, false),
        };
        if victim == 0 && !all {
            return Err(Refusal::Field(8));
        }
        // One that takes the reservation keeps its own registration.
        let is_victim = |r: &Registration| (all || r.key == victim) && !(takes && r.who == *who);
        let victims: Vec<Registrant> =
            self.registrations.iter().filter(|r| is_victim(r)).map(|r| r.who.clone()).collect();
        if victims.is_empty() && !takes {
            return Err(Refusal::Conflict);
        }
        // Type and scope are ignored when registrations are all that is preempted (SPC-4, 5.13.11.2).
        let kind = if takes { Some(kind.ok_or(Refusal::Kind)?) } else { None };
        let before = self.reservation.filter(|_| takes).map(|(kind, _)| kind);
        if takes {
            self.reservation = None;
        }
        let mut notices = Vec::new();
        for victim in victims {
            if let Some(at) = self.place(&victim) {
                self.remove(at);
            }
            let code = (victim != *who).then_some(REGISTRATION_PREEMPTED);
            notices.push(Notice { who: victim, code, abort });
        }
        if let Some(kind) = kind {
            self.reservation = self.place(who).map(|at| (kind, at));
            if before.is_some_and(|before| before != kind) {
                notices.extend(self.tell_others(who, RELEASED));
            }
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(notices)
    }

    fn hand_over(
        &mut self,
        who: &Registrant,
        key: u64,
        (new, to): (u64, Registrant),
        (leave, persistent): (bool, bool),
    ) -> Result<Vec<Notice>, Refusal> {
        let at = self.proven(who, key)?;
        let kind = match self.reservation {
            None => return Err(Refusal::NotReserved),
            Some((kind, holder)) if holder == at && !kind.is_shared() => kind,
            Some(_) => return Err(Refusal::Conflict),
        };
        if new == 0 {
            return Err(Refusal::Field(8));
        }
        // To its own initiator port it cannot be moved, whichever the target port.
        if to.port == who.port {
            return Err(Refusal::Field(24));
        }
        match self.place(&to) {
            Some(place) => self.registrations[place].key = new,
            None if self.registrations.len() == REGISTRATIONS_MAX => return Err(Refusal::NoRoom),
            None => self.registrations.push(Registration { who: to.clone(), key: new }),
        }
        self.reservation = self.place(&to).map(|at| (kind, at));
        if leave && let Some(at) = self.place(who) {
            self.remove(at);
        }
        self.generation = self.generation.wrapping_add(1);
        self.persistent = persistent;
        Ok(Vec::new())
    }

    // === Helpers ===

    /// A nexus is known by the number of its target port that is said now.
    fn know_as(&mut self, who: &Registrant) {
        if let Some(known) = self.registrations.iter_mut().find(|r| r.who.is_same(who)) {
            known.who.target_port = who.target_port;
        }
    }

    fn place(&self, who: &Registrant) -> Option<usize> {
        self.registrations.iter().position(|r| r.who == *who)
    }

    /// The place of `who`, if it is registered with this key.
    fn proven(&self, who: &Registrant, key: u64) -> Result<usize, Refusal> {
        self.place(who).filter(|at| self.registrations[*at].key == key).ok_or(Refusal::Conflict)
    }

    /// Ends a registration; returns the type of the reservation that ended with it.
    fn remove(&mut self, at: usize) -> Option<Kind> {
        self.registrations.remove(at);
        let (kind, holder) = self.reservation?;
        let ends = if kind.is_shared() { self.registrations.is_empty() } else { holder == at };
        if ends {
            self.reservation = None;
            return Some(kind);
        }
        let holder = if kind.is_shared() {
            0
        } else if holder > at {
            holder - 1
        } else {
            holder
        };
        self.reservation = Some((kind, holder));
        None
    }

    /// Tells all that are registered, except one.
    fn tell_others(&self, but: &Registrant, code: u16) -> Vec<Notice> {
        let others = self.registrations.iter().filter(|r| r.who != *but);
        others.map(|r| Notice { who: r.who.clone(), code: Some(code), abort: false }).collect()
    }

    fn check(&self) {
        assert!(self.registrations.len() <= REGISTRATIONS_MAX, "too many registrations");
        if let Some((_, holder)) = self.reservation {
            assert!(holder < self.registrations.len(), "a reservation without a holder");
        }
        debug_assert!(
            self.registrations.iter().enumerate().all(|(at, r)| self.place(&r.who) == Some(at)),
            "registered twice"
        );
    }
}
