//! The first change of an extent: it is recorded before it is done.
//!
//! Invariant: a change is in no file before its extents are in the activity record.

use block::{ActivityExtent, Extent, IoError, Op, Request};

use super::Inner;

// === impl Inner ===

impl Inner {
    /// Records the activity of all changes of a batch at once, before any of them is done.
    pub(super) fn record_batch(&mut self, batch: &[Request]) {
        for request in batch {
            if let Op::Write(extent, _) = &request.op
                && self.is_unrecorded(*extent)
            {
                let extents =
                    batch.iter().filter(|r| r.op.is_change()).filter_map(|r| match r.op {
                        Op::Write(extent, _) => Some(extent),
                        _ => None,
                    });
                let whole = self.geometry.whole();
                let extents: Vec<Extent> = extents.filter(|e| whole.covers(*e)).collect();
                // A failure is met again, and answered, by the write itself.
                if let Err(e) = self.record_extents(&extents) {
                    tracing::warn!(error = %e, "record activity of a batch");
                }
                return;
            }
        }
    }

    pub(super) fn record_change(&mut self, op: &Op, extent: Extent) {
        if matches!(op, Op::Write(..))
            && self.is_unrecorded(extent)
            && let Err(e) = self.record_extents(&[extent])
        {
            tracing::warn!(error = %e, "record activity of a write");
        }
    }

    pub(super) fn is_unrecorded(&self, extent: Extent) -> bool {
        extent.activity().any(|a| !self.recorded.contains_key(&a.index()))
    }

    /// Marks the volume as open before its first change.
    pub(super) fn ensure_open(&mut self) -> Result<(), IoError> {
        if self.lanes.marked_clean { self.record_extents(&[]) } else { Ok(()) }
    }

    /// Writes the activity record with these extents in it, and with their surroundings: whoever
    /// writes here will soon write beside it.
    pub(super) fn record_extents(&mut self, extents: &[Extent]) -> Result<(), IoError> {
        const PER_PAGE: u64 = 4;
        const AHEAD: u64 = 4;
        if self.latched {
            return Err(IoError::Latched);
        }
        let end = self.geometry.bytes().div_ceil(block::ACTIVITY_BYTES);
        let mut new = Vec::new();
        for activity in extents.iter().flat_map(|e| e.activity()) {
            if self.recorded.contains_key(&activity.index()) {
                continue;
            }
            let page = activity.index() / PER_PAGE;
            let pages = if page == self.last_miss + 1 { AHEAD } else { 1 };
            self.last_miss = page + pages - 1;
            let range = page * PER_PAGE..((page + pages) * PER_PAGE).min(end);
            new.extend(range.filter(|i| !self.recorded.contains_key(i)));
        }
        let mut activity = self.activity.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        activity.add(new.iter().map(|i| ActivityExtent::new(*i))).map_err(|e| {
            self.metrics.errors_write.increment(1);
            e.for_request()
        })?;
        self.own = activity.own().len();
        drop(activity);
        self.lanes.marked_clean = false;
        self.recorded.extend(new.into_iter().map(|i| (i, ())));
        Ok(())
    }
}
