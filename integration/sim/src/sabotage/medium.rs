//! A medium that hides failed syncs: a deliberate break of rule 11 below the pool.
//!
//! Invariant: everything but `sync` is passed on as it is.

use std::io::{self, IoSlice};
use std::sync::Arc;

use store::medium::{Directory, File, LockGuard, Room};

/// What becomes of a sync that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hiding {
    /// It is done again.
    Again,
    /// It counts as done.
    Away,
}

/// A directory of whose failed syncs nobody hears.
#[derive(Debug)]
pub(crate) struct HidingDirectory(Arc<dyn Directory>, Hiding);

#[derive(Debug)]
struct HidingFile(Arc<dyn File>, Hiding);

impl HidingDirectory {
    pub(crate) fn over(inner: Arc<dyn Directory>, how: Hiding) -> Arc<dyn Directory> {
        Arc::new(Self(inner, how))
    }
}

impl Hiding {
    fn sync(self, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match self {
            Self::Again => sync().or_else(|_| sync()),
            Self::Away => sync().or(Ok(())),
        }
    }
}

impl Directory for HidingDirectory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(HidingFile(self.0.create(name)?, self.1)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(HidingFile(self.0.open(name)?, self.1)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn sync(&self) -> io::Result<()> {
        self.1.sync(|| self.0.sync())
    }

    fn make_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        Ok(Self::over(self.0.make_dir(name)?, self.1))
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        Ok(Self::over(self.0.open_dir(name)?, self.1))
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        self.0.remove_dir(name)
    }

    fn lock(&self) -> io::Result<Option<LockGuard>> {
        self.0.lock()
    }

    fn room(&self) -> io::Result<Room> {
        self.0.room()
    }
}

impl File for HidingFile {
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        self.0.try_read_at(buf, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.sync(|| self.0.sync())
    }

    fn forget_clean(&self) -> io::Result<()> {
        self.0.forget_clean()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_size(size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch(offset, len)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.reserve(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<(u64, u64)>> {
        self.0.next_data(from)
    }
}
