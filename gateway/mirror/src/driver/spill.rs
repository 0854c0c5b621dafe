//! Where a send journal goes that is too long for memory.
//!
//! Invariant: what is spilled need not survive the process: what a mirror lacks is in the dirty map,
//! whatever becomes of the journal.

use std::cell::RefCell;
use std::rc::Rc;

use block::IoError;
use bytes::Bytes;

use super::LocalFuture;
use crate::machine::JournalLimits;

/// Makes places for journals.
pub trait Spill {
    /// A new, empty place. It is given back when it is dropped.
    ///
    /// # Errors
    /// When there is none to be had.
    fn open(&self) -> Result<Rc<dyn SpillFile>, IoError>;
}

/// One place, as long as the furthest byte that was written.
pub trait SpillFile {
    /// Writes there, without blocking the thread.
    fn write(&self, offset: u64, data: Vec<Bytes>) -> LocalFuture<Result<(), IoError>>;

    /// Reads what was written there, without blocking the thread.
    fn read(&self, offset: u64, bytes: usize) -> LocalFuture<Result<Bytes, IoError>>;
}

/// How long the send journals of a group may be, and where what does not fit memory goes.
#[derive(Clone)]
pub struct Journals {
    /// For each leg.
    pub limits: JournalLimits,
    /// Where the rest goes.
    pub spill: Rc<dyn Spill>,
}

impl Journals {
    /// Journals whose disk is memory, for whoever simulates one.
    #[must_use]
    pub fn in_memory(limits: JournalLimits) -> Self {
        Self { limits, spill: Rc::new(MemorySpill) }
    }
}

struct MemorySpill;

struct MemoryFile(Rc<RefCell<Vec<u8>>>);

impl Spill for MemorySpill {
    fn open(&self) -> Result<Rc<dyn SpillFile>, IoError> {
        Ok(Rc::new(MemoryFile(Rc::default())))
    }
}

impl SpillFile for MemoryFile {
    fn write(&self, offset: u64, data: Vec<Bytes>) -> LocalFuture<Result<(), IoError>> {
        let file = Rc::clone(&self.0);
        Box::pin(async move {
            let mut file = file.borrow_mut();
            let mut at = usize::try_from(offset).or(Err(IoError::NoSpace))?;
            for part in data {
                let end = at + part.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[at..end].copy_from_slice(&part);
                at = end;
            }
            Ok(())
        })
    }

    fn read(&self, offset: u64, bytes: usize) -> LocalFuture<Result<Bytes, IoError>> {
        let file = Rc::clone(&self.0);
        Box::pin(async move {
            let at = usize::try_from(offset).or(Err(IoError::Media))?;
            let file = file.borrow();
            file.get(at..at + bytes).map(Bytes::copy_from_slice).ok_or(IoError::Media)
        })
    }
}
