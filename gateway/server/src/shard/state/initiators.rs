//! Initiators at volumes: the disk in front of each, what it keeps, and who may use it.
//!
//! Invariant: a volume has one disk, however many sessions it has, for as long as it is open here; its
//! sessions stay when the gateway wins or loses the right to serve. A disk hands nothing to its volume
//! while the gateway does not serve, nor before it took up the reservations of whoever served before.
//! Reservations are durable with the volume, at every in-sync mirror too, before they are answered.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll};

use api::Code;
use block::{Epoch, Extent, Geometry, GroupId, Holds, IoError, Request, Run, Volume, VolumeId};
use bytes::Bytes;
use iscsi::scsi::reserve::StateError;
use iscsi::scsi::{
    ElsewhereFuture, Forgetful, KeepError, KeepFuture, Outcome, PortState, ReservationKeeper,
    ReserveOut, RestFuture, Strangers, Unit, UnitEvent, UnitIdentity, UnitSettings,
};
use iscsi::{LoggedIn, Told};
use mirror::{Group, GroupStatus, LinkState, Serving};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::together::{Seat, Wanted};
use super::{OpenGroup, OpenVolume, ShardState};
use crate::refusal::Refused;
use crate::reservations;
use crate::ways::Paths;

/// How long a group may take to change hands, for initiators that ask.
pub(super) const TRANSITION_SECONDS: u8 = 30;

/// A disk, and what stands between it and its volume.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) unit: Rc<Unit>,
    pub(super) volume: Rc<Guarded>,
    pub(super) portals: Told,
}

/// A volume, only while this gateway may serve it.
pub(super) struct Guarded {
    group: Rc<Group>,
    volume: Rc<dyn Volume>,
    /// Cancelled when another gateway may have had the volume since the reservations were taken up.
    licence: RefCell<CancellationToken>,
    /// Whether requests went through when this was looked at last.
    was_open: Cell<bool>,
    /// Whether the reservations could not be read then.
    is_unread: Cell<bool>,
}

impl Guarded {
    fn new(group: &Rc<Group>, volume: Rc<dyn Volume>) -> Rc<Self> {
        let (was_open, is_unread) = Default::default();
        let licence = RefCell::new(CancellationToken::new());
        licence.borrow().cancel();
        Rc::new(Self { group: Rc::clone(group), volume, licence, was_open, is_unread })
    }

    fn is_licensed(&self) -> bool {
        !self.licence.borrow().is_cancelled()
    }

    /// Whether requests go through now. The group knows it before anybody else here does.
    fn is_open(&self) -> bool {
        self.is_licensed() && self.group.is_serving()
    }
}

impl Volume for Guarded {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    /// Whose initiator may only read is its session's. That another gateway serves the volume makes it no
    /// medium that is protected: hosts would mount it so.
    fn read_only(&self) -> bool {
        false
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        if !self.is_open() {
            batch.drain(..).for_each(|request| request.ticket.fail(IoError::Fenced));
            return;
        }
        self.volume.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        if !self.is_open() {
            return Err(IoError::Fenced);
        }
        self.volume.layout(extent, limit)
    }

    fn holds(&self) -> Option<Rc<Holds>> {
        self.volume.holds()
    }

    fn poll_settled(&self, extent: Extent, context: &mut Context<'_>) -> Poll<()> {
        self.volume.poll_settled(extent, context)
    }
}

/// Keeps a volume's reservations with the volume, at every in-sync mirror too.
struct GroupKeeper {
    group: Rc<Group>,
    volume: VolumeId,
    /// How whoever serves is asked.
    links: link::LinkContext,
    /// What goes on when its session has ended.
    tasks: TaskTracker,
    /// The epoch that this gateway served in when it opened the group.
    reign: Option<Epoch>,
    /// Whether anything was kept since.
    has_kept: Rc<Cell<bool>>,
}

impl fmt::Debug for GroupKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupKeeper").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl ReservationKeeper for GroupKeeper {
    fn load(&self) -> Result<Option<Bytes>, KeepError> {
        Ok(self.group.attributes(self.volume))
    }

    /// A primary that goes on where its last process ended was the one that put it there.
    fn lost_power(&self) -> bool {
        !self.has_kept.get() && self.reign.is_some_and(|reign| reign == self.group.status().epoch)
    }

    fn keep(&self, state: Bytes) -> KeepFuture {
        let (group, volume) = (Rc::clone(&self.group), self.volume);
        let has_kept = Rc::clone(&self.has_kept);
        Box::pin(async move {
            let kept = group.set_attributes(volume, state).await;
            has_kept.set(has_kept.get() || kept.is_ok());
            kept.map_err(not_kept)
        })
    }

    fn see_through(&self, rest: RestFuture) {
        drop(self.tasks.spawn_local(rest));
    }

    fn elsewhere(&self, order: ReserveOut) -> ElsewhereFuture {
        let status = self.group.status();
        let heard = status.upstream.filter(|upstream| upstream.link == LinkState::Connected);
        let place = (self.group.id(), self.volume);
        match heard {
            Some(upstream) => {
                Box::pin(reservations::carry(self.links.clone(), upstream.gateway, place, order))
            }
            // It hears nobody who has the volume.
            None => Box::pin(std::future::ready(None)),
        }
    }
}

// === impl Disk ===

impl Disk {
    fn new(
        identity: UnitIdentity,
        (group, handle): (&Rc<Group>, Rc<dyn Volume>),
        keeper: Rc<dyn ReservationKeeper>,
        paths: &Paths,
    ) -> Result<Self, StateError> {
        let volume = Guarded::new(group, handle);
        let settings = UnitSettings {
            group: paths.groups.first().map_or(0, |own| own.group),
            groups: closed(paths),
            transition_seconds: TRANSITION_SECONDS,
        };
        let of_unit: Rc<dyn Volume> = Rc::<Guarded>::clone(&volume);
        let unit = Unit::new(identity, of_unit, keeper, settings)?;
        Ok(Self { unit, volume, portals: Told::default() })
    }

    /// Follows the gateway's place in the group: first what other gateways left is taken up, then
    /// hosts are let through, then they are told; and the other way round when it is lost.
    pub(super) fn follow(&self, group: &Rc<Group>, paths: &Paths) {
        (*self.portals.borrow_mut()).clone_from(&paths.portals);
        let carries = !matches!(paths.own, PortState::Standby | PortState::Unavailable);
        let serves = carries && group.is_serving();
        if serves && !self.volume.is_licensed() {
            if let Err(error) = self.unit.reload() {
                // Without what was reserved, a host could write that others have fenced.
                if !self.volume.is_unread.replace(true) {
                    tracing::error!(%error, "volume is served to no host");
                }
                self.unit.changed(UnitEvent::Groups(closed(paths)));
                return;
            }
            self.volume.is_unread.set(false);
            self.volume.licence.replace(group.hosts());
        }
        self.unit.changed(UnitEvent::Groups(paths.groups.clone()));
        if serves && !self.volume.was_open.replace(serves) {
            self.unit.resume();
        }
        self.volume.was_open.set(serves);
    }

    /// What is left to hosts that are no initiators.
    pub(super) fn strangers(&self) -> Strangers {
        self.unit.strangers()
    }

    /// Whether hosts can read and write there.
    fn is_open(&self) -> bool {
        self.volume.is_open() && self.unit.detour().is_none()
    }
}

/// Whether what kept reservations from being kept passes. A copy that is latched is opened anew, or
/// another one takes over.
fn not_kept(error: IoError) -> KeepError {
    match error {
        IoError::NoSpace
        | IoError::Media
        | IoError::Checksum
        | IoError::Invalid
        | IoError::Unsupported => KeepError::Store,
        _ => KeepError::NotNow,
    }
}

/// The identity of what is of a volume and holds something else, at a gateway or at a snapshot: no host
/// may take the two for one disk.
pub(super) fn apart(volume: VolumeId, from: uuid::Uuid) -> VolumeId {
    let mixed = volume.uuid().as_u128() ^ from.as_u128();
    VolumeId::from_uuid(uuid::Uuid::from_u128(mixed))
}

/// The epoch that a gateway serves in as it opens a group, if it is the primary.
pub(super) fn reign(opened: &Group) -> Option<Epoch> {
    let status = opened.status();
    (status.role == mirror::Role::Primary).then_some(status.epoch)
}

/// The ways as they are before this gateway's is known to be open.
fn closed(paths: &Paths) -> Vec<iscsi::scsi::PortGroup> {
    let mut groups = paths.groups.clone();
    if let Some(own) = groups.first_mut() {
        own.state = PortState::Unavailable;
    }
    groups
}

impl OpenVolume {
    /// Lets the disks of this volume follow what became of its group.
    fn follow(&self, group: &Rc<Group>, status: &GroupStatus, paths: &Paths) {
        if status.serving == Serving::RollingBack {
            // What hosts have in memory is of a content that is about to go.
            self.closing.take().cancel();
        }
        if let Some(disk) = &*self.disk.borrow() {
            disk.follow(group, paths);
        }
    }

    /// How many hosts are attached. Who is logged in where nothing can be read or written is none.
    pub(super) fn attached(&self) -> usize {
        let is_open = self.disk.borrow().as_ref().is_some_and(Disk::is_open);
        self.hosts.get() + if is_open { self.sessions.get() } else { 0 }
    }
}

impl ShardState {
    /// Lets initiators of a group know what became of it.
    pub(super) fn follow(&self, open: &OpenGroup, status: &GroupStatus) {
        let volumes = open.volumes.borrow().clone();
        volumes.iter().for_each(|volume| volume.let_go_of_snapshots(status));
        let seen = volumes.iter().filter(|volume| volume.disk.borrow().is_some());
        let mut paths = None;
        for volume in seen {
            let paths = paths.get_or_insert_with(|| self.parts.ways.of(status));
            volume.follow(&open.group, status, paths);
        }
    }

    /// Follows a group as soon as it loses the right to serve, for as long as it is open.
    pub(super) async fn follow_losses(&self, open: &OpenGroup) {
        while !open.closing.is_cancelled() {
            open.group.hosts().cancelled().await;
            self.follow(open, &open.group.status());
        }
    }

    /// How many initiators are logged in to a volume, whatever part this gateway plays.
    pub(crate) fn logged_in(&self, (group, volume): (GroupId, VolumeId)) -> usize {
        let of = self.group(group).and_then(|open| open.volume(volume));
        of.map_or(0, |of| of.sessions.get())
    }

    /// Lets hosts of NBD find what initiators reserved of a volume: its disk knows, and is made for it.
    /// Whether that is known; without it a host could write that others have fenced.
    pub(super) fn knows_reserved(&self, open: &OpenGroup, of: &OpenVolume, target: &str) -> bool {
        if open.group.attributes(of.id).is_none() {
            return true;
        }
        let paths = self.parts.ways.of(&open.group.status());
        let Some(disk) = self.disk_of(open, of, target, &paths) else { return false };
        disk.follow(&open.group, &paths);
        !disk.volume.is_unread.get()
    }

    /// The disk in front of a volume, which is made when somebody asks for it first. It goes along when
    /// the volume is at another target than before, with what is reserved.
    pub(super) fn disk_of(
        &self,
        open: &OpenGroup,
        of: &OpenVolume,
        target: &str,
        paths: &Paths,
    ) -> Option<Disk> {
        if let Some(known) = of.disk.borrow().clone() {
            if of.sessions.get() == 0 {
                known.unit.move_to(target);
            }
            return Some(known);
        }
        let handle = open.group.volume(of.id)?;
        let identity = UnitIdentity { volume: of.id, target: target.to_owned() };
        let (group, links) = (Rc::clone(&open.group), self.parts.links.clone());
        let (volume, reign, has_kept) = (of.id, open.reign, Rc::default());
        let tasks = self.tasks.clone();
        let keeper = Rc::new(GroupKeeper { group, volume, links, tasks, reign, has_kept });
        let made = Disk::new(identity, (&open.group, handle), keeper, paths);
        let made = made.inspect_err(|error| {
            tracing::error!(volume = %of.id, %error, "volume is served to no host");
        });
        let made = made.ok()?;
        *of.disk.borrow_mut() = Some(made.clone());
        Some(made)
    }

    /// Does what a host asked at a port of a mirror about reservations of a volume that is served here.
    ///
    /// # Errors
    /// [`Code::NotPrimary`] when it is not.
    pub(crate) async fn reserve(
        &self,
        (group, volume): (GroupId, VolumeId),
        target: String,
        order: ReserveOut,
    ) -> Result<Outcome, Refused> {
        let not_served = || Refused::new(Code::NotPrimary, "the volume is not served here now");
        let open = self.open_group(group)?;
        let of = open.volume(volume).filter(|of| !of.is_closed.get()).ok_or_else(not_served)?;
        let paths = self.parts.ways.of(&open.group.status());
        let disk = self.disk_of(&open, &of, &target, &paths).ok_or_else(not_served)?;
        disk.follow(&open.group, &paths);
        if !disk.is_open() {
            return Err(not_served());
        }
        Ok(disk.unit.reserve_out(order).await.unwrap_or_else(Outcome::refused))
    }

    /// Seats an initiator's session at a copy that is open on its own.
    pub(crate) fn seat_apart(&self, group: GroupId, wanted: Wanted, host: LoggedIn) {
        let Wanted { volume, label, lun, read_only, .. } = wanted;
        let Some(open) = self.group(group) else { return };
        let status = open.group.status();
        let Some(of) = open.volume(volume).filter(|of| !of.is_closed.get()) else { return };
        if status.serving != Serving::Detached {
            return;
        }
        let known = of.apart.borrow().clone().filter(|disk| disk.volume.is_licensed());
        let disk = match known {
            Some(disk) => disk,
            None => {
                let Some(handle) = open.group.volume(volume) else { return };
                let volume = apart(volume, self.parts.identity.gateway.uuid());
                let identity = UnitIdentity { volume, target: host.target().name.clone() };
                let paths = self.parts.ways.apart();
                let at = (&open.group, handle);
                // What is reserved here is this copy's alone, and goes when it is a mirror again.
                let Ok(made) = Disk::new(identity, at, Rc::new(Forgetful), &paths) else { return };
                made.follow(&open.group, &paths);
                *of.apart.borrow_mut() = Some(made.clone());
                made
            }
        };
        let (count, closing) = (of.hosts, of.closing.borrow().clone());
        let seat = Seat { volume, disk, lun, label, read_only, count, closing };
        self.seat_at(vec![seat], open.group.hosts(), host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As for commands: see `iscsi::status`.
    #[test]
    fn what_passes_is_not_told_as_a_lack_of_room() {
        for error in [IoError::Latched, IoError::Fenced, IoError::NoWitness, IoError::NoCompanion] {
            assert_eq!(not_kept(error), KeepError::NotNow, "{error:?}");
        }
        for error in [IoError::NoSpace, IoError::Media, IoError::Checksum] {
            assert_eq!(not_kept(error), KeepError::Store, "{error:?}");
        }
    }
}
