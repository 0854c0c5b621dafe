//! What the gateway remembers of scrubs.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The last scrub of a volume's copy here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct ScrubEntry {
    /// The volume.
    pub(crate) volume: Uuid,
    /// When it was begun, in milliseconds since 1970.
    pub(crate) begun_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub(crate) ended_ms: u64,
    /// Bytes that were read.
    pub(crate) read_bytes: u64,
    /// Blocks that were bad.
    pub(crate) bad: u64,
    /// Those of them that were repaired.
    pub(crate) repaired: u64,
    /// The first of those that were not.
    pub(crate) left: Vec<u64>,
    /// Why not, or why it did not come to its end.
    pub(crate) cause: Option<String>,
}
