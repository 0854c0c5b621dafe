//! Folding: what one layer has of a chunk is merged into what its neighbour has of it.
//!
//! A chunk that both have blocks of ends in the slot of the layer that takes: the blocks of the
//! other are copied into parts of it that nobody can see any more. So a chunk never has more than
//! one slot for each layer, however many snapshots came and went.
//!
//! Invariant: only what is durable is folded, and only after the names that could see the parts
//! which are copied over are durably gone. A slot that was copied from is kept until the copy is
//! committed: until then recovery may find that the copy is not there, and leave both as they were.

use std::sync::Arc;

use block::{BLOCK_BYTES, IoError};

use crate::crc::{BLOCK_SIZE, SLOT_SIZE, crc32c};
use crate::error::of_io;
use crate::medium::{File, read_padded};
use crate::runs::mask_runs;

use super::Inner;
use super::data::Place;
use super::map::{Map, PageKey, page_of};
use super::page::{BLOCKS, CHUNKS, Entry, NO_SLOT};
use super::record::Record;

/// Blocks that one step copies, but for the rest of a chunk: some hundred microseconds when they
/// are in memory.
const COPIES_PER_STEP: u32 = 64;
/// Chunks that one step folds.
const CHUNKS_PER_STEP: usize = 512;
/// Chunks that one step looks at; a page is loaded for 256 of them.
const LOOKS_PER_STEP: usize = 16 * CHUNKS;

/// What becomes of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// The new entry of the layer that takes. Its sums of copied blocks are those that the blocks
    /// should have.
    pub(super) entry: Entry,
    /// Which blocks are copied into its slot.
    pub(super) copied: u16,
    /// The slot that is not needed any more.
    pub(super) gone: Option<u64>,
}

/// How far a fold has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fold {
    pub(super) from: u32,
    pub(super) into: u32,
    /// The next chunk to look at.
    next: u64,
    /// Chunks were passed over because a sync must come first.
    passed: bool,
    /// Why chunks were left for good.
    failed: Option<IoError>,
    /// The chunk that a worker has brought near.
    warmed: Option<u64>,
}

/// A slot that is not in memory, as its file and its first byte there.
pub(super) type Far = (Arc<dyn File>, u64);

/// How a step ended.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// There is more to do at once.
    More,
    /// A sync must come first.
    Sync,
    /// Data must be brought near first.
    Cold(Far),
    /// The layer is empty, or as empty as it gets.
    End(Result<(), IoError>),
}

/// What one step has gathered.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    changes: Vec<(u64, Planned)>,
    copies: u32,
}

// === impl Fold ===

impl Fold {
    pub(super) fn new(from: u32, into: u32) -> Self {
        Self { from, into, ..Self::default() }
    }
}

/// Plans the fold of one chunk of `from` into its neighbour `into`.
pub(super) fn plan(
    map: &mut Map,
    (from, into): (u32, u32),
    chunk: u64,
) -> Result<Planned, IoError> {
    let down = map.lies_on(from, into);
    let lower = if down { into } else { from };
    let giving = map.entry(from, chunk)?;
    let taking = map.entry(into, chunk)?;
    let mut planned = merge(&giving, &taking, down, u16::MAX);
    if planned.entry.zero != 0 {
        // What lies below matters to what hides it, and to nothing else.
        let under = map.layers().get(lower).and_then(|layer| layer.parent);
        planned.entry.zero &= map.visible_through(under, chunk)? | map.beneath_mask(chunk);
    }
    Ok(planned)
}

/// Merges two entries of a chunk; `below` are the blocks that may lie below both.
fn merge(giving: &Entry, taking: &Entry, down: bool, below: u16) -> Planned {
    let (upper, lower) = if down { (giving, taking) } else { (taking, giving) };
    let seen = lower.valid & !(upper.valid | upper.zero);
    let (given, kept) = if down { (upper.valid, seen) } else { (seen, upper.valid) };
    let valid = given | kept;
    let (slot, copied) = match (given, kept) {
        (0, 0) => (NO_SLOT, 0),
        (_, 0) => (giving.slot, 0),
        (0, _) => (taking.slot, 0),
        _ => (taking.slot, given),
    };
    let mut entry = Entry {
        slot,
        valid,
        zero: (upper.zero | lower.zero) & !valid & below,
        summed: giving.summed & given | taking.summed & kept,
        sums: taking.sums,
    };
    for block in (0..BLOCKS).filter(|b| given & (1 << b) != 0) {
        entry.sums[block] = giving.sums[block];
    }
    // Never both: what the upper one has is always seen.
    let gone = [giving.slot, taking.slot].into_iter().find(|s| *s != NO_SLOT && *s != slot);
    Planned { entry, copied, gone }
}

// === impl Inner ===

impl Inner {
    /// Folds a few chunks.
    pub(super) fn step_fold(&mut self, fold: &mut Fold) -> Result<Step, IoError> {
        let mut batch = Batch::default();
        let mut far = None;
        for _ in 0..LOOKS_PER_STEP {
            let full = batch.copies >= COPIES_PER_STEP || batch.changes.len() >= CHUNKS_PER_STEP;
            if full || far.is_some() {
                break;
            }
            let Some(chunk) = self.next_chunk(fold)? else { break };
            far = self.gather(fold, chunk, &mut batch)?;
            if far.is_none() {
                fold.next = chunk + 1;
            }
        }
        self.commit_fold(*fold, batch)?;
        if let Some(far) = far {
            return Ok(Step::Cold(far));
        }
        if self.next_chunk(fold)?.is_some() {
            return Ok(Step::More);
        }
        let empty = self.map.layers().get(fold.from).is_none_or(|l| l.present.is_empty());
        let left = !empty && fold.failed.is_none();
        if fold.passed || left || (empty && self.chores.is_folded()) {
            // A layer goes only when the copies are committed: recovery may not believe a fold,
            // but what comes behind a commit it always does.
            (fold.passed, fold.next) = (false, 0);
            return Ok(Step::Sync);
        }
        Ok(Step::End(fold.failed.map_or(Ok(()), Err)))
    }

    /// The next chunk, from where the fold is, that its layer has something of.
    fn next_chunk(&mut self, fold: &mut Fold) -> Result<Option<u64>, IoError> {
        loop {
            let page = page_of(fold.next.min(block::VOLUME_BYTES_MAX / block::SLOT_BYTES));
            let Some(found) = self.map.next_page_of(&[fold.from], page) else { return Ok(None) };
            let base = u64::from(found) * CHUNKS as u64;
            fold.next = fold.next.max(base);
            let key = PageKey::new(fold.from, found);
            let next = self.map.page(key)?.and_then(|page| {
                page.used().map(|(place, _)| base + u64::from(place)).find(|c| *c >= fold.next)
            });
            if next.is_some() {
                return Ok(next);
            }
            fold.next = base + CHUNKS as u64;
        }
    }

    /// Plans a chunk and copies what must be copied. Returns what must be brought near first.
    fn gather(
        &mut self,
        fold: &mut Fold,
        chunk: u64,
        batch: &mut Batch,
    ) -> Result<Option<Far>, IoError> {
        let giving = self.map.entry(fold.from, chunk)?;
        let taking = self.map.entry(fold.into, chunk)?;
        if [giving.slot, taking.slot].iter().any(|slot| self.uncommitted.has(*slot)) {
            fold.passed = true;
            return Ok(None);
        }
        let mut planned = plan(&mut self.map, (fold.from, fold.into), chunk)?;
        let mut sums = [0; BLOCKS];
        if planned.copied != 0 {
            let near = fold.warmed == Some(chunk);
            match self.copy(&giving, &planned, near, &mut sums) {
                Ok(None) => {}
                Ok(far) => {
                    fold.warmed = Some(chunk);
                    return Ok(far);
                }
                Err(Blame::Source(error)) => {
                    // The layers stay apart here, so that nobody takes damage for content.
                    fold.failed = Some(error);
                    return Ok(None);
                }
                Err(Blame::Target(error)) => return Err(error),
            }
            for block in (0..BLOCKS).filter(|b| planned.copied & (1 << b) != 0) {
                planned.entry.sums[block] = sums[block];
            }
            planned.entry.summed |= planned.copied;
            batch.copies += planned.copied.count_ones();
        }
        batch.records.push(Record::Fold {
            from: fold.from,
            into: fold.into,
            chunk,
            slot: planned.entry.slot,
            copied: planned.copied,
            sums,
        });
        batch.changes.push((chunk, planned));
        Ok(None)
    }

    /// Copies blocks of one slot to the same places of another. Returns what is not near, unless
    /// it `may_wait`.
    fn copy(
        &mut self,
        giving: &Entry,
        planned: &Planned,
        may_wait: bool,
        sums: &mut [u32; BLOCKS],
    ) -> Result<Option<Far>, Blame> {
        let mut data = [0; SLOT_SIZE];
        let source = Place::of(giving.slot, 0);
        let failed = |error| Blame::Source(of_io(&error));
        // A file that is not there was never written: its blocks are zeroes.
        let file = self.data.get(source.file).map_err(failed)?;
        for run in mask_runs(planned.copied) {
            let range = bytes_of(run.first())..bytes_of(run.end());
            let offset = source.offset + run.first() * BLOCK_BYTES;
            let Some(file) = &file else { continue };
            if may_wait {
                read_padded(file.as_ref(), &mut data[range], offset).map_err(failed)?;
            } else if !file.try_read_at(&mut data[range], offset).map_err(failed)? {
                return Ok(Some((Arc::clone(file), source.offset)));
            }
        }
        for block in (0..BLOCKS).filter(|b| planned.copied & (1 << b) != 0) {
            sums[block] = crc32c(&data[block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE]);
            self.check(giving, block, sums[block]).map_err(Blame::Source)?;
        }
        for run in mask_runs(planned.copied) {
            let range = bytes_of(run.first())..bytes_of(run.end());
            let place = Place::of(planned.entry.slot, run.first() * BLOCK_BYTES);
            let len = range.len() as u64;
            self.data
                .write(place, &mut [std::io::IoSlice::new(&data[range])])
                .map_err(|error| Blame::Target(self.failed(&error)))?;
            self.metrics.written_data.increment(len);
        }
        Ok(None)
    }

    /// Logs and applies what a step has gathered.
    fn commit_fold(&mut self, fold: Fold, batch: Batch) -> Result<(), IoError> {
        if batch.records.is_empty() {
            return Ok(());
        }
        let first = self.log.next();
        self.append(&batch.records)?;
        for (record, (chunk, planned)) in (first..).zip(batch.changes) {
            let giving = self.map.entry(fold.from, chunk)?;
            self.map.set(fold.into, chunk, planned.entry)?;
            self.map.set(fold.from, chunk, Entry::EMPTY)?;
            let copied = planned.copied != 0;
            if copied {
                self.uncommitted.add(planned.entry.slot, planned.copied, record);
                self.chores.fold_logged(record);
            }
            debug_assert!(!copied || planned.gone == Some(giving.slot));
            if let Some(slot) = planned.gone {
                self.slots.give_up_after(slot, self.next_id, if copied { record } else { 0 });
            }
        }
        Ok(())
    }
}

/// Whose fault a failed copy is.
enum Blame {
    /// What is copied cannot be read or is damaged.
    Source(IoError),
    /// It cannot be written.
    Target(IoError),
}

fn bytes_of(block: u64) -> usize {
    usize::try_from(block * BLOCK_BYTES).expect("a chunk fits memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(slot: u64, valid: u16, zero: u16) -> Entry {
        let first = u32::try_from(slot % 1000).unwrap() * 100;
        let mut sums = [0; BLOCKS];
        (first..).zip(&mut sums).for_each(|(sum, place)| *place = sum);
        Entry { slot, valid, zero, summed: valid, sums }
    }

    #[test]
    fn what_the_upper_one_has_or_hides_wins() {
        let (upper, lower) = (entry(1, 0b0011, 0b0100), entry(2, 0b1110, 0));
        for (giving, taking, down) in [(&upper, &lower, true), (&lower, &upper, false)] {
            let planned = merge(giving, taking, down, 0);
            assert_eq!(planned.entry.slot, taking.slot);
            assert_eq!((planned.entry.valid, planned.entry.zero), (0b1011, 0));
            assert_eq!(planned.copied, if down { 0b0011 } else { 0b1000 });
            assert_eq!(planned.gone, Some(giving.slot));
            assert_eq!(planned.entry.sums[..4], [100, 101, planned.entry.sums[2], 203]);
            // What still lies below must stay hidden.
            assert_eq!(merge(giving, taking, down, 0b0100).entry.zero, 0b0100);
        }
    }

    #[test]
    fn nothing_is_copied_where_one_of_them_is_all_there_is() {
        let (upper, lower) = (entry(1, 0b0110, 0), entry(2, 0b0110, 0));
        for planned in [merge(&upper, &lower, true, 0), merge(&lower, &upper, false, 0)] {
            assert_eq!((planned.copied, planned.gone), (0, Some(2)));
            assert_eq!((planned.entry.slot, planned.entry.valid), (1, 0b0110));
            assert_eq!(planned.entry.sums[1..3], upper.sums[1..3]);
        }
        let planned = merge(&upper, &Entry::EMPTY, true, 0);
        assert_eq!((planned.entry.slot, planned.entry.valid, planned.gone), (1, 0b0110, None));
        let hides = entry(NO_SLOT, 0, 0b0110);
        let planned = merge(&hides, &lower, true, 0);
        assert!(planned.entry.is_empty() && planned.entry.slot == NO_SLOT);
        assert_eq!(planned.gone, Some(2));
    }
}
