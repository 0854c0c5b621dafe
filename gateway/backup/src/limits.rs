//! How large things may be, and the arithmetic behind it.
//!
//! Invariant: whatever is read from a bucket is bounded by one of these before memory is taken
//! for it.

use block::{BLOCK_BYTES, SLOT_BYTES, VOLUME_BYTES_MAX};

/// The most blocks of one chunk: a chunk never crosses a 64 KiB border. 64 KiB compresses almost
/// as well as a megabyte, and a single changed block still costs one block.
pub(crate) const CHUNK_BLOCKS_MAX: u64 = SLOT_BYTES / BLOCK_BYTES;
/// The same in bytes.
pub(crate) const CHUNK_BYTES_MAX: usize = 64 << 10;

/// The part of a volume that one map describes: 1 GiB. A 1 TiB volume has 1024 maps of at most
/// 262 144 entries, some 7 MiB each when every single block lies elsewhere.
pub(crate) const SEGMENT_BLOCKS: u64 = (1 << 30) / BLOCK_BYTES;

/// What a pack holds by default. Larger ones cost memory while they are under way, smaller ones
/// cost requests: 1 TiB is 65 536 of these.
pub(crate) const PACK_BYTES: usize = 16 << 20;
/// The largest pack that is read: offsets in it fit 32 bits with room to spare.
pub(crate) const PACK_BYTES_MAX: usize = 128 << 20;
/// Entries of one pack's index: even chunks of a few bytes each end a pack in time.
pub(crate) const PACK_ENTRIES: usize = 1 << 16;
/// The smallest pack that a bandwidth limit leads to: a second's worth, but no less than this.
pub(crate) const PACK_BYTES_MIN: usize = 1 << 20;

/// The smallest that a caller can ask for: one chunk.
pub(crate) const PACK_BYTES_LEAST: usize = 64 << 10;

/// Packs and maps under way at once. With the pack that is being filled and the pieces that are
/// being read and compressed, a run takes about five packs, 32 pieces of 256 KiB, and two batches
/// of 4 MiB twice: some 110 MiB.
pub(crate) const UPLOADS: usize = 4;
/// Pieces of a volume that are read at once.
pub(crate) const READS: usize = 32;
/// The largest piece.
pub(crate) const READ_BYTES: u64 = 256 << 10;
/// What one hand-over to the threads that hash and compress holds.
pub(crate) const CPU_BATCH_BYTES: usize = 4 << 20;
/// How many such hand-overs are under way.
pub(crate) const CPU_BATCHES: usize = 2;
/// Places in the batch of pieces without data, so that a run over an empty volume moves on.
pub(crate) const CPU_BATCH_ITEMS: usize = 4096;

/// Maps of a segment, one upon the other, before they are merged into one: from here, and up to
/// twice as many. How many exactly differs from segment to segment, so that the segments of a
/// volume are not all merged in the same run.
pub(crate) const LAYERS: usize = 8;
/// The most that are read.
pub(crate) const LAYERS_MAX: usize = 64;

/// Chunks that a run remembers to find the same content again: 1 Mi at about 64 bytes.
pub(crate) const REMEMBERED_CHUNKS: usize = 1 << 20;

/// Entries of one map; zero runs and pieces of chunks are never smaller than a block.
pub(crate) const MAP_ENTRIES_MAX: usize = 1 << 19;
/// Packs that one map names.
pub(crate) const MAP_PACKS_MAX: usize = 1 << 19;
/// Bytes of a map before compression: 32 for each entry and 36 for each pack.
pub(crate) const MAP_BYTES_MAX: usize = 48 << 20;
/// Bytes of a manifest before compression: 1 PiB has 1 Mi segments of some 40 bytes a layer.
pub(crate) const MANIFEST_BYTES_MAX: usize = 512 << 20;
/// Bytes of the small objects: pins and the header.
pub(crate) const SMALL_BYTES_MAX: usize = 16 << 20;
/// Volumes in one backup.
pub(crate) const VOLUMES_MAX: usize = 4096;
/// Bytes of a name, a label, a reason.
pub(crate) const TEXT_BYTES_MAX: usize = 4096;
/// Labels of a backup.
pub(crate) const LABELS_MAX: usize = 256;

/// What one request for parts of a pack spans at most.
pub(crate) const FETCH_BYTES_MAX: u64 = 8 << 20;
/// Bytes between two chunks that are fetched along rather than asked for apart.
pub(crate) const FETCH_GAP_BYTES: u64 = 128 << 10;
/// Requests for parts of packs under way at once.
pub(crate) const FETCHES: usize = 8;
/// Segments whose maps a reader keeps.
pub(crate) const CACHED_SEGMENTS: usize = 4;
/// The part of a volume that a restore hands over at once.
pub(crate) const RESTORE_BYTES: u64 = 4 << 20;
/// Such parts under way.
pub(crate) const RESTORE_WINDOWS: usize = 4;
/// Chunks whose check is remembered while a repository is verified; beyond it they are read again.
pub(crate) const VERIFIED_CHUNKS: usize = 1 << 22;
/// Objects that are removed by one call, so that a collection that is given up ends soon.
pub(crate) const REMOVALS: usize = 1000;
/// Manifests and maps that are read at once.
pub(crate) const LOADS: usize = 8;

/// Blocks of the largest volume.
pub(crate) const VOLUME_BLOCKS_MAX: u64 = VOLUME_BYTES_MAX / BLOCK_BYTES;
/// Segments of the largest volume.
pub(crate) const SEGMENTS_MAX: u64 = VOLUME_BLOCKS_MAX / SEGMENT_BLOCKS;

const _: () = assert!(SEGMENT_BLOCKS.is_multiple_of(CHUNK_BLOCKS_MAX));
const _: () = assert!(CHUNK_BYTES_MAX as u64 == CHUNK_BLOCKS_MAX * BLOCK_BYTES);
const _: () = assert!(PACK_BYTES <= PACK_BYTES_MAX && PACK_BYTES_MIN <= PACK_BYTES);
const _: () = assert!(MAP_ENTRIES_MAX as u64 >= SEGMENT_BLOCKS);
const _: () = assert!(2 * LAYERS < LAYERS_MAX);
const _: () = assert!(READ_BYTES.is_multiple_of(SLOT_BYTES));
