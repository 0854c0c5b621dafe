//! What removed snapshots leave behind: layers without a name, dropped or folded step by step.
//!
//! ```text
//!   name gone ─▶ durable ─▶ drop or fold, a step at a time ─▶ committed ─▶ layer gone ─▶ next
//! ```
//!
//! Invariant: a step leaves the map as it should be read; the volume may stop or die between any
//! two of them and goes on when it is opened again. While it is closed nothing is done.

use std::cell::RefCell;
use std::rc::Rc;

use block::{IoError, SnapshotId, Ticket, VolumeId};

use crate::crc::SLOT_SIZE;
use crate::executor::Lane;
use crate::medium::read_padded;

use super::Inner;
use super::fold::{Far, Fold, Step};
use super::lanes::Done;
use super::layers::{Duty, Layers};
use super::map::PageKey;
use super::record::Record;

/// Pages that one step drops: about a millisecond when they must be loaded.
const PAGES_PER_STEP: usize = 32;

/// What is to be done, and what must be waited for.
#[derive(Debug, Default)]
pub(super) struct Chores {
    /// Removals that wait until room was given back.
    waiting: Vec<Ticket>,
    work: Option<Work>,
    /// A step is on its way.
    queued: bool,
    /// Nothing is to be done until the tree changes.
    idle: bool,
    /// An error ended the work: it waits for the next removal.
    stalled: bool,
    /// The volume was closed; it rests until something changes.
    pub(super) closed: bool,
    /// Layers that hold what cannot be read.
    left: Vec<u32>,
    /// Records before this must be durable before the next step.
    need: u64,
    synced: u64,
    committed: u64,
    /// The last fold that copied and that no commit covers.
    folded: Option<u64>,
    holds: Vec<Hold>,
    last_hold: u64,
    /// Snapshots whose names stay although they are removed, and the volumes that are filled from them.
    kept: Vec<(SnapshotId, VolumeId)>,
    /// What was let go, as its holders say.
    released: Rc<RefCell<Vec<u64>>>,
    /// What was let go while reads up to the number beside it were under way.
    leaving: Vec<(u64, u64)>,
}

/// Somebody reads a layer, whether it has a name or not.
#[derive(Debug)]
struct Hold {
    id: u64,
    layer: u32,
}

#[derive(Debug)]
enum Work {
    Drop(u32),
    Fold(Fold),
}

// === impl Chores ===

impl Chores {
    pub(super) fn new(layers: &Layers, kept: Vec<(SnapshotId, VolumeId)>) -> Self {
        Self { idle: layers.all().len() == 1, kept, ..Self::default() }
    }

    /// Whether nothing is to be done or answered.
    pub(super) fn is_idle(&self) -> bool {
        self.idle
    }

    /// A record that changes the tree stands in the log below number `next`.
    pub(super) fn tree_changed(&mut self, next: u64) {
        self.need = next;
        self.work = None;
        self.idle = false;
    }

    /// Answers this when there is nothing left to be done.
    pub(super) fn wait(&mut self, ticket: Ticket) {
        self.stalled = false;
        self.waiting.push(ticket);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    pub(super) fn drain(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn hold(&mut self, layer: u32) -> (u64, Rc<RefCell<Vec<u64>>>) {
        self.last_hold += 1;
        self.holds.push(Hold { id: self.last_hold, layer });
        (self.last_hold, Rc::clone(&self.released))
    }

    /// A removal does not take this name from now on.
    pub(super) fn keep(&mut self, id: SnapshotId, by: VolumeId) {
        self.let_go(id, by);
        self.kept.push((id, by));
    }

    /// Ends this wish. Whoever repeats it ends nobody else's.
    pub(super) fn let_go(&mut self, id: SnapshotId, by: VolumeId) {
        self.kept.retain(|kept| *kept != (id, by));
    }

    pub(super) fn is_kept(&self, id: SnapshotId) -> bool {
        self.kept.iter().any(|(kept, _)| *kept == id)
    }

    /// The layer that somebody holds.
    pub(super) fn held(&self, hold: u64) -> Option<u32> {
        self.holds.iter().find(|h| h.id == hold).map(|h| h.layer)
    }

    pub(super) fn fold_logged(&mut self, record: u64) {
        self.folded = Some(record);
    }

    /// Whether a fold that copied waits for its commit.
    pub(super) fn is_folded(&self) -> bool {
        self.folded.is_some()
    }

    /// Whether a fold that copied stands before this number and waits for its commit.
    pub(super) fn folded_before(&self, upto: u64) -> bool {
        self.folded.is_some_and(|record| record < upto)
    }

    /// The data of the records before this number is durable, and so are they with the next sync
    /// of the log.
    pub(super) fn committed(&mut self, upto: u64) {
        self.committed = self.committed.max(upto);
        self.folded = self.folded.filter(|record| *record >= upto);
    }

    /// The number up to which records are known to be durable.
    pub(super) fn synced_before(&self) -> u64 {
        self.synced
    }

    /// The records before this number are durable.
    pub(super) fn synced(&mut self, upto: u64) {
        self.synced = self.synced.max(upto);
    }
}

// === impl Inner ===

impl Inner {
    /// Sees to it that the next step is taken as soon as it may be.
    pub(super) fn settle_chores(&mut self) {
        self.release();
        self.unpark();
        if !self.chores.queued && self.may_work() {
            self.chores.queued = true;
            self.go_on(Done::Chore);
        }
    }

    fn may_work(&self) -> bool {
        let chores = &self.chores;
        let closed = chores.closed && self.lanes.marked_clean;
        let rests = chores.idle || chores.stalled || closed || self.lanes.is_closing();
        !rests && !self.latched && chores.synced >= chores.need
    }

    /// Lets go of what nobody reads any more.
    fn release(&mut self) {
        let now = self.next_id;
        let chores = &mut self.chores;
        chores.leaving.extend(chores.released.borrow_mut().drain(..).map(|hold| (now, hold)));
        if chores.leaving.is_empty() {
            return;
        }
        let oldest = self.lanes.oldest_read();
        let holds = &mut chores.holds;
        chores.leaving.retain(|(reader, hold)| {
            let reads = *reader >= oldest;
            if !reads {
                holds.retain(|h| h.id != *hold);
            }
            reads
        });
        chores.idle = false;
    }

    /// Gives slots up that nobody reads and no record needs any more.
    pub(super) fn unpark(&mut self) {
        if self.slots.parked() > 0 {
            self.slots.unpark(self.lanes.oldest_read(), self.chores.committed);
        }
    }

    /// Takes a step.
    pub(super) fn step_chores(&mut self) {
        self.chores.queued = false;
        if !self.may_work() {
            return;
        }
        self.flush_group();
        if self.chores.work.is_none() && !self.pick() {
            return self.rest();
        }
        let Some(mut work) = self.chores.work.take() else { return };
        self.accounts.moved();
        let open = self.ensure_open().and_then(|()| self.allow_snapshots());
        let step = open.and_then(|()| match &mut work {
            Work::Drop(layer) => self.step_drop(*layer),
            Work::Fold(fold) => self.step_fold(fold),
        });
        match step {
            Ok(Step::More) => self.chores.work = Some(work),
            Ok(Step::Sync) => {
                self.chores.work = Some(work);
                self.chores.need = self.log.next();
                self.lanes.want_reclaim();
            }
            Ok(Step::Cold(far)) => {
                self.chores.work = Some(work);
                self.warm(far);
            }
            Ok(Step::End(result)) => self.end_work(&work, result),
            Err(e) => {
                self.chores.stalled = true;
                self.abandon(e);
            }
        }
    }

    fn end_work(&mut self, work: &Work, result: Result<(), IoError>) {
        let layer = match work {
            Work::Drop(layer) => *layer,
            Work::Fold(fold) => fold.from,
        };
        if let Err(e) = result {
            // The others can still be worked off.
            self.chores.left.push(match work {
                Work::Fold(fold) if self.map.lies_on(fold.from, fold.into) => fold.into,
                Work::Fold(_) | Work::Drop(_) => layer,
            });
            return self.abandon(e);
        }
        match self.change_tree(Record::DropLayer { layer }) {
            Ok(()) if self.pick() => self.lanes.want_reclaim(),
            Ok(()) => self.rest(),
            Err(e) => {
                self.chores.stalled = true;
                self.abandon(e);
            }
        }
    }

    /// Nothing is left to be done.
    fn rest(&mut self) {
        self.chores.idle = true;
        for ticket in self.chores.drain() {
            self.want_sync(ticket);
        }
    }

    /// Picks what is to be done next.
    fn pick(&mut self) -> bool {
        let chores = &self.chores;
        // What is filled stays where it is until that is done.
        let lowest = self.map.beneath().map(|_| self.map.layers().lowest());
        let kept = |layer| lowest == Some(layer) || chores.holds.iter().any(|h| h.layer == layer);
        let duty = self.map.layers().duty(|layer| kept(layer) || chores.left.contains(&layer));
        self.chores.work = duty.map(|duty| match duty {
            Duty::Drop(layer) => Work::Drop(layer),
            Duty::Fold { from, into, down } => {
                if down && from == self.map.layers().head {
                    self.map.write_through(into);
                }
                Work::Fold(Fold::new(from, into))
            }
        });
        self.chores.work.is_some()
    }

    /// The work cannot be ended, and whoever waits for it is told why.
    fn abandon(&mut self, error: IoError) {
        tracing::warn!(%error, "give back what a removed snapshot held");
        self.chores.work = None;
        self.map.write_to_head();
        for ticket in self.chores.drain() {
            ticket.fail(error);
        }
    }

    fn step_drop(&mut self, layer: u32) -> Result<Step, IoError> {
        for _ in 0..PAGES_PER_STEP {
            let Some(page) = self.map.next_page_of(&[layer], 0) else {
                return Ok(Step::End(Ok(())));
            };
            for slot in self.clear_page(PageKey::new(layer, page))? {
                self.slots.give_up_after(slot, self.next_id, 0);
            }
        }
        Ok(Step::More)
    }

    /// Brings a slot into the page cache, so that the shard need not wait for it.
    fn warm(&mut self, (file, offset): Far) {
        self.chores.queued = true;
        self.run_in(Lane::Read, move || {
            let mut data = vec![0; SLOT_SIZE];
            // An error is met again, and told, by who needs the data.
            drop(read_padded(file.as_ref(), &mut data, offset));
            Done::Chore
        });
    }

    /// Logs and applies a change of the tree of layers.
    pub(super) fn change_tree(&mut self, record: Record) -> Result<(), IoError> {
        self.append(std::slice::from_ref(&record))?;
        if let Record::DropLayer { layer } = record
            && let Some(parent) = self.map.layers().get(layer).and_then(|l| l.parent)
        {
            for hold in self.chores.holds.iter_mut().filter(|h| h.layer == layer) {
                hold.layer = parent;
            }
        }
        let bytes = self.geometry.bytes();
        self.accounts.tree_changes(self.map.layers(), &record);
        self.map.relayer(|layers| layers.apply(&record, bytes));
        self.chores.tree_changed(self.log.next());
        Ok(())
    }
}
