//! One page of the map: where 256 chunks (16 MiB) of one layer lie.
//!
//! Invariant: in an [`Entry`] no block is both valid and known to be zero, only valid blocks are
//! summed, and an entry without valid blocks has no slot.

use crate::codec::Format;
use crate::error::StoreError;

/// Blocks in a chunk, bits in a mask.
pub(crate) const BLOCKS: usize = 16;
/// Chunks in a page.
pub(crate) const CHUNKS: usize = 256;
/// No slot.
pub(crate) const NO_SLOT: u64 = u64::MAX;

const FORMAT: Format = Format { what: "map page", magic: *b"TSMAPPG\0", version: 1 };

/// Where one chunk lies in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where its blocks are.
    pub(crate) slot: u64,
    /// Which blocks this layer holds.
    pub(crate) valid: u16,
    /// Which blocks read as zero here, whatever lies in the layers below.
    pub(crate) zero: u16,
    /// Which checksums are trusted.
    pub(crate) summed: u16,
    /// CRC32C of each block.
    pub(crate) sums: [u32; BLOCKS],
}

/// The entries of 256 neighbouring chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    entries: Vec<Entry>,
    used: u16,
}

// === impl Entry ===

impl Entry {
    pub(crate) const EMPTY: Self =
        Self { slot: NO_SLOT, valid: 0, zero: 0, summed: 0, sums: [0; BLOCKS] };

    pub(crate) const fn is_empty(&self) -> bool {
        self.valid == 0 && self.zero == 0
    }

    /// Which blocks this layer has or hides.
    pub(crate) const fn touched(&self) -> u16 {
        self.valid | self.zero
    }

    /// Takes blocks out; `zero` says which of them must hide what lies below.
    pub(crate) fn drop_blocks(&mut self, mask: u16, zero: u16) {
        self.valid &= !mask;
        self.summed &= !mask;
        self.zero = (self.zero & !mask) | zero;
        if self.valid == 0 {
            self.slot = NO_SLOT;
        }
    }

    fn encode(&self, index: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&[index, 0]);
        out.extend_from_slice(&self.valid.to_le_bytes());
        out.extend_from_slice(&self.zero.to_le_bytes());
        out.extend_from_slice(&self.summed.to_le_bytes());
        out.extend_from_slice(&self.slot.to_le_bytes());
        for (block, sum) in self.sums.iter().enumerate() {
            if self.summed & (1 << block) != 0 {
                out.extend_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

// === impl Page ===

impl Page {
    pub(crate) fn new() -> Self {
        Self { entries: vec![Entry::EMPTY; CHUNKS], used: 0 }
    }

    pub(crate) fn get(&self, chunk: u8) -> &Entry {
        &self.entries[usize::from(chunk)]
    }

    pub(crate) fn set(&mut self, chunk: u8, entry: Entry) {
        let old = &mut self.entries[usize::from(chunk)];
        match (old.is_empty(), entry.is_empty()) {
            (true, false) => self.used += 1,
            (false, true) => self.used -= 1,
            (true, true) | (false, false) => {}
        }
        *old = entry;
    }

    /// Notes new checksums of blocks that are valid.
    pub(crate) fn set_sums(&mut self, chunk: u8, mask: u16, sums: &[u32; BLOCKS]) {
        let entry = &mut self.entries[usize::from(chunk)];
        for (block, sum) in sums.iter().enumerate() {
            if mask & (1 << block) != 0 {
                entry.sums[block] = *sum;
            }
        }
        entry.summed |= mask & entry.valid;
    }

    /// Stops trusting checksums.
    pub(crate) fn distrust(&mut self, chunk: u8, mask: u16) {
        self.entries[usize::from(chunk)].summed &= !mask;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The entries that are not empty, in order.
    pub(crate) fn used(&self) -> impl Iterator<Item = (u8, &Entry)> {
        (0..=u8::MAX).zip(&self.entries).filter(|(_, entry)| !entry.is_empty())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(2 + usize::from(self.used) * 80);
        body.extend_from_slice(&self.used.to_le_bytes());
        for (index, entry) in self.used() {
            entry.encode(index, &mut body);
        }
        FORMAT.seal(&body)
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, StoreError> {
        let mut reader = FORMAT.open(data)?;
        let mut page = Self::new();
        for _ in 0..reader.u16()? {
            let [index, _] = reader.array()?;
            let (valid, zero, summed) = (reader.u16()?, reader.u16()?, reader.u16()?);
            let slot = reader.u64()?;
            if valid & zero != 0 || summed & !valid != 0 || (valid == 0) != (slot == NO_SLOT) {
                return Err(reader.damaged("an entry contradicts itself"));
            }
            let mut sums = [0; BLOCKS];
            for (block, sum) in sums.iter_mut().enumerate() {
                if summed & (1 << block) != 0 {
                    *sum = reader.u32()?;
                }
            }
            page.set(index, Entry { slot, valid, zero, summed, sums });
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page as version 1 wrote it: chunk 3 in slot 5, blocks 0 and 15, the first one summed.
    const BYTES: &str = "54534d41505047000100000016000000000000000000000001000300018000000100050000000000000078563412ea5909fb";

    #[test]
    fn reads_the_bytes_of_version_1() {
        let mut page = Page::new();
        let mut sums = [0; BLOCKS];
        sums[0] = 0x1234_5678;
        page.set(3, Entry { slot: 5, valid: 0x8001, zero: 0, summed: 1, sums });
        assert_eq!(crate::hex(&page.encode()), BYTES);
        assert_eq!(Page::decode(&crate::unhex(BYTES)).unwrap(), page);
    }

    #[test]
    fn refuses_a_flipped_bit_anywhere() {
        let good = crate::unhex(BYTES);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Page::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
