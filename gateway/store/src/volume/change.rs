//! Trim and zero, page by page.
//!
//! Invariant: a record stands in the log before a block is dropped from the map. A range of any
//! size costs what is mapped in it, and a shard is never held up for longer than one step.

use std::sync::Arc;

use block::{BLOCK_BYTES, BlockRange, Extent, IoError, SLOT_BYTES, Ticket};
use bytes::Bytes;

use crate::executor::Executor;
use crate::runs;

use super::lanes::Done;
use super::map::{PageKey, page_of};
use super::page::{BLOCKS, CHUNKS, NO_SLOT};
use super::record::Record;
use super::{Inner, outcome};

/// Pages that one step drops: about a millisecond when they must be loaded.
const PAGES_PER_STEP: usize = 32;
/// Zeroes that one step writes.
const FILL_BYTES: u64 = 1 << 20;
const FILL_STEPS: usize = 4;
const BLOCKS_PER_PAGE: u64 = (CHUNKS * BLOCKS) as u64;

static ZEROES: [u8; 1 << 20] = [0; 1 << 20];
const _: () = assert!(ZEROES.len() as u64 == FILL_BYTES);

/// A change that takes more than one step.
#[derive(Debug)]
pub(super) struct Long {
    id: u64,
    kind: Kind,
    fua: bool,
    pub(super) ticket: Ticket,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Drop the blocks from the first to the end.
    Drop { next: u64, end: u64 },
    /// Write zeroes over these bytes.
    Fill { next: u64, end: u64 },
}

// === impl Inner ===

impl Inner {
    pub(super) fn trim(&mut self, extent: Extent, fua: bool, ticket: Ticket) {
        let whole = extent.whole_blocks();
        self.start(extent, Kind::Drop { next: whole.first(), end: whole.end() }, fua, ticket);
    }

    pub(super) fn zero(&mut self, extent: Extent, may_trim: bool, fua: bool, ticket: Ticket) {
        if !may_trim {
            let kind = Kind::Fill { next: extent.offset(), end: extent.end() };
            return self.start(extent, kind, fua, ticket);
        }
        for edge in runs::edges(extent) {
            if let Err(e) = self.zero_edge(edge) {
                return ticket.fail(e);
            }
        }
        self.trim(extent, fua, ticket);
    }

    /// Zeroes a part of one block, unless it reads as zeroes already.
    fn zero_edge(&mut self, edge: Extent) -> Result<(), IoError> {
        let block = edge.offset() / BLOCK_BYTES;
        let wanted = 1u16 << (block % BLOCKS as u64);
        if self.map.sources(block / BLOCKS as u64, wanted)?.is_empty() {
            return Ok(());
        }
        self.write_now(edge, zeroes(edge.len()))
    }

    fn start(&mut self, extent: Extent, kind: Kind, fua: bool, ticket: Ticket) {
        if let Err(e) = self.ensure_open() {
            return ticket.fail(e);
        }
        let mut long = Long { id: 0, kind, fua, ticket };
        match self.step(&mut long.kind) {
            Ok(true) => self.end_change(long, Ok(())),
            Ok(false) => {
                long.id = self.begin(extent, true);
                self.long.push_back(long);
                self.go_on(Done::Continue);
            }
            Err(e) => self.end_change(long, Err(e)),
        }
    }

    fn end_change(&mut self, long: Long, result: Result<(), IoError>) {
        match result {
            Ok(()) if long.fua => self.want_sync(long.ticket),
            result => long.ticket.answer(outcome(result)),
        }
        if long.id != 0 {
            self.end(long.id);
        }
    }

    pub(super) fn go_on(&self, event: Done) {
        // Nobody is left to go on when the volume is gone.
        drop(self.sender.send(event));
    }

    /// Does the next step of the change that waits longest.
    pub(super) fn continue_long(&mut self) {
        let Some(mut long) = self.long.pop_front() else { return };
        match self.step(&mut long.kind) {
            Ok(true) => self.end_change(long, Ok(())),
            Ok(false) => self.long.push_back(long),
            Err(e) => self.end_change(long, Err(e)),
        }
        if !self.long.is_empty() {
            self.go_on(Done::Continue);
        }
    }

    /// Does a step; `true` when that was the last.
    fn step(&mut self, kind: &mut Kind) -> Result<bool, IoError> {
        let inline = matches!(self.executor, Executor::Inline);
        match kind {
            Kind::Drop { next, end } => {
                let steps = if inline { usize::MAX } else { PAGES_PER_STEP };
                self.drop_pages(next, *end, steps)
            }
            Kind::Fill { next, end } => {
                let steps = if inline { usize::MAX } else { FILL_STEPS };
                for _ in 0..steps {
                    let border = (*next + 1).next_multiple_of(FILL_BYTES).min(*end);
                    let Ok(extent) = Extent::new(*next, border.saturating_sub(*next)) else {
                        return Ok(true);
                    };
                    self.write_now(extent, zeroes(extent.len()))?;
                    *next = border;
                }
                Ok(*next >= *end)
            }
        }
    }

    /// Drops blocks page by page; pages that are not there cost nothing.
    fn drop_pages(&mut self, next: &mut u64, end: u64, steps: usize) -> Result<bool, IoError> {
        for _ in 0..steps {
            if *next >= end {
                return Ok(true);
            }
            let page =
                u32::try_from(*next / BLOCKS_PER_PAGE).map_err(|_error| IoError::OutOfRange)?;
            let Some(found) = self.map.next_page(page) else { return Ok(true) };
            let base = u64::from(found) * BLOCKS_PER_PAGE;
            let from = base.max(*next);
            let to = end.min(base + BLOCKS_PER_PAGE);
            if from >= to {
                return Ok(true);
            }
            if to - from == BLOCKS_PER_PAGE && !self.map.page_below(found) {
                self.drop_page(found)?;
            } else {
                self.drop_blocks(BlockRange::new(from, to))?;
            }
            *next = to;
        }
        Ok(*next >= end)
    }

    fn drop_page(&mut self, page: u32) -> Result<(), IoError> {
        // The lower layer first: what the upper one shows must not be bared by a crash between.
        for layer in self.map.tops() {
            for slot in self.clear_page(PageKey::new(layer, page))? {
                self.slots.give_up(slot);
            }
        }
        Ok(())
    }

    /// Empties a page of a layer; returns the slots that nothing maps any more.
    pub(super) fn clear_page(&mut self, key: PageKey) -> Result<Vec<u64>, IoError> {
        let slots = self.map.slots_of(key)?;
        self.append(&[Record::DropPage { layer: key.layer(), page: key.page() }])?;
        self.map.clear_page(key)?;
        for slot in &slots {
            self.uncommitted.remove(*slot);
        }
        Ok(slots)
    }

    /// Drops blocks of one page.
    fn drop_blocks(&mut self, blocks: BlockRange) -> Result<(), IoError> {
        let Some(extent) = blocks.extent() else { return Ok(()) };
        let mut records = Vec::new();
        let mut changes = Vec::new();
        let number = page_of(extent.offset() / SLOT_BYTES);
        let mut below = self.map.page_below(number);
        // The lower layer first: what the upper one shows must not be bared by a crash between.
        for layer in self.map.tops() {
            // Loaded once for the whole page.
            let page = self.map.page(PageKey::new(layer, number))?.map(Arc::clone);
            for piece in extent.pieces(SLOT_BYTES) {
                let chunk = piece.offset() / SLOT_BYTES;
                let wanted = super::read::mask_of(piece);
                let entry = page
                    .as_ref()
                    .map_or(super::page::Entry::EMPTY, |p| *p.get(super::map::place_of(chunk)));
                let hide = if below { self.map.below(chunk)? & wanted } else { 0 };
                let held = (entry.valid | entry.zero & !hide) & wanted;
                if held == 0 && hide & !entry.zero == 0 {
                    continue;
                }
                records.push(Record::Drop { layer, chunk, mask: wanted, zero: hide });
                changes.push((layer, chunk, entry, wanted, hide));
            }
            below = false;
        }
        if records.is_empty() {
            return Ok(());
        }
        self.append(&records)?;
        for (layer, chunk, before, mask, zero) in changes {
            let mut entry = before;
            entry.drop_blocks(mask, zero);
            self.map.set(layer, chunk, entry)?;
            if before.slot == NO_SLOT {
                continue;
            }
            if entry.slot == NO_SLOT {
                self.uncommitted.remove(before.slot);
                self.slots.give_up(before.slot);
            } else {
                self.uncommitted.drop_blocks(before.slot, mask);
            }
        }
        Ok(())
    }
}

fn zeroes(len: u64) -> Bytes {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROES.len());
    Bytes::from_static(&ZEROES[..len])
}
