//! What this crate asks of the files below it, so that a simulated disk can stand in for them.
//!
//! Invariant: a write that was answered is seen by every later read and survives the death of the
//! process; only `sync` makes it survive the loss of power. A name survives only after the `sync`
//! of its directory.

use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// One open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Fills all of `buf` if that needs no waiting; `false` (with `buf` in any state) otherwise,
    /// also when the file ends before.
    ///
    /// # Errors
    /// What the medium says.
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool>;

    /// Reads until `buf` is full or the file ends; says how many bytes.
    ///
    /// # Errors
    /// What the medium says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all parts, one behind the other.
    ///
    /// # Errors
    /// What the medium says; then any part of it may have been written.
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// As [`File::write_at`], for what nobody is about to read: where the medium knows how, it is
    /// brought down at once and its memory given back, so that the next [`File::sync`] finds little
    /// left to do.
    ///
    /// # Errors
    /// As for [`File::write_at`].
    fn write_aside_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(parts, offset)
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// What the medium says; then nothing is known of what was written since the last one.
    fn sync(&self) -> io::Result<()>;

    /// Lets go of what is in memory and counts as written, so that it is read from the medium when
    /// it is read next. After a failed sync the kernel counts pages as written that it did not
    /// write: who opens a file after a crash must not take them for what the medium holds.
    ///
    /// # Errors
    /// What the medium says.
    fn forget_clean(&self) -> io::Result<()>;

    /// Bytes in the file.
    ///
    /// # Errors
    /// What the medium says.
    fn size(&self) -> io::Result<u64>;

    /// Cuts or extends the file; what is new reads as zeroes.
    ///
    /// # Errors
    /// What the medium says.
    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Gives room back; the range reads as zeroes and the size stays.
    ///
    /// # Errors
    /// What the medium says.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Takes room ahead, so that writing there does not meet a full disk; the size stays.
    ///
    /// # Errors
    /// What the medium says.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Takes room ahead and extends the file to the end of it, if it is shorter; what is new reads as
    /// zeroes. Unlike what is reserved behind the end, it can be punched: ext4 gives nothing back there.
    ///
    /// # Errors
    /// What the medium says.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Bytes of room that the file takes.
    ///
    /// # Errors
    /// What the medium says.
    fn allocated(&self) -> io::Result<u64>;

    /// The next range from `from` on that is not a hole, as first byte and end.
    ///
    /// # Errors
    /// What the medium says.
    fn next_data(&self, from: u64) -> io::Result<Option<(u64, u64)>>;
}

/// How much room a medium has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that are free.
    pub free: u64,
}

/// Room that new blocks never take: a checkpoint of all pages that may be dirty fits many times.
const RESERVE_BYTES_MAX: u64 = 256 << 20;
/// On a small medium it is this part of it.
const RESERVE_SHARE: u64 = 16;

impl Room {
    /// Bytes that stay free for what must not fail: checkpoints and recovery.
    pub(crate) fn reserve(&self) -> u64 {
        RESERVE_BYTES_MAX.min(self.total / RESERVE_SHARE)
    }
}

/// What keeps a directory locked until it is dropped.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// One directory.
pub trait Directory: Send + Sync + fmt::Debug {
    /// Makes a new, empty file.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the medium says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens a file that is there.
    ///
    /// # Errors
    /// `NotFound`, or what the medium says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, or what the medium says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, replacing what has that name.
    ///
    /// # Errors
    /// `NotFound`, or what the medium says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// The names in here, files and directories, in order.
    ///
    /// # Errors
    /// What the medium says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes the names in here durable.
    ///
    /// # Errors
    /// What the medium says.
    fn sync(&self) -> io::Result<()>;

    /// Makes a new, empty directory in here.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the medium says.
    fn make_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>>;

    /// Opens a directory that is there.
    ///
    /// # Errors
    /// `NotFound`, or what the medium says.
    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>>;

    /// Removes a directory and the files in it.
    ///
    /// # Errors
    /// `NotFound`, or what the medium says.
    fn remove_dir(&self, name: &str) -> io::Result<()>;

    /// Locks the directory against every other opener; `None` when another has it.
    ///
    /// # Errors
    /// What the medium says.
    fn lock(&self) -> io::Result<Option<LockGuard>>;

    /// How much room there is.
    ///
    /// # Errors
    /// What the medium says.
    fn room(&self) -> io::Result<Room>;
}

/// Opens the file, making it when it is not there.
///
/// # Errors
/// What the medium says.
pub fn open_or_create(dir: &dyn Directory, name: &str) -> io::Result<Arc<dyn File>> {
    match dir.open(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => dir.create(name),
        opened => opened,
    }
}

/// Reads the whole of a small file.
///
/// # Errors
/// What the medium says.
pub fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut data = vec![0; size];
    let len = file.read_at(&mut data, 0)?;
    data.truncate(len);
    Ok(data)
}

/// Fills all of `buf`; what lies behind the end of the file is zeroes.
///
/// # Errors
/// What the medium says.
pub fn read_padded(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let len = file.read_at(buf, offset)?;
    buf[len..].fill(0);
    Ok(())
}
