//! A disk in memory with a volatile cache, on which a pool can be opened.
//!
//! ```text
//!   write ─▶ current ──sync──▶ durable        power_cut: current = durable + some of what was
//!   create, rename, remove ──sync of the directory──▶ durable names        not synced, torn
//! ```
//!
//! Invariant: what was synced is never lost. Which part of the rest survives a power cut follows
//! from its seed, the file and the place alone. Handles from before a cut or a kill are dead.

mod handle;
mod rot;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::medium::Directory;

pub use self::rot::Rot;
use crate::content::Content;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk. It is controlled here and used through [`SimDisk::root`].
pub struct SimDisk {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u64, SimFile>,
    /// Directories and files by path; a directory has no file.
    names: BTreeMap<String, Option<u64>>,
    durable_names: BTreeMap<String, Option<u64>>,
    next_file: u64,
    incarnation: u64,
    locked: bool,
    syncs: u64,
    stop_at_sync: Option<u64>,
    fail_sync: Option<u64>,
    stopped: bool,
    capacity: Option<u64>,
    cold: bool,
    bad: Option<(String, u64, u64)>,
    written: u64,
    remembered: Option<Vec<Arc<SimDisk>>>,
}

#[derive(Clone, Default)]
struct SimFile {
    current: Content,
    durable: Content,
    pending: Vec<Pending>,
}

#[derive(Clone)]
enum Pending {
    Write { offset: u64, data: Vec<u8> },
    Punch { offset: u64, len: u64 },
    Size(u64),
}

struct Handle {
    disk: Arc<SimDisk>,
    incarnation: u64,
    path: String,
    file: u64,
}

struct DirHandle {
    disk: Arc<SimDisk>,
    incarnation: u64,
    path: String,
}

struct Lock {
    disk: Arc<SimDisk>,
    incarnation: u64,
}

// === impl SimDisk ===

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default() })
    }

    /// Its root directory, for whoever uses the disk from now until the next cut or kill.
    #[must_use]
    pub fn root(self: &Arc<Self>) -> Arc<dyn Directory> {
        let incarnation = self.state().incarnation;
        Arc::new(DirHandle { disk: Arc::clone(self), incarnation, path: String::new() })
    }

    /// A disk with the same content that nobody uses: what a process would find if the one that
    /// uses this disk died now. It fails nothing and has room for everything.
    #[must_use]
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(self.state().copy()) })
    }

    /// From now on it is remembered for each sync what a process would find that died right before it.
    pub fn remember_syncs(&self) {
        self.state().remembered = Some(Vec::new());
    }

    /// What was remembered, in this order, and at the end what a process would find that died now. It
    /// remembers nothing more.
    #[must_use]
    pub fn remembered(&self) -> Vec<Arc<Self>> {
        let mut all = self.state().remembered.take().unwrap_or_default();
        all.push(self.fork());
        all
    }

    /// A sync is about to be done for a handle.
    fn remember(&self, incarnation: u64) {
        let mut state = self.state();
        if state.remembered.is_none() || state.incarnation != incarnation || state.stopped {
            return;
        }
        let found = Arc::new(Self { state: Mutex::new(state.copy()) });
        if let Some(all) = &mut state.remembered {
            all.push(found);
        }
    }

    /// The process that used it dies: everything that was written stays.
    pub fn kill(&self) {
        let mut state = self.state();
        state.restart();
        state.forget_unnamed();
    }

    /// Power is lost: what was not synced survives in part, as `seed` decides, and a write may be
    /// torn at any sector.
    pub fn power_cut(&self, seed: u64) {
        let mut state = self.state();
        state.restart();
        let mut random = Random(seed ^ 0x5851_f42d_4c95_7f2d);
        for (id, file) in &mut state.files {
            file.cut(&mut Random(mix(seed ^ mix(*id))));
        }
        // Names survive by directory: some of them keep the new state, some fall back.
        let mut keep = BTreeMap::new();
        let all: Vec<String> =
            state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        let mut kept = BTreeMap::new();
        for path in all {
            let parent = parent_of(&path).to_owned();
            let new = *keep.entry(parent).or_insert_with(|| random.next().is_multiple_of(2));
            let from = if new { &state.names } else { &state.durable_names };
            if let Some(file) = from.get(&path) {
                kept.insert(path, *file);
            }
        }
        // What lies in a directory that is gone is gone.
        let names: Vec<String> = kept.keys().cloned().collect();
        for path in names {
            let parent = parent_of(&path);
            if !parent.is_empty() && !kept.contains_key(parent) {
                kept.remove(&path);
            }
        }
        state.durable_names.clone_from(&kept);
        state.names = kept;
        state.forget_unnamed();
    }

    /// How many syncs, of files and directories, there were.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Bytes that were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.state().written
    }

    /// Sync number `number` (counted as [`SimDisk::syncs`] does) and everything after it fails,
    /// until the next cut or kill.
    pub fn stop_at_sync(&self, number: u64) {
        self.state().stop_at_sync = Some(number);
    }

    /// Whether the disk stopped where it was told to.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// Sync number `number` fails, once. As a kernel does it, what it should have made durable then
    /// counts as written: a later sync succeeds and does not make up for it.
    pub fn fail_sync(&self, number: u64) {
        self.state().fail_sync = Some(number);
    }

    /// Takes [`SimDisk::fail_sync`] and [`SimDisk::stop_at_sync`] back.
    pub fn repair(&self) {
        let mut state = self.state();
        state.fail_sync = None;
        state.stop_at_sync = None;
    }

    /// Whether a sync that was told to fail has not come yet.
    #[must_use]
    pub fn will_fail(&self) -> bool {
        self.state().fail_sync.is_some()
    }

    /// How many bytes the disk has room for; `None` for no end.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes of room that are taken.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.state().allocated()
    }

    /// From now on nothing is near: every read has to wait for the medium. Or everything is again.
    pub fn set_cold(&self, cold: bool) {
        self.state().cold = cold;
    }

    /// Reads that touch these bytes of the file at `path` fail; an empty path ends that.
    pub fn fail_reads(&self, path: &str, offset: u64, len: u64) {
        let bad = (!path.is_empty()).then(|| (path.to_owned(), offset, len));
        self.state().bad = bad;
    }

    /// Flips a bit of the file at `path`, behind everybody's back.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn corrupt(&self, path: &str, offset: u64) {
        let mut state = self.state();
        let id = state.names.get(path).copied().flatten().expect("the test names a file");
        let file = state.files.get_mut(&id).expect("a name has a file");
        for content in [&mut file.current, &mut file.durable] {
            let mut byte = [0];
            content.read(&mut byte, offset);
            content.write(offset, &[byte[0] ^ 1]);
        }
    }

    /// The paths of all files, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let state = self.state();
        state.names.iter().filter(|(_, f)| f.is_some()).map(|(p, _)| p.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for a handle that is still alive.
    fn alive(&self, incarnation: u64) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.incarnation != incarnation || state.stopped {
            return Err(io::Error::other("the disk is gone"));
        }
        Ok(state)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    /// The content, for a disk that nobody uses.
    fn copy(&self) -> Self {
        Self {
            files: self.files.clone(),
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            next_file: self.next_file,
            ..Self::default()
        }
    }

    fn restart(&mut self) {
        self.incarnation += 1;
        self.locked = false;
        self.stopped = false;
        self.stop_at_sync = None;
        self.fail_sync = None;
    }

    fn sync(&mut self) -> io::Result<()> {
        let number = self.syncs;
        self.syncs += 1;
        if self.stop_at_sync == Some(number) {
            self.stopped = true;
            return Err(io::Error::other("the disk stopped at this sync"));
        }
        if self.fail_sync == Some(number) {
            self.fail_sync = None;
            return Err(io::Error::other("this sync was told to fail"));
        }
        Ok(())
    }

    fn allocated(&self) -> u64 {
        let named = self.names.values().flatten();
        named.filter_map(|id| self.files.get(id)).map(|f| f.current.allocated()).sum()
    }

    fn take_room(&self, needed: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if needed > 0 && self.allocated() + needed > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    /// Drops files without a name; before that an open handle may still use them.
    fn forget_unnamed(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        self.files
            .retain(|id, _| names.values().chain(durable.values()).any(|file| *file == Some(*id)));
    }
}

// === impl SimFile ===

impl SimFile {
    fn change(&mut self, change: Pending) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// What counts as written is read from the medium from now on.
    fn forget_clean(&mut self) {
        self.current = self.durable.clone();
        for change in &self.pending {
            change.apply(&mut self.current);
        }
    }

    /// Keeps a part of what was not synced.
    fn cut(&mut self, random: &mut Random) {
        for change in self.pending.drain(..) {
            let fate = random.next() % 4;
            match (fate, change) {
                (0, _) => {}
                (1, Pending::Write { offset, data }) => {
                    tear(&mut self.durable, offset, &data, random)
                }
                (_, change) => change.apply(&mut self.durable),
            }
        }
        self.current = self.durable.clone();
    }
}

/// Writes some sectors of a write and not the others.
fn tear(content: &mut Content, offset: u64, data: &[u8], random: &mut Random) {
    let mut at = 0;
    while at < data.len() {
        let place = offset + at as u64;
        let into = crate::content::to_usize(place % SECTOR_BYTES as u64);
        let len = (SECTOR_BYTES - into).min(data.len() - at);
        if random.next().is_multiple_of(2) {
            content.write(place, &data[at..at + len]);
        }
        at += len;
    }
}

impl Pending {
    fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { offset, data } => content.write(*offset, data),
            Self::Punch { offset, len } => content.punch(*offset, *len),
            Self::Size(size) => content.set_size(*size),
        }
    }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A small generator: the same seed gives the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) >> 11
    }
}

/// The finaliser of splitmix64.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use store::medium::File;

    use super::*;

    fn write(file: &dyn File, offset: u64, data: &[u8]) {
        file.write_at(&mut [IoSlice::new(data)], offset).unwrap();
    }

    #[test]
    fn keeps_what_was_synced_and_a_part_of_the_rest() {
        let (mut torn, mut lost, mut kept) = (0, 0, 0);
        for seed in 0..64 {
            let disk = SimDisk::new();
            let root = disk.root();
            let file = root.create("a").unwrap();
            write(file.as_ref(), 0, &[1; 4096]);
            file.sync().unwrap();
            root.sync().unwrap();
            write(file.as_ref(), 0, &[2; 4096]);
            disk.power_cut(seed);
            assert!(file.size().is_err());
            let mut data = [0; 4096];
            disk.root().open("a").unwrap().read_at(&mut data, 0).unwrap();
            let new = data.chunks(512).filter(|s| s.iter().all(|b| *b == 2)).count();
            let old = data.chunks(512).filter(|s| s.iter().all(|b| *b == 1)).count();
            assert_eq!(new + old, 8);
            match new {
                0 => lost += 1,
                8 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(torn > 5 && lost > 5 && kept > 5, "{torn} {lost} {kept}");
    }

    /// Room was taken by a look at the size and a change of it: what was written behind it between the
    /// two was cut off.
    #[test]
    fn room_that_is_taken_cuts_nothing_off_that_is_written_meanwhile() {
        const STEPS: u64 = 20_000;
        let file = SimDisk::new().root().create("a").unwrap();
        let at = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    let step = at.load(std::sync::atomic::Ordering::Relaxed);
                    if step == STEPS {
                        break;
                    }
                    file.allocate(0, (step + 1) * 512 + 1).unwrap();
                }
            });
            for step in 0..STEPS {
                at.store(step, std::sync::atomic::Ordering::Relaxed);
                write(file.as_ref(), (step + 1) * 512, &[7; 512]);
            }
            at.store(STEPS, std::sync::atomic::Ordering::Relaxed);
        });
        let mut data = [0; 512];
        for step in 0..STEPS {
            assert_eq!(file.read_at(&mut data, (step + 1) * 512).unwrap(), 512, "step {step}");
            assert_eq!(data, [7; 512], "step {step}");
        }
    }

    #[test]
    fn forgets_names_that_were_not_synced() {
        let survived = (0..32).filter(|seed| {
            let disk = SimDisk::new();
            disk.root().create("a").unwrap().sync().unwrap();
            disk.power_cut(*seed);
            disk.root().open("a").is_ok()
        });
        assert!((1..32).contains(&survived.count()));
    }

    #[test]
    fn remembers_what_was_there_before_each_sync_and_in_the_end() {
        let disk = SimDisk::new();
        let file = disk.root().create("a").unwrap();
        disk.remember_syncs();
        for byte in [1, 2] {
            write(file.as_ref(), 0, &[byte]);
            file.sync().unwrap();
        }
        write(file.as_ref(), 0, &[3]);
        let found = disk.remembered().into_iter().map(|disk| {
            let mut data = [0];
            disk.root().open("a").unwrap().read_at(&mut data, 0).unwrap();
            data[0]
        });
        assert_eq!(found.collect::<Vec<u8>>(), [1, 2, 3]);
        file.sync().unwrap();
        assert_eq!(disk.remembered().len(), 1, "only the end");
    }

    #[test]
    fn stops_and_is_gone_until_the_power_is_back() {
        let disk = SimDisk::new();
        let file = disk.root().create("a").unwrap();
        disk.stop_at_sync(1);
        file.sync().unwrap();
        assert!(file.sync().is_err());
        assert!(disk.stopped());
        assert!(file.size().is_err());
        disk.kill();
        assert!(disk.root().open("a").is_ok());
    }
}
