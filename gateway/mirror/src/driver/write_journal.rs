//! The write journal of a mirror, as the driver feeds it, and the time that its primary tells.
//!
//! Invariant: an entry is handed over in the turn in which the machine let it in, in that order, and
//! nothing waits for what becomes of it.

use std::rc::Rc;

use block::{JournalEntry, LegId, Message, SnapshotId, WriteJournal};

use super::{Core, Group};
use crate::machine::{Entry, Event, Pace};
use crate::record::SnapshotWord;

/// A mirror hears what the clock says so often: a moment is as near as that to the second it is
/// asked for.
const TELL_MS: u64 = 250;
/// A clock that goes back by more is told as it is: what follows is of a time of its own.
const BACK_MS: u64 = 2_000;

/// What the driver knows of it.
#[derive(Default)]
pub(super) struct Written {
    /// Where a mirror writes down what it applies.
    journal: Option<Rc<dyn WriteJournal>>,
    /// What the clock said when mirrors were told of it last.
    told_ms: u64,
}

impl Group {
    /// From now on what a mirror applies is written down there, or nowhere.
    pub fn set_write_journal(&self, journal: Option<Rc<dyn WriteJournal>>) {
        self.core.borrow_mut().written.journal = journal;
    }
}

impl Core {
    /// An entry has its place.
    pub(super) fn write_down(&mut self, entry: Entry) {
        let Some(journal) = &self.written.journal else { return };
        journal.keep(match entry {
            Entry::Base { snapshot, seq } => JournalEntry::Base { snapshot, seq },
            Entry::Time { unix_ms } => JournalEntry::Time { unix_ms },
            Entry::Gap(gap) => JournalEntry::Gap(gap),
            Entry::Change { write, seq } => {
                let kept = self.slab.get(write);
                let (extent, change) = kept.change.clone().expect("only changes are written down");
                let volume = self.members[kept.volume].id;
                JournalEntry::Change { seq, volume, extent, change }
            }
        });
    }

    /// Tells mirrors the time, and sees to it that a write journal has its bases.
    pub(super) fn keep_time(&mut self, unix_ms: u64) {
        let is_back = unix_ms.saturating_add(BACK_MS) < self.written.told_ms;
        if is_back || unix_ms >= self.written.told_ms.saturating_add(TELL_MS) {
            self.written.told_ms = unix_ms;
            let word = SnapshotWord::Time { unix_ms }.encode();
            for leg in LegId::all().filter(|leg| self.machine.tells_time(*leg)) {
                if let Some(port) = &mut self.legs[leg.index()] {
                    port.post(Message::Snapshot(word.clone()));
                    port.port.wake();
                }
            }
        }
        let is_due = self.written.journal.as_ref().is_some_and(|journal| journal.wants_base());
        if is_due && self.machine.may_begin_base() {
            let snapshot = SnapshotId::from_uuid(self.generations.next().uuid());
            self.events.push(Event::Pace(Pace::Base { snapshot, unix_ms }));
        }
    }
}
