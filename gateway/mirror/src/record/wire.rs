//! The parts of a group's record as bytes, and back.
//!
//! Invariant: what is read is what was written, in every version that a release ever wrote; a field
//! that a version did not have is what its absence meant then.

use block::{GatewayId, Generation, Mode, Quality, SessionId, SnapshotId, VolumeId};
use bytes::Bytes;
use uuid::Uuid;

use super::{Arbitrated, Discarded, Kept, LegRecord, PointsRecord, RecordError, Snapshots, crc32c};
use crate::bandwidth::{Bandwidth, Days, WINDOWS_MAX, Window, Zone};
use crate::lineage::Lineage;
use crate::policy::{CUT_INTERVAL_MS, Failover, OnSlow, Policy, Recovery, Split};
use crate::priority::Priority;

pub(super) fn arbitrated_of(code: u8) -> Result<Arbitrated, RecordError> {
    match code {
        0 => Ok(Arbitrated::No),
        1 => Ok(Arbitrated::Intended),
        2 => Ok(Arbitrated::Claimed),
        _ => Err(RecordError::Damaged),
    }
}

pub(super) fn quality_code(quality: Quality) -> u8 {
    match quality {
        Quality::Blank => 1,
        Quality::Inconsistent => 2,
        Quality::Outdated => 3,
        Quality::InSync => 4,
        Quality::Source => 5,
        Quality::Consistent => 6,
    }
}

pub(super) fn quality_of(code: u8) -> Result<Quality, RecordError> {
    match code {
        1 => Ok(Quality::Blank),
        2 => Ok(Quality::Inconsistent),
        3 => Ok(Quality::Outdated),
        4 => Ok(Quality::InSync),
        5 => Ok(Quality::Source),
        6 => Ok(Quality::Consistent),
        _ => Err(RecordError::Damaged),
    }
}

pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// All of it, with its checksum behind.
    pub(super) fn sealed(mut self) -> Bytes {
        let crc = crc32c(&self.0);
        self.0.extend(crc.to_le_bytes());
        Bytes::from(self.0)
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn uuid(&mut self, value: Uuid) {
        self.0.extend(value.as_bytes());
    }

    pub(super) fn len(&mut self, len: usize) {
        self.0.extend(u32::try_from(len).expect("records are small").to_le_bytes());
    }

    pub(super) fn text(&mut self, value: &str) {
        self.len(value.len());
        self.0.extend(value.as_bytes());
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.len(items.len());
        for item in items {
            each(self, item);
        }
    }

    pub(super) fn option<T>(&mut self, item: Option<&T>, each: impl FnOnce(&mut Self, &T)) {
        self.u8(u8::from(item.is_some()));
        if let Some(item) = item {
            each(self, item);
        }
    }

    pub(super) fn lineage(&mut self, lineage: &Lineage) {
        self.uuid(lineage.current.uuid());
        self.list(&lineage.ancestors, |w, generation| w.uuid(generation.uuid()));
    }

    pub(super) fn snapshots(&mut self, snapshots: &Snapshots) {
        self.list(snapshots, |w, (volume, snapshot)| {
            w.uuid(volume.uuid());
            w.uuid(snapshot.uuid());
        });
    }

    pub(super) fn points(&mut self, points: &PointsRecord) {
        self.option(points.kept.as_ref(), |w, kept| {
            w.snapshots(&kept.snapshots);
            w.u8(quality_code(kept.quality));
            w.option(kept.lineage.as_ref(), Writer::lineage);
            w.u64(kept.unix_ms);
        });
        self.list(&points.discarded, |w, discarded| {
            w.snapshots(&discarded.snapshots);
            w.u64(discarded.bytes);
            w.u64(discarded.unix_ms);
        });
        self.snapshots(&points.unneeded);
        self.u8(u8::from(points.rolling_back));
        self.u8(u8::from(points.foreign));
    }

    pub(super) fn leg(&mut self, leg: &LegRecord) {
        self.uuid(leg.gateway.uuid());
        self.text(&leg.site);
        self.list(&leg.sessions, |w, session| w.uuid(session.uuid()));
        self.reactions(&leg.policy);
        self.u8(u8::from(leg.in_sync));
        self.u8(u8::from(leg.wanted));
        self.u8(u8::from(leg.awaiting_reprotect));
        self.option(leg.base.as_ref(), |w, base| w.uuid(base.uuid()));
        self.pace(&leg.policy);
        self.u8(u8::from(leg.suspended));
        self.option(leg.lossy.as_ref(), |w, bytes| w.u64(*bytes));
        self.u8(u8::from(leg.policy.failover == Failover::Automatic));
        self.copying(&leg.policy);
        self.u8(u8::from(leg.holds_content));
    }

    /// A policy by itself: as the primary says it to a mirror, and as that one keeps it.
    pub(crate) fn policy(&mut self, policy: &Policy) {
        self.reactions(policy);
        self.pace(policy);
        self.u8(u8::from(policy.failover == Failover::Automatic));
        self.copying(policy);
    }

    fn reactions(&mut self, policy: &Policy) {
        self.u8(u8::from(policy.split == Split::Manual));
        self.u8(u8::from(policy.recovery == Recovery::Manual));
        self.u8(match policy.on_slow {
            OnSlow::Error => 0,
            OnSlow::Block => 1,
            OnSlow::Degrade => 2,
        });
        self.u64(policy.ack_deadline_ms);
    }

    fn pace(&mut self, policy: &Policy) {
        self.mode(policy.mode);
        self.u64(policy.cut_interval_ms);
        self.u64(policy.transfer_every_s);
    }

    fn mode(&mut self, mode: Mode) {
        self.u8(match mode {
            Mode::Sync => 0,
            Mode::Consistency => 1,
            Mode::Stack => 2,
        });
    }

    fn copying(&mut self, policy: &Policy) {
        self.option(policy.bandwidth.usual.as_ref(), |w, limit| w.u64(*limit));
        self.list(&policy.bandwidth.windows, |w, window| {
            w.u8(window.days.bits());
            w.u64(u64::from(window.from_min));
            w.u64(u64::from(window.to_min));
            w.text(window.zone.name());
            w.u64(window.bytes_per_second);
        });
        self.u8(match policy.priority {
            Priority::Low => 0,
            Priority::Normal => 1,
            Priority::High => 2,
        });
        self.option(policy.mode_after_swap.as_ref(), |w, mode| w.mode(*mode));
    }
}

/// The bytes that are left, and the version that they were written in.
pub(super) struct Reader<'a>(pub(super) &'a [u8], pub(super) u16);

impl<'a> Reader<'a> {
    /// What [`Writer::sealed`] made of a record that begins with `magic` and its version.
    pub(super) fn open(bytes: &'a [u8], magic: [u8; 4], newest: u16) -> Result<Self, RecordError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(RecordError::Damaged)?;
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(RecordError::Damaged);
        }
        let mut reader = Self(body.strip_prefix(&magic).ok_or(RecordError::Damaged)?, 0);
        reader.1 = u16::from_le_bytes(reader.take()?);
        if reader.1 > newest { Err(RecordError::Newer(reader.1)) } else { Ok(reader) }
    }
}

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or(RecordError::Damaged)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, RecordError> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool, RecordError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordError::Damaged),
        }
    }

    pub(super) fn u64(&mut self) -> Result<u64, RecordError> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, RecordError> {
        self.take().map(Uuid::from_bytes)
    }

    pub(super) fn len(&mut self) -> Result<usize, RecordError> {
        let len = usize::try_from(u32::from_le_bytes(self.take()?)).unwrap_or(usize::MAX);
        // Every item takes at least a byte, so a longer list is a lie and allocates nothing.
        if len > self.0.len() { Err(RecordError::Damaged) } else { Ok(len) }
    }

    pub(super) fn text(&mut self) -> Result<String, RecordError> {
        let len = self.len()?;
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        std::str::from_utf8(bytes).map(str::to_owned).or(Err(RecordError::Damaged))
    }

    pub(super) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let len = self.len()?;
        (0..len).map(|_| each(self)).collect()
    }

    pub(super) fn option<T>(
        &mut self,
        each: impl FnOnce(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Option<T>, RecordError> {
        if self.flag()? { each(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn lineage(&mut self) -> Result<Lineage, RecordError> {
        Ok(Lineage {
            current: Generation::from_uuid(self.uuid()?),
            ancestors: self.list(|r| r.uuid().map(Generation::from_uuid))?,
        })
    }

    pub(super) fn snapshots(&mut self) -> Result<Snapshots, RecordError> {
        self.list(|r| Ok((VolumeId::from_uuid(r.uuid()?), SnapshotId::from_uuid(r.uuid()?))))
    }

    pub(super) fn points(&mut self) -> Result<PointsRecord, RecordError> {
        Ok(PointsRecord {
            kept: self.option(|r| {
                Ok(Kept {
                    snapshots: r.snapshots()?,
                    quality: quality_of(r.u8()?)?,
                    lineage: r.option(Reader::lineage)?,
                    unix_ms: r.u64()?,
                })
            })?,
            discarded: self.list(|r| {
                let snapshots = r.snapshots()?;
                Ok(Discarded { snapshots, bytes: r.u64()?, unix_ms: r.u64()? })
            })?,
            unneeded: self.snapshots()?,
            rolling_back: self.flag()?,
            foreign: self.1 > 3 && self.flag()?,
        })
    }

    pub(super) fn leg(&mut self) -> Result<LegRecord, RecordError> {
        let mut leg = LegRecord {
            gateway: GatewayId::from_uuid(self.uuid()?),
            site: self.text()?,
            sessions: self.list(|r| r.uuid().map(SessionId::from_uuid))?,
            policy: self.reactions()?,
            in_sync: self.flag()?,
            wanted: self.flag()?,
            awaiting_reprotect: self.flag()?,
            base: self.option(|r| r.uuid().map(Generation::from_uuid))?,
            suspended: false,
            lossy: None,
            holds_content: false,
        };
        if self.1 == 1 {
            leg.suspended = !leg.wanted && !leg.awaiting_reprotect;
            return Ok(leg);
        }
        self.pace(&mut leg.policy)?;
        leg.suspended = self.flag()?;
        leg.lossy = self.option(Self::u64)?;
        if self.1 > 2 && self.flag()? {
            leg.policy.failover = Failover::Automatic;
        }
        if self.1 > 3 {
            self.copying(&mut leg.policy)?;
            leg.holds_content = self.flag()?;
        }
        Ok(leg)
    }

    /// What [`Writer::policy`] wrote.
    pub(crate) fn policy(&mut self) -> Result<Policy, RecordError> {
        let mut policy = self.reactions()?;
        self.pace(&mut policy)?;
        if self.flag()? {
            policy.failover = Failover::Automatic;
        }
        self.copying(&mut policy)?;
        Ok(policy)
    }

    fn reactions(&mut self) -> Result<Policy, RecordError> {
        Ok(Policy {
            mode: Mode::Sync,
            split: if self.flag()? { Split::Manual } else { Split::Automatic },
            recovery: if self.flag()? { Recovery::Manual } else { Recovery::Automatic },
            on_slow: match self.u8()? {
                0 => OnSlow::Error,
                1 => OnSlow::Block,
                2 if self.1 > 1 => OnSlow::Degrade,
                _ => return Err(RecordError::Damaged),
            },
            ack_deadline_ms: self.u64()?,
            cut_interval_ms: CUT_INTERVAL_MS,
            transfer_every_s: 0,
            failover: Failover::Manual,
            bandwidth: Bandwidth::default(),
            priority: Priority::Normal,
            mode_after_swap: None,
        })
    }

    fn mode(&mut self) -> Result<Mode, RecordError> {
        match self.u8()? {
            0 => Ok(Mode::Sync),
            1 => Ok(Mode::Consistency),
            2 => Ok(Mode::Stack),
            _ => Err(RecordError::Damaged),
        }
    }

    fn pace(&mut self, policy: &mut Policy) -> Result<(), RecordError> {
        policy.mode = self.mode()?;
        policy.cut_interval_ms = self.u64()?;
        policy.transfer_every_s = self.u64()?;
        Ok(())
    }

    fn copying(&mut self, policy: &mut Policy) -> Result<(), RecordError> {
        let usual = self.option(Self::u64)?;
        let windows = self.list(Self::window)?;
        if windows.len() > WINDOWS_MAX {
            return Err(RecordError::Damaged);
        }
        policy.bandwidth = Bandwidth { usual, windows: windows.into() };
        policy.priority = match self.u8()? {
            0 => Priority::Low,
            1 => Priority::Normal,
            2 => Priority::High,
            _ => return Err(RecordError::Damaged),
        };
        policy.mode_after_swap = self.option(Self::mode)?;
        Ok(())
    }

    fn window(&mut self) -> Result<Window, RecordError> {
        let days = Days::of_bits(self.u8()?).ok_or(RecordError::Damaged)?;
        let mut minute = || u16::try_from(self.u64()?).map_err(|_too_late| RecordError::Damaged);
        let (from_min, to_min) = (minute()?, minute()?);
        let zone = Zone::new(&self.text()?).map_err(|_no_name| RecordError::Damaged)?;
        let window = Window { days, from_min, to_min, zone, bytes_per_second: self.u64()? };
        if window.is_valid() { Ok(window) } else { Err(RecordError::Damaged) }
    }
}

/// The version of a policy that is said to a mirror: that of the record that it would lie in.
pub(crate) fn policy_bytes(policy: &Policy) -> Bytes {
    let mut w = Writer(super::VERSION.to_le_bytes().to_vec());
    w.policy(policy);
    Bytes::from(w.0)
}

/// What [`policy_bytes`] of this release wrote, or the part of it that this release knows: a newer
/// one adds what it has behind the rest.
pub(crate) fn policy_of(bytes: &[u8]) -> Option<Policy> {
    let mut r = Reader(bytes, super::VERSION);
    let version = r.take().map(u16::from_le_bytes).ok()?;
    r.1 = version;
    let policy = r.policy().ok()?;
    (version > super::VERSION || (version == super::VERSION && r.0.is_empty())).then_some(policy)
}
