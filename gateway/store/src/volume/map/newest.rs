//! Which layer each block is read from, page by page: a volume with many snapshots is not asked layer
//! by layer, and neither is what was never written.
//!
//! Invariant: what is known of a page is what a walk down from the root would find in the layers up
//! to the one that stands beside it. It is derived from them and kept in memory only, so what cannot
//! be kept right is forgotten, never guessed, and learned anew by the next who asks.

use super::NumberMap;
use crate::volume::page::{BLOCKS, CHUNKS};

/// For each block of a chunk the newest layer that has or hides it; 0, which no layer is, for none.
pub(super) type Row = [u32; BLOCKS];

/// The rows of a page.
pub(super) type Rows = Box<[Row; CHUNKS]>;

/// What is known of one page: 16 KiB, unless no layer has anything of it.
#[derive(Debug, Default)]
struct Known {
    /// The newest layer that is taken into account.
    upto: u32,
    rows: Option<Rows>,
    /// Asked for since the clock's hand passed.
    is_recent: bool,
}

/// What is known of a volume, or of one of its snapshots.
#[derive(Debug)]
pub(super) struct Newest {
    /// The layer from which all is read: a sealed one, or whichever is the head.
    pub(super) root: Option<u32>,
    /// Read through since it was last looked for one to let go of.
    pub(super) is_recent: bool,
    pages: NumberMap<u64, Known>,
    /// Every known page once, for the clock.
    ring: Vec<u64>,
    hand: usize,
    pages_max: usize,
    /// Whether the root is read through a layer, as far as somebody asked.
    under: NumberMap<u64, bool>,
}

// === impl Newest ===

impl Newest {
    pub(super) fn new(root: Option<u32>, pages_max: usize) -> Self {
        Self {
            root,
            is_recent: true,
            pages: NumberMap::default(),
            ring: Vec::new(),
            hand: 0,
            pages_max: pages_max.max(1),
            under: NumberMap::default(),
        }
    }

    /// The root is read through other layers now.
    pub(super) fn clear(&mut self) {
        self.pages.clear();
        self.ring.clear();
        self.under.clear();
    }

    /// Whether what a layer has of a page is taken into account.
    pub(super) fn knows(&self, page: u32, layer: u32) -> bool {
        self.pages.get(&u64::from(page)).is_some_and(|known| layer <= known.upto)
    }

    /// What is known of a chunk, if that is something of all layers up to this one.
    pub(super) fn row(&mut self, page: u32, place: u8, layer: u32) -> Option<Row> {
        let known = self.pages.get_mut(&u64::from(page)).filter(|known| layer <= known.upto)?;
        known.is_recent = true;
        Some(known.rows.as_ref().map_or([0; BLOCKS], |rows| rows[usize::from(place)]))
    }

    /// What can still be changed of a chunk that is known.
    pub(super) fn row_mut(&mut self, page: u32, place: u8) -> Option<&mut Row> {
        let known = self.pages.get_mut(&u64::from(page))?;
        Some(&mut known.rows.get_or_insert_with(no_rows)[usize::from(place)])
    }

    /// Takes out what is known of a page, and up to which layer; it is forgotten until it is put back.
    pub(super) fn take(&mut self, page: u32) -> (u32, Option<Rows>) {
        let known = self.pages.get_mut(&u64::from(page)).map(std::mem::take).unwrap_or_default();
        (known.upto, known.rows)
    }

    /// Knows this of a page from now on.
    pub(super) fn put(&mut self, page: u32, upto: u32, rows: Option<Rows>) {
        let key = u64::from(page);
        let known = Known { upto, rows, is_recent: true };
        if let Some(there) = self.pages.get_mut(&key) {
            *there = known;
            return;
        }
        self.evict();
        self.pages.insert(key, known);
        self.ring.push(key);
    }

    /// Nothing is known of a page any more.
    pub(super) fn forget(&mut self, page: u32) {
        drop(self.take(page));
    }

    /// Makes room for one page if there are too many.
    fn evict(&mut self) {
        while self.ring.len() >= self.pages_max {
            self.hand %= self.ring.len();
            let key = self.ring[self.hand];
            let used = |known: &mut Known| std::mem::take(&mut known.is_recent);
            if self.pages.get_mut(&key).is_some_and(used) {
                self.hand += 1;
            } else {
                self.pages.remove(&key);
                self.ring.swap_remove(self.hand);
            }
        }
    }

    /// Whether the root is read through a layer, if somebody asked before.
    pub(super) fn is_under(&self, layer: u32) -> Option<bool> {
        self.under.get(&u64::from(layer)).copied()
    }

    pub(super) fn set_under(&mut self, layer: u32, is: bool) {
        self.under.insert(u64::from(layer), is);
    }
}

/// No rows.
pub(super) fn no_rows() -> Rows {
    Box::new([[0; BLOCKS]; CHUNKS])
}

/// Blocks that a layer has or hides, unless a newer one does.
pub(super) fn raise(row: &mut Row, layer: u32, blocks: u16) {
    for (block, newest) in row.iter_mut().enumerate() {
        if blocks & (1 << block) != 0 {
            *newest = layer.max(*newest);
        }
    }
}

/// The blocks of which `is` is true of the newest layer.
pub(super) fn blocks_where(row: &Row, is: impl Fn(u32) -> bool) -> u16 {
    let blocks = row.iter().enumerate().filter(|(_, newest)| is(**newest));
    blocks.fold(0, |mask, (block, _)| mask | 1 << block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_no_more_pages_than_it_may_and_those_that_are_asked_for() {
        let mut newest = Newest::new(None, 4);
        for page in 0..4 {
            newest.put(page, 7, None);
        }
        // The hand passes all of them once before the first goes.
        newest.put(4, 7, None);
        assert!(newest.row(1, 0, 7).is_some());
        for page in 5..8 {
            newest.put(page, 7, None);
        }
        assert_eq!((newest.pages.len(), newest.ring.len()), (4, 4));
        assert!(newest.knows(1, 7) && newest.knows(7, 7) && !newest.knows(7, 8));
        newest.forget(7);
        assert!(!newest.knows(7, 1) && newest.row(7, 0, 1).is_none());
        assert_eq!(newest.take(7), (0, None));
        assert_eq!(newest.pages.len(), 4, "it can be learned again in its place");
    }

    #[test]
    fn the_newest_layer_stays_whatever_is_met_later() {
        let mut row = [0; BLOCKS];
        raise(&mut row, 5, 0b0110);
        raise(&mut row, 9, 0b0011);
        raise(&mut row, 3, 0b1100);
        assert_eq!(row[..5], [9, 9, 5, 3, 0]);
        assert_eq!(blocks_where(&row, |newest| newest == 9), 0b0011);
        assert_eq!(blocks_where(&row, |newest| newest > 3), 0b0111);
    }
}
