//! How a write journal is written behind, looked through at a start, and read.
//!
//! Invariant: one job writes at a time; what a job could not write is a gap before anything behind it
//! is written. A segment that is continued was durable before the one that continues it was made.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{Gap, GroupId, JournalEntry, VolumeId};
use bytes::Bytes;

use super::index::{Index, JournalLimits, Mark};
use super::record::{Head, Kind, Place};
use super::segment::{self, START, Segment};
use super::state::State;
use super::view::{View, Views};
use crate::executor::{Executor, Lane};
use crate::medium::{Directory, File};

/// Segments of one journal, of these sizes: what is given back is a sixteenth of it.
const SEGMENTS: u64 = 16;
const SEGMENT_BYTES: (u64, u64) = (1 << 20, 64 << 20);
/// After so long by the primary's clock what was written is made durable.
const SYNC_MS: u64 = 5_000;

/// What a journal and its jobs share.
pub(super) struct Shared {
    pub(super) group: GroupId,
    pub(super) dir: Arc<dyn Directory>,
    pub(super) executor: Executor,
    pub(super) state: Mutex<State>,
    /// Held by the job that writes.
    pub(super) writer: Mutex<Writer>,
}

/// What the job that writes knows.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) segment: Option<Segment>,
    pub(super) next: u64,
    pub(super) synced_ms: u64,
}

// === impl Shared ===

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a job that writes, unless one is at it.
    pub(super) fn kick(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state().is_working, true) {
            return;
        }
        let shared = Arc::clone(self);
        self.executor.run(Lane::Sync, move || shared.work());
    }

    /// Writes until nothing is queued.
    pub(super) fn work(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut state = self.state();
            if state.is_reading || (state.queue.is_empty() && state.limits.is_some()) {
                state.is_working = false;
                return;
            }
            let entries = std::mem::take(&mut state.queue);
            state.queue_bytes = 0;
            let Some(limits) = state.limits else {
                let gone = state.index.clear();
                let free = state.retire(gone);
                (state.durable_ms, state.is_working) = (None, false);
                drop(state);
                writer.segment = None;
                self.remove(&free);
                return;
            };
            drop(state);
            if let Err(error) = self.write(&mut writer, entries, limits) {
                self.fail(&mut writer, &error);
            }
            let mut state = self.state();
            let gone = state.index.trim(limits.kept());
            let free = state.retire(gone);
            drop(state);
            self.remove(&free);
        }
    }

    fn write(
        &self,
        writer: &mut Writer,
        entries: Vec<(JournalEntry, u64)>,
        limits: JournalLimits,
    ) -> io::Result<()> {
        self.leave_room()?;
        let most = (limits.bytes / SEGMENTS).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1);
        let mut some: Vec<(Head, Bytes)> = Vec::new();
        let mut some_bytes = 0;
        for entry in entries {
            let (head, payload) = Head::of(entry);
            some_bytes += head.record_bytes();
            some.push((head, payload));
            let end = writer.segment.as_ref().map_or(START, |segment| segment.end);
            if end + some_bytes >= most {
                self.append(writer, &std::mem::take(&mut some))?;
                some_bytes = 0;
                self.next_segment(writer, true)?;
            }
        }
        self.append(writer, &some)
    }

    /// Gives the oldest back until there is the room that volumes keep free, and as much again: what
    /// is kept of the past must not keep hosts from writing.
    fn leave_room(&self) -> io::Result<()> {
        loop {
            // A medium that cannot say what it has refuses what does not fit.
            let Ok(room) = self.dir.room() else { return Ok(()) };
            if room.free >= room.reserve() * 2 {
                return Ok(());
            }
            let mut state = self.state();
            let Some(gone) = state.index.drop_oldest() else {
                return Err(io::ErrorKind::StorageFull.into());
            };
            let free = state.retire(vec![gone]);
            drop(state);
            self.remove(&free);
        }
    }

    /// Appends records; a gap ends the segment, so that what follows it begins in one of its own.
    fn append(&self, writer: &mut Writer, some: &[(Head, Bytes)]) -> io::Result<()> {
        for run in some.split_inclusive(|(head, _)| head.kind == Kind::Gap) {
            if writer.segment.is_none() {
                // Behind a gap, or at first: there is nothing that it continues.
                if run.iter().all(|(head, _)| head.kind == Kind::Gap) {
                    continue;
                }
                self.next_segment(writer, false)?;
            }
            let Some(segment) = &mut writer.segment else { continue };
            let places = segment.append(run)?;
            let (number, end) = (segment.number, segment.end);
            let newest = self.note(number, end, run.iter().zip(places));
            if run.last().is_some_and(|(head, _)| head.kind == Kind::Gap) {
                segment.sync()?;
                writer.segment = None;
            } else if let Some(newest) = newest
                && newest >= writer.synced_ms + SYNC_MS
            {
                segment.sync()?;
                writer.synced_ms = newest;
                self.state().durable_ms = Some(newest);
            }
        }
        Ok(())
    }

    /// Indexes what was written; says the newest time among it.
    fn note<'a>(
        &self,
        number: u64,
        end: u64,
        records: impl Iterator<Item = (&'a (Head, Bytes), Place)>,
    ) -> Option<u64> {
        let mut state = self.state();
        state.index.grow(number, end);
        let mut newest = None;
        for ((head, _), place) in records {
            if head.kind == Kind::Time {
                newest = Some(head.offset);
            }
            state.index.note(head, place);
        }
        newest
    }

    /// Begins another segment; what is in the one before is durable first.
    fn next_segment(&self, writer: &mut Writer, continues: bool) -> io::Result<()> {
        let mut continues = continues;
        if let Some(mut segment) = writer.segment.take() {
            segment.append(&[(Head::END, Bytes::new())])?;
            segment.sync()?;
        } else {
            continues = false;
        }
        let segment = Segment::create(self.dir.as_ref(), (self.group, writer.next), continues)?;
        writer.next += 1;
        self.dir.sync()?;
        self.state().index.grow(segment.number, segment.end);
        writer.segment = Some(segment);
        Ok(())
    }

    /// The disk failed: what was queued is lost, and a gap.
    fn fail(&self, writer: &mut Writer, error: &io::Error) {
        writer.segment = None;
        let is_full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let gap = if is_full { Gap::NoSpace } else { Gap::Media };
        tracing::warn!(group = %self.group, %error, "write journal has a gap");
        let mut state = self.state();
        state.queue.clear();
        state.queue_bytes = 0;
        state.follows = false;
        state.count(gap);
        state.failed_ms = Some(state.heard_ms.unwrap_or(0));
        // What could not be written may stand there in part: nothing follows it.
        state.index.push(Place { segment: writer.next, at: 0 }, Mark::Gap(gap));
        let gone =
            if is_full { state.index.drop_oldest().into_iter().collect() } else { Vec::new() };
        let free = state.retire(gone);
        drop(state);
        self.remove(&free);
    }

    pub(super) fn remove(&self, free: &[u64]) {
        for number in free {
            if let Err(error) = self.dir.remove(&segment::name(*number)) {
                // It is found again at the next start.
                tracing::warn!(group = %self.group, number, %error, "remove a segment");
            }
        }
    }

    // --- what an earlier start left ---

    /// Looks through what is there. What cannot be read is a gap, and so is the end.
    pub(super) fn load(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut index, mut next) = (Index::default(), 0);
        if let Err(error) = self.load_into(&mut index, &mut next) {
            tracing::warn!(group = %self.group, %error, "write journal cannot be read");
            let place = Place { segment: next, at: 0 };
            index.push(place, Mark::Gap(Gap::Media));
        }
        index.push(Place { segment: next, at: 0 }, Mark::Gap(Gap::Restart));
        writer.next = next;
        let mut state = self.state();
        state.index = index;
        state.is_reading = false;
        drop(state);
        drop(writer);
        // What no rule keeps goes, but for what views need; all of it when it is off.
        let (limits, gone) = {
            let mut state = self.state();
            let gone = state.limits.map_or_else(Vec::new, |limits| state.index.trim(limits.kept()));
            (state.limits, state.retire(gone))
        };
        self.remove(&gone);
        if limits.is_none() {
            self.work();
        }
    }

    fn load_into(&self, index: &mut Index, next: &mut u64) -> io::Result<()> {
        let names = self.dir.list()?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
        numbers.sort_unstable();
        *next = numbers.last().map_or(0, |last| last + 1);
        let open = |number: &u64| segment::open(self.dir.as_ref(), (self.group, *number));
        // Whether the one before ends so that another may go on.
        let mut goes_on = None;
        let mut ahead = numbers.first().map(open);
        for (at, number) in numbers.iter().enumerate() {
            let place = Place { segment: *number, at: START };
            let next = numbers.get(at + 1);
            // One that cannot be opened is told in its own turn: what stands before it counts.
            let opened = std::mem::replace(&mut ahead, next.map(open));
            let Some((file, continues)) = opened.transpose()?.flatten() else {
                index.push(place, Mark::Gap(Gap::Damaged));
                index.grow(*number, 0);
                goes_on = None;
                continue;
            };
            if !continues || goes_on != Some(*number) {
                let gap = if goes_on.is_some() { Gap::Damaged } else { Gap::Restart };
                index.push(place, Mark::Gap(gap));
            }
            // Only one that another continues is known to be durable. Any other can have been the
            // newest of a process that was killed, and have lost payloads with the power later.
            let is_durable =
                next == Some(&(number + 1)) && matches!(&ahead, Some(Ok(Some((_, true)))));
            let scanned = segment::scan(file.as_ref(), place, (u64::MAX, !is_durable), |found| {
                index.note(&found.head, found.place);
            })?;
            if scanned.is_torn {
                let place = Place { segment: *number, at: scanned.end };
                let gap = if is_durable { Gap::Damaged } else { Gap::Restart };
                index.push(place, Mark::Gap(gap));
                if !is_durable {
                    file.set_size(scanned.end)?;
                }
            }
            index.grow(*number, scanned.end);
            goes_on = scanned.is_ended.then_some(number + 1);
        }
        Ok(())
    }

    /// The views of a moment; `None` when a part of it cannot be read back.
    pub(super) fn views(
        &self,
        from: Place,
        to: Place,
    ) -> io::Result<Option<HashMap<VolumeId, View>>> {
        let mut views = Views::default();
        let mut files: HashMap<u64, Arc<dyn File>> = HashMap::new();
        for number in from.segment..=to.segment {
            let Some((file, continues)) = segment::open(self.dir.as_ref(), (self.group, number))?
            else {
                return Ok(None);
            };
            if number != from.segment && !continues {
                return Ok(None);
            }
            let at = if number == from.segment { from.at } else { START };
            let is_last = number == to.segment;
            let upto = if is_last { to.at } else { u64::MAX };
            let begin = Place { segment: number, at };
            let scanned =
                segment::scan(file.as_ref(), begin, (upto, true), |found| views.lay(&found))?;
            let is_whole = if is_last { scanned.end == to.at } else { scanned.is_ended };
            if !is_whole {
                return Ok(None);
            }
            files.insert(number, file);
        }
        Ok(Some(views.finish(files)))
    }
}

/// What waits is written by whoever lets go of it last, or not at all: it is a gap at the next start.
impl Drop for Shared {
    fn drop(&mut self) {
        self.work();
    }
}
