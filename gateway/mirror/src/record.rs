//! What a gateway durably knows of a group, as bytes.
//!
//! ```text
//!   "TwG1"  u16 version  body  CRC32C(all before)         (all integers little-endian)
//! ```
//!
//! Invariant: a record that this release cannot read whole is refused, never half believed.

use block::{Epoch, GatewayId, Generation, GroupId, Quality, SessionId, VolumeId};
use bytes::Bytes;
use uuid::Uuid;

use crate::lineage::Lineage;
use crate::policy::{Failover, OnSlow, Policy, Recovery, Split};

const MAGIC: [u8; 4] = *b"TwG1";
const VERSION: u16 = 2;

/// CRC32C of bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes))
        .expect("a CRC-32 has 32 bits")
}

/// Why a record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is torn or altered.
    #[error("group record is damaged")]
    Damaged,
    /// It was written by a newer release.
    #[error("group record has version {0}, this release reads up to {VERSION}")]
    Newer(u16),
}

/// The part a gateway plays, as it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoleRecord {
    Primary,
    /// The primary is handing the group over at this epoch and may not serve until it knows
    /// whether the mirror took it.
    Yielding {
        to: GatewayId,
        epoch: Epoch,
    },
    Secondary,
    Fenced {
        by: Epoch,
    },
}

/// Whether a group is under a witness, as it is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Arbitrated {
    /// It never was, or an operator gave the witness up.
    #[default]
    No,
    /// The witness was about to be asked for the first time.
    Intended,
    /// The witness knows the group.
    Claimed,
}

/// One mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LegRecord {
    pub(crate) gateway: GatewayId,
    pub(crate) site: String,
    pub(crate) sessions: Vec<SessionId>,
    pub(crate) policy: Policy,
    /// Whether it is in the in-sync set: it holds every acknowledged write.
    pub(crate) in_sync: bool,
    /// Whether mirroring is wanted; if not, an operator or a failover stopped it.
    pub(crate) wanted: bool,
    /// Whether it stopped because the mirror took over from us, or we from it.
    pub(crate) awaiting_reprotect: bool,
    /// The history from which our dirty map counts; `None`: only a full copy helps.
    pub(crate) base: Option<Generation>,
}

/// The gateway at the other end: the primary that a mirror follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamRecord {
    pub(crate) gateway: GatewayId,
    pub(crate) site: String,
    pub(crate) sessions: Vec<SessionId>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupRecord {
    pub(crate) group: GroupId,
    pub(crate) name: String,
    pub(crate) volumes: Vec<VolumeId>,
    pub(crate) role: RoleRecord,
    pub(crate) epoch: Epoch,
    pub(crate) lineage: Option<Lineage>,
    pub(crate) quality: Quality,
    pub(crate) legs: Vec<Option<LegRecord>>,
    pub(crate) upstream: Option<UpstreamRecord>,
    /// The kernel's boot id when it was written: whether the page cache can have survived.
    pub(crate) host_boot: [u8; 16],
    /// Whether the group is under a witness. Since version 2.
    pub(crate) arbitrated: Arbitrated,
}

/// Where the ledger keeps the record of a group.
pub(crate) fn group_key(group: GroupId) -> String {
    format!("group/{group}")
}

/// Where the ledger keeps what one mirror lacks of one volume.
pub(crate) fn dirty_key(group: GroupId, gateway: GatewayId, volume: VolumeId) -> String {
    format!("dirty/{group}/{gateway}/{volume}")
}

// === impl GroupRecord ===

impl GroupRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut w = Writer(MAGIC.to_vec());
        w.0.extend(VERSION.to_le_bytes());
        w.uuid(self.group.uuid());
        w.text(&self.name);
        w.list(&self.volumes, |w, volume| w.uuid(volume.uuid()));
        match self.role {
            RoleRecord::Primary => w.u8(1),
            RoleRecord::Yielding { to, epoch } => {
                w.u8(2);
                w.uuid(to.uuid());
                w.u64(epoch.get());
            }
            RoleRecord::Secondary => w.u8(3),
            RoleRecord::Fenced { by } => {
                w.u8(4);
                w.u64(by.get());
            }
        }
        w.u64(self.epoch.get());
        w.option(self.lineage.as_ref(), |w, lineage| {
            w.uuid(lineage.current.uuid());
            w.list(&lineage.ancestors, |w, generation| w.uuid(generation.uuid()));
        });
        w.u8(quality_code(self.quality));
        w.list(&self.legs, |w, leg| w.option(leg.as_ref(), Writer::leg));
        w.option(self.upstream.as_ref(), |w, upstream| {
            w.uuid(upstream.gateway.uuid());
            w.text(&upstream.site);
            w.list(&upstream.sessions, |w, session| w.uuid(session.uuid()));
        });
        w.0.extend(self.host_boot);
        w.u8(match self.arbitrated {
            Arbitrated::No => 0,
            Arbitrated::Intended => 1,
            Arbitrated::Claimed => 2,
        });
        let crc = crc32c(&w.0);
        w.0.extend(crc.to_le_bytes());
        Bytes::from(w.0)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(RecordError::Damaged)?;
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(RecordError::Damaged);
        }
        let mut r = Reader(body.strip_prefix(&MAGIC).ok_or(RecordError::Damaged)?);
        let version = u16::from_le_bytes(r.take()?);
        if version > VERSION {
            return Err(RecordError::Newer(version));
        }
        let record = Self {
            group: GroupId::from_uuid(r.uuid()?),
            name: r.text()?,
            volumes: r.list(|r| r.uuid().map(VolumeId::from_uuid))?,
            role: match r.u8()? {
                1 => RoleRecord::Primary,
                2 => RoleRecord::Yielding {
                    to: GatewayId::from_uuid(r.uuid()?),
                    epoch: Epoch::new(r.u64()?),
                },
                3 => RoleRecord::Secondary,
                4 => RoleRecord::Fenced { by: Epoch::new(r.u64()?) },
                _ => return Err(RecordError::Damaged),
            },
            epoch: Epoch::new(r.u64()?),
            lineage: r.option(|r| {
                Ok(Lineage {
                    current: Generation::from_uuid(r.uuid()?),
                    ancestors: r.list(|r| r.uuid().map(Generation::from_uuid))?,
                })
            })?,
            quality: quality_of(r.u8()?)?,
            legs: r.list(|r| r.option(|r| r.leg(version)))?,
            upstream: r.option(|r| {
                Ok(UpstreamRecord {
                    gateway: GatewayId::from_uuid(r.uuid()?),
                    site: r.text()?,
                    sessions: r.list(|r| r.uuid().map(SessionId::from_uuid))?,
                })
            })?,
            host_boot: r.take()?,
            arbitrated: if version < 2 { Arbitrated::No } else { arbitrated_of(r.u8()?)? },
        };
        if r.0.is_empty() { Ok(record) } else { Err(RecordError::Damaged) }
    }
}

fn arbitrated_of(code: u8) -> Result<Arbitrated, RecordError> {
    match code {
        0 => Ok(Arbitrated::No),
        1 => Ok(Arbitrated::Intended),
        2 => Ok(Arbitrated::Claimed),
        _ => Err(RecordError::Damaged),
    }
}

fn quality_code(quality: Quality) -> u8 {
    match quality {
        Quality::Blank => 1,
        Quality::Inconsistent => 2,
        Quality::Outdated => 3,
        Quality::InSync => 4,
        Quality::Source => 5,
    }
}

fn quality_of(code: u8) -> Result<Quality, RecordError> {
    match code {
        1 => Ok(Quality::Blank),
        2 => Ok(Quality::Inconsistent),
        3 => Ok(Quality::Outdated),
        4 => Ok(Quality::InSync),
        5 => Ok(Quality::Source),
        _ => Err(RecordError::Damaged),
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn uuid(&mut self, value: Uuid) {
        self.0.extend(value.as_bytes());
    }

    fn len(&mut self, len: usize) {
        self.0.extend(u32::try_from(len).expect("records are small").to_le_bytes());
    }

    fn text(&mut self, value: &str) {
        self.len(value.len());
        self.0.extend(value.as_bytes());
    }

    fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.len(items.len());
        for item in items {
            each(self, item);
        }
    }

    fn option<T>(&mut self, item: Option<&T>, each: impl FnOnce(&mut Self, &T)) {
        self.u8(u8::from(item.is_some()));
        if let Some(item) = item {
            each(self, item);
        }
    }

    fn leg(&mut self, leg: &LegRecord) {
        self.uuid(leg.gateway.uuid());
        self.text(&leg.site);
        self.list(&leg.sessions, |w, session| w.uuid(session.uuid()));
        self.u8(u8::from(leg.policy.split == Split::Manual));
        self.u8(u8::from(leg.policy.recovery == Recovery::Manual));
        self.u8(u8::from(leg.policy.on_slow == OnSlow::Block));
        self.u64(leg.policy.ack_deadline_ms);
        self.u8(u8::from(leg.in_sync));
        self.u8(u8::from(leg.wanted));
        self.u8(u8::from(leg.awaiting_reprotect));
        self.option(leg.base.as_ref(), |w, base| w.uuid(base.uuid()));
        self.u8(u8::from(leg.policy.failover == Failover::Automatic));
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or(RecordError::Damaged)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, RecordError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordError::Damaged),
        }
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.take().map(u64::from_le_bytes)
    }

    fn uuid(&mut self) -> Result<Uuid, RecordError> {
        self.take().map(Uuid::from_bytes)
    }

    fn len(&mut self) -> Result<usize, RecordError> {
        let len = usize::try_from(u32::from_le_bytes(self.take()?)).unwrap_or(usize::MAX);
        // Every item takes at least a byte, so a longer list is a lie and allocates nothing.
        if len > self.0.len() { Err(RecordError::Damaged) } else { Ok(len) }
    }

    fn text(&mut self) -> Result<String, RecordError> {
        let len = self.len()?;
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        std::str::from_utf8(bytes).map(str::to_owned).or(Err(RecordError::Damaged))
    }

    fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let len = self.len()?;
        (0..len).map(|_| each(self)).collect()
    }

    fn option<T>(
        &mut self,
        each: impl FnOnce(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Option<T>, RecordError> {
        if self.flag()? { each(self).map(Some) } else { Ok(None) }
    }

    fn leg(&mut self, version: u16) -> Result<LegRecord, RecordError> {
        let mut leg = LegRecord {
            gateway: GatewayId::from_uuid(self.uuid()?),
            site: self.text()?,
            sessions: self.list(|r| r.uuid().map(SessionId::from_uuid))?,
            policy: Policy {
                split: if self.flag()? { Split::Manual } else { Split::Automatic },
                recovery: if self.flag()? { Recovery::Manual } else { Recovery::Automatic },
                on_slow: if self.flag()? { OnSlow::Block } else { OnSlow::Error },
                ack_deadline_ms: self.u64()?,
                failover: Failover::Manual,
            },
            in_sync: self.flag()?,
            wanted: self.flag()?,
            awaiting_reprotect: self.flag()?,
            base: self.option(|r| r.uuid().map(Generation::from_uuid))?,
        };
        if version >= 2 && self.flag()? {
            leg.policy.failover = Failover::Automatic;
        }
        Ok(leg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> GroupRecord {
        GroupRecord {
            group: GroupId::of(1),
            name: "orders".to_owned(),
            volumes: vec![VolumeId::of(2)],
            role: RoleRecord::Yielding { to: GatewayId::of(3), epoch: Epoch::new(8) },
            epoch: Epoch::new(7),
            lineage: Some(Lineage::new(Generation::of(4), vec![Generation::of(5)])),
            quality: Quality::Source,
            legs: vec![
                None,
                Some(LegRecord {
                    gateway: GatewayId::of(3),
                    site: "west".to_owned(),
                    sessions: vec![SessionId::of(6)],
                    policy: Policy {
                        split: Split::Manual,
                        failover: Failover::Automatic,
                        ..Policy::default()
                    },
                    in_sync: true,
                    wanted: true,
                    awaiting_reprotect: false,
                    base: Some(Generation::of(5)),
                }),
            ],
            upstream: None,
            host_boot: [9; 16],
            arbitrated: Arbitrated::Claimed,
        }
    }

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let bytes = sample().encode();
        assert_eq!(GroupRecord::decode(&bytes), Ok(sample()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            assert!(GroupRecord::decode(&damaged).is_err(), "byte {at}");
            assert!(GroupRecord::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn reads_what_version_1_wrote() {
        let hex = concat!(
            "54774731010000000000000000000000000000000001060000006f7264657273010000000000000000000000",
            "0000000000000002020000000000000000000000000000000308000000000000000700000000000000010000",
            "0000000000000000000000000004010000000000000000000000000000000000000505020000000001000000",
            "0000000000000000000000000304000000776573740100000000000000000000000000000000000006010000",
            "401f000000000000010100010000000000000000000000000000000500090909090909090909090909090909",
            "09d374152a",
        );
        let digits = hex.as_bytes().as_chunks::<2>().0.iter();
        let bytes: Vec<u8> = digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let mut expected = sample();
        expected.arbitrated = Arbitrated::No;
        if let Some(leg) = &mut expected.legs[1] {
            leg.policy.failover = Failover::Manual;
        }
        assert_eq!(GroupRecord::decode(&bytes), Ok(expected));
    }

    #[test]
    fn refuses_a_newer_version_by_name() {
        let mut bytes = sample().encode().to_vec();
        bytes[4] = 3;
        let end = bytes.len() - 4;
        let crc = crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(GroupRecord::decode(&bytes), Err(RecordError::Newer(3)));
    }
}
