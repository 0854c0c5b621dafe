//! A snapshot as a volume.
//!
//! Invariant: a view holds its layer, so the snapshot stays readable after it was removed; what it
//! holds is given back when the view is gone. It does not keep the volume open: without the volume
//! it answers [`IoError::ShuttingDown`].

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use block::{Extent, Geometry, IoError, Op, Request, Run, SnapshotId, Ticket, Volume};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::runs::Runs;

use super::Inner;
use super::lanes::Done;

/// One that opened a snapshot.
#[derive(Debug)]
struct View {
    inner: Weak<RefCell<Inner>>,
    done: Rc<RefCell<UnboundedReceiver<Done>>>,
    geometry: Geometry,
    hold: u64,
    released: Rc<RefCell<Vec<u64>>>,
}

/// Opens a snapshot of a volume.
pub(super) fn open(
    inner: &Rc<RefCell<Inner>>,
    done: &Rc<RefCell<UnboundedReceiver<Done>>>,
    id: SnapshotId,
) -> Result<Rc<dyn Volume>, IoError> {
    let mut volume = inner.borrow_mut();
    let layer = volume.map.layers().named(id).ok_or(IoError::Invalid)?;
    let (layer, bytes) = (layer.id, layer.name.map_or(0, |name| name.bytes));
    let geometry = Geometry::new(bytes).map_err(|_error| IoError::Checksum)?;
    let (hold, released) = volume.chores.hold(layer);
    let (inner, done) = (Rc::downgrade(inner), Rc::clone(done));
    Ok(Rc::new(View { inner, done, geometry, hold, released }))
}

// === impl View ===

impl View {
    fn ask(&self, inner: &mut Inner, op: Op, ticket: Ticket) {
        if op.extent().is_some_and(|e| !self.geometry.whole().covers(e)) {
            return ticket.fail(IoError::OutOfRange);
        }
        match op {
            Op::Read(extent) => inner.read_held(self.hold, extent, ticket),
            Op::Cache(_) | Op::Flush => ticket.done(),
            Op::Write(..) | Op::Zero { .. } | Op::Trim(_) => ticket.fail(IoError::ReadOnly),
        }
    }
}

impl Volume for View {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read_only(&self) -> bool {
        true
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        let Some(inner) = self.inner.upgrade() else {
            return batch.drain(..).for_each(|r| r.ticket.fail(IoError::ShuttingDown));
        };
        let mut inner = inner.borrow_mut();
        for request in batch.drain(..) {
            self.ask(&mut inner, request.op, request.ticket);
        }
        inner.drive(&mut self.done.borrow_mut());
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        let inner = self.inner.upgrade().ok_or(IoError::ShuttingDown)?;
        let mut inner = inner.borrow_mut();
        let mut out = Runs::new(extent, limit);
        let blocks = extent.blocks();
        inner.held(self.hold, |inner| {
            inner.visit(blocks.first(), true, |r| r.first() < blocks.end() && out.data(r))
        })??;
        Ok(out.finish())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.released.borrow_mut().push(self.hold);
        // The volume may be in the middle of something: it sees to it on its next turn.
        if let Some(inner) = self.inner.upgrade()
            && let Ok(inner) = inner.try_borrow()
        {
            inner.go_on(Done::Chore);
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Reads through a layer that somebody holds while `read` lasts.
    fn held<T>(&mut self, hold: u64, read: impl FnOnce(&mut Self) -> T) -> Result<T, IoError> {
        let layer = self.chores.held(hold).ok_or(IoError::Invalid)?;
        let before = self.map.read_through(layer);
        let out = read(self);
        self.map.read_through(before);
        Ok(out)
    }

    /// Reads a snapshot. Changes of the volume need not wait for it: they go to other places, and
    /// places that are given up stay what they are until it has ended.
    fn read_held(&mut self, hold: u64, extent: Extent, ticket: Ticket) {
        if self.latched {
            return ticket.fail(IoError::Latched);
        }
        let read = self.held(hold, |inner| match inner.try_read(extent) {
            Ok(None) => inner.cold(extent).map(Err),
            Ok(Some(segments)) => Ok(Ok(segments)),
            Err(e) => Err(e),
        });
        match read.and_then(|read| read) {
            Ok(Ok(segments)) => ticket.answer(Ok(block::Answer::Read(segments))),
            Ok(Err(mut cold)) => {
                self.next_id += 1;
                cold.id = self.next_id;
                self.begin_cold(cold, ticket);
            }
            Err(e) => ticket.fail(e),
        }
    }
}
