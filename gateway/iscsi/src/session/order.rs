//! When a command begins, and what it comes to then: at once, unless it waits for others of its disk.
//!
//! ```text
//!   command ─▶ enter ──▶ planned ─▶ Gathering
//!                 ╰─▶ Dormant ──its turn──▶ planned ─▶ Gathering
//! ```
//!
//! Invariant: of a command that waits nothing is decided, and no data is asked for; what comes unasked
//! is kept.

use std::task::Context;

use block::Extent;
use tokio::time::Instant;

use super::disks::Disk;
use super::tasks::{Came, Stage, Work};
use super::transfer::Transfer;
use super::turn::Session;
use crate::scsi::limits::BLOCK_BYTES;
use crate::scsi::{Attribute, Outcome, Plan, Rank, sense};

/// A command that waits for its turn.
pub(super) struct Dormant {
    pub(super) key: u64,
    pub(super) cdb: [u8; 16],
}

/// What a command comes to.
pub(super) struct Planned {
    /// What is to be done; none while that is not decided.
    pub(super) work: Option<Work>,
    /// What its CDB transfers.
    pub(super) transfer: u64,
    /// What it wants to be sent.
    pub(super) wanted: u32,
}

impl Planned {
    /// One that waits, and of which so much may come unasked.
    pub(super) const fn later(unasked: u32) -> Self {
        Self { work: None, transfer: 0, wanted: unasked }
    }

    const fn to(work: Work, transfer: u64, wanted: u32) -> Self {
        Self { work: Some(work), transfer, wanted }
    }

    /// One of which the host has announced to take and to send so much.
    pub(super) fn of(plan: Plan, (expected_in, expected_out): (u32, u32)) -> Self {
        let cut = |extent: Extent, len: u64| Extent::new(extent.offset(), len).ok();
        let nothing = Work::Answer(Outcome::good());
        match plan {
            Plan::Read(extent) => {
                let whole = extent.len();
                let read = cut(extent, whole.min(expected_in.into()));
                Self::to(read.map_or(nothing, Work::Read), whole, 0)
            }
            Plan::Write { extent, fua } => {
                let whole = extent.len();
                let len = whole.min(expected_out.into());
                if !len.is_multiple_of(BLOCK_BYTES.into()) {
                    let refused = Outcome::refused(sense::SHORT_DATA);
                    return Self::to(Work::Answer(refused), whole, 0);
                }
                let work = cut(extent, len).map_or(nothing, |extent| Work::Write(extent, fua));
                Self::to(work, whole, u32::try_from(len).unwrap_or(u32::MAX))
            }
            Plan::Slow(slow) if !slow.fits(expected_out) => {
                Self::to(Work::Answer(Outcome::refused(sense::INVALID_FIELD)), 0, 0)
            }
            Plan::Slow(slow) => {
                let wanted = slow.data_out;
                Self::to(Work::Slow(slow), 0, wanted)
            }
            Plan::Answer(outcome) => {
                let transfer = outcome.transfer;
                Self::to(Work::Answer(outcome), transfer, 0)
            }
        }
    }
}

impl Disk {
    /// A command comes: the epoch in which it does, what it is to the others, and its plan unless it
    /// waits.
    pub(super) fn enter(&self, attribute: u8, cdb: &[u8]) -> (u32, Rank, Option<Plan>) {
        let Some(attribute) = Attribute::of(attribute) else {
            self.nexus.begun();
            let refused = Plan::Answer(Outcome::refused(sense::INVALID_FIELD));
            return (self.nexus.epoch(), Rank::Plain, Some(refused));
        };
        let rank = self.unit.enter(&self.nexus, attribute);
        let plan = match rank {
            Rank::Plain | Rank::Ahead => Some(self.unit.begin(&self.nexus, cdb)),
            Rank::Waits(_) => None,
        };
        (self.nexus.epoch(), rank, plan)
    }
}

impl Session {
    /// Begins those that waited and have their turn now.
    pub(super) fn rouse(&mut self, cx: &Context<'_>) {
        if self.dormant.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut at = 0;
        while at < self.dormant.len() {
            if self.is_roused(at, now) {
                self.dormant.remove(at);
            } else {
                at += 1;
            }
        }
        for Dormant { key, .. } in &self.dormant {
            let disk = self.tasks.get(*key).and_then(|task| self.disks.get(task.disk));
            if let Some(disk) = disk {
                disk.unit.listen_in_line(cx);
            }
        }
    }

    /// Begins a command if it has its turn; says whether it waits no more.
    fn is_roused(&mut self, at: usize, now: Instant) -> bool {
        let Some(Dormant { key, cdb }) = self.dormant.get(at) else { return true };
        let key = *key;
        let Some(task) = self.tasks.get_mut(key) else { return true };
        let Some(disk) = self.disks.get(task.disk) else { return true };
        if task.epoch != disk.nexus.epoch() {
            self.forget(key);
            return true;
        }
        let Rank::Waits(number) = task.rank else { return true };
        let Some(rank) = disk.unit.pass(number) else { return false };
        let plan = disk.unit.begin(&disk.nexus, cdb);
        let announced = (task.expected_in, task.expected_out);
        let Planned { work, transfer, wanted } = Planned::of(plan, announced);
        task.rank = rank;
        task.change = work.as_ref().is_some_and(Work::is_change);
        task.work = work;
        task.transfer = transfer;
        match &mut task.came {
            Came::Nothing => {}
            Came::Shared(data) => data.truncate(wanted as usize),
            Came::Own(buffer) => buffer.truncate(wanted as usize),
        }
        if let Some(data) = &mut task.data {
            data.want(wanted, announced.1);
        }
        task.stage = Stage::Gathering;
        task.moved = now;
        self.move_on(key, now);
        true
    }

    /// The initiator sends no more: what waits for its data never gets it, and holds up others no
    /// longer.
    pub(super) fn forget_unfed(&mut self) {
        let is_unfed = |data: &Transfer| !data.is_done();
        let unfed = self.tasks.iter().filter(|(_, task)| task.data.as_ref().is_some_and(is_unfed));
        let keys: Vec<u64> = unfed.map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.forget(key));
    }
}
