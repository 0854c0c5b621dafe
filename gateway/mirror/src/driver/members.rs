//! Volumes that join and leave while hosts go on.
//!
//! Invariant: an index means one volume from the beginning of a turn to its end: a volume is taken
//! out between two turns, when the machine says that nothing names an index.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;

use block::{Completions, GroupId, Holds, IoError, SessionId, Store, VolumeId};
use bytes::Bytes;

use super::{Core, Group};
use crate::command::Refusal;
use crate::machine::Event;

/// The index of a volume that left.
pub(super) const GONE: usize = usize::MAX;

/// One volume of the group.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) id: VolumeId,
    pub(super) store: Rc<dyn Store>,
    /// The machine's index of it, for those who hold a handle to it.
    pub(super) index: Rc<Cell<usize>>,
    /// What is held of it for one host alone.
    pub(super) holds: Rc<Holds>,
}

impl Member {
    pub(super) fn new(id: VolumeId, index: usize, store: Rc<dyn Store>) -> Self {
        Self { id, store, index: Rc::new(Cell::new(index)), holds: Rc::default() }
    }

    /// Makes the store durable and marks it clean.
    pub(super) async fn close(&self) -> Result<(), IoError> {
        let (queue, mut answers) = (Completions::new(), Vec::new());
        self.store.close(queue.ticket(0));
        poll_fn(|context| queue.poll_ready(context)).await;
        queue.take(&mut answers);
        answers.pop().map_or(Err(IoError::Dropped), |answer| answer.result.map(|_| ()))
    }
}

impl Group {
    /// A volume joins the group, as its last one; hosts of the others go on. `sessions` holds one
    /// for each mirror that the group may have. `records` are made durable together with it.
    /// Answers when it is durable; the mirrors follow by themselves.
    ///
    /// # Errors
    /// As for [`Group::command`]; then the volume is no part of the group.
    ///
    /// # Cancellation
    /// It goes on, its answer is dropped.
    pub async fn enlist(
        self: &Rc<Self>,
        (volume, name, store): (VolumeId, String, Rc<dyn Store>),
        sessions: Vec<SessionId>,
        records: Vec<(String, Option<Bytes>)>,
    ) -> Result<(), Refusal> {
        let found = {
            let ledger = Rc::clone(&self.core.borrow().ledger);
            super::open::restored((volume, &name), &*store, &*ledger)
        };
        // A damaged record refuses the volume as it would refuse to open its group.
        let restored = found.map_err(|error| match error {
            super::OpenError::Ledger(error) => Refusal::Io(error),
            _ => Refusal::Io(IoError::Checksum),
        })?;
        let asked = self.ask(move |core| {
            let index = core.members.len();
            core.members.push(Member::new(volume, index, store));
            core.batches.push(Vec::new());
            Event::Enlist { volume: Box::new(restored), sessions, records }
        });
        let result = asked.await;
        let mut core = self.core.borrow_mut();
        if core.members.len() > core.machine.volumes() {
            // It was refused.
            core.members.pop();
            core.batches.pop();
        }
        result
    }

    /// A volume leaves the group, to a group of its own that is recorded in the same moment. What
    /// its hosts still ask for is refused; the hosts of the others wait for a moment. Answers when
    /// it is durable; then its store is closed, and whoever opens the new group opens it anew.
    ///
    /// # Errors
    /// As for [`Group::command`]; then the volume is still a part of the group.
    ///
    /// # Cancellation
    /// It goes on, its answer is dropped and its store is not closed.
    pub async fn dismiss(
        self: &Rc<Self>,
        volume: VolumeId,
        (group, name): (GroupId, String),
        records: Vec<(String, Option<Bytes>)>,
    ) -> Result<(), Refusal> {
        let find = |core: &Core| core.members.iter().find(|member| member.id == volume).cloned();
        let member = find(&self.core.borrow()).ok_or(Refusal::Unknown)?;
        self.ask(move |_core| Event::Dismiss { volume, group, name, records }).await?;
        if let Err(error) = member.close().await {
            // It left all the same; whoever opens it finds it as after a crash.
            tracing::warn!(group = self.name, %volume, %error, "not closed cleanly");
        }
        Ok(())
    }
}

impl Core {
    /// Takes a volume out when nothing names an index any more, but what is held or queued here.
    pub(super) fn dismiss_when_ready(&mut self) {
        let Some(at) = self.machine.ready_to_dismiss() else { return };
        // What reads of it are here go to its store while it has a place.
        self.submit();
        let gone = self.members.remove(at);
        gone.index.set(GONE);
        self.batches.remove(at);
        self.held_reads_moved_down(at);
        for (index, member) in self.members.iter().enumerate() {
            member.index.set(index);
        }
        self.slab.moved_down(at);
        for event in &mut self.events {
            if let Event::Change { volume, .. } | Event::Flush { volume, .. } = event {
                *volume = moved_down(*volume, at);
            }
        }
        self.machine.apply(Event::Dismissed, &mut self.effects);
        let refused = std::mem::take(&mut self.events);
        for event in refused {
            match event {
                Event::Change { write, volume: GONE, .. }
                | Event::Flush { write, volume: GONE } => {
                    self.answer_gone(write);
                }
                other => self.events.push(other),
            }
        }
    }

    fn answer_gone(&mut self, write: block::WriteId) {
        let ticket = self.slab.get(write).ticket.take();
        ticket.into_iter().for_each(|ticket| ticket.fail(IoError::ShuttingDown));
        self.slab.remove(write);
    }
}

/// Where a volume is after the one at `gone` left.
pub(super) const fn moved_down(volume: usize, gone: usize) -> usize {
    if volume == gone {
        GONE
    } else if volume > gone && volume != GONE {
        volume - 1
    } else {
        volume
    }
}
