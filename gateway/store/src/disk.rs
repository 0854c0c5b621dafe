//! Real files and directories.
//!
//! Invariant: reads and writes go through the page cache, which is what lets a write be answered
//! without a thread hand-over and still survive the death of the process.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use crate::medium::{Directory, File, LockGuard, Room};

/// `f_type` of tmpfs, statfs(2).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// `RWF_DONTCACHE` of Linux 6.14 (ext4: 6.16): written out at once, and its memory given back then.
/// It is still written through the page cache, so that nobody ever reads anything else.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// A directory of the host's file system.
#[derive(Debug)]
pub struct DiskDirectory {
    path: PathBuf,
}

/// A file of the host's file system, or a block device.
#[derive(Debug)]
pub struct DiskFile {
    file: fs::File,
    /// The file system keeps everything in memory: a read never waits for a disk.
    in_memory: bool,
    /// The file system does not know [`DONTCACHE`].
    keeps_in_memory: AtomicBool,
}

// === impl DiskDirectory ===

impl DiskDirectory {
    /// Opens a directory that is there.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, or what the medium says.
    pub fn open(path: &Path) -> io::Result<Arc<dyn Directory>> {
        if !fs::metadata(path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Arc::new(Self { path: path.to_path_buf() }))
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Directory for DiskDirectory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(self.join(name))?;
        Ok(Arc::new(DiskFile::new(file)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile::open(&self.join(name))?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.join(from), self.join(to))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn make_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        fs::create_dir(self.join(name))?;
        self.open_dir(name)
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        Self::open(&self.join(name))
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        fs::remove_dir_all(self.join(name))
    }

    fn lock(&self) -> io::Result<Option<LockGuard>> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(self.join("lock"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn room(&self) -> io::Result<Room> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(Room {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

// === impl DiskFile ===

impl DiskFile {
    fn new(file: fs::File) -> io::Result<Self> {
        let in_memory = rustix::fs::fstatfs(&file)?.f_type == TMPFS_MAGIC;
        Ok(Self { file, in_memory, keeps_in_memory: AtomicBool::new(in_memory) })
    }

    /// Opens a file or block device for reading and writing.
    ///
    /// # Errors
    /// What the medium says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Self::new(file)
    }

    /// Opens a file or block device for reading only.
    ///
    /// # Errors
    /// What the medium says.
    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        Self::new(OpenOptions::new().read(true).open(path)?)
    }

    fn is_device(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.file_type().is_block_device())
    }
}

impl File for DiskFile {
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        if self.in_memory {
            // tmpfs does not know RWF_NOWAIT, and has nothing to wait for.
            return self.file.read_exact_at(buf, offset).map(|()| true).or_else(short_is_cold);
        }
        let len = buf.len();
        let mut parts = [IoSliceMut::new(buf)];
        match rustix::io::preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read == len),
            // Not in the page cache, or a file system that cannot tell: a worker reads it.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        write_all(parts, offset, |parts, at| rustix::io::pwritev(&self.file, parts, at))
    }

    fn write_aside_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        write_all(parts, offset, |parts, at| {
            if self.keeps_in_memory.load(Ordering::Relaxed) {
                return rustix::io::pwritev(&self.file, parts, at);
            }
            match rustix::io::pwritev2(&self.file, parts, at, DONTCACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL) => {
                    self.keeps_in_memory.store(true, Ordering::Relaxed);
                    rustix::io::pwritev(&self.file, parts, at)
                }
                other => other,
            }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn forget_clean(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    fn size(&self) -> io::Result<u64> {
        if self.is_device()? {
            return Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?);
        }
        Ok(self.file.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, offset, len)?)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, len)?)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<(u64, u64)>> {
        let size = self.size()?;
        if from >= size {
            return Ok(None);
        }
        if self.is_device()? {
            return Ok(Some((from, size)));
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(first) => {
                let end = rustix::fs::seek(&self.file, SeekFrom::Hole(first))?;
                Ok(Some((first, end)))
            }
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// Writes all parts, however few bytes each call takes.
fn write_all(
    mut parts: &mut [IoSlice<'_>],
    offset: u64,
    write: impl Fn(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    let mut at = offset;
    while !parts.is_empty() {
        match write(parts, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// A file that ends early is read by a worker, which knows what that means.
fn short_is_cold(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::UnexpectedEof { Ok(false) } else { Err(error) }
}
