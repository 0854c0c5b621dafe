//! The mapped blocks of a volume, in order.
//!
//! Invariant: a visit does no data I/O, and ends where whoever is shown them has enough.

use block::{BlockRange, IoError};

use super::Inner;
use super::page::{BLOCKS, CHUNKS};
use crate::runs;

impl Inner {
    /// Shows every run of mapped blocks from block `from` on, in order, until `show` has enough;
    /// with `beneath` also of those that the origin may have.
    pub(super) fn visit(
        &mut self,
        from: u64,
        beneath: bool,
        mut show: impl FnMut(BlockRange) -> bool,
    ) -> Result<(), IoError> {
        let per_page = (CHUNKS * BLOCKS) as u64;
        let mut page = u32::try_from(from / per_page).unwrap_or(u32::MAX);
        while let Some(next) = self.map.next_page(page) {
            let base = u64::from(next) * CHUNKS as u64;
            for chunk in base..base + CHUNKS as u64 {
                let first = chunk * BLOCKS as u64;
                if first + BLOCKS as u64 <= from {
                    continue;
                }
                let asked = if beneath { self.map.reaching(chunk, u16::MAX)? } else { 0 };
                for run in runs::mask_runs(self.map.visible(chunk)? | asked) {
                    if !show(BlockRange::new(first + run.first(), first + run.end())) {
                        return Ok(());
                    }
                }
            }
            let Some(following) = next.checked_add(1) else { break };
            page = following;
        }
        Ok(())
    }
}
