//! The write journals of groups, on the threads that have the groups.
//!
//! Invariant: what a group applied while no journal was attached is a gap in it: it is said before
//! anything else is.

use std::rc::Rc;

use block::{Gap, GroupId, JournalEntry, WriteJournal};
use store::journal::Journal;

use super::ShardState;

impl ShardState {
    /// From now on what a mirror's group applies is written down there, or nowhere.
    pub(crate) fn attach_journal(&self, group: GroupId, journal: Option<Journal>) {
        let Some(open) = self.group(group) else { return };
        if open.is_written.replace(journal.is_some()) == journal.is_some() {
            return;
        }
        let journal = journal.map(|journal| {
            journal.keep(JournalEntry::Gap(Gap::Restart));
            Rc::new(journal) as Rc<dyn WriteJournal>
        });
        open.group.set_write_journal(journal);
    }
}
