//! What is recorded of the other parts of a group at this site, and what mirrors are told of theirs.
//!
//! Invariant: a group without companions has none of this, and its record is what it always was.

use block::GatewayId;
use bytes::Bytes;

use super::RecordError;
use super::wire::{Reader, Writer};

/// The companions of this part, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartsRecord {
    /// Who, and whether an operator excluded it.
    pub(crate) companions: Vec<(GatewayId, bool)>,
    /// The stretch that it is in or works towards.
    pub(crate) number: u64,
    /// The newest stretch that every mirror recorded.
    pub(crate) whole: u64,
    /// The cut at which it became primary.
    pub(crate) from: u64,
    /// Of a mirror: the stretch that its copy is a point of.
    pub(crate) copy: u64,
    /// The stretch that its kept point is a point of.
    pub(crate) kept: u64,
    /// The stretch that it was told the next vote is for.
    pub(crate) told: u64,
    /// It is in the stretch: it counts on its mirror, as all do.
    pub(crate) joined: bool,
}

/// What a mirror is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanWord {
    /// The stretch that the next vote is for.
    pub(crate) number: u64,
    /// The newest stretch that every mirror recorded.
    pub(crate) whole: u64,
    /// Who holds the other parts at the mirror's site, if that is known.
    pub(crate) companions: Option<Vec<GatewayId>>,
}

const WORD_VERSION: u8 = 1;

impl SpanWord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut w = Writer(vec![WORD_VERSION]);
        w.u64(self.number);
        w.u64(self.whole);
        w.option(self.companions.as_ref(), |w, companions| {
            w.list(companions, |w, gateway| w.uuid(gateway.uuid()));
        });
        Bytes::from(w.0)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let bytes = bytes.strip_prefix(&[WORD_VERSION]).ok_or(RecordError::Damaged)?;
        let mut r = Reader(bytes, super::VERSION_OF_PARTS);
        let word = Self {
            number: r.u64()?,
            whole: r.u64()?,
            companions: r.option(|r| r.list(|r| r.uuid().map(GatewayId::from_uuid)))?,
        };
        if r.0.is_empty() { Ok(word) } else { Err(RecordError::Damaged) }
    }
}

impl Writer {
    pub(super) fn parts(&mut self, parts: &PartsRecord) {
        self.list(&parts.companions, |w, (gateway, excluded)| {
            w.uuid(gateway.uuid());
            w.u8(u8::from(*excluded));
        });
        for number in [parts.number, parts.whole, parts.from, parts.copy, parts.kept, parts.told] {
            self.u64(number);
        }
        self.u8(u8::from(parts.joined));
    }
}

impl Reader<'_> {
    pub(super) fn parts(&mut self) -> Result<PartsRecord, RecordError> {
        Ok(PartsRecord {
            companions: self.list(|r| Ok((GatewayId::from_uuid(r.uuid()?), r.flag()?)))?,
            number: self.u64()?,
            whole: self.u64()?,
            from: self.u64()?,
            copy: self.u64()?,
            kept: self.u64()?,
            told: self.u64()?,
            joined: self.flag()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_written() {
        let companions = Some(vec![GatewayId::of(3), GatewayId::of(4)]);
        for word in [
            SpanWord { number: 2, whole: 1, companions },
            SpanWord { number: 9, whole: 0, companions: None },
        ] {
            let bytes = word.encode();
            assert_eq!(SpanWord::decode(&bytes), Ok(word));
            for len in 0..bytes.len() {
                assert!(SpanWord::decode(&bytes[..len]).is_err(), "cut at {len}");
            }
        }
    }
}
