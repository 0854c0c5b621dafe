//! What a primary that hands over knows of its other mirrors, as it tells the one that takes over.
//!
//! Invariant: of a mirror that is told, every block is told in which it may differ.

use block::{BlockRange, BlockSet, Epoch, GatewayId, Generation, GroupId, Predecessor, SessionId};
use bytes::Bytes;

use super::wire::{Reader, Writer, policy_bytes, policy_of};
use super::{RecordError, crc32c};
use crate::policy::Policy;

const MAGIC: [u8; 4] = *b"TwH1";

/// One mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inherited {
    pub(crate) gateway: GatewayId,
    pub(crate) site: String,
    pub(crate) sessions: Vec<SessionId>,
    pub(crate) policy: Policy,
    pub(crate) wanted: bool,
    pub(crate) suspended: bool,
    pub(crate) awaiting_reprotect: bool,
    /// The oldest history that its content can belong to for this to be all that it lacks.
    pub(crate) base: Generation,
    /// The primary that opened it last.
    pub(crate) heir_of: Predecessor,
    /// Where it may differ, by volume.
    pub(crate) lacks: Vec<BlockSet>,
    /// Of this, by volume, what much of may be the same there: it is compared before it is copied.
    pub(crate) suspects: Vec<BlockSet>,
}

/// Where the ledger keeps which primary opened a mirror last that was inherited.
pub(crate) fn heir_key(group: GroupId, gateway: GatewayId) -> String {
    format!("heir/{group}/{gateway}")
}

/// What lies there: magic, gateway, epoch, CRC32C.
pub(crate) fn heir_record(heir_of: Predecessor) -> Bytes {
    let mut w = Writer(MAGIC.to_vec());
    w.predecessor(heir_of);
    w.sealed()
}

/// Reads what [`heir_record`] wrote. Anything else names nobody: the mirror is copied whole then.
pub(crate) fn heir_in(bytes: &[u8]) -> Option<Predecessor> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let body = body.strip_prefix(&MAGIC).filter(|_| crc32c(body) == u32::from_le_bytes(*crc))?;
    let mut r = Reader(body, 0);
    let heir_of = r.predecessor().ok()?;
    r.0.is_empty().then_some(heir_of)
}

impl Writer {
    fn predecessor(&mut self, predecessor: Predecessor) {
        self.uuid(predecessor.gateway.uuid());
        self.u64(predecessor.epoch.get());
    }

    fn block_sets(&mut self, sets: &[BlockSet]) {
        self.list(sets, |w, ranges| {
            w.list(ranges, |w, range| {
                w.u64(range.first());
                w.u64(range.end());
            });
        });
    }

    pub(super) fn inherited(&mut self, mirror: &Inherited) {
        self.uuid(mirror.gateway.uuid());
        self.text(&mirror.site);
        self.list(&mirror.sessions, |w, session| w.uuid(session.uuid()));
        self.bytes(&policy_bytes(&mirror.policy));
        for flag in [mirror.wanted, mirror.suspended, mirror.awaiting_reprotect] {
            self.u8(u8::from(flag));
        }
        self.uuid(mirror.base.uuid());
        self.predecessor(mirror.heir_of);
        self.block_sets(&mirror.lacks);
        self.block_sets(&mirror.suspects);
    }
}

impl Reader<'_> {
    fn predecessor(&mut self) -> Result<Predecessor, RecordError> {
        let gateway = GatewayId::from_uuid(self.uuid()?);
        Ok(Predecessor { gateway, epoch: Epoch::new(self.u64()?) })
    }

    fn block_sets(&mut self) -> Result<Vec<BlockSet>, RecordError> {
        self.list(|r| r.list(|r| Ok(BlockRange::new(r.u64()?, r.u64()?))))
    }

    pub(super) fn inherited(&mut self) -> Result<Inherited, RecordError> {
        Ok(Inherited {
            gateway: GatewayId::from_uuid(self.uuid()?),
            site: self.text()?,
            sessions: self.list(|r| r.uuid().map(SessionId::from_uuid))?,
            policy: policy_of(&self.bytes()?).ok_or(RecordError::Damaged)?,
            wanted: self.flag()?,
            suspended: self.flag()?,
            awaiting_reprotect: self.flag()?,
            base: Generation::from_uuid(self.uuid()?),
            heir_of: self.predecessor()?,
            lacks: self.block_sets()?,
            suspects: self.block_sets()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_whole_or_not_at_all() {
        let heir_of = Predecessor { gateway: GatewayId::of(5), epoch: Epoch::new(77) };
        let bytes = heir_record(heir_of);
        assert_eq!(heir_in(&bytes), Some(heir_of));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert_eq!(heir_in(&damaged), None, "byte {at}");
            assert_eq!(heir_in(&bytes[..at]), None, "cut at {at}");
        }
    }
}
