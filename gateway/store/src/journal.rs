//! A mirror's write journal: segment files beside the pool, written behind.
//!
//! ```text
//!   keep ─▶ queue ──job──▶ segment files ─▶ index of bases, times and gaps
//!             └ too long: a gap               └─ find a moment ─▶ views over the base
//! ```
//!
//! Invariant: nobody waits for it. What it could not write down is a gap, which is known before
//! anything behind it is; so a moment that it finds is a state that the group once had, whatever was
//! killed, torn or full meanwhile. A segment that a view needs stays until it is let go.

mod index;
mod record;
mod segment;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{Change, Gap, GroupId, JournalEntry, SnapshotId, VolumeId, WriteJournal};
use bytes::Bytes;

use self::index::{Index, Mark};
pub use self::index::{JournalLimits, Moment};
pub use self::record::Place;
use self::record::{Head, Kind};
use self::segment::{START, Segment};
pub use self::view::View;
use self::view::Views;
use crate::error::StoreError;
use crate::executor::{Executor, Lane};
use crate::medium::{Directory, File};

/// What may wait to be written, beside as much that is being written: two seconds of 256 Mbit/s. More
/// is a disk that does not keep up.
const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// What is written at once without waiting for the next time: a job costs as much as its copying.
const BATCH_BYTES: u64 = 256 << 10;
/// An entry costs this much beside its payload.
const ENTRY_BYTES: u64 = 128;
/// Segments of one journal, of these sizes: what is given back is a sixteenth of it.
const SEGMENTS: u64 = 16;
const SEGMENT_BYTES: (u64, u64) = (1 << 20, 64 << 20);
/// Bases in the window, and in the bytes: opening a moment goes through an eighth of what there is.
const BASES: u64 = 8;
/// Changes behind a base: a view of them is held in memory while a volume is filled from it.
const CHANGES_MAX: u64 = 1 << 20;
/// After so long by the primary's clock what was written is made durable.
const SYNC_MS: u64 = 5_000;
/// And after so long a disk that failed is tried again.
const RETRY_MS: u64 = 60_000;
/// A clock that goes back by less is taken to stand still.
const BACK_MS: u64 = 2_000;
/// While nothing changes, a time is written down so often.
const IDLE_MS: u64 = 1_000;

/// The write journal of one group.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    group: GroupId,
    dir: Arc<dyn Directory>,
    executor: Executor,
    state: Mutex<State>,
    /// Held by the job that writes.
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct State {
    /// What is to be kept; `None`: nothing is written down.
    limits: Option<JournalLimits>,
    /// What an earlier start left is not looked through yet.
    is_reading: bool,
    /// Each with the time that was heard last.
    queue: Vec<(JournalEntry, u64)>,
    queue_bytes: u64,
    is_working: bool,
    /// What comes now follows what was written down.
    follows: bool,
    /// The newest time since the last link began.
    heard_ms: Option<u64>,
    /// The newest time that was written down since the last gap, and whether anything came behind it.
    written_ms: u64,
    is_changed: bool,
    /// The newest base: its time, and what came behind it.
    base_ms: u64,
    base_bytes: u64,
    base_changes: u64,
    /// The disk failed at this time.
    failed_ms: Option<u64>,
    /// The newest base, written or not.
    newest_base: Option<SnapshotId>,
    index: Index,
    /// Segments that views need, by the volume that is filled.
    pins: HashMap<VolumeId, (u64, u64)>,
    /// Segments that only views need, and their bytes.
    retired: BTreeMap<u64, u64>,
    gaps: [u64; Gap::ALL.len()],
    durable_ms: Option<u64>,
}

#[derive(Default)]
struct Writer {
    segment: Option<Segment>,
    next: u64,
    synced_ms: u64,
}

/// How a journal is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStatus {
    /// What is to be kept; `None`: it is off.
    pub limits: Option<JournalLimits>,
    /// What an earlier start left is still being looked through: nothing is known yet.
    pub is_reading: bool,
    /// Whether what comes now is written down behind a base.
    pub follows: bool,
    /// From when to when a moment can be opened, oldest first, in milliseconds since 1970.
    pub ranges: Vec<(u64, u64)>,
    /// Bytes that the segments take, those included that only views need.
    pub bytes: u64,
    /// What was written down up to this time is durable.
    pub durable_ms: Option<u64>,
    /// Why what stands before the newest gap does not go on.
    pub last_gap: Option<Gap>,
    /// Whether the bytes are what makes the window shorter.
    pub is_cut_by_bytes: bool,
    /// The snapshots that it needs.
    pub bases: Vec<SnapshotId>,
    /// Gaps since this gateway started, in the order of [`Gap::ALL`].
    pub gaps: [u64; Gap::ALL.len()],
}

// === impl Journal ===

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write journal of {}", self.shared.group)
    }
}

impl Journal {
    /// Opens the journal that lies in a directory, which is looked through behind. `pins` are the
    /// segments that volumes are still filled from.
    #[must_use]
    pub fn open(
        group: GroupId,
        (dir, executor): (Arc<dyn Directory>, Executor),
        limits: Option<JournalLimits>,
        pins: HashMap<VolumeId, (u64, u64)>,
    ) -> Self {
        let state = State { is_reading: true, limits, pins, ..State::default() };
        let (state, writer) = (Mutex::new(state), Mutex::default());
        let journal = Self { shared: Arc::new(Shared { group, dir, executor, state, writer }) };
        let shared = Arc::clone(&journal.shared);
        journal.shared.executor.run(Lane::Sync, move || shared.load());
        journal
    }

    /// Says what is to be kept from now on; `None`: nothing, and what is there goes.
    pub fn set_limits(&self, limits: Option<JournalLimits>) {
        let mut state = self.shared.state();
        if state.limits == limits {
            return;
        }
        state.limits = limits;
        if limits.is_none() {
            (state.follows, state.newest_base) = (false, None);
            state.queue.clear();
            state.queue_bytes = 0;
        }
        drop(state);
        self.shared.kick();
    }

    /// How it is, where these snapshots of the group are there.
    #[must_use]
    pub fn status(&self, is_there: impl Fn(SnapshotId) -> bool) -> JournalStatus {
        let state = self.shared.state();
        JournalStatus {
            limits: state.limits,
            is_reading: state.is_reading,
            follows: state.follows,
            ranges: state.index.ranges(is_there),
            bytes: state.index.bytes() + state.retired.values().sum::<u64>(),
            durable_ms: state.durable_ms,
            last_gap: state.index.last_gap(),
            is_cut_by_bytes: state.index.is_cut_by_bytes,
            bases: state.index.bases().into_iter().chain(state.newest_base).collect(),
            gaps: state.gaps,
        }
    }

    /// The last moment that is not later than that time; `None` when nothing is known of it.
    #[must_use]
    pub fn find(&self, unix_ms: u64, is_there: impl Fn(SnapshotId) -> bool) -> Option<Moment> {
        self.shared.state().index.find(unix_ms, is_there)
    }

    /// The segments of a moment stay until the volume that is filled from it lets them go. Says whether
    /// all of them are there.
    #[must_use]
    pub fn pin(&self, volume: VolumeId, moment: &Moment) -> bool {
        let mut state = self.shared.state();
        let wanted = (moment.from.segment, moment.to.segment);
        let is_there = (wanted.0..=wanted.1).all(|number| state.has(number));
        if is_there {
            state.pins.insert(volume, wanted);
        }
        is_there
    }

    /// A volume needs nothing of it any more.
    pub fn unpin(&self, volume: VolumeId) {
        let mut state = self.shared.state();
        if state.pins.remove(&volume).is_some() {
            let free = state.take_unneeded();
            drop(state);
            self.shared.remove(&free);
        }
    }

    /// Whether volumes are filled from it.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        !self.shared.state().pins.is_empty()
    }

    /// What lies over the base of each volume at a moment; one without a view has no changes. Reads all
    /// of it, and waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a part of it cannot be read back, or what the medium says.
    pub fn views(&self, from: Place, to: Place) -> Result<HashMap<VolumeId, View>, StoreError> {
        let read = StoreError::io("read the write journal");
        self.shared.views(from, to).map_err(read)?.ok_or(StoreError::Damaged {
            what: "write journal",
            why: "a part that is needed cannot be read back",
        })
    }

    /// Waits until what was kept so far is written. For tests and before a moment is looked for.
    pub fn settle(&self) {
        self.shared.work();
    }
}

impl WriteJournal for Journal {
    fn wants_base(&self) -> bool {
        let state = self.shared.state();
        let Some(limits) = state.limits.filter(|_| !state.is_reading) else { return false };
        let Some(heard_ms) = state.heard_ms else { return false };
        if state.failed_ms.is_some_and(|at| heard_ms.saturating_sub(at) < RETRY_MS) {
            return false;
        }
        !state.follows
            || heard_ms.saturating_sub(state.base_ms) >= limits.window_ms / BASES
            || state.base_bytes >= limits.bytes / BASES
            || state.base_changes >= CHANGES_MAX
    }

    fn keep(&self, entry: JournalEntry) {
        if self.shared.state().take(entry) {
            self.shared.kick();
        }
    }
}

// === impl JournalLimits ===

impl JournalLimits {
    /// What is kept for them: the first moment behind a base comes up to a second after it.
    const fn kept(self) -> Self {
        Self { window_ms: self.window_ms.saturating_add(IDLE_MS), bytes: self.bytes }
    }
}

// === impl State ===

impl State {
    /// Queues an entry, if it follows what stands before; says whether it is time to write.
    fn take(&mut self, entry: JournalEntry) -> bool {
        if self.limits.is_none() || self.is_reading {
            return false;
        }
        match entry {
            JournalEntry::Gap(gap) => {
                if matches!(gap, Gap::Link | Gap::Restart) {
                    self.heard_ms = None;
                }
                self.gap(gap)
            }
            JournalEntry::Time { unix_ms } => {
                let heard_ms = self.heard_ms.unwrap_or(0);
                if unix_ms.saturating_add(BACK_MS) < heard_ms {
                    self.heard_ms = Some(unix_ms);
                    return self.gap(Gap::Clock);
                }
                let unix_ms = unix_ms.max(heard_ms);
                self.heard_ms = Some(unix_ms);
                let is_due = self.is_changed || unix_ms >= self.written_ms + IDLE_MS;
                if !self.follows || !is_due || unix_ms == self.written_ms {
                    return false;
                }
                (self.written_ms, self.is_changed) = (unix_ms, false);
                self.push(JournalEntry::Time { unix_ms }, 0);
                true
            }
            JournalEntry::Base { snapshot, .. } => {
                let Some(heard_ms) = self.heard_ms else { return false };
                self.newest_base = Some(snapshot);
                self.base_ms = heard_ms;
                (self.base_bytes, self.base_changes) = (0, 0);
                if !self.follows {
                    self.written_ms = 0;
                }
                (self.follows, self.is_changed, self.failed_ms) = (true, true, None);
                self.push(entry, 0);
                true
            }
            JournalEntry::Change { ref change, .. } => {
                if !self.follows {
                    return false;
                }
                let payload = match change {
                    Change::Write(data) => data.len() as u64,
                    Change::Zero { .. } | Change::Trim => 0,
                };
                if self.queue_bytes + payload > QUEUE_BYTES_MAX {
                    return self.gap(Gap::Slow);
                }
                self.is_changed = true;
                self.base_changes += 1;
                self.base_bytes += payload + ENTRY_BYTES;
                self.push(entry, payload);
                self.queue_bytes >= BATCH_BYTES
            }
        }
    }

    fn push(&mut self, entry: JournalEntry, payload: u64) {
        self.queue_bytes += payload + ENTRY_BYTES;
        self.queue.push((entry, self.heard_ms.unwrap_or(0)));
    }

    /// What comes from here on follows nothing, until there is a base.
    fn gap(&mut self, gap: Gap) -> bool {
        if !self.follows {
            return false;
        }
        self.follows = false;
        self.count(gap);
        self.push(JournalEntry::Gap(gap), 0);
        true
    }

    fn count(&mut self, gap: Gap) {
        if let Some(at) = Gap::ALL.iter().position(|known| *known == gap) {
            self.gaps[at] += 1;
        }
    }

    fn has(&self, number: u64) -> bool {
        self.index.has(number) || self.retired.contains_key(&number)
    }

    /// Segments that were forgotten: those that a view needs stay.
    fn retire(&mut self, gone: Vec<(u64, u64)>) -> Vec<u64> {
        self.retired.extend(gone);
        self.take_unneeded()
    }

    fn take_unneeded(&mut self) -> Vec<u64> {
        let pins: Vec<(u64, u64)> = self.pins.values().copied().collect();
        let is_needed = |number: &u64| pins.iter().any(|(a, b)| (a..=b).contains(&number));
        let free: Vec<u64> = self.retired.keys().copied().filter(|n| !is_needed(n)).collect();
        self.retired.retain(|number, _| is_needed(number));
        free
    }
}

// === impl Shared ===

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a job that writes, unless one is at it.
    fn kick(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state().is_working, true) {
            return;
        }
        let shared = Arc::clone(self);
        self.executor.run(Lane::Sync, move || shared.work());
    }

    /// Writes until nothing is queued.
    fn work(&self) {
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

    fn remove(&self, free: &[u64]) {
        for number in free {
            if let Err(error) = self.dir.remove(&segment::name(*number)) {
                // It is found again at the next start.
                tracing::warn!(group = %self.group, number, %error, "remove a segment");
            }
        }
    }

    // --- what an earlier start left ---

    /// Looks through what is there. What cannot be read is a gap, and so is the end.
    fn load(&self) {
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
        // Whether the one before ends so that another may go on.
        let mut goes_on = None;
        for number in &numbers {
            *next = number + 1;
            let place = Place { segment: *number, at: START };
            let opened = segment::open(self.dir.as_ref(), (self.group, *number))?;
            let Some((file, continues)) = opened else {
                index.push(place, Mark::Gap(Gap::Damaged));
                index.grow(*number, 0);
                goes_on = None;
                continue;
            };
            if !continues || goes_on != Some(*number) {
                let gap = if goes_on.is_some() { Gap::Damaged } else { Gap::Restart };
                index.push(place, Mark::Gap(gap));
            }
            let is_last = numbers.last() == Some(number);
            let scanned = segment::scan(file.as_ref(), place, (u64::MAX, is_last), |found| {
                index.note(&found.head, found.place);
            })?;
            if scanned.is_torn {
                let place = Place { segment: *number, at: scanned.end };
                let gap = if is_last { Gap::Restart } else { Gap::Damaged };
                index.push(place, Mark::Gap(gap));
                if is_last {
                    file.set_size(scanned.end)?;
                }
            }
            index.grow(*number, scanned.end);
            goes_on = scanned.is_ended.then_some(number + 1);
        }
        Ok(())
    }

    /// The views of a moment; `None` when a part of it cannot be read back.
    fn views(&self, from: Place, to: Place) -> io::Result<Option<HashMap<VolumeId, View>>> {
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
