//! Founding and opening a group.
//!
//! Invariant: what is opened is exactly what was recorded; a record that cannot be read whole
//! refuses the group by name.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use block::{Completions, GatewayId, Generation, GroupId, IoError, Ledger, LegId, Store, VolumeId};
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::companions::CompanionPort;
use super::members::Member;
use super::slab::Slab;
use super::witness::{Arbitration, WitnessPort};
use super::{Core, Group, Parts, write_journal};
use crate::certificate::{certificate_key, decode};
use crate::dirty::DirtyMap;
use crate::machine::{Lacks, Machine, Restored, Terms};
use crate::metrics::Metrics;
use crate::record::{
    Arbitrated, Attributes, GroupRecord, PartsRecord, RecordError, RecoveryRecord, attributes_key,
    decode_named, dirty_key, fresh_key, group_key, heir_in, heir_key, named_key, recovery_key,
};
use crate::relay::relay_key;
use crate::status::Verified;

/// Why a group cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The ledger has no record of it.
    #[error("there is no record of the group")]
    Unknown,
    /// It lies at several gateways of a site, and is under a witness.
    #[error("the group lies at several gateways of a site and cannot be under a witness")]
    Arbitrated,
    /// Its record cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What a mirror may lack cannot be read.
    #[error("the dirty map of a mirror is damaged")]
    DirtyMap,
    /// It is under a witness, and none was given.
    #[error(
        "the group is arbitrated by a witness, and this gateway has none: name it in [witness], or \
         set witness.abandon at every site if it is gone for good"
    )]
    NoWitness,
    /// The ledger failed.
    #[error("cannot read the ledger: {0}")]
    Ledger(IoError),
    /// The volumes that were given are not those of the record, in its order.
    #[error("the group's record names other volumes")]
    Volumes,
}

/// The record of a group that begins here, as its primary, for the ledger.
#[must_use]
pub fn found_primary(
    group: GroupId,
    name: &str,
    volumes: Vec<VolumeId>,
    generation: Generation,
) -> (String, Option<Bytes>) {
    crate::machine::found(group, name, volumes, Some(generation), (block::Quality::Source, false))
}

/// The record of one part of a group that begins here, as its primary, for the ledger; the other
/// parts lie at these gateways of this site.
#[must_use]
pub fn found_part(
    group: GroupId,
    name: &str,
    volumes: Vec<VolumeId>,
    (generation, companions): (Generation, &[GatewayId]),
) -> (String, Option<Bytes>) {
    let companions = companions.iter().map(|gateway| (*gateway, false)).collect();
    let parts = PartsRecord { companions, ..PartsRecord::default() };
    let founding = (Some(generation), Some(parts));
    crate::machine::found_part(group, name, volumes, founding, (block::Quality::Source, false))
}

/// The record of a group of which this gateway holds a blank copy, for the ledger.
#[must_use]
pub fn found_secondary(
    group: GroupId,
    name: &str,
    volumes: Vec<VolumeId>,
) -> (String, Option<Bytes>) {
    crate::machine::found(group, name, volumes, None, (block::Quality::Blank, false))
}

/// The record of a group of which this gateway holds copies that were made for other groups, for
/// the ledger: they are emptied before they are filled.
#[must_use]
pub fn found_adopted(
    group: GroupId,
    name: &str,
    volumes: Vec<VolumeId>,
) -> (String, Option<Bytes>) {
    crate::machine::found(group, name, volumes, None, (block::Quality::Inconsistent, false))
}

/// The record of a group of which this gateway holds copies with content of their own, for the
/// ledger: they are compared with what the primary has, and a snapshot of them is kept before
/// anything in them is changed.
#[must_use]
pub fn found_holding(
    group: GroupId,
    name: &str,
    volumes: Vec<VolumeId>,
) -> (String, Option<Bytes>) {
    crate::machine::found(group, name, volumes, None, (block::Quality::Inconsistent, true))
}

impl Group {
    /// Where the ledger keeps what a mirror may lack of a volume, for whoever removes a group.
    #[must_use]
    pub fn dirty_key(group: GroupId, gateway: GatewayId, volume: VolumeId) -> String {
        dirty_key(group, gateway, volume)
    }

    /// Where the ledger keeps the group's record, for whoever removes a group.
    #[must_use]
    pub fn record_key(group: GroupId) -> String {
        group_key(group)
    }

    /// Where the ledger keeps what is known of a group's recovery points, for whoever removes a group.
    #[must_use]
    pub fn points_key(group: GroupId) -> String {
        recovery_key(group)
    }

    /// Where the ledger keeps what a volume's snapshots are called, for whoever removes it.
    #[must_use]
    pub fn snapshots_key(volume: VolumeId) -> String {
        named_key(volume)
    }

    /// Where the ledger keeps what host protocols keep of a volume, for whoever removes it.
    #[must_use]
    pub fn attributes_key(volume: VolumeId) -> String {
        attributes_key(volume)
    }

    /// Opens a group: its mirrors are dialled, or its primary is awaited. Must be called on the
    /// thread of its stores, inside its `LocalSet`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(parts: Parts) -> Result<Rc<Self>, OpenError> {
        Self::open_arbitrated(parts, Arbitration::Operator)
    }

    /// As [`Self::open`], with who decides when sites do not see each other.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_arbitrated(parts: Parts, arbitration: Arbitration) -> Result<Rc<Self>, OpenError> {
        let record = parts.ledger.get(&group_key(parts.group)).map_err(OpenError::Ledger)?;
        let mut record = GroupRecord::decode(&record.ok_or(OpenError::Unknown)?)?;
        let witness = witness_of(arbitration, &mut record)?;
        if !record.volumes.iter().eq(parts.volumes.iter().map(|(id, ..)| id)) {
            return Err(OpenError::Volumes);
        }
        let maps = read_maps(&parts, &record)?;
        let certificates = read_certificates(&parts, &record)?;
        let restored = restored_all(&parts)?;
        let name = record.name.clone();
        let gateways: Vec<_> = record.legs.iter().flatten().map(|leg| leg.gateway).collect();
        let map_of = |gateway, volume| {
            maps.get(&dirty_key(parts.group, gateway, volume)).cloned().unwrap_or_default()
        };
        let mut machine = Machine::restore(record, parts.host_boot, &restored, map_of);
        restore_more(&mut machine, &parts, &gateways)?;
        machine.set_journal(parts.journals.limits);
        let effects = start(&mut machine, witness.as_ref(), &*parts.generations);
        let members = members(&parts);
        let stopping = CancellationToken::new();
        let core = Core {
            machine,
            slab: Slab::default(),
            ledger: parts.ledger,
            generations: parts.generations,
            notes: parts.notes,
            sink: Completions::new(),
            events: Vec::new(),
            effects,
            completions: Vec::new(),
            batches: members.iter().map(|_| Vec::new()).collect(),
            members,
            rounds: HashMap::new(),
            removal: super::points::Removal::default(),
            legs: [const { None }; LegId::COUNT],
            leg_memory: [None; LegId::COUNT],
            certificates,
            upstream_heard: None,
            upstream: None,
            candidate: None,
            waiter: None,
            room_makers: HashMap::new(),
            settling: Vec::new(),
            keepers: HashMap::new(),
            witness: witness.map(|(port, _)| port),
            companions: parts.companions.map(CompanionPort::new),
            metrics: Metrics::new(&name),
            written: write_journal::Written::default(),
            place: crate::priority::Place::new(parts.copiers),
            dials: Vec::new(),
            attempts: 0,
        };
        let group = Rc::new(Self {
            id: parts.group,
            name,
            identity: parts.identity,
            core: RefCell::new(core),
            dialer: parts.dialer,
            clock: parts.clock,
            spawn: parts.spawn,
            heartbeat: parts.heartbeat,
            journals: parts.journals,
            started: Instant::now(),
            hosts: RefCell::new(stopping.child_token()),
            stopping,
            turning: Cell::new(false),
        });
        group.run();
        group.turn();
        Ok(group)
    }

    /// Starts the tasks that end when the group stops.
    fn run(self: &Rc<Self>) {
        self.spawn_until_stopped(Box::pin(Rc::clone(self).pump()));
        self.spawn_until_stopped(Box::pin(Rc::clone(self).tick()));
        let witness = self.core.borrow().witness.clone();
        if let Some(port) = witness {
            self.spawn_until_stopped(Box::pin(super::witness::run(Rc::clone(self), port)));
        }
    }

    /// Starts a task that ends when the group stops.
    pub(super) fn spawn_until_stopped(&self, future: super::LocalFuture<()>) {
        let stopping = self.stopping.clone();
        (self.spawn)(Box::pin(async move {
            stopping.run_until_cancelled(future).await;
        }));
    }
}

/// The way to the group's witness, if it has one. A group that was under one is opened without it
/// only when it was given up.
fn witness_of(
    arbitration: Arbitration,
    record: &mut GroupRecord,
) -> Result<Option<(Rc<WitnessPort>, Terms)>, OpenError> {
    match arbitration {
        Arbitration::Witness { .. } if record.parts.is_some() => Err(OpenError::Arbitrated),
        Arbitration::Witness { witness, terms } => {
            Ok(Some((WitnessPort::new(witness, terms), terms)))
        }
        Arbitration::Operator if record.arbitrated != Arbitrated::No => Err(OpenError::NoWitness),
        Arbitration::Operator | Arbitration::Abandoned => {
            record.arbitrated = Arbitrated::No;
            Ok(None)
        }
    }
}

fn members(parts: &Parts) -> Vec<Member> {
    let volumes = parts.volumes.iter().enumerate();
    volumes.map(|(index, (id, _, store))| Member::new(*id, index, Rc::clone(store))).collect()
}

fn start(
    machine: &mut Machine,
    witness: Option<&(Rc<WitnessPort>, Terms)>,
    generations: &dyn super::Generations,
) -> Vec<crate::machine::Effect> {
    if let Some((_, terms)) = witness {
        machine.arbitrate_by(*terms);
    }
    while machine.wants_supply() {
        machine.supply(generations.next());
    }
    let mut effects = Vec::new();
    machine.start(&mut effects);
    effects
}

fn restored_all(parts: &Parts) -> Result<Vec<Restored>, OpenError> {
    let volumes = parts.volumes.iter();
    volumes.map(|(id, name, store)| restored((*id, name), &**store, &*parts.ledger)).collect()
}

/// A volume as its store was found, and what its snapshots are called.
pub(super) fn restored(
    (volume, name): (VolumeId, &str),
    store: &dyn Store,
    ledger: &dyn Ledger,
) -> Result<Restored, OpenError> {
    let recovery = store.recovery();
    let named = ledger.get(&named_key(volume)).map_err(OpenError::Ledger)?;
    let kept = ledger.get(&attributes_key(volume)).map_err(OpenError::Ledger)?;
    Ok(Restored {
        volume,
        name: name.to_owned(),
        geometry: store.geometry(),
        clean: recovery.clean,
        doubtful: recovery.doubtful,
        active: recovery.active,
        snapshots: store.snapshot_ids(),
        named: named.map_or(Ok(Vec::new()), |named| decode_named(&named))?,
        attributes: kept.map(|kept| Attributes::decode(&kept)).transpose()?,
    })
}

/// What has records of its own beside the group's, and who this gateway is.
fn restore_more(
    machine: &mut Machine,
    parts: &Parts,
    gateways: &[GatewayId],
) -> Result<(), OpenError> {
    let relays = read_relays(parts, gateways)?;
    machine.restore_relays(|gateway| relays.get(&gateway).cloned());
    machine.restore_recovery(read_recovery(parts)?);
    for gateway in gateways {
        let mark = parts.ledger.get(&heir_key(parts.group, *gateway)).map_err(OpenError::Ledger)?;
        machine.restore_heir(*gateway, mark.as_deref().and_then(heir_in));
    }
    machine.introduce(parts.identity.gateway);
    Ok(())
}

/// What is known of the group's recovery points.
fn read_recovery(parts: &Parts) -> Result<RecoveryRecord, OpenError> {
    let bytes = parts.ledger.get(&recovery_key(parts.group)).map_err(OpenError::Ledger)?;
    Ok(bytes
        .map_or_else(|| Ok(RecoveryRecord::default()), |bytes| RecoveryRecord::decode(&bytes))?)
}

/// To which gateways this one relays when it is a mirror, and which volumes each session knows.
fn read_relays(
    parts: &Parts,
    gateways: &[GatewayId],
) -> Result<HashMap<GatewayId, Vec<VolumeId>>, OpenError> {
    let mut relays = HashMap::new();
    for gateway in gateways {
        let mark =
            parts.ledger.get(&relay_key(parts.group, *gateway)).map_err(OpenError::Ledger)?;
        relays.extend(mark.map(|mark| (*gateway, crate::relay::decode(&mark))));
    }
    Ok(relays)
}

/// The last verification of each mirror. One that cannot be read is as good as none.
fn read_certificates(
    parts: &Parts,
    record: &GroupRecord,
) -> Result<[Option<Verified>; LegId::COUNT], OpenError> {
    let mut certificates = [None; LegId::COUNT];
    for (place, leg) in certificates.iter_mut().zip(&record.legs) {
        let Some(leg) = leg else { continue };
        let key = certificate_key(parts.group, leg.gateway);
        let bytes = parts.ledger.get(&key).map_err(OpenError::Ledger)?;
        *place = bytes.as_deref().and_then(decode);
    }
    Ok(certificates)
}

fn read_maps(parts: &Parts, record: &GroupRecord) -> Result<HashMap<String, Lacks>, OpenError> {
    let mut maps = HashMap::new();
    for leg in record.legs.iter().flatten() {
        for (volume, ..) in &parts.volumes {
            let key = dirty_key(parts.group, leg.gateway, *volume);
            let bytes = parts.ledger.get(&key).map_err(OpenError::Ledger)?;
            let dirty = bytes.map_or(Ok(DirtyMap::default()), |bytes| DirtyMap::decode(&bytes));
            let dirty = dirty.or(Err(OpenError::DirtyMap))?;
            let mark = fresh_key(parts.group, leg.gateway, *volume);
            let fresh = parts.ledger.get(&mark).map_err(OpenError::Ledger)?.is_some();
            maps.insert(key, Lacks { dirty, fresh });
        }
    }
    Ok(maps)
}
