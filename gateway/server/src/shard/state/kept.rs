//! Initiators that read snapshots: what a volume was at each of them is a disk.
//!
//! Invariant: it is the same disk at every site that keeps the snapshot, never that of its volume or of
//! another snapshot, and takes no writes. When the snapshot is deleted, the disk is gone for everybody
//! who is logged in, and what it kept of the pool is given back: an operator said so, so this is the
//! one thing that an initiator may hear as the end of a disk.

use std::cell::RefCell;
use std::rc::Rc;

use block::{
    Extent, Geometry, GroupId, IoError, Request, Run, SnapshotId, Store, Volume, VolumeId,
};
use iscsi::scsi::{Forgetful, Unit, UnitEvent, UnitIdentity, UnitSettings};
use iscsi::{Attachment, LoggedIn, Lun, More, Told};
use mirror::{GroupStatus, SnapshotState};

use super::initiators::{TRANSITION_SECONDS, apart};
use super::{OpenVolume, ShardState};

/// The disk that shows what a volume was at a snapshot.
#[derive(Clone)]
pub(super) struct KeptDisk {
    /// What the store calls the snapshot.
    here: SnapshotId,
    unit: Rc<Unit>,
    content: Rc<Kept>,
    portals: Told,
}

/// What is read there, until the snapshot is deleted.
struct Kept {
    geometry: Geometry,
    view: RefCell<Option<Rc<dyn Volume>>>,
}

impl Volume for Kept {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read_only(&self) -> bool {
        true
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        match &*self.view.borrow() {
            Some(view) => view.submit(batch),
            // A command that had begun is aborted; whoever sends it again hears that the disk is gone.
            None => batch.drain(..).for_each(|request| request.ticket.fail(IoError::Dropped)),
        }
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.view.borrow().as_ref().ok_or(IoError::Dropped)?.layout(extent, limit)
    }
}

impl OpenVolume {
    /// Lets go of the disks whose snapshots are deleted.
    pub(super) fn let_go_of_snapshots(&self, status: &GroupStatus) {
        if self.kept.borrow().is_empty() {
            return;
        }
        let is_kept = |disk: &mut KeptDisk| {
            let mut all = status.snapshots.iter();
            let found = all.find(|one| one.volumes.contains(&(self.id, disk.here)));
            found.is_some_and(|one| one.state != SnapshotState::Deleting)
        };
        let gone: Vec<KeptDisk> =
            self.kept.borrow_mut().extract_if(.., |disk| !is_kept(disk)).collect();
        for disk in gone {
            disk.unit.changed(UnitEvent::Gone);
            disk.content.view.take();
        }
    }
}

impl ShardState {
    /// Seats an initiator's session at what a volume was at a snapshot, whatever part this gateway
    /// plays.
    pub(crate) fn seat_at_snapshot(
        &self,
        (group, volume): (GroupId, VolumeId),
        (here, label): (SnapshotId, String),
        host: LoggedIn,
    ) {
        let Some(open) = self.group(group) else { return };
        let Some(of) = open.volume(volume) else { return };
        let known = of.kept.borrow().iter().find(|disk| disk.here == here).cloned();
        let disk = match known {
            Some(disk) => disk,
            None => {
                let Some(disk) = self.kept_disk(&open, &of, here, &host.target().name) else {
                    // It was deleted since the initiator was told.
                    tracing::warn!(volume = label, snapshot = %here, "a reader was dropped");
                    return;
                };
                of.kept.borrow_mut().push(disk.clone());
                disk
            }
        };
        let stop = open.closing.child_token();
        let KeptDisk { unit, content, portals, .. } = disk;
        let lun = Lun { number: 0, volume: content, unit, label, read_only: true };
        let more = More::default();
        let attachment = Attachment { luns: vec![lun], more, portals, stop };
        let readers = of.readers;
        readers.set(readers.get() + 1);
        self.spawn(async move {
            iscsi::serve(host, attachment).await;
            readers.set(readers.get().saturating_sub(1));
        });
    }

    fn kept_disk(
        &self,
        open: &super::OpenGroup,
        of: &OpenVolume,
        here: SnapshotId,
        target: &str,
    ) -> Option<KeptDisk> {
        let status = open.group.status();
        let mut snapshots = status.snapshots.iter();
        let snapshot = snapshots.find(|one| one.volumes.contains(&(of.id, here)))?;
        let view = of.store.open_snapshot(here).ok().filter(|_| snapshot.state.is_readable())?;
        let (geometry, view) = (view.geometry(), RefCell::new(Some(view)));
        let content = Rc::new(Kept { geometry, view });
        let identity =
            UnitIdentity { volume: apart(of.id, snapshot.id.uuid()), target: target.to_owned() };
        let paths = self.parts.ways.apart();
        let settings = UnitSettings {
            group: paths.groups.first().map_or(0, |own| own.group),
            groups: paths.groups,
            transition_seconds: TRANSITION_SECONDS,
        };
        let portals = Told::default();
        portals.replace(paths.portals);
        let of_unit: Rc<dyn Volume> = Rc::<Kept>::clone(&content);
        // What is reserved is so at this gateway alone: nobody writes here.
        let unit = Unit::new(identity, of_unit, Rc::new(Forgetful), settings).ok()?;
        Some(KeptDisk { here, unit, content, portals })
    }
}
