//! What lies below the lowest layer of a volume that is used before it is filled: an origin, in the
//! pages that were not copied whole.
//!
//! Invariant: a page is taken out only when everything that the origin has of it is in the lowest
//! layer, or there is nothing. What is not taken out may be asked for and is hidden where it is not
//! wanted, so to know too little costs time and room, never content. A page that was copied is taken
//! out with the checkpoint that says so: a trim behind it leaves no mark that hides the origin, and a
//! recovery that did not know of the page would see the origin there.

use block::{BLOCK_BYTES, SLOT_BYTES};
use roaring::RoaringBitmap;

use super::map::page_of;
use super::page::{BLOCKS, CHUNKS};

/// An origin as the map knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Beneath {
    /// Its size: behind it there is nothing.
    pub(crate) bytes: u64,
    /// The pages that are not known to be copied.
    pub(crate) unfilled: RoaringBitmap,
    /// Those of them that were copied, which the next checkpoint says.
    done: RoaringBitmap,
    /// What the checkpoint says that is being written.
    said: RoaringBitmap,
}

// === impl Beneath ===

impl Beneath {
    /// An origin of which nothing was copied.
    pub(crate) fn new(bytes: u64) -> Self {
        let mut unfilled = RoaringBitmap::new();
        if let Some(last) = bytes.checked_sub(1) {
            unfilled.insert_range(0..=page_of(last / SLOT_BYTES));
        }
        Self::of(bytes, unfilled)
    }

    /// One as a checkpoint said it.
    pub(crate) fn of(bytes: u64, unfilled: RoaringBitmap) -> Self {
        let (done, said) = (RoaringBitmap::new(), RoaringBitmap::new());
        Self { bytes, unfilled, done, said }
    }

    /// All of a page is in the lowest layer.
    pub(crate) fn done(&mut self, page: u32) {
        self.done.insert(page);
    }

    /// What a checkpoint that begins now must keep.
    pub(crate) fn begin_checkpoint(&mut self) -> Self {
        self.said = self.done.clone();
        Self::of(self.bytes, &self.unfilled - &self.said)
    }

    pub(crate) fn end_checkpoint(&mut self) {
        let said = std::mem::take(&mut self.said);
        self.unfilled -= &said;
        self.done -= &said;
    }

    /// Which blocks of a chunk it may have.
    pub(crate) fn mask(&self, chunk: u64) -> u16 {
        let left = self.bytes.saturating_sub(chunk * SLOT_BYTES).div_ceil(BLOCK_BYTES);
        if left == 0 || !self.unfilled.contains(page_of(chunk)) {
            return 0;
        }
        match u32::try_from(left) {
            Ok(blocks) if (blocks as usize) < BLOCKS => (1 << blocks) - 1,
            Ok(_) | Err(_) => u16::MAX,
        }
    }

    /// The first page from `page` on of which it may have anything.
    pub(crate) fn next_page(&self, page: u32) -> Option<u32> {
        self.unfilled.range(page..).next()
    }
}

/// The chunks of a page.
pub(super) fn chunks_of(page: u32) -> std::ops::Range<u64> {
    let first = u64::from(page) * CHUNKS as u64;
    first..first + CHUNKS as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_what_lies_before_its_end_in_pages_that_are_not_filled() {
        let mut beneath = Beneath::new((16 << 20) + SLOT_BYTES + 3 * BLOCK_BYTES);
        assert_eq!(beneath.unfilled.len(), 2);
        assert_eq!([0, 256, 257, 258].map(|c| beneath.mask(c)), [u16::MAX, u16::MAX, 0b111, 0]);
        beneath.done(0);
        assert_eq!(beneath.begin_checkpoint().mask(0), 0);
        beneath.done(1);
        // Until the checkpoint is there it may be asked for, and is hidden where it is trimmed.
        assert_eq!((beneath.mask(0), beneath.mask(256)), (u16::MAX, u16::MAX));
        beneath.end_checkpoint();
        assert_eq!((beneath.mask(0), beneath.mask(256)), (0, u16::MAX));
        assert_eq!((beneath.next_page(0), beneath.next_page(2)), (Some(1), None));
        assert_eq!(Beneath::new(16 << 20).unfilled.len(), 1);
    }
}
