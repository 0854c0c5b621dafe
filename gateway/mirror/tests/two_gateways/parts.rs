//! What every gateway of these tests is made of: records in memory, histories that are counted, a
//! clock of virtual time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use block::{Generation, IoError, Ledger, Ticket};
use bytes::Bytes;
use twinspan_mirror::{Clock, Generations};

#[derive(Default)]
pub(crate) struct MemoryLedger(RefCell<BTreeMap<String, Bytes>>);

impl Ledger for MemoryLedger {
    fn get(&self, key: &str) -> Result<Option<Bytes>, IoError> {
        Ok(self.0.borrow().get(key).cloned())
    }

    fn put(&self, records: Vec<(String, Option<Bytes>)>, ticket: Ticket) {
        for (key, value) in records {
            match value {
                Some(value) => self.0.borrow_mut().insert(key, value),
                None => self.0.borrow_mut().remove(&key),
            };
        }
        ticket.done();
    }
}

pub(crate) struct Counted(pub(crate) Cell<u128>);

impl Generations for Counted {
    fn next(&self) -> Generation {
        self.0.set(self.0.get() + 1);
        Generation::of(self.0.get())
    }
}

pub(crate) struct VirtualClock(pub(crate) tokio::time::Instant);

impl Clock for VirtualClock {
    fn unix_ms(&self) -> u64 {
        1_000_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// A test may use what the product may not.
#[expect(clippy::disallowed_methods, reason = "a test ends with its LocalSet")]
pub(crate) fn spawn_local(task: impl Future<Output = ()> + 'static) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_local(task)
}
