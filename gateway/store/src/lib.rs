//! Where copies of volumes live: the pool, a raw file or device, memory.
//!
//! Invariant: a change is answered only when it survives the death of the process, a flush only
//! when everything that was answered before it survives the loss of power.
#![warn(missing_docs)]

mod arena;
mod codec;
mod crc;
mod database;
pub mod disk;
mod error;
mod executor;
pub mod journal;
pub mod medium;
pub mod memory;
mod metrics;
mod pool;
mod raw;
mod runs;
mod volume;

pub use error::StoreError;
pub use executor::Executor;
pub use memory::MemoryStore;
pub use pool::{OriginRecord, Pool, PoolIdentity, PoolLedger, PoolOptions, VolumeRecord};
pub use raw::{RawOptions, RawStore};
pub use volume::{PoolVolume, Repaired, Scrubbed};

/// For tests that hold bytes against what a release wrote.
#[cfg(test)]
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The way back.
#[cfg(test)]
fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap_or(""), 16).unwrap_or(0))
        .collect()
}

/// What decoders take of memory is part of their tests.
#[cfg(test)]
#[global_allocator]
static COUNTED: testkit::heap::Counted = testkit::heap::Counted;
