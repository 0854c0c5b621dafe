//! The files and directories of a simulated disk, as the pool uses them.
//!
//! Invariant: a handle from before a cut or a kill, and every handle of a stopped disk, only fails.

use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use store::medium::{Directory, File, LockGuard, Room};

use super::{DirHandle, Handle, Lock, Pending, SimFile, State, parent_of};

// === impl Handle ===

impl Handle {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut State, &mut SimFile) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.alive(self.incarnation)?;
        // Taken out for the time, so that the rest of the state can be used beside it.
        let mut file = state.files.remove(&self.file).ok_or(io::ErrorKind::NotFound)?;
        let result = act(&mut state, &mut file);
        state.files.insert(self.file, file);
        result
    }

    fn change(&self, offset: u64, len: u64, change: Pending) -> io::Result<()> {
        self.with(|state, file| {
            // This file was taken out of the sum.
            let needed = file.current.needed(offset, len);
            if needed > 0 {
                state.take_room(needed + file.current.allocated())?;
            }
            file.change(change);
            Ok(())
        })
    }
}

impl File for Handle {
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        let cold = self.disk.alive(self.incarnation)?.cold;
        if cold {
            return Ok(false);
        }
        Ok(self.read_at(buf, offset)? == buf.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state, file| {
            if let Some((path, from, len)) = &state.bad
                && *path == self.path
                && *from < offset + buf.len() as u64
                && offset < from + len
            {
                return Err(io::Error::other("this range cannot be read"));
            }
            Ok(file.current.read(buf, offset))
        })
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut data = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| data.extend_from_slice(part));
        let len = data.len() as u64;
        let all = self.change(offset, len, Pending::Write { offset, data });
        let no_room = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        if all.as_ref().is_err_and(no_room) {
            // A full disk takes what it still has room for, and says then that it is full.
            let halves = std::iter::successors(Some(len / 2), |len| Some(len / 2));
            halves.take_while(|len| *len > 0).find(|len| {
                let all = parts.iter().flat_map(|part| part.iter().copied());
                let data = all.take(usize::try_from(*len).unwrap_or(usize::MAX)).collect();
                self.change(offset, *len, Pending::Write { offset, data }).is_ok()
            });
        }
        all?;
        self.disk.state().written += len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.remember(self.incarnation);
        self.with(|state, file| {
            let synced = state.sync();
            match synced {
                Ok(()) => file.sync(),
                // The kernel marks the pages clean all the same, and may drop them at any time.
                Err(_) if !state.stopped => file.pending.clear(),
                Err(_) => {}
            }
            synced
        })
    }

    fn forget_clean(&self) -> io::Result<()> {
        self.with(|_, file| {
            file.forget_clean();
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|_, file| Ok(file.current.size()))
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.change(0, 0, Pending::Size(size))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(0, 0, Pending::Punch { offset, len })
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        // Room is not kept for anybody here; whether there is some can be said.
        self.with(|state, file| {
            state.take_room(file.current.needed(offset, len) + file.current.allocated())
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        // In one go: what others write behind it meanwhile stays, as on a real disk.
        self.with(|state, file| {
            state.take_room(file.current.needed(offset, len) + file.current.allocated())?;
            if file.current.size() < offset + len {
                file.change(Pending::Size(offset + len));
            }
            Ok(())
        })
    }

    fn allocated(&self) -> io::Result<u64> {
        self.with(|_, file| Ok(file.current.allocated()))
    }

    fn next_data(&self, from: u64) -> io::Result<Option<(u64, u64)>> {
        self.with(|_, file| Ok(file.current.next_data(from)))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path)
    }
}

// === impl DirHandle ===

impl DirHandle {
    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }

    fn handle(&self, path: String, file: u64) -> Arc<dyn File> {
        let disk = Arc::clone(&self.disk);
        Arc::new(Handle { disk, incarnation: self.incarnation, path, file })
    }

    fn directory(&self, path: String) -> Arc<dyn Directory> {
        let disk = Arc::clone(&self.disk);
        Arc::new(Self { disk, incarnation: self.incarnation, path })
    }
}

impl Directory for DirHandle {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.join(name);
        let mut state = self.disk.alive(self.incarnation)?;
        if state.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.next_file += 1;
        let file = state.next_file;
        state.files.insert(file, SimFile::default());
        state.names.insert(path.clone(), Some(file));
        Ok(self.handle(path, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.join(name);
        let state = self.disk.alive(self.incarnation)?;
        let file = state.names.get(&path).copied().flatten().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(path, file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.disk.alive(self.incarnation)?;
        state.names.remove(&self.join(name)).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.disk.alive(self.incarnation)?;
        let file = state.names.remove(&self.join(from)).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(self.join(to), file);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.disk.alive(self.incarnation)?;
        let names = state.names.keys().filter(|p| parent_of(p) == self.path);
        Ok(names.map(|p| p.rsplit('/').next().unwrap_or(p).to_owned()).collect())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.remember(self.incarnation);
        let mut state = self.disk.alive(self.incarnation)?;
        state.sync()?;
        let State { names, durable_names, .. } = &mut *state;
        durable_names.retain(|p, _| parent_of(p) != self.path);
        durable_names.extend(
            names.iter().filter(|(p, _)| parent_of(p) == self.path).map(|(p, f)| (p.clone(), *f)),
        );
        Ok(())
    }

    fn make_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        let path = self.join(name);
        let mut state = self.disk.alive(self.incarnation)?;
        if state.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.names.insert(path.clone(), None);
        Ok(self.directory(path))
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        let path = self.join(name);
        let state = self.disk.alive(self.incarnation)?;
        match state.names.get(&path) {
            Some(None) => Ok(self.directory(path)),
            Some(Some(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        let path = self.join(name);
        let mut state = self.disk.alive(self.incarnation)?;
        state.names.remove(&path).ok_or(io::ErrorKind::NotFound)?;
        let inside = format!("{path}/");
        state.names.retain(|p, _| !p.starts_with(&inside));
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<LockGuard>> {
        let mut state = self.disk.alive(self.incarnation)?;
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        let lock = Lock { disk: Arc::clone(&self.disk), incarnation: self.incarnation };
        let guard: Box<dyn Any + Send + Sync> = Box::new(lock);
        Ok(Some(guard))
    }

    fn room(&self) -> io::Result<Room> {
        let state = self.disk.alive(self.incarnation)?;
        let total = state.capacity.unwrap_or(1 << 50);
        Ok(Room { total, free: total.saturating_sub(state.allocated()) })
    }
}

impl fmt::Debug for DirHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDir({})", self.path)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.incarnation == self.incarnation {
            state.locked = false;
        }
    }
}
