//! How much of its journal a run uses, and which of its steps may use more.
//!
//! Invariant: what a provider or a person can repeat without end is asked for here first, so that there is
//! always room for what ends a run: each step's last records forward, and all of its way back. It follows
//! from the records alone, so that every copy of a journal says the same.

use std::io::{self, Write};

use super::{Event, Record, Run};
use crate::actions::Created;
use crate::limits::{
    COMMON_BYTES_MAX, COMMON_RECORDS_MAX, CREATED_MAX, STEP_BYTES_MAX, STEP_BYTES_MIN,
    STEP_RECORDS_MAX, STEP_RECORDS_MIN,
};

/// What was written of a step on the way that the run goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Records.
    pub records: u64,
    /// Their bytes, as JSON.
    pub bytes: u64,
}

/// Counts what is written to it.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes of a record, as JSON.
fn bytes_of(record: &Record) -> u64 {
    let mut counter = Counter(0);
    // One that is no JSON is refused by the journal, which is asked later.
    serde_json::to_writer(&mut counter, record).map_or(0, |()| counter.0)
}

impl Run {
    /// Whether there is more in the journal than each step's own share of it.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.records < COMMON_RECORDS_MAX && self.bytes < COMMON_BYTES_MAX
    }

    /// Whether a step may write what can be repeated: another token, a question, another attempt.
    #[must_use]
    pub fn has_room(&self, place: usize) -> bool {
        let Spent { records, bytes } = self.steps[place].spent;
        let is_little = records < STEP_RECORDS_MIN && bytes < STEP_BYTES_MIN;
        let is_fair = records < STEP_RECORDS_MAX && bytes < STEP_BYTES_MAX;
        is_little || (is_fair && self.is_wide())
    }

    /// Whether a person may let a step that failed be tried again: it gets a share anew while there is one.
    pub(super) fn has_room_anew(&self, place: usize) -> bool {
        self.is_wide() || self.has_room(place)
    }

    /// Whether a step may note what it makes: what it made is told to whoever takes it back, in one call.
    pub(super) fn has_room_to_note(&self, place: usize, made: &[Created]) -> bool {
        let step = &self.plan.steps[place].id;
        let stands = self.left.iter().filter(|left| left.step == *step).count();
        // An attempt that is repeated says what it made once more.
        let is_there = |one: &Created| {
            self.left.iter().any(|left| left.what.kind == one.kind && left.what.id == one.id)
        };
        let fresh = made.iter().filter(|one| !is_there(one)).count();
        self.has_room(place) && (fresh == 0 || stands.saturating_add(fresh) <= CREATED_MAX)
    }

    /// Counts a record that was taken.
    pub(super) fn spend(&mut self, record: &Record) {
        let bytes = bytes_of(record);
        let is_wide = self.is_wide();
        self.bytes = self.bytes.saturating_add(bytes);
        match &record.event {
            // The way back has its own share.
            Event::TurnedBack { .. } | Event::Aborted { .. } => {
                self.steps.iter_mut().for_each(|step| step.spent = Spent::default());
            }
            event => {
                let place = event.step().and_then(|step| self.plan.place(step));
                let Some(place) = place else { return };
                let spent = &mut self.steps[place].spent;
                if is_wide && matches!(event, Event::Retried { .. }) {
                    *spent = Spent::default();
                }
                spent.records += 1;
                spent.bytes = spent.bytes.saturating_add(bytes);
            }
        }
    }
}
