//! The activity record and the mark of a clean close.
//!
//! Invariant: an extent leaves the record on disk only after a checkpoint that holds its checksums;
//! the mark is written when nothing is left to be written.

use std::sync::{Arc, PoisonError};

use block::{ActivityExtent, IoError, Ticket};

use crate::error::StoreError;

use super::super::map::NumberMap;
use super::super::{Inner, outcome};
use super::{Done, Next, page_of_extent};

// === impl Inner ===

impl Inner {
    pub(super) fn start_activity(&mut self) {
        if self.lanes.activity.running {
            return;
        }
        if self.lanes.activity.next.is_none() {
            let mut waiting = std::mem::take(&mut self.lanes.activity.waiting);
            let Some((set, last)) = waiting.pop() else { return };
            // Only the newest set counts: whoever asked for an older one asked for this one too.
            let mut tickets: Vec<Ticket> = waiting.into_iter().map(|(_, t)| t).collect();
            tickets.push(last);
            let after = self.leave(&set);
            self.lanes.activity.next = Some(Next { set, tickets, after });
        }
        let ended = self.lanes.checkpoint.ended;
        if self.lanes.activity.next.as_ref().is_some_and(|n| n.after > ended) {
            return;
        }
        let Some(next) = &self.lanes.activity.next else { return };
        let set = next.set.clone();
        self.lanes.activity.running = true;
        self.lanes.marked_clean = false;
        let activity = Arc::clone(&self.activity);
        self.run(move || {
            let mut activity = activity.lock().unwrap_or_else(PoisonError::into_inner);
            Done::Recorded(activity.give(set))
        });
    }

    /// Extents leave the recorded set: from now on a change there records them anew. Returns the
    /// checkpoint that must have ended before they may leave the disk.
    fn leave(&mut self, set: &[ActivityExtent]) -> u64 {
        let mut stay: NumberMap<u64, ()> = set.iter().map(|e| (e.index(), ())).collect();
        let mut activity = self.activity.lock().unwrap_or_else(PoisonError::into_inner);
        // The owner speaks for the whole volume now: what the store, or a crash, left recorded goes
        // as far as it is settled.
        let unsaved_pages = self.map.unsaved_pages();
        activity.retain_own(|e| unsaved_pages.contains(page_of_extent(*e)));
        self.own = activity.own().len();
        stay.extend(activity.own().iter().map(|e| (e.index(), ())));
        drop(activity);
        let mut unsaved = false;
        self.recorded.retain(|index, ()| {
            let stays = stay.contains_key(index);
            let page = page_of_extent(ActivityExtent::new(*index));
            unsaved |= !stays && unsaved_pages.contains(page);
            stays
        });
        if !unsaved {
            return 0;
        }
        self.lanes.checkpoint.wanted = true;
        self.lanes.checkpoint.begun + 1
    }

    pub(super) fn recorded(&mut self, result: Result<(), StoreError>) {
        self.lanes.activity.running = false;
        let Some(next) = self.lanes.activity.next.take() else { return };
        let result = result.map_err(|e| {
            self.metrics.errors_write.increment(1);
            tracing::error!(error = %format!("{e:#}"), "record activity");
            e.for_request()
        });
        if result.is_ok() {
            self.recorded.extend(next.set.iter().map(|e| (e.index(), ())));
        }
        for ticket in next.tickets {
            ticket.answer(outcome(result));
        }
    }

    // --- close ---

    pub(super) fn step_close(&mut self) {
        if self.lanes.closing.is_empty() || self.is_busy() {
            return;
        }
        // What removed snapshots leave is given back after the volume was opened again.
        let removed = self.chores.drain();
        if !removed.is_empty() {
            removed.into_iter().for_each(|ticket| self.want_sync(ticket));
            return self.start_sync();
        }
        self.slots.give_up_ready();
        if self.slots.freed() > 0 || self.data.is_dirty() {
            self.lanes.sync.wanted = true;
            self.start_sync();
            if !self.lanes.sync.running && self.slots.freed() > 0 {
                // On a full disk there is no room for the record that it waits for.
                self.end_close(Err(IoError::NoSpace));
            }
            return;
        }
        if self.map.dirty() > 0 || !self.log.is_empty() {
            self.lanes.checkpoint.wanted = true;
            self.start_checkpoint();
            if !self.lanes.checkpoint.running {
                self.end_close(Err(IoError::NoSpace));
            }
            return;
        }
        if self.lanes.marked_clean {
            self.chores.closed = true;
            return self.end_close(Ok(()));
        }
        // In line, so that no change can come between the mark and the knowledge of it.
        let marked = self.activity.lock().unwrap_or_else(PoisonError::into_inner).mark_clean();
        if let Err(e) = marked {
            return self.give_out("mark clean", &e);
        }
        self.lanes.marked_clean = true;
        self.recorded.clear();
        self.own = 0;
        self.chores.closed = true;
        self.end_close(Ok(()));
    }

    fn end_close(&mut self, result: Result<(), IoError>) {
        for ticket in std::mem::take(&mut self.lanes.closing) {
            ticket.answer(outcome(result));
        }
    }
}
