//! One file of a write journal.
//!
//! ```text
//!   seg.0000000000000007:  head (magic, version, group, number, continues)  record*  [End]
//! ```
//!
//! Invariant: a segment is only appended to. What can be read of it is what stands before the first
//! record that does not match its checksum; one that was continued ends with `End`, and was durable
//! before the one that continues it was made.

use std::io::{self, IoSlice};
use std::sync::Arc;

use block::GroupId;
use bytes::Bytes;

use super::record::{HEAD_BYTES, Head, Place};
use crate::codec::Format;
use crate::crc::crc32c;
use crate::medium::{Directory, File};

const FORMAT: Format = Format { what: "write journal", magic: *b"TSWJRNL1", version: 1 };
/// Magic and such, the group, the number, whether it continues the one before.
pub(super) const START: u64 = 24 + 16 + 8 + 4 + 4;
/// Records in one system call, each of them a head and a payload.
const PARTS_MAX: usize = 512;
/// What is read at once when records are looked through.
const WINDOW_BYTES: usize = 256 << 10;

/// One that is written to.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) end: u64,
    pub(super) is_dirty: bool,
    file: Arc<dyn File>,
}

/// How far a segment can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Behind the last record that can.
    pub(super) end: u64,
    /// Whether that is its last one, `End`: the next segment goes on.
    pub(super) is_ended: bool,
    /// Whether something stands behind that.
    pub(super) is_torn: bool,
}

/// A record that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) head: Head,
}

pub(super) fn name(number: u64) -> String {
    format!("seg.{number:016x}")
}

/// The number of a segment by its name.
pub(super) fn number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("seg.")?, 16).ok()
}

// === impl Segment ===

impl Segment {
    /// A new one; its name is durable with the next sync.
    pub(super) fn create(
        dir: &dyn Directory,
        (group, number): (GroupId, u64),
        continues: bool,
    ) -> io::Result<Self> {
        let file = dir.create(&name(number))?;
        let mut body = group.uuid().as_u128().to_le_bytes().to_vec();
        body.extend_from_slice(&number.to_le_bytes());
        body.extend_from_slice(&u32::from(continues).to_le_bytes());
        let head = FORMAT.seal(&body);
        debug_assert_eq!(head.len() as u64, START, "the head is as long as it is said to be");
        file.write_at(&mut [IoSlice::new(&head)], 0)?;
        Ok(Self { number, end: START, is_dirty: true, file })
    }

    /// Appends records; says where each stands.
    pub(super) fn append(&mut self, records: &[(Head, Bytes)]) -> io::Result<Vec<Place>> {
        let mut places = Vec::with_capacity(records.len());
        for some in records.chunks(PARTS_MAX) {
            let (begin, mut heads) = (self.end, Vec::with_capacity(some.len()));
            let mut at = begin;
            for (head, _) in some {
                let place = Place { segment: self.number, at };
                places.push(place);
                heads.push(head.encode(place));
                at += head.record_bytes();
            }
            let parts = heads.iter().zip(some).flat_map(|(head, (_, payload))| {
                [IoSlice::new(head.as_slice()), IoSlice::new(payload.as_ref())]
            });
            let mut parts: Vec<IoSlice<'_>> = parts.filter(|part| !part.is_empty()).collect();
            self.is_dirty = true;
            self.file.write_aside_at(&mut parts, begin)?;
            self.end = at;
        }
        Ok(places)
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.file.sync()?;
            self.is_dirty = false;
        }
        Ok(())
    }
}

/// Proves the head of a segment; says whether it continues the one before.
pub(super) fn open(
    dir: &dyn Directory,
    (group, number): (GroupId, u64),
) -> io::Result<Option<(Arc<dyn File>, bool)>> {
    let file = dir.open(&name(number))?;
    let mut head = [0; 56];
    if file.read_at(&mut head, 0)? < head.len() {
        return Ok(None);
    }
    let Ok(mut body) = FORMAT.open(&head) else { return Ok(None) };
    let fields = (body.array::<16>(), body.u64(), body.u32());
    let (Ok(of), Ok(found), Ok(continues)) = fields else { return Ok(None) };
    let is_ours = u128::from_le_bytes(of) == group.uuid().as_u128() && found == number;
    Ok(is_ours.then_some((file, continues == 1)))
}

/// Looks through a segment from a record on, up to `upto`. With `payloads` each payload is read and
/// proven, else only skipped. `each` says whether to go on.
pub(super) fn scan(
    file: &dyn File,
    from: Place,
    (upto, payloads): (u64, bool),
    mut each: impl FnMut(Found),
) -> io::Result<Scanned> {
    let size = file.size()?;
    let (mut window, mut begins) = (Vec::new(), 0_u64);
    let mut payload = Vec::new();
    let mut place = from;
    let mut is_ended = false;
    while !is_ended && place.at < size.min(upto) {
        let skip = place.at.checked_sub(begins).and_then(|skip| usize::try_from(skip).ok());
        let have = skip.and_then(|skip| window.get(skip..)?.first_chunk::<HEAD_BYTES>());
        let bytes = match have {
            Some(bytes) => *bytes,
            None => {
                window.resize(WINDOW_BYTES, 0);
                let got = file.read_at(&mut window, place.at)?;
                window.truncate(got);
                begins = place.at;
                let Some(bytes) = window.first_chunk::<HEAD_BYTES>() else { break };
                *bytes
            }
        };
        let Some(head) = Head::decode(&bytes, place) else { break };
        if place.at + head.record_bytes() > size {
            break;
        }
        if payloads && head.payload_bytes > 0 {
            payload.resize(usize::try_from(head.payload_bytes).map_err(io::Error::other)?, 0);
            let got = file.read_at(&mut payload, place.at + HEAD_BYTES as u64)?;
            if got < payload.len() || crc32c(&payload) != head.payload_crc {
                break;
            }
        }
        is_ended = head == Head::END;
        each(Found { place, head });
        place.at += head.record_bytes();
    }
    Ok(Scanned { end: place.at, is_ended, is_torn: place.at < size.min(upto) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_others_are_none_of_ours() {
        assert_eq!(number(&name(0x1f)), Some(0x1f));
        assert_eq!((number("seg.x"), number("data.0001")), (None, None));
    }
}
