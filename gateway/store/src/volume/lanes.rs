//! What a volume lets workers do: syncs, checkpoints, the activity record, the mark of a clean
//! close. One of each kind is under way at a time; what comes in meanwhile shares the next one.
//!
//! Invariant: a flush is answered after the data, then the log, were synced. A checkpoint is
//! committed after the data was synced, and only then are the logs before it removed.

mod record;

use std::io;
use std::sync::{Arc, PoisonError};

use block::{ActivityExtent, BLOCK_BYTES, IoError, Ticket};
use redb::{Database, TableDefinition};
use tokio::time::Instant;

use crate::database;
use crate::error::StoreError;
use crate::executor::Lane;

use super::ask::Told;
use super::bulk::Bulk;
use super::map::{PAGES, PageKey};
use super::page::Page;
use super::read::Cold;
use super::record::Record;
use super::state::State;
use super::{Inner, data, log};

/// The state of the volume, under [`STATE_KEY`].
pub(super) const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
/// The one key of [`STATE`].
pub(super) const STATE_KEY: &str = "state";

/// A log of 16 MiB is replayed in well under a second. It holds twice as many records as make the store
/// commit, so that not every commit is a checkpoint.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// 512 pages (8 GiB of the volume) are 10 MiB to write.
const DIRTY_PAGES_MAX: usize = 512;
/// Blocks that were recorded since the last commit: 256 MiB at most to verify after a crash.
const UNCOMMITTED_MAX: u64 = (256 << 20) / BLOCK_BYTES;
/// Slots that wait to be given back: 64 MiB.
const FREED_MAX: usize = 1024;
/// Extents that the store recorded by itself before it lets go of the settled ones: 16 GiB.
const OWN_MAX: usize = 4096;

/// A full map page, and what the database adds.
const PAGE_BYTES_MAX: u64 = 24 << 10;

/// What a worker has done.
#[derive(Debug)]
pub(super) enum Done {
    Read(Cold),
    Wrote(Bulk),
    DataSynced(io::Result<f64>),
    LogSynced(Result<(), StoreError>),
    Checkpointed(Result<u64, StoreError>),
    Recorded(Result<(), StoreError>),
    /// A long change goes on.
    Continue,
    /// What removed snapshots leave is worked off.
    Chore,
    /// The origin answered.
    Told(Told),
    /// Room was taken ahead, unless there is none to spare.
    Readied(io::Result<bool>),
}

/// The lanes of one volume.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) reads: Vec<(u64, Ticket)>,
    pub(super) bulks: Vec<(u64, Ticket)>,
    sync: Sync,
    checkpoint: Checkpoint,
    activity: Activity,
    closing: Vec<Ticket>,
    /// The size that the next sync tells the pool.
    pub(super) resized: Option<u64>,
    /// The mark of a clean close is on disk.
    pub(super) marked_clean: bool,
}

#[derive(Debug, Default)]
struct Sync {
    waiting: Vec<Ticket>,
    /// Wanted by the store itself.
    wanted: bool,
    running: bool,
    current: Vec<Ticket>,
    /// The first record that the sync under way does not cover.
    upto: u64,
}

#[derive(Debug, Default)]
struct Checkpoint {
    wanted: bool,
    running: bool,
    begun: u64,
    ended: u64,
}

#[derive(Debug, Default)]
struct Activity {
    waiting: Vec<(Vec<ActivityExtent>, Ticket)>,
    next: Option<Next>,
    running: bool,
}

#[derive(Debug)]
struct Next {
    set: Vec<ActivityExtent>,
    tickets: Vec<Ticket>,
    /// The checkpoint that must have ended before.
    after: u64,
}

// === impl Lanes ===

impl Lanes {
    pub(super) fn new(marked_clean: bool) -> Self {
        Self { marked_clean, ..Self::default() }
    }

    /// Slots wait for a sync, and somebody needs them.
    pub(super) fn want_reclaim(&mut self) {
        self.sync.wanted = true;
    }

    pub(super) fn is_closing(&self) -> bool {
        !self.closing.is_empty()
    }

    /// The first read that is still under way; a number that none has when there is none.
    pub(super) fn oldest_read(&self) -> u64 {
        self.reads.iter().map(|(id, _)| *id).min().unwrap_or(u64::MAX)
    }

    /// Every ticket that waits for something other than a read.
    pub(super) fn drain(&mut self) -> Vec<Ticket> {
        let mut all = std::mem::take(&mut self.sync.waiting);
        all.append(&mut self.sync.current);
        all.extend(self.activity.waiting.drain(..).map(|(_, ticket)| ticket));
        all.extend(self.activity.next.take().into_iter().flat_map(|n| n.tickets));
        all.append(&mut self.closing);
        all
    }
}

// === impl Inner ===

impl Inner {
    pub(super) fn want_sync(&mut self, ticket: Ticket) {
        // What was planned in this batch before the flush is written first.
        self.flush_group();
        self.lanes.sync.waiting.push(ticket);
    }

    pub(super) fn want_activity(&mut self, active: Vec<ActivityExtent>, ticket: Ticket) {
        if self.latched {
            ticket.fail(IoError::Latched);
        } else if active.len() > super::activity::EXTENTS_MAX {
            ticket.fail(IoError::Invalid);
        } else {
            self.lanes.activity.waiting.push((active, ticket));
        }
    }

    pub(super) fn want_close(&mut self, ticket: Ticket) {
        if self.latched {
            ticket.fail(IoError::Latched);
        } else {
            self.lanes.closing.push(ticket);
        }
    }

    /// Starts whatever is wanted and can start.
    pub(super) fn settle(&mut self) {
        if self.latched {
            return;
        }
        // A checkpoint that is under way commits, too.
        let commits =
            self.uncommitted.recorded() > UNCOMMITTED_MAX && !self.lanes.checkpoint.running;
        if commits || self.slots.freed() > FREED_MAX {
            self.lanes.sync.wanted = true;
        }
        if self.log.bytes() > LOG_BYTES_MAX
            || self.map.dirty() > DIRTY_PAGES_MAX
            || self.own > OWN_MAX
        {
            self.lanes.checkpoint.wanted = true;
        }
        self.start_sync();
        self.start_activity();
        self.start_checkpoint();
        self.step_close();
        let layers = self.map.layers().all().len();
        if layers > 1 || !self.chores.is_idle() || self.slots.parked() > 0 {
            self.settle_chores();
        }
    }

    pub(super) fn finish(&mut self, done: Done) {
        match done {
            Done::Read(cold) => self.finish_read(cold),
            Done::Wrote(bulk) => self.finish_bulk(bulk),
            Done::Continue => self.continue_long(),
            Done::Chore => self.step_chores(),
            Done::Told(told) => self.told(told),
            Done::Readied(result) => self.readied(result),
            Done::DataSynced(result) => self.data_synced(result),
            Done::LogSynced(result) => self.log_synced(result),
            Done::Checkpointed(result) => self.checkpointed(result),
            Done::Recorded(result) => self.recorded(result),
        }
    }

    fn run(&self, job: impl FnOnce() -> Done + Send + 'static) {
        self.run_in(Lane::Sync, job);
    }

    /// Lets a worker do something. The volume counts as open until it has ended, so that nobody
    /// opens the same files beside it.
    pub(super) fn run_in(&self, lane: Lane, job: impl FnOnce() -> Done + Send + 'static) {
        let sender = self.sender.clone();
        let host = Arc::clone(&self.host);
        self.executor.run(lane, move || {
            let done = job();
            // Before the answer: whoever has it may close the volume and open it again.
            drop(host);
            // Nobody waits for it any more when the volume is gone.
            sender.send(done).ok();
        });
    }

    pub(super) fn give_out(&mut self, doing: &'static str, error: &dyn std::error::Error) {
        tracing::error!(error = %format!("{error:#}"), doing, "volume is latched");
        self.latch();
    }

    // --- sync ---

    fn start_sync(&mut self) {
        let sync = &mut self.lanes.sync;
        if sync.running || (sync.waiting.is_empty() && !sync.wanted) {
            return;
        }
        sync.wanted = false;
        sync.current = std::mem::take(&mut sync.waiting);
        sync.upto = self.log.next();
        self.uncommitted.begin(sync.upto);
        sync.running = true;
        let files = self.data.take_dirty();
        if files.is_empty() {
            return self.data_synced(Ok(0.0));
        }
        // A file without a name is not there after a loss of power, and a commit would have its
        // blocks believed.
        let names = self.data.take_names_dirty().then(|| Arc::clone(&self.dir));
        self.run(move || {
            let start = Instant::now();
            let files = files.iter().try_for_each(|file| file.sync());
            let result = files.and_then(|()| names.map_or(Ok(()), |dir| dir.sync()));
            Done::DataSynced(result.map(|()| start.elapsed().as_secs_f64()))
        });
    }

    /// The data is durable: the records that stand for it may be believed from now on.
    fn data_synced(&mut self, result: io::Result<f64>) {
        match result {
            Ok(seconds) if seconds > 0.0 => self.metrics.sync_duration.record(seconds),
            Ok(_) => {}
            Err(e) => return self.give_out("sync data", &e),
        }
        if self.latched {
            return;
        }
        let upto = self.lanes.sync.upto;
        let commits = self.chores.folded_before(upto) || self.uncommitted.any_before(upto);
        if commits {
            if let Err(e) = self.append(&[Record::Commit { upto }]) {
                for ticket in std::mem::take(&mut self.lanes.sync.current) {
                    ticket.fail(e);
                }
                self.lanes.sync.running = false;
                return;
            }
            self.uncommitted.committed(upto);
            self.chores.committed(upto);
            self.unpark();
        }
        if !self.log.unsynced() && self.lanes.resized.is_none() && self.slots.freed() == 0 {
            return self.end_sync();
        }
        let names = self.log.take_unnamed();
        let slots = self.slots.begin_sync();
        let files = self.data.of_slots(&slots);
        let logs = self.log.take_unsynced();
        let dir = Arc::clone(&self.dir);
        let resized = self.lanes.resized.take();
        let host = Arc::clone(&self.host);
        self.run(move || {
            let sync = || -> Result<(), StoreError> {
                if names {
                    dir.sync().map_err(StoreError::io("sync volume directory"))?;
                }
                for file in logs {
                    file.sync().map_err(StoreError::io("sync the map's log"))?;
                }
                if let Err(error) = data::punch(&files, &slots) {
                    // The room is lost until the slots are used again; nothing else is.
                    tracing::warn!(%error, "give room back");
                }
                resized.map_or(Ok(()), |bytes| host.resized(bytes))
            };
            Done::LogSynced(sync())
        });
    }

    fn log_synced(&mut self, result: Result<(), StoreError>) {
        if let Err(e) = result {
            return self.give_out("sync log", &e);
        }
        self.slots.end_sync();
        self.end_sync();
    }

    fn end_sync(&mut self) {
        self.lanes.sync.running = false;
        self.chores.synced(self.lanes.sync.upto);
        for ticket in std::mem::take(&mut self.lanes.sync.current) {
            ticket.done();
        }
    }

    // --- checkpoint ---

    fn start_checkpoint(&mut self) {
        let checkpoint = &mut self.lanes.checkpoint;
        if !checkpoint.wanted || checkpoint.running {
            return;
        }
        checkpoint.wanted = false;
        let old = self.log.generation;
        if let Err(e) = self.has_room().and_then(|()| self.log.rotate(self.dir.as_ref())) {
            // A full disk: the log goes on growing in the room that it has.
            tracing::warn!(error = %e, "begin a checkpoint");
            for ticket in self.lanes.activity.next.take().into_iter().flat_map(|n| n.tickets) {
                ticket.fail(crate::error::of_io(&e));
            }
            return;
        }
        self.lanes.checkpoint.running = true;
        self.lanes.checkpoint.begun += 1;
        self.uncommitted.begin(self.log.base());
        let state = self.state();
        let pages = self.map.begin_checkpoint();
        let files = self.data.opened();
        let log = self.log.file();
        let (dir, database) = (Arc::clone(&self.dir), Arc::clone(&self.database));
        self.run(move || {
            let write = || -> Result<u64, StoreError> {
                for file in &files {
                    file.sync().map_err(StoreError::io("sync data"))?;
                }
                log.sync().map_err(StoreError::io("sync the map's new log"))?;
                dir.sync().map_err(StoreError::io("sync volume directory"))?;
                let bytes = write_checkpoint(&database, &pages, &state)?;
                for generation in (1..=old).rev() {
                    if dir.remove(&log::name(generation)).is_err() {
                        break;
                    }
                }
                Ok(bytes)
            };
            Done::Checkpointed(write())
        });
    }

    /// A checkpoint that meets a full disk half way would cost the volume its database.
    fn has_room(&self) -> io::Result<()> {
        let needed = (self.map.dirty() as u64 + 16) * PAGE_BYTES_MAX * 2;
        if self.dir.room()?.free < needed {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// What a checkpoint that begins now must keep.
    pub(super) fn state(&mut self) -> State {
        let (free, unpunched) = self.slots.for_checkpoint();
        State {
            bytes: self.geometry.bytes(),
            log: self.log.generation,
            base: self.log.base(),
            next_slot: self.slots.next,
            mapped: self.map.mapped,
            layers: self.map.layers().clone(),
            free,
            unpunched,
            beneath: self.map.checkpoint_beneath(),
        }
    }

    fn checkpointed(&mut self, result: Result<u64, StoreError>) {
        match result {
            Ok(bytes) => self.metrics.written_metadata.increment(bytes),
            Err(e) => return self.give_out("write checkpoint", &e),
        }
        self.map.end_checkpoint();
        self.log.forget_old();
        let base = self.log.base();
        self.uncommitted.committed(base);
        self.chores.committed(base);
        self.chores.synced(base);
        let checkpoint = &mut self.lanes.checkpoint;
        checkpoint.running = false;
        checkpoint.ended = checkpoint.begun;
        if self.slots.freed() > 0 {
            self.lanes.sync.wanted = true;
        }
        let activity = &self.lanes.activity;
        if self.own > OWN_MAX / 2 && activity.next.is_none() && !activity.running {
            self.forget_settled();
        }
    }

    /// Lets go of extents that the store recorded by itself and whose checksums are durable.
    fn forget_settled(&mut self) {
        let mut activity = self.activity.lock().unwrap_or_else(PoisonError::into_inner);
        let unsaved = self.map.unsaved_pages();
        activity.retain_own(|e| unsaved.contains(page_of_extent(*e)));
        self.own = activity.own().len();
        self.recorded =
            activity.own().iter().chain(activity.given()).map(|e| (e.index(), ())).collect();
    }

    fn is_busy(&self) -> bool {
        let lanes = &self.lanes;
        !lanes.bulks.is_empty()
            || lanes.sync.running
            || !lanes.sync.waiting.is_empty()
            || lanes.checkpoint.running
            || lanes.activity.running
            || lanes.activity.next.is_some()
            || self.slots.is_readying()
            || !self.long.is_empty()
    }
}

/// Writes map pages and state in one transaction; says how many bytes.
pub(super) fn write_checkpoint(
    database: &Database,
    pages: &[(PageKey, Arc<Page>)],
    state: &State,
) -> Result<u64, StoreError> {
    let mut bytes = 0;
    let transaction = database::begin(database)?;
    {
        let mut table =
            transaction.open_table(PAGES).map_err(StoreError::database("open the map"))?;
        for (key, page) in pages {
            if page.is_empty() {
                table.remove(key.bare()).map_err(StoreError::database("remove map page"))?;
            } else {
                let value = page.encode();
                bytes += value.len() as u64;
                table
                    .insert(key.bare(), value.as_slice())
                    .map_err(StoreError::database("write map page"))?;
            }
        }
        let mut table =
            transaction.open_table(STATE).map_err(StoreError::database("open the state"))?;
        let value = state.encode();
        bytes += value.len() as u64;
        table
            .insert(STATE_KEY, value.as_slice())
            .map_err(StoreError::database("write the state"))?;
    }
    transaction.commit().map_err(StoreError::database("commit checkpoint"))?;
    Ok(bytes)
}

/// The number of the map page that an extent of the activity log lies in.
fn page_of_extent(extent: ActivityExtent) -> u32 {
    u32::try_from(extent.index() / 4).unwrap_or(u32::MAX)
}
