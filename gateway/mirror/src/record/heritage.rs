//! What a primary that hands over knows of its other mirrors, as it tells the one that takes over.
//!
//! Invariant: of a mirror that is told, every block is told in which it may differ.

use block::{BlockRange, BlockSet, Epoch, GatewayId, Generation, GroupId, SessionId};
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
    /// The epoch in which it was opened last.
    pub(crate) epoch: Epoch,
    /// Where it may differ, by volume.
    pub(crate) lacks: Vec<BlockSet>,
}

/// Where the ledger keeps the epoch in which a mirror was opened last that was inherited.
pub(crate) fn heir_key(group: GroupId, gateway: GatewayId) -> String {
    format!("heir/{group}/{gateway}")
}

/// What lies there: magic, epoch, CRC32C.
pub(crate) fn epoch_record(epoch: Epoch) -> Bytes {
    let mut w = Writer(MAGIC.to_vec());
    w.u64(epoch.get());
    w.sealed()
}

/// Reads what [`epoch_record`] wrote. Anything else is no epoch: the mirror is copied whole then.
pub(crate) fn epoch_in(bytes: &[u8]) -> Option<Epoch> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let epoch: [u8; 8] = body.strip_prefix(&MAGIC)?.try_into().ok()?;
    (crc32c(body) == u32::from_le_bytes(*crc)).then(|| Epoch::new(u64::from_le_bytes(epoch)))
}

impl Writer {
    pub(super) fn inherited(&mut self, mirror: &Inherited) {
        self.uuid(mirror.gateway.uuid());
        self.text(&mirror.site);
        self.list(&mirror.sessions, |w, session| w.uuid(session.uuid()));
        self.bytes(&policy_bytes(&mirror.policy));
        for flag in [mirror.wanted, mirror.suspended, mirror.awaiting_reprotect] {
            self.u8(u8::from(flag));
        }
        self.uuid(mirror.base.uuid());
        self.u64(mirror.epoch.get());
        self.list(&mirror.lacks, |w, ranges| {
            w.list(ranges, |w, range| {
                w.u64(range.first());
                w.u64(range.end());
            });
        });
    }
}

impl Reader<'_> {
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
            epoch: Epoch::new(self.u64()?),
            lacks: self.list(|r| r.list(|r| Ok(BlockRange::new(r.u64()?, r.u64()?))))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_whole_or_not_at_all() {
        let bytes = epoch_record(Epoch::new(77));
        assert_eq!(epoch_in(&bytes), Some(Epoch::new(77)));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert_eq!(epoch_in(&damaged), None, "byte {at}");
            assert_eq!(epoch_in(&bytes[..at]), None, "cut at {at}");
        }
    }
}
