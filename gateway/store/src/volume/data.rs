//! The data files of a volume: slots, 64 KiB each, in sparse files of 64 GiB.
//!
//! Invariant: a slot lies whole in one file. File systems cap a file (ext4: 16 TiB), and a small
//! file is quicker to remove.

use std::io::{self, IoSlice};
use std::sync::Arc;

use block::SLOT_BYTES;

use crate::medium::{Directory, File};

/// 64 GiB a file.
pub(crate) const SLOTS_PER_FILE: u64 = 1 << 20;

/// A place in the data files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: usize,
    pub(crate) offset: u64,
}

/// The open data files.
#[derive(Debug)]
pub(crate) struct DataFiles {
    dir: Arc<dyn Directory>,
    files: Vec<Option<Arc<dyn File>>>,
    dirty: Vec<bool>,
    /// A file was made whose name no sync covers yet.
    names_dirty: bool,
    /// The volume was not closed: what is in memory of a file may be what a failed sync left, and
    /// is nowhere else.
    pub(crate) forget_clean: bool,
}

// === impl Place ===

impl Place {
    /// Byte `offset` of a slot.
    pub(crate) fn of(slot: u64, offset: u64) -> Self {
        let file = usize::try_from(slot / SLOTS_PER_FILE).unwrap_or(usize::MAX);
        Self { file, offset: slot % SLOTS_PER_FILE * SLOT_BYTES + offset }
    }
}

/// The file that holds this range of slots.
pub(crate) fn name(index: usize) -> String {
    format!("data.{index:04}")
}

// === impl DataFiles ===

impl DataFiles {
    pub(crate) fn new(dir: Arc<dyn Directory>) -> Self {
        Self { dir, files: Vec::new(), dirty: Vec::new(), names_dirty: false, forget_clean: false }
    }

    /// The file for reading; `None` when it was never made.
    pub(crate) fn get(&mut self, index: usize) -> io::Result<Option<Arc<dyn File>>> {
        if let Some(Some(file)) = self.files.get(index) {
            return Ok(Some(Arc::clone(file)));
        }
        match self.dir.open(&name(index)) {
            Ok(file) => {
                if self.forget_clean {
                    file.forget_clean()?;
                }
                self.put(index, &file);
                Ok(Some(file))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn put(&mut self, index: usize, file: &Arc<dyn File>) {
        if self.files.len() <= index {
            self.files.resize(index + 1, None);
            self.dirty.resize(index + 1, false);
        }
        self.files[index] = Some(Arc::clone(file));
    }

    pub(crate) fn write(&mut self, place: Place, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let file = self.for_writing(place)?;
        self.mark_dirty(place);
        file.write_at(parts, place.offset)
    }

    /// Writes what nobody is about to read.
    pub(crate) fn write_aside(
        &mut self,
        place: Place,
        parts: &mut [IoSlice<'_>],
    ) -> io::Result<()> {
        let file = self.for_writing(place)?;
        self.mark_dirty(place);
        file.write_aside_at(parts, place.offset)
    }

    /// Something was written that the next sync must cover.
    pub(crate) fn mark_dirty(&mut self, place: Place) {
        self.dirty[place.file] = true;
    }

    /// The file of this place, which is made if it is not there.
    pub(crate) fn for_writing(&mut self, place: Place) -> io::Result<Arc<dyn File>> {
        if self.files.get(place.file).is_none_or(Option::is_none) {
            let (file, is_new) = match self.get(place.file)? {
                Some(file) => (file, false),
                None => (self.dir.create(&name(place.file))?, true),
            };
            self.put(place.file, &file);
            // Its name is synced with it, though nothing may be written to it for a while.
            self.dirty[place.file] |= is_new;
            self.names_dirty |= is_new;
        }
        self.files[place.file].clone().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether a sync has something to do here.
    pub(crate) fn is_dirty(&self) -> bool {
        self.names_dirty || self.dirty.iter().any(|d| *d)
    }

    /// The files that were written since the last time.
    pub(crate) fn take_dirty(&mut self) -> Vec<Arc<dyn File>> {
        let files = self.files.iter().zip(&mut self.dirty);
        files.filter_map(|(f, d)| std::mem::take(d).then(|| f.clone()).flatten()).collect()
    }

    /// Every file that is open, whether written or not: a checkpoint must not rely on a sync that
    /// somebody else has begun and not ended.
    pub(crate) fn opened(&self) -> Vec<Arc<dyn File>> {
        self.files.iter().flatten().map(Arc::clone).collect()
    }

    /// The files that these slots lie in.
    pub(crate) fn of_slots(&self, slots: &[u64]) -> Vec<(usize, Arc<dyn File>)> {
        let mut found: Vec<(usize, Arc<dyn File>)> = Vec::new();
        for slot in slots {
            let index = Place::of(*slot, 0).file;
            if found.last().is_none_or(|(last, _)| *last != index)
                && let Some(Some(file)) = self.files.get(index)
            {
                found.push((index, Arc::clone(file)));
            }
        }
        found
    }

    /// Whether the directory must be synced, once.
    pub(crate) fn take_names_dirty(&mut self) -> bool {
        std::mem::take(&mut self.names_dirty)
    }

    /// For recovery: nothing is known of what was synced.
    pub(crate) fn open_all(&mut self, slots: u64) -> io::Result<Vec<Arc<dyn File>>> {
        let mut all = Vec::new();
        for index in 0..usize::try_from(slots.div_ceil(SLOTS_PER_FILE)).unwrap_or(0) {
            all.extend(self.get(index)?);
        }
        Ok(all)
    }
}

/// Gives the room of slots (in order) back.
pub(crate) fn punch(files: &[(usize, Arc<dyn File>)], slots: &[u64]) -> io::Result<()> {
    for_runs(files, slots, |file, offset, len| file.punch(offset, len))
}

/// Takes room for slots (in order) before anything is written to them.
pub(crate) fn allocate(files: &[(usize, Arc<dyn File>)], slots: &[u64]) -> io::Result<()> {
    for_runs(files, slots, |file, offset, len| file.allocate(offset, len))
}

/// Does something to slots (in order): to those that lie side by side at once.
fn for_runs(
    files: &[(usize, Arc<dyn File>)],
    slots: &[u64],
    mut act: impl FnMut(&dyn File, u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = 0;
    while at < slots.len() {
        let first = slots[at];
        let mut len = 1;
        while at + len < slots.len()
            && slots[at + len] == first + len as u64
            && (first + len as u64) / SLOTS_PER_FILE == first / SLOTS_PER_FILE
        {
            len += 1;
        }
        let place = Place::of(first, 0);
        if let Some((_, file)) = files.iter().find(|(index, _)| *index == place.file) {
            act(file.as_ref(), place.offset, len as u64 * SLOT_BYTES)?;
        }
        at += len;
    }
    Ok(())
}
