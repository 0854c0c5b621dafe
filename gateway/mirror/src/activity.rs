//! The activity log of one volume: the 4 MiB extents in which copies may differ after a crash.
//!
//! Invariant (rule 3): a change is launched, locally or towards a mirror, only after every extent
//! that it touches was recorded durably; an extent leaves the record only when nothing is in flight
//! in it.

use std::collections::HashMap;

use block::{ACTIVITY_BYTES, ActivityExtent, Extent, Geometry};

/// Extents that stay recorded: 4.8 GiB of working set, DRBD's default, so that a warm workload
/// records nothing.
pub(crate) const ACTIVITY_EXTENTS: usize = 1237;
/// Extents that leave at once when room is needed, so that evictions are rare and batched.
const EVICT_BATCH: usize = 64;
/// Extents that are recorded ahead of a stream that goes on from one to the next: 64 MiB, so that a
/// sequential writer does not wait for the disk every 4 MiB.
const AHEAD: u64 = 16;
/// Extents that nobody changed for so long leave by themselves: a crash need not look there.
const IDLE_MS: u64 = 10_000;

#[derive(Debug, Default)]
struct Entry {
    used: u64,
    used_ms: u64,
    pins: u32,
}

/// The activity log's picture in memory.
#[derive(Debug)]
pub(crate) struct Activity {
    active: HashMap<ActivityExtent, Entry>,
    /// Wanted and not yet recorded.
    wanted: Vec<ActivityExtent>,
    /// Being recorded.
    recording: Option<Vec<ActivityExtent>>,
    uses: u64,
    now_ms: u64,
    capacity: usize,
    /// The extent that was entered last.
    cursor: Option<u64>,
    /// One past the volume's last extent.
    end: u64,
}

impl Activity {
    pub(crate) fn new(capacity: usize, geometry: Geometry) -> Self {
        let end = geometry.bytes().div_ceil(ACTIVITY_BYTES);
        Self {
            cursor: None,
            end,
            active: HashMap::new(),
            wanted: Vec::new(),
            recording: None,
            uses: 0,
            now_ms: 0,
            capacity,
        }
    }

    /// Pins the extents that `extent` touches if all are recorded; else remembers which are wanted.
    pub(crate) fn enter(&mut self, extent: Extent) -> bool {
        let missing: usize = extent.activity().filter(|e| !self.active.contains_key(e)).count();
        self.uses += 1;
        if missing == 0 {
            for e in extent.activity() {
                let entry = self.active.entry(e).or_default();
                entry.used = self.uses;
                entry.used_ms = self.now_ms;
                entry.pins += 1;
            }
            self.look_ahead(extent);
            return true;
        }
        extent.activity().for_each(|e| self.want(e));
        false
    }

    /// The volume grew.
    pub(crate) fn grow(&mut self, geometry: Geometry) {
        self.end = geometry.bytes().div_ceil(ACTIVITY_BYTES);
    }

    fn want(&mut self, e: ActivityExtent) {
        let coming = self.recording.as_ref().is_some_and(|r| r.contains(&e));
        if !self.active.contains_key(&e) && !coming && !self.wanted.contains(&e) {
            self.wanted.push(e);
        }
    }

    /// Records what a stream will reach next, before it has to wait for it.
    fn look_ahead(&mut self, extent: Extent) {
        let last = (extent.end() - 1) / ACTIVITY_BYTES;
        if self.cursor == Some(last) {
            return;
        }
        let goes_on = self.cursor.replace(last).is_some_and(|before| before + 1 == last);
        let near = (last + AHEAD / 2).min(self.end - 1);
        if goes_on && !self.active.contains_key(&ActivityExtent::new(near)) {
            for index in last + 1..(last + 1 + AHEAD).min(self.end) {
                self.want(ActivityExtent::new(index));
            }
        }
    }

    /// Whether a change there could be launched at once.
    pub(crate) fn covers(&self, extent: Extent) -> bool {
        extent.activity().all(|e| self.active.contains_key(&e))
    }

    /// Nothing of this change is in flight any more.
    pub(crate) fn leave(&mut self, extent: Extent) {
        for e in extent.activity() {
            let entry = self.active.get_mut(&e).expect("a pinned extent stays recorded");
            entry.pins = entry.pins.checked_sub(1).expect("each pin is taken back once");
        }
    }

    /// Time passed.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Whether the record must be renewed, and could be now.
    pub(crate) fn needs_round(&self) -> bool {
        self.recording.is_none() && !self.wanted.is_empty()
    }

    /// Whether extents could leave the record because nobody changes them any more.
    pub(crate) fn has_idle(&self) -> bool {
        self.recording.is_none() && self.active.values().any(|entry| self.is_idle(entry))
    }

    fn is_idle(&self, entry: &Entry) -> bool {
        entry.pins == 0 && self.now_ms.saturating_sub(entry.used_ms) >= IDLE_MS
    }

    /// Begins to record what is wanted; evicts what is long unused. Returns the set to record and
    /// whether any extent leaves it.
    pub(crate) fn begin_round(&mut self) -> (Vec<ActivityExtent>, bool) {
        assert!(self.recording.is_none(), "one round at a time");
        let before = self.active.len();
        let now_ms = self.now_ms;
        self.active
            .retain(|_, entry| entry.pins > 0 || now_ms.saturating_sub(entry.used_ms) < IDLE_MS);
        let mut evicted = self.active.len() < before;
        let need = (self.active.len() + self.wanted.len()).saturating_sub(self.capacity);
        if need > 0 {
            let mut idle: Vec<(u64, ActivityExtent)> = self
                .active
                .iter()
                .filter(|(_, entry)| entry.pins == 0)
                .map(|(extent, entry)| (entry.used, *extent))
                .collect();
            idle.sort_unstable();
            // With everything pinned the record grows past its capacity; in-flight limits bound it.
            for (_, extent) in idle.into_iter().take(need.max(EVICT_BATCH)) {
                self.active.remove(&extent);
                evicted = true;
            }
        }
        let recording = std::mem::take(&mut self.wanted);
        let mut image: Vec<ActivityExtent> = self.active.keys().copied().collect();
        image.extend(&recording);
        image.sort_unstable();
        self.recording = Some(recording);
        (image, evicted)
    }

    /// Whether a round of this volume is under way.
    pub(crate) fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// The set of [`Self::begin_round`] is durable.
    pub(crate) fn end_round(&mut self) {
        for extent in self.recording.take().expect("a round was begun") {
            self.active.insert(extent, Entry { used: self.uses, used_ms: self.now_ms, pins: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(capacity: usize) -> Activity {
        Activity::new(capacity, Geometry::new(ACTIVITY_BYTES * 100).unwrap())
    }

    fn at(index: u64) -> Extent {
        Extent::new(index * ACTIVITY_BYTES, 4096).unwrap()
    }

    #[test]
    fn a_change_waits_until_its_extent_is_recorded() {
        let mut log = log(4);
        assert!(!log.enter(at(7)));
        assert!(log.needs_round());
        assert_eq!(log.begin_round(), (vec![ActivityExtent::new(7)], false));
        assert!(!log.enter(at(7)) && !log.needs_round());
        log.end_round();
        assert!(log.enter(at(7)));
    }

    #[test]
    fn an_idle_extent_leaves_by_itself_unless_it_is_in_flight() {
        let mut log = log(9);
        log.enter(at(1));
        log.enter(at(2));
        log.begin_round();
        log.end_round();
        assert!(log.enter(at(2)) && !log.has_idle());
        log.tick(IDLE_MS);
        assert!(log.has_idle());
        assert_eq!(log.begin_round(), (vec![ActivityExtent::new(2)], true));
        log.end_round();
        assert!(!log.has_idle() && log.covers(at(2)) && !log.covers(at(1)));
    }

    #[test]
    fn a_stream_is_recorded_ahead_of_itself() {
        let mut log = log(90);
        for index in 0..100 {
            if !log.enter(at(index)) {
                assert!(index < 2, "the stream waits at extent {index}");
                log.begin_round();
                log.end_round();
                assert!(log.enter(at(index)));
            }
            log.leave(at(index));
            if log.needs_round() {
                let (image, _) = log.begin_round();
                assert!(image.iter().all(|e| e.index() < 100));
                log.end_round();
            }
        }
    }

    #[test]
    fn an_extent_in_flight_is_not_evicted() {
        let mut log = log(2);
        for index in 0..2 {
            log.enter(at(index));
        }
        log.begin_round();
        log.end_round();
        assert!(log.enter(at(0)));
        log.enter(at(5));
        let (image, evicted) = log.begin_round();
        log.end_round();
        assert!(evicted && image == [ActivityExtent::new(0), ActivityExtent::new(5)]);
        log.leave(at(0));
        assert!(log.covers(at(0)) && !log.covers(at(1)));
    }
}
