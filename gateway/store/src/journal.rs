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
mod shared;
mod state;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use block::{Gap, GroupId, JournalEntry, SnapshotId, VolumeId, WriteJournal};

pub use self::index::{JournalLimits, Moment};
pub use self::record::Place;
use self::shared::Shared;
use self::state::{IDLE_MS, State};
pub use self::view::View;
use crate::error::StoreError;
use crate::executor::{Executor, Lane};
use crate::medium::Directory;

/// Bases in the window, and in the bytes: opening a moment goes through an eighth of what there is.
const BASES: u64 = 8;
/// Changes behind a base: a view of them is held in memory while a volume is filled from it.
const CHANGES_MAX: u64 = 1 << 20;
/// After so long by the primary's clock a disk that failed is tried again.
const RETRY_MS: u64 = 60_000;

/// The write journal of one group.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
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
