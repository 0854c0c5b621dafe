//! What a gateway durably knows of a group, as bytes.
//!
//! ```text
//!   "TwG1"  u16 version  body  CRC32C(all before)         (all integers little-endian)
//! ```
//!
//! Invariant: a record that this release cannot read whole is refused, never half believed.

mod attributes;
mod heritage;
mod named;
mod parts;
mod points;
mod recovery;
mod wire;

use block::{Epoch, GatewayId, Generation, GroupId, Quality, SessionId, VolumeId};
use bytes::Bytes;

use crate::lineage::Lineage;
use crate::policy::Policy;

pub(crate) use self::attributes::{Attributes, attributes_key};
pub(crate) use self::heritage::{Inherited, heir_in, heir_key, heir_record};
pub use self::named::locked_in;
pub(crate) use self::named::{
    Label, Named, SnapshotWord, decode as decode_named, encode as encode_named, named_key,
};
pub(crate) use self::parts::{PartsRecord, SpanWord};
pub(crate) use self::points::{Discarded, Kept, PointsRecord, Snapshots};
pub(crate) use self::recovery::{Gone, RecoveryRecord, recovery_key};
use self::wire::{Reader, Writer, arbitrated_of, quality_code, quality_of};
pub(crate) use self::wire::{policy_bytes, policy_of};

const MAGIC: [u8; 4] = *b"TwG1";
/// Version 1 had one mode and no kept points, version 2 no witness, version 3 no bandwidth, no
/// priority, no mirrors that hold their content already, and forgot the policies of the other side.
const VERSION: u16 = 4;
/// A group with companions has this version: who they are stands behind the rest.
const VERSION_OF_PARTS: u16 = 5;

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
    #[error("group record has version {0}, this release reads up to {VERSION_OF_PARTS}")]
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
    /// A mirror whose copy an operator opened to hosts while its session is suspended.
    Detached,
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
    /// Whether an operator stopped it.
    pub(crate) suspended: bool,
    /// This gateway took over from that one and went back to a kept point for it: so many bytes of
    /// what the other has were given up here.
    pub(crate) lossy: Option<u64>,
    /// An operator said that the mirror holds the content already: it is compared, not copied.
    pub(crate) holds_content: bool,
}

/// The gateway at the other end: the primary that a mirror follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamRecord {
    pub(crate) gateway: GatewayId,
    pub(crate) site: String,
    pub(crate) sessions: Vec<SessionId>,
    /// Their policies, as the primary last said them; not every release does.
    pub(crate) policy: Option<Policy>,
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
    pub(crate) points: PointsRecord,
    /// Whether the group is under a witness.
    pub(crate) arbitrated: Arbitrated,
    /// The other parts of the group at this site, if it has some.
    pub(crate) parts: Option<PartsRecord>,
}

impl PointsRecord {
    /// What is left of the points when these are the volumes. A kept point that does not cover all
    /// of them is none; what there is of it is not needed.
    pub(crate) fn of(&self, volumes: &[VolumeId]) -> Self {
        let part = |snapshots: &Snapshots| -> Snapshots {
            let of = |volume| snapshots.iter().find(|(id, _)| id == volume).copied();
            volumes.iter().filter_map(of).collect()
        };
        let mut points = Self { unneeded: part(&self.unneeded), ..self.clone() };
        if let Some(kept) = &mut points.kept {
            kept.snapshots = part(&kept.snapshots);
        }
        let partial = |kept: &mut Kept| kept.snapshots.len() < volumes.len();
        if let Some(kept) = points.kept.take_if(partial) {
            points.unneeded.extend(kept.snapshots);
            points.rolling_back = false;
        }
        for discarded in &mut points.discarded {
            discarded.snapshots = part(&discarded.snapshots);
        }
        points.discarded.retain(|discarded| !discarded.snapshots.is_empty());
        points
    }
}

/// Where the ledger keeps the record of a group.
pub(crate) fn group_key(group: GroupId) -> String {
    format!("group/{group}")
}

/// Where the ledger keeps what one mirror lacks of one volume.
pub(crate) fn dirty_key(group: GroupId, gateway: GatewayId, volume: VolumeId) -> String {
    format!("dirty/{group}/{gateway}/{volume}")
}

/// Where the ledger says that a mirror has nothing of a volume yet: it is emptied there before it is
/// copied. There is something under it, or there is not.
pub(crate) fn fresh_key(group: GroupId, gateway: GatewayId, volume: VolumeId) -> String {
    format!("fresh/{group}/{gateway}/{volume}")
}

// === impl GroupRecord ===

impl GroupRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut w = Writer(MAGIC.to_vec());
        let version = if self.parts.is_some() { VERSION_OF_PARTS } else { VERSION };
        w.0.extend(version.to_le_bytes());
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
            RoleRecord::Detached => w.u8(5),
        }
        w.u64(self.epoch.get());
        w.option(self.lineage.as_ref(), Writer::lineage);
        w.u8(quality_code(self.quality));
        w.list(&self.legs, |w, leg| w.option(leg.as_ref(), Writer::leg));
        w.option(self.upstream.as_ref(), |w, upstream| {
            w.uuid(upstream.gateway.uuid());
            w.text(&upstream.site);
            w.list(&upstream.sessions, |w, session| w.uuid(session.uuid()));
            w.option(upstream.policy.as_ref(), Writer::policy);
        });
        w.0.extend(self.host_boot);
        w.points(&self.points);
        w.u8(match self.arbitrated {
            Arbitrated::No => 0,
            Arbitrated::Intended => 1,
            Arbitrated::Claimed => 2,
        });
        if let Some(parts) = &self.parts {
            w.parts(parts);
        }
        w.sealed()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut r = Reader::open(bytes, MAGIC, VERSION_OF_PARTS)?;
        let version = r.1;
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
                5 => RoleRecord::Detached,
                _ => return Err(RecordError::Damaged),
            },
            epoch: Epoch::new(r.u64()?),
            lineage: r.option(Reader::lineage)?,
            quality: quality_of(r.u8()?)?,
            legs: r.list(|r| r.option(Reader::leg))?,
            upstream: r.option(|r| {
                Ok(UpstreamRecord {
                    gateway: GatewayId::from_uuid(r.uuid()?),
                    site: r.text()?,
                    sessions: r.list(|r| r.uuid().map(SessionId::from_uuid))?,
                    policy: if r.1 < 4 { None } else { r.option(Reader::policy)? },
                })
            })?,
            host_boot: r.take()?,
            points: if version == 1 { PointsRecord::default() } else { r.points()? },
            arbitrated: if r.1 < 3 { Arbitrated::No } else { arbitrated_of(r.u8()?)? },
            parts: if r.1 < VERSION_OF_PARTS { None } else { r.parts().map(Some)? },
        };
        if r.0.is_empty() { Ok(record) } else { Err(RecordError::Damaged) }
    }
}

#[cfg(test)]
mod tests {
    use block::{Mode, SnapshotId};

    use super::*;
    use crate::bandwidth::{Bandwidth, Window};
    use crate::policy::{Failover, OnSlow, Split};
    use crate::priority::Priority;

    fn bandwidth() -> Bandwidth {
        let window = |text, limit| Window::parse(text, limit).unwrap();
        let windows =
            [window("mon-fri 08:00-18:00 Europe/Berlin", 10 << 20), window("00:00-01:00", 0)];
        Bandwidth { usual: Some(50 << 20), windows: windows.into() }
    }

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
                        mode: Mode::Consistency,
                        split: Split::Manual,
                        on_slow: OnSlow::Degrade,
                        failover: Failover::Automatic,
                        bandwidth: bandwidth(),
                        priority: Priority::High,
                        mode_after_swap: Some(Mode::Consistency),
                        ..Policy::default()
                    },
                    in_sync: true,
                    wanted: true,
                    awaiting_reprotect: false,
                    base: Some(Generation::of(5)),
                    suspended: false,
                    lossy: Some(4096),
                    holds_content: true,
                }),
            ],
            upstream: Some(UpstreamRecord {
                gateway: GatewayId::of(3),
                site: "west".to_owned(),
                sessions: vec![SessionId::of(6)],
                policy: Some(Policy { priority: Priority::Low, ..Policy::default() }),
            }),
            host_boot: [9; 16],
            points: PointsRecord {
                kept: Some(Kept {
                    snapshots: vec![(VolumeId::of(2), SnapshotId::of(10))],
                    quality: Quality::InSync,
                    lineage: Some(Lineage::new(Generation::of(4), Vec::new())),
                    unix_ms: 77,
                }),
                discarded: vec![Discarded {
                    snapshots: vec![(VolumeId::of(2), SnapshotId::of(11))],
                    bytes: 8192,
                    unix_ms: 78,
                }],
                unneeded: vec![(VolumeId::of(2), SnapshotId::of(12))],
                rolling_back: true,
                foreign: true,
            },
            arbitrated: Arbitrated::Claimed,
            parts: None,
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
    fn refuses_a_newer_version_by_name() {
        let mut bytes = sample().encode().to_vec();
        bytes[4] = 6;
        let end = bytes.len() - 4;
        let crc = crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(GroupRecord::decode(&bytes), Err(RecordError::Newer(6)));
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        let digits = hex.chars().filter_map(|c| c.to_digit(16));
        let digits: Vec<u8> = digits.map(|digit| u8::try_from(digit).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// What version 3 could say of the sample. It stood for a gateway that follows nobody.
    fn sample_3() -> GroupRecord {
        let mut record = sample();
        record.upstream = None;
        let leg = record.legs[1].as_mut().unwrap();
        leg.policy.bandwidth = Bandwidth::default();
        leg.policy.priority = Priority::Normal;
        leg.policy.mode_after_swap = None;
        leg.holds_content = false;
        record.points.foreign = false;
        record
    }

    /// What version 2 could say of it.
    fn sample_2() -> GroupRecord {
        let mut record = sample_3();
        record.arbitrated = Arbitrated::No;
        record.legs[1].as_mut().unwrap().policy.failover = Failover::Manual;
        record
    }

    /// The bytes of version 1: what an older release left behind is read, and means what it did.
    #[test]
    fn reads_the_bytes_of_version_1() {
        let mut expected = sample_2();
        expected.points = PointsRecord::default();
        let leg = expected.legs[1].as_mut().unwrap();
        leg.lossy = None;
        leg.policy = Policy { split: Split::Manual, on_slow: OnSlow::Block, ..Policy::default() };
        let bytes = bytes_of(include_str!("record_1.hex"));
        assert_eq!(GroupRecord::decode(&bytes), Ok(expected));
    }

    /// The bytes of version 2, which knew no witness.
    #[test]
    fn reads_the_bytes_of_version_2() {
        let bytes = bytes_of(include_str!("record_2.hex"));
        assert_eq!(GroupRecord::decode(&bytes), Ok(sample_2()));
    }

    /// The bytes of version 3, which knew no bandwidth.
    #[test]
    fn reads_the_bytes_of_version_3() {
        let bytes = bytes_of(include_str!("record_3.hex"));
        assert_eq!(GroupRecord::decode(&bytes), Ok(sample_3()));
    }

    /// The bytes that are written now.
    #[test]
    fn writes_and_reads_the_bytes_of_version_4() {
        let bytes = bytes_of(include_str!("record_4.hex"));
        assert_eq!(GroupRecord::decode(&bytes), Ok(sample()));
        assert_eq!(sample().encode(), bytes);
    }

    /// The bytes of a group with companions.
    #[test]
    fn writes_and_reads_the_bytes_of_version_5() {
        let parts = PartsRecord {
            companions: vec![(GatewayId::of(21), false), (GatewayId::of(22), true)],
            number: 9,
            whole: 8,
            from: 7,
            copy: 6,
            kept: 5,
            told: 4,
            joined: true,
        };
        let record = GroupRecord { parts: Some(parts), ..sample() };
        let bytes = bytes_of(include_str!("record_5.hex"));
        assert_eq!(GroupRecord::decode(&bytes), Ok(record.clone()));
        assert_eq!(record.encode(), bytes);
    }

    /// Of what a newer release says of a policy, the part that this one knows is taken.
    #[test]
    fn a_policy_that_is_said_is_read_whole_or_its_beginning() {
        let policy = sample().legs[1].clone().unwrap().policy;
        let bytes = policy_bytes(&policy);
        assert_eq!(policy_of(&bytes), Some(policy.clone()));
        for len in 0..bytes.len() {
            assert_eq!(policy_of(&bytes[..len]), None, "cut at {len}");
        }
        let mut newer = bytes.to_vec();
        newer.push(1);
        assert_eq!(policy_of(&newer), None);
        newer[0] = 5;
        assert_eq!(policy_of(&newer), Some(policy));
    }
}
