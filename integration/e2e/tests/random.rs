//! Randomness that can be repeated: its seed is printed, and taken from `TWINSPAN_SEED` if set.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use anyhow::{Context, Result};

/// A source of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// One whose seed is printed with the name of the test.
    pub(crate) fn announced(test: &str) -> Result<Self> {
        let seed = match std::env::var("TWINSPAN_SEED") {
            Ok(text) => text.parse().context("TWINSPAN_SEED is no number")?,
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        println!("{test}: TWINSPAN_SEED={seed}");
        Ok(Self::new(seed))
    }

    /// One with this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of this range, which is not empty.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// An index into something of this length, which is not empty.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.next() % length as u64).expect("it is less than a usize")
    }

    /// Yes or no.
    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// How often each kind of fault is tried: `TWINSPAN_KILLS`, 2 if absent.
pub(crate) fn rounds() -> Result<u64> {
    match std::env::var("TWINSPAN_KILLS") {
        Ok(text) => text.parse().context("TWINSPAN_KILLS is no number"),
        Err(_) => Ok(2),
    }
}
