//! The bytes of one simulated file, sparse.
//!
//! Invariant: bytes behind the size are zero, so that growing shows zeroes.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The grain in which room is counted.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// The same, as a length.
const PAGE_SIZE: usize = 4096;

type Page = [u8; PAGE_SIZE];

/// What a file holds. Copies of it share their pages until one of them changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Arc<Page>>,
    size: u64,
}

// === impl Content ===

impl Content {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BYTES
    }

    /// Room that a write would take beyond what is taken.
    pub(crate) fn needed(&self, offset: u64, len: u64) -> u64 {
        let last = (offset + len).div_ceil(PAGE_BYTES);
        let first = offset / PAGE_BYTES;
        let there = self.pages.range(first..last).count() as u64;
        (last - first - there) * PAGE_BYTES
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.size = self.size.max(offset + data.len() as u64);
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let skip = to_usize(at % PAGE_BYTES);
            let len = rest.len().min(to_usize(PAGE_BYTES) - skip);
            let page =
                self.pages.entry(at / PAGE_BYTES).or_insert_with(|| Arc::new([0; PAGE_SIZE]));
            Arc::make_mut(page)[skip..skip + len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            at += len as u64;
        }
    }

    /// Reads up to the size; says how many bytes.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let len = to_usize(self.size.saturating_sub(offset).min(buf.len() as u64));
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let skip = to_usize(at % PAGE_BYTES);
            let part = (len - done).min(to_usize(PAGE_BYTES) - skip);
            match self.pages.get(&(at / PAGE_BYTES)) {
                Some(page) => buf[done..done + part].copy_from_slice(&page[skip..skip + part]),
                None => buf[done..done + part].fill(0),
            }
            done += part;
        }
        len
    }

    pub(crate) fn punch(&mut self, offset: u64, len: u64) {
        let end = (offset + len).min(self.size.next_multiple_of(PAGE_BYTES));
        let (first, last) = (offset.div_ceil(PAGE_BYTES), end / PAGE_BYTES);
        if first < last {
            let gone: Vec<u64> = self.pages.range(first..last).map(|(p, _)| *p).collect();
            for page in gone {
                self.pages.remove(&page);
            }
        }
        self.zero(offset, end.min(first * PAGE_BYTES));
        self.zero(end.max(offset).min(last.max(first) * PAGE_BYTES), end);
    }

    fn zero(&mut self, from: u64, to: u64) {
        for at in from..to {
            if let Some(page) = self.pages.get_mut(&(at / PAGE_BYTES)) {
                Arc::make_mut(page)[to_usize(at % PAGE_BYTES)] = 0;
            }
        }
    }

    pub(crate) fn set_size(&mut self, size: u64) {
        if size < self.size {
            let first = size.div_ceil(PAGE_BYTES);
            let gone: Vec<u64> = self.pages.range(first..).map(|(p, _)| *p).collect();
            for page in gone {
                self.pages.remove(&page);
            }
            self.zero(size, first * PAGE_BYTES);
        }
        self.size = size;
    }

    /// The next run of pages that are there.
    pub(crate) fn next_data(&self, from: u64) -> Option<(u64, u64)> {
        let mut pages = self.pages.range(from / PAGE_BYTES..).map(|(p, _)| *p);
        let first = pages.next()?;
        let mut end = first + 1;
        while pages.next() == Some(end) {
            end += 1;
        }
        Some(((first * PAGE_BYTES).max(from), (end * PAGE_BYTES).min(self.size)))
    }
}

pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("simulated files fit memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punches_parts_of_pages() {
        let mut content = Content::default();
        content.write(0, &[7; 20_000]);
        content.punch(100, 12_000);
        let mut all = vec![1; 20_000];
        assert_eq!(content.read(&mut all, 0), 20_000);
        assert!(all[..100].iter().all(|b| *b == 7));
        assert!(all[100..12_100].iter().all(|b| *b == 0));
        assert!(all[12_100..].iter().all(|b| *b == 7));
        content.punch(4096, 10);
        assert_eq!(content.allocated(), 4 * PAGE_BYTES);
        content.set_size(10);
        content.set_size(50);
        let mut few = [9; 60];
        assert_eq!(content.read(&mut few, 0), 50);
        assert_eq!(few[9..12], [7, 0, 0]);
    }
}
