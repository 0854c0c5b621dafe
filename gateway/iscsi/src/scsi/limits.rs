//! Every limit of the SCSI layer, with the arithmetic that produced it.
//!
//! Invariant: nothing that a host sends makes the layer hold more than these say.

/// The logical block, what every initiator can boot from.
pub const BLOCK_BYTES: u32 = 512;
/// Logical blocks in one block of a volume, as a power of two: 4 KiB.
pub const BLOCKS_PER_PHYSICAL_LOG2: u8 = 3;
/// The longest transfer of one command: as over NBD, and twice what the Linux initiator sends.
pub const TRANSFER_BYTES_MAX: u64 = 32 << 20;
/// The transfer that is best: 1 MiB, one burst of the session.
pub const TRANSFER_BYTES_BEST: u64 = 1 << 20;
/// The longest parameter list: an UNMAP of [`UNMAP_RANGES_MAX`] ranges, with room to spare.
pub const PARAMETERS_MAX: u32 = 64 << 10;
/// Ranges in one UNMAP. Linux sends one, others up to what is offered.
pub const UNMAP_RANGES_MAX: u32 = 1024;
/// Blocks of all ranges of an UNMAP: 512 MiB, the most that the conformance suite takes.
pub const UNMAP_BLOCKS_MAX: u64 = 1 << 20;
/// Blocks of one WRITE SAME: 4 GiB, in pieces of [`PIECE_BYTES_MAX`].
pub const SAME_BLOCKS_MAX: u64 = (4 << 30) / BLOCK_BYTES as u64;
/// Blocks of one COMPARE AND WRITE: what its CDB can say.
pub const COMPARE_BLOCKS_MAX: u8 = 255;
/// Blocks of one WRITE ATOMIC. After a loss of power every block of 512 bytes is as it was or as it
/// was to be; nothing is promised of several.
pub const ATOMIC_BLOCKS_MAX: u32 = 1;
/// A trim or a zeroing is handed down in pieces of this size, one after the other.
pub const PIECE_BYTES_MAX: u64 = 1 << 30;
/// Content that a command reads back, compares or repeats goes in pieces of this size.
pub const CONTENT_BYTES_MAX: u64 = 1 << 20;
/// Runs in one answer to GET LBA STATUS: 16 bytes each.
pub const STATUS_RUNS_MAX: usize = 1024;
/// Registrations of persistent reservations. Clusters have 64 hosts with a few paths each.
pub const REGISTRATIONS_MAX: usize = 1024;
/// Unit attentions that wait for one nexus; more are told as the last.
pub const ATTENTIONS_MAX: usize = 8;

const _: () = assert!(8 + 16 * UNMAP_RANGES_MAX <= PARAMETERS_MAX);
const _: () = assert!(CONTENT_BYTES_MAX <= TRANSFER_BYTES_MAX);
const _: () = assert!(TRANSFER_BYTES_MAX.is_multiple_of(BLOCK_BYTES as u64));
