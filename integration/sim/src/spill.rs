//! The disk that a send journal spills to, which may be full.
//!
//! Invariant: what was written is read back as it was, for as long as the process lives.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use block::IoError;
use bytes::Bytes;
use mirror::{LocalFuture, Spill, SpillFile};

use crate::world::World;

/// The disk of one site.
pub(crate) struct SimSpill {
    pub(crate) world: Weak<World>,
    pub(crate) site: usize,
}

struct SimFile {
    world: Weak<World>,
    site: usize,
    content: RefCell<Vec<u8>>,
}

impl Spill for SimSpill {
    fn open(&self) -> Result<Rc<dyn SpillFile>, IoError> {
        let content = RefCell::default();
        Ok(Rc::new(SimFile { world: Weak::clone(&self.world), site: self.site, content }))
    }
}

impl SimFile {
    /// Whether there is no room; and how long it takes to find out.
    fn takes(&self) -> Result<std::time::Duration, IoError> {
        let world = self.world.upgrade().ok_or(IoError::ShuttingDown)?;
        if world.sites[self.site].journal_full.get() {
            world.happened("the disk of a send journal is full");
            return Err(IoError::NoSpace);
        }
        world.happened("a send journal spills");
        Ok(world.rng.millis(0, 4))
    }

    fn place(&self, offset: u64, data: &[Bytes]) -> Result<(), IoError> {
        let mut content = self.content.borrow_mut();
        let mut at = usize::try_from(offset).or(Err(IoError::NoSpace))?;
        for part in data {
            let end = at + part.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[at..end].copy_from_slice(part);
            at = end;
        }
        Ok(())
    }
}

impl SpillFile for SimFile {
    fn write(&self, offset: u64, data: Vec<Bytes>) -> LocalFuture<Result<(), IoError>> {
        let done = self.takes().and_then(|time| self.place(offset, &data).map(|()| time));
        Box::pin(async move {
            tokio::time::sleep(done?).await;
            Ok(())
        })
    }

    fn read(&self, offset: u64, bytes: usize) -> LocalFuture<Result<Bytes, IoError>> {
        let content = self.content.borrow();
        let at = usize::try_from(offset).or(Err(IoError::Media));
        let read = at.and_then(|at| {
            content.get(at..at + bytes).map(Bytes::copy_from_slice).ok_or(IoError::Media)
        });
        Box::pin(async move { read })
    }
}
