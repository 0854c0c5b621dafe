//! What bounds a group, and why.
//!
//! Invariant: whatever is sent or recorded of a group fits where it must go, however it grows.

/// Volumes of one group. What depends on their number:
///
/// * `Open` takes 102 bytes for each (two ids of 16, a length of 2 and a name of up to 64, a size
///   of 8 and some), so 64 take 6.4 KiB of a link's frame, which holds 1 MiB and more.
/// * The group's record takes 16 bytes for each volume and 16 for each of its sessions: 9 KiB with
///   eight mirrors, written whole at each change of roles.
/// * Each volume keeps its own activity log of 64 extents: 64 × 64 × 4 MiB = 16 GiB may be compared
///   after a crash, at the speed of checksums.
///
/// The largest group that the tests run has 16.
pub const GROUP_VOLUMES_MAX: usize = 64;

/// Changes name a volume by its index in 16 bits.
const _: () = assert!(GROUP_VOLUMES_MAX < u16::MAX as usize);
