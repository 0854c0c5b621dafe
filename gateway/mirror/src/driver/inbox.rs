//! Answers of stores and the ledger, found again by their tags.

use block::{Answer, Completion, IoError, LegId, Segment, Segments, WriteId};
use bytes::{Bytes, BytesMut};

use super::{Core, Group};
use crate::machine::{Event, Taken};

/// What an answer belongs to, packed into the 64 bits of a ticket's tag: 8 bits of kind, 56 of name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Applied(WriteId),
    /// By the driver's own number of the round.
    Flushed(u64),
    Activated(u64),
    Recorded(u64),
    Grown(usize),
    Copied {
        leg: LegId,
        copy: u8,
        attempt: u64,
    },
    /// By the driver's own number of the round.
    Snapshotted(u64),
    RolledBack(u64),
    /// By its place in the removal under way.
    Removed(usize),
}

const NAME_BITS: u32 = 56;
const NAME_MASK: u64 = (1 << NAME_BITS) - 1;

impl Tag {
    pub(super) fn pack(self) -> u64 {
        let (kind, name) = match self {
            Self::Applied(write) => (1, write.get()),
            Self::Flushed(number) => (2, number),
            Self::Activated(number) => (3, number),
            Self::Recorded(number) => (4, number),
            Self::Grown(volume) => (5, volume as u64),
            Self::Copied { leg, copy, attempt } => {
                (6, attempt << 16 & NAME_MASK | (leg.index() as u64) << 8 | u64::from(copy))
            }
            Self::Snapshotted(number) => (7, number),
            Self::RolledBack(number) => (8, number),
            Self::Removed(index) => (9, index as u64),
        };
        kind << NAME_BITS | name & NAME_MASK
    }

    pub(super) fn unpack(tag: u64) -> Self {
        let name = tag & NAME_MASK;
        match tag >> NAME_BITS {
            1 => Self::Applied(WriteId::new(name)),
            2 => Self::Flushed(name),
            3 => Self::Activated(name),
            4 => Self::Recorded(name),
            5 => Self::Grown(usize::try_from(name).expect("a volume's index")),
            6 => {
                let leg = usize::try_from(name >> 8 & 0xff).expect("eight bits");
                let copy = u8::try_from(name & 0xff).expect("eight bits");
                let leg = LegId::new(leg).expect("a leg's index");
                Self::Copied { leg, copy, attempt: name >> 16 }
            }
            7 => Self::Snapshotted(name),
            8 => Self::RolledBack(name),
            9 => Self::Removed(usize::try_from(name).expect("a place in a list")),
            other => unreachable!("no ticket was given with kind {other}"),
        }
    }
}

/// Several stores answer one round.
#[derive(Debug)]
pub(super) struct Round {
    /// The machine's number of it.
    pub(super) number: u64,
    pub(super) waiting: usize,
    pub(super) error: Option<IoError>,
}

impl Round {
    fn result(&self) -> Result<(), IoError> {
        self.error.map_or(Ok(()), Err)
    }
}

impl Core {
    /// Turns every answer that is here into an event.
    pub(super) fn take_completions(&mut self, group: &Group) {
        let mut completions = std::mem::take(&mut self.completions);
        self.sink.take(&mut completions);
        for Completion { tag, result } in completions.drain(..) {
            match Tag::unpack(tag) {
                Tag::Applied(write) => {
                    if let Some(launched) = &mut self.slab.get(write).launched {
                        self.metrics.applied(launched);
                    }
                    let result = result.map(|_| ());
                    self.events.push(Event::Applied { write, result });
                }
                Tag::Flushed(number) => {
                    if let Some(round) = self.end_of_round(number, result.err()) {
                        let result = round.result();
                        self.events.push(Event::Flushed { round: round.number, result });
                    }
                }
                Tag::Activated(number) => {
                    if let Some(round) = self.end_of_round(number, result.err()) {
                        let result = round.result();
                        self.events.push(Event::Activated { round: round.number, result });
                    }
                }
                Tag::Recorded(number) => {
                    let result = result.map(|_| ());
                    self.events.push(Event::Recorded { number, result });
                }
                Tag::Grown(volume) => self.grown(volume, result.err()),
                Tag::Snapshotted(number) => {
                    if let Some(round) = self.end_of_round(number, result.err()) {
                        let unix_ms = group.clock.unix_ms();
                        let mapped = self.members.iter().map(|m| m.store.usage().mapped_bytes);
                        let taken = Taken { unix_ms, mapped_bytes: mapped.sum() };
                        self.events.push(Event::Snapshotted(round.result(), taken));
                    }
                }
                Tag::RolledBack(number) => {
                    if let Some(round) = self.end_of_round(number, result.err()) {
                        self.events.push(Event::RolledBack { result: round.result() });
                    }
                }
                Tag::Removed(index) => self.removed(index, result.map(|_| ())),
                Tag::Copied { leg, copy, attempt } => self.copied(leg, copy, attempt, result),
            }
        }
        self.completions = completions;
    }

    /// Opens a round that `waiting` stores answer.
    pub(super) fn begin_round(&mut self, number: u64, waiting: usize) -> u64 {
        self.attempts += 1;
        let key = self.attempts;
        self.rounds.insert(key, Round { number, waiting, error: None });
        key
    }

    fn end_of_round(&mut self, key: u64, error: Option<IoError>) -> Option<Round> {
        let round = self.rounds.get_mut(&key).expect("a round is answered once per store");
        round.waiting -= 1;
        round.error = round.error.or(error);
        if round.waiting > 0 {
            return None;
        }
        self.rounds.remove(&key)
    }
}

/// What was read, as the bytes of one change; `None` if all of it reads as zero.
pub(super) fn join(segments: Segments) -> Option<Bytes> {
    if segments.iter().all(|segment| matches!(segment, Segment::Zero(_))) {
        return None;
    }
    if let [Segment::Data(data)] = segments.as_slice() {
        return Some(data.clone());
    }
    let len: u64 = segments.iter().map(Segment::len).sum();
    let mut bytes = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0));
    for segment in segments {
        match segment {
            Segment::Data(data) => bytes.extend_from_slice(&data),
            Segment::Zero(len) => {
                bytes.resize(bytes.len() + usize::try_from(len).unwrap_or(0), 0);
            }
        }
    }
    Some(bytes.freeze())
}

/// What a read answered; anything else is a store's bug and counts as a medium error.
pub(super) fn read_of(result: Result<Answer, IoError>) -> Result<Segments, IoError> {
    match result? {
        Answer::Read(segments) => Ok(segments),
        Answer::Done => Err(IoError::Media),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_again() {
        let leg = LegId::new(5).unwrap();
        let tags = [
            Tag::Applied(WriteId::new(7)),
            Tag::Flushed(1),
            Tag::Activated(2),
            Tag::Recorded(3),
            Tag::Grown(4),
            Tag::Copied { leg, copy: 7, attempt: 99 },
            Tag::Snapshotted(5),
            Tag::RolledBack(6),
            Tag::Removed(7),
        ];
        for tag in tags {
            assert_eq!(Tag::unpack(tag.pack()), tag);
        }
    }

    #[test]
    fn what_reads_as_zero_is_not_sent_as_bytes() {
        let zeroes: Segments = [Segment::Zero(4096)].into_iter().collect();
        assert_eq!(join(zeroes), None);
        let mixed: Segments =
            [Segment::Zero(2), Segment::Data(Bytes::from_static(b"ab"))].into_iter().collect();
        assert_eq!(join(mixed), Some(Bytes::from_static(b"\0\0ab")));
    }
}
