//! The disks of a session's target, each with what this session has of it.
//!
//! Invariant: a number names one disk for as long as the session lasts. What one disk is told to end
//! leaves the commands for the others alone.

use std::rc::Rc;
use std::task::Context;

use block::{Request as Down, Volume};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Lun, More};
use crate::metrics::Meter;
use crate::scsi::{InitiatorPort, Nexus, Unit};

/// A disk, as one session uses it.
pub(super) struct Disk {
    number: u8,
    volume: Rc<dyn Volume>,
    pub(super) unit: Rc<Unit>,
    pub(super) nexus: Nexus,
    /// What is about to be handed to the volume.
    pub(super) batch: Vec<Down>,
    pub(super) meter: Meter,
}

impl Disk {
    /// Hands down what is in the batch.
    fn submit(&mut self) {
        if !self.batch.is_empty() {
            self.volume.submit(&mut self.batch);
        }
    }
}

/// The disks of a target that one initiator sees.
pub(super) struct Disks {
    all: SmallVec<[Disk; 1]>,
    numbers: Rc<[u8]>,
    /// Those that are to be added.
    more: More,
    port: InitiatorPort,
    target_port: u16,
}

impl Disks {
    pub(super) fn new(
        (luns, more): (Vec<Lun>, More),
        port: InitiatorPort,
        target_port: u16,
    ) -> Self {
        let (all, numbers) = (SmallVec::new(), Rc::from([]));
        let mut disks = Self { all, numbers, more, port, target_port };
        disks.add(luns);
        disks
    }

    fn add(&mut self, luns: Vec<Lun>) {
        let known = self.numbers.iter().copied();
        let mut numbers: Vec<u8> = known.chain(luns.iter().map(|lun| lun.number)).collect();
        numbers.sort_unstable();
        self.numbers = numbers.into();
        for Lun { number, volume, unit, label, read_only } in luns {
            let nexus = unit.attach(self.port.clone(), self.target_port, &self.numbers);
            if read_only {
                nexus.protect();
            }
            let (batch, meter) = (Vec::new(), Meter::new(&label));
            self.all.push(Disk { number, volume, unit, nexus, batch, meter });
        }
    }

    /// Takes what was added since. The initiator is told at each disk that it knows.
    pub(super) fn grow(&mut self) {
        if self.more.borrow().is_empty() {
            return;
        }
        let (more, known) = (self.more.take(), self.all.len());
        self.add(more);
        self.all.iter().take(known).for_each(|disk| disk.nexus.see(&self.numbers));
    }

    /// The numbers that there are, in order.
    pub(super) fn numbers(&self) -> &[u8] {
        &self.numbers
    }

    /// Which disk this names (SAM-5 §4.7): by the peripheral or by the flat space method.
    pub(super) fn find(&self, lun: [u8; 8]) -> Option<usize> {
        let [0 | 0x40, number, 0, 0, 0, 0, 0, 0] = lun else { return None };
        self.all.iter().position(|disk| disk.number == number)
    }

    /// The disk of a command; none where the command names none.
    pub(super) fn get(&self, at: Option<usize>) -> Option<&Disk> {
        self.all.get(at?)
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, at: Option<usize>) -> Option<&mut Disk> {
        self.all.get_mut(at?)
    }

    /// All of them, with where they are.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Disk)> {
        self.all.iter().enumerate()
    }

    /// Hands down every batch.
    pub(super) fn submit(&mut self) {
        self.all.iter_mut().for_each(Disk::submit);
    }

    /// Whether the way to any of the volumes changed since this was asked last.
    pub(super) fn have_moved(&self) -> bool {
        // Each is asked, so that none says the same once more.
        self.all.iter().filter(|disk| disk.nexus.has_moved()).count() > 0
    }

    /// Lets the session be woken when one does.
    pub(super) fn listen(&self, context: &Context<'_>) {
        self.all.iter().for_each(|disk| disk.nexus.listen(context));
    }

    /// Adds what was counted; the answers go out at `now`.
    pub(super) fn count(&mut self, now: Instant) {
        self.all.iter_mut().for_each(|disk| disk.meter.flush(now));
    }

    /// Tells how deep the queues are.
    pub(super) fn tell_depths(&mut self) {
        self.all.iter_mut().for_each(|disk| disk.meter.inflight(disk.nexus.commands()));
    }
}
