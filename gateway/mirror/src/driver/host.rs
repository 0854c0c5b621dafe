//! A volume as its hosts see it: the hot path's first step.
//!
//! Invariant: a read never waits for a mirror; a change of a volume that nobody mirrors goes
//! straight to its store under the host's own ticket. Whatever protocol a host speaks, its requests
//! come through here, so that bytes that are held for one host are held against all others.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use block::{Change, Extent, Geometry, Holds, IoError, Op, Request, Run, Store, Volume};
use tokio::time::Instant;

use super::members::{GONE, Member};
use super::slab::Entry;
use super::{Core, Group};
use crate::machine::Event;

/// One volume of a group, for hosts.
#[derive(Clone)]
pub(super) struct Handle {
    group: Rc<Group>,
    store: Rc<dyn Store>,
    /// Where the volume is in the group now; it moves when another one leaves.
    index: Rc<Cell<usize>>,
    holds: Rc<Holds>,
}

impl Handle {
    pub(super) fn new(group: Rc<Group>, member: &Member) -> Self {
        let (store, index) = (Rc::clone(&member.store), Rc::clone(&member.index));
        Self { group, store, index, holds: Rc::clone(&member.holds) }
    }

    fn has_left(&self) -> bool {
        self.index.get() == GONE
    }
}

impl Volume for Handle {
    fn geometry(&self) -> Geometry {
        self.store.geometry()
    }

    fn read_only(&self) -> bool {
        self.has_left() || !self.group.core.borrow().machine.may_read()
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        if self.has_left() {
            batch.drain(..).for_each(|request| request.ticket.fail(IoError::ShuttingDown));
            return;
        }
        self.holds.sift(batch, || Rc::new(self.clone()));
        let now = Instant::now();
        {
            let mut core = self.group.core.borrow_mut();
            let licensed = core.is_licensed();
            for request in batch.drain(..) {
                core.host_request(self.index.get(), request, now, licensed);
            }
        }
        self.group.turn();
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        if self.has_left() || !self.group.core.borrow().machine.may_read() {
            return Err(IoError::Fenced);
        }
        if !self.group.core.borrow().is_licensed() {
            return Err(IoError::NoWitness);
        }
        self.store.layout(extent, limit)
    }

    fn holds(&self) -> Option<Rc<Holds>> {
        Some(Rc::clone(&self.holds))
    }

    /// A read is handed to the store at once, past changes that wait in the machine: for their range,
    /// for a record, or for a snapshot. The store itself does what overlaps in the order given.
    fn poll_settled(&self, extent: Extent, context: &mut Context<'_>) -> Poll<()> {
        let mut core = self.group.core.borrow_mut();
        let index = self.index.get();
        let is_queued =
            |event: &Event| matches!(event, Event::Change { volume, .. } if *volume == index);
        // Of a volume that left, and in a group that is closed, every request is refused.
        let is_over = self.has_left() || self.group.stopping.is_cancelled();
        if is_over || !core.events.iter().any(is_queued) && core.machine.has_applied(index, extent)
        {
            return Poll::Ready(());
        }
        core.await_turn(context);
        Poll::Pending
    }
}

impl Core {
    /// The group is closed: what its hosts still ask for is refused, and nothing else is looked at.
    pub(super) fn refuse_all(&mut self) {
        for event in std::mem::take(&mut self.events) {
            if let Event::Change { write, .. } | Event::Flush { write, .. } = event {
                self.answer(write, Err(IoError::ShuttingDown));
                self.slab.remove(write);
            }
        }
        for request in self.batches.iter_mut().flat_map(|batch| batch.drain(..)) {
            request.ticket.fail(IoError::ShuttingDown);
        }
    }

    /// Wakes whoever polls at the end of the next turn.
    fn await_turn(&mut self, context: &Context<'_>) {
        if !self.settling.iter().any(|waker| waker.will_wake(context.waker())) {
            self.settling.push(context.waker().clone());
        }
    }

    fn host_request(&mut self, index: usize, request: Request, now: Instant, licensed: bool) {
        let Request { op, fua, ticket } = request;
        let change = match op {
            Op::Read(_) | Op::Cache(_) => {
                if self.machine.may_read() && !licensed {
                    self.hold_read(index, Request { op, fua, ticket });
                } else if self.machine.may_read() {
                    self.batches[index].push(Request { op, fua, ticket });
                } else {
                    ticket.fail(IoError::Fenced);
                }
                return;
            }
            Op::Flush => {
                let entry = Entry::host(ticket, index, None, fua, now);
                let write = self.slab.insert(entry);
                self.events.push(Event::Flush { write, volume: index });
                return;
            }
            Op::Write(extent, data) => (extent, Change::Write(data)),
            Op::Zero { extent, may_trim } => (extent, Change::Zero { may_trim }),
            Op::Trim(extent) => (extent, Change::Trim),
        };
        if self.events.is_empty() && self.machine.is_plain(index, change.0) {
            self.batches[index].push(Request { op: op_of(change), fua, ticket });
            return;
        }
        let extent = change.0;
        let payload = match &change.1 {
            Change::Write(data) => data.len() as u64,
            Change::Zero { .. } | Change::Trim => 0,
        };
        let entry = Entry::host(ticket, index, Some(change), fua, now);
        let write = self.slab.insert(entry);
        self.events.push(Event::Change { write, volume: index, extent, payload });
    }
}

/// A change as a store takes it.
pub(super) fn op_of((extent, change): (Extent, Change)) -> Op {
    match change {
        Change::Write(data) => Op::Write(extent, data),
        Change::Zero { may_trim } => Op::Zero { extent, may_trim },
        Change::Trim => Op::Trim(extent),
    }
}
