//! The requests under way, under the small dense names that the machine knows them by.

use block::{Change, Extent, Ticket, WriteId};
use tokio::time::Instant;

use crate::metrics::Launched;

/// One request under way.
#[derive(Debug)]
pub(super) struct Entry {
    /// The host's; `None` for a change that the primary sent, and after the answer.
    pub(super) ticket: Option<Ticket>,
    pub(super) change: Option<(Extent, Change)>,
    pub(super) volume: usize,
    pub(super) fua: bool,
    pub(super) since: Instant,
    /// For the few that are measured.
    pub(super) launched: Option<Launched>,
}

impl Entry {
    /// A request of a host, received now; a flush has no change.
    pub(super) fn host(
        ticket: Ticket,
        volume: usize,
        change: Option<(Extent, Change)>,
        fua: bool,
        since: Instant,
    ) -> Self {
        Self { ticket: Some(ticket), change, volume, fua, since, launched: None }
    }
}

/// Entries and the names that are free.
#[derive(Debug, Default)]
pub(super) struct Slab {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

impl Slab {
    pub(super) fn insert(&mut self, entry: Entry) -> WriteId {
        let at = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[at] = Some(entry);
        WriteId::new(at as u64)
    }

    pub(super) fn get(&mut self, write: WriteId) -> &mut Entry {
        self.entries[index(write)].as_mut().expect("the machine names what is under way")
    }

    /// A volume left the group: those behind it have other indexes now.
    pub(super) fn moved_down(&mut self, gone: usize) {
        for entry in self.entries.iter_mut().flatten() {
            entry.volume = super::members::moved_down(entry.volume, gone);
        }
    }

    pub(super) fn remove(&mut self, write: WriteId) {
        let entry = self.entries[index(write)].take();
        assert!(entry.is_some(), "the machine forgets a name once");
        self.free.push(index(write));
    }
}

fn index(write: WriteId) -> usize {
    usize::try_from(write.get()).expect("names are small and dense")
}
