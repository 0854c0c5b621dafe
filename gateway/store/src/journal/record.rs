//! One record of a write journal's segment.
//!
//! ```text
//!   u32 CRC32C(segment, place, all that follows)  u8 kind  3 x 0  u32 payload bytes
//!   u32 CRC32C(payload)  u64 seq  u64 offset  u64 length  u128 id      payload
//! ```
//!
//! Invariant: a record is believed only where it was written: its checksum covers the segment and the
//! place. All integers are little-endian.

use block::{Change, Extent, Gap, JournalEntry, SnapshotId, VolumeId};
use bytes::Bytes;

use crate::crc::crc32c;

/// Bytes of a record before its payload.
pub(super) const HEAD_BYTES: usize = 56;
/// The longest payload: no request of a host is longer.
pub(super) const PAYLOAD_BYTES_MAX: u32 = 64 << 20;

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The number of its segment.
    pub segment: u64,
    /// Its first byte there.
    pub at: u64,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Write,
    Zero {
        may_trim: bool,
    },
    Trim,
    Base,
    Time,
    Gap,
    /// Nothing follows in this segment; the next one goes on.
    End,
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
    pub(super) seq: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) id: u128,
}

// === impl Kind ===

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Write => 1,
            Self::Zero { may_trim: true } => 2,
            Self::Zero { may_trim: false } => 3,
            Self::Trim => 4,
            Self::Base => 5,
            Self::Time => 6,
            Self::Gap => 7,
            Self::End => 8,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Write,
            2 => Self::Zero { may_trim: true },
            3 => Self::Zero { may_trim: false },
            4 => Self::Trim,
            5 => Self::Base,
            6 => Self::Time,
            7 => Self::Gap,
            8 => Self::End,
            _ => return None,
        })
    }
}

// === impl Head ===

impl Head {
    const fn bare(kind: Kind) -> Self {
        Self { kind, payload_bytes: 0, payload_crc: 0, seq: 0, offset: 0, len: 0, id: 0 }
    }

    /// The last record of a segment that another one continues.
    pub(super) const END: Self = Self::bare(Kind::End);

    /// An entry that came at this time, and its payload.
    pub(super) fn of((entry, heard_ms): (JournalEntry, u64)) -> (Self, Bytes) {
        match entry {
            JournalEntry::Base { snapshot, seq } => {
                let (id, seq) = (snapshot.uuid().as_u128(), seq.get());
                (Self { seq, id, offset: heard_ms, ..Self::bare(Kind::Base) }, Bytes::new())
            }
            JournalEntry::Time { unix_ms } => {
                (Self { offset: unix_ms, ..Self::bare(Kind::Time) }, Bytes::new())
            }
            JournalEntry::Gap(gap) => {
                let code = Gap::ALL.iter().position(|known| *known == gap).unwrap_or(0);
                (Self { offset: code as u64, ..Self::bare(Kind::Gap) }, Bytes::new())
            }
            JournalEntry::Change { seq, volume, extent, change } => {
                let (kind, payload) = match change {
                    Change::Write(data) => (Kind::Write, data),
                    Change::Zero { may_trim } => (Kind::Zero { may_trim }, Bytes::new()),
                    Change::Trim => (Kind::Trim, Bytes::new()),
                };
                let head = Self {
                    kind,
                    payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
                    payload_crc: crc32c(&payload),
                    seq: seq.get(),
                    offset: extent.offset(),
                    len: extent.len(),
                    id: volume.uuid().as_u128(),
                };
                (head, payload)
            }
        }
    }

    /// Bytes of the whole record.
    pub(super) fn record_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.payload_bytes)
    }

    pub(super) fn encode(&self, place: Place) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[4] = self.kind.code();
        out[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.seq.to_le_bytes());
        out[24..32].copy_from_slice(&self.offset.to_le_bytes());
        out[32..40].copy_from_slice(&self.len.to_le_bytes());
        out[40..56].copy_from_slice(&self.id.to_le_bytes());
        let crc = sum(place, &out);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What stands at a place; `None` when that is no record of ours.
    pub(super) fn decode(bytes: &[u8; HEAD_BYTES], place: Place) -> Option<Self> {
        let u32_at = |at: usize| bytes[at..].first_chunk().map(|four| u32::from_le_bytes(*four));
        let u64_at = |at: usize| bytes[at..].first_chunk().map(|eight| u64::from_le_bytes(*eight));
        if u32_at(0)? != sum(place, bytes) {
            return None;
        }
        let head = Self {
            kind: Kind::of(bytes[4])?,
            payload_bytes: u32_at(8)?,
            payload_crc: u32_at(12)?,
            seq: u64_at(16)?,
            offset: u64_at(24)?,
            len: u64_at(32)?,
            id: u128::from_le_bytes(*bytes[40..].first_chunk()?),
        };
        head.makes_sense().then_some(head)
    }

    /// Whether a change has a range, and a write as many bytes as that.
    fn makes_sense(&self) -> bool {
        match self.kind {
            Kind::Write => {
                self.payload_bytes <= PAYLOAD_BYTES_MAX
                    && u64::from(self.payload_bytes) == self.len
                    && Extent::new(self.offset, self.len).is_ok()
            }
            Kind::Zero { .. } | Kind::Trim => {
                self.payload_bytes == 0 && Extent::new(self.offset, self.len).is_ok()
            }
            Kind::Base | Kind::Time | Kind::Gap | Kind::End => self.payload_bytes == 0,
        }
    }

    pub(super) fn gap(&self) -> Gap {
        let code = usize::try_from(self.offset).unwrap_or(usize::MAX);
        Gap::ALL.get(code).copied().unwrap_or(Gap::Damaged)
    }

    pub(super) const fn snapshot(&self) -> SnapshotId {
        SnapshotId::of(self.id)
    }

    pub(super) const fn volume(&self) -> VolumeId {
        VolumeId::of(self.id)
    }
}

/// The checksum of a head: over its place, and all of it but the checksum.
fn sum(place: Place, head: &[u8; HEAD_BYTES]) -> u32 {
    let mut covered = [0; HEAD_BYTES + 12];
    covered[..8].copy_from_slice(&place.segment.to_le_bytes());
    covered[8..16].copy_from_slice(&place.at.to_le_bytes());
    covered[16..].copy_from_slice(&head[4..]);
    crc32c(&covered)
}

#[cfg(test)]
mod tests {
    use block::Seq;

    use super::*;

    const PLACE: Place = Place { segment: 3, at: 52 };
    /// A write of three bytes as version 1 has it.
    const BYTES: &str = "29e579160100000003000000b73f4b3607000000000000000010000000000000030000000000000009000000000000000000000000000000";

    fn write() -> Head {
        let (seq, volume) = (Seq::new(7), VolumeId::of(9));
        let extent = Extent::new(4096, 3).unwrap();
        let change = Change::Write(Bytes::from_static(b"abc"));
        Head::of((JournalEntry::Change { seq, volume, extent, change }, 0)).0
    }

    #[test]
    fn reads_the_bytes_of_version_1() {
        assert_eq!(crate::hex(&write().encode(PLACE)), BYTES);
    }

    #[test]
    fn is_believed_whole_and_where_it_was_written_only() {
        let bytes = write().encode(PLACE);
        assert_eq!(Head::decode(&bytes, PLACE), Some(write()));
        assert_eq!(Head::decode(&bytes, Place { at: 53, ..PLACE }), None);
        assert_eq!(Head::decode(&bytes, Place { segment: 4, ..PLACE }), None);
        for at in 0..HEAD_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert_eq!(Head::decode(&damaged, PLACE), None, "byte {at}");
        }
    }

    #[test]
    fn every_gap_is_read_as_it_was_said() {
        for gap in Gap::ALL {
            let (head, _) = Head::of((JournalEntry::Gap(gap), 0));
            assert_eq!(Head::decode(&head.encode(PLACE), PLACE).unwrap().gap(), gap);
        }
    }
}
