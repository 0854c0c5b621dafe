//! What a write journal knows in memory: what waits to be written, and what follows what.
//!
//! Invariant: an entry is queued only if what stands before it is, back to a base; what is not queued
//! has a gap in its place.

use std::collections::{BTreeMap, HashMap};

use block::{Change, Gap, JournalEntry, SnapshotId, VolumeId};

use super::index::{Index, JournalLimits};

/// What may wait to be written, beside as much that is being written: two seconds of 256 Mbit/s. More
/// is a disk that does not keep up.
const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// What is written at once without waiting for the next time: a job costs as much as its copying.
const BATCH_BYTES: u64 = 256 << 10;
/// An entry costs this much beside its payload.
const ENTRY_BYTES: u64 = 128;
/// A clock that goes back by less is taken to stand still.
const BACK_MS: u64 = 2_000;
/// While nothing changes, a time is written down so often.
pub(super) const IDLE_MS: u64 = 1_000;

/// See the top of the file.
#[derive(Default)]
pub(super) struct State {
    /// What is to be kept; `None`: nothing is written down.
    pub(super) limits: Option<JournalLimits>,
    /// What an earlier start left is not looked through yet.
    pub(super) is_reading: bool,
    /// Each with the time that was heard last.
    pub(super) queue: Vec<(JournalEntry, u64)>,
    pub(super) queue_bytes: u64,
    pub(super) is_working: bool,
    /// What comes now follows what was written down.
    pub(super) follows: bool,
    /// The newest time since the last link began.
    pub(super) heard_ms: Option<u64>,
    /// The newest time that was written down since the last gap, and whether anything came behind it.
    pub(super) written_ms: u64,
    pub(super) is_changed: bool,
    /// The newest base: its time, and what came behind it.
    pub(super) base_ms: u64,
    pub(super) base_bytes: u64,
    pub(super) base_changes: u64,
    /// The disk failed at this time.
    pub(super) failed_ms: Option<u64>,
    /// The newest base, written or not.
    pub(super) newest_base: Option<SnapshotId>,
    pub(super) index: Index,
    /// Segments that views need, by the volume that is filled.
    pub(super) pins: HashMap<VolumeId, (u64, u64)>,
    /// Segments that only views need, and their bytes.
    pub(super) retired: BTreeMap<u64, u64>,
    pub(super) gaps: [u64; Gap::ALL.len()],
    pub(super) durable_ms: Option<u64>,
}

// === impl State ===

impl State {
    /// Queues an entry, if it follows what stands before; says whether it is time to write.
    pub(super) fn take(&mut self, entry: JournalEntry) -> bool {
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

    pub(super) fn count(&mut self, gap: Gap) {
        if let Some(at) = Gap::ALL.iter().position(|known| *known == gap) {
            self.gaps[at] += 1;
        }
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.index.has(number) || self.retired.contains_key(&number)
    }

    /// Segments that were forgotten: those that a view needs stay.
    pub(super) fn retire(&mut self, gone: Vec<(u64, u64)>) -> Vec<u64> {
        self.retired.extend(gone);
        self.take_unneeded()
    }

    pub(super) fn take_unneeded(&mut self) -> Vec<u64> {
        let pins: Vec<(u64, u64)> = self.pins.values().copied().collect();
        let is_needed = |number: &u64| pins.iter().any(|(a, b)| (a..=b).contains(&number));
        let free: Vec<u64> = self.retired.keys().copied().filter(|n| !is_needed(n)).collect();
        self.retired.retain(|number, _| is_needed(number));
        free
    }
}
