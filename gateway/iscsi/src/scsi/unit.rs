//! A disk behind any number of nexuses: what is decided before any I/O.
//!
//! Invariant: on the way of a read or a write that nothing forbids there are a few cells to look
//! at, and no allocation. Whatever could forbid it sets `guarded` or the nexus's attention.

mod exclusive;
mod line;
mod plan;
mod reserved;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use block::{Extent, Holds, Volume};
use bytes::Bytes;

pub(crate) use self::line::{Attribute, Rank};
use super::cdb::{Blocks, Cdb, Command};
use super::limits::BLOCK_BYTES;
use super::mode::Modes;
use super::nexus::{self, Nexus, WeakNexus};
use super::opcodes::{self, Access, Beside, Entry};
use super::report;
use super::reserve::{self, Registrant, Reservations, Standing, StateError};
use super::sense::{self, Form, Sense};
use super::{
    Abort, Admission, InitiatorPort, Outcome, Plan, PortState, ReservationKeeper, Reset, Slow,
    Status, Strangers, UnitEvent, UnitIdentity, UnitSettings,
};

/// A disk behind any number of nexuses.
#[derive(Debug)]
pub struct Unit {
    /// Itself, for what goes on when nobody waits for it any more.
    own: Weak<Self>,
    pub(super) volume_id: block::VolumeId,
    /// The name of its target.
    pub(super) target: RefCell<String>,
    pub(super) volume: VolumeRef,
    pub(super) keeper: Rc<dyn ReservationKeeper>,
    pub(super) settings: RefCell<UnitSettings>,
    pub(super) modes: Cell<Modes>,
    /// Whether anything may forbid reads or writes: a reservation, a port state, a protection, or that
    /// the unit is gone.
    guarded: Cell<bool>,
    gone: Cell<bool>,
    strangers: Cell<Strangers>,
    /// The size that every nexus knows or is about to be told.
    bytes: Cell<u64>,
    /// Who is registered, and who holds a persistent reservation.
    pub(super) reservations: RefCell<Reservations>,
    /// Held by the one PERSISTENT RESERVE OUT that is being kept.
    ordering: tokio::sync::Mutex<()>,
    /// Held by the one that waits for all that is under way.
    settling: tokio::sync::Mutex<()>,
    /// Which nexus holds the unit with RESERVE.
    holder: Cell<Option<u64>>,
    nexuses: RefCell<Vec<WeakNexus>>,
    /// Which commands wait for which.
    line: line::Line,
    next: Cell<u64>,
    /// Where commands run that must not be interrupted; shared with every other way to the volume.
    holds: Rc<Holds>,
}

/// A volume, for a struct that shows itself.
pub(super) struct VolumeRef(pub(super) Rc<dyn Volume>);

impl std::fmt::Debug for VolumeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a volume")
    }
}

impl Unit {
    /// A unit in front of `volume`, with the reservations that its keeper has.
    ///
    /// # Errors
    /// [`StateError`] when what was kept cannot be read: to go on without it could let a host write
    /// that was fenced.
    pub fn new(
        identity: UnitIdentity,
        volume: Rc<dyn Volume>,
        keeper: Rc<dyn ReservationKeeper>,
        settings: UnitSettings,
    ) -> Result<Rc<Self>, StateError> {
        let bytes = volume.geometry().bytes();
        let reservations = kept(&*keeper)?;
        let holds = volume.holds().unwrap_or_default();
        let unit = Rc::new_cyclic(|own| Self {
            own: Weak::clone(own),
            volume_id: identity.volume,
            target: RefCell::new(identity.target),
            volume: VolumeRef(volume),
            keeper,
            settings: RefCell::new(settings),
            modes: Cell::new(Modes::DEFAULT),
            guarded: Cell::new(false),
            strangers: Cell::default(),
            gone: Cell::new(false),
            bytes: Cell::new(bytes),
            reservations: RefCell::new(reservations),
            ordering: tokio::sync::Mutex::new(()),
            settling: tokio::sync::Mutex::new(()),
            holder: Cell::new(None),
            nexuses: RefCell::default(),
            line: line::Line::default(),
            next: Cell::new(0),
            holds,
        });
        unit.guard();
        Ok(unit)
    }

    /// A nexus of this initiator port at this relative target port, at which it sees disks of these
    /// numbers. Its first command is answered with a unit attention.
    #[must_use]
    pub fn attach(
        self: &Rc<Self>,
        port: InitiatorPort,
        target_port: u16,
        units: &Rc<[u8]>,
    ) -> Nexus {
        let id = self.next.get();
        self.next.set(id + 1);
        let nexus = Nexus::new(id, (port, target_port), Rc::clone(units), Rc::downgrade(self));
        self.nexuses.borrow_mut().push(nexus.weak());
        nexus.stand(&self.reservations.borrow());
        nexus
    }

    /// It is at the target of this name from now on. What is reserved stays.
    pub fn move_to(&self, target: &str) {
        if *self.target.borrow() != target {
            target.clone_into(&mut self.target.borrow_mut());
        }
    }

    /// In which form sense is sent.
    #[must_use]
    pub fn form(&self) -> Form {
        self.modes.get().form()
    }

    /// What a command needs before it can be answered. Costs no I/O and never waits.
    pub fn begin(&self, nexus: &Nexus, cdb: &[u8]) -> Plan {
        self.look_at_size();
        let (entry, command) = match opcodes::decode(&Cdb::of(cdb)) {
            Ok(decoded) => decoded,
            Err(refusal) => return self.refuse(nexus, refusal),
        };
        if nexus.is_attentive()
            && entry.attentive
            && let Some(attention) = nexus.take_attention()
        {
            return Plan::Answer(Outcome::refused(attention));
        }
        if self.guarded.get() {
            if self.gone.get() {
                return report::no_unit(cdb, &[]);
            }
            if let Some(outcome) = self.forbidden(nexus, entry, command) {
                return Plan::Answer(outcome);
            }
        }
        self.plan(nexus, command).unwrap_or_else(|sense| Plan::Answer(Outcome::refused(sense)))
    }

    /// Whether a read or a write that [`Self::begin`] planned, when the nexus's epoch was `epoch`,
    /// may be handed to the volume now. It must be, before anything else is begun or run.
    pub fn admit(
        &self,
        nexus: &Nexus,
        epoch: u32,
        extent: Extent,
        write: Option<bool>,
    ) -> Admission {
        if nexus.epoch() != epoch {
            return Admission::Aborted;
        }
        if self.holds.is_free(extent) {
            return Admission::Go;
        }
        let block = u64::from(BLOCK_BYTES);
        let at = Blocks { lba: extent.offset() / block, count: extent.len() / block, lba_at: 2 };
        let command = match write {
            Some(fua) => Command::Write { at, fua },
            None => Command::Read { at },
        };
        let abort = Abort::default();
        Admission::Slow(Slow { data_out: 0, change: write.is_some(), command, epoch, abort })
    }

    /// Ends everything that a reset ends; the sessions find the epochs of their nexuses changed. It is
    /// complete after [`Self::settle`].
    pub fn reset(&self, by: &Nexus, kind: Reset) {
        for nexus in self.nexuses() {
            let had_any = self.abort(&nexus);
            match kind {
                Reset::ClearTaskSet if nexus.id() == by.id() || !had_any => {}
                Reset::ClearTaskSet => nexus.tell(nexus::CLEARED),
                Reset::LogicalUnit | Reset::Target => nexus.tell(nexus::RESET),
            }
        }
        match kind {
            Reset::ClearTaskSet => {}
            Reset::LogicalUnit | Reset::Target => {
                self.holder.set(None);
                self.modes.set(Modes::DEFAULT);
                self.guard();
            }
        }
    }

    /// Tells every nexus what changed.
    pub fn changed(&self, what: UnitEvent) {
        match what {
            UnitEvent::Groups(groups) => {
                if self.settings.borrow().groups == groups {
                    return;
                }
                self.settings.borrow_mut().groups = groups;
                if self.detour().is_some() {
                    self.lose_hold();
                }
                for nexus in self.nexuses() {
                    nexus.tell(nexus::ACCESS_CHANGED);
                    nexus.move_on();
                }
                if self.settable() == Modes::FIXED && self.modes.get() != Modes::DEFAULT {
                    self.modes.set(Modes::DEFAULT);
                    self.tell_all(nexus::MODE_CHANGED, None);
                }
                self.guard();
            }
            UnitEvent::Gone => {
                self.gone.set(true);
                self.guard();
                for nexus in self.nexuses() {
                    nexus.tell(nexus::UNITS_CHANGED);
                    nexus.move_on();
                }
            }
        }
    }

    /// Puts what is kept of reservations in place of what is known here: another gateway had the
    /// volume meanwhile. What was reserved with RESERVE is free.
    ///
    /// # Errors
    /// [`StateError`] when it cannot be read: nobody may be served then, as in [`Self::new`].
    pub fn reload(&self) -> Result<(), StateError> {
        self.reload_after(None)
    }

    /// The same when somebody here had an order done elsewhere. Others here whose registrations are gone
    /// are told so.
    pub(super) fn reload_after(&self, orderer: Option<&Registrant>) -> Result<(), StateError> {
        let reservations = kept(&*self.keeper)?;
        let mut notices = self.reservations.borrow().lost(&reservations);
        notices.retain(|notice| orderer.is_none_or(|who| !who.is_same(&notice.who)));
        self.lose_hold();
        self.set_reservations(reservations, &notices);
        Ok(())
    }

    /// The volume serves again: sessions ask it once more for what they hold.
    pub fn resume(&self) {
        self.nexuses().iter().for_each(Nexus::move_on);
    }

    /// What a command for the medium is told here while this gateway knows that another one has the
    /// volume, or that nobody has; `None` while it is asked for itself, even if its outcome may be in
    /// doubt.
    #[must_use]
    pub fn detour(&self) -> Option<Sense> {
        if self.gone.get() {
            return Some(sense::NO_UNIT);
        }
        match self.state() {
            PortState::Optimized | PortState::NonOptimized | PortState::Transitioning => None,
            PortState::Standby => Some(sense::STANDBY),
            PortState::Unavailable => Some(sense::UNAVAILABLE),
        }
    }

    // === What stands in the way ===

    /// Tells every nexus when the volume grew. Hosts that poll find out by any command.
    fn look_at_size(&self) {
        let bytes = self.volume.0.geometry().bytes();
        if bytes != self.bytes.get() {
            self.bytes.set(bytes);
            self.tell_all(nexus::CAPACITY_CHANGED, None);
        }
    }

    /// Computes anew whether anything may forbid reads or writes.
    pub(super) fn guard(&self) {
        let guarded = self.gone.get()
            || self.holder.get().is_some()
            || self.reservations.borrow().kind().is_some()
            || self.state() != PortState::Optimized
            || self.modes.get() != Modes::DEFAULT;
        self.guarded.set(guarded);
        self.strangers.set(self.rest());
    }

    /// What reservations leave to hosts that are no initiators.
    fn rest(&self) -> Strangers {
        let kind = self.reservations.borrow().kind();
        let passes =
            |access| kind.is_none_or(|kind| reserve::passes(kind, Standing::Stranger, access));
        match self.holder.get() {
            Some(_) => Strangers::Wait,
            None if passes(Access::Write) => Strangers::Write,
            None if passes(Access::Read) => Strangers::Read,
            None => Strangers::Wait,
        }
    }

    /// What may be done to the volume by whoever is no initiator, as reservations stand.
    #[must_use]
    pub fn strangers(&self) -> Strangers {
        self.strangers.get()
    }

    /// The state of this gateway's ports.
    fn state(&self) -> PortState {
        let settings = self.settings.borrow();
        let ours = settings.groups.iter().find(|group| group.group == settings.group);
        ours.map_or(PortState::Unavailable, |group| group.state)
    }

    /// How a command ends that may not be begun.
    fn forbidden(&self, nexus: &Nexus, entry: &Entry, command: Command) -> Option<Outcome> {
        // Whoever has the volume decides about reservations.
        if let Some(sense) = self.detour() {
            return (!entry.aside).then(|| Outcome::refused(sense));
        }
        let conflict = Outcome::of(Status::ReservationConflict);
        // Persistent reservations conflict with RESERVE whoever holds it (SPC-2, 5.5.1).
        let spares = |holder| holder == nexus.id() && !is_persistent(command);
        if self.holder.get().is_some_and(|holder| !spares(holder)) && entry.beside == Beside::Holder
        {
            return Some(conflict);
        }
        if let Some(kind) = self.reservations.borrow().kind()
            && !starts(command)
            && !reserve::passes(kind, nexus.standing(), entry.access)
        {
            return Some(conflict);
        }
        if entry.access == Access::Write && self.is_protected(nexus) && is_change(command) {
            return Some(Outcome::refused(sense::WRITE_PROTECTED));
        }
        let of_medium = !matches!(entry.access, Access::None | Access::Reservation);
        let moves = self.state() == PortState::Transitioning;
        (of_medium && moves).then(|| Outcome::of(Status::Busy))
    }

    fn refuse(&self, nexus: &Nexus, refusal: Sense) -> Plan {
        let sense = if nexus.is_attentive() { nexus.take_attention() } else { None };
        Plan::Answer(Outcome::refused(sense.unwrap_or(refusal)))
    }

    /// What initiators may set here: nothing of what another gateway shows too, or has, since neither hears
    /// of the other's modes.
    pub(super) fn settable(&self) -> Modes {
        let alone = self.settings.borrow().groups.len() < 2 && self.detour().is_none();
        if alone { Modes::SETTABLE } else { Modes::FIXED }
    }

    /// Whether writes of this nexus are refused: by an initiator's word, because the volume takes none,
    /// or because the initiator may only read.
    pub(super) fn is_protected(&self, nexus: &Nexus) -> bool {
        self.modes.get().protected || nexus.is_protected() || self.volume.0.read_only()
    }

    // === Nexuses ===

    pub(super) fn nexuses(&self) -> Vec<Nexus> {
        self.nexuses.borrow().iter().filter_map(WeakNexus::get).collect()
    }

    /// Tells every nexus but one.
    pub(super) fn tell_all(&self, code: u16, but: Option<u64>) {
        for nexus in self.nexuses().iter().filter(|nexus| Some(nexus.id()) != but) {
            nexus.tell(code);
        }
    }

    /// A nexus was lost.
    pub(super) fn forget(&self, id: u64) {
        if self.holder.get() == Some(id) {
            self.holder.set(None);
            self.guard();
        }
        // Its own entry can be upgraded no more.
        self.nexuses.borrow_mut().retain(|nexus| nexus.get().is_some());
        self.line.forget(id);
    }

    // === Commands that must not be interrupted ===

    /// Runs a command that [`Self::begin`] or [`Self::admit`] found to be slow, with the data-out
    /// that it wants.
    ///
    /// # Errors
    /// What the volume answers; [`crate::status::fate`] says what the host is told.
    ///
    /// # Cancellation
    /// Safe: what was handed to the volume is done, and the rest is not.
    pub async fn run(
        self: Rc<Self>,
        nexus: Nexus,
        command: Slow,
        data_out: Bytes,
    ) -> Result<Outcome, block::IoError> {
        super::medium::run(&self, &nexus, &command, &data_out).await
    }
}

/// What a keeper has of reservations; those that were not to outlive the loss of power are gone with it.
fn kept(keeper: &dyn ReservationKeeper) -> Result<Reservations, StateError> {
    let kept = keeper.load().map_err(|_unread| StateError::Unread)?;
    let kept = kept.map(|kept| Reservations::decode(&kept)).transpose()?;
    let stays = |kept: &Reservations| kept.persistent() || !keeper.lost_power();
    Ok(kept.filter(stays).unwrap_or_default())
}

/// Whether a command only starts the unit, which any may.
fn starts(command: Command) -> bool {
    matches!(command, Command::StartStop { start: true, condition: 0, .. })
}

/// Whether a command is about persistent reservations.
fn is_persistent(command: Command) -> bool {
    matches!(command, Command::PersistentIn { .. } | Command::PersistentOut { .. })
}

/// Whether a command of access `Write` changes content, rather than settings.
fn is_change(command: Command) -> bool {
    !matches!(
        command,
        Command::ModeSelect { .. } | Command::StartStop { .. } | Command::Synchronize { .. }
    )
}
