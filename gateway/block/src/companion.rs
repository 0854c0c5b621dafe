//! What the parts of a group that lie at several gateways of a site say to each other.
//!
//! Invariant: what is said is recorded, or was true when it was said and harms nobody when it is
//! not any more; so a word that is lost, doubled or late does no harm.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::{GatewayId, GroupId};

/// How a part of a group is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartState {
    /// What can be said of it in numbers and flags.
    pub facts: PartFacts,
    /// Companions that an operator excluded.
    pub excludes: Vec<GatewayId>,
}

/// The part of a [`PartState`] that is compared after every event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartFacts {
    /// The stretch that it is in or works towards; it is past all below, durably.
    pub number: u64,
    /// Its mirror lacks nothing and may be asked to record this stretch.
    pub is_ready: bool,
    /// Its mirror recorded that it is in sync in this stretch.
    pub has_voted: bool,
    /// It counts on its mirror, as all do.
    pub has_joined: bool,
    /// The newest stretch that every mirror recorded, as far as is known; 0 for none.
    pub whole: u64,
    /// The cut at which it became primary; 0 for the gateways where the group was founded.
    pub from: u64,
    /// It is a primary, as it is recorded, or is handing over.
    pub is_primary: bool,
    /// Hosts are held, nothing is in flight: roles may be swapped.
    pub is_drained: bool,
    /// Its mirror.
    pub mirror: Option<GatewayId>,
    /// Of a mirror: the stretch that its copy is a point of; 0 for none.
    pub copy: u64,
    /// The stretch that its kept point is a point of; 0 for none.
    pub kept: u64,
}

/// An answer of a companion, later.
pub type CompanionFuture = Pin<Box<dyn Future<Output = Result<PartState, String>>>>;

/// The companions of a gateway's part, as its thread reaches them.
pub trait Companions {
    /// Tells a companion how this part is and asks how that one is. The text says why there is no
    /// answer.
    ///
    /// Cancellation: safe; it may have been told.
    fn tell(&self, group: GroupId, companion: GatewayId, state: PartState) -> CompanionFuture;
}

const VERSION: u8 = 1;

impl PartState {
    /// As bytes, for whoever carries it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let facts = &self.facts;
        let mut bytes = vec![VERSION];
        for number in [facts.number, facts.whole, facts.from, facts.copy, facts.kept] {
            bytes.extend(number.to_le_bytes());
        }
        let flags = [
            facts.is_ready,
            facts.has_voted,
            facts.has_joined,
            facts.is_primary,
            facts.is_drained,
            facts.mirror.is_some(),
        ];
        bytes.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
        let mirror = facts.mirror.map(|mirror| *mirror.uuid().as_bytes());
        bytes.extend(mirror.unwrap_or_default());
        for gateway in &self.excludes {
            bytes.extend(gateway.uuid().as_bytes());
        }
        Bytes::from(bytes)
    }

    /// From bytes; nothing if they are not what this release writes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (numbers, rest) = rest.split_first_chunk::<40>()?;
        let (numbers, _none) = numbers.as_chunks::<8>();
        let number = |at: usize| numbers.get(at).copied().map_or(0, u64::from_le_bytes);
        let (flags, rest) = rest.split_first()?;
        let (mirror, rest) = rest.split_first_chunk::<16>()?;
        let (ids, rest) = rest.as_chunks::<16>();
        if !rest.is_empty() || flags >> 6 != 0 {
            return None;
        }
        let flag = |bit: u8| flags & 1 << bit != 0;
        let gateway = |bytes: &[u8; 16]| GatewayId::from_uuid(uuid::Uuid::from_bytes(*bytes));
        let facts = PartFacts {
            number: number(0),
            whole: number(1),
            from: number(2),
            copy: number(3),
            kept: number(4),
            is_ready: flag(0),
            has_voted: flag(1),
            has_joined: flag(2),
            is_primary: flag(3),
            is_drained: flag(4),
            mirror: flag(5).then(|| gateway(mirror)),
        };
        Some(Self { facts, excludes: ids.iter().map(gateway).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let facts = PartFacts {
            number: 9,
            is_ready: true,
            has_joined: true,
            whole: 8,
            from: 7,
            is_primary: true,
            mirror: Some(GatewayId::of(3)),
            copy: 6,
            kept: 5,
            ..PartFacts::default()
        };
        let state = PartState { facts, excludes: vec![GatewayId::of(1), GatewayId::of(2)] };
        let bytes = state.encode();
        assert_eq!(PartState::decode(&bytes), Some(state));
        assert_eq!(PartState::decode(&PartState::default().encode()), Some(PartState::default()));
        for len in 0..58 {
            assert_eq!(PartState::decode(&bytes[..len]), None, "cut at {len}");
        }
        assert_eq!(PartState::decode(&[2]), None);
    }
}
