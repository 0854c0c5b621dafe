//! The machine as records and as status, and the machine made from records.
//!
//! Invariant: what is restored is never better than what was recorded: a crash adds to what mirrors
//! may lack (rule 3), a loss of power takes away from what this copy is worth (rule 4).

use std::collections::VecDeque;

use block::{ActivityExtent, GatewayId, Geometry, LegId, Mode, Quality, Seq, SnapshotId, VolumeId};
use bytes::Bytes;

use super::leg::{Leg, LegSet, Stage};
use super::role::{YieldStep, Yielding};
use super::{Activity, Machine, Points, RangeLocks, Role, VolumeState, Writes};
use crate::activity::ACTIVITY_EXTENTS;
use crate::dirty::DirtyMap;
use crate::record::{
    Attributes, GroupRecord, LegRecord, Named, RoleRecord, UpstreamRecord, dirty_key, group_key,
};
use crate::status::{
    Cause, GroupCounters, GroupStatus, LegStatus, LinkState, Phase, PointStatus, Serving,
    SessionState, SessionStatus, UpstreamStatus, VolumeStatus,
};

/// A volume as it was found when the group was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Which.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// Its size.
    pub geometry: Geometry,
    /// Whether its store was closed cleanly.
    pub clean: bool,
    /// Whether a start before this one may have lost what had not been durable.
    pub doubtful: bool,
    /// The extents that had changes in flight if it was not.
    pub active: Vec<ActivityExtent>,
    /// The snapshots that it keeps.
    pub snapshots: Vec<SnapshotId>,
    /// What those are called that have names.
    pub(crate) named: Vec<Named>,
    /// What host protocols keep of it.
    pub(crate) attributes: Option<Attributes>,
}

/// What a mirror may lack of a volume, as it was recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lacks {
    pub(crate) dirty: DirtyMap,
    /// It has nothing of it yet.
    pub(crate) fresh: bool,
}

impl From<DirtyMap> for Lacks {
    fn from(dirty: DirtyMap) -> Self {
        Self { dirty, fresh: false }
    }
}

impl Machine {
    /// The machine as the records leave it. `lacks` finds what a mirror may lack of a volume.
    pub(crate) fn restore<L: Into<Lacks>>(
        record: GroupRecord,
        host_boot: [u8; 16],
        volumes: &[Restored],
        mut lacks: impl FnMut(GatewayId, VolumeId) -> L,
    ) -> Self {
        let clean = volumes.iter().all(|volume| volume.clean);
        let ids: Vec<VolumeId> = volumes.iter().map(|volume| volume.volume).collect();
        let exists = |volume, snapshot| {
            volumes.iter().any(|v| v.volume == volume && v.snapshots.contains(&snapshot))
        };
        let points = Points::restore(record.points.clone(), &ids, exists);
        let doubtful = volumes.iter().any(|volume| volume.doubtful);
        // A failed sync loses what a loss of power does (rule 4).
        let lost = !clean && (doubtful || record.host_boot != host_boot);
        let role = restore_role(&record);
        let begins_with_next = restore_begins_with_next(&record, role);
        let (legs, awaiting) = restore_legs(record.legs, role, volumes, &mut lacks);
        let mut machine = Self {
            group: record.group,
            name: record.name,
            volumes: volumes.iter().map(restore_volume).collect(),
            epoch: record.epoch,
            lineage: record.lineage,
            quality: restore_quality(record.quality, lost, &points),
            role,
            recorded_role: record.role,
            recorded_detached: record.role == RoleRecord::Detached,
            detaching: false,
            upstream_record: record.upstream,
            legs,
            relays: LegSet::default(),
            upstream: None,
            upstream_mode: Mode::default(),
            lag_heard_ms: None,
            points,
            journal: super::JournalLimits::default(),
            writes: Writes::default(),
            flushes: super::Flushes::default(),
            held: VecDeque::new(),
            awaiting,
            live: LegSet::default(),
            counting: LegSet::default(),
            leaving: LegSet::default(),
            records: VecDeque::new(),
            next_record: 1,
            activity_round: None,
            unkept: !clean,
            doubtful,
            seq: Seq::ZERO,
            spares: Vec::new(),
            tag: 0,
            now_ms: 0,
            host_boot,
            latched: false,
            retire_idle: false,
            begins_with_next,
            untold: None,
            closing: false,
            closes: false,
            orderly_end: false,
            split_brain: false,
            counters: GroupCounters::default(),
            command: None,
            arbiter: None,
            arbitrated: record.arbitrated,
            company: record.parts.map(super::companions::Company::boxed),
            me: None,
            dismissal: None,
            asked: None,
            recovery: super::recovery::Recovery::default(),
            rollback: None,
            highest_copying: None,
            granted: Vec::new(),
        };
        machine.restore_named(volumes);
        machine
    }

    /// Begins: records what a loss of power took, dials the mirrors that are wanted.
    pub(crate) fn start(&mut self, out: &mut Vec<super::Effect>) {
        self.keep(super::After::Nothing, out);
        if matches!(self.role, Role::Primary | Role::Yielding(_)) {
            self.dial_wanted(out);
        }
        self.resume_rollback(out);
        self.resume_named_rollback(out);
    }

    pub(super) fn group_record(&self) -> (String, Option<Bytes>) {
        let legs = self.legs.iter().map(|leg| {
            leg.as_ref().map(|leg| LegRecord {
                gateway: leg.gateway,
                site: leg.site.clone(),
                sessions: leg.sessions.clone(),
                policy: leg.policy.clone(),
                in_sync: leg.in_set,
                wanted: leg.wanted,
                awaiting_reprotect: leg.awaiting_reprotect,
                base: leg.base,
                suspended: leg.suspended,
                lossy: leg.lossy,
                holds_content: leg.holds_content,
            })
        });
        let record = GroupRecord {
            group: self.group,
            name: self.name.clone(),
            volumes: self.volumes.iter().map(|volume| volume.id).collect(),
            role: self.recorded_role,
            epoch: self.epoch,
            lineage: self.lineage.clone(),
            quality: self.quality,
            legs: legs.collect(),
            upstream: self.upstream_record.clone(),
            host_boot: self.host_boot,
            arbitrated: self.arbitrated,
            parts: self.company.as_ref().map(|company| company.record()),
            points: self.points.record(self.volumes.iter().map(|volume| volume.id)),
        };
        (group_key(self.group), Some(record.encode()))
    }

    /// What each mirror may lack, for a crash to find (rules 4 and 9).
    pub(super) fn push_dirty_records(&self, records: &mut Vec<(String, Option<Bytes>)>) {
        for leg in self.legs.iter().flatten() {
            let mut maps = leg.dirty.clone();
            for (volume, range) in leg.at_risk() {
                maps[volume].insert(range);
            }
            for (map, whole) in maps.iter_mut().zip(&leg.fresh) {
                whole.iter().for_each(|whole| map.insert(*whole));
            }
            for (volume, map) in self.volumes.iter().zip(maps) {
                let key = dirty_key(self.group, leg.gateway, volume.id);
                records.push((key, (!map.is_empty()).then(|| map.encode())));
            }
        }
    }

    /// How this primary sees a mirror, for the mirror to show.
    #[must_use]
    pub fn mirror_state(&self, leg: LegId) -> block::MirrorState {
        let Some(state) = self.leg(leg) else { return block::MirrorState::default() };
        let has_all = matches!(state.stage, Stage::InSync | Stage::Following);
        let behind = if state.journaled { state.inflight_bytes } else { 0 };
        block::MirrorState {
            in_sync: state.in_set && state.stage.is_live(),
            copying: (state.stage.is_live() && !has_all) || state.is_relaying(),
            out_of_sync_bytes: state.out_of_sync_bytes() + behind,
            seq: self.seq,
            mode: state.mode_now(),
            lag_ms: self.lag_ms(leg).map(|ms| u32::try_from(ms).unwrap_or(u32::MAX - 1)),
        }
    }

    /// How this mirror sees itself, for the primary to show.
    #[must_use]
    pub fn upstream_state(&self) -> block::MirrorState {
        block::MirrorState {
            in_sync: self.quality == Quality::InSync,
            copying: self.quality == Quality::Inconsistent,
            out_of_sync_bytes: 0,
            seq: self.upstream.as_ref().map_or(Seq::ZERO, |upstream| upstream.seq),
            mode: self.upstream_mode,
            lag_ms: None,
        }
    }

    /// The group as this gateway sees it. What only the driver knows is left unknown.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        GroupStatus {
            group: self.group,
            name: self.name.clone(),
            role: match self.role {
                Role::Primary | Role::Yielding(_) => crate::Role::Primary,
                Role::Secondary | Role::Promoting(_) | Role::Detached => crate::Role::Secondary,
                Role::Fenced { .. } => crate::Role::Fenced,
            },
            epoch: self.epoch,
            generation: self.lineage.as_ref().map(|lineage| lineage.current),
            serving: self.serving(),
            quality: self.quality,
            volumes: self.volumes.iter().map(volume_status).collect(),
            legs: self.legs.iter().flatten().map(|leg| self.leg_status(leg)).collect(),
            upstream: self.upstream_status(),
            kept: self.points.kept().map(|kept| PointStatus {
                snapshots: kept.snapshots.clone(),
                quality: kept.quality,
                unix_ms: kept.unix_ms,
            }),
            keeps_no_points: self.points.are_unsupported(),
            discarded: self.discarded_status(),
            snapshots: self.named_status(),
            point_policy: self.recovery.policy.clone(),
            is_foreign: self.points.is_foreign(),
            rpo_ms: None,
            split_brain: self.split_brain,
            witness: self.witness_status(),
            parts: self.parts_status(),
            handover: self.handover(),
            counters: self.counters,
        }
    }

    /// Whether the primary said goodbye before its link ended.
    #[must_use]
    pub fn ended_orderly(&self) -> bool {
        self.orderly_end
    }

    fn serving(&self) -> Serving {
        match self.role {
            _ if self.latched => Serving::Latched,
            _ if self.rollback.is_some() => Serving::RollingBack,
            Role::Primary if self.waits_for_witness() => Serving::WaitingForWitness,
            Role::Primary if !self.awaiting.is_empty() => Serving::WaitingForMirror,
            Role::Primary if self.waits_for_companions() => self.companion_serving(),
            Role::Primary if self.is_halted() => match self.halt_error() {
                block::IoError::NoWitness => Serving::NoWitness,
                block::IoError::NoCompanion => Serving::NoCompanion,
                _ => Serving::Halted,
            },
            Role::Primary => Serving::Yes,
            Role::Yielding(_) => Serving::HandingOver,
            Role::Secondary | Role::Promoting(_) => Serving::NotPrimary,
            Role::Fenced { by } => Serving::Fenced { by },
            Role::Detached => Serving::Detached,
        }
    }

    fn leg_status(&self, leg: &Leg) -> LegStatus {
        let sessions = leg.sessions.iter().zip(&self.volumes).enumerate();
        LegStatus {
            leg: leg.id,
            gateway: leg.gateway,
            site: leg.site.clone(),
            state: leg.state,
            phase: match leg.stage {
                Stage::InSync if leg.is_clean() => Phase::Equivalent,
                // Before its first cut is applied, it would go back to a point of an older history.
                Stage::Following if leg.cuts.is_confirmed() => Phase::Following,
                stage if stage.is_live() || leg.is_relaying() => Phase::Copying,
                _ if leg.base.is_none() => Phase::NoPair,
                _ => Phase::Tracking,
            },
            in_sync: leg.stage == Stage::InSync,
            link: match leg.stage {
                _ if leg.relay_link() != LinkState::Off => leg.relay_link(),
                Stage::Off if leg.retry.is_none() || !leg.wanted => LinkState::Off,
                Stage::Off | Stage::Dialing | Stage::Leaving => LinkState::Connecting,
                _ => LinkState::Connected,
            },
            cause: leg.cause.clone(),
            failed: leg.failed,
            policy: leg.policy.clone(),
            bytes_per_second_max: leg.bucket.limit,
            comparing: leg.holds_content || leg.compares,
            degraded: leg.degraded,
            draining: leg.draining.is_some(),
            left_whole: leg.left_whole,
            given_up_bytes: leg.lossy,
            relay: leg.relay.is_some() && !matches!(self.role, Role::Primary | Role::Yielding(_)),
            lag_ms: self.lag_ms(leg.id),
            cut_ms: leg.cuts.applied_ms(),
            journal_bytes: 0,
            spilled_bytes: 0,
            journal_bytes_max: self.journal.bytes(),
            spells: leg.spells.list(),
            sessions: sessions
                .map(|(index, (session, volume))| SessionStatus {
                    session: *session,
                    volume: volume.id,
                    out_of_sync_bytes: leg.dirty[index].bytes(),
                    resync_total_bytes: leg.progress.total_bytes[index],
                    resync_copied_bytes: leg.progress.copied_bytes[index]
                        .min(leg.progress.total_bytes[index]),
                    full: leg.progress.full[index],
                    mismatched_bytes: leg.mismatched[index] * block::BLOCK_BYTES,
                })
                .collect(),
            resync_started_ms: leg.progress.started_ms,
            resync_rate: leg.progress.rate(),
            verifying: leg.verify.as_ref().map(super::verify::Verification::progress),
            verified: None,
            rtt_us: None,
            last_heard_ms: None,
            theirs: leg.theirs,
            inflight_writes: leg.inflight.len() as u64,
            inflight_bytes: leg.inflight_bytes,
            send_queue_bytes: 0,
        }
    }

    fn upstream_status(&self) -> Option<UpstreamStatus> {
        let record = self.upstream_record.as_ref()?;
        let upstream = self.upstream.as_ref();
        Some(UpstreamStatus {
            gateway: record.gateway,
            site: record.site.clone(),
            sessions: record.sessions.clone(),
            link: if self.is_following() { LinkState::Connected } else { LinkState::Off },
            last_heard_ms: None,
            orderly: self.orderly_end,
            theirs: upstream.and_then(|upstream| upstream.theirs),
            seq: upstream.map_or(Seq::ZERO, |upstream| upstream.seq),
            mode: self.upstream_mode,
            lag_ms: self.lag_heard_ms.map(u64::from),
        })
    }
}

pub(super) fn restore_volume(volume: &Restored) -> VolumeState {
    VolumeState {
        id: volume.volume,
        name: volume.name.clone(),
        geometry: volume.geometry,
        locks: RangeLocks::default(),
        activity: Activity::new(ACTIVITY_EXTENTS, volume.geometry),
        parked: VecDeque::new(),
        named: volume.named.clone(),
        attributes: volume.attributes.clone(),
    }
}

/// What the copy is worth after that: a loss of power and a lost kept point take away from it.
fn restore_quality(recorded: Quality, power_lost: bool, points: &Points) -> Quality {
    match recorded {
        Quality::InSync | Quality::Outdated if power_lost => Quality::Inconsistent,
        Quality::Consistent if points.kept().is_none() => Quality::Inconsistent,
        quality => quality,
    }
}

/// Which histories mirrors share is recorded of those in sync only: one more is harmless.
fn restore_begins_with_next(record: &GroupRecord, role: Role) -> bool {
    matches!(role, Role::Primary | Role::Detached)
        && record.legs.iter().flatten().any(|leg| !leg.in_sync)
}

/// The part that was recorded. A handover that was under way is taken up where it stood.
fn restore_role(record: &GroupRecord) -> Role {
    match record.role {
        RoleRecord::Primary => Role::Primary,
        RoleRecord::Yielding { to, epoch } => {
            let is_it = |leg: &Option<LegRecord>| leg.as_ref().is_some_and(|l| l.gateway == to);
            let leg = record.legs.iter().position(is_it).and_then(LegId::new);
            leg.map_or(Role::Primary, |leg| {
                Role::Yielding(Yielding { leg, epoch, step: YieldStep::Asked })
            })
        }
        RoleRecord::Secondary => Role::Secondary,
        RoleRecord::Detached => Role::Detached,
        RoleRecord::Fenced { by } => Role::Fenced { by },
    }
}

type Legs = [Option<Box<Leg>>; LegId::COUNT];

/// The mirrors as they were recorded, and which of them have to be heard before anybody is served.
fn restore_legs<L: Into<Lacks>>(
    records: Vec<Option<LegRecord>>,
    role: Role,
    volumes: &[Restored],
    lacks: &mut impl FnMut(GatewayId, VolumeId) -> L,
) -> (Legs, LegSet) {
    let mut legs = [const { None }; LegId::COUNT];
    let mut awaiting = LegSet::default();
    for (id, leg) in LegId::all().zip(records) {
        let Some(leg) = leg else { continue };
        if leg.in_sync && matches!(role, Role::Primary | Role::Yielding(_)) {
            awaiting.insert(id);
        }
        let gateway = leg.gateway;
        let leg = restore_leg(id, leg, volumes, |volume| lacks(gateway, volume).into());
        legs[id.index()] = Some(Box::new(leg));
    }
    (legs, awaiting)
}

/// A mirror as it was recorded; what a crash left in flight may differ there too (rule 3).
fn restore_leg(
    id: LegId,
    record: LegRecord,
    volumes: &[Restored],
    mut kept: impl FnMut(VolumeId) -> Lacks,
) -> Leg {
    let peer = UpstreamRecord {
        gateway: record.gateway,
        site: record.site,
        sessions: record.sessions,
        policy: None,
    };
    let mut leg = Leg::new(id, peer, record.policy, volumes.len());
    for (index, volume) in volumes.iter().enumerate() {
        let Lacks { dirty, fresh } = kept(volume.volume);
        leg.dirty[index] = dirty;
        leg.fresh[index] = fresh.then(|| volume.geometry.whole().blocks());
    }
    for (index, volume) in volumes.iter().enumerate().filter(|(_, volume)| !volume.clean) {
        for range in volume.active.iter().map(|active| active.blocks(volume.geometry)) {
            leg.dirty[index].insert(range);
            leg.suspects[index].insert(range);
        }
    }
    leg.in_set = record.in_sync;
    leg.wanted = record.wanted;
    leg.awaiting_reprotect = record.awaiting_reprotect;
    leg.base = record.base;
    leg.suspended = record.suspended;
    leg.lossy = record.lossy;
    leg.holds_content = record.holds_content;
    leg.state = if leg.is_recorded_resting() {
        SessionState::Active
    } else if leg.wanted {
        SessionState::Halted
    } else if leg.awaiting_reprotect {
        leg.cause = Some(Cause::AwaitingReprotect);
        SessionState::Halted
    } else {
        leg.cause = Some(Cause::Operator);
        SessionState::Suspended
    };
    leg
}

fn volume_status(volume: &VolumeState) -> VolumeStatus {
    VolumeStatus {
        volume: volume.id,
        name: volume.name.clone(),
        bytes: volume.geometry.bytes(),
        mapped_bytes: 0,
    }
}
