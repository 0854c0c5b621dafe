//! Records that are simply kept, for histories without a pool.
//!
//! Invariant: what was put is there at once and survives everything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{IoError, Ledger, Ticket};
use bytes::Bytes;

/// Records by key.
#[derive(Debug)]
pub(crate) struct Kept(RefCell<BTreeMap<String, Bytes>>);

impl Kept {
    /// None.
    #[must_use]
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self(RefCell::default()))
    }
}

impl Ledger for Kept {
    fn get(&self, key: &str) -> Result<Option<Bytes>, IoError> {
        Ok(self.0.borrow().get(key).cloned())
    }

    fn put(&self, records: Vec<(String, Option<Bytes>)>, ticket: Ticket) {
        let mut kept = self.0.borrow_mut();
        for (key, value) in records {
            match value {
                Some(value) => kept.insert(key, value),
                None => kept.remove(&key),
            };
        }
        ticket.done();
    }
}
