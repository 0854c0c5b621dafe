//! What a mirror writes down of its primary's stream, so that the group can be opened as of any second.
//!
//! ```text
//!   Time, Change, Change, Time ─┬─ Base ─ Change …       as they come, in the order of the stream
//!                               └─ the copy is whole here, and its stores begin a snapshot
//! ```
//!
//! Invariant (rule 16): between a base and the next gap there stands every change that was let in, in
//! its place in the stream, and no copy of the resync; the base holds all that came before it and
//! nothing else. Nothing waits for what is written down.

use block::{Gap, LegId, Message, Mode, Quality, Seq, SnapshotId, TIME_SINCE_VERSION, WriteId};

use super::points::Why;
use super::secondary::Incoming;
use super::{Effect, Machine, Role};
use crate::record::{Label, SnapshotWord};
use crate::status::{Marks, SnapshotOrigin};

/// An entry for the write journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// See [`block::JournalEntry::Base`].
    Base {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The newest change that it holds.
        seq: Seq,
    },
    /// See [`block::JournalEntry::Time`].
    Time {
        /// What the clock of the primary says.
        unix_ms: u64,
    },
    /// A change, as the driver keeps it.
    Change {
        /// The driver's name for it.
        write: WriteId,
        /// Its place in the stream.
        seq: Seq,
    },
    /// See [`block::JournalEntry::Gap`].
    Gap(Gap),
}

/// What the names of bases begin with; only the gateway gives such names.
const PREFIX: &str = "auto.journal";
/// Answers to nobody: that of a snapshot that was not asked for in the stream.
pub(super) const UNASKED: u64 = u64::MAX;

// === impl Machine ===

impl Machine {
    /// Whether a leg is to hear what the clock here says.
    pub(crate) fn tells_time(&self, leg: LegId) -> bool {
        self.role == Role::Primary
            && self.live.iter().any(|live| live == leg)
            && self.leg(leg).is_some_and(|leg| leg.version >= TIME_SINCE_VERSION)
    }

    /// Whether the copy here is whole, so that what comes now can follow a base.
    pub(crate) fn may_begin_base(&self) -> bool {
        self.role == Role::Secondary
            && matches!(self.quality, Quality::InSync | Quality::Consistent)
            && self.upstream.as_ref().is_some_and(|up| !up.recording && up.gap.is_none())
            && !self.latched
            && !self.closing
            && !self.points.is_busy()
            && self.points.is_planned()
            && self.company.is_none()
            // A transfer sends in no order, and what follows it is not sent.
            && self.upstream_mode != Mode::Stack
    }

    /// The write journal wants a base. It is taken in the next place of the stream in which all that
    /// came before is applied; where it can not be taken now, the driver asks again.
    pub(super) fn begin_base(&mut self, snapshot: SnapshotId, unix_ms: u64, out: &mut Vec<Effect>) {
        let (origin, marks) = (SnapshotOrigin::Journal, Marks::default());
        let label =
            Label { id: snapshot, name: format!("{PREFIX}.{unix_ms}"), origin, unix_ms, marks };
        // A group that has all the snapshots it may have goes on from the base before.
        if self.may_begin_base() && self.may_name(&label).is_ok() {
            self.keep_point(Why::Named(label), out);
        }
    }

    /// The stores begin a point. If it is a base, what comes from here on follows it.
    pub(super) fn journal_base(&self, why: &Why, out: &mut Vec<Effect>) {
        let Why::Named(label) = why else { return };
        if label.origin == SnapshotOrigin::Journal {
            let seq = self.upstream.as_ref().map_or(Seq::ZERO, |upstream| upstream.seq);
            out.push(Effect::Journal(Entry::Base { snapshot: label.id, seq }));
        }
    }

    /// A change is let in.
    pub(super) fn journal_change(&self, write: WriteId, change: &Incoming, out: &mut Vec<Effect>) {
        out.push(Effect::Journal(if change.resync {
            Entry::Gap(Gap::Resync)
        } else {
            Entry::Change { write, seq: change.seq }
        }));
    }
}

/// Whether a message does not wait for a point that is being kept: it has nothing to do with what the
/// copy is worth.
pub(super) fn passes_point(message: &Message) -> bool {
    match message {
        Message::Flush { .. } => true,
        Message::Snapshot(word) => {
            matches!(SnapshotWord::decode(word), Ok(SnapshotWord::Time { .. }))
        }
        _ => false,
    }
}
