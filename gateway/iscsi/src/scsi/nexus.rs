//! One initiator port at one target port: what it must still be told, and what of it was aborted.
//!
//! Invariant: at most [`ATTENTIONS_MAX`] unit attentions wait, each once.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};

use smallvec::SmallVec;

use super::copy::{Ended, REMEMBERED_MAX};
use super::limits::ATTENTIONS_MAX;
use super::reserve::{Registrant, Reservations, Standing};
use super::sense::Sense;
use super::unit::Unit;
use super::{Form, InitiatorPort};

/// Power on, reset, or the loss of what the unit knew of this nexus.
pub(crate) const POWER_ON: u16 = 0x2900;
/// A bus device reset function occurred.
pub(crate) const RESET: u16 = 0x2903;
/// Mode parameters changed.
pub(crate) const MODE_CHANGED: u16 = 0x2a01;
/// Reservations preempted.
pub(crate) const PREEMPTED: u16 = 0x2a03;
/// Reservations released.
pub(crate) const RELEASED: u16 = 0x2a04;
/// Registrations preempted.
pub(crate) const REGISTRATION_PREEMPTED: u16 = 0x2a05;
/// Asymmetric access state changed.
pub(crate) const ACCESS_CHANGED: u16 = 0x2a06;
/// Capacity data has changed.
pub(crate) const CAPACITY_CHANGED: u16 = 0x2a09;
/// Reported logical units data has changed.
pub(crate) const UNITS_CHANGED: u16 = 0x3f0e;
/// Commands cleared by another initiator.
pub(crate) const CLEARED: u16 = 0x2f00;

/// One initiator port at one target port. Cheap to clone; when the last clone is dropped, the
/// nexus is lost: what it reserved with RESERVE is free, what it registered stays.
#[derive(Clone, Debug)]
pub struct Nexus(Rc<State>);

#[derive(Debug)]
struct State {
    id: u64,
    /// Itself, as reservations know it.
    who: Registrant,
    /// The numbers of the disks that the initiator sees at the target.
    units: RefCell<Rc<[u8]>>,
    unit: Weak<Unit>,
    waiting: RefCell<SmallVec<[u16; ATTENTIONS_MAX]>>,
    attentive: Cell<bool>,
    epoch: Cell<u32>,
    /// Whether its initiator may only read.
    protected: Cell<bool>,
    /// Commands that are to be answered.
    commands: Cell<usize>,
    standing: Cell<Standing>,
    copies: RefCell<Vec<Ended>>,
    /// Whether its session has not seen yet that the way to the volume changed.
    moved: Cell<bool>,
    session: RefCell<Option<Waker>>,
}

/// A nexus, as its unit remembers it.
#[derive(Clone, Debug)]
pub(super) struct WeakNexus(Weak<State>);

impl WeakNexus {
    pub(super) fn get(&self) -> Option<Nexus> {
        self.0.upgrade().map(Nexus)
    }
}

impl Nexus {
    pub(super) fn new(
        id: u64,
        (port, target_port): (InitiatorPort, u16),
        units: Rc<[u8]>,
        unit: Weak<Unit>,
    ) -> Self {
        let waiting = RefCell::new(SmallVec::from_slice(&[POWER_ON]));
        let (attentive, epoch) = (Cell::new(true), Cell::new(0));
        let (protected, commands) = (Cell::new(false), Cell::new(0));
        let (standing, copies) = (Cell::default(), RefCell::default());
        let (moved, session) = (Cell::new(false), RefCell::default());
        Self(Rc::new(State {
            id,
            who: Registrant { port, target_port },
            units: RefCell::new(units),
            unit,
            waiting,
            attentive,
            epoch,
            protected,
            commands,
            standing,
            copies,
            moved,
            session,
        }))
    }

    pub(super) fn weak(&self) -> WeakNexus {
        WeakNexus(Rc::downgrade(&self.0))
    }

    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    /// The initiator port.
    #[must_use]
    pub fn port(&self) -> &InitiatorPort {
        &self.0.who.port
    }

    /// The relative target port.
    #[must_use]
    pub fn target_port(&self) -> u16 {
        self.0.who.target_port
    }

    /// The numbers of the disks that the initiator sees at the target, in order.
    pub(super) fn units(&self) -> Rc<[u8]> {
        Rc::clone(&self.0.units.borrow())
    }

    /// The initiator sees other disks at the target from now on, and is told so.
    pub(crate) fn see(&self, units: &Rc<[u8]>) {
        *self.0.units.borrow_mut() = Rc::clone(units);
        self.tell(UNITS_CHANGED);
    }

    /// Its initiator may only read from now on, whatever others may.
    pub(crate) fn protect(&self) {
        self.0.protected.set(true);
    }

    /// Whether its initiator may only read.
    pub(super) fn is_protected(&self) -> bool {
        self.0.protected.get()
    }

    /// How often all commands of this nexus were aborted. A command is forgotten without an answer
    /// if this is no longer what it was when the command began.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.0.epoch.get()
    }

    /// In which form its unit wants sense to be sent.
    #[must_use]
    pub fn form(&self) -> Form {
        self.0.unit.upgrade().map_or(Form::Fixed, |unit| unit.form())
    }

    /// What it is to the reservation that there is, as was last computed.
    pub(super) fn standing(&self) -> Standing {
        self.0.standing.get()
    }

    /// Computes that anew.
    pub(super) fn stand(&self, reservations: &Reservations) {
        self.0.standing.set(reservations.standing(&self.0.who));
    }

    /// Itself, as reservations know it.
    pub(super) fn registrant(&self) -> Registrant {
        self.0.who.clone()
    }

    /// Whether reservations know it by this.
    pub(super) fn is(&self, who: &Registrant) -> bool {
        self.0.who.is_same(who)
    }

    /// Remembers how a copy ended, in place of what was remembered under its number.
    pub(super) fn remember(&self, ended: Ended) {
        let mut copies = self.0.copies.borrow_mut();
        copies.retain(|other| other.list != ended.list);
        if copies.len() == REMEMBERED_MAX {
            copies.remove(0);
        }
        copies.push(ended);
    }

    /// How the copy of this number ended.
    pub(super) fn copy(&self, list: u8) -> Option<Ended> {
        self.0.copies.borrow().iter().find(|ended| ended.list == list).copied()
    }

    /// A command of it has come.
    pub(crate) fn begun(&self) {
        self.0.commands.set(self.0.commands.get() + 1);
    }

    /// A command of it has ended that came when its epoch was this; says whether it was among those that
    /// are to be answered.
    pub(crate) fn ended(&self, epoch: u32) -> bool {
        let counts = epoch == self.epoch();
        if counts {
            self.0.commands.set(self.0.commands.get().saturating_sub(1));
        }
        counts
    }

    /// Commands of it that are to be answered.
    pub(crate) fn commands(&self) -> usize {
        self.0.commands.get()
    }

    /// Forgets every command that has come; says whether there was one.
    pub(super) fn abort(&self) -> bool {
        self.0.epoch.set(self.0.epoch.get().wrapping_add(1));
        self.0.commands.replace(0) > 0
    }

    /// The way to the volume changed: its session looks at what it holds.
    pub(super) fn move_on(&self) {
        self.0.moved.set(true);
        if let Some(session) = self.0.session.borrow_mut().take() {
            session.wake();
        }
    }

    /// Whether the way to the volume changed since this was asked last.
    pub(crate) fn has_moved(&self) -> bool {
        self.0.moved.replace(false)
    }

    /// Lets the session be woken when it does.
    pub(crate) fn listen(&self, context: &Context<'_>) {
        *self.0.session.borrow_mut() = Some(context.waker().clone());
    }

    /// Whether there is something that it must be told first.
    pub(super) fn is_attentive(&self) -> bool {
        self.0.attentive.get()
    }

    /// Lets it be told this, at its next command. A reset says all that was to be said before.
    pub(super) fn tell(&self, code: u16) {
        let mut waiting = self.0.waiting.borrow_mut();
        if code == RESET {
            waiting.clear();
        }
        if !waiting.contains(&code) {
            if waiting.len() == ATTENTIONS_MAX {
                waiting.pop();
            }
            waiting.push(code);
        }
        self.0.attentive.set(true);
    }

    /// What it is told first, which then is told.
    pub(super) fn take_attention(&self) -> Option<Sense> {
        let mut waiting = self.0.waiting.borrow_mut();
        let code = (!waiting.is_empty()).then(|| waiting.remove(0));
        self.0.attentive.set(!waiting.is_empty());
        code.map(Sense::attention)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(unit) = self.unit.upgrade() {
            unit.forget(self.id);
        }
    }
}
