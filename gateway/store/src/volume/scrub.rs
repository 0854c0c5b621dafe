//! Reading what is stored and holding it against its checksums, and putting back what was lost.
//!
//! Invariant: a scrub changes nothing but the trust in checksums; the caller sets the pace. A repair
//! writes only over a block that does not match its checksum, and only content that does: whatever
//! copy that came from, it is what was stored here. It looks and writes in one turn of the volume's
//! thread, so no lock against hosts is needed.

use std::io::IoSlice;

use block::{BLOCK_BYTES, BlockRange, BlockSet, Extent, IoError, SLOT_BYTES, SnapshotId};

use crate::crc::{BLOCK_SIZE, SLOT_SIZE, crc32c};
use crate::runs::mask_runs;

use super::data::Place;
use super::page::BLOCKS;
use super::read::mask_of;
use super::{Inner, PoolVolume};

/// What one step of a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Where the next step begins; `None` when all was checked.
    pub next: Option<u64>,
    /// Bytes that were read.
    pub bytes: u64,
    /// Blocks that do not match their checksum or cannot be read.
    pub bad: BlockSet,
}

/// What became of a block that was to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// What was lost is there again, durable with the next flush.
    Done,
    /// There is nothing to repair: it is good, or was overwritten or given back meanwhile.
    Good,
    /// What was given is not what was stored here, or nothing says what that was.
    Differs,
}

/// Ranges of a snapshot that one step of a scrub looks at.
const STEP_RANGES: usize = 256;

// === impl PoolVolume ===

impl PoolVolume {
    /// As [`PoolVolume::scrub`], of what a snapshot shows otherwise than a newer one does, or than the
    /// volume itself if there is none: over all snapshots, that is what only they hold.
    ///
    /// # Errors
    /// As for [`PoolVolume::scrub`]; [`IoError::Invalid`] when one of the two is not there.
    pub fn scrub_snapshot(
        &self,
        snapshot: SnapshotId,
        newer: Option<SnapshotId>,
        (from, budget_bytes): (u64, u64),
    ) -> Result<Scrubbed, IoError> {
        self.inner.borrow_mut().scrub_snapshot(snapshot, newer, (from, budget_bytes))
    }

    /// As [`PoolVolume::repair`], of what a snapshot shows.
    ///
    /// # Errors
    /// As for [`PoolVolume::repair`]; [`IoError::Invalid`] when the snapshot is not there.
    pub fn repair_snapshot(
        &self,
        snapshot: SnapshotId,
        block: u64,
        content: &[u8],
    ) -> Result<Repaired, IoError> {
        self.inner.borrow_mut().through(snapshot, |inner| inner.repair(block, content))?
    }
}

// === impl Inner ===

impl Inner {
    /// CRC32C of each block of an extent, 0 for zeroes.
    pub(super) fn checksums(&mut self, extent: Extent) -> Result<Vec<u32>, IoError> {
        if self.latched {
            return Err(IoError::Latched);
        }
        if !extent.is_block_aligned() {
            return Err(IoError::Invalid);
        }
        if !self.geometry.whole().covers(extent) {
            return Err(IoError::OutOfRange);
        }
        let mut out = Vec::new();
        for piece in extent.pieces(SLOT_BYTES) {
            let wanted = mask_of(piece);
            let mut sums = [0; BLOCKS];
            self.sum_chunk(piece.offset() / SLOT_BYTES, wanted, &mut sums)?;
            out.extend(
                (0..BLOCKS).filter(|b| wanted & (1 << b) != 0).map(|b| block::crc::listed(sums[b])),
            );
        }
        Ok(out)
    }

    /// Reads and checks blocks of a chunk.
    fn sum_chunk(
        &mut self,
        chunk: u64,
        wanted: u16,
        sums: &mut [u32; BLOCKS],
    ) -> Result<(), IoError> {
        if self.map.reaching(chunk, wanted)? != 0 {
            return Err(IoError::Origin);
        }
        let mut data = [0; SLOT_SIZE];
        for (source, entry) in self.map.sources(chunk, wanted)? {
            for run in mask_runs(source.mask) {
                let len = usize::try_from(run.count() * BLOCK_BYTES).unwrap_or(data.len());
                let place = Place::of(source.slot, run.first() * BLOCK_BYTES);
                self.read_place(place, &mut data[..len])?;
                let blocks = data[..len].chunks_exact(BLOCK_SIZE);
                for (block, content) in (run.first()..).zip(blocks) {
                    let block = usize::try_from(block).unwrap_or(0);
                    sums[block] = crc32c(content);
                    self.check(&entry, block, sums[block])?;
                }
            }
            let learned = source.mask & !entry.summed;
            if learned != 0 {
                self.map.set_sums(source.layer, chunk, learned, sums);
            }
        }
        Ok(())
    }

    /// Puts the content of a block back where it does not match its checksum.
    pub(super) fn repair(&mut self, block: u64, content: &[u8]) -> Result<Repaired, IoError> {
        if self.latched {
            return Err(IoError::Latched);
        }
        if content.len() != BLOCK_SIZE {
            return Err(IoError::Invalid);
        }
        self.flush_group();
        let at = usize::try_from(block % BLOCKS as u64).unwrap_or(0);
        let source = self.map.sources(block / BLOCKS as u64, 1 << at)?.into_iter().next();
        let Some((source, entry)) = source else { return Ok(Repaired::Good) };
        if entry.summed & (1 << at) == 0 {
            return Ok(Repaired::Differs);
        }
        let place = Place::of(source.slot, at as u64 * BLOCK_BYTES);
        let sum = entry.sums[at];
        if self.holds(place, sum) {
            return Ok(Repaired::Good);
        }
        if crc32c(content) != sum {
            return Ok(Repaired::Differs);
        }
        // The same place: every layer and snapshot that reads it has it back. A crash in the middle
        // leaves what does not match, as before.
        if let Err(e) = self.data.write(place, &mut [IoSlice::new(content)]) {
            return Err(self.failed(&e));
        }
        self.metrics.written_data.increment(content.len() as u64);
        if self.holds(place, sum) { Ok(Repaired::Done) } else { Err(IoError::Media) }
    }

    /// Whether a place can be read and matches a checksum.
    fn holds(&mut self, place: Place, sum: u32) -> bool {
        let mut there = [0; BLOCK_SIZE];
        self.read_place(place, &mut there).is_ok() && crc32c(&there) == sum
    }

    /// Reads the volume as it was at a snapshot while `look` lasts.
    fn through<T>(
        &mut self,
        snapshot: SnapshotId,
        look: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, IoError> {
        let layers = self.map.layers();
        let layer = layers.named(snapshot).ok_or(IoError::Invalid)?.id;
        let before = self.map.read_through(layer);
        let out = look(self);
        self.map.read_through(before);
        Ok(out)
    }

    fn scrub_snapshot(
        &mut self,
        snapshot: SnapshotId,
        newer: Option<SnapshotId>,
        (from, budget_bytes): (u64, u64),
    ) -> Result<Scrubbed, IoError> {
        if self.latched {
            return Err(IoError::Latched);
        }
        let differs = match newer {
            Some(newer) => self.changed_between((snapshot, newer), from, STEP_RANGES)?,
            None => self.changed_since(snapshot, from, STEP_RANGES)?,
        };
        let more = differs.len() >= STEP_RANGES;
        self.through(snapshot, |inner| {
            let mut found = Scrubbed { next: None, bytes: 0, bad: BlockSet::new() };
            for range in &differs {
                if found.bytes >= budget_bytes {
                    found.next = Some(range.first());
                    return Ok(found);
                }
                // Of what differs, only what is stored: the rest is nobody's to lose.
                let mut stored = BlockSet::new();
                inner.visit(range.first(), false, |run| {
                    let end = run.end().min(range.end());
                    if run.first() < end {
                        stored.push(BlockRange::new(run.first(), end));
                    }
                    run.end() < range.end()
                })?;
                found.bytes += stored.iter().map(|run| run.count() * BLOCK_BYTES).sum::<u64>();
                inner.find_bad(&stored, &mut found.bad);
            }
            found.next = differs.last().filter(|_| more).map(|last| last.end());
            Ok(found)
        })?
    }

    /// Checks ranges that are stored. Block by block only where something is wrong.
    fn find_bad(&mut self, ranges: &[BlockRange], bad: &mut BlockSet) {
        for extent in ranges.iter().filter_map(|r| r.extent()) {
            if self.checksums(extent).is_err() {
                let blocks = extent.blocks();
                for block in blocks.first()..blocks.end() {
                    let one = BlockRange::new(block, block + 1);
                    if one.extent().is_some_and(|e| self.checksums(e).is_err()) {
                        bad.push(one);
                    }
                }
            }
        }
    }

    pub(super) fn scrub(&mut self, from: u64, budget_bytes: u64) -> Result<Scrubbed, IoError> {
        if self.latched {
            return Err(IoError::Latched);
        }
        let mut ranges = Vec::new();
        let mut planned = 0;
        let mut next = None;
        self.visit(from, false, |range| {
            if planned >= budget_bytes {
                next = Some(range.first());
                return false;
            }
            planned += range.count() * BLOCK_BYTES;
            ranges.push(range);
            true
        })?;
        let mut found = Scrubbed { next, bytes: planned, bad: Vec::new() };
        self.find_bad(&ranges, &mut found.bad);
        Ok(found)
    }
}
