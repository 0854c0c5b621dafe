//! How a raw store takes requests and what it does in the background.
//!
//! Invariant: a change that a worker does, and a cold read, are waited for by what overlaps them.

use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError};

use block::{Answer, BLOCK_BYTES, Extent, IoError, Op, Request, Ticket};

use crate::error::of_io;
use crate::executor::Lane;
use crate::medium::File;
use crate::runs;

use super::{Done, INLINE_BYTES_MAX, Inner, answer, size};

static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

// === impl Inner ===

impl Inner {
    pub(super) fn admit(&mut self, request: Request) {
        if self.latched {
            return request.ticket.fail(IoError::Latched);
        }
        let Some(extent) = request.op.extent() else {
            return self.sync_waiting.push(request.ticket);
        };
        if !self.geometry.whole().covers(extent) {
            return request.ticket.fail(IoError::OutOfRange);
        }
        let change = request.op.is_change();
        let waits = self.busy.iter().any(|b| (b.change || change) && b.extent.overlaps(extent))
            || self.held.iter().any(|h| {
                (h.op.is_change() || change) && h.op.extent().is_some_and(|e| e.overlaps(extent))
            });
        if waits {
            return self.held.push_back(request);
        }
        if change {
            // A trim of everything is not recorded extent by extent.
            let begin = Extent::new(extent.offset(), extent.len().min(64 << 20)).unwrap_or(extent);
            if let Err(e) = self.ensure_recorded(begin) {
                return request.ticket.fail(e);
            }
            self.dirty = true;
        }
        let Request { op, fua, ticket } = request;
        match op {
            Op::Read(extent) => self.read(extent, ticket),
            Op::Write(extent, data) if data.len() as u64 == extent.len() => {
                let written = self.file.write_at(&mut [IoSlice::new(&data)], extent.offset());
                if written.is_ok() {
                    self.metrics.written_data.increment(extent.len());
                }
                self.end_change(written, fua, ticket);
            }
            Op::Write(..) => ticket.fail(IoError::Invalid),
            Op::Zero { extent, may_trim } => self.erase(extent, may_trim, true, (fua, ticket)),
            Op::Trim(extent) => self.erase(extent, true, false, (fua, ticket)),
            Op::Cache(_) => ticket.done(),
            Op::Flush => {}
        }
    }

    /// Trims or zeroes: in line when it is small.
    fn erase(&mut self, extent: Extent, punch: bool, edges: bool, (fua, ticket): (bool, Ticket)) {
        let file = Arc::clone(&self.file);
        if extent.len() <= INLINE_BYTES_MAX {
            let erased = erase(file.as_ref(), extent, punch, edges);
            return self.end_change(erased, fua, ticket);
        }
        let id = self.begin(extent, true, fua, ticket);
        self.run(Lane::Sync, move || Done::Changed {
            id,
            result: erase(file.as_ref(), extent, punch, edges),
        });
    }

    fn end_change(&mut self, result: io::Result<()>, fua: bool, ticket: Ticket) {
        match result {
            Ok(()) if fua => self.sync_waiting.push(ticket),
            Ok(()) => ticket.done(),
            Err(e) => {
                self.metrics.errors_write.increment(1);
                tracing::warn!(error = %e, "write raw store");
                ticket.fail(of_io(&e));
            }
        }
    }

    pub(super) fn finish(&mut self, done: Done) {
        match done {
            Done::Read { id, result } => {
                let Some(busy) = self.take_busy(id) else { return };
                match result {
                    Ok(data) => {
                        self.metrics.read_data.increment(data.len() as u64);
                        busy.ticket.answer(Ok(answer(data)));
                    }
                    Err(e) => busy.ticket.fail(self.failed(&e)),
                }
                self.release();
            }
            Done::Changed { id, result } => {
                let Some(busy) = self.take_busy(id) else { return };
                self.end_change(result, busy.fua, busy.ticket);
                self.release();
            }
            Done::Synced(Ok(())) => {
                for ticket in self.syncing.take().into_iter().flatten() {
                    ticket.done();
                }
            }
            Done::Synced(Err(e)) => self.latch(&e),
            Done::Recorded(result) => {
                let Some((set, ticket)) = self.recording.take() else { return };
                let result = result.map_err(|e| {
                    tracing::error!(error = %e, "record activity");
                    e.for_request()
                });
                if result.is_ok() {
                    self.recorded.extend(set.iter().map(|e| e.index()));
                }
                ticket.answer(result.map(|()| Answer::Done));
            }
        }
    }

    fn take_busy(&mut self, id: u64) -> Option<super::Busy> {
        let place = self.busy.iter().position(|b| b.id == id)?;
        Some(self.busy.remove(place))
    }

    /// Takes again what waited for something that has ended.
    fn release(&mut self) {
        for request in std::mem::take(&mut self.held) {
            self.admit(request);
        }
    }

    pub(super) fn settle(&mut self) {
        if self.latched {
            return;
        }
        if self.syncing.is_none() && !self.sync_waiting.is_empty() {
            self.syncing = Some(std::mem::take(&mut self.sync_waiting));
            self.dirty = false;
            let file = Arc::clone(&self.file);
            self.run(Lane::Sync, move || Done::Synced(file.sync()));
        }
        if self.recording.is_none()
            && let Some((set, ticket)) = self.record_waiting.pop_front()
        {
            // Extents that leave are recorded anew by the next change there.
            self.recorded.clear();
            self.marked_clean = false;
            // Here and not in the job, which must keep what a change records meanwhile.
            self.activity.lock().unwrap_or_else(PoisonError::into_inner).retain_own(|_| false);
            self.recording = Some((set.clone(), ticket));
            let activity = Arc::clone(&self.activity);
            let file = Arc::clone(&self.file);
            self.run(Lane::Sync, move || {
                let synced = file.sync().map_err(crate::StoreError::io("sync raw store"));
                let mut activity = activity.lock().unwrap_or_else(PoisonError::into_inner);
                Done::Recorded(synced.and_then(|()| activity.give(set)))
            });
        }
        self.step_close();
    }

    fn step_close(&mut self) {
        let idle = self.syncing.is_none() && self.recording.is_none() && self.busy.is_empty();
        if self.closing.is_empty() || !idle {
            return;
        }
        if self.dirty {
            self.dirty = false;
            self.syncing = Some(Vec::new());
            let file = Arc::clone(&self.file);
            return self.run(Lane::Sync, move || Done::Synced(file.sync()));
        }
        if !self.marked_clean {
            let marked = self.activity.lock().unwrap_or_else(PoisonError::into_inner).mark_clean();
            if let Err(e) = marked {
                return self.latch(&e);
            }
            self.marked_clean = true;
            self.recorded.clear();
        }
        for ticket in std::mem::take(&mut self.closing) {
            ticket.done();
        }
    }
}

/// Makes whole blocks read as zero, and with `edges` the rest of the range too.
fn erase(file: &dyn File, extent: Extent, punch: bool, edges: bool) -> io::Result<()> {
    if !punch {
        return write_zeroes(file, extent);
    }
    if edges {
        for edge in runs::edges(extent) {
            write_zeroes(file, edge)?;
        }
    }
    let Some(whole) = extent.whole_blocks().extent() else { return Ok(()) };
    debug_assert!(whole.len().is_multiple_of(BLOCK_BYTES));
    match file.punch(whole.offset(), whole.len()) {
        // A medium without holes: what is promised is that the blocks read as zero.
        Err(e) if e.kind() == io::ErrorKind::Unsupported => write_zeroes(file, whole),
        done => done,
    }
}

fn write_zeroes(file: &dyn File, extent: Extent) -> io::Result<()> {
    for piece in extent.pieces(ZEROES.len() as u64) {
        file.write_at(&mut [IoSlice::new(&ZEROES[..size(piece.len())])], piece.offset())?;
    }
    Ok(())
}
