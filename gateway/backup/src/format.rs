//! What a repository holds, as values: manifests, maps, packs, pins.
//!
//! ```text
//!   manifest ──▶ for each volume and segment: maps, the newest first
//!   map      ──▶ for each run of blocks: zeroes, or a place in a pack
//!   pack     =   chunks, and an index that says which blocks they were read from
//! ```
//!
//! Invariant: whatever decodes is in order, does not overlap and lies inside its segment, so
//! nobody behind a decoder checks that again.

mod about;
#[cfg(test)]
mod fuzz;
mod manifest;
mod map;
mod pack;
mod pin;

pub use about::{About, Consistency, Origin};
pub(crate) use manifest::{Manifest, MapRef, Member};
#[cfg(test)]
pub(crate) use map::tests;
pub(crate) use map::{Content, Entry, Map, Place, Span, overlay, segment_span};
#[cfg(test)]
pub(crate) use pack::Coverage;
pub(crate) use pack::{Footer, Index, Pack, cipher, decode_chunk, index_range, open_index};
pub(crate) use pin::{Pin, Purpose, Wanted, WantedVolume};
